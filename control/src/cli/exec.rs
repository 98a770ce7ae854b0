//! `afnet exec`: this process enters the compartment, gives up what could lead out of it, and becomes the program, which
//! finds the same instance of afnetd in its environment.
//!
//! ```text
//! names looked up -> Enter (the daemon moves us) -> namespaces, bounding set -> user -> capabilities -> execve
//!                                                   \____ of privileged callers ____/
//! ```

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use afnet_abi::control::{Answer, Policy, Request};
use rustix::thread::CapabilitySet;

use super::user::RunAs;
use super::{CliError, shim};
use crate::client::{Client, ClientError};
use crate::error::Refused;
use crate::names::Instance;
use crate::system::confine;

/// Libraries that the dynamic linker loads first.
const PRELOAD: &str = "LD_PRELOAD";

/// What to run.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// As whom.
    pub user: Option<&'a str>,
    /// With this before its libraries.
    pub shim: Option<&'a Path>,
    /// Program and arguments.
    pub command: &'a [OsString],
}

/// Returns only if it fails.
pub fn exec(client: &mut Client, instance: &Instance, name: &str, run: &Run<'_>) -> CliError {
    // Before we are inside: the name service may need the network.
    let user = match run.user.map(RunAs::find).transpose() {
        Ok(user) => user,
        Err(e) => return e.into(),
    };
    let (policy, already) = match client.request(&Request::Enter { name: name.to_owned(), pid: None }) {
        Ok(Answer::Entered { policy, already, .. }) => (policy, already),
        Ok(_) => return CliError::Client(ClientError::Lost("an answer to something else".to_owned())),
        Err(e) => return e.into(),
    };
    let Some((program, arguments)) = run.command.split_first() else {
        return CliError::Usage("a program is missing".to_owned());
    };
    if let Err(e) = confine(&policy, already, user.as_ref(), program) {
        return CliError::Io(format!("confining the program to {name}: {e}"));
    }
    let mut command = Command::new(program);
    command.args(arguments).env("AFNET_INSTANCE", instance.name());
    if let Some(shim) = run.shim {
        command.env(PRELOAD, shim::preload(shim, std::env::var_os(PRELOAD).as_deref()));
    }
    // Does not return if it succeeds. The socket is closed on exec.
    let error = command.exec();
    let status = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    CliError::Exec(status, format!("{}: {error}", program.display()))
}

/// Takes from this process what its program shall not have. `already`: it lived in the compartment before, so that
/// whoever started it has settled what it may.
fn confine(policy: &Policy, already: bool, user: Option<&RunAs>, program: &OsStr) -> Result<(), Refused> {
    let (privileged, keep) = (confine::privileged()?, confine::kept(policy));
    if privileged {
        if !already || confine::may_mount()? {
            confine::isolate()?;
            confine::ignore_demands(program, keep)?;
        }
        confine::bound(keep)?;
    }
    if let Some(user) = user {
        user.become_it()?;
    }
    match (policy.capabilities, privileged) {
        (true, _) => Ok(()),
        (false, true) => confine::reduce(keep),
        // Some other user's, which came from who knows where.
        (false, false) => confine::reduce(CapabilitySet::empty()),
    }
}
