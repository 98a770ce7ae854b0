//! Waiting for a ring: arming, emptying the eventfd, sleeping.
//!
//! ```text
//!   armed: each ring's sleep word is odd; the first record after that rings the eventfd, once
//!   rung:  the eventfd may be readable: it is emptied before the rings are armed again
//!
//!   a socket in an epoll set: eventfd readable <=> the rings hold something (or somebody is about to ring it)
//! ```
//!
//! All of it under the rx lock, but for the sleep itself.

use core::sync::atomic::Ordering;
use std::{os::fd::BorrowedFd, thread};

use afnet_ring::Consumer;

use crate::{
    real, settings,
    shared::{Rx, Shared, state},
    socket::Use,
    sys::{errno, now_ns, outside, set_errno},
};

/// Tells the workers to ring. `true`: a ring holds something already, nobody is told.
pub(crate) fn arm(shared: &Shared, rx: &mut Rx<'_>) -> bool {
    if !rx.is_empty() {
        return true;
    }
    if rx.armed && !rx.rung {
        return false;
    }
    if rx.rung {
        if !drain(shared) && rx.owed && !shared.options.nonblocking.load(Ordering::Relaxed) {
            await_ring(shared);
        }
        rx.owed = false;
        rx.rung = false;
        rx.signalled = false;
    }
    rx.rings().iter_mut().for_each(Consumer::wake);
    let asleep = rx.rings().iter_mut().all(Consumer::sleep);
    rx.armed = asleep;
    if !asleep {
        rx.rings().iter_mut().for_each(Consumer::wake);
        // One of those that slept for a moment may have been rung for.
        rx.rung = true;
    }
    !asleep
}

/// After something has been taken from a ring, or nothing was found: puts the eventfd of a socket in an epoll set
/// right.
#[inline]
pub(crate) fn settle(socket: &Use, rx: &mut Rx<'_>) {
    if socket.shared().watchers.load(Ordering::Relaxed) != 0 {
        settle_watched(socket, rx);
    }
}

fn settle_watched(socket: &Use, rx: &mut Rx<'_>) {
    let shared = socket.shared();
    // Armed and not empty: the worker has rung, or is about to.
    if arm(shared, rx) {
        if !rx.armed && !rx.signalled {
            signal(shared);
            rx.signalled = true;
            rx.rung = true;
        }
        if shared.edges.load(Ordering::Relaxed) != 0 {
            crate::watch::left(socket, rx);
        }
    }
}

/// A program with EPOLLET is about to wait though it has left something: what comes next makes an edge.
pub(crate) fn listen(shared: &Shared, rx: &mut Rx<'_>) {
    let end = |rx: &mut Rx<'_>| rx.rings().iter_mut().map(Consumer::known).sum::<u64>();
    rx.rings().iter_mut().for_each(Consumer::listen);
    rx.armed = true;
    rx.rung = true;
    if end(rx) != rx.left_at {
        // It came while we were not listening.
        signal(shared);
    }
}

/// Writes the eventfd.
pub(crate) fn signal(shared: &Shared) {
    let wake = shared.wake.load(Ordering::Relaxed);
    if wake >= 0 {
        // SAFETY: ours, and open.
        let _ = rustix::io::write(unsafe { BorrowedFd::borrow_raw(wake) }, &1u64.to_ne_bytes());
    }
}

/// Empties the eventfd. `false`: nobody has rung.
pub(crate) fn drain(shared: &Shared) -> bool {
    let wake = shared.wake.load(Ordering::Relaxed);
    // SAFETY: ours, and open.
    wake >= 0 && rustix::io::read(unsafe { BorrowedFd::borrow_raw(wake) }, &mut [0; 8]).is_ok()
}

/// Waits for a worker that has published and not yet rung: if it rang later, it would say that there is something when
/// there is not, and a program that then calls recv() on a socket that blocks would stand still. Microseconds; two
/// milliseconds if the worker has lost its CPU, or its life.
#[cold]
fn await_ring(shared: &Shared) {
    let mut wake = libc::pollfd { fd: shared.wake.load(Ordering::Relaxed), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry.
    if unsafe { real::poll(&raw mut wake, 1, 2) } > 0 {
        drain(shared);
    }
}

/// Looks at the rings for a while, if the program wants that. `true`: something is there.
pub(crate) fn spin(shared: &Shared, deadline: Option<u64>) -> bool {
    let time = settings::spin_ns();
    if time == 0 || shared.state() != state::FAST {
        return false;
    }
    let mut end = now_ns() + time;
    end = deadline.map_or(end, |d| d.min(end));
    while now_ns() < end {
        if !shared.lock_rx().is_empty() {
            return true;
        }
        thread::yield_now();
    }
    false
}

/// Whether a call that a signal has interrupted goes on: every handler was installed with SA_RESTART. poll() does not
/// restart by itself, as the kernel's recv() does, and does not tell which signal it was.
#[cold]
pub(crate) fn restarts() -> bool {
    let mut handlers = 0;
    for signal in 1..=64 {
        // SAFETY: integers and pointers.
        let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
        // SAFETY: room for the answer.
        let known = unsafe { libc::sigaction(signal, core::ptr::null(), &raw mut action) } == 0;
        if known && !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN) {
            if action.sa_flags & libc::SA_RESTART == 0 {
                return false;
            }
            handlers += 1;
        }
    }
    handlers != 0
}

/// What a sleep ended with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Woken {
    /// Something may be there.
    Look {
        /// In the kernel's queue, too.
        kernel: bool,
    },
    /// Time is up.
    Late,
    /// A signal, EINTR in errno.
    Signal,
}

/// Sleeps until a ring or the kernel's queue has something, or the daemon goes. Call [`arm`] first.
pub(crate) fn sleep(fd: i32, shared: &Shared, deadline: Option<u64>) -> Woken {
    let entry = |fd, events| libc::pollfd { fd, events, revents: 0 };
    let connection = shared.connection.load(Ordering::Relaxed);
    let mut fds = [
        entry(fd, libc::POLLIN),
        entry(shared.wake.load(Ordering::Relaxed), libc::POLLIN),
        // Once it is lost it is not worth waking for.
        entry(if shared.state() == state::FAST { connection } else { -1 }, libc::POLLRDHUP),
    ];
    let left = deadline.map(|d| d.saturating_sub(now_ns()));
    let mut left = left.map(core::time::Duration::from_nanos);
    if shared.state() == state::LOST {
        // To look for the daemon now and then.
        let retry = core::time::Duration::from_millis(250);
        left = Some(left.map_or(retry, |l| l.min(retry)));
    }
    let timeout = left.map(crate::sys::timespec);
    let timeout = timeout.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    // SAFETY: three entries, and a time or none.
    let count = outside(|| unsafe { real::ppoll(fds.as_mut_ptr(), 3, timeout, core::ptr::null()) });
    if count < 0 {
        return if errno() == libc::EINTR { Woken::Signal } else { Woken::Look { kernel: true } };
    }
    if fds[2].revents != 0 {
        crate::attach::lost(shared);
    }
    if count == 0 && deadline.is_some_and(|d| now_ns() >= d) {
        set_errno(libc::EAGAIN);
        return Woken::Late;
    }
    Woken::Look { kernel: fds[0].revents != 0 }
}
