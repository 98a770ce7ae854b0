//! Unmodified programs, on the same ports of two machines and the host at once; each answers as itself.
//!
//! Every server knows the name of its machine and tells it to clients, and who they are, if it can. The clients
//! are the peer, the machine itself (by its loopback) and the other machines.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::{
    place::{HOST, Place, Shape},
    run::way_is_wanted,
    world::World,
};
use afnet_tests::{afnetd::Afnetd, bed::Bed, process::Process, wait};
use rustix::process::Signal;

/// Servers; `{dir}` holds the files of [`prepare`], `{name}` is the machine's.
const SERVERS: &[&str] = &[
    "nginx -c {dir}/nginx.conf -e stderr",
    "redis-server --port 6379 --dir {dir} --save  --protected-mode no --daemonize no",
    "dnsmasq -k -C /dev/null --no-resolv --no-hosts --user=root --pid-file= --txt-record=who.test,{name}",
    "/usr/sbin/sshd -D -e -f {dir}/sshd_config",
    "/usr/bin/python3 -m http.server 8000 --directory {dir}",
    "/usr/bin/python3 -m http.server 8001 --directory {dir} --bind ::",
    "busybox httpd -f -p 8002 -h {dir}",
    "busybox nc -ll -p 8003 -e cat {dir}/name",
    "socat TCP6-LISTEN:8004,ipv6only=0,fork,reuseaddr EXEC:cat\\ {dir}/name",
    "socat UDP4-RECVFROM:8005,fork EXEC:cat\\ {dir}/name",
    "iperf3 -s",
];

/// Questions to a machine with the addresses `{4}` and `{6}` by a client that it sees as `{from4}` and `{from6}`,
/// and what has to be in the answer.
const QUESTIONS: &[(&str, &str)] = &[
    ("curl -sS -m 5 http://{4}/", "{name} {4} {from4}\n"),
    ("curl -sS -m 5 http://[{6}]/", "{name} {6} {from6}\n"),
    ("redis-cli -h {4} config get dir", "{dir}"),
    ("redis-cli -h {6} config get dir", "{dir}"),
    ("dig +short +tries=3 +time=2 @{4} who.test TXT", "\"{name}\""),
    ("dig +short +tries=3 +time=2 @{6} who.test TXT", "\"{name}\""),
    ("dig +short +tcp +time=5 @{4} who.test TXT", "\"{name}\""),
    ("dig +short +tcp +time=5 @{6} who.test TXT", "\"{name}\""),
    ("ssh -F {dir}/ssh_config root@{4} cat {dir}/name; echo $SSH_CONNECTION", "{name}\n{from4} * {4} 22\n"),
    ("ssh -F {dir}/ssh_config root@{6} cat {dir}/name; echo $SSH_CONNECTION", "{name}\n{from6} * {6} 22\n"),
    ("curl -sS -m 5 http://{4}:8000/name", "{name}\n"),
    ("curl -sS -m 5 http://{4}:8001/name", "{name}\n"),
    ("curl -sS -m 5 http://[{6}]:8001/name", "{name}\n"),
    ("curl -sS -m 5 http://{4}:8002/name", "{name}\n"),
    ("curl -sS -m 5 http://[{6}]:8002/name", "{name}\n"),
    ("busybox nc -w 5 {4} 8003", "{name}\n"),
    ("socat -T 5 - TCP:{4}:8004", "{name}\n"),
    ("socat -T 5 - TCP:[{6}]:8004", "{name}\n"),
    ("sh -c echo\\ hi\\ |\\ socat\\ -T\\ 1\\ -\\ UDP:{4}:8005", "{name}\n"),
    ("{dir}/ping -c 1 -W 5 {4}", "1 received"),
    ("{dir}/ping -c 1 -W 5 {6}", "1 received"),
    ("iperf3 -c {4} -n 20M", "sender"),
];

/// As [`QUESTIONS`], but only of compartments, not by loopback and not over IPv6: the server is a dual-stack wildcard
/// socket that connects to its client, see the accepted differences in `loopback`, `names` and `between`.
const QUESTIONS_FROM_OUTSIDE: &[(&str, &str)] = &[("iperf3 -c {4} -u -b 0 -n 2M -l 1200", "sender")];

/// Running servers. They end by SIGTERM, so that they end their workers too.
#[derive(Default)]
struct Servers(Vec<Process>);

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.0 {
            if server.try_wait().is_none() {
                server.signal(Signal::TERM);
            }
        }
        let ended = || self.0.iter_mut().all(|server| server.try_wait().is_some()).then_some(());
        // Those that do not are killed.
        let _ = wait::within(wait::PATIENCE, ended);
    }
}

/// What stands for the words in braces.
#[derive(Clone)]
struct Subject {
    name: &'static str,
    dir: String,
    v4: String,
    v6: String,
    from4: String,
    from6: String,
}

impl Subject {
    /// The machine at a place, with its files in a directory.
    fn new(name: &'static str, place: Place, dir: &Path) -> Self {
        let dir = dir.join(name).to_string_lossy().into_owned();
        let (v4, v6) = first_addresses(place);
        Self { name, dir, v4, v6, from4: String::new(), from6: String::new() }
    }

    /// The same, asked from these addresses.
    fn seen_from(&self, (from4, from6): (String, String)) -> Self {
        Self { from4, from6, ..self.clone() }
    }

    fn fill(&self, text: &str) -> String {
        let words = [
            ("{name}", self.name),
            ("{dir}", &self.dir),
            ("{4}", &self.v4),
            ("{6}", &self.v6),
            ("{from4}", &self.from4),
            ("{from6}", &self.from6),
        ];
        words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    }
}

fn first_addresses(place: Place) -> (String, String) {
    let addresses = place.addresses();
    let named = |wanted: &str| {
        let found = addresses.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, address)| address.to_string()).expect("an address")
    };
    (named("4"), named("6"))
}

/// The words of a command line: split at spaces, of which those after a backslash are kept and doubled ones
/// make an empty word.
fn words(line: &str) -> Vec<String> {
    line.replace("\\ ", "\u{1}").split(' ').map(|word| word.replace('\u{1}', " ")).collect()
}

fn command(world: &mut World<'_>, place: Place, line: &str) -> Command {
    let words = words(line);
    let mut command = world.command(place, &words[0]);
    command.args(&words[1..]);
    command
}

/// Configuration and keys of a machine's servers, and of all clients.
fn prepare(subject: &Subject) {
    let dir = Path::new(&subject.dir);
    fs::create_dir(dir).expect("make a directory");
    let write = |name: &str, text: &str| fs::write(dir.join(name), subject.fill(text)).expect("write a file");
    write("name", "{name}\n");
    // Without the file capability that Debian gives it, with which it cannot be run where that is not to be had.
    fs::copy("/usr/bin/ping", dir.join("ping")).expect("copy ping");
    write(
        "nginx.conf",
        "daemon off; user root; pid {dir}/nginx.pid; worker_processes 2; error_log stderr;
         events {}
         http { access_log off; client_body_temp_path {dir}/t1; proxy_temp_path {dir}/t2;
           fastcgi_temp_path {dir}/t3; uwsgi_temp_path {dir}/t4; scgi_temp_path {dir}/t5;
           server { listen 80 reuseport; listen [::]:80; return 200 '{name} $server_addr $remote_addr\\n'; } }",
    );
    key(&dir.join("host_key"));
    write(
        "sshd_config",
        "HostKey {dir}/host_key\nAuthorizedKeysFile {dir}/../key.pub\nStrictModes no\nUsePAM no\n\
         PidFile none\nUseDNS no\nPermitRootLogin yes\n",
    );
    write(
        "ssh_config",
        "IdentityFile {dir}/../key\nUserKnownHostsFile /dev/null\nStrictHostKeyChecking no\nLogLevel ERROR\n\
         BatchMode yes\n",
    );
}

fn key(path: &Path) {
    let keygen = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).status();
    assert!(keygen.is_ok_and(|status| status.success()), "ssh-keygen");
}

/// Runs a client until it gets the answer (servers may still be starting). What is wrong, if anything is.
fn ask(world: &mut World<'_>, place: Place, line: &str, expected: &str) -> Option<String> {
    let mut last = String::new();
    let good = wait::within(wait::PATIENCE, || {
        let output = command(world, place, line).output().expect("start a client");
        last = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        contains(&last, expected).then_some(())
    });
    good.is_none().then(|| format!("from {place:?}: {line}\nexpected: {expected}\nanswer: {last}\n"))
}

/// Whether `text` contains `expected`, in which ` * ` stands for some word.
fn contains(text: &str, expected: &str) -> bool {
    match expected.split_once(" * ") {
        None => text.contains(expected),
        Some((before, after)) => text.match_indices(before).any(|(start, _)| {
            let rest = text[start + before.len()..].strip_prefix(' ').unwrap_or_default();
            rest.split_once(' ').is_some_and(|(_, rest)| rest.starts_with(after))
        }),
    }
}

/// All servers on all machines, then all questions.
fn play(world: &mut World<'_>) {
    let files = tempfile::tempdir().expect("make a directory");
    fs::set_permissions(files.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    key(&files.path().join("key"));
    fs::create_dir_all("/run/sshd").expect("make sshd's directory");
    let places = [
        ("red", Place::compartment(Shape::Dual, 0)),
        ("blue", Place::compartment(Shape::Dual, 1)),
        ("host", HOST),
    ];
    let machines = places.map(|(name, place)| (place, Subject::new(name, place, files.path())));
    let mut servers = Servers::default();
    for (place, subject) in &machines {
        prepare(subject);
        for line in SERVERS {
            servers.0.push(Process::spawn(&mut command(world, *place, &subject.fill(line))));
        }
    }
    // Of its IPv6 addresses the peer takes the newest.
    let (peer, peer_from) =
        (Place::peer(0), (first_addresses(Place::peer(0)).0, first_addresses(Place::peer(2)).1));
    let mut wrong = Vec::new();
    for (place, subject) in &machines {
        let mut questions = vec![(peer, subject.seen_from(peer_from.clone()))];
        let loopback = ("127.0.0.1".to_owned(), "::1".to_owned());
        let local = Subject { v4: loopback.0.clone(), v6: loopback.1.clone(), ..subject.clone() };
        questions.push((*place, local.seen_from(loopback)));
        // The host's own programs take the address that they go to, where a machine of the oracle does not.
        for (client, _) in machines.iter().filter(|(client, _)| client != place && *client != HOST) {
            questions.push((*client, subject.seen_from(first_addresses(*client))));
        }
        for (client, subject) in questions {
            let outside = if [client, HOST].contains(place) { &[] } else { QUESTIONS_FROM_OUTSIDE };
            for (question, answer) in QUESTIONS.iter().chain(outside) {
                wrong.extend(ask(world, client, &subject.fill(question), &subject.fill(answer)));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    for server in &mut servers.0 {
        assert!(server.try_wait().is_none(), "a server has ended:\n{}", server.output());
    }
}

#[test]
fn programs_alone() {
    if way_is_wanted("oracle") {
        play(&mut World::oracle("programs"));
    }
}

#[test]
fn programs_in_compartments() {
    if !way_is_wanted("crowd") {
        return;
    }
    let bed = Bed::new("programs");
    World::prepare(&bed);
    let mut daemon = Afnetd::start(&bed);
    play(&mut World::confined(&bed, &daemon));
    for name in ["c10", "c20"] {
        daemon.ok(&format!("del {name} --force"));
    }
    daemon.stop();
}
