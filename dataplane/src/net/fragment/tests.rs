use proptest::prelude::*;

use super::*;
use crate::net::{mapped, parse::parse_ip, testing::*};

#[test]
fn what_fits_is_not_cut() {
    for (v6, header) in [(false, 20), (true, 40)] {
        let one: Vec<_> = Pieces::new(v6, 1500 - header, 1500, false).unwrap().collect();
        assert_eq!(one, [Piece { offset: 0, len: 1500 - header, more: false }]);
        let two = Pieces::new(v6, 1500 - header + 1, 1500, false).unwrap();
        assert!(two.is_fragmented());
        assert_eq!(two.count(), 2);
        assert_eq!(Pieces::new(v6, 1500 - header + 1, 1500, true).err(), Some(Drop::TxTooBig));
        assert!(Pieces::new(v6, 1500 - header, 1500, true).is_ok());
    }
    assert_eq!(Pieces::new(false, 0, 1500, false).unwrap().count(), 1);
}

#[test]
fn limits() {
    assert_eq!(Pieces::new(false, 65516, 1500, false).err(), Some(Drop::TxLength));
    assert_eq!(Pieces::new(true, 65536, 1500, false).err(), Some(Drop::TxLength));
    assert_eq!(Pieces::new(false, 65515, 1500, false).unwrap().count(), 65515usize.div_ceil(1480));
    assert_eq!(Pieces::new(true, 65535, 1280, false).unwrap().count(), 65535usize.div_ceil(1232));
    assert_eq!(Pieces::new(false, 65515, 68, false).unwrap().count(), 65515usize.div_ceil(48));
    assert_eq!(Pieces::new(false, 100, 27, false).err(), Some(Drop::TxTooBig));
    assert_eq!(Pieces::new(false, 100, 0, false).err(), Some(Drop::TxTooBig));
}

#[test]
fn identifications_differ() {
    let mut ids = Ids::new(Key::random());
    let (a, b) = (mapped([10, 0, 0, 1]), mapped([10, 0, 0, 2]));
    let mut seen: Vec<_> = (0..65536).map(|_| ids.next(&a, &b) & 0xffff).collect();
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 65536, "RFC 6864: no repetition before all were used");
    let mut other = Ids::new(Key::fixed(1));
    let mut third = Ids::new(Key::fixed(2));
    assert_ne!(other.next(&a, &b), third.next(&a, &b), "the start is secret");
    assert_ne!(other.next(&a, &b).wrapping_add(1), other.next(&b, &a), "and another for each pair");
}

/// All pieces of `packet` for `mtu`.
fn cut(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, Drop> {
    let parsed = parse_ip(packet).unwrap();
    let mut cutter = Refragment::new(packet, &parsed, mtu, 0x0102_0304)?;
    let mut all = Vec::new();
    let mut out = vec![0; 65535];
    while let Some(len) = cutter.write_next(&mut out) {
        let len = len.unwrap();
        assert!(len <= mtu, "{len} > {mtu}");
        all.push(out[..len].to_vec());
    }
    Ok(all)
}

#[test]
fn ipv4_options_without_the_copied_flag_go_first_only() {
    // Record route (7, not copied), router alert (148, copied), end of options.
    let options = [7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0];
    let data: Vec<u8> = (0..2000u32).map(|n| n.to_le_bytes()[0]).collect();
    let pieces = cut(&v4_packet(&options, 77, 0, 17, &data), 596).unwrap();
    assert_eq!(pieces.len(), 4);
    for (i, piece) in pieces.iter().enumerate() {
        let parsed = parse_ip(piece).unwrap();
        let expected: &[u8] = if i == 0 { &options } else { &[1, 1, 1, 1, 1, 1, 1, 148, 4, 0, 0, 0] };
        assert_eq!(&piece[20..32], expected);
        let fragment = parsed.fragment.unwrap();
        assert_eq!((fragment.id, fragment.more), (77, i < 3));
        let at = usize::from(fragment.offset);
        assert_eq!(&piece[32..], &data[at..at + piece.len() - 32]);
    }
}

#[test]
fn a_fragment_is_cut_again() {
    let pieces = cut(&v4_packet(&[], 5, 0x2000 | 100, 17, &[3; 160]), 100).unwrap();
    let fields: Vec<_> =
        pieces.iter().map(|p| parse_ip(p).unwrap().fragment.map(|f| (f.offset, f.more)).unwrap()).collect();
    assert_eq!(fields, [(800, true), (880, true)]);
    assert_eq!(cut(&v4_packet(&[], 5, 0x4000, 17, &[3; 160]), 100).err(), Some(Drop::TxTooBig));
}

#[test]
fn ipv6_repeats_the_unfragmentable_part() {
    let hop = [60, 0, 5, 2, 0, 0, 1, 0];
    let destination = [43, 0, 1, 4, 0, 0, 0, 0];
    let routing = [60, 0, 0, 0, 0, 0, 0, 0];
    let last = [17, 0, 1, 4, 0, 0, 0, 0];
    let packet = v6_packet(0, &[&hop[..], &destination, &routing, &last, &[8; 3000]].concat());
    let pieces = cut(&packet, 1280).unwrap();
    assert_eq!(pieces.len(), 3);
    let mut data = Vec::new();
    for piece in &pieces {
        let parsed = parse_ip(piece).unwrap();
        let fragment = parsed.fragment.unwrap();
        // The last destination options are the fragmentable part's first header.
        assert_eq!((fragment.header, fragment.announced_at, parsed.protocol), (64, 56, 60));
        assert_eq!(fragment.id, 0x0102_0304);
        assert_eq!(usize::from(fragment.offset), data.len());
        data.extend_from_slice(&piece[72..]);
    }
    assert_eq!(data, &packet[64..]);
    assert_eq!(cut(&pieces[0], 100).err(), Some(Drop::TxTooBig), "only the source fragments IPv6");
}

#[test]
fn too_small_buffers_and_mtus() {
    let packet = v4_packet(&[], 5, 0, 17, &[3; 160]);
    let parsed = parse_ip(&packet).unwrap();
    assert_eq!(Refragment::new(&packet, &parsed, 27, 0).err(), Some(Drop::TxTooBig));
    let mut cutter = Refragment::new(&packet, &parsed, 100, 0).unwrap();
    assert_eq!(cutter.write_next(&mut [0; 50]), Some(Err(Drop::TxLength)));
    assert_eq!(cutter.write_next(&mut [0; 100]), Some(Ok(100)));
    assert_eq!(cutter.write_next(&mut [0; 100]), None);
}

proptest! {
    #[test]
    fn pieces_cover_a_datagram_exactly(v6: bool, length in 0usize..65515, mtu in 68usize..9000) {
        let mut at = 0;
        let header = if v6 { 48 } else { 20 };
        let mut last = true;
        for piece in Pieces::new(v6, length, mtu, false).unwrap() {
            prop_assert_eq!(piece.offset, at);
            prop_assert_eq!(piece.offset % 8, 0);
            prop_assert!(!piece.more || piece.len % 8 == 0 && piece.len > 0);
            if piece.more || piece.offset > 0 {
                prop_assert!(header + piece.len <= mtu);
            }
            at += piece.len;
            last = piece.more;
        }
        prop_assert!(!last);
        prop_assert_eq!(at, length);
    }
}
