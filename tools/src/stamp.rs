//! The stamp at the beginning of a payload: who sent it, which number, when. It is as small as the payload of the
//! smallest frame (60 bytes, IPv4, UDP).
//!
//! ```text
//! 0        4        6            12            18
//! | magic  | stream | sequence   | time        |   big-endian; time: CLOCK_MONOTONIC in ns, lower 48 bits
//! ```
//!
//! What is read may be forged: every value is possible, and none does harm (see `pktgen::track`).

use std::time::Duration;

/// Bytes of a stamp.
pub const BYTES: usize = 18;
/// First word.
pub const MAGIC: u32 = 0xaf6e_7467;
/// The 48 bits of sequence and time.
pub const MASK: u64 = (1 << 48) - 1;

/// What a stamp says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// A sender's thread or flow of frames: numbers are counted for each.
    pub stream: u16,
    /// Number in the stream, modulo 2^48.
    pub sequence: u64,
    /// When it was sent, modulo 2^48 nanoseconds (78 hours).
    pub time: u64,
}

impl Stamp {
    /// Reads the beginning of a payload.
    #[inline]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = payload.first_chunk()?;
        let word = |at: usize| u64::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        if word(0) << 16 | word(2) != u64::from(MAGIC) {
            return None;
        }
        Some(Self {
            stream: u16::from_be_bytes([bytes[4], bytes[5]]),
            sequence: word(6) << 32 | word(8) << 16 | word(10),
            time: word(12) << 32 | word(14) << 16 | word(16),
        })
    }

    /// Finds the stamp in an Ethernet frame: in the payload of UDP or TCP over IPv4 or IPv6, below any two VLAN tags.
    #[inline]
    pub fn find(frame: &[u8]) -> Option<Self> {
        Self::read(payload(frame)?)
    }

    /// Writes it, as [`Self::read`] reads it.
    #[inline]
    pub fn write(&self, to: &mut [u8; BYTES]) {
        to[..4].copy_from_slice(&MAGIC.to_be_bytes());
        to[4..12].copy_from_slice(&(u64::from(self.stream) << 48 | self.sequence & MASK).to_be_bytes());
        to[12..].copy_from_slice(&self.time.to_be_bytes()[2..]);
    }

    /// Nanoseconds since it was sent, if that makes sense: none for a time in the future.
    #[inline]
    pub fn age(&self, now: u64) -> Option<u64> {
        let age = now.wrapping_sub(self.time) & MASK;
        (age <= MASK / 2).then_some(age)
    }
}

/// CLOCK_MONOTONIC in nanoseconds: what `bpf_ktime_get_ns` reads too.
#[inline]
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)).as_nanos().try_into().unwrap_or(u64::MAX)
}

/// The payload of UDP or TCP in a frame.
#[inline]
pub fn payload(frame: &[u8]) -> Option<&[u8]> {
    let (at, protocol, end) = transport(frame)?;
    let header = match protocol {
        17 => 8,
        6 => usize::from(frame.get(at + 12)? >> 4) * 4,
        _ => return None,
    };
    frame.get(at + header..end)
}

/// Where the transport header of a frame is, its protocol, and where the IP packet ends. Extension headers and
/// fragments are nobody's here.
#[inline]
pub fn transport(frame: &[u8]) -> Option<(usize, u8, usize)> {
    let mut at = 12;
    let mut kind = half(frame, at)?;
    for _ in 0..2 {
        if kind == 0x8100 || kind == 0x88a8 {
            at += 4;
            kind = half(frame, at)?;
        }
    }
    let net = at + 2;
    match kind {
        0x0800 => {
            let length = usize::from(*frame.get(net)? & 15) * 4;
            // More fragments, or not the first one.
            if length < 20 || half(frame, net + 6)? & 0x3fff != 0 {
                return None;
            }
            let end = net + usize::from(half(frame, net + 2)?);
            Some((net + length, *frame.get(net + 9)?, end.min(frame.len())))
        }
        0x86dd => {
            let end = net + 40 + usize::from(half(frame, net + 4)?);
            Some((net + 40, *frame.get(net + 6)?, end.min(frame.len())))
        }
        _ => None,
    }
}

#[inline]
fn half(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*frame.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn round_trip(stream: u16, sequence in 0..=MASK, time in 0..=MASK) {
            let stamp = Stamp { stream, sequence, time };
            let mut bytes = [0; BYTES];
            stamp.write(&mut bytes);
            prop_assert_eq!(Stamp::read(&bytes), Some(stamp));
        }

        /// Any bytes at all, and frames that are nearly right.
        #[test]
        fn never_panics(mut frame in proptest::collection::vec(any::<u8>(), 0..120), kind in 0..4usize) {
            let _ = Stamp::find(&frame);
            if let Some(place) = frame.get_mut(12..14) {
                place.copy_from_slice(&[[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8]][kind]);
            }
            let _ = Stamp::find(&frame);
        }
    }

    #[test]
    fn age_wraps_and_refuses_the_future() {
        let stamp = Stamp { stream: 0, sequence: 0, time: MASK - 4 };
        assert_eq!(stamp.age(5), Some(10));
        assert_eq!(stamp.age(MASK - 5), None);
    }
}
