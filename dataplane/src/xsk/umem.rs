//! UMEM of one queue: frames, tokens and their account.
//!
//! ```text
//!        alloc()                 transmit            completion
//!  FREE ---------> HELD (Frame) ----------> TX --------------------> FREE
//!   |                ^    | recycle()
//!   | refill         |    +-----------------------------------------> FREE
//!   v     claim      |
//!  FILL -------------+
//! ```
//!
//! One byte for each frame says where it is. `FILL` stands for all places in the kernel on the receive side: fill
//! ring, the pool's own free list, RX rings. Between two rounds of the worker's loop no frame is HELD except those
//! staged for transmission.

use std::{io, num::NonZeroU32, ptr::NonNull, slice};

use xsk_rs::{
    config::{FrameSize, QueueSize, UmemConfig},
    umem::frame::FrameDesc,
};

use super::RxDesc;
use crate::error::Error;

/// Whereabouts of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Place {
    Free,
    Held,
    Fill,
    Tx,
}

/// One frame of the [`Umem`] that gave it out. Neither Copy nor Clone: whoever has it, has the frame. It must end in
/// [`Umem::recycle`] or in a transmission; [`Umem::account`] finds one that was dropped.
#[derive(Debug)]
#[must_use = "a dropped token is a lost frame"]
pub struct Frame(u32);

/// A received piece of a packet: the frame and where in it the bytes are.
#[derive(Debug)]
#[must_use = "a dropped token is a lost frame"]
pub struct Piece {
    frame: Frame,
    offset: u32,
    len: u32,
}

impl Piece {
    /// Gives the frame up for recycling.
    pub fn into_frame(self) -> Frame {
        self.frame
    }

    /// The frame, and how many bytes of its packet room the piece fills: what is received can be changed and
    /// staged as it lies. The piece itself if it lies elsewhere in the frame than packets to send do.
    ///
    /// # Errors
    /// As said.
    pub fn in_place(self) -> Result<(Frame, usize), Self> {
        if self.offset as usize == HEADROOM { Ok((self.frame, self.len as usize)) } else { Err(self) }
    }
}

/// Numbers of frames by whereabouts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// With us, unused.
    pub free: u32,
    /// With us, in use.
    pub held: u32,
    /// With the kernel, for reception.
    pub fill: u32,
    /// With the kernel, to be sent.
    pub tx: u32,
}

/// Memory that a queue's sockets receive into and send from.
#[derive(Debug)]
pub struct Umem {
    /// Keeps the mapping and the kernel's registration alive.
    umem: xsk_rs::Umem,
    /// First byte of the mapping of `frames << shift` bytes.
    base: NonNull<u8>,
    /// Descriptor of each frame as xsk-rs made it: address behind the headroom, length 0.
    descs: Box<[FrameDesc]>,
    places: Box<[Place]>,
    /// Stack of free frames: the one used last, whose lines are still in the cache, goes out first.
    free: Vec<u32>,
    in_fill: u32,
    in_tx: u32,
    /// log2 of the frame size.
    shift: u32,
    /// Descriptors from the kernel that were refused.
    foreign: u64,
}

// SAFETY: the pointer is to memory that the `xsk_rs::Umem` beside it owns (itself Send); nothing of it is tied to a
// thread.
unsafe impl Send for Umem {}

impl Umem {
    /// Allocates and registers `frames` frames of `frame_size` bytes, with rings of `fill` and `completion` entries.
    pub fn new(frames: u32, frame_size: u32, fill: u32, completion: u32) -> Result<Self, Error> {
        let bad = |what: String| Error::Config(what);
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(frame_size).map_err(|e| bad(e.to_string()))?)
            .fill_queue_size(QueueSize::new(fill).map_err(|e| bad(e.to_string()))?)
            .comp_queue_size(QueueSize::new(completion).map_err(|e| bad(e.to_string()))?)
            .build()
            .map_err(|e| bad(e.to_string()))?;
        let count = NonZeroU32::new(frames).ok_or_else(|| bad("a UMEM needs frames".to_owned()))?;
        let (umem, mut descs) = xsk_rs::Umem::new(config, count, false)
            .map_err(|e| Error::io("registering a UMEM (locked memory limit?)", super::bind::cause(&e)))?;
        let first = descs.first_mut().ok_or_else(|| bad("a UMEM needs frames".to_owned()))?;
        let before = first.addr();
        // SAFETY: the UMEM is new, nobody else has a frame of it.
        let data = unsafe { umem.data_mut(first) }.contents_mut().as_mut_ptr().expose_provenance();
        // The mapping was given to the kernel by address, so its provenance is exposed; frame 0's data starts
        // `before` bytes into it.
        let base = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(data - before))
            .ok_or_else(|| Error::io("mapping a UMEM", io::Error::from(io::ErrorKind::OutOfMemory)))?;
        Ok(Self {
            umem,
            base,
            places: vec![Place::Free; descs.len()].into_boxed_slice(),
            free: (0..frames).rev().collect(),
            descs: descs.into_boxed_slice(),
            in_fill: 0,
            in_tx: 0,
            shift: frame_size.trailing_zeros(),
            foreign: 0,
        })
    }

    /// The xsk-rs object, for making the anchor socket.
    pub(super) fn inner(&self) -> &xsk_rs::Umem {
        &self.umem
    }

    /// Frames in all.
    pub fn total(&self) -> usize {
        self.places.len()
    }

    /// Bytes of a frame.
    pub fn frame_size(&self) -> usize {
        1 << self.shift
    }

    /// Bytes that a frame has for a packet to send.
    pub fn tx_room(&self) -> usize {
        self.frame_size() - HEADROOM
    }

    /// Free frames.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Frames lent to the kernel for reception.
    pub fn in_fill(&self) -> u32 {
        self.in_fill
    }

    /// Frames given to the kernel for transmission.
    pub fn in_tx(&self) -> u32 {
        self.in_tx
    }

    /// Descriptors refused so far.
    pub fn foreign(&self) -> u64 {
        self.foreign
    }

    /// Takes a free frame.
    #[inline]
    pub fn alloc(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        self.set(index, Place::Held);
        Some(Frame(index))
    }

    /// Gives a frame back.
    #[inline]
    pub fn recycle(&mut self, frame: Frame) {
        self.set(frame.0, Place::Free);
        self.free.push(frame.0);
    }

    /// Takes the frame of a received descriptor. `None`, and counted, if the kernel should not have had it or the
    /// descriptor reaches out of it.
    #[inline]
    pub fn claim(&mut self, desc: RxDesc) -> Option<Piece> {
        let index = u32::try_from(desc.addr >> self.shift).ok();
        let offset = desc.addr & ((1 << self.shift) - 1);
        let place = index.and_then(|i| self.places.get_mut(usize::try_from(i).ok()?));
        match (index, place) {
            (Some(index), Some(place))
                if *place == Place::Fill && offset + u64::from(desc.len) <= 1 << self.shift =>
            {
                *place = Place::Held;
                self.in_fill -= 1;
                // Less than the frame size, which is a u32.
                let offset = u32::try_from(offset).ok()?;
                Some(Piece { frame: Frame(index), offset, len: desc.len })
            }
            _ => {
                self.foreign += 1;
                None
            }
        }
    }

    /// The bytes of a received piece.
    #[inline]
    pub fn bytes(&self, piece: &Piece) -> &[u8] {
        let at = ((piece.frame.0 as usize) << self.shift) + piece.offset as usize;
        // SAFETY: `claim` checked that the piece lies within its frame and the frame within the mapping; the token
        // proves that the frame is ours, so nobody writes to it while `self` is borrowed (bytes are only written
        // through `packet_mut`, which needs `&mut self`).
        unsafe { slice::from_raw_parts(self.base.as_ptr().add(at), piece.len as usize) }
    }

    /// The bytes that a received descriptor names, unchecked by the account: only to be prefetched.
    #[inline]
    pub fn prefetch(&self, desc: &RxDesc) {
        let Ok(at) = usize::try_from(desc.addr) else { return };
        if at < self.places.len() << self.shift {
            // SAFETY: within the mapping (just checked), which is never unmapped while `self` lives. The address
            // alone is used, no byte is read.
            afnet_ring::prefetch(unsafe { self.base.as_ptr().add(at) });
        }
    }

    /// The room for a packet to send in a frame: [`Umem::tx_room`] bytes.
    #[inline]
    pub fn packet_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let at = ((frame.0 as usize) << self.shift) + HEADROOM;
        // SAFETY: the token was given out by this UMEM, so the frame lies within the mapping and is ours; `&mut
        // self` excludes every other slice.
        unsafe { slice::from_raw_parts_mut(self.base.as_ptr().add(at), self.tx_room()) }
    }

    /// Descriptor for sending the first `len` bytes of the frame's packet room. The frame is the kernel's once the
    /// descriptor is in the TX ring, which the caller sees to.
    pub(super) fn send(&mut self, frame: Frame, len: usize, more: bool) -> Option<FrameDesc> {
        let mut desc = *self.descs.get(frame.0 as usize)?;
        // SAFETY: the token proves that the frame is ours. Only the length is set.
        unsafe { self.umem.data_mut(&mut desc) }.cursor().set_pos(len);
        desc.set_options(if more { super::PKT_CONTD } else { 0 });
        self.set(frame.0, Place::Tx);
        self.in_tx += 1;
        Some(desc)
    }

    /// Takes back the frame that a completed descriptor names.
    pub(super) fn complete(&mut self, addr: usize) {
        let index = addr >> self.shift;
        match (self.places.get_mut(index), u32::try_from(index)) {
            (Some(place), Ok(index)) if *place == Place::Tx => {
                *place = Place::Free;
                self.in_tx -= 1;
                self.free.push(index);
            }
            _ => self.foreign += 1,
        }
    }

    /// Puts descriptors of free frames into `out` for the fill ring; returns how many. They count as the kernel's.
    pub(super) fn lend(&mut self, out: &mut [FrameDesc]) -> usize {
        let mut n = 0;
        for slot in out {
            let Some(index) = self.free.pop() else { break };
            if let Some(desc) = self.descs.get(index as usize) {
                *slot = *desc;
                self.set(index, Place::Fill);
                n += 1;
            }
        }
        self.in_fill += u32::try_from(n).unwrap_or(0);
        n
    }

    /// Takes back what [`Umem::lend`] gave and the fill ring had no room for.
    pub(super) fn unlend(&mut self, descs: &[FrameDesc]) {
        for desc in descs {
            if let Ok(index) = u32::try_from(desc.addr() >> self.shift) {
                self.set(index, Place::Free);
                self.in_fill -= 1;
                self.free.push(index);
            }
        }
    }

    /// Counts all frames.
    pub fn account(&self) -> Account {
        let mut account = Account::default();
        for place in &self.places {
            match place {
                Place::Free => account.free += 1,
                Place::Held => account.held += 1,
                Place::Fill => account.fill += 1,
                Place::Tx => account.tx += 1,
            }
        }
        account
    }

    #[inline]
    fn set(&mut self, index: u32, to: Place) {
        if let Some(place) = self.places.get_mut(index as usize) {
            *place = to;
        }
    }
}

/// Bytes in front of a packet in a frame: XDP_PACKET_HEADROOM of the kernel, which xsk-rs keeps free in its
/// descriptors.
const HEADROOM: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn umem() -> Umem {
        Umem::new(64, 2048, 64, 64).unwrap()
    }

    #[test]
    fn frames_go_round() {
        let mut umem = umem();
        let mut frame = umem.alloc().unwrap();
        umem.packet_mut(&mut frame)[..4].copy_from_slice(b"abcd");
        let desc = umem.send(frame, 4, false).unwrap();
        assert_eq!((desc.addr() % 2048, desc.lengths().data()), (HEADROOM, 4));
        assert_eq!(umem.account(), Account { free: 63, held: 0, fill: 0, tx: 1 });
        umem.complete(desc.addr());
        umem.complete(desc.addr());
        assert_eq!(umem.foreign(), 1, "a second completion is refused");

        let mut descs = [FrameDesc::default(); 8];
        assert_eq!(umem.lend(&mut descs), 8);
        let addr = descs[0].addr() as u64;
        let piece = umem.claim(RxDesc { addr, len: 60, options: 0 }).unwrap();
        assert_eq!(umem.bytes(&piece).len(), 60);
        assert!(umem.claim(RxDesc { addr, len: 60, options: 0 }).is_none(), "handed out twice");
        assert!(umem.claim(RxDesc { addr: 64 << 11, len: 1, options: 0 }).is_none(), "outside");
        let other = descs[1].addr() as u64;
        assert!(umem.claim(RxDesc { addr: other, len: 1800, options: 0 }).is_none(), "reaches out");
        umem.recycle(piece.into_frame());
        umem.unlend(&descs[2..]);
        assert_eq!(umem.account(), Account { free: 63, held: 0, fill: 1, tx: 0 });
        assert_eq!(umem.foreign(), 4);
    }
}
