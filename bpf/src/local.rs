//! The hook at the ingress of `lo` (`prog/local.h`). It ends with the daemon; where the kernel has no TCX, a killed
//! daemon's filter stays until the next one replaces it.

use std::{ffi::CStr, os::fd::BorrowedFd};

use crate::{
    Error,
    tc::{Direction, Place, TcHook},
};

/// Priority of the filter: before those of the kernel path.
const PRIORITY: u32 = 1;
const LO: &CStr = c"lo";

/// An attachment, removed on drop.
#[derive(Debug)]
pub(crate) struct LocalHook(Option<TcHook>);

impl LocalHook {
    /// Attaches `program` to the loopback device of the calling thread's network namespace; `handle` tells the
    /// filters of several devices apart.
    pub fn attach(program: BorrowedFd<'_>, handle: u32) -> Result<Self, Error> {
        // SAFETY: a NUL-terminated name.
        let ifindex = unsafe { libc::if_nametoindex(LO.as_ptr()) };
        let place = Place { ifindex, direction: Direction::Ingress, priority: PRIORITY, handle };
        TcHook::attach(program, place, None).map(|hook| Self(Some(hook)))
    }
}

impl Drop for LocalHook {
    fn drop(&mut self) {
        // Fails only if somebody else has removed it.
        let _gone = self.0.take().map(TcHook::detach);
    }
}
