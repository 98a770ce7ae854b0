//! Sockets in epoll sets.
//!
//! ```text
//!   the program's epoll set:   fd (the kernel's socket)     events, data as the program gave them
//!                              eventfd of the rings          input only, the same flags, the same data
//! ```
//!
//! So the kernel mixes both sources, whoever waits and however: edge- and level-triggered, nested sets, wake-ups of
//! several threads. What is put right when epoll_wait() returns:
//!
//! | the kernel says | the program gets |
//! |---|---|
//! | two events, of the socket and of its eventfd | one |
//! | EPOLLONESHOT has fired for one of the pair | the other one disarmed, too |
//! | EPOLLIN, for an error in the rings | EPOLLERR |
//! | EPOLLIN, for what the filter of connect() drops | nothing: it goes on to wait |
//! | EPOLLIN, edge-triggered | EPOLLOUT beside it, and a further edge for the next datagram |

use core::{
    ffi::c_int,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};
use std::collections::BTreeMap;

use afnet_ring::Consumer;
use libc::{
    EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD, EPOLLERR, EPOLLET, EPOLLEXCLUSIVE, EPOLLIN, EPOLLONESHOT,
    EPOLLOUT, EPOLLRDNORM, EPOLLWAKEUP, POLLERR, POLLIN, epoll_event,
};

use crate::{
    attach, ready, real,
    shared::{Rx, Shared, wants},
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
    /// The eventfd in the set, or a duplicate of it; -1: not on the fast path.
    wake: c_int,
}

/// Set, data, descriptor.
type Key = (c_int, u64, c_int);

/// Entries of sockets on the fast path, by what an event tells of them.
static INDEX: Spin<BTreeMap<Key, (Entry, &'static Socket)>> = Spin::new(BTreeMap::new());
/// Sockets with EPOLLET that were left with something.
static LEFT: Spin<Vec<&'static Socket>> = Spin::new(Vec::new());
/// Whether there are any.
static LEFT_BEHIND: AtomicBool = AtomicBool::new(false);
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
                    let mut entry = local.entries.swap_remove(at);
                    take_out(shared, &mut entry, true);
                }
                return;
            }
            (EPOLL_CTL_ADD | EPOLL_CTL_MOD, Some(event)) => {
                let mut entry = Entry { epoll, fd, events: event.events, data: event.u64, wake: -1 };
                if let Some(at) = at {
                    let old = local.entries.swap_remove(at);
                    entry.wake = old.wake;
                    if old.wake >= 0 {
                        INDEX.lock().remove(&old.key());
                        count(shared, &old, false);
                    }
                }
                let new = wake >= 0 && entry.wake < 0;
                if new {
                    enter(socket, &mut entry, wake);
                } else if entry.wake >= 0 {
                    count(shared, &entry, true);
                    tell(EPOLL_CTL_MOD, &entry);
                    INDEX.lock().insert(entry.key(), (entry, socket.socket()));
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

impl Entry {
    fn key(&self) -> Key {
        (self.epoll, self.data, self.fd)
    }

    fn has(&self, event: c_int) -> bool {
        self.events & bits(event) != 0
    }
}

/// Adds the eventfd beside an entry.
fn enter(socket: &Use, entry: &mut Entry, wake: c_int) {
    entry.wake = wake;
    if !tell(EPOLL_CTL_ADD, entry) {
        // There already, by another descriptor of the socket: one more of the eventfd's is another entry, too.
        entry.wake = quietly(|| attach::duplicate(wake)).unwrap_or(wake);
        tell(EPOLL_CTL_ADD, entry);
    }
    count(socket.shared(), entry, true);
    WATCHED.fetch_add(1, Ordering::Relaxed);
    INDEX.lock().insert(entry.key(), (*entry, socket.socket()));
}

/// `there`: it still is in the set.
fn take_out(shared: &Shared, entry: &mut Entry, there: bool) {
    let wake = core::mem::replace(&mut entry.wake, -1);
    if wake < 0 {
        return;
    }
    INDEX.lock().remove(&entry.key());
    if there {
        tell(EPOLL_CTL_DEL, &Entry { wake, ..*entry });
    }
    count(shared, entry, false);
    if wake != shared.wake.load(Ordering::Relaxed) {
        attach::close_own(wake);
    }
}

/// Counts an entry of a socket with rings in or out. Forked processes count an entry once and may forget it twice: then
/// it stays counted.
fn count(shared: &Shared, entry: &Entry, more: bool) {
    let edge = entry.has(EPOLLET);
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

/// A socket has got on the fast path: its eventfd joins the sets where it stands.
pub(crate) fn joined(socket: &Use) {
    let shared = socket.shared();
    let wake = shared.wake.load(Ordering::Relaxed);
    {
        let mut local = socket.local();
        for entry in &mut local.entries {
            if entry.wake < 0 {
                enter(socket, entry, wake);
            }
        }
    }
    wait::settle(socket, &mut shared.lock_rx());
}

/// Its eventfd is about to be another one.
pub(crate) fn parting(socket: &Use) {
    let shared = socket.shared();
    for entry in &mut socket.local().entries {
        take_out(shared, entry, true);
    }
}

/// The socket's last descriptor of this process is gone: the kernel has forgotten it, the eventfd it does not.
pub(crate) fn forget(shared: &Shared, local: &mut Local) {
    for mut entry in core::mem::take(&mut local.entries) {
        take_out(shared, &mut entry, !shared.is_forked());
    }
}

/// A descriptor that may have been an epoll set is gone.
pub(crate) fn closed_set(epoll: c_int) {
    if !any() {
        return;
    }
    table::each(|socket| {
        let shared = socket.shared();
        socket.local().entries.retain_mut(|entry| {
            let gone = entry.epoll == epoll;
            if gone {
                take_out(shared, entry, false);
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
    LEFT_BEHIND.store(false, Ordering::Relaxed);
    while let Some(socket) = next_left() {
        // One that has been closed meanwhile is nobody's, or another one, which does no harm.
        if !socket.enter() {
            continue;
        }
        let socket = Use::of(socket);
        let shared = socket.shared();
        shared.left.store(false, Ordering::Relaxed);
        let mut rx = shared.lock_rx();
        if !rx.is_empty() {
            wait::listen(shared, &mut rx);
        }
    }
}

fn next_left() -> Option<&'static Socket> {
    LEFT.lock().pop()
}

/// The entries that an event may be of.
enum Found {
    None,
    One(Entry, &'static Socket),
    /// Programs give one number to several.
    More(Vec<(Entry, &'static Socket)>),
}

impl Found {
    /// Events that there can be of them; of what is none of ours as many as there are.
    fn most(&self) -> usize {
        match self {
            Self::None => usize::MAX,
            Self::One(..) => 1,
            Self::More(all) => all.len(),
        }
    }
}

fn find(epoll: c_int, data: u64) -> Found {
    let index = INDEX.lock();
    let mut range =
        index.range((epoll, data, c_int::MIN)..=(epoll, data, c_int::MAX)).map(|(_, found)| *found);
    match (range.next(), range.next()) {
        (None, _) => Found::None,
        (Some((entry, socket)), None) => Found::One(entry, socket),
        (Some(first), Some(second)) => Found::More([first, second].into_iter().chain(range).collect()),
    }
}

/// Puts what epoll_wait() has returned right; returns how many events remain.
pub(crate) fn mend(epoll: c_int, events: &mut [epoll_event]) -> usize {
    let mut count = events.len();
    let mut at = 0;
    while at < count {
        let event = events[at];
        let (data, what) = (event.u64, event.events);
        let before = events[..at].iter().filter(|e| { e.u64 } == data).count();
        // One that was there before is of the socket, this one of its eventfd, or the other way round.
        let most = if before == 0 { usize::MAX } else { find(epoll, data).most() };
        if before >= most {
            if let Some(first) = events[..at].iter_mut().find(|e| { e.u64 } == data) {
                first.events |= what;
            }
            events.copy_within(at + 1..count, at);
            count -= 1;
        } else {
            at += 1;
        }
    }
    at = 0;
    while at < count {
        match find(epoll, events[at].u64) {
            Found::None => {}
            Found::One(entry, socket) => {
                if socket.enter() {
                    correct(&entry, &Use::of(socket), &mut events[at]);
                }
                if { events[at].events } == 0 {
                    // An EPOLLONESHOT has not fired, as far as the program can know.
                    tell(EPOLL_CTL_MOD, &entry);
                    events.copy_within(at + 1..count, at);
                    count -= 1;
                    continue;
                }
                fired(&entry);
            }
            Found::More(all) => all.iter().for_each(|(entry, _)| fired(entry)),
        }
        at += 1;
    }
    count
}

/// As the kernel leaves an entry with EPOLLONESHOT that has fired: nothing but errors until it is armed again.
fn fired(entry: &Entry) {
    if entry.has(EPOLLONESHOT) {
        for fd in [entry.wake, entry.fd] {
            let mut none = epoll_event { events: bits(EPOLLONESHOT), u64: entry.data };
            // SAFETY: an event of ours.
            quietly(|| unsafe { real::epoll_ctl(entry.epoll, EPOLL_CTL_MOD, fd, &raw mut none) });
        }
    }
}

/// What the eventfd says, in the socket's words; nothing, if it was rung for what is not for the socket.
fn correct(entry: &Entry, socket: &Use, event: &mut epoll_event) {
    let shared = socket.shared();
    let mut what = event.events;
    if what & bits(EPOLLIN) == 0 {
        return;
    }
    if entry.has(EPOLLET) {
        what |= entry.events & bits(EPOLLOUT);
        left(socket, &mut shared.lock_rx());
    }
    let hears = wants::RECVERR | wants::RECVERR6;
    if shared.connected.load(Ordering::Relaxed) || shared.options.wants.load(Ordering::Relaxed) & hears != 0 {
        let rings = ready::rings(shared);
        if rings & POLLIN == 0 && !has_input(entry.fd) {
            what &= !INPUT;
            if rings == 0 {
                wait::settle(socket, &mut shared.lock_rx());
            }
        }
        if rings & POLLERR != 0 {
            what |= bits(EPOLLERR);
        }
    }
    event.events = what;
}

/// Whether the kernel's queue has something.
fn has_input(fd: c_int) -> bool {
    let mut entry = libc::pollfd { fd, events: POLLIN, revents: 0 };
    // SAFETY: one entry.
    quietly(|| unsafe { real::poll(&raw mut entry, 1, 0) }) > 0
}

/// Before a fork: the child gets the lists as they are between two changes.
pub(crate) fn hold_locks() {
    INDEX.hold();
    LEFT.hold();
}

/// After [`hold_locks`], in both processes.
pub(crate) fn break_locks() {
    INDEX.break_open();
    LEFT.break_open();
}
