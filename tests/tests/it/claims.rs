//! Claims beside the kernel's sockets: one registry of ports, and no seam between the two paths.

use std::{
    collections::BTreeSet,
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::AsFd,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4, PEER_V6, socket_in},
    wait,
};

use crate::{
    bare::Bare,
    client::{Tenant, ask, at, bytes, receive},
};

#[test]
fn what_is_not_claimed_is_the_kernels() {
    let bed = Bed::new("beside");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let echo = Tenant::claiming(&daemon, "red", 7).echo();
    for (own, address) in [(PEER_V4, "192.0.2.10"), (PEER_V6, "2001:db8::10")] {
        let client = bed.peer_socket(own);
        let server = socket_in(&bed.host, address, 9);
        client.send_to(b"by the kernel", at(address, 9)).unwrap();
        let mut buffer = [0; 64];
        let (len, from) = receive(&server, &mut buffer).expect("a datagram");
        assert_eq!((&buffer[..len], from), (b"by the kernel".as_slice(), client.local_addr().unwrap()));
        server.send_to(&buffer[..len], from).unwrap();
        assert_eq!(receive(&client, &mut buffer).expect("its answer").1, at(address, 9));
        ask(&client, at(address, 7), b"by the fast path");
        // TCP, on the claimed port's number too.
        let listener = bed.host.enter(|| TcpListener::bind(at(address, 7))).expect("listen");
        let mut out = bed.peer.enter(|| TcpStream::connect(at(address, 7))).expect("connect");
        let (mut incoming, _) = listener.accept().expect("accept");
        out.write_all(b"stream").unwrap();
        let mut six = [0; 6];
        incoming.read_exact(&mut six).unwrap();
        assert_eq!(&six, b"stream");
        bed.peer.run(&format!("ping -c 1 -W 5 {address}"));
    }
    assert_eq!(echo.count(), 2);
    drop(echo);
    daemon.stop();
}

#[test]
fn no_seam_under_traffic() {
    const CHANGES: u32 = 100;
    // What a veth pair and every ring takes, whoever has to wait for a CPU.
    const IN_FLIGHT: u32 = 100;
    let bed = Bed::new("seam");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    let bare = Bare::attach(&daemon, "red");
    let mapping = bare.mapping();
    let (mut ring, _) = mapping.tenant_side(0).expect("rings of worker 0");
    let kernel = socket_in(&bed.host, "192.0.2.10", 7);
    kernel.set_nonblocking(true).unwrap();
    // The default holds some 270 datagrams, too few for a reader that must wait for a CPU.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&kernel, 8 << 20).unwrap();
    let client = bed.peer_socket(PEER_V4);
    client.connect("192.0.2.10:7").unwrap();
    let (sent, received, done) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let (mut by_ring, mut by_kernel) = (BTreeSet::new(), BTreeSet::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                if sent.load(Relaxed) - received.load(Relaxed) >= IN_FLIGHT {
                    thread::yield_now();
                    continue;
                }
                let number = sent.fetch_add(1, Relaxed);
                client.send(&number.to_be_bytes()).expect("send");
            }
        });
        scope.spawn(|| {
            for change in 0..CHANGES {
                if change % 2 == 0 {
                    bare.claim(7, &[kernel.as_fd()])
                } else {
                    bare.unclaim(7)
                }
                let seen = sent.load(Relaxed);
                wait::until_true("traffic", || sent.load(Relaxed) >= seen + 20);
            }
            done.store(true, Relaxed);
        });
        let all = wait::within(2 * wait::PATIENCE, || {
            while let Some(item) = ring.peek().expect("the ring is sound") {
                let mut number = [0; 4];
                assert_eq!(item.payload.copy_to(&mut number), 4);
                item.consume();
                assert!(by_ring.insert(u32::from_be_bytes(number)), "twice");
            }
            let _ = ring.release();
            let mut number = [0; 4];
            loop {
                match kernel.recv(&mut number) {
                    Ok(_) => assert!(by_kernel.insert(u32::from_be_bytes(number)), "twice"),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            let arrived = u32::try_from(by_ring.len() + by_kernel.len()).expect("a number");
            received.store(arrived, Relaxed);
            (done.load(Relaxed) && arrived == sent.load(Relaxed)).then_some(())
        });
        done.store(true, Relaxed);
        assert!(
            all.is_some(),
            "{} by the ring, {} by the kernel, of {sent:?}: {:?}\n{}",
            by_ring.len(),
            by_kernel.len(),
            daemon.counters("red"),
            bed.host.run("grep Udp: /proc/thread-self/net/snmp")
        );
    });
    assert!(by_ring.is_disjoint(&by_kernel), "delivered twice");
    assert!(!by_ring.is_empty() && !by_kernel.is_empty(), "{} {}", by_ring.len(), by_kernel.len());
    drop(bare);
    daemon.stop();
}

#[test]
fn one_registry_of_ports() {
    let bed = Bed::new("registry");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &["192.0.2.11/24"]);
    let mut red = Tenant::claiming(&daemon, "red", 7);
    let mut other = Tenant::attach(&daemon, "red");
    assert!(other.claim(7).unwrap_err().is_in_use());
    // Another compartment has ports of its own.
    let blue = Tenant::claiming(&daemon, "blue", 7);
    // The kernel's sockets and claims exclude each other, in either order.
    let bind = |port| bed.host.enter(|| std::net::UdpSocket::bind(at("192.0.2.10", port)));
    assert_eq!(bind(7).unwrap_err().kind(), ErrorKind::AddrInUse);
    let plain = bind(9).unwrap();
    assert!(other.claim(9).unwrap_err().is_in_use());
    drop(plain);
    wait::until_true("port 9 to be free for a claim", || other.claim(9).is_ok());
    // Given back, it is free for either.
    red.endpoint.unclaim(7, None).unwrap();
    // Not at once: what other tests start has copies of this process's sockets between fork and exec.
    wait::until_true("port 7 to be free for a claim", || other.claim(7).is_ok());
    other.endpoint.unclaim(9, None).unwrap();
    wait::until("port 9 to be free for the kernel", || bind(9).ok());
    // Port 0: any, a different one each time, and usable.
    let (first, second) = (red.claim(0).unwrap(), red.claim(0).unwrap());
    assert!(first != 0 && second != 0 && first != second);
    let client = bed.peer_socket(PEER_V4);
    for port in [first, second] {
        client.send_to(&port.to_be_bytes(), at("192.0.2.10", port)).unwrap();
        let got = red.receive();
        assert_eq!((got.payload, got.local.port()), (port.to_be_bytes().to_vec(), port));
    }
    drop((red, other, blue));
    daemon.stop();
}

#[test]
fn the_daemons_word_where_the_kernel_has_no_address() {
    let bed = Bed::new("fastports");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add red");
    daemon.ok("addr add 192.0.2.20/24 dev dev0 afnetns red fast-only");
    daemon.ok("addr add 192.0.2.21/24 dev dev0 afnetns red fast-only");
    let (mut one, mut two) = (Tenant::attach(&daemon, "red"), Tenant::attach(&daemon, "red"));
    assert_eq!(one.claim(7).unwrap(), 7);
    assert!(two.claim(7).unwrap_err().is_in_use());
    assert!(two.endpoint.claim_at("192.0.2.20".parse().unwrap(), 7).unwrap_err().is_in_use());
    let port = one.claim(0).unwrap();
    assert!(two.claim(port).unwrap_err().is_in_use());
    // One port, two addresses, two endpoints.
    one.endpoint.claim_at("192.0.2.20".parse().unwrap(), 53).unwrap();
    two.endpoint.claim_at("192.0.2.21".parse().unwrap(), 53).unwrap();
    let client = bed.peer_socket(PEER_V4);
    for (tenant, address) in [(&mut one, "192.0.2.20"), (&mut two, "192.0.2.21")] {
        client.send_to(address.as_bytes(), at(address, 53)).unwrap();
        let got = tenant.receive();
        assert_eq!((got.payload, got.local), (address.as_bytes().to_vec(), at(address, 53)));
    }
    drop((one, two));
    daemon.stop();
}

#[test]
fn blocks_of_ports() {
    let bed = Bed::new("blocks");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let mut tenant = Tenant::attach(&daemon, "red");
    tenant.endpoint.claim_block(20_001, 998).unwrap();
    for (first, count) in [(20_998, 1), (20_000, 2), (1, 65_535)] {
        let error = tenant.endpoint.claim_block(first, count).unwrap_err();
        assert!(error.is_in_use(), "{first}+{count}: {error}");
    }
    let (four, six) = (bed.peer_socket(PEER_V4), bed.peer_socket(PEER_V6));
    let beyond = [20_000, 20_999].map(|port| socket_in(&bed.host, "192.0.2.10", port));
    let echo = tenant.echo();
    for port in [20_001, 20_002, 20_255, 20_256, 20_500, 20_998] {
        ask(&four, at("192.0.2.10", port), &bytes(10, port.into()));
        ask(&six, at("2001:db8::10", port), &bytes(10, port.into()));
    }
    for socket in &beyond {
        four.send_to(b"beside", socket.local_addr().unwrap()).unwrap();
        assert_eq!(receive(socket, &mut [0; 16]).expect("by the kernel").0, 6);
    }
    assert_eq!(echo.count(), 12);
    drop(echo);
    daemon.stop();
}
