//! Group membership in tagged realms: afnetd reports the solicited-node groups of its IPv6 addresses there (RFC 3810, RFC
//! 2710, RFC 4862 5.4.2). A kernel bridge that snoops is the judge of what it says; the queries are made by hand.

use std::net::{IpAddr, Ipv6Addr};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, PEER},
    membership::{Query, Said, read},
    packet, wait,
    wire::Wire,
};

use crate::dad::{STRANGER, start};

/// Tags of the realm `vlan 5`.
const FIVE: &[(u16, u16)] = &[(0x8100, 5)];
const GROUP: &str = "ff02::1:ff00:10";
const ROUTER: &str = "fe80::99";

/// What is said in VLAN 5, from `::`.
fn said(frame: &[u8]) -> Option<Vec<Said>> {
    let inner = packet::untag(frame, FIVE)?;
    let (source, _) = packet::addresses(&inner)?;
    source.is_unspecified().then(|| read(&inner[14..])).flatten()
}

/// Kind and group of each record of a report of the current version; none of them has sources here.
fn reports(frame: &[u8]) -> Option<Vec<(u8, Ipv6Addr)>> {
    let each = |said| match said {
        Said::Record(kind, IpAddr::V6(group), sources) if sources.is_empty() => Some((kind, group)),
        _ => None,
    };
    said(frame)?.into_iter().map(each).collect()
}

/// A general query to VLAN 5, with 100 ms to answer.
fn query(version: u8, from: &str, ttl: u8) -> Vec<u8> {
    let from = from.parse().unwrap();
    let query = Query { version, from, group: None, sources: &[], response: 100, ttl };
    packet::tag(query.frame(STRANGER), FIVE)
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
        wire.send(&query(2, from, hop_limit));
    }
    let answered = wait::within(wait::PATIENCE, || {
        wire.send(&query(2, ROUTER, 1));
        wire.find(std::time::Duration::from_millis(500), reports)
    });
    assert_eq!(answered, Some(vec![(2, group)]), "MODE_IS_EXCLUDE");
    assert_eq!(realm(&daemon)["querier"], ROUTER);

    // A querier of version 1 is obeyed.
    wire.send(&query(1, ROUTER, 1));
    assert_eq!(wire.expect("a report of version 1", said), [Said::Old(group.into())]);
    assert_eq!(realm(&daemon)["version"], 1);
    // The last member says that it leaves, the first one nothing.
    daemon.ok(&format!("addr del fd00::1:0:10 dev {DEVICE} vlan 5"));
    assert_eq!(realm(&daemon)["groups"][0]["members"], serde_json::json!([of("a")]));
    daemon.ok(&format!("addr del 2001:db8::10 dev {DEVICE} vlan 5"));
    assert_eq!(wire.expect("a Done", said), [Said::Leave(group.into())]);
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
