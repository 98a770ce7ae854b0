//! What comes after an address was found free: conflicts (RFC 5227 2.4), links that go and come, restarts, moves, floods.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::{Duration, Instant},
};

use afnet_abi::control::{AddressState, Event, Request};
use afnet_tests::{
    afnetd::{Afnetd, Connection},
    bed::{Bed, DEVICE, PEER},
    packet::{self, BROADCAST},
    wait,
    wire::Wire,
};

use crate::dad::{LONG, NO_MAC, STRANGER, addresses, await_state, start, state};

/// A frame that shows another host with an address: a gratuitous ARP, an unsolicited NA.
fn claim(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => packet::arp(1, (STRANGER, v4), (NO_MAC, v4), BROADCAST),
        IpAddr::V6(v6) => {
            let all: Ipv6Addr = "ff02::1".parse().unwrap();
            let body = [&v6.octets()[..], &[2, 1], &STRANGER].concat();
            packet::icmpv6((STRANGER, packet::multicast_mac(all)), v6, all, 136, &[0x20, 0, 0, 0], &body)
        }
    }
}

/// Whether a frame is our announcement of an address, to those who know it elsewhere.
fn defends(frame: &[u8], address: &str) -> bool {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => {
            packet::read_arp(frame).is_some_and(|(op, from, to)| (op, from.1, to.1) == (1, v4, v4))
        }
        IpAddr::V6(v6) => packet::read_advertisement(frame).is_some_and(|na| {
            (na.target, na.flags) == (v6, 0b001) && na.addresses.1 == "ff02::1".parse::<IpAddr>().unwrap()
        }),
    }
}

/// A stream of events from here on.
fn monitor(daemon: &Afnetd<'_>) -> Connection {
    let mut stream = daemon.connect();
    stream.request(&Request::Monitor {}).unwrap();
    stream
}

/// Reads events up to one that `matches`.
#[track_caller]
fn next<T>(stream: &mut Connection, what: &str, matches: impl Fn(Event) -> Option<T>) -> T {
    loop {
        let line = stream.line();
        assert!(!line.is_empty(), "no event: {what}");
        if let Some(found) = serde_json::from_str(&line).ok().and_then(&matches) {
            return found;
        }
    }
}

#[test]
fn conflicts_are_met_by_policy() {
    let bed = Bed::new("dadpolicy");
    let mut daemon = start(&bed);
    daemon.ok("add a");
    let mut events = monitor(&daemon);
    let wire = Wire::open(&bed.peer, PEER);
    for (policy, address, options) in [
        ("a", "192.0.2.10", ""),
        ("a", "2001:db8::10", "defend a"),
        ("b", "192.0.2.20", ""),
        ("b", "2001:db8::20", "fast-only"),
        ("c", "192.0.2.30", "fast-only"),
        ("c", "2001:db8::30", ""),
    ] {
        let len = if address.contains(':') { 64 } else { 24 };
        let line = format!("addr add {address}/{len} dev {DEVICE} afnetns a nodad {options}");
        let line = if options.contains("defend") || policy == "b" {
            line
        } else {
            format!("{line} defend {policy}")
        };
        daemon.ok(&line);
        let wanted: IpAddr = address.parse().unwrap();
        // Its own announcements are over before the other host comes.
        let announced = if wanted.is_ipv4() { 2 } else { 3 };
        for _ in 0..announced {
            wire.expect("an announcement", |frame| match wanted {
                IpAddr::V4(_) => defends(frame, address).then_some(()),
                IpAddr::V6(v6) => packet::read_advertisement(frame).filter(|na| na.target == v6).map(drop),
            });
        }
        wire.send(&claim(address));
        let mac = next(&mut events, "the conflict", |event| match event {
            Event::Conflict { address, mac, .. } if address == wanted => Some(mac),
            _ => None,
        });
        assert_eq!(mac, "02:bb:00:00:00:01");
        if policy != "a" {
            wire.expect("the defence", |frame| defends(frame, address).then_some(()));
            assert_eq!(state(&daemon, address), AddressState::Ok, "{policy} {address}");
        }
        if policy == "c" {
            let begin = Instant::now();
            for _ in 0..500 {
                wire.send(&claim(address));
            }
            // All 500 have been looked at when the daemon has answered twice.
            assert_eq!(state(&daemon, address), AddressState::Ok);
            assert_eq!(state(&daemon, address), AddressState::Ok, "never given up");
            let mut defences = 0u64;
            while wire.find(Duration::from_millis(100), |f| defends(f, address).then_some(())).is_some() {
                defences += 1;
            }
            assert!(defences <= begin.elapsed().as_secs() / 10 + 1, "{defences} defences");
            continue;
        }
        let lost = wait::within(LONG, || {
            if policy == "b" {
                wire.send(&claim(address));
            }
            (state(&daemon, address) == AddressState::Duplicate).then_some(())
        });
        assert!(lost.is_some(), "{policy} {address} is kept");
        next(&mut events, "the loss", |event| match event {
            Event::Address(a) if a.spec.address == wanted => {
                (a.state == AddressState::Duplicate).then_some(())
            }
            _ => None,
        });
        assert!(!bed.host.ip("addr").contains(&format!("{address}/")), "{address} is the kernel's still");
        let rival = addresses(&daemon)[address].rival.clone();
        assert_eq!(rival.as_deref(), Some("02:bb:00:00:00:01"));
    }
    daemon.stop();
}

#[test]
fn a_link_that_comes_back_starts_again() {
    let bed = Bed::new("dadlink");
    let mut daemon = start(&bed);
    daemon.ok("add a");
    let all = ["192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11"];
    for address in all {
        let len = if address.contains(':') { 64 } else { 24 };
        let fast = if address.ends_with('1') { "fast-only" } else { "" };
        daemon.ok(&format!("addr add {address}/{len} dev {DEVICE} afnetns a nodad {fast}"));
    }
    // Those are used at once whatever comes; these are asked for.
    for (address, options) in [("192.0.2.20/24", ""), ("192.0.2.21/24", "fast-only"), ("2001:db8::20/64", "")]
    {
        daemon.ok(&format!("addr add {address} dev {DEVICE} afnetns a nowait {options}"));
    }
    for address in ["192.0.2.20", "192.0.2.21", "2001:db8::20"] {
        await_state(&daemon, address, AddressState::Ok);
    }
    for (ns, device) in [(&bed.peer, PEER), (&bed.host, DEVICE)] {
        let mut events = monitor(&daemon);
        ns.ip(&format!("link set {device} down"));
        if device == PEER {
            // Another host moves in while nobody looks.
            bed.peer.ip(&format!("addr add 192.0.2.21/24 dev {PEER}"));
        }
        // What is given meanwhile waits.
        let output = daemon.afnet(&format!("addr add 192.0.2.30/24 dev {DEVICE} afnetns a wait 1"));
        assert_eq!(output.status.code(), Some(4), "{}", String::from_utf8_lossy(&output.stderr));
        ns.ip(&format!("link set {device} up"));
        for address in ["192.0.2.20", "2001:db8::20"] {
            let address: IpAddr = address.parse().unwrap();
            next(&mut events, "asked for again", |event| match event {
                Event::Address(a) if a.spec.address == address => {
                    (a.state == AddressState::Tentative).then_some(())
                }
                _ => None,
            });
        }
        for address in ["192.0.2.20", "192.0.2.30", "2001:db8::20"].iter().chain(&all) {
            await_state(&daemon, address, AddressState::Ok);
        }
        await_state(&daemon, "192.0.2.21", AddressState::Duplicate);
        for address in ["192.0.2.10/32", "192.0.2.20/32", "2001:db8::10/128", "2001:db8::20/128"] {
            wait::until_true(address, || bed.host.ip("addr").contains(address));
        }
        daemon.ok(&format!("addr del 192.0.2.30 dev {DEVICE}"));
    }
    bed.peer.run("ping -c 1 -W 9 192.0.2.11");
    // The kernel has lost the host's own IPv6 addresses, so `stop` would not find what was there before.
    daemon.kill();
}

#[test]
fn a_restarted_daemon_goes_on() {
    let bed = Bed::new("dadrestart");
    let mut daemon = start(&bed);
    daemon.ok("add a");
    bed.peer.ip(&format!("addr add 192.0.2.50/24 dev {PEER}"));
    let taken = daemon.afnet(&format!("addr add 192.0.2.50/24 dev {DEVICE} afnetns a wait 90"));
    assert_eq!(taken.status.code(), Some(3));
    for address in ["192.0.2.10/24", "2001:db8::10/64"] {
        daemon.ok(&format!("addr add {address} dev {DEVICE} afnetns a wait 90"));
    }
    for address in ["192.0.2.20/24", "2001:db8::20/64", "2001:db8::21/64"] {
        let fast = if address.contains("::21") { "fast-only" } else { "" };
        daemon.ok(&format!("addr add {address} dev {DEVICE} afnetns a nowait {fast}"));
    }
    daemon.kill();
    let wire = Wire::open(&bed.peer, PEER);
    daemon.restart();
    // Found free before: used at once, and not asked for again.
    for address in ["192.0.2.10", "2001:db8::10"] {
        assert_eq!(state(&daemon, address), AddressState::Ok);
    }
    assert_eq!(state(&daemon, "192.0.2.50"), AddressState::Duplicate);
    for address in ["192.0.2.20", "2001:db8::20", "2001:db8::21"] {
        await_state(&daemon, address, AddressState::Ok);
    }
    // All that was asked for until the one that had to be is announced.
    let expected = Ipv4Addr::new(192, 0, 2, 20);
    let mut asked = Vec::new();
    wire.expect("its announcement", |frame| {
        let (_, sender, target) = packet::read_arp(frame)?;
        asked.extend(sender.1.is_unspecified().then_some(target.1));
        (sender.1 == expected).then_some(())
    });
    asked.dedup();
    assert_eq!(asked, [expected]);
    daemon.stop();
}

#[test]
fn a_moved_address_is_announced_and_not_asked_for() {
    let bed = Bed::new("dadmove");
    let mut daemon = start(&bed);
    for line in ["add a", "add b"] {
        daemon.ok(line);
    }
    for (address, options) in [("192.0.2.10/24", "fast-only"), ("192.0.2.11/24", ""), ("2001:db8::10/64", "")]
    {
        daemon.ok(&format!("addr add {address} dev {DEVICE} afnetns a nodad {options}"));
        let alone = address.split('/').next().unwrap();
        let wire = Wire::open(&bed.peer, PEER);
        // (It is announced already, as a new one: for IPv6 that looks different.)
        daemon.ok(&format!("addr move {alone} dev {DEVICE} afnetns b"));
        let all = addresses(&daemon);
        assert_eq!((all[alone].name.as_str(), all[alone].state), ("b", AddressState::Ok));
        wire.expect("an announcement", |frame| defends(frame, alone).then_some(()));
        bed.peer.run(&format!("ping -c 1 -W 9 {alone}"));
        daemon.ok(&format!("addr move {alone} dev {DEVICE} afnetns b"));
    }
    let refused = daemon.fails(&format!("addr move 192.0.2.99 dev {DEVICE} afnetns b"));
    assert!(refused.contains("no compartment has"), "{refused}");
    daemon.stop();
}

#[test]
fn a_flood_of_conflicts_is_bounded() {
    let bed = Bed::new("dadflood");
    let mut daemon = start(&bed);
    daemon.ok("add victim");
    daemon.ok("add evil");
    daemon.ok(&format!("addr add 192.0.2.10/24 dev {DEVICE} afnetns victim nodad"));
    daemon.ok(&format!("addr add 192.0.2.66/24 dev {DEVICE} afnetns evil nodad defend c"));
    daemon.ok(&format!("addr add 198.51.100.0/24 dev {DEVICE} afnetns evil delegated fast-only"));
    let wire = Wire::open(&bed.peer, PEER);
    let own = claim("192.0.2.66");
    let begin = Instant::now();
    for round in 0..100u8 {
        for host in 0..200u8 {
            wire.send(&own);
            wire.send(&claim(&format!("198.51.100.{host}")));
        }
        // The daemon serves others meanwhile.
        if round % 20 == 0 {
            assert_eq!(state(&daemon, "192.0.2.66"), AddressState::Ok);
            bed.peer.run("ping -c 1 -W 9 192.0.2.10");
        }
    }
    assert_eq!(state(&daemon, "192.0.2.66"), AddressState::Ok);
    let seconds = begin.elapsed().as_secs();
    let mut defences = 0;
    while wire.find(Duration::from_millis(200), |f| defends(f, "192.0.2.66").then_some(())).is_some() {
        defences += 1;
    }
    // Two are those of every new address.
    assert!(defences <= 2 + 1 + seconds / 10 + 1, "{defences} announcements in {seconds} s");
    assert_eq!(state(&daemon, "192.0.2.10"), AddressState::Ok);
    daemon.stop();
}
