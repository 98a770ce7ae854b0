//! What wakes a sleeping worker: sockets and doorbells, watched edge-triggered by mio.
//!
//! A token says what it was: the waker, a queue's anchor, a compartment's socket, a doorbell.
//!
//! ```text
//!  63  62        32 31         0
//! +------+---------+------------+
//! | kind | queue   | slot/index |   queue: the worker's own number, never used again
//! +------+---------+------------+
//! ```

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, unix::SourceFd};

/// Events taken at one poll; more come at the next.
const EVENTS: usize = 256;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A command.
    Waker,
    /// The anchor of a queue.
    Anchor { queue: usize },
    /// A compartment's socket.
    Member { queue: usize, slot: u32 },
    /// The doorbell of an endpoint's TX ring.
    Doorbell { index: u32 },
}

const KIND_SHIFT: u32 = 62;
const QUEUE_SHIFT: u32 = 32;
const QUEUE_MASK: usize = (1 << (KIND_SHIFT - QUEUE_SHIFT)) - 1;

impl Source {
    /// The token that stands for it.
    pub(crate) fn token(self) -> Token {
        let (kind, queue, low) = match self {
            Self::Waker => (0, 0, 0),
            Self::Anchor { queue } => (1, queue, 0),
            Self::Member { queue, slot } => (2, queue, slot),
            Self::Doorbell { index } => (3, 0, index),
        };
        Token(kind << KIND_SHIFT | (queue & QUEUE_MASK) << QUEUE_SHIFT | low as usize)
    }

    fn of(token: Token) -> Self {
        let queue = token.0 >> QUEUE_SHIFT & QUEUE_MASK;
        #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are wanted")]
        let low = token.0 as u32;
        match token.0 >> KIND_SHIFT {
            0 => Self::Waker,
            1 => Self::Anchor { queue },
            2 => Self::Member { queue, slot: low },
            _ => Self::Doorbell { index: low },
        }
    }
}

/// The worker's poller.
#[derive(Debug)]
pub(crate) struct Poller {
    poll: Poll,
    events: Events,
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { poll: Poll::new()?, events: Events::with_capacity(EVENTS) })
    }

    pub(crate) fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Watches `fd` for input.
    pub(crate) fn watch(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        self.registry().register(&mut SourceFd(&fd.as_raw_fd()), source.token(), Interest::READABLE)
    }

    /// Watches it no longer. An fd that was not watched, or is the last handle on what it names, is no matter.
    pub(crate) fn unwatch(&self, fd: BorrowedFd<'_>) {
        let _ = self.registry().deregister(&mut SourceFd(&fd.as_raw_fd()));
    }

    /// Waits for events at most `timeout` (for ever if `None`) and hands them to `each`.
    pub(crate) fn wait(&mut self, timeout: Option<Duration>, mut each: impl FnMut(Source)) {
        // Only a signal can interrupt it; then there are no events.
        if self.poll.poll(&mut self.events, timeout).is_ok() {
            self.events.iter().for_each(|event| each(Source::of(event.token())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        for source in [
            Source::Waker,
            Source::Anchor { queue: 7 },
            Source::Member { queue: QUEUE_MASK, slot: u32::MAX },
            Source::Doorbell { index: 1 << 31 },
        ] {
            assert_eq!(Source::of(source.token()), source);
        }
    }
}
