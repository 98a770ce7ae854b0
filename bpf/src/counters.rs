//! [`Counter`]: the verdicts and drop reasons of the XDP program, generated from `include/counters.h`.
//!
//! Each frame counts exactly one of them (a lost event counts in addition). The first
//! [`Counter::BY_COMPARTMENT`] are kept for each compartment, the others for the device.

include!(concat!(env!("OUT_DIR"), "/counters.rs"));

impl Counter {
    /// Number of counters.
    pub const COUNT: usize = TOTAL;
    /// Number of counters that are kept by compartment; they come first.
    pub const BY_COMPARTMENT: usize = BY_COMPARTMENT;

    /// Name, lower case with underscores: `redirect_udp`.
    pub const fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// One line that says what it counts.
    pub const fn help(self) -> &'static str {
        HELPS[self as usize]
    }

    /// All counters, in the order of the vectors.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter()
    }
}
