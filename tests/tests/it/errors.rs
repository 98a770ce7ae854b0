//! What comes back when a datagram cannot be delivered.

use afnet_tenant::Message;
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4, PEER_V6},
    netns::Netns,
    veth::Veth,
};

use crate::client::{Tenant, at, bytes, expect_counters, receive};

#[test]
fn a_closed_port_refuses() {
    let bed = Bed::new("closed");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let mut tenant = Tenant::claiming(&daemon, "red", 7);
    for (peer, own) in [(PEER_V4, "192.0.2.10"), (PEER_V6, "2001:db8::10")] {
        tenant.send(&Message::new(at(peer, 4321), b"anybody?"));
        let error = tenant.error();
        assert_eq!(error.errno, libc::ECONNREFUSED, "{error}");
        assert_eq!((error.local, error.remote), (at(own, 7), at(peer, 4321)));
        assert_eq!(error.offender, Some(peer.parse().unwrap()));
    }
    expect_counters(&daemon, "red", &[("redirect_error", 2), ("rx_errors", 2)]);
    drop(tenant);
    daemon.stop();
}

#[test]
fn a_neighbour_that_is_not_there() {
    let bed = Bed::new("absent");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let mut tenant = Tenant::claiming(&daemon, "red", 7);
    // The kernel asks three times, a second apart, for both at the same time.
    for absent in ["192.0.2.250", "2001:db8::250"] {
        tenant.send(&Message::new(at(absent, 9), b"anybody?"));
    }
    let mut seen: Vec<_> = (0..2)
        .map(|_| {
            let error = tenant.error();
            assert_eq!((error.errno, error.offender), (libc::EHOSTUNREACH, None), "{error}");
            error.remote
        })
        .collect();
    seen.sort();
    assert_eq!(seen, [at("192.0.2.250", 9), at("2001:db8::250", 9)]);
    // Without any route the answer is at once.
    tenant.send(&Message::new(at("203.0.113.1", 9), b"anybody?"));
    assert_eq!(tenant.error().errno, libc::ENETUNREACH);
    // Nor without an address of the family, as on a machine that has none.
    daemon.add_compartment("blue", &["192.0.2.11/24"]);
    let mut blue = Tenant::claiming(&daemon, "blue", 7);
    blue.send(&Message::new(at(PEER_V6, 9), b"anybody?"));
    assert_eq!(blue.error().errno, libc::ENETUNREACH);
    drop((tenant, blue));
    daemon.stop();
}

#[test]
fn path_mtu() {
    let bed = Bed::new("pmtu");
    // Behind the peer, a router now, is a link of 1300 bytes.
    let far = Netns::new("pmtu-far");
    Veth::default().mtu(1300).connect((&bed.peer, "narrow"), (&far, "far0"));
    for (family, near, net, host) in [
        ("-4", "198.51.100.1/24", "192.0.2.0/24", "198.51.100.2/24"),
        ("-6", "2001:db8:1::1/64", "2001:db8::/64", "2001:db8:1::2/64"),
    ] {
        let router = near.split('/').next().unwrap();
        bed.peer.ip(&format!("addr add {near} dev narrow"));
        far.ip(&format!("addr add {host} dev far0"));
        far.ip(&format!("{family} route add {net} via {router}"));
    }
    bed.peer.sysctl("ipv4/ip_forward", "1");
    bed.peer.sysctl("ipv6/conf/all/forwarding", "1");
    bed.host.ip(&format!("route add 198.51.100.0/24 via {PEER_V4}"));
    bed.host.ip(&format!("route add 2001:db8:1::/64 via {PEER_V6}"));
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let mut tenant = Tenant::claiming(&daemon, "red", 7);
    for (to, router) in [("198.51.100.2", PEER_V4), ("2001:db8:1::2", PEER_V6)] {
        let (whole, payload) = (bytes(2000, 1), bytes(1350, 1));
        // Above the device's MTU: said by this host.
        let message = Message { dont_fragment: true, ..Message::new(at(to, 9), &whole) };
        tenant.send(&message);
        let error = tenant.error();
        assert_eq!((error.errno, error.mtu, error.offender), (libc::EMSGSIZE, 1500, None), "{error}");
        // Above the path's: said by the router.
        tenant.send(&Message { payload: &payload, ..message });
        let error = tenant.error();
        assert_eq!((error.errno, error.mtu), (libc::EMSGSIZE, 1300), "{error}");
        assert_eq!(error.offender, Some(router.parse().unwrap()));
        // What fits arrives.
        let socket = afnet_tests::bed::socket_in(&far, to, 0);
        tenant.send(&Message { remote: socket.local_addr().unwrap(), payload: &payload[..1200], ..message });
        assert_eq!(receive(&socket, &mut [0; 2048]).expect("a datagram").0, 1200);
    }
    drop(tenant);
    daemon.stop();
}
