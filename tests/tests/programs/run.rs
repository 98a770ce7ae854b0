//! Starts a row's server, asks its questions, and looks at the endpoints.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use afnet_tests::{
    afnetd::Afnetd,
    bed::Bed,
    process::Process,
    shim::{self, fast_endpoints},
    wait,
};
use rustix::process::Signal;

/// The compartment, and its addresses.
pub const NAME: &str = "c";
/// IPv4.
pub const V4: &str = "192.0.2.10";
/// IPv6.
pub const V6: &str = "2001:db8::10";

/// A server has to be started and a question answered in this time; only a failing test takes so long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The clients that no package has.
pub const CLIENT: &str = include_str!("scripts/client.py");

/// What the fast path has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// Both directions.
    Fast,
    /// What comes in.
    FastIn,
    /// What goes out.
    FastOut,
    /// Nothing; the row says why.
    Nothing,
    /// Nothing; the shim's log says why.
    Kernel(&'static str),
}

/// A server and its clients. In all texts `{dir}` is a directory, `{4}` and `{6}` are the compartment's addresses and
/// `{client}` is `scripts/client.py`, `{static}` a program without libraries (`calls`), `{quic}` that of `quic.rs`; words
/// are split at spaces but those after a backslash.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Command line.
    pub server: &'static str,
    /// Files in the directory.
    pub files: &'static [(&'static str, &'static str)],
    /// Clients' command lines, and what their output has to contain.
    pub questions: &'static [(&'static str, &'static str)],
    /// What afnetd has to say of it.
    pub carried: Carried,
}

impl Default for Row {
    fn default() -> Self {
        Self { server: "", files: &[], questions: &[], carried: Carried::Fast }
    }
}

/// Starts the program of `quic.rs`; what it is to do goes before.
pub fn quic() -> String {
    let program = env::current_exe().expect("path of this program");
    format!("{} --exact quic::program --nocapture", program.display())
}

/// The words of a command line.
pub fn words(line: &str) -> Vec<String> {
    line.replace("\\ ", "\u{1}").split(' ').map(|word| word.replace('\u{1}', " ")).collect()
}

/// Runs a client until it gets the answer, since servers may still be starting.
#[track_caller]
pub fn ask(mut command: impl FnMut() -> Command, expected: &str, server: &mut Process) {
    let mut last = String::new();
    let answered = wait::within(PATIENCE, || {
        let output = command().stdin(Stdio::null()).output().expect("start a client");
        last = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        let ended = server.try_wait().is_some();
        let good = last.contains(expected);
        (good || ended).then_some(good)
    });
    assert!(
        answered == Some(true),
        "{:?}: expected {expected:?}, the answer was {last:?}; the server said\n{}",
        command(),
        server.output()
    );
}

/// Files of a row.
pub fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).expect("write a file");
}

/// The test.
pub fn check(label: &str, row: &Row) {
    let bed = Bed::new(label);
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment(NAME, &[&format!("{V4}/24"), &format!("{V6}/64")]);
    let dir = tempfile::tempdir().expect("make a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let path = dir.path().display().to_string();
    let client = format!("/usr/bin/python3 {path}/client.py");
    let fill = |text: &str| {
        [
            ("{dir}", &*path),
            ("{4}", V4),
            ("{6}", V6),
            ("{client}", &client),
            ("{static}", env!("CALLS_STATIC")),
            ("{quic}", &quic()),
        ]
        .iter()
        .fold(text.to_owned(), |text, (word, value)| text.replace(word, value))
    };
    write(dir.path(), "client.py", CLIENT);
    for (name, text) in row.files {
        // Programs have braces of their own.
        write(dir.path(), name, &fill(text));
    }
    let log = dir.path().join("shim.log");
    let mut command = shim::command(&daemon, NAME, &[("AFNET_SHIM_LOG", &log.display().to_string())]);
    let mut server = Process::spawn(command.args(words(&fill(row.server))));
    for (question, answer) in row.questions {
        let question = words(&fill(question));
        let command = || {
            let mut command = bed.peer.command(&question[0]);
            command.args(&question[1..]);
            command
        };
        ask(command, &fill(answer), &mut server);
    }
    let said = || fs::read_to_string(&log).unwrap_or_default();
    match row.carried {
        Carried::Fast | Carried::FastIn | Carried::FastOut => {
            // Endpoints may be gone already; the compartment's counters are not. A first question may have come before
            // the server was on the fast path: then one more is carried.
            let carried = wait::within(PATIENCE, || {
                let counters = daemon.counters(NAME);
                let is_counted = |name: &str| counters.get(name).is_some_and(|count| *count > 0);
                let good = (row.carried == Carried::FastOut || is_counted("rx_delivered"))
                    && (row.carried == Carried::FastIn || is_counted("tx_datagrams"));
                if !good {
                    let question = words(&fill(row.questions[0].0));
                    let _ = bed.peer.command(&question[0]).args(&question[1..]).output();
                }
                good.then_some(())
            });
            let endpoints = daemon.ok("endpoints");
            assert!(carried.is_some(), "nothing took the fast path: {endpoints}\n{}", said());
        }
        Carried::Nothing => assert!(fast_endpoints(&daemon, NAME).is_empty(), "{}", daemon.ok("endpoints")),
        Carried::Kernel(reason) => {
            assert!(fast_endpoints(&daemon, NAME).is_empty(), "{}", daemon.ok("endpoints"));
            assert!(said().contains(reason), "no word of {reason:?}:\n{}", said());
        }
    }
    if server.try_wait().is_none() {
        server.signal(Signal::TERM);
    }
    // Some ignore it.
    let _ = wait::within(Duration::from_secs(2), || server.try_wait());
    drop(server);
    daemon.ok(&format!("del {NAME} --force"));
    daemon.stop();
}
