//! Realms: the same address behind different VLAN tags. This kernel has no VLAN devices, so frames are made by hand.

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER, PEER_V4},
    packet,
    wire::Wire,
};

use crate::client::{Tenant, ask, at};

/// Tags of a frame, outermost first: TPID and VID.
type Tags = &'static [(u16, u16)];

#[test]
fn one_address_in_four_realms() {
    let bed = Bed::new("vlan");
    let mut daemon = Afnetd::start(&bed);
    let realms: [(&str, &str, Tags); 4] = [
        ("plain", "none", &[]),
        ("red", "7", &[(0x8100, 7)]),
        ("blue", "10.7", &[(0x88a8, 10), (0x8100, 7)]),
        ("green", "ad:7", &[(0x88a8, 7)]),
    ];
    let mut tenants = Vec::new();
    for (name, vlan, _) in realms {
        daemon.add_compartment(name, &[]);
        for address in ["192.0.2.10/24", "2001:db8::10/64"] {
            daemon.add_address(name, address, |spec| spec.vlan = vlan.parse().unwrap());
        }
        tenants.push(Tenant::claiming(&daemon, name, 7));
    }
    let wire = Wire::open(&bed.peer, PEER);
    let macs = (bed.peer_mac(), bed.device_mac());
    for (from, to) in [("192.0.2.99", "192.0.2.10"), ("2001:db8::99", "2001:db8::10")] {
        for (at_realm, (name, _, tags)) in realms.iter().enumerate().skip(1) {
            let (from, to) = (at(from, 5555), at(to, 7));
            wire.send(&packet::tag(packet::udp(macs, from, to, name.as_bytes()), tags));
            let tenant = &mut tenants[at_realm];
            let got = tenant.receive();
            assert_eq!((got.payload.as_slice(), got.local, got.remote), (name.as_bytes(), to, from));
            // The way back is in the same realm, to the MAC address that the request came from.
            tenant.send(&afnet_tenant::Message {
                local: Some(to.ip()),
                ..afnet_tenant::Message::new(from, b"answer")
            });
            let answer = wire.expect("answer", |frame| {
                packet::read_udp(&packet::untag(frame, tags)?).filter(|udp| udp.payload == b"answer")
            });
            assert_eq!((answer.macs, answer.source, answer.destination), ((macs.1, macs.0), to, from));
        }
    }
    for (tenant, (name, ..)) in tenants.iter_mut().zip(realms) {
        let more = tenant.receive_within(std::time::Duration::from_millis(20));
        assert!(more.is_none(), "{name}: {more:?}");
    }
    let plain = tenants.remove(0).echo();
    ask(&bed.peer_socket(PEER_V4), at("192.0.2.10", 7), b"plain");
    drop((plain, tenants));
    daemon.stop();
}
