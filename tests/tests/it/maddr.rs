//! Group membership in tagged realms: afnetd reports the solicited-node groups of its IPv6 addresses there (RFC 3810, RFC
//! 2710, RFC 4862 5.4.2). A kernel bridge that snoops is the judge of what it says; the queries are made by hand.

use std::net::Ipv6Addr;

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, PEER},
    packet, wait,
    wire::Wire,
};
use read::{done, report1, reports};

use crate::dad::{STRANGER, start};

/// Tags of the realm `vlan 5`.
const FIVE: &[(u16, u16)] = &[(0x8100, 5)];
const GROUP: &str = "ff02::1:ff00:10";
const ROUTER: &str = "fe80::99";
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Readers of MLD messages, apart from the daemon's own.
mod read {
    use std::net::{IpAddr, Ipv6Addr};

    use afnet_tests::packet;

    use super::FIVE;

    /// The MLD message of a frame of VLAN 5, with its destination: from `::`, hop limit 1, with Router Alert, checksum right.
    fn message(frame: &[u8]) -> Option<(Ipv6Addr, Vec<u8>)> {
        let inner = packet::untag(frame, FIVE)?;
        let (source, to) = packet::addresses(&inner)?;
        let IpAddr::V6(to) = to else { return None };
        let ip = inner.get(14..)?;
        let valid = source.is_unspecified() && ip[6] == 0 && ip[7] == 1;
        if !valid || ip.get(40..48)? != [58, 0, 5, 2, 0, 0, 1, 0] {
            return None;
        }
        let message = ip[48..].to_vec();
        let len = u32::try_from(message.len()).ok()?.to_be_bytes();
        let pseudo = [&ip[8..40], &len, &[0, 0, 0, 58]].concat();
        let sum = |bytes: &[u8]| -> u32 {
            bytes
                .chunks(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
                .sum()
        };
        let total = sum(&pseudo) + sum(&message);
        let folded = (total & 0xffff) + (total >> 16);
        ((folded & 0xffff) + (folded >> 16) == 0xffff).then_some((to, message))
    }

    /// Kind and group of each record of a version 2 report; none of them has sources here.
    pub(super) fn reports(frame: &[u8]) -> Option<Vec<(u8, Ipv6Addr)>> {
        let (to, message) = message(frame)?;
        let mut records = message.get(8..)?.chunks_exact(20);
        let good = message[0] == 143
            && to == "ff02::16".parse::<Ipv6Addr>().ok()?
            && usize::from(u16::from_be_bytes([message[6], message[7]])) == records.len();
        let of = |r: &[u8]| Some((r[0], Ipv6Addr::from(<[u8; 16]>::try_from(&r[4..20]).ok()?)));
        good.then(|| records.by_ref().map(of).collect()).flatten()
    }

    fn old(frame: &[u8], kind: u8) -> Option<(Ipv6Addr, Ipv6Addr)> {
        let (to, message) = message(frame)?;
        let group = Ipv6Addr::from(<[u8; 16]>::try_from(message.get(8..24)?).ok()?);
        (message[0] == kind && message.len() == 24).then_some((to, group))
    }

    /// The group of a version 1 report.
    pub(super) fn report1(frame: &[u8]) -> Option<Ipv6Addr> {
        old(frame, 131).filter(|(to, group)| to == group).map(|(_, group)| group)
    }

    /// The group of a Done message.
    pub(super) fn done(frame: &[u8]) -> Option<Ipv6Addr> {
        old(frame, 132)
            .filter(|(to, _)| to.segments() == [0xff02, 0, 0, 0, 0, 0, 0, 2])
            .map(|(_, group)| group)
    }
}

/// A general query to VLAN 5: of version 1, or 2 with some more bytes.
fn query(from: &str, hop_limit: u8, rest: &[u8]) -> Vec<u8> {
    let from: Ipv6Addr = from.parse().unwrap();
    // 100 ms to answer.
    let body = [&[0; 16][..], rest].concat();
    let macs = (STRANGER, packet::multicast_mac(ALL_NODES));
    let mut frame = packet::icmpv6(macs, from, ALL_NODES, 130, &[0, 100, 0, 0], &body);
    // The hop-by-hop header with Router Alert comes between; the checksum does not count it.
    frame.splice(54..54, [58, 0, 5, 2, 0, 0, 1, 0]);
    let len = u16::from_be_bytes([frame[18], frame[19]]) + 8;
    frame[18..20].copy_from_slice(&len.to_be_bytes());
    (frame[20], frame[21]) = (0, hop_limit);
    packet::tag(frame, FIVE)
}

/// The realm as `afnet maddr` has it.
fn realm(daemon: &Afnetd<'_>) -> serde_json::Value {
    daemon.json("maddr")[0].clone()
}

/// A member of all sources.
fn of(name: &str) -> serde_json::Value {
    serde_json::json!({"name": name, "exclude": true, "sources": []})
}

#[test]
fn solicited_node_groups_are_reported_in_tagged_realms() {
    let bed = Bed::new("maddr");
    let mut daemon = start(&bed);
    for name in ["a", "b"] {
        daemon.ok(&format!("add {name}"));
    }
    let group: Ipv6Addr = GROUP.parse().unwrap();
    let wire = Wire::open(&bed.peer, PEER);
    daemon.ok(&format!("addr add 2001:db8::10/64 dev {DEVICE} vlan 5 afnetns a nowait"));
    // Joined before it is probed (RFC 4862 5.4.2), and said once more (RFC 3810 9.1).
    let first = wire.expect("a report or a probe", |frame| {
        let inner = packet::untag(frame, FIVE)?;
        reports(frame).or_else(|| (inner.get(54) == Some(&135)).then(Vec::new))
    });
    assert_eq!(first, [(4, group)], "CHANGE_TO_EXCLUDE");
    assert_eq!(wire.expect("it again", reports), [(4, group)]);
    // A second member changes nothing.
    daemon.ok(&format!("addr add fd00::1:0:10/64 dev {DEVICE} vlan 5 afnetns b nodad"));
    daemon.ok(&format!("addr add 2001:db8::10/64 dev {DEVICE} afnetns b nodad"));
    let shown = realm(&daemon);
    assert_eq!((&shown["dev"], &shown["vlan"], &shown["version"]), (&DEVICE.into(), &"5".into(), &2.into()));
    assert_eq!(shown["groups"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["groups"][0]["members"], serde_json::json!([of("a"), of("b")]), "{shown}");
    let text = daemon.ok("maddr");
    assert!(text.contains("vlan 5 mld version 2") && text.contains(GROUP), "{text}");

    // Queries that a router would not send are not answered; the true one is, by all that there is.
    for (from, hop_limit) in [("2001:db8::99", 1), ("fe80::98", 255)] {
        wire.send(&query(from, hop_limit, &[2, 125, 0, 0]));
    }
    let answered = wait::within(wait::PATIENCE, || {
        wire.send(&query(ROUTER, 1, &[2, 125, 0, 0]));
        wire.find(std::time::Duration::from_millis(500), reports)
    });
    assert_eq!(answered, Some(vec![(2, group)]), "MODE_IS_EXCLUDE");
    assert_eq!(realm(&daemon)["querier"], ROUTER);

    // A querier of version 1 is obeyed.
    wire.send(&query(ROUTER, 1, &[]));
    assert_eq!(wire.expect("a report of version 1", report1), group);
    assert_eq!(realm(&daemon)["version"], 1);
    // The last member says that it leaves, the first one nothing.
    daemon.ok(&format!("addr del fd00::1:0:10 dev {DEVICE} vlan 5"));
    assert_eq!(realm(&daemon)["groups"][0]["members"], serde_json::json!([of("a")]));
    daemon.ok(&format!("addr del 2001:db8::10 dev {DEVICE} vlan 5"));
    assert_eq!(wire.expect("a Done", done), group);
    wait::until_true("nothing to show", || {
        daemon
            .json("maddr")
            .as_array()
            .is_some_and(|realms| realms.iter().all(|r| r["groups"] == serde_json::json!([])))
    });
    daemon.stop();
}

#[test]
fn a_snooping_bridge_understands() {
    let bed = Bed::new("mdb");
    let mut daemon = start(&bed);
    daemon.ok("add a");
    bed.peer.ip("link add br0 type bridge mcast_snooping 1");
    bed.peer.ip("link set br0 up");
    bed.peer.ip(&format!("link set {PEER} master br0"));
    let knows = || bed.peer.run("bridge -d mdb show dev br0").contains(GROUP);
    // A port that is new forwards at once (no spanning tree), but the link may be told later.
    daemon.ok(&format!("addr add 2001:db8::10/64 dev {DEVICE} vlan 5 afnetns a nodad"));
    let seen = wait::within(wait::PATIENCE, || {
        if knows() {
            return Some(());
        }
        daemon.ok(&format!("addr del 2001:db8::10 dev {DEVICE} vlan 5"));
        daemon.ok(&format!("addr add 2001:db8::10/64 dev {DEVICE} vlan 5 afnetns a nodad"));
        wait::within(std::time::Duration::from_millis(500), || knows().then_some(()))
    });
    assert!(seen.is_some(), "{}", bed.peer.run("bridge -d mdb show dev br0"));
    // The link goes and comes, and with it what the bridge knows. (Whether its port listens again by then is another
    // question, so this is not for it to judge.)
    bed.peer.ip(&format!("link set {PEER} down"));
    wait::until_true("the bridge to forget", || !knows());
    let wire = Wire::open(&bed.peer, PEER);
    bed.peer.ip(&format!("link set {PEER} up"));
    assert_eq!(wire.expect("a report", reports), [(4, GROUP.parse().unwrap())]);
    daemon.stop();
}
