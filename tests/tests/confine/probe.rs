//! A running probe (`tests/probe`): one line of a script in, one line of answer out.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::Duration,
};

/// Longer than any operation of the probe waits.
const PATIENCE: Duration = Duration::from_secs(15);

/// Which of the two builds.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Build {
    /// Dynamically linked, socket calls of libc.
    Libc,
    /// Static, socket calls by `syscall(2)`.
    Raw,
}

impl Build {
    /// Path of the program.
    pub fn program(self) -> &'static str {
        match self {
            Self::Libc => env!("PROBE"),
            Self::Raw => env!("PROBE_RAW"),
        }
    }
}

/// A probe; killed when dropped.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Probe {
    /// Starts `command`, which is to become a probe.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let stdin = child.stdin.take();
        let lines = read_lines(child.stdout.take().expect("a pipe"));
        Self { child, stdin, lines }
    }

    /// Process id of what was started.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has it do one operation.
    pub fn ask(&mut self, line: &str) -> String {
        let sent = self.stdin.as_mut().map(|stdin| writeln!(stdin, "{line}").and_then(|()| stdin.flush()));
        match (sent, self.lines.recv_timeout(PATIENCE)) {
            (Some(Ok(())), Ok(answer)) => answer,
            (_, Err(RecvTimeoutError::Timeout)) => "the probe hangs".into(),
            _ => "the probe has ended".into(),
        }
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        // The end of its input ends one that has become a daemon, too.
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    receiver
}
