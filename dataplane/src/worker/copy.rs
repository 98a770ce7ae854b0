//! Copies between private memory and rings, summing on the way: the only unsafe code of this module.

use std::ops::Range;

use afnet_ring::{Payload, Reserved};

use crate::net::checksum::{copy_and_sum, copy_and_sum_shared};

/// Copies `payload` to the start of the reservation; returns the partial checksum of what was copied. Nothing is
/// copied (and 0 returned) if it does not fit.
#[inline]
pub(crate) fn write_summed(room: &mut Reserved<'_>, payload: &[u8]) -> u32 {
    if payload.len() > room.capacity() {
        return 0;
    }
    // SAFETY: the reservation has `capacity` writable bytes at `payload_ptr`, in shared memory that `payload`, private
    // memory, does not overlap.
    unsafe { copy_and_sum(payload, room.payload_ptr()) }
}

/// What a tenant wants sent: in its ring, or a private copy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bytes<'a> {
    /// In shared memory: may change at any time.
    Shared(Payload<'a>),
    /// Ours.
    Private(&'a [u8]),
}

impl Bytes<'_> {
    /// Number of bytes.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Shared(payload) => payload.len(),
            Self::Private(bytes) => bytes.len(),
        }
    }

    /// Copies `range` to the start of `out`, every byte read once; returns the partial checksum of what was copied.
    /// `None` if the range is not within the bytes or does not fit.
    #[inline]
    pub(crate) fn read_summed(&self, range: Range<usize>, out: &mut [u8]) -> Option<u32> {
        let len = range.end.checked_sub(range.start)?;
        if range.end > self.len() || len > out.len() {
            return None;
        }
        match self {
            Self::Shared(payload) => {
                // SAFETY: the range lies within the payload (checked) and the payload within the ring; `out` is
                // private, has `len` bytes (checked), and cannot overlap shared memory.
                Some(unsafe { copy_and_sum_shared(payload.as_ptr().add(range.start), len, out.as_mut_ptr()) })
            }
            Self::Private(bytes) => {
                let from = bytes.get(range)?;
                // SAFETY: `out` has `from.len()` bytes (checked); an exclusive slice overlaps no shared one.
                Some(unsafe { copy_and_sum(from, out.as_mut_ptr()) })
            }
        }
    }

    /// Copies `range` to a reservation of at least its length.
    #[inline]
    pub(crate) fn read_into(&self, range: Range<usize>, room: &mut Reserved<'_>) -> bool {
        let Some(len) = range.end.checked_sub(range.start) else { return false };
        if range.end > self.len() || len > room.capacity() {
            return false;
        }
        match self {
            Self::Shared(payload) => {
                // SAFETY: the range lies within the payload and fits into the reservation (both checked). They are in
                // rings of different directions, so they do not overlap, even if both belong to one endpoint.
                unsafe {
                    std::ptr::copy_nonoverlapping(payload.as_ptr().add(range.start), room.payload_ptr(), len);
                }
            }
            Self::Private(bytes) => match bytes.get(range) {
                Some(from) => room.write(0, from),
                None => return false,
            },
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::checksum::sum;
    use afnet_abi::shm::{Record, kind};

    #[test]
    fn copies_sum_what_they_copy_and_stay_in_bounds() {
        let bytes: Vec<u8> = (0..=254).collect();
        let datagram = Record { kind: kind::DATAGRAM, ..Record::default() };
        let (mut producer, mut consumer) = afnet_ring::pair(4096);
        let mut room = producer.reserve(bytes.len()).unwrap();
        assert_eq!(write_summed(&mut room, &bytes), sum(&bytes));
        assert_eq!(write_summed(&mut room, &[1; 256]), 0, "does not fit");
        room.commit(&datagram, bytes.len());
        assert!(!producer.publish());

        let item = consumer.peek().unwrap().unwrap();
        for source in [Bytes::Shared(item.payload), Bytes::Private(&bytes)] {
            assert_eq!(source.len(), 255);
            let mut out = [0; 100];
            assert_eq!(source.read_summed(7..107, &mut out), Some(sum(&bytes[7..107])));
            assert_eq!(out, bytes[7..107]);
            assert_eq!(source.read_summed(0..101, &mut out), None, "does not fit");
            assert_eq!(source.read_summed(200..256, &mut out), None, "beyond the end");
            #[expect(clippy::reversed_empty_ranges, reason = "what a careless caller might compute")]
            let reversed = 9..3;
            assert_eq!(source.read_summed(reversed, &mut out), None);

            let (mut producer, mut consumer) = afnet_ring::pair(4096);
            let mut room = producer.reserve(50).unwrap();
            assert!(source.read_into(5..55, &mut room));
            assert!(!source.read_into(5..56, &mut room) && !source.read_into(250..256, &mut room));
            room.commit(&datagram, 50);
            let _ = producer.publish();
            assert_eq!(consumer.peek().unwrap().unwrap().payload.to_vec(), bytes[5..55]);
        }
    }
}
