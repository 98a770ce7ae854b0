//! Sizes of frames: one, several in turn, or a mix.
//!
//! All sizes are bytes of the frame without its check sequence (4 bytes, added by a card). On a wire a frame takes
//! [`WIRE`] bytes more: preamble, check sequence and gap. "Line rate" counts those.

use std::str::FromStr;

use super::flow::{self, SIZES};

/// Bytes that a frame takes on an Ethernet wire beside itself: 8 preamble, 4 check sequence, 12 gap.
pub const WIRE: usize = 24;

/// The simple internet mix: 7 of 40, 4 of 576 and 1 of 1500 bytes of IP.
const IMIX: [(usize, usize); 3] = [(60, 7), (590, 4), (1514, 1)];

/// Most frames of one round through a mix.
const ROUND: usize = 256;

/// Why a list of sizes is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not numbers.
    #[error("`{0}` is no list of sizes such as `60`, `60,1514`, `60:7,590:4,1514:1` or `imix`")]
    Text(String),
    /// Out of range.
    #[error(transparent)]
    Size(#[from] flow::Error),
    /// The weights are too large.
    #[error("`{0}`: the weights add up to more than {ROUND}")]
    Weights(String),
}

/// Sizes with their weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Different sizes, and how many frames of a round have it.
    pub weights: Vec<(usize, usize)>,
}

impl Sizes {
    /// Frames of one size.
    pub fn one(size: usize) -> Self {
        Self { weights: vec![(size, 1)] }
    }

    /// Mean bytes of a frame.
    pub fn mean(&self) -> f64 {
        let (bytes, frames) =
            self.weights.iter().fold((0, 0), |(b, n), (size, weight)| (b + size * weight, n + weight));
        bytes as f64 / frames as f64
    }

    /// The longest.
    pub fn longest(&self) -> usize {
        self.weights.iter().map(|(size, _)| *size).max().unwrap_or(0)
    }

    /// A round: the index of each frame's size, evenly spread.
    pub fn round(&self) -> Vec<usize> {
        let total: usize = self.weights.iter().map(|(_, weight)| weight).sum();
        let mut debts = vec![0; self.weights.len()];
        let mut round = Vec::with_capacity(total);
        for _ in 0..total {
            // Whoever is owed most is next.
            for (debt, (_, weight)) in debts.iter_mut().zip(&self.weights) {
                *debt += i64::try_from(*weight).unwrap_or(i64::MAX);
            }
            let next = (0..debts.len()).max_by_key(|i| (debts[*i], usize::MAX - i)).unwrap_or(0);
            debts[next] -= i64::try_from(total).unwrap_or(i64::MAX);
            round.push(next);
        }
        round
    }
}

impl FromStr for Sizes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.eq_ignore_ascii_case("imix") {
            return Ok(Self { weights: IMIX.to_vec() });
        }
        let bad = || Error::Text(text.into());
        let mut weights = Vec::new();
        for part in text.split(',') {
            let (size, weight) = part.split_once(':').unwrap_or((part, "1"));
            let number = |text: &str| text.trim().parse::<usize>().map_err(|_| bad());
            let (size, weight) = (number(size)?, number(weight)?);
            if weight == 0 {
                return Err(bad());
            }
            if !SIZES.contains(&size) {
                return Err(flow::Error::Size(size).into());
            }
            weights.push((size, weight));
        }
        if weights.iter().fold(0usize, |sum, (_, weight)| sum.saturating_add(*weight)) > ROUND {
            return Err(Error::Weights(text.into()));
        }
        Ok(Self { weights })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_is_spread_evenly() {
        let mix: Sizes = "imix".parse().unwrap();
        let round = mix.round();
        assert_eq!(round.len(), 12);
        for (i, (_, weight)) in mix.weights.iter().enumerate() {
            assert_eq!(round.iter().filter(|at| **at == i).count(), *weight);
        }
        // No two frames of the rarer sizes follow each other.
        assert!(round.windows(2).all(|pair| pair[0] == 0 || pair[1] == 0), "{round:?}");
        assert_eq!(mix.mean().round(), 358.0);
        assert_eq!(mix.longest(), 1514);
    }

    #[test]
    fn what_is_refused() {
        for text in ["", "x", "60:0", "60,", "60:x"] {
            assert!(matches!(text.parse::<Sizes>(), Err(Error::Text(_))), "{text}");
        }
        for text in ["59", "9001", "60,1"] {
            assert!(matches!(text.parse::<Sizes>(), Err(Error::Size(_))), "{text}");
        }
        assert!(matches!("60:18446744073709551615,61".parse::<Sizes>(), Err(Error::Weights(_))));
    }
}
