use proptest::prelude::*;

use super::*;
use crate::net::{
    build::{self, Ip, Link},
    fragment::{Pieces, Refragment},
    parse::{parse, parse_ip, udp},
    testing::*,
};

const SECOND: u64 = 1_000_000_000;
const SLOT: u32 = 3;

fn small() -> Config {
    Config { slots: 16, bytes_per_slot: 256 << 10, bytes_total: 1 << 20, ..Config::default() }
}

fn reassembler() -> Reassembler {
    Reassembler::new(small(), hash::Key::random())
}

/// A frame with a fragment: `offset` in bytes.
fn fragment(v6: bool, id: u16, offset: usize, more: bool, data: &[u8]) -> Vec<u8> {
    assert_eq!(offset % 8, 0);
    if v6 {
        let [a, b] = (low16(offset) | u16::from(more)).to_be_bytes();
        let [i, j] = id.to_be_bytes();
        in_frame(&v6_packet(44, &[&[17, 0, a, b, 0, 0, i, j][..], data].concat()))
    } else {
        let word = low16(offset / 8) | if more { 0x2000 } else { 0 };
        in_frame(&v4_packet(&[], id, word, 17, data))
    }
}

fn low16(n: usize) -> u16 {
    u16::try_from(n).unwrap()
}

/// Pushes a frame; the finished packet if there is one. Nobody else may suffer.
fn push(r: &mut Reassembler, now: u64, frame: &[u8]) -> Result<Option<Vec<u8>>, Drop> {
    let packet = parse(frame).unwrap();
    let lost = |_: u32, d: Drop| panic!("{d}");
    r.push(SLOT, 2, now, frame, &packet, lost).map(|d| d.map(|d| d.packet.to_vec()))
}

/// All memory is back where it was at the start.
fn assert_empty(r: &Reassembler) {
    let fresh = Reassembler::new(r.config, hash::Key::fixed(0));
    assert_eq!(r.pool.available(), fresh.pool.available());
    assert!((0..r.config.slots).all(|slot| r.bytes(slot) == 0));
    assert_eq!(r.next_expiry(), None);
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(pattern).collect()
}

/// A UDP datagram to us, cut by our own fragmentation for `mtu`.
fn cut_datagram(v6: bool, payload: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let (src, dst) = if v6 { (PEER_V6, OUR_V6) } else { (peer_v4(), our_v4()) };
    let mut l4 = vec![0; 8 + payload.len()];
    l4[8..].copy_from_slice(payload);
    build::write_udp(&mut l4, &src, &dst, 4000, 53, payload.len(), checksum::sum(payload)).unwrap();
    let ip = Ip { src, dst, protocol: 17, ttl: 9, tos: 0, dont_fragment: false, id: 0x77, flow_label: 0 };
    let link = Link { src_mac: PEER_MAC, dst_mac: OUR_MAC, vlan: Vlan::NONE };
    let one = |piece: crate::net::fragment::Piece| {
        let mut out = vec![0; build::MAX_HEADERS + piece.len];
        let head = build::piece_frame(&mut out, &link, &ip, &piece).unwrap();
        out[head..head + piece.len].copy_from_slice(&l4[piece.offset..piece.offset + piece.len]);
        out.truncate(head + piece.len);
        out
    };
    Pieces::new(v6, l4.len(), mtu, false).unwrap().map(one).collect()
}

fn assert_datagram(packet: &[u8], payload: &[u8]) {
    let view = parse_ip(packet).unwrap();
    assert_eq!((view.end, view.fragment), (packet.len(), None));
    let udp = udp(packet, &view).unwrap();
    assert_eq!((udp.src_port, udp.dst_port), (4000, 53));
    udp.verify(checksum::sum(payload)).unwrap();
    assert_eq!(&packet[udp.payload], payload);
}

#[test]
fn in_order_and_reverse() {
    for v6 in [false, true] {
        for (len, mtu) in [(3000, 1500), (65507, 1500), (9000, 1280), (20000, 9000), (60000, 9000)] {
            let payload = bytes(len);
            let mut frames = cut_datagram(v6, &payload, mtu);
            for _ in 0..2 {
                let mut r = reassembler();
                let (last, first) = frames.split_last().unwrap();
                for frame in first {
                    assert_eq!(push(&mut r, 0, frame), Ok(None));
                }
                assert!(r.bytes(SLOT) > len / 2 && r.bytes(SLOT) < small().bytes_per_slot);
                assert_datagram(&push(&mut r, 0, last).unwrap().unwrap(), &payload);
                assert_empty(&r);
                frames.reverse();
            }
        }
    }
}

#[test]
fn what_is_known_of_a_finished_datagram() {
    let mut r = reassembler();
    let frames = cut_datagram(false, &bytes(2000), 1000);
    push(&mut r, 0, &frames[2]).unwrap();
    push(&mut r, 0, &frames[0]).unwrap();
    let packet = parse(&frames[1]).unwrap();
    let d = r.push(SLOT, 2, 0, &frames[1], &packet, |_, _| ()).unwrap().unwrap();
    assert_eq!((d.largest, d.fragments, d.id, d.ifindex), (996, 3, 0x77, 2));
    assert_eq!((d.src_mac, d.dst_mac, d.vlan), (PEER_MAC, OUR_MAC, Vlan::NONE));
}

#[test]
fn what_is_not_claimed_can_be_cut_again() {
    for v6 in [false, true] {
        let payload = bytes(5000);
        let mut r = reassembler();
        let mut whole = None;
        for frame in cut_datagram(v6, &payload, 1500) {
            whole = push(&mut r, 0, &frame).unwrap();
        }
        let whole = whole.unwrap();
        let view = parse_ip(&whole).unwrap();
        let mut cutter = Refragment::new(&whole, &view, 1400, 5).unwrap();
        let mut out = vec![0; 1400];
        let mut again = None;
        while let Some(len) = cutter.write_next(&mut out) {
            again = push(&mut r, 0, &in_frame(&out[..len.unwrap()])).unwrap();
        }
        assert_eq!(again.unwrap(), whole);
    }
}

#[test]
fn keys_keep_datagrams_apart() {
    let mut r = reassembler();
    let base = fragment(false, 1, 0, true, &[1; 8]);
    push(&mut r, 0, &base).unwrap();
    let last = fragment(false, 1, 8, false, &[2; 8]);
    let view = parse(&last).unwrap();
    let no = |_: u32, _: Drop| ();
    // Another compartment, device, VLAN, protocol, source, identification: none completes the first.
    assert!(r.push(SLOT + 1, 2, 0, &last, &view, no).unwrap().is_none());
    assert!(r.push(SLOT, 3, 0, &last, &view, no).unwrap().is_none());
    let tagged = Packet { vlan: Vlan::new(None, Some(5)).unwrap(), ..view };
    assert!(r.push(SLOT, 2, 0, &last, &tagged, no).unwrap().is_none());
    let tcp = Packet { protocol: 6, ..view };
    assert!(r.push(SLOT, 2, 0, &last, &tcp, no).unwrap().is_none());
    let other = Packet { src: our_v4(), ..view };
    assert!(r.push(SLOT, 2, 0, &last, &other, no).unwrap().is_none());
    assert_eq!(push(&mut r, 0, &fragment(false, 2, 8, false, &[2; 8])), Ok(None));
    assert!(push(&mut r, 0, &last).unwrap().is_some());
    // A compartment that is not known has no memory.
    assert_eq!(r.push(16, 2, 0, &last, &view, no).err(), Some(Drop::FragmentMemory));
    assert_eq!(
        r.push(SLOT, 2, 0, &last, &parse(&received(false, Tags::None, b"")).unwrap(), no).err(),
        Some(Drop::Protocol)
    );
}

/// Pushes fragments `(offset, len, more)` of one datagram, contents by offset, and returns the last result.
fn sequence(v6: bool, parts: &[(usize, usize, bool)]) -> (Reassembler, Result<Option<Vec<u8>>, Drop>) {
    let all = bytes(70000);
    let mut r = reassembler();
    let mut result = Ok(None);
    for &(offset, len, more) in parts {
        result = push(&mut r, 0, &fragment(v6, 1, offset, more, &all[offset..offset + len]));
    }
    (r, result)
}

#[test]
fn overlaps_kill_the_datagram() {
    let cases: &[&[(usize, usize, bool)]] = &[
        &[(0, 16, true), (8, 16, true)],     // overlaps the end
        &[(8, 16, true), (0, 16, true)],     // overlaps the start
        &[(0, 32, true), (8, 8, true)],      // within (teardrop)
        &[(8, 8, true), (0, 32, true)],      // around
        &[(0, 16, true), (0, 8, true)],      // same start, shorter
        &[(0, 8, true), (0, 16, true)],      // same start, longer
        &[(16, 8, false), (16, 8, true)],    // same range, other flag
        &[(16, 8, true), (16, 8, false)],    // and the other way round
        &[(16, 8, false), (24, 8, true)],    // beyond the end
        &[(16, 8, false), (24, 8, false)],   // two ends
        &[(24, 8, true), (8, 8, false)],     // an end before what is here
        &[(0, 3200, true), (1536, 8, true)], // at a block's boundary, inside
        &[(0, 3200, true), (0, 3192, true)], // a large one, shorter
        &[(0, 8, true), (16, 8, true), (0, 24, true)],
    ];
    for v6 in [false, true] {
        for case in cases {
            let (mut r, result) = sequence(v6, case);
            assert_eq!(result, Err(Drop::FragmentOverlap), "{case:?}");
            assert_eq!(r.pool.available(), Reassembler::new(small(), hash::Key::fixed(0)).pool.available());
            // RFC 5722: "including those not yet received".
            let all = bytes(64);
            for offset in [0, 32] {
                let rest = fragment(v6, 1, offset, offset == 0, &all[offset..offset + 32]);
                assert_eq!(push(&mut r, 29 * SECOND, &rest), Err(Drop::FragmentDead));
            }
            // Until its time is over; then the identification may come again.
            let after = 60 * SECOND;
            assert_eq!(push(&mut r, after, &fragment(v6, 1, 0, true, &all[..32])), Ok(None));
            assert!(push(&mut r, after, &fragment(v6, 1, 32, false, &all[32..])).unwrap().is_some());
            assert_empty(&r);
        }
    }
}

#[test]
fn copies_are_ignored_but_other_contents_are_an_overlap() {
    for v6 in [false, true] {
        for len in [16, 1536, 3200, 4608] {
            let (mut r, result) = sequence(v6, &[(0, len, true), (len, len, true), (0, len, true)]);
            assert_eq!(result, Err(Drop::FragmentDuplicate));
            let all = bytes(3 * len);
            assert_eq!(
                push(&mut r, 0, &fragment(v6, 1, len, true, &all[len..2 * len])),
                Err(Drop::FragmentDuplicate)
            );
            let end = fragment(v6, 1, 2 * len, false, &all[2 * len..]);
            assert!(push(&mut r, 0, &end).unwrap().is_some());
            let (mut r, _) = sequence(v6, &[(0, len, true), (len, len, true)]);
            let mut forged = all[len..2 * len].to_vec();
            *forged.last_mut().unwrap() ^= 1;
            assert_eq!(
                push(&mut r, 0, &fragment(v6, 1, len, true, &forged)),
                Err(Drop::FragmentOverlap),
                "{len}"
            );
        }
    }
}

#[test]
fn impossible_fragments() {
    for v6 in [false, true] {
        assert_eq!(sequence(v6, &[(0, 12, true)]).1, Err(Drop::FragmentLength));
        assert_eq!(sequence(v6, &[(8, 0, false)]).1, Err(Drop::FragmentLength));
        assert_eq!(sequence(v6, &[(8, 0, true)]).1, Err(Drop::FragmentLength));
        // Ping of death.
        assert_eq!(sequence(v6, &[(65528, 8, false)]).1, Err(Drop::FragmentTooBig));
        assert_eq!(sequence(v6, &[(65528, 8, true)]).1, Err(Drop::FragmentTooBig));
    }
    assert_eq!(sequence(true, &[(65528, 7, false)]).1, Ok(None));
    assert_eq!(sequence(false, &[(65512, 3, false)]).1, Ok(None));
    assert_eq!(sequence(false, &[(65512, 4, false)]).1, Err(Drop::FragmentTooBig));
    // Each fits by itself, but not with the first one's options.
    let mut r = reassembler();
    let all = bytes(65536);
    for at in (8..65512).step_by(1456) {
        let len = 1456.min(65512 - at);
        push(&mut r, 0, &fragment(false, 1, at, true, &all[at..at + len])).unwrap();
    }
    push(&mut r, 0, &fragment(false, 1, 65512, false, &all[65512..65515])).unwrap();
    let first = in_frame(&v4_packet(&[1, 1, 1, 0], 1, 0x2000, 17, &all[..8]));
    assert_eq!(push(&mut r, 0, &first), Err(Drop::FragmentTooBig));
}

#[test]
fn ipv6_headers_are_put_together_again() {
    let hop = [60, 0, 5, 2, 0, 0, 1, 0];
    let dst = [44, 0, 1, 4, 0, 0, 0, 0];
    let part = |offset: u8, more: u8, data: &[u8]| {
        let head = [17, 0, 0, offset | more, 0, 0, 0, 9];
        in_frame(&v6_packet(0, &[&hop[..], &dst, &head, data].concat()))
    };
    let mut r = reassembler();
    let udp_head = [0, 1, 0, 2, 0, 20, 1, 1];
    assert_eq!(push(&mut r, 0, &part(8, 0, &[5; 12])), Ok(None));
    let packet = push(&mut r, 0, &part(0, 1, &udp_head)).unwrap().unwrap();
    let expected = v6_packet(0, &[&hop[..], &[17, 0, 1, 4, 0, 0, 0, 0], &udp_head, &[5; 12]].concat());
    assert_eq!(packet, expected);
}

#[test]
fn rfc7112_the_first_fragment_holds_the_chain() {
    let first = |next: u8, data: &[u8]| {
        let head = [next, 0, 0, 1, 0, 0, 0, 9];
        push(&mut reassembler(), 0, &in_frame(&v6_packet(44, &[&head[..], data].concat())))
    };
    assert_eq!(first(17, &[0; 8]), Ok(None));
    assert_eq!(first(6, &[0; 16]), Err(Drop::FragmentHeader), "16 of 20 bytes of TCP");
    assert_eq!(first(6, &[0; 24]), Ok(None));
    assert_eq!(first(60, &[17, 0, 1, 4, 0, 0, 0, 0]), Err(Drop::FragmentHeader), "UDP missing");
    assert_eq!(first(60, &[[17, 0, 1, 4, 0, 0, 0, 0], [0; 8]].concat()), Ok(None));
    assert_eq!(first(60, &[17, 1, 1, 4, 0, 0, 0, 0]), Err(Drop::FragmentHeader), "options cut");
    assert_eq!(first(44, &[[17, 0, 0, 1, 0, 0, 0, 0], [0; 8]].concat()), Err(Drop::FragmentHeader));
    // Headers too long to keep: 40 + 96 bytes.
    let long = [&[44, 11, 1, 92][..], &[0; 92], &[17, 0, 0, 1, 0, 0, 0, 9], &[0; 8]].concat();
    let frame = in_frame(&v6_packet(60, &long));
    assert_eq!(push(&mut reassembler(), 0, &frame), Err(Drop::FragmentHeader));
}

#[test]
fn rfc3168_ecn() {
    const NOT: u8 = 0;
    const ECT1: u8 = 1;
    const ECT0: u8 = 2;
    const CE: u8 = 3;
    for v6 in [false, true] {
        for (first, second, result) in [
            (NOT, NOT, Some(NOT)),
            (ECT0, ECT0, Some(ECT0)),
            (CE, CE, Some(CE)),
            (ECT0, CE, Some(CE)),
            (CE, ECT1, Some(CE)),
            (NOT, CE, None),
            (CE, NOT, None),
            (ECT0, ECT1, Some(ECT0)),
        ] {
            let mut r = reassembler();
            let mut last = Ok(None);
            for (tos, offset) in [(first, 0), (second, 16)] {
                let mut frame = fragment(v6, 1, offset, offset == 0, &[1; 16]);
                if v6 {
                    frame[15] |= tos << 4;
                } else {
                    frame[15] = 0xb8 | tos;
                    fix_v4(&mut frame[14..]);
                }
                last = push(&mut r, 0, &frame);
            }
            match result {
                Some(ecn) => {
                    let tos = parse_ip(&last.unwrap().unwrap()).unwrap().tos;
                    assert_eq!(tos, if v6 { ecn } else { 0xb8 | ecn });
                }
                None => assert_eq!(last, Err(Drop::FragmentEcn)),
            }
        }
    }
}

#[test]
fn timeouts() {
    let mut r = reassembler();
    push(&mut r, 0, &fragment(false, 1, 0, true, &[1; 8])).unwrap();
    push(&mut r, SECOND, &fragment(true, 1, 0, true, &[1; 8])).unwrap();
    push(&mut r, 2 * SECOND, &fragment(false, 2, 0, true, &[1; 8])).unwrap();
    assert_eq!(r.next_expiry(), Some(30 * SECOND));
    let mut lost = Vec::new();
    r.expire(30 * SECOND - 1, 100, |slot, why| lost.push((slot, why)));
    assert_eq!(lost, []);
    r.expire(30 * SECOND, 100, |slot, why| lost.push((slot, why)));
    assert_eq!(lost, [(SLOT, Drop::FragmentTimeout)]);
    assert_eq!(r.next_expiry(), Some(32 * SECOND));
    r.expire(61 * SECOND, 1, |slot, why| lost.push((slot, why)));
    assert_eq!(lost.len(), 3);
    assert_empty(&r);
    // A fragment that comes after the time of its datagram starts a new one, also without `expire`.
    push(&mut r, 0, &fragment(false, 1, 0, true, &[1; 8])).unwrap();
    let last = fragment(false, 1, 8, false, &[1; 8]);
    let view = parse(&last).unwrap();
    let mut lost = Vec::new();
    assert!(r.push(SLOT, 2, 30 * SECOND, &last, &view, |s, w| lost.push((s, w))).unwrap().is_none());
    assert_eq!(lost, [(SLOT, Drop::FragmentTimeout)]);
    r.remove_slot(SLOT);
    assert_empty(&r);
}

#[test]
fn too_many_fragments() {
    let all = bytes(8 * 200);
    let mut r = reassembler();
    for n in 0..200 {
        let result = push(&mut r, 0, &fragment(false, 1, 8 * n, true, &all[8 * n..8 * n + 8]));
        let expected = match n {
            0..128 => Ok(None),
            128 => Err(Drop::FragmentCount),
            _ => Err(Drop::FragmentDead),
        };
        assert_eq!(result, expected, "{n}");
    }
    assert_eq!(r.bytes(SLOT), ENTRY_COST);
}

#[test]
fn a_flood_stays_within_its_budget_and_spares_the_others() {
    let mut r = reassembler();
    let payload = bytes(4000);
    let frames = cut_datagram(false, &payload, 1500);
    let victim = |r: &mut Reassembler, frame: &[u8]| {
        let view = parse(frame).unwrap();
        r.push(9, 2, 0, frame, &view, |_, _| ()).map(|d| d.map(|d| d.packet.to_vec()))
    };
    let evicted = std::cell::Cell::new(0);
    let flood = |r: &mut Reassembler, slot: u32, id: u16| {
        let frame = fragment(true, id, 0, true, &[1; 8]);
        let view = parse(&frame).unwrap();
        let _ = r.push(slot, 2, 0, &frame, &view, |slot, why| {
            assert_ne!(slot, 9, "the victim is never evicted");
            assert_eq!(why, Drop::FragmentEvicted);
            evicted.set(evicted.get() + 1);
        });
        assert!(r.bytes(slot) <= small().bytes_per_slot);
    };
    assert_eq!(victim(&mut r, &frames[0]), Ok(None));
    for id in 0..3000 {
        flood(&mut r, SLOT, id);
    }
    // Eight compartments at once want twice what there is.
    assert_eq!(victim(&mut r, &frames[1]), Ok(None));
    for id in 3000..6000u16 {
        flood(&mut r, u32::from(id % 8), id);
    }
    assert!(evicted.get() > 4000);
    assert_datagram(&victim(&mut r, &frames[2]).unwrap().unwrap(), &payload);
    // And a newcomer finds room too.
    for frame in &frames[..2] {
        assert_eq!(victim(&mut r, frame), Ok(None));
    }
    assert_datagram(&victim(&mut r, &frames[2]).unwrap().unwrap(), &payload);
    for slot in 0..16 {
        r.remove_slot(slot);
    }
    assert_empty(&r);
}

#[test]
fn no_budget_at_all() {
    let config = Config { bytes_per_slot: 1000, ..small() };
    let mut r = Reassembler::new(config, hash::Key::random());
    assert_eq!(push(&mut r, 0, &fragment(false, 1, 0, true, &[1; 8])), Err(Drop::FragmentMemory));
    assert_empty(&r);
    // Enough for one fragment only: the second one ends the datagram.
    let config = Config { bytes_per_slot: ENTRY_COST + BLOCK_COST, ..small() };
    let mut r = Reassembler::new(config, hash::Key::random());
    assert_eq!(push(&mut r, 0, &fragment(false, 1, 0, true, &[1; 8])), Ok(None));
    assert_eq!(push(&mut r, 0, &fragment(false, 1, 8, true, &[1; 8])), Err(Drop::FragmentMemory));
    assert_eq!(push(&mut r, 0, &fragment(false, 1, 8, true, &[1; 8])), Err(Drop::FragmentDead));
    assert_eq!(r.bytes(SLOT), ENTRY_COST);
}

/// The rules again, a byte at a time.
#[derive(Default)]
struct Model {
    parts: Vec<(usize, usize, bool, u8)>,
    dead: bool,
}

impl Model {
    fn push(&mut self, offset: usize, len: usize, more: bool, salt: u8) -> Result<bool, Drop> {
        if len == 0 || more && !len.is_multiple_of(8) {
            return Err(Drop::FragmentLength);
        }
        if self.dead {
            return Err(Drop::FragmentDead);
        }
        if self.parts.contains(&(offset, len, more, salt)) {
            return Err(Drop::FragmentDuplicate);
        }
        let end = offset + len;
        let overlap = self.parts.iter().any(|&(o, l, ..)| o < end && offset < o + l);
        let total = self.parts.iter().find(|p| !p.2).map(|p| p.0 + p.1);
        let behind = self.parts.iter().any(|&(o, l, ..)| o + l > end);
        if overlap || total.is_some_and(|t| end > t || !more) || (!more && behind) {
            self.dead = true;
            return Err(Drop::FragmentOverlap);
        }
        self.parts.push((offset, len, more, salt));
        let total = self.parts.iter().find(|p| !p.2).map(|p| p.0 + p.1);
        Ok(total == Some(self.parts.iter().map(|p| p.1).sum()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    /// Any fragments, colliding often: every answer is the model's.
    #[test]
    fn agrees_with_the_model(
        v6: bool,
        unit in prop_oneof![Just(8usize), Just(512), Just(1536)],
        parts in proptest::collection::vec((0usize..8, 0usize..4, any::<bool>(), 0usize..20, 0u8..8), 1..40),
    ) {
        let mut r = reassembler();
        let mut model = Model::default();
        for (offset, len, more, odd, salt) in parts {
            let salt = u8::from(salt == 0); // now and then other contents
            let offset = offset * unit;
            let len = len * unit + if odd < 2 { odd } else { 0 };
            // RFC 6946: not a fragment at all.
            if offset == 0 && !more {
                continue;
            }
            let data: Vec<u8> = (offset..offset + len).map(|n| pattern(n) ^ salt).collect();
            let got = push(&mut r, 0, &fragment(v6, 1, offset, more, &data));
            let want = model.push(offset, len, more, salt);
            prop_assert_eq!(got.as_ref().map(Option::is_some), want.as_ref().map(|b| *b));
            if let Ok(Some(packet)) = got {
                let head = if v6 { 40 } else { 20 };
                prop_assert_eq!(packet.len() - head, model.parts.iter().map(|p| p.1).sum::<usize>());
                for (offset, len, _, salt) in &model.parts {
                    let data = &packet[head + offset..head + offset + len];
                    prop_assert!(data.iter().zip(*offset..).all(|(b, n)| *b == pattern(n) ^ salt));
                }
                model = Model::default();
                assert_empty(&r);
            }
        }
        r.remove_slot(SLOT);
        assert_empty(&r);
    }

    /// Several datagrams interleaved in any order with copies: each comes out once, whole.
    #[test]
    fn any_order_with_copies(
        v6: bool,
        sizes in proptest::collection::vec(1usize..8000, 1..5),
        mtu in 576usize..2000,
        order in proptest::collection::vec(any::<u32>(), 200),
        copies in proptest::collection::vec(any::<bool>(), 200),
    ) {
        let mut all = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            let payload: Vec<u8> = bytes(size + n)[n..].to_vec();
            for mut frame in cut_datagram(v6, &payload, mtu) {
                if parse(&frame).unwrap().fragment.is_none() {
                    continue;
                }
                if v6 {
                    frame[14 + 47] = pattern(n);
                } else {
                    frame[14 + 5] = pattern(n);
                    fix_v4(&mut frame[14..]);
                }
                all.push((n, frame));
            }
        }
        let expected = all.iter().map(|(n, _)| *n).collect::<std::collections::BTreeSet<_>>();
        let mut keyed: Vec<_> = all.into_iter().zip(order).collect();
        keyed.sort_by_key(|(_, k)| *k);
        let mut r = reassembler();
        let mut out = Vec::new();
        for (((n, frame), _), copy) in keyed.into_iter().zip(copies) {
            match push(&mut r, 0, &frame).unwrap() {
                Some(packet) => {
                    assert_datagram(&packet, &bytes(sizes[n] + n)[n..]);
                    out.push(n);
                }
                None if copy => assert_eq!(push(&mut r, 0, &frame), Err(Drop::FragmentDuplicate)),
                None => {}
            }
        }
        out.sort_unstable();
        prop_assert_eq!(out, expected.into_iter().collect::<Vec<_>>());
        assert_empty(&r);
    }

    /// Frames of any content: nothing panics, nothing leaks, budgets hold.
    #[test]
    fn arbitrary_fragments(
        frames in proptest::collection::vec(
            (any::<bool>(), 0u16..4, 0u16..16, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..64), 0u64..40),
            1..60),
    ) {
        let config = Config { bytes_per_slot: 8 << 10, bytes_total: 32 << 10, ..small() };
        let mut r = Reassembler::new(config, hash::Key::random());
        let mut now = 0;
        for (v6, id, offset, more, data, pause) in frames {
            now += pause * SECOND;
            let frame = fragment(v6, id, usize::from(offset) * 8, more, &data);
            let Ok(view) = parse(&frame) else { continue };
            let slot = u32::from(id);
            if let Ok(Some(d)) = r.push(slot, 2, now, &frame, &view, |_, _| ()) {
                let _ = parse_ip(d.packet);
            }
            prop_assert!(r.bytes(slot) <= config.bytes_per_slot);
        }
        r.expire(now + 100 * SECOND, 1000, |_, _| ());
        assert_empty(&r);
    }
}
