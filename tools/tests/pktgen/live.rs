//! Live frames.

use afnet_tests::{bed::socket_in, packet::read_udp, wire::Wire};

use crate::bed::{LEFT, Pair, RIGHT, RIGHT_V4, json, pktgen};

fn ours(frame: &[u8]) -> bool {
    frame[6..12] == [2, 0, 0, 0, 0, 0x77]
}

#[test]
fn the_kernel_program_writes_what_we_would() {
    let pair = Pair::new();
    let wire = Wire::open(&pair.left, LEFT);
    let flows = [
        "--dst 10.2.0.254-10.2.1.3 --src ~10.0.0.0/8 --sport 5-7 --vlan 3-9 --size 700",
        "--dst ~2001:db8:1::/112 --src 2001:db8::1-2001:db8::3 --dport ~1-65535 --size 81",
        "--kind tcp --dst ~10.2.0.0/24 --size 60",
        "--kind nd --dst 2001:db8::ffff-2001:db8::1:3 --size 90",
        "--kind igmp2 --dst 239.129.0.255-239.129.1.3 --src 10.0.0.1-10.0.0.2",
        "--kind mld1 --dst ff05::ffff-ff05::1:3 --size 94 --vlan 100,1-3",
        "--kind arp --dst ~10.0.0.0/28",
        "--dst 239.1.1.1-239.1.1.9",
    ];
    for flow in flows {
        let args = format!("--src-mac 02:00:00:00:00:77 --no-stamp --seed 5 {flow}");
        let sent = pair.sent(&args, 40, ours);
        pktgen(&format!("tx {} --live --dst-mac 02:00:00:00:00:99 --count 40 -q {args}", pair.left()));
        let live: Vec<_> =
            (0..40).map(|_| wire.expect("live frame", |frame| ours(frame).then(|| frame.to_vec()))).collect();
        assert_eq!(live, sent, "{flow}");
    }
}

#[test]
fn sums_are_right_with_stamps_and_sizes() {
    let pair = Pair::new();
    let wire = Wire::open(&pair.left, LEFT);
    let args =
        "--src-mac 02:00:00:00:00:77 --dst 10.2.0.0/28 --sport ~1-65535 --size 60:3,61:1,1514:2 --vlan 5";
    pktgen(&format!("tx {} --live --count 600 -q {args}", pair.left()));
    for sequence in 0..600 {
        let frame = wire.expect("live frame", |frame| ours(frame).then(|| frame.to_vec()));
        let datagram = read_udp(&frame).unwrap_or_else(|| panic!("a wrong sum: {frame:02x?}"));
        let stamp = afnet_tools::stamp::Stamp::read(&datagram.payload);
        // With a tag, 60 bytes leave no room for the stamp.
        assert_eq!(stamp.map(|stamp| stamp.sequence), (frame.len() > 63).then_some(sequence));
    }
}

#[test]
fn the_stack_gets_them() {
    let pair = Pair::new();
    let socket = socket_in(&pair.right, RIGHT_V4, 7);
    let result =
        json(&format!("tx {} --live --src 192.0.2.1 --dst {RIGHT_V4} --count 30 --rate 10k", pair.right()));
    assert_eq!(
        (&result["sent"]["frames"], &result["devices"][0]["mode"]),
        (&30.into(), &"live frames".into())
    );
    let mut bytes = [0; 100];
    for _ in 0..30 {
        socket.recv(&mut bytes).expect("a datagram");
    }
    assert!(
        !pair.right.ip(&format!("link show dev {RIGHT}")).contains("xdp"),
        "the program goes with pktgen"
    );
}

#[test]
fn a_device_that_forwards() {
    // A reflector on the right end sends live frames of its own end out to the left.
    let pair = Pair::new();
    let mut reflector = crate::bed::start(&format!("reflect {}", pair.right()), RIGHT);
    let rx = format!("measure {} --live --rx {} --rate 5k --count 500", pair.right(), pair.left());
    let result = json(&rx);
    assert_eq!((&result["total"]["received"], &result["loss"]), (&500.into(), &0.0.into()), "{result}");
    reflector.terminate();
}

#[test]
fn a_thread_on_each_cpu() {
    let pair = Pair::new();
    let wire = Wire::open(&pair.left, LEFT);
    let args = "--src-mac 02:00:00:00:00:77 --dst 10.2.0.0/28 --count 101 --cpus 0,0 --stream 5";
    pktgen(&format!("tx {} --live -q {args}", pair.left()));
    let mut numbers: Vec<_> = (0..101)
        .map(|_| {
            let frame = wire.expect("live frame", |frame| ours(frame).then(|| frame.to_vec()));
            let stamp = afnet_tools::stamp::Stamp::find(&frame).expect("a stamp");
            (stamp.stream, stamp.sequence, frame[33])
        })
        .collect();
    numbers.sort_unstable();
    // The second thread begins in the middle of the range.
    let expected = (0..51).map(|i| (5, i, i % 16)).chain((0..50).map(|i| (6, i, (i + 8) % 16)));
    let expected: Vec<_> = expected.map(|(stream, i, low)| (stream, i, u8::try_from(low).unwrap())).collect();
    assert_eq!(numbers, expected);
}
