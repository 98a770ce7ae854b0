//! How a socket gets on the fast path, and off it.
//!
//! ```text
//!   bind(), connect(), the 8th datagram ---> attach, claim (the socket goes along as proof) ---> FAST
//!   FAST: an option that cannot be followed ---> unclaim, with the reason ---> PLAIN
//!   FAST: SCM_RIGHTS, exec ---> what the rings hold goes to the kernel's queue ---> unclaim ---> PLAIN
//!   FAST: a group joined, left, filtered ---> follow: the daemon asks the kernel what the socket hears
//!   FAST: the daemon is gone ---> LOST: the kernel has the traffic ---> attach anew (not if it was shared by a fork)
//! ```
//!
//! Slow, and allowed to be: nothing here runs for each datagram.

use core::{
    fmt,
    mem::ManuallyDrop,
    sync::atomic::{AtomicI32, Ordering},
};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};

use afnet_abi::shm::MIN_RING_LEN;
use afnet_tenant::{
    AttachOptions, Error,
    parts::{Answer, Connection, Request, Session},
    socket_path,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{
    address::{self, Ip, Name, is_group, is_loopback, is_unspecified, is_v4, v4},
    log::{COUNTS, say, unavailable},
    options, process, real, send, settings,
    settings::Level,
    shared::{Names, Shared, state},
    socket::Use,
    sys::{coarse_ns, quietly},
    table, watch,
};

/// Shortest time between two attempts to reach a daemon that is gone.
const RETRY_NS: u64 = 250_000_000;
/// Shortest time between two looks at the daemon's connection: a system call each. What is sent in that time after
/// the daemon's end is lost.
const LOOK_NS: u64 = 4_000_000;
/// Largest ring in bytes. More would only be a longer queue, and colder memory.
const LARGEST_RING: usize = 4 << 20;
/// The shim's own descriptors have numbers from here on, out of the program's way, if it may have so many.
const OWN_FROM: u64 = 4096;

/// What is said of a socket that is left to the kernel for sending.
const BUNDLES: &str = "sends bundles (UDP_SEGMENT) by the kernel: the device copies";

/// Looks in vain, without a datagram in between, after which a program is taken for one that polls without a pause.
const VAIN: u32 = 1000;

/// Puts a socket on the fast path when it is worth it, and when it is known how the program waits for it: by a call
/// that sleeps, an epoll set, poll() or select(), or by asking again and again. A program that waits by system calls
/// of its own, past the C library, would never hear of what is in a ring: its sockets stay with the kernel.
#[cold]
pub(crate) fn consider(fd: i32, socket: &Use) {
    let shared = socket.shared();
    if shared.state() == state::IDLE
        && shared.wanted.load(Ordering::Relaxed)
        && (shared.seen.load(Ordering::Relaxed) || settings::after() == 0)
        // One thread, of one process; the others go on with the kernel meanwhile.
        && !shared.joining.swap(true, Ordering::AcqRel)
    {
        accelerate(fd, socket);
        shared.joining.store(false, Ordering::Release);
    }
}

/// It is worth the fast path.
#[cold]
pub(crate) fn want(fd: i32, socket: &Use) {
    socket.shared().wanted.store(true, Ordering::Relaxed);
    consider(fd, socket);
}

/// The program has been seen to wait for it.
#[cold]
pub(crate) fn see(fd: i32, socket: &Use) {
    socket.shared().seen.store(true, Ordering::Relaxed);
    consider(fd, socket);
}

/// A look in vain.
#[cold]
pub(crate) fn in_vain(fd: i32, socket: &Use) {
    let vain = &socket.shared().vain;
    let count = vain.load(Ordering::Relaxed) + 1;
    vain.store(count, Ordering::Relaxed);
    if count >= VAIN {
        see(fd, socket);
    }
}

/// Whether calls on it sleep.
pub(crate) fn sleeps(fd: i32) -> bool {
    // SAFETY: no pointer goes along.
    quietly(|| unsafe { real::fcntl(fd, libc::F_GETFL, 0) } & libc::O_NONBLOCK == 0)
}

/// Puts a bound socket on the fast path, if that can be.
fn accelerate(fd: i32, socket: &Use) {
    let shared = socket.shared();
    // A socket that processes share can only be put there by all of them, or before.
    if settings::off() || shared.state() != state::IDLE || shared.is_forked() {
        return;
    }
    quietly(|| {
        let Some(local) = address::ask(fd, false).filter(|name| name.port != 0) else { return };
        let peer = address::ask(fd, true);
        if let Some(reason) = unsuitable(fd, &local, peer.as_ref()) {
            stay(shared, fd, &reason);
            return;
        }
        match enter(fd, socket, local, peer) {
            Ok(()) => {
                COUNTS.accelerated.fetch_add(1, Ordering::Relaxed);
                say(Level::Info, format_args!("socket {fd}, port {}: accelerated", local.port));
            }
            Err(e) => {
                if let Error::NotRunning { .. } = e {
                    unavailable(&e);
                }
                stay(shared, fd, &e);
            }
        }
    });
}

/// The socket stays with the kernel.
fn stay(shared: &Shared, fd: i32, reason: &dyn fmt::Display) {
    shared.state.store(state::PLAIN, Ordering::Release);
    say(Level::Info, format_args!("socket {fd}: with the kernel: {reason}"));
}

fn unsuitable(fd: i32, local: &Name, peer: Option<&Name>) -> Option<String> {
    if is_group(&local.ip) {
        return Some("bound to a multicast or broadcast address".to_owned());
    }
    if is_loopback(&local.ip) && !settings::loopback() {
        return Some("bound to the loopback".to_owned());
    }
    if peer.is_some_and(|p| is_group(&p.ip)) {
        return Some("connected to a multicast or broadcast address".to_owned());
    }
    if process::io_uring() {
        return Some("the process has an io_uring".to_owned());
    }
    options::obstacle(fd).map(|name| format!("it uses {name}"))
}

fn connect() -> Result<Connection, Error> {
    match Connection::open(&socket_path(None)?) {
        Err(e @ Error::NotRunning { .. }) => Connection::open_abstract(None).map_err(|_| e),
        other => other,
    }
}

fn enter(fd: i32, socket: &Use, local: Name, peer: Option<Name>) -> Result<(), Error> {
    let rx_len = Some(ring_len(options::number(fd, libc::SOL_SOCKET, libc::SO_RCVBUF)));
    let tx_len = Some(ring_len(options::number(fd, libc::SOL_SOCKET, libc::SO_SNDBUF)));
    let session = Session::attach(connect()?, &AttachOptions { rx_len, tx_len, ..AttachOptions::default() })?;
    let shared = socket.shared();
    let Session { mut connection, wake, rx, tx, copied, .. } = session;
    let claim = claim_of(fd, &local);
    // SAFETY: the program's descriptor, which the call under way uses.
    let proof = unsafe { BorrowedFd::borrow_raw(fd) };
    connection.call(&claim, &[proof])?;
    let mut ends = Vec::new();
    let mut doorbells = Vec::new();
    for (rx, tx) in rx.into_iter().zip(tx) {
        doorbells.push(tx.doorbell);
        ends.push((rx.consumer, tx.producer));
    }
    put(&shared.wake, wake)?;
    put(&shared.connection, connection.into())?;
    for (place, doorbell) in shared.doorbells.iter().zip(doorbells) {
        put(place, doorbell)?;
    }
    options::load(fd, shared);
    shared.install(ends, Names { local, peer }, copied);
    if settings::loopback() && (is_unspecified(&local.ip) || is_loopback(&local.ip)) {
        shared.listens.store(local.port, Ordering::Relaxed);
        table::listens(local.port, true);
    }
    shared.checked.store(coarse_ns(), Ordering::Relaxed);
    shared.state.store(state::FAST, Ordering::Release);
    watch::joined(socket);
    let groups = shared.lock_tx().groups;
    groups.iter().for_each(|group| follow(fd, shared, &group));
    Ok(())
}

/// A ring as large as the socket's buffer, which counts the kernel's overhead as a ring does.
fn ring_len(buffer: Option<i32>) -> u64 {
    let wanted = usize::try_from(buffer.unwrap_or(0)).unwrap_or(0).clamp(MIN_RING_LEN, LARGEST_RING);
    wanted.next_power_of_two() as u64
}

/// The claim that a bound socket makes.
fn claim_of(fd: i32, local: &Name) -> Request {
    let any = is_unspecified(&local.ip);
    let family = match any {
        false => None,
        true if is_v4(&local.ip) => Some(4),
        true if options::number(fd, libc::SOL_SOCKET, libc::SO_DOMAIN) == Some(libc::AF_INET) => Some(4),
        true if options::number(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) == Some(1) => Some(6),
        true => None,
    };
    let address = (!any).then(|| ip(&local.ip));
    let shared = options::number(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT) == Some(1);
    Request::Claim { port: local.port, count: 1, address, family, shared }
}

fn ip(ip: &Ip) -> core::net::IpAddr {
    if is_v4(ip) { v4(ip).into() } else { (*ip).into() }
}

/// A duplicate of a descriptor, out of the program's way; `None`: none can be had there.
fn high(fd: i32) -> Option<i32> {
    let mut limit = libc::rlimit { rlim_cur: 1024, rlim_max: 0 };
    // SAFETY: room for the answer.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    let from = usize::try_from((limit.rlim_cur / 4 * 3).min(OWN_FROM)).unwrap_or(0);
    // SAFETY: duplicates a descriptor of ours.
    let high = unsafe { real::fcntl(fd, libc::F_DUPFD_CLOEXEC, from) };
    (high >= 0 && table::in_range(high)).then_some(high)
}

/// One more descriptor of a file of ours; [`close_own`] closes it.
pub(crate) fn duplicate(fd: i32) -> Option<i32> {
    let number = high(fd)?;
    table::mine(number, true);
    Some(number)
}

/// Closes a descriptor of ours.
pub(crate) fn close_own(fd: i32) {
    table::mine(fd, false);
    // SAFETY: ours, and nobody uses it any more.
    unsafe { real::close(fd) };
}

/// Moves a descriptor of ours out of the program's way and enters its number; one that was there is closed.
fn put(place: &AtomicI32, fd: OwnedFd) -> Result<(), Error> {
    let number = high(fd.as_raw_fd()).unwrap_or_else(|| fd.into_raw_fd());
    if !table::in_range(number) {
        return Err(Error::Invalid("too many open files"));
    }
    table::mine(number, true);
    let old = place.swap(number, Ordering::Relaxed);
    if old >= 0 {
        close_own(old);
    }
    Ok(())
}

/// The socket has joined a multicast group, left it, or hears other sources there: the fast path is to do the same.
#[cold]
pub(crate) fn joined(fd: i32, shared: &Shared, group: &Ip) {
    if !shared.lock_tx().groups.put(group) {
        quietly(|| {
            let group = ip(group);
            say(
                Level::Debug,
                format_args!("socket {fd}: {group} by the kernel: one more than are remembered"),
            );
        });
    } else if shared.state() == state::FAST {
        quietly(|| follow(fd, shared, group));
    }
}

/// What cannot be followed the kernel delivers.
fn follow(fd: i32, shared: &Shared, group: &Ip) {
    // SAFETY: the program's descriptor, which the call under way uses.
    let socket = unsafe { BorrowedFd::borrow_raw(fd) };
    match call(shared, &Request::Follow { group: ip(group) }, &[socket]) {
        Ok(Answer::Follows { member: false }) => shared.lock_tx().groups.remove(group),
        Ok(_) => {}
        Err(e) => say(Level::Debug, format_args!("socket {fd}: {} by the kernel: {e}", ip(group))),
    }
}

/// The kernel sends from now on, or the rings do again: see [`crate::bundles`].
#[cold]
pub(crate) fn bundles(fd: i32, shared: &Shared, by_kernel: bool) {
    quietly(|| {
        let (note, what) = match by_kernel {
            true => (BUNDLES, BUNDLES),
            false => ("", "sends by the rings again"),
        };
        say(Level::Info, format_args!("socket {fd}: {what}"));
        let _ = call(shared, &Request::Note { text: note.to_owned() }, &[]);
    });
}

/// A request over a connection that is kept as a number.
fn call(shared: &Shared, request: &Request, along: &[BorrowedFd<'_>]) -> Result<Answer, Error> {
    let number = shared.connection.load(Ordering::Relaxed);
    if number < 0 {
        return Err(Error::Disconnected);
    }
    // One at a time, also among processes.
    let _tx = shared.lock_tx();
    // SAFETY: ours and open; not closed by this value.
    let mut connection = ManuallyDrop::new(Connection::from(unsafe { OwnedFd::from_raw_fd(number) }));
    connection.call(request, along).map(|(answer, _)| answer)
}

/// Takes a socket off the fast path, for good, when somebody gets it who knows of no rings. What they hold goes to the
/// kernel's queue, but for what came over the loopback.
#[cold]
pub(crate) fn hand_on(fd: i32, socket: &Use, reason: &str) {
    if socket.shared().state() == state::FAST {
        send::give_back(socket.shared());
    }
    leave(fd, socket, reason);
}

/// Takes a socket off the fast path, for good. What its rings hold is still read.
#[cold]
pub(crate) fn leave(fd: i32, socket: &Use, reason: &str) {
    let shared = socket.shared();
    match shared.state() {
        state::IDLE => {
            quietly(|| stay(shared, fd, &reason));
            return;
        }
        state::PLAIN => return,
        _ => {}
    }
    shared.state.store(state::PLAIN, Ordering::Release);
    COUNTS.left.fetch_add(1, Ordering::Relaxed);
    quietly(|| {
        unclaim(shared, fd, Some(reason));
        say(Level::Info, format_args!("socket {fd}: back with the kernel: {reason}"));
    });
}

fn unclaim(shared: &Shared, fd: i32, reason: Option<&str>) {
    let claim = claim_of(fd, &shared.names().local);
    unlisten(shared);
    if let Request::Claim { port, address, family, .. } = claim {
        let reason = reason.map(str::to_owned);
        let _ = call(shared, &Request::Unclaim { port, address, family, reason }, &[]);
    }
}

/// It no longer listens to the loopback, if it did and nobody else has it.
pub(crate) fn unlisten(shared: &Shared) {
    let port = if shared.is_forked() { 0 } else { shared.listens.swap(0, Ordering::Relaxed) };
    if port != 0 {
        table::listens(port, false);
    }
}

/// Before the last descriptor of a socket is closed: so that its port is free when close() has returned.
#[cold]
pub(crate) fn closing(fd: i32, socket: &Use) {
    let shared = socket.shared();
    if shared.state() == state::FAST && !shared.is_forked() {
        quietly(|| unclaim(shared, fd, None));
    }
}

/// Whether the daemon is there, as far as the last look tells. A look costs a system call, a few hundred a second at
/// most.
#[inline]
pub(crate) fn alive(shared: &Shared) -> bool {
    let now = coarse_ns();
    if now.wrapping_sub(shared.checked.load(Ordering::Relaxed)) < LOOK_NS {
        return true;
    }
    look(shared, now)
}

#[cold]
fn look(shared: &Shared, now: u64) -> bool {
    shared.checked.store(now, Ordering::Relaxed);
    let number = shared.connection.load(Ordering::Relaxed);
    if number < 0 {
        return false;
    }
    // SAFETY: ours and open.
    let connection = unsafe { BorrowedFd::borrow_raw(number) };
    let mut fds = [PollFd::new(&connection, PollFlags::RDHUP)];
    let gone = matches!(poll(&mut fds, Some(&Timespec::default())), Ok(n) if n > 0);
    if gone {
        lost(shared);
    }
    !gone
}

/// The daemon has gone.
#[cold]
pub(crate) fn lost(shared: &Shared) {
    let changed =
        shared.state.compare_exchange(state::FAST, state::LOST, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    if changed {
        quietly(|| {
            say(Level::Info, format_args!("the daemon is gone: sockets are with the kernel until it is back"))
        });
    }
}

/// Attaches anew, now and then, while the daemon is gone. Not a socket that processes share: the others would go on
/// with the old rings.
#[cold]
pub(crate) fn recover(fd: i32, socket: &Use) {
    let shared = socket.shared();
    if shared.state() != state::LOST || shared.is_forked() {
        return;
    }
    {
        let mut local = socket.local();
        let now = coarse_ns();
        if now.wrapping_sub(local.attempt) < RETRY_NS {
            return;
        }
        local.attempt = now;
    }
    if shared.joining.swap(true, Ordering::AcqRel) {
        return;
    }
    quietly(|| {
        let Names { local, peer } = shared.names();
        watch::parting(socket);
        match enter(fd, socket, local, peer) {
            Ok(()) => say(Level::Info, format_args!("socket {fd}: accelerated again")),
            Err(e) => say(Level::Debug, format_args!("socket {fd}: {e}")),
        }
    });
    shared.joining.store(false, Ordering::Release);
}

/// Tells where a socket is now, after connect().
#[cold]
pub(crate) fn moved(fd: i32, socket: &Use) {
    let shared = socket.shared();
    if shared.state() == state::IDLE || shared.state() == state::PLAIN {
        return;
    }
    quietly(|| {
        let (Some(local), peer) = (address::ask(fd, false), address::ask(fd, true)) else { return };
        let before = shared.names();
        if local.port != before.local.port {
            leave(fd, socket, "it has given its port up");
        } else if peer.is_some_and(|p| is_group(&p.ip)) {
            leave(fd, socket, "connected to a multicast or broadcast address");
        } else {
            shared.set_names(Names { local, peer });
        }
    });
}
