//! `--membership own`: afnetd speaks in the untagged realm, for the kernel's sockets as well. A bridge that snoops judges
//! what is known in the end; a capture at the other end, what has been said on the way, and by whom.

use std::{
    net::{IpAddr, Ipv6Addr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    time::Duration,
};

use afnet_tenant::{Endpoint, Membership};
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, HOST_V4, PEER, PEER_V4, socket_in},
    membership::{Query, Said, read},
    packet, wait,
    wire::Wire,
};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

use crate::groups::{
    FAMILIES, await_forgotten, await_known, await_queriers, ip, known, membership, snoop, start,
};

const PORT: u16 = 5000;
/// Longer than between a report and its repetition (RFC 3376 8.11).
const QUIET: Duration = Duration::from_millis(1500);
const ROUTER_MAC: packet::Mac = [2, 0xcc, 0, 0, 0, 9];

/// A socket of the host in a group at the device: with all sources, or some.
struct HostSocket(UdpSocket);

impl HostSocket {
    fn join(bed: &Bed, group: &str, sources: &[&str]) -> Self {
        let any = if group.contains(':') { "::" } else { "0.0.0.0" };
        let this = Self(socket_in(&bed.host, any, 0));
        match sources {
            [] => this.set(bed, group, 42, &[]),
            some => some.iter().for_each(|source| this.set(bed, group, 46, &storage(ip(source)))),
        }
        this
    }

    /// MCAST_JOIN_GROUP and its kin (RFC 3678): the interface, the group, what comes behind.
    fn set(&self, bed: &Bed, group: &str, option: i32, rest: &[u8]) {
        let ifindex = bed.host.ifindex(DEVICE).to_ne_bytes();
        let value = [&ifindex[..], &[0; 4], &storage(ip(group)), rest].concat();
        let level = if group.contains(':') { libc::IPPROTO_IPV6 } else { libc::IPPROTO_IP };
        set_option(&self.0, level, option, &value);
    }
}

fn set_option(socket: &impl AsRawFd, level: i32, option: i32, value: &[u8]) {
    let len = libc::socklen_t::try_from(value.len()).expect("short");
    // SAFETY: the value lives through the call, and has that many bytes.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, value.as_ptr().cast(), len) };
    assert_eq!(result, 0, "option {option}: {}", std::io::Error::last_os_error());
}

/// `struct sockaddr_storage`.
fn storage(address: IpAddr) -> [u8; 128] {
    let mut bytes = [0; 128];
    match address {
        IpAddr::V4(a) => {
            bytes[0] = 2;
            bytes[4..8].copy_from_slice(&a.octets());
        }
        IpAddr::V6(a) => {
            bytes[0] = 10;
            bytes[8..24].copy_from_slice(&a.octets());
        }
    }
    bytes
}

/// What a frame says of a group: kind and sources.
fn about(frame: &[u8], group: &str) -> Option<(u8, Vec<String>)> {
    let said = read(frame.get(14..)?)?;
    said.into_iter().find_map(|said| match said {
        Said::Record(kind, of, sources) if of == ip(group) => {
            Some((kind, sources.iter().map(ToString::to_string).collect()))
        }
        Said::Old(of) if of == ip(group) => Some((0x16, Vec::new())),
        Said::Leave(of) if of == ip(group) => Some((0x17, Vec::new())),
        _ => None,
    })
}

/// Waits for a report of a group and its repetition (RFC 3376 8.1), and for no more.
#[track_caller]
fn expect_twice(wire: &Wire, group: &str, kind: u8, sources: &[&str]) {
    let wanted = (kind, sources.iter().map(|s| (*s).to_owned()).collect());
    for _ in 0..2 {
        assert_eq!(wire.expect("a report", |frame| about(frame, group)), wanted, "{group}");
    }
    expect_silence(wire, group);
}

#[track_caller]
fn expect_silence(wire: &Wire, group: &str) {
    wire.expect_none(QUIET, &format!("a report of {group}"), |frame| about(frame, group));
}

fn one_compartment<'a>(bed: &'a Bed, membership_of: &str) -> (Afnetd<'a>, Endpoint) {
    let daemon = start(bed, membership_of);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    let endpoint = daemon.claim("a", PORT);
    (daemon, endpoint)
}

#[test]
fn a_querier_learns_the_filters_of_sockets_and_endpoints() {
    for versions in [(3, 2), (2, 1)] {
        let bed = Bed::new("own");
        snoop(&bed, versions);
        // Old versions know of no sources.
        let expect = |group: &str, mode, sources: &[&str]| {
            let (mode, sources) = if versions == (3, 2) { (mode, sources) } else { ("exclude", &[][..]) };
            await_known(&bed, group, mode, sources);
        };
        let early = FAMILIES.map(|(group, source)| HostSocket::join(&bed, group, &[source]));
        let (mut daemon, mut a) = one_compartment(&bed, "own");
        // A snooper of old versions takes anything but an empty filter for a join, so it must be known what it is.
        await_queriers(&daemon, versions);
        for ((group, source), socket) in FAMILIES.into_iter().zip(early) {
            // Joined before the start; its filter is known when the kernel has answered a query.
            expect(group, "include", &[source]);
            let [other, third] = if source == PEER_V4 {
                ["192.0.2.77", "192.0.2.78"]
            } else {
                ["2001:db8::77", "2001:db8::78"]
            };
            a.listen(&membership(group, false, &[other])).expect("listen");
            expect(group, "include", &[source, other]);
            let shown = daemon.ok("maddr");
            assert!(shown.contains("speaker afnetd") && shown.contains("        kernel "), "{shown}");
            let second = HostSocket::join(&bed, group, &[third]);
            expect(group, "include", &[source, other, third]);
            drop(second);
            expect(group, "include", &[source, other]);
            let all = HostSocket::join(&bed, group, &[]);
            expect(group, "exclude", &[]);
            // MCAST_BLOCK_SOURCE; what the others want is wanted.
            all.set(&bed, group, 43, &storage(ip(third)));
            expect(group, "exclude", &[third]);
            drop((socket, all));
            expect(group, "include", &[other]);
            a.leave(ip(group)).expect("leave");
            await_forgotten(&bed, group);
        }
        drop(a);
        daemon.stop();
    }
}

#[test]
fn one_speaks_and_never_against_a_member() {
    let bed = Bed::new("ownwire");
    let (mut daemon, mut a) = one_compartment(&bed, "own");
    let wire = Wire::open(&bed.peer, PEER);
    for (group, source) in FAMILIES {
        let socket = HostSocket::join(&bed, group, &[]);
        expect_twice(&wire, group, 4, &[]);
        a.join(ip(group)).expect("join");
        expect_silence(&wire, group);
        drop(socket);
        expect_silence(&wire, group);
        let socket = HostSocket::join(&bed, group, &[source]);
        expect_silence(&wire, group);
        a.leave(ip(group)).expect("leave");
        expect_twice(&wire, group, 3, &[source]);
        // From the host's own address.
        drop(socket);
        let from = wire.expect("a report", |frame| {
            about(frame, group)?;
            packet::addresses(frame).map(|(source, _)| source)
        });
        match from {
            IpAddr::V4(from) => assert_eq!(from.to_string(), HOST_V4),
            IpAddr::V6(from) => assert!(from.is_unicast_link_local(), "{from}"),
        }
        wire.expect("its repetition", |frame| about(frame, group));
        expect_silence(&wire, group);
    }
    // The solicited-node groups of an address that the kernel has, and of one that it has not.
    for (address, flag, group) in
        [("2001:db8::1:30", "", "ff02::1:ff01:30"), ("2001:db8::1:31", " fast-only", "ff02::1:ff01:31")]
    {
        daemon.ok(&format!("addr add {address}/64 dev {DEVICE} afnetns a{flag}"));
        expect_twice(&wire, group, 4, &[]);
        daemon.ok(&format!("addr del {address} dev {DEVICE}"));
        expect_twice(&wire, group, 3, &[]);
    }
    drop(a);
    daemon.stop();
}

/// A general query of each family, with 100 ms to answer.
fn ask(wire: &Wire) {
    for (from, version) in [("192.0.2.254", 3), ("fe80::fe", 2)] {
        let query = Query { version, from: ip(from), group: None, sources: &[], response: 100, ttl: 1 };
        wire.send(&query.frame(ROUTER_MAC));
    }
}

#[test]
fn the_kernel_speaks_again_without_afnetd() {
    let bed = Bed::new("owndead");
    let (mut daemon, mut a) = one_compartment(&bed, "own");
    let wire = Wire::open(&bed.peer, PEER);
    let sockets = FAMILIES.map(|(group, _)| {
        let socket = HostSocket::join(&bed, group, &[]);
        expect_twice(&wire, group, 4, &[]);
        socket
    });
    let other = |group: &str| if group.contains(':') { "ff15::9" } else { "239.9.9.9" };
    daemon.kill();
    a.set_timeout(Some(Duration::from_millis(50)));
    for (group, _) in FAMILIES {
        let answer = wait::within(wait::PATIENCE, || {
            ask(&wire);
            wire.find(Duration::from_millis(500), |frame| about(frame, group))
        });
        assert_eq!(answer, Some((2, Vec::new())), "{group}");
    }
    // The other way round, and back.
    for (membership_of, speaker) in [("kernel", "kernel"), ("own", "afnetd")] {
        daemon.restart_with(&["--device", DEVICE, "--membership", membership_of, "--no-dad"]);
        for (group, _) in FAMILIES {
            // The endpoint attaches again when it is used.
            let joined = wait::within(wait::PATIENCE, || {
                let _ = a.recv(&mut [0; 10]);
                a.join(ip(other(group))).ok()
            });
            assert!(joined.is_some(), "{group}");
            wire.expect("a report", |frame| about(frame, other(group)));
        }
        let shown = daemon.ok("maddr");
        assert!(shown.contains(&format!("speaker {speaker}")), "{shown}");
        for (group, _) in FAMILIES {
            // One answer, whoever gives it.
            ask(&wire);
            wire.expect("an answer", |frame| about(frame, group).filter(|(kind, _)| *kind == 2));
            wire.expect_none(Duration::from_millis(500), "a second answer", |frame| {
                about(frame, group).filter(|(kind, _)| *kind == 2)
            });
        }
        if speaker == "kernel" {
            daemon.kill();
        }
    }
    // When it goes, it leaves what the endpoint alone was in.
    let wire = Wire::open(&bed.peer, PEER);
    daemon.stop();
    let (mut left, mut wrong) = (Vec::new(), Vec::new());
    while let Some(frame) = wire.receive(QUIET) {
        for (group, _) in FAMILIES {
            left.extend(about(&frame, other(group)).filter(|said| *said == (3, Vec::new())).map(|_| group));
            wrong.extend(about(&frame, group).filter(|(kind, _)| ![2, 4].contains(kind)));
        }
    }
    assert!(FAMILIES.iter().all(|(group, _)| left.contains(group)), "{left:?}");
    assert_eq!(wrong, []);
    // And the kernel says itself when it leaves.
    drop(sockets);
    for (group, _) in FAMILIES {
        wire.expect("a leave", |frame| about(frame, group).filter(|(kind, _)| *kind == 3));
    }
}

/// A raw ICMPv6 socket that sends as MLD wants it: hop limit 1, Router Alert.
fn mld_socket(bed: &Bed) -> OwnedFd {
    let raw = bed.host.enter(|| socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)));
    let raw = raw.expect("a raw socket");
    set_option(&raw, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, &1i32.to_ne_bytes());
    let ifindex = bed.host.ifindex(DEVICE).to_ne_bytes();
    set_option(&raw, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, &ifindex);
    set_option(&raw, libc::IPPROTO_IPV6, libc::IPV6_HOPOPTS, &[58, 0, 5, 2, 0, 0, 1, 0]);
    raw
}

/// A report of version 2 with one record.
fn record(kind: u8, group: &str, sources: &[&str]) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv6Addr>().expect("an address").octets();
    let count = u8::try_from(sources.len()).expect("few");
    let mut report = vec![143, 0, 0, 0, 0, 0, 0, 1, kind, 0, 0, count];
    report.extend(address(group));
    sources.iter().for_each(|source| report.extend(address(source)));
    report
}

/// Root sends what it likes, and a socket in a group, or in none, is what counts.
#[test]
fn forged_reports_make_nobody_join_or_leave() {
    let bed = Bed::new("ownforged");
    let (mut daemon, a) = one_compartment(&bed, "own");
    let wire = Wire::open(&bed.peer, PEER);
    let _sockets = FAMILIES.map(|(group, _)| {
        let socket = HostSocket::join(&bed, group, &[]);
        expect_twice(&wire, group, 4, &[]);
        socket
    });
    // As the kernel's MLD, which is from a raw socket, too.
    let raw = mld_socket(&bed);
    let to: std::net::SocketAddr = "[ff02::16]:0".parse().expect("an address");
    let send = |message: &[u8]| {
        // The kernel may refuse what is too short.
        let _ = sendto(&raw, message, SendFlags::empty(), &to);
    };
    let (mine, none) = (FAMILIES[1].0, "ff15::77");
    let mut reports = vec![
        record(3, mine, &[]),
        record(6, mine, &[]),
        record(4, none, &[]),
        record(5, none, &["2001:db8::1"]),
        record(9, mine, &[]),
        record(4, "2001:db8::1", &[]),
        record(4, "ff02::1", &[]),
    ];
    let mut bent = record(4, none, &["2001:db8::1"; 3]);
    bent[11] = 200;
    let mut auxiliary = record(4, none, &[]);
    auxiliary[9] = 255;
    let mut many = record(4, none, &[]);
    many[6] = 255;
    let old =
        |kind: u8, group: &str| [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &record(0, group, &[])[12..]].concat();
    reports.extend([bent, auxiliary, many, old(131, none), old(132, mine)]);
    for report in &reports {
        (1..=report.len()).for_each(|len| send(&report[..len]));
    }
    let taken = daemon.counter(DEVICE, "take_report");
    assert!(taken > 100, "{taken}");
    // And by a packet socket, which the kernel never does.
    let packets = Wire::open(&bed.host, DEVICE);
    let mac = bed.device_mac();
    for kind in [0x12, 0x16, 0x17] {
        let message = [kind, 0, 0, 0, 239, 1, 2, 3];
        let mut header = vec![0x46, 0xc0, 0, 32, 0, 0, 0, 0, 1, 2, 0, 0, 192, 0, 2, 1, 239, 1, 2, 3];
        header.extend([0x94, 4, 0, 0]);
        let packet = [&header[..], &message].concat();
        let frame = packet::ethernet(mac, packet::group_mac(ip("239.1.2.3")), 0x0800, &packet);
        assert!(!packets.offer(&frame), "it is dropped");
    }
    assert_eq!(daemon.counter(DEVICE, "drop_report"), 3);
    // Twice what there is time for between two looks.
    let mut said = Vec::new();
    while let Some(frame) = wire.receive(2 * QUIET) {
        for group in [mine, none, FAMILIES[0].0, "2001:db8::1"] {
            said.extend(about(&frame, group).map(|what| (group, what)));
        }
    }
    assert_eq!(said, []);
    let shown = daemon.ok("maddr");
    assert!(shown.contains(mine) && !shown.contains(none), "{shown}");
    drop(a);
    daemon.stop();
}

/// Whatever version the querier has; a bridge that snoops forgets what nobody answers for.
#[test]
fn what_is_joined_stays_known_while_members_come_and_go() {
    let bed = Bed::new("ownstay");
    let (mut daemon, mut a) = one_compartment(&bed, "own");
    snoop(&bed, (2, 1));
    for (group, _) in FAMILIES {
        let socket = HostSocket::join(&bed, group, &[]);
        await_known(&bed, group, "exclude", &[]);
        a.listen(&Membership::all(ip(group))).expect("listen");
        drop(socket);
        // Some of the bridge's queries later.
        let gone = wait::within(3 * QUIET, || known(&bed, group, PEER).is_none().then_some(()));
        assert!(gone.is_none(), "{group} is forgotten");
        let socket = HostSocket::join(&bed, group, &[]);
        a.leave(ip(group)).expect("leave");
        let gone = wait::within(3 * QUIET, || known(&bed, group, PEER).is_none().then_some(()));
        assert!(gone.is_none(), "{group} is forgotten");
        drop(socket);
        await_forgotten(&bed, group);
    }
    drop(a);
    daemon.stop();
}
