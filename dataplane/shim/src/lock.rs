//! A lock that processes share after a fork, and that survives the death of its holder.

use core::cell::UnsafeCell;

/// In shared memory; set up by [`Lock::init`].
#[repr(transparent)]
pub(crate) struct Lock(UnsafeCell<libc::pthread_mutex_t>);

// SAFETY: a mutex is made to be used by several threads.
unsafe impl Sync for Lock {}

/// Holds a lock.
pub(crate) struct Held<'a>(&'a Lock);

impl Lock {
    /// Makes it usable. Zeroed memory becomes a lock.
    ///
    /// # Safety
    /// Once, before anybody else sees it.
    pub(crate) unsafe fn init(&self) {
        let mut attributes = core::mem::MaybeUninit::<libc::pthread_mutexattr_t>::uninit();
        // SAFETY: initialised by the first call, destroyed by the last one; the mutex is the caller's alone. None of
        // the calls fails with these constants.
        unsafe {
            libc::pthread_mutexattr_init(attributes.as_mut_ptr());
            libc::pthread_mutexattr_setpshared(attributes.as_mut_ptr(), libc::PTHREAD_PROCESS_SHARED);
            libc::pthread_mutexattr_setrobust(attributes.as_mut_ptr(), libc::PTHREAD_MUTEX_ROBUST);
            libc::pthread_mutex_init(self.0.get(), attributes.as_ptr());
            libc::pthread_mutexattr_destroy(attributes.as_mut_ptr());
        }
    }

    /// Takes it. If its holder has died, what it guards is as that left it: the ring ends stand any stop.
    #[inline]
    pub(crate) fn lock(&self) -> Held<'_> {
        // SAFETY: an initialised mutex. This thread does not hold it: the guard of `sys::Inside` keeps it from coming
        // here twice.
        if unsafe { libc::pthread_mutex_lock(self.0.get()) } == libc::EOWNERDEAD {
            // SAFETY: locked by this thread, in that state.
            unsafe { libc::pthread_mutex_consistent(self.0.get()) };
        }
        Held(self)
    }
}

impl Drop for Held<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: locked by this thread.
        unsafe { libc::pthread_mutex_unlock(self.0.0.get()) };
    }
}
