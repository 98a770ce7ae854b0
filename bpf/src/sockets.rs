//! [`Sockets`]: which AF_XDP socket takes the frames of a compartment on a queue (XSKMAP).

use std::os::fd::{AsRawFd, BorrowedFd};

use crate::{
    Error,
    map::{Index, Map},
};

/// Handle to a device's socket map. Owns a file descriptor, may move to another thread.
///
/// Slot 0 is for the frames to groups.
#[derive(Debug)]
pub struct Sockets {
    map: Map<Index, u32>,
    queues: u32,
    slots: u32,
}

impl Sockets {
    pub(crate) fn new(map: Map<Index, u32>, queues: u32, slots: u32) -> Self {
        Self { map, queues, slots }
    }

    /// Another handle to the same map.
    pub fn try_clone(&self) -> Result<Self, Error> {
        Ok(Self { map: self.map.try_clone()?, ..*self })
    }

    /// Frames of `slot` that arrive on `queue` go to `socket` from now on. The socket must be bound to that
    /// device and queue.
    pub fn set(&self, slot: u32, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        let fd = u32::try_from(socket.as_raw_fd()).expect("an open file descriptor is not negative");
        self.map.insert(&self.index(slot, queue)?, &fd)
    }

    /// Frames of `slot` on `queue` go to the kernel from now on. Nothing happens if there is no socket.
    pub fn clear(&self, slot: u32, queue: u32) -> Result<(), Error> {
        self.map.remove(&self.index(slot, queue)?).map(|_| ())
    }

    fn index(&self, slot: u32, queue: u32) -> Result<Index, Error> {
        if slot >= self.slots {
            return Err(Error::Slot(slot));
        }
        if queue >= self.queues {
            return Err(Error::Queue(queue));
        }
        Ok(slot * self.queues + queue)
    }
}
