use super::*;
use crate::net::testing::*;

/// The test packets go from PEER to OUR; so the compartment here owns PEER.
fn ours(a: &Address) -> bool {
    *a == peer_v4() || *a == PEER_V6
}

#[test]
fn ordinary_packets_pass() {
    for (protocol, data) in
        [(17, &[0; 8][..]), (6, &[0; 20]), (1, &[8, 0, 0, 0]), (132, &[0; 12]), (50, &[0; 8])]
    {
        let packet = v4_packet(&[], 1, 0x4000, protocol, data);
        assert_eq!(validate(&packet, ours).unwrap().protocol, protocol);
    }
    let packet = validate(&v6_packet(60, &[58, 0, 1, 4, 0, 0, 0, 0, 128, 0, 0, 0]), ours).unwrap();
    assert_eq!((packet.protocol, packet.l4, packet.dst), (58, 48, OUR_V6));
    // Bytes behind the packet are not sent.
    let mut padded = v4_packet(&[], 1, 0, 17, &[0; 8]);
    padded.extend_from_slice(&[9; 10]);
    assert_eq!(validate(&padded, ours).unwrap().end, 28);
}

#[test]
fn foreign_sources() {
    assert_eq!(validate(&v4_packet(&[], 1, 0, 17, &[0; 8]), |_| false), Err(Drop::TxSource));
    assert_eq!(validate(&v6_packet(17, &[0; 8]), |_| false), Err(Drop::TxSource));
    // An IPv6 packet cannot borrow an IPv4 address's ownership.
    let mut packet = v6_packet(17, &[0; 8]);
    packet[8..24].copy_from_slice(&peer_v4());
    assert_eq!(validate(&packet, ours), Err(Drop::TxMalformed));
}

#[test]
fn what_only_the_host_speaks() {
    for kind in [5, 9, 10] {
        assert_eq!(validate(&v4_packet(&[], 1, 0, 1, &[kind, 0, 0, 0]), ours), Err(Drop::TxProtocol));
    }
    for kind in (130..=138).chain(141..=143).chain([148, 149, 151, 152, 153, 157, 158]) {
        let hop_by_hop = [58, 0, 5, 2, 0, 0, 1, 0, kind, 0, 0, 0];
        assert_eq!(validate(&v6_packet(58, &[kind, 0, 0, 0]), ours), Err(Drop::TxProtocol), "{kind}");
        assert_eq!(validate(&v6_packet(0, &hop_by_hop), ours), Err(Drop::TxProtocol), "{kind}");
        // Behind an atomic fragment header and in a first fragment.
        for more in [0, 1] {
            let fragment = [58, 0, 0, more, 0, 0, 0, 1, kind, 0, 0, 0, 0, 0, 0, 0];
            assert_eq!(validate(&v6_packet(44, &fragment), ours), Err(Drop::TxProtocol), "{kind}");
        }
    }
    assert_eq!(validate(&v4_packet(&[], 1, 0, 2, &[0x16, 0, 0, 0]), ours), Err(Drop::TxProtocol));
    assert_eq!(validate(&v6_packet(2, &[0; 8]), ours), Err(Drop::TxProtocol));
    assert_eq!(validate(&v4_packet(&[], 1, 0, 58, &[128, 0, 0, 0]), ours), Err(Drop::TxProtocol));
    // A message without a type says nothing that could be checked.
    assert_eq!(validate(&v6_packet(58, &[]), ours), Err(Drop::TxProtocol));
}

#[test]
fn headers_hidden_in_fragments() {
    for next in [0, 43, 44, 51, 60] {
        for offset in [0, 8] {
            let fragment = [next, 0, 0, offset | 1, 0, 0, 0, 1, 58, 0, 1, 4, 0, 0, 0, 0];
            assert!(validate(&v6_packet(44, &fragment), ours).is_err(), "{next}");
        }
    }
    let later = [58, 0, 0, 8, 0, 0, 0, 1, 135, 0, 0, 0, 0, 0, 0, 0];
    assert!(validate(&v6_packet(44, &later), ours).is_ok(), "its type was in the first fragment");
}

#[test]
fn malformed_packets() {
    for bad in [&[][..], &[0x45], &[0x60; 39], &[0x50; 40], &[0; 60]] {
        assert_eq!(validate(bad, |_| true), Err(Drop::TxMalformed));
    }
    let mut checksum = v4_packet(&[], 1, 0, 17, &[0; 8]);
    checksum[10] ^= 1;
    assert_eq!(validate(&checksum, ours), Err(Drop::TxMalformed));
    let route = v4_packet(&[131, 7, 4, 10, 0, 0, 1, 0], 1, 0, 17, &[0; 8]);
    assert_eq!(validate(&route, ours), Err(Drop::TxMalformed));
}

proptest::proptest! {
    #[test]
    fn nothing_central_gets_out(first: u8, rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
        let packet = v6_packet(first, &rest);
        if let Ok(view) = validate(&packet, ours) {
            let first_part = view.fragment.is_none_or(|f| f.offset == 0);
            assert!(view.protocol != 58 || !first_part || !v6_control(packet[view.l4]));
        }
    }
}
