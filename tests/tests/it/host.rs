//! The host itself and its compartments, over the host link.

use afnet_tenant::Message;
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, HOST_V4, HOST_V6, socket_in},
};

use crate::client::{Tenant, ask, at, bytes, receive};

#[test]
fn both_ways() {
    let bed = Bed::new("host");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &[]);
    for address in ["192.0.2.11/24", "2001:db8::11/64"] {
        daemon.ok(&format!("addr add {address} dev dev0 afnetns blue fast-only"));
    }
    let cases = [
        ("red", [(HOST_V4, "192.0.2.10"), (HOST_V6, "2001:db8::10")]),
        ("blue", [(HOST_V4, "192.0.2.11"), (HOST_V6, "2001:db8::11")]),
    ];
    for (name, families) in cases {
        let mut tenant = Tenant::claiming(&daemon, name, 7);
        for (host, own) in families {
            // The tenant begins.
            let socket = socket_in(&bed.host, host, 0);
            for len in [0, 1, 1400, 4000] {
                let (payload, mut buffer) = (bytes(len, 1), vec![0; 65_536]);
                tenant.send(&Message::new(socket.local_addr().unwrap(), &payload));
                let (len, from) = receive(&socket, &mut buffer).unwrap_or_else(|error| {
                    panic!("{own} to {host}, {len} bytes: {error}; {:?}", daemon.counters(name))
                });
                assert_eq!(from, at(own, 7));
                assert!(buffer[..len] == payload);
            }
        }
        let echo = tenant.echo();
        for (host, own) in families {
            // The host begins, bound to its address or to none.
            let any = if own.contains(':') { "::" } else { "0.0.0.0" };
            for bound in [host, any] {
                let socket = socket_in(&bed.host, bound, 0);
                for len in [0, 1, 1400, 4000] {
                    ask(&socket, at(own, 7), &bytes(len, 2));
                }
            }
        }
        drop(echo);
        let counters = daemon.counters(name);
        assert!(counters.contains_key("rx_delivered") && counters.contains_key("tx_host"), "{counters:?}");
    }
    daemon.stop();
}
