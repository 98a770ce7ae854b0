//! Queues, workers, wake modes, jumbo frames; endpoints that come and go under traffic; tenants that break the rules.

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use afnet_abi::{
    shm::{self, Record, kind},
    vlan::Vlan,
};
use afnet_dataplane::{
    Compartment, Config, Counter, EndpointKind, Error, Event, PortClaim, QueueMode, Route, Scope, WakeMode,
};
use common::{Options, Rig, Tenant, datagram, peer};
use rustix::mm::{MapFlags, ProtFlags, mmap};

const V4: &str = "192.0.2.10";

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap(), port)
}

/// `count` requests, one at a time, answered by the tenant.
fn echo(rig: &mut Rig, tenant: &mut Tenant, socket: &UdpSocket, count: u32, payload: &[u8]) {
    socket.set_nonblocking(true).unwrap();
    let mut buffer = vec![0; 65536];
    for _ in 0..count {
        socket.send_to(payload, at(V4, 5000)).unwrap();
        let (record, got) = rig.receive(tenant);
        let back = Record { kind: kind::DATAGRAM, flags: 0, timestamp_ns: 0, ..record };
        tenant.send(&back, &got);
        let n = rig.until("echo", |_| socket.recv(&mut buffer).ok());
        assert!(buffer[..n] == *payload);
    }
}

#[test]
fn every_wake_mode() {
    for (wake, label) in
        [(WakeMode::Busy, "busy"), (WakeMode::Adaptive, "adapt"), (WakeMode::Interrupt, "intr")]
    {
        let options = Options::default();
        let config = Config { wake, workers: vec![Some(0)], ..options.config.clone() };
        let mut rig = Rig::with(label, Options { config, ..options });
        let mut tenant = rig.udp_tenant(1, &[V4], 5000);
        let socket = rig.bed.peer_socket(peer(false));
        echo(&mut rig, &mut tenant, &socket, 20, b"ping");
        // The worker, if it may, is asleep after this; the next one must wake it all the same.
        std::thread::sleep(Duration::from_millis(20));
        let loops = rig.worker(Counter::Loops);
        echo(&mut rig, &mut tenant, &socket, 1, b"ping");
        match wake {
            WakeMode::Busy => assert_eq!(rig.worker(Counter::Sleeps), 0),
            _ => assert!(rig.worker(Counter::Sleeps) > 0),
        }
        if wake != WakeMode::Busy {
            std::thread::sleep(Duration::from_millis(300));
            assert!(rig.worker(Counter::Loops) - loops < 2000, "idle costs next to nothing");
        }
        rig.finish();
    }
}

#[test]
fn several_queues_and_workers() {
    let options = Options::default();
    let config = Config { workers: vec![Some(0), Some(1)], ..options.config.clone() };
    let mut rig = Rig::with("queues", Options { config, queues: 3, ..options });
    let mut tenant = rig.udp_tenant(1, &[V4], 5000);
    // A flow stays on its queue; 24 flows do not all fall on one worker's.
    for _ in 0..24 {
        let socket = rig.bed.peer_socket(peer(false));
        socket.send_to(b"flow", at(V4, 5000)).unwrap();
        assert_eq!(rig.receive(&mut tenant).1, b"flow");
    }
    let stats = rig.dp().stats();
    for worker in &stats.workers {
        assert!(worker[Counter::RxDelivered as usize] == 0, "delivery is counted by endpoint");
        assert!(worker[Counter::RxFrames as usize] > 0, "one worker got nothing");
    }
    assert_eq!(rig.slot(1, Counter::RxDelivered), 24);
    // Either worker sends.
    let socket = rig.bed.peer_socket(peer(false));
    socket.set_nonblocking(true).unwrap();
    for worker in 0..2 {
        tenant.send_by(worker, &datagram(5000, socket.local_addr().unwrap()), b"out");
        let mut buffer = [0; 8];
        let n = rig.until("datagram", |_| socket.recv(&mut buffer).ok());
        assert_eq!(&buffer[..n], b"out");
    }
    assert_eq!(rig.finish().queues.len(), 3);
}

#[test]
fn a_worker_without_a_queue_hands_over() {
    let options = Options::default();
    let config = Config { workers: vec![Some(0), Some(1)], ..options.config.clone() };
    let mut rig = Rig::with("handover", Options { config, ..options });
    let mut tenant = rig.udp_tenant(1, &[V4], 5000);
    let socket = rig.bed.peer_socket(peer(false));
    socket.set_nonblocking(true).unwrap();
    let payload: Vec<u8> = (0..4000).map(|i| u8::try_from(i % 251).unwrap()).collect();
    for _ in 0..20 {
        tenant.send_by(1, &datagram(5000, socket.local_addr().unwrap()), &payload);
        let mut buffer = vec![0; 65536];
        let n = rig.until("datagram", |_| socket.recv(&mut buffer).ok());
        assert!(buffer[..n] == payload);
    }
    assert_eq!(rig.slot(1, Counter::TxNoQueue), 0);
    assert_eq!(rig.slot(1, Counter::TxDatagrams), 20);
    rig.finish();
}

#[test]
fn jumbo_frames() {
    let options = Options { mtu: 9000, ..Options::default() };
    let mut rig = Rig::with("jumbo", options);
    assert!(rig.report.multi_buffer, "{:?}", rig.report);
    assert_eq!(rig.report.mode, QueueMode::Copy);
    assert_eq!(rig.report.refused.len(), 1, "zero-copy was tried: {:?}", rig.report);
    let mut tenant = rig.udp_tenant(1, &[V4], 5000);
    let socket = rig.bed.peer_socket(peer(false));
    for len in [1, 1700, 1800, 3000, 5000, 8972] {
        let payload: Vec<u8> = (0..len).map(|i| u8::try_from(i % 253).unwrap()).collect();
        echo(&mut rig, &mut tenant, &socket, 3, &payload);
    }
    assert_eq!(rig.slot(1, Counter::RxFragments), 0, "whole frames");
    assert_eq!(rig.slot(1, Counter::TxFragmented), 0, "whole frames");
    rig.finish();
}

#[test]
fn endpoints_come_and_go_under_traffic() {
    let mut rig = Rig::new("churn");
    let mut steady = rig.udp_tenant(1, &[V4], 5000);
    rig.address(2, "192.0.2.11", Vlan::NONE);
    let (flood, stay) = (rig.bed.peer_socket(peer(false)), rig.bed.peer_socket(peer(false)));
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let sender = std::thread::spawn(move || {
        let mut sent = 0;
        while !flag.load(Ordering::Relaxed) {
            // Refused while the kernel has no one there: of no matter.
            let _ = flood.send_to(b"flood", at("192.0.2.11", 6000));
            sent += 1;
            if sent % 16 == 0 {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    });
    for _ in 0..10 {
        let mut visitor = rig.attach(2, EndpointKind::Udp);
        rig.claim(&visitor, 2, 6000);
        assert_eq!(rig.receive(&mut visitor).1, b"flood");
        echo(&mut rig, &mut steady, &stay, 2, b"steady");
        let id = visitor.id;
        rig.dp().detach(id).unwrap();
        assert!(matches!(rig.dp().detach(id), Err(Error::Unknown { .. })));
    }
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    echo(&mut rig, &mut steady, &stay, 2, b"steady");
    let audit = rig.finish();
    assert_eq!(audit.lost(), 0);
}

#[test]
fn a_device_goes_and_comes_back() {
    let mut rig = Rig::new("device");
    let mut tenant = rig.udp_tenant(1, &[V4], 5000);
    let socket = rig.bed.peer_socket(peer(false));
    echo(&mut rig, &mut tenant, &socket, 1, b"before");
    let ifindex = rig.ifindex;
    rig.dp().remove_device(ifindex).unwrap();
    assert!(matches!(rig.dp().remove_device(ifindex), Err(Error::Unknown { .. })));
    rig.add_device_again();
    echo(&mut rig, &mut tenant, &socket, 3, b"after");
    rig.finish();
}

#[test]
fn claims_are_checked() {
    let mut rig = Rig::new("claims");
    let tenant = rig.udp_tenant(1, &[V4], 5000);
    let other = rig.attach(1, EndpointKind::Udp);
    let dp = rig.dp();
    assert!(matches!(dp.claim(other.id, &PortClaim::new(5000, 1)), Err(Error::Exists(_))));
    assert!(matches!(dp.claim(other.id, &PortClaim::new(4990, 20)), Err(Error::Exists(_))));
    assert!(matches!(dp.claim(other.id, &PortClaim::new(0, 1)), Err(Error::Config(_))));
    assert!(matches!(dp.claim(99, &PortClaim::new(1, 1)), Err(Error::Unknown { .. })));
    dp.unclaim(tenant.id, 5000, 1, Scope::All).unwrap();
    assert!(matches!(dp.unclaim(tenant.id, 5000, 1, Scope::All), Err(Error::Unknown { .. })));
    dp.claim(other.id, &PortClaim::new(5000, 1)).unwrap();
    assert!(matches!(dp.attach(0, EndpointKind::Udp, 1 << 20, 1 << 20), Err(Error::Config(_))));
    assert!(matches!(dp.attach(1, EndpointKind::Udp, 12345, 1 << 20), Err(Error::Config(_))));
    rig.finish();
}

#[test]
fn what_was_sent_goes_out_before_the_claim_or_the_endpoint_goes() {
    // Fewer than the peer's end of a veth pair takes while nobody runs its NAPI poll (256).
    const COUNT: u32 = 200;
    let mut rig = Rig::new("last");
    rig.udp_tenant(1, &[V4], 4999);
    let socket = rig.bed.peer_socket(peer(false));
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).unwrap();
    socket.set_nonblocking(true).unwrap();
    let to = socket.local_addr().unwrap();
    let received = |rig: &mut Rig| {
        let mut number = [0; 4];
        rig.until("a datagram", |_| socket.recv(&mut number).ok());
        u32::from_be_bytes(number)
    };
    for detach in [false, true] {
        let mut tenant = rig.attach(1, EndpointKind::Udp);
        rig.claim(&tenant, 1, 5000);
        // The first one asks for the route.
        tenant.datagram(5000, to, &u32::MAX.to_be_bytes());
        assert_eq!(received(&mut rig), u32::MAX);
        for number in 0..COUNT {
            tenant.datagram(5000, to, &number.to_be_bytes());
        }
        if detach {
            rig.dp().detach(tenant.id).unwrap();
        } else {
            rig.dp().unclaim(tenant.id, 5000, 1, Scope::All).unwrap();
        }
        for number in 0..COUNT {
            assert_eq!(received(&mut rig), number, "detach: {detach}");
        }
        assert_eq!(rig.slot(1, Counter::TxNotClaimed), u64::from(detach));
        if !detach {
            tenant.datagram(5000, to, b"late");
            rig.until("a refusal", |rig| (rig.slot(1, Counter::TxNotClaimed) == 1).then_some(()));
            rig.dp().detach(tenant.id).unwrap();
        }
    }
    rig.finish();
}

#[test]
fn what_waits_for_its_next_hop_outlives_the_endpoint_but_not_the_compartment() {
    let mut rig = Rig::new("orphans");
    let _keeper = rig.udp_tenant(1, &[V4], 4999);
    let socket = rig.bed.peer_socket(peer(false));
    socket.set_nonblocking(true).unwrap();
    let to = socket.local_addr().unwrap();
    let mut byte = [0];
    for compartment_goes in [false, true] {
        let mut tenant = rig.attach(1, EndpointKind::Udp);
        rig.claim(&tenant, 1, 5000);
        rig.special.insert(to.ip(), Route::Pending);
        rig.dp().flush_routes().unwrap();
        let before = rig.slot(1, Counter::TxWaited);
        for number in 0..5 {
            tenant.datagram(5000, to, &[number]);
        }
        rig.until("datagrams that wait", |rig| (rig.slot(1, Counter::TxWaited) == before + 5).then_some(()));
        rig.dp().detach(tenant.id).unwrap();
        let asked = |e: &Event| matches!(e, Event::Resolve(key) if key.dst == to.ip());
        let event = rig.until("a question", |rig| rig.events.iter().rev().find(|e| asked(e)).cloned());
        let Event::Resolve(key) = event else { unreachable!() };
        if compartment_goes {
            rig.dp().remove_compartment(1).unwrap();
        }
        let (ifindex, src_mac, dst_mac) = (rig.ifindex, rig.mac, rig.bed.peer_mac());
        let src = V4.parse().unwrap();
        let route = Route::Wire { ifindex, vlan: Vlan::NONE, src_mac, dst_mac, mtu: 1500, src };
        rig.dp().route_reply(key, route).unwrap();
        if compartment_goes {
            // What the worker answers after the route, it does after the route.
            let before = rig.worker(Counter::TxFrames);
            rig.dp().set_compartment(2, Compartment::default()).unwrap();
            assert_eq!(rig.worker(Counter::TxFrames), before);
            assert!(socket.recv(&mut byte).is_err());
        } else {
            for number in 0..5 {
                rig.until("what has waited", |_| socket.recv(&mut byte).ok());
                assert_eq!(byte, [number]);
            }
        }
    }
    rig.finish();
}

/// The tenant's memory, to be spoilt.
struct Spoil(*mut u8);

impl Spoil {
    fn of(tenant: &Tenant) -> Self {
        let len = shm::total_len(1, common::RING, common::RING);
        // SAFETY: a new mapping of the endpoint's memory.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                tenant.memfd.as_fd(),
                0,
            )
        };
        Self(base.expect("map the endpoint").cast())
    }

    /// Writes a shared position: of the RX ring's consumer or the TX ring's producer.
    fn position(&self, tx: bool, value: u64) {
        let at = shm::worker_offset(0, common::RING, common::RING) + if tx { 128 } else { 64 };
        // SAFETY: within the mapping, aligned; others use it as an atomic too.
        unsafe { (*self.0.add(at).cast::<std::sync::atomic::AtomicU64>()).store(value, Ordering::Release) }
    }

    /// Writes a descriptor at the start of the TX ring.
    fn record(&self, record: &Record) {
        let at = shm::worker_offset(0, common::RING, common::RING) + shm::CTL_LEN + common::RING;
        // SAFETY: within the mapping, aligned to a record.
        unsafe { self.0.add(at).cast::<Record>().write(*record) }
    }
}

/// What a tenant does to its memory.
type Crime = Box<dyn Fn(&Spoil)>;

#[test]
fn a_tenant_that_breaks_the_rules_is_cut_off_alone() {
    let mut rig = Rig::new("hostile");
    let mut victim = rig.udp_tenant(1, &[V4], 5000);
    rig.address(2, "192.0.2.11", Vlan::NONE);
    let socket = rig.bed.peer_socket(peer(false));
    let tx = |len: u32, position: u64| {
        move |s: &Spoil| {
            s.record(&Record { len, kind: kind::DATAGRAM, ..Record::default() });
            s.position(true, position);
        }
    };
    let crimes: [(&str, Crime); 6] = [
        ("tx ahead", Box::new(tx(0, 1 << 40))),
        ("tx odd", Box::new(tx(0, 63))),
        ("tx length", Box::new(tx(u32::MAX, 64))),
        ("tx beyond", Box::new(tx(1000, 64))),
        ("rx ahead", Box::new(|s: &Spoil| s.position(false, 1 << 40))),
        ("rx odd", Box::new(|s: &Spoil| s.position(false, 1))),
    ];
    for (number, (what, crime)) in (1..).zip(&crimes) {
        let criminal = rig.attach(2, EndpointKind::Udp);
        rig.claim(&criminal, 2, 6000);
        let spoil = Spoil::of(&criminal);
        crime(&spoil);
        rustix::io::write(&criminal.doorbells[0], &1u64.to_ne_bytes()).unwrap();
        rig.until(what, |rig| {
            // The consumer's position is read when the ring seems full.
            socket.send_to(&[0; 1400], at("192.0.2.11", 6000)).unwrap();
            rig.events
                .iter()
                .any(|e| matches!(e, Event::Violation { endpoint, .. } if *endpoint == criminal.id))
                .then_some(())
        });
        assert_eq!(rig.slot(2, Counter::Violations), number);
        echo(&mut rig, &mut victim, &socket, 3, b"untouched");
        rig.dp().detach(criminal.id).unwrap();
    }
    rig.finish();
}
