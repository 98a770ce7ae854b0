//! Frames for tests: small builders, and readers that yield `None` for anything that is not what they read.
//!
//! Addresses and ports come as socket addresses, source first, as on the wire.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Ethernet2Header, Icmpv4Type, Icmpv6Type, LaxNetSlice,
    LaxSlicedPacket, PacketBuilder, PacketBuilderStep, TransportSlice,
};

/// A MAC address.
pub type Mac = [u8; 6];
/// A hardware and a protocol address, as ARP pairs them.
pub type Pair = (Mac, Ipv4Addr);
/// ff:ff:ff:ff:ff:ff.
pub const BROADCAST: Mac = [0xff; 6];

/// An Ethernet frame of `ether_type` with `payload`.
pub fn ethernet(source: Mac, destination: Mac, ether_type: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame =
        Ethernet2Header { source, destination, ether_type: EtherType(ether_type) }.to_bytes().to_vec();
    frame.extend_from_slice(payload);
    frame
}

/// An ARP packet for IPv4 over Ethernet, 42 bytes. `op` is 1 (request) or 2 (reply).
pub fn arp(op: u16, sender: Pair, target: Pair, destination: Mac) -> Vec<u8> {
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation(op),
        &sender.0,
        &sender.1.octets(),
        &target.0,
        &target.1.octets(),
    )
    .expect("an ARP packet");
    ethernet(sender.0, destination, EtherType::ARP.0, &packet.to_bytes())
}

/// Reads an ARP packet: operation, sender, target.
pub fn read_arp(frame: &[u8]) -> Option<(u16, Pair, Pair)> {
    let LaxNetSlice::Arp(arp) = LaxSlicedPacket::from_ethernet(frame).ok()?.net? else { return None };
    let mac = |bytes: &[u8]| Mac::try_from(bytes).ok();
    let address = |bytes: &[u8]| Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?));
    Some((
        arp.operation().0,
        (mac(arp.sender_hw_addr())?, address(arp.sender_protocol_addr())?),
        (mac(arp.target_hw_addr())?, address(arp.target_protocol_addr())?),
    ))
}

/// Ethernet and IP headers to put something on: TTL 64 (ND wants 255, see [`neighbour_solicitation`]).
///
/// # Panics
/// If the addresses are of two families.
pub fn ip(
    macs: (Mac, Mac),
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
) -> PacketBuilderStep<etherparse::IpHeaders> {
    let ethernet = PacketBuilder::ethernet2(macs.0, macs.1);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = etherparse::Ipv4Header {
                source: source.octets(),
                destination: destination.octets(),
                time_to_live: ttl,
                ..Default::default()
            };
            header.dont_fragment = false;
            ethernet.ip(etherparse::IpHeaders::Ipv4(header, Default::default()))
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => ethernet.ip(etherparse::IpHeaders::Ipv6(
            etherparse::Ipv6Header {
                source: source.octets(),
                destination: destination.octets(),
                hop_limit: ttl,
                ..Default::default()
            },
            Default::default(),
        )),
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// A UDP datagram in a frame from MAC `macs.0` to `macs.1`, with correct checksums.
pub fn udp(macs: (Mac, Mac), source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(macs, source.ip(), destination.ip(), 64)
        .udp(source.port(), destination.port())
        .write(&mut frame, payload)
        .expect("write to memory");
    frame
}

/// A UDP datagram as [`read_udp`] found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Ethernet source and destination.
    pub macs: (Mac, Mac),
    /// From.
    pub source: SocketAddr,
    /// To.
    pub destination: SocketAddr,
    /// Payload.
    pub payload: Vec<u8>,
}

/// Reads a whole, unfragmented UDP datagram with or without VLAN tags; checksums must be right.
pub fn read_udp(frame: &[u8]) -> Option<Datagram> {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Udp(udp)) = &packet.transport else { return None };
    let (source, destination) = addresses(frame)?;
    let sum = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => udp
            .to_header()
            .calc_checksum_ipv4_raw(source.octets(), destination.octets(), udp.payload())
            .ok()?,
        (IpAddr::V6(source), IpAddr::V6(destination)) => udp
            .to_header()
            .calc_checksum_ipv6_raw(source.octets(), destination.octets(), udp.payload())
            .ok()?,
        _ => return None,
    };
    (sum == udp.checksum()).then(|| Datagram {
        macs: macs(frame),
        source: (source, udp.source_port()).into(),
        destination: (destination, udp.destination_port()).into(),
        payload: udp.payload().to_vec(),
    })
}

/// Ethernet source and destination of a frame.
///
/// # Panics
/// If it is shorter than that.
pub fn macs(frame: &[u8]) -> (Mac, Mac) {
    let mac = |at: usize| Mac::try_from(&frame[at..at + 6]).expect("six bytes");
    (mac(6), mac(0))
}

/// IP source and destination of a frame.
pub fn addresses(frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match LaxSlicedPacket::from_ethernet(frame).ok()?.net? {
        LaxNetSlice::Ipv4(ip) => {
            Some((ip.header().source_addr().into(), ip.header().destination_addr().into()))
        }
        LaxNetSlice::Ipv6(ip) => {
            Some((ip.header().source_addr().into(), ip.header().destination_addr().into()))
        }
        LaxNetSlice::Arp(_) => None,
    }
}

/// An ICMP or ICMPv6 echo request.
pub fn echo_request(
    macs: (Mac, Mac),
    source: IpAddr,
    destination: IpAddr,
    id: u16,
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = ip(macs, source, destination, 64);
    match source {
        IpAddr::V4(_) => step.icmpv4_echo_request(id, 1).write(&mut frame, payload),
        IpAddr::V6(_) => step.icmpv6_echo_request(id, 1).write(&mut frame, payload),
    }
    .expect("write to memory");
    frame
}

/// Whether a frame is the reply to [`echo_request`] with this id.
pub fn is_echo_reply(frame: &[u8], wanted: u16) -> bool {
    let Ok(packet) = etherparse::SlicedPacket::from_ethernet(frame) else { return false };
    match packet.transport {
        Some(TransportSlice::Icmpv4(icmp)) => {
            matches!(icmp.header().icmp_type, Icmpv4Type::EchoReply(echo) if echo.id == wanted)
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            matches!(icmp.header().icmp_type, Icmpv6Type::EchoReply(echo) if echo.id == wanted)
        }
        _ => false,
    }
}

/// The solicited-node multicast address of `target` (RFC 4291 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = target.octets();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]))
}

/// MAC address of a multicast group of either family.
pub fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => multicast_mac(group),
    }
}

/// Ethernet address of an IPv6 multicast group (RFC 2464 7).
pub fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// A neighbour solicitation for `target` from `source` to its solicited-node group (RFC 4861 4.3), with the
/// source link-layer option unless `source` is `::`.
pub fn neighbour_solicitation(mac: Mac, source: Ipv6Addr, target: Ipv6Addr) -> Vec<u8> {
    let group = solicited_node(target);
    let mut body = target.octets().to_vec();
    if !source.is_unspecified() {
        body.extend([1, 1]);
        body.extend(mac);
    }
    icmpv6((mac, multicast_mac(group)), source, group, 135, &[0; 4], &body)
}

/// An ICMPv6 message with hop limit 255: type, the four bytes after the checksum, and the rest.
pub fn icmpv6(
    macs: (Mac, Mac),
    source: Ipv6Addr,
    destination: Ipv6Addr,
    kind: u8,
    word: &[u8; 4],
    body: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    ip(macs, source.into(), destination.into(), 255)
        .icmpv6_raw(kind, 0, *word)
        .write(&mut frame, body)
        .expect("write to memory");
    frame
}

/// A neighbour advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertisement {
    /// IPv6 source and destination.
    pub addresses: (IpAddr, IpAddr),
    /// Router, solicited, override: the top three bits.
    pub flags: u8,
    /// Target.
    pub target: Ipv6Addr,
    /// Target link-layer address option.
    pub link_layer: Option<Mac>,
}

/// Reads a neighbour advertisement (RFC 4861 4.4); checksum and hop limit must be right.
pub fn read_advertisement(frame: &[u8]) -> Option<Advertisement> {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).ok()?;
    let Some(etherparse::NetSlice::Ipv6(ip)) = &packet.net else { return None };
    let Some(TransportSlice::Icmpv6(icmp)) = &packet.transport else { return None };
    let (header, bytes) = (ip.header(), icmp.slice());
    let valid = icmp.is_checksum_valid(header.source(), header.destination()) && header.hop_limit() == 255;
    if !valid || icmp.type_u8() != 136 || bytes.len() < 24 {
        return None;
    }
    let option = bytes.get(24..32).filter(|option| option[..2] == [2, 1]);
    Some(Advertisement {
        addresses: addresses(frame)?,
        flags: bytes[4] >> 5,
        target: <[u8; 16]>::try_from(&bytes[8..24]).ok()?.into(),
        link_layer: option.and_then(|option| option[2..].try_into().ok()),
    })
}

/// Puts VLAN tags, outermost first, into a frame: (0x88a8 or 0x8100, VID).
pub fn tag(mut frame: Vec<u8>, tags: &[(u16, u16)]) -> Vec<u8> {
    let bytes: Vec<u8> =
        tags.iter().flat_map(|(tpid, vid)| [tpid.to_be_bytes(), vid.to_be_bytes()].concat()).collect();
    frame.splice(12..12, bytes);
    frame
}

/// The frame without its VLAN tags, if these are exactly `tags`.
pub fn untag(frame: &[u8], tags: &[(u16, u16)]) -> Option<Vec<u8>> {
    let tagged = tag(frame.get(..12)?.to_vec(), tags);
    let rest = frame.strip_prefix(tagged.as_slice())?;
    Some([&frame[..12], rest].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    #[test]
    fn what_was_built_reads_back() {
        for (source, destination) in [("192.0.2.1:1", "192.0.2.2:2"), ("[2001:db8::1]:1", "[2001:db8::2]:2")]
        {
            let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
            let frame = udp((A, B), source, destination, b"payload");
            let expected = Datagram { macs: (A, B), source, destination, payload: b"payload".to_vec() };
            assert_eq!(read_udp(&frame), Some(expected.clone()));
            let tags = [(0x88a8, 10), (0x8100, 7)];
            let tagged = tag(frame.clone(), &tags);
            assert_eq!(read_udp(&tagged), Some(expected));
            assert_eq!(untag(&tagged, &tags), Some(frame.clone()));
            assert_eq!(untag(&frame, &tags), None);
            let mut broken = frame;
            *broken.last_mut().unwrap() ^= 1;
            assert_eq!(read_udp(&broken), None);
        }
        let (sender, target) = ((A, Ipv4Addr::new(192, 0, 2, 1)), (B, Ipv4Addr::new(192, 0, 2, 2)));
        assert_eq!(read_arp(&arp(2, sender, target, B)), Some((2, sender, target)));
    }

    #[test]
    fn neighbour_messages_have_the_addresses_of_the_rfcs() {
        let target: Ipv6Addr = "2001:db8::1:2:3".parse().unwrap();
        let frame = neighbour_solicitation(A, "2001:db8::9".parse().unwrap(), target);
        assert_eq!(macs(&frame), (A, [0x33, 0x33, 0xff, 2, 0, 3]));
        let mut body = target.octets().to_vec();
        body.extend([2, 1]);
        body.extend(B);
        let frame = icmpv6((B, A), target, "2001:db8::9".parse().unwrap(), 136, &[0x60, 0, 0, 0], &body);
        let read = read_advertisement(&frame).unwrap();
        assert_eq!((read.flags, read.target, read.link_layer), (0b011, target, Some(B)));
    }
}
