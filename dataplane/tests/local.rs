//! Between compartments of one host, and between them and the host's own kernel.

mod common;

use std::{net::SocketAddr, time::Duration};

use afnet_abi::{
    shm::{Record, flags, kind},
    vlan::Vlan,
};
use afnet_dataplane::{Counter, EndpointKind, Route, net};
use afnet_tests::{
    bed::{PEER, socket_in},
    packet,
    wire::Wire,
};
use common::{Rig, datagram, peer};

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

#[test]
fn ring_to_ring() {
    let mut rig = Rig::new("local");
    let mut a = rig.udp_tenant(1, &["192.0.2.10", "2001:db8::10"], 5000);
    let mut b = rig.udp_tenant(2, &["192.0.2.11", "2001:db8::11"], 6000);
    for (from, to) in [("192.0.2.10", "192.0.2.11"), ("2001:db8::10", "2001:db8::11")] {
        // Longer than any MTU: there is none here.
        for payload in [vec![], vec![1; 100], vec![2; 60_000]] {
            a.send(&Record { tos: 3, ..datagram(5000, at(to, 6000)) }, &payload);
            let (record, got) = rig.receive(&mut b);
            assert!(got == payload);
            let want = Record {
                len: record.len,
                kind: kind::DATAGRAM,
                ttl: 64,
                tos: 3,
                flags: flags::LOCAL,
                local_port: 6000,
                remote_port: 5000,
                timestamp_ns: record.timestamp_ns,
                local: net::from_ip(to.parse().unwrap()),
                remote: net::from_ip(from.parse().unwrap()),
                ..Record::default()
            };
            assert_eq!(record, want);
        }
    }
    // To itself.
    a.datagram(5000, at("192.0.2.10", 5000), b"me");
    assert_eq!(rig.receive(&mut a).1, b"me");
    // Segments.
    a.send(&Record { segment: 10, ..datagram(5000, at("192.0.2.11", 6000)) }, &[9; 25]);
    let lens: Vec<usize> = (0..3).map(|_| rig.receive(&mut b).1.len()).collect();
    assert_eq!(lens, [10, 10, 5]);
    assert_eq!(rig.slot(1, Counter::TxLocal), 10);
    // Nobody there and no host link.
    a.datagram(5000, at("192.0.2.11", 6001), b"nobody");
    rig.until("drop", |rig| (rig.slot(1, Counter::TxLocalDrop) == 1).then_some(()));
    assert_eq!(rig.worker(Counter::TxFrames), 0);
    rig.finish();
}

#[test]
fn the_host_and_its_compartments() {
    let mut rig = Rig::new("host");
    let mut tenant = rig.udp_tenant(1, &["192.0.2.10", "2001:db8::10"], 5000);
    rig.host_link(1500);
    for (v4, own, remote) in [(true, "192.0.2.10", "192.0.2.1"), (false, "2001:db8::10", "2001:db8::1")] {
        let socket = socket_in(&rig.bed.host, remote, 0);
        socket.set_nonblocking(true).unwrap();
        // The kernel sends to the compartment over the link: in the product the ingress of lo does that.
        let mac = rig.bed.host.mac("hostW").map(|b| format!("{b:02x}")).join(":");
        rig.bed.host.ip(&format!("route add {own} dev hostK"));
        rig.bed.host.ip(&format!("neigh replace {own} lladdr {mac} dev hostK nud permanent"));
        let from = at(remote, socket.local_addr().unwrap().port());
        socket.send_to(b"from the host", at(own, 5000)).unwrap();
        let (record, payload) = rig.receive(&mut tenant);
        assert_eq!((payload.as_slice(), record.flags), (b"from the host".as_slice(), flags::LOCAL));
        assert_eq!((record.remote, record.remote_port), (net::from_ip(from.ip()), from.port()));
        assert_eq!(record.ifindex, 0);
        // And back; long enough to be cut.
        rig.special.insert(from.ip(), Route::Host { src: own.parse().unwrap() });
        for len in [1, 1400, 5000] {
            tenant.datagram(5000, from, &vec![7; len]);
            let mut buffer = vec![0; 65536];
            let (n, source) = rig.until("datagram at the host", |_| socket.recv_from(&mut buffer).ok());
            assert_eq!((n, source), (len, at(own, 5000)), "v4 {v4}");
        }
    }
    assert_eq!(rig.slot(1, Counter::TxHost), 6);
    rig.finish();
}

#[test]
fn isolated_compartments_talk_to_themselves_and_the_peer() {
    let (host, own, other, raw) = ("192.0.2.1", "192.0.2.10", "192.0.2.11", "192.0.2.12");
    let mut rig = Rig::new("isolated");
    let mut tenants = [(1, own), (2, other)].map(|(slot, address)| rig.udp_tenant(slot, &[address], 5000));
    rig.address(3, raw, Vlan::NONE);
    let mut raw_tenant = rig.attach(3, EndpointKind::Raw);
    rig.host_link(1500);
    rig.special.insert(host.parse().unwrap(), Route::Host { src: own.parse().unwrap() });
    let mac = rig.bed.host.mac("hostW").map(|b| format!("{b:02x}")).join(":");
    rig.bed.host.ip(&format!("route add {own} dev hostK"));
    rig.bed.host.ip(&format!("neigh replace {own} lladdr {mac} dev hostK nud permanent"));
    let [at_host, outside] = [(&rig.bed.host, host), (&rig.bed.peer, peer(false))].map(|(ns, address)| {
        let socket = socket_in(ns, address, 9);
        socket.set_nonblocking(true).unwrap();
        socket
    });
    let packet = |to| packet::udp(([0; 6], [0; 6]), at(raw, 9), to, b"raw")[14..].to_vec();
    let is_packet = Record { kind: kind::PACKET, ..Record::default() };
    let errno = i32::from;

    for isolated in [1, 2] {
        rig.isolate(isolated, true);
        // Both ways between compartments, whichever of them is isolated.
        for (from, to) in [(0, other), (1, own)] {
            tenants[from].datagram(5000, at(to, 5000), b"no");
            let (record, info) = rig.receive(&mut tenants[from]);
            assert_eq!((record.kind, errno(info[0])), (kind::ERROR, libc::EPERM));
            assert_eq!(record.remote, net::from_ip(to.parse().unwrap()));
        }
        for (slot, count) in [(1, isolated), (2, isolated)] {
            assert_eq!(rig.slot(slot, Counter::TxIsolated), u64::from(count));
        }
        let (to, tenant) = if isolated == 1 { (own, 0) } else { (other, 1) };
        raw_tenant.send(&is_packet, &packet(at(to, 5000)));
        let (record, info) = rig.receive(&mut raw_tenant);
        assert_eq!((record.kind, errno(info[0])), (kind::ERROR, libc::EPERM));
        // To itself and the peer.
        tenants[tenant].datagram(5000, at(to, 5000), b"me");
        assert_eq!(rig.receive(&mut tenants[tenant]).1, b"me");
        tenants[tenant].datagram(5000, at(peer(false), 9), b"peer");
        let mut buffer = [0; 64];
        let (n, from) = rig.until("datagram at the peer", |_| outside.recv_from(&mut buffer).ok());
        assert_eq!((&buffer[..n], from), (b"peer".as_slice(), at(to, 5000)));
        outside.send_to(b"back", from).unwrap();
        assert_eq!(rig.receive(&mut tenants[tenant]).1, b"back");
        rig.isolate(isolated, false);
    }

    // The host; the raw tenant sends to it as well.
    for slot in [1, 3] {
        rig.isolate(slot, true);
    }
    at_host.send_to(b"no", at(own, 5000)).unwrap();
    rig.until("drop", |rig| (rig.slot(1, Counter::RxIsolated) == 1).then_some(()));
    tenants[0].datagram(5000, at(host, 9), b"no");
    raw_tenant.send(&is_packet, &packet(at(host, 9)));
    for tenant in [&mut tenants[0], &mut raw_tenant] {
        let (record, info) = rig.receive(tenant);
        assert_eq!((record.kind, errno(info[0])), (kind::ERROR, libc::EPERM));
    }
    for slot in [1, 3] {
        rig.isolate(slot, false);
    }
    at_host.send_to(b"yes", at(own, 5000)).unwrap();
    assert_eq!(rig.receive(&mut tenants[0]).1, b"yes", "and nothing before it");
    tenants[0].datagram(5000, at(host, 9), b"yes");
    let mut buffer = [0; 64];
    let n = rig.until("datagram at the host", |_| at_host.recv(&mut buffer).ok());
    assert_eq!(&buffer[..n], b"yes", "and nothing before it");
    rig.finish();
}

#[test]
fn the_kernel_gets_what_nobody_claims() {
    let mut rig = Rig::new("reinject");
    // A second port is claimed in BPF but not in the worker: as in the moment of a claim's end.
    let tenant = rig.udp_tenant(1, &["192.0.2.10"], 5000);
    rig.demux.insert_claim(1, 17, 5001, 1).unwrap();
    rig.host_link(1500);
    rig.bed.host.ip("addr add 192.0.2.10/32 dev dev0");
    let listener = socket_in(&rig.bed.host, "192.0.2.10", 5001);
    listener.set_nonblocking(true).unwrap();
    let socket = rig.bed.peer_socket(peer(false));
    let mut buffer = vec![0; 65536];
    for len in [10, 1400, 4000, 30_000] {
        // The long ones are fragments, put together by the worker and cut again.
        let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 256).unwrap()).collect();
        socket.send_to(&payload, at("192.0.2.10", 5001)).unwrap();
        let (n, from) = rig.until("datagram in the kernel", |_| listener.recv_from(&mut buffer).ok());
        assert_eq!(from, socket.local_addr().unwrap());
        assert!(buffer[..n] == payload);
    }
    assert_eq!(rig.slot(1, Counter::RxReinjected), 4);
    drop(tenant);
    rig.finish();
}

#[test]
fn the_kernel_gets_what_a_tenant_gives_back() {
    let mut rig = Rig::new("back");
    let mut tenant = rig.udp_tenant(1, &["192.0.2.10", "2001:db8::10"], 5000);
    rig.host_link(1500);
    let mut buffer = vec![0; 65536];
    let mut back = Record { flags: flags::GIVE_BACK, ..Record::default() };
    for own in ["192.0.2.10", "2001:db8::10"] {
        let v6 = own.contains(':');
        rig.bed.host.ip(&format!("addr add {own}/{} dev dev0", if v6 { "128 nodad" } else { "32" }));
        // The kernel adds its route for an IPv6 address later.
        rig.until("a local route", |rig| {
            rig.bed.host.run(&format!("ip route get {own}")).starts_with("local").then_some(())
        });
        let socket = socket_in(&rig.bed.host, own, 5000);
        socket.set_nonblocking(true).unwrap();
        let from = at(peer(v6), 4000);
        back =
            Record { local: net::from_ip(own.parse().unwrap()), flags: back.flags, ..datagram(5000, from) };
        for payload in [vec![], vec![1; 100], vec![2; 5000]] {
            tenant.send(&back, &payload);
            let (n, sender) = rig.until("datagram in the kernel", |_| socket.recv_from(&mut buffer).ok());
            assert_eq!(sender, from);
            assert!(buffer[..n] == payload);
        }
    }
    assert_eq!(rig.slot(1, Counter::RxReinjected), 6);
    // Nothing more comes by the rings.
    tenant.send(&Record { kind: kind::LEAVE, ..Record::default() }, b"");
    rig.until("the worker to know", |rig| (rig.slot(1, Counter::TxRecords) == 7).then_some(()));
    let own = at("192.0.2.10", 5000);
    let socket = rig.bed.peer_socket(peer(false));
    socket.send_to(b"to the kernel", own).unwrap();
    rig.until("the next one", |rig| (rig.slot(1, Counter::RxReinjected) == 7).then_some(()));
    // Only to itself.
    let loopback = net::from_ip("::1".parse().unwrap());
    for (record, counter) in [
        (Record { local_port: 5001, ..back }, Counter::TxNotClaimed),
        (Record { local: net::from_ip("2001:db8::11".parse().unwrap()), ..back }, Counter::TxSpoofed),
        (Record { remote: loopback, ..back }, Counter::TxAddress),
        (Record { local: loopback, ..back }, Counter::TxAddress),
    ] {
        let before = rig.slot(1, counter);
        tenant.send(&record, b"no");
        rig.until("refusal", |rig| (rig.slot(1, counter) == before + 1).then_some(()));
    }
    rig.finish();
}

#[test]
fn raw_endpoints_exchange_packets() {
    let mut rig = Rig::new("raw");
    for address in ["192.0.2.10", "2001:db8::10"] {
        rig.address(1, address, Vlan::NONE);
    }
    let mut raw = rig.attach(1, EndpointKind::Raw);
    let mut other = rig.udp_tenant(2, &["192.0.2.11"], 5000);
    let wire = Wire::open(&rig.bed.peer, PEER);
    let (device, remote) = (rig.mac, rig.bed.peer_mac());
    let socket = socket_in(&rig.bed.peer, peer(false), 9);
    socket.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 65536];

    // Any protocol in, whole and unchanged; an echo request too.
    let frame = packet::udp((remote, device), at(peer(false), 9), at("192.0.2.10", 77), b"hello");
    wire.send(&frame);
    let (record, got) = rig.receive(&mut raw);
    assert_eq!((record.kind, got.as_slice()), (kind::PACKET, &frame[14..]));
    assert_eq!(record.local, net::from_ip("192.0.2.10".parse().unwrap()));
    let own6: std::net::Ipv6Addr = "2001:db8::10".parse().unwrap();
    let frame = packet::echo_request((remote, device), peer(true).parse().unwrap(), own6.into(), 5, b"ping");
    wire.send(&frame);
    assert_eq!(rig.receive(&mut raw).1, &frame[14..]);

    // Out: any protocol that is not the host's.
    let send = |raw: &mut common::Tenant, bytes: &[u8]| {
        raw.send(&Record { kind: kind::PACKET, ..Record::default() }, bytes);
    };
    let good = packet::udp((device, remote), at("192.0.2.10", 77), at(peer(false), 9), b"raw");
    send(&mut raw, &good[14..]);
    let got = rig.until("packet", |_| wire.find(Duration::from_millis(1), packet::read_udp));
    assert_eq!((got.payload.as_slice(), got.source), (b"raw".as_slice(), at("192.0.2.10", 77)));

    // Longer than the MTU: cut, if that is permitted.
    let mut long = packet::udp((device, remote), at("192.0.2.10", 77), at(peer(false), 9), &[1; 4000]);
    long[20] &= !0x40;
    let header: &mut [u8] = &mut long[14..34];
    header[10..12].fill(0);
    let sum = net::checksum::finish(net::checksum::sum(header));
    header[10..12].copy_from_slice(&sum);
    send(&mut raw, &long[14..]);
    assert_eq!(socket.recv(&mut buffer).ok(), Some(3), "the short one");
    let n = rig.until("whole datagram", |_| socket.recv(&mut buffer).ok());
    assert_eq!(n, 4000);

    // To another compartment.
    let local = packet::udp((device, remote), at("192.0.2.10", 77), at("192.0.2.11", 5000), b"local");
    send(&mut raw, &local[14..]);
    let (record, payload) = rig.receive(&mut other);
    assert_eq!((payload.as_slice(), record.flags), (b"local".as_slice(), flags::LOCAL));
    other.datagram(5000, at("192.0.2.10", 77), b"answer");
    let (record, got) = rig.receive(&mut raw);
    assert_eq!((record.kind, &got[28..]), (kind::PACKET, b"answer".as_slice()));
    let whole = [&[0; 12][..], &[8, 0], got.as_slice()].concat();
    assert!(packet::read_udp(&whole).is_some(), "checksums are right");

    // What it may not send.
    for (bytes, counter) in [
        (packet::udp((device, remote), at("192.0.2.11", 77), at(peer(false), 9), b"x"), Counter::TxSource),
        (packet::neighbour_solicitation(device, own6, "2001:db8::99".parse().unwrap()), Counter::TxProtocol),
        (vec![0x45; 60], Counter::TxMalformed),
    ] {
        let before = rig.slot(1, counter);
        send(&mut raw, &bytes[14..]);
        rig.until("refusal", |rig| (rig.slot(1, counter) == before + 1).then_some(()));
    }
    rig.finish();
}
