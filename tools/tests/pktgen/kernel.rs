//! The kernel as judge: it counts datagrams, answers ARP and ND, keeps group memberships, echoes.

use std::time::Duration;

use afnet_tests::{bed::socket_in, netns::Netns, packet::read_arp, veth::Veth, wait, wire::Wire};

use crate::bed::{LEFT, LEFT_V4, LEFT_V6, Pair, RIGHT, RIGHT_V4, RIGHT_V6, json, mac, pktgen, start};

#[test]
fn a_socket_receives_every_datagram() {
    let pair = Pair::new();
    for (from, to, size) in [(LEFT_V4, RIGHT_V4, 60), (LEFT_V6, RIGHT_V6, 100), (LEFT_V4, RIGHT_V4, 1514)] {
        let socket = socket_in(&pair.right, to, 7);
        // Without --dst-mac: the kernel resolves the neighbour.
        pktgen(&format!("tx {} --src {from} --dst {to} --size {size} --count 60 --rate 20k -q", pair.left()));
        let headers = if from == LEFT_V4 { 42 } else { 62 };
        for sequence in 0..60u64 {
            let mut bytes = [0; 2048];
            let (length, sender) = socket.recv_from(&mut bytes).expect("a datagram");
            assert_eq!((length, sender.ip().to_string().as_str()), (size - headers, from));
            let stamp = afnet_tools::stamp::Stamp::read(&bytes[..length]).expect("a stamp");
            assert_eq!(stamp.sequence, sequence);
        }
    }
}

#[test]
fn it_answers_arp_and_neighbour_solicitations() {
    let pair = Pair::new();
    let wire = Wire::open(&pair.left, LEFT);
    pktgen(&format!("tx {} --kind arp --src {LEFT_V4} --dst {RIGHT_V4} --count 1 -q", pair.left()));
    let right = pair.right.mac(RIGHT);
    wire.expect("ARP reply", |frame| {
        let (op, sender, _) = read_arp(frame)?;
        (op == 2 && sender.0 == right && sender.1.to_string() == RIGHT_V4).then_some(())
    });
    pktgen(&format!("tx {} --kind nd --src {LEFT_V6} --dst {RIGHT_V6} --count 1 -q", pair.left()));
    wire.expect("advertisement", |frame| {
        // ICMPv6 type 136 behind the IPv6 header.
        (frame.get(6..12)? == right && frame.get(12..14)? == [0x86, 0xdd] && *frame.get(54)? == 136)
            .then_some(())
    });
}

#[test]
fn a_bridge_learns_the_groups() {
    let pair = Pair::new();
    pair.right.ip("link add br0 type bridge mcast_snooping 1 mcast_querier 1");
    pair.right.ip(&format!("link set {RIGHT} master br0"));
    pair.right.ip("link set br0 up");
    let reports = [
        ("igmp", "239.1.1.1-239.1.1.3", "239.1.1.2"),
        ("igmp2", "239.2.1.1-239.2.1.3", "239.2.1.3"),
        ("mld", "ff05::1:1-ff05::1:3", "ff05::1:2"),
        ("mld1", "ff05::2:1-ff05::2:3", "ff05::2:3"),
    ];
    for (kind, groups, one) in reports {
        // Reports are heeded once the port forwards, so again until they are.
        wait::until_true("the bridge's membership", || {
            pktgen(&format!("tx {} --kind {kind} --dst {groups} --count 3 -q", pair.left()));
            let table = pair.right.run("bridge mdb show");
            table.lines().any(|line| line.contains(&format!("grp {one} ")) && line.contains(RIGHT))
        });
    }
}

#[test]
fn round_trips_through_a_socket() {
    let pair = Pair::new();
    let echo = |listen: &str, ns: &Netns| {
        let path = ns.path().display().to_string();
        let mut command = std::process::Command::new("nsenter");
        command.arg(format!("--net={path}")).arg(crate::bed::PKTGEN).args(["udp-echo", listen]);
        let mut process = afnet_tests::process::Process::spawn(&mut command);
        process.wait_for_output("echo on");
        process
    };
    // One socket for both families, on the wildcard address.
    let mut process = echo("[::]:7", &pair.right);
    for (from, to, size) in [(LEFT_V4, RIGHT_V4, 60), (LEFT_V6, RIGHT_V6, 120)] {
        let flow = format!("--src {from} --dst {to} --size {size} --rate 1k --count 300");
        let result = json(&format!("measure {} {flow}", pair.left()));
        assert_eq!(
            (&result["total"]["received"], &result["total"]["lost"]),
            (&300.into(), &0.into()),
            "{result}"
        );
        assert!(result["latency_us"]["p50"].as_f64().expect("a number") > 1.0, "{result}");
    }
    process.terminate();
    assert!(process.output().contains("received   600 frames"), "{}", process.output());
}

#[test]
fn a_receiver_leaves_the_kernel_its_frames() {
    let pair = Pair::new();
    let mut receiver = start(&format!("rx {}", pair.right()), RIGHT);
    let socket = socket_in(&pair.right, RIGHT_V4, 7);
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("set a timeout");
    // Unstamped frames pass, ping too; stamped ones do not.
    wait::until_true("an answer to ping", || pair.left.attempt(&format!("ping -c 1 -W 1 {RIGHT_V4}")).0);
    let flow = format!("--src {LEFT_V4} --dst {RIGHT_V4} --count 5 --rate 1k -q");
    pktgen(&format!("tx {} {flow} --no-stamp", pair.left()));
    let mut bytes = [0; 100];
    for _ in 0..5 {
        socket.recv(&mut bytes).expect("an unstamped datagram");
    }
    pktgen(&format!("tx {} {flow}", pair.left()));
    assert!(socket.recv(&mut bytes).is_err(), "a stamped datagram went to the kernel");
    receiver.terminate();
    assert!(receiver.output().contains("received   5 frames"), "{}", receiver.output());
}

#[test]
fn several_queues_each_with_its_stream() {
    let pair = Pair::with(Veth::default().bare().queues(2));
    let mac = mac(&pair.right, RIGHT);
    let rx = format!("--rx {} --rx-queues 0-1 --queues 0-1", pair.right());
    let result = json(&format!("measure {} {rx} --dst-mac {mac} --rate 4k --count 1001", pair.left()));
    assert_eq!((&result["sent"]["frames"], &result["total"]["lost"]), (&1001.into(), &0.into()), "{result}");
    let streams = result["streams"].as_array().expect("streams");
    let counts: Vec<_> = streams.iter().map(|it| it["received"].as_u64().expect("a number")).collect();
    assert_eq!(counts, [501, 500]);
}
