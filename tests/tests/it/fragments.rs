//! Datagrams above the MTU, in both directions, claimed and not.

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4, PEER_V6, socket_in},
};

use crate::client::{Tenant, ask, at, bytes, expect_counters, receive};

#[test]
fn long_datagrams_both_ways() {
    let bed = Bed::new("fragments");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let tenant = Tenant::claiming(&daemon, "red", 7).echo();
    let mut count = 0;
    for (own, to, longest) in [(PEER_V4, "192.0.2.10", 65_507), (PEER_V6, "2001:db8::10", 65_527)] {
        let socket = bed.peer_socket(own);
        for len in [1473, 4000, 9000, longest] {
            ask(&socket, at(to, 7), &bytes(len, 1));
            count += 1;
        }
    }
    expect_counters(&daemon, "red", &[("rx_reassembled", count), ("tx_fragmented", count)]);
    let counters = daemon.counters("red");
    assert!(counters.keys().all(|name| !name.contains("drop")), "{counters:?}");
    drop(tenant);
    daemon.stop();
}

#[test]
fn what_nobody_claimed_reaches_the_kernel() {
    let bed = Bed::new("unclaimed");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let mut tenant = Tenant::claiming(&daemon, "red", 7);
    for (own, to) in [(PEER_V4, "192.0.2.10"), (PEER_V6, "2001:db8::10")] {
        let (client, server) = (bed.peer_socket(own), socket_in(&bed.host, to, 9000));
        let payload = bytes(4000, 3);
        for _ in 0..5 {
            client.send_to(&payload, at(to, 9000)).unwrap();
            let mut buffer = vec![0; 65_536];
            let (len, from) = receive(&server, &mut buffer).expect("reinjected fragments");
            assert!(buffer[..len] == payload && from == client.local_addr().unwrap());
            server.send_to(&buffer[..len], from).unwrap();
            let (len, from) = receive(&client, &mut buffer).expect("the kernel's answer");
            assert!(buffer[..len] == payload && from == at(to, 9000));
        }
    }
    expect_counters(&daemon, "red", &[("rx_delivered", 0), ("rx_reassembled", 10), ("rx_reinjected", 10)]);
    assert!(tenant.receive_within(std::time::Duration::from_millis(20)).is_none());
    drop(tenant);
    daemon.stop();
}
