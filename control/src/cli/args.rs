//! Commands and options of `afnet`, with the texts of its help and manual pages.

use std::ffi::OsString;
use std::path::PathBuf;

use afnet_abi::control::{MAX_GRACE, PolicyChange};
use clap::{Parser, Subcommand};

use super::words::Words;
use crate::names::Instance;

/// Shows and changes compartments: sets of addresses behind one device and one MAC address.
///
/// Grammar and feel are those of ip(8): commands may be abbreviated while they are unambiguous, `a` stands for `addr`.
/// Changes need root, or membership of the group that afnetd was configured with, and a caller that lives in no
/// compartment itself.
#[derive(Debug, Parser)]
#[command(name = "afnet", version, infer_subcommands = true, disable_help_subcommand = true)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Print JSON.
    #[arg(short, long, global = true)]
    pub json: bool,
    /// IPv4 addresses only.
    #[arg(short = '4', long = "ipv4", global = true, conflicts_with = "v6")]
    pub v4: bool,
    /// IPv6 addresses only.
    #[arg(short = '6', long = "ipv6", global = true)]
    pub v6: bool,
    /// Which afnetd to talk to, as given to its own --instance.
    #[arg(long, global = true, env = "AFNET_INSTANCE", default_value = "", hide_default_value = true)]
    #[arg(value_name = "NAME", value_parser = Instance::new)]
    pub instance: Instance,
    /// Read commands from FILE, one a line without the word `afnet`; `-` is standard input.
    #[arg(short, long, value_name = "FILE")]
    pub batch: Option<PathBuf>,
    /// Go on with a batch after an error; the exit status still tells of it.
    #[arg(short, long, requires = "batch")]
    pub force: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  afnet add afns-1
  afnet addr add 192.0.2.10/24 dev eth0 afnetns afns-1
  afnet addr add 2001:db8::10/64 dev eth0 vlan 5 afnetns afns-1
  afnet addr add 2001:db8:1::/64 dev eth0 afnetns afns-1 delegated
  afnet exec afns-1 -- /usr/bin/echo-server
  afnet exec --fast afns-1 -- unbound -d
  afnet exec --user www-data afns-1 -- python3 -m http.server
  afnet set afns-1 --isolated --user alice
  afnet del afns-1 --stop --grace 10
  afnet -j stats afns-1

Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 another host has the address, 4 not known in time
whether one has it.";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a compartment.
    #[command(display_order = 1)]
    Add {
        /// Letters, digits, `.`, `_`, `-`.
        name: String,
        /// What it may do.
        #[command(flatten)]
        policy: PolicyOptions,
    },
    /// Change what a compartment may do: only what is said changes, at once.
    #[command(display_order = 1)]
    Set {
        /// The compartment.
        name: String,
        /// What changes.
        #[command(flatten)]
        policy: PolicyOptions,
    },
    /// Remove a compartment with its addresses and endpoints.
    ///
    /// While processes live in its cgroup this is refused, unless --stop or --force says what becomes of them. The
    /// compartment is gone when the command returns; its processes may take a little longer, and until the last one
    /// has ended its name cannot be used again.
    #[command(display_order = 2, visible_alias = "delete")]
    Del {
        /// The compartment.
        name: String,
        /// End its processes: by SIGTERM, and those that are left after the grace period by SIGKILL.
        #[arg(long, conflicts_with = "force")]
        stop: bool,
        /// The grace period of --stop, at most an hour.
        #[arg(long, value_name = "SECONDS", requires = "stop", default_value_t = 2)]
        #[arg(value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_GRACE / 1000)))]
        grace: u32,
        /// End its processes by SIGKILL at once.
        #[arg(long)]
        force: bool,
    },
    /// List compartments.
    #[command(display_order = 3, alias = "ls")]
    List,
    /// Show a compartment with its addresses, or all without.
    #[command(display_order = 4)]
    Show {
        /// The compartment.
        name: Option<String>,
    },
    /// Show and change the addresses of compartments.
    #[command(display_order = 5, visible_alias = "a", alias = "address", infer_subcommands = true)]
    #[command(disable_help_subcommand = true)]
    Addr {
        /// What to do; without: list.
        #[command(subcommand)]
        command: Option<AddrCommand>,
    },
    /// Show counters that are not zero: of devices, workers and compartments.
    #[command(display_order = 6)]
    Stats {
        /// Only this compartment.
        name: Option<String>,
    },
    /// Show attached endpoints with their claimed ports.
    #[command(display_order = 7)]
    Endpoints {
        /// Only this compartment.
        name: Option<String>,
    },
    /// Show multicast groups of endpoints, of addresses in VLANs, and of the kernel where afnetd speaks for it: filters,
    /// members, who speaks, version, querier, timers, counts. (Groups of sockets: `ip maddr`.)
    #[command(display_order = 8)]
    Maddr,
    /// Show devices, modes (and why not better ones) and workers of the daemon.
    #[command(display_order = 8)]
    Status,
    /// Print what happens, as it happens, until interrupted.
    #[command(display_order = 9)]
    Monitor,
    /// Run a program in a compartment.
    ///
    /// The program and all that it starts see and use only the compartment's addresses, and cannot leave. It may attach
    /// to the daemon as tenant; AFNET_INSTANCE in its environment names the instance. Administrators may do this, and
    /// the users and groups of the compartment's policy.
    ///
    /// Root in a compartment is less than root: the program has a mount namespace in which cgroups, /sys and /proc/sys
    /// are read-only, and keeps of the capabilities CHOWN, DAC_OVERRIDE, FOWNER, FSETID, KILL, SETGID, SETUID, SETPCAP,
    /// NET_BIND_SERVICE, SYS_CHROOT and AUDIT_WRITE alone, with `raw-sockets` NET_RAW too. So it adds no routes, opens no
    /// packet sockets, mounts nothing and moves no process. With `capabilities` it keeps all, and is trusted. What root
    /// reaches through files, devices, signals and other services is not shut: who does not trust it takes --user, or a
    /// container around.
    ///
    /// A program whose file has capabilities that root does not keep here starts without them (ping does without).
    ///
    /// The exit status is that of the program, 126 if it cannot be run, 127 if there is none of that name, 1 if the
    /// compartment cannot be entered.
    #[command(display_order = 10)]
    Exec {
        /// Run it as this user (name or number), with the user's groups, or with GROUP in place of the user's own.
        #[arg(long, value_name = "USER[:GROUP]")]
        user: Option<String>,
        /// Put the program's UDP sockets on the fast path: `LD_PRELOAD` gets libafnet.so, of AFNET_SHIM or from beside
        /// afnet, ../lib/afnet, /usr/lib/afnet or /usr/local/lib/afnet.
        #[arg(long)]
        fast: bool,
        /// The compartment.
        name: String,
        /// Program and arguments.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Move a running process into a compartment.
    ///
    /// It goes with all of its threads, and the children that it starts from then on; those that it has already stay
    /// where they are. Sockets that it has open already stay outside of the compartment: their number is told on standard
    /// error. Unlike `exec` this takes nothing from it: root with all of its capabilities could leave again, other users
    /// cannot. For administrators.
    #[command(display_order = 11)]
    Attach {
        /// The compartment.
        name: String,
        /// The process.
        pid: u32,
    },
    /// Print the name of the compartment that a process lives in, or nothing. Needs neither privilege nor daemon.
    #[command(display_order = 12)]
    Identify {
        /// The process; without: afnet itself, and so whoever calls it.
        pid: Option<u32>,
    },
    /// List the processes of a compartment. Needs neither privilege nor daemon.
    #[command(display_order = 13)]
    Pids {
        /// The compartment.
        name: String,
    },
    /// Print a completion script: `source <(afnet completion bash)`.
    #[command(display_order = 14)]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages of afnet and afnetd.
    #[command(hide = true)]
    Man {
        /// Where to.
        directory: PathBuf,
    },
}

/// Options of `afnet add` and `afnet set`. A switch alone means `on`.
#[derive(Debug, Default, clap::Args)]
pub struct PolicyOptions {
    /// Packets for each second that the fast path lets through to it; more are dropped. 0: no limit.
    #[arg(long, value_name = "PPS")]
    rate: Option<u32>,
    /// Packets that it may get at once beyond the rate. 0: a tenth of a second's worth.
    #[arg(long, value_name = "PACKETS")]
    burst: Option<u32>,
    /// No traffic with other compartments or the host.
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    isolated: Option<Switch>,
    /// Raw ICMP and IP sockets may be made in it (and CAP_NET_RAW stays with root in `afnet exec`).
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    raw_sockets: Option<Switch>,
    /// Everybody in it may bind ports below net.ipv4.ip_unprivileged_port_start.
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    unprivileged_ports: Option<Switch>,
    /// `afnet exec` takes no capability away from root in it: root is trusted not to leave.
    #[arg(long, value_name = "on|off", num_args = 0..=1, require_equals = true, default_missing_value = "on")]
    capabilities: Option<Switch>,
    /// IP sockets that its processes may have at a time, accepted ones not counted. 0: no limit. [default: 8192]
    #[arg(long, value_name = "COUNT")]
    sockets: Option<u32>,
    /// A user (name or number) that may use `afnet exec` into it without being an administrator; may be repeated.
    /// The whole list is replaced; '' alone empties it.
    #[arg(long = "user", value_name = "USER")]
    users: Option<Vec<String>>,
    /// A group whose members may; may be repeated. The whole list is replaced; '' alone empties it.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Option<Vec<String>>,
}

/// A value of a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// Yes.
    On,
    /// No.
    Off,
}

impl PolicyOptions {
    /// What was said.
    pub fn change(&self) -> PolicyChange {
        let on = |switch: Option<Switch>| switch.map(|s| s == Switch::On);
        let list = |words: &Option<Vec<String>>| {
            words.as_ref().map(|all| all.iter().filter(|w| !w.is_empty()).cloned().collect())
        };
        PolicyChange {
            rate_pps: self.rate,
            burst: self.burst,
            isolated: on(self.isolated),
            raw_sockets: on(self.raw_sockets),
            unprivileged_ports: on(self.unprivileged_ports),
            capabilities: on(self.capabilities),
            sockets: self.sockets,
            users: list(&self.users),
            groups: list(&self.groups),
        }
    }
}

/// `afnet addr ...`
#[derive(Debug, Subcommand)]
pub enum AddrCommand {
    /// Give an address to a compartment: ADDR[/LEN] dev DEV [vlan VLAN [proto 802.1ad]] afnetns NAME [fast-only]
    /// [delegated] [defend a|b|c] [nodad] [nowait | wait SECONDS].
    ///
    /// Other hosts are asked first whether they have it (RFC 5227; RFC 4862), which takes some seconds; meanwhile it is
    /// tentative, and not used. The command waits for the outcome, 30 seconds or as many as `wait` says: it exits with 0 if
    /// the address is in use, with 3 if another host has it, with 4 if that is not known yet, as while the device is down.
    /// With `nowait` it returns at once; `nodad` uses the address without asking. A batch waits when all of its addresses
    /// are given. Prefixes are never asked for.
    ///
    /// `defend` says what happens when another host uses the address later (RFC 5227 2.4): a: it is given up at once; b,
    /// the default: it is announced, and given up if that host shows itself again within ten seconds; c: it is announced,
    /// at most once in ten seconds, and never given up.
    ///
    /// LEN is the on-link prefix (without: the full length); the compartment owns the address alone. With `delegated`
    /// it owns the whole prefix; where prefixes overlap, the longest match wins.
    ///
    /// The kernel gets the address too (as /32 or /128 of the device; a delegated prefix as a local route), so that what
    /// takes no fast path is served by the host's stack, unless `fast-only` is said. Addresses of a VLAN are never given
    /// to the kernel.
    ///
    /// VLAN is N (802.1Q), ad:N (802.1ad) or OUTER.INNER (802.1Q within 802.1ad). The same address may belong to
    /// different compartments in different VLANs, and on different devices if all but one have it `fast-only`: the
    /// kernel tells no devices apart.
    #[command(alias = "a")]
    Add(Words),
    /// Give an address or prefix that a compartment has to another one: ADDR[/LEN] dev DEV [vlan VLAN [proto 802.1ad]]
    /// afnetns NAME [delegated].
    ///
    /// Its connections are closed as by `del`. Other hosts are not asked, since it was ours; they are told.
    Move(Words),
    /// Take an address away: ADDR[/LEN] dev DEV [vlan VLAN [proto 802.1ad]] [afnetns NAME] [delegated].
    ///
    /// Its TCP connections are closed, and connected UDP sockets report ECONNABORTED (kernels with
    /// CONFIG_INET_DIAG_DESTROY).
    #[command(alias = "d", alias = "delete")]
    Del(Words),
    /// List addresses: [dev DEV] [vlan VLAN [proto 802.1ad]] [afnetns NAME].
    #[command(alias = "ls", alias = "l", alias = "s", alias = "sh", visible_alias = "show")]
    List(Words),
}

impl Args {
    /// 4, 6 or both.
    pub fn family(&self) -> Option<u8> {
        match (self.v4, self.v6) {
            (true, _) => Some(4),
            (_, true) => Some(6),
            _ => None,
        }
    }
}

/// ip(8) has `-json` and `-batch`; those with one dash become those with two, up to the first other word.
pub fn long_options(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const LONG: &[&str] = &["json", "batch", "force", "instance", "help", "version", "ipv4", "ipv6"];
    let mut args = args.into_iter();
    let mut out: Vec<OsString> = args.next().into_iter().collect();
    let mut done = false;
    for arg in args {
        let text = arg.to_str().unwrap_or("");
        done |= text == "--" || text == "exec";
        match text.strip_prefix('-') {
            Some(name) if !done && LONG.contains(&name) => out.push(format!("-{text}").into()),
            _ => out.push(arg),
        }
    }
    out
}
