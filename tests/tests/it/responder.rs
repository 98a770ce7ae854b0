//! ARP, neighbour discovery and echo, answered by the XDP program (RFC 826, 4861, 5227).

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use afnet_abi::{
    control::{Event, Request},
    vlan::Vlan,
};
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, PEER},
    packet::{self, BROADCAST, Mac},
    wait,
    wire::Wire,
};

/// Long enough for an answer on a veth pair, which takes microseconds.
const SILENCE: Duration = Duration::from_millis(200);
const PEER_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);
const ALPHA: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const ALPHA6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const PEER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
const NO_MAC: Mac = [0; 6];

/// A reply to an ARP request for `address`.
fn arp_reply(frame: &[u8], address: Ipv4Addr) -> Option<(Mac, (Mac, Ipv4Addr))> {
    let (op, sender, target) = packet::read_arp(frame)?;
    (op == 2 && sender.1 == address).then_some((sender.0, target))
}

#[test]
fn the_kernel_learns_one_mac_for_all_addresses() {
    let bed = Bed::new("learn");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("b", &["192.0.2.11/24", "2001:db8::11/64"]);
    let addresses = ["192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11"];
    for address in addresses {
        bed.peer.run(&format!("ping -c 1 -W 5 {address}"));
    }
    let neighbours: serde_json::Value =
        serde_json::from_str(&bed.peer.ip(&format!("-j neigh show dev {PEER}"))).unwrap();
    for address in addresses {
        let neighbour = neighbours.as_array().unwrap().iter().find(|entry| entry["dst"] == address);
        let mac = afnet_tests::netns::parse_mac(neighbour.unwrap()["lladdr"].as_str().unwrap());
        assert_eq!(mac, bed.device_mac(), "{address}");
    }
    for name in ["a", "b"] {
        assert!(daemon.counter(name, "tx_arp") > 0 && daemon.counter(name, "tx_na") > 0, "{name}");
    }
    daemon.stop();
}

#[test]
fn arping_and_ndisc6_are_satisfied() {
    let bed = Bed::new("judges");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    let arping = bed.peer.run(&format!("arping -c 3 -w 5 -i {PEER} 192.0.2.10"));
    assert!(arping.contains("0% unanswered"), "{arping}");
    bed.peer.run(&format!("ndisc6 -1 -r 1 2001:db8::10 {PEER}"));
    // An address that nobody owns stays silent.
    assert!(!bed.peer.attempt(&format!("arping -c 1 -w 1 -i {PEER} 192.0.2.12")).0);
    assert!(!bed.peer.attempt(&format!("ndisc6 -1 -r 1 -w 300 2001:db8::12 {PEER}")).0);
    assert_eq!(daemon.counter("a", "tx_arp"), 3);
    assert_eq!(daemon.counter("a", "tx_na"), 1);
    daemon.stop();
}

#[test]
fn answers_have_the_form_of_the_rfcs() {
    let bed = Bed::new("form");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    let (wire, ours, theirs) = (Wire::open(&bed.peer, PEER), bed.device_mac(), bed.peer_mac());

    // RFC 826: reply to the asker; RFC 5227 2.5: to a probe (sender address 0) too.
    for sender in [PEER_ADDRESS, Ipv4Addr::UNSPECIFIED] {
        wire.send(&packet::arp(1, (theirs, sender), (NO_MAC, ALPHA), BROADCAST));
        let (macs, reply) =
            wire.expect("ARP reply", |frame| Some((packet::macs(frame), arp_reply(frame, ALPHA)?)));
        assert_eq!(macs, (ours, theirs));
        assert_eq!(reply, (ours, (theirs, sender)));
    }

    // RFC 4861 7.2.4: as owner R=0 O=1; S=1 to the asker, S=0 to ff02::1 if the asker has no address (DAD).
    wire.send(&packet::neighbour_solicitation(theirs, PEER6, ALPHA6));
    let answer = wire.expect("NA", packet::read_advertisement);
    assert_eq!((answer.flags, answer.target, answer.link_layer), (0b011, ALPHA6, Some(ours)));
    assert_eq!(answer.addresses, (IpAddr::from(ALPHA6), IpAddr::from(PEER6)));
    wire.send(&packet::neighbour_solicitation(theirs, Ipv6Addr::UNSPECIFIED, ALPHA6));
    let answer = wire.expect("NA", packet::read_advertisement);
    assert_eq!((answer.flags, answer.addresses.1), (0b001, "ff02::1".parse::<IpAddr>().unwrap()));

    // Our own probes, looped back, are recognised and never answered. (Of an address that the kernel holds too, the
    // kernel would take it for a stranger's.)
    let (probed, probed6) = (Ipv4Addr::new(192, 0, 2, 11), "2001:db8::11".parse().unwrap());
    daemon.add_address("a", "192.0.2.11/24", |spec| spec.fast_only = true);
    daemon.add_address("a", "2001:db8::11/64", |spec| spec.fast_only = true);
    wire.send(&packet::arp(1, (ours, Ipv4Addr::UNSPECIFIED), (NO_MAC, probed), BROADCAST));
    wire.expect_none(SILENCE, "an answer to our own probe", |frame| arp_reply(frame, probed));
    wire.send(&packet::neighbour_solicitation(ours, Ipv6Addr::UNSPECIFIED, probed6));
    wire.expect_none(SILENCE, "an answer to our own NS", packet::read_advertisement);
    // While a stranger's are.
    wire.send(&packet::arp(1, (theirs, Ipv4Addr::UNSPECIFIED), (NO_MAC, probed), BROADCAST));
    wire.expect("an answer to a stranger's probe", |frame| arp_reply(frame, probed));
    daemon.stop();
}

#[test]
fn echo_to_a_fast_only_address_is_answered_without_the_kernel() {
    let bed = Bed::new("fastonly");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &[]);
    daemon.add_address("a", "192.0.2.10/24", |spec| spec.fast_only = true);
    daemon.add_address("a", "2001:db8::10/64", |spec| spec.fast_only = true);
    let kernel = bed.host.ip(&format!("addr show dev {DEVICE}"));
    assert!(!kernel.contains("192.0.2.10") && !kernel.contains("2001:db8::10"), "{kernel}");
    for address in ["192.0.2.10", "2001:db8::10"] {
        bed.peer.run(&format!("ping -c 3 -i 0.2 -W 5 -s 1000 {address}"));
    }
    assert_eq!(daemon.counter("a", "tx_echo"), 6);
    daemon.stop();
}

#[test]
fn realms_are_apart_even_with_one_address() {
    let bed = Bed::new("realms");
    let mut daemon = Afnetd::start(&bed);
    let realms: [(&str, &[(u16, u16)]); 4] = [
        ("none", &[]),
        ("7", &[(0x8100, 7)]),
        ("ad:9", &[(0x88a8, 9)]),
        ("9.7", &[(0x88a8, 9), (0x8100, 7)]),
    ];
    for (i, (vlan, _)) in realms.iter().enumerate() {
        let name = format!("c{i}");
        daemon.add_compartment(&name, &[]);
        for address in ["192.0.2.10/24", "2001:db8::10/64"] {
            daemon.add_address(&name, address, |spec| {
                spec.vlan = vlan.parse::<Vlan>().unwrap();
                spec.fast_only = true;
            });
        }
    }
    let (wire, ours, theirs) = (Wire::open(&bed.peer, PEER), bed.device_mac(), bed.peer_mac());
    for (i, (_, tags)) in realms.iter().enumerate() {
        let request = packet::arp(1, (theirs, PEER_ADDRESS), (NO_MAC, ALPHA), BROADCAST);
        wire.send(&packet::tag(request, tags));
        let reply =
            wire.expect("ARP reply in the realm", |frame| arp_reply(&packet::untag(frame, tags)?, ALPHA));
        assert_eq!(reply, (ours, (theirs, PEER_ADDRESS)));
        wire.send(&packet::tag(packet::neighbour_solicitation(theirs, PEER6, ALPHA6), tags));
        wire.expect("NA in the realm", |frame| packet::read_advertisement(&packet::untag(frame, tags)?));
        wire.send(&packet::tag(
            packet::echo_request((theirs, ours), PEER6.into(), ALPHA6.into(), 5, b"x"),
            tags,
        ));
        wire.expect("echo reply in the realm", |frame| {
            packet::is_echo_reply(&packet::untag(frame, tags)?, 5).then_some(())
        });
        for (counter, expected) in [("tx_arp", 1), ("tx_na", 1), ("tx_echo", 1)] {
            assert_eq!(daemon.counter(&format!("c{i}"), counter), expected, "{tags:x?} {counter}");
        }
    }
    let request = packet::arp(1, (theirs, PEER_ADDRESS), (NO_MAC, ALPHA), BROADCAST);
    wire.send(&packet::tag(request, &[(0x8100, 8)]));
    wire.expect_none(SILENCE, "an answer in a realm without owner", |frame| {
        packet::read_arp(frame).filter(|arp| arp.0 == 2)
    });
    daemon.stop();
}

#[test]
fn a_delegated_prefix_belongs_to_its_owner_but_for_longer_matches() {
    let bed = Bed::new("delegated");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("wide", &[]);
    daemon.add_compartment("narrow", &[]);
    daemon.add_address("wide", "192.0.2.128/26", |spec| spec.delegated = true);
    daemon.add_address("narrow", "192.0.2.144/28", |spec| spec.delegated = true);
    daemon.add_address("wide", "2001:db8::ab00/120", |spec| spec.delegated = true);
    let wire = Wire::open(&bed.peer, PEER);
    let theirs = bed.peer_mac();
    for (address, owner) in
        [([192, 0, 2, 129], "wide"), ([192, 0, 2, 149], "narrow"), ([192, 0, 2, 191], "wide")]
    {
        let before = daemon.counter(owner, "tx_arp");
        wire.send(&packet::arp(1, (theirs, PEER_ADDRESS), (NO_MAC, address.into()), BROADCAST));
        wire.expect("ARP reply", |frame| arp_reply(frame, address.into()));
        assert_eq!(daemon.counter(owner, "tx_arp"), before + 1, "{address:?}");
    }
    wire.send(&packet::neighbour_solicitation(theirs, PEER6, "2001:db8::ab77".parse().unwrap()));
    wire.expect("NA", packet::read_advertisement);
    assert_eq!(daemon.counter("wide", "tx_na"), 1);
    daemon.stop();
}

#[test]
fn another_hosts_use_of_an_address_is_an_event() {
    let bed = Bed::new("conflict");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    let mut monitor = daemon.connect();
    monitor.send(&serde_json::to_vec(&Request::Monitor {}).unwrap());
    let wire = Wire::open(&bed.peer, PEER);
    let stranger = [2, 0xbb, 0, 0, 0, 1];
    // The stream begins some time after the request: announce until it is seen.
    let mut next = |what: &str, frame: &[u8]| {
        wait::until(what, || {
            wire.send(frame);
            let line = monitor.line();
            match serde_json::from_str(&line) {
                Ok(Event::Conflict { address, mac, name, .. }) => Some((address, mac, name)),
                _ => None,
            }
        })
    };
    let announcement = packet::arp(1, (stranger, ALPHA), (NO_MAC, ALPHA), BROADCAST);
    let expected = |address: IpAddr| (address, "02:bb:00:00:00:01".to_string(), "a".to_string());
    assert_eq!(next("an ARP conflict", &announcement), expected(ALPHA.into()));
    let mut body = ALPHA6.octets().to_vec();
    body.extend([2, 1]);
    body.extend(stranger);
    let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
    let advertisement = packet::icmpv6(
        (stranger, packet::multicast_mac(all_nodes)),
        ALPHA6,
        all_nodes,
        136,
        &[0x20, 0, 0, 0],
        &body,
    );
    let found = wait::until("an NA conflict", || {
        let found = next("a conflict", &advertisement);
        (found.0 == IpAddr::from(ALPHA6)).then_some(found)
    });
    assert_eq!(found, expected(ALPHA6.into()));
    daemon.stop();
}
