//! The hooks that end with the daemon: at the ingress of `lo` (`prog/local.h`), and at the egress of the device
//! (`prog/speak.h`).

use std::{ffi::CStr, os::fd::BorrowedFd};

use crate::{
    Error,
    tc::{Direction, Place, TcHook, Unpinned, has_tcx},
};

/// Priority of the filter at `lo`: before those of the kernel path.
const LOCAL: u32 = 1;
/// And at the device: behind them.
const SPEAK: u32 = 3;
const LO: &CStr = c"lo";

/// Attaches `program` to the loopback device of the calling thread's network namespace; `handle` tells the filters of
/// several devices apart.
pub(crate) fn attach_local(program: BorrowedFd<'_>, handle: u32) -> Result<Unpinned, Error> {
    // SAFETY: a NUL-terminated name.
    let ifindex = unsafe { libc::if_nametoindex(LO.as_ptr()) };
    let place = Place { ifindex, direction: Direction::Ingress, priority: LOCAL, handle };
    Unpinned::attach(program, place)
}

fn speak(ifindex: u32) -> Place {
    Place { ifindex, direction: Direction::Egress, priority: SPEAK, handle: 1 }
}

/// Attaches `program` to the egress of a device of that namespace.
pub(crate) fn attach_speak(program: BorrowedFd<'_>, ifindex: u32) -> Result<Unpinned, Error> {
    Unpinned::attach(program, speak(ifindex))
}

/// Removes what a killed daemon has left there, which takes nothing any more.
pub(crate) fn remove_speak(program: BorrowedFd<'_>, ifindex: u32) -> Result<(), Error> {
    if has_tcx(program) { Ok(()) } else { TcHook::Filter(speak(ifindex)).detach() }
}
