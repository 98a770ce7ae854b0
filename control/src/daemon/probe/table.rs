//! Addresses on their way: machines by address, and the times at which they go on. What is settled is not in it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::dad::{Failures, Machine};
use crate::registry::Realm;

/// Which address.
pub type Key = (Realm, IpAddr);

/// Between two announcements of all addresses (RFC 4861 7.2.6 asks for some delay): 2000 a second, far more than random
/// delays let come at once of a thousand addresses. Twice as long would make 65536 addresses take a minute.
const SPACING: Duration = Duration::from_micros(500);

/// An address on its way.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Where it stands.
    pub machine: Machine,
    /// The kernel has it and asks.
    pub by_kernel: bool,
    /// The MAC address of the host that has it or wants it.
    pub rival: Option<[u8; 6]>,
    /// It has a place in the row of announcements.
    pub placed: bool,
}

impl Entry {
    /// An address that this daemon asks for, or that is in use.
    pub fn new(machine: Machine) -> Self {
        Self { machine, by_kernel: false, rival: None, placed: false }
    }
}

/// The table.
#[derive(Debug)]
pub struct Table {
    entries: HashMap<Key, Entry>,
    due: BTreeSet<(Instant, Key)>,
    /// When the next announcement may be.
    announce_at: Instant,
    failures: HashMap<Key, Failures>,
}

impl Table {
    /// Nothing.
    pub fn new(now: Instant) -> Self {
        Self { entries: HashMap::new(), due: BTreeSet::new(), announce_at: now, failures: HashMap::new() }
    }

    /// The entry of an address.
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// All addresses of a device.
    pub fn of_device(&self, device: u16) -> Vec<Key> {
        self.entries.keys().filter(|(realm, _)| realm.device == device).copied().collect()
    }

    /// Enters an address or what has become of it; an idle one is settled and goes out.
    pub fn set(&mut self, key: Key, entry: Entry) {
        self.remove(&key);
        if entry.machine.idle() {
            return;
        }
        self.due.extend(entry.machine.due().map(|at| (at, key)));
        self.entries.insert(key, entry);
    }

    /// Takes an address out.
    pub fn remove(&mut self, key: &Key) -> Option<Entry> {
        let old = self.entries.remove(key)?;
        if let Some(at) = old.machine.due() {
            self.due.remove(&(at, *key));
        }
        Some(old)
    }

    /// When the next one goes on.
    pub fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// An address whose time has come, and that may announce itself if that is next.
    pub fn take_due(&mut self, now: Instant) -> Option<(Key, Entry)> {
        loop {
            let (at, key) = *self.due.first()?;
            if at > now {
                return None;
            }
            let mut entry = self.remove(&key)?;
            if !entry.machine.announces() || entry.placed {
                entry.placed = false;
                return Some((key, entry));
            }
            let place = self.announce_at.max(now);
            self.announce_at = place + SPACING;
            if place <= now {
                return Some((key, entry));
            }
            entry.machine = entry.machine.postponed(place);
            entry.placed = true;
            self.set(key, entry);
        }
    }

    /// Somebody else has it.
    pub fn failed(&mut self, key: Key, now: Instant) {
        self.failures.entry(key).or_default().add(now);
    }

    /// It has been found free.
    pub fn succeeded(&mut self, key: &Key) {
        self.failures.remove(key);
    }

    /// When it may be asked for again, if not at once.
    pub fn earliest(&self, key: &Key) -> Option<Instant> {
        self.failures.get(key)?.earliest()
    }

    /// Forgets failures of long ago.
    pub fn expire(&mut self, now: Instant) {
        self.failures.retain(|_, failures| !failures.stale(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dad::{Defend, Timing};
    use afnet_abi::vlan::Vlan;

    fn key(n: u32) -> Key {
        (Realm { device: 0, vlan: Vlan::NONE }, IpAddr::from(std::net::Ipv4Addr::from(n)))
    }

    #[test]
    fn announcements_are_spread_and_probes_are_not() {
        let now = Instant::now();
        let mut table = Table::new(now);
        for n in 0..100 {
            table.set(key(n), Entry::new(Machine::used(&Timing::ACD, Defend::Once, Some(now), false)));
            let probing = Machine::start(&Timing::ACD, Defend::Once, now, None, &mut || 0);
            table.set(key(1000 + n), Entry::new(probing));
        }
        let (mut probes, mut announced) = (0, Vec::new());
        let mut at = now;
        while announced.len() < 100 {
            while let Some((_, entry)) = table.take_due(at) {
                if entry.machine.announces() {
                    announced.push(at);
                } else {
                    probes += 1;
                    assert_eq!(at, now, "at once");
                }
            }
            at = table.next().unwrap_or(at).max(at + Duration::from_micros(1));
        }
        assert_eq!(probes, 100);
        let gaps: Vec<_> = announced.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| *gap >= SPACING), "{gaps:?}");
        assert!(announced[99] - now <= 100 * SPACING);
        assert!(table.next().is_none());
    }

    #[test]
    fn what_was_taken_out_is_never_due() {
        let now = Instant::now();
        let mut table = Table::new(now);
        let probing = Machine::start(&Timing::DAD, Defend::Once, now, None, &mut || 0);
        table.set(key(1), Entry::new(probing));
        table.set(key(1), Entry::new(Machine::held(&Timing::DAD, Defend::Once)));
        assert!(table.next().is_none() && table.get(&key(1)).is_some());
        table.set(key(1), Entry::new(Machine::used(&Timing::DAD, Defend::Once, None, false)));
        assert!(table.get(&key(1)).is_none(), "settled");
        assert!(table.remove(&key(1)).is_none());
    }
}
