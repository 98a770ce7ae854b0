//! Receiving.
//!
//! ```text
//!   pending error -> rings, round robin -> the kernel's queue -> EAGAIN, or arm and sleep
//! ```
//!
//! The kernel's queue is asked whenever the rings are empty, and once in 64 receives when they are not: local senders
//! and datagrams from before the claim are there.

use core::{
    ffi::{c_int, c_void},
    mem::MaybeUninit,
    ptr,
    sync::atomic::Ordering,
};

use afnet_abi::shm::{ErrorInfo, Record, kind};
use afnet_ring::Consumer;
use libc::{
    MSG_CMSG_CLOEXEC, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_NOSIGNAL, MSG_PEEK, MSG_TRUNC, MSG_WAITALL,
    MSG_WAITFORONE, iovec, mmsghdr, msghdr, ssize_t, timespec,
};

use crate::{
    address::{Name, is_link_local, is_unspecified},
    attach, errors, message, real,
    shared::{Names, Rx, Shared, state, wants},
    socket::Use,
    sys::{coarse_ns, errno, now_ns, plausible, set_errno},
    table,
    wait::{self, Woken},
};

/// Flags that mean the same on the fast path.
const FOLLOWED: c_int =
    MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT | MSG_WAITALL | MSG_CMSG_CLOEXEC | MSG_NOSIGNAL | MSG_WAITFORONE;
/// Receives from the rings between two looks at the kernel's queue while they never run empty.
const KERNEL_EVERY: u32 = 64;
/// Most datagrams that are put together for UDP_GRO, as the kernel's UDP_MAX_SEGMENTS.
const MOST_TOGETHER: u64 = 64;

/// What one look at the rings yields.
enum Got {
    Nothing,
    /// Bytes, as the call returns them.
    Datagram(usize),
    Error(c_int),
}

/// recvmsg() and all that are like it. `None`: ask the kernel instead.
///
/// # Safety
/// `message` is a valid one of the program's.
pub(crate) unsafe fn receive(fd: c_int, socket: &Use, message: &mut msghdr, flags: c_int) -> Option<ssize_t> {
    let shared = socket.shared();
    if shared.state() == state::IDLE {
        return None;
    }
    if flags & MSG_ERRQUEUE != 0 {
        // SAFETY: the caller's promise; looked at.
        return if unsafe { sound(message) } { unsafe { error_queue(shared, message) } } else { None };
    }
    if flags & !FOLLOWED != 0 || message.msg_iovlen > 1024 {
        return None;
    }
    let patient = flags & MSG_DONTWAIT == 0 && !shared.options.nonblocking.load(Ordering::Relaxed);
    let mut deadline = None;
    let (mut spun, mut open, mut fd) = (false, true, fd);
    // One that sleeps is told of the kernel's queue by its sleep.
    let mut ask =
        !patient || shared.state() != state::FAST || shared.options.receive_shut.load(Ordering::Relaxed);
    loop {
        {
            let mut rx = shared.lock_rx();
            if rx.kernel_first || rx.since_kernel >= KERNEL_EVERY {
                rx.since_kernel = 0;
                drop(rx);
                // SAFETY: the caller's promise.
                if open && let Some(result) = unsafe { from_kernel(fd, socket, message, flags) } {
                    return Some(result);
                }
                rx = shared.lock_rx();
                rx.kernel_first = false;
            }
            // SAFETY: the caller's promise.
            match unsafe { from_rings(shared, &mut rx, message, flags) } {
                Got::Datagram(n) => {
                    wait::settle(socket, &mut rx);
                    return Some(ssize_t::try_from(n).unwrap_or(ssize_t::MAX));
                }
                Got::Error(errno) => {
                    wait::settle(socket, &mut rx);
                    set_errno(errno);
                    return Some(-1);
                }
                Got::Nothing => wait::settle(socket, &mut rx),
            }
            // A level-triggered epoll set tells of the kernel's queue by itself: after a burst by the rings the
            // program waits there next, and need not wait for the kernel's no.
            let told =
                shared.watchers.load(Ordering::Relaxed) != 0 && shared.edges.load(Ordering::Relaxed) == 0;
            if !patient && rx.since_kernel != 0 && told && shared.state() == state::FAST {
                ask = false;
            }
            rx.since_kernel = 0;
        }
        let kernel = ask && open;
        // SAFETY: the caller's promise.
        if kernel && let Some(result) = unsafe { from_kernel(fd, socket, message, flags) } {
            return Some(result);
        }
        // Shut down: what is there, and then the end.
        if shared.state() == state::PLAIN || shared.options.receive_shut.load(Ordering::Relaxed) {
            return None;
        }
        if !patient {
            set_errno(libc::EAGAIN);
            return Some(-1);
        }
        let until = *deadline.get_or_insert_with(|| until(shared));
        if !spun && wait::spin(shared, until) {
            continue;
        }
        spun = true;
        if wait::arm(shared, &mut shared.lock_rx()) {
            continue;
        }
        match wait::sleep(if open { fd } else { -1 }, shared, until) {
            Woken::Look { kernel } => {
                spun = false;
                ask = kernel || shared.state() != state::FAST;
            }
            Woken::Signal if until.is_none() && wait::restarts() => {}
            Woken::Late | Woken::Signal => return Some(-1),
        }
        if !table::is(fd, socket) {
            // Closed by another thread: the socket lives on in another descriptor, or until this call returns.
            let other = table::other(socket);
            open = other.is_some();
            fd = other.unwrap_or(fd);
        }
    }
}

/// When a blocking receive gives up.
fn until(shared: &Shared) -> Option<u64> {
    match shared.options.receive_timeout.load(Ordering::Relaxed) {
        0 => None,
        timeout => Some(now_ns().saturating_add(timeout)),
    }
}

/// One datagram or error of the kernel's queue. `None`: it has none.
///
/// # Safety
/// `message` is a valid one of the program's.
unsafe fn from_kernel(fd: c_int, socket: &Use, message: &mut msghdr, flags: c_int) -> Option<ssize_t> {
    let shared = socket.shared();
    let before = *message;
    let flags = flags & !MSG_WAITFORONE | MSG_DONTWAIT;
    // SAFETY: the caller's promise.
    let result = unsafe { real::recvmsg(fd, message, flags) };
    if result < 0 && errno() == libc::EAGAIN {
        *message = before;
        if shared.state() == state::LOST {
            attach::recover(fd, socket);
        }
        return None;
    }
    // What comes by the kernel may come so because the daemon has gone.
    if shared.state() == state::FAST {
        attach::alive(shared);
    } else {
        attach::recover(fd, socket);
    }
    Some(result)
}

/// One datagram of the rings (or several, for UDP_GRO), or an error.
///
/// # Safety
/// `message` is a valid one of the program's.
unsafe fn from_rings(shared: &Shared, rx: &mut Rx<'_>, message: &mut msghdr, flags: c_int) -> Got {
    let pending = shared.error.load(Ordering::Relaxed);
    if pending != 0 {
        shared.error.store(0, Ordering::Relaxed);
        return Got::Error(pending);
    }
    let wanted = shared.options.wants.load(Ordering::Relaxed);
    let workers = rx.rings().len();
    let mut looked = 0;
    while looked < workers {
        let at = (rx.next + looked) % workers;
        let names = rx.filter(at);
        let Some(ring) = rx.rings().get_mut(at) else { return Got::Nothing };
        let item = match ring.peek() {
            Ok(Some(item)) => item,
            Ok(None) => {
                give_back(shared, rx, at);
                looked += 1;
                continue;
            }
            Err(_) => {
                // The daemon would never: what comes next comes by the kernel.
                attach::lost(shared);
                looked += 1;
                continue;
            }
        };
        let record = item.record;
        match record.kind {
            kind::DATAGRAM if passes(&names, &record) => {}
            kind::ERROR => {
                take_errors(shared, rx);
                let error = shared.error.swap(0, Ordering::Relaxed);
                if error != 0 {
                    return Got::Error(error);
                }
                continue;
            }
            _ => {
                item.consume();
                rx.took();
                continue;
            }
        }
        let peek = flags & MSG_PEEK != 0;
        // SAFETY: the caller's promise.
        if !unsafe { sound(message) } {
            // As the kernel does: it has taken the datagram when it finds out.
            if !peek {
                item.consume();
                rx.took();
            }
            return Got::Error(libc::EFAULT);
        }
        // SAFETY: the caller's promise.
        let mut copied = unsafe { scatter(item.payload.as_ptr(), item.payload.len(), message, 0) };
        let mut full = item.payload.len();
        let mut segment = 0;
        if !peek {
            item.consume();
            rx.took();
            rx.since_kernel += 1;
            let mut count = 1;
            if wanted & wants::GRO != 0 && full != 0 {
                // SAFETY: the caller's promise.
                (copied, full, count) = unsafe { together(rx, at, message, &record, copied) };
                segment = record.len;
            }
            shared.received.store(shared.received.load(Ordering::Relaxed) + count, Ordering::Relaxed);
            if rx.since_kernel & 15 == 0 {
                give_back(shared, rx, at);
                rx.next = (at + 1) % workers;
            }
        }
        if record.ifindex != 0 {
            shared.device.store(record.ifindex, Ordering::Relaxed);
        }
        finish(shared, message, &record, wanted, u16::try_from(segment).unwrap_or(0));
        if full > copied {
            message.msg_flags |= MSG_TRUNC;
        }
        return Got::Datagram(if flags & MSG_TRUNC != 0 { full } else { copied });
    }
    Got::Nothing
}

/// Takes the errors at the rings' fronts in: for the next call, and for the error queue. Whether there were any.
pub(crate) fn take_errors(shared: &Shared, rx: &mut Rx<'_>) -> bool {
    let mut any = false;
    let wanted = shared.options.wants.load(Ordering::Relaxed);
    let names = rx.names();
    for at in 0..rx.rings().len() {
        while let Some(ring) = rx.rings().get_mut(at)
            && let Ok(Some(item)) = ring.peek()
            && item.record.kind == kind::ERROR
        {
            let record = item.record;
            let mut info: errors::Info = [0; size_of::<errors::Info>()];
            let len = item.payload.copy_to(&mut info);
            item.consume();
            rx.took();
            any = true;
            if len < size_of::<ErrorInfo>() {
                continue;
            }
            if errors::no_route(&info) {
                shared.lock_tx().known.unreachable(&record.remote, coarse_ns());
            }
            let errno = rx.errors.take(&record, &info, len, wanted, &names);
            if errno != 0 {
                shared.error.store(errno, Ordering::Relaxed);
            }
        }
    }
    any
}

/// Takes errors in, and puts the eventfd right.
pub(crate) fn settle_errors(socket: &Use) {
    let shared = socket.shared();
    let mut rx = shared.lock_rx();
    if take_errors(shared, &mut rx) {
        wait::settle(socket, &mut rx);
    }
}

/// Gives the room of what was consumed back.
fn give_back(shared: &Shared, rx: &mut Rx<'_>, at: usize) {
    let Some(ring) = rx.rings().get_mut(at) else { return };
    if ring.release() {
        crate::send::ring_bell(shared, at);
    }
}

/// Drops what is at the rings' fronts and not for the socket, so that they are empty if there is nothing to receive.
pub(crate) fn purge(shared: &Shared, rx: &mut Rx<'_>) {
    if !shared.connected.load(Ordering::Relaxed) && !rx.is_filtering() {
        return;
    }
    for at in 0..rx.rings().len() {
        loop {
            let names = rx.filter(at);
            let Some(Ok(Some(item))) = rx.rings().get_mut(at).map(Consumer::peek) else { break };
            match item.record.kind {
                kind::DATAGRAM if passes(&names, &item.record) => break,
                kind::ERROR => break,
                _ => {
                    item.consume();
                    rx.took();
                }
            }
        }
    }
}

/// Whether the kernel would give this datagram to the socket.
#[inline]
pub(crate) fn passes(names: &Names, record: &Record) -> bool {
    let peer = names.peer.is_none_or(|p| p.port == record.remote_port && p.ip == record.remote);
    peer && (is_unspecified(&names.local.ip) || names.local.ip == record.local)
}

/// Puts datagrams of one size and flow behind the first, as the kernel's UDP_GRO does. Bytes copied, bytes in all, and
/// datagrams.
///
/// # Safety
/// `message` is a valid one of the program's.
unsafe fn together(
    rx: &mut Rx<'_>,
    at: usize,
    message: &mut msghdr,
    first: &Record,
    copied: usize,
) -> (usize, usize, u64) {
    let size = first.len as usize;
    let (mut total, mut count) = (size, 1u64);
    if copied < size {
        return (copied, total, count);
    }
    // SAFETY: the caller's promise.
    let room = unsafe { room(message) };
    let Some(ring) = rx.rings().get_mut(at) else { return (copied, total, count) };
    while count < MOST_TOGETHER {
        let Ok(Some(item)) = ring.peek() else { break };
        let r = item.record;
        let same = r.kind == kind::DATAGRAM
            && (r.local, r.remote, r.local_port, r.remote_port, r.tos, r.ttl)
                == (first.local, first.remote, first.local_port, first.remote_port, first.tos, first.ttl);
        let len = r.len as usize;
        if !same || len == 0 || len > size || total + len > room || total + len > 65507 {
            break;
        }
        // SAFETY: the caller's promise.
        total += unsafe { scatter(item.payload.as_ptr(), len, message, total) };
        item.consume();
        count += 1;
        if len < size {
            break;
        }
    }
    (total, total, count)
}

/// Whether a message's pointers are plausible.
///
/// # Safety
/// `message` is a valid one of the program's.
#[inline]
unsafe fn sound(message: &msghdr) -> bool {
    let bad = |p: &iovec| p.iov_len != 0 && !plausible(p.iov_base);
    (message.msg_iovlen == 0 || plausible(message.msg_iov))
        && (message.msg_name.is_null() || plausible(message.msg_name))
        && (message.msg_controllen == 0 || plausible(message.msg_control))
        // SAFETY: the caller's promise.
        && !unsafe { parts(message) }.iter().any(bad)
}

/// Bytes of room in a message.
///
/// # Safety
/// `message` is a valid one of the program's.
unsafe fn room(message: &msghdr) -> usize {
    // SAFETY: the caller's promise.
    unsafe { parts(message) }.iter().map(|part| part.iov_len).sum()
}

/// # Safety
/// `message` is a valid one of the program's.
unsafe fn parts(message: &msghdr) -> &[iovec] {
    if message.msg_iov.is_null() || message.msg_iovlen == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(message.msg_iov, message.msg_iovlen) }
}

/// Copies `from` behind the first `skip` bytes of a message's buffers, as much as fits; returns how much.
///
/// # Safety
/// `size` bytes lie at `from`; `message` is a valid one of the program's.
#[inline]
unsafe fn scatter(from: *const u8, size: usize, message: &msghdr, mut skip: usize) -> usize {
    let mut done = 0;
    // SAFETY: the caller's promise.
    for part in unsafe { parts(message) } {
        if skip >= part.iov_len {
            skip -= part.iov_len;
            continue;
        }
        let len = (part.iov_len - skip).min(size - done);
        if len == 0 && size == done {
            break;
        }
        // SAFETY: within the bytes at `from` and within the program's buffer.
        unsafe {
            ptr::copy_nonoverlapping(from.add(done), part.iov_base.cast::<u8>().add(skip), len);
        }
        done += len;
        skip = 0;
    }
    done
}

/// Name, flags and control messages.
#[inline]
fn finish(shared: &Shared, message: &mut msghdr, record: &Record, wanted: u32, segment: u16) {
    message.msg_flags = 0;
    if !message.msg_name.is_null() {
        let scope = if is_link_local(&record.remote) { record.ifindex } else { 0 };
        let name = Name { ip: record.remote, port: record.remote_port, scope };
        let family = shared.family.load(Ordering::Relaxed);
        // SAFETY: the program's buffer, of that length.
        message.msg_namelen = unsafe { name.write(family, message.msg_name, message.msg_namelen) };
    }
    if wanted & wants::MESSAGES == 0 {
        message.msg_controllen = 0;
    } else {
        message::write(message, shared, record, segment);
    }
}

/// recvmsg() with MSG_ERRQUEUE. `None`: the kernel's queue is next.
///
/// # Safety
/// `message` is a valid one of the program's, with sound pointers.
unsafe fn error_queue(shared: &Shared, message: &mut msghdr) -> Option<ssize_t> {
    let (entry, next) = {
        let mut rx = shared.lock_rx();
        take_errors(shared, &mut rx);
        (rx.errors.pop()?, rx.errors.next_errno())
    };
    message.msg_flags = MSG_ERRQUEUE;
    if !message.msg_name.is_null() {
        let family = shared.family.load(Ordering::Relaxed);
        // SAFETY: the program's buffer, of that length.
        message.msg_namelen = unsafe { entry.remote.write(family, message.msg_name, message.msg_namelen) };
    }
    message::write_error(message, &entry);
    let contents = entry.contents();
    // SAFETY: bytes of ours; the caller's promise.
    let copied = unsafe { scatter(contents.as_ptr(), contents.len(), message, 0) };
    if copied < contents.len() {
        message.msg_flags |= MSG_TRUNC;
    }
    // As sock_dequeue_err_skb(): the socket's error is the next entry's.
    shared.error.store(next, Ordering::Relaxed);
    ssize_t::try_from(copied).ok()
}

/// recv(), recvfrom(), read().
///
/// # Safety
/// As recvfrom().
pub(crate) unsafe fn receive_from(
    fd: c_int,
    socket: &Use,
    part: iovec,
    flags: c_int,
    name: *mut c_void,
    name_len: *mut libc::socklen_t,
) -> Option<ssize_t> {
    let mut part = part;
    // SAFETY: integers and null pointers.
    let mut message: msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    // A bad length is found when the datagram has been taken (net/socket.c move_addr_to_user).
    let mut broken = None;
    if !name.is_null() && !plausible(name_len) {
        broken = Some(libc::EFAULT);
    } else if !name.is_null() {
        // SAFETY: the program's length.
        let len = unsafe { name_len.read() };
        match i32::try_from(len) {
            Ok(_) => (message.msg_name, message.msg_namelen) = (name, len),
            Err(_) => broken = Some(libc::EINVAL),
        }
    }
    // SAFETY: built here, around the program's buffers.
    let result = unsafe { receive(fd, socket, &mut message, flags) }?;
    if let Some(errno) = broken
        && result >= 0
    {
        set_errno(errno);
        return Some(-1);
    }
    if result >= 0 && !message.msg_name.is_null() {
        // SAFETY: as above.
        unsafe { name_len.write(message.msg_namelen) };
    }
    Some(result)
}

/// recvmmsg(). `None`: ask the kernel instead.
///
/// # Safety
/// As recvmmsg().
pub(crate) unsafe fn receive_many(
    fd: c_int,
    socket: &Use,
    messages: *mut mmsghdr,
    count: u32,
    flags: c_int,
    timeout: *mut timespec,
) -> Option<c_int> {
    let shared = socket.shared();
    if !matches!(shared.state(), state::FAST | state::LOST) || flags & !FOLLOWED != 0 || !plausible(messages)
    {
        return None;
    }
    let deadline = if timeout.is_null() {
        None
    } else {
        // SAFETY: the program's.
        let time = unsafe { timeout.read() };
        let (s, n) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_nsec).ok()?);
        Some(now_ns().saturating_add(s.saturating_mul(1_000_000_000)).saturating_add(n))
    };
    let mut flags = flags;
    let mut done = 0;
    while done < count {
        // The rings alone, all that is there, under one lock.
        let mut failed = None;
        if done > 0 {
            let mut rx = shared.lock_rx();
            if rx.since_kernel < KERNEL_EVERY {
                while done < count {
                    // SAFETY: `count` of them are there.
                    let entry = unsafe { &mut *messages.add(done as usize) };
                    // SAFETY: the program's message.
                    match unsafe { from_rings(shared, &mut rx, &mut entry.msg_hdr, flags) } {
                        Got::Datagram(n) => entry.msg_len = u32::try_from(n).unwrap_or(u32::MAX),
                        Got::Error(errno) => {
                            failed = Some(errno);
                            break;
                        }
                        Got::Nothing => break,
                    }
                    done += 1;
                }
                wait::settle(socket, &mut rx);
            }
            drop(rx);
            if let Some(errno) = failed {
                // For the next call: this one has something to show.
                shared.error.store(errno, Ordering::Relaxed);
                break;
            }
            if done == count {
                break;
            }
        }
        // SAFETY: `count` of them are there.
        let entry = unsafe { &mut *messages.add(done as usize) };
        // SAFETY: the program's message.
        let result = match unsafe { receive(fd, socket, &mut entry.msg_hdr, flags & !MSG_WAITFORONE) } {
            Some(result) => result,
            // SAFETY: as above.
            None => unsafe { real::recvmsg(fd, &raw mut entry.msg_hdr, flags & !MSG_WAITFORONE) },
        };
        let Ok(len) = u32::try_from(result) else {
            break;
        };
        entry.msg_len = len;
        done += 1;
        if flags & MSG_WAITFORONE != 0 {
            flags |= MSG_DONTWAIT;
        }
        // As the kernel's: looked at after each datagram.
        if deadline.is_some_and(|d| now_ns() >= d) {
            break;
        }
    }
    if done == 0 && count != 0 {
        return Some(-1);
    }
    Some(c_int::try_from(done).unwrap_or(c_int::MAX))
}

/// Bytes of the next datagram of the rings, for FIONREAD; `None`: none, or the kernel's, which has `kernel` bytes, comes
/// before it.
pub(crate) fn next_len(shared: &Shared, kernel: c_int) -> Option<usize> {
    let mut rx = shared.lock_rx();
    if rx.kernel_first && kernel > 0 {
        return None;
    }
    purge(shared, &mut rx);
    let workers = rx.rings().len();
    (0..workers).find_map(|looked| {
        let at = (rx.next + looked) % workers;
        let item = rx.rings().get_mut(at)?.peek().ok()??;
        (item.record.kind == kind::DATAGRAM).then(|| item.payload.len())
    })
}
