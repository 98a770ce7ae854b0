//! Sending.
//!
//! ```text
//!   name, control messages -> which way (known) -> a record in a TX ring -> publish, doorbell
//!                                   \-> the kernel: multicast, broadcast, loopback, whatever it has to refuse,
//!                                       sockets of bundles (bundles.rs)
//! ```
//!
//! A ring that stays full sends a datagram of a program that does not wait through the kernel: nothing is lost, and
//! the kernel's socket is what the program's poll() has told it about.

use core::{
    ffi::{c_int, c_void},
    mem::{self, MaybeUninit},
    ptr,
    sync::atomic::Ordering,
};
use std::{os::fd::BorrowedFd, thread};

use afnet_abi::shm::{Record, flags, kind};
use afnet_ring::{Consumer, Producer};
use libc::{MSG_CONFIRM, MSG_DONTWAIT, MSG_NOSIGNAL, iovec, mmsghdr, msghdr, sockaddr, socklen_t, ssize_t};

use crate::{
    address::{Ip, Name, is_loopback, is_unspecified, is_v4},
    attach,
    known::Way,
    message, real, receive,
    shared::{Shared, Tx, state, wants},
    socket::Use,
    sys::{coarse_ns, now_ns, plausible, set_errno},
};

/// Flags that mean the same, or nothing, on the fast path.
const FOLLOWED: c_int = MSG_DONTWAIT | MSG_NOSIGNAL | MSG_CONFIRM;
/// Longest payload over IPv4 and over IPv6 (65535 bytes less the headers that count).
const MOST: usize = 65507;
/// Looks at a full ring, yielding the CPU in between, before something else is done.
const PATIENCE: u32 = 64;
/// Longest name that the kernel takes (`struct sockaddr_storage`).
const MOST_NAME: socklen_t = 128;
/// Most segments of one send (UDP_MAX_SEGMENTS of older kernels).
const MOST_SEGMENTS: usize = 64;

/// Longest time that a worker is waited for that has to look at its rings: microseconds, on a machine that does not stall.
const LEAVE_NS: u64 = 1_000_000_000;

/// What became of a datagram.
enum Sent {
    Bytes(usize),
    Error(c_int),
    /// Only the kernel can, or can say what is wrong.
    Kernel,
}

/// sendmsg() and all that are like it. `None`: ask the kernel instead.
///
/// # Safety
/// `message` is a valid one of the program's.
#[inline]
pub(crate) unsafe fn send(socket: &Use, fd: c_int, message: &msghdr, flags: c_int) -> Option<ssize_t> {
    let shared = socket.shared();
    if !usable(fd, socket) {
        return None;
    }
    if shared.connected.load(Ordering::Relaxed) {
        receive::settle_errors(socket);
    }
    let mut tx = shared.lock_tx();
    // SAFETY: the caller's promise.
    let sent = unsafe { queue(shared, &mut tx, message, flags) };
    if let Sent::Bytes(_) = sent {
        publish(shared, &mut tx);
    }
    let news = tx.bundles.news();
    drop(tx);
    if let Some(by_kernel) = news {
        attach::bundles(fd, shared, by_kernel);
    }
    finish(sent)
}

fn finish(sent: Sent) -> Option<ssize_t> {
    match sent {
        Sent::Bytes(n) => Some(ssize_t::try_from(n).unwrap_or(ssize_t::MAX)),
        Sent::Error(errno) => {
            set_errno(errno);
            Some(-1)
        }
        Sent::Kernel => None,
    }
}

/// Whether the rings are served; looks at the daemon now and then.
#[inline]
fn usable(fd: c_int, socket: &Use) -> bool {
    let shared = socket.shared();
    match shared.state() {
        state::FAST => attach::alive(shared) && !shared.options.send_shut.load(Ordering::Relaxed),
        state::LOST => {
            attach::recover(fd, socket);
            shared.state() == state::FAST
        }
        _ => false,
    }
}

/// sendmmsg(). `None`: ask the kernel instead.
///
/// # Safety
/// As sendmmsg().
pub(crate) unsafe fn send_many(
    socket: &Use,
    fd: c_int,
    messages: *mut mmsghdr,
    count: u32,
    flags: c_int,
) -> Option<c_int> {
    let shared = socket.shared();
    if !plausible(messages) || !usable(fd, socket) {
        return None;
    }
    // The kernel's bound (UIO_MAXIOV).
    let count = count.min(1024);
    let mut done = 0;
    let mut failed = false;
    while done < count && !failed {
        let mut tx = shared.lock_tx();
        let mut kernel = false;
        while done < count {
            // SAFETY: `count` of them are there.
            let entry = unsafe { &mut *messages.add(done as usize) };
            // SAFETY: the program's message.
            match unsafe { queue(shared, &mut tx, &entry.msg_hdr, flags) } {
                Sent::Bytes(n) => entry.msg_len = u32::try_from(n).unwrap_or(u32::MAX),
                Sent::Error(errno) => {
                    set_errno(errno);
                    failed = true;
                    break;
                }
                Sent::Kernel => {
                    kernel = true;
                    break;
                }
            }
            done += 1;
        }
        publish(shared, &mut tx);
        let news = tx.bundles.news();
        drop(tx);
        if let Some(by_kernel) = news {
            attach::bundles(fd, shared, by_kernel);
        }
        if kernel {
            // SAFETY: `count` of them are there.
            let entry = unsafe { &mut *messages.add(done as usize) };
            // SAFETY: the program's message.
            let result = unsafe { real::sendmsg(fd, &raw const entry.msg_hdr, flags) };
            match u32::try_from(result) {
                Ok(n) => {
                    entry.msg_len = n;
                    done += 1;
                }
                Err(_) => failed = true,
            }
        }
    }
    if done == 0 && failed {
        return Some(-1);
    }
    Some(c_int::try_from(done).unwrap_or(c_int::MAX))
}

/// send(), sendto(), write().
///
/// # Safety
/// As sendto().
#[inline]
pub(crate) unsafe fn send_to(
    socket: &Use,
    fd: c_int,
    data: *const c_void,
    len: usize,
    flags: c_int,
    to: *const sockaddr,
    to_len: socklen_t,
) -> Option<ssize_t> {
    let mut part = iovec { iov_base: data.cast_mut(), iov_len: len };
    // SAFETY: integers and null pointers.
    let mut message: msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !to.is_null() {
        message.msg_name = to.cast_mut().cast();
        message.msg_namelen = to_len;
    }
    // SAFETY: built here, around the program's buffers.
    unsafe { send(socket, fd, &message, flags) }
}

/// Makes a record of a message. Not visible to the worker before [`publish`].
///
/// # Safety
/// `message` is a valid one of the program's.
unsafe fn queue(shared: &Shared, tx: &mut Tx<'_>, message: &msghdr, flags: c_int) -> Sent {
    if flags & !FOLLOWED != 0 || message.msg_namelen > MOST_NAME {
        return Sent::Kernel;
    }
    let error = shared.error.load(Ordering::Relaxed);
    if error != 0 {
        shared.error.store(0, Ordering::Relaxed);
        return Sent::Error(error);
    }
    let names = tx.names();
    let device = shared.device.load(Ordering::Relaxed);
    let family = shared.family.load(Ordering::Relaxed);
    let to = if message.msg_name.is_null() || message.msg_namelen == 0 {
        match names.peer {
            Some(peer) => peer,
            None => return Sent::Kernel,
        }
    } else {
        if !plausible(message.msg_name) {
            return Sent::Kernel;
        }
        // SAFETY: the caller's promise.
        match unsafe { Name::read(message.msg_name, message.msg_namelen) } {
            // An IPv4 address in an IPv6 socket, or the other way round: the kernel knows what to say.
            Some(name) if own_family(message, family) => name,
            _ => return Sent::Kernel,
        }
    };
    if message.msg_controllen != 0 && !plausible(message.msg_control) {
        return Sent::Kernel;
    }
    // SAFETY: the caller's promise.
    let Some(said) = (unsafe { message::said(message, family, device) }) else { return Sent::Kernel };
    let local = said.source.unwrap_or(names.local.ip);
    let (four, bound) = (is_v4(&to.ip), !is_unspecified(&names.local.ip));
    // Another address than the bound one, another family than the bound one's: the kernel's to judge.
    if bound && (local != names.local.ip || is_v4(&local) != four) {
        return Sent::Kernel;
    }
    if said.source.is_some_and(|s| is_v4(&s) != is_v4(&to.ip) || is_loopback(&s) != is_loopback(&to.ip)) {
        return Sent::Kernel;
    }
    let now = coarse_ns();
    if said.source.is_some_and(|s| s != names.local.ip && !is_loopback(&s) && !tx.known.may_be(&s, now)) {
        return Sent::Kernel;
    }
    let (source, mtu) = match tx.known.way(&to, &local, now) {
        Way::Kernel => return Sent::Kernel,
        Way::Ring { source, mtu } => (source, mtu as usize),
    };
    let parts: &[iovec] = if message.msg_iovlen == 0 {
        &[]
    } else if message.msg_iovlen > 1024 || !plausible(message.msg_iov) {
        return Sent::Kernel;
    } else {
        // SAFETY: the caller's promise.
        unsafe { core::slice::from_raw_parts(message.msg_iov, message.msg_iovlen) }
    };
    let len = parts.iter().fold(0usize, |sum, part| sum.saturating_add(part.iov_len));
    let options = &shared.options;
    let wanted = options.wants.load(Ordering::Relaxed);
    let segment = said.segment.unwrap_or_else(|| options.segment.load(Ordering::Relaxed));
    let pieces = if segment == 0 { 1 } else { len.div_ceil(usize::from(segment)) };
    if len > MOST || pieces > MOST_SEGMENTS || parts.iter().any(bad) {
        return Sent::Kernel;
    }
    if tx.bundles.concerns(pieces) && !is_loopback(&to.ip) && is_for_kernel(shared, tx, pieces) {
        return Sent::Kernel;
    }
    if four && wanted & wants::SIX_ONLY != 0 {
        return Sent::Kernel;
    }
    let headers = if four { 28 } else { 48 };
    let (ttl, tos, whole) = if four {
        (&options.ttl, &options.tos, wants::DF)
    } else {
        (&options.hops, &options.tclass, wants::DF6)
    };
    // Too long for the path: EMSGSIZE is the kernel's to say, and its error queue's.
    let longest = if pieces > 1 { usize::from(segment) } else { len };
    if longest + headers > mtu && (pieces > 1 || wanted & whole != 0) {
        return Sent::Kernel;
    }
    let record = Record {
        kind: kind::DATAGRAM,
        ttl: said.ttl.unwrap_or_else(|| ttl.load(Ordering::Relaxed)),
        tos: said.tos.unwrap_or_else(|| tos.load(Ordering::Relaxed)),
        flags: if wanted & whole != 0 { flags::DONT_FRAGMENT } else { 0 },
        segment: if pieces > 1 { segment } else { 0 },
        local_port: names.local.port,
        remote_port: to.port,
        ifindex: to.scope,
        local: if source == [0; 16] || is_zero_v4(&source) { [0; 16] } else { source },
        remote: to.ip,
        ..Record::default()
    };
    // SAFETY: the caller's promise.
    unsafe { put(shared, tx, &record, parts, len, flags) }
}

/// Whether the kernel is to send something of so many segments, and nothing that was sent before is under way.
#[cold]
fn is_for_kernel(shared: &Shared, tx: &mut Tx<'_>, segments: usize) -> bool {
    let mut bundles = mem::take(&mut tx.bundles);
    let by_kernel = bundles.weigh(segments, || {
        publish(shared, tx);
        (0..PATIENCE).any(|_| {
            let drained = tx.rings().iter_mut().all(Producer::drained);
            if !drained {
                thread::yield_now();
            }
            drained
        })
    });
    tx.bundles = bundles;
    by_kernel
}

/// Sends what the rings hold on to the kernel's socket, when the workers have said that nothing more comes.
pub(crate) fn give_back(shared: &Shared) {
    {
        let mut tx = shared.lock_tx();
        for ring in tx.rings() {
            if let Some(room) = ring.reserve(0) {
                room.commit(&Record { kind: kind::LEAVE, ..Record::default() }, 0);
            }
        }
        publish(shared, &mut tx);
    }
    let end = now_ns() + LEAVE_NS;
    while !shared.lock_tx().rings().iter_mut().all(Producer::drained)
        && now_ns() < end
        && attach::alive(shared)
    {
        thread::sleep(core::time::Duration::from_micros(50));
    }
    let mut rx = shared.lock_rx();
    let mut tx = shared.lock_tx();
    for at in 0..rx.rings().len() {
        loop {
            let names = rx.filter(at);
            let Some(Ok(Some(item))) = rx.rings().get_mut(at).map(Consumer::peek) else { break };
            let (record, payload) = (item.record, item.payload.to_vec());
            item.consume();
            rx.took();
            if record.kind == kind::DATAGRAM && receive::passes(&names, &record) {
                let back = Record { flags: flags::GIVE_BACK, timestamp_ns: 0, ..record };
                let part = iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
                // SAFETY: the bytes that have just been copied.
                unsafe { put(shared, &mut tx, &back, &[part], payload.len(), MSG_DONTWAIT) };
            }
        }
    }
    publish(shared, &mut tx);
}

fn bad(part: &iovec) -> bool {
    part.iov_len != 0 && !plausible(part.iov_base)
}

fn is_zero_v4(ip: &Ip) -> bool {
    is_v4(ip) && ip[12..] == [0; 4]
}

/// Whether a destination is of the socket's family.
fn own_family(message: &msghdr, family: c_int) -> bool {
    // SAFETY: `Name::read` has read it.
    let named = unsafe { message.msg_name.cast::<libc::sa_family_t>().read_unaligned() };
    c_int::from(named) == family
}

/// # Safety
/// `parts` are the program's, `len` bytes in all.
unsafe fn put(
    shared: &Shared,
    tx: &mut Tx<'_>,
    record: &Record,
    parts: &[iovec],
    len: usize,
    flags: c_int,
) -> Sent {
    let at = choose(tx.rings().len(), record);
    let mut tries = 0;
    loop {
        let Some(ring) = tx.rings().get_mut(at) else { return Sent::Kernel };
        if let Some(mut room) = ring.reserve(len) {
            let mut to = room.payload_ptr();
            for part in parts {
                // SAFETY: the program's bytes; `reserve` has given room for all of them.
                unsafe {
                    ptr::copy_nonoverlapping(part.iov_base.cast::<u8>(), to, part.iov_len);
                    to = to.add(part.iov_len);
                }
            }
            room.commit(record, len);
            shared.sent.store(shared.sent.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            return Sent::Bytes(len);
        }
        if ring.violation().is_some() {
            attach::lost(shared);
            return Sent::Kernel;
        }
        publish(shared, tx);
        tries += 1;
        if tries > PATIENCE {
            if flags & MSG_DONTWAIT != 0 || shared.options.nonblocking.load(Ordering::Relaxed) {
                return Sent::Kernel;
            }
            if !attach::alive(shared) || tries > 40 * PATIENCE {
                // Two hundred milliseconds: something is wrong there.
                return Sent::Kernel;
            }
            thread::sleep(core::time::Duration::from_micros(50));
        } else {
            thread::yield_now();
        }
    }
}

/// The ring of a flow, so that its datagrams stay in order.
#[inline]
fn choose(rings: usize, record: &Record) -> usize {
    if rings < 2 {
        return 0;
    }
    let start = u32::from(record.remote_port);
    let hash = record.remote.iter().fold(start, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    (hash >> 8) as usize % rings
}

/// Makes everything visible to the workers, and wakes those that sleep.
#[inline]
fn publish(shared: &Shared, tx: &mut Tx<'_>) {
    for (at, ring) in tx.rings().iter_mut().enumerate() {
        if ring.unpublished() && ring.publish() {
            ring_bell(shared, at);
        }
    }
}

/// Rings a worker's doorbell.
pub(crate) fn ring_bell(shared: &Shared, at: usize) {
    let number = shared.doorbells.get(at).map_or(-1, |d| d.load(Ordering::Relaxed));
    if number >= 0 {
        // SAFETY: ours, and open.
        let _ = rustix::io::write(unsafe { BorrowedFd::borrow_raw(number) }, &1u64.to_ne_bytes());
    }
}

/// Bytes in the TX rings, for SIOCOUTQ.
pub(crate) fn queued(shared: &Shared) -> usize {
    shared.lock_tx().rings().iter_mut().map(|ring| ring.capacity() - ring.free().min(ring.capacity())).sum()
}
