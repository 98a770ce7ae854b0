//! From one endpoint of this host to another: ring to ring, in the sending worker.
//!
//! No wire, so no checksum, no fragments and no MTU. What no endpoint wants goes to the kernel, which may have a socket
//! bound to the address.
//!
//! Loopback addresses are each compartment's own: what is sent there reaches endpoints of the same compartment alone.
//!
//! Nothing passes between an isolated compartment and the others or the host. Of one that has never had an endpoint
//! workers know nothing: packets to it go to the kernel, where the kernel path drops them.

use std::net::{IpAddr, Ipv6Addr};

use afnet_abi::shm::{Record, flags, kind};

use super::{
    claims::Held,
    copy::Bytes,
    rx::{Fate, Origin, deliver},
    tx::{Out, Outcome, Sender},
};
use crate::{
    counters::Counter,
    net::{
        Address, Drop,
        build::{Ip, UDP_LEN, ip_len, write_ip, write_udp},
        from_ip, icmp, is_loopback, is_v4, mapped,
        parse::{Packet, parse_ip},
        protocol,
        segment::Segments,
    },
};

impl Out<'_> {
    /// Whether a policy forbids what the compartment `from` sends to the compartment `to`, or `None`: to the host.
    #[inline]
    pub(super) fn forbidden(&self, from: u32, to: Option<u32>) -> bool {
        let isolated = |slot| self.core.slot(slot).is_some_and(|slot| slot.isolated);
        to != Some(from) && (isolated(from) || to.is_some_and(isolated))
    }

    /// Refuses it.
    pub(super) fn forbid(&mut self, sender: &Sender<'_>, record: &Record) -> Outcome {
        self.complain(sender, record, &icmp::unreachable(libc::EPERM.unsigned_abs()));
        self.refuse(sender, Counter::TxIsolated)
    }

    /// A datagram to the compartment `slot`.
    pub(super) fn local(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        slot: u32,
        src: IpAddr,
    ) -> Outcome {
        // Workers need not know a compartment without endpoints: the kernel serves all of its addresses.
        let target = self.core.slot(slot);
        let to = (&record.remote, record.remote_port);
        let from = (&from_ip(src), record.local_port);
        let claim = target.and_then(|target| self.core.claimant(target, to, from));
        let leaves = |index: &u32| {
            self.core.rx.get(*index as usize).and_then(Option::as_deref).is_some_and(|half| half.leaving)
        };
        let claim = claim.filter(|index| !leaves(index));
        match (claim, target.and_then(|target| target.raw)) {
            (Some(index), _) => self.local_endpoint(sender, record, bytes, index, from_ip(src)),
            (None, Some(_)) => self.local_raw(sender, record, bytes, slot, from_ip(src)),
            (None, None) => self.host(sender, record, bytes, src),
        }
    }

    /// A datagram to a loopback address: to an endpoint of the same compartment that has the port there, or to nobody.
    /// The sender has `held` on its port.
    pub(super) fn loopback(
        &mut self,
        sender: &Sender<'_>,
        record: &mut Record,
        bytes: Bytes<'_>,
        held: &Held,
    ) -> Outcome {
        let v4 = is_v4(&record.remote);
        let Some(slot) = self.core.slot(sender.slot) else { return Outcome::Done };
        if record.local == [0; 16] {
            // As a kernel socket that is bound to all addresses, or to each.
            let default = if v4 { mapped([127, 0, 0, 1]) } else { from_ip(Ipv6Addr::LOCALHOST.into()) };
            let own = if held.on_loopback(v4) { Some(default) } else { slot.first(v4) };
            let Some(own) = own else { return self.refuse(sender, Counter::TxAddress) };
            record.local = own;
        } else if is_v4(&record.local) != v4 {
            return self.refuse(sender, Counter::TxAddress);
        } else if is_loopback(&record.local) && !held.on_loopback(v4)
            || !is_loopback(&record.local) && !slot.may_send_from(&record.local)
        {
            return self.refuse(sender, Counter::TxSpoofed);
        }
        let (to, port) = (&record.remote, record.remote_port);
        let flow = || self.core.flow(to, port, &record.local, record.local_port);
        match slot.claims.find_loopback(to, port, flow) {
            Some(index) => {
                sender.count(Counter::TxLoopback, 1);
                self.local_endpoint(sender, record, bytes, index, record.local)
            }
            None => {
                self.complain(sender, record, &icmp::unreachable(libc::ECONNREFUSED.unsigned_abs()));
                self.refuse(sender, Counter::TxNoListener)
            }
        }
    }

    fn local_endpoint(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        index: u32,
        src: Address,
    ) -> Outcome {
        let (mut sent, mut dropped) = (0, 0);
        let seen = Record {
            kind: kind::DATAGRAM,
            flags: flags::LOCAL,
            segment: 0,
            ttl: if record.ttl == 0 { 64 } else { record.ttl },
            local_port: record.remote_port,
            remote_port: record.local_port,
            vlan: 0,
            ifindex: 0,
            timestamp_ns: self.core.realtime,
            local: record.remote,
            remote: src,
            ..*record
        };
        for range in Segments::new(bytes.len(), record.segment) {
            let len = range.len();
            let target = self.core.rx.get_mut(index as usize).and_then(Option::as_deref_mut);
            let Some(half) = target.filter(|half| !half.closed) else {
                dropped += 1;
                continue;
            };
            if let Some(mut room) = half.ring.reserve(len)
                && bytes.read_into(range, &mut room)
            {
                room.commit(&seen, len);
                half.delivered(len);
                sent += 1;
            } else {
                half.count(Counter::RxRingFull, 1);
                dropped += 1;
            }
        }
        self.core.touch(index);
        sender.sent(sent, bytes.len());
        sender.count(Counter::TxLocal, sent as u64);
        sender.count(Counter::TxLocalDrop, dropped);
        Outcome::Done
    }

    /// The compartment has a raw endpoint: it gets the whole packet.
    fn local_raw(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        slot: u32,
        src: Address,
    ) -> Outcome {
        let ip = Ip {
            src,
            dst: record.remote,
            protocol: protocol::UDP,
            ttl: if record.ttl == 0 { 64 } else { record.ttl },
            tos: record.tos,
            dont_fragment: true,
            id: 0,
            flow_label: 0,
        };
        let mut packet = std::mem::take(&mut self.core.scratch);
        let mut sent = 0;
        for range in Segments::new(bytes.len(), record.segment) {
            let l4 = ip_len(!is_v4(&ip.dst));
            let len = range.len();
            let built = packet
                .get_mut(l4 + UDP_LEN..)
                .and_then(|out| bytes.read_summed(range, out))
                .filter(|_| write_ip(&mut packet, &ip, UDP_LEN + len).is_ok())
                .and_then(|sum| {
                    let out = packet.get_mut(l4..)?;
                    write_udp(out, &ip.src, &ip.dst, record.local_port, record.remote_port, len, sum).ok()
                });
            let whole = built.and_then(|_| packet.get(..l4 + UDP_LEN + len));
            if let Some(whole) = whole
                && let Ok(view) = parse_ip(whole)
            {
                let origin = Origin { slot, ifindex: 0, flags: flags::LOCAL, trusted: false };
                deliver(self.core, whole, &view, origin, None);
                sent += 1;
            }
        }
        self.core.scratch = packet;
        sender.sent(sent, bytes.len());
        sender.count(Counter::TxLocal, sent as u64);
        Outcome::Done
    }

    /// A raw tenant's packet to the compartment `slot`.
    pub(super) fn local_packet(
        &mut self,
        sender: &Sender<'_>,
        packet: &[u8],
        view: &Packet,
        slot: u32,
    ) -> Outcome {
        let origin = Origin { slot, ifindex: 0, flags: flags::LOCAL, trusted: false };
        if deliver(self.core, packet, view, origin, None) == Fate::Unclaimed {
            return self.host_packet(sender, packet, view);
        }
        sender.sent(1, packet.len());
        sender.count(Counter::TxLocal, 1);
        Outcome::Done
    }

    /// A raw tenant's packet to the kernel.
    pub(super) fn host_packet(&mut self, sender: &Sender<'_>, packet: &[u8], view: &Packet) -> Outcome {
        let Some((link, mtu)) = self.host_link() else { return self.refuse(sender, Counter::TxLocalDrop) };
        let counters = std::sync::Arc::clone(&self.core.counters);
        let id = self.core.ids.next(&view.src, &view.dst);
        let Some(queue) = self.hosts.first_mut() else { return self.refuse(sender, Counter::TxLocalDrop) };
        match super::raw::put(queue, &counters, &link, mtu, packet, view, id) {
            Ok(()) => {
                sender.sent(1, packet.len());
                sender.count(Counter::TxHost, 1);
                Outcome::Done
            }
            Err(None) => Outcome::Later,
            Err(Some(Drop::TxTooBig)) => self.refuse(sender, Drop::TxTooBig),
            Err(Some(reason)) => self.refuse(sender, reason),
        }
    }
}
