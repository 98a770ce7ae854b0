//! A socket's life: made, bound, connected, set, duplicated, closed.

use core::{
    ffi::{c_int, c_uint, c_void},
    sync::atomic::Ordering,
};

use libc::{AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_DGRAM, SOCK_NONBLOCK, sockaddr, socklen_t};

use super::followed;
use crate::{
    address, attach, groups, names, options, real, receive, send, settings,
    shared::state,
    socket::Socket,
    sys::{Inside, errno, quietly, set_errno},
    table, watch,
};

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    // SAFETY: plain numbers.
    let fd = unsafe { real::socket(domain, kind, protocol) };
    let udp = matches!(domain, AF_INET | AF_INET6)
        && kind & !(SOCK_CLOEXEC | SOCK_NONBLOCK) == SOCK_DGRAM
        && matches!(protocol, 0 | libc::IPPROTO_UDP);
    if fd >= 0
        && udp
        && !settings::off()
        && table::in_range(fd)
        && let Some(_inside) = Inside::enter()
        && let Some(socket) = quietly(|| Socket::create(domain))
    {
        table::set(fd, socket);
    }
    fd
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn bind(fd: c_int, name: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::bind(fd, name, len) };
    if result == 0
        && let Some((_inside, socket)) = followed(fd)
    {
        // SAFETY: the kernel has read it.
        let chosen = unsafe { address::Name::read(name.cast(), len) }.is_some_and(|name| name.port != 0);
        if chosen || settings::after() == 0 {
            attach::want(fd, &socket);
        }
    }
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn connect(fd: c_int, name: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::connect(fd, name, len) };
    if result == 0
        && let Some((_inside, socket)) = followed(fd)
    {
        if socket.shared().state() != state::IDLE {
            attach::moved(fd, &socket);
        } else if settings::after() == 0 {
            attach::want(fd, &socket);
        }
    }
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn shutdown(fd: c_int, how: c_int) -> c_int {
    // SAFETY: plain numbers.
    let result = unsafe { real::shutdown(fd, how) };
    if let Some((_inside, socket)) = followed(fd) {
        let shared = socket.shared();
        // An unconnected socket says ENOTCONN, and is shut all the same (net/ipv4/af_inet.c inet_shutdown).
        if result == 0 || errno() == libc::ENOTCONN {
            if matches!(how, libc::SHUT_RD | libc::SHUT_RDWR) {
                shared.options.receive_shut.store(true, Ordering::Relaxed);
            }
            if matches!(how, libc::SHUT_WR | libc::SHUT_RDWR) {
                shared.options.send_shut.store(true, Ordering::Relaxed);
            }
        }
    }
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::setsockopt(fd, level, name, value, len) };
    if result == 0
        && let Some((_inside, socket)) = followed(fd)
        && socket.shared().state() != state::PLAIN
    {
        // SAFETY: the kernel has read it.
        if let Some(group) = unsafe { groups::of(level, name, value, len) } {
            attach::joined(fd, socket.shared(), &group);
        } else if let Some(reason) = quietly(|| options::changed(fd, socket.shared(), level, name)) {
            attach::leave(fd, &socket, &format!("it uses {reason}"));
        }
    }
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::getsockopt(fd, level, name, value, len) };
    if result == 0
        && (level, name) == (libc::SOL_SOCKET, libc::SO_ERROR)
        && let Some((_inside, socket)) = followed(fd)
    {
        let shared = socket.shared();
        if shared.state() != state::IDLE {
            receive::settle_errors(&socket);
        }
        let error = shared.error.swap(0, Ordering::Relaxed);
        // SAFETY: the kernel has written a length of at most four, and as many bytes.
        if error != 0 && unsafe { len.read() } == 4 {
            // SAFETY: as above.
            unsafe { value.cast::<c_int>().write_unaligned(error) };
        }
    }
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn ioctl(fd: c_int, request: usize, argument: usize) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::ioctl(fd, request, argument) };
    if result == 0
        && request as libc::Ioctl == libc::SIOCGIFCONF
        && let Some(_inside) = Inside::enter()
    {
        // SAFETY: the kernel has filled it in.
        quietly(|| unsafe { names::filter_conf(core::ptr::with_exposed_provenance_mut(argument)) });
    }
    if result != 0 || !table::has(fd) {
        return result;
    }
    let Some((_inside, socket)) = followed(fd) else { return result };
    let shared = socket.shared();
    if shared.state() == state::IDLE {
        return result;
    }
    let answer = core::ptr::with_exposed_provenance_mut::<c_int>(argument);
    let number = |n: usize| c_int::try_from(n).unwrap_or(c_int::MAX);
    match request as libc::Ioctl {
        libc::FIONBIO => quietly(|| options::load(fd, shared)),
        libc::FIOASYNC => attach::leave(fd, &socket, "signal-driven (FIOASYNC)"),
        libc::FIONREAD => {
            // SAFETY: the kernel has written there.
            let kernel = unsafe { answer.read_unaligned() };
            if let Some(len) = receive::next_len(shared, kernel) {
                // SAFETY: the kernel has written there.
                unsafe { answer.write_unaligned(number(len)) };
            }
        }
        libc::TIOCOUTQ => {
            // SAFETY: the kernel has written there.
            unsafe {
                answer.write_unaligned(answer.read_unaligned().saturating_add(number(send::queued(shared))))
            };
        }
        // SIOCGSTAMP, SIOCGSTAMPNS, old and new.
        0x8906 | 0x8907 => attach::leave(fd, &socket, "SIOCGSTAMP"),
        _ => {}
    }
    result
}

/// What a command of fcntl() means for the table.
fn controlled(fd: c_int, command: c_int, argument: usize, result: c_int) {
    if result < 0 || !table::has(fd) {
        return;
    }
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => copied(fd, result),
        libc::F_SETFL => {
            let Some((_inside, socket)) = followed(fd) else { return };
            let flags = c_int::try_from(argument & 0x7fff_ffff).unwrap_or(0);
            socket.shared().options.nonblocking.store(flags & libc::O_NONBLOCK != 0, Ordering::Relaxed);
            if flags & libc::O_ASYNC != 0 {
                attach::leave(fd, &socket, "signal-driven (O_ASYNC)");
            }
        }
        _ => {}
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn fcntl(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::fcntl(fd, command, argument) };
    controlled(fd, command, argument, result);
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn fcntl64(fd: c_int, command: c_int, argument: usize) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::fcntl64(fd, command, argument) };
    controlled(fd, command, argument, result);
    result
}

/// `new` has become another descriptor of `old`'s socket.
fn copied(old: c_int, new: c_int) {
    if table::borrowed() {
        return;
    }
    let Some((_inside, socket)) = followed(old) else { return };
    if socket.enter() && !table::set(new, socket.socket()) {
        // Out of the table's range: it would be read past us.
        attach::hand_on(old, &socket, "duplicated to a very high number");
        socket.socket().leave();
    }
    if new <= libc::STDERR_FILENO {
        // The C library's streams are there, whose system calls are its own.
        attach::hand_on(old, &socket, "a standard stream");
    }
}

#[unsafe(no_mangle)]
unsafe extern "C-unwind" fn fdopen(fd: c_int, mode: *const core::ffi::c_char) -> *mut libc::FILE {
    if let Some((_inside, socket)) = followed(fd) {
        // As above.
        attach::hand_on(fd, &socket, "a stream (fdopen)");
    }
    // SAFETY: the program's promise.
    unsafe { real::fdopen(fd, mode) }
}

/// A descriptor is about to go, or to become something else.
fn going(fd: c_int) {
    if let Some((_inside, socket)) = followed(fd) {
        if table::borrowed() {
            return;
        }
        if socket.is_last() {
            attach::closing(fd, &socket);
        }
        table::clear(fd);
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn dup(fd: c_int) -> c_int {
    // SAFETY: plain numbers.
    let new = unsafe { real::dup(fd) };
    if new >= 0 {
        copied(fd, new);
    }
    new
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn dup2(old: c_int, new: c_int) -> c_int {
    // SAFETY: plain numbers.
    unsafe { onto(old, new, || real::dup2(old, new)) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn dup3(old: c_int, new: c_int, flags: c_int) -> c_int {
    // SAFETY: plain numbers.
    unsafe { onto(old, new, || real::dup3(old, new, flags)) }
}

/// # Safety
/// As dup2().
unsafe fn onto(old: c_int, new: c_int, real: impl FnOnce() -> c_int) -> c_int {
    if table::is_mine(new) && !table::borrowed() {
        // As in the race with open() that the manual names.
        set_errno(libc::EBUSY);
        return -1;
    }
    // SAFETY: no pointer goes along. An error leaves `new` as it is.
    if old != new && quietly(|| unsafe { real::fcntl(old, libc::F_GETFD, 0) }) >= 0 {
        going(new);
    }
    let result = real();
    if result >= 0 && old != new {
        copied(old, new);
    }
    result
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn close(fd: c_int) -> c_int {
    if table::is_mine(fd)
        && let Some(_inside) = Inside::enter()
        && !table::borrowed()
    {
        // Not the program's: it is not open, as far as it can know.
        set_errno(libc::EBADF);
        return -1;
    }
    going(fd);
    if watch::any()
        && let Some(_inside) = Inside::enter()
        && !table::borrowed()
    {
        watch::closed_set(fd);
    }
    // SAFETY: the program's promise.
    unsafe { real::close(fd) }
}

/// Calls `close` for each run of descriptors in a range that holds none of ours.
fn spared(first: c_uint, last: c_uint, mut close: impl FnMut(c_uint, c_uint) -> c_int) -> c_int {
    let high = c_uint::try_from(table::high_own()).unwrap_or(0);
    let mut from = first;
    for fd in first..last.saturating_add(1).min(high) {
        if c_int::try_from(fd).is_ok_and(table::is_mine) {
            if fd > from {
                let result = close(from, fd - 1);
                if result != 0 {
                    return result;
                }
            }
            from = fd + 1;
        }
    }
    if from <= last { close(from, last) } else { 0 }
}

/// Takes all sockets of a range out of the table.
fn all_going(first: c_uint, last: c_uint) {
    for fd in first..last.saturating_add(1).min(c_uint::try_from(table::high()).unwrap_or(0)) {
        if let Ok(fd) = c_int::try_from(fd) {
            going(fd);
        }
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    const CLOEXEC: c_int = 1 << 2;
    if first > last || table::borrowed() {
        // SAFETY: plain numbers.
        return unsafe { real::close_range(first, last, flags) };
    }
    if flags & CLOEXEC == 0 {
        all_going(first, last);
    }
    // SAFETY: plain numbers.
    spared(first, last, |first, last| unsafe { real::close_range(first, last, flags) })
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn closefrom(low: c_int) {
    let low = c_uint::try_from(low).unwrap_or(0);
    // SAFETY: plain numbers. Kernels before 5.9 have no close_range(): none that we support.
    unsafe { close_range(low, c_uint::MAX, 0) };
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn getifaddrs(list: *mut *mut libc::ifaddrs) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::getifaddrs(list) };
    if result == 0
        && !settings::off()
        && let Some(_inside) = Inside::enter()
    {
        // SAFETY: the C library has made it.
        quietly(|| unsafe { names::filter_list(list) });
    }
    result
}
