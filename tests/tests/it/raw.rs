//! Raw endpoints: all packets of the compartment, and what they may send.

use std::{net::IpAddr, time::Duration};

use afnet_tenant::{EndpointKind, Kind};
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, HOST_V4, HOST_V6, PEER, PEER_V4, PEER_V6},
    packet, wait,
    wire::Wire,
};

use crate::client::{Tenant, expect_counters};

/// A packet without its Ethernet header.
fn inner(frame: &[u8]) -> Vec<u8> {
    frame[14..].to_vec()
}

/// Two MAC addresses for the builders; the header is cut off again.
const MACS: (packet::Mac, packet::Mac) = ([2; 6], [4; 6]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The reply to an echo request without options or extension headers.
fn echo_reply(request: &[u8]) -> Option<Vec<u8>> {
    let mut reply = request.to_vec();
    let (at, kinds) = match request.first()? >> 4 {
        4 => {
            reply[12..20].rotate_left(4);
            (20, (8, 0))
        }
        _ => {
            reply[8..40].rotate_left(16);
            (40, (128, 129))
        }
    };
    (request[at] == kinds.0).then_some(())?;
    reply[at] = kinds.1;
    // RFC 1624: the checksum changes with the type, in the upper half of its word.
    let old = u16::from_be_bytes([request[at + 2], request[at + 3]]);
    let change = !(u16::from(kinds.0) << 8);
    let mut sum = u32::from(!old) + u32::from(change) + (u32::from(kinds.1) << 8);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let sum = u16::try_from(sum).unwrap();
    reply[at + 2..at + 4].copy_from_slice(&(!sum).to_be_bytes());
    Some(reply)
}

#[test]
fn ping_is_answered_by_the_tenant() {
    let bed = Bed::new("raw");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &["192.0.2.11/24"]);
    let mut tenant = Tenant::with(&daemon, "red", EndpointKind::Raw);
    for address in ["192.0.2.10", "2001:db8::10"] {
        let mut ping = bed.peer.spawn(&format!("ping -c 3 -i 0.05 -W 5 {address}"));
        let mut answered = 0;
        let status = wait::until("ping to end", || {
            if let Some(got) = tenant.receive_within(Duration::from_millis(20)) {
                assert_eq!(got.kind, Kind::Packet);
                if let Some(reply) = echo_reply(&got.payload) {
                    tenant.endpoint.send_packet(&reply).unwrap();
                    tenant.endpoint.flush();
                    answered += 1;
                }
            }
            ping.try_wait()
        });
        assert!(status.success() && answered == 3, "{status}, {answered}: {}", ping.output());
    }
    // UDP to any port, and TCP, are the raw endpoint's too; another compartment's are not.
    let socket = bed.peer_socket(PEER_V4);
    socket.send_to(b"any port", "192.0.2.10:4711").unwrap();
    let got = tenant.receive();
    assert_eq!((got.payload[9], &got.payload[28..]), (17, b"any port".as_slice()));
    bed.peer.run("ping -c 1 -W 5 192.0.2.11");
    let mut second = afnet_tenant::AttachOptions { kind: EndpointKind::Raw, ..Default::default() };
    second.instance = Some(daemon.instance().into());
    second.compartment = Some("red".into());
    assert!(afnet_tenant::Endpoint::attach(&second).is_err(), "one raw endpoint for a compartment");
    drop(tenant);
    // Without it the kernel answers again.
    wait::until_true("the endpoint's end", || {
        let endpoints = daemon.json("endpoints");
        endpoints.as_array().is_some_and(Vec::is_empty)
    });
    bed.peer.run("ping -c 1 -W 5 192.0.2.10");
    daemon.stop();
}

#[test]
fn what_it_must_not_send() {
    let bed = Bed::new("forge");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &["192.0.2.11/24", "2001:db8::11/64"]);
    let mut tenant = Tenant::with(&daemon, "red", EndpointKind::Raw);
    let wire = Wire::open(&bed.peer, PEER);
    let udp = |from: &str, to: &str| {
        let (from, to) = ((ip(from), 5).into(), (ip(to), 9).into());
        inner(&packet::udp(MACS, from, to, b"forged"))
    };
    // Sources of others: the host, another compartment, anybody.
    let forged = [
        ("192.0.2.1", PEER_V4),
        ("192.0.2.11", PEER_V4),
        ("203.0.113.9", PEER_V4),
        ("2001:db8::1", PEER_V6),
        ("2001:db8::11", PEER_V6),
    ];
    for (from, to) in forged {
        tenant.endpoint.send_packet(&udp(from, to)).unwrap();
    }
    // IGMP, neighbour and router discovery, redirects, MLD.
    let mut control = vec![inner(&udp_as(2))];
    for kind in [130, 131, 132, 133, 134, 135, 136, 137, 143] {
        let (from, to) = ("2001:db8::10".parse().unwrap(), PEER_V6.parse().unwrap());
        control.push(inner(&packet::icmpv6(MACS, from, to, kind, &[0; 4], &[0; 16])));
    }
    for packet in &control {
        tenant.endpoint.send_packet(packet).unwrap();
    }
    // No IP at all, and a length that is not the packet's.
    let mut long = udp("192.0.2.10", PEER_V4);
    long[3] += 1;
    for packet in [&[0u8; 40][..], &[0x45], &long] {
        tenant.endpoint.send_packet(packet).unwrap();
    }
    // What is right goes, after all that.
    tenant.endpoint.send_packet(&udp("192.0.2.10", PEER_V4)).unwrap();
    tenant.endpoint.flush();
    let mut wrong = Vec::new();
    wire.expect("the honest packet", |frame| {
        let (from, _) = packet::addresses(frame)?;
        let mine = packet::read_udp(frame).is_some_and(|udp| udp.payload == b"forged");
        if mine && from != ip("192.0.2.10") || frame.get(23) == Some(&2) && from == ip("192.0.2.10") {
            wrong.push(frame.to_vec());
        }
        (mine && from == ip("192.0.2.10")).then_some(())
    });
    assert!(wrong.is_empty(), "{wrong:x?}");
    let expected =
        [("drop_tx_source", 5), ("drop_tx_protocol", 10), ("drop_tx_malformed", 3), ("tx_datagrams", 1)];
    expect_counters(&daemon, "red", &expected);
    drop(tenant);
    daemon.stop();
}

/// An IPv4 packet of the compartment with another protocol number.
fn udp_as(protocol: u8) -> Vec<u8> {
    let mut frame = Vec::new();
    let step = packet::ip(MACS, ip("192.0.2.10"), ip(PEER_V4), 1);
    step.write(&mut frame, etherparse::IpNumber(protocol), &[0x16, 0, 0, 0, 224, 0, 0, 9])
        .expect("write to memory");
    frame
}

/// A packet of the raw endpoint is answered by the host's stack: an echo request, and TCP to a closed port.
#[test]
fn it_reaches_the_host_and_other_compartments() {
    let bed = Bed::new("rawlocal");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("blue", &["192.0.2.11/24", "2001:db8::11/64"]);
    let mut red = Tenant::with(&daemon, "red", EndpointKind::Raw);
    for claim in [false, true] {
        let blue = claim.then(|| Tenant::claiming(&daemon, "blue", 7).echo());
        let targets = [
            ("192.0.2.10", "192.0.2.11"),
            ("192.0.2.10", HOST_V4),
            ("192.0.2.10", PEER_V4),
            ("2001:db8::10", "2001:db8::11"),
            ("2001:db8::10", HOST_V6),
            ("2001:db8::10", PEER_V6),
        ];
        for (from, to) in targets {
            let request = packet::echo_request(MACS, ip(from), ip(to), 77, b"anybody?");
            red.endpoint.send_packet(&inner(&request)).unwrap();
            red.endpoint.flush();
            // Others may have something to say too.
            wait::until_true(&format!("{to} to answer"), || {
                let frame = [&request[..14], &red.receive().payload].concat();
                packet::is_echo_reply(&frame, 77) && packet::addresses(&frame) == Some((ip(to), ip(from)))
            });
        }
        if blue.is_some() {
            let (from, to) = ((ip("192.0.2.10"), 5).into(), (ip("192.0.2.11"), 7).into());
            red.endpoint.send_packet(&inner(&packet::udp(MACS, from, to, b"to a claim"))).unwrap();
            red.endpoint.flush();
            wait::until_true("the claim to answer", || {
                let frame = [&packet::udp(MACS, from, to, b"")[..14], &red.receive().payload].concat();
                packet::read_udp(&frame).is_some_and(|udp| udp.source == to && udp.payload == b"to a claim")
            });
        }
        drop(blue);
    }
    drop(red);
    daemon.stop();
}
