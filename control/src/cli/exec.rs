//! `afnet exec`: this process moves into the compartment's cgroup and becomes the program, which finds the same
//! instance of afnetd in its environment.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use afnet_abi::control::{Answer, Request};

use super::CliError;
use crate::client::{Client, ClientError};
use crate::names::Instance;

/// Returns only if it fails.
pub fn exec(client: &mut Client, instance: &Instance, name: &str, command: &[OsString]) -> CliError {
    let path = match client.request(&Request::Cgroup { name: name.to_owned() }) {
        Ok(Answer::Cgroup { path }) => path,
        Ok(_) => return CliError::Client(ClientError::Lost("an answer to something else".to_owned())),
        Err(e) => return e.into(),
    };
    let procs = Path::new(&path).join("cgroup.procs");
    // 0 stands for the writer.
    if let Err(e) = std::fs::write(&procs, "0") {
        return CliError::Io(format!("entering the cgroup of {name} by writing to {}: {e}", procs.display()));
    }
    let Some((program, arguments)) = command.split_first() else {
        return CliError::Usage("a program is missing".to_owned());
    };
    // Does not return if it succeeds. The socket is closed on exec.
    let error = Command::new(program).args(arguments).env("AFNET_INSTANCE", instance.name()).exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    CliError::Exec(status, format!("{}: {error}", program.display()))
}
