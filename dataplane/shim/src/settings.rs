//! What the environment says. Read once, when the library is loaded.
//!
//! | variable | meaning |
//! |---|---|
//! | `AFNET_SHIM_OFF` | `1`: every socket stays with the kernel |
//! | `AFNET_SHIM_LOG` | `none`, `warn` (the default), `info`, `debug` on stderr; or a file, to which all of it is appended |
//! | `AFNET_SHIM_STATS` | a file to which a line with the counts is appended when the process ends |
//! | `AFNET_SHIM_LOOPBACK` | `1`: datagrams between sockets of this program over the loopback take the rings, too |
//! | `AFNET_SHIM_AFTER` | datagrams after which a socket without a port of its own choice goes on the fast path (8); 0: every one at once, however the program waits |
//! | `AFNET_SPIN_US` | microseconds to look at the rings before sleeping (0) |
//! | `AFNET_INSTANCE` | which daemon |

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::{env, ffi::CString, os::unix::ffi::OsStrExt, sync::OnceLock};

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    None,
    Warn,
    Info,
    Debug,
}

/// A socket of a client lives for a few datagrams as a rule, and attaching costs as much as a thousand of them.
const AFTER: u32 = 8;

static OFF: AtomicBool = AtomicBool::new(false);
static LOOPBACK: AtomicBool = AtomicBool::new(false);
static SPIN_NS: AtomicU64 = AtomicU64::new(0);
static LATE: AtomicU32 = AtomicU32::new(AFTER);
static TEXTS: OnceLock<Texts> = OnceLock::new();

#[derive(Debug)]
pub(crate) struct Texts {
    pub(crate) level: Level,
    pub(crate) log: Option<CString>,
    pub(crate) stats: Option<CString>,
}

/// Reads the environment.
pub(crate) fn load() {
    let number = |name: &str| env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    OFF.store(env::var_os("AFNET_SHIM_OFF").is_some_and(|v| v == "1"), Ordering::Relaxed);
    LOOPBACK.store(env::var_os("AFNET_SHIM_LOOPBACK").is_some_and(|v| v == "1"), Ordering::Relaxed);
    SPIN_NS.store(u64::from(number("AFNET_SPIN_US").unwrap_or(0)) * 1000, Ordering::Relaxed);
    LATE.store(number("AFNET_SHIM_AFTER").unwrap_or(AFTER), Ordering::Relaxed);
    let file = |value: &std::ffi::OsStr| CString::new(value.as_bytes()).ok();
    let log = env::var_os("AFNET_SHIM_LOG");
    let (level, log) = match log.as_deref().and_then(|v| v.to_str()) {
        None | Some("" | "warn") => (Level::Warn, None),
        Some("none" | "off") => (Level::None, None),
        Some("info") => (Level::Info, None),
        Some("debug") => (Level::Debug, None),
        Some(_) => (Level::Debug, log.as_deref().and_then(file)),
    };
    let stats = env::var_os("AFNET_SHIM_STATS").as_deref().and_then(file);
    let _ = TEXTS.set(Texts { level, log, stats });
}

pub(crate) fn off() -> bool {
    OFF.load(Ordering::Relaxed)
}

#[inline]
pub(crate) fn loopback() -> bool {
    LOOPBACK.load(Ordering::Relaxed)
}

#[inline]
pub(crate) fn spin_ns() -> u64 {
    SPIN_NS.load(Ordering::Relaxed)
}

#[inline]
pub(crate) fn after() -> u32 {
    LATE.load(Ordering::Relaxed)
}

/// `None` before [`load`].
pub(crate) fn texts() -> Option<&'static Texts> {
    TEXTS.get()
}
