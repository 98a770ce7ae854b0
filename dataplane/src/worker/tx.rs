//! From TX rings to routes.
//!
//! ```text
//! record ── checks: port claimed, source owned ── route cache ─┬─ Wire, Host ── wire frames (send.rs)
//!                                                  │           ├─ Local ─────── RX rings (local.rs)
//!                                                  │           └─ Unreachable ─ ERROR record
//!                │                                 └─ unknown: waits, Event::Resolve to control
//!                └─ to loopback: RX rings of the same compartment, nowhere else (local.rs)
//! ```
//!
//! A record that finds no room in the device's TX ring stays where it is; its ring is looked at again next round. So a
//! tenant that sends more than the wire takes is slowed down by its own full ring and by nothing else.

use std::sync::Arc;

use afnet_abi::shm::{Record, flags, kind};
use afnet_ring::Violation;

use super::{
    TX_LINGER, Worker,
    claims::Held,
    copy::Bytes,
    core::{Core, Waiting},
    endpoint::TxHalf,
    peers::Peers,
    queue::Queue,
    slot::record_vlan,
};
use crate::{
    config::EndpointKind,
    counters::{Counter, Counters},
    event::Event,
    net::{
        Address, from_ip, icmp, is_loopback, is_v4,
        next_hop::Neighbour,
        route_cache::{Ask, Key, Lookup},
    },
    route::{Route, RouteKey},
};

/// Records taken from a TX ring at one visit, before the next ring has its turn.
const BATCH: usize = 64;

/// Bytes taken from it likewise, at least one record: as the quantum of reception.
const QUANTUM: usize = 64 << 10;

/// Times that a full device ring is pushed on for the last records of an endpoint: each is a system call that moves a
/// batch, so a ring of them is through after some tens; a device that is stuck costs the worker a millisecond.
const DRAIN_PATIENCE: usize = 256;

/// Who sends.
#[derive(Debug)]
pub(super) struct Sender<'a> {
    pub(super) index: u32,
    pub(super) id: u64,
    pub(super) slot: u32,
    pub(super) kind: EndpointKind,
    pub(super) claims: &'a [Held],
    pub(super) counters: &'a Counters,
    pub(super) slot_counters: &'a Counters,
}

impl Sender<'_> {
    /// Counts for the endpoint and its compartment.
    #[inline]
    pub(super) fn count(&self, counter: impl Into<Counter>, n: u64) {
        let counter = counter.into();
        self.counters.add(counter, n);
        self.slot_counters.add(counter, n);
    }

    /// Counts what went out.
    pub(super) fn sent(&self, datagrams: usize, bytes: usize) {
        self.count(Counter::TxDatagrams, datagrams as u64);
        self.count(Counter::TxBytes, bytes as u64);
    }
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Sent, waiting for its route, or dropped and counted.
    Done,
    /// No room now: try it again.
    Later,
}

/// How the visit of a TX ring ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    /// Something was taken.
    Worked,
    /// There was nothing.
    Empty,
    /// The tenant broke the protocol.
    Violated,
}

/// Everything a record may go to.
#[derive(Debug)]
pub(super) struct Out<'a> {
    pub(super) core: &'a mut Core,
    pub(super) devices: &'a mut [Queue],
    pub(super) hosts: &'a mut [Queue],
    pub(super) peers: &'a mut Peers,
}

impl Worker {
    /// Serves the TX rings that are not parked. Whether there was anything.
    pub(super) fn transmit(&mut self) -> bool {
        let mut worked = false;
        let mut at = 0;
        while let Some(&index) = self.unparked.get(at) {
            at += 1;
            let Some(mut half) = self.tx.get_mut(index as usize).and_then(Option::take) else { continue };
            let visit = visit(&mut half, index, &mut self.out());
            let idle = self.core.now > half.until;
            if let Some(place) = self.tx.get_mut(index as usize) {
                *place = Some(half);
            }
            match visit {
                Visit::Worked => worked = true,
                Visit::Empty if idle && self.park(index) => {
                    at -= 1;
                    self.unparked.swap_remove(at);
                }
                Visit::Empty => {}
                Visit::Violated => {
                    at -= 1;
                    self.violation(index);
                }
            }
        }
        worked
    }

    fn out(&mut self) -> Out<'_> {
        let Self { core, devices, hosts, peers, .. } = self;
        Out { core, devices, hosts, peers }
    }

    /// Control's answer has come: sends what has waited for it.
    pub(super) fn route(&mut self, key: &RouteKey, route: Route) {
        let mut ready = Vec::new();
        self.core.routes.answer(&Key::from(key), route, self.core.now, |waiting| ready.push(waiting));
        for waiting in ready {
            self.resume(&waiting, route);
            self.spare(waiting.payload);
        }
    }

    /// Sends what has waited.
    pub(super) fn resume(&mut self, waiting: &Waiting, route: Route) {
        let Waiting { endpoint: index, id, slot, kind, .. } = *waiting;
        let Some(place) = self.tx.get_mut(index as usize).filter(|p| p.as_ref().is_some_and(|h| h.id == id))
        else {
            return self.resume_orphan(waiting, route);
        };
        let Some(half) = place.take() else { return };
        if !half.closed {
            let sender = Sender {
                index,
                id,
                slot,
                kind,
                claims: &half.claims,
                counters: &half.counters,
                slot_counters: &half.slot_counters,
            };
            self.out().resume(&sender, waiting, route);
        }
        if let Some(place) = self.tx.get_mut(index as usize) {
            *place = Some(half);
        }
    }

    /// As the kernel sends what a program has left in the neighbour's queue when it ended; nobody hears of errors. The
    /// compartment is another one if it no longer has the source.
    fn resume_orphan(&mut self, waiting: &Waiting, route: Route) {
        let (Route::Wire { src, .. }
        | Route::Learn { src, .. }
        | Route::Local { src, .. }
        | Route::Host { src }) = route
        else {
            return;
        };
        let Some(slot) = self.core.slot(waiting.slot) else { return };
        if !slot.may_send_from(&from_ip(src)) {
            return;
        }
        let (slot_counters, counters) = (Arc::clone(&slot.counters), Counters::default());
        let sender = Sender {
            index: u32::MAX,
            id: waiting.id,
            slot: waiting.slot,
            kind: waiting.kind,
            claims: &[],
            counters: &counters,
            slot_counters: &slot_counters,
        };
        self.out().resume(&sender, waiting, route);
    }

    /// Sends what an endpoint has put into its TX ring so far, before its claims, or it, are taken away: a program may
    /// send and close at once. No more than a ring holds, whatever the tenant puts in meanwhile.
    pub(super) fn drain(&mut self, id: u64) {
        let found = self.tx.iter().position(|half| half.as_ref().is_some_and(|h| h.id == id));
        let Some((at, index)) = found.and_then(|at| Some((at, u32::try_from(at).ok()?))) else { return };
        let mut bytes = self.tx.get(at).and_then(Option::as_ref).map_or(0, |half| half.ring.capacity());
        let mut patience = DRAIN_PATIENCE;
        while bytes > 0 && patience > 0 {
            let open = |place: &&mut Option<Box<TxHalf>>| place.as_ref().is_some_and(|half| !half.closed);
            let Some(mut half) = self.tx.get_mut(at).filter(open).and_then(Option::take) else { return };
            let before = half.ring.available().unwrap_or(0);
            let visit = visit(&mut half, index, &mut self.out());
            let left = half.ring.available().unwrap_or(0);
            if let Some(place) = self.tx.get_mut(at) {
                *place = Some(half);
            }
            bytes = bytes.saturating_sub(before.saturating_sub(left).max(1));
            match visit {
                Visit::Violated => return self.violation(index),
                _ if left == 0 => return,
                Visit::Worked => {}
                // The device's ring is full: let it go on.
                Visit::Empty => {
                    patience -= 1;
                    self.flush();
                }
            }
        }
    }

    /// Gives up what has waited for too long.
    pub(super) fn expire_routes(&mut self) {
        let mut lost = Vec::new();
        self.core.routes.expire(self.core.now, |_, waiting| lost.push(waiting));
        let errno = libc::EHOSTUNREACH;
        for waiting in lost {
            self.core.counters.inc(Counter::RouteTimeout);
            self.resume(&waiting, Route::Unreachable { errno });
            self.spare(waiting.payload);
        }
    }
}

/// Takes records from one TX ring.
fn visit(half: &mut TxHalf, index: u32, out: &mut Out<'_>) -> Visit {
    if half.closed {
        return Visit::Empty;
    }
    let (mut records, mut bytes) = (0, 0);
    let mut result: Result<(), Violation> = Ok(());
    let TxHalf { id, slot, kind, ring, counters, slot_counters, claims, .. } = &mut *half;
    let sender = Sender { index, id: *id, slot: *slot, kind: *kind, claims, counters, slot_counters };
    while records < BATCH && bytes < QUANTUM {
        match ring.peek() {
            Ok(Some(item)) => {
                let payload = Bytes::Shared(item.payload);
                let outcome = match kind {
                    EndpointKind::Udp => out.datagram(&sender, &item.record, payload),
                    EndpointKind::Raw => out.packet(&sender, &item.record, payload, None),
                };
                if outcome == Outcome::Later {
                    sender.count(Counter::TxPutOff, 1);
                    break;
                }
                records += 1;
                bytes += payload.len();
                item.consume();
            }
            Ok(None) => break,
            Err(violation) => {
                result = Err(violation);
                break;
            }
        }
    }
    if records > 0 {
        half.count(Counter::TxRecords, records as u64);
        half.until = out.core.now + TX_LINGER;
        half.release();
    }
    match result {
        Err(_) => Visit::Violated,
        Ok(()) if records > 0 => Visit::Worked,
        Ok(()) => Visit::Empty,
    }
}

impl Out<'_> {
    /// Sends what has waited for its route.
    fn resume(&mut self, sender: &Sender<'_>, waiting: &Waiting, route: Route) {
        let bytes = Bytes::Private(&waiting.payload);
        let outcome = match sender.kind {
            EndpointKind::Udp => self.by_route(sender, &waiting.record, bytes, route),
            EndpointKind::Raw => self.packet(sender, &waiting.record, bytes, Some(route)),
        };
        if outcome == Outcome::Later {
            sender.count(crate::net::Drop::RouteFull, 1);
        }
    }

    /// A datagram of a `udp` endpoint.
    #[inline]
    fn datagram(&mut self, sender: &Sender<'_>, record: &Record, bytes: Bytes<'_>) -> Outcome {
        let none: Address = [0; 16];
        if record.kind == kind::LEAVE {
            return self.leave(sender);
        }
        if record.kind != kind::DATAGRAM || record.remote == none || record.remote_port == 0 {
            return self.refuse(sender, Counter::TxRecordInvalid);
        }
        if record.flags & flags::GIVE_BACK != 0 {
            return self.give_back(sender, record, bytes);
        }
        let mut record = *record;
        let v4 = is_v4(&record.remote);
        if record.local_port == 0 {
            // The first one that can reach the other side; if none can, that is the error.
            let claims = || sender.claims.iter().map(|held| held.claim);
            match claims().find(|claim| claim.speaks(v4)).or_else(|| claims().next()) {
                Some(claim) => record.local_port = claim.first,
                None => return self.refuse(sender, Counter::TxNotClaimed),
            }
        }
        let chosen = (record.local != none).then_some(record.local);
        let permits = |held: &&Held| held.claim.permits(record.local_port, chosen.as_ref());
        let claims = || sender.claims.iter().filter(permits);
        let Some(held) = claims().find(|held| held.claim.speaks(v4)).or_else(|| claims().next()) else {
            return self.refuse(sender, Counter::TxNotClaimed);
        };
        if !held.claim.speaks(v4) {
            return self.refuse(sender, Counter::TxAddress);
        }
        if let (None, Some(bound)) = (chosen, held.claim.address()) {
            record.local = bound;
        }
        if is_loopback(&record.remote) {
            return self.loopback(sender, &mut record, bytes, held);
        }
        if record.local != none {
            if !self.core.slot(sender.slot).is_some_and(|slot| slot.may_send_from(&record.local)) {
                return self.refuse(sender, Counter::TxSpoofed);
            }
            if is_v4(&record.local) != is_v4(&record.remote) {
                return self.refuse(sender, Counter::TxAddress);
            }
        }
        match self.look_up(sender, &record, record.local, record.remote, bytes) {
            Some(route) => self.by_route(sender, &record, bytes, route),
            None => Outcome::Done,
        }
    }

    /// The cached route, or the datagram waits for one.
    #[inline]
    pub(super) fn look_up(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        src: Address,
        dst: Address,
        bytes: Bytes<'_>,
    ) -> Option<Route> {
        let ifindex = record.ifindex;
        let vlan = if ifindex == 0 { Some(afnet_abi::vlan::Vlan::NONE) } else { record_vlan(record.vlan) };
        let Some(vlan) = vlan else {
            self.refuse(sender, Counter::TxRecordInvalid);
            return None;
        };
        let key = Key { dst, src, slot: sender.slot, ifindex, vlan };
        match self.core.routes.lookup(&key, self.core.now) {
            Lookup::Known(route) => Some(*route),
            Lookup::Refresh(route) => {
                let route = *route;
                self.core.events.send(Event::Resolve(RouteKey::from(&key)));
                Some(route)
            }
            Lookup::Unknown => {
                self.wait(sender, record, &key, bytes);
                None
            }
        }
    }

    /// A private copy of a record and its payload.
    pub(super) fn keep(&mut self, sender: &Sender<'_>, record: &Record, bytes: Bytes<'_>) -> Waiting {
        let mut payload = self.core.spare.pop().unwrap_or_default();
        payload.resize(bytes.len(), 0);
        // The buffer has just been made long enough, so all is copied.
        let _ = bytes.read_summed(0..bytes.len(), &mut payload);
        let Sender { index: endpoint, id, slot, kind, .. } = *sender;
        Waiting { endpoint, id, slot, kind, record: *record, payload }
    }

    fn wait(&mut self, sender: &Sender<'_>, record: &Record, key: &Key, bytes: Bytes<'_>) {
        let waiting = self.keep(sender, record, bytes);
        match self.core.routes.wait(key, waiting, self.core.now) {
            Ok(ask) => {
                sender.count(Counter::TxWaited, 1);
                if ask == Ask::Yes {
                    self.core.events.send(Event::Resolve(RouteKey::from(key)));
                }
            }
            Err((reason, waiting)) => {
                self.core.spare.push(waiting.payload);
                self.refuse(sender, reason);
            }
        }
    }

    /// Sends a datagram whose route is known.
    pub(super) fn by_route(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        route: Route,
    ) -> Outcome {
        match self.learned(sender.slot, &record.remote, route) {
            route @ Route::Wire { ifindex, .. } if self.elsewhere(ifindex).is_some() => {
                self.hand_over(sender, record, bytes, route)
            }
            Route::Wire { ifindex, vlan, src_mac, dst_mac, mtu, src } => {
                let link = crate::net::build::Link { src_mac, dst_mac, vlan };
                let outcome = self.wire(sender, record, bytes, ifindex, &link, mtu, src);
                // A group's, or everybody's.
                let [first, ..] = dst_mac;
                if first & 1 != 0 && outcome == Outcome::Done && record.flags & flags::NO_LOOP == 0 {
                    self.loop_back(sender, record, bytes, (ifindex, vlan), from_ip(src));
                }
                outcome
            }
            Route::Local { slot, .. } if self.forbidden(sender.slot, Some(slot)) => {
                self.forbid(sender, record)
            }
            Route::Host { .. } if self.forbidden(sender.slot, None) => self.forbid(sender, record),
            Route::Local { slot, src } => self.local(sender, record, bytes, slot, src),
            Route::Host { src } => self.host(sender, record, bytes, src),
            Route::Unreachable { errno } => {
                let errno = u32::try_from(errno).unwrap_or_default();
                self.complain(sender, record, &icmp::unreachable(errno));
                self.refuse(sender, Counter::TxUnreachable)
            }
            // Neither is ever in the cache: answers of `Pending` are not cached, `Learn` has just been replaced.
            Route::Pending | Route::Learn { .. } => self.refuse(sender, Counter::TxUnreachable),
        }
    }

    /// Fills in the MAC address that was learned.
    pub(super) fn learned(&self, slot: u32, dst: &Address, route: Route) -> Route {
        let Route::Learn { ifindex, vlan, src_mac, mtu, src } = route else { return route };
        let key = Neighbour { address: *dst, slot, ifindex, vlan };
        match self.core.hops.lookup(&key, self.core.now) {
            Some(dst_mac) => Route::Wire { ifindex, vlan, src_mac, dst_mac, mtu, src },
            None => Route::Unreachable { errno: libc::EHOSTUNREACH },
        }
    }

    /// Counts a drop.
    pub(super) fn refuse(&self, sender: &Sender<'_>, reason: impl Into<Counter>) -> Outcome {
        let reason = reason.into();
        sender.count(reason, 1);
        self.core.counters.inc(reason);
        Outcome::Done
    }

    /// Tells the sender about an error of our own making.
    pub(super) fn complain(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        info: &afnet_abi::shm::ErrorInfo,
    ) {
        let about = Record { flags: 0, segment: 0, timestamp_ns: self.core.realtime, ..*record };
        if let Some(half) = self.core.rx.get_mut(sender.index as usize).and_then(Option::as_deref_mut) {
            half.error(&about, info, &[]);
        }
        self.core.touch(sender.index);
    }
}
