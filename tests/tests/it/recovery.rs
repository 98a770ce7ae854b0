//! Tenants and daemons that are killed.

use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::{Bed, PEER_V4, PEER_V6},
    process::Process,
    wait,
};

use crate::client::{Tenant, ask_until_answered, at};

/// The echo example as a process of its own.
fn echo(daemon: &Afnetd<'_>, compartment: &str) -> Process {
    let mut command = daemon.netns().command(binary("examples/echo"));
    command.args(["--instance", daemon.instance(), "--compartment", compartment]);
    let mut process = Process::spawn(&mut command);
    process.wait_for_output("ready");
    process
}

/// Mappings of tenants' memory in the daemon.
fn mappings(daemon: &mut Afnetd<'_>) -> usize {
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.process().id())).expect("maps");
    maps.lines().filter(|line| line.contains("memfd:")).count()
}

#[test]
fn a_killed_tenant_leaves_nothing() {
    let bed = Bed::new("tenantkill");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let before = mappings(&mut daemon);
    for _ in 0..3 {
        let mut tenant = echo(&daemon, "red");
        ask_until_answered(&bed.peer_socket(PEER_V4), at("192.0.2.10", 7));
        assert!(mappings(&mut daemon) > before);
        tenant.kill();
        let freed = wait::within(wait::PATIENCE / 5, || {
            let endpoints = daemon.json("endpoints");
            (endpoints.as_array().is_some_and(Vec::is_empty) && mappings(&mut daemon) == before).then_some(())
        });
        assert!(freed.is_some(), "{}", daemon.ok("endpoints"));
    }
    // Its port is free, in the kernel too.
    let tenant = Tenant::claiming(&daemon, "red", 7);
    drop(tenant);
    daemon.stop();
}

#[test]
fn a_tenant_outlives_the_daemon() {
    let bed = Bed::new("daemonkill");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let mut tenant = echo(&daemon, "red");
    let (four, six) = (bed.peer_socket(PEER_V4), bed.peer_socket(PEER_V6));
    let targets = [(&four, at("192.0.2.10", 7)), (&six, at("2001:db8::10", 7))];
    for round in 0..2 {
        targets.iter().for_each(|(socket, to)| ask_until_answered(socket, *to));
        assert!(daemon.counter("red", "rx_delivered") >= 2, "round {round}");
        daemon.kill();
        // By the kernel's sockets of the claim, though the XDP program still stands.
        targets.iter().for_each(|(socket, to)| ask_until_answered(socket, *to));
        daemon.restart();
        wait::until_true("the tenant to attach again", || {
            daemon.json("endpoints").as_array().is_some_and(|all| {
                all.len() == 1 && all[0]["claims"].as_array().is_some_and(|claims| claims.len() == 1)
            })
        });
    }
    targets.iter().for_each(|(socket, to)| ask_until_answered(socket, *to));
    assert!(daemon.counter("red", "rx_delivered") >= 2);
    assert!(tenant.try_wait().is_none(), "{}", tenant.output());
    drop(tenant);
    daemon.stop();
}
