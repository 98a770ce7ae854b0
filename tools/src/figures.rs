//! Figures of all rounds, their medians, and ratios to a base.
//!
//! A ratio is the median of the rounds' own ratios: subject and base are measured one shortly after the other, so what
//! disturbs a machine for seconds disturbs both. Its spread is the least and the greatest of them.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use serde::Serialize;

use crate::report::median;

/// What was found.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// Each measure of each subject.
    pub figures: Vec<Figure>,
    /// The ratios.
    pub comparisons: Vec<Comparison>,
    /// What could not be measured, and why.
    pub missing: BTreeMap<String, String>,
}

/// How to measure.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Rounds over all subjects.
    pub rounds: u32,
    /// Time of each measurement.
    pub time: Duration,
    /// Only subjects whose name begins so; empty: all.
    pub only: Vec<String>,
}

impl Bench {
    /// Whether a subject is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(&**only))
    }
}

/// A measure.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Name for tables.
    pub name: &'static str,
    /// Unit.
    pub unit: &'static str,
    /// Whether less is better.
    pub less: bool,
}

/// A ratio that is shown: of which measure, what over what, and what the project wants of it, if it wants something.
pub type Wanted<'a> = (&'static str, &'a str, &'a str, Option<f64>);

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
    /// Summary of the rounds.
    pub fn new(measure: &str, unit: &'static str, subject: String, rounds: Vec<f64>) -> Self {
        Self { measure: measure.to_owned(), unit, subject, median: median(rounds.clone()), rounds }
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
    pub fn new(
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

impl Findings {
    /// Measures subjects in rounds, each time in another order. `of` gives a value for each column; what fails is not
    /// measured again, and said to be missing.
    pub fn rounds<S>(
        &mut self,
        bench: &Bench,
        subjects: &mut [(String, S)],
        columns: &[Column],
        wanted: &[Wanted<'_>],
        mut of: impl FnMut(&mut S) -> Result<Vec<f64>>,
    ) {
        let rounds = bench.rounds as usize;
        let mut values: Vec<Vec<Vec<f64>>> = vec![Vec::new(); subjects.len()];
        for round in 0..rounds {
            for i in 0..subjects.len() {
                // Forth and back, so that nobody always comes after the same one.
                let at = if round % 2 == 0 { i } else { subjects.len() - 1 - i };
                let (name, subject) = &mut subjects[at];
                if !bench.wants(name) || self.missing.contains_key(name.as_str()) {
                    continue;
                }
                eprintln!("round {} of {rounds}: {name}", round + 1);
                match of(subject) {
                    Ok(row) => values[at].push(row),
                    Err(error) => {
                        self.missing.insert(name.clone(), format!("{error:#}"));
                        values[at].clear();
                    }
                }
            }
        }
        let column = |at: usize, column: usize| -> Vec<f64> {
            values[at].iter().filter_map(|row| row.get(column).copied()).collect()
        };
        for (number, Column { name, unit, less }) in columns.iter().enumerate() {
            for (at, (subject, _)) in subjects.iter().enumerate().filter(|(at, _)| !values[*at].is_empty()) {
                self.figures.push(Figure::new(name, unit, subject.clone(), column(at, number)));
            }
            for (_, over, under, goal) in wanted.iter().filter(|(of, ..)| of == name) {
                let of = |name: &str| {
                    let at = subjects.iter().position(|(subject, _)| subject == name)?;
                    Some(column(at, number)).filter(|rounds| !rounds.is_empty())
                };
                if let (Some(over_rounds), Some(under_rounds)) = (of(over), of(under)) {
                    let pairs: Vec<_> = over_rounds.into_iter().zip(under_rounds).collect();
                    self.comparisons.push(Comparison::new(name, *less, (over, under), &pairs, *goal));
                }
            }
        }
    }

    /// The tables.
    pub fn print(&self) {
        print(&self.figures, &self.comparisons);
        for (what, why) in &self.missing {
            println!("\nnot measured: {what}: {why}");
        }
    }
}

fn print(figures: &[Figure], comparisons: &[Comparison]) {
    if !figures.is_empty() {
        println!("\n{:<18}{:<18}{:>10}  {:<8} rounds", "measure", "of", "median", "");
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
        let rate = Comparison::new("requests", false, ("a", "b"), &pairs, Some(0.95));
        assert!(
            (rate.value - 0.9).abs() < 1e-9
                && (rate.low - 0.9).abs() < 1e-9
                && (rate.high - 0.92).abs() < 1e-9
        );
        let time = Comparison::new("tcp-rtt", true, ("a", "b"), &[(10.0, 20.0)], None);
        assert!((time.value - 2.0).abs() < 1e-9);
        assert_eq!(time.of, "tcp-rtt: a / b");
    }

    #[test]
    fn rounds_make_figures_and_ratios() {
        let columns = [
            Column { name: "rate", unit: "1/s", less: false },
            Column { name: "p50", unit: "us", less: true },
        ];
        let mut subjects = [("a".to_owned(), 2.0), ("b".to_owned(), 1.0), ("c".to_owned(), 0.0)];
        let mut findings = Findings::default();
        let wanted = [("rate", "a", "b", Some(1.5)), ("p50", "a", "b", None), ("rate", "a", "c", None)];
        let bench = Bench { rounds: 3, time: Duration::ZERO, only: Vec::new() };
        findings.rounds(&bench, &mut subjects, &columns, &wanted, |subject| {
            anyhow::ensure!(*subject > 0.0, "nothing");
            Ok(vec![*subject, 10.0 / *subject])
        });
        assert_eq!(findings.missing["c"], "nothing");
        assert_eq!(findings.figures.len(), 4);
        let ratios: Vec<_> = findings.comparisons.iter().map(|c| (c.of.as_str(), c.value)).collect();
        assert_eq!(ratios, [("rate: a / b", 2.0), ("p50: a / b", 2.0)]);
    }
}
