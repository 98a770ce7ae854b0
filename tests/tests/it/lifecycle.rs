//! Start, end, death and return of the daemon.

use afnet_abi::control::{Answer, Request};
use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::{Bed, DEVICE, PEER},
    process::Process,
};

#[test]
fn sigterm_leaves_nothing_behind() {
    let bed = Bed::new("term");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    let Answer::Cgroup { path } = daemon.request(&Request::Cgroup { name: "a".into() }) else { panic!() };
    assert!(std::fs::exists(&path).unwrap());
    assert!(bed.host.ip("addr").contains("192.0.2.10/32"));
    // `stop` compares links, XDP programs, addresses, routes, rules, qdiscs and directories with those before.
    daemon.stop();
    assert!(!std::fs::exists(&path).unwrap());
    assert!(!bed.peer.attempt(&format!("arping -c 1 -w 1 -i {PEER} 192.0.2.10")).0);
}

#[test]
fn after_sigkill_the_next_start_takes_over_and_the_kernel_path_never_stops() {
    let bed = Bed::new("kill");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_address("a", "192.0.2.64/28", |spec| spec.delegated = true);
    let state = (daemon.json("list"), daemon.json("addr list"));
    bed.peer.run("ping -c 1 -W 5 192.0.2.10");

    // 100 echo requests a second through death, absence and return: not one may be lost.
    let mut ping = bed.peer.spawn("ping -q -i 0.01 -W 2 192.0.2.10");
    daemon.kill();
    // The addresses are still answered for, by the program that stayed attached.
    assert!(bed.peer.attempt(&format!("arping -c 1 -w 2 -i {PEER} 192.0.2.10")).0);
    daemon.restart();
    assert_eq!((daemon.json("list"), daemon.json("addr list")), state);
    ping.signal(rustix::process::Signal::INT);
    let status = ping.wait();
    let output = ping.output();
    assert!(status.success() && output.contains(" 0% packet loss"), "{output}");
    assert!(bed.peer.attempt(&format!("arping -c 1 -w 2 -i {PEER} 192.0.2.70")).0);
    daemon.stop();
}

#[test]
fn a_second_daemon_on_a_device_is_refused() {
    let bed = Bed::new("second");
    let mut daemon = Afnetd::start(&bed);
    for instance in [format!("{}-other", daemon.instance()), daemon.instance().to_string()] {
        let mut command = bed.host.command(binary("afnetd"));
        let mut second = Process::spawn(command.args(["--instance", &instance, "--device", DEVICE]));
        assert!(!second.wait().success());
        let output = second.output();
        assert!(output.contains(DEVICE) || output.contains("instance"), "{output}");
        assert!(!output.contains("panicked"), "{output}");
    }
    // The first one is not disturbed.
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    bed.peer.run("ping -c 1 -W 5 192.0.2.10");
    daemon.stop();
}

#[test]
fn start_fails_with_a_reason_and_leaves_nothing() {
    let bed = Bed::new("refuse");
    let before = bed.host.ip("-br addr");
    for (arguments, expected) in [
        (&["--device", "nosuch0"][..], "nosuch0"),
        (&["--device", "lo"], "lo"),
        (&["--config", "/nonexistent/afnetd.toml"], "/nonexistent/afnetd.toml"),
    ] {
        let instance = format!("t{}-refused", std::process::id());
        let mut command = bed.host.command(binary("afnetd"));
        let mut process = Process::spawn(command.args(["--instance", &instance]).args(arguments));
        assert!(!process.wait().success());
        assert!(process.output().contains(expected), "{}", process.output());
        assert!(!std::fs::exists(format!("/sys/fs/bpf/afnet-{instance}")).unwrap());
        assert!(!std::fs::exists(format!("/run/afnet-{instance}/afnetd.sock")).unwrap());
    }
    assert_eq!(bed.host.ip("-br addr"), before);
}

#[test]
fn without_privileges_it_says_so() {
    let bed = Bed::new("unprivileged");
    let mut command = bed.host.command("setpriv");
    command.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]);
    // The build directory may be closed to others; the dynamic loader opens the file as the caller.
    let public = std::env::temp_dir().join(format!("{}-afnetd", bed.host.name()));
    std::fs::copy(binary("afnetd"), &public).unwrap();
    let mut process =
        Process::spawn(command.arg(&public).args(["--instance", "unprivileged", "--device", DEVICE]));
    let status = process.wait();
    std::fs::remove_file(&public).unwrap();
    assert!(!status.success());
    let output = process.output();
    assert!(output.contains("CAP_") || output.contains("root"), "{output}");
}
