use etherparse::{Icmpv4Slice, Icmpv6Slice, PacketBuilder, icmpv4, icmpv6};

use super::*;
use crate::net::{parse::parse, testing::*};

/// An error from the peer's router about a datagram of ours: `kind`, `code`, the second word, the quote.
fn v4(kind: u8, code: u8, word: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let payload = [&word[..], quote].concat();
    let raw = etherparse::Icmpv4Type::Unknown {
        type_u8: kind,
        code_u8: code,
        bytes5to8: payload[..4].try_into().unwrap(),
    };
    PacketBuilder::ethernet2(PEER_MAC, OUR_MAC)
        .ipv4(PEER_V4, OUR_V4, 60)
        .icmpv4(raw)
        .write(&mut frame, &payload[4..])
        .unwrap();
    frame
}

fn v6(kind: u8, code: u8, word: [u8; 4], quote: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    let raw = etherparse::Icmpv6Type::Unknown { type_u8: kind, code_u8: code, bytes5to8: word };
    PacketBuilder::ethernet2(PEER_MAC, OUR_MAC)
        .ipv6(PEER_V6, OUR_V6, 60)
        .icmpv6(raw)
        .write(&mut frame, quote)
        .unwrap();
    frame
}

/// The start of a datagram that we sent: 192.0.2.10:53 -> 192.0.2.1:4000, as a router quotes it.
fn our_v4_datagram() -> Vec<u8> {
    let mut packet = v4_packet(&[], 9, 0, 17, &[0, 53, 0x0f, 0xa0, 0, 100, 0, 0]);
    packet[12..16].copy_from_slice(&OUR_V4);
    packet[16..20].copy_from_slice(&PEER_V4);
    packet[2..4].copy_from_slice(&1500u16.to_be_bytes());
    packet
}

fn our_v6_datagram() -> Vec<u8> {
    let mut packet = v6_packet(17, &[0, 53, 0x0f, 0xa0, 0, 100, 0, 0]);
    packet[8..24].copy_from_slice(&OUR_V6);
    packet[24..40].copy_from_slice(&PEER_V6);
    packet
}

fn read(frame: &[u8]) -> Result<IcmpError, Drop> {
    error(frame, &parse(frame).unwrap())
}

#[test]
fn errno_as_the_kernel_gives_it() {
    use errno::*;
    let quote = our_v4_datagram();
    for (code, errno) in [
        (0, ENETUNREACH),
        (1, EHOSTUNREACH),
        (2, ENOPROTOOPT),
        (3, ECONNREFUSED),
        (4, EMSGSIZE),
        (5, EOPNOTSUPP),
        (6, ENETUNREACH),
        (7, EHOSTDOWN),
        (8, ENONET),
        (9, ENETUNREACH),
        (10, EHOSTUNREACH),
        (11, ENETUNREACH),
        (12, EHOSTUNREACH),
        (13, EHOSTUNREACH),
    ] {
        let e = read(&v4(3, code, [0, 0, 5, 0], &quote)).unwrap();
        assert_eq!((e.info.errno, e.info.icmp_type, e.info.icmp_code), (errno, 3, code));
        assert_eq!(e.info.mtu, if code == 4 { 1280 } else { 0 });
        assert_eq!(e.info.offender, peer_v4());
        let flow = Quoted { src: our_v4(), dst: peer_v4(), protocol: 17, src_port: 53, dst_port: 4000 };
        assert_eq!(e.quoted, flow);
    }
    assert_eq!(read(&v4(11, 0, [0; 4], &quote)).unwrap().info.errno, EHOSTUNREACH);
    assert_eq!(read(&v4(12, 0, [0; 4], &quote)).unwrap().info.errno, EPROTO);
    let quote = our_v6_datagram();
    for (kind, code, errno) in [
        (1, 0, ENETUNREACH),
        (1, 1, EACCES),
        (1, 2, EHOSTUNREACH),
        (1, 3, EHOSTUNREACH),
        (1, 4, ECONNREFUSED),
        (1, 5, EACCES),
        (1, 6, EACCES),
        (2, 0, EMSGSIZE),
        (3, 0, EHOSTUNREACH),
        (4, 1, EPROTO),
    ] {
        let e = read(&v6(kind, code, 1400u32.to_be_bytes(), &quote)).unwrap();
        assert_eq!((e.info.errno, e.info.icmp_type, e.info.icmp_code), (errno, kind, code));
        assert_eq!(e.info.mtu, if kind == 2 { 1400 } else { 0 });
        assert_eq!((e.quoted.src, e.quoted.dst, e.quoted.src_port), (OUR_V6, PEER_V6, 53));
    }
}

#[test]
fn messages_to_ignore() {
    let quote = our_v4_datagram();
    // Source quench (RFC 6633), redirect, echo, echo reply.
    for kind in [4, 5, 8, 0] {
        assert_eq!(read(&v4(kind, 0, [0; 4], &quote)), Err(Drop::IcmpIgnored), "{kind}");
    }
    let quote = our_v6_datagram();
    for kind in [128, 129, 135, 136, 137] {
        assert_eq!(read(&v6(kind, 0, [0; 4], &quote)), Err(Drop::IcmpIgnored), "{kind}");
    }
    // RFC 8201 4: no MTU below 1280.
    assert_eq!(read(&v6(2, 0, 1279u32.to_be_bytes(), &quote)), Err(Drop::IcmpIgnored));
    assert_eq!(read(&received(false, Tags::None, &[0; 40])), Err(Drop::IcmpChecksum));
}

#[test]
fn rfc1191_plateaus_for_old_routers() {
    let mtu = |total: u16, said: u16| {
        let mut quote = our_v4_datagram();
        quote[2..4].copy_from_slice(&total.to_be_bytes());
        let [a, b] = said.to_be_bytes();
        read(&v4(3, 4, [0, 0, a, b], &quote)).unwrap().info.mtu
    };
    assert_eq!(mtu(1500, 1400), 1400);
    assert_eq!(mtu(1500, 0), 1492);
    assert_eq!(mtu(1492, 0), 1006);
    assert_eq!(mtu(40000, 0), 32000);
    assert_eq!(mtu(60, 0), 68);
    assert_eq!(mtu(1500, 5), 68);
}

#[test]
fn bad_messages() {
    let quote = our_v4_datagram();
    let mut frame = v4(3, 3, [0; 4], &quote);
    *frame.last_mut().unwrap() ^= 1;
    assert_eq!(read(&frame), Err(Drop::IcmpChecksum));
    for len in [0, 19, 23] {
        assert_eq!(read(&v4(3, 3, [0; 4], &quote[..len])), Err(Drop::IcmpQuote), "{len}");
    }
    let mut later = quote.clone();
    later[7] = 1;
    assert_eq!(read(&v4(3, 3, [0; 4], &later)), Err(Drop::IcmpQuote), "a later fragment has no ports");
    let mut version = quote;
    version[0] = 0x65;
    assert_eq!(read(&v4(3, 3, [0; 4], &version)), Err(Drop::IcmpQuote));
    let quote = our_v6_datagram();
    assert_eq!(read(&v6(1, 4, [0; 4], &quote[..43])), Err(Drop::IcmpQuote));
    let short = in_frame(&v4_packet(&[], 1, 0, 1, &[3, 3, 0, 0]));
    assert_eq!(read(&short), Err(Drop::IcmpLength));
}

#[test]
fn quoted_chains() {
    let mut packet = v6_packet(60, &[44, 0, 1, 4, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 7, 0, 53, 0x0f, 0xa0]);
    packet[8..24].copy_from_slice(&OUR_V6);
    assert_eq!(read(&v6(3, 1, [0; 4], &packet)).unwrap().quoted.src_port, 53);
    packet[51] = 8; // offset of the fragment
    assert_eq!(read(&v6(3, 1, [0; 4], &packet)), Err(Drop::IcmpQuote));
}

#[test]
fn quoted_contents() {
    for contents in [&b""[..], b"what we said"] {
        let frames = [
            v4(3, 3, [0; 4], &[&our_v4_datagram(), contents].concat()),
            v6(1, 4, [0; 4], &[&our_v6_datagram(), contents].concat()),
        ];
        for frame in frames {
            let error = read(&frame).unwrap();
            assert_eq!(frame.get(error.contents), Some(contents));
        }
    }
    // Some routers quote the ports and no more.
    let frame = v6(1, 4, [0; 4], &our_v6_datagram()[..44]);
    assert!(read(&frame).unwrap().contents.is_empty());
}

#[test]
fn echo_replies() {
    for (version, len) in [(4, 0), (4, 1), (4, 2001), (6, 0), (6, 57), (6, 2000)] {
        let data = vec![0x3c; len];
        let mut frame = Vec::new();
        let echo = etherparse::IcmpEchoHeader { id: 77, seq: 3 };
        if version == 4 {
            let b = PacketBuilder::ethernet2(PEER_MAC, OUR_MAC).ipv4(PEER_V4, OUR_V4, 60);
            b.icmpv4_echo_request(echo.id, echo.seq).write(&mut frame, &data).unwrap();
        } else {
            let b = PacketBuilder::ethernet2(PEER_MAC, OUR_MAC).ipv6(PEER_V6, OUR_V6, 60);
            b.icmpv6_echo_request(echo.id, echo.seq).write(&mut frame, &data).unwrap();
        }
        let packet = parse(&frame).unwrap();
        assert_eq!(error(&frame, &packet), Err(Drop::IcmpIgnored));
        let mut message = frame[packet.l4..packet.end].to_vec();
        echo_reply(&mut message, &packet).unwrap();
        if version == 4 {
            let slice = Icmpv4Slice::from_slice(&message).unwrap();
            assert_eq!(slice.icmp_type(), etherparse::Icmpv4Type::EchoReply(echo));
            assert_eq!((slice.type_u8(), slice.payload()), (icmpv4::TYPE_ECHO_REPLY, &data[..]));
            let right = slice.icmp_type().calc_checksum(&data);
            assert_eq!(slice.checksum(), right);
        } else {
            let slice = Icmpv6Slice::from_slice(&message).unwrap();
            assert_eq!(slice.type_u8(), icmpv6::TYPE_ECHO_REPLY);
            assert!(slice.is_checksum_valid(OUR_V6, PEER_V6));
            assert_eq!(slice.payload(), data);
        }
        assert_eq!(echo_reply(&mut message, &packet), Err(Drop::IcmpIgnored), "a reply is no request");
        message[0] ^= 0x40;
        assert_eq!(echo_reply(&mut message, &packet), Err(Drop::IcmpChecksum));
    }
}

#[test]
fn unreachables() {
    for v6 in [false, true] {
        let frame = received(v6, Tags::Q(3), &[1; 1400]);
        let packet = parse(&frame).unwrap();
        let mut out = [0; MAX_ERROR];
        let len = write_unreachable(&frame, &packet, Unreachable::Port, &mut out).unwrap();
        let message = &out[..len];
        if v6 {
            assert_eq!(len + 40, 1280);
            let slice = Icmpv6Slice::from_slice(message).unwrap();
            assert!(slice.is_checksum_valid(OUR_V6, PEER_V6));
        } else {
            assert_eq!(len + 20, 576);
            let slice = Icmpv4Slice::from_slice(message).unwrap();
            assert_eq!(slice.icmp_type().calc_checksum(slice.payload()), slice.checksum());
        }
        // What we send, we read: the flow is the offending datagram's.
        let reply = if v6 {
            let mut p = v6_packet(58, message);
            p[8..24].copy_from_slice(&OUR_V6);
            p[24..40].copy_from_slice(&PEER_V6);
            in_frame(&p)
        } else {
            in_frame(&v4_packet(&[], 1, 0, 1, message))
        };
        let read = read(&reply).unwrap();
        assert_eq!(read.info.errno, errno::ECONNREFUSED);
        assert_eq!((read.quoted.src, read.quoted.src_port, read.quoted.dst_port), (packet.src, 4000, 53));
        // Never about an error.
        let view = parse(&reply).unwrap();
        let answer = write_unreachable(&reply, &view, Unreachable::Prohibited, &mut out);
        assert_eq!(answer, Err(Drop::IcmpIgnored));
        assert_eq!(write_unreachable(&frame, &packet, Unreachable::Port, &mut [0; 100]), Err(Drop::TxLength));
    }
    let mut multicast = received(false, Tags::None, b"x");
    multicast[30..34].copy_from_slice(&[224, 0, 0, 251]);
    fix_v4(&mut multicast[14..]);
    let view = parse(&multicast).unwrap();
    let answer = write_unreachable(&multicast, &view, Unreachable::Port, &mut [0; 600]);
    assert_eq!(answer, Err(Drop::IcmpIgnored));
}

proptest::proptest! {
    #[test]
    fn any_message(six: bool, kind in 0u8..13, code in 0u8..16, word: [u8; 4],
                   quote in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..100)) {
        let frame = if six { v6(kind, code, word, &quote) } else { v4(kind, code, word, &quote) };
        let _ = read(&frame);
    }
}
