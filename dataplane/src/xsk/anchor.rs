//! The anchor socket of a queue: it owns the UMEM, keeps the fill ring full, and is the only one that transmits.
//!
//! Fill: frames go back in batches of [`BATCH`], as many as there are beyond the reserve for transmission. Nothing a
//! tenant does delays that: payloads are copied out and the frame is free at once.
//!
//! Transmission: [`Anchor::stage`] collects, [`Anchor::flush`] hands all over with one system call for each
//! 32 packets (the kernel's copy mode sends no more in one go) or none at all if the driver is awake.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use xsk_rs::{CompQueue, FillQueue, RxQueue, TxQueue, umem::frame::FrameDesc};

use super::{Frame, RxDesc, Umem};

/// Descriptors moved at once between our arrays and the rings. Small enough for the stack of lines that stay in the
/// first-level cache (64 * 32 bytes), large enough to make the shared positions' cost vanish.
const BATCH: usize = 64;

/// Packets that one sendto() transmits in copy mode (TX_BATCH_SIZE of net/xdp/xsk.c).
const KERNEL_TX_BATCH: usize = 32;

/// An anchor socket and its UMEM.
#[derive(Debug)]
pub struct Anchor {
    umem: Umem,
    fill: FillQueue,
    completion: CompQueue,
    rx: RxQueue,
    tx: TxQueue,
    tx_len: usize,
    staged: Vec<FrameDesc>,
    scratch: Box<[FrameDesc; BATCH]>,
    /// Most frames lent for reception; the rest is for transmission.
    fill_limit: u32,
}

impl Anchor {
    /// From what `bind_anchor` made. `tx_len` is the TX ring's number of entries.
    pub(super) fn new(
        umem: Umem,
        (fill, completion): (FillQueue, CompQueue),
        (rx, tx): (RxQueue, TxQueue),
        tx_len: u32,
    ) -> Self {
        let fill_limit = u32::try_from(umem.total() / 4 * 3).unwrap_or(u32::MAX);
        Self {
            umem,
            fill,
            completion,
            rx,
            tx,
            tx_len: tx_len as usize,
            staged: Vec::with_capacity(tx_len as usize),
            scratch: Box::new([FrameDesc::default(); BATCH]),
            fill_limit,
        }
    }

    /// The frames.
    pub fn umem(&self) -> &Umem {
        &self.umem
    }

    /// The frames.
    pub fn umem_mut(&mut self) -> &mut Umem {
        &mut self.umem
    }

    /// The socket.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the queue holds the socket open as long as it lives, and it lives as long as `self`.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Takes descriptors received by the anchor itself; returns how many.
    pub fn receive(&mut self, out: &mut [RxDesc]) -> usize {
        let want = out.len().min(BATCH);
        let Some(scratch) = self.scratch.get_mut(..want) else { return 0 };
        // SAFETY: the ring belongs to the socket of `self.umem`; descriptors are checked by `Umem::claim`.
        let n = unsafe { self.rx.consume(scratch) };
        for (to, from) in out.iter_mut().zip(scratch.iter()).take(n) {
            *to = RxDesc {
                addr: from.addr() as u64,
                len: u32::try_from(from.lengths().data()).unwrap_or(u32::MAX),
                options: from.options(),
            };
        }
        n
    }

    /// Whether the anchor's own RX ring has something.
    pub fn rx_pending(&mut self) -> bool {
        self.rx.nb_avail(1) > 0
    }

    /// Lends free frames to the kernel for reception; calls it if it sleeps for want of them.
    pub fn refill(&mut self) -> io::Result<()> {
        let mut any = false;
        // Less than a batch waits for more, unless the kernel has little.
        while self.umem.free() >= BATCH && self.umem.in_fill() < self.fill_limit {
            let n = self.umem.lend(self.scratch.as_mut_slice());
            let Some(descs) = self.scratch.get(..n) else { break };
            // SAFETY: `lend` gives descriptors of free frames of this UMEM and notes them as the kernel's.
            let done = unsafe { self.fill.produce(descs) };
            any |= done > 0;
            if done < n {
                // All or nothing by libxdp; the rest comes back either way.
                self.umem.unlend(descs.get(done..).unwrap_or_default());
                break;
            }
        }
        if any && self.fill.needs_wakeup() {
            self.fill.wakeup(self.rx.fd_mut(), 0)?;
        }
        Ok(())
    }

    /// Polls the driver from here (preferred busy polling): received packets appear in the RX rings.
    pub fn busy_poll(&mut self) -> io::Result<()> {
        self.fill.wakeup(self.rx.fd_mut(), 0)
    }

    /// Packets that can be staged now: free frames, and room in the TX ring.
    pub fn tx_room(&mut self) -> usize {
        self.tx_ring_room().min(self.umem.free())
    }

    /// Room in the TX ring, for frames that are held already.
    pub fn tx_ring_room(&mut self) -> usize {
        let want = u32::try_from(self.tx_len).unwrap_or(u32::MAX);
        (self.tx.nb_free(want) as usize).saturating_sub(self.staged.len())
    }

    /// Stages the first `len` bytes of a frame's packet room for transmission. Must be preceded by a look at
    /// [`Anchor::tx_room`]. `more`: the packet goes on in the next frame.
    #[inline]
    pub fn stage(&mut self, frame: Frame, len: usize, more: bool) {
        if let Some(desc) = self.umem.send(frame, len, more) {
            self.staged.push(desc);
        }
    }

    /// Hands over what is staged and calls the kernel as often as needed.
    pub fn flush(&mut self) -> io::Result<()> {
        if !self.staged.is_empty() {
            // SAFETY: `Umem::send` gives descriptors of frames that were held and notes them as the kernel's.
            let done = unsafe { self.tx.produce(&self.staged) };
            self.staged.drain(..done);
        }
        if self.umem.in_tx() == 0 {
            return Ok(());
        }
        if self.tx.needs_wakeup() {
            let outstanding = self.tx_len.saturating_sub(self.tx.nb_free_exact() as usize);
            for _ in 0..outstanding.div_ceil(KERNEL_TX_BATCH) {
                self.tx.wakeup()?;
            }
        }
        self.complete();
        Ok(())
    }

    /// Takes back frames that were sent.
    pub fn complete(&mut self) {
        loop {
            // SAFETY: the ring belongs to the socket of `self.umem`; addresses are checked by `Umem::complete`.
            let n = unsafe { self.completion.consume(self.scratch.as_mut_slice()) };
            for desc in self.scratch.iter().take(n) {
                self.umem.complete(desc.addr());
            }
            if n < BATCH {
                return;
            }
        }
    }

    /// Whether something is staged or not yet taken from the TX ring, so that the kernel must be called again.
    pub fn tx_unsent(&mut self) -> bool {
        !self.staged.is_empty() || (self.umem.in_tx() > 0 && (self.tx.nb_free_exact() as usize) < self.tx_len)
    }
}
