//! Compartments come and go.

use std::time::{Duration, Instant};

use afnet_abi::control::{Event, MAX_GRACE, Policy, PolicyChange};
use afnet_bpf::CompartmentConfig;
use rustix::io::Errno;
use rustix::process::Signal;

use super::core::Core;
use super::device::bpf;
use crate::error::Refused;
use crate::registry::Slot;
use crate::state::{Saved, SavedAddress};
use crate::system::accounts;

/// Time between SIGTERM and SIGKILL for the processes of all compartments when the daemon ends. Less cuts orderly ends
/// off, more keeps the service manager waiting.
pub const GRACE: Duration = Duration::from_secs(2);

/// A removed compartment's cgroup that still has processes.
#[derive(Debug)]
pub struct Dying {
    /// Name of the directory.
    pub name: String,
    /// From when on they get SIGKILL.
    pub kill_at: Instant,
}

/// What becomes of a compartment's processes when it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// They keep it from being removed.
    Refuse,
    /// SIGTERM, and after the time SIGKILL.
    Stop(Duration),
    /// SIGKILL.
    Kill,
}

impl End {
    /// As [`afnet_abi::control::Request::Del`] says it.
    pub fn new(stop: Option<u32>, force: bool) -> Result<Self, Refused> {
        match (stop, force) {
            (None, false) => Ok(Self::Refuse),
            (None, true) => Ok(Self::Kill),
            (Some(_), true) => Err(Refused::new(Errno::INVAL, "either stop or force, not both")),
            (Some(grace), false) if grace > MAX_GRACE => {
                Err(Refused::new(Errno::INVAL, format!("the grace period is at most {MAX_GRACE} ms")))
            }
            (Some(grace), false) => Ok(Self::Stop(Duration::from_millis(grace.into()))),
        }
    }
}

impl Core {
    /// Creates a compartment.
    pub(super) fn add(&mut self, name: &str, policy: Policy) -> Result<(), Refused> {
        if self.dying.iter().any(|d| d.name == name) {
            let text =
                format!("the processes of the former {name} are still being ended: try again in a moment");
            return Err(Refused::new(Errno::BUSY, text));
        }
        accounts::check(&policy.users, &policy.groups)?;
        let slot = self.registry.add(name, policy, None)?;
        let made = self.set_policy(slot).and_then(|()| self.save(slot));
        if let Err(e) = made {
            self.forget(slot);
            return Err(e);
        }
        self.events.push(Event::Added { name: name.to_owned() });
        Ok(())
    }

    /// Changes what a compartment may do.
    pub(super) fn set(&mut self, name: &str, change: PolicyChange) -> Result<(), Refused> {
        let slot = self.registry.slot(name)?;
        let (users, groups) = (change.users.as_deref(), change.groups.as_deref());
        accounts::check(users.unwrap_or_default(), groups.unwrap_or_default())?;
        let Some(compartment) = self.registry.get_mut(slot) else { return Ok(()) };
        let new = change.apply(&compartment.policy);
        if new == compartment.policy {
            return Ok(());
        }
        let old = std::mem::replace(&mut compartment.policy, new.clone());
        if let Err(e) = self.set_policy(slot).and_then(|()| self.save(slot)) {
            if let Some(compartment) = self.registry.get_mut(slot) {
                compartment.policy = old;
            }
            if let Err(e) = self.set_policy(slot) {
                tracing::error!("taking back the new policy of {name}: {e}");
            }
            return Err(e);
        }
        self.events.push(Event::Changed { name: name.to_owned(), policy: new });
        Ok(())
    }

    /// Tells the BPF programs and the workers what a compartment may do.
    pub(super) fn set_policy(&mut self, slot: Slot) -> Result<(), Refused> {
        let Some(compartment) = self.registry.get(slot) else { return Ok(()) };
        let raw = self.endpoints.values().any(|e| e.slot == slot && e.is_raw());
        let Policy { rate_pps, burst, .. } = compartment.policy;
        for live in self.devices.iter().filter_map(|d| d.live.as_ref()) {
            let config = CompartmentConfig { rate_pps, burst, raw };
            let what = || format!("setting the policy of {} on {}", compartment.name, live.link.name);
            live.demux.set_compartment(slot, config).map_err(|e| bpf(what(), &e))?;
        }
        self.confine(slot)?;
        self.tell_workers(slot)
    }

    /// Removes a compartment. `end`: what becomes of processes in its cgroup.
    pub(super) fn del(&mut self, name: &str, end: End) -> Result<(), Refused> {
        let slot = self.registry.slot(name)?;
        match self.cgroups.remove(name) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                let kill_at = match end {
                    End::Refuse => {
                        let count = self.cgroups.processes(name).len();
                        let text = format!(
                            "{count} processes live in {name} (`afnet pids {name}`): end them, or `afnet del {name}` with --stop or --force"
                        );
                        return Err(Refused::new(Errno::BUSY, text));
                    }
                    End::Stop(grace) => {
                        self.cgroups.signal(name, Signal::TERM);
                        Instant::now() + grace
                    }
                    End::Kill => {
                        self.cgroups.signal(name, Signal::KILL);
                        Instant::now()
                    }
                };
                self.dying.push(Dying { name: name.to_owned(), kill_at });
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
        self.close_compartment(slot);
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
        self.store.save(&Saved::new(&compartment.name, slot, compartment.policy.clone(), addresses))
    }

    /// Ends what lives in cgroups of no compartment, left by a daemon that died while it was ending them: the next
    /// compartment of the name must not inherit it.
    pub(super) fn end_strays(&mut self) {
        for name in self.cgroups.names() {
            if self.registry.slot(&name).is_err() && self.cgroups.remove(&name).is_err() {
                tracing::warn!("ending the processes of {name}, which a former afnetd has removed");
                self.cgroups.signal(&name, Signal::TERM);
                self.dying.push(Dying { name, kill_at: Instant::now() + GRACE });
            }
        }
    }

    /// Goes on with ending processes of removed compartments.
    pub(super) fn reap(&mut self, now: Instant) {
        let cgroups = &self.cgroups;
        self.dying.retain(|dying| {
            if now >= dying.kill_at {
                cgroups.signal(&dying.name, Signal::KILL);
            }
            cgroups.remove(&dying.name).is_err()
        });
    }
}
