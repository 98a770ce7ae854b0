//! Packets of IGMP and MLD are passed, and those that a host must hear reach the daemon; what the host's kernel says itself
//! is taken where the daemon speaks.

mod common;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV6, UdpSocket},
    time::Duration,
};

use afnet_abi::vlan::Vlan;
use afnet_bpf::{Counter, Demux, DemuxConfig, Limits, Membership};
use afnet_tests::{
    membership::{self, Said},
    netns::Netns,
    veth::Veth,
    wait,
    wire::Wire,
};
use common::{
    Bench, PEER, UNTAGGED, Verdict,
    frames::{Ip4, Nd, tag},
};
use rustix::io::Errno;
use rustix::net::sockopt::{set_ip_add_membership_with_ifindex, set_ipv6_multicast_hops};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};

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
            assert_eq!(
                bench.memberships(),
                [Membership { kernels: false, vlan: UNTAGGED, packet: packet.clone() }]
            );
            // A frame may have a padding behind the packet.
            let padded = tag(&[&igmp(kind)[..], &[0; 20]].concat(), &[(0x8100, 7)]);
            bench.expect_pass("tagged, padded", &padded, Counter::PassIgmp);
            assert_eq!(bench.memberships(), [Membership { kernels: false, vlan: seven, packet }]);
        }
        for kind in [130, 131] {
            let frame = Nd { kind, ..Nd::solicit("fe80::99", "ff15::1") }.frame();
            bench.expect_pass("MLD", &frame, Counter::PassMld);
            assert_eq!(
                bench.memberships(),
                [Membership { kernels: false, vlan: UNTAGGED, packet: frame[14..].to_vec() }]
            );
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

/// A host whose kernel speaks at `dev0`, and what arrives at the other end of it.
struct Speaking {
    ns: Netns,
    peer: Netns,
    demux: Demux,
    arriving: Wire,
}

impl Speaking {
    fn new() -> Self {
        let (ns, peer) = (Netns::new("speak"), Netns::new("speak-peer"));
        Veth::default().connect((&ns, "dev0"), (&peer, "peer0"));
        let limits = Limits { compartments: 16, addresses: 64, prefixes: 16, claims: 64, groups: 16 };
        let (ifindex, mac) = (ns.ifindex("dev0"), ns.mac("dev0"));
        let demux = Demux::load(&DemuxConfig { ifindex, mac, queues: 1, frags: false, limits });
        Self { demux: demux.expect("load (needs root)"), arriving: Wire::open(&peer, "peer0"), ns, peer }
    }

    fn take(&mut self, speaker: u64) {
        let demux = &mut self.demux;
        self.ns.enter(|| demux.take_reports(speaker)).expect("attach to dev0");
    }

    /// Has the kernel join a group, of which it then speaks.
    fn join(&self, group: &str) -> UdpSocket {
        let any = if group.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = self.ns.enter(|| UdpSocket::bind(any)).expect("bind");
        let ifindex = self.ns.ifindex("dev0");
        match group.parse().expect("an address") {
            IpAddr::V6(group) => socket.join_multicast_v6(&group, ifindex).expect("join"),
            IpAddr::V4(group) => {
                let any = Ipv4Addr::UNSPECIFIED;
                set_ip_add_membership_with_ifindex(&socket, &group, &any, ifindex).expect("join");
            }
        }
        socket
    }

    /// The kernel's reports of a group that were taken.
    fn taken(&mut self, group: &str) -> usize {
        let mut found = 0;
        let drained = self.demux.memberships().drain(|m| {
            let about = |s: &Said| matches!(s, Said::Record(_, of, _) if of.to_string() == group);
            let said = membership::read(&m.packet).unwrap_or_default();
            found += usize::from(m.kernels && said.iter().any(about));
        });
        drained.expect("read the ring");
        found
    }
}

fn about(frame: &[u8], group: &str) -> Option<()> {
    let said = membership::read(frame.get(14..)?)?;
    said.iter().any(|s| matches!(s, Said::Record(_, of, _) if of.to_string() == group)).then_some(())
}

const GROUPS: [&str; 2] = ["239.1.2.3", "ff15::123"];

#[test]
fn the_kernels_reports_are_taken_while_somebody_speaks() {
    let mut bed = Speaking::new();
    // Attached, but nobody has said that he is there.
    bed.take(u64::MAX);
    for group in GROUPS {
        let _socket = bed.join(group);
        bed.arriving.expect("a report", |frame| about(frame, group));
        assert_eq!(bed.taken(group), 0);
    }
    bed.demux.speak_on(Duration::from_secs(3600));
    for group in ["239.1.2.4", "ff15::124"] {
        let socket = bed.join(group);
        wait::until_true("the report to be taken", || bed.taken(group) > 0);
        drop(socket);
        wait::until_true("the leave to be taken", || bed.taken(group) > 0);
        bed.arriving.expect_none(Duration::from_millis(100), "a report", |frame| about(frame, group));
    }
    // Over, and there again.
    for group in GROUPS {
        bed.demux.speak_on(Duration::ZERO);
        let _socket = bed.join(group);
        bed.arriving.expect("a report", |frame| about(frame, group));
        bed.demux.speak_on(Duration::from_secs(3600));
    }
    let demux = &mut bed.demux;
    bed.ns.enter(|| demux.give_reports_back()).expect("detach");
    for group in ["239.1.2.5", "ff15::125"] {
        let _socket = bed.join(group);
        bed.arriving.expect("a report", |frame| about(frame, group));
    }
}

/// What root sends by packet sockets: the speaker's reports leave, others' are dropped, and nothing else is.
#[test]
fn only_reports_are_kept_back_and_not_the_speakers() {
    let mut bed = Speaking::new();
    let (speaker, stranger) = (Wire::open(&bed.ns, "dev0"), Wire::open(&bed.ns, "dev0"));
    bed.take(speaker.cookie());
    bed.demux.speak_on(Duration::from_secs(3600));
    let own = bed.ns.mac("dev0");
    let from = |mut frame: Vec<u8>, mac: [u8; 6]| {
        frame[6..12].copy_from_slice(&mac);
        frame
    };
    let mld = |kind| Nd { kind, ..Nd::solicit("fe80::99", "ff15::1") };
    let reports =
        [0x12, 0x16, 0x17, 0x22].map(igmp).into_iter().chain([131, 132, 143].map(|k| mld(k).frame()));
    let reports: Vec<Vec<u8>> = reports.map(|frame| from(frame, own)).collect();
    let arrives = |frame: &[u8]| bed.arriving.expect("the frame", |other| (other == frame).then_some(()));
    let dropped = || bed.demux.counters().expect("counters")[Counter::DropReport as usize];
    for (frame, count) in reports.iter().zip(1..) {
        speaker.send(frame);
        arrives(frame);
        let foreign = from(frame.clone(), [2, 9, 9, 9, 9, 9]);
        stranger.send(&foreign);
        arrives(&foreign);
        let tagged = tag(frame, &[(0x8100, 7)]);
        stranger.send(&tagged);
        arrives(&tagged);
        assert!(!stranger.offer(frame), "it is dropped");
        assert_eq!(dropped(), count);
    }
    // Queries of a router on this host, and solicitations.
    for frame in [igmp(0x11), mld(130).frame(), mld(135).frame(), igmp(0x13)] {
        let frame = from(frame, own);
        stranger.send(&frame);
        arrives(&frame);
    }
    // What is cut is a report still, as soon as it has a type.
    reports.iter().for_each(|frame| {
        (15..frame.len()).for_each(|len| _ = stranger.offer(&frame[..len]));
    });
    assert!(dropped() >= reports.len() as u64 * 8, "{}", dropped());
    stranger.send(&from(igmp(0x11), own));
    bed.arriving.expect("a query", |frame| (frame.get(38..) == igmp(0x11).get(38..)).then_some(()));
}

/// As the kernel's reports, which are from a raw socket of its own: of any length, and too many.
#[test]
fn reports_are_taken_as_far_as_there_is_room() {
    let mut bed = Speaking::new();
    bed.take(u64::MAX);
    bed.demux.speak_on(Duration::from_secs(3600));
    for end in [(&bed.ns, "dev0"), (&bed.peer, "peer0")] {
        end.0.ip(&format!("link set {} mtu 3000", end.1));
    }
    let raw = bed.ns.enter(|| socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)));
    let raw = raw.expect("a raw socket");
    set_ipv6_multicast_hops(&raw, 1).expect("set the hop limit");
    let to = SocketAddrV6::new("ff02::16".parse().expect("an address"), 0, 0, bed.ns.ifindex("dev0"));
    // What is taken looks to it as if it had been dropped.
    let send =
        |message: &[u8]| assert_eq!(sendto(&raw, message, SendFlags::empty(), &to), Err(Errno::NOBUFS));
    for (length, packet) in [(8, 48), (1460, 1500), (1461, 1500), (2500, 1500)] {
        let mut message = vec![0; length];
        message[0] = 143;
        send(&message);
        let mut taken = Vec::new();
        // The kernel's own have a hop-by-hop header.
        let drained = bed.demux.memberships().drain(|m| {
            taken.extend((m.packet[6] == 58).then_some((m.kernels, m.packet.len())));
        });
        drained.expect("read the ring");
        assert_eq!(taken, [(true, packet)], "{length}");
    }
    let count = |demux: &Demux, counter: Counter| demux.counters().expect("counters")[counter as usize];
    let before = count(&bed.demux, Counter::TakeReport);
    for _ in 0..1000 {
        send(&[143, 0, 0, 0, 0, 0, 0, 0]);
    }
    let (taken, lost) =
        (count(&bed.demux, Counter::TakeReport) - before, count(&bed.demux, Counter::MembershipLost));
    assert!(taken > 100 && lost > 0 && taken + lost >= 1000, "{taken} {lost}");
    bed.arriving
        .expect_none(Duration::from_millis(100), "a report", |f| (f.get(54) == Some(&143)).then_some(()));
}
