//! Groups on the kernel path: unmodified programs of several compartments that listen on all addresses, and a peer that
//! speaks to all of them at once. (Each rule of it is compared with the kernel in `tests/confine/cases/multicast.txt`.)

use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::Bed,
    process::Process,
};

const GROUPS: [&str; 2] = ["239.255.1.1", "ff05::1:1"];

/// Short names for the scripts.
const PRELUDE: &str = "
import socket, struct, sys
from socket import *
index = if_nametoindex('peer0' if sys.argv[1] == 'peer' else 'dev0')
def join(s, group):
    if ':' in group: s.setsockopt(IPPROTO_IPV6, 20, inet_pton(AF_INET6, group) + struct.pack('=I', index))
    else: s.setsockopt(IPPROTO_IP, 35, inet_aton(group) + struct.pack('=II', 0, index))
";

/// Hears questions and answers each, in the manner of mDNS; prints them too. Its name, then what it joins.
const RESPONDER: &str = "
s = socket(AF_INET6, SOCK_DGRAM)
s.bind(('::', 5353))
for group in sys.argv[2:]: join(s, group)
print('ready')
while True:
    question, peer = s.recvfrom(100)
    print('asked', question.decode(), '.')
    s.sendto(sys.argv[1].encode() + b' of ' + question, peer)
";

/// Asks a group and prints who answers, when that many have. Its arguments: group, question, number.
const ASK: &str = "
group, question, count = sys.argv[2], sys.argv[3], int(sys.argv[4])
s = socket(AF_INET6 if ':' in group else AF_INET, SOCK_DGRAM)
s.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b'peer0')
s.settimeout(30)
s.sendto(question.encode(), (group, 5353))
answers = []
while len(answers) < count:
    answer = s.recv(100).decode()
    if answer.endswith(' of ' + question): answers.append(answer.split()[0])
print(*sorted(answers))
";

fn start(daemon: &Afnetd<'_>, name: &str, script: &str, arguments: &[&str]) -> Process {
    let mut command = daemon.netns().command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", name, "--", "python3", "-uc"]);
    let mut process = Process::spawn(command.arg(format!("{PRELUDE}{script}")).arg(name).args(arguments));
    process.wait_for_output("ready");
    process
}

/// Runs a script at the peer and returns what it printed.
fn peer(bed: &Bed, script: &str, arguments: &[&str]) -> String {
    let mut command = bed.peer.command("python3");
    let output = command.arg("-c").arg(format!("{PRELUDE}{script}")).arg("peer").args(arguments).output();
    let output = output.expect("start python3");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn one_question_is_answered_by_all_who_have_joined() {
    let bed = Bed::new("groups");
    let mut daemon = Afnetd::start(&bed);
    let names = ["red", "blue", "green", "idle"];
    let mut running = Vec::new();
    for (name, last) in names.into_iter().zip(10..) {
        daemon.add_compartment(name, &[&format!("192.0.2.{last}/24"), &format!("2001:db8::{last}/64")]);
        let joined: &[&str] = if name == "idle" { &[] } else { &GROUPS };
        running.push(start(&daemon, name, RESPONDER, joined));
    }
    let ask = |when: &str, who: &str| {
        let count = who.split(' ').count().to_string();
        for group in GROUPS {
            let question = format!("{when}-{group}");
            assert_eq!(peer(&bed, ASK, &[group, &question, &count]), who, "{question}");
        }
    };
    ask("first", "blue green red");
    daemon.kill();
    ask("alone", "blue green red");
    daemon.restart();
    ask("again", "blue green red");
    daemon.ok("del blue --stop");
    ask("later", "green red");
    // Its slot is another's now, who has nothing to do with it.
    daemon.add_compartment("new", &["192.0.2.11/24", "2001:db8::11/64"]);
    let mut new = start(&daemon, "new", RESPONDER, &[]);
    ask("last", "green red");
    for (process, address) in [(&mut running[3], "192.0.2.13"), (&mut new, "192.0.2.11")] {
        peer(&bed, ASK, &[address, "unicast", "1"]);
        process.wait_for_output("asked unicast .");
        assert_eq!(process.output().matches("asked").count(), 1, "{}", process.output());
    }
    drop(running);
    daemon.stop();
}

/// Counts what it hears until the end.
const COUNT: &str = "
s = socket(AF_INET, SOCK_DGRAM)
s.bind(('0.0.0.0', 7000))
join(s, sys.argv[2])
print('ready')
heard = []
while heard[-1:] != ['end']: heard.append(s.recv(100).decode())
print('heard', *sorted(heard), '.')
";

/// A burst, then the end, in its own time.
const BURST: &str = "
s = socket(AF_INET, SOCK_DGRAM)
s.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b'peer0')
for number in range(int(sys.argv[3])): s.sendto(b'%02d' % number, (sys.argv[2], 7000))
import time; time.sleep(0.5)
s.sendto(b'end', (sys.argv[2], 7000))
";

#[test]
fn each_of_many_hears_a_burst_once() {
    let bed = Bed::new("burst");
    let mut daemon = Afnetd::start(&bed);
    let mut running = Vec::new();
    for number in 0..12 {
        let name = format!("c{number}");
        daemon.add_compartment(&name, &[&format!("192.0.2.{}/24", 10 + number)]);
        running.push(start(&daemon, &name, COUNT, &GROUPS[..1]));
    }
    peer(&bed, BURST, &[GROUPS[0], "80"]);
    let numbers: Vec<String> = (0..80).map(|number| format!("{number:02}")).collect();
    let expected = format!("heard {} end .", numbers.join(" "));
    for process in &mut running {
        process.wait_for_output(" end .");
        assert!(process.output().contains(&expected), "{}", process.output());
    }
    drop(running);
    daemon.stop();
}

/// Prints the lengths of what it hears at an address.
const LENGTHS: &str = "
s = socket(AF_INET, SOCK_DGRAM)
s.bind((sys.argv[2], 7000))
join(s, sys.argv[3])
print('ready')
while True: print('heard', len(s.recv(10000)), '.')
";

/// A datagram in fragments, and a whole one.
const FRAGMENTS: &str = "
s = socket(AF_INET, SOCK_DGRAM)
s.setsockopt(SOL_SOCKET, SO_BINDTODEVICE, b'peer0')
s.sendto(bytes(4000), (sys.argv[2], 7000))
s.sendto(bytes(1400), (sys.argv[2], 7000))
";

/// Known and accepted: the kernel puts fragments together after the program at the device.
#[test]
fn what_comes_in_fragments_is_heard_at_the_groups_address() {
    let bed = Bed::new("pieces");
    let mut daemon = Afnetd::start(&bed);
    let group = GROUPS[0];
    let mut hearing = Vec::new();
    for (name, last, at) in [("red", 10, "0.0.0.0"), ("blue", 11, group)] {
        daemon.add_compartment(name, &[&format!("192.0.2.{last}/24")]);
        hearing.push(start(&daemon, name, LENGTHS, &[at, group]));
    }
    peer(&bed, FRAGMENTS, &[group]);
    for (process, expected) in hearing.iter_mut().zip(["heard 1400 .", "heard 4000 .\nheard 1400 ."]) {
        process.wait_for_output("heard 1400 .");
        assert_eq!(process.output().trim_start_matches("ready\n").trim(), expected);
    }
    drop(hearing);
    daemon.stop();
}

#[test]
fn a_common_program_hears() {
    let bed = Bed::new("socat");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("red", &["192.0.2.10/24"]);
    let mut command = bed.host.command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", "red", "--", "socat", "-u", "-d", "-d"]);
    let mut socat = Process::spawn(command.args(["UDP4-RECV:7000,ip-add-membership=239.255.1.1:dev0", "-"]));
    socat.wait_for_output("starting data transfer loop");
    bed.peer.run("sh -c echo${IFS}hello|socat${IFS}-u${IFS}-${IFS}UDP4-DATAGRAM:239.255.1.1:7000,so-bindtodevice=peer0");
    socat.wait_for_output("hello");
    drop(socat);
    daemon.stop();
}
