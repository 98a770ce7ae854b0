//! What the program should make of a frame, by etherparse and the rules, not by the program's code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use afnet_bpf::Counter::{self, *};
use etherparse::{
    ArpPacketSlice, Ethernet2HeaderSlice, IpAuthHeaderSlice, Ipv4HeaderSlice, Ipv6FragmentHeaderSlice,
    Ipv6HeaderSlice, Ipv6RawExtHeaderSlice, SingleVlanHeaderSlice, UdpHeaderSlice,
};

use super::common::{ADDRESSES, BLOCK, MAC, PORT, addr, frames::checksum};

/// Address entry: slot, tentative, fast-only.
type Owner = (u32, bool, bool);

fn owner(vlan: u32, ip: IpAddr) -> Option<Owner> {
    ADDRESSES.iter().find_map(|&(text, slot, tentative, fast_only)| {
        let (realm, text) = text.split_once('|').unwrap_or(("none", text));
        let realm: afnet_abi::vlan::Vlan = realm.parse().unwrap();
        (realm.raw() == vlan && addr(text) == ip).then_some((slot, tentative, fast_only))
    })
}

fn claimed(slot: u32, port: u16) -> bool {
    let block = BLOCK.0..BLOCK.0 + BLOCK.1;
    matches!(slot, 1 | 4) && port == PORT || slot == 1 && block.contains(&port)
}

/// Slot 4 has no socket.
fn deliver(slot: u32, counter: Counter) -> Vec<Counter> {
    vec![if slot == 4 { PassNoSocket } else { counter }]
}

/// Offset of the network header and ethertype behind all tags; `None` if cut.
pub fn network(frame: &[u8]) -> Option<(usize, u16)> {
    let (mut at, mut ethertype) = (14, Ethernet2HeaderSlice::from_slice(frame).ok()?.ether_type().0);
    while matches!(ethertype, 0x8100 | 0x88a8) {
        let tag = SingleVlanHeaderSlice::from_slice(&frame[at..]).ok()?;
        (at, ethertype) = (at + 4, tag.ether_type().0);
    }
    Some((at, ethertype))
}

/// The counters that are right for the frame.
pub fn classify(frame: &[u8]) -> Vec<Counter> {
    let Ok(ethernet) = Ethernet2HeaderSlice::from_slice(frame) else { return vec![PassTruncated] };
    let group = ethernet.destination()[0] & 1 == 1;
    if !group && ethernet.destination() != MAC {
        return vec![PassOtherMac];
    }
    let (mut ethertype, mut rest, mut vlan) = (ethernet.ether_type().0, &frame[14..], 0);
    for (tpid, shift) in [(0x88a8, 12), (0x8100, 0)] {
        if ethertype == tpid {
            let Ok(tag) = SingleVlanHeaderSlice::from_slice(rest) else { return vec![PassTruncated] };
            let vid = u32::from(tag.vlan_identifier().value());
            if vid == 4095 {
                return vec![PassVlan];
            }
            vlan |= vid << shift;
            (ethertype, rest) = (tag.ether_type().0, &rest[4..]);
        }
    }
    match ethertype {
        0x8100 | 0x88a8 => vec![PassVlan],
        0x0806 => arp(rest, ethernet.source(), vlan),
        0x0800 => ipv4(rest, group, vlan),
        0x86dd => ipv6(rest, group, vlan, ethernet.source()),
        _ => vec![PassEthertype],
    }
}

fn bad_source(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => matches!(ip.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(ip) => {
            ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || ip.to_ipv4_mapped().is_some()
        }
    }
}

fn arp(packet: &[u8], from: [u8; 6], vlan: u32) -> Vec<Counter> {
    if packet.len() < 28 {
        return vec![PassTruncated];
    }
    let Ok(arp) = ArpPacketSlice::from_slice(packet) else { return vec![PassArpInvalid] };
    let Ok(arp) = arp.to_packet().try_eth_ipv4() else { return vec![PassArpInvalid] };
    let (sender, target) = (Ipv4Addr::from(arp.sender_ipv4), Ipv4Addr::from(arp.target_ipv4));
    let mac = arp.sender_mac;
    let probe = sender.is_unspecified();
    if mac[0] & 1 == 1 || mac == [0; 6] || !probe && bad_source(sender.into()) {
        return vec![PassArpInvalid];
    }
    if mac == MAC || from == MAC {
        return vec![PassArpOwn];
    }
    if !probe && owner(vlan, sender.into()).is_some() {
        return vec![PassConflict];
    }
    match owner(vlan, target.into()) {
        Some((_, true, _)) if arp.operation.0 == 1 => vec![if probe { PassConflict } else { PassTentative }],
        Some(_) if arp.operation.0 == 1 => vec![TxArp],
        _ => vec![PassArpOther],
    }
}

fn ipv4(packet: &[u8], group: bool, vlan: u32) -> Vec<Counter> {
    if packet.len() < 20 {
        return vec![PassTruncated];
    }
    if packet[0] >> 4 != 4 || packet[0] & 15 < 5 {
        return vec![PassIpv4Header];
    }
    // Total length and header length against each other and the frame: etherparse's view of the latter.
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let Ok(ip) = Ipv4HeaderSlice::from_slice(packet) else { return vec![PassIpv4Length] };
    if ip.payload_len().is_err() || total > packet.len() {
        return vec![PassIpv4Length];
    }
    let (payload, to, from) = (&packet[ip.slice().len()..total], ip.destination_addr(), ip.source_addr());
    if ip.protocol().0 == 2 {
        return vec![PassIgmp];
    }
    if to.is_multicast() || to.is_broadcast() {
        return vec![PassMulticast];
    }
    if group {
        return vec![PassGroupFrame];
    }
    let Some((slot, tentative, fast_only)) = owner(vlan, to.into()) else { return vec![PassNotOurs] };
    if tentative {
        return vec![PassTentative];
    }
    if bad_source(from.into()) {
        return vec![PassBadSource];
    }
    let plain = ip.options().is_empty();
    // Not etherparse's sum, which leaves the reserved flag out.
    if plain && checksum(&[ip.slice()]) != 0 {
        return vec![PassIpv4Checksum];
    }
    if slot == 2 {
        return deliver(slot, RedirectRaw);
    }
    if !plain {
        return vec![PassIpv4Options];
    }
    if ip.is_fragmenting_payload() {
        let wanted = ip.protocol().0 == 17 && slot != 3;
        return if wanted { deliver(slot, RedirectFragment) } else { vec![PassFragment] };
    }
    match ip.protocol().0 {
        1 => icmp4(payload, to, slot, fast_only, vlan),
        17 => udp(payload, slot),
        _ => vec![PassProtocol],
    }
}

fn udp(payload: &[u8], slot: u32) -> Vec<Counter> {
    let Ok(udp) = UdpHeaderSlice::from_slice(payload) else { return vec![PassUdpLength] };
    if !(8..=payload.len()).contains(&usize::from(udp.length())) {
        return vec![PassUdpLength];
    }
    if claimed(slot, udp.destination_port()) { deliver(slot, RedirectUdp) } else { vec![PassNoClaim] }
}

fn icmp4(message: &[u8], to: Ipv4Addr, slot: u32, fast_only: bool, vlan: u32) -> Vec<Counter> {
    let other = vec![PassIcmp];
    if message.len() < 8 {
        // The frame may end here, or just the packet.
        return vec![PassIcmp, PassTruncated];
    }
    match message[..2] {
        [8, 0] if fast_only => return vec![TxEcho],
        [3 | 11 | 12, _] => {}
        _ => return other,
    }
    let Ok(quoted) = Ipv4HeaderSlice::from_slice(&message[8..]) else { return other };
    let ports = &message[8 + quoted.slice().len()..];
    let Ok(udp) = UdpHeaderSlice::from_slice(ports) else { return other };
    let from = quoted.source_addr();
    let same = from == to || owner(vlan, from.into()).is_some_and(|(other, ..)| other == slot);
    if quoted.protocol().0 == 17
        && quoted.fragments_offset().value() == 0
        && same
        && claimed(slot, udp.source_port())
    {
        deliver(slot, RedirectError)
    } else {
        other
    }
}

/// Where the chain of extension headers ends, and what was in it.
#[derive(Default)]
struct Chain<'a> {
    protocol: u8,
    rest: &'a [u8],
    any: bool,
    fragment_header: bool,
    piece: bool,
    later: bool,
    routing: bool,
    ah: bool,
}

fn chain(mut protocol: u8, mut rest: &[u8]) -> Option<Chain<'_>> {
    let mut chain = Chain::default();
    for i in 0.. {
        let (next, length) = match protocol {
            _ if chain.later => break,
            0 | 43 | 60 => {
                let header = Ipv6RawExtHeaderSlice::from_slice(rest).ok()?;
                if protocol == 0 && i != 0 {
                    return None;
                }
                chain.routing |= protocol == 43 && header.slice()[3] != 0;
                (header.next_header().0, header.slice().len())
            }
            44 => {
                let header = Ipv6FragmentHeaderSlice::from_slice(rest).ok()?;
                chain.fragment_header = true;
                chain.piece |= header.is_fragmenting_payload();
                chain.later = header.fragment_offset().value() != 0;
                (header.next_header().0, 8)
            }
            51 => {
                // etherparse wants the 12 fixed bytes of RFC 4302; 8 are what the length field can mean at least.
                let length = (usize::from(*rest.get(1)?) + 2) * 4;
                chain.ah = true;
                if rest.len() < length.max(8) {
                    return None;
                }
                let next =
                    IpAuthHeaderSlice::from_slice(rest).map_or(rest[0], |header| header.next_header().0);
                (next, length)
            }
            _ => break,
        };
        if i == 8 {
            return None;
        }
        chain.any = true;
        (protocol, rest) = (next, &rest[length..]);
    }
    (chain.protocol, chain.rest) = (protocol, rest);
    Some(chain)
}

fn ipv6(packet: &[u8], group: bool, vlan: u32, mac: [u8; 6]) -> Vec<Counter> {
    if packet.len() < 40 {
        return vec![PassTruncated];
    }
    let Ok(ip) = Ipv6HeaderSlice::from_slice(packet) else { return vec![PassIpv6Header] };
    let length = usize::from(ip.payload_length());
    if 40 + length > packet.len() {
        return vec![PassIpv6Length];
    }
    let (from, to) = (ip.source_addr(), ip.destination_addr());
    let Some(chain) = chain(ip.next_header().0, &packet[40..40 + length]) else {
        return vec![PassIpv6Chain, PassTruncated];
    };
    if chain.protocol == 58 && !chain.later {
        let message = chain.rest;
        if message.len() < 8 {
            return vec![PassIpv6Length];
        }
        match message[0] {
            130..=132 | 143 => return vec![PassMld],
            133..=137 | 141 | 142 | 148 | 149 if chain.fragment_header => return vec![PassNdFragment],
            135 | 136 => return nd(message, &ip, vlan, mac),
            133..=137 | 141 | 142 | 148 | 149 => return vec![PassNdOther],
            _ => {}
        }
    }
    if to.is_multicast() {
        return vec![PassMulticast];
    }
    if group {
        return vec![PassGroupFrame];
    }
    let Some((slot, tentative, fast_only)) = owner(vlan, to.into()) else { return vec![PassNotOurs] };
    if tentative {
        return vec![PassTentative];
    }
    if bad_source(from.into()) {
        return vec![PassBadSource];
    }
    if slot == 2 {
        return deliver(slot, RedirectRaw);
    }
    if chain.routing {
        return vec![PassRouting];
    }
    if chain.ah {
        return vec![PassAh];
    }
    if chain.piece {
        let wanted = chain.protocol == 17 && slot != 3;
        return if wanted { deliver(slot, RedirectFragment) } else { vec![PassFragment] };
    }
    match (chain.protocol, chain.rest) {
        (17, rest) => udp(rest, slot),
        (58, [128, 0, ..]) if fast_only && !chain.any => vec![TxEcho],
        (58, [1..=4, ..]) => icmp6_error(&chain.rest[8..], slot, vlan),
        (58, _) => vec![PassIcmp],
        _ => vec![PassProtocol],
    }
}

fn icmp6_error(quoted: &[u8], slot: u32, vlan: u32) -> Vec<Counter> {
    let other = vec![PassIcmp];
    let Ok(ip) = Ipv6HeaderSlice::from_slice(quoted) else { return other };
    let Some(chain) = chain(ip.next_header().0, &quoted[40..]) else { return other };
    let Ok(udp) = UdpHeaderSlice::from_slice(chain.rest) else { return other };
    let same = owner(vlan, ip.source_addr().into()).is_some_and(|(other, ..)| other == slot);
    if chain.protocol == 17 && !chain.later && same && claimed(slot, udp.source_port()) {
        deliver(slot, RedirectError)
    } else {
        other
    }
}

/// NS and NA: all rules that the message breaks, or what becomes of it.
fn nd(message: &[u8], ip: &Ipv6HeaderSlice<'_>, vlan: u32, mac: [u8; 6]) -> Vec<Counter> {
    let (from, to) = (ip.source_addr(), ip.destination_addr());
    let solicitation = message[0] == 135;
    let mut wrong = Vec::new();
    let mut rule = |broken: bool, counter| {
        if broken {
            wrong.push(counter);
        }
    };
    rule(ip.hop_limit() != 255, PassNdHopLimit);
    rule(message.len() < 24 || message.len() > 128, PassNdLength);
    rule(message[1] != 0, PassNdCode);
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let sum = checksum(&[&from.octets(), &to.octets(), &length, &[0, 0, 0, 58], message]);
    rule(sum != 0, PassNdChecksum);
    let Some(target) = message.get(8..24) else { return wrong };
    let target = Ipv6Addr::from(<[u8; 16]>::try_from(target).unwrap());
    rule(target.is_multicast(), PassNdTarget);

    let (mut options, mut lla, mut valid) = (&message[24..], None, true);
    while !options.is_empty() {
        let length = options.get(1).map_or(0, |length| usize::from(*length) * 8);
        if length == 0 || length > options.len() {
            valid = false;
            break;
        }
        if options[0] == if solicitation { 1 } else { 2 } && length == 8 {
            lla = Some(&options[2..8]).filter(|lla| **lla != [0; 6]);
        }
        options = &options[length..];
    }
    rule(!valid, PassNdOption);
    let probe = solicitation && from.is_unspecified();
    let group = to.segments()[..6] == [0xff02, 0, 0, 0, 0, 1] && to.octets()[12] == 0xff;
    rule(if probe { !group || lla.is_some() } else { bad_source(from.into()) }, PassNdSource);
    rule(!solicitation && to.is_multicast() && message[4] & 0x40 != 0, PassNdSolicited);
    if !wrong.is_empty() {
        return wrong;
    }
    if mac == MAC || lla == Some(&MAC[..]) {
        return vec![PassNdOwn];
    }
    if solicitation && !probe && owner(vlan, from.into()).is_some() {
        return vec![PassConflict];
    }
    match owner(vlan, target.into()) {
        None => vec![PassNdOther],
        Some(_) if !solicitation => vec![PassConflict],
        Some((_, true, _)) => vec![if probe { PassConflict } else { PassTentative }],
        Some(_) => vec![TxNa],
    }
}

/// An answer is a well-formed frame from our MAC address, with right checksums, and carries the same tags.
pub fn check_answer(frame: &[u8], answer: &[u8]) -> Result<(), String> {
    let fail = |what: &str| Err(format!("{what}: {answer:02x?}"));
    let (l3, ethertype) = network(answer).ok_or("an answer cut short")?;
    if answer[6..12] != MAC || answer[12..l3] != frame[12..l3] {
        return fail("source or tags");
    }
    let packet = &answer[l3..];
    match ethertype {
        0x0806 => {
            let arp = ArpPacketSlice::from_slice(packet).map_err(|e| e.to_string())?;
            if arp.to_packet().operation.0 != 2 {
                return fail("no reply");
            }
        }
        0x0800 => {
            let ip = Ipv4HeaderSlice::from_slice(packet).map_err(|e| e.to_string())?;
            if checksum(&[ip.slice()]) != 0 {
                return fail("header checksum");
            }
        }
        _ => {
            let ip = Ipv6HeaderSlice::from_slice(packet).map_err(|e| e.to_string())?;
            let message = &packet[40..40 + usize::from(ip.payload_length())];
            let length = u32::from(ip.payload_length()).to_be_bytes();
            let sum = checksum(&[&ip.source(), &ip.destination(), &length, &[0, 0, 0, 58], message]);
            // An echo reply's sum is as right or wrong as the request's.
            if message[0] == 136 && sum != 0 {
                return fail("ICMPv6 checksum");
            }
        }
    }
    Ok(())
}
