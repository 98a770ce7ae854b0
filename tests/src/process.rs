//! A process that does not outlive its guard.

use std::{
    fs::{self, File},
    io::{Read, Seek},
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait;

/// A running process. Standard output and error go to one file; dropping kills (SIGKILL, by id) and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: File,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `command`; its standard input is empty.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn spawn(command: &mut Command) -> Self {
        Self::spawn_with(command, Stdio::null())
    }

    /// As [`Self::spawn`] with a standard input.
    #[track_caller]
    pub fn spawn_with(command: &mut Command, stdin: Stdio) -> Self {
        let output = unnamed_file();
        let clone = || output.try_clone().expect("duplicate a file descriptor");
        let name = format!("{command:?}");
        let child = command
            .stdin(stdin)
            .stdout(clone())
            .stderr(clone())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { name, child, output, status: None }
    }

    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        // A fresh description, since the process's own position must stay where it is.
        let mut bytes = Vec::new();
        let mut file = File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&self.output)))
            .expect("reopen the output file");
        file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("read the output file");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The exit status, if it has ended.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("wait for a child");
        }
        self.status
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If it has ended already.
    #[track_caller]
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.try_wait().is_none(), "{} has ended already:\n{}", self.name, self.output());
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("signal a child");
    }

    /// Waits for its end, at most [`wait::PATIENCE`].
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        match wait::within(wait::PATIENCE, || self.try_wait()) {
            Some(status) => status,
            None => panic!("{} does not end:\n{}", self.name, self.output()),
        }
    }

    /// Waits until its output contains `text`.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str) {
        self.wait_for_output_within(wait::PATIENCE, text);
    }

    /// As [`Self::wait_for_output`] with a time of one's own.
    #[track_caller]
    pub fn wait_for_output_within(&mut self, time: Duration, text: &str) {
        let found = wait::within(time, || {
            let ended = self.try_wait();
            let found = self.output().contains(text);
            (found || ended.is_some()).then_some(found)
        });
        assert!(found == Some(true), "{}: no {text:?} in its output:\n{}", self.name, self.output());
    }

    /// SIGTERM, then its exit status, which must be success.
    #[track_caller]
    pub fn terminate(&mut self) {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert!(status.success(), "{} ended with {status} at SIGTERM:\n{}", self.name, self.output());
    }

    /// SIGKILL, and reaps it.
    #[track_caller]
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        assert_eq!(self.wait().signal(), Some(Signal::KILL.as_raw()), "{}", self.output());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.try_wait().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}---", self.name, self.output());
        }
    }
}

fn unnamed_file() -> File {
    use std::os::unix::fs::OpenOptionsExt;
    fs::OpenOptions::new()
        .read(true)
        .append(true)
        .custom_flags(libc::O_TMPFILE)
        .open(std::env::temp_dir())
        .expect("make a temporary file")
}

/// Runs `command` to its end and returns its output.
///
/// # Panics
/// If it fails, with all that it wrote.
#[track_caller]
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}
