//! `afnet attach`, `identify` and `pids`: running processes and compartments, in the manner of `ip vrf`.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use afnet_abi::control::Request;

use super::CliError;
use super::print::json;
use crate::client::Client;
use crate::names::{Instance, check_compartment};
use crate::system::cgroup::Cgroups;
use crate::system::process::Process;

/// Moves a process into a compartment, and warns of what stays outside.
pub fn attach(
    client: &mut Client,
    name: &str,
    pid: u32,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CliError> {
    // Counted before: what it opens after the move belongs to the compartment.
    let sockets = sockets(Path::new("/proc").join(pid.to_string()).as_path());
    client.request(&Request::Enter { name: name.to_owned(), pid: Some(pid) })?;
    match &sockets {
        Ok(0) => {}
        Ok(count) => {
            eprintln!("afnet: {count} sockets that process {pid} had open before stay outside of {name}");
        }
        Err(e) => eprintln!(
            "afnet: whether process {pid} has sockets, which stay outside of {name}, is not known: {e}"
        ),
    }
    if as_json {
        json(&serde_json::json!({ "name": name, "pid": pid, "sockets": sockets.ok() }), out)?;
    }
    Ok(())
}

/// Prints the name of the compartment that a process lives in, or nothing.
pub fn identify(
    instance: &Instance,
    pid: Option<u32>,
    as_json: bool,
    out: &mut impl Write,
) -> Result<(), CliError> {
    let pid = pid.unwrap_or_else(std::process::id);
    let found = Process::open(pid).and_then(|p| Cgroups::find(&instance.directory()).identify(&p));
    let name = found.map_err(|e| CliError::Io(format!("finding the cgroup of process {pid}: {e}")))?;
    match (as_json, name) {
        (true, name) => Ok(json(&serde_json::json!({ "pid": pid, "name": name }), out)?),
        (false, Some(name)) => Ok(writeln!(out, "{name}")?),
        (false, None) => Ok(()),
    }
}

/// Prints the processes in a compartment's cgroup and below.
pub fn pids(instance: &Instance, name: &str, as_json: bool, out: &mut impl Write) -> Result<(), CliError> {
    check_compartment(name).map_err(|e| CliError::Usage(e.to_string()))?;
    let cgroups = Cgroups::find(&instance.directory());
    if !cgroups.exists(name) {
        let text = format!(
            "there is no cgroup of a compartment {name:?} of instance {:?}: nothing has entered it yet, or there is none",
            instance.name()
        );
        return Err(CliError::Io(text));
    }
    let mut pids = cgroups.processes(name);
    // Processes of a pid namespace that is not seen from here.
    pids.retain(|pid| *pid != 0);
    pids.sort_unstable();
    if as_json {
        return Ok(json(&pids, out)?);
    }
    Ok(pids.iter().try_for_each(|pid| writeln!(out, "{pid}"))?)
}

/// Number of IP and packet sockets that a process has open. (Those that were never bound or connected are in no table.)
fn sockets(proc: &Path) -> io::Result<usize> {
    /// Files of /proc/PID/net and the column of the socket's inode.
    const TABLES: &[(&str, usize)] = &[
        ("tcp", 9),
        ("tcp6", 9),
        ("udp", 9),
        ("udp6", 9),
        ("udplite", 9),
        ("udplite6", 9),
        ("raw", 9),
        ("raw6", 9),
        ("icmp", 9),
        ("icmp6", 9),
        ("packet", 8),
    ];
    let mut open = HashSet::new();
    for entry in fs::read_dir(proc.join("fd"))?.flatten() {
        // socket:[INODE]
        let target = fs::read_link(entry.path()).unwrap_or_default();
        let inode = target.to_str().and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']'));
        open.extend(inode.and_then(|i| i.parse::<u64>().ok()));
    }
    let mut found = HashSet::new();
    for (table, column) in TABLES {
        // A kernel without the protocol has no table.
        let text = fs::read_to_string(proc.join("net").join(table)).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|l| inode(l, *column)).filter(|i| open.contains(i)));
    }
    Ok(found.len())
}

fn inode(line: &str, column: usize) -> Option<u64> {
    line.split_whitespace().nth(column)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn sockets_of_a_process_are_counted() {
        // Of a child: other tests of this process open and close sockets meanwhile.
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let tcp = std::net::TcpListener::bind("[::1]:0").unwrap();
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut command = std::process::Command::new("sleep");
        command.arg("100").stdin(OwnedFd::from(udp)).stdout(OwnedFd::from(tcp)).stderr(OwnedFd::from(unix));
        let mut child = command.spawn().unwrap();
        let counted = sockets(&Path::new("/proc").join(child.id().to_string()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(counted.unwrap(), 2);
        assert!(sockets(Path::new("/proc/4294967295")).is_err());
    }

    #[test]
    fn inodes_stand_in_their_columns() {
        let tcp = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0";
        assert_eq!(inode(tcp, 9), Some(12345));
        let packet = "00000000a0b0c0d0 3      3    0003   2     1 0        0      9976  ";
        assert_eq!(inode(packet, 8), Some(9976));
        assert_eq!(inode("", 9), None);
    }
}
