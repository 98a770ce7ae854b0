//! What arrives on an AF_XDP socket: counted by stream, with latencies; or sent back.
//!
//! Streams beyond [`STREAMS`] are counted as frames only: stamps can be forged, and each stream has an account of
//! 8 KiB and a histogram.

use std::{collections::BTreeMap, io};

use afnet_dataplane::xsk::{Anchor, Frame, Piece, RxDesc};

use super::{
    latency::Latency,
    swap::{Layer, swap},
    track::{Tally, Tracker},
};
use crate::stamp::{self, Stamp};

/// Descriptors taken at once.
const BATCH: usize = 64;
/// Most streams with an account of their own. The index must fit into a byte, with one value to spare.
const STREAMS: usize = 64;
/// No account yet.
const NONE: u8 = u8::MAX;

/// The account of a stream.
#[derive(Clone, Debug, Default)]
pub struct Account {
    tracker: Tracker,
    /// Latencies since the stamp's time.
    pub latency: Latency,
}

impl Account {
    /// What was counted.
    pub fn tally(&self) -> Tally {
        self.tracker.tally()
    }
}

/// What a thread has received.
pub struct Receiver {
    descs: Box<[RxDesc; BATCH]>,
    /// Account of each stream.
    index: Box<[u8]>,
    accounts: Vec<(u16, Account)>,
    /// For frames that lie elsewhere than those to send.
    scratch: Box<[u8; 4096]>,
    /// The next descriptor goes on with a packet.
    continued: bool,
    /// Frames sent back, and as which.
    reflect: Option<Layer>,
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames without stamp, or of one stream too many.
    pub other: u64,
    /// When the first and the last batch came, in nanoseconds of the clock.
    pub span: Option<(u64, u64)>,
    /// Frames that were to be sent back, and could not.
    pub dropped: u64,
    /// Frames sent back.
    pub returned: u64,
    /// Their bytes.
    pub returned_bytes: u64,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").field("frames", &self.frames).finish_non_exhaustive()
    }
}

impl Receiver {
    /// Counts, and with `reflect` sends everything back.
    pub fn new(reflect: Option<Layer>) -> Self {
        Self {
            descs: Box::new([RxDesc::default(); BATCH]),
            index: vec![NONE; 1 << 16].into_boxed_slice(),
            accounts: Vec::with_capacity(STREAMS),
            scratch: Box::new([0; 4096]),
            continued: false,
            reflect,
            frames: 0,
            bytes: 0,
            other: 0,
            span: None,
            dropped: 0,
            returned: 0,
            returned_bytes: 0,
        }
    }

    /// Begins anew, and keeps the memory.
    pub fn reset(&mut self) {
        for (_, account) in &mut self.accounts {
            account.tracker.reset();
            account.latency.reset();
        }
        (self.frames, self.bytes, self.other, self.dropped) = (0, 0, 0, 0);
        (self.returned, self.returned_bytes, self.span) = (0, 0, None);
    }

    /// Adds the accounts by stream to `all`.
    pub fn accounts(&self, all: &mut BTreeMap<u16, (Tally, Latency)>) {
        for (stream, account) in &self.accounts {
            if account.tally() == Tally::default() {
                continue;
            }
            let (tally, latency) = all.entry(*stream).or_default();
            tally.add(&account.tally());
            latency.add(&account.latency);
        }
    }

    /// Adds up all streams.
    pub fn tally(&self) -> Tally {
        let mut sum = Tally::default();
        self.accounts.iter().for_each(|(_, account)| sum.add(&account.tally()));
        sum
    }

    /// Takes a batch; returns how many descriptors.
    ///
    /// # Errors
    /// If the kernel refuses the frames that go back to it.
    pub fn step(&mut self, anchor: &mut Anchor) -> io::Result<usize> {
        anchor.refill()?;
        let n = anchor.receive(self.descs.as_mut_slice());
        if n == 0 {
            return Ok(0);
        }
        let now = stamp::now();
        self.span = Some((self.span.map_or(now, |(first, _)| first), now));
        if self.reflect.is_some() {
            anchor.complete();
        }
        for i in 0..n {
            let desc = self.descs[i];
            let first = !std::mem::replace(&mut self.continued, desc.continues());
            // One that is not ours to have is counted by the UMEM.
            let Some(piece) = anchor.umem_mut().claim(desc) else { continue };
            self.bytes += u64::from(desc.len);
            if first {
                self.frames += 1;
            }
            if let Some(layer) = self.reflect {
                self.send_back(anchor, piece, layer, first, desc);
                continue;
            }
            if first {
                match Stamp::find(anchor.umem().bytes(&piece)) {
                    Some(stamp) => self.stamped(&stamp, now),
                    None => self.other += 1,
                }
            }
            anchor.umem_mut().recycle(piece.into_frame());
        }
        if self.reflect.is_some() {
            anchor.flush()?;
        }
        Ok(n)
    }

    #[inline]
    fn stamped(&mut self, stamp: &Stamp, now: u64) {
        let mut at = self.index[usize::from(stamp.stream)];
        if at == NONE {
            if self.accounts.len() == STREAMS {
                self.other += 1;
                return;
            }
            at = u8::try_from(self.accounts.len()).unwrap_or(0);
            self.index[usize::from(stamp.stream)] = at;
            self.accounts.push((stamp.stream, Account::default()));
        }
        let (_, account) = &mut self.accounts[usize::from(at)];
        account.tracker.frame(stamp.sequence);
        account.latency.record(stamp.age(now));
    }

    /// In place where the frame allows it.
    fn send_back(&mut self, anchor: &mut Anchor, piece: Piece, layer: Layer, first: bool, desc: RxDesc) {
        let (mut frame, length) = match piece.in_place() {
            Ok(found) => found,
            Err(piece) => match copied(anchor, piece, &mut self.scratch) {
                Some(found) => found,
                None => return self.dropped += u64::from(first),
            },
        };
        let bytes = &mut anchor.umem_mut().packet_mut(&mut frame)[..length];
        if first && !swap(bytes, layer) || anchor.tx_ring_room() == 0 {
            self.dropped += u64::from(first);
            anchor.umem_mut().recycle(frame);
            return;
        }
        anchor.stage(frame, length, desc.continues());
        self.returned += u64::from(first);
        self.returned_bytes += length as u64;
    }

    /// All latencies together: median and 99th percentile in nanoseconds, for the display.
    pub fn glance(&self) -> (u64, u64) {
        let mut worst = (0, 0);
        for (_, account) in &self.accounts {
            if let Some(figures) = account.latency.quantiles() {
                worst = (worst.0.max(nanoseconds(figures.p50)), worst.1.max(nanoseconds(figures.p99)));
            }
        }
        worst
    }
}

#[allow(clippy::cast_possible_truncation, reason = "at most a minute, in nanoseconds")]
fn nanoseconds(microseconds: f64) -> u64 {
    (microseconds * 1e3) as u64
}

/// A copy of a piece where packets to send lie; the piece's own frame goes back.
fn copied(anchor: &mut Anchor, piece: Piece, scratch: &mut [u8; 4096]) -> Option<(Frame, usize)> {
    let umem = anchor.umem_mut();
    let bytes = umem.bytes(&piece);
    let (length, room) = (bytes.len(), umem.tx_room());
    let fits = length <= room.min(scratch.len());
    if fits {
        scratch[..length].copy_from_slice(bytes);
    }
    umem.recycle(piece.into_frame());
    let mut frame = fits.then(|| umem.alloc()).flatten()?;
    umem.packet_mut(&mut frame)[..length].copy_from_slice(&scratch[..length]);
    Some((frame, length))
}
