//! Compartments of one host among themselves: ring to ring, nothing on the wire.

use std::time::Duration;

use afnet_tenant::Message;
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, PEER, socket_in},
    packet,
    wire::Wire,
};

use crate::client::{Tenant, at, bytes, expect_counters, receive};

#[test]
fn ring_to_ring() {
    for workers in ["1", "2"] {
        let bed = Bed::new("local");
        let mut daemon = Afnetd::start_with(&bed.host, &["--device", DEVICE, "--workers", workers]);
        daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
        daemon.add_compartment("blue", &["192.0.2.11/24"]);
        daemon.ok("addr add 2001:db8::11/64 dev dev0 afnetns blue fast-only");
        let mut red = Tenant::claiming(&daemon, "red", 1000);
        let mut blue = Tenant::claiming(&daemon, "blue", 2000);
        let wire = Wire::open(&bed.peer, PEER);
        for (from, to) in [("192.0.2.10", "192.0.2.11"), ("2001:db8::10", "2001:db8::11")] {
            let (from, to) = (at(from, 1000), at(to, 2000));
            for len in [0, 1, 1400, 4000, 65_507] {
                let payload = bytes(len, 2);
                red.send(&Message::new(to, &payload));
                let got = blue.receive();
                assert_eq!((got.local, got.remote, got.is_local), (to, from, true), "{len} bytes");
                assert!(got.payload == payload);
                blue.send(&Message { local: Some(to.ip()), ..Message::new(from, &got.payload) });
                let got = red.receive();
                assert_eq!((got.local, got.remote, got.is_local), (from, to, true), "{len} bytes");
                assert!(got.payload == payload);
            }
        }
        expect_counters(&daemon, "red", &[("tx_local", 10), ("rx_delivered", 10)]);
        wire.expect_none(Duration::from_millis(20), "a datagram between compartments", |frame| {
            packet::addresses(frame).filter(|(from, _)| {
                ["192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11"].contains(&&*from.to_string())
            })
        });
        drop((red, blue));
        daemon.stop();
    }
}

#[test]
fn what_has_no_claim_there_is_the_kernels() {
    let bed = Bed::new("localkernel");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &["192.0.2.11/24", "2001:db8::11/64"]);
    let mut red = Tenant::claiming(&daemon, "red", 1000);
    // With an endpoint beside it and without one.
    for claim in [false, true] {
        let blue = claim.then(|| Tenant::claiming(&daemon, "blue", 2000));
        for (from, to) in [("192.0.2.10", "192.0.2.11"), ("2001:db8::10", "2001:db8::11")] {
            let server = socket_in(&bed.host, to, 3000);
            for len in [0, 1, 1400, 4000] {
                let (payload, mut buffer) = (bytes(len, 3), vec![0; 65_536]);
                red.send(&Message::new(at(to, 3000), &payload));
                let (len, source) = receive(&server, &mut buffer).unwrap_or_else(|error| {
                    panic!("{to}, {len} bytes: {error}; {:?}", daemon.counters("red"))
                });
                assert!(source == at(from, 1000) && buffer[..len] == payload);
                server.send_to(&buffer[..len], source).unwrap();
                let got = red.receive();
                assert_eq!((got.local, got.remote), (at(from, 1000), at(to, 3000)));
                assert!(got.payload == payload);
            }
            // And nobody at all.
            red.send(&Message::new(at(to, 3001), b"anybody?"));
            let error = red.error();
            assert_eq!((error.errno, error.remote), (libc::ECONNREFUSED, at(to, 3001)), "{error}");
        }
        drop(blue);
    }
    drop(red);
    daemon.stop();
}
