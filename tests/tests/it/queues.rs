//! A device of several queues, served by two workers.

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, PEER_V4, PEER_V6},
    veth::Veth,
};

use crate::client::{Tenant, ask, at, bytes};

#[test]
fn two_queues_two_workers() {
    let bed = Bed::with("queues", Veth::default().queues(2));
    let mut daemon = Afnetd::start_with(&bed.host, &["--device", DEVICE, "--workers", "2"]);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &["192.0.2.11/24"]);
    let tenants = ["red", "blue"].map(|name| Tenant::claiming(&daemon, name, 7).echo());
    // The kernel puts each flow on a queue by its hash: 48 flows do not all meet on one.
    for flow in 0..16 {
        let (four, six) = (bed.peer_socket(PEER_V4), bed.peer_socket(PEER_V6));
        ask(&four, at("192.0.2.10", 7), &bytes(100, flow));
        ask(&four, at("192.0.2.11", 7), &bytes(1472, flow));
        ask(&six, at("2001:db8::10", 7), &bytes(4000, flow));
    }
    assert_eq!([tenants[0].count(), tenants[1].count()], [32, 16]);
    for worker in ["0", "1"] {
        let counters = daemon.counters(worker);
        assert!(counters.contains_key("rx_frames"), "worker {worker} got nothing: {counters:?}");
    }
    drop(tenants);
    let log = daemon.stop();
    assert!(log.contains("queue 0") && log.contains("queue 1"), "{log}");
}
