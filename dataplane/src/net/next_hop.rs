//! Next hops for realms where the kernel has no interface (tagged frames without a VLAN device): there is no
//! neighbour table to mirror, so the source of a compartment's received packets names the way back to it.
//!
//! A packet from behind a router teaches the router's Ethernet address, which is right for the reply. Nothing can be
//! sent to a destination from which nothing was received. An on-link attacker can redirect replies by forging
//! sources, as with ARP; it cannot touch other compartments, since the compartment is part of the key.
//!
//! Bounded and set-associative, no allocation after the start; the victim of a full set is the compartment's own
//! oldest entry, then the set's oldest. One for each worker; used by that worker only.

#![deny(unsafe_code)]

use afnet_abi::vlan::Vlan;

use super::{Address, Mac, hash::Key as HashKey, place};

const WAYS: usize = 8;
/// An entry that was not confirmed for this time is not used: 5 min, the usual order of bridges' tables.
pub const MAX_AGE_NS: u64 = 300_000_000_000;

/// Whose neighbour, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The remote address.
    pub address: Address,
    /// Compartment.
    pub slot: u32,
    /// Device.
    pub ifindex: u32,
    /// VLAN.
    pub vlan: Vlan,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Neighbour,
    mac: Mac,
    seen_ns: u64,
}

/// See the module.
#[derive(Debug)]
pub struct NextHops {
    hash: HashKey,
    sets: Vec<[Option<Entry>; WAYS]>,
    mask: usize,
}

impl NextHops {
    /// Room for `entries`, rounded up to a power of two.
    pub fn new(entries: usize, hash: HashKey) -> Self {
        let sets = (entries / WAYS).max(1).next_power_of_two();
        Self { hash, sets: vec![[None; WAYS]; sets], mask: sets - 1 }
    }

    /// Notes that a frame from `mac` carried a packet from `key`. Group addresses are not learned.
    #[inline]
    pub fn learn(&mut self, key: &Neighbour, mac: &Mac, now_ns: u64) {
        let [first, ..] = *mac;
        if first & 1 != 0 || *mac == [0; 6] {
            return;
        }
        let place = self.place(key);
        let Some(set) = self.sets.get_mut(place) else { return };
        let rank = |e: &Option<Entry>| match e {
            Some(e) if e.key == *key => (0, 0),
            None => (1, 0),
            Some(e) if now_ns.saturating_sub(e.seen_ns) >= MAX_AGE_NS => (1, e.seen_ns),
            Some(e) if e.key.slot == key.slot => (2, e.seen_ns),
            Some(e) => (3, e.seen_ns),
        };
        if let Some(way) = set.iter_mut().min_by_key(|e| rank(e)) {
            *way = Some(Entry { key: *key, mac: *mac, seen_ns: now_ns });
        }
    }

    /// The Ethernet address to which packets for `key` go.
    #[inline]
    pub fn lookup(&self, key: &Neighbour, now_ns: u64) -> Option<Mac> {
        let entry = self.sets.get(self.place(key))?.iter().flatten().find(|e| e.key == *key)?;
        (now_ns.saturating_sub(entry.seen_ns) < MAX_AGE_NS).then_some(entry.mac)
    }

    /// Forgets a compartment.
    pub fn remove_slot(&mut self, slot: u32) {
        for entry in self.sets.iter_mut().flatten() {
            if entry.is_some_and(|e| e.key.slot == slot) {
                *entry = None;
            }
        }
    }

    #[inline]
    fn place(&self, key: &Neighbour) -> usize {
        let realm = u64::from(key.ifindex) << 32 ^ u64::from(key.vlan.raw());
        let slot = u128::from(key.slot).to_ne_bytes();
        place(self.hash.hash(&key.address, &slot, realm), self.mask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::mapped;

    fn key(slot: u32, host: u16) -> Neighbour {
        let [c, d] = host.to_be_bytes();
        Neighbour {
            address: mapped([10, 0, c, d]),
            slot,
            ifindex: 3,
            vlan: Vlan::new(None, Some(7)).unwrap(),
        }
    }

    #[test]
    fn learns_moves_and_ages() {
        let mut table = NextHops::new(64, HashKey::fixed(1));
        table.learn(&key(1, 1), &[2, 0, 0, 0, 0, 1], 0);
        assert_eq!(table.lookup(&key(1, 1), 1), Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(table.lookup(&key(2, 1), 1), None, "another compartment's");
        table.learn(&key(1, 1), &[2, 0, 0, 0, 0, 2], 5);
        assert_eq!(table.lookup(&key(1, 1), MAX_AGE_NS + 4), Some([2, 0, 0, 0, 0, 2]));
        assert_eq!(table.lookup(&key(1, 1), MAX_AGE_NS + 5), None);
        table.learn(&key(1, 2), &[3, 0, 0, 0, 0, 2], 5);
        assert_eq!(table.lookup(&key(1, 2), 6), None, "a group address");
        table.remove_slot(1);
        assert_eq!(table.lookup(&key(1, 1), 6), None);
    }

    #[test]
    fn a_flood_evicts_its_own_compartment_first() {
        let mut table = NextHops::new(256, HashKey::fixed(2));
        table.learn(&key(9, 1), &[2, 0, 0, 0, 0, 9], 0);
        // The flooder needs one entry in the victim's set before it starts to evict itself there.
        for host in 0..20_000 {
            table.learn(&key(1, host), &[2, 0, 0, 0, 0, 1], u64::from(host));
        }
        assert_eq!(table.lookup(&key(9, 1), 20_000), Some([2, 0, 0, 0, 0, 9]));
    }
}
