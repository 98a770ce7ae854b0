//! An endpoint at work: the test is daemon and worker, over the real memory, eventfds and kernel sockets.

mod fake;

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use afnet_abi::{
    control::{EndpointKind, Request},
    shm::{ErrorInfo, Record, flags, kind},
};
use afnet_tenant::{AttachOptions, Endpoint, Error, Kind, Message, Realm};
use fake::{Config, Fake, Served, mapped};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

const SECOND: Option<Duration> = Some(Duration::from_secs(1));

fn options(fake: &Fake) -> AttachOptions {
    AttachOptions { instance: Some(fake.instance.clone()), ..AttachOptions::default() }
}

fn start(config: Config) -> (Fake, Endpoint, Served) {
    let fake = Fake::start(config);
    let mut endpoint = Endpoint::attach(&options(&fake)).unwrap();
    endpoint.set_timeout(SECOND);
    let served = fake.attached();
    assert!(matches!(fake.asked(), (Request::Hello { version: 1 }, 0)));
    assert!(matches!(fake.asked(), (Request::Attach { .. }, 0)));
    (fake, endpoint, served)
}

fn readable(endpoint: &Endpoint) -> bool {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut [PollFd::from_borrowed_fd(endpoint.as_fd(), PollFlags::IN)], Some(&now)).unwrap() == 1
}

#[test]
fn datagrams_arrive_with_everything_known_about_them() {
    let (_fake, mut endpoint, mut served) = start(Config::default());
    assert_eq!((endpoint.compartment(), endpoint.addresses().len()), ("c", 1));
    served.deliver(0, b"hello");
    let mut count = 0;
    let visited = endpoint.recv_batch(64, |_, d| {
        count += 1;
        assert_eq!((d.kind(), d.len(), d.to_vec()), (Kind::Datagram, 5, b"hello".to_vec()));
        assert_eq!((d.local(), d.remote()), (addr("127.0.0.1:7"), addr("192.0.2.1:1000")));
        assert_eq!((d.ttl(), d.tos(), d.timestamp_ns()), (60, 2, 99));
        assert_eq!(d.realm().unwrap().ifindex, 5);
        assert!(!d.is_from_kernel() && !d.is_local() && d.icmp_error().is_none());
    });
    assert_eq!((visited.unwrap(), count), (1, 1));
    served.deliver(0, b"a long one");
    let mut buffer = [0; 6];
    let received = endpoint.recv(&mut buffer).unwrap();
    assert_eq!((received.len, received.full_len, &buffer), (6, 10, b"a long"));
}

#[test]
fn a_batch_of_replies_goes_back_the_way_it_came() {
    let (_fake, mut endpoint, mut served) = start(Config { workers: 2, ..Config::default() });
    for worker in [0, 1, 1] {
        served.deliver(worker, &[worker.to_le_bytes()[0]; 1400]);
    }
    assert_eq!(endpoint.recv_batch(64, |sender, d| sender.reply(d).unwrap()).unwrap(), 3);
    for worker in [0, 1] {
        let sent = served.take(worker);
        assert_eq!(sent.len(), worker + 1);
        for (record, payload) in sent {
            assert_eq!(payload, [worker.to_le_bytes()[0]; 1400]);
            assert_eq!((record.local, record.remote), (mapped([127, 0, 0, 1]), mapped([192, 0, 2, 1])));
            assert_eq!((record.local_port, record.remote_port, record.ifindex), (7, 1000, 5));
            assert_eq!((record.kind, record.ttl, record.timestamp_ns), (kind::DATAGRAM, 0, 0));
        }
    }
}

#[test]
fn one_ring_does_not_starve_the_other() {
    let (_fake, mut endpoint, mut served) = start(Config { workers: 2, ..Config::default() });
    for _ in 0..100 {
        served.deliver(0, b"0");
        served.deliver(1, b"1");
    }
    let mut first = Vec::new();
    for _ in 0..4 {
        endpoint.recv_batch(10, |_, d| first.extend(d.to_vec())).unwrap();
    }
    assert!(first.contains(&b'0') && first.contains(&b'1'));
}

#[test]
fn a_flow_stays_with_one_worker() {
    let (_fake, mut endpoint, mut served) = start(Config { workers: 4, ..Config::default() });
    for port in 1..=100 {
        for _ in 0..2 {
            endpoint.send_to(b"x", SocketAddr::new("192.0.2.1".parse().unwrap(), port)).unwrap();
        }
    }
    let by_worker: Vec<Vec<u16>> =
        (0..4).map(|w| served.take(w).iter().map(|(r, _)| r.remote_port).collect()).collect();
    for ports in &by_worker {
        assert!(ports.len() >= 20, "an empty worker: {by_worker:?}");
        assert!(ports.chunks(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn a_message_is_sent_as_told_and_with_its_batch() {
    let (_fake, mut endpoint, mut served) = start(Config::default());
    let realm = Realm { ifindex: 9, vlan: "ad:3".parse().unwrap() };
    let message = Message {
        local: Some("127.0.0.1".parse().unwrap()),
        local_port: 53,
        ttl: 9,
        tos: 0x2e << 2,
        segment: 100,
        dont_fragment: true,
        realm: Some(realm),
        ..Message::new(addr("[2001:db8::1]:99"), &[1; 250])
    };
    endpoint.send(&message).unwrap();
    assert!(served.take(0).is_empty(), "not flushed yet");
    endpoint.flush();
    let (record, payload) = served.take(0).remove(0);
    assert_eq!((record.segment, record.ttl, record.tos, record.flags), (100, 9, 0xb8, flags::DONT_FRAGMENT));
    assert_eq!((record.ifindex, record.vlan, record.local_port), (9, 3 << 12, 53));
    assert_eq!((record.remote[0], record.remote_port, payload.len()), (0x20, 99, 250));
    // A full batch needs no telling.
    for _ in 0..64 {
        endpoint.send(&message).unwrap();
    }
    assert_eq!(served.take(0).len(), 64);
    for (len, remote) in [(65_508, "192.0.2.1:9"), (65_528, "[2001:db8::1]:9")] {
        let error = endpoint.send_to(&vec![0; len], addr(remote)).unwrap_err();
        assert!(matches!(error, Error::TooLong(_)) && error.errno() == 90);
        endpoint.send_to(&vec![0; len - 1], addr(remote)).unwrap();
        served.take(0);
    }
}

#[test]
fn a_sleeper_is_woken_and_time_runs_out() {
    let (_fake, mut endpoint, mut served) = start(Config { workers: 2, ..Config::default() });
    let begin = Instant::now();
    assert!(!endpoint.wait(Some(Duration::from_millis(30))).unwrap());
    assert!(begin.elapsed() >= Duration::from_millis(30));
    endpoint.set_timeout(Some(Duration::from_millis(10)));
    assert!(matches!(endpoint.recv_from(&mut [0; 9]), Err(Error::WouldBlock)));
    endpoint.set_nonblocking(true);
    assert!(matches!(endpoint.recv_from(&mut [0; 9]), Err(Error::WouldBlock)));
    let worker = thread::spawn(move || {
        for i in 0..20u8 {
            thread::sleep(Duration::from_millis(3));
            served.deliver(usize::from(i % 2), &[i]);
        }
        served
    });
    for i in 0..20u8 {
        endpoint.wait(None).unwrap();
        let mut bytes = Vec::new();
        endpoint.recv_batch(1, |_, d| bytes = d.to_vec()).unwrap();
        assert_eq!(bytes, [i]);
    }
    worker.join().unwrap();
}

#[test]
fn a_busy_tenant_is_not_rung() {
    let (_fake, mut endpoint, mut served) = start(Config::default());
    for _ in 0..10 {
        assert!(!served.deliver(0, b"x"));
        endpoint.recv_batch(9, |_, _| ()).unwrap();
    }
    assert!(!endpoint.arm());
    assert!(served.deliver(0, b"x"), "asleep now");
    assert!(!served.deliver(0, b"x"), "once");
}

#[test]
fn the_descriptor_tells_when_to_receive() {
    let (_fake, mut endpoint, mut served) = start(Config { workers: 2, ..Config::default() });
    assert!(!endpoint.arm() && !readable(&endpoint));
    served.deliver(1, b"x");
    assert!(readable(&endpoint));
    assert!(endpoint.arm(), "something is there");
    assert_eq!(endpoint.recv_batch(9, |_, _| ()).unwrap(), 1);
    assert!(!endpoint.arm());
    assert!(!readable(&endpoint), "the old ring was taken back");
    served.stream.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(readable(&endpoint), "the daemon is gone");
}

#[test]
fn a_full_ring_blocks_or_says_so() {
    let (_fake, mut endpoint, mut served) = start(Config::default());
    let remote = addr("192.0.2.1:9");
    endpoint.set_nonblocking(true);
    let mut sent = 0;
    let error = loop {
        match endpoint.send_to(&[0; 1000], remote) {
            Ok(()) => sent += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(error, Error::WouldBlock) && sent > 200, "{sent}: {error}");
    endpoint.set_nonblocking(false);
    let worker = thread::spawn(move || {
        let mut taken = 0;
        while taken < sent + 1000 {
            thread::sleep(Duration::from_millis(2));
            taken += served.take(0).len();
        }
        served
    });
    for _ in 0..1000 {
        endpoint.send_to(&[0; 1000], remote).unwrap();
    }
    assert!(worker.join().unwrap().take(0).is_empty());
}

#[test]
fn icmp_errors_are_told() {
    let (_fake, mut endpoint, mut served) = start(Config::default());
    let info = ErrorInfo {
        errno: 90,
        icmp_type: 3,
        icmp_code: 4,
        reserved: 0,
        mtu: 1280,
        offender: mapped([192, 0, 2, 254]),
    };
    // SAFETY: ErrorInfo is plain integers without padding.
    let bytes: [u8; 28] = unsafe { std::mem::transmute(info) };
    let record = Record {
        kind: kind::ERROR,
        local: mapped([127, 0, 0, 1]),
        remote: mapped([192, 0, 2, 1]),
        local_port: 7,
        remote_port: 53,
        ..Record::default()
    };
    served.deliver_record(0, &record, &bytes);
    let error = endpoint.recv_from(&mut [0; 99]).unwrap_err();
    let Error::Icmp(icmp) = &error else { panic!("{error}") };
    assert_eq!((icmp.mtu, icmp.icmp_type, icmp.icmp_code, icmp.remote), (1280, 3, 4, addr("192.0.2.1:53")));
    assert_eq!(icmp.offender, Some("192.0.2.254".parse().unwrap()));
    assert_eq!(error.errno(), 90);
    assert!(error.to_string().contains("192.0.2.254"), "{error}");
}

/// A request for ports.
fn claim(port: u16, count: u16, address: Option<IpAddr>) -> Request {
    Request::Claim { port, count, address, family: None, shared: false }
}

#[test]
fn claims_carry_their_proof_and_are_unique() {
    let config = Config {
        addresses: ["127.0.0.1", "127.0.0.9", "192.0.2.55"].map(|a| a.parse().unwrap()).to_vec(),
        taken: Some(4),
        ..Config::default()
    };
    let (fake, mut endpoint, _served) = start(config);
    let port = endpoint.claim(0).unwrap();
    // The kernel does not have the third one.
    assert_eq!(fake.asked(), (claim(port, 1, None), 2));
    assert_eq!(UdpSocket::bind(("127.0.0.9", port)).unwrap_err().raw_os_error(), Some(98));
    // In use in the kernel, in use for the daemon.
    let other = UdpSocket::bind("127.0.0.9:0").unwrap();
    let error = endpoint.claim(other.local_addr().unwrap().port()).unwrap_err();
    assert!(matches!(error, Error::Bind { .. }) && error.is_in_use(), "{error}");
    let error = endpoint.claim(4).unwrap_err();
    assert!(matches!(error, Error::Refused(_)) && error.is_in_use(), "{error}");
    assert!(matches!(fake.asked(), (Request::Claim { port: 4, .. }, 2)));
    drop(UdpSocket::bind("127.0.0.1:4").expect("what was refused is free again"));
    // One address, a block, and back.
    let at = "127.0.0.9".parse().unwrap();
    let second = endpoint.claim_at(at, 0).unwrap();
    assert_eq!(fake.asked(), (claim(second, 1, Some(at)), 1));
    endpoint.claim_block(5000, 64).unwrap();
    assert_eq!(fake.asked(), (claim(5000, 64, None), 0));
    endpoint.unclaim(second, Some(at)).unwrap();
    assert_eq!(
        fake.asked(),
        (Request::Unclaim { port: second, address: Some(at), family: None, reason: None }, 0)
    );
    assert!(matches!(endpoint.unclaim(second, Some(at)), Err(Error::Invalid(_))));
    assert!(matches!(endpoint.claim_block(65_535, 2), Err(Error::Invalid(_))));
}

#[test]
fn the_daemon_picks_where_the_kernel_has_no_address() {
    let config = Config { addresses: vec!["192.0.2.55".parse().unwrap()], ..Config::default() };
    let (_fake, mut endpoint, _served) = start(config);
    assert_eq!(endpoint.claim(0).unwrap(), 4242);
}

#[test]
fn traffic_on_the_kernel_path_arrives_too() {
    let (_fake, mut endpoint, mut served) = start(Config::default());
    let port = endpoint.claim(0).unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(SECOND).unwrap();
    peer.send_to(b"by the kernel", ("127.0.0.1", port)).unwrap();
    served.deliver(0, b"by the ring");
    let mut seen = Vec::new();
    while seen.len() < 2 {
        assert!(endpoint.wait(SECOND).unwrap());
        endpoint
            .recv_batch(9, |sender, d| {
                assert_eq!(d.is_from_kernel(), d.to_vec() == b"by the kernel");
                sender.reply(d).unwrap();
                seen.push(d.to_vec());
            })
            .unwrap();
    }
    // Each answer goes back the way it came.
    let mut buffer = [0; 64];
    let (n, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], from.port()), (&b"by the kernel"[..], port));
    assert_eq!(served.take(0).len(), 1);
    // Without sleeping in between it is found by and by.
    peer.send_to(b"again", ("127.0.0.1", port)).unwrap();
    let mut rounds = 0;
    while endpoint.recv_batch(9, |_, d| assert!(d.is_from_kernel())).unwrap() == 0 {
        rounds += 1;
        assert!(rounds < 1000);
    }
}

#[test]
fn without_a_daemon_the_kernel_carries_on_and_a_new_one_takes_over() {
    let (mut fake, mut endpoint, mut served) = start(Config::default());
    let port = endpoint.claim(0).unwrap();
    let run = endpoint.run();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(SECOND).unwrap();
    let peer_address = peer.local_addr().unwrap();

    served.deliver(0, b"last words");
    fake.hide();
    served.die();
    let (n, _) = endpoint.recv_from(&mut [0; 64]).unwrap();
    assert_eq!(n, 10, "what was in the ring is not lost");
    assert!(!endpoint.wait(Some(Duration::from_millis(20))).unwrap());
    assert!(!endpoint.is_connected());

    // Both ways through the kernel.
    let mut buffer = [0; 64];
    peer.send_to(b"ping", ("127.0.0.1", port)).unwrap();
    let (n, from) = endpoint.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], from), (&b"ping"[..], peer_address));
    endpoint.send_to(b"pong", from).unwrap();
    let (n, from) = peer.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..n], from.port()), (&b"pong"[..], port));
    assert!(matches!(endpoint.claim(9), Err(Error::Disconnected)));

    // A new daemon is found by itself, and gets the same claim with the same socket.
    fake.restart(Config::default());
    let begin = Instant::now();
    while !endpoint.is_connected() {
        assert!(begin.elapsed() < Duration::from_secs(3));
        let _ = endpoint.wait(Some(Duration::from_millis(50))).unwrap();
    }
    let mut served = fake.attached();
    assert!(matches!(fake.asked(), (Request::Hello { .. }, 0)));
    assert!(matches!(fake.asked(), (Request::Attach { .. }, 0)));
    assert_eq!(fake.asked(), (claim(port, 1, None), 1));
    assert_ne!(endpoint.run(), run);
    served.deliver(0, b"fast again");
    let (n, _) = endpoint.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..n], b"fast again");
    endpoint.send_to(b"and out", peer_address).unwrap();
    assert_eq!(served.take(0).len(), 1);
    // The kernel's sockets are still heard, and nothing spins on the old descriptors.
    peer.send_to(b"ping", ("127.0.0.1", port)).unwrap();
    assert_eq!(endpoint.recv_from(&mut buffer).unwrap().0, 4);
    assert!(!endpoint.arm() && !readable(&endpoint));
}

#[test]
fn a_blocked_sender_notices_that_the_daemon_has_gone() {
    let (fake, mut endpoint, served) = start(Config::default());
    endpoint.claim(0).unwrap();
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let remote = peer.local_addr().unwrap();
    fake.hide();
    let death = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        served.die();
    });
    endpoint.set_timeout(Some(Duration::from_secs(5)));
    while endpoint.is_connected() {
        endpoint.send_to(&[7; 1000], remote).unwrap();
    }
    death.join().unwrap();
    peer.set_read_timeout(SECOND).unwrap();
    assert_eq!(peer.recv(&mut [0; 2000]).unwrap(), 1000, "through the kernel");
}

#[test]
fn without_reconnecting_and_without_sockets_waiting_is_pointless() {
    let fake = Fake::start(Config::default());
    let mut endpoint = Endpoint::attach(&AttachOptions { reconnect: false, ..options(&fake) }).unwrap();
    fake.attached().die();
    assert!(matches!(endpoint.wait(None), Err(Error::Disconnected)));
    assert!(matches!(endpoint.send_to(b"x", addr("192.0.2.1:1")), Err(Error::Disconnected)));
    endpoint.reconnect().unwrap();
    assert!(endpoint.is_connected());
}

#[test]
fn raw_endpoints_exchange_packets() {
    let fake = Fake::start(Config { workers: 2, ..Config::default() });
    let kind = EndpointKind::Raw;
    let mut endpoint =
        Endpoint::attach(&AttachOptions { kind, spin: Duration::from_micros(50), ..options(&fake) }).unwrap();
    let mut served = fake.attached();
    let packet = [0x45; 60];
    let record = Record { kind: kind::PACKET, ..Record::default() };
    served.deliver_record(1, &record, &packet);
    let mut buffer = [0; 99];
    let received = endpoint.recv(&mut buffer).unwrap();
    assert_eq!((received.kind, &buffer[..received.len]), (Kind::Packet, &packet[..]));
    endpoint.send_packet(&packet).unwrap();
    endpoint.send_packet(&[0x60; 40]).unwrap();
    endpoint.send_packet(&[]).unwrap();
    endpoint.flush();
    let mut sent = served.take(0);
    sent.extend(served.take(1));
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|(record, _)| record.kind == kind::PACKET));
    assert!(matches!(endpoint.claim(7), Err(Error::Invalid(_))));
    assert!(matches!(endpoint.send_to(b"x", addr("192.0.2.1:1")), Err(Error::Invalid(_))));
}

#[test]
fn a_daemon_that_breaks_the_ring_is_left() {
    let (_fake, mut endpoint, mut served) = start(Config::default());
    let record = Record { kind: kind::PAD, ..Record::default() };
    served.deliver_record(0, &record, b"");
    assert!(matches!(endpoint.recv_batch(1, |_, _| ()), Err(Error::Protocol(_))));
    assert!(!endpoint.is_connected());
    assert_eq!(endpoint.recv_batch(1, |_, _| ()).unwrap(), 0);
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}
