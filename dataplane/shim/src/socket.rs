//! A UDP socket of the program, as this process has it.
//!
//! ```text
//!   table: fd, fd' (dup) --> Socket (this process: users, epoll entries) --> Shared (all processes: rings, options)
//! ```
//!
//! Sockets are never freed but used again: a thread that has read the table's entry just before another one closes
//! the descriptor still looks at a socket, counts itself in, finds the entry changed, and counts itself out.

use core::{
    ptr,
    sync::atomic::{AtomicPtr, AtomicU32, Ordering},
};

use crate::{
    log::COUNTS,
    shared::Shared,
    spin::{Guard, Spin},
    watch::Entry,
};

/// One socket.
#[derive(Debug)]
pub(crate) struct Socket {
    /// Descriptors in the table, and calls that are under way.
    users: AtomicU32,
    shared: AtomicPtr<Shared>,
    local: Spin<Local>,
}

/// What only this process has.
#[derive(Debug, Default)]
pub(crate) struct Local {
    /// Where it stands in epoll sets.
    pub(crate) entries: Vec<Entry>,
    /// Coarse time of the last attempt to reach a daemon that is gone.
    pub(crate) attempt: u64,
}

static FREE: Spin<Vec<&'static Socket>> = Spin::new(Vec::new());

impl Socket {
    /// A socket with one user: the descriptor that the caller is about to enter into the table. `None`: no memory.
    pub(crate) fn create(family: i32) -> Option<&'static Self> {
        let shared = Shared::create(family)?;
        let socket = FREE.lock().pop().unwrap_or_else(|| {
            Box::leak(Box::new(Self {
                users: AtomicU32::new(0),
                shared: AtomicPtr::new(ptr::null_mut()),
                local: Spin::new(Local::default()),
            }))
        });
        socket.shared.store(ptr::from_ref(shared).cast_mut(), Ordering::Relaxed);
        socket.users.store(1, Ordering::Release);
        COUNTS.sockets.fetch_add(1, Ordering::Relaxed);
        Some(socket)
    }

    /// Counts a user in, unless nobody uses it.
    #[inline]
    pub(crate) fn enter(&self) -> bool {
        let mut users = self.users.load(Ordering::Relaxed);
        while users != 0 {
            match self.users.compare_exchange_weak(users, users + 1, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => users = now,
            }
        }
        false
    }

    /// Counts a user out; the last one clears up.
    #[inline]
    pub(crate) fn leave(&'static self) {
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.clear();
        }
    }

    /// After a fork the child has the descriptors, but not the calls of other threads.
    pub(crate) fn recount(&self, users: u32) {
        self.local.break_open();
        self.users.store(users, Ordering::Release);
    }

    #[cold]
    fn clear(&'static self) {
        let shared = self.shared();
        crate::watch::forget(shared, &mut self.local());
        crate::attach::unlisten(shared);
        shared.leaves();
        let add = |to: &core::sync::atomic::AtomicU64, from: &core::sync::atomic::AtomicU64| {
            to.fetch_add(from.load(Ordering::Relaxed), Ordering::Relaxed);
        };
        add(&COUNTS.rx, &shared.received);
        add(&COUNTS.tx, &shared.sent);
        let descriptors = [&shared.wake, &shared.connection];
        for fd in descriptors.into_iter().chain(&shared.doorbells).map(|fd| fd.load(Ordering::Relaxed)) {
            if fd >= 0 {
                crate::attach::close_own(fd);
            }
        }
        // SAFETY: the last user in this process.
        unsafe { shared.destroy() };
        FREE.lock().push(self);
    }

    #[inline]
    pub(crate) fn shared(&self) -> &'static Shared {
        // SAFETY: whoever asks has counted itself in, so the memory stays until it counts itself out.
        unsafe { &*self.shared.load(Ordering::Relaxed) }
    }

    /// Taken by slow calls only.
    pub(crate) fn local(&self) -> Guard<'_, Local> {
        self.local.lock()
    }

    /// Whether the descriptor that the caller looks at is the only one, and nobody else uses the socket.
    pub(crate) fn is_last(&self) -> bool {
        self.users.load(Ordering::Acquire) <= 2
    }
}

/// In a forked child.
pub(crate) fn break_locks() {
    FREE.break_open();
}

/// A counted use.
#[derive(Debug)]
pub(crate) struct Use(&'static Socket);

impl Use {
    /// Of a socket that has been entered.
    #[inline]
    pub(crate) fn of(socket: &'static Socket) -> Self {
        Self(socket)
    }

    pub(crate) fn socket(&self) -> &'static Socket {
        self.0
    }
}

impl core::ops::Deref for Use {
    type Target = Socket;
    #[inline]
    fn deref(&self) -> &Socket {
        self.0
    }
}

impl Drop for Use {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}
