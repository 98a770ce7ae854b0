//! Multicast and broadcast: every endpoint that has joined gets its copy, nobody else does, and the kernel if it wants.

mod common;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use afnet_abi::{
    shm::{Record, flags, kind},
    vlan::Vlan,
};
use afnet_dataplane::{Counter, EndpointKind, Group, Local, Route, Sources, net};
use afnet_tests::{bed::PEER, packet, wire::Wire};
use common::{Rig, Tenant, datagram, peer};

const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8::10";
const OTHER_V4: &str = "192.0.2.11";
const OTHER_V6: &str = "2001:db8::11";
const GROUPS: [&str; 2] = ["239.1.2.3", "ff15::123"];
const PORT: u16 = 5000;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// A rig whose peer sends to groups by the wire, and knows the MAC addresses of groups.
fn rig(label: &str) -> Rig {
    let mut rig = Rig::new(label);
    rig.bed.peer.ip(&format!("route add 224.0.0.0/4 dev {PEER}"));
    for group in GROUPS {
        let dst = ip(group);
        let src = ip(if dst.is_ipv4() { V4 } else { V6 });
        let route = Route::Wire {
            ifindex: rig.ifindex,
            vlan: Vlan::NONE,
            src_mac: rig.mac,
            dst_mac: packet::group_mac(dst),
            mtu: rig.mtu,
            src,
        };
        rig.special.insert(dst, route);
    }
    rig
}

fn group(rig: &Rig, vlan: Vlan, address: &str) -> Group {
    Group { ifindex: rig.ifindex, vlan, address: ip(address) }
}

fn listen(rig: &mut Rig, tenant: &Tenant, address: &str, wanted: Sources) {
    listen_by(rig, tenant, address, wanted, Local::Worker);
}

fn listen_by(rig: &mut Rig, tenant: &Tenant, address: &str, wanted: Sources, local: Local) {
    let group = group(rig, Vlan::NONE, address);
    let Rig { bed, dataplane, .. } = rig;
    let dataplane = dataplane.as_mut().expect("still running");
    let id = tenant.id;
    bed.host.enter(|| dataplane.listen(id, &group, wanted, local)).expect("listen");
    if dataplane.members(&group) == 0 {
        rig.demux.remove_group(Vlan::NONE, ip(address)).expect("remove the group");
    } else {
        rig.demux.insert_group(Vlan::NONE, ip(address)).expect("insert the group");
    }
}

fn only(source: &str) -> Sources {
    Sources { exclude: false, list: vec![ip(source)] }
}

/// The tenant has nothing, once what was sent before has gone through the worker.
#[track_caller]
fn hears_nothing(rig: &mut Rig, tenant: &mut Tenant, witness: &mut Tenant) {
    let (_, marker) = rig.receive(witness);
    assert!(!marker.is_empty());
    assert!(tenant.try_receive().is_none(), "heard what it had not asked for");
}

fn send(socket: &UdpSocket, group: &str, payload: &[u8]) {
    socket.send_to(payload, at(group, PORT)).expect("send to a group");
}

#[test]
fn members_and_nobody_else() {
    let mut rig = rig("groups");
    let mut a = rig.udp_tenant(1, &[V4, V6], PORT);
    let mut b = rig.udp_tenant(2, &[OTHER_V4, OTHER_V6], PORT);
    let mut stranger = rig.udp_tenant(3, &["192.0.2.12", "2001:db8::12"], PORT);
    let mut elsewhere = rig.udp_tenant(4, &["192.0.2.13", "2001:db8::13"], PORT + 1);
    for (v6, group) in [(false, GROUPS[0]), (true, GROUPS[1])] {
        for tenant in [&a, &b, &elsewhere] {
            listen(&mut rig, tenant, group, Sources::all());
        }
        let socket = rig.bed.peer_socket(peer(v6));
        send(&socket, group, b"all");
        for tenant in [&mut a, &mut b] {
            let (record, got) = rig.receive(tenant);
            assert_eq!((got, record.kind, record.flags), (b"all".to_vec(), kind::DATAGRAM, 0));
            assert_eq!((record.local, record.local_port), (net::from_ip(ip(group)), PORT));
            assert_eq!(record.remote, net::from_ip(ip(peer(v6))));
            assert_eq!((record.ifindex, record.ttl), (rig.ifindex, 1));
        }
        // Longer than the MTU.
        let long: Vec<u8> = (0..4000).map(|i| u8::try_from(i % 251).unwrap()).collect();
        send(&socket, group, &long);
        for tenant in [&mut a, &mut b] {
            let (record, got) = rig.receive(tenant);
            assert!(got == long && record.flags == flags::REASSEMBLED, "{record:?}");
        }
        // Sources: one that is another's, the peer's, all but the peer's.
        listen(&mut rig, &b, group, only(if v6 { "2001:db8::99" } else { "192.0.2.99" }));
        send(&socket, group, b"not for b");
        hears_nothing(&mut rig, &mut b, &mut a);
        listen(&mut rig, &b, group, only(peer(v6)));
        send(&socket, group, b"for both");
        assert_eq!(rig.receive(&mut b).1, b"for both");
        assert_eq!(rig.receive(&mut a).1, b"for both");
        listen(&mut rig, &b, group, Sources { exclude: true, ..only(peer(v6)) });
        send(&socket, group, b"not for b");
        hears_nothing(&mut rig, &mut b, &mut a);
        // Left.
        listen(&mut rig, &b, group, Sources::none());
        send(&socket, group, b"not for b");
        hears_nothing(&mut rig, &mut b, &mut a);
    }
    assert!(stranger.try_receive().is_none() && elsewhere.try_receive().is_none());
    assert_eq!(rig.worker(Counter::RxReinjected), 0);
    rig.finish();
}

#[test]
fn broadcast_is_heard_by_those_who_ask() {
    let mut rig = rig("broadcast");
    let mut a = rig.udp_tenant(1, &[V4], PORT);
    let mut deaf = rig.udp_tenant(2, &[OTHER_V4], PORT);
    let socket = rig.bed.peer_socket(peer(false));
    socket.set_broadcast(true).unwrap();
    for to in ["255.255.255.255", "192.0.2.255"] {
        listen(&mut rig, &a, to, Sources::all());
        send(&socket, to, to.as_bytes());
        let (record, got) = rig.receive(&mut a);
        assert_eq!((got, record.local), (to.as_bytes().to_vec(), net::from_ip(ip(to))));
    }
    // Somebody without an address (RFC 2131 4.1).
    let wire = Wire::open(&rig.bed.peer, PEER);
    let macs = (rig.bed.peer_mac(), [0xff; 6]);
    wire.send(&packet::udp(macs, at("0.0.0.0", 68), at("255.255.255.255", PORT), b"discover"));
    assert_eq!(rig.receive(&mut a).1, b"discover");
    assert!(deaf.try_receive().is_none());
    rig.finish();
}

#[test]
fn what_is_sent_is_heard_outside_and_here() {
    let mut rig = rig("looped");
    let mut a = rig.udp_tenant(1, &[V4, V6], PORT);
    let mut b = rig.udp_tenant(2, &[OTHER_V4, OTHER_V6], PORT);
    let wire = Wire::open(&rig.bed.peer, PEER);
    for group in GROUPS {
        for tenant in [&a, &b] {
            listen(&mut rig, tenant, group, Sources::all());
        }
        let to = at(group, PORT);
        a.datagram(PORT, to, b"hello");
        let frame = rig.until("frame", |_| {
            wire.find(Duration::from_millis(1), |f| {
                packet::read_udp(f).filter(|d| d.destination == to).map(|_| f.to_vec())
            })
        });
        let view = net::parse::parse(&frame).unwrap();
        assert_eq!((view.ttl, view.dst_mac), (1, packet::group_mac(ip(group))));
        for tenant in [&mut a, &mut b] {
            let (record, got) = rig.receive(tenant);
            assert_eq!((got, record.flags), (b"hello".to_vec(), flags::LOCAL));
            assert_eq!((record.remote, record.remote_port), (view.src, PORT));
        }
        // Without copies here; and to an isolated compartment, or from one.
        a.send(&Record { flags: flags::NO_LOOP, ..datagram(PORT, to) }, b"outside");
        for slot in [1, 2] {
            rig.isolate(slot, true);
            a.datagram(PORT, to, b"to myself");
            assert_eq!(rig.receive(&mut a).1, b"to myself");
            assert!(b.try_receive().is_none(), "isolated: {slot}");
            rig.isolate(slot, false);
        }
    }
    rig.finish();
}

#[test]
fn the_kernel_gets_what_it_wants_too() {
    let mut rig = rig("groupkernel");
    rig.host_link(1500);
    let mut a = rig.udp_tenant(1, &[V4, V6], PORT);
    let wire = Wire::open(&rig.bed.host, "hostK");
    let mut mac = vec![0x03, 0xaf];
    mac.extend(rig.ifindex.to_be_bytes());
    for (v6, name) in [(false, GROUPS[0]), (true, GROUPS[1])] {
        listen(&mut rig, &a, name, Sources::all());
        let group = group(&rig, Vlan::NONE, name);
        let socket = rig.bed.peer_socket(peer(v6));
        for wanted in [true, false] {
            rig.dp().set_group_kernel(&group, wanted).unwrap();
            for len in [100, 3000] {
                send(&socket, name, &vec![7; len]);
                assert_eq!(rig.receive(&mut a).1.len(), len);
            }
        }
        // Fragments are put together and cut again: three frames for two datagrams in each family.
        let mut frames = 0;
        let patience = |frames| if frames < 4 { common::PATIENCE } else { Duration::from_millis(200) };
        while let Some(frame) = wire.receive(patience(frames)) {
            frames += usize::from(frame[..6] == mac[..]);
        }
        assert!((4..=5).contains(&frames), "one and three or four pieces: {frames}");
    }
    assert_eq!(rig.worker(Counter::RxReinjectDrop), 0);
    rig.finish();
}

/// An endpoint whose own socket has joined hears what the kernel brings from this host by that.
#[test]
fn what_the_kernel_delivers_the_worker_does_not() {
    let mut rig = rig("grouplocal");
    rig.host_link(1500);
    let mut a = rig.udp_tenant(1, &[V4, V6], PORT);
    let mut b = rig.udp_tenant(2, &[OTHER_V4, OTHER_V6], PORT);
    let kernel = Wire::open(&rig.bed.host, "hostK");
    let [w, x, y, z] = rig.ifindex.to_be_bytes();
    for (host, group) in [("192.0.2.1", GROUPS[0]), ("2001:db8::1", GROUPS[1])] {
        listen_by(&mut rig, &a, group, Sources::all(), Local::Kernel);
        listen(&mut rig, &b, group, Sources::all());
        let macs = ([2, 0, 0, 0, 0, 1], [0x03, 0xaf, w, x, y, z]);
        kernel.send(&packet::udp(macs, at(host, 9), at(group, PORT), b"by the kernel"));
        assert_eq!(rig.receive(&mut b).1, b"by the kernel");
        assert!(a.try_receive().is_none(), "its socket has had it");
        // From the wire and from endpoints nothing else brings it.
        send(&rig.bed.peer_socket(peer(ip(group).is_ipv6())), group, b"by the wire");
        b.datagram(PORT, at(group, PORT), b"by an endpoint");
        for _ in 0..2 {
            assert!(rig.receive(&mut a).1.starts_with(b"by "));
            assert!(rig.receive(&mut b).1.starts_with(b"by "));
        }
    }
    rig.finish();
}

#[test]
fn raw_endpoints_get_the_packet() {
    let mut rig = rig("rawgroup");
    rig.address(1, V4, Vlan::NONE);
    let mut raw = rig.attach(1, EndpointKind::Raw);
    listen(&mut rig, &raw, GROUPS[0], Sources::all());
    let socket = rig.bed.peer_socket(peer(false));
    send(&socket, GROUPS[0], b"whole");
    let (record, got) = rig.receive(&mut raw);
    assert_eq!((record.kind, &got[28..]), (kind::PACKET, &b"whole"[..]));
    rig.finish();
}

/// What a network brings back, or somebody forges: a source of our own.
#[test]
fn our_own_from_the_wire_is_nothing() {
    let mut rig = rig("groupown");
    let mut a = rig.udp_tenant(1, &[V4, V6], PORT);
    let wire = Wire::open(&rig.bed.peer, PEER);
    for (own, group) in [(V4, GROUPS[0]), (V6, GROUPS[1])] {
        listen(&mut rig, &a, group, Sources::all());
        let macs = (rig.bed.peer_mac(), packet::group_mac(ip(group)));
        wire.send(&packet::udp(macs, at(own, 9), at(group, PORT), b"back again"));
    }
    rig.until("drops", |rig| (rig.worker(Counter::RxGroupOwn) == 2).then_some(()));
    // And a wrong checksum.
    let macs = (rig.bed.peer_mac(), packet::group_mac(ip(GROUPS[0])));
    let mut frame = packet::udp(macs, at("192.0.2.100", 9), at(GROUPS[0], PORT), b"bent");
    *frame.last_mut().unwrap() ^= 1;
    wire.send(&frame);
    rig.until("drop", |rig| (rig.worker(Counter::UdpChecksum) == 1).then_some(()));
    assert!(a.try_receive().is_none());
    rig.finish();
}

/// Members come and go; the sockets of the groups with the last one.
#[test]
fn the_last_one_shuts_the_door() {
    let mut rig = rig("grouplife");
    let a = rig.udp_tenant(1, &[V4], PORT);
    let mut b = rig.udp_tenant(2, &[OTHER_V4], PORT);
    let socket = rig.bed.peer_socket(peer(false));
    for _ in 0..3 {
        listen(&mut rig, &a, GROUPS[0], Sources::all());
        listen(&mut rig, &b, GROUPS[0], Sources::all());
        listen(&mut rig, &a, GROUPS[0], Sources::none());
        send(&socket, GROUPS[0], b"still");
        assert_eq!(rig.receive(&mut b).1, b"still");
        listen(&mut rig, &b, GROUPS[0], Sources::none());
        let group = group(&rig, Vlan::NONE, GROUPS[0]);
        assert_eq!(rig.dp().members(&group), 0);
    }
    listen(&mut rig, &a, GROUPS[0], Sources::all());
    let id = a.id;
    rig.dp().detach(id).unwrap();
    let left = group(&rig, Vlan::NONE, GROUPS[0]);
    assert_eq!(rig.dp().members(&left), 0);
    assert!(rig.dp().listen(id, &left, Sources::all(), Local::Worker).is_err(), "no such endpoint");
    rig.finish();
}
