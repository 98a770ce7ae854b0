//! Each line of the ARP rules (RFC 826, RFC 5227): verdict, bytes out, counters, events.

mod common;

use afnet_abi::vlan::Vlan;
use afnet_bpf::{AddressEntry, ConflictKind, Counter, Event};
use common::{
    Bench, MAC, PEER, UNTAGGED, Verdict, addr,
    frames::{BROADCAST, arp, arp_frame, ethernet, tag},
};

const ZERO: [u8; 6] = [0; 6];

fn reply(from: &str, to: ([u8; 6], &str)) -> Vec<u8> {
    ethernet(to.0, MAC, 0x0806, &arp(2, (MAC, from), to))
}

#[test]
fn requests_for_our_addresses_are_answered() {
    for frags in [false, true] {
        let bench = Bench::new(frags);
        let request = arp_frame(1, (PEER, "192.0.2.99"), (ZERO, "192.0.2.1"));
        let answer = reply("192.0.2.1", (PEER, "192.0.2.99"));
        bench.expect_answer("broadcast request (826)", &request, &answer, Counter::TxArp);

        let unicast = ethernet(MAC, PEER, 0x0806, &request[14..]);
        bench.expect_answer("unicast request", &unicast, &answer, Counter::TxArp);

        let padded = [&request[..], &[0xaa; 18]].concat();
        let padded_answer = [&answer[..], &[0xaa; 18]].concat();
        bench.expect_answer("padded to 60 bytes", &padded, &padded_answer, Counter::TxArp);

        let probe = arp_frame(1, (PEER, "0.0.0.0"), (ZERO, "192.0.2.1"));
        let answer = reply("192.0.2.1", (PEER, "0.0.0.0"));
        bench.expect_answer("another host's probe (5227 2.5)", &probe, &answer, Counter::TxArp);

        let filled = arp_frame(1, (PEER, "192.0.2.99"), ([7; 6], "192.0.2.3"));
        let answer = reply("192.0.2.3", (PEER, "192.0.2.99"));
        bench.expect_answer("target hardware is ignored (826)", &filled, &answer, Counter::TxArp);
    }
}

#[test]
fn an_address_is_answered_in_its_realm_only() {
    let bench = Bench::new(false);
    bench.own("7|198.51.100.1", AddressEntry { slot: 1, ..Default::default() });
    bench.own("10.7|198.51.100.1", AddressEntry { slot: 3, ..Default::default() });
    let request = arp_frame(1, (PEER, "198.51.100.99"), (ZERO, "198.51.100.1"));
    let answer = reply("198.51.100.1", (PEER, "198.51.100.99"));
    bench.expect_pass("untagged", &request, Counter::PassArpOther);
    for tags in [
        vec![(0x8100, 7)],
        vec![(0x8100, 0xe007)],
        vec![(0x88a8, 10), (0x8100, 7)],
        vec![(0x88a8, 0), (0x8100, 7)],
    ] {
        let (request, answer) = (tag(&request, &tags), tag(&answer, &tags));
        bench.expect_answer("tags and priority are kept", &request, &answer, Counter::TxArp);
    }
    for tags in [vec![(0x8100, 8)], vec![(0x88a8, 7)], vec![(0x88a8, 11), (0x8100, 7)]] {
        bench.expect_pass("other realm", &tag(&request, &tags), Counter::PassArpOther);
    }
    assert_eq!(bench.demux.compartment_counters(3).unwrap()[Counter::TxArp as usize], 1);
}

#[test]
fn priority_tags_are_untagged() {
    let bench = Bench::new(false);
    let request = arp_frame(1, (PEER, "192.0.2.99"), (ZERO, "192.0.2.1"));
    let answer = reply("192.0.2.1", (PEER, "192.0.2.99"));
    for tags in [vec![(0x8100, 0xe000)], vec![(0x88a8, 0)], vec![(0x88a8, 0), (0x8100, 0)]] {
        bench.expect_answer("802.1Q 6.9", &tag(&request, &tags), &tag(&answer, &tags), Counter::TxArp);
    }
}

#[test]
fn what_is_not_ours_is_passed() {
    let bench = Bench::new(false);
    let other = arp_frame(1, (PEER, "192.0.2.99"), (ZERO, "192.0.2.98"));
    bench.expect_pass("request for another", &other, Counter::PassArpOther);
    let gratuitous = arp_frame(1, (PEER, "192.0.2.99"), (ZERO, "192.0.2.99"));
    bench.expect_pass("announcement of another", &gratuitous, Counter::PassArpOther);
    let answer = ethernet(MAC, PEER, 0x0806, &arp(2, (PEER, "192.0.2.99"), (MAC, "192.0.2.1")));
    bench.expect_pass("reply to us goes to the kernel's cache", &answer, Counter::PassArpOther);
    let rarp = arp_frame(3, (PEER, "192.0.2.99"), (ZERO, "192.0.2.1"));
    bench.expect_pass("other operation", &rarp, Counter::PassArpOther);
    let foreign = ethernet([2, 9, 9, 9, 9, 9], PEER, 0x0806, &other[14..]);
    bench.expect_pass("unicast to another", &foreign, Counter::PassOtherMac);
}

#[test]
fn our_own_frames_are_recognised() {
    let mut bench = Bench::new(false);
    let probe = arp_frame(1, (MAC, "0.0.0.0"), (ZERO, "192.0.2.5"));
    bench.expect_pass("own probe for a tentative address", &probe, Counter::PassArpOwn);
    let probe = arp_frame(1, (MAC, "0.0.0.0"), (ZERO, "192.0.2.1"));
    bench.expect_pass("own probe", &probe, Counter::PassArpOwn);
    let announcement = arp_frame(1, (MAC, "192.0.2.1"), (ZERO, "192.0.2.1"));
    bench.expect_pass("own announcement", &announcement, Counter::PassArpOwn);
    let forged = ethernet(BROADCAST, MAC, 0x0806, &arp(1, (PEER, "192.0.2.1"), (ZERO, "192.0.2.1")));
    bench.expect_pass("our MAC in the Ethernet header alone", &forged, Counter::PassArpOwn);
    assert_eq!(bench.events(), vec![]);
}

#[test]
fn conflicts_are_reported_and_never_answered() {
    let mut bench = Bench::new(false);
    bench.own("7|192.0.2.1", AddressEntry { slot: 3, ..Default::default() });
    let seven: Vlan = "7".parse().unwrap();
    let event =
        |vlan, slot, ip, kind| Event::Conflict { vlan, slot, addr: addr(ip), mac: PEER, nonce: None, kind };
    let announcement = arp_frame(1, (PEER, "192.0.2.1"), (ZERO, "192.0.2.1"));
    let sender = arp_frame(1, (PEER, "192.0.2.1"), (ZERO, "192.0.2.3"));
    let reply = arp_frame(2, (PEER, "192.0.2.1"), (MAC, "192.0.2.3"));
    let tentative = arp_frame(2, (PEER, "192.0.2.5"), (MAC, "192.0.2.3"));
    let probe = arp_frame(1, (PEER, "0.0.0.0"), (ZERO, "192.0.2.5"));
    for (what, frame, wanted) in [
        ("announcement (5227 2.4)", &announcement, event(UNTAGGED, 1, "192.0.2.1", ConflictKind::ArpSender)),
        ("request from our address", &sender, event(UNTAGGED, 1, "192.0.2.1", ConflictKind::ArpSender)),
        ("reply from our address", &reply, event(UNTAGGED, 1, "192.0.2.1", ConflictKind::ArpSender)),
        ("tentative (5227 2.1.1)", &tentative, event(UNTAGGED, 1, "192.0.2.5", ConflictKind::ArpSender)),
        ("probe for tentative", &probe, event(UNTAGGED, 1, "192.0.2.5", ConflictKind::ArpProbe)),
        ("in a realm", &tag(&sender, &[(0x8100, 7)]), event(seven, 3, "192.0.2.1", ConflictKind::ArpSender)),
    ] {
        bench.expect_pass(what, frame, Counter::PassConflict);
        assert_eq!(bench.events(), vec![wanted], "{what}");
    }
}

#[test]
fn tentative_addresses_stay_silent() {
    let mut bench = Bench::new(false);
    let request = arp_frame(1, (PEER, "192.0.2.99"), (ZERO, "192.0.2.5"));
    bench.expect_pass("request for a tentative address", &request, Counter::PassTentative);
    assert_eq!(bench.events(), vec![]);
    bench.own("192.0.2.5", AddressEntry { slot: 1, ..Default::default() });
    assert_eq!(bench.run(&request).verdict, Verdict::Tx, "no longer tentative");
}

#[test]
fn malformed_arp_is_passed() {
    let bench = Bench::new(false);
    let good = arp_frame(1, (PEER, "192.0.2.99"), (ZERO, "192.0.2.1"));
    for (what, at, value) in [
        ("hardware type", 15, 6),
        ("protocol type", 17, 1),
        ("hardware length", 18, 8),
        ("protocol length", 19, 16),
        ("multicast sender hardware", 22, 3),
        ("loopback sender", 28, 127),
        ("multicast sender", 28, 224),
        ("class E sender", 28, 255),
        ("0/8 sender that is no probe", 28, 0),
    ] {
        let mut frame = good.clone();
        frame[at] = value;
        bench.expect_pass(what, &frame, Counter::PassArpInvalid);
    }
    let no_sender = arp_frame(1, (ZERO, "192.0.2.99"), (ZERO, "192.0.2.1"));
    bench.expect_pass("no sender hardware address", &no_sender, Counter::PassArpInvalid);
    for length in 14..good.len() {
        bench.expect_pass("truncated", &good[..length], Counter::PassTruncated);
    }
}

#[test]
fn a_prefix_is_answered_for_as_a_whole() {
    let bench = Bench::new(false);
    let request = |ip| arp_frame(1, (PEER, "192.0.2.99"), (ZERO, ip));
    bench.expect_pass("before", &request("203.0.113.77"), Counter::PassArpOther);
    let entry = AddressEntry { slot: 3, ..Default::default() };
    bench.demux.insert_prefix(UNTAGGED, addr("203.0.113.0"), 24, entry).unwrap();
    let answer = reply("203.0.113.77", (PEER, "192.0.2.99"));
    bench.expect_answer("within", &request("203.0.113.77"), &answer, Counter::TxArp);
    bench.expect_pass("outside", &request("203.0.114.77"), Counter::PassArpOther);
    let tagged = tag(&request("203.0.113.77"), &[(0x8100, 1)]);
    bench.expect_pass("other realm", &tagged, Counter::PassArpOther);
    let longer = AddressEntry { slot: 1, tentative: true, ..Default::default() };
    bench.demux.insert_prefix(UNTAGGED, addr("203.0.113.64"), 26, longer).unwrap();
    bench.expect_pass("the longest wins", &request("203.0.113.77"), Counter::PassTentative);
    bench.demux.remove_prefix(UNTAGGED, addr("203.0.113.64"), 26).unwrap();
    bench.expect_answer("removed", &request("203.0.113.77"), &answer, Counter::TxArp);
    bench.demux.remove_prefix(UNTAGGED, addr("203.0.113.0"), 24).unwrap();
    bench.expect_pass("after", &request("203.0.113.77"), Counter::PassArpOther);
}

#[test]
fn a_full_event_ring_counts() {
    let mut bench = Bench::new(false);
    let frame = arp_frame(1, (PEER, "192.0.2.1"), (ZERO, "192.0.2.1"));
    bench.raw_run(&frame, None, 3000).unwrap();
    let counters = bench.counters();
    let arrived = bench.events().len() as u64;
    assert_eq!(counters[Counter::PassConflict as usize], 3000);
    assert_eq!(counters[Counter::EventLost as usize] + arrived, 3000);
    assert!(arrived > 1000, "{arrived}");
    bench.expect_pass("room again", &frame, Counter::PassConflict);
}
