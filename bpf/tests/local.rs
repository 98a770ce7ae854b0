//! Local delivery: what this host sends to a compartment goes into the host link, and only that. Needs root.

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use afnet_bpf::{
    AddressEntry, AttachMode, CompartmentConfig, Counter, Demux, DemuxConfig, Error, HostDemux, Limits,
};
use afnet_tests::{netns::Netns, packet, veth::Veth, wait, wire::Wire};
use common::{PORT, UNTAGGED, addr, xdp_socket};

const ADDRESSES: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

struct Bed {
    ns: Netns,
    demux: Demux,
}

impl Bed {
    /// Both addresses on `lo`, the host link up, port claimed, hook attached.
    fn new() -> Self {
        let ns = Netns::new("local");
        Veth::default().bare().connect((&ns, "host0"), (&ns, "work0"));
        for text in ADDRESSES {
            ns.ip(&format!("addr add {text} dev lo"));
        }
        let limits = Limits { compartments: 16, addresses: 64, prefixes: 16, claims: 64, groups: 16 };
        let config =
            DemuxConfig { ifindex: ns.ifindex("host0"), mac: [2; 6], queues: 1, frags: false, limits };
        let mut demux = Demux::load(&config).expect("load (needs root)");
        demux.set_compartment(1, CompartmentConfig::default()).unwrap();
        demux.insert_claim(1, 17, PORT, 1).unwrap();
        for text in ADDRESSES {
            demux
                .insert_address(UNTAGGED, addr(text), AddressEntry { slot: 1, ..Default::default() })
                .unwrap();
        }
        assert!(matches!(demux.attach_local(), Err(Error::NoHostLink)));
        demux.set_host_link(ns.ifindex("host0"));
        ns.enter(|| demux.attach_local()).expect("attach to lo");
        Self { ns, demux }
    }

    fn socket(&self, text: &str, port: u16) -> UdpSocket {
        let socket = self.ns.enter(|| UdpSocket::bind(SocketAddr::new(addr(text), port))).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    }

    /// Sends from a socket of the host.
    fn send(&self, text: &str, port: u16, payload: &[u8]) {
        let any = if text.contains(':') { "::" } else { "0.0.0.0" };
        let sent = self.socket(any, 0).send_to(payload, SocketAddr::new(addr(text), port)).unwrap();
        assert_eq!(sent, payload.len());
    }

    fn local(&self) -> u64 {
        self.demux.counters().unwrap()[Counter::Local as usize]
    }
}

fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 70_000];
    let (length, _) = socket.recv_from(&mut buffer).expect("a datagram at the kernel's socket");
    buffer[..length].to_vec()
}

#[test]
fn claimed_datagrams_go_into_the_host_link() {
    let bed = Bed::new();
    let wire = Wire::open(&bed.ns, "work0");
    for (n, text) in ADDRESSES.into_iter().enumerate() {
        bed.send(text, PORT, b"claimed");
        let datagram = wire.expect("the datagram at the worker's end", |frame| {
            packet::read_udp(frame).filter(|d| d.payload == b"claimed")
        });
        assert_eq!(datagram.destination, SocketAddr::new(addr(text), PORT));
        assert_eq!(bed.local(), n as u64 + 1);
    }
}

#[test]
fn the_rest_stays_with_the_kernel() {
    let bed = Bed::new();
    for text in ADDRESSES {
        let socket = bed.socket(text, 9999);
        bed.send(text, 9999, b"not claimed");
        assert_eq!(received(&socket), b"not claimed");

        let claimed = bed.socket(text, PORT);
        let long = vec![7; 3000];
        bed.send(text, PORT, &long);
        assert_eq!(received(&claimed), long, "longer than the host link's MTU");

        let entry = AddressEntry { slot: 1, tentative: true, ..Default::default() };
        bed.demux.insert_address(UNTAGGED, addr(text), entry).unwrap();
        bed.send(text, PORT, b"tentative");
        assert_eq!(received(&claimed), b"tentative");
        let entry = AddressEntry { slot: 1, ..Default::default() };
        bed.demux.insert_address(UNTAGGED, addr(text), entry).unwrap();

        bed.demux.set_host_link(0);
        bed.send(text, PORT, b"no link");
        assert_eq!(received(&claimed), b"no link");
        bed.demux.set_host_link(bed.ns.ifindex("host0"));
    }
    assert_eq!(bed.local(), 0);
    let (reached, output) = bed.ns.attempt("ping -c 1 -W 1 192.0.2.1");
    assert!(reached, "{output}");
}

#[test]
fn a_raw_compartment_gets_all_of_it() {
    let bed = Bed::new();
    bed.demux.set_compartment(1, CompartmentConfig { raw: true, ..Default::default() }).unwrap();
    let (reached, _) = bed.ns.attempt("ping -c 1 -W 1 192.0.2.1");
    assert!(!reached);
    let (reached, _) = bed.ns.attempt("ping -c 1 -W 1 2001:db8::1");
    assert!(!reached);
    assert_eq!(bed.local(), 2);
}

#[test]
fn errors_about_a_claimed_flow_go_there_too() {
    let bed = Bed::new();
    bed.ns.ip("addr add 198.51.100.1 dev lo");
    // A datagram of the compartment to a closed port of the host, as the worker would put it into the link.
    bed.ns.sysctl("ipv4/conf/host0/accept_local", "1");
    bed.ns.sysctl("ipv4/conf/all/rp_filter", "0");
    bed.ns.sysctl("ipv4/conf/host0/rp_filter", "0");
    let macs = (bed.ns.mac("work0"), bed.ns.mac("host0"));
    let from = SocketAddr::new(addr("192.0.2.1"), PORT);
    let to = SocketAddr::new(addr("198.51.100.1"), 7);
    Wire::open(&bed.ns, "work0").send(&packet::udp(macs, from, to, b"anybody?"));
    wait::until_true("the ICMP error in the host link", || bed.local() == 1);
}

#[test]
fn the_hook_ends_with_its_owner() {
    let bed = Bed::new();
    let socket = bed.socket("192.0.2.1", PORT);
    let Bed { ns, demux } = bed;
    // A clsact filter (before 6.6) is removed from where it was made.
    ns.enter(|| drop(demux));
    let sender = ns.enter(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    sender.send_to(b"back", SocketAddr::new(addr("192.0.2.1"), PORT)).unwrap();
    assert_eq!(received(&socket), b"back");
}

#[test]
fn the_host_links_program_hands_every_frame_to_its_queue() {
    let bed = Bed::new();
    let mut host = HostDemux::load(1).expect("load (needs root)");
    bed.ns.enter(|| host.attach(bed.ns.ifindex("work0"), AttachMode::Native)).unwrap();
    bed.send("192.0.2.1", PORT, b"no socket yet");
    wait::until_true("a frame without a socket", || host.counters().unwrap().no_socket >= 1);
    let socket = xdp_socket();
    let sockets = host.sockets().unwrap();
    sockets.set(0, 0, socket.as_fd()).unwrap();
    bed.send("192.0.2.1", PORT, b"with a socket");
    wait::until_true("a frame redirected", || host.counters().unwrap().redirected >= 1);
    assert!(matches!(sockets.set(0, 1, socket.as_fd()), Err(Error::Queue(1))));
    assert!(matches!(sockets.set(1, 0, socket.as_fd()), Err(Error::Slot(1))));
    sockets.clear(0, 0).unwrap();
    sockets.clear(0, 0).expect("clearing twice is no error");
}
