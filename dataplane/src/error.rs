//! Errors of the public API: ours or the environment's. (What a tenant does wrong is an
//! [`Event::Violation`](crate::Event::Violation).)

use std::io;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting is out of range.
    #[error("dataplane setting: {0}")]
    Config(String),
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, with the object's name.
        what: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// No socket could be bound on a queue. `refused` tells what each mode's attempt met.
    #[error("AF_XDP on {device} queue {queue}: {}", describe(refused))]
    Bind {
        /// Interface name.
        device: String,
        /// Queue.
        queue: u32,
        /// Mode and answer, in the order tried.
        refused: Vec<(&'static str, String)>,
    },
    /// A BPF map refused an entry.
    #[error("XSKMAP entry of slot {slot} queue {queue}: {reason}")]
    SocketMap {
        /// Slot.
        slot: u32,
        /// Queue.
        queue: u32,
        /// What the kernel answered.
        reason: String,
    },
    /// A worker thread ended or did not answer in time.
    #[error("worker {0} does not answer")]
    Worker(usize),
    /// Nothing with this number.
    #[error("no {what} {number}")]
    Unknown {
        /// Kind of thing.
        what: &'static str,
        /// Its number.
        number: u64,
    },
    /// Exists already.
    #[error("{0}")]
    Exists(String),
}

fn describe(refused: &[(&'static str, String)]) -> String {
    let all: Vec<String> = refused.iter().map(|(mode, why)| format!("{mode}: {why}")).collect();
    all.join("; ")
}

impl Error {
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { what: what.into(), source: source.into() }
    }

    /// The kernel's answer, where there was one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}
