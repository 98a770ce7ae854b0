//! errno, the re-entry guard, and small conversions.

use core::{cell::Cell, ffi::c_int, time::Duration};

thread_local! {
    /// Whether this thread is in the shim: what the shim itself calls, and a signal handler that interrupts it, goes
    /// straight to the C library.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, this thread is in the shim.
pub(crate) struct Inside(());

impl Inside {
    /// `None`: the thread is in the shim already.
    #[inline]
    pub(crate) fn enter() -> Option<Self> {
        // A thread that is being torn down has no thread-local left: it goes to the C library.
        let was = INSIDE.try_with(|inside| inside.replace(true)).unwrap_or(true);
        (!was).then_some(Self(()))
    }
}

/// Runs a system call that sleeps as if the thread were not in the shim: a signal handler that interrupts it may use
/// sockets, or leave by siglongjmp(), and the thread may be cancelled.
pub(crate) fn outside<T>(sleep: impl FnOnce() -> T) -> T {
    let _ = INSIDE.try_with(|inside| inside.set(false));
    let result = sleep();
    let _ = INSIDE.try_with(|inside| inside.set(true));
    result
}

impl Drop for Inside {
    #[inline]
    fn drop(&mut self) {
        let _ = INSIDE.try_with(|inside| inside.set(false));
    }
}

#[inline]
pub(crate) fn errno() -> c_int {
    // SAFETY: always a valid pointer to this thread's errno.
    unsafe { *libc::__errno_location() }
}

#[inline]
pub(crate) fn set_errno(errno: c_int) {
    // SAFETY: always a valid pointer to this thread's errno.
    unsafe { *libc::__errno_location() = errno }
}

/// Runs `work` and puts errno back: what a program did not ask for must not show.
pub(crate) fn quietly<T>(work: impl FnOnce() -> T) -> T {
    let saved = errno();
    let result = work();
    set_errno(saved);
    result
}

/// Whether a pointer is plausible. What is not is for the kernel to refuse (EFAULT): the first pages are nobody's, and the
/// upper half is the kernel's.
#[inline]
pub(crate) fn plausible<T>(pointer: *const T) -> bool {
    (1 << 16..1 << 47).contains(&pointer.addr())
}

/// Nanoseconds of a clock; `CLOCK_MONOTONIC_COARSE` costs a few of them and is a tick (1 to 10 ms) old.
pub(crate) fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a clock of this kernel and room for the answer.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Monotonic time in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// Monotonic time, a tick old at most.
#[inline]
pub(crate) fn coarse_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC_COARSE)
}

pub(crate) fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: duration.subsec_nanos().into(),
    }
}

/// A structure's size as the socket calls want it.
#[expect(clippy::cast_possible_truncation, reason = "of structures of a few hundred bytes")]
pub(crate) const fn len_of<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}
