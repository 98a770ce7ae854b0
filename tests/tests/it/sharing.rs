//! One port, several sockets of a compartment: who gets what, on the fast path as in the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    thread,
};

use afnet_abi::control::Request;
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4, PEER_V6},
    inside::Inside,
    wait,
};

use crate::{
    by_hand::{Hand, claim, ip},
    client::{at, receive},
};

/// A claim of IPv4 datagrams.
fn four(port: u16) -> Request {
    Request::Claim { port, count: 1, address: None, family: Some(4), shared: false }
}

/// The same, to be shared.
fn shared(port: u16) -> Request {
    Request::Claim { port, count: 1, address: None, family: None, shared: true }
}

fn unclaim(port: u16, family: Option<u8>) -> Request {
    Request::Unclaim { port, address: None, family, reason: None }
}

/// Number of claims of all endpoints.
fn claims(daemon: &Afnetd<'_>) -> usize {
    let all = daemon.json("endpoints");
    all.as_array().unwrap().iter().map(|e| e["claims"].as_array().unwrap().len()).sum()
}

#[test]
fn the_socket_that_was_bound_last_gets_the_traffic_until_it_goes() {
    let bed = Bed::new("takeover");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    let inside = Inside::start(&daemon, "red");
    let client = bed.peer_socket(PEER_V4);
    let bind = |name: &str| {
        inside.run(&format!("{name} = udp('0.0.0.0', 7, reuseaddr=True)"));
        inside.socket(name)
    };
    let mut first = Hand::claiming(&daemon, "red", &four(7), &bind("a"));
    client.send_to(b"1", at("192.0.2.10", 7)).unwrap();
    assert_eq!(first.receive().1, b"1");
    // Twice by one endpoint, and by one that has no socket for it: no.
    let socket = bind("b");
    assert_eq!(first.ask(&four(7), &socket).unwrap_err().code, "EADDRINUSE");
    let none = Hand::attach(&daemon, "red");
    for request in [four(7), claim(7), claim(0)] {
        let refused = none.bare.ask(&request, &[]).map(|answer| format!("{answer:?}"));
        assert!(
            matches!(&refused, Err(refusal) if ["EADDRINUSE", "EACCES"].contains(&&*refusal.code)),
            "{request:?}: {refused:?}"
        );
    }
    let mut second = Hand::claiming(&daemon, "red", &four(7), &socket);
    client.send_to(b"2", at("192.0.2.10", 7)).unwrap();
    assert_eq!(second.receive().1, b"2");
    // The first has a socket all the same, and may send by it.
    let mut buffer = [0; 16];
    first.send(7, client.local_addr().unwrap(), b"from the first", |_| ());
    assert_eq!(receive(&client, &mut buffer).unwrap(), (14, at("192.0.2.10", 7)));
    second.bare.ask(&unclaim(7, Some(4)), &[]).unwrap();
    client.send_to(b"3", at("192.0.2.10", 7)).unwrap();
    assert_eq!(first.receive().1, b"3");
    second.ask(&four(7), &socket).unwrap();
    client.send_to(b"4", at("192.0.2.10", 7)).unwrap();
    assert_eq!(second.receive().1, b"4");
    // Closed by its program.
    drop(socket);
    inside.run("b.close()");
    wait::until_true("the claim to go", || claims(&daemon) == 1);
    client.send_to(b"5", at("192.0.2.10", 7)).unwrap();
    assert_eq!(first.receive().1, b"5");
    assert!(second.hears_nothing());
    // Without SO_REUSEADDR the kernel refuses, and there is nothing to claim with.
    assert_eq!(inside.run("udp('0.0.0.0', 7)"), "EADDRINUSE");
    assert_eq!(inside.run("udp('192.0.2.10', 7)"), "EADDRINUSE");
    drop((first, second, none));
    daemon.stop();
}

#[test]
fn a_more_specific_socket_goes_first() {
    let bed = Bed::new("specific");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64"]);
    let inside = Inside::start(&daemon, "red");
    let exact = Request::Claim {
        port: 7,
        count: 1,
        address: Some("192.0.2.10".parse().unwrap()),
        family: None,
        shared: false,
    };
    let sockets = [("192.0.2.10", &exact), ("0.0.0.0", &four(7)), ("::", &claim(7))];
    let mut hands = sockets.map(|(address, request)| {
        let socket = inside.socket(&format!("keep.append(s := udp('{address}', 7, reuseaddr=True)) or s"));
        Hand::claiming(&daemon, "red", request, &socket)
    });
    let clients = [PEER_V4, PEER_V6].map(|address| bed.peer_socket(address));
    for (address, who) in [("192.0.2.10", 0), ("192.0.2.11", 1), ("2001:db8::10", 2)] {
        let client = &clients[usize::from(address.contains(':'))];
        client.send_to(address.as_bytes(), at(address, 7)).unwrap();
        let (record, payload) = hands[who].receive();
        assert_eq!((payload.as_slice(), ip(&record.local)), (address.as_bytes(), address.parse().unwrap()));
        assert!(hands.iter_mut().all(Hand::hears_nothing));
    }
    // What a family's socket does not speak, it does not send.
    let [_, four, all] = &mut hands;
    four.send(7, clients[1].local_addr().unwrap(), b"no", |_| ());
    all.send(7, clients[1].local_addr().unwrap(), b"yes", |_| ());
    let mut buffer = [0; 16];
    assert_eq!(receive(&clients[1], &mut buffer).unwrap(), (3, at("2001:db8::10", 7)));
    // Each that goes leaves its part to the next wider one.
    let address = Some("192.0.2.10".parse().unwrap());
    let unclaim_exact = Request::Unclaim { port: 7, address, family: None, reason: None };
    hands[0].bare.ask(&unclaim_exact, &[]).unwrap();
    clients[0].send_to(b"wider", at("192.0.2.10", 7)).unwrap();
    assert_eq!(hands[1].receive().1, b"wider");
    hands[1].bare.ask(&unclaim(7, Some(4)), &[]).unwrap();
    clients[0].send_to(b"widest", at("192.0.2.10", 7)).unwrap();
    assert_eq!(hands[2].receive().1, b"widest");
    for (request, code) in [
        (unclaim(7, Some(4)), "ENOENT"),
        (unclaim(7, Some(5)), "EINVAL"),
        (Request::Unclaim { port: 7, address, family: Some(4), reason: None }, "EINVAL"),
        (Request::Claim { port: 8, count: 1, address: None, family: Some(0), shared: false }, "EINVAL"),
    ] {
        assert_eq!(hands[1].bare.ask(&request, &[]).unwrap_err().code, code, "{request:?}");
    }
    drop(hands);
    daemon.stop();
}

#[test]
fn a_group_shares_a_port_by_flows() {
    let bed = Bed::new("group");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24", "2001:db8::10/64"]);
    let inside = Inside::start(&daemon, "red");
    let mut members: Vec<Hand> = (0..4)
        .map(|_| {
            let socket = inside.socket("keep.append(s := udp('::', 7, reuseport=True)) or s");
            Hand::claiming(&daemon, "red", &shared(7), &socket)
        })
        .collect();
    let clients: Vec<UdpSocket> = (0..64).map(|_| bed.peer_socket(PEER_V4)).collect();
    for _ in 0..3 {
        for client in &clients {
            client.send_to(b"flow", at("192.0.2.10", 7)).unwrap();
        }
    }
    let mut heard: BTreeMap<u16, BTreeSet<usize>> = BTreeMap::new();
    let mut count = 0;
    wait::until_true("all datagrams", || {
        for (number, member) in members.iter_mut().enumerate() {
            while let Some((record, _)) = member.try_receive() {
                heard.entry(record.remote_port).or_default().insert(number);
                count += 1;
            }
        }
        count == 3 * clients.len()
    });
    assert!(heard.values().all(|by| by.len() == 1), "a flow stays with its member: {heard:?}");
    let busy: BTreeSet<_> = heard.values().flatten().collect();
    // That one of four gets none of 64 flows happens once in 10^8 times.
    assert_eq!(busy.len(), 4, "{heard:?}");
    // An error about what a member has sent finds the flow's member.
    let closed = bed.peer_socket(PEER_V4).local_addr().unwrap();
    members[0].send(7, closed, b"anybody?", |_| ());
    let (who, record) = wait::until("an ICMP error", || {
        let all = members.iter_mut().enumerate();
        all.filter_map(|(number, member)| Some((number, member.try_receive()?.0))).next()
    });
    assert_eq!((record.kind, record.remote_port), (afnet_abi::shm::kind::ERROR, closed.port()), "{who}");
    drop(members);
    daemon.stop();
}

#[test]
fn members_of_a_group_come_and_go_without_loss() {
    const CHANGES: usize = 60;
    // What a veth pair and every ring takes, whoever has to wait for a CPU.
    const IN_FLIGHT: u32 = 100;
    let bed = Bed::new("members");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    let inside = Inside::start(&daemon, "red");
    let sockets: Vec<_> =
        (0..4).map(|_| inside.socket("keep.append(s := udp('0.0.0.0', 7, reuseport=True)) or s")).collect();
    let mut members: Vec<Hand> = sockets.iter().map(|_| Hand::attach(&daemon, "red")).collect();
    members[0].ask(&shared(7), &sockets[0]).unwrap();
    let clients: Vec<UdpSocket> = (0..16).map(|_| bed.peer_socket(PEER_V4)).collect();
    let (sent, received, done) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let mut got = BTreeSet::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Relaxed) {
                let number = sent.load(Relaxed);
                if number - received.load(Relaxed) >= IN_FLIGHT {
                    thread::yield_now();
                    continue;
                }
                let client = &clients[number as usize % clients.len()];
                client.send_to(&number.to_be_bytes(), at("192.0.2.10", 7)).expect("send");
                sent.store(number + 1, Relaxed);
            }
        });
        let mut inside_group = [true, false, false, false];
        let mut collect = |members: &mut Vec<Hand>| {
            for member in members.iter_mut() {
                while let Some((_, payload)) = member.try_receive() {
                    let number = u32::from_be_bytes(payload.try_into().expect("a number"));
                    assert!(got.insert(number), "{number} twice");
                    received.fetch_add(1, Relaxed);
                }
            }
            got.len()
        };
        for change in 0..CHANGES {
            // The first one stays, so that there is always one.
            let who = 1 + change % 3;
            if inside_group[who] {
                members[who].bare.ask(&unclaim(7, None), &[]).unwrap();
            } else {
                members[who].ask(&shared(7), &sockets[who]).unwrap();
            }
            inside_group[who] ^= true;
            let seen = sent.load(Relaxed);
            wait::until_true("traffic", || {
                collect(&mut members);
                sent.load(Relaxed) >= seen + 20
            });
        }
        done.store(true, Relaxed);
        let all = wait::within(wait::PATIENCE, || {
            (collect(&mut members) == sent.load(Relaxed) as usize).then_some(())
        });
        assert!(all.is_some(), "{} of {sent:?}: {:?}", got.len(), daemon.counters("red"));
    });
    drop(members);
    daemon.stop();
}
