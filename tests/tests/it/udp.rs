//! UDP through AF_XDP, worker and shared memory, the peer's kernel at the other end.

use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use afnet_abi::{control::Policy, control::Request, vlan::Vlan};
use afnet_tenant::{Kind, Message, Realm};
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, HOST_V4, HOST_V6, PEER, PEER_V4, PEER_V6, socket_in},
    packet,
    veth::Veth,
    wait,
    wire::Wire,
};

/// Two compartments with both families behind one MAC.
fn two_compartments(daemon: &Afnetd<'_>) {
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("b", &["192.0.2.11/24", "2001:db8::11/64"]);
}

/// Sends `payload` and expects it back from where it was sent to.
#[track_caller]
fn round_trip(socket: &UdpSocket, to: &str, payload: &[u8]) {
    let to: SocketAddr = to.parse().unwrap();
    socket.send_to(payload, to).unwrap();
    let mut buffer = vec![0; 1 << 16];
    let (len, from) = loop {
        match socket.recv_from(&mut buffer) {
            // With a time-out a process that was stopped, as with its whole machine, is told so (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            answer => break answer.unwrap_or_else(|error| panic!("no echo from {to}: {error}")),
        }
    };
    assert_eq!(from, to);
    assert!(buffer[..len] == *payload, "{len} other bytes came back from {to}");
}

/// A patterned payload, in which a misplaced fragment shows.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7 % 251).to_le_bytes()[0]).collect()
}

#[test]
fn echo_over_both_families_to_two_compartments_behind_one_mac() {
    let bed = Bed::new("echo");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let echoes = ["a", "b"].map(|name| daemon.echo(name, 7));
    for (peer, addresses) in
        [(PEER_V4, ["192.0.2.10:7", "192.0.2.11:7"]), (PEER_V6, ["[2001:db8::10]:7", "[2001:db8::11]:7"])]
    {
        let socket = bed.peer_socket(peer);
        for to in addresses {
            for len in [0, 1, 2, 100, 1400] {
                round_trip(&socket, to, &pattern(len));
            }
        }
    }
    for name in ["a", "b"] {
        let counters = daemon.counters(name);
        assert_eq!(counters.get("redirect_udp"), Some(&10), "{counters:?}");
        assert_eq!(counters.get("rx_delivered"), Some(&10), "{counters:?}");
        assert_eq!(counters.get("tx_datagrams"), Some(&10), "{counters:?}");
        assert!(counters.keys().all(|name| !name.contains("drop")), "{counters:?}");
    }
    drop(echoes);
    daemon.stop();
}

#[test]
fn fragments_are_reassembled_and_made() {
    let bed = Bed::new("fragments");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let _echo = daemon.echo("a", 7);
    for (peer, to) in [(PEER_V4, "192.0.2.10:7"), (PEER_V6, "[2001:db8::10]:7")] {
        let socket = bed.peer_socket(peer);
        for len in [1473, 3000, 20_000, 60_000] {
            round_trip(&socket, to, &pattern(len));
        }
    }
    assert_eq!(daemon.counter("a", "rx_reassembled"), 8);
    assert_eq!(daemon.counter("a", "tx_fragmented"), 8);
    // The kernel path has its fragments too, though they pass the fast path first: ping is not claimed.
    for address in ["192.0.2.10", "2001:db8::10"] {
        bed.peer.run(&format!("ping -c 2 -i 0.2 -W 5 -s 4000 {address}"));
    }
    // Nor is this port: what the worker reassembled for nobody goes on to the kernel's socket.
    for (host, peer) in [("192.0.2.10", PEER_V4), ("2001:db8::10", PEER_V6)] {
        let (server, client) = (socket_in(&bed.host, host, 9999), bed.peer_socket(peer));
        client.send_to(&pattern(5000), server.local_addr().unwrap()).unwrap();
        let mut buffer = vec![0; 1 << 16];
        let (len, from) = server.recv_from(&mut buffer).expect("a reassembled datagram on the kernel path");
        assert_eq!((&buffer[..len], from), (&pattern(5000)[..], client.local_addr().unwrap()));
    }
    daemon.stop();
}

#[test]
fn jumbo_frames_pass_whole() {
    let bed = Bed::with("jumbo", Veth::default().mtu(9000));
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let _echo = daemon.echo("a", 7);
    for (peer, to) in [(PEER_V4, "192.0.2.10:7"), (PEER_V6, "[2001:db8::10]:7")] {
        let socket = bed.peer_socket(peer);
        for len in [100, 4000, 8900] {
            round_trip(&socket, to, &pattern(len));
        }
    }
    assert_eq!(daemon.counter("a", "rx_fragments"), 0);
    assert_eq!(daemon.counter("a", "tx_fragmented"), 0);
    daemon.stop();
}

#[test]
fn every_queue_delivers() {
    const QUEUES: u32 = 4;
    let bed = Bed::with("queues", Veth::default().queues(QUEUES));
    let mut daemon = Afnetd::start_with(&bed.host, &["--device", DEVICE, "--workers", "2"]);
    two_compartments(&daemon);
    let echoes = ["a", "b"].map(|name| daemon.echo(name, 7));
    // The peer's stack picks its TX queue, hence our RX queue, by a hash of the flow.
    for i in 0..64 {
        let socket = bed.peer_socket(if i % 2 == 0 { PEER_V4 } else { PEER_V6 });
        let to = if i % 2 == 0 { "192.0.2.10:7" } else { "[2001:db8::11]:7" };
        round_trip(&socket, to, &pattern(i * 10));
    }
    assert_eq!(daemon.counter("a", "redirect_udp") + daemon.counter("b", "redirect_udp"), 64);
    drop(echoes);
    daemon.stop();
}

#[test]
fn a_tagged_datagram_is_answered_with_its_tags() {
    let bed = Bed::new("tagged");
    let mut daemon = Afnetd::start(&bed);
    let realms: [(&str, &[(u16, u16)]); 3] =
        [("7", &[(0x8100, 7)]), ("ad:9", &[(0x88a8, 9)]), ("9.7", &[(0x88a8, 9), (0x8100, 7)])];
    let (wire, ours, theirs) = (Wire::open(&bed.peer, PEER), bed.device_mac(), bed.peer_mac());
    for (i, (vlan, tags)) in realms.into_iter().enumerate() {
        let name = format!("c{i}");
        daemon.add_compartment(&name, &[]);
        daemon.add_address(&name, "192.0.2.10/24", |spec| {
            spec.vlan = vlan.parse::<Vlan>().unwrap();
            spec.fast_only = true;
        });
        let _echo = daemon.echo(&name, 7);
        let (peer, tenant) = ("192.0.2.100:4444".parse().unwrap(), "192.0.2.10:7".parse().unwrap());
        wire.send(&packet::tag(packet::udp((theirs, ours), peer, tenant, b"tagged"), tags));
        let answer = wire.expect("an echo in the realm", |frame| {
            packet::read_udp(&packet::untag(frame, tags)?).filter(|udp| udp.source == tenant)
        });
        assert_eq!((answer.destination, answer.payload.as_slice()), (peer, &b"tagged"[..]));
        assert_eq!(answer.macs, (ours, theirs));
    }
    daemon.stop();
}

#[test]
fn unclaimed_ports_stay_on_the_kernel_path() {
    let bed = Bed::new("unclaimed");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let _echo = daemon.echo("a", 7);
    for (address, peer) in [("192.0.2.10", PEER_V4), ("2001:db8::10", PEER_V6)] {
        let (server, client) = (socket_in(&bed.host, address, 9999), bed.peer_socket(peer));
        client.send_to(b"kernel", server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(server.recv_from(&mut buffer).unwrap(), (6, client.local_addr().unwrap()));
        // Nobody at all: the kernel says so.
        client.connect((address, 9998)).unwrap();
        client.send(b"x").unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
    assert_eq!(daemon.counter("a", "redirect_udp"), 0);
    daemon.stop();
}

#[test]
fn one_registry_answers_for_ports() {
    let bed = Bed::new("registry");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let _first = daemon.claim("a", 53);
    let mut second = daemon.attach("a", afnet_tenant::EndpointKind::Udp);
    let mut try_claim = |port| bed.host.enter(|| second.claim(port));
    assert!(try_claim(53).unwrap_err().is_in_use(), "another endpoint of the compartment has it");
    let _kernel = socket_in(&bed.host, "192.0.2.10", 54);
    assert!(try_claim(54).unwrap_err().is_in_use(), "a kernel socket has it");
    let picked = try_claim(0).unwrap();
    assert!(picked != 0 && picked != 53);
    let error = bed.host.enter(|| UdpSocket::bind(("192.0.2.10", 53))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "the kernel knows of the claim");
    // Another compartment has ports of its own.
    let _other = daemon.claim("b", 53);
    daemon.stop();
}

#[test]
fn claims_come_and_go_while_traffic_flows() {
    let bed = Bed::new("churn");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let _victim = daemon.echo("b", 7);
    let mut churning = daemon.attach("a", afnet_tenant::EndpointKind::Udp);
    let (socket, victim) = (bed.peer_socket(PEER_V4), bed.peer_socket(PEER_V4));
    for i in 0..50u8 {
        // A process that another test is just starting holds copies of our closed sockets until its exec.
        wait::until_true("the port to be free", || bed.host.enter(|| churning.claim(7)).is_ok());
        for _ in 0..5 {
            socket.send_to(&[i; 100], "192.0.2.10:7").unwrap();
        }
        let mut buffer = [0; 200];
        assert_eq!(churning.recv_from(&mut buffer).unwrap().0, 100);
        churning.unclaim(7, None).unwrap();
        // Whatever happens next door, the other compartment loses nothing.
        round_trip(&victim, "192.0.2.11:7", &[i; 300]);
    }
    drop(churning);
    daemon.stop();
}

#[test]
fn the_token_bucket_drops_a_flood_at_the_door() {
    let bed = Bed::new("bucket");
    let mut daemon = Afnetd::start(&bed);
    let policy = Policy { rate_pps: 10, burst: 20, ..Policy::default() };
    daemon.request(&Request::Add { name: "slow".into(), policy });
    daemon.add_address("slow", "192.0.2.10/24", |_| ());
    let mut endpoint = daemon.claim("slow", 7);
    let socket = bed.peer_socket(PEER_V4);
    let start = std::time::Instant::now();
    for _ in 0..500 {
        socket.send_to(b"flood", "192.0.2.10:7").unwrap();
    }
    let mut received = 0;
    wait::until_true("the flood to be counted", || {
        received += endpoint.recv_batch(64, |_, _| ()).unwrap();
        let counters = daemon.counters("slow");
        let of = |name: &str| counters.get(name).copied().unwrap_or(0);
        of("redirect_udp") + of("drop_rate") == 500 && received as u64 == of("redirect_udp")
    });
    let most = 20 + 10 * (start.elapsed().as_secs() + 1);
    assert!((20..=most).contains(&(received as u64)), "{received} passed, at most {most} may");
    daemon.stop();
}

#[test]
fn one_send_of_many_segments() {
    let bed = Bed::new("segments");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let mut endpoint = daemon.claim("a", 7);
    for peer in [PEER_V4, PEER_V6] {
        let socket = bed.peer_socket(peer);
        let payload = pattern(10_050);
        let message = Message { segment: 1000, ..Message::new(socket.local_addr().unwrap(), &payload) };
        endpoint.send(&message).unwrap();
        endpoint.flush();
        let mut buffer = [0; 2000];
        for segment in payload.chunks(1000) {
            let (len, _) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], segment);
        }
    }
    assert_eq!(daemon.counter("a", "tx_datagrams"), 22);
    daemon.stop();
}

#[test]
fn icmp_errors_reach_the_sender() {
    let bed = Bed::new("icmp");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let mut endpoint = daemon.claim("a", 7);
    for peer in [PEER_V4, PEER_V6] {
        let closed: SocketAddr = (peer.parse::<std::net::IpAddr>().unwrap(), 9).into();
        endpoint.send_to(b"anybody?", closed).unwrap();
        let mut found = None;
        wait::until("an ICMP error", || {
            endpoint
                .recv_batch(16, |_, datagram| {
                    if datagram.kind() == Kind::Error {
                        found = datagram.icmp_error();
                    }
                })
                .unwrap();
            found
        });
        let error = found.unwrap();
        assert_eq!((error.errno, error.remote), (libc_econnrefused(), closed));
        assert_eq!(error.offender, Some(closed.ip()));
    }
    assert_eq!(daemon.counter("a", "redirect_error"), 2);
    daemon.stop();
}

fn libc_econnrefused() -> i32 {
    rustix::io::Errno::CONNREFUSED.raw_os_error()
}

#[test]
fn compartments_and_the_host_itself_are_neighbours() {
    let bed = Bed::new("local");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let (mut a, mut b) = (daemon.claim("a", 7), daemon.claim("b", 7));
    let mut buffer = [0; 2000];
    for (own, other, host) in
        [("192.0.2.10", "192.0.2.11", HOST_V4), ("2001:db8::10", "2001:db8::11", HOST_V6)]
    {
        let address = |ip: &str, port| SocketAddr::new(ip.parse().unwrap(), port);
        // Ring to ring, never seen on the wire.
        a.send_to(b"next door", address(other, 7)).unwrap();
        let received = b.recv(&mut buffer).unwrap();
        assert_eq!((received.len, received.remote), (9, address(own, 7)));
        // To the host's own socket, and back.
        let socket = socket_in(&bed.host, host, 0);
        a.send_to(b"to the host", socket.local_addr().unwrap()).unwrap();
        let (len, from) = socket.recv_from(&mut buffer).expect("delivery to the host");
        assert_eq!((len, from), (11, address(own, 7)));
        socket.send_to(b"from the host", from).unwrap();
        let received = a.recv(&mut buffer).expect("delivery from the host");
        assert_eq!((received.len, received.remote), (13, socket.local_addr().unwrap()));
    }
    daemon.stop();
}

#[test]
fn the_realm_can_be_chosen() {
    let bed = Bed::new("realm");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let mut endpoint = daemon.claim("a", 7);
    let socket = bed.peer_socket(PEER_V4);
    let realm = Realm { ifindex: bed.host.ifindex(DEVICE), vlan: Vlan::NONE };
    let message = Message {
        realm: Some(realm),
        ttl: 9,
        local: Some("192.0.2.10".parse().unwrap()),
        ..Message::new(socket.local_addr().unwrap(), b"this way")
    };
    endpoint.send(&message).unwrap();
    endpoint.flush();
    let mut buffer = [0; 16];
    assert_eq!(socket.recv_from(&mut buffer).unwrap(), (8, "192.0.2.10:7".parse().unwrap()));
    // An address that is another compartment's never leaves.
    let spoofed = Message { local: Some("192.0.2.11".parse().unwrap()), ..message };
    endpoint.send(&spoofed).unwrap();
    endpoint.flush();
    wait::until_true("the forged source to be counted", || daemon.counter("a", "tx_spoofed") == 1);
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(socket.recv_from(&mut buffer).is_err());
    daemon.stop();
}

#[test]
fn a_killed_tenant_is_gone_within_a_second() {
    let bed = Bed::new("tenant");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let mut echo = daemon.echo("a", 7);
    round_trip(&bed.peer_socket(PEER_V4), "192.0.2.10:7", b"alive");
    echo.kill();
    let freed = wait::within(Duration::from_secs(1), || {
        daemon.json("endpoints").as_array().unwrap().is_empty().then_some(())
    });
    assert!(freed.is_some(), "claims outlive their tenant");
    let _next = daemon.echo("a", 7);
    round_trip(&bed.peer_socket(PEER_V4), "192.0.2.10:7", b"again");
    daemon.stop();
}

#[test]
fn tenants_find_a_restarted_daemon() {
    let bed = Bed::new("return");
    let mut daemon = Afnetd::start(&bed);
    two_compartments(&daemon);
    let _echo = daemon.echo("a", 7);
    let socket = bed.peer_socket(PEER_V4);
    round_trip(&socket, "192.0.2.10:7", b"before");
    daemon.kill();
    // While no daemon runs, claimed traffic arrives at the tenant's kernel socket.
    round_trip(&socket, "192.0.2.10:7", b"meanwhile");
    daemon.restart();
    // It attaches, and then claims: two requests.
    wait::until_true("the tenant to claim again", || {
        let endpoints = daemon.json("endpoints");
        endpoints.as_array().unwrap().iter().any(|one| !one["claims"].as_array().unwrap().is_empty())
    });
    round_trip(&socket, "192.0.2.10:7", b"after");
    assert!(daemon.counter("a", "redirect_udp") >= 1);
    daemon.stop();
}
