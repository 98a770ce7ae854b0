//! Compartments, their endpoints and claims, and the sockets that carry their packets.
//!
//! A compartment's RX-only sockets (one for each device queue) are made when its first endpoint attaches and go when
//! its last one detaches; a compartment without endpoints costs a table entry in each worker.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use afnet_abi::shm::endpoint_kind;
use afnet_ring::{Layout, Mapping};
use rustix::event::{EventfdFlags, eventfd};

use super::Dataplane;
use crate::{
    config::{Attachment, Compartment, EndpointKind},
    counters::{Counter, Counters},
    error::Error,
    ports::{PortClaim, Scope},
    worker::{
        claims::{Claim, Held},
        command::{Command, NewEndpoint},
    },
    xsk::RxSocket,
};

/// A compartment that workers know of.
#[derive(Debug, Default)]
pub(super) struct SlotState {
    /// Number of endpoints.
    pub(super) endpoints: usize,
    raw: Option<u64>,
    /// By worker.
    counters: Vec<Arc<Counters>>,
    /// (ifindex, queue) -> a second handle on the socket there, for its statistics.
    sockets: BTreeMap<(u32, u32), SocketState>,
    /// Drops of sockets that are gone.
    dropped: Drops,
}

#[derive(Debug)]
struct SocketState {
    fd: OwnedFd,
    serial: u64,
}

/// What the kernel counts at a socket.
#[derive(Clone, Copy, Debug, Default)]
struct Drops {
    full: u64,
    other: u64,
}

impl SocketState {
    fn drops(&self) -> Drops {
        rustix::net::sockopt::xdp_statistics(&self.fd)
            .map_or(Drops::default(), |s| Drops { full: s.rx_ring_full.unwrap_or(0), other: s.rx_dropped })
    }
}

/// An endpoint.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) slot: u32,
    /// By worker.
    pub(super) counters: Vec<Arc<Counters>>,
    claims: Vec<Held>,
}

impl SlotState {
    pub(super) fn new(workers: usize) -> Self {
        Self { counters: (0..workers).map(|_| Arc::default()).collect(), ..Self::default() }
    }

    pub(super) fn has_socket(&self, ifindex: u32, queue: u32) -> bool {
        self.sockets.contains_key(&(ifindex, queue))
    }

    pub(super) fn forget_device(&mut self, ifindex: u32) {
        self.sockets.retain(|(device, _), socket| {
            if *device == ifindex {
                self.dropped += socket.drops();
            }
            *device != ifindex
        });
    }

    /// All counters of the slot, those of its sockets included.
    pub(super) fn counters(&self) -> Vec<u64> {
        let mut sum = vec![0; Counter::COUNT];
        self.counters.iter().for_each(|set| set.add_to(&mut sum));
        let mut drops = self.dropped;
        self.sockets.values().for_each(|socket| drops += socket.drops());
        for (counter, value) in [(Counter::RxSocketFull, drops.full), (Counter::RxSocketDrop, drops.other)] {
            if let Some(cell) = sum.get_mut(counter as usize) {
                *cell += value;
            }
        }
        sum
    }
}

impl std::ops::AddAssign for Drops {
    fn add_assign(&mut self, other: Self) {
        self.full += other.full;
        self.other += other.other;
    }
}

impl Dataplane {
    /// Tells the workers what a compartment is; replaces what was told before.
    ///
    /// # Errors
    /// [`Error::Config`] for a slot out of range, [`Error::Worker`].
    pub fn set_compartment(&mut self, slot: u32, compartment: Compartment) -> Result<(), Error> {
        self.check_slot(slot)?;
        let workers = self.workers.len();
        self.slots.entry(slot).or_insert_with(|| SlotState::new(workers));
        let compartment = Arc::new(compartment);
        self.call_all(|_| Command::Compartment { slot, compartment: Arc::clone(&compartment) })
    }

    /// Whether the workers have been told of a compartment and not to forget it.
    pub fn knows(&self, slot: u32) -> bool {
        self.slots.contains_key(&slot)
    }

    /// Forgets a compartment; detaches its endpoints first. Unknown is fine.
    ///
    /// # Errors
    /// [`Error::Worker`].
    pub fn remove_compartment(&mut self, slot: u32) -> Result<(), Error> {
        let endpoints: Vec<u64> =
            self.endpoints.iter().filter(|(_, e)| e.slot == slot).map(|(id, _)| *id).collect();
        for id in endpoints {
            self.detach(id)?;
        }
        if self.slots.remove(&slot).is_some() {
            self.call_all(|_| Command::RemoveSlot { slot })?;
        }
        Ok(())
    }

    /// Makes an endpoint with RX and TX rings of `rx_len` and `tx_len` bytes for each worker.
    ///
    /// # Errors
    /// [`Error::Config`] for lengths or a slot out of range, [`Error::Exists`] if the compartment has a raw endpoint
    /// already, [`Error::Io`] and [`Error::SocketMap`] if the kernel refuses something; nothing is left behind then.
    pub fn attach(
        &mut self,
        slot: u32,
        kind: EndpointKind,
        rx_len: usize,
        tx_len: usize,
    ) -> Result<Attachment, Error> {
        self.check_slot(slot)?;
        let workers = self.workers.len();
        let state = self.slots.entry(slot).or_insert_with(|| SlotState::new(workers));
        if kind == EndpointKind::Raw && state.raw.is_some() {
            return Err(Error::Exists("the compartment has a raw endpoint already".to_owned()));
        }
        let slot_counters = state.counters.clone();
        let layout = Layout {
            kind: match kind {
                EndpointKind::Udp => endpoint_kind::UDP,
                EndpointKind::Raw => endpoint_kind::RAW,
            },
            workers,
            rx_len,
            tx_len,
        };
        if !layout.is_valid() {
            return Err(Error::Config(format!("ring lengths {rx_len} and {tx_len} are not permitted")));
        }
        let (mapping, memfd) = Mapping::create(layout).map_err(|e| Error::io("endpoint memory", e))?;
        let event = || {
            eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| Error::io("eventfd", e))
        };
        let again = |fd: &OwnedFd| fd.try_clone().map_err(|e| Error::io("eventfd", e));
        let wake = event()?;
        let wake_ours = Arc::new(again(&wake)?);
        let mut doorbells = Vec::with_capacity(workers);
        let mut parts = Vec::with_capacity(workers);
        let mut counters = Vec::with_capacity(workers);
        let id = self.next_endpoint;
        for (worker, slot_counters) in slot_counters.into_iter().enumerate() {
            let doorbell = event()?;
            let (rx, tx) = mapping.worker_side(worker).ok_or(Error::Worker(worker))?;
            let set = Arc::new(Counters::default());
            parts.push(Some(Box::new(NewEndpoint {
                id,
                slot,
                kind,
                rx,
                tx,
                wake: Arc::clone(&wake_ours),
                doorbell: again(&doorbell)?,
                counters: Arc::clone(&set),
                slot_counters,
            })));
            counters.push(set);
            doorbells.push(doorbell);
        }
        self.next_endpoint += 1;
        self.endpoints.insert(id, EndpointState { slot, counters, claims: Vec::new() });
        if let Some(state) = self.slots.get_mut(&slot) {
            state.endpoints += 1;
            if kind == EndpointKind::Raw {
                state.raw = Some(id);
            }
        }
        let installed = self
            .call_all(|worker| match parts.get_mut(worker).and_then(Option::take) {
                Some(part) => Command::AddEndpoint(part),
                // Every worker has its part; this keeps the types honest.
                None => Command::RemoveEndpoint { id },
            })
            .and_then(|()| self.open_sockets(slot, None));
        if let Err(error) = installed {
            let _ = self.detach(id);
            return Err(error);
        }
        Ok(Attachment { id, memfd, wake, doorbells })
    }

    /// Takes an endpoint away. The tenant's mapping stays valid, but nobody serves it. With the last one the
    /// compartment's sockets go.
    ///
    /// # Errors
    /// [`Error::Unknown`], [`Error::Worker`].
    pub fn detach(&mut self, id: u64) -> Result<(), Error> {
        let Some(endpoint) = self.endpoints.remove(&id) else {
            return Err(Error::Unknown { what: "endpoint", number: id });
        };
        if let Some(state) = self.slots.get_mut(&endpoint.slot) {
            state.endpoints -= 1;
            if state.raw == Some(id) {
                state.raw = None;
            }
            if state.endpoints == 0 {
                self.close_sockets(endpoint.slot)?;
            }
        }
        self.leave_all(id)?;
        self.call_all(|_| Command::RemoveEndpoint { id })
    }

    /// Delivers UDP ports to the endpoint. Who else has them, and whether that is right, is for control to know.
    ///
    /// # Errors
    /// [`Error::Exists`] if a claim of the compartment's with the same scope overlaps it and is not an equal one with
    /// which it may be shared, or is the endpoint's own; [`Error::Unknown`], [`Error::Config`], [`Error::Worker`].
    pub fn claim(&mut self, id: u64, claim: &PortClaim) -> Result<(), Error> {
        let PortClaim { first, count, .. } = *claim;
        let held = Held::new(claim).ok_or_else(|| Error::Config(format!("port range {first} + {count}")))?;
        let slot = self.slot_of(id)?;
        let taken = self
            .endpoints
            .iter()
            .filter(|(_, e)| e.slot == slot)
            .flat_map(|(owner, e)| e.claims.iter().map(move |c| (owner, c)))
            .any(|(owner, c)| c.excludes(&held) || *owner == id && c.claim == held.claim);
        if taken {
            return Err(Error::Exists(format!("port {first} is claimed already")));
        }
        if let Some(endpoint) = self.endpoints.get_mut(&id) {
            endpoint.claims.push(held);
        }
        self.call_all(|_| Command::Claim { id, held })
    }

    /// Takes a claim back.
    ///
    /// # Errors
    /// [`Error::Unknown`] if there is no such claim, [`Error::Worker`].
    pub fn unclaim(&mut self, id: u64, first: u16, count: u16, scope: Scope) -> Result<(), Error> {
        let none = || Error::Unknown { what: "claim of port", number: first.into() };
        let claim = Claim::new(first, count, scope).ok_or_else(none)?;
        self.slot_of(id)?;
        let endpoint = self.endpoints.get_mut(&id).ok_or_else(none)?;
        let at = endpoint.claims.iter().position(|held| held.claim == claim).ok_or_else(none)?;
        endpoint.claims.remove(at);
        self.call_all(|_| Command::Unclaim { id, claim })
    }

    pub(super) fn slot_of(&self, id: u64) -> Result<u32, Error> {
        self.endpoints.get(&id).map(|e| e.slot).ok_or(Error::Unknown { what: "endpoint", number: id })
    }

    fn check_slot(&self, slot: u32) -> Result<(), Error> {
        if slot == 0 || slot >= self.config.slots {
            return Err(Error::Config(format!("slot {slot}, must be 1 to {}", self.config.slots - 1)));
        }
        Ok(())
    }

    /// Makes the slot's sockets on every queue (of `only`, if given) that has none of it yet.
    pub(super) fn open_sockets(&mut self, slot: u32, only: Option<u32>) -> Result<(), Error> {
        let Some(state) = self.slots.get_mut(&slot) else { return Ok(()) };
        for (&ifindex, device) in &self.devices {
            if device.host || only.is_some_and(|only| only != ifindex) {
                continue;
            }
            for (queue, anchor) in (0..).zip(&device.anchors) {
                if state.sockets.contains_key(&(ifindex, queue)) {
                    continue;
                }
                let what = || format!("socket of slot {slot} on {} queue {queue}", device.name);
                let len = self.config.compartment_rx_ring;
                let socket =
                    RxSocket::new(anchor.as_fd(), ifindex, queue, len).map_err(|e| Error::io(what(), e))?;
                let fd = socket.as_fd().try_clone_to_owned().map_err(|e| Error::io(what(), e))?;
                let serial = socket.serial();
                let index = queue as usize % self.workers.len();
                let Some(worker) = self.workers.get(index) else { continue };
                match worker.call(Command::AddSocket { ifindex, queue, slot, socket }) {
                    Ok(super::Reply::Done) => {}
                    Ok(super::Reply::Failed(error)) => return Err(Error::io(what(), error)),
                    _ => return Err(Error::Worker(index)),
                }
                let entered = device.sockets.set(slot, queue, fd.as_fd());
                // Also if it failed: the undoing looks here.
                state.sockets.insert((ifindex, queue), SocketState { fd, serial });
                entered.map_err(|e| Error::SocketMap { slot, queue, reason: e.to_string() })?;
            }
        }
        Ok(())
    }

    /// Takes the slot's sockets out of the maps and gives them to the reaper.
    pub(super) fn close_sockets(&mut self, slot: u32) -> Result<(), Error> {
        let Some(state) = self.slots.get_mut(&slot) else { return Ok(()) };
        for ((ifindex, queue), socket) in std::mem::take(&mut state.sockets) {
            state.dropped += socket.drops();
            if let Some(device) = self.devices.get(&ifindex) {
                // A map that refuses is gone with its program: no frame comes by it either.
                let _ = device.sockets.clear(slot, queue);
            }
            let index = queue as usize % self.workers.len();
            let Some(worker) = self.workers.get(index) else { continue };
            worker.call(Command::RetireSocket { ifindex, queue, slot }).map_err(|()| Error::Worker(index))?;
            drop(socket.fd);
            self.reaper.close(worker.line.clone(), ifindex, queue, socket.serial);
        }
        Ok(())
    }
}
