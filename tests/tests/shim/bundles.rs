//! A program that sends bundles (UDP_SEGMENT): the kernel cuts them where a device copies, nobody sees a difference.

use std::{fs, net::UdpSocket};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4, PEER_V6, socket_in},
    process::Process,
    shim::{command, fast_endpoints},
    wait,
};
use rustix::net::sockopt::set_socket_recv_buffer_size;

use crate::world::NAME;

/// Sends numbered segments, so many in each bundle, and a last word, when it is asked: in portions that a receiver's
/// buffer holds.
const SERVER: &str = r#"
import socket, struct, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind(("::" if family == socket.AF_INET6 else "", 7))
number = 0
while True:
    question, client = s.recvfrom(100)
    count, segments = struct.unpack("=II", question)
    for _ in range(count):
        parts = [struct.pack("=I", number + i) + bytes(996) for i in range(segments)]
        number += segments
        size = [(socket.IPPROTO_UDP, 103, struct.pack("=H", 1000))] if segments > 1 else []
        s.sendmsg([b"".join(parts)], size, 0, client)
    s.sendto(b"done", client)
"#;

/// Asks for bundles, and takes what comes: every segment is there, in order.
#[track_caller]
fn take(peer: &UdpSocket, server: &str, next: &mut u32, (count, segments): (u32, u32)) {
    let question = [count.to_ne_bytes(), segments.to_ne_bytes()].concat();
    peer.send_to(&question, (server, 7)).expect("ask");
    let mut buffer = [0; 2000];
    for _ in 0..count * segments {
        let (len, from) = peer.recv_from(&mut buffer).expect("a segment");
        assert_eq!((len, from.port()), (1000, 7), "segment {next}");
        assert_eq!(u32::from_ne_bytes(buffer[..4].try_into().expect("four bytes")), *next);
        *next += 1;
    }
    let (len, _) = peer.recv_from(&mut buffer).expect("the end");
    assert_eq!(&buffer[..len], b"done");
}

fn bundles(peer_address: &str, server_address: &str) {
    let bed = Bed::new("bundles");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment(NAME, &["192.0.2.10/24", "2001:db8::10/64"]);
    let files = tempfile::tempdir().expect("make a directory");
    let log = files.path().join("log");
    let settings = [("AFNET_SHIM_LOG", log.to_str().expect("a path"))];
    let mut command = command(&daemon, NAME, &settings);
    let server = Process::spawn(command.args(["/usr/bin/python3", "-c", SERVER, server_address]));
    let peer = socket_in(&bed.peer, peer_address, 0);
    set_socket_recv_buffer_size(&peer, 4 << 20).expect("a larger buffer");
    let mut next = 0;
    wait::until_true("the server to be on the fast path", || !fast_endpoints(&daemon, NAME).is_empty());
    let sent = || fast_endpoints(&daemon, NAME).iter().map(|e| e.tx).sum::<u64>();
    let note = || fast_endpoints(&daemon, NAME).first().map(|e| e.note.clone()).unwrap_or_default();
    // Few segments: by the rings.
    take(&peer, server_address, &mut next, (20, 4));
    wait::until_true("them to be counted", || sent() >= 81);
    assert_eq!(note(), "");
    // Many: by the kernel, for all that is sent, after a while.
    (0..5).for_each(|_| take(&peer, server_address, &mut next, (10, 40)));
    wait::until_true("it to be told", || note().contains("UDP_SEGMENT"));
    let before = sent();
    take(&peer, server_address, &mut next, (10, 40));
    take(&peer, server_address, &mut next, (5, 1));
    // What the rings send is counted before it is sent, so all of it would be by now.
    assert_eq!(sent(), before, "the rings have sent");
    // Received it has by the rings all the time.
    assert!(fast_endpoints(&daemon, NAME).iter().any(|e| e.rx >= 8));
    // No bundles any more: the rings again.
    (0..30).for_each(|_| take(&peer, server_address, &mut next, (100, 1)));
    wait::until_true("the rings to send again", || sent() > before + 100);
    wait::until_true("it to be told", || note().is_empty());
    let said = fs::read_to_string(&log).expect("the log");
    assert_eq!(said.matches("by the kernel").count(), 1, "{said}");
    drop(server);
    daemon.ok(&format!("del {NAME} --force"));
    daemon.stop();
}

#[test]
fn bundles_are_cut_by_the_kernel() {
    bundles(PEER_V4, "192.0.2.10");
}

#[test]
fn bundles_are_cut_by_the_kernel_over_ipv6() {
    bundles(PEER_V6, "2001:db8::10");
}
