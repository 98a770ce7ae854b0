//! The kernel path at a glance: unmodified programs of two compartments and the host on one port, through death and
//! return of the daemon. Each corner of it is compared with the kernel's own behaviour in `tests/confine`.

use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::Bed,
    netns::Netns,
    process::Process,
    wait,
};

/// Answers on TCP and UDP port 80 of all its addresses, over both families, with its name.
const SERVER: &str = "
import socket, sys, threading
name = sys.argv[1].encode()
tcp = socket.socket(socket.AF_INET6); tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
tcp.bind(('::', 80)); tcp.listen()
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.bind(('::', 80))
assert tcp.getsockname()[:2] == udp.getsockname()[:2] == ('::', 80)
def datagrams():
    while True:
        _, peer = udp.recvfrom(100)
        udp.sendto(name, peer)
threading.Thread(target=datagrams, daemon=True).start()
print('ready')
while True:
    c, _ = tcp.accept(); c.sendall(name); c.close()
";

/// Asks a server over TCP and UDP and prints who answered each.
const CLIENT: &str = "
import socket, sys
for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM:
    try:
        s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, kind)
        s.settimeout(5)
        s.connect((sys.argv[1], 80))
        if kind == socket.SOCK_DGRAM: s.send(b'who?')
        print(s.recv(100).decode(), end=' ')
    except OSError as e:
        print(type(e).__name__, end=' ')
";

/// A program in a compartment.
fn exec(daemon: &Afnetd<'_>, name: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = daemon.netns().command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", name, "--"]).args(arguments);
    command
}

fn server(daemon: &Afnetd<'_>, name: &str) -> Process {
    let mut process = Process::spawn(&mut exec(daemon, name, &["python3", "-uc", SERVER, name]));
    process.wait_for_output("ready");
    process
}

/// Who answers at an address, over TCP and UDP.
fn ask(ns: &Netns, address: &str) -> String {
    answers(ns.command("python3").args(["-c", CLIENT, address]))
}

fn ask_from(daemon: &Afnetd<'_>, name: &str, address: &str) -> String {
    answers(&mut exec(daemon, name, &["python3", "-c", CLIENT, address]))
}

fn answers(command: &mut std::process::Command) -> String {
    let output = command.output().expect("start python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn everybody_has_the_same_port_and_the_daemon_may_die() {
    let bed = Bed::new("kernelpath");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &["192.0.2.11/24", "2001:db8::11/64"]);
    daemon.add_compartment("idle", &["192.0.2.12/24"]);
    let red = server(&daemon, "red");
    let mut host = Process::spawn(bed.host.command("python3").args(["-uc", SERVER, "host"]));
    host.wait_for_output("ready");
    let blue = server(&daemon, "blue");
    let all = [
        ("192.0.2.10", "red red "),
        ("2001:db8::10", "red red "),
        ("192.0.2.11", "blue blue "),
        ("2001:db8::11", "blue blue "),
        ("192.0.2.1", "host host "),
        ("2001:db8::1", "host host "),
        ("192.0.2.12", "ConnectionRefusedError ConnectionRefusedError "),
    ];
    for ns in [&bed.peer, &bed.host] {
        for (address, who) in all {
            assert_eq!(ask(ns, address), who, "{address} from {}", ns.name());
        }
    }
    for loopback in ["127.0.0.1", "::1"] {
        assert_eq!(ask_from(&daemon, "red", loopback), "red red ");
        assert_eq!(ask_from(&daemon, "idle", loopback), "ConnectionRefusedError ConnectionRefusedError ");
        assert_eq!(ask(&bed.host, loopback), "host host ");
    }
    assert_eq!(ask_from(&daemon, "red", "192.0.2.11"), "blue blue ");
    assert!(daemon.counter("idle", "drop_unheard") >= 2, "{:?}", daemon.counters("idle"));

    // An address that comes later is served, too. (Over UDP the answer has the first address as source, as it would have
    // alone on a machine: the program does not say from which one.)
    daemon.add_address("red", "192.0.2.20/24", |_| ());
    assert!(ask(&bed.peer, "192.0.2.20").starts_with("red "));

    daemon.kill();
    for (address, who) in all {
        assert_eq!(ask(&bed.peer, address), who, "{address} without a daemon");
    }
    daemon.restart();
    for (address, who) in all {
        assert_eq!(ask(&bed.peer, address), who, "{address} with the next daemon");
    }
    daemon.ok("addr del 192.0.2.20/24 dev dev0");
    assert!(!ask(&bed.peer, "192.0.2.20").contains("red"));

    daemon.ok("set red --isolated=on");
    assert_eq!(ask(&bed.peer, "192.0.2.10"), "red red ");
    assert_eq!(ask_from(&daemon, "red", "127.0.0.1"), "red red ");
    for (ask, what) in [
        (ask(&bed.host, "192.0.2.10"), "the host"),
        (ask_from(&daemon, "blue", "192.0.2.10"), "another compartment"),
        (ask_from(&daemon, "red", "192.0.2.1"), "to the host"),
    ] {
        assert!(!ask.contains("red") && !ask.contains("host"), "{what}: {ask}");
    }

    assert!(daemon.fails("del red").contains("processes live in red"));
    daemon.ok("del red --stop");
    let mut red = red;
    wait::until_true("red's server to end", || red.try_wait().is_some());
    drop((blue, host));
    daemon.stop();
}
