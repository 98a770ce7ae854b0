//! What comes of it: conflicts that the XDP program has seen, addresses that become usable or are lost.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use afnet_abi::control::{AddressState, Event};
use afnet_bpf::ConflictKind;

use super::table::{Entry, Key};
use super::{LATER, key};
use crate::dad::{Change, Machine, Sign, Timing, splitmix};
use crate::daemon::core::Core;
use crate::daemon::report::mac_text;
use crate::error::Refused;
use crate::registry::{Owned, Prefix, Realm, Slot, bits};

/// An event for each address and conflict in this time.
const TELL: Duration = Duration::from_secs(1);
/// And a line of the log.
pub(super) const LOG: Duration = Duration::from_secs(10);
/// Addresses of delegated prefixes of which conflicts were told lately, at most: a rival may invent any number.
const MAX_TOLD: usize = 4096;

/// A conflict that the XDP program has seen.
#[derive(Clone, Copy, Debug)]
pub struct Conflict {
    /// Where.
    pub realm: Realm,
    /// Our address.
    pub address: IpAddr,
    /// The other host.
    pub mac: [u8; 6],
    /// How it shows.
    pub sign: Sign,
}

impl Conflict {
    /// From an event of a device's program.
    pub fn new(device: u16, event: afnet_bpf::Event) -> Option<Self> {
        let afnet_bpf::Event::Conflict { vlan, addr, mac, nonce, kind, .. } = event else { return None };
        let sign = match kind {
            ConflictKind::ArpSender | ConflictKind::NsSender | ConflictKind::Na => Sign::Use,
            ConflictKind::ArpProbe => Sign::Probe(None),
            ConflictKind::NsProbe => Sign::Probe(nonce),
        };
        Some(Self { realm: Realm { device, vlan }, address: addr, mac, sign })
    }
}

impl Core {
    /// Another host uses or wants an address of ours.
    pub(in crate::daemon) fn conflict(&mut self, conflict: &Conflict) {
        let Conflict { realm, address, mac, sign } = *conflict;
        let (key, now) = ((realm, address), Instant::now());
        let exact = self.registry.find(realm, Prefix { address, len: bits(address) });
        let Some((slot, owned)) = exact.filter(|_| self.probes.enabled) else {
            if let Some(slot) = self.registry.owner(realm, address) {
                self.tell(slot, conflict, exact.is_some(), now);
            }
            return;
        };
        let mut entry = match (self.probes.table.get(&key), owned.state) {
            // It is the other host's, so this is no news, but maybe its MAC address.
            (Some(entry), AddressState::Duplicate) if entry.rival.is_none() => {
                return self.probes.table.set(key, Entry { rival: Some(mac), ..*entry });
            }
            (_, AddressState::Duplicate) | (None, AddressState::Tentative) => return,
            (Some(entry), _) => *entry,
            (None, AddressState::Ok) => {
                let defend = owned.defend.unwrap_or(self.probes.defend);
                Entry::new(Machine::used(Timing::of(address), defend, None, false))
            }
        };
        let step = entry.machine.conflict(sign, now);
        let lost = step.change == Some(Change::Lost);
        let ours = self.devices.get(usize::from(realm.device)).and_then(|d| d.live.as_ref());
        if !lost && (matches!(sign, Sign::Probe(_)) || ours.is_some_and(|live| live.mac() == mac)) {
            tracing::debug!("a probe for {address} came back, or is for the kernel to judge");
            if entry.by_kernel && ours.is_some_and(|live| live.mac() != mac) {
                entry.rival = Some(mac);
            }
            self.probes.table.set(key, entry);
            return;
        }
        entry.rival = Some(mac);
        if let Some(send) = step.send
            && let Err(e) = self.transmit(key, send)
        {
            tracing::debug!("defending {address}: {e}");
        }
        self.probes.table.set(key, entry);
        self.tell(slot, conflict, true, now);
        if lost {
            self.apply(vec![(key, Change::Lost)]);
        }
    }

    /// Tells monitors and the log, not too often.
    fn tell(&mut self, slot: Slot, conflict: &Conflict, exact: bool, now: Instant) {
        let Conflict { realm, address, mac, .. } = *conflict;
        let told = &mut self.probes.told;
        let full = !exact && told.len() >= MAX_TOLD;
        let mut log = true;
        match told.get_mut(&(realm, address)) {
            Some((last, _)) if now.duration_since(*last) < TELL => return,
            Some((last, logged)) => {
                *last = now;
                log = now.duration_since(*logged) >= LOG;
                if log {
                    *logged = now;
                }
            }
            // There are no more exact ones than addresses.
            None if full => return,
            None => drop(told.insert((realm, address), (now, now))),
        }
        let (dev, name, mac) = (self.device_name(realm).to_owned(), self.name(slot), mac_text(mac));
        if log {
            tracing::warn!("{address} of {name} on {dev} is used by {mac} too");
        }
        self.events.push(Event::Conflict { address, dev, vlan: realm.vlan, name, mac });
    }

    /// Makes addresses usable, or takes them out of use. What is done for a compartment as a whole is done once.
    pub(super) fn apply(&mut self, changes: Vec<(Key, Change)>) {
        let mut changed = Vec::new();
        for ((realm, address), change) in changes {
            let state = match change {
                Change::Usable => AddressState::Ok,
                Change::Lost => AddressState::Duplicate,
            };
            let Some((slot, owned)) = self.registry.set_state(realm, address, state) else { continue };
            match change {
                Change::Usable => {
                    if let Err(e) = self.install_kernel(&owned) {
                        tracing::error!("{address} is free, but cannot be used: {e}");
                        self.try_again(&owned);
                        continue;
                    }
                    self.probes.table.succeeded(&(realm, address));
                }
                Change::Lost => {
                    self.probes.table.failed((realm, address), Instant::now());
                    tracing::warn!("{address} of {} is not used: another host has it", self.name(slot));
                    self.disuse(slot, &owned);
                }
            }
            changed.push((slot, owned));
        }
        self.publish(&changed);
    }

    /// An address that the kernel did not take is tentative for a while longer.
    fn try_again(&mut self, owned: &Owned) {
        self.registry.set_state(owned.realm, owned.address, AddressState::Tentative);
        let Some(mut entry) = self.probes.table.remove(&key(owned)) else { return };
        let (timing, defend) = (Timing::of(owned.address), owned.defend.unwrap_or(self.probes.defend));
        let (at, state) = (Instant::now() + LATER, &mut self.probes.random);
        entry.machine = Machine::start(timing, defend, at, None, &mut || splitmix(state));
        self.probes.table.set(key(owned), entry);
    }

    /// Stops answering for an address, closes its connections, and takes it from the kernel. `owned` has the new state.
    fn disuse(&mut self, slot: Slot, owned: &Owned) {
        if let Err(e) = self.install_demux(slot, owned) {
            tracing::error!("{e}");
        }
        let was = Owned { state: AddressState::Ok, ..*owned };
        let busy = self.close_connections(slot, &was);
        self.unconfine_address(slot, &was);
        self.uninstall_kernel(&was);
        if busy {
            self.close_connections(slot, &was);
        }
    }

    /// Tells workers, XDP programs, kernel path, state files and monitors of addresses whose state has changed.
    pub(super) fn publish(&mut self, changed: &[(Slot, Owned)]) {
        let slots: BTreeSet<Slot> = changed.iter().map(|(slot, _)| *slot).collect();
        let log = |result: Result<(), Refused>| {
            if let Err(e) = result {
                tracing::error!("{e}");
            }
        };
        slots.iter().for_each(|slot| log(self.tell_workers(*slot)));
        for (slot, owned) in changed {
            log(self.install_demux(*slot, owned));
            log(self.own_on_kernel_path(*slot, owned));
        }
        for slot in slots {
            log(self.confine(slot));
            log(self.save(slot));
        }
        for (slot, owned) in changed {
            let address = self.wire_address(&self.name(*slot), owned);
            self.events.push(Event::Address(address));
        }
        if !changed.is_empty() {
            self.flush_routes_soon();
        }
    }
}
