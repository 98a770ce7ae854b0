//! The kernel path against those who mean harm: users of a compartment, of the host and on the wire. What each tries
//! worked once, or would without a check that is easily lost.

use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::{Bed, PEER},
    netns::Netns,
    packet,
    process::Process,
    wait,
    wire::Wire,
};

/// Runs a script in a compartment, or on the host if there is no name; it prints what it found out.
fn python(daemon: &Afnetd<'_>, name: Option<&str>, script: &str) -> String {
    let output = command(daemon, name, script).output().expect("start python3");
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The same, running on; it says `ready`.
fn start(daemon: &Afnetd<'_>, name: Option<&str>, script: &str) -> Process {
    let mut process = Process::spawn(&mut command(daemon, name, script));
    process.wait_for_output("ready");
    process
}

fn command(daemon: &Afnetd<'_>, name: Option<&str>, script: &str) -> std::process::Command {
    let ns: &Netns = daemon.netns();
    let mut command = match name {
        None => ns.command("python3"),
        Some(name) => {
            let mut command = ns.command(binary("afnet"));
            command.args(["--instance", daemon.instance(), "exec", name, "--", "python3"]);
            command
        }
    };
    command.args(["-uc", &format!("{PRELUDE}{script}")]);
    command
}

/// Short names for the scripts.
const PRELUDE: &str = "
import array, socket, sys, time
from socket import *
def tcp(family=AF_INET): s = socket(family, SOCK_STREAM); s.settimeout(5); return s
def udp(family=AF_INET): s = socket(family, SOCK_DGRAM); s.settimeout(5); return s
def tell(what, *args):
    try: what(*args); print('done', end=' ')
    except OSError as e: print(e.errno, end=' ')
def disconnect(s):
    import ctypes
    assert not ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16)
";

/// Datagrams to ::1 and 127.0.0.1, each printed.
const LOOPBACK_SERVER: &str = "
import select
both = udp(AF_INET6), udp()
both[0].bind(('::1', 7000)); both[1].bind(('127.0.0.1', 7000))
print('ready')
while True:
    for s in select.select(both, [], [])[0]: print('heard', s.recv(100).decode())
";

#[test]
fn a_private_loopback_is_closed_to_wire_and_host() {
    let bed = Bed::new("loopback");
    let daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let mut server = start(&daemon, Some("red"), LOOPBACK_SERVER);
    // The first compartment's.
    let (alias6, alias4) = ("fdaf:6e65:7400::1", "127.129.0.1");

    let at = format!("[{alias6}]:7000").parse().unwrap();
    let frame = packet::udp((bed.peer_mac(), bed.device_mac()), at, at, b"from the wire");
    Wire::open(&bed.peer, PEER).send(&frame);
    for (family, alias) in [("AF_INET6", alias6), ("AF_INET", alias4)] {
        let script = format!(
            "tell(tcp({family}).connect, ('{alias}', 7000)); tell(udp({family}).sendto, b'from the host', ('{alias}', 7000))"
        );
        assert_eq!(python(&daemon, None, &script), "111 111", "{alias}");
    }
    python(&daemon, Some("red"), "udp(AF_INET6).sendto(b'six', ('::1', 7000))");
    server.wait_for_output("heard six");
    python(&daemon, Some("red"), "udp().sendto(b'four', ('127.0.0.1', 7000))");
    server.wait_for_output("heard four");
    let output = server.output();
    assert!(!output.contains("from the"), "{output}");
    assert!(daemon.counter("red", "drop_ingress") >= 1, "{:?}", daemon.counters("red"));
}

#[test]
fn the_hosts_ports_stay_the_hosts() {
    let bed = Bed::new("hostports");
    let daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    // The kernel chooses among three ports, one of which the host has.
    bed.host.sysctl("ipv4/ip_local_port_range", "40000 40002");
    let host = start(&daemon, None, "s = udp(); s.bind(('', 40001)); print('ready'); time.sleep(1000)");
    let chosen = python(
        &daemon,
        Some("red"),
        "
kept = []
for _ in range(2):
    s = udp(); s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1); s.sendto(b'', ('192.0.2.100', 9)); kept.append(s)
print(sorted(s.getsockname()[1] for s in kept), end=' ')
tell(udp().sendto, b'', ('192.0.2.100', 9))
",
    );
    assert!(chosen.starts_with("[40000, 40002] ") && !chosen.ends_with("done"), "{chosen}");
    drop(host);

    // What the host needs to have the same ports cannot be switched off, and what the program sees is its own.
    let red = start(
        &daemon,
        Some("red"),
        "
u = udp(); u.bind(('', 5353)); l = tcp(); l.bind(('', 8080)); l.listen()
c = tcp(); c.connect(('192.0.2.10', 8080)); a, _ = l.accept()
for s in u, l, a:
    assert s.getsockopt(SOL_SOCKET, SO_REUSEADDR) == 0
    s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    assert s.getsockopt(SOL_SOCKET, SO_REUSEADDR) == 1
    s.setsockopt(SOL_SOCKET, SO_REUSEADDR, 0)
print('ready'); time.sleep(1000)
",
    );
    let both = "tell(udp().bind, ('', 5353)); tell(tcp().bind, ('', 8080))";
    assert_eq!(python(&daemon, None, both), "done done");
    drop(red);
    // A stream at a group would connect from the host's address.
    assert_eq!(python(&daemon, Some("red"), "tell(tcp().bind, ('224.0.0.1', 22))"), "99");
}

#[test]
fn sockets_that_outlive_their_compartment_hold_no_port() {
    let bed = Bed::new("outlive");
    let daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    daemon.add_compartment("blue", &["192.0.2.11/24"]);
    let name = format!("\\0{}", daemon.instance());
    let script = format!(
        "
s = socket(AF_UNIX); s.bind('{name}'); s.listen(); print('ready')
c, _ = s.accept(); m = c.recvmsg(1, 100); print('got them')
input()
"
    );
    let mut blue = start(&daemon, Some("blue"), &script);
    let script = format!(
        "
l = tcp(); l.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1); l.bind(('', 80)); l.listen()
u = udp(); u.bind(('', 53))
c = socket(AF_UNIX); c.connect('{name}')
c.sendmsg([b'x'], [(SOL_SOCKET, SCM_RIGHTS, array.array('i', [l.fileno(), u.fileno()]))])
"
    );
    python(&daemon, Some("red"), &script);
    blue.wait_for_output("got them");
    wait::until_true("red to be empty", || daemon.afnet("del red").status.success());
    // The next one with red's slot and address.
    daemon.add_compartment("green", &["192.0.2.10/24"]);
    let bind = "
u = udp(); u.bind(('', 53))
for reuse in 0, 1:
    l = tcp(); l.setsockopt(SOL_SOCKET, SO_REUSEPORT, reuse); l.bind(('', 80)); l.listen()
    c = tcp(); c.connect(('192.0.2.10', 80)); a, _ = l.accept(); l.close()
";
    python(&daemon, Some("green"), bind);
    drop(blue);
    python(&daemon, Some("green"), bind);
}

#[test]
fn what_connected_sockets_send_comes_from_where_they_are() {
    let bed = Bed::new("connected");
    let daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "192.0.2.20/24", "2001:db8::10/64"]);
    let peer4 = bed.peer_socket("192.0.2.100");
    let peer6 = bed.peer_socket("2001:db8::100");
    let mut buffer = [0; 16];
    // A control message makes the kernel ask for the source once more.
    for (peer, address, cmsg) in [
        (&peer4, "192.0.2.10", "(IPPROTO_IP, IP_TOS"),
        (&peer6, "2001:db8::10", "(IPPROTO_IPV6, IPV6_TCLASS"),
    ] {
        let to = peer.local_addr().unwrap();
        // One of both families would be at an IPv4 address.
        let (family, any, only) = if to.is_ipv6() {
            ("AF_INET6", "::", "s.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)")
        } else {
            ("AF_INET", "0.0.0.0", "pass")
        };
        let script = format!(
            "s = udp({family}); {only}; s.bind(('{any}', 0)); s.connect(('{}', {})); s.sendmsg([b'x'], [{cmsg}, bytes([16, 0, 0, 0]))])",
            to.ip(),
            to.port()
        );
        python(&daemon, Some("red"), &script);
        assert_eq!(peer.recv_from(&mut buffer).unwrap().1.ip().to_string(), address);
    }
    // The address that a program has chosen stays, although its port is chosen only when it connects.
    let listener = bed.peer.enter(|| std::net::TcpListener::bind("192.0.2.100:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "s = tcp(); s.setsockopt(IPPROTO_IP, 24, 1); s.bind(('192.0.2.20', 0)); s.connect(('192.0.2.100', {port})); print(s.getsockname()[0])"
    );
    assert_eq!(python(&daemon, Some("red"), &script), "192.0.2.20");
    // After connect(AF_UNSPEC) the kernel chooses another port, where answers arrive, too.
    let port = peer4.local_addr().unwrap().port();
    let echo = std::thread::spawn(move || {
        let mut buffer = [0; 16];
        for _ in 0..2 {
            let (length, from) = peer4.recv_from(&mut buffer).unwrap();
            peer4.send_to(&buffer[..length], from).unwrap();
        }
    });
    let script = format!(
        "
s = udp(); to = ('192.0.2.100', {port})
s.sendto(b'1', to); assert s.recv(9) == b'1'
disconnect(s)
s.sendto(b'2', to); assert s.recv(9) == b'2'
# The kernel has it on all addresses: connected, it would be at the host's.
tell(s.connect, to)
"
    );
    assert_eq!(python(&daemon, Some("red"), &script), "99");
    echo.join().unwrap();
}

#[test]
fn the_next_datagrams_length_is_told_at_every_address() {
    let bed = Bed::new("lengths");
    let daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "192.0.2.20/24"]);
    let mut server = start(
        &daemon,
        Some("red"),
        "
import fcntl, select, struct, termios
s = udp(); s.bind(('', 6000)); print('ready')
while True:
    select.select([s], [], [])
    length = struct.unpack('i', fcntl.ioctl(s, termios.FIONREAD, bytes(4)))[0]
    print('told', length, 'of', len(s.recv(5000)), end='.\\n')
",
    );
    let peer = bed.peer_socket("192.0.2.100");
    for (address, length) in [("192.0.2.10", 10), ("192.0.2.20", 20), ("192.0.2.20", 30)] {
        peer.send_to(&vec![0; length], (address, 6000)).unwrap();
        server.wait_for_output(&format!("told {length} of {length}."));
    }
    // Fragments arrive, too.
    peer.send_to(&[0; 4000], ("192.0.2.20", 6000)).unwrap();
    server.wait_for_output("of 4000.");
}
