//! UDP_SEGMENT: one send that stands for many datagrams of equal size (as the socket option of the same name).

#![deny(unsafe_code)]

use std::ops::Range;

/// Ranges of a payload that become one datagram each: all of `segment` bytes, the last may be shorter. An empty
/// payload or `segment` 0 makes one datagram of everything.
#[derive(Clone, Debug)]
pub struct Segments {
    at: usize,
    length: usize,
    segment: usize,
    started: bool,
}

impl Segments {
    /// Cuts `length` bytes. At most 65535 ranges come out, since both numbers are of 16 bits on the wire.
    #[inline]
    pub const fn new(length: usize, segment: u16) -> Self {
        let segment = if segment == 0 { length } else { segment as usize };
        Self { at: 0, length, segment, started: false }
    }
}

impl Iterator for Segments {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        if self.at >= self.length && self.started {
            return None;
        }
        self.started = true;
        let from = self.at;
        self.at = self.length.min(from + self.segment);
        Some(from..self.at)
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.length - self.at).div_ceil(self.segment.max(1));
        let left = if self.started { left } else { left.max(1) };
        (left, Some(left))
    }
}

impl ExactSizeIterator for Segments {}

#[cfg(test)]
mod tests {
    use super::Segments;

    #[test]
    fn equal_pieces_and_a_shorter_last() {
        let all =
            |length, segment| Segments::new(length, segment).map(|r| (r.start, r.end)).collect::<Vec<_>>();
        assert_eq!(all(10, 4), [(0, 4), (4, 8), (8, 10)]);
        assert_eq!(all(8, 4), [(0, 4), (4, 8)]);
        assert_eq!(all(3, 4), [(0, 3)]);
        assert_eq!(all(9, 0), [(0, 9)]);
        assert_eq!(all(0, 0), [(0, 0)]);
        assert_eq!(all(0, 4), [(0, 0)]);
        assert_eq!(Segments::new(65535, 1).len(), 65535);
        assert_eq!(Segments::new(0, 7).len(), 1);
    }
}
