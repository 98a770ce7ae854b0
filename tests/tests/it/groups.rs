//! Multicast and broadcast for endpoints: what the network is told, and who hears what. The judge is a kernel bridge that
//! asks and snoops: what it knows of groups, and what it lets through. Most of it holds whoever speaks in the untagged realm.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use afnet_abi::{control::EndpointKind, vlan::Vlan};
use afnet_tenant::{Endpoint, Error, Membership, Message};
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, HOST_V4, PEER, PEER_V4, PEER_V6},
    inside::Inside,
    netns::Netns,
    packet,
    veth::Veth,
    wait,
    wire::Wire,
};
use rustix::io::Errno;

const PORT: u16 = 5000;
/// Values of `--membership`, and who speaks then.
pub const SPEAKERS: [(&str, &str); 2] = [("kernel", "kernel"), ("own", "afnetd")];
/// Tags of the realm `vlan 5`.
const FIVE: &[(u16, u16)] = &[(0x8100, 5)];
const PEER_MAC: packet::Mac = [2, 0xbb, 0, 0, 0, 7];
/// A group of each family, and the sender's address.
pub const FAMILIES: [(&str, &str); 2] = [("239.1.2.3", PEER_V4), ("ff15::123", PEER_V6)];

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

pub fn membership(group: &str, exclude: bool, sources: &[&str]) -> Membership {
    let sources = sources.iter().map(|s| ip(s)).collect();
    Membership { group: ip(group), device: None, exclude, sources }
}

/// Puts the peer's end into a bridge that asks, in these versions, and snoops; it has the peer's addresses.
pub fn snoop(bed: &Bed, (igmp, mld): (u8, u8)) {
    let peer = &bed.peer;
    // It asks every second; answers come, and members count as gone, within a fifth of one.
    peer.ip(&format!(
        "link add br0 type bridge mcast_snooping 1 mcast_igmp_version {igmp} mcast_mld_version {mld} \
         mcast_query_interval 100 mcast_query_response_interval 20 mcast_startup_query_interval 50 \
         mcast_last_member_interval 20"
    ));
    // Afterwards: so long as an answer may take it lets everything through.
    peer.ip("link set br0 type bridge mcast_querier 1");
    peer.sysctl("ipv6/conf/br0/accept_dad", "0");
    peer.ip(&format!("link set {PEER} master br0"));
    peer.ip(&format!("addr flush dev {PEER}"));
    peer.ip(&format!("addr add {PEER_V4}/24 dev br0"));
    peer.ip(&format!("addr add {PEER_V6}/64 dev br0 nodad"));
    peer.ip("link set br0 up");
    peer.ip("route add 224.0.0.0/4 dev br0");
}

/// What the bridge knows of a group at a port: filter mode and sources.
pub fn known(bed: &Bed, group: &str, port: &str) -> Option<(String, BTreeSet<String>)> {
    let text = bed.peer.run("bridge -d -j mdb show dev br0");
    let all: serde_json::Value = serde_json::from_str(&text).expect("JSON of bridge(8)");
    let is_it = |e: &&serde_json::Value| e["grp"] == group && e["port"] == port && e.get("src").is_none();
    let entry = all[0]["mdb"].as_array()?.iter().find(is_it)?;
    let mode = entry["filter_mode"].as_str().unwrap_or("exclude").to_owned();
    let sources = entry["source_list"].as_array().into_iter().flatten();
    Some((mode, sources.filter_map(|s| Some(s["address"].as_str()?.to_owned())).collect()))
}

#[track_caller]
pub fn await_known(bed: &Bed, group: &str, mode: &str, sources: &[&str]) {
    let wanted = (mode.to_owned(), sources.iter().map(|s| (*s).to_owned()).collect());
    let found =
        wait::within(wait::PATIENCE, || (known(bed, group, PEER).as_ref() == Some(&wanted)).then_some(()));
    let table = || bed.peer.run("bridge -d mdb show dev br0");
    assert!(found.is_some(), "not {wanted:?} but {:?}: {}", known(bed, group, PEER), table());
}

#[track_caller]
pub fn await_forgotten(bed: &Bed, group: &str) {
    let found = wait::within(wait::PATIENCE, || known(bed, group, PEER).is_none().then_some(()));
    assert!(found.is_some(), "{group} is not forgotten: {}", bed.peer.run("bridge -d -s mdb show dev br0"));
}

/// Waits until a member has heard both queriers of the bridge. One that changes to an old version between its first report
/// and its first answer leaves without a word if it is the kernel (`igmp6_leave_group()`: not the last reporter).
#[track_caller]
pub fn await_queriers(daemon: &Afnetd<'_>, (igmp, mld): (u8, u8)) {
    wait::until_true("both queriers to be heard", || {
        let realms = daemon.json("maddr");
        let heard = [("igmp", igmp), ("mld", mld)].map(|(protocol, version)| {
            let is_it = |r: &serde_json::Value| r["protocol"] == protocol && r["version"] == version;
            realms.as_array().is_some_and(|all| all.iter().any(|r| is_it(r) && !r["querier"].is_null()))
        });
        heard == [true; 2]
    });
}

/// A daemon with a value of `--membership`.
pub fn start<'a>(bed: &'a Bed, membership_of: &str) -> Afnetd<'a> {
    Afnetd::start_with(&bed.host, &["--device", DEVICE, "--membership", membership_of])
}

fn two_compartments<'a>(bed: &'a Bed, membership_of: &str) -> (Afnetd<'a>, Endpoint, Endpoint) {
    let daemon = start(bed, membership_of);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("b", &["192.0.2.11/24", "2001:db8::11/64"]);
    let [a, b] = ["a", "b"].map(|name| daemon.claim(name, PORT));
    (daemon, a, b)
}

/// A socket of the peer on any port, and a payload that says which it is.
fn sender(bed: &Bed, address: &str) -> UdpSocket {
    bed.peer.enter(|| UdpSocket::bind(at(address, 0))).expect("bind")
}

/// Sends until the endpoint has heard it, and answers with what came.
#[track_caller]
fn until_heard(endpoint: &mut Endpoint, mut send: impl FnMut()) -> afnet_tenant::Received {
    let mut buffer = [0; 2000];
    endpoint.set_timeout(Some(Duration::from_millis(100)));
    let heard = wait::within(wait::PATIENCE, || {
        send();
        endpoint.recv(&mut buffer).ok()
    });
    endpoint.set_timeout(Some(wait::PATIENCE));
    heard.expect("the endpoint hears nothing")
}

/// Throws away what has come, until nothing comes for a while.
fn drain(endpoint: &mut Endpoint) {
    endpoint.set_timeout(Some(Duration::from_millis(200)));
    while endpoint.recv(&mut [0; 2000]).is_ok() {}
    endpoint.set_timeout(Some(wait::PATIENCE));
}

#[track_caller]
fn refused(result: Result<(), Error>, errno: Errno) -> String {
    match result {
        Err(Error::Refused(refusal)) if refusal.errno == errno.raw_os_error() => refusal.message,
        other => panic!("not {errno:?}: {other:?}"),
    }
}

#[test]
fn a_querier_learns_the_merged_filters() {
    let both = SPEAKERS.iter().flat_map(|speaker| [(speaker, (3, 2)), (speaker, (2, 1))]);
    for ((membership_of, speaker), versions) in both {
        let bed = Bed::new("groups");
        let (mut daemon, mut a, mut b) = two_compartments(&bed, membership_of);
        let others = ["239.9.9.9", "ff15::999"];
        others.iter().for_each(|group| a.join(ip(group)).expect("join"));
        snoop(&bed, versions);
        await_queriers(&daemon, versions);
        for (group, source) in FAMILIES {
            let other = if source == PEER_V4 { "192.0.2.77" } else { "2001:db8::77" };
            let step = |who: &mut Endpoint, exclude, sources: &[&str], mode, merged: &[&str]| {
                who.listen(&membership(group, exclude, sources)).expect("listen");
                // Old versions know of no sources.
                let (mode, merged) = if versions == (3, 2) { (mode, merged) } else { ("exclude", &[][..]) };
                await_known(&bed, group, mode, merged);
            };
            step(&mut a, false, &[source], "include", &[source]);
            step(&mut b, false, &[other], "include", &[source, other]);
            step(&mut b, true, &[other], "exclude", &[other]);
            step(&mut a, true, &[], "exclude", &[]);
            let shown = daemon.ok("maddr");
            assert!(shown.contains(&format!("speaker {speaker}")) && shown.contains(group), "{shown}");
            a.leave(ip(group)).expect("leave");
            // What an endpoint has joined it leaves when it goes.
            drop(b);
            await_forgotten(&bed, group);
            b = daemon.claim("b", PORT);
        }
        drop(a);
        daemon.stop();
    }
}

#[test]
fn members_hear_through_the_bridge_and_nobody_else() {
    SPEAKERS.iter().for_each(|(membership_of, _)| members_hear(membership_of));
}

fn members_hear(membership_of: &str) {
    let bed = Bed::new("hear");
    let (mut daemon, mut a, mut b) = two_compartments(&bed, membership_of);
    snoop(&bed, (3, 2));
    let stranger = Netns::new("hear-stranger");
    Veth::default().connect((&stranger, "str0"), (&bed.peer, "port1"));
    bed.peer.ip("link set port1 master br0");
    let wire = Wire::open(&stranger, "str0");
    for (group, source) in FAMILIES {
        a.listen(&Membership::of(ip(group), ip(source))).expect("listen");
        await_known(&bed, group, "include", &[source]);
        let socket = sender(&bed, source);
        let heard = until_heard(&mut a, || drop(socket.send_to(b"for a", at(group, PORT))));
        assert_eq!((heard.local, heard.remote), (at(group, PORT), socket.local_addr().unwrap()));
        // From another source, which a does not want, and b has not asked for anything.
        drain(&mut a);
        let other = if source == PEER_V4 { "192.0.2.101" } else { "2001:db8::101" };
        let (len, nodad) = if source == PEER_V4 { (24, "") } else { (64, "nodad") };
        bed.peer.ip(&format!("addr add {other}/{len} dev br0 {nodad}"));
        let foreign = sender(&bed, other);
        for _ in 0..3 {
            foreign.send_to(b"not for a", at(group, PORT)).expect("send");
        }
        // The bridge knows by now that the other port has nobody: it has asked.
        while wire.receive(Duration::from_millis(50)).is_some() {}
        socket.send_to(b"the last", at(group, PORT)).expect("send");
        let mut buffer = [0; 100];
        let got = a.recv(&mut buffer).expect("the last");
        assert_eq!(&buffer[..got.len], b"the last", "from {}", got.remote);
        let to_group = |f: &[u8]| packet::read_udp(f).filter(|d| d.destination == at(group, PORT)).map(drop);
        wire.expect_none(Duration::from_millis(300), "what the stranger has not joined", to_group);
        // An answer comes from the endpoint's own address.
        let mut sent = false;
        until_heard(&mut a, || drop(socket.send_to(b"who?", at(group, PORT))));
        drain(&mut a);
        socket.send_to(b"who?", at(group, PORT)).expect("send");
        a.wait(Some(wait::PATIENCE)).expect("wait");
        a.recv_batch(1, |answers, datagram| sent = answers.reply(datagram).is_ok()).expect("receive");
        a.flush();
        assert!(sent);
        socket.set_read_timeout(Some(wait::PATIENCE)).expect("set a timeout");
        let (len, from) = socket.recv_from(&mut buffer).expect("an answer");
        let own = if source == PEER_V4 { "192.0.2.10" } else { "2001:db8::10" };
        assert_eq!((&buffer[..len], from), (&b"who?"[..], at(own, PORT)));
    }
    drain(&mut b);
    assert_eq!(daemon.counters("b").get("rx_delivered"), None, "b has joined nothing");
    drop((a, b));
    daemon.stop();
}

#[track_caller]
fn say(endpoint: &mut Endpoint, message: &Message<'_>) {
    endpoint.send(message).expect("send");
    endpoint.flush();
}

#[test]
fn what_members_send_is_heard_here_and_outside() {
    SPEAKERS.iter().for_each(|(membership_of, _)| members_send(membership_of));
}

fn members_send(membership_of: &str) {
    let bed = Bed::new("say");
    let (mut daemon, mut a, mut b) = two_compartments(&bed, membership_of);
    bed.peer.ip(&format!("route add 224.0.0.0/4 dev {PEER}"));
    for (group, source) in FAMILIES {
        for endpoint in [&mut a, &mut b] {
            endpoint.join(ip(group)).expect("join");
        }
        let any = if source == PEER_V4 { "0.0.0.0" } else { "::" };
        // A process just started by another test may hold the one before for a moment.
        let judge = wait::until("a judge", || bed.peer.enter(|| UdpSocket::bind(at(any, PORT))).ok());
        judge.set_read_timeout(Some(wait::PATIENCE)).expect("set a timeout");
        match ip(group) {
            IpAddr::V4(g) => judge.join_multicast_v4(&g, &PEER_V4.parse().unwrap()).expect("join"),
            IpAddr::V6(g) => judge.join_multicast_v6(&g, bed.peer.ifindex(PEER)).expect("join"),
        }
        say(&mut a, &Message::new(at(group, PORT), b"to all"));
        let mut buffer = [0; 100];
        let own = if source == PEER_V4 { "192.0.2.10" } else { "2001:db8::10" };
        let (len, from) = judge.recv_from(&mut buffer).expect("what a sent");
        assert_eq!((&buffer[..len], from), (&b"to all"[..], at(own, PORT)));
        for endpoint in [&mut a, &mut b] {
            let heard = endpoint.recv(&mut buffer).expect("a copy");
            assert_eq!((heard.local, heard.remote), (at(group, PORT), at(own, PORT)));
        }
        say(&mut a, &Message { no_loop: true, ..Message::new(at(group, PORT), b"outside only") });
        let (len, _) = judge.recv_from(&mut buffer).expect("what a sent");
        assert_eq!(&buffer[..len], b"outside only");
        say(&mut a, &Message::new(at(group, PORT), b"next"));
        let heard = b.recv(&mut buffer).expect("a copy");
        assert_eq!(&buffer[..heard.len], b"next");
        drain(&mut a);
        drain(&mut b);
    }
    drop((a, b));
    daemon.stop();
}

/// In VLANs afnetd is the speaker, of both protocols. The bridge hears what it says, and asks nothing there.
#[test]
fn tagged_realms_are_reported_by_afnetd() {
    let bed = Bed::new("tagged");
    let mut daemon = Afnetd::start(&bed);
    let addresses = [["192.0.2.10", "2001:db8::10"], ["192.0.2.11", "2001:db8::11"]];
    for (name, own) in ["a", "b"].into_iter().zip(addresses) {
        daemon.ok(&format!("add {name}"));
        for (address, len) in own.into_iter().zip([24, 64]) {
            daemon.ok(&format!("addr add {address}/{len} dev {DEVICE} vlan 5 afnetns {name}"));
        }
    }
    let [mut a, mut b] = ["a", "b"].map(|name| daemon.claim(name, PORT));
    snoop(&bed, (3, 2));
    let wire = Wire::open(&bed.peer, PEER);
    let device = Some((DEVICE.to_owned(), Vlan::new(None, Some(5)).unwrap()));
    for (n, (group, source)) in FAMILIES.into_iter().enumerate() {
        let other = if source == PEER_V4 { "192.0.2.77" } else { "2001:db8::77" };
        a.listen(&Membership { device: device.clone(), ..Membership::of(ip(group), ip(source)) })
            .expect("listen");
        await_known(&bed, group, "include", &[source]);
        b.listen(&membership(group, true, &[source, other])).expect("listen");
        await_known(&bed, group, "exclude", &[other]);
        b.leave(ip(group)).expect("leave");
        await_known(&bed, group, "include", &[source]);
        let shown = daemon.ok("maddr");
        assert!(shown.contains("vlan 5") && shown.contains("speaker afnetd"), "{shown}");
        let macs = (PEER_MAC, packet::group_mac(ip(group)));
        let frame = packet::udp(macs, at(source, 9), at(group, PORT), b"tagged");
        let heard = until_heard(&mut a, || wire.send(&packet::tag(frame.clone(), FIVE)));
        assert_eq!((heard.local, heard.remote), (at(group, PORT), at(source, 9)));
        // It is known by now where an answer is to go.
        say(&mut a, &Message::new(at(source, 9), b"and back"));
        let own = at(addresses[0][n], PORT);
        let answer = wire.expect("an answer", |frame| {
            packet::read_udp(&packet::untag(frame, FIVE)?).filter(|d| d.source == own)
        });
        assert_eq!((answer.destination, &answer.payload[..]), (at(source, 9), &b"and back"[..]));
        drain(&mut a);
        a.listen(&Membership { device: device.clone(), ..Membership::none(ip(group)) }).expect("leave");
        await_forgotten(&bed, group);
    }
    // What is joined still is left when the daemon goes.
    b.join(ip("239.9.9.9")).expect("join");
    await_known(&bed, "239.9.9.9", "exclude", &[]);
    daemon.stop();
    await_forgotten(&bed, "239.9.9.9");
}

#[test]
fn broadcast_is_for_those_who_ask() {
    let bed = Bed::new("broadcast");
    let (mut daemon, mut a, mut b) = two_compartments(&bed, "kernel");
    let socket = bed.peer_socket(PEER_V4);
    socket.set_broadcast(true).expect("set SO_BROADCAST");
    for to in ["192.0.2.255", "255.255.255.255"] {
        a.join(ip(to)).expect("join");
        socket.send_to(to.as_bytes(), at(to, PORT)).expect("send");
        let mut buffer = [0; 100];
        let heard = a.recv(&mut buffer).expect("a broadcast");
        assert_eq!((&buffer[..heard.len], heard.local), (to.as_bytes(), at(to, PORT)));
        a.send(&Message::new(at(to, PORT), b"to all")).expect("send");
        let heard = a.recv(&mut buffer).expect("its own");
        assert_eq!(&buffer[..heard.len], b"to all");
    }
    refused(a.join(ip("192.0.3.255")), Errno::INVAL);
    refused(a.join(ip("192.0.2.9")), Errno::INVAL);
    drain(&mut b);
    assert_eq!(daemon.counters("b").get("rx_delivered"), None);
    drop((a, b));
    daemon.stop();
}

#[test]
fn what_cannot_be_heard_is_refused_and_changes_nothing() {
    let bed = Bed::new("groupbad");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let mut a = daemon.claim("a", PORT);
    let (group, _) = FAMILIES[0];
    refused(a.leave(ip(group)), Errno::ADDRNOTAVAIL);
    refused(a.join(ip("ff15::123")), Errno::NODEV);
    refused(a.listen(&membership(group, false, &["224.0.0.1"])), Errno::INVAL);
    refused(a.listen(&membership(group, false, &["fe80::1"])), Errno::INVAL);
    let nowhere = Membership { device: Some(("eth9".into(), Vlan::NONE)), ..Membership::all(ip(group)) };
    refused(a.listen(&nowhere), Errno::NODEV);
    let elsewhere = Vlan::new(None, Some(9)).unwrap();
    let elsewhere = Membership { device: Some((DEVICE.into(), elsewhere)), ..Membership::all(ip(group)) };
    refused(a.listen(&elsewhere), Errno::NODEV);
    let many: Vec<IpAddr> = (1..=65).map(|n| format!("10.0.0.{n}").parse().unwrap()).collect();
    let many = Membership { sources: many, ..membership(group, true, &[]) };
    refused(a.listen(&many), Errno::NOBUFS);
    // 64 are more than the kernel takes by default, and it has taken them.
    let most = Membership { sources: many.sources[..64].to_vec(), ..many };
    a.listen(&most).expect("64 sources");
    // Any number of groups, up to the compartment's share, whichever endpoint has them.
    for n in 0..255 {
        a.join(ip(&format!("239.0.0.{n}"))).expect("join");
    }
    let mut again = daemon.attach("a", EndpointKind::Udp);
    let text = refused(again.join(ip("239.0.1.1")), Errno::NOBUFS);
    assert!(text.contains("limits.memberships"), "{text}");
    a.leave(ip("239.0.0.7")).expect("leave");
    again.join(ip("239.0.1.1")).expect("join");
    let groups = || bed.host.run(&format!("ip maddr show dev {DEVICE}")).matches("239.0.").count();
    assert_eq!(groups(), 255);
    drop((a, again));
    wait::until_true("the kernel to have left all", || groups() == 0);
    daemon.stop();
}

#[test]
fn groups_are_joined_again_after_a_restart() {
    SPEAKERS.iter().for_each(|(membership_of, _)| joined_again(membership_of));
}

fn joined_again(membership_of: &str) {
    let bed = Bed::new("regroup");
    let mut daemon = start(&bed, membership_of);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    bed.peer.ip(&format!("route add 224.0.0.0/4 dev {PEER}"));
    let mut a = daemon.claim("a", PORT);
    for (group, _) in FAMILIES {
        a.join(ip(group)).expect("join");
    }
    daemon.kill();
    daemon.restart();
    for (group, source) in FAMILIES {
        let socket = sender(&bed, source);
        let heard = until_heard(&mut a, || drop(socket.send_to(b"again", at(group, PORT))));
        assert_eq!(heard.local, at(group, PORT));
        drain(&mut a);
    }
    daemon.stop();
}

/// The host's own programs and those of compartments that have nothing to do with the fast path, in the same groups.
#[test]
fn ordinary_programs_hear_and_are_heard() {
    SPEAKERS.iter().for_each(|(membership_of, _)| ordinary_programs(membership_of));
}

fn ordinary_programs(membership_of: &str) {
    // Two: a process just started by another test may hold a socket that was closed for a moment.
    const OTHER_PORTS: [u16; 2] = [6000, 6001];
    let bed = Bed::new("mixed");
    let (mut daemon, mut a, b) = two_compartments(&bed, membership_of);
    drop(b);
    daemon.add_compartment("c", &["192.0.2.12/24", "2001:db8::12/64"]);
    for ns in [&bed.peer, &bed.host] {
        let device = if ns.name() == bed.peer.name() { PEER } else { DEVICE };
        ns.ip(&format!("route add 224.0.0.0/4 dev {device}"));
    }
    let inside = Inside::start(&daemon, "c");
    inside.run("import socket, struct");
    for ((group, source), other_port) in FAMILIES.into_iter().zip(OTHER_PORTS) {
        let v4 = source == PEER_V4;
        let any = if v4 { "0.0.0.0" } else { "::" };
        let host = bed.host.enter(|| UdpSocket::bind(at(any, other_port))).expect("bind");
        host.set_read_timeout(Some(Duration::from_millis(100))).expect("set a timeout");
        let ifindex = bed.host.ifindex(DEVICE);
        match ip(group) {
            IpAddr::V4(g) => host.join_multicast_v4(&g, &HOST_V4.parse().unwrap()).expect("join"),
            IpAddr::V6(g) => host.join_multicast_v6(&g, ifindex).expect("join"),
        }
        let (family, join) = if v4 {
            let request = format!("socket.inet_aton('{group}') + struct.pack('=4xi', {ifindex})");
            ("AF_INET", format!("s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, {request})"))
        } else {
            let request =
                format!("socket.inet_pton(socket.AF_INET6, '{group}') + struct.pack('=i', {ifindex})");
            ("AF_INET6", format!("s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, {request})"))
        };
        inside.run(&format!("s = socket.socket(socket.{family}, socket.SOCK_DGRAM)"));
        inside.run(&format!("s.bind(('{any}', {other_port}))"));
        inside.run("s.settimeout(0.1)");
        inside.run(&join);
        a.join(ip(group)).expect("join");
        let mut buffer = [0; 100];
        let mut heard_by_host =
            || host.recv_from(&mut buffer).ok().map(|(len, from)| (buffer[..len].to_vec(), from));
        let heard_inside = || {
            let code = "(lambda d: [d[0].decode(), d[1][0]])(s.recvfrom(100))";
            let value = inside.run(code);
            value.as_array().map(|pair| (pair[0].clone(), pair[1].clone()))
        };

        // From outside, once it has been noticed that the kernel has members.
        let socket = sender(&bed, source);
        let both = wait::within(wait::PATIENCE, || {
            socket.send_to(b"outside", at(group, other_port)).expect("send");
            (heard_by_host()? == (b"outside".to_vec(), socket.local_addr().unwrap())).then_some(())?;
            (heard_inside()? == ("outside".into(), source.into())).then_some(())
        });
        assert!(both.is_some(), "the kernel's members hear nothing from outside");
        let shown = daemon.json("maddr").to_string();
        assert!(shown.contains("\"kernel\":true"), "{shown}");
        until_heard(&mut a, || drop(socket.send_to(b"outside", at(group, PORT))));
        drain(&mut a);

        // From the host's program and that of the compartment, to the endpoint.
        let from_host = until_heard(&mut a, || drop(host.send_to(b"host", at(group, PORT))));
        assert_eq!((from_host.local, from_host.remote.port()), (at(group, PORT), other_port));
        drain(&mut a);
        let from_c = until_heard(&mut a, || {
            inside.run(&format!("s.sendto(b'inside', ('{group}', {PORT}))"));
        });
        let own = if v4 { "192.0.2.12" } else { "2001:db8::12" };
        assert_eq!(from_c.remote, at(own, other_port));
        drain(&mut a);

        // And what the endpoint sends is heard by both.
        let own = if v4 { "192.0.2.10" } else { "2001:db8::10" };
        let both = wait::within(wait::PATIENCE, || {
            say(&mut a, &Message::new(at(group, other_port), b"endpoint"));
            (heard_by_host()? == (b"endpoint".to_vec(), at(own, PORT))).then_some(())?;
            (heard_inside()? == ("endpoint".into(), own.into())).then_some(())
        });
        assert!(both.is_some(), "{group}: the kernel's members do not hear an endpoint");
        drain(&mut a);
        inside.run("s.close()");
    }
    drop((a, inside));
    bed.host.ip(&format!("route del 224.0.0.0/4 dev {DEVICE}"));
    daemon.stop();
}
