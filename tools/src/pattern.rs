//! A frame with fields that change from one to the next: the plan of a flow of frames, prebuilt so that making one is
//! a copy of its head, a few words and sums.
//!
//! ```text
//! | head: Ethernet, tags, IP, transport, stamp    | body: zeroes   |
//!     ^ fields: at, first + [0, count), in order or random
//! ```
//!
//! Fields in order count like an odometer: the first one turns with every frame, the next when that has gone round.
//! Checksums come from the sum of everything that does not change, and the words that do. [`Pattern::write`] is for
//! frames that go out by AF_XDP, `bpf/load.bpf.c` does the same for live frames.

use crate::stamp::{self, Stamp};

/// Most fields of a pattern (MAX_FIELDS of load.bpf.c).
pub const MAX_FIELDS: usize = 8;
/// Most bytes that change (HEAD_BYTES of load.bpf.c).
pub const HEAD_BYTES: usize = 128;

/// Flags of a field, as load.bpf.c has them.
pub mod flag {
    /// 32 bits, else 16.
    pub const WIDE: u32 = 1 << 0;
    /// Random, else in order.
    pub const RANDOM: u32 = 1 << 1;
    /// Takes the value of the field before.
    pub const FOLLOW: u32 = 1 << 2;
    /// The IPv4 header checksum covers it.
    pub const IP: u32 = 1 << 3;
    /// The transport's checksum covers it.
    pub const L4: u32 = 1 << 4;
}

/// A place in the head that changes: `fixed | (value & mask)`, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Byte in the frame.
    pub at: usize,
    /// Of [`flag`].
    pub flags: u32,
    /// Lowest value.
    pub first: u32,
    /// Number of values, at least 1.
    pub count: u32,
    /// Bits that come from the value.
    pub mask: u32,
    /// Bits that stay.
    pub fixed: u32,
}

/// Where the layers of a frame are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    /// IP header, and whether it is version 6.
    pub net: Option<(usize, bool)>,
    /// Transport header, its IP protocol, and its checksum's place.
    pub transport: Option<(usize, u8, usize)>,
    /// Stamp, and its stream.
    pub stamp: Option<(usize, u16)>,
}

/// A checksum: its place, and the sum of what it covers, without what changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// Byte in the frame; 0: there is none.
    pub at: usize,
    /// One's complement sum, unfolded.
    pub base: u32,
}

/// Why a pattern cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More fields change than there is room for.
    #[error("{0} fields of the frame change, {MAX_FIELDS} can")]
    Fields(usize),
    /// The headers do not fit.
    #[error("a frame of {size} bytes is too short: its headers and stamp take {needed}")]
    Short {
        /// Asked for.
        size: usize,
        /// Bytes of headers and stamp.
        needed: usize,
    },
    /// Headers are longer than a generator rewrites.
    #[error("headers and stamp take {0} bytes, at most {HEAD_BYTES} can change")]
    Head(usize),
}

/// The plan of a flow of frames.
#[derive(Clone, Debug)]
pub struct Pattern {
    frame: Vec<u8>,
    head: usize,
    fields: Vec<Field>,
    ip: Sum,
    l4: Sum,
    udp: bool,
    stamp: Option<(usize, u16)>,
}

/// Where in a flow of frames a sender is. One walk serves patterns of several sizes.
#[derive(Clone, Debug)]
pub struct Walk {
    /// Number of the next frame.
    pub sequence: u64,
    next: [u32; MAX_FIELDS],
    random: u64,
}

impl Walk {
    /// Begins with the first frame.
    pub fn new(seed: u64) -> Self {
        Self { sequence: 0, next: [0; MAX_FIELDS], random: scramble(seed) }
    }

    /// Begins elsewhere: thread `share` of `shares` that send the flow together.
    pub fn share(mut self, pattern: &Pattern, share: u32, shares: u32) -> Self {
        let leader = pattern.fields.iter().position(|field| field.flags & (flag::FOLLOW | flag::RANDOM) == 0);
        if let Some((next, field)) =
            leader.and_then(|i| Some((self.next.get_mut(i)?, pattern.fields.get(i)?)))
        {
            let at = u64::from(field.count) * u64::from(share % shares.max(1)) / u64::from(shares.max(1));
            *next = u32::try_from(at).unwrap_or(0);
        }
        self.random = scramble(self.random ^ u64::from(share) << 32);
        self
    }

    /// State of the random numbers; never 0.
    pub fn random_state(&self) -> u64 {
        self.random
    }

    /// Goes on from where somebody else has come.
    pub fn resume(&mut self, sequence: u64, positions: [u32; MAX_FIELDS], random: u64) {
        *self = Self { sequence, next: positions, random: random.max(1) };
    }

    /// Next value of each field that is in order.
    pub fn positions(&self) -> &[u32; MAX_FIELDS] {
        &self.next
    }

    #[inline]
    fn random32(&mut self) -> u32 {
        let mut x = self.random;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random = x;
        // The upper half.
        u32::try_from(x >> 32).unwrap_or(0)
    }
}

/// A seed's bits spread out (splitmix64); xorshift must not begin with 0.
fn scramble(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (x ^ (x >> 31)).max(1)
}

impl Pattern {
    /// From a whole frame, in which fields, stamp and checksums may hold anything. `head`: bytes of headers.
    ///
    /// # Errors
    /// If headers and stamp do not fit into frame or limits.
    pub fn new(mut frame: Vec<u8>, head: usize, fields: Vec<Field>, layout: Layout) -> Result<Self, Error> {
        let head = layout.stamp.map_or(head, |(at, _)| head.max(at + stamp::BYTES));
        if head > frame.len() {
            return Err(Error::Short { size: frame.len(), needed: head });
        }
        if head > HEAD_BYTES {
            return Err(Error::Head(head));
        }
        if let Some((at, stream)) = layout.stamp
            && let Some(place) = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut)
        {
            Stamp { stream, sequence: 0, time: 0 }.write(place);
        }
        let (fixed, fields) = constant(fields);
        if fields.len() > MAX_FIELDS {
            return Err(Error::Fields(fields.len()));
        }
        for (field, value) in &fixed {
            put(&mut frame, field, *value);
        }
        // What changes is added to the sums as a whole when it is written.
        for field in &fields {
            put(&mut frame, &Field { fixed: 0, ..*field }, 0);
        }
        let (mut ip, mut l4, mut udp) = (Sum::default(), Sum::default(), false);
        if let Some((at, false)) = layout.net {
            frame[at + 10..at + 12].fill(0);
            let length = usize::from(frame[at] & 15) * 4;
            ip = Sum { at: at + 10, base: add(&frame[at..at + length]) };
        }
        if let (Some((net, v6)), Some((at, protocol, place))) = (layout.net, layout.transport) {
            frame[place..place + 2].fill(0);
            let end = if v6 { net + 40 + half(&frame, net + 4) } else { net + half(&frame, net + 2) };
            let addresses = if v6 { net + 8..net + 40 } else { net + 12..net + 20 };
            let length = u32::try_from(end - at).unwrap_or(u32::MAX);
            // IGMP alone has no pseudo header.
            let pseudo =
                if protocol == IGMP { 0 } else { add(&frame[addresses]) + u32::from(protocol) + length };
            l4 = Sum { at: place, base: pseudo + add(&frame[at..end]) };
            udp = protocol == UDP;
        }
        let mut pattern = Self { frame, head, fields, ip, l4, udp, stamp: layout.stamp };
        // Where nothing changes, the frame is right as it stands.
        if pattern.fields.is_empty() && pattern.stamp.is_none() {
            let mut head = pattern.frame.clone();
            pattern.write(&mut Walk::new(0), 0, &mut head);
            pattern.frame = head;
        }
        Ok(pattern)
    }

    /// A frame as it is, in which nothing changes.
    pub fn raw(frame: Vec<u8>) -> Self {
        let (ip, l4) = (Sum::default(), Sum::default());
        Self { frame, head: 0, fields: Vec::new(), ip, l4, udp: false, stamp: None }
    }

    /// Bytes of a frame.
    pub fn size(&self) -> usize {
        self.frame.len()
    }

    /// Bytes that [`Self::write`] writes. The rest of the frame is [`Self::body`].
    pub fn head(&self) -> usize {
        self.head
    }

    /// What follows the head and never changes.
    pub fn body(&self) -> &[u8] {
        &self.frame[self.head..]
    }

    /// The whole frame with everything that changes 0.
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// What changes.
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// Sums of IPv4 header and transport, and whether the transport is UDP.
    pub fn sums(&self) -> (Sum, Sum, bool) {
        (self.ip, self.l4, self.udp)
    }

    /// Where the stamp is, and its stream.
    pub fn stamp(&self) -> Option<(usize, u16)> {
        self.stamp
    }

    /// Frames that differ before they repeat, if in order.
    pub fn variety(&self) -> u64 {
        let leaders = self.fields.iter().filter(|field| field.flags & flag::FOLLOW == 0);
        leaders.fold(1, |product: u64, field| product.saturating_mul(field.count.into()))
    }

    /// Writes the next frame's head to the beginning of `out`, with the time `now`.
    ///
    /// # Panics
    /// If `out` is shorter than [`Self::head`].
    #[inline]
    pub fn write(&self, walk: &mut Walk, now: u64, out: &mut [u8]) {
        let out = &mut out[..self.head];
        out.copy_from_slice(&self.frame[..self.head]);
        let (mut ip, mut l4) = (u64::from(self.ip.base), u64::from(self.l4.base));
        let (mut value, mut carry) = (0, 1);
        for (i, field) in self.fields.iter().enumerate() {
            if field.flags & flag::RANDOM != 0 {
                let below = (u64::from(walk.random32()) * u64::from(field.count)) >> 32;
                value = field.first.wrapping_add(u32::try_from(below).unwrap_or(0));
            } else if field.flags & flag::FOLLOW == 0 {
                let place = &mut walk.next[i % MAX_FIELDS];
                value = field.first.wrapping_add(*place);
                let next = *place + carry;
                carry = u32::from(next >= field.count);
                *place = if carry == 1 { 0 } else { next };
            }
            let sum = u64::from(put(out, field, value));
            if field.flags & flag::IP != 0 {
                ip += sum;
            }
            if field.flags & flag::L4 != 0 {
                l4 += sum;
            }
        }
        if let Some((at, stream)) = self.stamp {
            let (sequence, time) = (walk.sequence & stamp::MASK, now & stamp::MASK);
            if let Some(place) = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
                Stamp { stream, sequence, time }.write(place);
            }
            l4 += words48(sequence) + words48(time);
        }
        walk.sequence += 1;
        if self.ip.at != 0 {
            out[self.ip.at..self.ip.at + 2].copy_from_slice(&fold(ip).to_be_bytes());
        }
        if self.l4.at != 0 {
            let sum = match fold(l4) {
                0 if self.udp => 0xffff,
                sum => sum,
            };
            out[self.l4.at..self.l4.at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }
}

const IGMP: u8 = 2;
const UDP: u8 = 17;

/// Separates the fields with only one value (with their followers), and that value, from those that change.
fn constant(fields: Vec<Field>) -> (Vec<(Field, u32)>, Vec<Field>) {
    let (mut fixed, mut changing) = (Vec::new(), Vec::new());
    let mut value = None;
    for field in fields {
        if field.flags & flag::FOLLOW == 0 {
            value = (field.count <= 1).then_some(field.first);
        }
        match value {
            Some(value) => fixed.push((field, value)),
            None => changing.push(field),
        }
    }
    (fixed, changing)
}

/// Writes a field, and returns the sum of its words.
#[inline]
fn put(frame: &mut [u8], field: &Field, value: u32) -> u32 {
    let written = field.fixed | (value & field.mask);
    let (bytes, width) = if field.flags & flag::WIDE != 0 { (written, 4) } else { (written << 16, 2) };
    if let Some(place) = frame.get_mut(field.at..field.at + width) {
        place.copy_from_slice(&bytes.to_be_bytes()[..width]);
    }
    (bytes >> 16) + (bytes & 0xffff)
}

fn words48(x: u64) -> u64 {
    ((x >> 32) & 0xffff) + ((x >> 16) & 0xffff) + (x & 0xffff)
}

fn half(frame: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]))
}

/// One's complement sum of big-endian words, unfolded.
fn add(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}

fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from(sum).unwrap_or(0xffff)
}
