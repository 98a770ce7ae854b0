//! Processes enter compartments: who may, and which.
//!
//! | caller | itself | another process |
//! |---|---|---|
//! | administrator | yes | yes, out of another compartment too |
//! | user or group of the policy, in no compartment | yes | no |
//! | in a compartment (root too) | no, it stays where it is | no |

use afnet_abi::control::{Answer, Policy};
use rustix::io::Errno;

use super::core::Core;
use crate::error::{Context, Refused};
use crate::server::Conn;
use crate::system::accounts;
use crate::system::cgroup::compartment_of;
use crate::system::process::Process;

impl Core {
    /// Moves the caller, or the process `pid`, into a compartment's cgroup.
    pub(super) fn place(&mut self, conn: &Conn, name: &str, pid: Option<u32>) -> Result<Answer, Refused> {
        let slot = self.registry.slot(name)?;
        let policy = self.registry.get(slot).map(|c| c.policy.clone()).unwrap_or_default();
        let caller = conn.process().refused(|| "finding the process that asks")?;
        let process = match pid.filter(|pid| *pid != conn.peer.pid) {
            None => caller,
            Some(pid) => {
                if !conn.admin() {
                    let text =
                        format!("not permitted: moving process {pid} into {name} is for administrators");
                    return Err(Refused::new(Errno::PERM, text));
                }
                other(&caller, pid)?
            }
        };
        let pid = process.pid();
        let here = process.cgroup().refused(|| format!("finding the cgroup of process {pid}"))?;
        if self.cgroups.compartment(&here) == Some(name) {
            let path = self.open_compartment(name)?.display().to_string();
            return Ok(Answer::Entered { path, already: true, policy });
        }
        if !conn.admin() {
            admit(conn, name, &policy, &here)?;
        }
        self.open_compartment(name)?;
        let path = self.cgroups.place(name, &process)?.display().to_string();
        tracing::debug!("process {pid} is in {name} now");
        Ok(Answer::Entered { path, already: false, policy })
    }
}

/// A process that an administrator means.
fn other(caller: &Process, pid: u32) -> Result<Process, Refused> {
    let what = || format!("finding process {pid}");
    if !caller.shares_pids().refused(what)? {
        let text = format!("process {pid} is another one to you than to afnetd: your pid namespaces differ");
        return Err(Refused::new(Errno::INVAL, text));
    }
    // 0 would mean this daemon to the kernel.
    if pid <= 1 || pid == std::process::id() {
        let text = format!("process {pid} does not belong into a compartment");
        return Err(Refused::new(Errno::INVAL, text));
    }
    Process::open(pid).refused(what)
}

/// Refuses those who are no administrators, unless the policy has them.
fn admit(conn: &Conn, name: &str, policy: &Policy, here: &str) -> Result<(), Refused> {
    if let Some((_, own)) = compartment_of(here) {
        let text = format!("not permitted: process {} lives in {own} and cannot leave it", conn.peer.pid);
        return Err(Refused::new(Errno::PERM, text));
    }
    let groups = conn.groups().refused(|| "finding the groups of the process that asks")?;
    if accounts::admits(policy, conn.peer.uid, &groups) {
        return Ok(());
    }
    let text = format!(
        "not permitted: user {} is neither administrator nor in the policy of {name}: `afnet set {name} --user {0}` lets it in",
        conn.peer.uid
    );
    Err(Refused::new(Errno::PERM, text))
}
