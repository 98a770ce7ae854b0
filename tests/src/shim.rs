//! Programs under the socket shim (`libafnet.so`), and what it has counted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use afnet_abi::control::{Answer, Endpoint, EndpointState, Request};

use crate::afnetd::{Afnetd, binary};

/// The library.
#[track_caller]
pub fn library() -> PathBuf {
    binary("libafnet.so")
}

/// A command in a compartment under the shim; the program and its arguments are to be appended. `settings` are
/// variables of the shim's environment.
#[track_caller]
pub fn command(daemon: &Afnetd<'_>, compartment: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = plain_command(daemon, compartment);
    command.arg("env").arg(format!("AFNET_INSTANCE={}", daemon.instance()));
    command.args(settings.iter().map(|(name, value)| format!("{name}={value}")));
    command.arg(format!("LD_PRELOAD={}", library().display()));
    command
}

/// The same without the shim.
#[track_caller]
pub fn plain_command(daemon: &Afnetd<'_>, compartment: &str) -> Command {
    let mut command = daemon.netns().command(binary("afnet"));
    command.args(["--instance", daemon.instance(), "exec", compartment, "--"]);
    command
}

/// Endpoints of a compartment that carry datagrams, as afnetd knows them.
#[track_caller]
pub fn fast_endpoints(daemon: &Afnetd<'_>, compartment: &str) -> Vec<Endpoint> {
    let Answer::Endpoints(all) = daemon.request(&Request::Endpoints { name: Some(compartment.into()) })
    else {
        panic!("not the answer to endpoints")
    };
    all.into_iter().filter(|endpoint| endpoint.state == EndpointState::Fast).collect()
}

/// What the shim has counted (`AFNET_SHIM_STATS`), all processes together.
#[derive(Debug)]
pub struct Counts(String);

impl Counts {
    /// Reads the file and removes it.
    pub fn take(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let _ = fs::remove_file(path);
        Self(text)
    }

    /// The sum of `NAME=...`.
    pub fn of(&self, name: &str) -> u64 {
        let words = self.0.split_whitespace().filter_map(|word| word.split_once('='));
        words.filter(|(of, _)| *of == name).filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    }
}
