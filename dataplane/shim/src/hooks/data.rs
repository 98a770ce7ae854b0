//! Sending and receiving.

use core::{
    ffi::{c_int, c_uint, c_void},
    ptr,
};

use libc::{iovec, mmsghdr, msghdr, off_t, size_t, sockaddr, socklen_t, ssize_t, timespec};

use super::{before_receive, before_send, by_kernel, followed};
use crate::{attach, real, receive, send, socket::Use, sys::plausible};

/// Sends on the fast path, if the descriptor is a socket there.
#[inline]
fn sending<T>(fd: c_int, send: impl FnOnce(&Use) -> Option<T>) -> Option<T> {
    let (_inside, socket) = followed(fd)?;
    send(&socket)
}

/// Receives from the fast path, if the descriptor is a socket there.
#[inline]
fn receiving<T>(fd: c_int, flags: c_int, receive: impl FnOnce(&Use) -> Option<T>) -> Option<T> {
    let (_inside, socket) = followed(fd)?;
    before_receive(fd, &socket, flags);
    receive(&socket)
}

/// Descriptors that go to another process leave the fast path: it would not know of the rings.
///
/// # Safety
/// As sendmsg().
unsafe fn handed_over(message: *const msghdr) {
    if !plausible(message) {
        return;
    }
    // SAFETY: the caller's promise.
    let message = unsafe { &*message };
    if !plausible(message.msg_control) || message.msg_controllen < size_of::<libc::cmsghdr>() {
        return;
    }
    // SAFETY: the caller's promise.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !next.is_null() {
        // SAFETY: within the program's buffer.
        let header = unsafe { next.read_unaligned() };
        if (header.cmsg_level, header.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS) {
            // SAFETY: no memory.
            let len = (header.cmsg_len as usize).saturating_sub(unsafe { libc::CMSG_LEN(0) } as usize);
            for i in 0..len / size_of::<c_int>() {
                // SAFETY: within the program's buffer.
                let fd = unsafe { libc::CMSG_DATA(next).cast::<c_int>().add(i).read_unaligned() };
                if let Some((_inside, socket)) = followed(fd) {
                    attach::hand_on(fd, &socket, "passed to another process (SCM_RIGHTS)");
                }
            }
        }
        // SAFETY: the caller's promise.
        next = unsafe { libc::CMSG_NXTHDR(message, next) };
    }
}

/// Kernel-side copying into or out of a socket cannot be followed.
fn copied_by_kernel(fd: c_int, by: &str) {
    if let Some((_inside, socket)) = followed(fd) {
        attach::leave(fd, &socket, by);
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn send(
    fd: c_int,
    data: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    before_send(fd, flags);
    if let Some(result) =
        // SAFETY: the program's promise.
        sending(fd, |socket| unsafe { send::send_to(socket, fd, data, len, flags, ptr::null(), 0) })
    {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::send(fd, data, len, flags) };
    by_kernel(fd, result >= 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn sendto(
    fd: c_int,
    data: *const c_void,
    len: size_t,
    flags: c_int,
    to: *const sockaddr,
    to_len: socklen_t,
) -> ssize_t {
    before_send(fd, flags);
    if let Some(result) =
        // SAFETY: the program's promise.
        sending(fd, |socket| unsafe { send::send_to(socket, fd, data, len, flags, to, to_len) })
    {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::sendto(fd, data, len, flags, to, to_len) };
    by_kernel(fd, result >= 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    before_send(fd, flags);
    if plausible(message)
        // SAFETY: the program's promise.
        && let Some(result) = sending(fd, |socket| unsafe { send::send(socket, fd, &*message, flags) })
    {
        return result;
    }
    // SAFETY: the program's promise.
    unsafe { handed_over(message) };
    // SAFETY: the program's promise.
    let result = unsafe { real::sendmsg(fd, message, flags) };
    by_kernel(fd, result >= 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn sendmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
) -> c_int {
    before_send(fd, flags);
    // SAFETY: the program's promise.
    if let Some(result) = sending(fd, |socket| unsafe { send::send_many(socket, fd, messages, count, flags) })
    {
        return result;
    }
    if plausible(messages) {
        for i in 0..count.min(1024) {
            // SAFETY: the program's promise.
            unsafe { handed_over(&raw const (*messages.add(i as usize)).msg_hdr) };
        }
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::sendmmsg(fd, messages, count, flags) };
    by_kernel(fd, result > 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn write(fd: c_int, data: *const c_void, len: size_t) -> ssize_t {
    if let Some(result) =
        // SAFETY: the program's promise.
        sending(fd, |socket| unsafe { send::send_to(socket, fd, data, len, 0, ptr::null(), 0) })
    {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::write(fd, data, len) };
    by_kernel(fd, result >= 0);
    result
}

/// Whether buffers hold anything: the kernel does not even look at the socket for nothing. Those that cannot be are for it
/// to refuse.
///
/// # Safety
/// As writev().
unsafe fn is_something(parts: *const iovec, count: c_int) -> bool {
    let Some(count @ 1..=1024) = usize::try_from(count).ok().filter(|_| plausible(parts)) else {
        return false;
    };
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(parts, count) }.iter().any(|part| part.iov_len != 0)
}

/// A message around buffers.
fn around(parts: *const iovec, count: c_int) -> msghdr {
    // SAFETY: integers and null pointers.
    let mut message: msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = parts.cast_mut();
    message.msg_iovlen = usize::try_from(count).unwrap_or(0);
    message
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the program's promise.
    if unsafe { is_something(parts, count) }
        && let Some(result) =
            // SAFETY: the program's promise.
            sending(fd, |socket| unsafe { send::send(socket, fd, &around(parts, count), 0) })
    {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::writev(fd, parts, count) };
    by_kernel(fd, result >= 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn sendfile(
    out: c_int,
    input: c_int,
    offset: *mut off_t,
    count: size_t,
) -> ssize_t {
    copied_by_kernel(out, "sendfile()");
    // SAFETY: the program's promise.
    unsafe { real::sendfile(out, input, offset, count) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn sendfile64(
    out: c_int,
    input: c_int,
    offset: *mut off_t,
    count: size_t,
) -> ssize_t {
    copied_by_kernel(out, "sendfile()");
    // SAFETY: the program's promise.
    unsafe { real::sendfile64(out, input, offset, count) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn splice(
    input: c_int,
    from: *mut i64,
    out: c_int,
    to: *mut i64,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    copied_by_kernel(input, "splice()");
    copied_by_kernel(out, "splice()");
    // SAFETY: the program's promise.
    unsafe { real::splice(input, from, out, to, len, flags) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn recv(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    let part = iovec { iov_base: data, iov_len: len };
    if let Some(result) = receiving(fd, flags, |socket| {
        // SAFETY: the program's promise.
        unsafe { receive::receive_from(fd, socket, part, flags, ptr::null_mut(), ptr::null_mut()) }
    }) {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::recv(fd, data, len, flags) };
    by_kernel(fd, result >= 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn recvfrom(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> ssize_t {
    let part = iovec { iov_base: data, iov_len: len };
    // SAFETY: the program's promise.
    if let Some(result) = receiving(fd, flags, |socket| unsafe {
        receive::receive_from(fd, socket, part, flags, from.cast(), from_len)
    }) {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::recvfrom(fd, data, len, flags, from, from_len) };
    by_kernel(fd, result >= 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    if plausible(message)
        // SAFETY: the program's promise.
        && let Some(result) = receiving(fd, flags, |s| unsafe { receive::receive(fd, s, &mut *message, flags) })
    {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::recvmsg(fd, message, flags) };
    by_kernel(fd, result >= 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    // SAFETY: the program's promise.
    if let Some(result) = receiving(fd, flags, |socket| unsafe {
        receive::receive_many(fd, socket, messages, count, flags, timeout)
    }) {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::recvmmsg(fd, messages, count, flags, timeout) };
    by_kernel(fd, result > 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn read(fd: c_int, data: *mut c_void, len: size_t) -> ssize_t {
    let part = iovec { iov_base: data, iov_len: len };
    // The kernel does not even look at the socket for nothing.
    if len != 0
        && let Some(result) = receiving(fd, 0, |socket| {
            // SAFETY: the program's promise.
            unsafe { receive::receive_from(fd, socket, part, 0, ptr::null_mut(), ptr::null_mut()) }
        })
    {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::read(fd, data, len) };
    by_kernel(fd, result >= 0);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn readv(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the program's promise.
    if unsafe { is_something(parts, count) }
        && let Some(result) =
            // SAFETY: the program's promise.
            receiving(fd, 0, |socket| unsafe {
                receive::receive(fd, socket, &mut around(parts, count), 0)
            })
    {
        return result;
    }
    // SAFETY: the program's promise.
    let result = unsafe { real::readv(fd, parts, count) };
    by_kernel(fd, result >= 0);
    result
}

// With _FORTIFY_SOURCE programs call these. They end the program if the buffer is too small, as the C library's do.

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn __read_chk(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    room: size_t,
) -> ssize_t {
    fits(len, room);
    // SAFETY: the program's promise.
    unsafe { read(fd, data, len) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn __recv_chk(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
) -> ssize_t {
    fits(len, room);
    // SAFETY: the program's promise.
    unsafe { recv(fd, data, len, flags) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn __recvfrom_chk(
    fd: c_int,
    data: *mut c_void,
    len: size_t,
    room: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> ssize_t {
    fits(len, room);
    // SAFETY: the program's promise.
    unsafe { recvfrom(fd, data, len, flags, from, from_len) }
}

pub(super) fn fits(len: size_t, room: size_t) {
    if len > room {
        // SAFETY: ends the process.
        unsafe { libc::abort() };
    }
}
