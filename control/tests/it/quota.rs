//! The number of sockets that a compartment may have: held by the kernel path's programs, with and without a daemon.

use afnet_tests::afnetd::Afnetd;
use afnet_tests::inside::Inside;
use afnet_tests::wait;
use serde_json::{Value, json};

use crate::bed;

/// Opens this many UDP sockets and keeps them in `held`; the last value is what the first refused one said.
fn open(inside: &Inside, count: usize) -> Value {
    inside.run("held = globals().get('held', [])");
    inside.run(&format!("[held.append(udp('0.0.0.0')) for _ in range({count})] and None"))
}

#[test]
fn sockets_of_a_compartment_are_limited() {
    let bed = bed("quota");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("b", &["192.0.2.11/24"]);
    daemon.ok("set a --sockets 5");
    assert!(daemon.ok("list").contains("a id 1 addresses 2 endpoints 0 sockets 5"));
    let count = |daemon: &Afnetd<'_>| daemon.counter("a", "sockets");
    let (a, b) = (Inside::start(&daemon, "a"), Inside::start(&daemon, "b"));
    assert_eq!((open(&a, 5), count(&daemon)), (Value::Null, 5));
    // Whichever kind, and whichever process; others and the host have theirs.
    for kind in [
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
        "socket.socket(socket.AF_INET6, socket.SOCK_STREAM)",
    ] {
        assert_eq!(a.run(kind), json!("ENOBUFS"), "{kind}");
    }
    let second = Inside::start(&daemon, "a");
    assert_eq!(open(&second, 1), json!("ENOBUFS"));
    assert_eq!(open(&b, 10), Value::Null);
    assert_eq!((count(&daemon), daemon.counter("a", "refused_quota")), (5, 5));
    // What is closed is given back at once; refused ones took nothing, nor do those of other families.
    a.run("held.pop().close(); held.pop().close()");
    assert_eq!((open(&second, 2), count(&daemon)), (Value::Null, 5));
    a.run("keep.append(socket.socketpair())");
    a.run("import os; child = os.fork() or os._exit(0); os.waitpid(child, 0)");
    assert_eq!(count(&daemon), 5, "a child's copies are no sockets of their own");
    // Connections that a listener accepts take no port, and are not counted.
    second.run("[s.close() for s in held]; held.clear(); l = socket.create_server(('192.0.2.10', 80))");
    let client = bed.peer.enter(|| std::net::TcpStream::connect("192.0.2.10:80").unwrap());
    let more = bed.peer.enter(|| std::net::TcpStream::connect("192.0.2.10:80").unwrap());
    second.run("keep += [l.accept()[0], l.accept()[0]]");
    assert_eq!(count(&daemon), 4);
    second.run("[s.close() for s in keep]");
    assert_eq!(count(&daemon), 4);
    drop((client, more));
    // Killed, it gives all back.
    let mut second = second;
    second.process().kill();
    wait::until_true("the sockets to be gone", || count(&daemon) == 3);
    // A change holds at once, for what is made then; 0 is no limit.
    daemon.ok("set a --sockets 2");
    assert_eq!((open(&a, 1), count(&daemon)), (json!("ENOBUFS"), 3));
    daemon.ok("set a --sockets 0");
    assert_eq!((open(&a, 20), count(&daemon)), (Value::Null, 23));
    drop((a, b));
    for name in ["a", "b"] {
        daemon.ok(&format!("del {name} --force"));
    }
    daemon.stop();
}

#[test]
fn the_limit_outlives_the_daemon() {
    let bed = bed("quotakill");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    daemon.ok("set a --sockets 5");
    let a = Inside::start(&daemon, "a");
    assert_eq!(open(&a, 3), Value::Null);
    daemon.kill();
    assert_eq!(open(&a, 3), json!("ENOBUFS"));
    a.run("held.pop().close()");
    daemon.restart();
    assert_eq!(daemon.counter("a", "sockets"), 4);
    assert_eq!(open(&a, 2), json!("ENOBUFS"));
    a.run("[s.close() for s in held]; held.clear()");
    assert_eq!(daemon.counter("a", "sockets"), 0);
    // A new compartment of the name starts anew, whatever is left of the former one.
    assert_eq!(open(&a, 5), Value::Null);
    let kept = a.socket("held[0]");
    daemon.ok("del a --force");
    wait::until_true("the name to be free", || daemon.afnet("add a --sockets 2").status.success());
    daemon.add_address("a", "192.0.2.10/24", |_| ());
    let a = Inside::start(&daemon, "a");
    assert_eq!(open(&a, 2), Value::Null);
    drop(kept);
    assert_eq!((open(&a, 1), daemon.counter("a", "sockets")), (json!("ENOBUFS"), 2));
    drop(a);
    daemon.ok("del a --force");
    daemon.stop();
}
