//! A compartment as a worker knows it: addresses, policy, claims, raw endpoint.

use std::sync::Arc;

use afnet_abi::vlan::Vlan;

use super::claims::ClaimTable;
use crate::{
    config::OwnedAddress,
    counters::Counters,
    net::{Address, from_ip},
};

/// An address or prefix in the form of the hot path.
#[derive(Clone, Copy, Debug)]
struct Owned {
    net: u128,
    mask: u128,
    usable: bool,
}

/// A compartment.
#[derive(Debug)]
pub(crate) struct Slot {
    owned: Vec<Owned>,
    /// Nothing passes between it and the host or other compartments.
    pub(crate) isolated: bool,
    /// Which UDP port goes to which endpoint.
    pub(crate) claims: ClaimTable,
    /// Index of the raw endpoint.
    pub(crate) raw: Option<u32>,
    /// Number of endpoints.
    pub(crate) endpoints: u32,
    pub(crate) counters: Arc<Counters>,
}

impl Slot {
    /// Without addresses or endpoints.
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self {
            owned: Vec::new(),
            isolated: false,
            claims: ClaimTable::default(),
            raw: None,
            endpoints: 0,
            counters,
        }
    }

    /// Replaces all addresses.
    pub(crate) fn set_addresses(&mut self, addresses: &[OwnedAddress]) {
        self.owned = addresses
            .iter()
            .map(|a| {
                let family = if a.addr.is_ipv4() { 96 } else { 0 };
                let len = if a.delegated { family + u32::from(a.prefix_len) } else { 128 };
                // Of 128 bits the shift by 128 - 0 would overflow.
                let mask = u128::MAX.checked_shl(128 - len.min(128)).unwrap_or(0);
                Owned { net: u128::from_be_bytes(from_ip(a.addr)) & mask, mask, usable: a.usable }
            })
            .collect();
    }

    /// Whether the compartment may send from `address`.
    #[inline]
    pub(crate) fn may_send_from(&self, address: &Address) -> bool {
        let address = u128::from_be_bytes(*address);
        self.owned.iter().any(|o| o.usable && address & o.mask == o.net)
    }

    /// The first address of a family that it may send from.
    pub(crate) fn first(&self, v4: bool) -> Option<Address> {
        let address = |o: &Owned| o.net.to_be_bytes();
        self.owned
            .iter()
            .filter(|o| o.usable && o.mask == u128::MAX)
            .map(address)
            .find(|a| crate::net::is_v4(a) == v4)
    }

    /// Whether its policy forbids a packet from `src` that has not left this host.
    #[inline]
    pub(crate) fn forbids(&self, src: &Address) -> bool {
        self.isolated && self.owns(src).is_none()
    }

    /// How specifically the compartment owns `address`: bits of the longest prefix.
    pub(crate) fn owns(&self, address: &Address) -> Option<u32> {
        let address = u128::from_be_bytes(*address);
        self.owned.iter().filter(|o| address & o.mask == o.net).map(|o| o.mask.count_ones()).max()
    }
}

/// VLAN of a record; `None` if the number is none.
pub(crate) fn record_vlan(raw: u32) -> Option<Vlan> {
    if raw == 0 { Some(Vlan::NONE) } else { Vlan::from_raw(raw).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(addr: &str, prefix_len: u8, delegated: bool, usable: bool) -> OwnedAddress {
        let addr = addr.parse().unwrap();
        OwnedAddress { addr, prefix_len, ifindex: 1, vlan: Vlan::NONE, delegated, usable, fast_only: false }
    }

    #[test]
    fn addresses_and_prefixes() {
        let mut slot = Slot::new(Arc::default());
        slot.set_addresses(&[
            owned("10.0.0.1", 24, false, true),
            owned("10.9.0.0", 16, true, true),
            owned("2001:db8:1::", 48, true, true),
            owned("10.0.0.2", 24, false, false),
        ]);
        let ip = |s: &str| from_ip(s.parse().unwrap());
        assert!(slot.may_send_from(&ip("10.0.0.1")));
        assert!(!slot.may_send_from(&ip("10.0.0.3")), "the on-link prefix is not the compartment's");
        assert!(!slot.may_send_from(&ip("10.0.0.2")), "tentative");
        assert_eq!(slot.owns(&ip("10.0.0.2")), Some(128));
        assert!(slot.may_send_from(&ip("10.9.255.1")) && !slot.may_send_from(&ip("10.10.0.1")));
        assert_eq!(slot.owns(&ip("10.9.1.1")), Some(112));
        assert_eq!((slot.first(true), slot.first(false)), (Some(ip("10.0.0.1")), None));
        assert!(!slot.forbids(&ip("10.0.0.3")), "not isolated");
        slot.isolated = true;
        assert!(slot.forbids(&ip("10.0.0.3")) && !slot.forbids(&ip("10.0.0.1")));
        assert!(slot.forbids(&ip("10.10.0.1")) && !slot.forbids(&ip("10.9.1.1")));
        assert!(slot.may_send_from(&ip("2001:db8:1:2::3")) && !slot.may_send_from(&ip("2001:db8:2::")));
    }
}
