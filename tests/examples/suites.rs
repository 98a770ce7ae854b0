//! `tools/test --suites`: other people's test suites of sockets, on the kernel, in a compartment, and in a compartment
//! under the socket shim with loopback accelerated, too.
//!
//! What fails under the shim has to fail in the compartment without it; what fails there and not on the kernel is
//! shown. And the shim's own counts have to show that it has done something. Words on the command line: only suites
//! whose name contains one.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use afnet_tests::{
    afnetd::Afnetd,
    bed::Bed,
    netns::Netns,
    process::Process,
    shim::{Counts, command, plain_command},
    wait,
};

/// A suite.
struct Suite {
    name: &'static str,
    /// What to run.
    tests: &'static [&'static str],
    /// Whether it has UDP sockets that send and receive.
    accelerated: bool,
}

/// All of them. UDP-Lite is none of a compartment's protocols.
const SUITES: &[Suite] = &[
    Suite {
        name: "python-socket",
        tests: &[
            "test_socket",
            "-m",
            "*UDP*",
            "-m",
            "*Recvmsg*",
            "-m",
            "*Sendmsg*",
            "-m",
            "*Timeout*",
            "-i",
            "*UDPLITE*",
        ],
        accelerated: true,
    },
    Suite {
        name: "python-select",
        tests: &["test_select", "test_poll", "test_epoll", "test_selectors"],
        accelerated: false,
    },
    Suite {
        name: "python-asyncio",
        tests: &["test_asyncio", "-m", "*datagram*", "-m", "*Datagram*", "-m", "*udp*", "-m", "*sendto*"],
        accelerated: true,
    },
    Suite {
        name: "python-socketserver",
        tests: &["test_socketserver", "-u", "network", "-m", "*UDP*"],
        accelerated: true,
    },
];

/// The interpreter that Debian's libpython3.11-testsuite is for.
const PYTHON: &str = "/usr/bin/python3.11";
/// No suite takes longer.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(600);

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).collect();
    let mut good = true;
    for suite in SUITES {
        if wanted.is_empty() || wanted.iter().any(|word| suite.name.contains(&**word)) {
            good &= compare(suite);
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a suite three ways; whether the shim does as the compartment does without it.
fn compare(&Suite { name, tests: arguments, accelerated }: &Suite) -> bool {
    let kernel = Netns::new("suites");
    let bed = Bed::new("suites");
    let daemon = Afnetd::start(&bed);
    daemon.add_compartment("c", &["192.0.2.10/24", "2001:db8::10/64"]);
    let files = tempfile::tempdir().expect("make a directory");
    let stats = files.path().join("stats");
    let settings = [
        ("AFNET_SHIM_LOOPBACK", "1"),
        ("AFNET_SHIM_AFTER", "0"),
        ("AFNET_SHIM_STATS", &*stats.display().to_string()),
    ];
    let native = play(kernel.command("env"), arguments, files.path());
    let plain = play(plain_command(&daemon, "c"), arguments, files.path());
    let shim = play(command(&daemon, "c", &settings), arguments, files.path());
    let counts = Counts::take(&stats);
    let count = |results: &BTreeMap<String, bool>| results.values().filter(|good| **good).count();
    println!(
        "{name}: passed natively {} of {}, in a compartment {} of {}, under the shim {} of {}; \
         {} sockets accelerated, {} received, {} sent",
        count(&native),
        native.len(),
        count(&plain),
        plain.len(),
        count(&shim),
        shim.len(),
        counts.of("accelerated"),
        counts.of("rx"),
        counts.of("tx")
    );
    let failures = |of: &BTreeMap<String, bool>, beside: &BTreeMap<String, bool>| -> BTreeSet<String> {
        // One that has not been run to its end has failed, too.
        let good = beside.iter().filter(|(_, good)| **good).map(|(name, _)| name.clone());
        good.filter(|name| of.get(name) != Some(&true)).collect()
    };
    for failure in failures(&plain, &native) {
        println!("  fails in a compartment: {failure}");
    }
    let bad = failures(&shim, &plain);
    for failure in &bad {
        println!("  FAILS UNDER THE SHIM: {failure}");
    }
    let idle = accelerated && (counts.of("accelerated") == 0 || counts.of("rx") == 0);
    if idle {
        println!("  NOTHING WAS ACCELERATED");
    }
    bad.is_empty() && !idle && count(&native) > 0
}

/// Runs CPython's tests; which have passed.
fn play(mut command: Command, arguments: &[&str], dir: &Path) -> BTreeMap<String, bool> {
    command.args([PYTHON, "-m", "test", "-v", "--timeout", "120"]).args(arguments);
    command.current_dir(dir).stdin(Stdio::null());
    let mut process = Process::spawn(&mut command);
    if wait::within(PATIENCE, || process.try_wait()).is_none() {
        println!("  does not end");
    }
    let output = process.output();
    if env::var_os("SUITES_SHOW").is_some() {
        let path = env::temp_dir().join(format!("afnet-suite-{}", process.id()));
        fs::write(&path, &output).expect("write a file");
        println!("  output in {}", path.display());
    }
    results(&output)
}

/// `test_x (test.test_socket.Y.test_x) ... ok`, with other output in between perhaps.
fn results(output: &str) -> BTreeMap<String, bool> {
    let mut results = BTreeMap::new();
    let mut last = None;
    for line in output.lines() {
        if let Some((name, rest)) = line.split_once(") ... ") {
            last = name.split_once('(').map(|(_, name)| name.to_owned());
            if let (Some(name), Some(good)) = (&last, verdict(rest)) {
                results.insert(name.clone(), good);
                last = None;
            }
        } else if let (Some(name), Some(good)) = (&last, verdict(line)) {
            results.insert(name.clone(), good);
            last = None;
        }
    }
    results
}

fn verdict(text: &str) -> Option<bool> {
    match text.trim() {
        "ok" => Some(true),
        "FAIL" | "ERROR" => Some(false),
        _ => None,
    }
}
