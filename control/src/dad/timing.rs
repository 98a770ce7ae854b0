//! How often and how long: the parameters in which IPv4's and IPv6's procedure differ.

use std::time::Duration;

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// Parameters of a [`super::Machine`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Before the first probe passes a random time up to this, so that hosts that start together do not probe together.
    pub delay: Duration,
    /// Number of probes.
    pub probes: u8,
    /// Between two probes passes a random time of this range.
    pub gap: (Duration, Duration),
    /// After the last probe so long nobody may have objected.
    pub settle: Duration,
    /// Number of announcements, the first of them when the address is taken into use.
    pub announcements: u8,
    /// Between two announcements.
    pub announce_gap: Duration,
}

impl Timing {
    /// RFC 5227 1.1: PROBE_WAIT, PROBE_NUM, PROBE_MIN and PROBE_MAX, ANNOUNCE_WAIT, ANNOUNCE_NUM, ANNOUNCE_INTERVAL.
    pub const ACD: Self = Self {
        delay: ms(1000),
        probes: 3,
        gap: (ms(1000), ms(2000)),
        settle: ms(2000),
        announcements: 2,
        announce_gap: ms(2000),
    };

    /// RFC 4862 5.1, 5.4.2 (MAX_RTR_SOLICITATION_DELAY, DupAddrDetectTransmits, RetransTimer) and RFC 9131 6.1.2
    /// (MAX_NEIGHBOR_ADVERTISEMENT).
    pub const DAD: Self = Self {
        delay: ms(1000),
        probes: 1,
        gap: (ms(1000), ms(1000)),
        settle: ms(1000),
        announcements: 3,
        announce_gap: ms(1000),
    };

    /// The one for an address.
    pub fn of(address: std::net::IpAddr) -> &'static Self {
        if address.is_ipv4() { &Self::ACD } else { &Self::DAD }
    }

    /// The longest time from the beginning to the use of an address that nobody has.
    pub fn longest(&self) -> Duration {
        self.delay + self.gap.1 * u32::from(self.probes.saturating_sub(1)) + self.settle
    }
}

/// RFC 5227 1.1 DEFEND_INTERVAL: an address is defended once in this time.
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// RFC 5227 1.1 MAX_CONFLICTS: after so many an address is probed no more than once in [`RATE_LIMIT_INTERVAL`].
pub const MAX_CONFLICTS: u8 = 10;

/// RFC 5227 1.1 RATE_LIMIT_INTERVAL.
pub const RATE_LIMIT_INTERVAL: Duration = Duration::from_secs(60);

/// RFC 7527 4.1: so many more probes (MAX_MULTICAST_SOLICIT) follow when one came back.
pub const LOOP_PROBES: u8 = 3;
