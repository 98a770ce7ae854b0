//! epoll, poll, select.

use core::{ffi::c_int, time::Duration};

use libc::{EPOLL_CTL_DEL, epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use super::followed;
use crate::{
    ready::{self, Sets},
    real, settings,
    sys::{Inside, now_ns, plausible, quietly, set_errno},
    table, watch,
};

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn epoll_ctl(
    epoll: c_int,
    operation: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    // SAFETY: the program's promise.
    let result = unsafe { real::epoll_ctl(epoll, operation, fd, event) };
    if result == 0
        && let Some((_inside, socket)) = followed(fd)
        && !table::borrowed()
    {
        // SAFETY: the kernel has read it, unless it was a DEL.
        let event = if operation == EPOLL_CTL_DEL { None } else { Some(unsafe { event.read_unaligned() }) };
        quietly(|| watch::control(&socket, epoll, operation, fd, event));
    }
    result
}

/// epoll_wait() and its relatives: `wait(timeout)` is the kernel's, with a timeout of 0 or as the program gave it.
///
/// # Safety
/// `events` has room for `most`.
unsafe fn waited(
    epoll: c_int,
    events: *mut epoll_event,
    patient: bool,
    wait: impl Fn(bool) -> c_int,
) -> c_int {
    if !watch::any() {
        return wait(false);
    }
    if patient && let Some(_inside) = Inside::enter() {
        watch::before_wait();
    }
    let mut count = 0;
    if patient && settings::spin_ns() != 0 {
        let end = now_ns() + settings::spin_ns();
        while count == 0 && now_ns() < end {
            count = wait(true);
            std::thread::yield_now();
        }
    }
    if count == 0 {
        count = wait(false);
    }
    match usize::try_from(count) {
        Ok(got) if got > 0 => {
            let Some(_inside) = Inside::enter() else { return count };
            // SAFETY: the kernel has written that many.
            let events = unsafe { core::slice::from_raw_parts_mut(events, got) };
            c_int::try_from(quietly(|| watch::mend(epoll, events))).unwrap_or(count)
        }
        _ => count,
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn epoll_wait(
    epoll: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: c_int,
) -> c_int {
    // SAFETY: the program's promise.
    unsafe {
        waited(epoll, events, timeout != 0, |now| {
            real::epoll_wait(epoll, events, most, if now { 0 } else { timeout })
        })
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn epoll_pwait(
    epoll: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: c_int,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the program's promise.
    unsafe {
        waited(epoll, events, timeout != 0, |now| {
            real::epoll_pwait(epoll, events, most, if now { 0 } else { timeout }, mask)
        })
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn epoll_pwait2(
    epoll: c_int,
    events: *mut epoll_event,
    most: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let none = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the program's promise.
    unsafe {
        waited(epoll, events, true, |now| {
            real::epoll_pwait2(epoll, events, most, if now { &raw const none } else { timeout }, mask)
        })
    }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn poll(fds: *mut pollfd, count: nfds_t, timeout: c_int) -> c_int {
    // SAFETY: the program's promise.
    if let Some((_inside, set)) = unsafe { concerned(fds, count) } {
        let deadline =
            u64::try_from(timeout).ok().map(|ms| if ms == 0 { 0 } else { now_ns() + ms * 1_000_000 });
        // SAFETY: the program's promise.
        return unsafe { ready::poll(set, deadline, core::ptr::null()) };
    }
    // SAFETY: the program's promise.
    unsafe { real::poll(fds, count, timeout) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn ppoll(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the program's promise.
    if let Some((_inside, set)) = unsafe { concerned(fds, count) } {
        // SAFETY: the program's promise.
        let Ok(deadline) = (unsafe { deadline_of(timeout) }) else {
            set_errno(libc::EINVAL);
            return -1;
        };
        // SAFETY: the program's promise.
        return unsafe { ready::poll(set, deadline, mask) };
    }
    // SAFETY: the program's promise.
    unsafe { real::ppoll(fds, count, timeout, mask) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn __poll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: c_int,
    room: usize,
) -> c_int {
    super::data::fits(usize::try_from(count).unwrap_or(usize::MAX), room / size_of::<pollfd>());
    // SAFETY: the program's promise.
    unsafe { poll(fds, count, timeout) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn __ppoll_chk(
    fds: *mut pollfd,
    count: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    room: usize,
) -> c_int {
    super::data::fits(usize::try_from(count).unwrap_or(usize::MAX), room / size_of::<pollfd>());
    // SAFETY: the program's promise.
    unsafe { ppoll(fds, count, timeout, mask) }
}

/// The set, if accelerated sockets are in it.
///
/// # Safety
/// As poll().
unsafe fn concerned<'a>(fds: *mut pollfd, count: nfds_t) -> Option<(Inside, &'a mut [pollfd])> {
    let count = usize::try_from(count).ok()?;
    // More descriptors than there can be: EINVAL is the kernel's to say.
    if !plausible(fds) || count == 0 || count > 1 << 20 {
        return None;
    }
    // SAFETY: the caller's promise.
    let set = unsafe { core::slice::from_raw_parts_mut(fds, count) };
    if !set.iter().any(|entry| table::has(entry.fd)) {
        return None;
    }
    let inside = Inside::enter()?;
    ready::concerns(set).then_some((inside, set))
}

/// The moment that a timeout means; `None`: never. Zero stays zero.
///
/// # Safety
/// Null, or the program's.
unsafe fn deadline_of(timeout: *const timespec) -> Result<Option<u64>, ()> {
    // SAFETY: the caller's promise.
    let Some(time) = (unsafe { timeout.as_ref() }) else { return Ok(None) };
    let (Ok(s), Ok(n)) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec)) else { return Err(()) };
    if n >= 1_000_000_000 {
        return Err(());
    }
    let ns = u64::try_from(Duration::new(s, n).as_nanos()).unwrap_or(u64::MAX);
    Ok(Some(if ns == 0 { 0 } else { now_ns().saturating_add(ns) }))
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn select(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    let sets = Sets { count, read, write, except };
    // SAFETY: the program's promise.
    if let Some((_inside, mut fds)) = unsafe { selected(&sets) } {
        // SAFETY: the program's promise.
        let time = unsafe { timeout.as_ref() }.map(|t| timespec {
            tv_sec: t.tv_sec + t.tv_usec / 1_000_000,
            tv_nsec: t.tv_usec % 1_000_000 * 1000,
        });
        let time = time.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
        // SAFETY: ours.
        let Ok(deadline) = (unsafe { deadline_of(time) }) else {
            set_errno(libc::EINVAL);
            return -1;
        };
        // SAFETY: the program's promise.
        let result = unsafe { sets.select(&mut fds, deadline, core::ptr::null()) };
        // SAFETY: the program's promise. As Linux does: what is left of the time.
        if let (Some(left), Some(deadline)) = (unsafe { timeout.as_mut() }, deadline) {
            let ns = deadline.saturating_sub(now_ns());
            left.tv_sec = i64::try_from(ns / 1_000_000_000).unwrap_or(0);
            left.tv_usec = i64::try_from(ns % 1_000_000_000 / 1000).unwrap_or(0);
        }
        return result;
    }
    // SAFETY: the program's promise.
    unsafe { real::select(count, read, write, except, timeout) }
}

#[unsafe(no_mangle)]
pub(super) unsafe extern "C-unwind" fn pselect(
    count: c_int,
    read: *mut fd_set,
    write: *mut fd_set,
    except: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let sets = Sets { count, read, write, except };
    // SAFETY: the program's promise.
    if let Some((_inside, mut fds)) = unsafe { selected(&sets) } {
        // SAFETY: the program's promise.
        let Ok(deadline) = (unsafe { deadline_of(timeout) }) else {
            set_errno(libc::EINVAL);
            return -1;
        };
        // SAFETY: the program's promise.
        return unsafe { sets.select(&mut fds, deadline, mask) };
    }
    // SAFETY: the program's promise.
    unsafe { real::pselect(count, read, write, except, timeout, mask) }
}

/// What is in the sets, if accelerated sockets are.
///
/// # Safety
/// As select().
unsafe fn selected(sets: &Sets) -> Option<(Inside, Vec<pollfd>)> {
    let bad = |set: *mut fd_set| !set.is_null() && !plausible(set);
    if sets.count <= 0 || table::high() == 0 || [sets.read, sets.write, sets.except].into_iter().any(bad) {
        return None;
    }
    let inside = Inside::enter()?;
    // SAFETY: the caller's promise.
    let fds = unsafe { sets.fds() };
    ready::concerns(&fds).then_some((inside, fds))
}
