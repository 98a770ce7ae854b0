//! Processes: fork, exec, the end.
//!
//! | event | what happens |
//! |---|---|
//! | fork | parent and child share rings and positions; each datagram goes to one of them |
//! | vfork, posix_spawn | the child runs in the parent's memory: its closes are its own, the table stays |
//! | exec with a socket that is not close-on-exec | back with the kernel first, and what its rings hold, too: the next program knows of none |
//! | an io_uring is made by the C library's syscall() | all sockets go back to the kernel, and none joins |
//! | the last process ends, however | its connection closes, and afnetd drops the claims |

use std::{
    cell::Cell,
    ffi::c_int,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::{attach, log, real, shared::state, socket, sys::Inside, table, watch};

/// This process, or one that it comes from, has made an io_uring.
static IO_URING: AtomicBool = AtomicBool::new(false);

/// When the library is loaded.
extern "C" fn start() {
    let _inside = Inside::enter();
    real::resolve();
    crate::settings::load();
    table::claim_process();
    // SAFETY: functions of ours.
    unsafe {
        libc::pthread_atfork(Some(before_fork), Some(in_parent), Some(in_child));
        libc::atexit(end);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

/// At exit() and _exit().
pub(crate) extern "C" fn end() {
    let inside = Inside::enter();
    if inside.is_some() && !table::borrowed() {
        log::stats();
        table::each(|socket| socket.shared().leaves());
    }
}

thread_local! {
    /// This thread forks: it counts as one in the shim, so that a signal handler meets none of the locks that it holds.
    static FORKING: Cell<Option<Inside>> = const { Cell::new(None) };
}

extern "C" fn before_fork() {
    let inside = Inside::enter();
    if inside.is_some() {
        table::each(|socket| socket.shared().joins());
        watch::hold_locks();
        let _ = FORKING.try_with(|forking| forking.set(inside));
    }
}

extern "C" fn in_parent() {
    let inside = FORKING.try_with(Cell::take).ok().flatten();
    if inside.is_some() {
        watch::break_locks();
    }
}

extern "C" fn in_child() {
    socket::break_locks();
    watch::break_locks();
    table::claim_process();
    table::recount();
    log::reset();
    let _ = FORKING.try_with(Cell::take);
}

/// Before this process becomes another program.
pub(crate) fn before_exec() {
    let borrowed = table::borrowed();
    for fd in 0..table::high() {
        if let Some(socket) = table::get(fd)
            && matches!(socket.shared().state(), state::FAST | state::LOST)
            && inherited(fd)
        {
            attach::hand_on(fd, &socket, "passed to another program by exec");
        }
    }
    if !borrowed {
        log::stats();
        table::each(|socket| socket.shared().leaves());
    }
}

/// It has not.
pub(crate) fn exec_failed() {
    if !table::borrowed() {
        table::each(|socket| socket.shared().joins());
    }
}

/// What an io_uring does to sockets nobody sees but the kernel: all of them stay there from now on.
#[cold]
pub(crate) fn has_io_uring() {
    let Some(_inside) = Inside::enter() else { return };
    IO_URING.store(true, Ordering::Relaxed);
    for fd in 0..table::high() {
        if let Some(socket) = table::get(fd)
            && matches!(socket.shared().state(), state::FAST | state::LOST)
        {
            attach::hand_on(fd, &socket, "the process has an io_uring");
        }
    }
}

/// Whether it has one.
pub(crate) fn io_uring() -> bool {
    IO_URING.load(Ordering::Relaxed)
}

fn inherited(fd: c_int) -> bool {
    // SAFETY: no pointer goes along.
    let flags = unsafe { real::fcntl(fd, libc::F_GETFD, 0) };
    flags >= 0 && flags & libc::FD_CLOEXEC == 0
}
