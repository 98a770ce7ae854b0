//! Is an address free, and is it still ours? IPv4's address conflict detection (RFC 5227) and IPv6's duplicate address
//! detection (RFC 4862 5.4, RFC 7527) as one machine with two sets of parameters ([`Timing`]) and two forms of frames
//! ([`frame`]).
//!
//! ```text
//!            start                         nobody objected: first announcement
//!   Held ----------> Probing -- probes, random gaps --> Used -- announcements, then idle
//!    ^  kernel: held    |                                |
//!    |  until it says   | conflict                       | conflict: policy a, b, c
//!    +-- link down -----+-------> Duplicate <------------+ b: the second within 10 s; c: never
//! ```
//!
//! All of it is a pure function of (state, what happens, time, random numbers): [`Machine::timer`], when [`Machine::due`] is
//! reached, and [`Machine::conflict`]. Sending, and what use means, is the caller's business (`daemon/probe`).
//!
//! | rule | where |
//! |---|---|
//! | 5227 2.1.1, 4862 5.4.3, 5.4.4: conflict while probing, from the first moment on | [`Machine::conflict`] |
//! | 7527 4.1, 4.2: a probe that came back is a loop; three more follow | [`Sign::Probe`] with a nonce of ours |
//! | 5227 2.3, 9131 6.1.2: announcements | [`Machine::timer`] |
//! | 5227 2.4 (a), (b), (c), for IPv6 too, where RFC 4862 leaves it open | [`Defend`], [`Machine::conflict`] |
//! | 5227 2.1.1 MAX_CONFLICTS: for each address, lest one rival stops all others | [`Failures`] |

pub mod frame;
pub mod timing;

use std::time::{Duration, Instant};

pub use afnet_abi::control::Defend;

pub use self::timing::Timing;
use self::timing::{DEFEND_INTERVAL, LOOP_PROBES, MAX_CONFLICTS, RATE_LIMIT_INTERVAL};

/// A nonce of a neighbour solicitation (RFC 3971 5.3.2, of the length that RFC 7527 uses).
pub type Nonce = [u8; 6];

/// Where random numbers come from.
pub type Random<'a> = &'a mut dyn FnMut() -> u64;

/// Nonces that are remembered: those of one round after a loop, and one more.
const NONCES: usize = LOOP_PROBES as usize + 1;

/// One address on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    timing: &'static Timing,
    defend: Defend,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Somebody else decides: the kernel, or the link that is down.
    Held,
    Probing {
        /// The next probe, or with none left the end.
        at: Instant,
        left: u8,
        /// A probe of this round came back.
        looped: bool,
        nonces: [Option<Nonce>; NONCES],
    },
    Used {
        /// The next announcement.
        at: Option<Instant>,
        left: u8,
        /// Hosts that have something else for the address are to replace it (RFC 4861 7.2.6).
        replace: bool,
        /// When another host was last seen to use it.
        conflict: Option<Instant>,
    },
    Duplicate,
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Send {
    /// A probe; IPv4 has no nonce in it.
    Probe(Nonce),
    /// An announcement. `replace`: also to those who know the address at another MAC address.
    Announce {
        /// See there.
        replace: bool,
    },
}

/// What has become of the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It may be used from now on.
    Usable,
    /// It may not, or no more.
    Lost,
}

/// The answer to whatever happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// A frame.
    pub send: Option<Send>,
    /// News.
    pub change: Option<Change>,
}

/// A sign of another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// It uses the address: ARP with it as sender, NA for it, NS from it.
    Use,
    /// It probes for it: ARP from 0.0.0.0, NS from `::`, maybe with a nonce.
    Probe(Option<Nonce>),
}

impl Machine {
    /// Begins to probe. `not_before`: see [`Failures::earliest`].
    pub fn start(
        timing: &'static Timing,
        defend: Defend,
        now: Instant,
        not_before: Option<Instant>,
        random: Random<'_>,
    ) -> Self {
        let at = now.max(not_before.unwrap_or(now)) + within((Duration::ZERO, timing.delay), random);
        let state = State::Probing { at, left: timing.probes, looped: false, nonces: [None; NONCES] };
        Self { timing, defend, state }
    }

    /// Waits for others: see [`Self::used`].
    pub fn held(timing: &'static Timing, defend: Defend) -> Self {
        Self { timing, defend, state: State::Held }
    }

    /// An address that is in use without being probed here. `announce`: from when on it is announced.
    pub fn used(timing: &'static Timing, defend: Defend, announce: Option<Instant>, replace: bool) -> Self {
        let left = if announce.is_some() { timing.announcements } else { 0 };
        Self { timing, defend, state: State::Used { at: announce, left, replace, conflict: None } }
    }

    /// One that another host has.
    pub fn duplicate(timing: &'static Timing, defend: Defend) -> Self {
        Self { timing, defend, state: State::Duplicate }
    }

    /// When [`Self::timer`] is to be called; never before.
    pub fn due(&self) -> Option<Instant> {
        match self.state {
            State::Probing { at, .. } => Some(at),
            State::Used { at: Some(at), .. } => Some(at),
            State::Used { conflict, .. } => Some(conflict? + DEFEND_INTERVAL),
            State::Held | State::Duplicate => None,
        }
    }

    /// Whether the next step is an announcement, which the caller may spread.
    pub fn announces(&self) -> bool {
        match self.state {
            State::Probing { left, looped, .. } => left == 0 && !looped,
            State::Used { at, .. } => at.is_some(),
            State::Held | State::Duplicate => false,
        }
    }

    /// Whether there is nothing left to remember: in use, announced, not attacked.
    pub fn idle(&self) -> bool {
        matches!(self.state, State::Used { at: None, conflict: None, .. })
    }

    /// Whether somebody else decides.
    pub fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// The same a little later, for a frame that could not be sent or an announcement that is not yet to be.
    pub fn postponed(mut self, until: Instant) -> Self {
        match &mut self.state {
            State::Probing { at, .. } => *at = until,
            State::Used { at: Some(at), .. } => *at = until,
            _ => {}
        }
        self
    }

    /// What is to be done when the time has come.
    pub fn timer(&mut self, now: Instant, random: Random<'_>) -> Step {
        if self.due().is_none_or(|due| due > now) {
            return Step::default();
        }
        match &mut self.state {
            State::Probing { at, left, nonces, .. } if *left > 0 => {
                let [_, _, nonce @ ..] = random().to_be_bytes();
                nonces.rotate_right(1);
                nonces[0] = Some(nonce);
                *left -= 1;
                *at = now + if *left > 0 { within(self.timing.gap, random) } else { self.timing.settle };
                Step { send: Some(Send::Probe(nonce)), change: None }
            }
            State::Probing { at, left, looped, .. } if *looped => {
                (*at, *left, *looped) = (now, LOOP_PROBES, false);
                self.timer(now, random)
            }
            State::Probing { .. } => {
                *self = Self::used(self.timing, self.defend, Some(now), false);
                Step { change: Some(Change::Usable), ..self.timer(now, random) }
            }
            State::Used { at: next @ Some(_), left, replace, .. } => {
                *left = left.saturating_sub(1);
                *next = (*left > 0).then(|| now + self.timing.announce_gap);
                Step { send: Some(Send::Announce { replace: *replace }), change: None }
            }
            State::Used { conflict, .. } => {
                *conflict = None;
                Step::default()
            }
            State::Held | State::Duplicate => Step::default(),
        }
    }

    /// Another host has given a sign.
    pub fn conflict(&mut self, sign: Sign, now: Instant) -> Step {
        let lost = Step { send: None, change: Some(Change::Lost) };
        match &mut self.state {
            State::Probing { looped, nonces, .. } => match sign {
                Sign::Probe(Some(nonce)) if nonces.contains(&Some(nonce)) => {
                    *looped = true;
                    Step::default()
                }
                _ => {
                    self.state = State::Duplicate;
                    lost
                }
            },
            // A probe for an address in use is answered, that is all.
            State::Used { at, left, replace, conflict } if sign == Sign::Use => {
                let recent = conflict.is_some_and(|last| now < last + DEFEND_INTERVAL);
                match (self.defend, recent) {
                    (Defend::GiveUp, _) | (Defend::Once, true) => {
                        self.state = State::Duplicate;
                        lost
                    }
                    (Defend::Always, true) => Step::default(),
                    (Defend::Once | Defend::Always, false) => {
                        *conflict = Some(now);
                        // The announcement that is made now is one of those that were to be made.
                        *left = left.saturating_sub(1);
                        *at = (*left > 0).then(|| now + self.timing.announce_gap);
                        *replace = true;
                        Step { send: Some(Send::Announce { replace: true }), change: None }
                    }
                }
            }
            State::Used { .. } | State::Held | State::Duplicate => Step::default(),
        }
    }
}

/// Splitmix64, for delays and nonces: whoever is on the link sees the nonces anyway.
pub fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

/// A random time of a range.
fn within((low, high): (Duration, Duration), random: Random<'_>) -> Duration {
    let span = u64::try_from((high - low).as_nanos()).unwrap_or(u64::MAX).saturating_add(1);
    low + Duration::from_nanos(random() % span)
}

/// How often probing for an address has failed (RFC 5227 2.1.1, MAX_CONFLICTS and RATE_LIMIT_INTERVAL). The RFC counts by
/// interface; here each address has its own, since its compartment did not choose it, and a rival of one must not keep
/// the others off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    count: u8,
    last: Option<Instant>,
}

impl Failures {
    /// One more.
    pub fn add(&mut self, now: Instant) {
        self.count = self.count.saturating_add(1);
        self.last = Some(now);
    }

    /// Before that the address may not be probed again.
    pub fn earliest(&self) -> Option<Instant> {
        self.last.filter(|_| self.count >= MAX_CONFLICTS).map(|last| last + RATE_LIMIT_INTERVAL)
    }

    /// Whether they are so long ago that they need not be remembered.
    pub fn stale(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now >= last + 10 * RATE_LIMIT_INTERVAL)
    }
}

#[cfg(test)]
mod tests;
