//! What no case can say: the fast path beside the kernel path, a daemon that is away, and very many of everything.

use std::time::{Duration, Instant};

use afnet_abi::control::Request;
use afnet_tests::{
    afnetd::{Afnetd, spec},
    bed::Bed,
    wait,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    place::{Place, Shape},
    probe::{Build, Probe},
    report::Report,
    run::{run_ways, truths, way_is_wanted},
    script::{Case, parse},
    world::World,
};

/// Does operations, of which none may fail.
#[track_caller]
fn all_good(probe: &mut Probe, lines: &[&str]) {
    for line in lines {
        let answer = probe.ask(line);
        assert!(answer == "ok" || answer.starts_with("from "), "{line}: {answer}");
    }
}

#[test]
fn claims_come_and_go_beside_servers() {
    if !way_is_wanted("crowd") {
        return;
    }
    let bed = Bed::new("claims");
    World::prepare(&bed);
    let mut daemon = Afnetd::start(&bed);
    let mut world = World::confined(&bed, &daemon);
    let [red, blue] = [0, 1].map(|which| (Place::compartment(Shape::Dual, which), Build::Libc, false));
    let peer = (Place::peer(0), Build::Libc, false);
    for seat in [red, blue] {
        let udp = ["socket u inet6 dgram", "bind u :: 53"];
        let tcp = ["socket s inet6 stream", "bind s :: 80", "listen s"];
        all_good(world.probe(seat), &[udp.as_slice(), tcp.as_slice()].concat());
    }
    // Port 7 is the kernel's in one compartment, and now and then claimed in the other.
    all_good(world.probe(blue), &["socket seven inet dgram", "bind seven 0.0.0.0 7"]);
    let ask = |world: &mut World<'_>, line: &str, server: Option<_>| {
        assert_eq!(world.probe(peer).ask(line), "ok", "{line}");
        if let Some(server) = server {
            wait::until_true(line, || world.probe(server).ask("serve") != "nobody");
        }
        world.probe(peer).ask("answer")
    };
    for round in 0..5 {
        let echo = daemon.echo(&red.0.name(), 7);
        for address in ["192.0.2.10", "2001:db8::10"] {
            let answer = ask(&mut world, &format!("dial udp {address} 7"), None);
            assert!(answer.starts_with("reply from"), "round {round}, {address}: {answer}");
        }
        let other = "dial udp 192.0.2.20 7";
        assert_eq!(ask(&mut world, other, Some(blue)), "reply from 192.0.2.20:7", "round {round}");
        all_good(world.probe(red), &["socket t inet dgram"]);
        assert_eq!(world.probe(red).ask("bind t 0.0.0.0 7"), "EADDRINUSE", "one register of ports");
        let servers = |world: &mut World<'_>| {
            for (name, server) in [("10", red), ("20", blue)] {
                let udp = ask(world, &format!("dial udp 192.0.2.{name} 53"), Some(server));
                assert_eq!(udp, format!("reply from 192.0.2.{name}:53"), "round {round}");
                let tcp = ask(world, &format!("dial tcp 2001:db8::{name} 80"), Some(server));
                assert_eq!(tcp, "reply", "round {round}");
            }
        };
        servers(&mut world);
        drop(echo);
        // The port is free when its socket is closed; what comes for it is the kernel's when afnetd knows.
        wait::until_true("the claim is gone", || {
            daemon.json("endpoints").as_array().is_some_and(Vec::is_empty)
        });
        wait::until_true("the claim's port is free", || world.probe(red).ask("bind t 0.0.0.0 7") == "ok");
        assert_eq!(ask(&mut world, "dial udp 192.0.2.10 7", Some(red)), "reply from 192.0.2.10:7");
        all_good(world.probe(red), &["close t"]);
        servers(&mut world);
    }
    drop(world);
    for name in ["c10", "c20"] {
        daemon.ok(&format!("del {name} --force"));
    }
    daemon.stop();
}

#[test]
fn confinement_holds_while_the_daemon_is_away() {
    if !way_is_wanted("alone, raw") {
        return;
    }
    let cases = [include_str!("cases/wildcard.txt"), include_str!("cases/hostile.txt")].map(parse).concat();
    // Nothing that needs the daemon: other addresses, new processes in compartments.
    let fit = |case: &&Case| {
        case.shape == Shape::Dual
            && !case.actors().contains(&"net")
            && !case.lines.iter().any(|line| line.op == "daemon")
    };
    let cases: Vec<&Case> = cases.iter().filter(fit).collect();
    let mut report = Report::default();
    let truths = truths("away", &cases, &mut report);
    let bed = Bed::new("away");
    World::prepare(&bed);
    let mut daemon = Afnetd::start(&bed);
    let pid = Pid::from_raw(daemon.process().id().cast_signed()).expect("a process");
    let mut world = World::confined(&bed, &daemon);
    world.start_all(&cases);
    kill_process(pid, Signal::KILL).expect("kill the daemon");
    run_ways(&mut world, &cases, &truths, |way| way == "alone, raw", &mut report);
    drop(world);
    report.assert_empty();
}

#[test]
fn a_thousand_compartments_on_one_port() {
    if !way_is_wanted("crowd") {
        return;
    }
    let count: u16 = 1000;
    let bed = Bed::new("many");
    let mut daemon = Afnetd::start(&bed);
    let mut peer = Probe::spawn(&mut bed.peer.command(Build::Libc.program()));
    // One process with all capabilities, which goes from one to the next: sockets stay where they were made.
    let mut server = Probe::spawn(&mut bed.host.command(Build::Raw.program()));
    let addresses = |number: u16| {
        let [high, low] = (number + 256).to_be_bytes();
        [format!("10.9.{high}.{low}"), format!("2001:db8::9:{number:x}")]
    };
    bed.peer.ip("route add 10.9.0.0/16 dev peer0");
    bed.host.ip("addr add 10.9.0.1/16 dev dev0");
    bed.peer.ip("addr add 10.9.255.1/32 dev peer0");
    let started = Instant::now();
    let mut control = daemon.connect();
    let mut request = |request: &Request| {
        control.request(request).unwrap_or_else(|refusal| panic!("{request:?}: {refusal:?}"))
    };
    for number in 0..count {
        let name = format!("many{number}");
        request(&Request::Add { name: name.clone(), policy: Default::default() });
        for (address, len) in addresses(number).iter().zip([16, 64]) {
            request(&Request::AddrAdd { address: spec(&format!("{address}/{len}")), name: name.clone() });
        }
        request(&Request::Enter { name, pid: Some(server.id()) });
        all_good(
            &mut server,
            &[
                &format!("socket t{number} inet6 stream"),
                &format!("bind t{number} :: 80"),
                &format!("listen t{number}"),
                &format!("socket u{number} inet6 dgram"),
                &format!("bind u{number} :: 53"),
            ],
        );
    }
    let made = started.elapsed();
    for number in 0..count {
        for address in addresses(number) {
            assert_eq!(peer.ask(&format!("dial tcp {address} 80")), "ok", "{address}");
            let accepted = server.ask(&format!("accept t{number} n"));
            assert!(accepted.starts_with("from "), "{address}: {accepted}");
            let local = server.ask("getsockname n");
            assert!(local.contains(&*address) && local.ends_with(":80"), "{address}: {local}");
            assert_eq!(peer.ask(&format!("dial udp {address} 53")), "ok", "{address}");
            let received = server.ask(&format!("recv u{number}"));
            assert!(received.starts_with("hello from "), "{address}: {received}");
        }
    }
    let asked = started.elapsed() - made;
    println!("{count} compartments made in {made:?}, asked in {asked:?}");
    // Some milliseconds each, however many there are.
    let bound = Duration::from_millis(20) * u32::from(count);
    assert!(made < bound && asked < bound * 2, "{count} compartments: made in {made:?}, asked in {asked:?}");
    drop((server, control));
    daemon.kill();
}

#[test]
fn twelve_thousand_sockets_of_one_compartment() {
    if !way_is_wanted("crowd") {
        return;
    }
    let bed = Bed::new("sockets");
    World::prepare(&bed);
    let daemon = Afnetd::start(&bed);
    let mut world = World::confined(&bed, &daemon);
    let [red, blue] = [0, 1].map(|which| (Place::compartment(Shape::Dual, which), Build::Libc, false));
    all_good(world.probe(red), &["reset"]);
    daemon.ok(&format!("set {} --sockets 20000", red.0.name()));
    for _ in 0..2 {
        let started = Instant::now();
        all_good(
            world.probe(red),
            &[
                "many 6000 inet6 dgram :: 0",
                "many 2000 inet dgram 0.0.0.0 53",
                "many 2000 inet6 stream :: 0",
                "many 2000 inet stream 0.0.0.0 80",
            ],
        );
        // Nobody else is the poorer for it.
        let udp = ["socket u inet dgram", "bind u 0.0.0.0 53", "socket v inet6 dgram", "bind v :: 0"];
        let tcp = ["socket s inet6 stream", "bind s :: 80", "listen s", "reset"];
        all_good(world.probe(blue), &[udp.as_slice(), tcp.as_slice()].concat());
        all_good(world.probe(red), &["reset"]);
        assert!(started.elapsed() < wait::PATIENCE * 2, "{:?}", started.elapsed());
    }
}
