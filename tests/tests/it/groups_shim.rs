//! Groups and sockets under the shim: beside all other kinds of members, each of which hears everything once; and what a
//! tenant may not say of its sockets.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use afnet_tenant::Message;
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, HOST_V4, PEER, PEER_V4, PEER_V6},
    inside::Inside,
    process::Process,
    shim::{command, fast_endpoints, plain_command},
    wait,
};

const PORT: u16 = 5000;
/// A group of each family, and the peer's address.
const FAMILIES: [(&str, &str); 2] = [("239.1.2.3", PEER_V4), ("ff15::123", PEER_V6)];

/// A member, with its group and device as arguments, that says what it hears; and says to the group what it is told to.
const MEMBER: &str = r#"
import socket, struct, sys
group, index = sys.argv[1], socket.if_nametoindex(sys.argv[2])
if ":" in group:
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(("::", 5000))
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
    s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, group) + struct.pack("=i", index))
else:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("", 5000))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=8xi", index))
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + struct.pack("=4xi", index))
print("ready", flush=True)
while True:
    text = s.recv(100).decode()
    if text.startswith("say "):
        s.sendto(text[4:].encode(), (group, 5000))
    else:
        print("heard", text, ".", flush=True)
"#;

fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

fn heard(output: &str) -> Vec<String> {
    let lines = output.lines().filter_map(|line| line.strip_prefix("heard ")?.strip_suffix(" ."));
    lines.map(str::to_owned).collect()
}

/// Compartments in a group, as `afnet maddr` has them.
fn members(daemon: &Afnetd<'_>, group: &str) -> Vec<String> {
    let realms = daemon.json("maddr");
    let groups = realms.as_array().into_iter().flatten().filter_map(|realm| realm["groups"].as_array());
    let of_it = groups.flatten().filter(|g| g["address"] == group);
    let members = of_it.filter_map(|g| g["members"].as_array()).flatten();
    members.filter_map(|m| Some(m["name"].as_str()?.to_owned())).collect()
}

#[test]
fn all_kinds_of_members_hear_everything_once() {
    let bed = Bed::new("kinds");
    let mut daemon = Afnetd::start(&bed);
    for (name, v4, v6) in [
        ("library", "192.0.2.10/24", "2001:db8::10/64"),
        ("shim", "192.0.2.11/24", "2001:db8::11/64"),
        ("plain", "192.0.2.12/24", "2001:db8::12/64"),
    ] {
        daemon.add_compartment(name, &[v4, v6]);
    }
    for (ns, device) in [(&bed.peer, PEER), (&bed.host, DEVICE)] {
        ns.ip(&format!("route add 224.0.0.0/4 dev {device}"));
    }
    for (group, source) in FAMILIES {
        let v4 = source == PEER_V4;
        let address: IpAddr = group.parse().expect("an address");
        let host = bed.host.enter(|| UdpSocket::bind(at(group, PORT))).expect("bind");
        host.set_read_timeout(Some(Duration::from_millis(10))).expect("set a timeout");
        match address {
            IpAddr::V4(g) => host.join_multicast_v4(&g, &HOST_V4.parse().expect("an address")),
            IpAddr::V6(g) => host.join_multicast_v6(&g, bed.host.ifindex(DEVICE)),
        }
        .expect("join");
        let mut endpoint = daemon.claim("library", PORT);
        endpoint.set_timeout(Some(Duration::from_millis(10)));
        endpoint.join(address).expect("join");
        let member = |mut command: std::process::Command| {
            let mut process = Process::spawn(command.args(["/usr/bin/python3", "-c", MEMBER, group, DEVICE]));
            process.wait_for_output("ready");
            process
        };
        let shim = member(command(&daemon, "shim", &[]));
        let plain = member(plain_command(&daemon, "plain"));
        wait::until_true("it is accelerated", || !fast_endpoints(&daemon, "shim").is_empty());
        wait::until_true("all are shown", || members(&daemon, group) == ["library", "shim"]);

        let peer = bed.peer.enter(|| UdpSocket::bind(at(source, 0))).expect("bind");
        let mut lists: [Vec<String>; 4] = Default::default();
        let mut buffer = [0; 100];
        // Says something, again and again, until all have heard the last of it.
        let mut until_heard =
            |say: &mut dyn FnMut(&str), endpoint: &mut afnet_tenant::Endpoint, text: &str| {
                let mut number = 0;
                let done = wait::within(wait::PATIENCE, || {
                    number += 1;
                    let last = format!("{text}-{number}");
                    say(&last);
                    for _ in 0..20 {
                        while let Ok(got) = endpoint.recv(&mut buffer) {
                            lists[0].push(String::from_utf8_lossy(&buffer[..got.len]).into_owned());
                        }
                        while let Ok(len) = host.recv(&mut buffer) {
                            lists[1].push(String::from_utf8_lossy(&buffer[..len]).into_owned());
                        }
                        (lists[2], lists[3]) = (heard(&shim.output()), heard(&plain.output()));
                        if lists.iter().all(|list| list.contains(&last)) {
                            return (number >= 5).then_some(());
                        }
                    }
                    None
                });
                assert!(done.is_some(), "{group}: {text}: not everybody hears: {lists:?}");
            };
        let [shims, plains] =
            if v4 { ["192.0.2.11", "192.0.2.12"] } else { ["2001:db8::11", "2001:db8::12"] };
        let mut by_peer = |text: &str| {
            peer.send_to(text.as_bytes(), at(group, PORT)).expect("send");
        };
        until_heard(&mut by_peer, &mut endpoint, "peer");
        until_heard(&mut |text| drop(host.send_to(text.as_bytes(), at(group, PORT))), &mut endpoint, "host");
        let tell = |to: &str, text: &str| {
            peer.send_to(format!("say {text}").as_bytes(), at(to, PORT)).expect("send");
        };
        until_heard(&mut |text| tell(shims, text), &mut endpoint, "shim");
        until_heard(&mut |text| tell(plains, text), &mut endpoint, "plain");
        let mut speaker = daemon.claim("library", PORT + 1);
        let mut by_endpoint = |text: &str| {
            speaker.send(&Message::new(at(group, PORT), text.as_bytes())).expect("send");
            speaker.flush();
        };
        until_heard(&mut by_endpoint, &mut endpoint, "endpoint");
        until_heard(&mut by_peer, &mut endpoint, "end");
        for (who, list) in ["endpoint", "host", "shim", "plain"].iter().zip(&lists) {
            let mut once = list.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), list.len(), "{group}: {who} has heard something twice: {list:?}");
            assert!(list.len() >= 30, "{group}: {who} has missed something: {list:?}");
        }
        // What came by the wire and from endpoints came by the rings.
        let rx: u64 = fast_endpoints(&daemon, "shim").iter().map(|endpoint| endpoint.rx).sum();
        assert!(rx >= 15, "{group}: {rx} of it by the fast path");
        drop((shim, plain));
        wait::until_true("its endpoint is gone", || fast_endpoints(&daemon, "shim").is_empty());
    }
    bed.host.ip(&format!("route del 224.0.0.0/4 dev {DEVICE}"));
    daemon.stop();
}

/// Sockets that the workers serve are no reason to hand anything on to the kernel; others are, when they come.
#[test]
fn the_kernel_gets_nothing_for_those_who_have_it() {
    let bed = Bed::new("alone");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("shim", &["192.0.2.11/24", "2001:db8::11/64"]);
    bed.peer.ip(&format!("route add 224.0.0.0/4 dev {PEER}"));
    for (group, source) in FAMILIES {
        let mut command = command(&daemon, "shim", &[]);
        let mut shim = Process::spawn(command.args(["/usr/bin/python3", "-c", MEMBER, group, DEVICE]));
        shim.wait_for_output("ready");
        let peer = bed.peer.enter(|| UdpSocket::bind(at(source, 0))).expect("bind");
        let mut number = 0;
        let mut say = || {
            number += 1;
            peer.send_to(format!("{number}").as_bytes(), at(group, PORT)).expect("send");
            shim.wait_for_output(&format!("heard {number} ."));
        };
        let handed_on = || daemon.counter("0", "rx_reinjected");
        wait::until_true("the workers to keep it to themselves", || {
            let before = handed_on();
            (0..10).for_each(|_| say());
            !fast_endpoints(&daemon, "shim").is_empty() && handed_on() == before
        });
        let address: IpAddr = group.parse().expect("an address");
        let host = bed.host.enter(|| UdpSocket::bind(at(group, PORT))).expect("bind");
        host.set_nonblocking(true).expect("set");
        match address {
            IpAddr::V4(g) => host.join_multicast_v4(&g, &HOST_V4.parse().expect("an address")),
            IpAddr::V6(g) => host.join_multicast_v6(&g, bed.host.ifindex(DEVICE)),
        }
        .expect("join");
        wait::until_true("the host to hear", || {
            say();
            host.recv(&mut [0; 100]).is_ok()
        });
        let once: Vec<String> = (1..=number).map(|n| n.to_string()).collect();
        assert_eq!(heard(&shim.output()), once);
    }
    daemon.stop();
}

/// A tenant `t` with a claim of a socket `s`, that can join and follow.
fn tenant(daemon: &Afnetd<'_>, name: &str) -> Inside {
    let inside = Inside::start(daemon, name);
    inside.run("import struct");
    inside.run("t = Tenant()");
    inside.run("s = udp('0.0.0.0', 5000)");
    assert_eq!(inside.run("t.claim(s, port=5000, family=4)"), 5000);
    inside.run(
        "def follow(group, *sockets):\n    a = t.ask({'op': 'follow', 'group': group}, sockets)\n    \
         return a if isinstance(a, str) else a['follows']['member']",
    );
    inside.run(
        "def join(sock, group):\n    sock.setsockopt(0, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + \
         struct.pack('=4xi', socket.if_nametoindex('dev0')))",
    );
    inside
}

#[test]
fn what_a_tenant_says_of_its_sockets_is_not_believed() {
    let bed = Bed::new("follow");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    daemon.add_compartment("b", &["192.0.2.11/24", "2001:db8::11/64"]);
    bed.peer.ip(&format!("route add 224.0.0.0/4 dev {PEER}"));
    let inside = tenant(&daemon, "a");
    let other = Inside::start(&daemon, "b");
    let foreign = other.socket("udp('0.0.0.0', 5000)");
    let follow = |what: &str| inside.run(&format!("follow({what})"));
    // No socket, no group, none of the claim's, not in the group.
    for (what, answer) in [
        ("'239.1.2.3'", "EBADF".into()),
        ("'239.1.2.3', s, s", "EBADF".into()),
        ("'192.0.2.10', s", "EINVAL".into()),
        ("'255.255.255.255', s", "EINVAL".into()),
        ("'239.1.2.3', open('/dev/null')", "ENOTSOCK".into()),
        ("'239.1.2.3', t.stream", "EBADF".into()),
        ("'239.1.2.3', udp('0.0.0.0', 5001)", "EBADF".into()),
        ("'ff15::123', s", "EBADF".into()),
        ("'239.1.2.3', s", serde_json::Value::from(false)),
    ] {
        assert_eq!(follow(what), answer, "{what}");
    }
    assert_eq!(inside.run_with("follow('239.1.2.3', given[0])", &[foreign.as_fd()]), "EBADF");
    let groups = || daemon.json("maddr").to_string().matches("239.").count();
    assert_eq!(groups(), 0);

    // A member, that leaves without a word: the host's program goes on to hear.
    inside.run("join(s, '239.1.2.3')");
    assert_eq!(follow("'239.1.2.3', s"), true);
    assert_eq!(groups(), 1);
    inside.run("t.ask({'op': 'listen', 'group': '239.1.2.3', 'exclude': True})");
    assert_eq!(inside.run("t.ask({'op': 'listen', 'group': '239.1.2.3', 'exclude': True})"), "EEXIST");
    inside.run("s.setsockopt(0, socket.IP_DROP_MEMBERSHIP, socket.inet_aton('239.1.2.3') + struct.pack('=4xi', socket.if_nametoindex('dev0')))");
    let host = bed.host.enter(|| UdpSocket::bind(at("0.0.0.0", 5000))).expect("bind");
    host.set_read_timeout(Some(Duration::from_millis(10))).expect("set a timeout");
    let four = |group: &str| group.parse().expect("an address");
    host.join_multicast_v4(&four("239.1.2.3"), &four(HOST_V4)).expect("join");
    let peer = bed.peer_socket(PEER_V4);
    let hears = |text: &str| {
        let found = wait::within(wait::PATIENCE, || {
            peer.send_to(text.as_bytes(), at("239.1.2.3", 5000)).expect("send");
            host.recv(&mut [0; 100]).ok()
        });
        assert!(found.is_some(), "the host does not hear {text}");
    };
    hears("what the tenant has left");
    assert_eq!(follow("'239.1.2.3', s"), false);
    hears("what nobody else is in");

    // As many as its compartment may have; what is beyond comes by the kernel.
    inside.run("socks = [s] + [udp('0.0.0.0', 6000 + n) for n in range(15)]");
    inside.run("ports = [t.claim(x, port=x.getsockname()[1], family=4) for x in socks[1:]]");
    let code = "[(join(x, '239.%d.0.%d' % (i, n)), follow('239.%d.0.%d' % (i, n), x))[1] for i, x in enumerate(socks) for n in range(20)]";
    let answers = inside.run(code);
    let answers = answers.as_array().expect("a list");
    let yes = answers.iter().filter(|a| **a == true).count();
    let no = answers.iter().filter(|a| **a == "ENOBUFS").count();
    assert_eq!((answers.len(), yes, no), (320, 256, 64), "{answers:?}");
    // Without an address it hears nothing, as the kernel has it.
    daemon.ok("addr del 192.0.2.10/24 dev dev0");
    assert_eq!(inside.run("follow('239.0.0.0', s)"), "ENODEV");
    daemon.ok("addr add 192.0.2.10/24 dev dev0 afnetns a");
    assert_eq!(inside.run("follow('239.0.0.0', s)"), true);
    assert_eq!(follow("'239.15.0.18', socks[15]"), true, "what it gave back is others'");
    // With a claim go the groups of its socket.
    assert_eq!(inside.run("t.unclaim(5000, family=4)"), "done");
    assert_eq!(inside.run("follow('239.15.0.19', socks[15])"), true);
    hears("the last");
    drop(inside);
    daemon.stop();
}
