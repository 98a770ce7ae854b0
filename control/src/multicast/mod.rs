//! Group membership of a host: IGMPv1, v2, v3 and MLDv1, v2 as one state machine over two encodings.
//!
//! ```text
//! members' filters --merge--> one filter for each group --change--> reports, repeated, merged by source
//! queries ------------------> answers after a random delay <------- timers
//! older queriers -----------> older versions, for as long as they are there
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`filter`] | INCLUDE and EXCLUDE, merged (RFC 3376 3.2, RFC 3810 4.2) |
//! | [`group`] | what has to be said of a group (5.1, 5.2) |
//! | [`follow`](mod@follow) | the other way round: what a host wants that says this |
//! | [`host`] | [`Host`]: all groups of a realm, versions (7.2.1), quotas |
//! | [`message`] | what is said and heard, [`Family`] |
//! | [`igmp`], [`mld`] | the two encodings |
//!
//! All of it is pure: functions of (state, what happens, time, random numbers). RFC 2236 and RFC 2710 for the old versions;
//! sections named without an RFC are those of RFC 3376.

pub mod filter;
pub mod follow;
pub mod fuzz;
pub mod group;
pub mod host;
pub mod igmp;
pub mod message;
pub mod mld;

pub use self::filter::Filter;
pub use self::follow::follow;
pub use self::host::{Counts, Host, Limits, Refusal};
pub use self::message::{Family, Heard, Message, Query, Version};
pub use crate::dad::Random;

#[cfg(test)]
mod tests;
