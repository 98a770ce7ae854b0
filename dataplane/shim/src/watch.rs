//! Sockets in epoll sets.
//!
//! ```text
//!   the program's epoll set:   fd (the kernel's socket)     events, data as the program gave them
//!                              eventfd of the rings          input only, the same flags, the same data
//! ```
//!
//! So the kernel mixes both sources, whoever waits and however: edge- and level-triggered, nested sets, wake-ups of
//! several threads. Two things are put right when epoll_wait() returns: two events of one socket become one, and an
//! EPOLLONESHOT that has fired for one of the pair disarms the other.

use core::{
    ffi::c_int,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};

use afnet_ring::Consumer;
use libc::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, EPOLLONESHOT, EPOLLRDNORM,
    EPOLLWAKEUP, epoll_event,
};

use crate::{
    attach, real,
    shared::{Rx, Shared},
    socket::{Local, Socket, Use},
    spin::Spin,
    sys::quietly,
    table, wait,
};

/// A socket's place in an epoll set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    epoll: c_int,
    fd: c_int,
    events: u32,
    data: u64,
    /// The eventfd in the set, -1: not on the fast path.
    wake: c_int,
}

/// Entries with EPOLLONESHOT of sockets on the fast path.
static ONESHOT: Spin<Vec<Entry>> = Spin::new(Vec::new());
/// Sockets with EPOLLET that were left with something.
static LEFT: Spin<Vec<&'static Socket>> = Spin::new(Vec::new());
/// Whether there are any.
static LEFT_BEHIND: AtomicBool = AtomicBool::new(false);
/// Number of those with EPOLLONESHOT.
static ONESHOTS: AtomicU32 = AtomicU32::new(0);
/// Entries of sockets on the fast path, ever.
static WATCHED: AtomicU32 = AtomicU32::new(0);

#[expect(clippy::cast_sign_loss, reason = "bits")]
const fn bits(events: c_int) -> u32 {
    events as u32
}

const INPUT: u32 = bits(EPOLLIN | EPOLLRDNORM);
const FLAGS: u32 = bits(EPOLLET | EPOLLONESHOT | EPOLLEXCLUSIVE | EPOLLWAKEUP);

/// epoll_ctl() for a socket that is followed, after the kernel has agreed.
pub(crate) fn control(socket: &Use, epoll: c_int, operation: c_int, fd: c_int, event: Option<epoll_event>) {
    let shared = socket.shared();
    let wake = shared.wake.load(Ordering::Relaxed);
    let added = {
        let mut local = socket.local();
        let at = local.entries.iter().position(|e| (e.epoll, e.fd) == (epoll, fd));
        match (operation, event) {
            (EPOLL_CTL_DEL, _) => {
                if let Some(at) = at {
                    let entry = local.entries.swap_remove(at);
                    take_out(shared, &entry);
                }
                return;
            }
            (EPOLL_CTL_ADD | EPOLL_CTL_MOD, Some(event)) => {
                let mut entry = Entry { epoll, fd, events: event.events, data: event.u64, wake: -1 };
                if let Some(at) = at {
                    let old = local.entries.swap_remove(at);
                    entry.wake = old.wake;
                    forget_oneshot(&old);
                    if old.wake >= 0 {
                        count(shared, &old, false);
                    }
                }
                let new = wake >= 0 && entry.wake < 0;
                if new {
                    enter(shared, &mut entry, wake);
                } else if entry.wake >= 0 {
                    count(shared, &entry, true);
                    tell(EPOLL_CTL_MOD, &entry);
                    remember_oneshot(&entry);
                }
                local.entries.push(entry);
                entry.wake >= 0
            }
            _ => return,
        }
    };
    if event.is_some_and(|e| e.events & INPUT != 0) {
        attach::see(fd, socket);
    }
    if added {
        wait::settle(socket, &mut shared.lock_rx());
    }
}

/// Adds the eventfd beside an entry.
fn enter(shared: &Shared, entry: &mut Entry, wake: c_int) {
    entry.wake = wake;
    if !tell(EPOLL_CTL_ADD, entry) {
        // There already, by another descriptor of the socket.
        tell(EPOLL_CTL_MOD, entry);
    }
    count(shared, entry, true);
    WATCHED.fetch_add(1, Ordering::Relaxed);
    remember_oneshot(entry);
}

fn take_out(shared: &Shared, entry: &Entry) {
    if entry.wake >= 0 {
        tell(EPOLL_CTL_DEL, entry);
        forget_oneshot(entry);
        count(shared, entry, false);
    }
}

/// Counts an entry of a socket with rings in or out. Forked processes count an entry once and may forget it twice: then
/// it stays counted.
fn count(shared: &Shared, entry: &Entry, more: bool) {
    let edge = entry.events & bits(EPOLLET) != 0;
    for (counter, counts) in [(&shared.watchers, true), (&shared.edges, edge)] {
        if counts && more {
            counter.fetch_add(1, Ordering::Relaxed);
        } else if counts && !shared.is_forked() {
            let _ = counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
        }
    }
}

fn tell(operation: c_int, entry: &Entry) -> bool {
    let input = if entry.events & INPUT != 0 { bits(EPOLLIN) } else { 0 };
    let mut event = epoll_event { events: input | entry.events & FLAGS, u64: entry.data };
    // SAFETY: an event of ours.
    quietly(|| unsafe { real::epoll_ctl(entry.epoll, operation, entry.wake, &raw mut event) }) == 0
}

fn remember_oneshot(entry: &Entry) {
    if entry.events & bits(EPOLLONESHOT) != 0 && entry.wake >= 0 {
        let mut list = ONESHOT.lock();
        list.push(*entry);
        ONESHOTS.store(u32::try_from(list.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

fn forget_oneshot(entry: &Entry) {
    if entry.events & bits(EPOLLONESHOT) != 0 {
        let mut list = ONESHOT.lock();
        list.retain(|e| (e.epoll, e.fd) != (entry.epoll, entry.fd));
        ONESHOTS.store(u32::try_from(list.len()).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

/// A socket has got on the fast path: its eventfd joins the sets where it stands.
pub(crate) fn joined(socket: &Use) {
    let shared = socket.shared();
    let wake = shared.wake.load(Ordering::Relaxed);
    {
        let mut local = socket.local();
        for entry in &mut local.entries {
            if entry.wake < 0 {
                enter(shared, entry, wake);
            }
        }
    }
    wait::settle(socket, &mut shared.lock_rx());
}

/// Its eventfd is about to be another one.
pub(crate) fn parting(socket: &Use) {
    let shared = socket.shared();
    for entry in &mut socket.local().entries {
        take_out(shared, entry);
        entry.wake = -1;
    }
}

/// The socket's last descriptor of this process is gone: the kernel has forgotten it, the eventfd it does not.
pub(crate) fn forget(shared: &Shared, local: &mut Local) {
    for entry in core::mem::take(&mut local.entries) {
        if !shared.is_forked() {
            take_out(shared, &entry);
        }
        forget_oneshot(&entry);
    }
}

/// A descriptor that may have been an epoll set is gone.
pub(crate) fn closed_set(epoll: c_int) {
    if !any() {
        return;
    }
    table::each(|socket| {
        let shared = socket.shared();
        socket.local().entries.retain(|entry| {
            let gone = entry.epoll == epoll;
            if gone {
                forget_oneshot(entry);
                if entry.wake >= 0 {
                    count(shared, entry, false);
                }
            }
            !gone
        });
    });
}

/// Whether any socket with rings has ever been in an epoll set.
#[inline]
pub(crate) fn any() -> bool {
    WATCHED.load(Ordering::Relaxed) != 0
}

/// A receive of a socket with EPOLLET has left something in the rings.
pub(crate) fn left(socket: &Use, rx: &mut Rx<'_>) {
    rx.left_at = rx.rings().iter_mut().map(Consumer::known).sum();
    if !socket.shared().left.swap(true, Ordering::Relaxed) {
        let mut list = LEFT.lock();
        list.push(socket.socket());
        LEFT_BEHIND.store(true, Ordering::Relaxed);
    }
}

/// Before a thread waits in an epoll set.
#[inline]
pub(crate) fn before_wait() {
    if LEFT_BEHIND.load(Ordering::Relaxed) {
        listen();
    }
}

#[cold]
fn listen() {
    let list = {
        let mut list = LEFT.lock();
        LEFT_BEHIND.store(false, Ordering::Relaxed);
        core::mem::take(&mut *list)
    };
    // One that has been closed meanwhile is nobody's, or another one, which does no harm.
    for socket in list.into_iter().filter(|socket| socket.enter()).map(Use::of) {
        let shared = socket.shared();
        shared.left.store(false, Ordering::Relaxed);
        let mut rx = shared.lock_rx();
        if !rx.is_empty() {
            wait::listen(shared, &mut rx);
        }
    }
}

/// Puts what epoll_wait() has returned right; returns how many events remain.
pub(crate) fn mend(epoll: c_int, events: &mut [epoll_event]) -> usize {
    let mut count = events.len();
    let mut at = 1;
    while at < count {
        let event = events[at];
        let (data, what) = (event.u64, event.events);
        if let Some(first) = events[..at].iter_mut().find(|e| { e.u64 } == data) {
            first.events |= what;
            events.copy_within(at + 1..count, at);
            count -= 1;
        } else {
            at += 1;
        }
    }
    if ONESHOTS.load(Ordering::Relaxed) != 0 {
        let list = ONESHOT.lock();
        for event in &events[..count] {
            let data = event.u64;
            for entry in list.iter().filter(|e| e.epoll == epoll && e.data == data) {
                // As the kernel leaves an entry that has fired: nothing but errors until it is armed again.
                let mut none = epoll_event { events: bits(EPOLLONESHOT), u64: data };
                quietly(|| {
                    // SAFETY: an event of ours.
                    unsafe {
                        real::epoll_ctl(epoll, EPOLL_CTL_MOD, entry.wake, &raw mut none);
                        real::epoll_ctl(epoll, EPOLL_CTL_MOD, entry.fd, &raw mut none);
                    }
                });
            }
        }
    }
    count
}

/// In a forked child.
pub(crate) fn break_locks() {
    ONESHOT.break_open();
    LEFT.break_open();
}
