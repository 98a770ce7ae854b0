//! Frames of every kind, judged by etherparse.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv6Addr},
};

use etherparse::{NetSlice, SlicedPacket, TransportSlice, checksum::Sum16BitWords};
use proptest::prelude::*;

use super::*;
use crate::{
    pattern::Walk,
    stamp::{self, Stamp},
};

const KINDS: [Kind; 8] =
    [Kind::Udp, Kind::Tcp, Kind::Arp, Kind::Nd, Kind::Igmp, Kind::Igmp2, Kind::Mld, Kind::Mld1];

fn addresses(text: &str) -> Addresses {
    text.parse().unwrap()
}

fn flow(kind: Kind, v6: bool) -> Flow {
    let group = matches!(kind, Kind::Igmp | Kind::Igmp2 | Kind::Mld | Kind::Mld1);
    let (source, destination) = match (v6, group) {
        (false, false) => ("10.1.0.0-10.1.0.2", "10.2.0.254-10.2.1.1"),
        (false, true) => ("10.1.0.0-10.1.0.2", "239.129.0.254-239.129.1.1"),
        (true, false) => ("2001:db8::/126", "2001:db8:1::fffe-2001:db8:1::1:1"),
        (true, true) => ("fe80::1-fe80::3", "ff05::fffe-ff05::1:1"),
    };
    Flow {
        kind,
        macs: ([2; 6], [4; 6]),
        tags: Vec::new(),
        source: addresses(source),
        destination: addresses(destination),
        ports: (Span { first: 1000, count: 2, random: false }, Span { first: 65534, count: 2, random: true }),
        ttl: 64,
        stream: Some(3),
    }
}

fn frames(flow: &Flow, size: usize, count: usize) -> Vec<Vec<u8>> {
    let pattern = flow.pattern(size).unwrap();
    let mut walk = Walk::new(7);
    let frame = |i: usize| {
        let mut frame = pattern.frame().to_vec();
        // What a recycled page may hold.
        frame[..pattern.head()].fill(0xee);
        pattern.write(&mut walk, 1_000 + i as u64, &mut frame);
        frame
    };
    (0..count).map(frame).collect()
}

/// Reads a frame strictly, checks all sums, and returns source and destination (ARP: sender and target).
#[track_caller]
fn judge(frame: &[u8]) -> (IpAddr, IpAddr) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (source, destination): (IpAddr, IpAddr) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum, "IPv4 header");
            (header.source.into(), header.destination.into())
        }
        NetSlice::Ipv6(ip) => (ip.header().source_addr().into(), ip.header().destination_addr().into()),
        NetSlice::Arp(arp) => {
            let address = |bytes: &[u8]| IpAddr::from(<[u8; 4]>::try_from(bytes).unwrap());
            return (address(arp.sender_protocol_addr()), address(arp.target_protocol_addr()));
        }
    };
    match (&packet.transport, source, destination) {
        (Some(TransportSlice::Udp(udp)), IpAddr::V4(a), IpAddr::V4(b)) => {
            let sum = udp.to_header().calc_checksum_ipv4_raw(a.octets(), b.octets(), udp.payload());
            assert_eq!(sum.unwrap(), udp.checksum());
        }
        (Some(TransportSlice::Udp(udp)), IpAddr::V6(a), IpAddr::V6(b)) => {
            let sum = udp.to_header().calc_checksum_ipv6_raw(a.octets(), b.octets(), udp.payload());
            assert_eq!(sum.unwrap(), udp.checksum());
        }
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V4(a), IpAddr::V4(b)) => {
            assert_eq!(tcp.calc_checksum_ipv4(a.octets(), b.octets()).unwrap(), tcp.checksum());
            assert!(tcp.syn() && !tcp.ack());
        }
        (Some(TransportSlice::Tcp(tcp)), IpAddr::V6(a), IpAddr::V6(b)) => {
            assert_eq!(tcp.calc_checksum_ipv6(a.octets(), b.octets()).unwrap(), tcp.checksum());
        }
        (Some(TransportSlice::Icmpv6(icmp)), IpAddr::V6(a), IpAddr::V6(b)) => {
            assert!(icmp.is_checksum_valid(a.octets(), b.octets()));
        }
        // Its sum covers the payload, without pseudo header.
        (Some(TransportSlice::Igmp(_)), ..) => {
            let Some(NetSlice::Ipv4(ip)) = &packet.net else { unreachable!() };
            assert_eq!(ip.payload().ip_number.0, 2);
            assert_eq!(Sum16BitWords::new().add_slice(ip.payload().payload).ones_complement(), 0, "IGMP");
        }
        other => panic!("{other:?}"),
    }
    (source, destination)
}

#[test]
fn every_kind_with_every_tag() {
    let tag = Span { first: 100, count: 2, random: false };
    for kind in KINDS {
        for v6 in kind.v6().map_or(vec![false, true], |v6| vec![v6]) {
            for tags in [vec![], vec![tag], vec![tag, Span::one(7)]] {
                for size in [100, 101, 590, 1514, 9000] {
                    let flow = Flow { tags: tags.clone(), ..flow(kind, v6) };
                    for frame in frames(&flow, size, 30) {
                        assert_eq!(frame.len(), size);
                        judge(&frame);
                        let link = SlicedPacket::from_ethernet(&frame).unwrap();
                        assert_eq!(link.link_exts.len(), tags.len());
                    }
                }
            }
        }
    }
}

#[test]
fn the_smallest_frames_have_a_stamp() {
    let flow = flow(Kind::Udp, false);
    for (i, frame) in frames(&flow, 60, 100).iter().enumerate() {
        judge(frame);
        let i = i as u64;
        assert_eq!(Stamp::find(frame), Some(Stamp { stream: 3, sequence: i, time: 1_000 + i }));
    }
    for frame in frames(&Flow { stream: None, ..flow }, 60, 10) {
        judge(&frame);
        assert_eq!(Stamp::find(&frame), None);
    }
}

#[test]
fn the_smallest_size() {
    let tags = vec![Span::one(1); 2];
    assert_eq!(flow(Kind::Udp, false).smallest(), 60);
    assert_eq!(flow(Kind::Udp, true).smallest(), 80);
    assert_eq!(Flow { tags: tags.clone(), ..flow(Kind::Udp, true) }.smallest(), 88);
    assert_eq!(flow(Kind::Tcp, true).smallest(), 74);
    // Control messages are longer than asked for where they must be.
    assert_eq!(flow(Kind::Nd, true).pattern(60).unwrap().size(), 86);
    assert_eq!(Flow { tags, ..flow(Kind::Mld, true) }.pattern(60).unwrap().size(), 98);
}

#[test]
fn a_short_syn_is_padded_and_a_long_one_stamped() {
    let flow = flow(Kind::Tcp, false);
    assert!(frames(&flow, 60, 5).iter().all(|frame| stamp::payload(frame) == Some(&[])));
    assert!(frames(&flow, 72, 5).iter().all(|frame| Stamp::find(frame).is_some()));
}

#[test]
fn ranges_turn_like_an_odometer() {
    let flow = flow(Kind::Arp, false);
    let seen: Vec<_> = frames(&flow, 60, 13).iter().map(|frame| judge(frame)).collect();
    assert_eq!(flow.pattern(60).unwrap().variety(), 12);
    assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), 12);
    assert_eq!(seen[0], seen[12]);
    assert_eq!(seen[0], ("10.1.0.0".parse().unwrap(), "10.2.0.254".parse().unwrap()));
    assert_eq!(seen[3], ("10.1.0.0".parse().unwrap(), "10.2.1.1".parse().unwrap()));
    assert_eq!(seen[4], ("10.1.0.1".parse().unwrap(), "10.2.0.254".parse().unwrap()));
}

#[test]
fn threads_begin_apart() {
    let pattern = flow(Kind::Arp, false).pattern(60).unwrap();
    let begin = |share| Walk::new(1).share(&pattern, share, 4).positions()[0];
    assert_eq!([begin(0), begin(1), begin(2), begin(3)], [0, 1, 2, 3]);
}

#[test]
fn groups_have_their_mac_addresses() {
    for frame in frames(&flow(Kind::Igmp2, false), 60, 4) {
        let (_, group) = judge(&frame);
        let IpAddr::V4(group) = group else { panic!() };
        let [_, b, c, d] = group.octets();
        assert_eq!(frame[..6], [1, 0, 0x5e, b & 0x7f, c, d]);
    }
    for frame in frames(&flow(Kind::Mld1, true), 90, 4) {
        let (_, IpAddr::V6(group)) = judge(&frame) else { panic!() };
        assert_eq!(frame[..6], [&[0x33, 0x33], &group.octets()[12..]].concat());
    }
    for frame in frames(&flow(Kind::Nd, true), 90, 4) {
        let (_, IpAddr::V6(group)) = judge(&frame) else { panic!() };
        // The target's end is that of the group and its MAC address.
        let target = Ipv6Addr::from(<[u8; 16]>::try_from(&frame[62..78]).unwrap());
        assert_eq!(group.octets()[12], 0xff);
        assert_eq!(group.octets()[13..], target.octets()[13..]);
        assert_eq!(frame[..6], [&[0x33, 0x33], &group.octets()[12..]].concat());
    }
    let multicast = Flow { destination: addresses("239.1.1.1-239.1.1.3"), ..flow(Kind::Udp, false) };
    assert_eq!(frames(&multicast, 60, 3)[2][..6], [1, 0, 0x5e, 1, 1, 3]);
}

#[test]
fn what_cannot_be_is_refused() {
    let udp = flow(Kind::Udp, false);
    for size in [0, 59, 9001, usize::MAX] {
        assert_eq!(udp.pattern(size).unwrap_err(), Error::Size(size));
    }
    let short = flow(Kind::Udp, true).pattern(60).unwrap_err();
    assert!(matches!(short, Error::Pattern(pattern::Error::Short { size: 60, needed: 62 })), "{short}");
    let mixed = Flow { source: addresses("::1"), ..udp.clone() };
    assert!(matches!(mixed.pattern(60), Err(Error::Family(..))));
    let none = Flow { kind: Kind::Igmp, ..udp.clone() };
    assert!(matches!(none.pattern(60), Err(Error::Group(..))));
    let tags = Flow { tags: vec![Span::one(1); 3], ..udp };
    assert_eq!(tags.pattern(60).unwrap_err(), Error::Tags(3));
}

fn span(most: u32) -> impl Strategy<Value = Span> {
    (0..=most, any::<bool>())
        .prop_flat_map(move |(first, random)| {
            (Just(first), 1..=(most - first).saturating_add(1), Just(random))
        })
        .prop_map(|(first, count, random)| Span { first, count, random })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any ranges: every sum right, every value in its range, and the same seed the same frames.
    #[test]
    fn any_ranges(
        hosts in (span(u32::MAX - 1), span(u32::MAX - 1)),
        ports in (span(65535), span(65535)),
        tags in proptest::collection::vec(span(4094), 0..3),
        v6: bool, tcp: bool, size in 110..300usize,
    ) {
        let host = |span: Span| Addresses {
            first: if v6 {
                Ipv6Addr::from((0x2001_0db8 << 96) | u128::from(span.first)).into()
            } else {
                span.first.to_be_bytes().into()
            },
            span,
        };
        let flow = Flow {
            kind: if tcp { Kind::Tcp } else { Kind::Udp },
            macs: ([2; 6], [4; 6]),
            tags,
            source: host(hosts.0),
            destination: host(hosts.1),
            ports,
            ttl: 9,
            stream: Some(0),
        };
        let made = frames(&flow, size, 20);
        prop_assert_eq!(&made, &frames(&flow, size, 20));
        for frame in &made {
            let (source, destination) = judge(frame);
            for (address, span) in [(source, hosts.0), (destination, hosts.1)] {
                let low = u128::from(span.first)..u128::from(span.first) + u128::from(span.count);
                let value = match address {
                    IpAddr::V4(address) => u32::from(address).into(),
                    IpAddr::V6(address) => u128::from(address) & 0xffff_ffff,
                };
                prop_assert!(low.contains(&value));
            }
        }
    }
}
