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

/// epoll_wait() and its relatives, of `timeout`, `None`: for ever. `wait` is the kernel's with the timeout as the program
/// gave it, or with another one.
///
/// # Safety
/// `events` has room for as many as `wait` returns.
unsafe fn waited(
    epoll: c_int,
    events: *mut epoll_event,
    timeout: Option<Duration>,
    wait: impl Fn(Option<Duration>) -> c_int,
) -> c_int {
    if !watch::any() {
        return wait(None);
    }
    let patient = timeout != Some(Duration::ZERO);
    let until = timeout.filter(|_| patient).map(|timeout| now_ns().saturating_add(nanos(timeout)));
    let mut given = None;
    loop {
        if patient && let Some(_inside) = Inside::enter() {
            watch::before_wait();
        }
        let mut count = 0;
        if patient && settings::spin_ns() != 0 {
            let end = now_ns() + settings::spin_ns();
            while count == 0 && now_ns() < end {
                count = wait(Some(Duration::ZERO));
                std::thread::yield_now();
            }
        }
        if count == 0 {
            count = wait(given);
        }
        let Ok(got @ 1..) = usize::try_from(count) else { return count };
        let Some(_inside) = Inside::enter() else { return count };
        // SAFETY: the kernel has written that many.
        let events = unsafe { core::slice::from_raw_parts_mut(events, got) };
        let left = quietly(|| watch::mend(epoll, events));
        let time = until.map(|until| until.saturating_sub(now_ns()));
        if left > 0 || !patient || time == Some(0) {
            return c_int::try_from(left).unwrap_or(count);
        }
        given = time.map(Duration::from_nanos);
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A timeout in milliseconds; negative: for ever.
fn millis(timeout: c_int) -> Option<Duration> {
    u64::try_from(timeout).ok().map(Duration::from_millis)
}

/// `given` in milliseconds, upwards, or what the program gave.
fn in_millis(given: Option<Duration>, timeout: c_int) -> c_int {
    given.map_or(timeout, |time| c_int::try_from(nanos(time).div_ceil(1_000_000)).unwrap_or(c_int::MAX))
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
        waited(epoll, events, millis(timeout), |given| {
            real::epoll_wait(epoll, events, most, in_millis(given, timeout))
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
        waited(epoll, events, millis(timeout), |given| {
            real::epoll_pwait(epoll, events, most, in_millis(given, timeout), mask)
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
    let time = if plausible(timeout) {
        // SAFETY: the program's promise.
        let time = unsafe { timeout.read() };
        // What is not one is the kernel's to refuse.
        u64::try_from(time.tv_sec)
            .ok()
            .zip(u32::try_from(time.tv_nsec).ok())
            .map(|(s, n)| Duration::new(s, n))
    } else {
        None
    };
    // SAFETY: the program's promise.
    unsafe {
        waited(epoll, events, time, |given| {
            let given = given.map(crate::sys::timespec);
            let timeout = given.as_ref().map_or(timeout, core::ptr::from_ref);
            real::epoll_pwait2(epoll, events, most, timeout, mask)
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
