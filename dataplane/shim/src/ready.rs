//! poll(), select() and their relatives: the eventfds of accelerated sockets are polled beside what the program asks for.

use core::{ffi::c_int, ptr, sync::atomic::Ordering};

use libc::{
    POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT, POLLPRI, POLLRDNORM, c_short, fd_set, nfds_t, pollfd,
    sigset_t, timespec,
};

use crate::{
    attach, real, receive,
    shared::{Shared, state},
    socket::Use,
    sys::{now_ns, outside, set_errno},
    table, wait,
};

/// An accelerated socket in a set of descriptors.
struct Member {
    /// Its place.
    at: usize,
    /// The eventfd's place.
    wake: usize,
    socket: Use,
    eventfd: c_int,
    /// What was there before we slept.
    ready: c_short,
}

const INPUT: c_short = POLLIN | POLLRDNORM;
/// Descriptors for which no memory is allocated.
const FEW: usize = 16;

/// Whether any of these descriptors has rings; one load for each that is no socket. That the program waits is seen here.
pub(crate) fn concerns(fds: &[pollfd]) -> bool {
    let mut any = false;
    for entry in fds.iter().filter(|entry| table::has(entry.fd)) {
        let Some(socket) = table::get(entry.fd) else { continue };
        if socket.shared().state() == state::IDLE && entry.events & INPUT != 0 {
            attach::see(entry.fd, &socket);
        }
        any |= has_rings(socket.shared());
    }
    any
}

fn has_rings(shared: &Shared) -> bool {
    shared.state() != state::IDLE && shared.wake.load(Ordering::Relaxed) >= 0
}

/// What poll() says of the rings: POLLERR if there is an error, input if there is something to receive.
pub(crate) fn rings(shared: &Shared) -> c_short {
    let mut rx = shared.lock_rx();
    receive::purge(shared, &mut rx);
    while receive::take_errors(shared, &mut rx) {
        receive::purge(shared, &mut rx);
    }
    let error = shared.error.load(Ordering::Relaxed) != 0 || rx.errors.next_errno() != 0;
    (if error { POLLERR } else { 0 }) | if rx.is_empty() { 0 } else { INPUT }
}

/// ppoll() of descriptors of which some have rings; `deadline` in nanoseconds of the monotonic clock.
///
/// # Safety
/// As ppoll().
pub(crate) unsafe fn poll(fds: &mut [pollfd], deadline: Option<u64>, mask: *const sigset_t) -> c_int {
    const NOBODY: pollfd = pollfd { fd: -1, events: 0, revents: 0 };
    let count = fds.len();
    // Nearly always: a few descriptors, and no allocation.
    let (mut small, mut few) = ([NOBODY; 2 * FEW], [const { None }; FEW]);
    let (mut large, mut many) = (Vec::new(), Vec::new());
    let (all, members) = if count <= FEW {
        (&mut small[..], &mut few[..])
    } else {
        large.resize(2 * count, NOBODY);
        many.resize_with(count, || None);
        (&mut large[..], &mut many[..])
    };
    all[..count].copy_from_slice(fds);
    let (mut used, mut found) = (count, 0);
    for (at, entry) in fds.iter().enumerate() {
        if let Some(socket) = table::get(entry.fd).filter(|s| has_rings(s.shared())) {
            let fd = socket.shared().wake.load(Ordering::Relaxed);
            all[used] = pollfd { fd, events: POLLIN, revents: 0 };
            members[found] = Some(Member { at, wake: used, eventfd: fd, socket, ready: 0 });
            used += 1;
            found += 1;
        }
    }
    let all = &mut all[..used];
    let members = &mut members[..found];
    let mut spun = false;
    loop {
        let mut ready = false;
        for member in members.iter_mut().flatten() {
            let shared = member.socket.shared();
            let asked = all[member.at].events & INPUT | POLLERR;
            member.ready = rings(shared) & asked;
            let mut deaf = member.ready == 0 && wait::arm(shared, &mut shared.lock_rx());
            // It has just come. What is there and not asked for must not wake us.
            while deaf && asked & INPUT != 0 && member.ready == 0 {
                member.ready = rings(shared) & asked;
                deaf = member.ready != 0 || wait::arm(shared, &mut shared.lock_rx());
            }
            all[member.wake].fd = if deaf { -1 } else { member.eventfd };
            ready |= member.ready != 0;
        }
        if !ready && !spun && deadline != Some(0) {
            spun = true;
            if members.iter().flatten().any(|m| wait::spin(m.socket.shared(), deadline)) {
                continue;
            }
        }
        let left = if ready { Some(0) } else { deadline.map(|d| d.saturating_sub(now_ns())) };
        let timeout = left.map(|l| crate::sys::timespec(core::time::Duration::from_nanos(l)));
        let timeout: *const timespec = timeout.as_ref().map_or(ptr::null(), ptr::from_ref);
        // SAFETY: entries of ours, the caller's mask.
        let result = outside(|| unsafe { real::ppoll(all.as_mut_ptr(), all.len() as nfds_t, timeout, mask) });
        if result < 0 {
            return result;
        }
        for member in members.iter().flatten() {
            let rung = all[member.wake].revents != 0;
            let shared = member.socket.shared();
            let asked = all[member.at].events & INPUT | POLLERR;
            let got = if rung { rings(shared) & asked } else { member.ready };
            all[member.at].revents |= got;
            if rung && got == 0 {
                // Somebody else was faster, or the ring was late for what is gone.
                shared.lock_rx().rung = true;
            }
        }
        let mut found = 0;
        for (entry, answer) in fds.iter_mut().zip(&all[..count]) {
            entry.revents = answer.revents;
            found += c_int::from(answer.revents != 0);
        }
        if found != 0 || left == Some(0) || deadline.is_some_and(|d| now_ns() >= d) {
            return found;
        }
    }
}

/// Sets of select(), of `count` descriptors.
pub(crate) struct Sets {
    pub(crate) count: c_int,
    pub(crate) read: *mut fd_set,
    pub(crate) write: *mut fd_set,
    pub(crate) except: *mut fd_set,
}

impl Sets {
    /// # Safety
    /// The sets are the program's, large enough for `count`.
    unsafe fn bit(set: *mut fd_set, fd: c_int) -> bool {
        // Not FD_ISSET: programs make larger sets than FD_SETSIZE.
        let (word, bit) = place(fd);
        // SAFETY: the caller's promise.
        !set.is_null() && unsafe { set.cast::<u64>().add(word).read() } >> bit & 1 == 1
    }

    /// # Safety
    /// As [`Self::bit`].
    unsafe fn clear(&self) {
        let words = usize::try_from(self.count).unwrap_or(0).div_ceil(64);
        for set in [self.read, self.write, self.except] {
            if !set.is_null() {
                // SAFETY: the caller's promise.
                unsafe { ptr::write_bytes(set.cast::<u64>(), 0, words) };
            }
        }
    }

    /// What is in the sets, as poll() wants it.
    ///
    /// # Safety
    /// As [`Self::bit`].
    pub(crate) unsafe fn fds(&self) -> Vec<pollfd> {
        let mut fds = Vec::new();
        for fd in 0..self.count {
            // SAFETY: the caller's promise.
            let (r, w, e) =
                unsafe { (Self::bit(self.read, fd), Self::bit(self.write, fd), Self::bit(self.except, fd)) };
            let mut events = 0;
            for (is, event) in [(r, POLLIN), (w, POLLOUT), (e, POLLPRI)] {
                events |= if is { event } else { 0 };
            }
            if events != 0 {
                fds.push(pollfd { fd, events, revents: 0 });
            }
        }
        fds
    }

    /// select() by poll().
    ///
    /// # Safety
    /// As [`Self::bit`]; the mask is the program's.
    pub(crate) unsafe fn select(
        &self,
        fds: &mut [pollfd],
        deadline: Option<u64>,
        mask: *const sigset_t,
    ) -> c_int {
        // SAFETY: the caller's promise.
        let result = unsafe { poll(fds, deadline, mask) };
        if result < 0 {
            return result;
        }
        if fds.iter().any(|entry| entry.revents & POLLNVAL != 0) {
            set_errno(libc::EBADF);
            return -1;
        }
        // SAFETY: the caller's promise.
        unsafe { self.clear() };
        let mut found = 0;
        for entry in fds {
            // As fs/select.c groups them.
            let (got, asked) = (entry.revents, entry.events);
            for (set, event, means) in [
                (self.read, POLLIN, POLLIN | POLLRDNORM | POLLHUP | POLLERR),
                (self.write, POLLOUT, POLLOUT | POLLERR),
                (self.except, POLLPRI, POLLPRI),
            ] {
                if asked & event != 0 && got & means != 0 {
                    let (word, bit) = place(entry.fd);
                    // SAFETY: the caller's promise: it was set before.
                    unsafe { *set.cast::<u64>().add(word) |= 1 << bit };
                    found += 1;
                }
            }
        }
        found
    }
}

fn place(fd: c_int) -> (usize, usize) {
    let fd = usize::try_from(fd).unwrap_or(0);
    (fd / 64, fd % 64)
}
