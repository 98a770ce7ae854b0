//! Processes and the control socket: who is administrator from where, hostile orders to move processes, attaching,
//! listing, and the ways in which a compartment's processes end.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use afnet_abi::control::{Answer, MAX_GRACE, Request};
use afnet_tests::afnetd::{Afnetd, binary};
use afnet_tests::bed::{Bed, DEVICE};
use afnet_tests::process::Process;
use afnet_tests::wait;
use rustix::process::Signal;

use crate::bed;
use crate::claims::ATTACH;
use crate::exec::as_nobody;
use crate::tenant::Tenant;

/// A program in the compartment, once it is there.
fn inside(bed: &Bed, daemon: &Afnetd<'_>, name: &str, program: &[&str]) -> Process {
    let mut command = bed.host.command(binary("afnet"));
    let process =
        Process::spawn(command.args(["--instance", daemon.instance(), "exec", name, "--"]).args(program));
    let started =
        || fs::read(format!("/proc/{}/cmdline", process.id())).unwrap().starts_with(program[0].as_bytes());
    wait::until_true("the program to run", started);
    process
}

/// Whether a process is in a compartment, as the kernel says.
fn is_in(daemon: &Afnetd<'_>, pid: u32, name: &str) -> bool {
    let want = format!("0::/afnet-{}/{name}", daemon.instance());
    fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap().lines().any(|line| line == want)
}

fn enter(name: &str, pid: u32) -> Request {
    Request::Enter { name: name.to_owned(), pid: Some(pid) }
}

#[test]
fn nothing_is_administered_from_within_a_compartment() {
    let bed = bed("within");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    daemon.add_compartment("b", &[]);
    let sleeper = inside(&bed, &daemon, "b", &["sleep", "1000"]);
    let before = (daemon.json("list"), daemon.json("addr list"));
    let afnet = binary("afnet").display().to_string();
    let pid = sleeper.id().to_string();
    // As root, with all capabilities even.
    for trusted in ["off", "on"] {
        daemon.ok(&format!("set a --capabilities={trusted}"));
        let before = (daemon.json("list"), daemon.json("addr list"));
        for line in [
            "add c",
            "set a --raw-sockets",
            "set b --user root",
            "del b --force",
            "addr add 192.0.2.11/24 dev dev0 afnetns a",
            "addr del 192.0.2.10/24 dev dev0",
            "exec b -- true",
            &format!("attach a {pid}"),
            "attach a 1",
        ] {
            let said = daemon.fails(&format!("exec a -- {afnet} --instance {} {line}", daemon.instance()));
            assert!(said.contains("not permitted"), "{line}: {said}");
        }
        for request in [r#"{"op":"cgroup","name":"a"}"#, r#"{"op":"attach","kind":"udp","name":"b"}"#] {
            let mut command = bed.host.command(binary("afnet"));
            command.args([
                "--instance",
                daemon.instance(),
                "exec",
                "a",
                "--",
                "/usr/bin/python3",
                "-c",
                ATTACH,
            ]);
            let output = command.arg(daemon.socket_path()).arg(request).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(said.contains("EPERM"), "{request}: {said}");
        }
        assert_eq!((daemon.json("list"), daemon.json("addr list")), before);
    }
    daemon.ok("set a --capabilities=off");
    assert_eq!((daemon.json("list"), daemon.json("addr list")), before);
    assert!(is_in(&daemon, sleeper.id(), "b"));
    // A line longer than a tenant's requests need is not for root in there either.
    let long = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({:?})\ns.sendall(b'x' * 5000)\nprint(s.recv(500))",
        daemon.socket_path().display().to_string()
    );
    let mut command = bed.host.command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", "a", "--", "/usr/bin/python3", "-c", &long]);
    let said = String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned();
    assert!(said.contains("EMSGSIZE"), "{said}");
    drop(sleeper);
    daemon.stop();
}

#[test]
fn members_of_the_configured_group_are_administrators_outside_only() {
    let bed = bed("group");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("afnetd.toml");
    fs::write(&file, format!("group = \"4711\"\n[[device]]\nname = \"{DEVICE}\"\n")).unwrap();
    let mut daemon = Afnetd::start_with(&bed.host, &["--config", file.to_str().unwrap()]);
    let member = |line: &str| {
        let output = as_nobody(&bed, &daemon, "4711", line);
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(member("add a"), (true, String::new()));
    assert_eq!(member("set a --isolated"), (true, String::new()));
    assert_eq!(member("exec a -- true"), (true, String::new()));
    let sleeper = Process::spawn(Command::new("sleep").arg("1000"));
    assert!(member(&format!("attach a {}", sleeper.id())).0);
    assert!(is_in(&daemon, sleeper.id(), "a"));
    drop(sleeper);
    // The same user and group, inside.
    let mut command = bed.host.command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", "a", "--", "setpriv", "--reuid=65534"]);
    command.args(["--regid=65534", "--groups=4711"]).arg(binary("afnet"));
    let output = command.args(["--instance", daemon.instance(), "add", "b"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("not permitted"), "{said}");
    assert_eq!(member("del a"), (true, String::new()));
    daemon.stop();
}

/// Says hello, then sends each line of its standard input and prints the reply. With `fork` as second argument its
/// parent, who connected, ends first.
const TALK: &str = r#"
import socket, sys, os
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); f = s.makefile()
s.sendall(b'{"op":"hello","version":1}\n'); print(f.readline().strip(), flush=True)
if len(sys.argv) > 2 and os.fork(): os._exit(0)
for line in sys.stdin:
    s.sendall(line.encode()); print(f.readline().strip(), flush=True)
"#;

struct Talk {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Talk {
    fn start(daemon: &Afnetd<'_>, arguments: &[&str]) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.arg("-c").arg(TALK).arg(daemon.socket_path()).args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut talk = Self { child, lines };
        assert!(talk.next().contains("hello"));
        talk
    }

    fn next(&mut self) -> String {
        self.lines.next().expect("a reply").unwrap()
    }

    fn ask(&mut self, request: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{request}").unwrap();
        self.next()
    }
}

impl Drop for Talk {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

#[test]
fn a_connection_loses_its_privilege_when_its_process_is_moved_or_gone() {
    let bed = bed("moved");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    let mut talk = Talk::start(&daemon, &[]);
    assert!(talk.ask(r#"{"op":"add","name":"x"}"#).contains("ok"));
    daemon.ok(&format!("attach a {}", talk.child.id()));
    let said = talk.ask(r#"{"op":"add","name":"y"}"#);
    assert!(said.contains("EPERM") && said.contains("within a compartment"), "{said}");
    assert!(talk.ask(r#"{"op":"enter","name":"x"}"#).contains("EPERM"));
    drop(talk);
    // Whoever has got the descriptor of a process that is gone is not that process.
    let mut talk = Talk::start(&daemon, &["fork"]);
    // (`wait` would close its standard input, which the child reads.)
    wait::until("the process that connected to end", || talk.child.try_wait().unwrap());
    let said = talk.ask(r#"{"op":"add","name":"y"}"#);
    assert!(said.contains("EPERM") && said.contains("is gone"), "{said}");
    assert!(talk.ask(r#"{"op":"list"}"#).contains("ok"), "what anybody may is not refused");
    assert!(talk.ask(r#"{"op":"enter","name":"x"}"#).contains("error"));
    drop(talk);
    assert_eq!(daemon.json("list").as_array().unwrap().len(), 2);
    daemon.stop();
}

#[test]
fn hostile_orders_to_move_processes() {
    let bed = bed("enter");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a --user nobody");
    daemon.ok("add b --user nobody");
    let own = daemon.process().id();
    let mut dead = Command::new("true").spawn().unwrap();
    let dead = (dead.id(), dead.wait().unwrap()).0;
    let kthreadd = 2;
    assert_eq!(fs::read_to_string("/proc/2/comm").unwrap(), "kthreadd\n");
    let mut admin = Tenant::connect(&daemon);
    for (pid, code) in [
        (0, "EINVAL"),
        (1, "EINVAL"),
        (own, "EINVAL"),
        (kthreadd, "EINVAL"),
        (dead, "ESRCH"),
        (i32::MAX.unsigned_abs(), "ESRCH"),
        (1 << 31, "ESRCH"),
        (u32::MAX, "ESRCH"),
    ] {
        assert_eq!(admin.ask(&enter("a", pid)).unwrap_err().code, code, "{pid}");
        assert_eq!(admin.ask(&enter("nosuch", pid)).unwrap_err().code, "ENOENT", "{pid}");
    }
    // Those who are no administrators move themselves and nobody else, whoever that is.
    let outsider =
        Process::spawn(Command::new("setpriv").args(["--reuid=65534", "--clear-groups", "sleep", "1000"]));
    let tenant = inside(&bed, &daemon, "b", &["sleep", "1000"]);
    for pid in [0, 1, own, kthreadd, dead, u32::MAX, outsider.id(), tenant.id()] {
        let output = as_nobody(&bed, &daemon, "", &format!("attach a {pid}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("not permitted"), "{pid}: {said}");
    }
    assert!(is_in(&daemon, tenant.id(), "b"));
    assert_eq!(daemon.ok(&format!("identify {}", outsider.id())), "");
    assert_eq!(daemon.ok("identify 1"), "");
    // What is no number of a process ends the connection and nothing else.
    for pid in ["-1", "4294967296", "\"1\"", "1.5", "[1]"] {
        let mut connection = daemon.connect();
        connection.send(format!(r#"{{"op":"enter","name":"a","pid":{pid}}}"#).as_bytes());
        assert!(connection.line().contains("EBADMSG"), "{pid}");
    }
    // An administrator may take a process from one compartment to another; again is no error.
    for was_there in [false, true] {
        let Ok(Answer::Entered { already, .. }) = admin.ask(&enter("a", tenant.id())) else { panic!() };
        assert_eq!(already, was_there);
        assert!(is_in(&daemon, tenant.id(), "a"));
    }
    assert!(daemon.process().try_wait().is_none());
    drop((outsider, tenant));
    daemon.stop();
}

#[test]
fn running_processes_are_attached_identified_and_listed() {
    let bed = bed("attach");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    let said = daemon.fails("pids a");
    assert!(said.contains("\"a\""), "{said}");
    let serve = "import socket, time\ns = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen()\n\
                 u = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); u.bind(('::1', 0))\nprint('ready', flush=True); time.sleep(1000)";
    let mut server = Process::spawn(bed.host.command("/usr/bin/python3").args(["-c", serve]));
    server.wait_for_output("ready");
    assert_eq!(daemon.ok(&format!("identify {}", server.id())), "");
    let output = daemon.afnet(&format!("attach a {}", server.id()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("2 sockets"), "{said}");
    assert!(is_in(&daemon, server.id(), "a"));
    let quiet = Process::spawn(Command::new("sleep").arg("1000"));
    let output = daemon.afnet(&format!("-j attach a {}", quiet.id()));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json, serde_json::json!({ "name": "a", "pid": quiet.id(), "sockets": 0 }));
    assert!(output.stderr.is_empty());
    let mut pids = [server.id(), quiet.id()];
    pids.sort_unstable();
    assert_eq!(daemon.json("pids a"), serde_json::json!(pids));
    assert_eq!(daemon.ok("pids a"), format!("{}\n{}\n", pids[0], pids[1]));
    // Without the daemon, and without any privilege.
    daemon.kill();
    let ask = |line: &str| {
        let output = as_nobody(&bed, &daemon, "", line);
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(ask(&format!("identify {}", quiet.id())), (Some(0), "a\n".to_owned()));
    assert_eq!(ask("identify"), (Some(0), String::new()));
    assert_eq!(ask("identify 1"), (Some(0), String::new()));
    assert_eq!(ask("pids a").1.lines().count(), 2);
    assert_eq!(ask("pids b"), (Some(1), String::new()));
    assert_eq!(ask("pids ../.."), (Some(2), String::new()));
    assert_eq!(ask("identify 4294967295"), (Some(1), String::new()));
    let json: serde_json::Value = serde_json::from_str(&ask("-j identify 1").1).unwrap();
    assert_eq!(json, serde_json::json!({ "pid": 1, "name": null }));
    daemon.restart();
    drop((server, quiet));
    daemon.ok("del a");
    daemon.stop();
}

#[test]
fn a_compartment_is_removed_with_its_processes_in_three_ways() {
    let bed = bed("del");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let orderly = |daemon: &Afnetd<'_>| {
        let script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.02; done";
        let mut process = inside(&bed, daemon, "a", &["sh", "-c", script]);
        process.wait_for_output("ready");
        process
    };
    let stubborn = |daemon: &Afnetd<'_>| {
        let script = "trap '' TERM; echo ready; while :; do sleep 0.02; done";
        let mut process = inside(&bed, daemon, "a", &["sh", "-c", script]);
        process.wait_for_output("ready");
        process
    };
    let free = |daemon: &Afnetd<'_>| {
        wait::until_true("the name to be free", || daemon.afnet("add a").status.success());
    };
    // Refused; nothing changes.
    let (mut first, mut second) = (orderly(&daemon), stubborn(&daemon));
    let said = daemon.fails("del a");
    assert!(
        ["processes live in a", "afnet pids a", "--stop", "--force"].iter().all(|w| said.contains(w)),
        "{said}"
    );
    assert!(first.try_wait().is_none() && second.try_wait().is_none());
    assert_eq!(daemon.json("addr list").as_array().unwrap().len(), 1);
    let mut client = Tenant::connect(&daemon);
    for (stop, force) in [(Some(1), true), (Some(MAX_GRACE + 1), false), (Some(u32::MAX), false)] {
        let request = Request::Del { name: "a".to_owned(), stop, force };
        assert_eq!(client.ask(&request).unwrap_err().code, "EINVAL");
    }
    // SIGTERM; what does not heed it gets SIGKILL, but not before its time.
    let start = Instant::now();
    daemon.ok("del a --stop --grace 1");
    assert!(start.elapsed().as_millis() < 900, "the command does not wait for the processes");
    assert_eq!(daemon.json("list"), serde_json::json!([]));
    assert_eq!(daemon.json("addr list"), serde_json::json!([]));
    assert!(first.wait().success() && first.output().contains("bye"));
    let said = daemon.fails("add a");
    assert!(said.contains("still being ended"), "{said}");
    assert!(second.try_wait().is_none(), "{:?}", start.elapsed());
    assert_eq!(second.wait().signal(), Some(Signal::KILL.as_raw()));
    assert!(start.elapsed().as_millis() >= 1000, "{:?}", start.elapsed());
    free(&daemon);
    // SIGKILL at once.
    let (mut first, mut second) = (orderly(&daemon), stubborn(&daemon));
    let start = Instant::now();
    daemon.ok("del a --force");
    for process in [&mut first, &mut second] {
        assert_eq!(process.wait().signal(), Some(Signal::KILL.as_raw()));
    }
    assert!(start.elapsed().as_millis() < 900, "{:?}", start.elapsed());
    assert!(!first.output().contains("bye"));
    free(&daemon);
    // The daemon dies meanwhile: the next one goes on.
    let mut second = stubborn(&daemon);
    daemon.ok("del a --stop --grace 3600");
    daemon.kill();
    assert!(second.try_wait().is_none());
    daemon.restart();
    assert_eq!(second.wait().signal(), Some(Signal::KILL.as_raw()));
    free(&daemon);
    // Without processes every way is the same.
    daemon.ok("del a --stop");
    daemon.ok("add a");
    daemon.ok("exec a -- true");
    daemon.ok("del a --force");
    free(&daemon);
    // One that keeps forking does not outrun its end.
    let forking = inside(&bed, &daemon, "a", &["sh", "-c", "while :; do sh -c 'sleep 0.05' & done"]);
    daemon.ok("del a --force");
    free(&daemon);
    drop(forking);
    daemon.stop();
}
