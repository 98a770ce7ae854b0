//! Compartments come and go.

use std::time::{Duration, Instant};

use afnet_abi::control::{Event, Policy};
use afnet_bpf::CompartmentConfig;
use rustix::io::Errno;
use rustix::process::Signal;

use super::core::Core;
use super::device::bpf;
use crate::error::Refused;
use crate::registry::Slot;
use crate::state::{Saved, SavedAddress};

/// How long processes of a removed compartment have between SIGTERM and SIGKILL. Less cuts orderly ends off, more
/// keeps the name's cgroup longer.
pub const GRACE: Duration = Duration::from_secs(2);

/// A removed compartment's cgroup that still has processes.
#[derive(Debug)]
pub struct Dying {
    /// Name of the directory.
    pub name: String,
    /// When SIGTERM was sent.
    pub since: Instant,
}

impl Core {
    /// Creates a compartment.
    pub(super) fn add(&mut self, name: &str, policy: Policy) -> Result<(), Refused> {
        if self.dying.iter().any(|d| d.name == name) {
            let text =
                format!("the processes of the former {name} are still being ended: try again in a moment");
            return Err(Refused::new(Errno::BUSY, text));
        }
        let slot = self.registry.add(name, policy, None)?;
        let made = self.set_policy(slot).and_then(|()| self.save(slot));
        if let Err(e) = made {
            self.forget(slot);
            return Err(e);
        }
        self.events.push(Event::Added { name: name.to_owned() });
        Ok(())
    }

    /// Tells the XDP programs what a compartment may do. The default needs no telling.
    pub(super) fn set_policy(&self, slot: Slot) -> Result<(), Refused> {
        let Some(compartment) = self.registry.get(slot) else { return Ok(()) };
        let raw = self.endpoints.values().any(|e| e.slot == slot && e.is_raw());
        let Policy { rate_pps, burst } = compartment.policy;
        for live in self.devices.iter().filter_map(|d| d.live.as_ref()) {
            let config = CompartmentConfig { rate_pps, burst, raw };
            let what = || format!("setting the policy of {} on {}", compartment.name, live.link.name);
            live.demux.set_compartment(slot, config).map_err(|e| bpf(what(), &e))?;
        }
        Ok(())
    }

    /// Removes a compartment. With processes in its cgroup only by force; they are ended.
    pub(super) fn del(&mut self, name: &str, force: bool) -> Result<(), Refused> {
        let slot = self.registry.slot(name)?;
        match self.cgroups.remove(name) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                if !force {
                    let count = self.cgroups.processes(name).len();
                    let text =
                        format!("{count} processes live in {name}: end them, or `afnet del {name} --force`");
                    return Err(Refused::new(Errno::BUSY, text));
                }
                self.cgroups.signal(name, Signal::TERM);
                self.dying.push(Dying { name: name.to_owned(), since: Instant::now() });
            }
            Err(e) => return Err(Refused::io(format!("removing the cgroup of {name}"), &e)),
        }
        let gone: Vec<u64> =
            self.endpoints.iter().filter(|(_, e)| e.slot == slot).map(|(conn, _)| *conn).collect();
        for conn in gone {
            self.detach(conn, "deleted");
            self.kicked.push((conn, Errno::NOENT, format!("{name} was removed")));
        }
        for owned in self.registry.get(slot).map(|c| c.addresses.clone()).unwrap_or_default() {
            self.uninstall(slot, &owned);
            let address = self.wire_address(name, &owned);
            self.events.push(Event::AddressDeleted(address));
        }
        self.forget(slot);
        self.store.remove(name)?;
        self.flush_routes_soon();
        self.events.push(Event::Deleted { name: name.to_owned() });
        Ok(())
    }

    /// Takes a compartment out of registry, workers and XDP programs.
    fn forget(&mut self, slot: Slot) {
        if let Err(e) = self.dataplane.remove_compartment(slot) {
            tracing::error!("removing compartment {slot} from the workers: {e}");
        }
        for live in self.devices.iter().filter_map(|d| d.live.as_ref()) {
            if let Err(e) = live.demux.clear_compartment(slot) {
                tracing::error!("removing compartment {slot} from {}: {e}", live.link.name);
            }
        }
        self.resolver.forget_slot(slot);
        self.registry.remove(slot);
    }

    /// Writes a compartment's state file.
    pub(super) fn save(&self, slot: Slot) -> Result<(), Refused> {
        let Some(compartment) = self.registry.get(slot) else { return Ok(()) };
        let addresses = compartment
            .addresses
            .iter()
            .map(|owned| SavedAddress { spec: self.spec(owned), state: owned.state })
            .collect();
        self.store.save(&Saved::new(&compartment.name, slot, compartment.policy, addresses))
    }

    /// Goes on with ending processes of removed compartments.
    pub(super) fn reap(&mut self, now: Instant) {
        let cgroups = &self.cgroups;
        self.dying.retain(|dying| {
            if now.duration_since(dying.since) >= GRACE {
                cgroups.signal(&dying.name, Signal::KILL);
            }
            cgroups.remove(&dying.name).is_err()
        });
    }
}
