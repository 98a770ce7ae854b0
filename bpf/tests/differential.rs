//! The program against an independent reading of the same frame by etherparse: random and mutated frames.
//!
//! The oracle says which counters are right. Mostly that is one; where a frame breaks several rules at once, any of
//! them will do. AFNET_TEST_CASES and AFNET_TEST_SEED ask for more, or other, frames than the default.

mod common;
mod oracle;

use std::env;

use afnet_bpf::Counter;
use common::{
    Bench, MAC, PEER, PORT, Verdict,
    frames::{self, Ip4, Nd, arp_frame, checksum, datagram, icmp4, icmp6, ipv6, ipv6_packet, tag, udp},
};
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
use proptest::{
    collection::vec,
    prelude::*,
    sample::{Index, select},
    test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner},
};

/// Well-formed frames of every kind that the program knows.
fn seeds() -> Vec<Vec<u8>> {
    let (host4, host6) = ("192.0.2.99", "2001:db8::99");
    let mut seeds = Vec::new();
    for n in [1, 2, 3, 4, 5, 6, 11, 98] {
        let (v4, v6) = (format!("192.0.2.{n}"), format!("2001:db8::{n}"));
        for to in [&v4, &v6] {
            seeds.extend([PORT, 1000, 1999, 2000, 9].map(|port| datagram(to, port)));
        }
        for op in [1, 2] {
            seeds.push(arp_frame(op, (PEER, host4), ([0; 6], &v4)));
            seeds.push(arp_frame(op, (PEER, "0.0.0.0"), ([0; 6], &v4)));
            seeds.push(arp_frame(op, (PEER, &v4), ([0; 6], &v4)));
        }
        seeds.extend(
            [Nd::solicit(host6, &v6), Nd::solicit("::", &v6), Nd::advertise(&v6)].map(|nd| nd.frame()),
        );
        for protocol in [1, 2, 6, 17] {
            let ip = Ip4::new(host4, &v4, protocol);
            seeds.push(ip.frame(&icmp4(8, 0, [0; 4], b"ping")));
            seeds.push(Ip4 { fragment: 0x2001, ..ip.clone() }.frame(&[0; 16]));
            seeds.push(Ip4 { first: 0x46, options: vec![1; 4], ..ip }.frame(&udp(1, PORT, b"")));
        }
        let quoted = Ip4::new(&v4, host4, 17).packet(&udp(PORT, 9, b""));
        seeds.push(Ip4::new(host4, &v4, 1).frame(&icmp4(3, 3, [0; 4], &quoted)));
        let quoted = ipv6_packet(&v6, host6, 17, 1, &udp(PORT, 9, b""));
        seeds.push(ipv6(host6, &v6, 58, &icmp6(host6, &v6, 1, 4, [0; 4], &quoted)));
        seeds.push(ipv6(host6, &v6, 58, &icmp6(host6, &v6, 128, 0, [0; 4], b"ping")));
        seeds.push(ipv6(host6, &v6, 58, &icmp6(host6, &v6, 143, 0, [0; 4], b"")));
        seeds.push(ipv6(host6, &v6, 6, &[0; 20]));
    }
    seeds.push(tag(&datagram("2001:db8::2030", PORT), &[(0x88a8, 20), (0x8100, 30)]));
    seeds.push(tag(&datagram("192.0.2.77", PORT), &[(0x8100, 7)]));
    seeds
}

/// A chain of extension headers with mostly sensible contents before a UDP or ICMPv6 packet.
fn chains() -> impl Strategy<Value = Vec<u8>> {
    let header = (select(vec![0u8, 60, 43, 44, 51, 60, 43, 44]), 0u8..3, any::<[u8; 6]>(), any::<bool>());
    let to = select(vec!["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8::98", "ff02::1"]);
    (
        vec(header, 0..10),
        select(vec![17u8, 17, 17, 58, 6, 59, 50]),
        to,
        select(vec![1u8, 3, 128, 130, 134, 135, 136]),
    )
        .prop_map(|(headers, last, to, kind)| {
            let mut kinds: Vec<u8> = headers.iter().map(|h| h.0).collect();
            let first = *kinds.first().unwrap_or(&last);
            kinds.push(last);
            let mut payload = Vec::new();
            for (i, (kind, length, mut rest, plain)) in headers.into_iter().enumerate() {
                if plain {
                    rest = [0; 6];
                }
                let (length, bytes) = match kind {
                    44 => (0, 8),
                    51 => (length, (usize::from(length) + 2) * 4),
                    _ => (length, (usize::from(length) + 1) * 8),
                };
                let mut header = [&[kinds[i + 1], length][..], &rest].concat();
                header.resize(bytes, 0);
                payload.extend(header);
            }
            let quoted = ipv6_packet(to, "2001:db8::99", 17, 1, &udp(PORT, 9, b""));
            payload.extend(match last {
                58 => icmp6("2001:db8::99", to, kind, 0, [0; 4], &quoted),
                _ => udp(1, PORT, b"data"),
            });
            ipv6("2001:db8::99", to, first, &payload)
        })
}

/// A frame, tags, mutations, a cut or padding, and whether checksums are put right afterwards.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let base = prop_oneof![6 => select(seeds()), 4 => chains()];
    let tci = select(vec![
        (0x8100u16, 0u16),
        (0x8100, 7),
        (0x88a8, 20),
        (0x8100, 30),
        (0x88a8, 0),
        (0x8100, 0xfff),
    ]);
    let tags = prop_oneof![8 => Just(Vec::new()), 2 => vec(tci, 1..4)];
    let byte = (any::<Index>(), prop_oneof![any::<u8>(), select(vec![0u8, 1, 17, 58, 60, 0xff])]);
    let end = prop_oneof![6 => Just(None), 2 => any::<Index>().prop_map(Some)];
    (base, tags, vec(byte, 0..5), end, 0usize..30, any::<bool>()).prop_map(
        |(base, tags, bytes, end, padding, repair)| {
            let mut frame = tag(&base, &tags);
            for (at, value) in bytes {
                // Mostly within the headers.
                let reach = frame.len().min(90);
                let at = at.index(reach);
                frame[at] = value;
            }
            match end {
                Some(end) => frame.truncate(14 + end.index(frame.len() - 13)),
                None => frame.resize(frame.len() + padding, 0),
            }
            if repair {
                repair_checksums(&mut frame);
            }
            frame
        },
    )
}

/// Nothing but an Ethernet header that the program will look behind.
fn random() -> impl Strategy<Value = Vec<u8>> {
    let to = select(vec![MAC, [0xff; 6], [0x33, 0x33, 0, 0, 0, 1]]);
    let ethertype = select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100, 0x88a8]);
    (to, ethertype, vec(any::<u8>(), 0..200))
        .prop_map(|(to, ethertype, payload)| frames::ethernet(to, PEER, ethertype, &payload))
}

/// Puts the checksum of a plain IPv4 header, or of ICMPv6 right behind the IPv6 header, right.
fn repair_checksums(frame: &mut [u8]) {
    let Some((l3, ethertype)) = oracle::network(frame) else { return };
    let Some((_, packet)) = frame.split_at_mut_checked(l3) else { return };
    if ethertype == 0x0800 && Ipv4HeaderSlice::from_slice(packet).is_ok_and(|ip| ip.ihl() == 5) {
        packet[10..12].fill(0);
        let sum = checksum(&[&packet[..20]]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else if ethertype == 0x86dd
        && let Ok(ip) = Ipv6HeaderSlice::from_slice(packet)
        && ip.next_header().0 == 58
    {
        let (source, destination) = (ip.source(), ip.destination());
        let length = usize::from(ip.payload_length());
        let Some(message) = packet.get_mut(40..40 + length).filter(|m| m.len() >= 4) else { return };
        message[2..4].fill(0);
        let pseudo = u32::try_from(length).unwrap().to_be_bytes();
        let sum = checksum(&[&source, &destination, &pseudo, &[0, 0, 0, 58], message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
}

fn verdict(counter: Counter) -> Verdict {
    match counter.name().split_once('_').expect("a prefix").0 {
        "redirect" => Verdict::Redirect,
        "tx" => Verdict::Tx,
        "drop" => Verdict::Drop,
        _ => Verdict::Pass,
    }
}

#[track_caller]
fn check(bench: &mut Bench, frame: &[u8]) -> Result<(), TestCaseError> {
    let outcome = bench.run(frame);
    bench.events();
    bench.memberships();
    let wanted = oracle::classify(frame);
    let counted: Vec<_> = outcome.counters.iter().map(|(c, n)| (*c, *n)).collect();
    prop_assert!(
        counted.len() == 1 && counted[0].1 == 1 && wanted.contains(&counted[0].0),
        "counted {counted:?}, wanted {wanted:?}"
    );
    prop_assert_eq!(outcome.verdict, verdict(counted[0].0));
    if outcome.verdict == Verdict::Tx {
        oracle::check_answer(frame, &outcome.bytes).map_err(TestCaseError::fail)?;
    } else {
        prop_assert_eq!(&outcome.bytes, frame);
    }
    Ok(())
}

fn differ(frags: bool, frames: &impl Strategy<Value = Vec<u8>>) {
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u32>().expect("a number"));
    let config = Config {
        cases: number("AFNET_TEST_CASES").unwrap_or(6000),
        failure_persistence: None,
        ..Config::default()
    };
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number("AFNET_TEST_SEED").unwrap_or(0).to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let bench = std::cell::RefCell::new(Bench::new(frags));
    TestRunner::new_with_rng(config, rng)
        .run(frames, |frame| check(&mut bench.borrow_mut(), &frame))
        .unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn seeds_as_they_are() {
    let mut bench = Bench::new(false);
    let mut seen = std::collections::BTreeSet::new();
    for frame in seeds() {
        seen.extend(bench.run(&frame).counters.into_keys());
        check(&mut bench, &frame).unwrap_or_else(|e| panic!("{e}: {frame:02x?}"));
    }
    assert!(seen.len() > 20, "the seeds reach too little: {seen:?}");
}

#[test]
fn mutated_frames() {
    differ(false, &mutated());
}

#[test]
fn mutated_frames_with_frags() {
    differ(true, &mutated());
}

#[test]
fn random_frames() {
    differ(false, &random());
}
