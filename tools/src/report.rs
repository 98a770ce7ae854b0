//! All that a run has found, in its two forms: tables for people, JSON for programs.

use std::{fs, thread};

use serde::Serialize;

use crate::figures::Findings;

/// Everything that a run of the bench found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Kernel release, CPU count: without them the figures mean little.
    pub machine: Machine,
    /// By what was compared, in the order of measurement.
    pub parts: Vec<Part>,
}

/// One comparison.
#[derive(Debug, Serialize)]
pub struct Part {
    /// Its command.
    pub name: &'static str,
    /// What was found.
    #[serde(flatten)]
    pub findings: Findings,
}

/// Where the figures come from.
#[derive(Debug, Default, Serialize)]
pub struct Machine {
    /// `uname -r`.
    pub kernel: String,
    /// As /proc/cpuinfo names it.
    pub processor: String,
    /// Online CPUs.
    pub cpus: usize,
    /// Runnable processes per CPU over the last minute before the run: near 0, or the figures are worthless.
    pub load: f64,
}

impl Machine {
    /// This machine.
    pub fn here() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        let load = read("/proc/loadavg").split(' ').next().and_then(|load| load.parse::<f64>().ok());
        let info = read("/proc/cpuinfo");
        let model = info.lines().find(|line| line.starts_with("model name"));
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().into(),
            processor: model.and_then(|line| line.split_once(": ")).map_or("", |(_, name)| name).into(),
            cpus,
            load: load.unwrap_or(0.0) / cpus as f64,
        }
    }
}

impl Report {
    /// The tables.
    pub fn print(&self) {
        let Machine { kernel, processor, cpus, load } = &self.machine;
        println!("\nkernel {kernel}, {cpus} CPUs ({processor}), load per CPU before the run {load:.2}");
        if *load > 0.3 {
            println!("this machine was busy: do not trust the figures");
        }
        for Part { name, findings } in &self.parts {
            println!("\n== {name}");
            findings.print();
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
}
