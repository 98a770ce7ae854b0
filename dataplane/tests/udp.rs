//! UDP endpoints against the kernel's own stack as the peer, over a veth pair.

mod common;

use std::{net::SocketAddr, time::Duration};

use afnet_abi::shm::{Record, flags, kind};
use afnet_dataplane::{Counter, net};
use common::{Rig, Tenant, peer};

const V4: &str = "192.0.2.10";
const V6: &str = "2001:db8::10";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// Peer's kernel socket -> tenant -> peer's kernel socket.
fn round_trip(rig: &mut Rig, tenant: &mut Tenant, v6: bool, payload: &[u8]) {
    let local = if v6 { V6 } else { V4 };
    let socket = rig.bed.peer_socket(peer(v6));
    let from = socket.local_addr().unwrap();
    socket.send_to(payload, at(local, 5000)).unwrap();
    let (record, got) = rig.receive(tenant);
    assert_eq!(got, payload);
    let want = Record {
        len: u32::try_from(payload.len()).unwrap(),
        kind: kind::DATAGRAM,
        ttl: 64,
        local_port: 5000,
        remote_port: from.port(),
        ifindex: rig.ifindex,
        timestamp_ns: record.timestamp_ns,
        local: net::from_ip(local.parse().unwrap()),
        remote: net::from_ip(from.ip()),
        ..Record::default()
    };
    assert_eq!(Record { flags: record.flags & !flags::REASSEMBLED, ..record }, want);
    assert!(record.timestamp_ns > 1_600_000_000_000_000_000);

    tenant.datagram(5000, from, payload);
    rig.until("datagram at the peer", |_| {
        socket.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 65536];
        let (n, source) = socket.recv_from(&mut buffer).ok()?;
        assert_eq!((&buffer[..n], source), (payload, at(local, 5000)));
        Some(())
    });
}

#[test]
fn both_families_both_ways() {
    let mut rig = Rig::new("ways");
    let mut tenant = rig.udp_tenant(1, &[V4, V6], 5000);
    for v6 in [false, true] {
        for len in [0, 1, 2, 31, 64, 1400, 1452] {
            let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).unwrap()).collect();
            round_trip(&mut rig, &mut tenant, v6, &payload);
        }
    }
    assert_eq!(rig.slot(1, Counter::RxDelivered), 14);
    assert_eq!(rig.slot(1, Counter::TxDatagrams), 14);
    rig.finish();
}

#[test]
fn a_sleeping_tenant_is_woken_once() {
    let mut rig = Rig::new("wake");
    let mut tenant = rig.udp_tenant(1, &[V4], 5000);
    let socket = rig.bed.peer_socket(peer(false));
    // The worker sleeps too by now.
    std::thread::sleep(Duration::from_millis(50));
    assert!(!tenant.sleep(0, Duration::from_millis(10)), "nothing has come");
    socket.send_to(b"hello", at(V4, 5000)).unwrap();
    assert!(tenant.sleep(0, Duration::from_secs(2)), "no doorbell");
    assert_eq!(rig.receive(&mut tenant).1, b"hello");
    assert!(rig.worker(Counter::Doorbells) <= 1);
    rig.finish();
}

#[test]
fn a_full_ring_drops_for_that_endpoint_only() {
    let mut rig = Rig::new("full");
    let mut slow = rig.udp_tenant(1, &[V4], 5000);
    let mut other = rig.udp_tenant(2, &["192.0.2.11"], 5000);
    let socket = rig.bed.peer_socket(peer(false));
    round_trip(&mut rig, &mut slow, false, b"the route is known from here on");
    let before = rig.slot(1, Counter::RxDelivered);
    let payload = [7; 1400];
    let fits = common::RING / afnet_abi::shm::record_len(payload.len());
    for i in 0..fits + 100 {
        socket.send_to(&payload, at(V4, 5000)).unwrap();
        if i % 50 == 0 {
            let (all, slot) = (i as u64, 1);
            rig.until("progress", |rig| {
                let seen =
                    rig.slot(slot, Counter::RxDelivered) - before + rig.slot(slot, Counter::RxRingFull);
                (seen >= all).then_some(())
            });
        }
    }
    socket.send_to(b"still here", at("192.0.2.11", 5000)).unwrap();
    assert_eq!(rig.receive(&mut other).1, b"still here");
    let dropped = rig.slot(1, Counter::RxRingFull);
    assert_eq!(rig.slot(1, Counter::RxDelivered) - before + dropped, fits as u64 + 100);
    assert!(dropped >= 100, "{dropped}");
    // All are gone to where they should; the ring works again.
    while slow.try_receive().is_some() {}
    round_trip(&mut rig, &mut slow, false, b"again");
    rig.finish();
}
