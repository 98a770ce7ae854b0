//! RX-only AF_XDP socket of one compartment on one queue.
//!
//! It shares the pool (UMEM, fill and completion ring) of the queue's anchor: bound with XDP_SHARED_UMEM to the same
//! interface and queue, naming the anchor's file descriptor. libxdp wants its own `xsk_umem` handle for that, which
//! xsk-rs keeps to itself, so the few system calls stand here. Such a bind must carry no other flags: copy mode,
//! need-wakeup and multi-buffer are the pool's.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    io::Errno,
    net::{
        AddressFamily, SocketFlags, SocketType, bind, socket_with,
        sockopt::set_xdp_rx_ring_size,
        xdp::{SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem},
    },
};

use super::{RxDesc, rx_ring::RxRing};

/// A compartment's socket on one queue.
#[derive(Debug)]
pub(crate) struct RxSocket {
    /// Unmapped before the socket closes.
    ring: RxRing,
    fd: OwnedFd,
    serial: u64,
}

impl RxSocket {
    /// Binds a socket with an RX ring of `len` entries beside the anchor `anchor` of (`ifindex`, `queue`).
    pub(crate) fn new(anchor: BorrowedFd<'_>, ifindex: u32, queue: u32, len: u32) -> Result<Self, Errno> {
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        let fd = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        set_xdp_rx_ring_size(&fd, len)?;
        let ring = RxRing::map(&fd, len)?;
        let addr = SocketAddrXdp::new(SocketAddrXdpFlags::XDP_SHARED_UMEM, ifindex, queue);
        bind(&fd, &SocketAddrXdpWithSharedUmem { addr, shared_umem_fd: anchor })?;
        Ok(Self { ring, fd, serial: SERIAL.fetch_add(1, Ordering::Relaxed) })
    }

    /// Number of this socket, unique in the process.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Takes received descriptors of about `budget` bytes; returns how many, and how many bytes.
    #[inline]
    pub(crate) fn receive(&mut self, out: &mut [RxDesc], budget: usize) -> (usize, usize) {
        self.ring.take(out, budget)
    }

    /// Asks for what [`Self::receive`] reads.
    #[inline]
    pub(crate) fn prefetch(&self) {
        self.ring.prefetch();
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }
}

impl AsFd for RxSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
