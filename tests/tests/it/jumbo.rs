//! Frames of 9000 bytes: AF_XDP descriptors of several frames.

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4, PEER_V6},
    veth::Veth,
};

use crate::client::{Tenant, ask, at, bytes, expect_counters};

#[test]
fn whole_jumbo_frames() {
    let bed = Bed::with("jumbo", Veth::default().mtu(9000));
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let tenant = Tenant::claiming(&daemon, "red", 7).echo();
    for (own, to, longest) in [(PEER_V4, "192.0.2.10", 8972), (PEER_V6, "2001:db8::10", 8952)] {
        let socket = bed.peer_socket(own);
        for len in [1, 1500, 3400, 3498, 4000, 4096, 5000, 8191, longest] {
            ask(&socket, at(to, 7), &bytes(len, 5));
        }
    }
    let expected = [("rx_delivered", 18), ("tx_datagrams", 18), ("rx_fragments", 0), ("tx_fragmented", 0)];
    expect_counters(&daemon, "red", &expected);
    // And what is longer still.
    ask(&bed.peer_socket(PEER_V4), at("192.0.2.10", 7), &bytes(30_000, 6));
    expect_counters(&daemon, "red", &[("rx_reassembled", 1), ("tx_fragmented", 1)]);
    drop(tenant);
    daemon.stop();
}
