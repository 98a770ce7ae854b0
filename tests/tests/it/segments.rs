//! One send of many equal segments (UDP_SEGMENT).

use afnet_tenant::Message;
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4, PEER_V6},
};

use crate::client::{Tenant, bytes, expect_counters, receive};

#[test]
fn one_send_becomes_many_datagrams() {
    let bed = Bed::new("segments");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let mut tenant = Tenant::claiming(&daemon, "red", 7);
    for own in [PEER_V4, PEER_V6] {
        let socket = bed.peer_socket(own);
        let payload = bytes(40 * 1200 + 77, 1);
        tenant.send(&Message { segment: 1200, ..Message::new(socket.local_addr().unwrap(), &payload) });
        let mut buffer = [0; 2048];
        for chunk in payload.chunks(1200) {
            let (len, from) = receive(&socket, &mut buffer).expect("a segment");
            assert!(buffer[..len] == *chunk && from.port() == 7);
        }
    }
    expect_counters(&daemon, "red", &[("tx_segmented", 2), ("tx_datagrams", 82)]);
    drop(tenant);
    daemon.stop();
}
