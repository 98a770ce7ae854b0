//! Isolated compartments: nothing between them and the others or the host, by whichever path; the peer and themselves
//! as ever.

use std::net::{SocketAddr, UdpSocket};

use afnet_tenant::Message;
use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::{Bed, HOST_V4, HOST_V6, PEER_V4, PEER_V6, socket_in},
    process::Process,
    wait,
};

use crate::client::{Tenant, ask, at, bytes, expect_counters, receive};

/// Answers on UDP port 3000 of its compartment.
const SERVER: &str = "
import socket
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 3000))
print('ready')
while True:
    data, peer = s.recvfrom(65536)
    s.sendto(data, peer)
";

/// Sends a datagram and prints what became of that.
const CLIENT: &str = "
import socket, sys
s = socket.socket(socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
try:
    s.sendto(b'x' * int(sys.argv[3]), (sys.argv[1], int(sys.argv[2])))
    print('sent')
except OSError as e:
    print(e.strerror)
";

/// A Python program in a compartment.
fn python(daemon: &Afnetd<'_>, name: &str, program: &[&str]) -> std::process::Command {
    let mut command = daemon.netns().command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", name, "--", "python3", "-uc"]).args(program);
    command
}

/// What becomes of a datagram that a compartment's ordinary socket sends.
fn kernel_sends(daemon: &Afnetd<'_>, name: &str, to: SocketAddr, len: usize) -> String {
    let to = [to.ip().to_string(), to.port().to_string(), len.to_string()];
    let program = [CLIENT, &to[0], &to[1], &to[2]];
    let output = python(daemon, name, &program).output().expect("start python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A datagram from one tenant to the other, and back.
#[track_caller]
fn talk(from: &mut Tenant<'_>, source: SocketAddr, to: &mut Tenant<'_>, destination: SocketAddr) {
    from.send(&Message { local: Some(source.ip()), ..Message::new(destination, b"tenant") });
    let got = to.receive();
    assert_eq!((got.remote, got.local, got.payload.as_slice()), (source, destination, b"tenant".as_slice()));
}

/// A datagram that is refused.
#[track_caller]
fn refused(tenant: &mut Tenant<'_>, to: SocketAddr) {
    tenant.send(&Message::new(to, b"no"));
    let error = tenant.error();
    assert_eq!((error.errno, error.remote), (libc::EPERM, to), "{error}");
}

/// Nothing is waiting there.
fn nothing_at(socket: &UdpSocket) {
    socket.set_nonblocking(true).unwrap();
    let got = socket.recv_from(&mut [0; 64]);
    assert!(got.is_err(), "{got:?}");
    socket.set_nonblocking(false).unwrap();
}

#[test]
fn nothing_passes_but_to_itself_and_the_peer() {
    const LENGTHS: [usize; 4] = [0, 1, 1400, 4000];
    let bed = Bed::new("isolated");
    let mut daemon = Afnetd::start(&bed);
    let families =
        [("192.0.2.10", "192.0.2.11", HOST_V4, PEER_V4), ("2001:db8::10", "2001:db8::11", HOST_V6, PEER_V6)];
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &["192.0.2.11/24", "2001:db8::11/64"]);
    let mut red = Tenant::claiming(&daemon, "red", 1000);
    let mut blue = Tenant::claiming(&daemon, "blue", 1000);
    let mut server = Process::spawn(&mut python(&daemon, "red", &[SERVER]));
    server.wait_for_output("ready");

    for round in 1..=2 {
        for (own, other, host, _) in families {
            let (own, other) = (at(own, 1000), at(other, 1000));
            let socket = socket_in(&bed.host, host, 0);
            talk(&mut red, own, &mut blue, other);
            talk(&mut blue, other, &mut red, own);
            socket.send_to(b"host", own).unwrap();
            assert_eq!(red.receive().payload, b"host");
            red.send(&Message {
                local: Some(own.ip()),
                ..Message::new(socket.local_addr().unwrap(), b"red")
            });
            assert_eq!(receive(&socket, &mut [0; 64]).unwrap(), (3, own));
            assert_eq!(kernel_sends(&daemon, "blue", own, 5), "sent");
            assert_eq!(red.receive().payload, b"xxxxx");
            // A tenant and a program.
            for tenant in [&mut red, &mut blue] {
                tenant.send(&Message::new(at(&own.ip().to_string(), 3000), b"program"));
                assert_eq!(tenant.receive().payload, b"program");
            }
        }

        daemon.ok("set red --isolated=on");
        for (own, other, host, peer) in families {
            let (to_program, own, other) = (at(own, 3000), at(own, 1000), at(other, 1000));
            // Between tenants, tenant and host, tenant and program.
            refused(&mut red, other);
            refused(&mut blue, own);
            refused(&mut blue, to_program);
            let socket = socket_in(&bed.host, host, 0);
            refused(&mut red, socket.local_addr().unwrap());
            nothing_at(&socket);
            // By workers, and what is longer than the host link takes by the kernel path.
            let dropped = || daemon.counter("red", "rx_isolated") + daemon.counter("red", "drop_isolated");
            let before = dropped();
            for len in LENGTHS {
                socket.send_to(&bytes(len, 1), own).unwrap();
                assert_eq!(kernel_sends(&daemon, "blue", own, len), "sent");
            }
            let all = before + 2 * LENGTHS.len() as u64;
            wait::until_true("every datagram to be dropped", || dropped() == all);
            assert_eq!(kernel_sends(&daemon, "red", other, 1), "Operation not permitted");

            // Itself, by both paths, and nothing else has arrived.
            red.send(&Message { local: Some(own.ip()), ..Message::new(own, b"me") });
            assert_eq!(red.receive().payload, b"me");
            red.send(&Message::new(to_program, b"my program"));
            assert_eq!(red.receive().payload, b"my program");
            assert_eq!(kernel_sends(&daemon, "red", own, 7), "sent");
            assert_eq!(red.receive().payload, b"xxxxxxx");

            // The peer, with tenant and program. The long ones are fragments.
            let socket = bed.peer_socket(peer);
            for len in LENGTHS {
                let payload = bytes(len, 2);
                socket.send_to(&payload, own).unwrap();
                let got = red.receive();
                assert!(got.payload == payload);
                red.send(&Message { local: Some(own.ip()), ..Message::new(got.remote, &got.payload) });
                let mut buffer = vec![0; 65_536];
                let (n, from) = receive(&socket, &mut buffer).unwrap();
                assert!(from == own && buffer[..n] == payload);
                ask(&socket, to_program, &payload);
            }
        }
        for name in ["red", "blue"] {
            expect_counters(&daemon, name, &[("tx_isolated", 4 * round)]);
        }
        daemon.ok("set red --isolated=off");
    }

    // Workers go on knowing a compartment whose last tenant has left, and hear of its policy.
    daemon.ok("set red --isolated=on");
    refused(&mut blue, at("192.0.2.10", 3000));
    drop(red);
    daemon.ok("set red --isolated=off");
    blue.send(&Message::new(at("192.0.2.10", 3000), b"again"));
    assert_eq!(blue.receive().payload, b"again");
    drop((blue, server));
    daemon.stop();
}
