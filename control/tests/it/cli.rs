//! The command line beyond single commands: batches, exec, generated files; and what a thousand compartments cost.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use afnet_abi::control::{Answer, Request};
use afnet_tests::afnetd::{Afnetd, binary};
use afnet_tests::bed::DEVICE;

use crate::bed;

#[test]
fn a_batch_tells_the_line_and_goes_on_by_force() {
    let bed = bed("batch");
    let mut daemon = Afnetd::start(&bed);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("batch");
    let text = format!(
        "# comment\nadd a\n\naddr add 192.0.2.10/24 \\\n  dev {DEVICE} afnetns a\nadd a\nadd b\nnonsense\nadd 'c'\n"
    );
    fs::write(&file, text).unwrap();
    let path = file.display();
    let said = daemon.fails(&format!("-batch {path}"));
    assert!(said.contains(&format!("{path}:6: a exists already")), "{said}");
    assert_eq!(daemon.json("list").as_array().unwrap().len(), 1);
    let forced = daemon.afnet(&format!("-force -batch {path}"));
    let said = String::from_utf8_lossy(&forced.stderr).into_owned();
    assert_eq!(forced.status.code(), Some(1), "{said}");
    assert!(said.contains(":8: ") && said.contains("nonsense"), "{said}");
    assert_eq!(daemon.json("list").as_array().unwrap().len(), 3);
    // Standard input, with output as JSON.
    let mut command = bed.host.command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "-j", "-b", "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"list\naddr\n").unwrap();
    let output = child.wait_with_output().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && lines.lines().count() == 2, "{lines}");
    lines.lines().for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).unwrap()));
    daemon.stop();
}

#[test]
fn exit_statuses_are_those_of_env_and_ip() {
    let bed = bed("status");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    for (line, status) in [
        ("exec a -- true", 0),
        ("exec a -- false", 1),
        ("exec a -- /nonexistent", 127),
        ("exec a -- /etc/passwd", 126),
        ("exec nosuch -- true", 1),
        ("add a", 1),
        ("add a b", 2),
        ("addr add 192.0.2.1/24 afnetns a", 2),
        ("", 2),
        ("--instance nosuch list", 1),
    ] {
        // The last --instance counts.
        let output = match line.strip_prefix("--instance nosuch ") {
            Some(rest) => {
                bed.host.command(binary("afnet")).args(["--instance", "nosuch", rest]).output().unwrap()
            }
            None => daemon.afnet(line),
        };
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "afnet {line}: {said}");
    }
    let said = daemon.afnet("exec a -- printenv AFNET_INSTANCE").stdout;
    assert_eq!(String::from_utf8_lossy(&said).trim(), daemon.instance());
    daemon.stop();
}

#[test]
fn a_compartment_with_processes_goes_by_force_only() {
    let bed = bed("force");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("a", &["192.0.2.10/24"]);
    let mut command = bed.host.command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", "a", "--", "sleep", "1000"]);
    let mut sleeper = afnet_tests::process::Process::spawn(&mut command);
    let Answer::Cgroup { path } = daemon.request(&Request::Cgroup { name: "a".to_owned() }) else { panic!() };
    afnet_tests::wait::until_true("the process to be inside", || {
        !fs::read_to_string(format!("{path}/cgroup.procs")).unwrap().is_empty()
    });
    let said = daemon.fails("del a");
    assert!(said.contains("1 processes") && said.contains("--force"), "{said}");
    assert_eq!(daemon.json("addr list").as_array().unwrap().len(), 1, "nothing has changed");
    daemon.ok("del a --force");
    sleeper.wait();
    afnet_tests::wait::until_true("the name to be free", || daemon.afnet("add a").status.success());
    daemon.stop();
}

#[test]
fn completion_and_manual_pages_are_generated() {
    let dir = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_afnet")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completion", shell]).contains("endpoints"), "{shell}");
    }
    run(&["man", dir.path().to_str().unwrap()]);
    for page in ["afnet.1", "afnet-addr-add.1", "afnet-exec.1", "afnetd.1"] {
        let text = fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(text.contains(".SH NAME"), "{page}");
    }
    let counters =
        std::process::Command::new(env!("CARGO_BIN_EXE_afnetd")).arg("--help-counters").output().unwrap();
    assert!(String::from_utf8_lossy(&counters.stdout).contains("rx_delivered"));
}

/// Processor time that a process has used, in milliseconds.
fn cpu_ms(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    stat.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1_000_000
}

#[test]
fn a_thousand_compartments_cost_little() {
    const COUNT: u64 = 1000;
    let bed = bed("thousand");
    let mut daemon = Afnetd::start(&bed);
    let pid = daemon.process().id();
    let resident = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let batch = |verb: &str| {
        let mut text = String::new();
        for i in 0..COUNT {
            text += &format!("{verb} c{i}\n");
            if verb == "add" {
                text += &format!("addr add 10.1.{}.{}/16 dev {DEVICE} afnetns c{i}\n", i / 250, i % 250 + 1);
            }
        }
        let file = dir.path().join(verb);
        fs::write(&file, text).unwrap();
        format!("-batch {}", file.display())
    };
    // The first batch warms allocators and caches up.
    daemon.ok(&batch("add"));
    daemon.ok(&batch("del"));
    let (memory, cpu) = (resident(), cpu_ms(pid));
    daemon.ok(&batch("add"));
    let (memory, cpu) = (resident().saturating_sub(memory), cpu_ms(pid) - cpu);
    println!("{COUNT} compartments: {cpu} ms of the control thread, {memory} KiB more resident");
    // A guard against regressions that holds on a busy machine too; the benchmarks measure.
    assert!(cpu < 4 * COUNT, "{cpu} ms for {COUNT}: more than 4 ms each");
    assert!(memory < 16 * COUNT, "{memory} KiB for {COUNT}: more than 16 KiB each");
    assert_eq!(daemon.json("list").as_array().unwrap().len(), 1000);
    daemon.stop();
}
