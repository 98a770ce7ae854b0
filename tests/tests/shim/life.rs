//! Servers that outlive their daemon, daemons that outlive their servers, and no daemon at all.

use std::{
    fs,
    net::UdpSocket,
    process::Command,
    time::{Duration, Instant},
};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER, PEER_V4},
    process::Process,
    shim::{command, fast_endpoints, library},
    wait,
};

use crate::{
    run::{self, Case, finish},
    world::{CALLS, NAME, Way, World},
};

/// An echo server that tells of every error; how it waits is its argument, and a group that it joins another.
const ECHO: &str = r#"
import select, selectors, socket, sys
how = sys.argv[1]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(("", 7))
for group in sys.argv[2:]:
    own = socket.inet_aton("192.0.2.10")
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(group) + own)
s.setblocking(how == "recv")
poll, selector = select.poll(), selectors.EpollSelector()
poll.register(s, select.POLLIN)
selector.register(s, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    try:
        if how == "poll":
            poll.poll()
        elif how == "epoll":
            selector.select()
        elif how == "select":
            select.select([s], [], [])
        while True:
            data, sender = s.recvfrom(70000)
            s.sendto(data, sender)
    except BlockingIOError:
        pass
    except OSError as error:
        print("error", error, flush=True)
"#;

/// Longer than anything takes, on a machine that stalls too.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the server is.
const SERVER: &str = "192.0.2.10";
/// Where it may be, too.
const GROUP: &str = "239.1.2.3";

fn echo(daemon: &Afnetd<'_>, arguments: &[&str]) -> Process {
    let mut command = command(daemon, NAME, &[]);
    let mut server = Process::spawn(command.args(["/usr/bin/python3", "-c", ECHO]).args(arguments));
    server.wait_for_output("ready");
    server
}

fn compartment(daemon: &Afnetd<'_>) {
    daemon.add_compartment(NAME, &["192.0.2.10/24"]);
}

fn peer(bed: &Bed) -> UdpSocket {
    let socket = bed.peer_socket(PEER_V4);
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set a timeout");
    socket
}

/// Asks until there is an answer: what is under way while things change may be lost.
#[track_caller]
fn is_answered(socket: &UdpSocket, to: &str, when: &str) {
    let mut number = 0u32;
    let answered = wait::within(PATIENCE, || {
        number += 1;
        // ECONNREFUSED is not expected of a socket that is not connected.
        socket.send_to(&number.to_ne_bytes(), (to, 7)).expect("send");
        let mut buffer = [0; 8];
        socket.recv_from(&mut buffer).ok()
    });
    assert!(answered.is_some(), "no answer {when}");
}

/// Asks until afnetd says that questions and answers take the fast path.
#[track_caller]
fn is_fast(daemon: &Afnetd<'_>, socket: &UdpSocket, to: &str, when: &str) {
    let fast = wait::within(PATIENCE, || {
        is_answered(socket, to, when);
        fast_endpoints(daemon, NAME).iter().any(|e| e.rx > 0 && e.tx > 0).then_some(())
    });
    assert!(fast.is_some(), "not fast {when}:\n{}", daemon.ok("endpoints"));
}

fn survives(how: &str) {
    let bed = Bed::new(&format!("life-{how}"));
    let mut daemon = Afnetd::start(&bed);
    compartment(&daemon);
    let mut server = echo(&daemon, &[how]);
    let socket = peer(&bed);
    is_fast(&daemon, &socket, SERVER, "at first");
    for round in 0..2 {
        daemon.kill();
        is_answered(&socket, SERVER, &format!("without a daemon, round {round}"));
        daemon.restart();
        is_answered(&socket, SERVER, &format!("with a new daemon, round {round}"));
        is_fast(&daemon, &socket, SERVER, &format!("with a new daemon, round {round}"));
    }
    assert_eq!(server.output().trim(), "ready", "the server has seen an error");
    server.kill();
    wait::until_true("its endpoints are gone", || fast_endpoints(&daemon, NAME).is_empty());
    daemon.ok(&format!("del {NAME} --force"));
    daemon.stop();
}

#[test]
fn a_blocking_server_survives_its_daemon() {
    survives("recv");
}

#[test]
fn a_polling_server_survives_its_daemon() {
    survives("poll");
}

#[test]
fn an_epoll_server_survives_its_daemon() {
    survives("epoll");
}

#[test]
fn a_select_server_survives_its_daemon() {
    survives("select");
}

/// Kills the daemon while a server is asked by an address: it answers all the time, and nothing twice.
fn killed_under_load(label: &str, to: &str) {
    let bed = Bed::new(label);
    bed.peer.ip(&format!("route add 224.0.0.0/4 dev {PEER}"));
    let mut daemon = Afnetd::start(&bed);
    compartment(&daemon);
    let server = echo(&daemon, &["epoll", GROUP]);
    let (socket, judge) = (peer(&bed), peer(&bed));
    is_fast(&daemon, &judge, to, "at first");
    socket.set_nonblocking(true).expect("set");
    let (mut sent, mut received) = (0u64, vec![0u8; 1 << 20]);
    let mut load = |time: Duration| {
        let (end, mut count) = (Instant::now() + time, 0);
        while Instant::now() < end {
            let number = usize::try_from(sent).expect("small") % received.len();
            let text = u32::try_from(number).expect("small").to_ne_bytes();
            // A full queue is no matter here.
            sent += u64::from(socket.send_to(&text, (to, 7)).is_ok());
            let mut buffer = [0; 8];
            while let Ok((4, _)) = socket.recv_from(&mut buffer) {
                let number = u32::from_ne_bytes(buffer[..4].try_into().expect("four bytes"));
                received[number as usize] += 1;
                count += 1;
            }
        }
        count
    };
    for _ in 0..3 {
        let goes_on = |load: &mut dyn FnMut(Duration) -> u32, when: &str| {
            let answered = wait::within(PATIENCE, || (load(Duration::from_millis(100)) > 0).then_some(()));
            assert!(answered.is_some(), "no answer {when}");
        };
        goes_on(&mut load, "with the daemon");
        daemon.kill();
        goes_on(&mut load, "without the daemon");
        daemon.restart();
        goes_on(&mut load, "with the next daemon");
        is_fast(&daemon, &judge, to, "with the next daemon");
        goes_on(&mut load, "by the fast path");
    }
    let twice = received.iter().filter(|count| **count > 1).count();
    assert!(sent < 1 << 20 && twice == 0, "{twice} of {sent} were answered twice");
    assert_eq!(server.output().trim(), "ready", "the server has seen an error");
    drop(server);
    daemon.ok(&format!("del {NAME} --force"));
    daemon.stop();
}

#[test]
fn the_daemon_is_killed_under_load() {
    killed_under_load("load", SERVER);
}

#[test]
fn the_daemon_is_killed_under_a_groups_load() {
    killed_under_load("groupload", GROUP);
}

#[test]
fn an_idle_server_takes_no_cpu() {
    let bed = Bed::new("idle");
    let mut daemon = Afnetd::start(&bed);
    compartment(&daemon);
    let mut server = echo(&daemon, &["recv"]);
    let socket = peer(&bed);
    is_fast(&daemon, &socket, SERVER, "at first");
    let ticks = |pid: u32| -> u64 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        let rest = stat.rsplit_once(") ").expect("a name").1.split(' ');
        rest.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
    };
    let before = ticks(server.id());
    // Nothing comes in this time, which is what is tested.
    std::thread::sleep(Duration::from_secs(2));
    let used = ticks(server.id()) - before;
    assert!(used <= 5, "{used} hundredths of a second in two seconds");
    assert!(server.try_wait().is_none());
    drop(server);
    daemon.ok(&format!("del {NAME} --force"));
    daemon.stop();
}

#[test]
fn without_a_daemon_programs_run_as_ever() {
    let world = World::oracle("none");
    for case in ["send-calls", "receive-calls", "epoll-edge", "process-prefork", "threads-share"] {
        let case = run::cases_named(case).into_iter().next().expect("a case");
        let truth = run::run(&world, None, Way::Oracle, &case);
        assert!(run::is_sound(&truth.answers), "{}", truth.answers);
        for (log, lines) in [("warn", 1), ("none", 0)] {
            let outcome = finish(&world, &mut shimmed(&world, &case, log));
            assert_eq!(outcome.answers, truth.answers, "{}", case.name);
            let said = outcome.errors.lines().count();
            assert!(said <= lines, "{}, {log}: {:?}", case.name, outcome.errors);
        }
    }
}

/// A case under the shim, where no daemon is.
fn shimmed(world: &World, case: &Case, log: &str) -> Command {
    let mut command = world.command(Way::Oracle, None, "env");
    command.args([
        format!("LD_PRELOAD={}", library().display()),
        "AFNET_INSTANCE=none-such".into(),
        "AFNET_SHIM_AFTER=0".into(),
        format!("AFNET_SHIM_LOG={log}"),
        CALLS.into(),
        case.name.clone(),
        case.family.to_string(),
        case.port.to_string(),
    ]);
    command.arg(world.socket());
    command
}
