//! The functions that stand before the C library's. Each is a few lines: whose descriptor is it, then the fast path or
//! the C library.
//!
//! A thread that is in the shim already (a signal handler, or what the shim itself calls) goes straight through.

mod data;
mod filter;
mod life;
mod lookup;
mod processes;
mod raw;
mod readiness;

use core::{ffi::c_int, sync::atomic::Ordering};

use crate::{
    attach, settings,
    shared::state,
    socket::Use,
    sys::{Inside, errno},
    table,
};

/// The guard and the socket, if the descriptor is one that is followed and this thread is not in the shim already.
#[inline]
fn followed(fd: c_int) -> Option<(Inside, Use)> {
    if !table::has(fd) {
        return None;
    }
    let inside = Inside::enter()?;
    table::get(fd).map(|socket| (inside, socket))
}

/// After a call that the kernel has answered: a socket without a port of its own choice joins the fast path when it has
/// seen some datagrams.
#[inline]
fn by_kernel(fd: c_int, went: bool) {
    if table::has(fd) {
        count(fd, went);
    }
}

#[cold]
fn count(fd: c_int, went: bool) {
    let Some((_inside, socket)) = followed(fd) else { return };
    let shared = socket.shared();
    if shared.state() != state::IDLE {
        return;
    }
    if !went {
        if errno() == libc::EAGAIN {
            attach::in_vain(fd, &socket);
        }
        return;
    }
    shared.vain.store(0, Ordering::Relaxed);
    let before = shared.before.load(Ordering::Relaxed) + 1;
    shared.before.store(before, Ordering::Relaxed);
    if before >= settings::after() {
        if attach::sleeps(fd) {
            shared.seen.store(true, Ordering::Relaxed);
        }
        attach::want(fd, &socket);
    }
}

/// Before a send: datagrams that are put together piece by piece are for the kernel, all pieces of them.
#[inline]
fn before_send(fd: c_int, flags: c_int) {
    if flags & libc::MSG_MORE != 0
        && let Some((_inside, socket)) = followed(fd)
    {
        attach::leave(fd, &socket, "MSG_MORE");
    }
}

/// Before a receive of a socket that is with the kernel: one that sleeps is a way to wait that is seen.
#[inline]
fn before_receive(fd: c_int, socket: &Use, flags: c_int) {
    let shared = socket.shared();
    if shared.state() == state::IDLE
        && shared.wanted.load(Ordering::Relaxed)
        && flags & libc::MSG_DONTWAIT == 0
        && attach::sleeps(fd)
    {
        attach::see(fd, socket);
    }
}
