//! How many CPUs are busy: what an operation costs whoever pays for it. The kernel's receive path runs on the sender's
//! CPU here, the shim's in the daemon: only all of it together can be compared.

use std::{fs, time::Instant};

/// Ticks of /proc/stat in a second (USER_HZ, the same on all of this kernel's architectures).
const TICKS: f64 = 100.0;

/// A point in time.
#[derive(Debug)]
pub struct Busy {
    ticks: u64,
    at: Instant,
}

impl Busy {
    /// The present.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self { ticks: busy_ticks(&stat), at: Instant::now() }
    }

    /// CPUs that were busy since then, on average.
    pub fn cpus(&self) -> f64 {
        let now = Self::now();
        now.ticks.saturating_sub(self.ticks) as f64 / TICKS / (now.at - self.at).as_secs_f64()
    }
}

/// All but idle, waiting for disks, and what guests took (which is in the others already).
fn busy_ticks(stat: &str) -> u64 {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    fields.iter().enumerate().filter(|(i, _)| ![3, 4, 8, 9].contains(i)).map(|(_, ticks)| ticks).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_not_busy() {
        assert_eq!(busy_ticks("cpu  1 2 3 1000 500 4 5 6 7 8\ncpu0 9 9\n"), 21);
        assert_eq!(busy_ticks(""), 0);
    }
}
