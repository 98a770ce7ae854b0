//! The token bucket of a compartment's policy.

use std::time::{Duration, Instant};

use afnet_abi::control::{Policy, Request};
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4},
    wait,
};

use crate::client::{Tenant, ask, at};

#[test]
fn a_flood_is_cut_to_the_rate() {
    const COUNT: u64 = 2000;
    const RATE: u32 = 200;
    const BURST: u32 = 50;
    let bed = Bed::new("limit");
    let mut daemon = Afnetd::start(&bed);
    let policy = Policy { rate_pps: RATE, burst: BURST, ..Policy::default() };
    daemon.request(&Request::Add { name: "slow".into(), policy });
    daemon.add_address("slow", "192.0.2.10/24", |_| ());
    daemon.add_compartment("free", &["192.0.2.11/24"]);
    let mut slow = Tenant::claiming(&daemon, "slow", 7);
    let free = Tenant::claiming(&daemon, "free", 7).echo();
    let socket = bed.peer_socket(PEER_V4);
    let start = Instant::now();
    for number in 0..COUNT {
        socket.send_to(b"flood", at("192.0.2.10", 7)).unwrap();
        // Another compartment does not feel it.
        if number % 100 == 0 {
            ask(&socket, at("192.0.2.11", 7), b"free");
        }
    }
    wait::until_true("a verdict for each", || {
        daemon.counter("slow", "redirect_udp") + daemon.counter("slow", "drop_rate") == COUNT
    });
    let elapsed = start.elapsed();
    let passed = daemon.counter("slow", "redirect_udp");
    let (burst, most) = (u64::from(BURST), f64::from(BURST) + f64::from(RATE) * elapsed.as_secs_f64() + 2.0);
    assert!(passed >= burst && passed as f64 <= most, "{passed} passed in {elapsed:?}");
    for _ in 0..passed {
        assert_eq!(slow.receive().payload, b"flood");
    }
    assert!(slow.receive_within(Duration::from_millis(20)).is_none());
    assert_eq!(daemon.counter("free", "drop_rate"), 0);
    // Changed at run time: no limit any more.
    let dropped = daemon.counter("slow", "drop_rate");
    daemon.ok("set slow --rate 0 --burst 0");
    for _ in 0..u64::from(2 * BURST) {
        socket.send_to(b"more", at("192.0.2.10", 7)).unwrap();
        assert_eq!(slow.receive().payload, b"more");
    }
    assert_eq!(daemon.counter("slow", "drop_rate"), dropped);
    drop((slow, free));
    daemon.stop();
}
