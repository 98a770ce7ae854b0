//! The loopback of a compartment, ring to ring: its own endpoints, and nobody else.

use std::{net::IpAddr, time::Duration};

use afnet_abi::{
    control::Request,
    shm::{ErrorInfo, Record, flags, kind},
};
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, PEER, PEER_V4, socket_in},
    inside::Inside,
    packet,
    wire::Wire,
};

use crate::{
    by_hand::{Hand, claim, ip, wire},
    client::{at, expect_counters},
};

/// Local and remote end of a record.
fn ends(record: &Record) -> (IpAddr, u16, IpAddr, u16) {
    (ip(&record.local), record.local_port, ip(&record.remote), record.remote_port)
}

/// The errno of an error record.
#[track_caller]
fn errno((record, payload): &(Record, Vec<u8>)) -> u32 {
    assert_eq!((record.kind, payload.len()), (kind::ERROR, size_of::<ErrorInfo>()));
    u32::from_ne_bytes(payload[..4].try_into().unwrap())
}

#[test]
fn from_ring_to_ring_and_nowhere_else() {
    for workers in ["1", "2"] {
        let bed = Bed::new("loopback");
        let mut daemon = Afnetd::start_with(&bed.host, &["--device", DEVICE, "--workers", workers]);
        daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
        daemon.add_compartment("blue", &["192.0.2.11/24"]);
        let (red, blue) = (Inside::start(&daemon, "red"), Inside::start(&daemon, "blue"));
        let socket =
            |inside: &Inside, port: u16| inside.socket(&format!("keep.append(s := udp('::', {port})) or s"));
        let mut client = Hand::claiming(&daemon, "red", &claim(1000), &socket(&red, 1000));
        let mut server = Hand::claiming(&daemon, "red", &claim(2000), &socket(&red, 2000));
        let mut other = Hand::claiming(&daemon, "blue", &claim(2000), &socket(&blue, 2000));
        // The host has something there, too.
        let host = socket_in(&bed.host, "127.0.0.1", 3000);
        host.set_nonblocking(true).unwrap();
        let tap = Wire::open(&bed.peer, PEER);
        for address in ["127.0.0.1", "::1", "127.0.0.77"] {
            let (to, own) = (at(address, 2000), if address == "::1" { "::1" } else { "127.0.0.1" });
            for len in [0, 1, 1400, 65_507] {
                let payload = vec![7; len];
                client.send(1000, to, &payload, |_| ());
                let (record, got) = server.receive();
                assert_eq!(ends(&record), (to.ip(), 2000, own.parse().unwrap(), 1000), "{len} bytes");
                assert!(got == payload && record.flags == flags::LOCAL && record.kind == kind::DATAGRAM);
                // The answer, from where it was sent to.
                server.send(2000, at(own, 1000), b"back", |r| r.local = wire(to.ip()));
                let (record, got) = client.receive();
                assert_eq!(
                    (ends(&record), got),
                    ((own.parse().unwrap(), 1000, to.ip(), 2000), b"back".to_vec())
                );
            }
            // Segments, as on the wire.
            client.send(1000, to, b"abcde", |r| r.segment = 2);
            let parts: Vec<_> = (0..3).map(|_| server.receive().1).collect();
            assert_eq!(parts, [b"ab".to_vec(), b"cd".to_vec(), b"e".to_vec()]);
            // A source that it has chosen among its own.
            if address != "::1" {
                client.send(1000, to, b"x", |r| r.local = wire("192.0.2.10".parse().unwrap()));
                assert_eq!(ip(&server.receive().0.remote), "192.0.2.10".parse::<IpAddr>().unwrap());
            }
            // Nobody there: not the host either.
            client.send(1000, at(address, 3000), b"anybody?", |_| ());
            let refused = client.receive();
            assert_eq!(errno(&refused), libc::ECONNREFUSED.unsigned_abs());
            assert_eq!(ends(&refused.0), (own.parse().unwrap(), 1000, address.parse().unwrap(), 3000));
        }
        assert!(host.recv(&mut [0; 8]).is_err() && other.hears_nothing());
        // A datagram of the loopback to elsewhere, and one of elsewhere to the loopback: refused and counted.
        let spoofed = [
            (at(PEER_V4, 9), "127.0.0.1"),
            (at("192.0.2.11", 2000), "127.0.0.1"),
            (at("127.0.0.1", 2000), "192.0.2.11"),
            (at("::1", 2000), "2001:db8::99"),
        ];
        for (to, from) in spoofed {
            client.send(1000, to, b"spoofed", |r| r.local = wire(from.parse().unwrap()));
        }
        client.send(1000, at("::1", 2000), b"mixed", |r| r.local = wire("127.0.0.1".parse().unwrap()));
        expect_counters(&daemon, "red", &[("tx_spoofed", 4), ("drop_tx_address", 1), ("tx_no_listener", 3)]);
        assert!(server.hears_nothing() && other.hears_nothing());
        tap.expect_none(Duration::from_millis(20), "a datagram of the loopback", |frame| {
            let port = |bytes: &[u8]| bytes.windows(2).any(|w| w == 2000u16.to_be_bytes());
            packet::addresses(frame)
                .filter(|(from, to)| from.is_loopback() || to.is_loopback() || port(frame))
        });
        drop((client, server, other, host));
        daemon.stop();
    }
}

#[test]
fn loopback_is_claimed_by_the_sockets_that_are_there() {
    let bed = Bed::new("loclaims");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    let red = Inside::start(&daemon, "red");
    let exact = |port, address: &str| Request::Claim {
        port,
        count: 1,
        address: Some(address.parse().unwrap()),
        family: None,
        shared: false,
    };
    let socket = |code: &str| red.socket(&format!("keep.append(s := {code}) or s"));
    let mut server = Hand::attach(&daemon, "red");
    // Without a socket, with one of the host's, with one that is elsewhere: no.
    assert_eq!(server.bare.ask(&exact(53, "127.0.0.1"), &[]).unwrap_err().code, "EACCES");
    let host = socket_in(&bed.host, "127.0.0.1", 53).into();
    assert_eq!(server.ask(&exact(53, "127.0.0.1"), &host).unwrap_err().code, "EACCES");
    let elsewhere = socket("udp('192.0.2.10', 53)");
    assert_eq!(server.ask(&exact(53, "127.0.0.1"), &elsewhere).unwrap_err().code, "EACCES");
    server.ask(&exact(53, "127.0.0.1"), &socket("udp('127.0.0.1', 53)")).unwrap();
    server.ask(&exact(53, "127.0.0.2"), &socket("udp('127.0.0.2', 53)")).unwrap();
    server.ask(&exact(53, "::1"), &socket("udp('::1', 53)")).unwrap();
    assert_eq!(
        server.ask(&exact(53, "127.0.0.3"), &socket("udp('127.0.0.4', 53)")).unwrap_err().code,
        "EACCES"
    );
    let shown = daemon.ok("endpoints red");
    assert!(shown.contains("port 53@127.0.0.1") && shown.contains("port 53@::1"), "{shown}");
    let mut client = Hand::claiming(&daemon, "red", &claim(1000), &socket("udp('0.0.0.0', 1000)"));
    for (address, there) in
        [("127.0.0.1", true), ("127.0.0.2", true), ("127.0.0.3", false), ("127.0.0.4", false)]
    {
        client.send(1000, at(address, 53), address.as_bytes(), |_| ());
        if there {
            assert_eq!(server.receive().1, address.as_bytes());
        } else {
            assert_eq!(errno(&client.receive()), libc::ECONNREFUSED.unsigned_abs());
        }
    }
    // From the one that it is bound to, to one of both families it cannot.
    server.send(53, at("127.0.0.2", 1000), b"bound", |r| r.local = wire("127.0.0.2".parse().unwrap()));
    assert_eq!(ip(&client.receive().0.remote), "127.0.0.2".parse::<IpAddr>().unwrap());
    // Nothing of the outside arrives for it: the compartment's address has no claim, and a kernel socket.
    let peer = bed.peer_socket(PEER_V4);
    peer.send_to(b"outside", at("192.0.2.10", 53)).unwrap();
    assert_eq!(red.run("keep[0].recv(100) == b'outside'"), true);
    assert!(server.hears_nothing());
    // Who has a socket on each address has none on the loopback, and speaks there from an address.
    let mut single = Hand::claiming(&daemon, "red", &claim(77), &socket("udp('192.0.2.10', 77)"));
    client.send(1000, at("127.0.0.1", 77), b"?", |_| ());
    assert_eq!(errno(&client.receive()), libc::ECONNREFUSED.unsigned_abs());
    single.send(77, at("127.0.0.1", 1000), b"!", |_| ());
    let (record, _) = client.receive();
    assert_eq!(ends(&record), ("127.0.0.1".parse().unwrap(), 1000, "192.0.2.10".parse().unwrap(), 77));
    drop((client, server, single, host));
    daemon.stop();
}
