//! The worlds that a case can be run in: the same addresses, each with a peer of its own.
//!
//! ```text
//!   oracle: host namespace          compartment: host namespace          peer namespaces
//!   dev0 192.0.2.10, .11            dev0 192.0.2.1, afnetd               peer0 192.0.2.100
//!        2001:db8::10, ::11         compartment with .10, .11            2001:db8::100
//!   the case                        the case                             calls peer
//! ```

use std::{os::unix::fs::PermissionsExt, path::PathBuf, process::Command};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, HOST_V4, HOST_V6, PEER},
    netns::Netns,
    process::Process,
    shim,
};
use tempfile::TempDir;

/// The capabilities that `afnet exec` leaves to root, for setpriv.
const KEPT: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
                    +net_bind_service,+sys_chroot,+audit_write";

/// The compartment.
pub const NAME: &str = "c";

/// The program with the cases.
pub const CALLS: &str = env!("CALLS");

/// A way to run a case.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// The kernel itself.
    Oracle,
    /// In a compartment.
    Plain,
    /// In a compartment, with the shim.
    Fast,
}

impl Way {
    /// All that are compared with the oracle.
    pub const ALL: [Self; 2] = [Self::Plain, Self::Fast];

    /// Name for reports and `SHIM_WAYS`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Oracle => "oracle",
            Self::Plain => "plain",
            Self::Fast => "fast",
        }
    }
}

/// Both ends are there, and the peer's server runs; without a daemon yet.
#[derive(Debug)]
pub struct World {
    /// The namespaces.
    pub bed: Bed,
    /// Files of the cases; everybody may write there.
    pub files: TempDir,
    _peer: Process,
}

impl World {
    /// The plain kernel has the addresses.
    pub fn oracle(label: &str) -> Self {
        let bed = Bed::new(&format!("{label}-oracle"));
        let host = &bed.host;
        host.ip(&format!("addr del {HOST_V4}/24 dev {DEVICE}"));
        host.ip(&format!("addr del {HOST_V6}/64 dev {DEVICE}"));
        // Among IPv6 addresses that RFC 6724 holds for equal the kernel prefers the newest, a compartment its first.
        for address in ["192.0.2.10/24", "192.0.2.11/24", "2001:db8::11/64", "2001:db8::10/64"] {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            host.ip(&format!("addr add {address} dev {DEVICE} {nodad}"));
        }
        Self::new(bed)
    }

    /// Compartments are to have them.
    pub fn confined(label: &str) -> Self {
        Self::new(Bed::new(label))
    }

    fn new(bed: Bed) -> Self {
        for ns in [&bed.host, &bed.peer] {
            allow_icmp(ns);
        }
        // A neighbour that is not there is to be known as such in the time of a test.
        for (ns, device) in [(&bed.host, DEVICE), (&bed.peer, PEER)] {
            ns.sysctl(&format!("ipv4/neigh/{device}/retrans_time_ms"), "200");
            ns.sysctl(&format!("ipv6/neigh/{device}/retrans_time_ms"), "200");
        }
        let files = tempfile::Builder::new()
            .permissions(PermissionsExt::from_mode(0o777))
            .tempdir()
            .expect("make a directory");
        let mut peer =
            Process::spawn(bed.peer.command(CALLS).arg("peer").arg(files.path().join("peer.sock")));
        peer.wait_for_output("ready");
        Self { bed, files, _peer: peer }
    }

    /// Where cases find the peer's server.
    pub fn socket(&self) -> PathBuf {
        self.files.path().join("peer.sock")
    }

    /// Where the shim writes its counts.
    pub fn stats(&self) -> PathBuf {
        self.files.path().join("stats")
    }

    /// A command that will run some way.
    pub fn command(&self, way: Way, daemon: Option<&Afnetd<'_>>, program: &str) -> Command {
        let host = &self.bed.host;
        let Some(daemon) = daemon else {
            // What a compartment takes away is taken away from the oracle, too.
            let mut command = host.command("setpriv");
            command.args(["--bounding-set", KEPT, program]);
            return command;
        };
        let stats = self.stats().display().to_string();
        let mut command = match way {
            // Every socket that it can have, at once.
            Way::Fast => {
                shim::command(daemon, NAME, &[("AFNET_SHIM_AFTER", "0"), ("AFNET_SHIM_STATS", &stats)])
            }
            _ => shim::plain_command(daemon, NAME),
        };
        command.arg(program);
        command
    }

    /// The daemon, with the compartment.
    pub fn daemon(&self) -> Afnetd<'_> {
        let daemon = Afnetd::start(&self.bed);
        daemon
            .add_compartment(NAME, &["192.0.2.10/24", "192.0.2.11/24", "2001:db8::10/64", "2001:db8::11/64"]);
        daemon
    }
}

/// Port unreachable for every datagram to a closed port, however many there are.
fn allow_icmp(ns: &Netns) {
    ns.sysctl("ipv4/icmp_ratelimit", "0");
    ns.sysctl("ipv6/icmp/ratelimit", "0");
    ns.sysctl("ipv4/icmp_msgs_per_sec", "1000000");
    ns.sysctl("ipv4/icmp_msgs_burst", "1000000");
}
