//! Devices and modes, starts that fail, configuration files, what stays and what goes.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;

use afnet_tests::afnetd::{Afnetd, binary};
use afnet_tests::bed::{Bed, DEVICE, PEER};
use afnet_tests::netns::{Netns, unique};
use afnet_tests::process::Process;
use afnet_tests::veth::Veth;
use afnet_tests::wait;

use crate::bed;

/// Runs a daemon that must fail; returns what it said. Nothing of it is left.
fn refused(ns: &Netns, arguments: &[&str]) -> String {
    let instance = format!("r{}-{}", std::process::id(), unique());
    let mut process =
        Process::spawn(ns.command(binary("afnetd")).args(["--instance", &instance]).args(arguments));
    let status = process.wait();
    let said = process.output();
    assert!(!status.success() && !said.contains("panicked"), "{arguments:?}: {status} {said}");
    for place in ["/run", "/sys/fs/bpf", "/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let left = Path::new(place).join(format!("afnet-{instance}"));
        assert!(!left.exists(), "{} is left", left.display());
    }
    said
}

#[test]
fn a_device_without_xdp_in_its_driver_falls_back_with_the_reason() {
    let ns = Netns::new("generic");
    ns.ip("link add br0 type bridge");
    ns.ip("link set br0 up");
    // The kernel enters the route of the link-local address a little later.
    wait::until_true("br0 has its address", || ns.ip("-6 route show table local").contains("local fe80"));
    let mut daemon = Afnetd::start_with(&ns, &["--device", "br0"]);
    let status = daemon.json("status");
    let device = &status["devices"][0];
    assert_eq!(device["mode"], "generic");
    let why = device["refused"].to_string();
    assert!(why.contains("XDP in the driver"), "{why}");
    daemon.stop();
    let said = refused(&ns, &["--device", "br0", "--mode", "copy"]);
    assert!(said.contains("br0") && said.contains("generic"), "{said}");
}

#[test]
fn a_start_that_fails_late_leaves_nothing_either() {
    let bed = bed("late");
    let links = bed.host.ip("link");
    let said = refused(&bed.host, &["--device", DEVICE, "--mode", "zero-copy"]);
    assert!(said.contains("zero-copy") && said.contains(DEVICE), "{said}");
    assert_eq!(bed.host.ip("link"), links);
    // The configuration gives one address to two compartments.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("afnetd.toml");
    let address =
        format!("[[compartment.address]]\naddress = \"192.0.2.9\"\nprefix_len = 24\ndev = \"{DEVICE}\"\n");
    let text = format!(
        "[[device]]\nname = \"{DEVICE}\"\n[[compartment]]\nname = \"a\"\n{address}[[compartment]]\nname = \"b\"\n{address}"
    );
    fs::write(&file, text).unwrap();
    let said = refused(&bed.host, &["--config", file.to_str().unwrap()]);
    assert!(said.contains("192.0.2.9") && said.contains("belongs to a"), "{said}");
    assert_eq!(bed.host.ip("link"), links);
    assert!(!bed.host.ip("addr").contains("192.0.2.9"));
    // An XDP program of somebody else's stays.
    let foreign = Afnetd::start(&bed);
    let said = refused(&bed.host, &["--device", DEVICE]);
    assert!(said.contains("another afnetd") && said.contains(DEVICE), "{said}");
    drop(foreign);
}

#[test]
fn kept_state_is_taken_over_and_then_removed() {
    let bed = bed("keep");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("afnetd.toml");
    let config = |keep: bool| {
        let text = format!(
            "keep = {keep}\n[[device]]\nname = \"{DEVICE}\"\n[workers]\nwake = \"interrupt\"\n[[compartment]]\nname = \"a\"\n\
             policy.rate_pps = 9\n[[compartment.address]]\naddress = \"192.0.2.9\"\nprefix_len = 24\ndev = \"{DEVICE}\"\n"
        );
        fs::write(&file, text).unwrap();
    };
    let instance = format!("k{}-{}", std::process::id(), unique());
    let afnet = |line: &str| {
        let mut command = bed.host.command(binary("afnet"));
        let output =
            command.args(["--instance", &instance, "-j"]).args(line.split_whitespace()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    let start = || {
        let mut command = bed.host.command(binary("afnetd"));
        let process = Process::spawn(command.args([
            "--instance",
            &instance,
            "--no-dad",
            "--config",
            file.to_str().unwrap(),
        ]));
        wait::until_true("the daemon to answer", || afnet("status").is_some());
        process
    };
    let before = bed.host.ip("-br addr show dev dev0");
    config(true);
    let mut first = start();
    assert!(afnet("list").unwrap().contains("\"rate_pps\":9"));
    assert!(afnet("status").unwrap().contains("\"wake\":\"interrupt\""));
    afnet(&format!("addr add 2001:db8::9/64 dev {DEVICE} afnetns a")).unwrap();
    let addresses = afnet("addr list");
    first.terminate();
    assert!(bed.host.ip("link").contains("xdp"), "the program stays");
    assert!(bed.host.ip("addr").contains("192.0.2.9/32"));
    config(false);
    let mut second = start();
    assert_eq!(afnet("addr list"), addresses);
    second.terminate();
    assert_eq!(bed.host.ip("-br addr show dev dev0"), before);
    assert!(!bed.host.ip("link").contains("xdp"));
    assert!(!Path::new(&format!("/run/afnet-{instance}")).exists());
}

#[test]
fn an_interface_may_vanish_and_come_back() {
    let bed = bed("vanish");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_address("a", "192.0.2.64/28", |spec| spec.delegated = true);
    assert!(bed.host.ip("route show table local").contains("192.0.2.64/28"));
    bed.host.ip(&format!("link del {DEVICE}"));
    wait::until_true("the device to be absent", || daemon.json("status")["devices"][0]["mode"] == "absent");
    assert!(!bed.host.ip("route show table local").contains("192.0.2.64/28"));
    daemon.ok("add b");
    daemon.ok(&format!("addr add 192.0.2.20/24 dev {DEVICE} afnetns b"));
    Veth::default().connect((&bed.host, DEVICE), (&bed.peer, "peer1"));
    wait::until_true("the device to be back", || daemon.json("status")["devices"][0]["mode"] == "copy");
    wait::until_true("its addresses", || {
        let addresses = bed.host.ip("addr");
        ["192.0.2.10/32", "2001:db8::10/128", "192.0.2.20/32"].iter().all(|a| addresses.contains(a))
    });
    assert!(bed.host.ip("route show table local").contains("192.0.2.64/28"));
    daemon.ok("del a");
    daemon.ok("del b");
    daemon.kill();
}

#[test]
fn addresses_of_the_host_are_not_for_compartments_and_strays_are_removed() {
    let bed = bed("host");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let prefixes = ["198.51.100.0/28", "2001:db8:1::/64"];
    for prefix in prefixes {
        daemon.add_address("a", prefix, |spec| spec.delegated = true);
    }
    let routed = || {
        let routes = bed.host.ip("route show table local") + &bed.host.ip("-6 route show table local");
        prefixes.iter().filter(|p| routes.contains(**p)).count()
    };
    assert_eq!(routed(), 2);
    // Those of others: by protocol, by metric.
    bed.host.ip("route add local 203.0.113.0/24 dev lo");
    let other = bed.host.ifindex("lo");
    bed.host.ip(&format!("route add local 203.0.114.0/24 dev lo proto 175 metric {other}"));
    // Of a device that has gone since.
    bed.host.ip("route add local 203.0.115.0/24 dev lo proto 175 metric 4711");
    for own in ["192.0.2.1/24", "2001:db8::1/64", "192.0.2.1/24 fast-only"] {
        let said =
            daemon.fails(&format!("addr add {own} dev {DEVICE} afnetns a").replace(" fast-only dev", " dev"));
        assert!(said.contains("host's own"), "{said}");
    }
    // A daemon that dies and whose state is lost: the next one of the device tidies up.
    daemon.kill();
    fs::remove_dir_all(daemon.socket_path().parent().unwrap().join("compartments")).unwrap();
    daemon.restart();
    assert!(!bed.host.ip("addr").contains("192.0.2.10"));
    assert_eq!(routed(), 0);
    let routes = bed.host.ip("route show table local");
    assert!(routes.contains("203.0.113.0/24") && routes.contains("203.0.114.0/24"), "{routes}");
    assert!(!routes.contains("203.0.115.0/24"), "{routes}");
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    assert!(bed.host.ip("addr").contains("192.0.2.10/32"));
    daemon.kill();
}

/// A connection of the peer's to `listener`, both ends.
fn connect(bed: &Bed, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let client = bed.peer.enter(|| TcpStream::connect(listener.local_addr().unwrap()).unwrap());
    let (server, _) = listener.accept().unwrap();
    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    server.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    (client, server)
}

#[test]
fn connections_of_an_address_that_is_taken_away_are_closed() {
    let bed = bed("closed");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64"]);
    daemon.add_compartment("b", &["198.51.100.5/32"]);
    daemon.add_address("a", "198.51.100.0/28", |spec| spec.delegated = true);
    bed.peer.ip(&format!("route add 198.51.100.0/28 dev {PEER}"));
    let listen = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        wait::until("the address to be usable", || bed.host.enter(|| TcpListener::bind((address, 0)).ok()))
    };
    let others = ["192.0.2.1", "192.0.2.11", "198.51.100.5"].map(listen);
    let other_streams = others.each_ref().map(|listener| connect(&bed, listener));
    for (address, line) in [
        ("192.0.2.10", "192.0.2.10/24"),
        ("2001:db8::10", "2001:db8::10/64"),
        ("198.51.100.7", "198.51.100.0/28 delegated"),
    ] {
        let listener = listen(address);
        let (mut client, mut server) = connect(&bed, &listener);
        let udp = bed.host.enter(|| UdpSocket::bind((address, 0)).unwrap());
        bed.host.enter(|| udp.connect(client.local_addr().unwrap()).unwrap());
        daemon.ok(&format!("addr del {line} dev {DEVICE} afnetns a"));
        let ended = server.read(&mut [0]).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionAborted, "{address}");
        // The peer was told.
        let ended = client.read(&mut [0]).unwrap_err();
        assert_eq!(ended.kind(), ErrorKind::ConnectionReset, "{address}");
        assert_eq!(udp.take_error().unwrap().map(|e| e.kind()), Some(ErrorKind::ConnectionAborted));
        assert!(listener.take_error().unwrap().is_none(), "listeners are the program's");
    }
    for (mut client, mut server) in other_streams {
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
    }
    daemon.stop();
}

#[test]
fn the_service_manager_is_told() {
    let bed = bed("notify");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let instance = format!("n{}-{}", std::process::id(), unique());
    let mut command = bed.host.command(binary("afnetd"));
    command.args(["--instance", &instance, "--device", DEVICE]).env("NOTIFY_SOCKET", &path);
    let mut process = Process::spawn(&mut command);
    let mut buffer = [0; 64];
    let mut next = || {
        let n = loop {
            match socket.recv(&mut buffer) {
                // A receive with a time-out is not restarted after a stop.
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                other => break other.unwrap(),
            }
        };
        String::from_utf8_lossy(&buffer[..n]).into_owned()
    };
    assert_eq!(next(), "READY=1");
    assert!(process.try_wait().is_none());
    process.terminate();
    assert_eq!(next(), "STOPPING=1");
}
