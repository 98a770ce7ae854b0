//! afnet under pktgen: its tenants' answers by both ways in.

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, PEER, PEER_V4},
    veth::Veth,
};

use crate::bed::{json, mac};

#[test]
fn round_trips_to_a_tenant_and_a_victim_among_others() {
    // pktgen attaches a program of its own at the peer's end.
    let bed = Bed::with("pktgen", Veth::default().bare());
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    daemon.add_compartment("blue", &["192.0.2.11/24"]);
    let tenant = daemon.echo("red", 7);
    // Where answers go is known before the first one.
    let (ours, peers) = (mac(&bed.host, DEVICE), mac(&bed.peer, PEER));
    bed.host.ip(&format!("neigh replace {PEER_V4} lladdr {peers} dev {DEVICE} nud permanent"));

    let (device, peer) = (format!("{DEVICE}@{}", bed.host.name()), format!("{PEER}@{}", bed.peer.name()));
    let flow = format!("--src {PEER_V4} --dst-mac {ours} --src-mac {peers} --rate 2k");
    for (way, tx) in [("", &peer), ("--live", &device)] {
        let result = json(&format!("measure {tx} --rx {peer} {way} {flow} --dst 192.0.2.10 --count 500"));
        assert_eq!(
            (&result["total"]["received"], &result["loss"]),
            (&500.into(), &0.0.into()),
            "{way}: {result}"
        );
    }
    // Nobody has claimed blue's port: its flood ends in the kernel's path.
    let victim = "--victim-dst 192.0.2.10 --victim-rate 1k --time 0.3";
    let result = json(&format!("victim {device} --live --rx {peer} {flow} --dst 192.0.2.11 {victim}"));
    for phase in ["alone", "loaded"] {
        let it = &result[phase];
        assert!(it["sent"].as_u64().expect("a number") > 10 && it["loss"] == 0.0, "{result}");
    }
    assert!(result["loaded"]["load_per_second"].as_f64().expect("a number") > 10.0, "{result}");
    drop(tenant);
    daemon.stop();
}
