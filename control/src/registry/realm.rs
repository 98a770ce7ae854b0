//! Owners of the addresses of one realm: exact addresses in a hash, prefixes by length, longest match first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Slot, bits};

/// A prefix; with all bits an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// An address of it.
    pub address: IpAddr,
    /// Bits that count, at most 32 or 128.
    pub len: u8,
}

impl Prefix {
    /// The address with all bits behind the prefix zero.
    pub fn network(self) -> IpAddr {
        match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len.min(32))).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(a.to_bits() & mask))
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len.min(128))).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(a.to_bits() & mask))
            }
        }
    }

    /// Whether `address` lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self { address, len: self.len }.network() == self.network()
    }
}

fn link_local(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
        _ => None,
    }
}

/// Owners in one realm.
#[derive(Debug, Default)]
pub struct Owners {
    exact: HashMap<IpAddr, Slot>,
    /// By family (IPv6?) and length, then network.
    prefixes: BTreeMap<(bool, u8), HashMap<IpAddr, Slot>>,
    link_local: BTreeSet<Ipv6Addr>,
}

impl Owners {
    /// Enters an owner; whatever was there before is replaced (the registry has checked).
    pub fn insert(&mut self, prefix: Prefix, slot: Slot) {
        if prefix.len == bits(prefix.address) {
            self.exact.insert(prefix.address, slot);
            self.link_local.extend(link_local(prefix.address));
        } else {
            let key = (prefix.address.is_ipv6(), prefix.len);
            self.prefixes.entry(key).or_default().insert(prefix.network(), slot);
        }
    }

    /// Takes an entry out and returns its owner.
    pub fn remove(&mut self, prefix: Prefix) -> Option<Slot> {
        if prefix.len == bits(prefix.address) {
            link_local(prefix.address).map(|address| self.link_local.remove(&address));
            return self.exact.remove(&prefix.address);
        }
        let key = (prefix.address.is_ipv6(), prefix.len);
        let networks = self.prefixes.get_mut(&key)?;
        let slot = networks.remove(&prefix.network());
        if networks.is_empty() {
            self.prefixes.remove(&key);
        }
        slot
    }

    /// Owner of exactly this prefix or address.
    pub fn exact(&self, prefix: Prefix) -> Option<Slot> {
        if prefix.len == bits(prefix.address) {
            return self.exact.get(&prefix.address).copied();
        }
        self.prefixes.get(&(prefix.address.is_ipv6(), prefix.len))?.get(&prefix.network()).copied()
    }

    /// Everything that an address lies in, with its owner, longest first.
    pub fn matches(&self, address: IpAddr) -> impl Iterator<Item = (Prefix, Slot)> {
        let exact = self.exact.get(&address).map(|slot| (Prefix { address, len: bits(address) }, *slot));
        let v6 = address.is_ipv6();
        let prefixes = self.prefixes.range((v6, 0)..=(v6, 128)).rev();
        exact.into_iter().chain(prefixes.filter_map(move |((_, len), networks)| {
            let prefix = Prefix { address: Prefix { address, len: *len }.network(), len: *len };
            networks.get(&prefix.address).map(|slot| (prefix, *slot))
        }))
    }

    /// All exact link-local IPv6 addresses.
    pub fn link_local(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.link_local.iter().copied()
    }

    /// Number of exact addresses.
    pub fn addresses(&self) -> usize {
        self.exact.len()
    }

    /// Number of prefixes.
    pub fn prefixes(&self) -> usize {
        self.prefixes.values().map(HashMap::len).sum()
    }

    /// Whether nothing is owned here.
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.prefixes.is_empty()
    }
}
