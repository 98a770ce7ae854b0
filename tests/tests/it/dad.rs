//! Duplicate address detection: is an address free (RFC 5227 2.1, RFC 4862 5.4, RFC 7527)? Judged by the kernel of the
//! peer as the rival, in both orders, by busybox's `arping -D`, by ndisc6, and by what is on the wire.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use afnet_abi::control::{Address, AddressState, Answer, Request};
use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::{Bed, DEVICE, PEER},
    packet::{self, BROADCAST, Mac},
    wait,
    wire::Wire,
};

/// Time for what takes seconds on an idle machine.
pub(crate) const LONG: Duration = Duration::from_secs(90);
pub(crate) const STRANGER: Mac = [2, 0xbb, 0, 0, 0, 1];
pub(crate) const NO_MAC: Mac = [0; 6];
/// Tags of the realm `vlan 5`.
const FIVE: &[(u16, u16)] = &[(0x8100, 5)];

/// A daemon that asks, between kernels that do.
#[track_caller]
pub(crate) fn start(bed: &Bed) -> Afnetd<'_> {
    for (ns, device) in [(&bed.host, DEVICE), (&bed.peer, PEER)] {
        ns.sysctl(&format!("ipv6/conf/{device}/accept_dad"), "1");
    }
    Afnetd::start_asking(&bed.host, &["--device", DEVICE])
}

/// Addresses as the daemon has them now, by text and VLAN: `192.0.2.10`, `192.0.2.10@5`.
#[track_caller]
pub(crate) fn addresses(daemon: &Afnetd<'_>) -> BTreeMap<String, Address> {
    let list = Request::AddrList { name: None, dev: None, vlan: None, family: None };
    let Answer::Addresses(all) = daemon.request(&list) else { panic!("not a list of addresses") };
    let name = |a: &Address| match a.spec.vlan.to_string().as_str() {
        "none" => a.spec.address.to_string(),
        vlan => format!("{}@{vlan}", a.spec.address),
    };
    all.into_iter().map(|a| (name(&a), a)).collect()
}

#[track_caller]
pub(crate) fn state(daemon: &Afnetd<'_>, address: &str) -> AddressState {
    addresses(daemon).get(address).unwrap_or_else(|| panic!("no {address}")).state
}

/// Waits until an address is in this state.
#[track_caller]
pub(crate) fn await_state(daemon: &Afnetd<'_>, address: &str, wanted: AddressState) {
    let found = wait::within(LONG, || (state(daemon, address) == wanted).then_some(()));
    assert!(found.is_some(), "{address} is not {wanted:?}: {:?}", addresses(daemon)[address]);
}

/// Runs a batch to its end; returns its exit status.
#[track_caller]
fn batch(daemon: &Afnetd<'_>, lines: &str) -> Option<i32> {
    let mut command = daemon.netns().command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "--batch", "-"]).stdin(Stdio::piped());
    let mut child = command.spawn().expect("start afnet");
    std::io::Write::write_all(&mut child.stdin.take().expect("its input"), lines.as_bytes()).expect("write");
    child.wait().expect("wait for afnet").code()
}

/// ARP as a test wants it: whether it is a probe, and for which address.
fn arp_of(frame: &[u8]) -> Option<(bool, Ipv4Addr)> {
    let (op, sender, target) = packet::read_arp(frame)?;
    (op == 1 && (sender.1.is_unspecified() || sender.1 == target.1))
        .then_some((sender.1.is_unspecified(), target.1))
}

/// The target of a solicitation from `::`.
fn probed6(frame: &[u8]) -> Option<Ipv6Addr> {
    let (source, _) = packet::addresses(frame)?;
    let unspecified = source == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    (unspecified && frame.get(54) == Some(&135))
        .then(|| <[u8; 16]>::try_from(&frame[62..78]).expect("a target").into())
}

/// Whatever of it a frame is, without its tag: `probe 192.0.2.10`, `announce 192.0.2.10@5`.
fn describe(frame: &[u8]) -> Option<String> {
    let (inner, realm) = match packet::untag(frame, FIVE) {
        Some(inner) => (inner, "@5"),
        None => (frame.to_vec(), ""),
    };
    let text = match (arp_of(&inner), probed6(&inner), packet::read_advertisement(&inner)) {
        (Some((true, address)), ..) => format!("probe {address}"),
        (Some((false, address)), ..) => format!("announce {address}"),
        (_, Some(address), _) => format!("probe {address}"),
        (.., Some(na)) if na.addresses.1.is_ipv6() && na.flags & 0b010 == 0 => {
            format!("announce {}", na.target)
        }
        _ => return None,
    };
    Some(text + realm)
}

#[test]
fn free_addresses_are_probed_announced_and_used() {
    let bed = Bed::new("dadfree");
    let mut daemon = start(&bed);
    let wire = Wire::open(&bed.peer, PEER);
    // (address, options, probes, announcements that are awaited, who asks is our affair)
    let all = [
        ("192.0.2.10/24", "", 3, 2),
        ("192.0.2.11/24", "fast-only", 3, 2),
        ("192.0.2.10/24", "vlan 5", 3, 2),
        ("2001:db8::10/64", "", 1, 3),
        ("2001:db8::11/64", "fast-only", 1, 3),
        ("2001:db8::10/64", "vlan 5", 1, 3),
    ];
    let lines: String = all
        .iter()
        .map(|(address, options, ..)| {
            format!("addr add {address} dev {DEVICE} afnetns a {options} wait 90\n")
        })
        .collect();
    assert_eq!(batch(&daemon, &format!("add a\n{lines}")), Some(0));
    let found = addresses(&daemon);
    assert!(found.len() == 6 && found.values().all(|a| a.state == AddressState::Ok), "{found:?}");
    let mut seen: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    let name = |address: &str, options: &str| {
        let address = address.split('/').next().unwrap();
        if options == "vlan 5" { format!("{address}@5") } else { address.to_owned() }
    };
    wire.find(LONG, |frame| {
        if let Some(text) = describe(frame) {
            let (what, address) = text.split_once(' ').unwrap();
            let entry = seen.entry(address.to_owned()).or_default();
            if what == "probe" {
                assert_eq!(entry.1, 0, "{text} after it was announced");
                entry.0 += 1;
            } else {
                entry.1 += 1;
            }
        }
        let done = |(address, options, _, announcements): &(&str, &str, u32, u32)| {
            seen.get(&name(address, options)).is_some_and(|seen| seen.1 >= *announcements)
        };
        all.iter().all(done).then_some(())
    })
    .unwrap_or_else(|| panic!("not all announced: {seen:?}"));
    for (address, options, probes, _) in all {
        assert_eq!(seen[&name(address, options)].0, probes, "probes for {address} {options}");
    }
    for address in ["192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11"] {
        bed.peer.run(&format!("ping -c 1 -W 9 {address}"));
    }
    daemon.stop();
}

#[test]
fn a_tentative_address_is_silent_and_not_the_kernels() {
    let bed = Bed::new("dadsilent");
    let mut daemon = start(&bed);
    daemon.ok("add a");
    let wire = Wire::open(&bed.peer, PEER);
    let (theirs, address) = (bed.peer_mac(), Ipv4Addr::new(192, 0, 2, 10));
    daemon.ok(&format!("addr add {address}/24 dev {DEVICE} afnetns a nowait"));
    // Asked for all the time, the first that is heard of it is the announcement.
    let request = packet::arp(1, (theirs, Ipv4Addr::new(192, 0, 2, 100)), (NO_MAC, address), BROADCAST);
    let deadline = Instant::now() + LONG;
    loop {
        assert!(Instant::now() < deadline, "never in use");
        wire.send(&request);
        let heard = wire.find(Duration::from_millis(20), |frame| {
            packet::read_arp(frame).filter(|arp| arp.1.1 == address)
        });
        if let Some((op, sender, target)) = heard {
            assert_eq!((op, sender.1, target.1), (1, address, address), "an announcement");
            break;
        }
    }
    wait::until("an answer", || {
        wire.send(&request);
        wire.find(Duration::from_millis(100), |frame| {
            packet::read_arp(frame).filter(|arp| (arp.0, arp.1.1) == (2, address))
        })
    });
    daemon.stop();
}

#[test]
fn what_a_host_has_already_is_a_duplicate() {
    let bed = Bed::new("dadfirst");
    let mut daemon = start(&bed);
    daemon.ok("add a");
    let rival = bed.peer.ip(&format!("link show {PEER}"));
    for (address, len, nodad) in [
        ("192.0.2.50", 24, ""),
        ("192.0.2.51", 24, ""),
        ("2001:db8::50", 64, "nodad"),
        ("2001:db8::51", 64, "nodad"),
    ] {
        bed.peer.ip(&format!("addr add {address}/{len} dev {PEER} {nodad}"));
        let fast = if address.ends_with('1') { "fast-only" } else { "" };
        let output = daemon.afnet(&format!("addr add {address}/{len} dev {DEVICE} afnetns a {fast} wait 90"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{address}: {said}");
        assert!(said.contains("another host") && said.contains(address), "{said}");
        assert_eq!(state(&daemon, address), AddressState::Duplicate);
        wait::until_true("the rival's MAC address", || {
            addresses(&daemon)[address].rival.as_ref().is_some_and(|mac| rival.contains(mac.as_str()))
        });
        let listed = daemon.ok("addr list");
        assert!(listed.lines().any(|l| l.contains(address) && l.contains(" duplicate of ")), "{listed}");
        assert!(
            !bed.host.ip("addr").contains(&format!("{address}/")),
            "{address} is no address of the kernel"
        );
        // The host reaches who has it.
        bed.host.run(&format!("ping -c 1 -W 9 {address}"));
    }
    assert_eq!(daemon.json("addr list").as_array().unwrap().len(), 4);
    // Gone there, it can be had.
    bed.peer.ip(&format!("addr del 2001:db8::51/64 dev {PEER}"));
    daemon.ok(&format!("addr del 2001:db8::51 dev {DEVICE}"));
    daemon.ok(&format!("addr add 2001:db8::51/64 dev {DEVICE} afnetns a fast-only wait 90"));
    daemon.stop();
}

#[test]
fn what_we_have_already_another_host_does_not_get() {
    let bed = Bed::new("dadsecond");
    let mut daemon = start(&bed);
    daemon.ok("add a");
    for (address, options) in [
        ("192.0.2.10/24", ""),
        ("192.0.2.11/24", "fast-only"),
        ("2001:db8::10/64", ""),
        ("2001:db8::11/64", "fast-only"),
    ] {
        daemon.ok(&format!("addr add {address} dev {DEVICE} afnetns a nodad {options}"));
        let alone = address.split('/').next().unwrap();
        assert_eq!(state(&daemon, alone), AddressState::Ok);
        if alone.contains(':') {
            bed.peer.ip(&format!("addr add {address} dev {PEER}"));
            let failed = wait::within(LONG, || {
                bed.peer.ip(&format!("-6 addr show dev {PEER} dadfailed")).contains(alone).then_some(())
            });
            assert!(failed.is_some(), "{}", bed.peer.ip("-6 addr"));
            bed.peer.run(&format!("ndisc6 -1 -r 3 {alone} {PEER}"));
        } else {
            let asked = bed.peer.attempt(&format!("busybox arping -D -f -c 3 -w 9 -I {PEER} {alone}"));
            assert!(!asked.0, "busybox arping finds {alone} free: {}", asked.1);
        }
        assert_eq!(state(&daemon, alone), AddressState::Ok);
    }
    let free = bed.peer.attempt(&format!("busybox arping -D -c 1 -w 1 -I {PEER} 192.0.2.77"));
    assert!(free.0, "the judge knows a free address: {}", free.1);
    daemon.stop();
}

#[test]
fn whoever_probes_at_the_same_time_is_a_rival() {
    let bed = Bed::new("dadboth");
    let mut daemon = start(&bed);
    daemon.ok("add a");
    let wire = Wire::open(&bed.peer, PEER);
    for (address, options) in [
        ("192.0.2.10", ""),
        ("192.0.2.10", "vlan 5"),
        ("2001:db8::10", ""),
        ("2001:db8::11", "fast-only"),
        ("2001:db8::10", "vlan 5"),
    ] {
        let len = if address.contains(':') { 64 } else { 24 };
        let (tags, name) = match options {
            "vlan 5" => (FIVE, format!("{address}@5")),
            _ => (&[][..], address.to_owned()),
        };
        let probe = match address.parse().unwrap() {
            IpAddr::V4(v4) => packet::arp(1, (STRANGER, Ipv4Addr::UNSPECIFIED), (NO_MAC, v4), BROADCAST),
            IpAddr::V6(v6) => packet::neighbour_solicitation(STRANGER, Ipv6Addr::UNSPECIFIED, v6),
        };
        let probe = packet::tag(probe, tags);
        // The other host begins before us and does not stop: whatever stalls, some of its probes meet ours.
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    wire.send(&probe);
                    std::thread::sleep(Duration::from_millis(10));
                }
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                daemon.ok(&format!("addr add {address}/{len} dev {DEVICE} afnetns a nowait {options}"));
                await_state(&daemon, &name, AddressState::Duplicate);
            }));
            done.store(true, Ordering::Relaxed);
            result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
    }
    daemon.stop();
}

/// Sends a daemon's first two probes for an address back to it, the second one with another MAC address; returns the
/// nonces of all that were seen until it was used.
fn reflect(daemon: &Afnetd<'_>, wire: &Wire, name: &str, nonce_at: usize) -> Vec<Vec<u8>> {
    let mut nonces = Vec::new();
    let deadline = Instant::now() + LONG;
    while state(daemon, name) == AddressState::Tentative {
        assert!(Instant::now() < deadline, "{name} is tentative for ever");
        while let Some(mut frame) = wire.find(Duration::from_millis(50), |frame| {
            (describe(frame)? == format!("probe {name}")).then(|| frame.to_vec())
        }) {
            nonces.push(frame[nonce_at..nonce_at + 6].to_vec());
            if nonces.len() == 2 {
                frame[6..12].copy_from_slice(&STRANGER);
            }
            if nonces.len() <= 2 {
                wire.send(&frame);
            }
        }
    }
    assert_eq!(state(daemon, name), AddressState::Ok);
    nonces
}

#[test]
fn a_probe_that_comes_back_is_no_rival() {
    let bed = Bed::new("dadloop");
    let mut daemon = start(&bed);
    daemon.ok("add a");
    for (name, options, tags) in [("2001:db8::11", "fast-only", &[][..]), ("2001:db8::10@5", "vlan 5", FIVE)]
    {
        let address = name.trim_end_matches("@5");
        // One is probed for a second, and this test may be stalled for longer: then once more.
        let seen = wait::within(LONG, || {
            let wire = Wire::open(&bed.peer, PEER);
            daemon.ok(&format!("addr add {address}/64 dev {DEVICE} afnetns a nowait {options}"));
            let nonces = reflect(&daemon, &wire, name, tags.len() * 4 + 80);
            daemon.ok(&format!("addr del {address} dev {DEVICE} {}", options.replace("fast-only", "")));
            (nonces.len() >= 4).then_some(nonces)
        });
        let mut nonces = seen.expect("probes go on after one came back (RFC 7527 4.1)");
        let count = nonces.len();
        nonces.sort();
        nonces.dedup();
        assert_eq!(nonces.len(), count, "each has a nonce of its own");
    }
    daemon.stop();
}

#[test]
fn a_thousand_addresses_of_each_family_side_by_side() {
    let bed = Bed::new("dadthousand");
    let mut daemon = start(&bed);
    let mut lines = String::new();
    for compartment in 0..20 {
        lines += &format!("add c{compartment}\n");
    }
    for i in 0..1000 {
        let (name, (high, low)) = (i % 20, (i / 200, i % 200 + 1));
        let fast = if i % 2 == 0 { "" } else { "fast-only" };
        lines += &format!("addr add 198.18.{high}.{low}/16 dev {DEVICE} afnetns c{name} {fast} wait 120\n");
        lines += &format!("addr add 2001:db8:2::{i:x}/64 dev {DEVICE} afnetns c{name} {fast} wait 120\n");
    }
    let begin = Instant::now();
    assert_eq!(batch(&daemon, &lines), Some(0));
    let time = begin.elapsed();
    println!("1000 addresses of each family: usable after {time:.2?}; the RFCs' longest time is 7 s");
    let found = addresses(&daemon);
    assert!(found.len() == 2000 && found.values().all(|a| a.state == AddressState::Ok));
    for address in ["198.18.0.1", "198.18.4.200", "2001:db8:2::0", "2001:db8:2::3e7"] {
        let judge = if address.contains(':') { "ndisc6 -1 -r 3" } else { "arping -c 1 -w 9 -i" };
        let line = match judge {
            "ndisc6 -1 -r 3" => format!("{judge} {address} {PEER}"),
            _ => format!("{judge} {PEER} {address}"),
        };
        bed.peer.run(&line);
    }
    daemon.stop();
}
