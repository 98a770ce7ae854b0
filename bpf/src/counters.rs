//! What the programs count, generated from `include/counters.h`.
//!
//! [`Counter`]: verdicts and drop reasons of the XDP program. Each frame counts exactly one of them (a lost event counts
//! in addition). The first [`Counter::BY_COMPARTMENT`] are kept for each compartment, the others for the device.
//! [`Refusal`]: what the kernel path refused, by compartment.

include!(concat!(env!("OUT_DIR"), "/counters.rs"));

impl Counter {
    /// Number of counters.
    pub const COUNT: usize = COUNTER_ALL.len();
    /// Number of counters that are kept by compartment; they come first.
    pub const BY_COMPARTMENT: usize = BY_COMPARTMENT;

    /// Name, lower case with underscores: `redirect_udp`.
    pub const fn name(self) -> &'static str {
        COUNTER_NAMES[self as usize]
    }

    /// One line that says what it counts.
    pub const fn help(self) -> &'static str {
        COUNTER_HELPS[self as usize]
    }

    /// All counters, in the order of the vectors.
    pub fn all() -> impl Iterator<Item = Self> {
        COUNTER_ALL.into_iter()
    }
}

impl Refusal {
    /// Number of counters.
    pub const COUNT: usize = REFUSAL_ALL.len();

    /// Name, lower case with underscores: `refused_bind`.
    pub const fn name(self) -> &'static str {
        REFUSAL_NAMES[self as usize]
    }

    /// One line that says what it counts.
    pub const fn help(self) -> &'static str {
        REFUSAL_HELPS[self as usize]
    }

    /// All counters, in the order of the vectors.
    pub fn all() -> impl Iterator<Item = Self> {
        REFUSAL_ALL.into_iter()
    }
}
