//! Frames by hand, byte by byte, so that every field can be wrong too. From the other host to us, unless said.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{MAC, PEER, addr};

pub const BROADCAST: [u8; 6] = [0xff; 6];

pub fn v4(text: &str) -> Ipv4Addr {
    text.parse().expect("an IPv4 address")
}

pub fn v6(text: &str) -> Ipv6Addr {
    text.parse().expect("an IPv6 address")
}

pub fn ethernet(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes(), payload].concat()
}

/// Puts tags (ethertype, tag control information) behind the MAC addresses.
pub fn tag(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (ethertype, tci) in tags {
        out.extend([ethertype.to_be_bytes(), tci.to_be_bytes()].concat());
    }
    out.extend(&frame[12..]);
    out
}

/// RFC 1071, over as many slices as there are; each but the last of even length.
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// Fields of an IPv4 header that tests get wrong.
#[derive(Clone)]
pub struct Ip4 {
    pub first: u8,
    pub total: Option<u16>,
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub from: Ipv4Addr,
    pub to: Ipv4Addr,
    pub options: Vec<u8>,
}

impl Ip4 {
    pub fn new(from: &str, to: &str, protocol: u8) -> Self {
        let (from, to) = (v4(from), v4(to));
        Self { first: 0x45, total: None, fragment: 0, ttl: 17, protocol, from, to, options: vec![] }
    }

    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let length = 20 + self.options.len() + payload.len();
        let total = self.total.unwrap_or_else(|| u16::try_from(length).unwrap());
        let mut h = vec![self.first, 0];
        h.extend(total.to_be_bytes());
        h.extend([0x12, 0x34]);
        h.extend(self.fragment.to_be_bytes());
        h.extend([self.ttl, self.protocol, 0, 0]);
        h.extend(self.from.octets());
        h.extend(self.to.octets());
        h.extend(&self.options);
        let sum = checksum(&[&h]);
        h[10..12].copy_from_slice(&sum.to_be_bytes());
        h.extend(payload);
        h
    }

    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        ethernet(MAC, PEER, 0x0800, &self.packet(payload))
    }
}

pub fn ipv6_packet(from: &str, to: &str, next: u8, hop_limit: u8, payload: &[u8]) -> Vec<u8> {
    let mut h = vec![0x60, 0, 0, 0];
    h.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    h.extend([next, hop_limit]);
    h.extend(v6(from).octets());
    h.extend(v6(to).octets());
    h.extend(payload);
    h
}

pub fn ipv6(from: &str, to: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    ethernet(MAC, PEER, 0x86dd, &ipv6_packet(from, to, next, 64, payload))
}

pub fn udp(from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut h = [from.to_be_bytes(), to.to_be_bytes(), length.to_be_bytes(), [0, 0]].concat();
    h.extend(payload);
    h
}

/// A UDP datagram of either family from the other host.
pub fn datagram(to: &str, port: u16) -> Vec<u8> {
    let udp = udp(40000, port, b"payload");
    match addr(to) {
        IpAddr::V4(_) => Ip4::new("192.0.2.99", to, 17).frame(&udp),
        IpAddr::V6(_) => ipv6("2001:db8::99", to, 17, &udp),
    }
}

pub fn icmp4(kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut h = [&[kind, code, 0, 0][..], &rest, body].concat();
    let sum = checksum(&[&h]);
    h[2..4].copy_from_slice(&sum.to_be_bytes());
    h
}

pub fn icmp6(from: &str, to: &str, kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
    let mut h = [&[kind, code, 0, 0][..], &rest, body].concat();
    let length = u32::try_from(h.len()).unwrap().to_be_bytes();
    let sum = checksum(&[&v6(from).octets(), &v6(to).octets(), &length, &[0, 0, 0, 58], &h]);
    h[2..4].copy_from_slice(&sum.to_be_bytes());
    h
}

/// An ARP packet: (hardware, protocol) of sender and target.
pub fn arp(op: u16, sender: ([u8; 6], &str), target: ([u8; 6], &str)) -> Vec<u8> {
    let mut p = vec![0, 1, 8, 0, 6, 4];
    p.extend(op.to_be_bytes());
    for (mac, ip) in [sender, target] {
        p.extend(mac);
        p.extend(v4(ip).octets());
    }
    p
}

/// A broadcast ARP frame from the sender's MAC address.
pub fn arp_frame(op: u16, sender: ([u8; 6], &str), target: ([u8; 6], &str)) -> Vec<u8> {
    ethernet(BROADCAST, sender.0, 0x0806, &arp(op, sender, target))
}

/// A neighbour solicitation or advertisement with everything that tests get wrong.
#[derive(Clone)]
pub struct Nd {
    pub kind: u8,
    pub code: u8,
    pub flags: [u8; 4],
    pub hop_limit: u8,
    pub mac: [u8; 6],
    pub to_mac: [u8; 6],
    pub from: String,
    pub to: String,
    pub target: String,
    pub options: Vec<u8>,
    /// Extension headers in front, the type of the first.
    pub extensions: Option<(u8, Vec<u8>)>,
}

/// ff02::1:ffXX:XXXX of a target, and the MAC address that belongs to it.
pub fn solicited_node(target: &str) -> (String, [u8; 6]) {
    let o = v6(target).octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, o[13], o[14], o[15]]);
    (group.to_string(), [0x33, 0x33, 0xff, o[13], o[14], o[15]])
}

pub fn lla(kind: u8, mac: [u8; 6]) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

impl Nd {
    /// A well-formed multicast solicitation with a source link-layer address.
    pub fn solicit(from: &str, target: &str) -> Self {
        let (to, to_mac) = solicited_node(target);
        Self {
            kind: 135,
            code: 0,
            flags: [0; 4],
            hop_limit: 255,
            mac: PEER,
            to_mac,
            from: from.into(),
            to,
            target: target.into(),
            options: if from == "::" { vec![] } else { lla(1, PEER) },
            extensions: None,
        }
    }

    /// A well-formed unsolicited advertisement.
    pub fn advertise(target: &str) -> Self {
        Self {
            kind: 136,
            flags: [0x20, 0, 0, 0],
            to_mac: [0x33, 0x33, 0, 0, 0, 1],
            to: "ff02::1".into(),
            options: lla(2, PEER),
            ..Self::solicit(target, target)
        }
    }

    pub fn frame(&self) -> Vec<u8> {
        let body = [&v6(&self.target).octets()[..], &self.options].concat();
        let message = icmp6(&self.from, &self.to, self.kind, self.code, self.flags, &body);
        let (next, payload) = match &self.extensions {
            None => (58, message),
            Some((first, headers)) => (*first, [&headers[..], &message].concat()),
        };
        let packet = ipv6_packet(&self.from, &self.to, next, self.hop_limit, &payload);
        ethernet(self.to_mac, self.mac, 0x86dd, &packet)
    }
}

/// The advertisement that we answer with (RFC 4861 7.2.4).
pub fn advertisement(target: &str, to: &str, to_mac: [u8; 6], flags: u8) -> Vec<u8> {
    let body = [&v6(target).octets()[..], &lla(2, MAC)].concat();
    let message = icmp6(target, to, 136, 0, [flags, 0, 0, 0], &body);
    ethernet(to_mac, MAC, 0x86dd, &ipv6_packet(target, to, 58, 255, &message))
}
