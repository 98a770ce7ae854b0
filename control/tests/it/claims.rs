//! Attaching and claiming: proofs, conflicts, permissions, and the end of a tenant.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use afnet_abi::control::{Answer, EndpointKind, Request};
use afnet_tests::afnetd::Afnetd;
use afnet_tests::bed::Bed;
use afnet_tests::wait;

use crate::bed;
use crate::tenant::{Tenant, unclaim};

const UDP: EndpointKind = EndpointKind::Udp;

/// A UDP socket in the daemon's namespace.
fn bound(bed: &Bed, address: &str) -> UdpSocket {
    bed.host.enter(|| UdpSocket::bind(address).unwrap())
}

#[test]
fn a_claim_needs_a_bound_socket_for_each_address_of_the_kernel() {
    let bed = bed("proof");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_address("a", "192.0.2.11/24", |spec| spec.fast_only = true);
    let mut tenant = Tenant::attach(&daemon, "a", UDP);
    let (v4, v6) = (bound(&bed, "192.0.2.10:53"), bound(&bed, "[2001:db8::10]:53"));
    let stranger = bound(&bed, "192.0.2.1:53");
    let other_port = bound(&bed, "192.0.2.10:54");
    let tcp = bed.host.enter(|| TcpListener::bind("192.0.2.10:53").unwrap());
    let file = std::fs::File::open("/dev/null").unwrap();
    let foreign = bed.peer.enter(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    assert_eq!(tenant.claim(53, 1, &[]).unwrap_err(), "EACCES");
    assert_eq!(tenant.claim(53, 1, &[&v4]).unwrap_err(), "EACCES", "the IPv6 address is missing");
    assert_eq!(tenant.claim(53, 1, &[&stranger, &v6]).unwrap_err(), "EACCES");
    assert_eq!(tenant.claim(53, 1, &[&v4, &v6, &other_port]).unwrap_err(), "EBADF");
    assert_eq!(tenant.claim(53, 1, &[&tcp, &v6]).unwrap_err(), "EBADF");
    assert_eq!(tenant.claim(53, 1, &[&file]).unwrap_err(), "ENOTSOCK");
    assert_eq!(tenant.claim(53, 1, &[&foreign, &v6]).unwrap_err(), "EBADF");
    assert!(daemon.json("endpoints")[0]["claims"].as_array().unwrap().is_empty(), "nothing was left behind");
    assert_eq!(tenant.claim(53, 1, &[&v4, &v6]), Ok(53));
    // The sockets' own port, and a wildcard.
    let any = bound(&bed, "[::]:0");
    assert_eq!(tenant.claim(0, 1, &[&any]), Ok(any.local_addr().unwrap().port()));
    assert_eq!(daemon.json("endpoints")[0]["claims"].as_array().unwrap().len(), 2);
    // The daemon holds them: nobody else gets the port while the claim stands.
    drop((v4, v6));
    bed.host.enter(|| assert!(UdpSocket::bind("192.0.2.10:53").is_err()));
    tenant.ask(&unclaim(53)).unwrap();
    bed.host.enter(|| UdpSocket::bind("192.0.2.10:53").unwrap());
    daemon.stop();
}

#[test]
fn one_registry_for_a_compartment() {
    let bed = bed("registry");
    let mut daemon = Afnetd::start(&bed);
    for (name, address) in [("a", "192.0.2.10/24"), ("b", "192.0.2.11/24")] {
        daemon.add_compartment(name, &[]);
        daemon.add_address(name, address, |spec| spec.fast_only = true);
    }
    let mut first = Tenant::attach(&daemon, "a", UDP);
    let mut second = Tenant::attach(&daemon, "a", UDP);
    let mut other = Tenant::attach(&daemon, "b", UDP);
    assert_eq!(first.claim(1000, 100, &[]), Ok(1000));
    assert_eq!(second.claim(1099, 1, &[]).unwrap_err(), "EADDRINUSE");
    assert_eq!(second.claim(900, 101, &[]).unwrap_err(), "EADDRINUSE");
    assert_eq!(other.claim(1099, 1, &[]), Ok(1099), "another compartment");
    for (port, count) in [(0, 2), (65535, 2), (5, 0)] {
        assert_eq!(second.claim(port, count, &[]).unwrap_err(), "EINVAL", "{port} {count}");
    }
    let chosen = second.claim(0, 1, &[]).unwrap();
    assert!(chosen >= 1024);
    let foreign = Request::Claim {
        port: 9,
        count: 1,
        address: Some("192.0.2.11".parse().unwrap()),
        family: None,
        shared: false,
    };
    assert_eq!(second.ask(&foreign).unwrap_err().code, "EADDRNOTAVAIL");
    assert_eq!(second.ask(&unclaim(1000)).unwrap_err().code, "ENOENT");
    assert_eq!(Tenant::connect(&daemon).claim(1, 1, &[]).unwrap_err(), "ENOTCONN");
    let again = Request::Attach { kind: UDP, name: Some("a".to_owned()), rx_len: None, tx_len: None };
    assert_eq!(first.ask(&again).unwrap_err().code, "EEXIST");
    let odd = Request::Attach { kind: UDP, name: Some("a".to_owned()), rx_len: Some(1000), tx_len: None };
    assert_eq!(Tenant::connect(&daemon).ask(&odd).unwrap_err().code, "EINVAL");
    // A raw endpoint has everything, and there is one.
    let mut raw = Tenant::attach(&daemon, "b", EndpointKind::Raw);
    assert_eq!(raw.claim(1, 1, &[]).unwrap_err(), "EOPNOTSUPP");
    let more =
        Request::Attach { kind: EndpointKind::Raw, name: Some("b".to_owned()), rx_len: None, tx_len: None };
    assert_eq!(Tenant::connect(&daemon).ask(&more).unwrap_err().code, "EEXIST");
    daemon.stop();
}

#[test]
fn what_a_tenant_had_is_free_as_soon_as_it_is_gone() {
    let bed = bed("gone");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &[]);
    daemon.add_address("a", "192.0.2.10/24", |spec| spec.fast_only = true);
    let mut longest = Duration::ZERO;
    for _ in 0..5 {
        let mut tenant = Tenant::attach(&daemon, "a", UDP);
        tenant.claim(7, 1, &[]).unwrap();
        let start = Instant::now();
        drop(tenant);
        wait::until_true("the claim to be free", || daemon.json("endpoints").as_array().unwrap().is_empty());
        longest = longest.max(start.elapsed());
    }
    assert!(longest < Duration::from_secs(1), "{longest:?}");
    // The compartment goes while a tenant is attached: it hears of it.
    let mut tenant = Tenant::attach(&daemon, "a", UDP);
    daemon.ok("del a");
    wait::until_true("the endpoint to end", || daemon.json("endpoints").as_array().unwrap().is_empty());
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tenant.claim(7, 1, &[])));
    assert!(!matches!(ended, Ok(Ok(_))), "no claim without a compartment");
    daemon.stop();
}

#[test]
fn an_endpoint_says_whether_it_is_fast_and_why_not() {
    let bed = bed("note");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &[]);
    daemon.add_address("a", "192.0.2.10/24", |spec| spec.fast_only = true);
    let mut tenant = Tenant::attach(&daemon, "a", UDP);
    let shown = |daemon: &Afnetd<'_>| daemon.json("endpoints a")[0].clone();
    let first = shown(&daemon);
    assert_eq!((&first["state"], &first["note"], &first["rx"]), (&"plain".into(), &"".into(), &0.into()));
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    assert_eq!(first["command"], comm.trim_end());
    tenant.claim(7, 1, &[]).unwrap();
    let note = |text: &str| Request::Note { text: text.to_owned() };
    tenant.ask(&note("UDP server")).unwrap();
    let fast = shown(&daemon);
    assert_eq!((&fast["state"], &fast["note"]), (&"fast".into(), &"UDP server".into()));
    assert!(daemon.ok("endpoints").contains("state fast rx 0 tx 0 port 7 note UDP server"));
    // Nothing that would disturb a terminal, or fill the daemon's memory.
    for bad in ["two\nlines", "\u{1b}[2J", &"x".repeat(201)] {
        assert_eq!(tenant.ask(&note(bad)).unwrap_err().code, "EINVAL", "{bad:?}");
        let unclaim = Request::Unclaim { port: 7, address: None, family: None, reason: Some(bad.to_owned()) };
        assert_eq!(tenant.ask(&unclaim).unwrap_err().code, "EINVAL", "{bad:?}");
    }
    assert_eq!(shown(&daemon), fast, "what is refused changes nothing");
    let reason = Some("SCM_RIGHTS: passed on".to_owned());
    tenant.ask(&Request::Unclaim { port: 7, address: None, family: None, reason }).unwrap();
    let plain = shown(&daemon);
    assert_eq!((&plain["state"], &plain["note"]), (&"plain".into(), &"SCM_RIGHTS: passed on".into()));
    assert_eq!(Tenant::connect(&daemon).ask(&note("x")).unwrap_err().code, "ENOTCONN");
    daemon.stop();
}

/// Attaches without naming a compartment and prints the reply.
pub const ATTACH: &str = r#"
import socket, sys, json
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile()
for line in ['{"op":"hello","version":1}'] + sys.argv[2:]:
    s.sendall(line.encode() + b"\n"); print(f.readline().strip())
"#;

#[test]
fn a_process_may_attach_to_the_compartment_it_lives_in() {
    let bed = bed("auth");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    daemon.add_compartment("b", &["192.0.2.11/24"]);
    let socket = daemon.socket_path().display().to_string();
    let attach = r#"{"op":"attach","kind":"udp"}"#;
    let name_b = r#"{"op":"attach","kind":"udp","name":"b"}"#;
    let as_nobody = |inside: bool, requests: &[&str]| {
        let mut command =
            bed.host.command(if inside { afnet_tests::afnetd::binary("afnet") } else { "env".into() });
        if inside {
            command.args(["--instance", daemon.instance(), "exec", "a", "--"]);
        }
        let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        command.arg("setpriv").args(ids).args(["/usr/bin/python3", "-c", ATTACH, &socket]).args(requests);
        let output = command.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let inside = as_nobody(true, &[attach]);
    assert!(inside.contains(r#""attached""#) && inside.contains(r#""name":"a""#), "{inside}");
    let outside = as_nobody(false, &[attach]);
    assert!(outside.contains("EPERM") && outside.contains("afnet exec"), "{outside}");
    for (inside, request) in [
        (true, name_b),
        (true, r#"{"op":"add","name":"c"}"#),
        (true, r#"{"op":"del","name":"a"}"#),
        (
            true,
            r#"{"op":"addr-add","name":"a","address":{"address":"192.0.2.9","prefix_len":24,"dev":"dev0"}}"#,
        ),
        (false, r#"{"op":"cgroup","name":"a"}"#),
        (false, name_b),
    ] {
        let refused = as_nobody(inside, &[request]);
        assert!(refused.contains("EPERM"), "{request}: {refused}");
    }
    assert_eq!(daemon.json("list").as_array().unwrap().len(), 2);
    daemon.stop();
}

#[test]
fn what_happens_is_told_to_monitors() {
    let bed = bed("monitor");
    let mut daemon = Afnetd::start(&bed);
    let mut monitor = daemon.connect();
    assert_eq!(monitor.request(&Request::Monitor {}), Ok(Answer::Done));
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let tenant = Tenant::attach(&daemon, "a", UDP);
    drop(tenant);
    for expected in
        [r#""event":"added""#, r#""event":"address""#, r#""event":"attached""#, r#""reason":"closed""#]
    {
        let line = monitor.line();
        assert!(line.contains(expected), "{expected}: {line}");
    }
    daemon.ok("del a");
    for expected in [r#""event":"address-deleted""#, r#""event":"deleted""#] {
        let line = monitor.line();
        assert!(line.contains(expected), "{expected}: {line}");
    }
    // A file that nobody asked for is closed with the connection, not kept.
    let mut hoarder = Tenant::connect(&daemon);
    let file = std::fs::File::open("/dev/null").unwrap();
    hoarder.ask_with(&Request::List {}, &[file.as_fd(); 60]).unwrap();
    let open = |daemon: &mut Afnetd<'_>| {
        std::fs::read_dir(format!("/proc/{}/fd", daemon.process().id())).unwrap().count()
    };
    let before = open(&mut daemon);
    drop(hoarder);
    wait::until_true("the files to be closed", || open(&mut daemon) <= before - 60);
    daemon.stop();
}
