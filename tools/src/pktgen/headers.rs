//! Headers byte by byte, with their places noted: what a [`super::flow::Flow`] is made of.

use std::net::{IpAddr, Ipv6Addr};

use super::{flow::Mac, span::Addresses};
use crate::pattern::{Field, Layout, flag};

const ETHER_IPV4: u16 = 0x0800;
const ETHER_ARP: u16 = 0x0806;
const ETHER_IPV6: u16 = 0x86dd;
const ETHER_VLAN: u16 = 0x8100;
const ETHER_QINQ: u16 = 0x88a8;
const IGMP: u8 = 2;
const ICMPV6: u8 = 58;
/// 224.0.0.22 and ff02::16, where reports of the newer versions go.
const IGMP_ROUTERS: [u8; 4] = [224, 0, 0, 22];
const MLD_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);

/// A frame's headers as far as they are written.
#[derive(Clone, Debug)]
pub struct Headers {
    bytes: Vec<u8>,
    /// Where things are.
    pub layout: Layout,
    /// Where a stamp has room.
    pub stamp_at: Option<usize>,
}

impl Headers {
    /// Ethernet header and empty tags; the type is set by what follows.
    pub fn new((source, destination): (Mac, Mac), tags: usize) -> Self {
        let mut bytes = [destination, source].concat();
        for i in 0..tags {
            let kind = if tags == 2 && i == 0 { ETHER_QINQ } else { ETHER_VLAN };
            bytes.extend(kind.to_be_bytes());
            bytes.extend([0, 0]);
        }
        Self { bytes, layout: Layout::default(), stamp_at: None }
    }

    /// Bytes so far, with the Ethernet type that is still to come.
    pub fn len(&self) -> usize {
        self.bytes.len() + if self.layout.net.is_none() { 2 } else { 0 }
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Adds bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The frame, the bytes of it that are headers, and their layout.
    pub fn finish(self, stream: Option<u16>) -> (Vec<u8>, usize, Layout) {
        let stamp = stream.and_then(|stream| Some((self.stamp_at?, stream)));
        let head = self.bytes.len();
        (self.bytes, head, Layout { stamp, ..self.layout })
    }

    /// An IP header for `payload` bytes of a protocol, with a time to live; returns where it begins.
    pub fn ip(
        &mut self,
        source: Addresses,
        destination: Addresses,
        (protocol, ttl): (u8, u8),
        payload: usize,
    ) -> usize {
        let (from, to) = (source.octets(), destination.octets());
        if source.v6() {
            self.put(&ETHER_IPV6.to_be_bytes());
            let header = ipv6((protocol, ttl), &from, &to, payload);
            self.network(true, &header)
        } else {
            self.put(&ETHER_IPV4.to_be_bytes());
            let header = ipv4((protocol, ttl), &from, &to, payload, &[]);
            self.network(false, &header)
        }
    }

    fn network(&mut self, v6: bool, header: &[u8]) -> usize {
        let net = self.bytes.len();
        self.layout.net = Some((net, v6));
        self.put(header);
        net
    }

    /// The field of an IP header's address.
    pub fn address(&self, net: usize, addresses: Addresses, source: bool) -> Field {
        let (at, flags) = match (addresses.v6(), source) {
            (false, true) => (net + 12, flag::IP | flag::L4),
            (false, false) => (net + 16, flag::IP | flag::L4),
            (true, true) => (net + 20, flag::L4),
            (true, false) => (net + 36, flag::L4),
        };
        wide(at, flags, addresses)
    }

    /// The part of a destination MAC address that follows the group before it.
    pub fn group_mac(&mut self, group: IpAddr) -> Field {
        // 01:00:5e and 23 bits, or 33:33 and 32.
        let (start, mask, fixed) =
            if group.is_ipv4() { ([1, 0], 0x7f_ffff, 0x5e00_0000) } else { ([0x33, 0x33], u32::MAX, 0) };
        self.bytes[..2].copy_from_slice(&start);
        follow(2, 0, mask, fixed)
    }

    /// An ARP request.
    pub fn arp(&mut self, mac: Mac, sender: Addresses, target: Addresses, fields: &mut Vec<Field>) {
        self.bytes[..6].fill(0xff);
        self.put(&ETHER_ARP.to_be_bytes());
        let at = self.bytes.len();
        // Ethernet and IPv4, lengths, request.
        self.put(&[0, 1, 8, 0, 6, 4, 0, 1]);
        self.put(&mac);
        self.put(&sender.octets());
        self.put(&[0; 6]);
        self.put(&target.octets());
        fields.push(wide(at + 24, 0, target));
        fields.push(wide(at + 14, 0, sender));
    }

    /// A neighbour solicitation (RFC 4861) with the source's link-layer address.
    pub fn nd(&mut self, mac: Mac, source: Addresses, target: Addresses, fields: &mut Vec<Field>) {
        let Ok(octets) = <[u8; 16]>::try_from(target.octets()) else { return };
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0);
        let net = self.ip(source, Addresses::one(group.into()), (ICMPV6, 255), 32);
        let at = self.bytes.len();
        self.put(&[135, 0, 0, 0, 0, 0, 0, 0]);
        self.put(&octets);
        self.put(&[1, 1]);
        self.put(&mac);
        self.layout.transport = Some((at, ICMPV6, at + 2));
        fields.push(wide(at + 20, flag::L4, target));
        // The solicited-node group and its MAC address end in the target's last 24 bits.
        fields.push(follow(net + 36, flag::L4, 0xff_ffff, 0xff00_0000));
        self.bytes[..2].fill(0x33);
        fields.push(follow(2, 0, 0xff_ffff, 0xff00_0000));
        fields.push(self.address(net, source, true));
    }

    /// An IGMP report with the router alert option (RFC 2236, RFC 3376).
    pub fn igmp(&mut self, v3: bool, source: Addresses, group: Addresses, fields: &mut Vec<Field>) {
        self.put(&ETHER_IPV4.to_be_bytes());
        let length = if v3 { 16 } else { 8 };
        let to = if v3 { IGMP_ROUTERS.to_vec() } else { group.octets() };
        let header = ipv4((IGMP, 1), &source.octets(), &to, length, &[0x94, 4, 0, 0]);
        let net = self.network(false, &header);
        let at = self.bytes.len();
        if v3 {
            // One record: to exclude nothing is to join.
            self.put(&[0x22, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0]);
        } else {
            self.put(&[0x16, 0, 0, 0]);
        }
        let place = self.bytes.len();
        self.put(&group.octets());
        self.layout.transport = Some((at, IGMP, at + 2));
        fields.push(wide(place, flag::L4, group));
        if v3 {
            self.bytes[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 22]);
        } else {
            fields.push(follow(net + 16, flag::IP, u32::MAX, 0));
            fields.push(self.group_mac(group.first));
        }
        fields.push(Field { flags: fields_of_source(source), ..wide(net + 12, 0, source) });
    }

    /// An MLD report with the router alert option (RFC 2710, RFC 3810).
    pub fn mld(&mut self, v2: bool, source: Addresses, group: Addresses, fields: &mut Vec<Field>) {
        let length = 8 + if v2 { 28 } else { 24 };
        let to = if v2 { Addresses::one(MLD_ROUTERS.into()) } else { group };
        let net = self.ip(source, to, (0, 1), length);
        self.put(&[ICMPV6, 0, 5, 2, 0, 0, 1, 0]);
        let at = self.bytes.len();
        if v2 {
            self.put(&[143, 0, 0, 0, 0, 0, 0, 1, 4, 0, 0, 0]);
        } else {
            self.put(&[131, 0, 0, 0, 0, 0, 0, 0]);
        }
        let place = self.bytes.len();
        self.put(&group.octets());
        self.layout.transport = Some((at, ICMPV6, at + 2));
        fields.push(wide(place + 12, flag::L4, group));
        if v2 {
            self.bytes[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 0x16]);
        } else {
            fields.push(follow(net + 36, flag::L4, u32::MAX, 0));
            fields.push(self.group_mac(group.first));
        }
        fields.push(self.address(net, source, true));
    }
}

/// IGMP has no pseudo header: the source counts for the IP header alone.
fn fields_of_source(source: Addresses) -> u32 {
    flag::WIDE | flag::IP | if source.span.random { flag::RANDOM } else { 0 }
}

/// A 32-bit field of an address.
fn wide(at: usize, flags: u32, addresses: Addresses) -> Field {
    let span = addresses.span;
    let random = if span.random { flag::RANDOM } else { 0 };
    Field {
        at,
        flags: flags | flag::WIDE | random,
        first: span.first,
        count: span.count,
        mask: u32::MAX,
        fixed: 0,
    }
}

/// A 32-bit field that takes the value of the one before.
fn follow(at: usize, flags: u32, mask: u32, fixed: u32) -> Field {
    Field { at, flags: flags | flag::WIDE | flag::FOLLOW, first: 0, count: 1, mask, fixed }
}

/// An IPv4 header, Don't Fragment, checksum 0.
fn ipv4((protocol, ttl): (u8, u8), from: &[u8], to: &[u8], payload: usize, options: &[u8]) -> Vec<u8> {
    let length = 20 + options.len();
    let total = u16::try_from(length + payload).unwrap_or(u16::MAX).to_be_bytes();
    let words = u8::try_from(length / 4).unwrap_or(5);
    [&[0x40 | words, 0, total[0], total[1], 0, 0, 0x40, 0, ttl, protocol, 0, 0], from, to, options].concat()
}

/// An IPv6 header.
fn ipv6((protocol, ttl): (u8, u8), from: &[u8], to: &[u8], payload: usize) -> Vec<u8> {
    let length = u16::try_from(payload).unwrap_or(u16::MAX).to_be_bytes();
    [&[0x60, 0, 0, 0, length[0], length[1], protocol, ttl], from, to].concat()
}
