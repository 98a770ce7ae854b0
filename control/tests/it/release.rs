//! Sockets of a compartment as proof of their ports, and what becomes of claims when they are closed.

use std::os::fd::AsFd;

use abi::control::Request;
use afnet_abi as abi;
use afnet_tests::afnetd::Afnetd;
use afnet_tests::inside::Inside;
use afnet_tests::wait;
use serde_json::{Value, json};

use crate::bed;
use crate::tenant::Tenant;

/// State and number of claims of the only endpoint.
fn state(daemon: &Afnetd<'_>) -> (String, usize) {
    let all = daemon.json("endpoints");
    let one = &all[0];
    (one["state"].as_str().unwrap_or("?").to_owned(), one["claims"].as_array().map_or(0, Vec::len))
}

fn plain(daemon: &Afnetd<'_>) -> bool {
    state(daemon) == ("plain".to_owned(), 0)
}

#[test]
fn one_socket_proves_what_its_program_has_asked_for() {
    let bed = bed("oneproof");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64"]);
    let inside = Inside::start(&daemon, "a");
    inside.run("t = Tenant()");
    let four = "address='192.0.2.10'";
    let second = "address='192.0.2.11'";
    let six = "address='2001:db8::10'";
    for (socket, claim, want) in [
        ("udp('0.0.0.0')", "", "EACCES"),
        ("udp('0.0.0.0')", four, "ok"),
        ("udp('0.0.0.0')", second, "ok"),
        ("udp('0.0.0.0')", six, "EACCES"),
        ("udp('0.0.0.0')", "family=4", "ok"),
        ("udp('0.0.0.0')", "family=6", "EACCES"),
        ("udp('::')", "family=4", "ok"),
        ("udp('::', v6only=True)", "family=6", "ok"),
        ("udp('192.0.2.10')", "family=4", "EACCES"),
        ("udp('192.0.2.10')", "family=5", "EINVAL"),
        ("udp('192.0.2.10')", "family=4, address='192.0.2.10'", "EINVAL"),
        ("udp('::')", "", "ok"),
        ("udp('::')", second, "ok"),
        ("udp('::')", six, "ok"),
        ("udp('::', v6only=True)", "", "EACCES"),
        ("udp('::', v6only=True)", four, "EACCES"),
        ("udp('::', v6only=True)", six, "ok"),
        ("udp('::', 5353, reuseaddr=True)", "", "ok"),
        ("udp('::', 5353, reuseport=True)", "", "ok"),
        ("udp('0.0.0.0', 5353, reuseaddr=True, reuseport=True)", four, "ok"),
        ("udp('192.0.2.11', 5353)", second, "ok"),
        ("udp('192.0.2.11')", four, "EACCES"),
        ("udp('192.0.2.11')", "", "EACCES"),
        ("udp('::ffff:192.0.2.11', 5353)", second, "ok"),
        ("udp('2001:db8::10')", six, "ok"),
        ("udp('2001:db8::10')", four, "EACCES"),
        // Without bind(): at the address that it was connected from.
        ("connected('192.0.2.2', 9)", four, "ok"),
        ("connected('192.0.2.2', 9)", second, "EACCES"),
        ("connected('192.0.2.2', 9)", "", "EACCES"),
        ("connected('2001:db8::2', 9)", six, "ok"),
        ("sent('192.0.2.2', 9)", "family=4", "ok"),
        ("sent('192.0.2.2', 9)", "", "EACCES"),
        ("sent('2001:db8::2', 9)", "family=6", "ok"),
        // The loopback is none of its addresses.
        ("udp('127.0.0.1')", four, "EACCES"),
        ("udp('127.0.0.1')", "", "EACCES"),
        ("udp('127.0.0.1')", "address='198.51.100.1'", "EADDRNOTAVAIL"),
    ] {
        let got = inside.run(&format!("t.tried({socket}, {claim})"));
        assert_eq!(got, json!(want), "{socket} for {claim:?}");
    }
    // One socket for each address, together.
    inside.run("s = [udp(a, 77) for a in ('192.0.2.10', '192.0.2.11', '2001:db8::10')]");
    assert_eq!(inside.run("t.tried(*s[:2])"), json!("EACCES"));
    assert_eq!(inside.run("t.tried(*s)"), json!("ok"));
    // A port that the socket does not have, and after a connection that was made and dissolved: none.
    assert_eq!(inside.run("t.tried(*s, port=78)"), json!("EBADF"));
    inside.run("c = connected('192.0.2.2', 9)");
    inside.run("import ctypes; ctypes.CDLL(None).connect(c.fileno(), bytes(16), 16)");
    assert_eq!(inside.run(&format!("t.tried(c, {four})")), json!("EBADF"));
    // Bound to all addresses, connected, and still it is the port's owner.
    inside.run("w = udp('::', 79); w.connect(('2001:db8::2', 9))");
    assert_eq!(inside.run("t.tried(w)"), json!("ok"));
    daemon.stop();
}

#[test]
fn a_closed_socket_takes_its_claim_along() {
    let bed = bed("closed");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    let inside = Inside::start(&daemon, "a");
    inside.run("t = Tenant()");
    for socket in
        ["udp('::', 53)", "udp('192.0.2.10', 53)", "udp('::', 53, v6only=True)", "udp('0.0.0.0', 53)"]
    {
        let address = if socket.contains("::") { "2001:db8::10" } else { "192.0.2.10" };
        inside.run(&format!("s = {socket}"));
        assert_eq!(inside.run(&format!("t.claim(s, address='{address}')")), json!(53), "{socket}");
        assert_eq!(state(&daemon), ("fast".to_owned(), 1));
        // Another descriptor of it keeps it.
        inside.run("d = s.dup(); s.close()");
        assert_eq!(inside.run(&format!("t.claim(d, address='{address}')")), json!("EADDRINUSE"));
        inside.run("d.close()");
        wait::until_true("the claim to go", || plain(&daemon));
    }
    // Closed, bound and claimed again at once: afnetd keeps nothing that is in the way.
    let again = "[(s := udp('::', 53), t.claim(s), s.close())[1] for _ in range(50)]";
    assert_eq!(inside.run(again), Value::from(vec![53; 50]));
    wait::until_true("the claim to go", || plain(&daemon));
    // What two claims stand on takes both along; what one of several sockets proved goes with it.
    inside.run("s = udp('::', 54)");
    inside.run("t.claim(s, address='192.0.2.10'), t.claim(s, address='2001:db8::10')");
    assert_eq!(state(&daemon).1, 2);
    inside.run("s.close()");
    wait::until_true("both claims to go", || plain(&daemon));
    inside.run("s = [udp(a, 55) for a in ('192.0.2.10', '2001:db8::10')]; t.claim(*s)");
    assert_eq!(state(&daemon).1, 1);
    inside.run("s[1].close()");
    wait::until_true("the claim to go", || plain(&daemon));
    // One that was given back before is nobody's.
    inside.run("s = udp('::', 56); t.claim(s); t.unclaim(56); s.close()");
    inside.run("s = udp('::', 56)");
    assert_eq!(inside.run("t.claim(s)"), json!(56));
    assert_eq!(state(&daemon).1, 1);
    daemon.stop();
}

#[test]
fn a_child_keeps_what_its_parent_has_closed() {
    let bed = bed("child");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let inside = Inside::start(&daemon, "a");
    inside.run("t = Tenant(); s = udp('0.0.0.0', 53); t.claim(s)");
    inside.run("import os, signal; child = os.fork() or (signal.pause(), os._exit(0))");
    inside.run("s.close()");
    // The release would have been told before this is answered.
    assert_eq!(inside.run("t.unclaim(99)"), json!("ENOENT"));
    assert_eq!(state(&daemon).1, 1);
    inside.run("os.kill(child, signal.SIGKILL); os.waitpid(child, 0)");
    wait::until_true("the claim to go", || plain(&daemon));
    daemon.stop();
}

#[test]
fn nobody_proves_a_port_by_a_socket_from_elsewhere() {
    let bed = bed("elsewhere");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    daemon.add_compartment("b", &["192.0.2.11/24"]);
    let (a, b) = (Inside::start(&daemon, "a"), Inside::start(&daemon, "b"));
    a.run("t = Tenant()");
    // A server of somebody else in the compartment.
    a.run("victim = udp('0.0.0.0', 53)");
    // Bound to all addresses: of another compartment, of the host; and to this one's address, by the host.
    let other = b.socket("udp('0.0.0.0', 53)");
    let host = bed.host.enter(|| std::net::UdpSocket::bind("0.0.0.0:53").unwrap());
    let exact = bed.host.enter(|| std::net::UdpSocket::bind("192.0.2.10:77").unwrap());
    for socket in [other.as_fd(), host.as_fd(), exact.as_fd()] {
        for claim in ["t.tried(*given)", "t.tried(*given, address='192.0.2.10')"] {
            assert_eq!(a.run_with(claim, &[socket]), json!("EBADF"), "{claim}");
        }
    }
    // Sharing is the kernel's to allow, and it does not.
    assert_eq!(a.run("udp('0.0.0.0', 53, reuseaddr=True, reuseport=True)"), json!("EADDRINUSE"));
    assert_eq!(a.run("udp('192.0.2.10', 53, reuseaddr=True)"), json!("EADDRINUSE"));
    assert!(daemon.json("endpoints")[0]["claims"].as_array().unwrap().is_empty());
    // Whom an administrator has attached may use the host's sockets, but not those of other compartments.
    let mut admin = Tenant::attach(&daemon, "a", abi::control::EndpointKind::Udp);
    assert_eq!(admin.claim(53, 1, &[&other]).unwrap_err(), "EBADF");
    assert_eq!(admin.claim(77, 1, &[&exact]), Ok(77));
    // A socket of a compartment that was removed proves nothing in its successor.
    let former = a.socket("udp('0.0.0.0', 99)");
    drop((a, admin, exact));
    daemon.ok("del a --force");
    wait::until_true("the name to be free", || daemon.afnet("add a").status.success());
    daemon.add_address("a", "192.0.2.10/24", |_| ());
    let mut admin = Tenant::attach(&daemon, "a", abi::control::EndpointKind::Udp);
    assert_eq!(admin.claim(99, 1, &[&former]).unwrap_err(), "EBADF");
    assert_eq!(admin.ask(&Request::List {}).map(|_| ()), Ok(()));
    drop(former);
    daemon.stop();
}
