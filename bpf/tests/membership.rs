//! Packets of IGMP and MLD are passed, and those that a host must hear reach the daemon.

mod common;

use afnet_abi::vlan::Vlan;
use afnet_bpf::{Counter, Membership};
use common::{
    Bench, PEER, UNTAGGED, Verdict,
    frames::{Ip4, Nd, tag},
};

fn igmp(kind: u8) -> Vec<u8> {
    let ip = Ip4 { options: vec![0x94, 4, 0, 0], first: 0x46, ..Ip4::new("192.0.2.99", "224.0.0.1", 2) };
    ip.frame(&[kind, 0, 0, 0, 0, 0, 0, 0])
}

#[test]
fn queries_and_old_reports_are_told() {
    for frags in [false, true] {
        let mut bench = Bench::new(frags);
        let seven: Vlan = "7".parse().unwrap();
        for kind in [0x11, 0x12, 0x16] {
            bench.expect_pass("IGMP", &igmp(kind), Counter::PassIgmp);
            let packet = igmp(kind)[14..].to_vec();
            assert_eq!(bench.memberships(), [Membership { vlan: UNTAGGED, packet: packet.clone() }]);
            // A frame may have a padding behind the packet.
            let padded = tag(&[&igmp(kind)[..], &[0; 20]].concat(), &[(0x8100, 7)]);
            bench.expect_pass("tagged, padded", &padded, Counter::PassIgmp);
            assert_eq!(bench.memberships(), [Membership { vlan: seven, packet }]);
        }
        for kind in [130, 131] {
            let frame = Nd { kind, ..Nd::solicit("fe80::99", "ff15::1") }.frame();
            bench.expect_pass("MLD", &frame, Counter::PassMld);
            assert_eq!(bench.memberships(), [Membership { vlan: UNTAGGED, packet: frame[14..].to_vec() }]);
        }
        for frame in [igmp(0x17), igmp(0x22)] {
            bench.expect_pass("leave, report", &frame, Counter::PassIgmp);
        }
        for kind in [132, 143] {
            let frame = Nd { kind, ..Nd::solicit("fe80::99", "ff15::1") }.frame();
            bench.expect_pass("done, report", &frame, Counter::PassMld);
        }
        assert_eq!(bench.memberships(), []);
    }
}

#[test]
fn a_flood_of_queries_loses_queries_and_no_conflict() {
    let mut bench = Bench::new(false);
    bench.raw_run(&igmp(0x11), None, 3000).unwrap();
    let conflict = common::frames::arp_frame(1, (PEER, "192.0.2.1"), ([0; 6], "192.0.2.1"));
    assert_eq!(bench.run(&conflict).verdict, Verdict::Pass);
    assert_eq!(bench.events().len(), 1);
    let counters = bench.counters();
    let arrived = bench.memberships().len() as u64;
    assert_eq!(counters[Counter::PassIgmp as usize], 3000);
    assert_eq!(counters[Counter::MembershipLost as usize] + arrived, 3000);
    assert!(arrived > 100, "{arrived}");
    bench.expect_pass("room again", &igmp(0x11), Counter::PassIgmp);
    assert_eq!(bench.memberships().len(), 1);
}
