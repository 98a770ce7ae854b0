//! Loss, reordering and duplicates of a stream, from the numbers of its frames.
//!
//! ```text
//!        oldest                        highest
//!   ------+-------------------------------+-------> numbers
//!    late |  window: one bit for each     | a gap counts as lost until its frames arrive
//! ```
//!
//! Numbers may be forged: whatever they are, nothing panics and nothing grows. A jump of more than [`JUMP`] is another
//! sender under the same number (or one that has started again): counting goes on from there.

/// Numbers that are remembered: a frame that is later than so many others is `late`, not reordered.
const WINDOW: u64 = 1 << 16;
/// A larger step forward is no loss: 2^32 frames are minutes at any rate.
const JUMP: u64 = 1 << 32;
/// Numbers are modulo 2^48.
const MASK: u64 = (1 << 48) - 1;

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// Frames, without duplicates.
    pub received: u64,
    /// Numbers between the first and the highest that did not come.
    pub lost: u64,
    /// Frames that came after one with a higher number.
    pub reordered: u64,
    /// Frames whose number had come before.
    pub duplicates: u64,
    /// Frames so old that it is unknown whether they had come before.
    pub late: u64,
    /// Jumps: a sender that started again, or a forger.
    pub restarts: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.reordered += other.reordered;
        self.duplicates += other.duplicates;
        self.late += other.late;
        self.restarts += other.restarts;
    }
}

/// Accounts of one stream.
#[derive(Clone, Debug)]
pub struct Tracker {
    bits: Box<[u64]>,
    /// The number after the highest; none before the first frame.
    next: Option<u64>,
    /// Numbers of the window that lie before the stream's beginning, or its restart.
    began: u64,
    tally: Tally,
}

impl Default for Tracker {
    fn default() -> Self {
        let words = usize::try_from(WINDOW / 64).unwrap_or(0);
        Self { bits: vec![0; words].into_boxed_slice(), next: None, began: 0, tally: Tally::default() }
    }
}

impl Tracker {
    /// What was counted so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Begins anew, without allocation.
    pub fn reset(&mut self) {
        self.bits.fill(0);
        (self.next, self.began, self.tally) = (None, 0, Tally::default());
    }

    /// A frame with this number came.
    #[inline]
    pub fn frame(&mut self, number: u64) {
        let number = number & MASK;
        let Some(next) = self.next else { return self.restart(number) };
        let ahead = number.wrapping_sub(next) & MASK;
        if ahead == 0 {
            self.advance(number, 1);
        } else if ahead < JUMP {
            self.tally.lost += ahead;
            self.advance(number, ahead + 1);
        } else {
            self.behind(number, next.wrapping_sub(number) & MASK);
        }
    }

    /// A number `back` before the next: at least 1.
    fn behind(&mut self, number: u64, back: u64) {
        if back > JUMP {
            self.tally.restarts += 1;
            return self.restart(number);
        }
        if back > WINDOW || back > self.span() {
            self.tally.late += 1;
            return;
        }
        let (word, bit) = place(number);
        if self.bits[word] & bit != 0 {
            self.tally.duplicates += 1;
            return;
        }
        self.bits[word] |= bit;
        self.tally.received += 1;
        self.tally.reordered += 1;
        self.tally.lost = self.tally.lost.saturating_sub(1);
    }

    /// Numbers from the beginning to the highest.
    fn span(&self) -> u64 {
        self.next.map_or(0, |next| next.wrapping_sub(self.began) & MASK)
    }

    fn restart(&mut self, number: u64) {
        self.bits.fill(0);
        self.began = number;
        self.advance(number, 1);
    }

    /// The window moves by `by`, to end with `number`.
    fn advance(&mut self, number: u64, by: u64) {
        if by >= WINDOW {
            self.bits.fill(0);
        } else {
            for skipped in 1..by {
                let (word, bit) = place(number.wrapping_sub(skipped));
                self.bits[word] &= !bit;
            }
        }
        let (word, bit) = place(number);
        self.bits[word] |= bit;
        self.next = Some((number + 1) & MASK);
        self.tally.received += 1;
    }
}

fn place(number: u64) -> (usize, u64) {
    let at = number % WINDOW;
    (usize::try_from(at / 64).unwrap_or(0), 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn track(numbers: impl IntoIterator<Item = u64>) -> Tally {
        let mut tracker = Tracker::default();
        numbers.into_iter().for_each(|number| tracker.frame(number));
        tracker.tally()
    }

    #[test]
    fn in_order_with_a_gap() {
        let tally = track((5..100).chain(110..200));
        assert_eq!(tally, Tally { received: 185, lost: 10, ..Default::default() });
    }

    #[test]
    fn late_arrivals_are_reordered_not_lost() {
        let tally = track([0, 1, 4, 2, 3, 3, 5]);
        assert_eq!(tally, Tally { received: 6, reordered: 2, duplicates: 1, ..Default::default() });
    }

    #[test]
    fn the_window_ends() {
        let tally = track([0, 70_000, 1, 70_000 - 65_535]);
        assert_eq!(tally.late, 1);
        assert_eq!((tally.received, tally.lost, tally.reordered), (3, 69_998, 1));
    }

    #[test]
    fn numbers_wrap() {
        let top = MASK - 2;
        let tally = track([top, top + 1, top + 2, 0, 1, 3, 2]);
        assert_eq!(tally, Tally { received: 7, reordered: 1, ..Default::default() });
    }

    #[test]
    fn a_sender_starts_again() {
        let tally = track((1 << 40..(1 << 40) + 10).chain(0..10));
        assert_eq!(tally, Tally { received: 20, restarts: 1, ..Default::default() });
        assert_eq!(track([7, 3]).late, 1, "before the first frame nothing is known");
    }

    proptest! {
        /// Losses, duplicates and displacements within the window: the tally is what a set says.
        #[test]
        fn as_a_set_says(
            start in 0..=MASK,
            moves in proptest::collection::vec((0..2000u64, 0..1000u64), 1..400),
        ) {
            let numbers: Vec<u64> = std::iter::once(0)
                .chain(moves.iter().enumerate().map(|(i, (step, back))| (i as u64 + step).saturating_sub(*back)))
                .collect();
            let tally = track(numbers.iter().map(|number| start.wrapping_add(*number) & MASK));
            let (mut seen, mut highest, mut reordered) = (HashSet::new(), 0, 0);
            for number in &numbers {
                reordered += u64::from(seen.insert(*number) && *number < highest);
                highest = highest.max(*number);
            }
            let unique = seen.len() as u64;
            prop_assert_eq!(tally.received, unique);
            prop_assert_eq!(tally.lost, highest + 1 - unique);
            prop_assert_eq!(tally.duplicates, numbers.len() as u64 - unique);
            prop_assert_eq!(tally.reordered, reordered);
            prop_assert_eq!((tally.late, tally.restarts), (0, 0));
        }

        /// Forged numbers: every frame is counted once, and nothing overflows.
        #[test]
        fn forged(numbers in proptest::collection::vec(any::<u64>(), 0..300)) {
            let tally = track(numbers.iter().copied());
            prop_assert_eq!(tally.received + tally.duplicates + tally.late, numbers.len() as u64);
        }
    }
}
