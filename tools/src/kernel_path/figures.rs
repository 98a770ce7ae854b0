//! Figures of all rounds, their medians, and ratios to a base.
//!
//! A ratio is the median of the rounds' own ratios: subject and base are measured one shortly after the other, so what
//! disturbs a machine for seconds disturbs both. Its spread is the least and the greatest of them.

use serde::Serialize;

use super::measure::Measure;
use crate::report::median;

/// A subject's rounds of one measure.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What is measured.
    pub measure: String,
    /// Unit.
    pub unit: &'static str,
    /// Where.
    pub subject: String,
    /// The median of the rounds.
    pub median: f64,
    /// Each round.
    pub rounds: Vec<f64>,
}

impl Figure {
    /// What an operation of a measure costs: microseconds of both CPUs, the client's and the generator's included.
    pub fn cost(measure: Measure, subject: String, rounds: Vec<f64>) -> Self {
        let measure = format!("{} cpu", measure.name());
        Self { measure, unit: "us/op", subject, median: median(rounds.clone()), rounds }
    }

    /// Summary of the rounds.
    pub fn new(measure: Measure, subject: String, rounds: Vec<f64>) -> Self {
        let (measure, unit) = (measure.name().to_owned(), measure.unit());
        Self { measure, unit, subject, median: median(rounds.clone()), rounds }
    }
}

/// How a subject does beside a base; above 1 it is better, for times too.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// Measure: what over what.
    pub of: String,
    /// Median of the rounds' ratios.
    pub value: f64,
    /// The least of them.
    pub low: f64,
    /// The greatest.
    pub high: f64,
    /// What the project wants at least, if it wants something.
    pub goal: Option<f64>,
}

impl Comparison {
    /// Of two subjects' rounds, pair by pair.
    pub fn new(measure: Measure, subject: &str, base: &str, pairs: &[(f64, f64)], goal: Option<f64>) -> Self {
        Self::of(measure.name(), measure.is_time(), (subject, base), pairs, goal)
    }

    /// Of what operations cost, pair by pair.
    pub fn cost(measure: Measure, subject: &str, base: &str, pairs: &[(f64, f64)]) -> Self {
        Self::of(&format!("{} cpu", measure.name()), true, (subject, base), pairs, None)
    }

    fn of(
        name: &str,
        less_is_better: bool,
        (subject, base): (&str, &str),
        pairs: &[(f64, f64)],
        goal: Option<f64>,
    ) -> Self {
        let better =
            |&(subject, base): &(f64, f64)| if less_is_better { base / subject } else { subject / base };
        let ratios: Vec<f64> = pairs.iter().map(better).collect();
        Self {
            of: format!("{name}: {subject} / {base}"),
            value: median(ratios.clone()),
            low: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            high: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            goal,
        }
    }
}

/// Both tables.
pub fn print(figures: &[Figure], comparisons: &[Comparison]) {
    if !figures.is_empty() {
        println!("\n{:<18}{:<18}{:>10}  {:<8} rounds", "measure", "server in", "median", "");
    }
    for Figure { measure, unit, subject, median, rounds } in figures {
        let rounds: Vec<String> = rounds.iter().map(|value| format!("{value:.2}")).collect();
        println!("{measure:<18}{subject:<18}{median:>10.2}  {unit:<8} {}", rounds.join(" "));
    }
    if !comparisons.is_empty() {
        println!("\n{:<50}{:>7}{:>7}   spread", "ratio (above 1: better)", "is", "goal");
    }
    for Comparison { of, value, low, high, goal } in comparisons {
        let (goal, verdict) = match goal {
            Some(goal) => (format!("{goal:.2}"), if value >= goal { "met" } else { "MISSED" }),
            None => (String::new(), ""),
        };
        println!("{of:<50}{value:>7.2}{goal:>7}   {low:.2} to {high:.2}  {verdict}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_pairs_and_times_count_the_other_way_round() {
        // The machine became twice as fast in the middle: no ratio of medians would be 0.9.
        let pairs = [(90.0, 100.0), (180.0, 200.0), (184.0, 200.0)];
        let rate = Comparison::new(Measure::Requests, "a", "b", &pairs, Some(0.95));
        assert!(
            (rate.value - 0.9).abs() < 1e-9
                && (rate.low - 0.9).abs() < 1e-9
                && (rate.high - 0.92).abs() < 1e-9
        );
        let time = Comparison::new(Measure::TcpRoundTrip, "a", "b", &[(10.0, 20.0)], None);
        assert!((time.value - 2.0).abs() < 1e-9);
        assert_eq!(time.of, "tcp-rtt: a / b");
    }
}
