use etherparse::{LaxNetSlice, NetSlice, SlicedPacket, TransportSlice, VlanSlice};
use proptest::prelude::*;

use super::*;
use crate::net::{fragment::Pieces, parse, testing::*};

fn link(outer: Option<u16>, inner: Option<u16>) -> Link {
    Link { src_mac: OUR_MAC, dst_mac: PEER_MAC, vlan: Vlan::new(outer, inner).unwrap() }
}

fn ip(v6: bool) -> Ip {
    let (src, dst) = if v6 { (OUR_V6, PEER_V6) } else { (our_v4(), peer_v4()) };
    Ip { src, dst, protocol: 17, ttl: 64, tos: 0xb9, dont_fragment: false, id: 0xabcd, flow_label: 0x12345 }
}

/// A frame as a worker makes it: the payload first, then the headers in front.
fn frame(link: &Link, ip: &Ip, payload: &[u8]) -> Vec<u8> {
    let head = headers_len(link.vlan, !is_v4(&ip.dst));
    let mut out = vec![0xa5; head + payload.len()];
    out[head..].copy_from_slice(payload);
    let n = udp_frame(&mut out, link, ip, 53, 4000, payload.len(), checksum::sum(payload)).unwrap();
    assert_eq!(n, head);
    out
}

fn check(link: &Link, ip: &Ip, payload: &[u8]) {
    let out = frame(link, ip, payload);
    let sliced = SlicedPacket::from_ethernet(&out).unwrap();
    let vids = match sliced.vlan() {
        None => (None, None),
        Some(VlanSlice::SingleVlan(v)) => {
            let id = Some(v.vlan_identifier().value());
            if out[12..14] == [0x88, 0xa8] { (id, None) } else { (None, id) }
        }
        Some(VlanSlice::DoubleVlan(v)) => {
            (Some(v.outer.vlan_identifier().value()), Some(v.inner.vlan_identifier().value()))
        }
    };
    assert_eq!(vids, (link.vlan.outer(), link.vlan.inner()));
    let Some(TransportSlice::Udp(udp)) = sliced.transport else { panic!() };
    assert_eq!((udp.source_port(), udp.destination_port()), (53, 4000));
    assert_eq!(udp.payload(), payload);
    match sliced.net.unwrap() {
        NetSlice::Ipv4(slice) => {
            let header = slice.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(u8::from(header.dscp) << 2 | header.ecn.value(), ip.tos);
            assert_eq!((header.time_to_live, header.dont_fragment), (64, ip.dont_fragment));
            assert_eq!(header.identification, if ip.dont_fragment { 0 } else { 0xabcd });
            let right = udp.to_header().calc_checksum_ipv4(&header, payload).unwrap();
            assert_eq!(udp.checksum(), right);
        }
        NetSlice::Ipv6(slice) => {
            let header = slice.header().to_header();
            assert_eq!((header.hop_limit, header.traffic_class), (64, ip.tos));
            assert_eq!(header.flow_label.value(), ip.flow_label);
            let right = udp.to_header().calc_checksum_ipv6(&header, payload).unwrap();
            assert_eq!(udp.checksum(), right);
        }
        other => panic!("{other:?}"),
    }
    // And ours reads it.
    let packet = parse::parse(&out).unwrap();
    let view = parse::udp(&out, &packet).unwrap();
    view.verify(checksum::sum(payload)).unwrap();
    assert_eq!((packet.vlan, packet.src, packet.dst, packet.tos), (link.vlan, ip.src, ip.dst, ip.tos));
}

#[test]
fn etherparse_reads_our_frames() {
    for v6 in [false, true] {
        for (outer, inner) in [(None, None), (None, Some(7)), (Some(9), None), (Some(4094), Some(1))] {
            for len in [0, 1, 2, 63, 1400] {
                check(&link(outer, inner), &ip(v6), &vec![0x5a; len]);
            }
        }
    }
    check(&link(None, None), &Ip { dont_fragment: true, ..ip(false) }, b"df");
}

#[test]
fn a_sum_of_zero_is_sent_as_ones() {
    // Found by search: these two bytes make the UDP checksum come out as zero.
    let (link, ip) = (link(None, None), ip(true));
    let zero = (0..=0xffffu16).find(|n| {
        let out = frame(&link, &ip, &n.to_be_bytes());
        let sum = checksum::sum(&out[54..]) + checksum::pseudo(&ip.src, &ip.dst, 17, 10);
        assert!(checksum::is_valid(sum));
        out[60..62] == [0xff, 0xff]
    });
    assert!(zero.is_some());
}

#[test]
fn no_room_and_no_sense() {
    let (l, i) = (link(Some(1), Some(2)), ip(true));
    for len in 0..headers_len(l.vlan, true) {
        assert_eq!(udp_frame(&mut vec![0; len], &l, &i, 1, 2, 0, 0), Err(Drop::TxLength), "{len}");
    }
    let mixed = Ip { dst: peer_v4(), ..i };
    assert_eq!(udp_frame(&mut [0; 100], &l, &mixed, 1, 2, 0, 0), Err(Drop::TxAddress));
    assert_eq!(udp_frame(&mut [0; 100], &l, &ip(false), 1, 2, 65508, 0), Err(Drop::TxLength));
    assert_eq!(udp_frame(&mut [0; 100], &l, &i, 1, 2, 65528, 0), Err(Drop::TxLength));
    assert_eq!(headers_len(l.vlan, true) + FRAGMENT_LEN, MAX_HEADERS);
}

#[test]
fn pieces_carry_the_fragment_fields() {
    for v6 in [false, true] {
        let ip = ip(v6);
        let mut total = 0;
        for piece in Pieces::new(v6, 4008, 1500, false).unwrap() {
            let mut out = vec![0; MAX_HEADERS + piece.len];
            let head = piece_frame(&mut out, &link(None, None), &ip, &piece).unwrap();
            out.truncate(head + piece.len);
            assert!(out.len() <= 14 + 1500);
            let sliced = etherparse::LaxSlicedPacket::from_ethernet(&out).unwrap();
            let net = sliced.net.unwrap();
            let (payload, fragmented) = match &net {
                LaxNetSlice::Ipv4(s) => {
                    let h = s.header();
                    assert_eq!(h.to_header().calc_header_checksum(), h.header_checksum());
                    assert_eq!(usize::from(h.fragments_offset().value()) * 8, piece.offset);
                    assert_eq!((h.more_fragments(), h.identification()), (piece.more, 0xabcd));
                    (s.payload().payload, s.is_payload_fragmented())
                }
                LaxNetSlice::Ipv6(s) => (s.payload().payload, s.is_payload_fragmented()),
                other => panic!("{other:?}"),
            };
            assert!(fragmented);
            assert_eq!(payload.len(), piece.len);
            let fragment = parse::parse(&out).unwrap().fragment.unwrap();
            assert_eq!((usize::from(fragment.offset), fragment.more), (piece.offset, piece.more));
            assert_eq!(fragment.id, ip.id);
            total += piece.len;
        }
        assert_eq!(total, 4008);
    }
}

proptest! {
    #[test]
    fn any_datagram(v6: bool, outer in proptest::option::of(1u16..4095), inner in proptest::option::of(1u16..4095),
                    payload in proptest::collection::vec(any::<u8>(), 0..2000)) {
        check(&link(outer, inner), &ip(v6), &payload);
    }
}
