//! The maps of `afnet-bpf` as this crate wants them.

use std::{io, os::fd::BorrowedFd, sync::atomic::AtomicU64};

use crate::config::{DirtyMap, SocketMap};

fn answer(error: &afnet_bpf::Error) -> io::Error {
    error.errno().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

impl SocketMap for afnet_bpf::Sockets {
    fn set(&self, slot: u32, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        Self::set(self, slot, queue, socket).map_err(|e| answer(&e))
    }

    fn clear(&self, slot: u32, queue: u32) -> io::Result<()> {
        Self::clear(self, slot, queue).map_err(|e| answer(&e))
    }
}

impl DirtyMap for afnet_bpf::Dirty {
    fn words(&self, queue: u32) -> &[AtomicU64] {
        self.queue(queue)
    }
}
