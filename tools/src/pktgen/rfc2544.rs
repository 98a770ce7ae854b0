//! The search for throughput (RFC 2544, 26.1): the highest rate at which no more frames are lost than tolerated, by
//! bisection. The search is a pure function of what the trials say.

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Highest rate in frames per second; trials begin here.
    pub most: f64,
    /// The search ends when the interval is so narrow, as a fraction of `most`.
    pub resolution: f64,
    /// Tolerated loss as a fraction of the frames sent.
    pub tolerance: f64,
}

/// What a trial found.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Trial {
    /// Frames per second that were asked for.
    pub asked: f64,
    /// Frames per second that were sent.
    pub offered: f64,
    /// Frames sent.
    pub sent: u64,
    /// Frames received.
    pub received: u64,
}

impl Trial {
    /// Fraction of the frames that did not arrive; all, if none was sent.
    pub fn loss(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { self.sent.saturating_sub(self.received) as f64 / self.sent as f64 }
    }
}

/// Result of a search.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Found {
    /// The best trial that passed, if any did.
    pub best: Option<Trial>,
    /// Whether the generator, not the device, was the limit of the best trial.
    pub generator_bound: bool,
    /// All trials, in order.
    pub trials: Vec<Trial>,
}

/// A sender that makes less than this of what was asked for is at its own limit.
const ENOUGH: f64 = 0.98;
/// Most trials, whatever the resolution: the interval halves with each.
const TRIALS: usize = 40;

impl Search {
    /// Bisects; `trial` sends at a rate and says what came of it.
    ///
    /// # Errors
    /// The first of `trial`.
    pub fn run<E>(&self, mut trial: impl FnMut(f64) -> Result<Trial, E>) -> Result<Found, E> {
        let (mut low, mut high) = (0.0, self.most);
        // The most that the generator has made so far.
        let mut made: f64 = 0.0;
        let mut found = Found { best: None, generator_bound: false, trials: Vec::new() };
        let mut rate = self.most;
        let step = self.most * self.resolution.max(1e-9);
        while found.trials.len() < TRIALS && rate > 0.0 {
            let result = trial(rate)?;
            found.trials.push(result);
            let passed = result.sent > 0 && result.loss() <= self.tolerance;
            if passed {
                if found.best.is_none_or(|best| result.offered > best.offered) {
                    found.best = Some(result);
                    found.generator_bound = result.offered < rate * ENOUGH;
                }
                // Asking for more than the generator can make finds nothing. One that has made more was held up.
                if rate >= self.most || result.offered < rate * ENOUGH && made < rate {
                    break;
                }
                low = rate;
            } else {
                high = rate;
            }
            made = made.max(result.offered);
            if high - low <= step {
                break;
            }
            rate = (low + high) / 2.0;
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    /// A device that carries `capacity`, a generator that makes `ceiling`.
    fn search(capacity: f64, ceiling: f64, search: Search) -> Found {
        let trial = |asked: f64| {
            let offered = asked.min(ceiling);
            let (sent, carried) = (offered.round(), offered.min(capacity).round());
            let whole = |x: f64| format!("{x:.0}").parse().unwrap();
            Ok::<_, Infallible>(Trial { asked, offered, sent: whole(sent), received: whole(carried) })
        };
        let Ok(found) = search.run(trial);
        found
    }

    const SEARCH: Search = Search { most: 10e6, resolution: 0.005, tolerance: 0.0 };

    #[test]
    fn the_line_itself() {
        let found = search(20e6, 20e6, SEARCH);
        assert_eq!(found.trials.len(), 1);
        assert_eq!(found.best.unwrap().offered, 10e6);
        assert!(!found.generator_bound);
    }

    #[test]
    fn a_generator_that_is_too_slow_says_so() {
        let found = search(20e6, 3e6, SEARCH);
        assert_eq!(found.best.unwrap().offered, 3e6);
        assert!(found.generator_bound);
        let found = search(2e6, 3e6, SEARCH);
        let best = found.best.unwrap().offered;
        assert!((1.95e6..=2e6).contains(&best), "{best}");
        assert!(!found.generator_bound);
    }

    #[test]
    fn nothing_arrives() {
        let found = search(0.0, 20e6, SEARCH);
        assert_eq!(found.best, None);
        assert!(found.trials.len() < 20);
        let found =
            SEARCH.run(|asked| Ok::<_, Infallible>(Trial { asked, offered: 0.0, sent: 0, received: 0 }));
        assert_eq!(found.unwrap().best, None);
    }

    #[test]
    fn a_generator_that_was_held_up_once() {
        let mut calls = 0;
        let found = SEARCH.run(|asked| {
            calls += 1;
            // The second trial gets only half of its frames out.
            let offered = if calls == 2 { asked / 2.0 } else { asked };
            let carried = offered.min(7e6);
            let whole = |x: f64| format!("{x:.0}").parse().unwrap();
            Ok::<_, Infallible>(Trial { asked, offered, sent: whole(offered), received: whole(carried) })
        });
        let best = found.unwrap().best.unwrap().offered;
        assert!((6.9e6..=7e6).contains(&best), "{best}");
    }

    #[test]
    fn tolerated_loss() {
        // 1 % of loss are tolerated: 1.01 times the capacity passes.
        let found = search(5e6, 20e6, Search { tolerance: 0.01, ..SEARCH });
        let best = found.best.unwrap().offered;
        assert!(best > 4.99e6 && best <= 5.06e6, "{best}");
    }

    proptest! {
        #[test]
        fn finds_the_capacity(capacity in 1e5..1e7f64, ceiling in 1e5..2e7f64) {
            let found = search(capacity, ceiling, SEARCH);
            let right = capacity.min(ceiling).min(SEARCH.most);
            let best = found.best.unwrap().offered;
            prop_assert!(best <= right + 1.0, "{best} of {right}");
            prop_assert!(best >= right - SEARCH.most * SEARCH.resolution - 1.0, "{best} of {right}");
            prop_assert!(found.trials.len() < 16);
        }
    }
}
