//! Clients in the compartment, under the shim; servers on another machine.

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4, PEER_V6},
    process::Process,
    shim::{self, Counts},
};

use crate::run::{CLIENT, NAME, V4, V6, ask, quic, words, write};

/// Asks a server of the peer from the compartment; `carried`: by the fast path. A client that sends one datagram and is
/// gone need not be accelerated.
fn check(label: &str, server: &str, questions: &[(&str, &str)], carried: bool) {
    let bed = Bed::new(label);
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment(NAME, &[&format!("{V4}/24"), &format!("{V6}/64")]);
    let dir = tempfile::tempdir().expect("make a directory");
    write(dir.path(), "client.py", CLIENT);
    write(dir.path(), "server.py", include_str!("scripts/asyncio_server.py"));
    let path = dir.path().display().to_string();
    let fill = |text: &str| {
        [("{dir}", &*path), ("{4}", PEER_V4), ("{6}", PEER_V6), ("{quic}", &quic())]
            .iter()
            .fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    };
    let server = words(&fill(server));
    let mut server = Process::spawn(bed.peer.command(&server[0]).args(&server[1..]));
    let stats = dir.path().join("stats");
    for (question, answer) in questions {
        let command = || {
            let settings = [("AFNET_SHIM_AFTER", "0"), ("AFNET_SHIM_STATS", &*stats.display().to_string())];
            let mut command = shim::command(&daemon, NAME, &settings);
            command.args(words(&fill(question)));
            command
        };
        ask(command, &fill(answer), &mut server);
        let counts = Counts::take(&stats);
        let datagrams = counts.of("rx") + counts.of("tx");
        assert!(!carried || (counts.of("accelerated") > 0 && datagrams > 0), "{question}: {counts:?}");
    }
    drop(server);
    daemon.ok(&format!("del {NAME} --force"));
    daemon.stop();
}

#[test]
fn dig() {
    check(
        "dig",
        "dnsmasq -k -C /dev/null --no-resolv --no-hosts --user=root --pid-file= --txt-record=who.test,yes",
        &[
            ("dig +short +tries=1 +time=5 @{4} who.test TXT", "\"yes\""),
            ("dig +short +tries=1 +time=5 @{6} who.test TXT", "\"yes\""),
        ],
        false,
    );
}

#[test]
fn iperf3() {
    check("iperf3", "iperf3 -s", &[("iperf3 -c {4} -u -b 20M -n 2M -l 1200", "receiver")], true);
}

#[test]
fn python() {
    check(
        "python",
        "/usr/bin/python3 {dir}/server.py",
        &[
            ("/usr/bin/python3 {dir}/client.py udp {4} 8008 hello", "HELLO from {4}"),
            ("/usr/bin/python3 {dir}/client.py udp {6} 8008 hello", "HELLO from {6}"),
        ],
        false,
    );
}

#[test]
fn quic_asks() {
    check(
        "quic",
        "env QUIC=serve\\ 4433\\ {dir} {quic}",
        &[
            ("env QUIC=ask\\ {4}\\ 4433\\ {dir} {quic}", "4194304 bytes went there and back"),
            ("env QUIC=ask\\ {6}\\ 4433\\ {dir} {quic}", "4194304 bytes went there and back"),
        ],
        true,
    );
}
