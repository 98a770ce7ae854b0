//! Answers to those who only look.

use afnet_abi::control::{
    Answer, ClaimSpec, Compartment, Counter, Counters, DeviceStatus, Endpoint, EndpointState, Stats, Status,
};
use afnet_abi::vlan::Vlan;

use super::core::Core;
use super::device::bpf;
use super::endpoint::words;
use crate::error::Refused;
use crate::registry::{self, Slot};

impl Core {
    /// All compartments.
    pub(super) fn list(&self) -> Answer {
        Answer::Compartments(self.registry.iter().map(|(slot, c)| self.compartment(slot, c)).collect())
    }

    /// One.
    pub(super) fn show(&self, name: &str) -> Result<Answer, Refused> {
        let slot = self.registry.slot(name)?;
        let found = self.registry.get(slot).map(|c| self.compartment(slot, c));
        Ok(Answer::Compartments(found.into_iter().collect()))
    }

    fn compartment(&self, slot: Slot, c: &registry::Compartment) -> Compartment {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Compartment {
            name: c.name.clone(),
            id: slot,
            policy: c.policy.clone(),
            addresses: count(c.addresses.len()),
            endpoints: count(self.endpoints.values().filter(|e| e.slot == slot).count()),
        }
    }

    /// Addresses that match.
    pub(super) fn addresses(
        &self,
        name: Option<&str>,
        dev: Option<&str>,
        vlan: Option<Vlan>,
        family: Option<u8>,
    ) -> Result<Answer, Refused> {
        let only = name.map(|name| self.registry.slot(name)).transpose()?;
        let device = dev.map(|dev| self.device(dev)).transpose()?;
        let mut all = Vec::new();
        for (_, compartment) in self.registry.iter().filter(|(slot, _)| only.is_none_or(|o| o == *slot)) {
            let matching = compartment
                .addresses
                .iter()
                .filter(|o| device.is_none_or(|d| o.realm.device == d))
                .filter(|o| vlan.is_none_or(|v| o.realm.vlan == v))
                .filter(|o| family.is_none_or(|f| o.address.is_ipv4() == (f == 4)));
            all.extend(matching.map(|o| self.wire_address(&compartment.name, o)));
        }
        Ok(Answer::Addresses(all))
    }

    /// Attached endpoints.
    pub(super) fn endpoint_list(&self, name: Option<&str>) -> Result<Answer, Refused> {
        let only = name.map(|name| self.registry.slot(name)).transpose()?;
        let counted = self.dataplane.stats().endpoints;
        let mut all: Vec<Endpoint> = self
            .endpoints
            .values()
            .filter(|e| only.is_none_or(|slot| slot == e.slot))
            .map(|e| {
                let claims = self.registry.get(e.slot).map(|c| c.claims.of(e.id)).unwrap_or_default();
                let spec = |c: &registry::Claim| {
                    let (address, family) = words(c.scope);
                    ClaimSpec { port: c.first, count: c.count, address, family, shared: c.shared }
                };
                let values =
                    counted.binary_search_by_key(&e.id, |(id, ..)| *id).ok().map(|at| &counted[at].2);
                let value = |counter| values.map_or(0, |v: &Vec<u64>| v[counter as usize]);
                let fast = e.is_raw() || !claims.is_empty();
                Endpoint {
                    endpoint: e.id,
                    name: self.name(e.slot),
                    kind: e.kind,
                    pid: e.pid,
                    command: e.command.clone(),
                    state: if fast { EndpointState::Fast } else { EndpointState::Plain },
                    rx: value(afnet_dataplane::Counter::RxDelivered),
                    tx: value(afnet_dataplane::Counter::TxDatagrams),
                    claims: claims.iter().map(spec).collect(),
                    note: e.note.clone(),
                }
            })
            .collect();
        all.sort_by_key(|e| e.endpoint);
        Ok(Answer::Endpoints(all))
    }

    /// The daemon at a glance.
    pub(super) fn status(&self) -> Answer {
        let devices = self.devices.iter().map(|device| match &device.live {
            Some(live) => DeviceStatus {
                name: live.link.name.clone(),
                ifindex: live.link.ifindex,
                mac: mac_text(live.mac()),
                mtu: live.link.mtu,
                queues: live.queues,
                mode: live.mode.to_owned(),
                refused: live.refused.clone(),
            },
            None => DeviceStatus {
                name: device.config.name.clone(),
                ifindex: 0,
                mac: String::new(),
                mtu: 0,
                queues: 0,
                mode: "absent".to_owned(),
                refused: vec!["the interface is gone; it is taken over again when it is back".to_owned()],
            },
        });
        let cpu = |cpu: Option<usize>| cpu.and_then(|cpu| u32::try_from(cpu).ok());
        Answer::Status(Status {
            instance: self.instance.name().to_owned(),
            pid: std::process::id(),
            devices: devices.collect(),
            workers: self.config.worker_cpus().into_iter().map(cpu).collect(),
            wake: self.config.workers.wake.name().to_owned(),
        })
    }

    /// Counters that are not zero.
    pub(super) fn stats(&self, name: Option<&str>) -> Result<Answer, Refused> {
        let only = name.map(|name| self.registry.slot(name)).transpose()?;
        let snapshot = self.dataplane.stats();
        let mut stats = Stats::default();
        if only.is_none() {
            for live in self.devices.iter().filter_map(|d| d.live.as_ref()) {
                let name = &live.link.name;
                let values = live.demux.counters().map_err(|e| bpf(format!("counters of {name}"), &e))?;
                stats.devices.push(Counters { name: name.clone(), counters: bpf_counters(&values) });
            }
            if let Some(host) = &self.host {
                let (redirected, no_socket) = host.counters()?;
                let counter = |name: &str, value| Counter { name: name.to_owned(), value };
                let all = [counter("host_redirect", redirected), counter("host_no_socket", no_socket)];
                let counters = all.into_iter().filter(|c| c.value > 0).collect();
                stats.devices.push(Counters { name: host.link.worker.name.clone(), counters });
            }
            for (i, values) in snapshot.workers.iter().enumerate() {
                stats.workers.push(Counters { name: i.to_string(), counters: worker_counters(values) });
            }
        }
        for (slot, compartment) in self.registry.iter().filter(|(slot, _)| only.is_none_or(|o| o == *slot)) {
            let mut sum = vec![0; afnet_bpf::Counter::BY_COMPARTMENT];
            for live in self.devices.iter().filter_map(|d| d.live.as_ref()) {
                let what = || format!("counters of {}", compartment.name);
                let values = live.demux.compartment_counters(slot).map_err(|e| bpf(what(), &e))?;
                sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            }
            let mut counters = bpf_counters(&sum);
            let sockets = self.socket_count(slot)?;
            if sockets > 0 {
                counters.push(Counter { name: "sockets".to_owned(), value: sockets });
            }
            let refusals = self.refusals(slot)?;
            counters.extend(named(afnet_bpf::Refusal::all().map(afnet_bpf::Refusal::name), &refusals));
            if let Ok(at) = snapshot.slots.binary_search_by_key(&slot, |(slot, _)| *slot) {
                counters.extend(worker_counters(&snapshot.slots[at].1));
            }
            stats.compartments.push(Counters { name: compartment.name.clone(), counters });
        }
        Ok(Answer::Stats(stats))
    }
}

fn bpf_counters(values: &[u64]) -> Vec<Counter> {
    named(afnet_bpf::Counter::all().map(afnet_bpf::Counter::name), values)
}

fn worker_counters(values: &[u64]) -> Vec<Counter> {
    named(afnet_dataplane::Counter::ALL.iter().map(|c| c.name()), values)
}

fn named<'a>(names: impl Iterator<Item = &'a str>, values: &[u64]) -> Vec<Counter> {
    let pairs = names.zip(values).filter(|(_, value)| **value > 0);
    pairs.map(|(name, value)| Counter { name: name.to_owned(), value: *value }).collect()
}

/// `aa:bb:cc:dd:ee:ff`
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

/// What every counter means, for `afnetd --help-counters`: generated from the tables that the programs count by.
pub fn counter_help() -> String {
    let line = |name: &str, help: &str| format!("    {name:<28} {help}\n");
    let mut text = String::from("XDP program, by device and by compartment (each frame counts once):\n");
    let mut all = afnet_bpf::Counter::all();
    for counter in all.by_ref().take(afnet_bpf::Counter::BY_COMPARTMENT) {
        text += &line(counter.name(), counter.help());
    }
    text += "\nXDP program, by device:\n";
    for counter in all {
        text += &line(counter.name(), counter.help());
    }
    text += "\nKernel path, by compartment:\n";
    text += &line("sockets", "IP sockets that its processes have now, accepted ones not counted");
    for counter in afnet_bpf::Refusal::all() {
        text += &line(counter.name(), counter.help());
    }
    text += "\nHost link's program:\n";
    text += &line("host_redirect", "frames from the host that were handed to a worker");
    text += &line("host_no_socket", "dropped: no worker serves the queue");
    text += "\nWorkers, by worker and by compartment:\n";
    for counter in afnet_dataplane::Counter::ALL {
        text += &line(counter.name(), counter.help());
    }
    text
}
