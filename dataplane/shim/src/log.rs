//! "Is it really accelerated?" always has an answer: a line for each socket that joins or leaves the fast path, and
//! counts at the end. Never for a datagram.

use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::{ffi::CStr, fmt};

use crate::{real, settings, settings::Level, sys::quietly};

/// Counts of this process.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) sockets: AtomicU64,
    pub(crate) accelerated: AtomicU64,
    pub(crate) left: AtomicU64,
    /// Of sockets that are closed.
    pub(crate) rx: AtomicU64,
    pub(crate) tx: AtomicU64,
}

pub(crate) static COUNTS: Counts = Counts {
    sockets: AtomicU64::new(0),
    accelerated: AtomicU64::new(0),
    left: AtomicU64::new(0),
    rx: AtomicU64::new(0),
    tx: AtomicU64::new(0),
};

/// Says something, if that much shall be said.
pub(crate) fn say(level: Level, text: fmt::Arguments<'_>) {
    let Some(texts) = settings::texts() else { return };
    if level > texts.level {
        return;
    }
    // SAFETY: no arguments, no failure.
    let pid = unsafe { libc::getpid() };
    let line = format!("afnet[{pid}]: {text}\n");
    quietly(|| match &texts.log {
        Some(path) => append(path, &line),
        None => put(libc::STDERR_FILENO, &line),
    });
}

/// Says once in this process that the fast path is not there.
pub(crate) fn unavailable(reason: &dyn fmt::Display) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        say(Level::Warn, format_args!("sockets stay with the kernel: {reason}"));
    }
}

/// The line of counts, at the end of the process.
pub(crate) fn stats() {
    let Some(path) = settings::texts().and_then(|t| t.stats.as_ref()) else { return };
    let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
    if value(&COUNTS.sockets) == 0 {
        return;
    }
    let (mut rx, mut tx) = (value(&COUNTS.rx), value(&COUNTS.tx));
    crate::table::each(|socket| {
        let shared = socket.shared();
        rx += shared.received.load(Ordering::Relaxed);
        tx += shared.sent.load(Ordering::Relaxed);
    });
    // SAFETY: no arguments, no failure.
    let pid = unsafe { libc::getpid() };
    let line = format!(
        "pid={pid} sockets={} accelerated={} rx={rx} tx={tx} unoffloaded={}\n",
        value(&COUNTS.sockets),
        value(&COUNTS.accelerated),
        value(&COUNTS.left)
    );
    quietly(|| append(path, &line));
}

/// Opened for each line: the program may close or move any descriptor at any time.
fn append(path: &CStr, line: &str) {
    let fd = real::open_append(path);
    if fd >= 0 {
        put(fd, line);
        // SAFETY: opened above.
        unsafe { real::close(fd) };
    }
}

fn put(fd: i32, line: &str) {
    // SAFETY: the line is that long. A log that cannot be written is no reason for anything.
    unsafe { real::write(fd, line.as_ptr().cast(), line.len()) };
}

/// In a forked child: its counts are its own.
pub(crate) fn reset() {
    for count in [&COUNTS.sockets, &COUNTS.accelerated, &COUNTS.left, &COUNTS.rx, &COUNTS.tx] {
        count.store(0, Ordering::Relaxed);
    }
}
