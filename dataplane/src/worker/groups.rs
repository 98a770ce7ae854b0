//! Groups: one datagram to every endpoint that has joined.
//!
//! ```text
//! frame of slot 0 ── parse, reassemble, checksum once ──> for each member: source wanted? port claimed? ──> RX ring
//!                                                   └──> the kernel, if it has members too
//! datagram to a group ── wire ──────────────────────────> the same, unless the sender wants no copies here
//! ```
//!
//! As with sockets, each endpoint of a compartment gets a copy of its own, those that share a port too, and only those
//! that have the port on all addresses or on the group itself.
//!
//! A frame for the kernel says in its destination's MAC address by which device it came (`kernel_mac`); the program at
//! the host link's other end puts the group's there again and lets it arrive at that device.

use std::collections::HashMap;

use afnet_abi::{
    shm::{Record, flags, kind},
    vlan::Vlan,
};

use super::{
    claims::Claim,
    copy::Bytes,
    core::Core,
    endpoint::RxHalf,
    rx::{Fate, Origin, record},
    tx::{Out, Sender},
};
use crate::{
    counters::{Counter, Counters},
    groups::{Group, Local, Sources},
    net::{
        Address, Mac,
        build::Link,
        checksum, from_ip, is_v4,
        parse::{Packet, udp},
        protocol,
        segment::Segments,
    },
};

/// The slot whose sockets get the frames to groups.
pub(crate) const SLOT: u32 = 0;

/// A group in the form of the hot path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    ifindex: u32,
    vlan: Vlan,
    address: Address,
}

impl From<&Group> for Key {
    fn from(group: &Group) -> Self {
        Self { ifindex: group.ifindex, vlan: group.vlan, address: from_ip(group.address) }
    }
}

/// An endpoint that hears groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    /// Index of the endpoint.
    pub(crate) index: u32,
    pub(crate) slot: u32,
    /// It takes packets, not datagrams.
    pub(crate) raw: bool,
    pub(crate) local: Local,
}

/// One in a group.
#[derive(Debug)]
struct Member {
    who: Listener,
    exclude: bool,
    /// Sorted.
    sources: Vec<Address>,
}

impl Member {
    #[inline]
    fn wants(&self, source: &Address) -> bool {
        self.exclude != (!self.sources.is_empty() && self.sources.binary_search(source).is_ok())
    }
}

#[derive(Debug, Default)]
struct Members {
    list: Vec<Member>,
    /// Others than endpoints are in it.
    kernel: bool,
}

/// All groups that endpoints of this worker are in.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    places: HashMap<Key, usize>,
    /// `None`: free, or just being delivered to.
    table: Vec<Option<Box<Members>>>,
}

impl Groups {
    /// What an endpoint hears in a group from now on.
    pub(crate) fn listen(&mut self, group: &Group, who: Listener, wanted: &Sources) {
        let key = Key::from(group);
        if let Some(members) = self.members_mut(&key) {
            members.list.retain(|m| m.who.index != who.index);
        }
        if wanted.is_none() {
            self.tidy();
            return;
        }
        let mut sources: Vec<Address> = wanted.list.iter().map(|source| from_ip(*source)).collect();
        sources.sort_unstable();
        let member = Member { who, exclude: wanted.exclude, sources };
        if self.members_mut(&key).is_none() {
            let at = self.table.iter().position(Option::is_none).unwrap_or(self.table.len());
            if at == self.table.len() {
                self.table.push(None);
            }
            if let Some(place) = self.table.get_mut(at) {
                *place = Some(Box::default());
            }
            self.places.insert(key, at);
        }
        if let Some(members) = self.members_mut(&key) {
            members.list.push(member);
        }
    }

    /// Whether the kernel gets what is sent to a group, too. Unknown: nothing happens.
    pub(crate) fn set_kernel(&mut self, group: &Group, kernel: bool) {
        if let Some(members) = self.members_mut(&Key::from(group)) {
            members.kernel = kernel;
        }
    }

    /// An endpoint is gone.
    pub(crate) fn forget(&mut self, index: u32) {
        for members in self.table.iter_mut().flatten() {
            members.list.retain(|m| m.who.index != index);
        }
        self.tidy();
    }

    fn members_mut(&mut self, key: &Key) -> Option<&mut Members> {
        self.table.get_mut(*self.places.get(key)?)?.as_deref_mut()
    }

    /// Groups without members go.
    fn tidy(&mut self) {
        let Self { places, table } = self;
        places.retain(|_, at| {
            let Some(place) = table.get_mut(*at) else { return false };
            let empty = place.as_ref().is_none_or(|members| members.list.is_empty());
            if empty {
                *place = None;
            }
            !empty
        });
    }

    /// Takes a group's members out while they are delivered to.
    #[inline]
    fn take(&mut self, key: &Key) -> Option<(usize, Box<Members>)> {
        let at = *self.places.get(key)?;
        Some((at, self.table.get_mut(at)?.take()?))
    }

    #[inline]
    fn put(&mut self, at: usize, members: Box<Members>) {
        if let Some(place) = self.table.get_mut(at) {
            *place = Some(members);
        }
    }
}

/// The MAC address by which the kernel's end of the host link knows the device of a frame to a group. Locally
/// administered, of a group: of no use as a source.
pub(super) fn kernel_mac(ifindex: u32) -> Mac {
    let [a, b, c, d] = ifindex.to_be_bytes();
    [0x03, 0xaf, a, b, c, d]
}

/// The device of a frame with such an address.
pub(super) fn device_of(frame: &[u8]) -> Option<u32> {
    let [0x03, 0xaf, a, b, c, d, ..] = *frame else { return None };
    Some(u32::from_be_bytes([a, b, c, d]))
}

/// Whether an endpoint has the port of a group.
#[inline]
fn hears(half: &RxHalf, group: &Address, port: u16) -> bool {
    half.ports.iter().any(|claim: &Claim| claim.hears(group, port))
}

/// Brings a packet to the endpoints that are in its group. [`Fate::Unclaimed`]: it is for the kernel as well.
pub(super) fn deliver(core: &mut Core, bytes: &[u8], packet: &Packet, origin: Origin) -> Fate {
    // Our own, by a loop in the network; or a forgery.
    if !origin.trusted && core.owner(&packet.src).is_some() {
        core.count(SLOT, Counter::RxGroupOwn);
        return Fate::Done;
    }
    let key = Key { ifindex: origin.ifindex, vlan: packet.vlan, address: packet.dst };
    let Some((at, members)) = core.groups.take(&key) else { return Fate::Unclaimed };
    let from_kernel = origin.trusted;
    let kernel = members.kernel;
    if packet.vlan != Vlan::NONE {
        for member in members.list.iter().filter(|m| m.wants(&packet.src)) {
            super::rx::learn(core, packet, Origin { slot: member.who.slot, ..origin });
        }
    }
    let datagram = if packet.protocol == protocol::UDP { Some(udp(bytes, packet)) } else { None };
    match datagram {
        Some(Ok(udp)) => {
            let payload = bytes.get(udp.payload.clone()).unwrap_or_default();
            if origin.trusted || udp.checksum_zero || udp.verify(checksum::sum(payload)).is_ok() {
                let unsummed = if udp.checksum_zero { flags::NO_CHECKSUM } else { 0 };
                let heard = Record {
                    kind: kind::DATAGRAM,
                    flags: origin.flags | unsummed,
                    local_port: udp.dst_port,
                    remote_port: udp.src_port,
                    ..record(packet, origin, core.realtime)
                };
                let sender = if origin.trusted { core.owner(&packet.src) } else { None };
                let wants = |m: &Member| !from_kernel || m.who.local == Local::Worker;
                let list = members.list.iter().filter(|m| wants(m));
                replicate(core, list, &heard, sender, Bytes::Private(payload), 0..payload.len());
                replicate_packet(core, &members, bytes, packet, origin);
            } else {
                core.count(SLOT, crate::net::Drop::UdpChecksum);
            }
        }
        Some(Err(reason)) => core.count(SLOT, reason),
        None => replicate_packet(core, &members, bytes, packet, origin),
    }
    core.groups.put(at, members);
    if kernel { Fate::Unclaimed } else { Fate::Done }
}

/// A copy for each endpoint that wants it. `sender`: the compartment, for what has not left this host.
fn replicate<'a>(
    core: &mut Core,
    members: impl Iterator<Item = &'a Member>,
    heard: &Record,
    sender: Option<u32>,
    bytes: Bytes<'_>,
    range: std::ops::Range<usize>,
) -> usize {
    let mut copies = 0;
    let alone = sender.and_then(|slot| core.slot(slot)).is_some_and(|slot| slot.isolated);
    for member in members.filter(|m| !m.who.raw && m.wants(&heard.remote)) {
        let who = &member.who;
        if heard.flags & flags::LOCAL != 0 && sender != Some(who.slot) {
            let shut = |slot: &super::slot::Slot| slot.forbids(&heard.remote);
            if alone || core.slot(who.slot).is_some_and(shut) {
                continue;
            }
        }
        let Some(half) = core.rx.get_mut(who.index as usize).and_then(Option::as_deref_mut) else {
            continue;
        };
        if half.closed || !hears(half, &heard.local, heard.local_port) {
            continue;
        }
        let len = range.len();
        if let Some(mut room) = half.ring.reserve(len)
            && bytes.read_into(range.clone(), &mut room)
        {
            room.commit(heard, len);
            half.delivered(len);
            copies += 1;
        } else {
            half.count(Counter::RxRingFull, 1);
        }
        core.touch(who.index);
    }
    core.counters.add(Counter::RxGroupCopies, copies as u64);
    copies
}

/// The whole packet for each raw endpoint.
fn replicate_packet(core: &mut Core, members: &Members, bytes: &[u8], packet: &Packet, origin: Origin) {
    for Member { who, .. } in members.list.iter().filter(|m| m.who.raw && m.wants(&packet.src)) {
        if origin.trusted && core.slot(who.slot).is_some_and(|slot| slot.forbids(&packet.src)) {
            continue;
        }
        super::rx::raw(core, bytes, packet, Origin { slot: who.slot, ..origin });
        core.counters.inc(Counter::RxGroupCopies);
    }
}

impl Out<'_> {
    /// What an endpoint has sent to a group: copies for the endpoints of this host that are in it.
    pub(super) fn loop_back(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        (ifindex, vlan): (u32, Vlan),
        src: Address,
    ) {
        let key = Key { ifindex, vlan, address: record.remote };
        let Some((at, members)) = self.core.groups.take(&key) else {
            // Who is in it is not known.
            return self.loop_to_kernel(sender, record, bytes, (ifindex, vlan), src);
        };
        if members.kernel {
            self.loop_to_kernel(sender, record, bytes, (ifindex, vlan), src);
        }
        let heard = Record {
            kind: kind::DATAGRAM,
            flags: flags::LOCAL,
            segment: 0,
            local_port: record.remote_port,
            remote_port: record.local_port,
            ttl: super::send::ttl(record),
            vlan: vlan.raw(),
            ifindex,
            timestamp_ns: self.core.realtime,
            local: record.remote,
            remote: src,
            ..*record
        };
        let mut copies = 0;
        for range in Segments::new(bytes.len(), record.segment) {
            let list = members.list.iter();
            copies += replicate(self.core, list, &heard, Some(sender.slot), bytes, range);
        }
        self.core.groups.put(at, members);
        sender.count(Counter::TxLocal, copies as u64);
    }
}

impl Out<'_> {
    /// The same for the kernel's sockets, unless the sender is isolated. What finds no room is lost.
    fn loop_to_kernel(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        (ifindex, vlan): (u32, Vlan),
        src: Address,
    ) {
        let Some((link, mtu)) = self.host_link().filter(|_| !self.forbidden(sender.slot, None)) else {
            return;
        };
        let link = Link { dst_mac: kernel_mac(ifindex), vlan, ..link };
        // It has been counted as sent.
        let nobodys = Counters::default();
        let silent = Sender { counters: &nobodys, slot_counters: &nobodys, ..*sender };
        let record = Record { flags: 0, ..*record };
        let _ = self.send(&silent, &record, bytes, &link, mtu, src, None);
    }
}

impl Claim {
    /// Whether what is sent to `port` of a group is for its endpoint.
    #[inline]
    pub(crate) fn hears(&self, group: &Address, port: u16) -> bool {
        self.first <= port
            && port <= self.last
            && match self.address() {
                Some(own) => own == *group,
                None => self.speaks(is_v4(group)),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(address: &str) -> Group {
        Group { ifindex: 1, vlan: Vlan::NONE, address: address.parse().unwrap() }
    }

    fn sources(exclude: bool, list: &[&str]) -> Sources {
        Sources { exclude, list: list.iter().map(|s| s.parse().unwrap()).collect() }
    }

    fn member(index: u32, slot: u32) -> Listener {
        Listener { index, slot, raw: false, local: Local::Worker }
    }

    fn hear(groups: &mut Groups, address: &str, from: &str) -> Vec<u32> {
        let Some((at, members)) = groups.take(&Key::from(&group(address))) else { return Vec::new() };
        let from = from_ip(from.parse().unwrap());
        let indices = members.list.iter().filter(|m| m.wants(&from)).map(|m| m.who.index).collect();
        groups.put(at, members);
        indices
    }

    #[test]
    fn members_hear_whom_they_want() {
        let mut groups = Groups::default();
        let (g, h) = (group("224.0.0.251"), group("ff02::fb"));
        groups.listen(&g, member(1, 1), &Sources::all());
        groups.listen(&g, member(2, 1), &sources(false, &["192.0.2.9", "192.0.2.1"]));
        groups.listen(&g, member(3, 2), &sources(true, &["192.0.2.1"]));
        groups.listen(&h, member(1, 1), &Sources::all());
        assert_eq!(hear(&mut groups, "224.0.0.251", "192.0.2.1"), [1, 2]);
        assert_eq!(hear(&mut groups, "224.0.0.251", "192.0.2.2"), [1, 3]);
        assert_eq!(hear(&mut groups, "ff02::fb", "fe80::1"), [1]);
        // Again: instead of what was said before.
        groups.listen(&g, member(1, 1), &sources(false, &["192.0.2.7"]));
        assert_eq!(hear(&mut groups, "224.0.0.251", "192.0.2.2"), [3]);
        groups.listen(&g, member(3, 2), &Sources::none());
        assert_eq!(hear(&mut groups, "224.0.0.251", "192.0.2.2"), [0; 0]);
        groups.forget(1);
        assert_eq!(groups.places.len(), 1, "the other group is empty");
        groups.forget(2);
        assert!(groups.places.is_empty() && groups.table.iter().all(Option::is_none));
        // Its place is used again.
        groups.listen(&h, member(1, 1), &Sources::all());
        assert_eq!((groups.table.len(), hear(&mut groups, "ff02::fb", "fe80::1")), (2, vec![1]));
    }

    #[test]
    fn devices_are_named_in_mac_addresses() {
        for ifindex in [1, 0x0102_0304, u32::MAX] {
            assert_eq!(device_of(&kernel_mac(ifindex)), Some(ifindex));
        }
        assert_eq!(device_of(&[1, 0, 0x5e, 0, 0, 1]), None);
    }
}
