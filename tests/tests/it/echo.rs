//! UDP echo over the fast path, by the peer's kernel.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::TcpStream;

use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::{Bed, HOST_V4, HOST_V6, PEER, PEER_V4, PEER_V6, socket_in},
    netns::parse_mac,
    process::Process,
    veth::Veth,
};

use crate::client::{Tenant, ask, at, bytes, expect_counters};

/// The neighbours that the peer's kernel knows.
fn neighbours(bed: &Bed) -> BTreeMap<String, [u8; 6]> {
    let table: serde_json::Value =
        serde_json::from_str(&bed.peer.ip(&format!("-j neigh show dev {PEER}"))).expect("JSON of ip");
    let rows = table.as_array().expect("a list").iter();
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().map(str::to_owned);
    rows.filter_map(|row| Some((text(row, "dst")?, parse_mac(&text(row, "lladdr")?)))).collect()
}

#[test]
fn two_compartments_behind_one_mac() {
    let bed = Bed::new("echo");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &["192.0.2.11/24", "2001:db8::11/64"]);
    let tenants = ["red", "blue"].map(|name| Tenant::claiming(&daemon, name, 7).echo());
    let (four, six) = (bed.peer_socket(PEER_V4), bed.peer_socket(PEER_V6));
    let sizes = [0, 1, 2, 3, 18, 19, 63, 64, 65, 512, 1000, 1451, 1452];
    for (seed, len) in sizes.into_iter().enumerate() {
        for (socket, to) in
            [(&four, "192.0.2.10"), (&six, "2001:db8::11"), (&four, "192.0.2.11"), (&six, "2001:db8::10")]
        {
            ask(socket, at(to, 7), &bytes(len, seed));
        }
    }
    ask(&four, at("192.0.2.10", 7), &bytes(1472, 0));
    let rounds = u64::try_from(sizes.len()).unwrap();
    assert_eq!([tenants[0].count(), tenants[1].count()], [2 * rounds + 1, 2 * rounds]);
    // All of them went the fast path, each counted for its own compartment.
    for (name, count) in [("red", 2 * rounds + 1), ("blue", 2 * rounds)] {
        let expected = [("redirect_udp", count), ("rx_delivered", count), ("tx_datagrams", count)];
        expect_counters(&daemon, name, &expected);
    }
    let (seen, mac) = (neighbours(&bed), bed.device_mac());
    for address in ["192.0.2.10", "192.0.2.11", "2001:db8::10", "2001:db8::11"] {
        assert_eq!(seen.get(address), Some(&mac), "{address}: {seen:?}");
    }
    drop(tenants);
    daemon.stop();
}

#[test]
fn at_once_from_many_flows() {
    let bed = Bed::new("flows");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    daemon.add_compartment("blue", &["192.0.2.11/24"]);
    let tenants = ["red", "blue"].map(|name| Tenant::claiming(&daemon, name, 7).echo());
    std::thread::scope(|scope| {
        for flow in 0..4 {
            let (socket, to) = (bed.peer_socket(PEER_V4), ["192.0.2.10", "192.0.2.11"][flow % 2]);
            scope.spawn(move || (0..200).for_each(|i| ask(&socket, at(to, 7), &bytes(i * 7, flow))));
        }
    });
    assert_eq!([tenants[0].count(), tenants[1].count()], [400, 400]);
    drop(tenants);
    daemon.stop();
}

#[test]
fn two_devices_of_one_daemon() {
    let bed = Bed::new("devices");
    Veth::default().connect((&bed.host, "dev1"), (&bed.peer, "peer1"));
    bed.host.ip("addr add 198.51.100.1/24 dev dev1");
    bed.peer.ip("addr add 198.51.100.100/24 dev peer1");
    let mut daemon = Afnetd::start_with(&bed.host, &["--device", "dev0", "--device", "dev1"]);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    daemon.add_address("red", "198.51.100.10/24", |spec| spec.dev = "dev1".into());
    let tenant = Tenant::claiming(&daemon, "red", 7).echo();
    for (own, to) in [(PEER_V4, "192.0.2.10"), ("198.51.100.100", "198.51.100.10")] {
        let socket = socket_in(&bed.peer, own, 0);
        (0..5).for_each(|seed| ask(&socket, at(to, 7), &bytes(100, seed)));
    }
    for (of, count) in [("dev0", 5), ("dev1", 5), ("red", 10)] {
        assert_eq!(daemon.counter(of, "redirect_udp"), count, "{of}");
    }
    drop(tenant);
    daemon.stop();
}

#[test]
fn an_address_of_the_fast_path_alone() {
    let bed = Bed::new("fastonly");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add red");
    daemon.ok("addr add 192.0.2.20/24 dev dev0 afnetns red fast-only");
    daemon.ok("addr add 2001:db8::20/64 dev dev0 afnetns red fast-only");
    let held = bed.host.ip("addr show dev dev0");
    assert!(!held.contains("192.0.2.20") && !held.contains("2001:db8::20"), "{held}");
    bed.peer.run("ping -c 3 -i 0.01 -W 5 192.0.2.20");
    bed.peer.run("ping -c 3 -i 0.01 -W 5 2001:db8::20");
    assert_eq!(daemon.counter("red", "tx_echo"), 6);
    let tenant = Tenant::claiming(&daemon, "red", 7).echo();
    ask(&bed.peer_socket(PEER_V4), at("192.0.2.20", 7), b"four");
    ask(&bed.peer_socket(PEER_V6), at("2001:db8::20", 7), b"six");
    drop(tenant);
    daemon.stop();
}

/// Tells whoever connects which address was hit.
const SERVER: &str = "
import socket
s = socket.socket(socket.AF_INET6)
s.bind(('::', 8000)); s.listen(); print('ready')
while True:
    c, _ = s.accept(); c.sendall(c.getsockname()[0].encode()); c.close()
";

#[test]
fn a_delegated_prefix() {
    let bed = Bed::new("prefix");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add red");
    daemon.ok("addr add 2001:db8:0:1::/64 dev dev0 afnetns red delegated");
    daemon.ok("addr add 198.51.100.0/28 dev dev0 afnetns red delegated");
    daemon.ok("addr add 203.0.113.0/28 dev dev0 afnetns red delegated fast-only");
    let tenant = Tenant::claiming(&daemon, "red", 7).echo();
    bed.peer.ip(&format!("route add 2001:db8:0:1::/64 dev {PEER}"));
    bed.peer.ip(&format!("route add 198.51.100.0/28 dev {PEER}"));
    for to in ["2001:db8:0:1::1", "2001:db8:0:1:ffff::9"] {
        ask(&bed.peer_socket(PEER_V6), at(to, 7), b"six");
    }
    for to in ["198.51.100.3", "198.51.100.14"] {
        ask(&bed.peer_socket(PEER_V4), at(to, 7), b"four");
    }
    // The host, bound to its address or to none; of `fast-only` by the host link.
    for (to, own) in [
        ("2001:db8:0:1::1", HOST_V6),
        ("198.51.100.3", HOST_V4),
        ("203.0.113.3", HOST_V4),
        ("198.51.100.3", "0.0.0.0"),
        ("203.0.113.3", "0.0.0.0"),
        ("2001:db8:0:1::1", "::"),
    ] {
        let socket = socket_in(&bed.host, own, 0);
        for len in [0, 1400, 4000] {
            ask(&socket, at(to, 7), &bytes(len, 3));
        }
    }
    // What takes no fast path is the kernel's, as for an address of a device.
    bed.peer.ip(&format!("route add 203.0.113.0/28 dev {PEER}"));
    for to in ["2001:db8:0:1::7", "198.51.100.7", "203.0.113.7"] {
        bed.peer.run(&format!("ping -c 2 -i 0.01 -W 5 {to}"));
    }
    assert_eq!(daemon.counter("red", "tx_echo"), 2, "the kernel answers for what it holds");
    let mut server = Process::spawn(bed.host.command(binary("afnet")).args([
        "--instance",
        daemon.instance(),
        "exec",
        "red",
        "--",
        "python3",
        "-uc",
        SERVER,
    ]));
    server.wait_for_output("ready");
    for to in ["198.51.100.7", "2001:db8:0:1::7"] {
        let mut client = bed.peer.enter(|| TcpStream::connect(at(to, 8000)).unwrap());
        let mut text = String::new();
        client.read_to_string(&mut text).unwrap();
        assert_eq!(text.trim_start_matches("::ffff:"), to);
    }
    drop(server);
    drop(tenant);
    daemon.stop();
}
