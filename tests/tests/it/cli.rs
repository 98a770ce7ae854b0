//! The command line: what it prints, and that every error is clear, non-zero and changes nothing.

use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::{Bed, DEVICE},
    process::Process,
    wait,
};

#[test]
fn compartments_and_addresses_come_and_go() {
    let bed = Bed::new("cli");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add alpha");
    daemon.ok("add beta");
    daemon.ok(&format!("addr add 192.0.2.10/24 dev {DEVICE} afnetns alpha"));
    daemon.ok(&format!("addr add 2001:db8::10/64 dev {DEVICE} afnetns alpha"));
    daemon.ok(&format!("addr add 192.0.2.20/24 dev {DEVICE} vlan 5 afnetns beta"));
    let names: Vec<_> =
        daemon.json("list").as_array().unwrap().iter().map(|entry| entry["name"].clone()).collect();
    assert_eq!(names, ["alpha", "beta"]);
    let text = daemon.ok("addr list");
    for expected in ["192.0.2.10/24", "2001:db8::10/64", "192.0.2.20/24", "alpha", "beta", "vlan 5"] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    let count = |line: &str| daemon.json(line).as_array().unwrap().len();
    assert_eq!(count("addr list"), 3);
    assert_eq!(count("-4 addr list"), 2);
    assert_eq!(count("-6 addr list"), 1);
    assert_eq!(count("addr list afnetns beta"), 1);
    daemon.ok(&format!("addr del 192.0.2.10/24 dev {DEVICE} afnetns alpha"));
    assert!(!bed.host.ip("addr").contains("192.0.2.10"));
    daemon.ok("del beta");
    assert_eq!(count("addr list"), 1);
    assert_eq!(count("list"), 1);
    for line in ["show alpha", "status", "stats", "endpoints", "stats alpha"] {
        daemon.ok(line);
        daemon.json(line);
    }
    daemon.stop();
}

#[test]
fn errors_are_clear_and_change_nothing() {
    let bed = Bed::new("errors");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("b", &[]);
    let state = || (daemon.json("list"), daemon.json("addr list"), bed.host.ip("-br addr"));
    let before = state();
    for (line, expected) in [
        ("add a".to_string(), "a"),
        ("add ../x".into(), "../x"),
        ("del nosuch".into(), "nosuch"),
        ("show nosuch".into(), "nosuch"),
        ("stats nosuch".into(), "nosuch"),
        (format!("addr add 192.0.2.10/24 dev {DEVICE} afnetns b"), "a"),
        (format!("addr add 2001:db8::10/64 dev {DEVICE} afnetns b"), "a"),
        (format!("addr add 192.0.2.30/33 dev {DEVICE} afnetns b"), "33"),
        (format!("addr add 2001:db8::1/129 dev {DEVICE} afnetns b"), "129"),
        (format!("addr add 192.0.2.300/24 dev {DEVICE} afnetns b"), "192.0.2.300"),
        (format!("addr add 192.0.2.30/24 dev {DEVICE} afnetns nosuch"), "nosuch"),
        ("addr add 192.0.2.30/24 dev nosuch0 afnetns b".into(), "nosuch0"),
        ("addr add 192.0.2.30/24 dev lo afnetns b".into(), "lo"),
        (format!("addr add 192.0.2.30/24 dev {DEVICE} vlan 4095 afnetns b"), "4095"),
        (format!("addr add 224.0.0.5/24 dev {DEVICE} afnetns b"), "224.0.0.5"),
        (format!("addr add 0.0.0.0/24 dev {DEVICE} afnetns b"), "0.0.0.0"),
        (format!("addr del 192.0.2.99/24 dev {DEVICE} afnetns b"), "192.0.2.99"),
        ("exec nosuch -- true".into(), "nosuch"),
        ("frobnicate".into(), "frobnicate"),
    ] {
        let error = daemon.fails(&line);
        assert!(error.contains(expected), "afnet {line}: {expected:?} is not in\n{error}");
        assert!(!error.contains("panicked"), "{error}");
        assert_eq!(state(), before, "after afnet {line}");
    }
    daemon.stop();
    let error = daemon.fails("list");
    assert!(error.contains("afnetd"), "without a daemon: {error}");
}

#[test]
fn exec_places_a_process_into_the_compartments_cgroup() {
    let bed = Bed::new("exec");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let cgroups = daemon.ok("exec a -- cat /proc/self/cgroup");
    assert!(cgroups.lines().any(|line| line == "0::/"), "the root of its cgroup namespace: {cgroups}");
    let mut sleeper = daemon.netns().command(binary("afnet"));
    let sleeper =
        Process::spawn(sleeper.args(["--instance", daemon.instance(), "exec", "a", "--", "sleep", "1000"]));
    let cgroup = || std::fs::read_to_string(format!("/proc/{}/cgroup", sleeper.id())).unwrap();
    let want = format!("0::/afnet-{}/a", daemon.instance());
    wait::until_true("it to be in the cgroup", || cgroup().lines().any(|line| line == want));
    drop(sleeper);
    assert_eq!(daemon.afnet("exec a -- sh -c exit${IFS}7").status.code(), Some(7));
    daemon.stop();
}

#[test]
fn hostile_lines_on_the_control_socket_do_no_harm() {
    let bed = Bed::new("lines");
    let mut daemon = Afnetd::start(&bed);
    for line in [
        &b"{"[..],
        b"null",
        b"{\"op\":\"nonsense\"}",
        b"{\"op\":\"add\"}",
        b"\xff\xfe\x00",
        b"{\"op\":\"hello\",\"version\":99}",
        b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
        &[b'x'; 2 << 20],
    ] {
        let mut connection = daemon.connect();
        connection.send(line);
        let reply = connection.line();
        assert!(reply.is_empty() || reply.contains("error"), "{reply}");
    }
    daemon.add_compartment("alive", &[]);
    daemon.stop();
}
