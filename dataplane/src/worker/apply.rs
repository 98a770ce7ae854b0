//! Doing what control says. Rare, so plain: allocation is fine here, blocking is not.

use std::os::fd::AsFd;

use super::{
    TX_LINGER, Worker,
    command::{Command, NewEndpoint, Reply, Request},
    core::Core,
    endpoint::{RxHalf, TxHalf},
    groups::Listener,
    poll::Source,
    slot::Slot,
};
use crate::{
    config::{Compartment, EndpointKind},
    event::Event,
    net::from_ip,
    route::RouteKey,
    worker::queue::{Queue, QueueKind},
};

/// Commands done in one round, so that packets do not wait for a long list of them.
const BATCH: usize = 64;

/// Buffers kept for reuse; as many packets of full size as one compartment may let wait.
const SPARE: usize = 128;

/// What to answer for something that is not there.
fn unknown() -> Reply {
    Reply::Failed(std::io::Error::from(std::io::ErrorKind::NotFound))
}

impl Worker {
    /// Does what waits in the command channel.
    pub(super) fn apply(&mut self) {
        for _ in 0..BATCH {
            let Ok(Request { command, reply }) = self.requests.try_recv() else { return };
            let answer = self.command(command);
            if let Some(reply) = reply {
                // The channel has room for it; if nobody waits any more, it is dropped here.
                drop(reply.try_send(answer));
            }
        }
    }

    fn command(&mut self, command: Command) -> Reply {
        match command {
            Command::AddQueue(queue) => self.add_queue(queue),
            Command::Peers(lines) => {
                self.peers.lines = lines;
                Reply::Done
            }
            Command::Elsewhere { ifindex, worker } => {
                self.peers.elsewhere.push((ifindex, worker));
                Reply::Done
            }
            Command::Handover { waiting, route } => {
                self.resume(&waiting, route);
                self.spare(waiting.payload);
                Reply::Done
            }
            Command::RemoveQueues { ifindex } => {
                self.peers.elsewhere.retain(|(device, _)| *device != ifindex);
                Reply::Queues(self.take_queues(|q| q.ifindex == ifindex))
            }
            Command::Changed { ifindex, mac, mtu } => {
                self.changed(ifindex, mac, mtu);
                Reply::Done
            }
            Command::Compartment { slot, compartment } => {
                self.compartment(slot, &compartment);
                Reply::Done
            }
            Command::RemoveSlot { slot } => {
                self.remove_slot(slot);
                Reply::Done
            }
            Command::AddSocket { ifindex, queue, slot, socket } => match self.device(ifindex, queue) {
                Some(device) => {
                    device.add_socket(slot, socket);
                    Reply::Done
                }
                None => unknown(),
            },
            Command::RetireSocket { ifindex, queue, slot } => {
                let Self { devices, poller, .. } = self;
                let device = devices.iter_mut().find(|q| q.ifindex == ifindex && q.number() == queue);
                if let Some(socket) = device.and_then(|d| d.retire(slot)) {
                    poller.unwatch(socket.as_fd());
                }
                Reply::Done
            }
            Command::TakeSocket { ifindex, queue, serial } => self.take_socket(ifindex, queue, serial),
            Command::AddEndpoint(endpoint) => self.add_endpoint(*endpoint),
            Command::RemoveEndpoint { id } => {
                self.drain(id);
                self.remove_endpoint(id)
            }
            Command::Claim { id, held } => {
                let reply = self.with_endpoint(id, |half, slot, index| {
                    half.claims.push(held);
                    slot.claims.insert(held, index);
                });
                self.set_ports(id);
                reply
            }
            Command::Unclaim { id, claim } => {
                self.drain(id);
                let reply = self.with_endpoint(id, |half, slot, index| {
                    half.claims.retain(|held| held.claim != claim);
                    slot.claims.remove(&claim, index);
                });
                self.set_ports(id);
                reply
            }
            Command::Listen { id, group, wanted, local } => {
                let found = (0u32..).zip(&self.tx).find_map(|(index, half)| {
                    let half = half.as_deref().filter(|half| half.id == id)?;
                    Some(Listener { index, slot: half.slot, raw: half.kind == EndpointKind::Raw, local })
                });
                let Some(listener) = found else { return unknown() };
                self.core.groups.listen(&group, listener, &wanted);
                Reply::Done
            }
            Command::GroupKernel { group, kernel } => {
                self.core.groups.set_kernel(&group, kernel);
                Reply::Done
            }
            Command::Route { key, route } => {
                self.route(&key, route);
                Reply::Done
            }
            Command::FlushRoutes => {
                self.flush_routes();
                Reply::Done
            }
            Command::Stop => self.stop(),
        }
    }

    fn device(&mut self, ifindex: u32, queue: u32) -> Option<&mut Queue> {
        self.devices.iter_mut().find(|q| q.ifindex == ifindex && q.number() == queue)
    }

    fn add_queue(&mut self, mut queue: Box<Queue>) -> Reply {
        queue.token = self.queues_made;
        self.queues_made += 1;
        if let Err(error) = self.poller.watch(queue.anchor.fd(), Source::Anchor { queue: queue.token }) {
            return Reply::Failed(error);
        }
        if let Err(error) = queue.anchor.refill() {
            return Reply::Failed(error);
        }
        let list = if queue.is_host() { &mut self.hosts } else { &mut self.devices };
        list.push(*queue);
        Reply::Done
    }

    fn take_queues(&mut self, mut which: impl FnMut(&Queue) -> bool) -> Vec<Queue> {
        let mut taken = Vec::new();
        for list in [&mut self.devices, &mut self.hosts] {
            let (out, stay) = std::mem::take(list).into_iter().partition(|q| which(q));
            *list = stay;
            taken.extend::<Vec<_>>(out);
        }
        for queue in &taken {
            self.poller.unwatch(queue.anchor.fd());
        }
        taken
    }

    fn changed(&mut self, ifindex: u32, new_mac: [u8; 6], new_mtu: u32) {
        for queue in self.devices.iter_mut().chain(&mut self.hosts).filter(|q| q.ifindex == ifindex) {
            match &mut queue.kind {
                QueueKind::Device { mac, mtu, .. } | QueueKind::Host { mac, mtu, .. } => {
                    *mac = new_mac;
                    *mtu = new_mtu;
                }
            }
            queue.failed = false;
        }
    }

    fn compartment(&mut self, number: u32, compartment: &Compartment) {
        let addresses = &compartment.addresses;
        self.core.forget_owner(number);
        if addresses.iter().any(|a| a.delegated) {
            self.core.delegated.push(number);
        }
        for address in addresses.iter().filter(|a| !a.delegated) {
            self.core.owners.insert(from_ip(address.addr), number);
        }
        if let Some(place) = self.core.slots.get_mut(number as usize) {
            let slot = place.get_or_insert_with(|| Box::new(Slot::new(std::sync::Arc::default())));
            slot.set_addresses(addresses);
            slot.isolated = compartment.isolated;
        }
    }

    fn remove_slot(&mut self, number: u32) {
        self.core.forget_owner(number);
        self.core.reassembler.remove_slot(number);
        self.core.hops.remove_slot(number);
        self.core.routes.remove_slot(number, |_, _| {});
        if let Some(place) = self.core.slots.get_mut(number as usize) {
            *place = None;
        }
    }

    fn take_socket(&mut self, ifindex: u32, queue: u32, serial: u64) -> Reply {
        let now = self.core.now;
        let Some(device) = self.device(ifindex, queue) else { return unknown() };
        let Some(at) = device.retired.iter().position(|(_, s)| s.serial() == serial) else {
            return unknown();
        };
        let (_, mut socket) = device.retired.swap_remove(at);
        device.discard(&mut socket);
        device.collect(now);
        Reply::Socket(socket)
    }

    fn add_endpoint(&mut self, new: NewEndpoint) -> Reply {
        let NewEndpoint { id, slot, kind, rx, tx, wake, doorbell, counters, slot_counters } = new;
        let Some(place) = self.core.slots.get_mut(slot as usize) else { return unknown() };
        let free = self.tx.iter().position(Option::is_none);
        let at = free.unwrap_or(self.tx.len());
        let Ok(index) = u32::try_from(at) else { return unknown() };
        if let Err(error) = self.poller.watch(doorbell.as_fd(), Source::Doorbell { index }) {
            return Reply::Failed(error);
        }
        let entry = place.get_or_insert_with(|| Box::new(Slot::new(std::sync::Arc::clone(&slot_counters))));
        entry.counters = std::sync::Arc::clone(&slot_counters);
        entry.endpoints += 1;
        if kind == EndpointKind::Raw {
            entry.raw = Some(index);
        }
        let half = RxHalf {
            id,
            ring: rx,
            wake: std::sync::Arc::clone(&wake),
            counters: std::sync::Arc::clone(&counters),
            slot_counters: std::sync::Arc::clone(&slot_counters),
            ports: Vec::new(),
            touched: false,
            fresh: (0, 0),
            leaving: false,
            closed: false,
        };
        let sender = TxHalf {
            id,
            slot,
            kind,
            ring: tx,
            doorbell,
            wake,
            counters,
            slot_counters,
            claims: Vec::new(),
            active: true,
            until: self.core.now + TX_LINGER,
            closed: false,
        };
        if free.is_none() {
            self.tx.push(None);
            self.core.rx.push(None);
        }
        if let (Some(tx), Some(rx)) = (self.tx.get_mut(at), self.core.rx.get_mut(at)) {
            *tx = Some(Box::new(sender));
            *rx = Some(Box::new(half));
        }
        self.unparked.push(index);
        Reply::Done
    }

    fn remove_endpoint(&mut self, id: u64) -> Reply {
        let Some(at) = self.tx.iter().position(|half| half.as_ref().is_some_and(|h| h.id == id)) else {
            return unknown();
        };
        let Ok(index) = u32::try_from(at) else { return unknown() };
        let (Some(tx), Some(rx)) = (self.tx.get_mut(at), self.core.rx.get_mut(at)) else { return unknown() };
        let (tx, rx) = (tx.take(), rx.take());
        self.unparked.retain(|i| *i != index);
        self.core.groups.forget(index);
        if let Some(half) = &tx {
            self.poller.unwatch(half.as_fd());
            if let Some(slot) = self.core.slots.get_mut(half.slot as usize).and_then(Option::as_deref_mut) {
                slot.claims.remove_all(index);
                slot.endpoints -= 1;
                if slot.raw == Some(index) {
                    slot.raw = None;
                }
            }
        }
        Reply::Endpoint((tx, rx))
    }

    /// The receiving half knows the claims of the sending one.
    fn set_ports(&mut self, id: u64) {
        let Self { tx, core, .. } = self;
        for (tx, rx) in tx.iter().zip(&mut core.rx) {
            if let (Some(tx), Some(rx)) = (tx, rx)
                && tx.id == id
            {
                rx.ports = tx.claims.iter().map(|held| held.claim).collect();
            }
        }
    }

    fn with_endpoint(&mut self, id: u64, change: impl FnOnce(&mut TxHalf, &mut Slot, u32)) -> Reply {
        let found = (0u32..)
            .zip(&mut self.tx)
            .find_map(|(i, h)| Some((i, h.as_deref_mut()?)).filter(|(_, h)| h.id == id));
        let Some((index, half)) = found else { return unknown() };
        match self.core.slots.get_mut(half.slot as usize).and_then(Option::as_deref_mut) {
            Some(slot) => {
                change(half, slot, index);
                Reply::Done
            }
            None => unknown(),
        }
    }

    fn stop(&mut self) -> Reply {
        self.stopped = true;
        // What is still in the TX rings of devices goes out; completions come when the kernel is done with it.
        for _ in 0..100 {
            self.flush();
            if self.devices.iter().chain(&self.hosts).all(|q| q.anchor.umem().in_tx() == 0) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let mut queues = self.take_queues(|_| true);
        let audits = queues.iter_mut().map(|q| q.audit()).collect();
        Reply::Stopped(queues, audits)
    }

    fn flush_routes(&mut self) {
        let Core { routes, events, .. } = &mut self.core;
        routes.flush(|key| {
            events.send(Event::Resolve(RouteKey::from(key)));
        });
    }

    /// Keeps a buffer for the next datagram that must wait.
    pub(super) fn spare(&mut self, mut buffer: Vec<u8>) {
        if self.core.spare.len() < SPARE {
            buffer.clear();
            self.core.spare.push(buffer);
        }
    }
}
