//! Loading, attaching, tables. Needs root.

use afnet_bpf::{AddressEntry, CompartmentConfig, Counter, Demux, DemuxConfig, Limits};

fn config(frags: bool) -> DemuxConfig {
    let limits = Limits { compartments: 16, addresses: 64, prefixes: 16, claims: 64, groups: 16 };
    DemuxConfig { ifindex: 1, mac: [2, 0, 0, 0, 0, 1], queues: 2, frags, limits }
}

#[test]
fn loads_in_both_modes() {
    for frags in [false, true] {
        let demux = Demux::load(&config(frags)).expect("needs root");
        assert_ne!(demux.program_id(), 0);
        assert_eq!(demux.counters().unwrap(), vec![0; Counter::COUNT]);
        demux.dirty().unwrap().queue(1);
        demux.sockets().unwrap();
        let vlan = afnet_abi::vlan::Vlan::NONE;
        let addr = "192.0.2.1".parse().unwrap();
        demux.set_compartment(1, CompartmentConfig::default()).unwrap();
        demux.insert_address(vlan, addr, AddressEntry { slot: 1, ..Default::default() }).unwrap();
        demux.insert_claim(1, 17, 1000, 1000).unwrap();
        demux.remove_claim(1, 17, 1000, 1000).unwrap();
        demux.remove_address(vlan, addr).unwrap();
        assert!(demux.remove_address(vlan, addr).is_err());
    }
}
