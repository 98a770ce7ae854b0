//! A network namespace that goes away with its guard.

use std::{
    ffi::OsStr,
    fs::{self, File},
    os::fd::AsFd,
    panic::resume_unwind,
    path::PathBuf,
    process::Command,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::process::{self, Process};

/// Start of every namespace's name; then the id of the test process, so that what a killed run left is told apart.
const PREFIX: &str = "afnet-t";

/// A named network namespace with `lo` up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace. `label` is for those who look at a hanging test with `ip netns`.
    ///
    /// # Panics
    /// Without root.
    #[track_caller]
    pub fn new(label: &str) -> Self {
        static REAPED: Once = Once::new();
        REAPED.call_once(reap);
        let name = format!("{PREFIX}{}-{}-{label}", std::process::id(), unique());
        process::run(Command::new("ip").args(["netns", "add", &name]));
        let ns = Self { name };
        ns.ip("link set lo up");
        ns
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// A command that will run in it. (Not by `ip netns exec`, which hides the cgroup tree.)
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg(program);
        command
    }

    /// Runs a command line (split at white space) to its successful end and returns its output.
    #[track_caller]
    pub fn run(&self, line: &str) -> String {
        process::run(&mut self.split(line))
    }

    /// As [`Self::run`] for a command that may fail: whether it succeeded, and output and errors together.
    #[track_caller]
    pub fn attempt(&self, line: &str) -> (bool, String) {
        let output = self.split(line).output().expect("start nsenter");
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    /// `ip ARGS` in the namespace.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        self.run(&format!("ip {args}"))
    }

    /// Starts a command line (split at white space) in the namespace.
    #[track_caller]
    pub fn spawn(&self, line: &str) -> Process {
        Process::spawn(&mut self.split(line))
    }

    /// Runs a closure on a thread that is in the namespace: sockets that it makes belong there.
    #[track_caller]
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let file = File::open(self.path()).expect("open the namespace");
        let in_namespace = move || {
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("enter the namespace");
            body()
        };
        thread::scope(|scope| scope.spawn(in_namespace).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Writes a file below `/proc/sys/net`.
    #[track_caller]
    pub fn sysctl(&self, key: &str, value: &str) {
        self.enter(|| {
            fs::write(format!("/proc/sys/net/{key}"), value)
                .unwrap_or_else(|error| panic!("set {key} to {value}: {error}"));
        });
    }

    /// Interface index of a device in the namespace.
    #[track_caller]
    pub fn ifindex(&self, device: &str) -> u32 {
        let links: serde_json::Value =
            serde_json::from_str(&self.ip(&format!("-j link show dev {device}"))).expect("JSON of ip");
        u32::try_from(links[0]["ifindex"].as_u64().expect("ifindex")).expect("ifindex")
    }

    /// MAC address of a device in the namespace.
    #[track_caller]
    pub fn mac(&self, device: &str) -> [u8; 6] {
        let links: serde_json::Value =
            serde_json::from_str(&self.ip(&format!("-j link show dev {device}"))).expect("JSON of ip");
        parse_mac(links[0]["address"].as_str().expect("address"))
    }

    fn split(&self, line: &str) -> Command {
        let mut words = line.split_whitespace();
        let mut command = self.command(words.next().expect("a command"));
        command.args(words);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// A number that no other call in this process gets.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Reads `aa:bb:cc:dd:ee:ff`.
///
/// # Panics
/// If `text` is none.
pub fn parse_mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a MAC address")).collect();
    bytes.try_into().expect("a MAC address")
}

/// Removes the namespaces of test processes that are gone (they were killed, so no guard ran).
fn reap() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|pid| !fs::exists(format!("/proc/{pid}")).unwrap_or(true)) {
            let _ = Command::new("ip").args(["netns", "del", &name]).output();
        }
    }
}
