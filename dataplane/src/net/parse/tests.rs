use etherparse::{SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::*;
use crate::net::{checksum, testing::*};

const TAGS: [(Tags, Option<u16>, Option<u16>); 3] =
    [(Tags::None, None, None), (Tags::Q(100), None, Some(100)), (Tags::Ad(10, 4094), Some(10), Some(4094))];

#[test]
fn etherparses_frames_are_understood() {
    for v6 in [false, true] {
        for (tags, outer, inner) in TAGS {
            for len in [0usize, 1, 18, 64, 1400] {
                let payload: Vec<u8> = (0..len).map(pattern).collect();
                let mut frame = received(v6, tags, &payload);
                let length = frame.len();
                frame.resize(length.max(60) + 3, 0xee); // padding
                let packet = parse(&frame).unwrap();
                let (src, dst) = if v6 { (PEER_V6, OUR_V6) } else { (peer_v4(), our_v4()) };
                assert_eq!((packet.src, packet.dst), (src, dst));
                assert_eq!((packet.src_mac, packet.dst_mac), (PEER_MAC, OUR_MAC));
                assert_eq!(packet.vlan, Vlan::new(outer, inner).unwrap());
                assert_eq!((packet.v6, packet.protocol, packet.ttl), (v6, 17, 61));
                assert_eq!((packet.end, packet.fragment), (length, None));
                assert_eq!(packet.l3, 14 + packet.vlan.header_len());
                let udp = udp(&frame, &packet).unwrap();
                assert_eq!((udp.src_port, udp.dst_port, udp.checksum_zero), (4000, 53, false));
                assert_eq!(&frame[udp.payload.clone()], payload);
                let sum = checksum::sum(&payload);
                udp.verify(sum).unwrap();
                assert_eq!(udp.verify(sum + checksum::word(1)), Err(Drop::UdpChecksum));
            }
        }
    }
}

#[test]
fn the_fast_path_and_the_slow_one_agree() {
    let mut frame = received(false, Tags::None, b"agree");
    let fast = parse(&frame).unwrap();
    assert_eq!(slow(&frame, frame.len()), Ok(fast));
    frame[23] = 6;
    fix_v4(&mut frame[14..]);
    assert_eq!(slow(&frame, frame.len()), parse(&frame));
}

#[test]
fn priority_tags_are_no_tags() {
    let frame = received(true, Tags::Q(0), b"x");
    let packet = parse(&frame).unwrap();
    assert_eq!((packet.vlan, packet.l3), (Vlan::NONE, 18));
    let frame = received(false, Tags::Ad(0, 7), b"x");
    assert_eq!(parse(&frame).unwrap().vlan, Vlan::new(None, Some(7)).unwrap());
}

#[test]
fn unknown_stacks_of_tags() {
    let inner = &received(false, Tags::Ad(1, 2), b"x")[12..];
    for outer in [[0x81, 0, 0, 1], [0x88, 0xa8, 0, 1]] {
        let frame = [&OUR_MAC[..], &PEER_MAC, &outer, inner].concat();
        assert_eq!(parse(&frame), Err(Drop::EtherType));
    }
    let mut frame = received(false, Tags::Q(5), b"x");
    frame[14..16].copy_from_slice(&[0x0f, 0xff]); // VID 4095 is reserved
    assert_eq!(parse(&frame), Err(Drop::EtherType));
    frame[12..14].copy_from_slice(&[8, 6]);
    assert_eq!(parse(&frame), Err(Drop::EtherType));
}

/// `change` on a good IPv4 frame (checksum made right again), and what must come of it.
fn v4_case(change: impl FnOnce(&mut Vec<u8>)) -> Result<Packet, Drop> {
    let mut frame = received(false, Tags::None, b"hello");
    change(&mut frame);
    if frame.len() >= 14 + 20 && frame.len() >= 14 + usize::from(frame[14] & 0xf) * 4 {
        fix_v4(&mut frame[14..]);
    }
    parse(&frame)
}

#[test]
fn bad_ipv4() {
    assert_eq!(v4_case(|f| f[14] = 0x55), Err(Drop::IpVersion));
    assert_eq!(v4_case(|f| f[14] = 0x44), Err(Drop::IpHeader));
    assert_eq!(v4_case(|f| f[16..18].fill(0)), Err(Drop::IpLength));
    assert_eq!(v4_case(|f| f[17] = 19), Err(Drop::IpLength));
    assert_eq!(v4_case(|f| f[17] += 1), Err(Drop::IpLength));
    assert_eq!(v4_case(|f| f[14] = 0x4f), Err(Drop::Truncated));
    assert_eq!(v4_case(|f| f.truncate(33)), Err(Drop::Truncated));
    assert_eq!(v4_case(|f| f[0] = 1), Err(Drop::LinkGroup));
    for first in [0, 127, 224, 239, 240, 255] {
        assert_eq!(v4_case(|f| f[26] = first), Err(Drop::Source), "{first}");
    }
    let mut frame = received(false, Tags::None, b"hello");
    frame[24] ^= 1;
    assert_eq!(parse(&frame), Err(Drop::IpChecksum));
    // The reserved bit means nothing; DF neither.
    assert!(v4_case(|f| f[20] |= 0xc0).is_ok());
}

#[test]
fn ipv4_options() {
    let frame = |options: &[u8]| in_frame(&v4_packet(options, 1, 0, 17, &[0, 1, 0, 2, 0, 8, 0, 0]));
    let packet = parse(&frame(&[0x94, 4, 0, 0])).unwrap(); // router alert
    assert_eq!((packet.l4, packet.end), (14 + 24, 14 + 32));
    assert!(parse(&frame(&[1, 1, 0, 0xff])).is_ok(), "nothing is read behind the end of options");
    assert_eq!(parse(&frame(&[131, 4, 4, 0])), Err(Drop::SourceRoute));
    assert_eq!(parse(&frame(&[1, 137, 3, 4])), Err(Drop::SourceRoute));
    for bad in [[7, 0, 0, 0], [7, 1, 0, 0], [7, 5, 0, 0], [1, 1, 1, 7]] {
        assert_eq!(parse(&frame(&bad)), Err(Drop::IpHeader), "{bad:?}");
    }
}

#[test]
fn ipv4_fragments() {
    let frame = in_frame(&v4_packet(&[], 0xbeef, 0x2000 | 185, 17, &[0; 16]));
    let fragment = parse(&frame).unwrap().fragment.unwrap();
    assert_eq!((fragment.id, fragment.offset, fragment.more), (0xbeef, 1480, true));
    assert_eq!(udp(&frame, &parse(&frame).unwrap()), Err(Drop::Protocol));
    let last = in_frame(&v4_packet(&[], 1, 0x1fff, 17, &[0; 16]));
    assert_eq!(parse(&last).unwrap().fragment.map(|f| (f.offset, f.more)), Some((65528, false)));
}

#[test]
fn udp_lengths_and_checksums() {
    let with = |length: u16, sum: u16, v6: bool| {
        let header = [&[0, 9, 0, 10][..], &length.to_be_bytes(), &sum.to_be_bytes(), &[7; 4]].concat();
        let packet = if v6 { v6_packet(17, &header) } else { v4_packet(&[], 1, 0, 17, &header) };
        udp(&packet, &parse_ip(&packet).unwrap())
    };
    assert_eq!(with(7, 1, false), Err(Drop::UdpLength));
    assert_eq!(with(0, 1, true), Err(Drop::UdpLength));
    assert_eq!(with(13, 1, false), Err(Drop::UdpLength));
    assert_eq!(with(10, 1, false).unwrap().payload, 28..30, "bytes behind the datagram are ignored");
    assert!(with(12, 0, false).unwrap().verify(0x1234).is_ok());
    assert_eq!(with(12, 0, true), Err(Drop::UdpNoChecksum));
    let short = v4_packet(&[], 1, 0, 17, &[0; 7]);
    assert!(udp(&short, &parse_ip(&short).unwrap()).is_err());
    let tcp = v4_packet(&[], 1, 0, 6, &[0; 20]);
    assert_eq!(udp(&tcp, &parse_ip(&tcp).unwrap()), Err(Drop::Protocol));
}

#[test]
fn bad_ipv6() {
    let case = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = received(true, Tags::None, b"hello");
        change(&mut frame);
        parse(&frame)
    };
    assert_eq!(case(&|f| f[14] = 0x45), Err(Drop::IpVersion));
    assert_eq!(case(&|f| f[19] += 1), Err(Drop::IpLength));
    assert_eq!(case(&|f| f.truncate(53)), Err(Drop::Truncated));
    assert_eq!(case(&|f| f[22] = 0xff), Err(Drop::Source));
    assert_eq!(case(&|f| f[22..38].fill(0)), Err(Drop::Source));
    let mapped = crate::net::mapped([192, 0, 2, 9]);
    assert_eq!(case(&|f| f[22..38].copy_from_slice(&mapped)), Err(Drop::Source));
    assert_eq!(case(&|f| f[38..54].copy_from_slice(&mapped)), Err(Drop::Source));
    assert_eq!(case(&|f| f[0] = 0x33), Err(Drop::LinkGroup));
    assert_eq!(case(&|f| f[14..16].copy_from_slice(&[0x6a, 0xb0])).unwrap().tos, 0xab);
}

/// An IPv6 frame with a UDP datagram behind `chain`.
fn chained(first: u8, chain: &[u8]) -> Result<Packet, Drop> {
    parse(&in_frame(&v6_packet(first, &[chain, &[0, 1, 0, 2, 0, 8, 1, 1]].concat())))
}

#[test]
fn extension_chains() {
    let padn = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let alert = |next: u8| [next, 0, 5, 2, 0, 0, 1, 0];
    let ok = chained(0, &[alert(60), padn(17)].concat()).unwrap();
    assert_eq!((ok.protocol, ok.l4, ok.end), (17, 14 + 56, 14 + 64));
    // Authentication counts in words of 4 bytes.
    assert_eq!(chained(51, &[17, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 9, 9, 9, 9]).unwrap().l4, 14 + 56);
    // A routing header with nothing left is skipped (RFC 8200 4.4), one with segments left is not for us.
    assert_eq!(chained(43, &[17, 0, 0, 0, 0, 0, 0, 0]).unwrap().protocol, 17);
    assert_eq!(chained(43, &[17, 0, 0, 1, 0, 0, 0, 0]), Err(Drop::SourceRoute));
    // Hop-by-hop first or nowhere.
    assert_eq!(chained(60, &[padn(0), padn(17)].concat()), Err(Drop::Extension));
    // Unknown options: 00 skip, others discard (RFC 8200 4.2).
    assert!(chained(60, &[17, 0, 0x3e, 4, 0, 0, 0, 0]).is_ok());
    for kind in [0x7e, 0xbe, 0xc2, 0xfe] {
        assert_eq!(chained(60, &[17, 0, kind, 4, 0, 0, 0, 0]), Err(Drop::Extension), "{kind:#x}");
    }
    assert_eq!(chained(60, &[17, 0, 1, 5, 0, 0, 0, 0]), Err(Drop::Extension), "option beyond its header");
    assert_eq!(chained(60, &[17, 9, 1, 4, 0, 0, 0, 0]), Err(Drop::Truncated), "header beyond the packet");
    // Bounds.
    let many = |n: usize| [vec![padn(60); n - 1].concat(), padn(17).to_vec()].concat();
    assert!(chained(60, &many(extension::MAX_HEADERS)).is_ok());
    assert_eq!(chained(60, &many(extension::MAX_HEADERS + 1)), Err(Drop::Extension));
    assert_eq!(chained(60, &[&[17, 2][..], &[0; 22]].concat()), Err(Drop::Extension), "22 Pad1");
    // No next header, ESP and unknown protocols end the chain.
    for end in [59, 50, 135, 253] {
        assert_eq!(chained(60, &padn(end)).unwrap().protocol, end);
    }
}

#[test]
fn ipv6_fragments_and_atomic_ones() {
    let padn = [44, 0, 1, 4, 0, 0, 0, 0];
    let f = chained(60, &[&padn[..], &[17, 0, 0x05, 0xc9, 1, 2, 3, 4]].concat()).unwrap();
    let fragment = f.fragment.unwrap();
    assert_eq!((fragment.id, fragment.offset, fragment.more), (0x0102_0304, 1480, true));
    assert_eq!((fragment.header, fragment.announced_at, f.l4, f.protocol), (62, 54, 70, 17));
    // RFC 6946: offset 0 and no more: a whole packet, whose chain goes on.
    let atomic = chained(44, &[60, 0, 0, 0, 1, 2, 3, 4, 17, 0, 1, 4, 0, 0, 0, 0]).unwrap();
    assert_eq!((atomic.fragment, atomic.l4, atomic.protocol), (None, 70, 17));
    // Reserved bits say nothing.
    assert_eq!(chained(44, &[17, 9, 0, 6, 0, 0, 0, 0]).unwrap().fragment, None);
}

#[test]
fn a_first_buffer_is_enough() {
    let frame = received(true, Tags::Q(9), &[1; 9000 - 48]);
    let whole = parse(&frame).unwrap();
    assert_eq!(parse_head(&frame[..256], frame.len()), Ok(whole));
    assert_eq!(parse_head(&frame[..256], 256), Err(Drop::IpLength));
    assert_eq!(parse_head(&frame[..256], 0), Err(Drop::IpLength));
    assert_eq!(udp(&frame[..256], &whole), udp(&frame, &whole));
}

/// Whatever we accept lies within the frame, and etherparse sees the same UDP datagram in it.
fn check(frame: &[u8]) {
    assert_eq!(parse(frame), slow(frame, frame.len()), "the short paths answer as the long one");
    let Ok(packet) = parse(frame) else { return };
    assert!(packet.l3 < packet.l4 && packet.l4 <= packet.end && packet.end <= frame.len());
    assert_eq!(packet.v6, !crate::net::is_v4(&packet.src));
    assert_eq!(
        parse_ip(&frame[packet.l3..]).map(|p| (p.src, p.dst, p.protocol, p.fragment.is_some())),
        Ok((packet.src, packet.dst, packet.protocol, packet.fragment.is_some()))
    );
    let Ok(udp) = udp(frame, &packet) else { return };
    assert!(udp.payload.start <= udp.payload.end && udp.payload.end <= packet.end);
    // etherparse does not take UDP datagrams that are shorter than the IP payload apart in the same way.
    if udp.payload.end != packet.end {
        return;
    }
    let sliced = SlicedPacket::from_ethernet(&frame[..packet.end]).unwrap();
    let Some(TransportSlice::Udp(theirs)) = sliced.transport else { panic!("{frame:02x?}") };
    assert_eq!((theirs.source_port(), theirs.destination_port()), (udp.src_port, udp.dst_port));
    assert_eq!(theirs.payload(), &frame[udp.payload.clone()]);
    let sum_is_right = udp.verify(checksum::sum(&frame[udp.payload.clone()])).is_ok();
    let checksum = match sliced.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            theirs.to_header().calc_checksum_ipv4(&ip.header().to_header(), theirs.payload()).unwrap()
        }
        etherparse::NetSlice::Ipv6(ip) => {
            theirs.to_header().calc_checksum_ipv6(&ip.header().to_header(), theirs.payload()).unwrap()
        }
        other => panic!("{other:?}"),
    };
    // Zero and all ones are one number.
    let theirs_right = theirs.checksum() == checksum || theirs.checksum() == 0 && !packet.v6;
    assert_eq!(sum_is_right, theirs_right);
}

proptest! {
    #[test]
    fn arbitrary_bytes(frame in proptest::collection::vec(any::<u8>(), 0..200)) {
        check(&frame);
        let _ = parse_ip(&frame);
    }

    #[test]
    fn mutated_frames(
        v6: bool,
        tags in 0usize..3,
        payload in proptest::collection::vec(any::<u8>(), 0..100),
        changes in proptest::collection::vec((0usize..90, any::<u8>()), 0..4),
        cut in 0usize..200,
        fix: bool,
    ) {
        let mut frame = received(v6, TAGS[tags].0, &payload);
        for (at, value) in changes {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        let l3 = 14 + 4 * tags;
        if fix && !v6 && usize::from(frame[l3] & 0xf) >= 5 && frame.len() >= l3 + usize::from(frame[l3] & 0xf) * 4 {
            fix_v4(&mut frame[l3..]);
        }
        frame.truncate(cut.max(14));
        check(&frame);
    }

    #[test]
    fn chains_of_anything(first: u8, chain in proptest::collection::vec(any::<u8>(), 0..120)) {
        check(&in_frame(&v6_packet(first, &chain)));
    }
}
