//! Datagrams onto the wire: segmentation, fragmentation, headers, checksums.

use std::ops::Range;

use afnet_abi::shm::{Record, flags};

use super::{
    copy::Bytes,
    queue::{Queue, QueueKind},
    tx::{Out, Outcome, Sender},
    wire::{self, NoRoom},
};
use crate::{
    counters::Counter,
    net::{
        Address, Drop, Mac,
        build::{IPV6_LEN, Ip, Link, MAX_HEADERS, UDP_LEN, headers_len, piece_frame, udp_frame, write_udp},
        fragment::Pieces,
        from_ip, icmp, is_loopback, is_multicast, is_v4, protocol,
        segment::Segments,
    },
};

/// Most datagrams that one record may become: as the kernel's UDP_MAX_SEGMENTS.
const MAX_SEGMENTS: usize = 128;

/// TTL or hop limit if the tenant says none (RFC 1700's recommendation, the kernel's default).
const DEFAULT_TTL: u8 = 64;
/// The same to a multicast group (RFC 1112 6.1).
const GROUP_TTL: u8 = 1;

/// TTL or hop limit of a datagram to send.
pub(super) fn ttl(record: &Record) -> u8 {
    match record.ttl {
        0 if is_multicast(&record.remote) => GROUP_TTL,
        0 => DEFAULT_TTL,
        ttl => ttl,
    }
}

impl Out<'_> {
    /// Out of a device.
    #[expect(clippy::too_many_arguments, reason = "the fields of a route")]
    pub(super) fn wire(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        ifindex: u32,
        link: &Link,
        mtu: u32,
        src: std::net::IpAddr,
    ) -> Outcome {
        let Some(at) = self.devices.iter().position(|q| q.ifindex == ifindex) else {
            return self.refuse(sender, Counter::TxNoQueue);
        };
        self.send(sender, record, bytes, link, mtu, from_ip(src), Some(at))
    }

    /// To the host itself.
    pub(super) fn host(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        src: std::net::IpAddr,
    ) -> Outcome {
        let Some((link, mtu)) = self.host_link() else { return self.refuse(sender, Counter::TxLocalDrop) };
        let outcome = self.send(sender, record, bytes, &link, mtu, from_ip(src), None);
        if outcome == Outcome::Done {
            sender.count(Counter::TxHost, 1);
        }
        outcome
    }

    /// What comes for the endpoint is the kernel's from now on.
    pub(super) fn leave(&mut self, sender: &Sender<'_>) -> Outcome {
        if let Some(half) = self.core.rx.get_mut(sender.index as usize).and_then(Option::as_deref_mut) {
            half.leaving = true;
        }
        Outcome::Done
    }

    /// A datagram that the endpoint has received and leaves to the kernel's socket. It may be of the tenant's own making:
    /// nobody but that socket gets it.
    pub(super) fn give_back(&mut self, sender: &Sender<'_>, record: &Record, bytes: Bytes<'_>) -> Outcome {
        let Record { local, remote, local_port, remote_port, .. } = *record;
        if is_v4(&local) != is_v4(&remote) || is_loopback(&local) || is_loopback(&remote) {
            return self.refuse(sender, Counter::TxAddress);
        }
        if !sender.claims.iter().any(|held| held.claim.permits(local_port, Some(&local))) {
            return self.refuse(sender, Counter::TxNotClaimed);
        }
        if !self.core.slot(sender.slot).is_some_and(|slot| slot.may_send_from(&local)) {
            return self.refuse(sender, Counter::TxSpoofed);
        }
        let Some((link, mtu)) = self.host_link() else { return self.refuse(sender, Counter::TxLocalDrop) };
        let turned = Record {
            local: remote,
            remote: local,
            local_port: remote_port,
            remote_port: local_port,
            flags: 0,
            segment: 0,
            ..*record
        };
        let outcome = self.send(sender, &turned, bytes, &link, mtu, remote, None);
        if outcome == Outcome::Done {
            sender.count(Counter::RxReinjected, 1);
        }
        outcome
    }

    /// Link header and MTU of frames to the kernel.
    pub(super) fn host_link(&self) -> Option<(Link, u32)> {
        let QueueKind::Host { mac, kernel_mac, mtu } = self.hosts.first()?.kind else { return None };
        Some((Link { src_mac: mac, dst_mac: kernel_mac, vlan: afnet_abi::vlan::Vlan::NONE }, mtu))
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a route")]
    pub(super) fn send(
        &mut self,
        sender: &Sender<'_>,
        record: &Record,
        bytes: Bytes<'_>,
        link: &Link,
        mtu: u32,
        src: Address,
        device: Option<usize>,
    ) -> Outcome {
        let v6 = !is_v4(&record.remote);
        let dont_fragment = record.flags & flags::DONT_FRAGMENT != 0;
        let segments = Segments::new(bytes.len(), record.segment);
        let longest = if record.segment == 0 { bytes.len() } else { bytes.len().min(record.segment.into()) };
        if segments.len() > MAX_SEGMENTS {
            return self.refuse(sender, Counter::TxRecordInvalid);
        }
        let pieces = match Pieces::new(v6, UDP_LEN + longest, mtu as usize, dont_fragment) {
            Ok(pieces) => pieces,
            Err(reason) => {
                if reason == Drop::TxTooBig {
                    self.complain(sender, record, &icmp::too_big(mtu));
                }
                return self.refuse(sender, reason);
            }
        };
        let queue = match device {
            Some(at) => self.devices.get_mut(at),
            None => self.hosts.first_mut(),
        };
        let Some(queue) = queue else { return self.refuse(sender, Counter::TxNoQueue) };
        let fragmented = pieces.is_fragmented();
        // Room for everything first, so that a record goes out whole or not at all.
        let head = headers_len(link.vlan, v6);
        let largest = if fragmented { head + mtu as usize } else { head + longest };
        let per_datagram = if fragmented { pieces.count() } else { 1 };
        let Some(frames) = wire::frames_for(queue, largest).map(|n| n * per_datagram * segments.len()) else {
            return self.refuse(sender, Drop::TxLength);
        };
        if frames > wire::capacity(queue) {
            return self.refuse(sender, Drop::TxLength);
        }
        if queue.anchor.tx_room() < frames {
            return Outcome::Later;
        }
        let count = segments.len();
        let mut ip = Ip {
            src,
            dst: record.remote,
            protocol: protocol::UDP,
            ttl: ttl(record),
            tos: record.tos,
            dont_fragment,
            id: 0,
            flow_label: 0,
        };
        let mut scratch = std::mem::take(&mut self.core.scratch);
        for range in segments {
            if fragmented || !(v6 || dont_fragment) {
                ip.id = self.core.ids.next(&ip.src, &ip.dst);
            }
            let one =
                Datagram { link, ip: &ip, ports: (record.local_port, record.remote_port), bytes, range };
            // The room was there, and a failed header is a bug that a test would find; either way nothing is lost but
            // this datagram.
            let _ = one.send(queue, &self.core.counters, mtu as usize, &mut scratch);
        }
        self.core.scratch = scratch;
        sender.sent(count, bytes.len());
        if count > 1 {
            sender.count(Counter::TxSegmented, 1);
        }
        if fragmented {
            sender.count(Counter::TxFragmented, count as u64);
        }
        Outcome::Done
    }
}

/// One datagram to send.
struct Datagram<'a> {
    link: &'a Link,
    ip: &'a Ip,
    ports: (u16, u16),
    bytes: Bytes<'a>,
    range: Range<usize>,
}

impl Datagram<'_> {
    #[inline]
    fn send(
        self,
        queue: &mut Queue,
        counters: &crate::counters::Counters,
        mtu: usize,
        scratch: &mut [u8],
    ) -> Result<(), NoRoom> {
        let Self { link, ip, ports: (from, to), bytes, range } = &self;
        let v6 = !is_v4(&ip.dst);
        let len = range.len();
        let head = headers_len(link.vlan, v6);
        let packet = head + len - crate::net::build::link_len(link.vlan);
        if packet <= mtu && head + len <= queue.anchor.umem().tx_room() {
            // The common case: payload straight from the ring into the frame, headers in front of it.
            return wire::put(queue, counters, |out| {
                let sum = bytes.read_summed(range.clone(), out.get_mut(head..)?)?;
                udp_frame(out, link, ip, *from, *to, len, sum).ok()?;
                Some(head + len)
            });
        }
        let Some(sum) = scratch.get_mut(UDP_LEN..).and_then(|out| bytes.read_summed(range.clone(), out))
        else {
            return Ok(());
        };
        if write_udp(scratch, &ip.src, &ip.dst, *from, *to, len, sum).is_err() {
            return Ok(());
        }
        let Ok(pieces) = Pieces::new(v6, UDP_LEN + len, mtu, false) else { return Ok(()) };
        let mut headers = [0; MAX_HEADERS];
        for piece in pieces {
            let (Ok(n), Some(body)) = (
                piece_frame(&mut headers, link, ip, &piece),
                scratch.get(piece.offset..piece.offset + piece.len),
            ) else {
                return Ok(());
            };
            wire::put_bytes(queue, counters, headers.get(..n).unwrap_or_default(), body)?;
        }
        Ok(())
    }
}

/// Longest IP packet that may have to be built in scratch memory.
const _: () = assert!(super::core::SCRATCH >= IPV6_LEN + UDP_LEN + 65535 && size_of::<Mac>() == 6);
