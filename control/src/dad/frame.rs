//! The frames: ARP (RFC 826, RFC 5227 2.1.1, 2.3) and neighbour discovery (RFC 4861 4.3, 4.4, RFC 7527 4.1), in whatever
//! VLAN. Nothing is received here: the XDP program reads (`bpf/prog/arp.h`, `nd.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use afnet_abi::vlan::Vlan;
use afnet_dataplane::net::{checksum, protocol};

use super::{Nonce, Send};

type Mac = [u8; 6];

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const TAG_8021Q: u16 = 0x8100;
const TAG_8021AD: u16 = 0x88a8;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OPTION_TARGET: u8 = 2;
const OPTION_NONCE: u8 = 14;
const OVERRIDE: u8 = 0x20;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The frame for an address, from `mac`.
pub fn build(send: Send, address: IpAddr, mac: Mac, vlan: Vlan) -> Vec<u8> {
    match (address, send) {
        (IpAddr::V4(a), Send::Probe(_)) => arp(mac, Ipv4Addr::UNSPECIFIED, a, vlan),
        (IpAddr::V4(a), Send::Announce { .. }) => arp(mac, a, a, vlan),
        (IpAddr::V6(a), Send::Probe(nonce)) => probe6(mac, a, nonce, vlan),
        (IpAddr::V6(a), Send::Announce { replace }) => announcement6(mac, a, replace, vlan),
    }
}

/// A request by broadcast: with no sender a probe, with itself an announcement.
fn arp(mac: Mac, sender: Ipv4Addr, target: Ipv4Addr, vlan: Vlan) -> Vec<u8> {
    let mut frame = ethernet(mac, [0xff; 6], vlan, ETHERTYPE_ARP);
    // Ethernet, IPv4, lengths of their addresses, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

/// A solicitation from `::` with a nonce.
fn probe6(mac: Mac, target: Ipv6Addr, nonce: Nonce, vlan: Vlan) -> Vec<u8> {
    let mut message = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([OPTION_NONCE, 1]);
    message.extend(nonce);
    icmpv6(mac, Ipv6Addr::UNSPECIFIED, solicited_node(target), vlan, message)
}

/// An unsolicited advertisement: of a new address to the routers, without the override flag (RFC 9131 6.1.2); of one that
/// may be known with another MAC address to all, with it (RFC 4861 7.2.6).
fn announcement6(mac: Mac, address: Ipv6Addr, replace: bool, vlan: Vlan) -> Vec<u8> {
    let (flags, to) = if replace { (OVERRIDE, ALL_NODES) } else { (0, ALL_ROUTERS) };
    let mut message = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend(address.octets());
    message.extend([OPTION_TARGET, 1]);
    message.extend(mac);
    icmpv6(mac, address, to, vlan, message)
}

/// The solicited-node group (RFC 4291 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | high & 0xff, low)
}

fn icmpv6(mac: Mac, source: Ipv6Addr, to: Ipv6Addr, vlan: Vlan, mut message: Vec<u8>) -> Vec<u8> {
    let [.., a, b, c, d] = to.octets();
    let mut frame = ethernet(mac, [0x33, 0x33, a, b, c, d], vlan, ETHERTYPE_IPV6);
    let len = u16::try_from(message.len()).unwrap_or(u16::MAX);
    let pseudo = checksum::pseudo(&source.octets(), &to.octets(), protocol::ICMPV6, len);
    let sum = checksum::finish(pseudo + checksum::sum(&message));
    message[2..4].copy_from_slice(&sum);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([protocol::ICMPV6, 255]);
    frame.extend(source.octets());
    frame.extend(to.octets());
    frame.extend(message);
    frame
}

/// The frame for an IP packet to a group, whose header is there.
pub fn multicast(from: Mac, vlan: Vlan, packet: &[u8]) -> Vec<u8> {
    let v4 = packet.first().is_some_and(|byte| byte >> 4 == 4);
    let (ethertype, to) = if v4 {
        let to = packet.get(16..).and_then(<[u8]>::first_chunk::<4>);
        (ETHERTYPE_IPV4, to.map(|bytes| IpAddr::from(*bytes)))
    } else {
        let to = packet.get(24..).and_then(<[u8]>::first_chunk::<16>);
        (ETHERTYPE_IPV6, to.map(|bytes| IpAddr::from(*bytes)))
    };
    let mut frame = ethernet(from, to.and_then(group_mac).unwrap_or_default(), vlan, ethertype);
    frame.extend(packet);
    frame
}

/// MAC address of a multicast group, or of everybody (RFC 1112 6.4, RFC 2464 7).
pub fn group_mac(group: IpAddr) -> Option<Mac> {
    match group {
        IpAddr::V4(a) if a == Ipv4Addr::BROADCAST => Some([0xff; 6]),
        IpAddr::V4(a) if a.is_multicast() => {
            let [_, b, c, d] = a.octets();
            Some([1, 0, 0x5e, b & 0x7f, c, d])
        }
        IpAddr::V6(a) if a.is_multicast() => {
            let [.., a, b, c, d] = a.octets();
            Some([0x33, 0x33, a, b, c, d])
        }
        _ => None,
    }
}

fn ethernet(from: Mac, to: Mac, vlan: Vlan, ethertype: u16) -> Vec<u8> {
    let mut frame = Vec::with_capacity(96);
    frame.extend(to);
    frame.extend(from);
    for (tag, id) in [(TAG_8021AD, vlan.outer()), (TAG_8021Q, vlan.inner())] {
        if let Some(id) = id {
            frame.extend(tag.to_be_bytes());
            frame.extend(id.to_be_bytes());
        }
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}
