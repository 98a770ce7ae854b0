//! When to send: a rate, kept evenly, or in bursts.
//!
//! A sender asks once for each batch how many frames are due. Between questions credit grows with the time; what a
//! sender that was held up cannot make good within a millisecond is forgotten, and counted: it would be a burst that
//! nobody asked for.

use std::{str::FromStr, time::Duration};

use super::sizes::WIRE;

/// How much lost time is made good, in nanoseconds.
const CATCH_UP: f64 = 1e6;

/// A rate as an operator writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Rate {
    /// As fast as possible.
    #[default]
    Max,
    /// Frames per second.
    Packets(f64),
    /// Bits per second on the wire, with preamble, check sequence and gap.
    Bits(f64),
}

/// Why a rate is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no rate such as `max`, `10k` or `1.5Mpps` (frames per second), `100Mbit` or `10Gbit` (on the wire)"
)]
pub struct Error(String);

impl Rate {
    /// Frames per second, if frames have `mean` bytes; none: as many as possible.
    pub fn packets(self, mean: f64) -> Option<f64> {
        match self {
            Self::Max => None,
            Self::Packets(rate) => Some(rate),
            Self::Bits(rate) => Some(rate / ((mean + WIRE as f64) * 8.0)),
        }
    }
}

impl FromStr for Rate {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error(text.into());
        let lower = text.trim().to_ascii_lowercase();
        if lower == "max" {
            return Ok(Self::Max);
        }
        let (body, bits) = match lower.strip_suffix("bit").or_else(|| lower.strip_suffix("bit/s")) {
            Some(body) => (body, true),
            None => (lower.strip_suffix("pps").unwrap_or(&lower), false),
        };
        let (body, unit) = match body.strip_suffix(['k', 'm', 'g']) {
            Some(rest) if body.ends_with('k') => (rest, 1e3),
            Some(rest) if body.ends_with('m') => (rest, 1e6),
            Some(rest) => (rest, 1e9),
            None => (body, 1.0),
        };
        let number: f64 = body.trim().parse().map_err(|_| bad())?;
        let rate = number * unit;
        // Beyond a terabit nothing is meant.
        if !(rate > 0.0 && rate <= 1e12) {
            return Err(bad());
        }
        Ok(if bits { Self::Bits(rate) } else { Self::Packets(rate) })
    }
}

/// Decides how many frames are due.
#[derive(Clone, Debug)]
pub struct Pacer {
    /// Frames per nanosecond.
    rate: Option<f64>,
    burst: usize,
    credit: f64,
    /// Of a burst that is going out.
    owed: usize,
    most: f64,
    last: u64,
    forgotten: f64,
}

impl Pacer {
    /// From `now` on `rate` frames per second (none: always due), in bursts of `burst` (1: evenly).
    pub fn new(rate: Option<f64>, burst: usize, now: u64) -> Self {
        let (rate, burst) = (rate.map(|rate| rate / 1e9), burst.max(1));
        let most = rate.map_or(0.0, |rate| rate * CATCH_UP + burst as f64);
        Self { rate, burst, credit: 0.0, owed: 0, most, last: now, forgotten: 0.0 }
    }

    /// How many frames are due at `now`, at most `most`; they count as sent. A burst that does not fit comes whole
    /// in several answers.
    #[inline]
    pub fn due(&mut self, now: u64, most: usize) -> usize {
        let Some(rate) = self.rate else { return most };
        self.credit += now.saturating_sub(self.last) as f64 * rate;
        self.last = self.last.max(now);
        if self.credit > self.most {
            self.forgotten += self.credit - self.most;
            self.credit = self.most;
        }
        let whole = to_usize(self.credit) / self.burst * self.burst;
        self.credit -= whole as f64;
        self.owed += whole;
        let due = self.owed.min(most);
        self.owed -= due;
        due
    }

    /// Gives back frames that were due and could not be sent.
    #[inline]
    pub fn unsent(&mut self, frames: usize) {
        if self.rate.is_some() {
            self.owed += frames;
        }
    }

    /// How long until the next is due.
    pub fn pause(&self) -> Duration {
        self.rate.map_or(Duration::ZERO, |rate| {
            let missing = if self.owed > 0 { 0.0 } else { (self.burst as f64 - self.credit).max(0.0) };
            Duration::from_secs_f64((missing / rate / 1e9).min(1.0))
        })
    }

    /// Frames that were never sent since the sender was held up.
    pub fn forgotten(&self) -> u64 {
        to_usize(self.forgotten) as u64
    }
}

/// When the frames of a capture went out.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Nanoseconds since the first one.
    offsets: Vec<u64>,
    begin: u64,
    at: usize,
}

impl Timeline {
    /// From `now` on, as captured; `offsets` in order.
    pub fn new(offsets: Vec<u64>, now: u64) -> Self {
        Self { offsets, begin: now, at: 0 }
    }

    fn due(&mut self, now: u64, most: usize) -> usize {
        let past = now.saturating_sub(self.begin);
        let due = self.offsets[self.at..].iter().take(most).take_while(|offset| **offset <= past).count();
        self.at += due;
        due
    }
}

/// A rate, or the times of a capture (once).
#[derive(Clone, Debug)]
pub enum Pace {
    /// By rate.
    Rate(Pacer),
    /// By time.
    Times(Timeline),
}

impl Pace {
    /// As [`Pacer::due`].
    #[inline]
    pub fn due(&mut self, now: u64, most: usize) -> usize {
        match self {
            Self::Rate(pacer) => pacer.due(now, most),
            Self::Times(times) => times.due(now, most),
        }
    }

    /// As [`Pacer::unsent`].
    #[inline]
    pub fn unsent(&mut self, frames: usize) {
        match self {
            Self::Rate(pacer) => pacer.unsent(frames),
            Self::Times(times) => times.at = times.at.saturating_sub(frames),
        }
    }

    /// How long until the next is due.
    pub fn pause(&self, now: u64) -> Duration {
        match self {
            Self::Rate(pacer) => pacer.pause(),
            Self::Times(times) => {
                let next =
                    times.offsets.get(times.at).map_or(0, |offset| times.begin.saturating_add(*offset));
                Duration::from_nanos(next.saturating_sub(now))
            }
        }
    }

    /// Nothing will be due any more.
    pub fn ended(&self) -> bool {
        matches!(self, Self::Times(times) if times.at == times.offsets.len())
    }

    /// As [`Pacer::forgotten`].
    pub fn forgotten(&self) -> u64 {
        match self {
            Self::Rate(pacer) => pacer.forgotten(),
            Self::Times(_) => 0,
        }
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the conversion saturates, and negative numbers become 0")]
fn to_usize(x: f64) -> usize {
    x as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates() {
        assert_eq!("max".parse(), Ok(Rate::Max));
        assert_eq!("1.5Mpps".parse(), Ok(Rate::Packets(1.5e6)));
        assert_eq!("10k".parse(), Ok(Rate::Packets(1e4)));
        assert_eq!("10Gbit".parse(), Ok(Rate::Bits(1e10)));
        assert_eq!("100mbit/s".parse(), Ok(Rate::Bits(1e8)));
        // The line rate of 10 Gbit/s at 64 bytes with check sequence.
        assert_eq!(Rate::Bits(1e10).packets(60.0).unwrap().round(), 14_880_952.0);
        for text in ["", "x", "-1", "0", "inf", "nan", "1e99", "10 apples", "k"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }

    #[test]
    fn bursts_come_whole() {
        let mut pacer = Pacer::new(Some(1e6), 100, 0);
        assert_eq!(pacer.due(99_000, 1000), 0);
        assert_eq!(pacer.due(100_500, 1000), 100);
        assert_eq!(pacer.due(150_000, 1000), 0);
        assert!(pacer.pause() > Duration::from_micros(49));
        assert_eq!([pacer.due(200_500, 60), pacer.due(200_500, 60), pacer.due(200_500, 60)], [60, 40, 0]);
    }

    #[test]
    fn as_captured() {
        let mut pace = Pace::Times(Timeline::new(vec![0, 10, 10, 500], 1000));
        assert_eq!(
            [pace.due(1000, 9), pace.due(1009, 9), pace.due(1010, 1), pace.due(1010, 9)],
            [1, 0, 1, 1]
        );
        assert_eq!(pace.pause(1010), Duration::from_nanos(490));
        pace.unsent(1);
        assert_eq!((pace.due(1500, 9), pace.ended()), (2, true));
    }

    #[test]
    fn who_was_held_up_does_not_flood() {
        let mut pacer = Pacer::new(Some(1e6), 1, 0);
        assert_eq!(pacer.due(1_000_000_000, usize::MAX), 1001);
        assert_eq!(pacer.forgotten(), 998_999);
    }

    proptest! {
        /// Whatever the times of asking: never ahead of the rate, and never behind it by more than one batch.
        #[test]
        fn keeps_the_rate(rate in 1e3..2e7f64, steps in proptest::collection::vec(1..900_000u64, 1..200)) {
            let mut pacer = Pacer::new(Some(rate), 1, 0);
            let (mut now, mut sent) = (0, 0);
            for step in steps {
                now += step;
                sent += pacer.due(now, usize::MAX);
                let owed = now as f64 * rate / 1e9;
                prop_assert!(sent as f64 <= owed + 1e-3 && sent as f64 >= owed - 1.001, "{sent} of {owed}");
            }
        }

        #[test]
        fn any_text(text in "[0-9.a-z-]{0,12}") {
            let _ = text.parse::<Rate>();
        }
    }
}
