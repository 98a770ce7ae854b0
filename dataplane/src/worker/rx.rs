//! From frames to endpoints.
//!
//! ```text
//! frame ─ parse ─┬─ UDP, port claimed ──────────────> copy + checksum into the endpoint's RX ring
//!                ├─ fragment ─ reassembly ─ complete ─^
//!                ├─ ICMP error about a claimed port ─> ERROR record
//!                ├─ raw endpoint ────────────────────> the whole packet
//!                └─ else ────────────────────────────> the kernel, over the host link
//! ```
//!
//! The UMEM frame is free again as soon as its packet was looked at; nothing of it is kept.

use std::os::fd::AsFd;

use afnet_abi::shm::{Record, flags, kind};

use super::{
    Worker,
    copy::write_summed,
    core::Core,
    groups,
    queue::{BATCH, Queue, QueueKind},
    wire,
};
use crate::{
    counters::Counter,
    net::{
        Drop, Mac,
        build::Link,
        checksum,
        fragment::Refragment,
        icmp,
        next_hop::Neighbour,
        parse::{Packet, parse, parse_group, parse_ip, udp},
        protocol,
        route_cache::{Key, Lookup},
    },
    route::Route,
    xsk::RxDesc,
};

/// Frames taken from a queue in one round, before TX rings have their turn: four batches. Bounds the time until a
/// doorbell or a command is seen to some 50 us.
const ROUND: usize = 4 * BATCH;

/// Descriptors ahead of the one in work whose headers are prefetched: at some 100 ns for each frame, 4 of them cover
/// the time that a line takes from another CPU's cache.
const AHEAD: usize = 4;

/// Compartments whose frames are taken together, so that what they touch can be prefetched.
const VISITS: usize = 32;

/// Of these, how many ahead the lines of rings are asked for; what leads to them has been asked for before.
const VISITS_AHEAD: usize = 3;

/// Where a packet comes from and whom it is for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// The compartment.
    pub(super) slot: u32,
    /// Device, 0 for this host.
    pub(super) ifindex: u32,
    /// For the record.
    pub(super) flags: u16,
    /// From this host's kernel: checksums may be partial and are not verified.
    pub(super) trusted: bool,
}

/// The host link, if there is one: the way to the kernel.
pub(super) type Host<'a> = Option<&'a mut Queue>;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Delivered, or dropped and counted.
    Done,
    /// Nobody here wants it.
    Unclaimed,
}

impl Worker {
    /// Takes what has been received. Whether there was anything.
    pub(super) fn receive(&mut self) -> bool {
        let Self { core, devices, hosts, poller, .. } = self;
        let mut worked = false;
        let mut descs = [RxDesc::default(); 2 * BATCH];
        let mut visits = [(0, 0); VISITS];
        for queue in devices.iter_mut() {
            if queue.busy_poll {
                // What it cannot do shows at the next flush.
                let _ = queue.anchor.busy_poll();
            }
            queue.collect(core.now);
            let mut left = ROUND;
            let mut more = true;
            while more {
                let (count, goes_on) = gather(core, queue, &mut visits, &mut descs, &mut left);
                more = goes_on;
                let visits = visits.get(..count).unwrap_or_default();
                let mut rest = &descs[..];
                for (at, (slot, n)) in visits.iter().enumerate() {
                    worked = true;
                    if let Some((next, _)) = visits.get(at + VISITS_AHEAD) {
                        core.prefetch_near(*next);
                    }
                    let (descs, later) = rest.split_at_checked(*n).unwrap_or_default();
                    rest = later;
                    device_batch(core, queue, hosts.first_mut(), *slot, descs);
                    if let Some(socket) = queue.disarm(*slot) {
                        poller.unwatch(socket.as_fd());
                    }
                }
            }
            if !queue.retired.is_empty() {
                worked |= retired(core, queue, hosts.first_mut(), &mut descs[..BATCH]);
            }
        }
        for queue in hosts.iter_mut() {
            if queue.anchor_active {
                let n = queue.anchor.receive(&mut descs[..BATCH]);
                queue.anchor_active = n > 0;
                worked |= n > 0;
                host_batch(core, queue, descs.get(..n).unwrap_or_default());
            }
        }
        worked
    }
}

/// Visits compartments until there is a batch of frames: who had how many, which stand in `descs` one after the other.
/// Whether to go on after them.
#[inline]
fn gather(
    core: &Core,
    queue: &mut Queue,
    visits: &mut [(u32, usize); VISITS],
    descs: &mut [RxDesc; 2 * BATCH],
    left: &mut usize,
) -> (usize, bool) {
    let (mut count, mut frames) = (0, 0);
    while *left > 0
        && frames <= BATCH
        && let Some(place) = visits.get_mut(count)
        // A whole batch fits, so packets in several frames do, too.
        && let Some(out) = descs.get_mut(frames..frames + BATCH)
    {
        let Some((slot, n)) = queue.visit(out, core.now) else { return (count, false) };
        *left = left.saturating_sub(n.max(1));
        if n > 0 {
            let umem = queue.anchor.umem_mut();
            out.iter().take(n.min(AHEAD)).for_each(|desc| umem.prefetch(desc));
            core.prefetch(slot);
            *place = (slot, n);
            count += 1;
            frames += n;
        }
    }
    (count, *left > 0)
}

/// Sockets on their way out still get their packets delivered.
fn retired(core: &mut Core, queue: &mut Queue, mut host: Host<'_>, descs: &mut [RxDesc]) -> bool {
    let mut worked = false;
    for at in 0..queue.retired.len() {
        let Some((slot, socket)) = queue.retired.get_mut(at) else { break };
        let (slot, (n, _)) = (*slot, socket.receive(descs, usize::MAX));
        if n > 0 {
            worked = true;
            device_batch(core, queue, host.as_deref_mut(), slot, descs.get(..n).unwrap_or_default());
        }
    }
    worked
}

/// Frames of one compartment.
fn device_batch(core: &mut Core, queue: &mut Queue, mut host: Host<'_>, slot: u32, descs: &[RxDesc]) {
    let origin = Origin { slot, ifindex: queue.ifindex, flags: 0, trusted: false };
    let bytes = each_frame(core, queue, descs, |core, frame| {
        if device_frame(core, frame, origin, host.as_deref_mut()) == Fate::Unclaimed {
            reinject(core, host.as_deref_mut(), origin, frame);
        }
    });
    core.counters.add(Counter::RxFrames, descs.len() as u64);
    core.counters.add(Counter::RxBytes, bytes);
    if let Some(slot) = core.slot(slot) {
        slot.counters.add(Counter::RxFrames, descs.len() as u64);
        slot.counters.add(Counter::RxBytes, bytes);
    }
}

/// Frames from the kernel.
fn host_batch(core: &mut Core, queue: &mut Queue, descs: &[RxDesc]) {
    each_frame(core, queue, descs, |core, frame| {
        core.counters.inc(Counter::RxHost);
        if let Some(ifindex) = groups::device_of(frame) {
            let origin = Origin { slot: groups::SLOT, ifindex, flags: flags::LOCAL, trusted: true };
            device_frame(core, frame, origin, None);
            return;
        }
        let packet = match parse(frame) {
            Ok(packet) => packet,
            Err(reason) => {
                core.counters.inc(reason.into());
                return;
            }
        };
        let Some(slot) = core.owner(&packet.dst) else {
            core.counters.inc(Counter::RxNoEndpoint);
            return;
        };
        if core.slot(slot).is_some_and(|slot| slot.forbids(&packet.src)) {
            core.count(slot, Counter::RxIsolated);
            return;
        }
        let origin = Origin { slot, ifindex: 0, flags: flags::LOCAL, trusted: true };
        if deliver(core, frame, &packet, origin, None) == Fate::Unclaimed {
            core.count(slot, Counter::RxNoEndpoint);
        }
    });
}

/// Calls `each` with every frame, whole; gives the UMEM frames back. Returns the number of bytes.
fn each_frame(
    core: &mut Core,
    queue: &mut Queue,
    descs: &[RxDesc],
    mut each: impl FnMut(&mut Core, &[u8]),
) -> u64 {
    let Queue { anchor, assembly, .. } = queue;
    let umem = anchor.umem_mut();
    let mut bytes = 0;
    for desc in descs.iter().take(AHEAD) {
        umem.prefetch(desc);
    }
    for (i, desc) in descs.iter().enumerate() {
        if let Some(next) = descs.get(i + AHEAD) {
            umem.prefetch(next);
        }
        bytes += u64::from(desc.len);
        let Some(piece) = umem.claim(*desc) else {
            core.counters.inc(Counter::FrameForeign);
            continue;
        };
        if desc.continues() || !assembly.is_empty() {
            // A packet in several frames is put together; rare enough for the copy.
            assembly.add(umem.bytes(&piece));
            if !desc.continues() && !assembly.finish(|frame| each(core, frame)) {
                core.counters.inc(Counter::RxTooLong);
            }
        } else {
            each(core, umem.bytes(&piece));
        }
        umem.recycle(piece.into_frame());
    }
    bytes
}

#[inline]
fn device_frame(core: &mut Core, frame: &[u8], origin: Origin, host: Host<'_>) -> Fate {
    let packet = if origin.slot == groups::SLOT { parse_group(frame) } else { parse(frame) };
    match packet {
        Ok(packet) => {
            if packet.vlan.raw() != 0 && origin.slot != groups::SLOT {
                learn(core, &packet, origin);
            }
            deliver(core, frame, &packet, origin, host)
        }
        Err(reason) => {
            core.count(origin.slot, reason);
            Fate::Done
        }
    }
}

/// Notes the sender's MAC address for the compartment.
pub(super) fn learn(core: &mut Core, packet: &Packet, origin: Origin) {
    let Origin { slot, ifindex, .. } = origin;
    let key = Neighbour { address: packet.src, slot, ifindex, vlan: packet.vlan };
    core.hops.learn(&key, &packet.src_mac, core.now);
}

/// Brings a packet to an endpoint of its compartment. `bytes` is a frame or an IP packet, `packet` its view.
#[inline]
pub(super) fn deliver(
    core: &mut Core,
    bytes: &[u8],
    packet: &Packet,
    origin: Origin,
    host: Host<'_>,
) -> Fate {
    if packet.fragment.is_some() {
        return fragment(core, bytes, packet, origin, host);
    }
    if origin.slot == groups::SLOT {
        return groups::deliver(core, bytes, packet, origin);
    }
    if packet.protocol == protocol::UDP {
        return datagram(core, bytes, packet, origin);
    }
    if matches!(packet.protocol, protocol::ICMP | protocol::ICMPV6) && icmp_error(core, bytes, packet, origin)
    {
        return Fate::Done;
    }
    raw(core, bytes, packet, origin)
}

#[inline]
fn datagram(core: &mut Core, bytes: &[u8], packet: &Packet, origin: Origin) -> Fate {
    let udp = match udp(bytes, packet) {
        Ok(udp) => udp,
        Err(reason) => {
            core.count(origin.slot, reason);
            return Fate::Done;
        }
    };
    let to = (&packet.dst, udp.dst_port);
    let claimant =
        core.slot(origin.slot).and_then(|slot| core.claimant(slot, to, (&packet.src, udp.src_port)));
    let Some(index) = claimant else {
        return raw(core, bytes, packet, origin);
    };
    let Some(half) = core.rx.get_mut(index as usize).and_then(Option::as_deref_mut) else {
        return Fate::Unclaimed;
    };
    let Some(payload) = bytes.get(udp.payload.clone()) else { return Fate::Done };
    if half.closed {
        return Fate::Done;
    }
    if half.leaving {
        return Fate::Unclaimed;
    }
    if let Some(last) = core.last.get_mut(origin.slot as usize) {
        *last = index;
    }
    let Some(mut room) = half.ring.reserve(payload.len()) else {
        half.count(Counter::RxRingFull, 1);
        // Perhaps not full but forged: publishing finds out.
        core.touch(index);
        return Fate::Done;
    };
    let sum = write_summed(&mut room, payload);
    if !origin.trusted
        && let Err(reason) = udp.verify(sum)
    {
        core.count(origin.slot, reason);
        return Fate::Done;
    }
    let unsummed = if udp.checksum_zero { flags::NO_CHECKSUM } else { 0 };
    let record = Record {
        kind: kind::DATAGRAM,
        flags: origin.flags | unsummed,
        local_port: udp.dst_port,
        remote_port: udp.src_port,
        ..record(packet, origin, core.realtime)
    };
    room.commit(&record, payload.len());
    half.delivered(payload.len());
    core.touch(index);
    Fate::Done
}

/// What all records of received packets have in common.
#[inline]
pub(super) fn record(packet: &Packet, origin: Origin, realtime: u64) -> Record {
    Record {
        ttl: packet.ttl,
        tos: packet.tos,
        flags: origin.flags,
        vlan: packet.vlan.raw(),
        ifindex: origin.ifindex,
        timestamp_ns: realtime,
        local: packet.dst,
        remote: packet.src,
        ..Record::default()
    }
}

/// Gives the whole packet to the compartment's raw endpoint, if it has one.
pub(super) fn raw(core: &mut Core, bytes: &[u8], packet: &Packet, origin: Origin) -> Fate {
    let Some(index) = core.slot(origin.slot).and_then(|slot| slot.raw) else { return Fate::Unclaimed };
    let mut whole = bytes.get(packet.l3..packet.end).unwrap_or_default();
    let mut scratch = std::mem::take(&mut core.scratch);
    if origin.trusted
        && let Some(copy) = complete(whole, packet, &mut scratch)
    {
        whole = copy;
    }
    if let Some(half) = core.rx.get_mut(index as usize).and_then(Option::as_deref_mut)
        && !half.closed
    {
        match half.ring.reserve(whole.len()) {
            Some(mut room) => {
                room.write(0, whole);
                let record = Record { kind: kind::PACKET, ..record(packet, origin, core.realtime) };
                room.commit(&record, whole.len());
                half.delivered(whole.len());
            }
            None => half.count(Counter::RxRingFull, 1),
        }
        core.touch(index);
    }
    core.scratch = scratch;
    Fate::Done
}

/// A copy of a packet from the kernel with its transport checksum computed: it may have left that to a device.
fn complete<'a>(whole: &[u8], packet: &Packet, scratch: &'a mut [u8]) -> Option<&'a [u8]> {
    let at = match packet.protocol {
        protocol::UDP => 6,
        protocol::TCP => 16,
        _ => return None,
    };
    if packet.fragment.is_some() {
        return None;
    }
    let copy = scratch.get_mut(..whole.len())?;
    copy.copy_from_slice(whole);
    let segment = copy.get_mut(packet.l4 - packet.l3..)?;
    let length = u16::try_from(segment.len()).ok()?;
    *segment.get_mut(at..)?.first_chunk_mut::<2>()? = [0, 0];
    let sum = checksum::pseudo(&packet.src, &packet.dst, packet.protocol, length) + checksum::sum(segment);
    let finished = if at == 6 { checksum::finish_udp(sum) } else { checksum::finish(sum) };
    *segment.get_mut(at..)?.first_chunk_mut::<2>()? = finished;
    Some(copy)
}

/// An ICMP error about a datagram that an endpoint sent. Whether it was one.
fn icmp_error(core: &mut Core, bytes: &[u8], packet: &Packet, origin: Origin) -> bool {
    let error = match icmp::error(bytes, packet) {
        Ok(error) => error,
        // The kernel or a raw endpoint may make something of it.
        Err(Drop::IcmpIgnored | Drop::Protocol) => return false,
        Err(reason) => {
            core.count(origin.slot, reason);
            return true;
        }
    };
    let quoted = error.quoted;
    let Some(slot) = core.slot(origin.slot) else { return false };
    if quoted.protocol != protocol::UDP || slot.owns(&quoted.src).is_none() {
        return false;
    }
    let from = (&quoted.dst, quoted.dst_port);
    let Some(index) = core.claimant(slot, (&quoted.src, quoted.src_port), from) else { return false };
    if error.info.mtu != 0 {
        lower_mtu(core, origin.slot, &quoted, error.info.mtu);
    }
    if let Some(half) = core.rx.get_mut(index as usize).and_then(Option::as_deref_mut)
        && !half.closed
    {
        if half.leaving {
            return false;
        }
        let about = Record {
            local: quoted.src,
            remote: quoted.dst,
            local_port: quoted.src_port,
            remote_port: quoted.dst_port,
            ..record(packet, origin, core.realtime)
        };
        half.error(&about, &error.info, bytes.get(error.contents).unwrap_or_default());
        core.touch(index);
    }
    true
}

/// Path MTU discovery (RFC 1191, 8201): cached routes to the destination get the smaller MTU until they are asked for
/// again. Never below what every path carries for IPv6 (1280), nor below 552 for IPv4, as the kernel.
fn lower_mtu(core: &mut Core, slot: u32, quoted: &icmp::Quoted, reported: u32) {
    let least = if crate::net::is_v4(&quoted.dst) { 552 } else { 1280 };
    for src in [quoted.src, [0; 16]] {
        let key = Key { dst: quoted.dst, src, slot, ifindex: 0, vlan: afnet_abi::vlan::Vlan::NONE };
        let known = match core.routes.lookup(&key, core.now) {
            Lookup::Known(route) | Lookup::Refresh(route) => *route,
            Lookup::Unknown => continue,
        };
        if let Route::Wire { mtu, ifindex, vlan, src_mac, dst_mac, src } = known
            && reported < mtu
        {
            let mtu = reported.max(least).min(mtu);
            core.routes.answer(
                &key,
                Route::Wire { mtu, ifindex, vlan, src_mac, dst_mac, src },
                core.now,
                |_| {},
            );
        }
    }
}

/// A fragment: into reassembly, unless all packets of the compartment go to a raw endpoint as they are.
fn fragment(core: &mut Core, bytes: &[u8], packet: &Packet, origin: Origin, host: Host<'_>) -> Fate {
    core.count(origin.slot, Counter::RxFragments);
    let Some(slot) = core.slot(origin.slot) else { return Fate::Unclaimed };
    if slot.raw.is_some() && slot.claims.is_empty() {
        return raw(core, bytes, packet, origin);
    }
    let Core { reassembler, counters, slots, scratch, now, .. } = core;
    let lost = |slot: u32, reason: Drop| {
        counters.inc(reason.into());
        if let Some(slot) = slots.get(slot as usize).and_then(Option::as_deref) {
            slot.counters.inc(reason.into());
        }
    };
    let finished = match reassembler.push(origin.slot, origin.ifindex, *now, bytes, packet, lost) {
        Ok(Some(finished)) => finished,
        Ok(None) => return Fate::Done,
        Err(reason) => {
            core.count(origin.slot, reason);
            return Fate::Done;
        }
    };
    // Out of the reassembler, which what follows may not borrow.
    let Some(room) = scratch.get_mut(..finished.packet.len()) else { return Fate::Done };
    room.copy_from_slice(finished.packet);
    let (length, largest, id) = (finished.packet.len(), finished.largest, finished.id);
    let (src_mac, vlan) = (finished.src_mac, finished.vlan);
    core.count(origin.slot, Counter::RxReassembled);
    let scratch = std::mem::take(&mut core.scratch);
    if let Some(whole) = scratch.get(..length)
        && let Ok(view) = parse_ip(whole)
    {
        let view = Packet { vlan, ..view };
        let origin = Origin { flags: origin.flags | flags::REASSEMBLED, ..origin };
        if deliver(core, whole, &view, origin, None) == Fate::Unclaimed {
            reinject_whole(core, host, origin, whole, &view, src_mac, largest, id);
        }
    }
    core.scratch = scratch;
    Fate::Done
}

/// The destination of a frame to the kernel.
fn mac_for(origin: Origin, kernel_mac: Mac) -> Mac {
    if origin.slot == groups::SLOT { groups::kernel_mac(origin.ifindex) } else { kernel_mac }
}

/// Hands a frame on to the kernel as it came, but for the destination's MAC address.
fn reinject(core: &mut Core, host: Host<'_>, origin: Origin, frame: &[u8]) {
    let sent = host.is_some_and(|queue| {
        let QueueKind::Host { kernel_mac, .. } = queue.kind else { return false };
        let kernel_mac = mac_for(origin, kernel_mac);
        let Some(rest) = frame.get(kernel_mac.len()..) else { return false };
        matches!(wire::put_bytes(queue, &core.counters, &kernel_mac, rest), Ok(true))
    });
    core.count(origin.slot, if sent { Counter::RxReinjected } else { Counter::RxReinjectDrop });
}

/// Hands a packet that was put together on to the kernel, cut again if the link is too narrow for it.
#[expect(clippy::too_many_arguments, reason = "all there is to know about a reassembled packet")]
fn reinject_whole(
    core: &mut Core,
    host: Host<'_>,
    origin: Origin,
    packet: &[u8],
    view: &Packet,
    src_mac: Mac,
    largest: usize,
    id: u32,
) {
    let sent = host.is_some_and(|queue| {
        let QueueKind::Host { kernel_mac, mtu, .. } = queue.kind else { return false };
        let link = Link { src_mac, dst_mac: mac_for(origin, kernel_mac), vlan: view.vlan };
        let mtu = mtu as usize;
        if packet.len() <= mtu {
            return wire::put_packet(queue, &core.counters, &link, view.v6, packet);
        }
        let Ok(mut pieces) = Refragment::new(packet, view, mtu.min(largest), id) else { return false };
        wire::put_pieces(queue, &core.counters, &link, view.v6, &mut pieces)
    });
    core.count(origin.slot, if sent { Counter::RxReinjected } else { Counter::RxReinjectDrop });
}
