//! What a compartment may do, and changes of it.

use alloc::{string::String, vec::Vec};

use serde::{Deserialize, Serialize};

/// Sockets that a compartment may have unless it is said: as many as a busy server has, a quarter of the ports that the
/// kernel chooses from (`net.ipv4.ip_local_port_range`), which are everybody's.
pub const SOCKETS: u32 = 8192;

/// What a compartment may do. Everything is off, unlimited or empty unless it is said; but for the number of sockets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Token bucket of the fast path: packets per second; 0: unlimited.
    pub rate_pps: u32,
    /// Depth of the bucket in packets; 0 with a rate: a tenth of a second's worth.
    pub burst: u32,
    /// No traffic with other compartments or the host.
    pub isolated: bool,
    /// Raw IP and ICMP sockets and others beside TCP, UDP and ping may be made; the source stays enforced.
    pub raw_sockets: bool,
    /// Ports below `net.ipv4.ip_unprivileged_port_start` may be bound by everybody in it.
    pub unprivileged_ports: bool,
    /// `afnet exec` takes no capability away: root in it is trusted not to leave.
    pub capabilities: bool,
    /// Most TCP, UDP and other IP sockets that its processes have at a time, accepted ones not counted; 0: unlimited.
    pub sockets: u32,
    /// Users, by name or number, that may enter without being administrators.
    pub users: Vec<String>,
    /// Groups, by name or number, whose members may.
    pub groups: Vec<String>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            rate_pps: 0,
            burst: 0,
            isolated: false,
            raw_sockets: false,
            unprivileged_ports: false,
            capabilities: false,
            sockets: SOCKETS,
            users: Vec::new(),
            groups: Vec::new(),
        }
    }
}

/// A change of a [`Policy`]: what is absent stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyChange {
    /// See [`Policy::rate_pps`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_pps: Option<u32>,
    /// See [`Policy::burst`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// See [`Policy::isolated`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isolated: Option<bool>,
    /// See [`Policy::raw_sockets`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub raw_sockets: Option<bool>,
    /// See [`Policy::unprivileged_ports`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unprivileged_ports: Option<bool>,
    /// See [`Policy::capabilities`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<bool>,
    /// See [`Policy::sockets`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sockets: Option<u32>,
    /// The whole new list, see [`Policy::users`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<String>>,
    /// The whole new list, see [`Policy::groups`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<String>>,
}

impl PolicyChange {
    /// The policy that `old` becomes.
    pub fn apply(self, old: &Policy) -> Policy {
        Policy {
            rate_pps: self.rate_pps.unwrap_or(old.rate_pps),
            burst: self.burst.unwrap_or(old.burst),
            isolated: self.isolated.unwrap_or(old.isolated),
            raw_sockets: self.raw_sockets.unwrap_or(old.raw_sockets),
            unprivileged_ports: self.unprivileged_ports.unwrap_or(old.unprivileged_ports),
            capabilities: self.capabilities.unwrap_or(old.capabilities),
            sockets: self.sockets.unwrap_or(old.sockets),
            users: self.users.unwrap_or_else(|| old.users.clone()),
            groups: self.groups.unwrap_or_else(|| old.groups.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Request;
    use alloc::vec;
    use std::string::ToString;

    #[test]
    fn a_policy_without_newer_fields_reads_and_a_change_names_only_what_changes() {
        let old: Policy = serde_json::from_str(r#"{"rate_pps":5,"burst":1}"#).unwrap();
        assert_eq!(old, Policy { rate_pps: 5, burst: 1, ..Policy::default() });
        let json = r#"{"op":"set","name":"a","policy":{"isolated":true,"users":["www"]}}"#;
        let request: Request = serde_json::from_str(json).unwrap();
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"op":"set","name":"a","policy":{"isolated":true,"users":["www"]}}"#
        );
        let Request::Set { policy, .. } = request else { panic!() };
        let new = policy.apply(&old);
        assert_eq!(new, Policy { isolated: true, users: vec!["www".to_string()], ..old.clone() });
        assert_eq!(
            PolicyChange { users: Some(Vec::new()), isolated: Some(false), ..PolicyChange::default() }
                .apply(&new),
            old
        );
        let json = r#"{"op":"set","name":"a","policy":{"colour":1}}"#;
        assert!(serde_json::from_str::<Request>(json).is_err());
    }
}
