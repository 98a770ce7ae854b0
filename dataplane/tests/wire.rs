//! What goes over the wire beside plain datagrams: fragments, segmentation, VLAN tags, ICMP errors, next hops.

mod common;

use std::{net::SocketAddr, time::Duration};

use afnet_abi::{
    shm::{Record, flags, kind},
    vlan::Vlan,
};
use afnet_dataplane::{Counter, Event, Route, net};
use afnet_tests::{
    bed::{DEVICE, PEER},
    packet,
    wire::Wire,
};
use common::{Rig, datagram, neighbour, peer};

const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8::10";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 7 + i / 256) % 256).unwrap()).collect()
}

#[test]
fn long_datagrams_are_fragmented_and_put_together() {
    let mut rig = Rig::new("frag");
    let mut tenant = rig.udp_tenant(1, &[V4, V6], 5000);
    for v6 in [false, true] {
        for len in [1473, 3000, 20_000, 65_000] {
            let payload = pattern(len);
            let socket = rig.bed.peer_socket(peer(v6));
            let local = if v6 { V6 } else { V4 };
            socket.send_to(&payload, at(local, 5000)).unwrap();
            let (record, got) = rig.receive(&mut tenant);
            assert!(got == payload, "{len} v6 {v6}");
            assert_ne!(record.flags & flags::REASSEMBLED, 0);
            tenant.datagram(5000, socket.local_addr().unwrap(), &payload);
            socket.set_nonblocking(true).unwrap();
            let mut buffer = vec![0; 65536];
            let n = rig.until("whole datagram at the peer", |_| socket.recv(&mut buffer).ok());
            assert!(buffer[..n] == payload, "{len} v6 {v6}");
        }
    }
    assert_eq!(rig.slot(1, Counter::RxReassembled), 8);
    assert_eq!(rig.slot(1, Counter::TxFragmented), 8);
    rig.finish();
}

#[test]
fn one_record_becomes_many_datagrams() {
    let mut rig = Rig::new("uso");
    let mut tenant = rig.udp_tenant(1, &[V4, V6], 5000);
    for v6 in [false, true] {
        let socket = rig.bed.peer_socket(peer(v6));
        socket.set_nonblocking(true).unwrap();
        let payload = pattern(60_000);
        let record = Record { segment: 1000, ..datagram(5000, socket.local_addr().unwrap()) };
        tenant.send(&record, &payload);
        let mut all = Vec::new();
        for _ in 0..60 {
            let mut buffer = [0; 2000];
            let n = rig.until("segment", |_| socket.recv(&mut buffer).ok());
            assert_eq!(n, 1000);
            all.extend_from_slice(&buffer[..n]);
        }
        assert!(all == payload);
    }
    assert_eq!(rig.slot(1, Counter::TxDatagrams), 120);
    // More segments than a kernel socket would make.
    let record = Record { segment: 1, ..datagram(5000, at(peer(false), 9)) };
    tenant.send(&record, &pattern(200));
    rig.until("refusal", |rig| (rig.slot(1, Counter::TxRecordInvalid) == 1).then_some(()));
    rig.finish();
}

#[test]
fn dont_fragment_comes_back_as_an_error() {
    let mut rig = Rig::new("df");
    let mut tenant = rig.udp_tenant(1, &[V4, V6], 5000);
    for v6 in [false, true] {
        let to = at(peer(v6), 9);
        tenant.send(&Record { flags: flags::DONT_FRAGMENT, ..datagram(5000, to) }, &pattern(3000));
        let (record, info) = rig.receive(&mut tenant);
        assert_eq!((record.kind, record.local_port, record.remote_port), (kind::ERROR, 5000, 9));
        assert_eq!(record.remote, net::from_ip(to.ip()));
        assert_eq!(u32::from_ne_bytes(info[..4].try_into().unwrap()), 90, "EMSGSIZE");
        assert_eq!(u32::from_ne_bytes(info[8..12].try_into().unwrap()), 1500);
    }
    assert_eq!(rig.slot(1, Counter::TxTooBig), 2);
    rig.finish();
}

#[test]
fn a_closed_port_comes_back_as_an_error() {
    let mut rig = Rig::new("icmp");
    let mut tenant = rig.udp_tenant(1, &[V4, V6], 5000);
    for v6 in [false, true] {
        let to = at(peer(v6), 4242);
        tenant.datagram(5000, to, b"anyone?");
        let (record, info) = rig.receive(&mut tenant);
        assert_eq!((record.kind, record.local_port, record.remote_port), (kind::ERROR, 5000, 4242));
        assert_eq!(u32::from_ne_bytes(info[..4].try_into().unwrap()), 111, "ECONNREFUSED");
        assert_eq!(info[12..28], net::from_ip(to.ip()), "the offender");
        assert_eq!(info[28..], *b"anyone?", "what was quoted");
    }
    rig.finish();
}

#[test]
fn fields_reach_the_wire() {
    let mut rig = Rig::new("fields");
    let mut tenant = rig.udp_tenant(1, &[V4, V6], 5000);
    let wire = Wire::open(&rig.bed.peer, PEER);
    for v6 in [false, true] {
        let record =
            Record { ttl: 7, tos: 0xb9, flags: flags::DONT_FRAGMENT, ..datagram(5000, at(peer(v6), 9)) };
        tenant.send(&record, b"x");
        let frame = rig.until("frame", |_| {
            wire.find(Duration::from_millis(1), |f| packet::read_udp(f).map(|_| f.to_vec()))
        });
        let view = net::parse::parse(&frame).unwrap();
        assert_eq!((view.ttl, view.tos, view.v6), (7, 0xb9, v6));
        if !v6 {
            assert_eq!(frame[20] & 0x40, 0x40, "Don't Fragment");
        }
    }
    rig.finish();
}

#[test]
fn tagged_realms() {
    let mut rig = Rig::new("vlan");
    let realms: [(&str, Vec<(u16, u16)>); 3] = [
        ("7", vec![(0x8100, 7)]),
        ("ad:9", vec![(0x88a8, 9)]),
        ("10.100", vec![(0x88a8, 10), (0x8100, 100)]),
    ];
    let wire = Wire::open(&rig.bed.peer, PEER);
    let (device, remote) = (rig.mac, rig.bed.peer_mac());
    for (slot, (name, tags)) in (1..).zip(&realms) {
        let vlan: Vlan = name.parse().unwrap();
        // The same address in each realm.
        rig.address(slot, V4, vlan);
        let mut tenant = rig.attach(slot, afnet_dataplane::EndpointKind::Udp);
        rig.claim(&tenant, slot, 5000);
        let from = at("192.0.2.77", 3000);
        let frame = packet::udp((remote, device), from, at(V4, 5000), b"tagged");
        wire.send(&packet::tag(frame, tags));
        let (record, payload) = rig.receive(&mut tenant);
        assert_eq!((payload.as_slice(), record.vlan), (b"tagged".as_slice(), vlan.raw()));
        // The kernel has no interface in this realm: the way back is what was learned.
        let route =
            Route::Learn { ifindex: rig.ifindex, vlan, src_mac: device, mtu: 1500, src: V4.parse().unwrap() };
        rig.special.insert(from.ip(), route);
        let back = Record { ifindex: rig.ifindex, vlan: vlan.raw(), ..datagram(5000, from) };
        tenant.send(&back, b"back");
        let got = rig.until("tagged answer", |_| {
            wire.find(Duration::from_millis(1), |f| packet::untag(f, tags).and_then(|f| packet::read_udp(&f)))
        });
        assert_eq!(
            (got.payload.as_slice(), got.destination, got.source),
            (b"back".as_slice(), from, at(V4, 5000))
        );
        // Nothing was ever received from there.
        let stranger = at("192.0.2.78", 3000);
        rig.special.insert(stranger.ip(), route);
        tenant.send(&Record { remote: net::from_ip(stranger.ip()), ..back }, b"lost");
        assert_eq!(rig.receive(&mut tenant).0.kind, kind::ERROR);
    }
    rig.finish();
}

#[test]
fn datagrams_wait_for_their_next_hop() {
    let mut rig = Rig::new("wait");
    let mut tenant = rig.udp_tenant(1, &[V4], 5000);
    let socket = rig.bed.peer_socket(peer(false));
    let to = socket.local_addr().unwrap();
    socket.set_nonblocking(true).unwrap();
    rig.special.insert(to.ip(), Route::Pending);
    for i in 0..70u8 {
        tenant.datagram(5000, to, &[i]);
    }
    rig.until("all records taken", |rig| (rig.slot(1, Counter::TxRecords) == 70).then_some(()));
    assert_eq!(rig.slot(1, Counter::TxWaited), 64, "the queue of one destination");
    assert_eq!(rig.slot(1, Counter::RouteFull), 6);
    let asked: Vec<_> =
        rig.events.iter().filter(|e| matches!(e, Event::Resolve(k) if k.dst == to.ip())).collect();
    assert_eq!(asked.len(), 1, "asked once");
    let Event::Resolve(key) = asked[0] else { unreachable!() };
    let (key, route) = (
        *key,
        Route::Wire {
            ifindex: rig.ifindex,
            vlan: Vlan::NONE,
            src_mac: rig.mac,
            dst_mac: rig.bed.peer_mac(),
            mtu: 1500,
            src: V4.parse().unwrap(),
        },
    );
    rig.dp().route_reply(key, route).unwrap();
    for i in 0..64u8 {
        let mut byte = [0];
        rig.until("what has waited", |_| socket.recv(&mut byte).ok());
        assert_eq!(byte, [i], "in order");
    }
    // A stale route is asked for again.
    rig.special.clear();
    rig.dp().flush_routes().unwrap();
    tenant.datagram(5000, to, b"again");
    let mut buffer = [0; 16];
    let n = rig.until("datagram", |_| socket.recv(&mut buffer).ok());
    assert_eq!(&buffer[..n], b"again");
    rig.finish();
}

#[test]
fn unreachable_is_told() {
    let mut rig = Rig::new("noroute");
    let mut tenant = rig.udp_tenant(1, &[V4], 5000);
    let to = at("203.0.113.1", 9);
    rig.special.insert(to.ip(), Route::Unreachable { errno: 101 });
    tenant.datagram(5000, to, b"x");
    let (record, info) = rig.receive(&mut tenant);
    assert_eq!((record.kind, info[0]), (kind::ERROR, 101));
    assert_eq!(rig.slot(1, Counter::TxUnreachable), 1);
    rig.finish();
}

#[test]
fn a_tenant_sends_as_itself_only() {
    let mut rig = Rig::new("spoof");
    let mut tenant = rig.udp_tenant(1, &[V4, V6], 5000);
    let other = rig.udp_tenant(2, &["192.0.2.11"], 5000);
    let wire = Wire::open(&rig.bed.peer, PEER);
    let good = datagram(5000, at(peer(false), 9));
    let local = |a: &str| net::from_ip(a.parse().unwrap());
    for (record, counter) in [
        (Record { local: local("192.0.2.11"), ..good }, Counter::TxSpoofed),
        (Record { local: local("192.0.2.1"), ..good }, Counter::TxSpoofed),
        (Record { local: local(V6), ..good }, Counter::TxAddress),
        (Record { local_port: 5001, ..good }, Counter::TxNotClaimed),
        (Record { remote: [0; 16], ..good }, Counter::TxRecordInvalid),
        (Record { remote_port: 0, ..good }, Counter::TxRecordInvalid),
        (Record { kind: kind::PACKET, ..good }, Counter::TxRecordInvalid),
        (Record { kind: 77, ..good }, Counter::TxRecordInvalid),
        (Record { ifindex: rig.ifindex, vlan: u32::MAX, ..good }, Counter::TxRecordInvalid),
    ] {
        let before = rig.slot(1, counter);
        tenant.send(&record, b"forged");
        rig.until("refusal", |rig| (rig.slot(1, counter) == before + 1).then_some(()));
    }
    tenant.send(&Record { local_port: 0, ..good }, b"first claim");
    let got = rig.until("datagram", |_| wire.find(Duration::from_millis(1), packet::read_udp));
    assert_eq!((got.payload.as_slice(), got.source), (b"first claim".as_slice(), at(V4, 5000)));
    drop(other);
    rig.finish();
}

#[test]
fn bad_checksums_are_dropped() {
    let mut rig = Rig::new("sum");
    let mut tenant = rig.udp_tenant(1, &[V4, V6], 5000);
    let wire = Wire::open(&rig.bed.peer, PEER);
    neighbour(&rig.bed.host, DEVICE, peer(false), rig.bed.peer_mac());
    for v6 in [false, true] {
        let (from, to) = (at(peer(v6), 9), at(if v6 { V6 } else { V4 }, 5000));
        let frame = packet::udp((rig.bed.peer_mac(), rig.mac), from, to, b"payload");
        let mut bad = frame.clone();
        *bad.last_mut().unwrap() ^= 1;
        wire.send(&bad);
        wire.send(&frame);
        assert_eq!(rig.receive(&mut tenant).1, b"payload");
        // Zero: none was computed. Fine for IPv4 only.
        let mut none = frame.clone();
        let at = frame.len() - 7 - 2;
        none[at..at + 2].fill(0);
        wire.send(&none);
        if v6 {
            rig.until("drop", |rig| (rig.slot(1, Counter::UdpNoChecksum) == 1).then_some(()));
        } else {
            assert_eq!(rig.receive(&mut tenant).0.flags, flags::NO_CHECKSUM);
        }
    }
    assert_eq!(rig.slot(1, Counter::UdpChecksum), 2);
    rig.finish();
}

#[test]
fn the_path_mtu_is_learned() {
    let mut rig = Rig::new("pmtu");
    let mut tenant = rig.udp_tenant(1, &[V4], 5000);
    let wire = Wire::open(&rig.bed.peer, PEER);
    let to = at(peer(false), 9);
    tenant.datagram(5000, to, &pattern(1200));
    let sent = rig
        .until("frame", |_| wire.find(Duration::from_millis(1), |f| packet::read_udp(f).map(|_| f.to_vec())));
    // Fragmentation needed (RFC 1191 4): a router says 600.
    let quote = &sent[14..14 + 28];
    let mut icmp = [&[3, 4, 0, 0, 0, 0], &600u16.to_be_bytes()[..], quote].concat();
    let sum = net::checksum::finish(net::checksum::sum(&icmp));
    icmp[2..4].copy_from_slice(&sum);
    let router = net::build::Ip {
        src: net::from_ip("192.0.2.99".parse().unwrap()),
        dst: net::from_ip(V4.parse().unwrap()),
        protocol: 1,
        ttl: 64,
        tos: 0,
        dont_fragment: true,
        id: 0,
        flow_label: 0,
    };
    let mut frame = vec![0; 34];
    let link = net::build::Link { src_mac: rig.bed.peer_mac(), dst_mac: rig.mac, vlan: Vlan::NONE };
    net::build::write_link(&mut frame, &link, false).unwrap();
    net::build::write_ip(&mut frame[14..], &router, icmp.len()).unwrap();
    frame.extend(icmp);
    wire.send(&frame);
    // The peer has no one at port 9 and says so too.
    let mtu = rig.until("error about size", |_| {
        let (record, info) = tenant.try_receive()?;
        assert_eq!(record.kind, kind::ERROR);
        Some(u32::from_ne_bytes(info[8..12].try_into().unwrap())).filter(|mtu| *mtu != 0)
    });
    assert_eq!(mtu, 600);
    // From now on it is cut, or refused.
    tenant.datagram(5000, to, &pattern(1200));
    rig.until("fragments", |rig| (rig.slot(1, Counter::TxFragmented) == 1).then_some(()));
    tenant.send(&Record { flags: flags::DONT_FRAGMENT, ..datagram(5000, to) }, &pattern(1200));
    rig.until("refusal", |rig| (rig.slot(1, Counter::TxTooBig) == 1).then_some(()));
    rig.finish();
}
