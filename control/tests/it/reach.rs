//! Tenants that have left the file system, or their user, behind reach the daemon by its abstract name.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use afnet_tests::afnetd::Afnetd;
use afnet_tests::inside::Inside;
use serde_json::json;

use crate::bed;

#[test]
fn a_tenant_in_a_root_of_its_own_finds_the_daemon() {
    let bed = bed("chroot");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let inside = Inside::start(&daemon, "a");
    let dir = tempfile::tempdir().unwrap();
    inside.run("import os, struct");
    inside.run(&format!("os.chroot({:?}); os.chdir('/')", dir.path().to_str().unwrap()));
    inside.run("os.setgroups([]); os.setgid(65534); os.setuid(65534)");
    assert_eq!(inside.run("Tenant()"), json!("ENOENT"), "there is no path to the daemon");
    inside.run(&format!("t = Tenant('\\0afnet/{}')", daemon.instance()));
    assert_eq!(inside.run("t.claim(udp('0.0.0.0', 5353))"), json!(5353));
    // Who it is at the other end can be seen, and what one may do is what one might by the path.
    let uid = "struct.unpack('3i', t.stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]";
    assert_eq!(inside.run(uid), json!(0));
    for request in ["{'op': 'add', 'name': 'c'}", "{'op': 'cgroup', 'name': 'a'}"] {
        assert_eq!(inside.run(&format!("t.ask({request})")), json!("EPERM"));
    }
    daemon.stop();
}

#[test]
fn a_name_that_is_taken_keeps_nobody_from_starting() {
    let bed = bed("taken");
    let mut daemon = Afnetd::start(&bed);
    daemon.stop();
    let address = SocketAddr::from_abstract_name(format!("afnet/{}", daemon.instance())).unwrap();
    let squatter =
        bed.host.enter(|| UnixListener::bind_addr(&address).expect("free when the daemon has ended"));
    daemon.restart();
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let inside = Inside::start(&daemon, "a");
    inside.run("t = Tenant()");
    let log = daemon.stop();
    assert!(log.contains(&format!("@afnet/{}", daemon.instance())), "{log}");
    drop(squatter);
}
