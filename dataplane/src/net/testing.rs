//! Packets for this module's tests, made by etherparse (an independent judge of our parser).

use etherparse::{PacketBuilder, VlanId};

use super::{Address, Mac, mapped};

pub const OUR_MAC: Mac = [2, 0, 0, 0, 0, 1];
pub const PEER_MAC: Mac = [2, 0, 0, 0, 0, 2];
pub const OUR_V4: [u8; 4] = [192, 0, 2, 10];
pub const PEER_V4: [u8; 4] = [192, 0, 2, 1];
pub const OUR_V6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10];
pub const PEER_V6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Tags of a test frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tags {
    None,
    Q(u16),
    Ad(u16, u16),
}

/// A frame with a UDP datagram from the peer (port 4000) to us (port 53).
pub fn received(v6: bool, tags: Tags, payload: &[u8]) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2(PEER_MAC, OUR_MAC);
    let id = |n| VlanId::try_new(n).unwrap();
    let mut out = Vec::new();
    macro_rules! finish {
        ($b:expr) => {
            if v6 {
                $b.ipv6(PEER_V6, OUR_V6, 61).udp(4000, 53).write(&mut out, payload).unwrap()
            } else {
                $b.ipv4(PEER_V4, OUR_V4, 61).udp(4000, 53).write(&mut out, payload).unwrap()
            }
        };
    }
    match tags {
        Tags::None => finish!(ethernet),
        Tags::Q(v) => finish!(ethernet.single_vlan(id(v))),
        Tags::Ad(o, i) => finish!(ethernet.double_vlan(id(o), id(i))),
    }
    out
}

/// An Ethernet header in front of an IP packet.
pub fn in_frame(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [8, 0] };
    [&OUR_MAC[..], &PEER_MAC, &ethertype, packet].concat()
}

/// An IPv6 packet with `next` and what follows given as bytes.
pub fn v6_packet(next: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&[0x60, 0, 0, 0][..], &length, &[next, 64], &PEER_V6, &OUR_V6, rest].concat()
}

/// An IPv4 packet with options, fragment word and protocol; the checksum is right.
pub fn v4_packet(options: &[u8], id: u16, fragment: u16, protocol: u8, data: &[u8]) -> Vec<u8> {
    let ihl = u8::try_from(5 + options.len() / 4).unwrap();
    let total = u16::try_from(20 + options.len() + data.len()).unwrap().to_be_bytes();
    let mut packet = [
        &[0x40 | ihl, 0][..],
        &total,
        &id.to_be_bytes(),
        &fragment.to_be_bytes(),
        &[64, protocol, 0, 0],
        &PEER_V4,
        &OUR_V4,
        options,
    ]
    .concat();
    fix_v4(&mut packet);
    packet.extend_from_slice(data);
    packet
}

/// Makes an IPv4 header's checksum right, by the textbook.
pub fn fix_v4(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let sum = naive(&packet[..usize::from(packet[0] & 0xf) * 4]);
    packet[10..12].copy_from_slice(&(!sum).to_be_bytes());
}

/// RFC 1071 by the textbook: 16-bit words in network order, one at a time.
pub fn naive(bytes: &[u8]) -> u16 {
    let mut s = 0u32;
    for pair in bytes.chunks(2) {
        s += u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from);
        s = (s & 0xffff) + (s >> 16);
    }
    u16::try_from(s).unwrap()
}

pub fn our_v4() -> Address {
    mapped(OUR_V4)
}

pub fn peer_v4() -> Address {
    mapped(PEER_V4)
}

/// A byte pattern whose period shares no factor with block or fragment sizes.
pub fn pattern(n: usize) -> u8 {
    u8::try_from(n % 253).unwrap()
}
