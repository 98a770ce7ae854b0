//! Medians, ratios, and their two forms: a table for people, JSON for programs.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{cost::Cost, figures::Findings, subject::Sample};

/// Everything that a run of the bench found.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Kernel release, CPU count: without them the figures mean little.
    pub machine: Machine,
    /// In the order of measurement; one entry for each subject and size.
    pub rates: Vec<Rate>,
    /// Ratios of the medians that the project's goals speak of.
    pub ratios: Vec<Ratio>,
    /// What adding a compartment costs.
    pub costs: Vec<Cost>,
    /// What was measured side by side in rounds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub findings: Option<Findings>,
    /// Subjects that could not be measured, and why.
    pub missing: BTreeMap<String, String>,
}

/// Where the figures come from.
#[derive(Debug, Default, Serialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// Online CPUs.
    pub cpus: usize,
    /// Runnable processes per CPU over the last minute before the run: near 0, or the figures are worthless.
    pub load: f64,
}

/// A subject's rounds at one frame size.
#[derive(Debug, Serialize)]
pub struct Rate {
    /// Subject.
    pub subject: String,
    /// Frame size in bytes.
    pub size: usize,
    /// Delivered frames per second of each round.
    pub rounds: Vec<f64>,
    /// Their median.
    pub delivered: f64,
    /// Median of the frames per second offered.
    pub offered: f64,
}

/// A comparison.
#[derive(Debug, Serialize)]
pub struct Ratio {
    /// What over what.
    pub of: String,
    /// The ratio of the medians.
    pub value: f64,
    /// What the project wants at least.
    pub goal: f64,
}

impl Rate {
    /// Summary of a subject's samples.
    pub fn new(subject: String, size: usize, samples: &[Sample]) -> Self {
        let rounds: Vec<f64> = samples.iter().map(|sample| sample.delivered).collect();
        let offered = median(samples.iter().map(|sample| sample.offered).collect());
        Self { subject, size, delivered: median(rounds.clone()), rounds, offered }
    }
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let load = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok());
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            cpus,
            load: load.unwrap_or(0.0) / cpus as f64,
        }
    }
}

impl Report {
    /// Delivered rate of a subject.
    fn delivered(&self, subject: &str, size: usize) -> Option<f64> {
        let rate = self.rates.iter().find(|rate| rate.subject == subject && rate.size == size);
        rate.map(|rate| rate.delivered)
    }

    /// Fills in the ratios whose both sides were measured. `many` is the subject with many compartments.
    pub fn compare(&mut self, sizes: &[usize], many: &str) {
        for &size in sizes {
            for (over, under, goal) in
                [("afnet", "dpdk", 1.0), ("afnet", "netns+bridge", 6.0), (many, "afnet", 0.85)]
            {
                if let (Some(over_rate), Some(under_rate)) =
                    (self.delivered(over, size), self.delivered(under, size))
                {
                    let of = format!("{over} / {under} at {size} B");
                    self.ratios.push(Ratio { of, value: over_rate / under_rate, goal });
                }
            }
        }
    }

    /// The table.
    pub fn print(&self) {
        let Machine { kernel, cpus, load } = &self.machine;
        println!("\nkernel {kernel}, {cpus} CPUs, load per CPU before the run {load:.2}");
        if *load > 0.3 {
            println!("this machine was busy: do not trust the figures");
        }
        if !self.rates.is_empty() {
            println!("\n{:<16}{:>8}{:>14}{:>14}   rounds", "delivered", "bytes", "M packets/s", "offered");
        }
        for rate in &self.rates {
            let rounds: Vec<String> = rate.rounds.iter().map(|rate| format!("{:.2}", rate / 1e6)).collect();
            println!(
                "{:<16}{:>8}{:>14.2}{:>14.2}   {}",
                rate.subject,
                rate.size,
                rate.delivered / 1e6,
                rate.offered / 1e6,
                rounds.join(" ")
            );
        }
        if !self.ratios.is_empty() {
            println!("\n{:<40}{:>8}{:>8}", "ratio", "is", "goal");
        }
        for Ratio { of, value, goal } in &self.ratios {
            let verdict = if value >= goal { "met" } else { "MISSED" };
            println!("{of:<40}{value:>8.2}{goal:>8.2}  {verdict}");
        }
        if !self.costs.is_empty() {
            println!(
                "\n{:<24}{:>8}{:>14}{:>14}",
                "a container with address", "number", "ms each", "KiB each"
            );
        }
        for Cost { way, number, milliseconds, kibibytes } in &self.costs {
            println!("{way:<24}{number:>8}{milliseconds:>14.3}{kibibytes:>14.1}");
        }
        self.findings.iter().for_each(Findings::print);
        for (subject, why) in &self.missing {
            println!("\nnot measured: {subject}: {why}");
        }
    }
}

/// The middle value; the mean of the two middle ones.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn ratios_need_both_sides() {
        let mut report = Report::default();
        for (subject, delivered) in [("afnet", 3.0), ("netns+bridge", 0.5)] {
            report.rates.push(Rate::new(subject.into(), 64, &[Sample { offered: 9.0, delivered }]));
        }
        report.compare(&[64, 1400], "afnet-1024");
        let ratios: Vec<_> = report.ratios.iter().map(|ratio| (ratio.of.as_str(), ratio.value)).collect();
        assert_eq!(ratios, [("afnet / netns+bridge at 64 B", 6.0)]);
    }
}
