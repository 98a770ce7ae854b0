//! The harness itself, since every other test believes it.

use std::time::Duration;

use afnet_tests::{
    bed::{Bed, DEVICE, HOST_V4, HOST_V6, PEER, PEER_V4, PEER_V6, socket_in},
    netns::Netns,
    packet,
    veth::Veth,
    wait,
    wire::Wire,
};

#[test]
fn peers_talk_over_both_families() {
    let bed = Bed::new("talk");
    for (host, peer) in [(HOST_V4, PEER_V4), (HOST_V6, PEER_V6)] {
        bed.peer.run(&format!("ping -c 1 -W 5 {host}"));
        let (server, client) = (socket_in(&bed.host, host, 0), socket_in(&bed.peer, peer, 0));
        client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(server.recv_from(&mut buffer).unwrap(), (5, client.local_addr().unwrap()));
    }
}

#[test]
fn a_wire_shows_frames_with_their_tags_and_checksums() {
    let bed = Bed::with("wire", Veth::default().mtu(9000).queues(2));
    let (wire, tap) = (Wire::open(&bed.peer, PEER), Wire::open(&bed.host, DEVICE));
    let macs = (bed.peer_mac(), bed.device_mac());
    let (source, destination) = ("192.0.2.100:7".parse().unwrap(), "192.0.2.77:7".parse().unwrap());
    for tags in [&[][..], &[(0x8100, 7)], &[(0x88a8, 10), (0x8100, 7)]] {
        let frame = packet::tag(packet::udp(macs, source, destination, &[7; 8000]), tags);
        wire.send(&frame);
        tap.expect("the same frame", |seen| (seen == frame).then_some(()));
    }
    wire.expect_none(Duration::from_millis(20), "a frame of its own", |frame| {
        (packet::macs(frame).0 == macs.0).then_some(())
    });
    // What the kernel sends has a complete checksum, as on a wire.
    let socket = bed.peer_socket(PEER_V4);
    socket.send_to(b"kernel", (HOST_V4, 9)).unwrap();
    tap.expect("a valid datagram", |frame| packet::read_udp(frame).filter(|udp| udp.payload == b"kernel"));
}

#[test]
fn nothing_outlives_its_guard() {
    let ns = Netns::new("guard");
    let name = ns.name().to_string();
    let mut sleeper = ns.spawn("sleep 1000");
    let pid = sleeper.id();
    assert!(sleeper.try_wait().is_none());
    let panicked = std::thread::spawn(move || {
        let _guards = (ns, sleeper);
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert!(!std::fs::exists(format!("/run/netns/{name}")).unwrap());
    assert!(!std::fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn processes_report_their_output_and_end() {
    let ns = Netns::new("output");
    let mut process = ns.spawn("sh -c echo${IFS}ready;sleep${IFS}1000");
    process.wait_for_output("ready");
    assert!(wait::within(Duration::from_millis(10), || process.try_wait()).is_none());
    process.kill();
}
