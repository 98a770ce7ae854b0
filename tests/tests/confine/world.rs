//! The two worlds that a case can be run in, and their machines.
//!
//! ```text
//!   oracle                                           confined
//!   namespace for each machine     peer namespace    host namespace                       peer namespace
//!   dev0 192.0.2.10 ---+                             dev0 192.0.2.1  ------------------   peer0 192.0.2.100
//!   dev0 192.0.2.20 ---+--- bridge peer0             afnetd, compartments 192.0.2.10, ...
//!   dev0 192.0.2.1  ---+    192.0.2.100              beside them the host's own programs
//! ```
//!
//! Machines and their probes are made when a case first needs them.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::IpAddr,
    process::Command,
};

use afnet_abi::control::{Answer, Request};
use afnet_tests::{
    afnetd::{Afnetd, binary},
    bed::{Bed, DEVICE, PEER},
    netns::Netns,
    veth::Veth,
};

use crate::{
    place::{FIRST_PEER, HOST, Place, Shape, with_len},
    probe::{Build, Probe},
    script::Case,
};

/// The capabilities that `afnet exec` leaves to root, for setpriv.
const KEPT: &str = "-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,\
                    +net_bind_service,+sys_chroot,+audit_write";

/// Who is asked: the probe at a place, of a build, with or without all capabilities.
pub type Seat = (Place, Build, bool);

/// Where cases are run.
#[derive(Debug)]
pub enum World<'a> {
    /// Each machine alone.
    Oracle {
        /// Namespaces by the number of the place.
        machines: BTreeMap<u8, Netns>,
        /// With the bridge.
        peer: Netns,
        /// Running probes.
        probes: HashMap<Seat, Probe>,
    },
    /// Machines are compartments.
    Confined {
        /// Namespaces.
        bed: &'a Bed,
        /// The daemon.
        daemon: &'a Afnetd<'a>,
        /// Numbers of compartments that there are.
        compartments: Vec<u8>,
        /// Running probes.
        probes: HashMap<Seat, Probe>,
    },
}

impl<'a> World<'a> {
    /// A world of namespaces.
    pub fn oracle(label: &str) -> Self {
        let peer = Netns::new(&format!("{label}-wire"));
        // An address of its own, else it would take a new one as ports come.
        peer.ip(&format!("link add {PEER} address 02:00:00:00:00:64 type bridge mcast_snooping 0"));
        peer.sysctl(&format!("ipv6/conf/{PEER}/accept_dad"), "0");
        peer.ip(&format!("link set {PEER} up"));
        set_up_peer(&peer);
        Self::Oracle { machines: BTreeMap::new(), peer, probes: HashMap::new() }
    }

    /// What a bed needs, before the daemon starts.
    pub fn prepare(bed: &Bed) {
        set_up_peer(&bed.peer);
        set_up_machine(&bed.host, true, true);
    }

    /// The world of a daemon on a bed.
    pub fn confined(bed: &'a Bed, daemon: &'a Afnetd<'a>) -> Self {
        Self::Confined { bed, daemon, compartments: Vec::new(), probes: HashMap::new() }
    }

    /// The probe of a seat.
    pub fn probe(&mut self, seat: Seat) -> &mut Probe {
        if !self.probes().contains_key(&seat) {
            let probe = self.start(seat);
            self.probes().insert(seat, probe);
        }
        self.probes().get_mut(&seat).expect("just started")
    }

    /// Makes what these cases need when each machine is played once.
    pub fn start_all(&mut self, cases: &[&Case]) {
        for case in cases {
            for build in [Build::Libc, Build::Raw] {
                for which in [Place::compartment(Shape::Dual, 0), Place::compartment(Shape::Dual, 1)] {
                    self.probe((which, build, case.privileged));
                }
            }
        }
    }

    fn probes(&mut self) -> &mut HashMap<Seat, Probe> {
        match self {
            Self::Oracle { probes, .. } | Self::Confined { probes, .. } => probes,
        }
    }

    /// Replaces probes that have become something else.
    pub fn forget(&mut self, seat: Seat) {
        self.probes().remove(&seat);
    }

    /// Makes the machine if it is not there, and starts a probe in it.
    fn start(&mut self, (place, build, privileged): Seat) -> Probe {
        let confined = place != HOST && place.number < FIRST_PEER;
        if !(confined && privileged) {
            return Probe::spawn(&mut self.command(place, build.program()));
        }
        // Not by way of `afnet exec`, or its likeness in the oracle, which take capabilities away.
        self.command(place, "true").output().expect("run true");
        match self {
            Self::Oracle { machines, .. } => {
                Probe::spawn(&mut machines[&place.number].command(build.program()))
            }
            Self::Confined { bed, daemon, .. } => {
                let Answer::Cgroup { path } = daemon.request(&Request::Cgroup { name: place.name() }) else {
                    panic!("not the answer to cgroup")
                };
                let probe = Probe::spawn(&mut bed.host.command(build.program()));
                let procs = format!("{path}/cgroup.procs");
                fs::write(procs, probe.id().to_string()).expect("move into the cgroup");
                probe
            }
        }
    }

    /// A command at a place: what a compartment takes away is taken away from machines of the oracle too.
    pub fn command(&mut self, place: Place, program: &str) -> Command {
        match self {
            Self::Oracle { peer: at, .. } if place.number >= FIRST_PEER => at.command(program),
            Self::Confined { bed, .. } if place.number >= FIRST_PEER => bed.peer.command(program),
            Self::Confined { bed, .. } if place == HOST => bed.host.command(program),
            Self::Oracle { machines, peer, .. } => {
                let machine = machines.entry(place.number).or_insert_with(|| machine(place, peer));
                if place == HOST {
                    return machine.command(program);
                }
                let mut command = machine.command("setpriv");
                command.args(["--bounding-set", KEPT, program]);
                command
            }
            Self::Confined { bed, daemon, compartments, .. } => {
                if !compartments.contains(&place.number) {
                    compartment(place, bed, daemon);
                    compartments.push(place.number);
                }
                let mut command = bed.host.command(binary("afnet"));
                command.args(["--instance", daemon.instance(), "exec", &place.name(), "--", program]);
                command
            }
        }
    }

    /// Changes a compartment's policy; machines of the oracle have none.
    pub fn set_policy(&mut self, place: Place, policy: &str) -> String {
        self.command(place, "true").output().expect("run true");
        if let Self::Confined { daemon, .. } = self {
            daemon.ok(&format!("set {} {policy}", place.name()));
        }
        "ok".into()
    }

    /// Gives a machine a further address, or takes one away.
    pub fn change(&mut self, place: Place, verb: &str, address: IpAddr) -> String {
        let address = with_len(address);
        match self {
            Self::Confined { daemon, .. } if place != HOST => {
                daemon.ok(&format!("addr {verb} {address} dev {DEVICE} afnetns {}", place.name()));
            }
            Self::Confined { bed, .. } => change_by_hand(&bed.host, verb, &address),
            Self::Oracle { machines, peer, .. } => {
                let machine = machines.entry(place.number).or_insert_with(|| machine(place, peer));
                change_by_hand(machine, verb, &address);
            }
        }
        "ok".into()
    }
}

fn change_by_hand(machine: &Netns, verb: &str, address: &str) {
    let nodad = if verb == "add" && address.contains(':') { " nodad" } else { "" };
    machine.ip(&format!("addr {verb} {address} dev {DEVICE}{nodad}"));
}

/// A compartment with the addresses of the place.
fn compartment(place: Place, bed: &Bed, daemon: &Afnetd<'_>) {
    let name = place.name();
    daemon.ok(&format!("add {name}"));
    for address in place.configured() {
        daemon.ok(&format!("addr add {address} dev {DEVICE} afnetns {name}"));
    }
    if place.shape == Shape::Prefix {
        for prefix in place.prefixes() {
            daemon.ok(&format!("addr add {prefix} dev {DEVICE} afnetns {name} delegated"));
        }
        route_prefixes(&bed.peer, place);
    }
}

/// A namespace with the addresses of the place on the peer's bridge.
fn machine(place: Place, peer: &Netns) -> Netns {
    let machine = Netns::new(&format!("m{}", place.number));
    let port = format!("port{}", place.number);
    Veth::default().bare().connect((&machine, DEVICE), (peer, &port));
    peer.ip(&format!("link set {port} master {PEER} addrgenmode none"));
    // Compartments have no link-local address: that is the host's.
    if place != HOST {
        machine.ip(&format!("link set {DEVICE} addrgenmode none"));
        machine.ip(&format!("-6 addr flush dev {DEVICE}"));
        machine.ip(&format!("-6 route replace fe80::/64 dev {DEVICE}"));
    }
    // Among IPv6 addresses that RFC 6724 holds for equal this kernel prefers the newest, a compartment its first.
    let (v6, v4): (Vec<_>, Vec<_>) =
        place.configured().into_iter().partition(|address| address.contains(':'));
    for address in v4.iter().chain(v6.iter().rev()) {
        change_by_hand(&machine, "add", address);
    }
    if place.shape == Shape::Prefix {
        for prefix in place.prefixes() {
            machine.ip(&format!("route add local {prefix} dev lo"));
        }
        route_prefixes(peer, place);
        // With no link-local address it cannot solicit for a packet from the prefix.
        let peer_mac = peer.mac(PEER).map(|byte| format!("{byte:02x}")).join(":");
        machine.ip(&format!("neigh replace 2001:db8::100 lladdr {peer_mac} nud permanent dev {DEVICE}"));
    }
    set_up_machine(&machine, place.shape != Shape::V6, place.shape != Shape::V4);
    machine
}

/// What the host of compartments and every machine of the oracle have.
fn set_up_machine(machine: &Netns, v4: bool, v6: bool) {
    allow_icmp(machine);
    for (has, family, peer) in [(v4, "-4", "192.0.2.100"), (v6, "-6", "2001:db8::100")] {
        if has {
            machine.ip(&format!("{family} route add default via {peer} dev {DEVICE}"));
        }
    }
}

/// The peers' addresses (which the first may have already), a link-local one that is known, and no limit on errors.
fn set_up_peer(peer: &Netns) {
    for address in (0..3).flat_map(|which| Place::peer(which).configured()) {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        peer.ip(&format!("addr replace {address} dev {PEER} {nodad}"));
    }
    peer.ip(&format!("addr add fe80::100/64 dev {PEER} nodad"));
    allow_icmp(peer);
}

/// Ping sockets for everybody, and port unreachable for every datagram to a closed port, however many there are.
fn allow_icmp(machine: &Netns) {
    machine.sysctl("ipv4/ping_group_range", "0 2147483647");
    machine.sysctl("ipv4/icmp_ratelimit", "0");
    machine.sysctl("ipv6/icmp/ratelimit", "0");
    machine.sysctl("ipv4/icmp_msgs_per_sec", "1000000");
    machine.sysctl("ipv4/icmp_msgs_burst", "1000000");
}

/// The delegated prefixes, by way of the machine's first addresses.
fn route_prefixes(peer: &Netns, place: Place) {
    let addresses = place.addresses();
    for (prefix, (_, gateway)) in place.prefixes().iter().zip(addresses) {
        peer.ip(&format!("route replace {prefix} via {gateway} dev {PEER}"));
    }
}
