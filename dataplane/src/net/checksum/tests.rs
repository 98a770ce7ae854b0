use proptest::prelude::*;

use super::*;
use crate::net::{mapped, testing::naive};

/// A partial as the number that the textbook computes.
fn number(partial: u32) -> u16 {
    u16::from_be_bytes(fold(partial).to_ne_bytes())
}

/// In ones' complement, zero has two forms.
fn same(a: u16, b: u16) -> bool {
    a == b || (a ^ b == 0xffff && (a == 0 || b == 0))
}

#[test]
fn rfc1071_example() {
    assert_eq!(number(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    // Section 3: the same bytes in two odd parts.
    let (a, b) = (sum(&[0x00, 0x01, 0xf2]), sum(&[0x03, 0xf4, 0xf5, 0xf6, 0xf7]));
    assert_eq!(number(combine(a, b, true)), 0xddf2);
}

#[test]
fn rfc1624_example() {
    // Section 4: the corner case that equation 4 of RFC 1141 gets wrong.
    assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn zero_udp_checksum_is_sent_as_ones() {
    assert_eq!(finish(0xffff), [0, 0]);
    assert_eq!(finish_udp(0xffff), [0xff, 0xff]);
    assert!(is_valid(0xffff) && !is_valid(0) && is_valid(2 * 0xffff));
}

#[test]
fn sums_of_the_longest_input_do_not_overflow() {
    let ones = vec![0xff; 65535];
    assert!(same(number(sum(&ones)), naive(&ones)));
    let mut copy = vec![0; ones.len()];
    // SAFETY: `copy` is as long as `ones`.
    let copied = unsafe { copy_and_sum(&ones, copy.as_mut_ptr()) };
    assert!(same(number(copied), naive(&ones)));
    assert_eq!(copy, ones);
}

/// Copies with both functions to an odd place and back: right bytes, right sum, nothing beside it touched.
fn check_copies(bytes: &[u8], shift: usize) {
    for shared in [false, true] {
        let mut out = vec![0xa5; bytes.len() + 16];
        let to = out[shift..].as_mut_ptr();
        // SAFETY: `out` has `shift` + len + some bytes, shift < 16.
        let s = unsafe {
            if shared {
                copy_and_sum_shared(bytes.as_ptr(), bytes.len(), to)
            } else {
                copy_and_sum(bytes, to)
            }
        };
        assert!(same(number(s), naive(bytes)), "shared {shared}");
        assert!(s <= 0xffff);
        assert_eq!(&out[shift..shift + bytes.len()], bytes);
        assert!(out[..shift].iter().chain(&out[shift + bytes.len()..]).all(|b| *b == 0xa5));
    }
}

#[test]
fn every_short_length() {
    let bytes: Vec<u8> = (0..=255u8).chain(0..=255).collect();
    for len in 0..300 {
        for from in 0..4 {
            let part = &bytes[from..from + len];
            assert!(same(number(sum(part)), naive(part)));
            check_copies(part, len % 16);
        }
    }
}

proptest! {
    #[test]
    fn sum_is_the_textbooks(bytes in proptest::collection::vec(any::<u8>(), 0..3000), from in 0usize..16) {
        let part = &bytes[from.min(bytes.len())..];
        prop_assert!(same(number(sum(part)), naive(part)));
        check_copies(part, from);
    }

    #[test]
    fn parts_combine_at_any_place(bytes in proptest::collection::vec(any::<u8>(), 0..500), at in 0usize..500) {
        let (a, b) = bytes.split_at(at.min(bytes.len()));
        let both = combine(sum(a), sum(b), a.len() % 2 == 1);
        prop_assert!(same(number(both), naive(&bytes)));
    }

    #[test]
    fn an_update_is_a_new_computation(mut bytes in proptest::collection::vec(any::<u8>(), 20), new: u16, at in 0usize..10) {
        let before = u16::from_be_bytes(finish(sum(&bytes)));
        let old = u16::from_be_bytes([bytes[2 * at], bytes[2 * at + 1]]);
        bytes[2 * at..2 * at + 2].copy_from_slice(&new.to_be_bytes());
        let after = u16::from_be_bytes(finish(sum(&bytes)));
        prop_assert!(same(update(before, old, new), after));
    }

    #[test]
    fn one_pseudo_header_for_both_families(a: [u8; 16], b: [u8; 16], c: [u8; 4], d: [u8; 4], protocol: u8, length: u16) {
        let six = [&a[..], &b, &u32::from(length).to_be_bytes(), &[0, 0, 0, protocol]].concat();
        prop_assert!(same(number(pseudo(&a, &b, protocol, length)), naive(&six)));
        let four = [&c[..], &d, &[0, protocol], &length.to_be_bytes()].concat();
        prop_assert!(same(number(pseudo(&mapped(c), &mapped(d), protocol, length)), naive(&four)));
    }
}
