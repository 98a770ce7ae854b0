//! `tools/test --suites`: other people's test suites of sockets, on the kernel, in a compartment, and in a compartment
//! under the socket shim with loopback accelerated, too.
//!
//! What fails under the shim has to fail in the compartment without it; what fails there and not on the kernel is
//! shown. And the shim's own counts have to show that it has done something, or that it has not, where there is a reason.
//! Words on the command line: only suites whose name contains one. `SUITES_SHOW=1` keeps what they write.
//!
//! Nothing of theirs is here: [`fetch`] gets it from Debian's archive and the crate registry, once, into
//! `target/suites`.

mod fetch;
mod results;
mod table;

use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::{Command, ExitCode},
    time::Duration,
};

use afnet_tests::{
    afnetd::Afnetd,
    bed::Bed,
    netns::Netns,
    process::Process,
    shim::{Counts, command, plain_command},
    wait,
};

use crate::{
    results::Results,
    table::{Idle, SUITES, Suite},
};

/// No suite takes longer.
const PATIENCE: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let wanted: Vec<String> = env::args().skip(1).collect();
    let wanted: Vec<_> = SUITES
        .iter()
        .filter(|suite| wanted.is_empty() || wanted.iter().any(|word| suite.name.contains(&**word)))
        .collect();
    let mut good = !wanted.is_empty();
    for suite in wanted {
        let words = (suite.prepare)();
        good &= compare(suite, &words);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a suite three ways; whether the shim does as the compartment does without it.
fn compare(suite: &Suite, words: &[String]) -> bool {
    let kernel = Netns::new("suites");
    let bed = Bed::new("suites");
    let daemon = Afnetd::start(&bed);
    daemon.add_compartment("c", &["192.0.2.10/24", "2001:db8::10/64"]);
    let files = tempfile::tempdir().expect("make a directory");
    let stats = files.path().join("stats");
    let stats_path = stats.display().to_string();
    let mut settings = vec![("AFNET_SHIM_LOOPBACK", "1"), ("AFNET_SHIM_STATS", &*stats_path)];
    // At once; but then the shim does not wait until it has seen how the program waits.
    if !matches!(suite.idle, Some(Idle::Unseen(_))) {
        settings.push(("AFNET_SHIM_AFTER", "0"));
    }
    let run = |command| play(suite, command, words, files.path());
    let native = run(kernel.command("env"));
    let plain = run(plain_command(&daemon, "c"));
    let shim = run(command(&daemon, "c", &settings));
    let counts = Counts::take(&stats);
    if env::var_os("SUITES_SHOW").is_some() {
        println!("  {:?}", daemon.counters("c"));
    }
    let [accelerated, received, sent] = ["accelerated", "rx", "tx"].map(|name| counts.of(name));
    println!(
        "{}: passed natively {native}, in a compartment {plain}, under the shim {shim}; {accelerated} sockets \
         accelerated, {received} received, {sent} sent",
        suite.name,
    );
    // One that has not been run to its end has failed, too.
    let failures = |of: &Results, beside: &Results| -> BTreeSet<String> {
        beside.passed().filter(|name| !of.has_passed(name)).map(str::to_owned).collect()
    };
    for failure in failures(&plain, &native) {
        println!("  fails in a compartment: {failure}");
    }
    let mut good = native.passed().next().is_some();
    for failure in failures(&shim, &plain) {
        match suite.accepted.iter().find(|(name, _)| *name == failure) {
            Some((name, reason)) => println!("  fails under the shim: {name}: {reason}"),
            None => {
                println!("  FAILS UNDER THE SHIM: {failure}");
                good = false;
            }
        }
    }
    for (name, _) in suite.accepted.iter().filter(|(name, _)| shim.has_passed(name)) {
        println!("  PASSES UNDER THE SHIM, and is said not to: {name}");
        good = false;
    }
    let as_expected = match suite.idle {
        None => accelerated > 0 && received > 0 && sent > 0,
        Some(Idle::Nothing(_)) => true,
        Some(Idle::Unseen(_)) => received + sent == 0,
    };
    match suite.idle {
        Some(Idle::Nothing(reason)) => println!("  few datagrams, or none: {reason}"),
        Some(Idle::Unseen(reason)) => println!("  with the kernel: {reason}"),
        None if !as_expected => println!("  NOTHING WAS ACCELERATED"),
        None => {}
    }
    good && as_expected
}

/// Runs a suite one way.
fn play(suite: &Suite, mut command: Command, words: &[String], dir: &Path) -> Results {
    command.args(words).current_dir(dir);
    let mut process = Process::spawn(&mut command);
    if wait::within(PATIENCE, || process.try_wait()).is_none() {
        println!("  does not end");
    }
    let output = process.output();
    if env::var_os("SUITES_SHOW").is_some() {
        let path = env::temp_dir().join(format!("afnet-suite-{}-{}", suite.name, process.id()));
        fs::write(&path, &output).expect("write a file");
        println!("  output in {}", path.display());
    }
    (suite.results)(&output)
}
