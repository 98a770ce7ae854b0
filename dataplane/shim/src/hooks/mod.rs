//! The functions that stand before the C library's. Each is a few lines: whose descriptor is it, then the fast path or
//! the C library.
//!
//! A thread that is in the shim already (a signal handler, or what the shim itself calls) goes straight through.

mod data;
mod life;
mod processes;
mod readiness;

use core::ffi::c_int;

use crate::{attach, settings, shared::state, socket::Use, sys::Inside, table};

/// The guard and the socket, if the descriptor is one that is followed and this thread is not in the shim already.
#[inline]
fn followed(fd: c_int) -> Option<(Inside, Use)> {
    if !table::has(fd) {
        return None;
    }
    let inside = Inside::enter()?;
    table::get(fd).map(|socket| (inside, socket))
}

/// After a datagram that went or came by the kernel: a socket without a port of its own choice joins the fast path when
/// it has seen some.
#[inline]
fn by_kernel(fd: c_int, went: bool) {
    if went && table::has(fd) {
        count(fd);
    }
}

#[cold]
fn count(fd: c_int) {
    let Some((_inside, socket)) = followed(fd) else { return };
    let shared = socket.shared();
    if shared.state() == state::IDLE {
        let before = shared.before.load(core::sync::atomic::Ordering::Relaxed) + 1;
        shared.before.store(before, core::sync::atomic::Ordering::Relaxed);
        if before >= settings::after() {
            attach::accelerate(fd, &socket);
        }
    }
}
