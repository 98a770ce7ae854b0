//! Groups: what is sent to a multicast or broadcast address, and from whom endpoints want it.

use std::net::IpAddr;

use afnet_abi::vlan::Vlan;

/// A multicast group, or a broadcast address, in a realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Group {
    /// Device.
    pub ifindex: u32,
    /// VLAN.
    pub vlan: Vlan,
    /// Address.
    pub address: IpAddr,
}

/// By whom an endpoint that is in a group hears what the sockets of this host send to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// By the worker, as everything else.
    Worker,
    /// By the kernel: a socket of the endpoint's has joined, too.
    Kernel,
}

/// Sources that an endpoint hears in a group (RFC 3376 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// All but the listed ones; else the listed ones alone.
    pub exclude: bool,
    /// The list.
    pub list: Vec<IpAddr>,
}

impl Sources {
    /// Everybody.
    pub fn all() -> Self {
        Self { exclude: true, list: Vec::new() }
    }

    /// Nobody: the endpoint is not in the group.
    pub fn none() -> Self {
        Self { exclude: false, list: Vec::new() }
    }

    /// Whether it is nobody.
    pub fn is_none(&self) -> bool {
        !self.exclude && self.list.is_empty()
    }
}
