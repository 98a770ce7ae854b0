//! Messages of the control socket: one JSON object a line (newline-delimited JSON), both ways.
//!
//! ```text
//! client                                   afnetd
//!   {"op":"hello","version":1}       ->
//!                                    <-    {"ok":{"hello":{"version":1,...}}}
//!   {"op":"attach","kind":"udp"}     ->
//!                                    <-    {"ok":{"attached":{...}}}   + memfd, wake, doorbells (SCM_RIGHTS)
//!   {"op":"claim","port":53}         ->    + bound sockets (SCM_RIGHTS)
//!                                    <-    {"ok":{"claimed":{...}}}
//! ```
//!
//! * The first request is [`Request::Hello`]; a version that the daemon does not speak is refused.
//! * One reply for each request, in order. After [`Request::Monitor`] the daemon sends [`Event`] lines until the
//!   client closes.
//! * File descriptors travel with the first byte of the line they belong to, at most [`MAX_FDS`].
//! * A line is at most [`MAX_LINE`] bytes; a longer one, or one that is not a request, closes the connection after
//!   an error reply.
//! * An attachment lives as long as the connection that made it.
//! * Admin requests need root or the socket's group, and a caller that lives in no compartment. `Attach`, `Claim`,
//!   `Unclaim`, `Note` and `Hello` need nothing: the compartment is that of the caller's cgroup. Naming another
//!   compartment in `Attach` is an admin request. `Enter` needs what its text says.

use alloc::{string::String, vec::Vec};
use core::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use crate::policy::{Policy, PolicyChange};
use crate::vlan::Vlan;

/// Longest line in bytes, newline included.
pub const MAX_LINE: usize = 1 << 20;
/// Most file descriptors with one line: memfd, wake and a doorbell for each worker.
pub const MAX_FDS: usize = 2 + crate::shm::MAX_WORKERS;
/// Most bytes in a compartment's name. Letters, digits, `.`, `_`, `-`, not starting with `.` or `-`.
pub const MAX_NAME: usize = 63;
/// Longest time in milliseconds between SIGTERM and SIGKILL for a compartment's processes: an hour.
pub const MAX_GRACE: u32 = 3_600_000;

/// Most bytes of a note about an endpoint. It is one line, without control characters.
pub const MAX_NOTE: usize = 200;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Opens the conversation. `version` is [`crate::ABI_VERSION`] of the client.
    Hello {
        /// The client's [`crate::ABI_VERSION`].
        version: u32,
    },
    /// Creates a compartment. Admin.
    Add {
        /// Its name, unique in the instance.
        name: String,
        /// What it may do; absent fields keep their defaults.
        #[serde(default)]
        policy: Policy,
    },
    /// Changes what a compartment may do. Admin.
    Set {
        /// Its name.
        name: String,
        /// What changes; absent fields stay.
        policy: PolicyChange,
    },
    /// Removes a compartment with its addresses and endpoints. Admin.
    ///
    /// While processes live in it that is refused (EBUSY), unless `stop` or `force` says what becomes of them. The
    /// compartment is gone with the answer, its processes may end a moment later; until then its name is not free.
    Del {
        /// Its name.
        name: String,
        /// Its processes get SIGTERM, and after this many milliseconds SIGKILL; at most [`MAX_GRACE`].
        #[serde(default)]
        stop: Option<u32>,
        /// Its processes get SIGKILL at once.
        #[serde(default)]
        force: bool,
    },
    /// All compartments, in order of name.
    List {},
    /// One compartment.
    Show {
        /// Its name.
        name: String,
    },
    /// Gives an address or a delegated prefix to a compartment. Admin. The answer is [`Answer::Addresses`] with it; while
    /// it is tentative, an [`Event::Address`] will tell what has become of it.
    AddrAdd {
        /// What and where.
        address: AddressSpec,
        /// The owner.
        name: String,
    },
    /// Gives an address or prefix that some compartment has in the realm to another one, and announces it: without
    /// probing, since it was ours. Admin.
    AddrMove {
        /// Which. Only realm, address and, of a delegation, the length count.
        address: AddressSpec,
        /// The new owner.
        name: String,
    },
    /// Takes an address back. Admin.
    AddrDel {
        /// Which. `fast_only` and `prefix_len` of an address (not a delegation) are ignored.
        address: AddressSpec,
        /// If given, must be the owner.
        #[serde(default)]
        name: Option<String>,
    },
    /// Addresses, all of them or those that match every given field.
    AddrList {
        /// Owner.
        #[serde(default)]
        name: Option<String>,
        /// Device.
        #[serde(default)]
        dev: Option<String>,
        /// VLAN.
        #[serde(default)]
        vlan: Option<Vlan>,
        /// 4 or 6.
        #[serde(default)]
        family: Option<u8>,
    },
    /// Counters: the devices', and those of the named compartment or all.
    Stats {
        /// Only this compartment.
        #[serde(default)]
        name: Option<String>,
    },
    /// Attached endpoints, of one compartment or all.
    Endpoints {
        /// Only this compartment.
        #[serde(default)]
        name: Option<String>,
    },
    /// Groups of realms in which afnetd speaks IGMP or MLD.
    Maddr {},
    /// Devices, workers, modes and limits of the daemon.
    Status {},
    /// Turns the connection into a stream of [`Event`]s.
    Monitor {},
    /// The cgroup v2 directory of a compartment, made if needed; a process is placed by writing its pid to
    /// `cgroup.procs` there. Admin.
    Cgroup {
        /// The compartment.
        name: String,
    },
    /// Moves a process, with all of its threads, into a compartment's cgroup; its children to come are born there.
    ///
    /// An administrator may move any process. Others may move only themselves, if they live in no compartment and the
    /// policy's `users` or `groups` have them. A process that is there already stays where it is.
    Enter {
        /// The compartment.
        name: String,
        /// The process, as the daemon's pid namespace numbers it; absent: the caller.
        #[serde(default)]
        pid: Option<u32>,
    },
    /// Creates an endpoint. The reply carries the memfd, the wake eventfd and one doorbell eventfd for each worker.
    Attach {
        /// Kind of endpoint.
        kind: EndpointKind,
        /// The compartment; absent: that of the caller's cgroup. Naming one is an admin request.
        #[serde(default)]
        name: Option<String>,
        /// Bytes of each RX ring; absent: the daemon's default.
        #[serde(default)]
        rx_len: Option<u64>,
        /// Bytes of each TX ring; absent: the daemon's default.
        #[serde(default)]
        tx_len: Option<u64>,
    },
    /// Claims UDP ports for this connection's endpoint. One bound kernel UDP socket for each address that the
    /// kernel holds comes along as proof that the port is the caller's (not for `fast_only` addresses, nor
    /// delegated prefixes, nor for blocks).
    Claim {
        /// First port; 0 asks for any free one (only with `count` 1).
        port: u16,
        /// Number of ports from `port` on: 1, or a block.
        #[serde(default = "one")]
        count: u16,
        /// Only datagrams to this address; absent: to any of the compartment's.
        #[serde(default)]
        address: Option<IpAddr>,
        /// 4 or 6: only datagrams of that family, whichever the address. Not together with `address`.
        #[serde(default)]
        family: Option<u8>,
        /// Others may claim the same, shared too: then each flow goes to one of them (SO_REUSEPORT).
        #[serde(default)]
        shared: bool,
    },
    /// Gives claimed ports back. What the endpoint has sent by then goes out.
    Unclaim {
        /// First port of the claim.
        port: u16,
        /// As in the claim.
        #[serde(default)]
        address: Option<IpAddr>,
        /// As in the claim.
        #[serde(default)]
        family: Option<u8>,
        /// Why the ports leave the fast path; becomes the endpoint's note.
        #[serde(default)]
        reason: Option<String>,
    },
    /// What this connection's endpoint hears in a multicast group, or at a broadcast address, from now on, instead of what was
    /// said before (IPMulticastListen of RFC 3376 2). The host tells the network. No source, and not `exclude`: nothing.
    Listen {
        /// The group; 255.255.255.255, or the broadcast address of one of the compartment's addresses.
        group: IpAddr,
        /// Device, if it is not that of the compartment's first address of the family.
        #[serde(default)]
        dev: Option<String>,
        /// VLAN, with `dev`.
        #[serde(default)]
        vlan: Vlan,
        /// All sources but these; else these alone.
        #[serde(default)]
        exclude: bool,
        /// Sources.
        #[serde(default)]
        sources: Vec<IpAddr>,
    },
    /// The socket that comes along, on which a claim of this connection's endpoint stands, has joined a multicast group, has
    /// left it, or hears other sources: the endpoint gets what the socket hears, which the kernel is asked for, and the socket
    /// only what this host sends. The network is told by the kernel, since the socket is a member.
    Follow {
        /// The group.
        group: IpAddr,
    },
    /// Says something about this connection's endpoint, for those who list endpoints; instead of what was said before.
    Note {
        /// One line of at most [`MAX_NOTE`] bytes without control characters; empty: nothing.
        text: String,
    },
}

fn one() -> u16 {
    1
}

/// An address or prefix and the realm it lives in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressSpec {
    /// The address, or the prefix's first address.
    pub address: IpAddr,
    /// Of an address: the on-link prefix. Of a delegated prefix: its length.
    pub prefix_len: u8,
    /// Device name.
    pub dev: String,
    /// VLAN of the realm.
    #[serde(default)]
    pub vlan: Vlan,
    /// The whole prefix belongs to the compartment (longest match wins), not just the address.
    #[serde(default)]
    pub delegated: bool,
    /// The kernel does not get the address or prefix: the fast path alone owns it.
    #[serde(default)]
    pub fast_only: bool,
    /// What becomes of it when another host uses it; absent: as the daemon's configuration says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub defend: Option<Defend>,
    /// It is used at once, without asking whether another host has it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub nodad: bool,
}

/// What to do when another host uses an address (RFC 5227 2.4, (a) to (c)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Defend {
    /// Give it up at once.
    #[serde(rename = "a")]
    GiveUp,
    /// Announce it once; give it up if the other host is seen again within ten seconds.
    #[default]
    #[serde(rename = "b")]
    Once,
    /// Announce it, at most once in ten seconds, and never give it up.
    #[serde(rename = "c")]
    Always,
}

/// Kind of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointKind {
    /// Datagrams of claimed UDP ports.
    Udp,
    /// All IP packets of the compartment; one for a compartment.
    Raw,
}

/// A reply line: `{"ok":...}` or `{"error":...}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// Done.
    Ok(Answer),
    /// Refused; nothing changed.
    Error(Refusal),
}

/// Why a request was refused: what was tried, what the kernel answered, what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Symbolic errno: `EADDRINUSE`, `ENOENT`, `EPERM` ...
    pub code: String,
    /// The number behind it on this machine.
    pub errno: i32,
    /// For a person.
    pub message: String,
}

/// What a request yields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Nothing to say.
    Done,
    /// To [`Request::Follow`].
    Follows {
        /// The socket is in the group, at some device.
        member: bool,
    },
    /// To [`Request::Hello`].
    Hello {
        /// The daemon's [`crate::ABI_VERSION`].
        version: u32,
        /// The daemon's instance name.
        instance: String,
        /// Random number of this run of the daemon; another one after a restart.
        run: u64,
    },
    /// To [`Request::List`] and [`Request::Show`].
    Compartments(Vec<Compartment>),
    /// To [`Request::AddrList`].
    Addresses(Vec<Address>),
    /// To [`Request::Stats`].
    Stats(Stats),
    /// To [`Request::Endpoints`].
    Endpoints(Vec<Endpoint>),
    /// To [`Request::Maddr`].
    Groups(Vec<Realm>),
    /// To [`Request::Status`].
    Status(Status),
    /// To [`Request::Cgroup`].
    Cgroup {
        /// Absolute path of the directory.
        path: String,
    },
    /// To [`Request::Enter`].
    Entered {
        /// Absolute path of the compartment's directory.
        path: String,
        /// The process lived there before.
        already: bool,
        /// What the compartment may do.
        policy: Policy,
    },
    /// To [`Request::Attach`], with the file descriptors memfd, wake, doorbell 0, doorbell 1 ...
    Attached {
        /// The endpoint's number, unique in the daemon's run.
        endpoint: u64,
        /// The compartment's name.
        name: String,
        /// Number of workers: ring pairs and doorbells.
        workers: u32,
        /// Bytes of each RX ring.
        rx_len: u64,
        /// Bytes of each TX ring.
        tx_len: u64,
        /// The compartment's addresses as they are now.
        addresses: Vec<Address>,
        /// Some device copies what is sent: its mode is not zero-copy.
        copied: bool,
    },
    /// To [`Request::Claim`].
    Claimed {
        /// The port, or the block's first.
        port: u16,
        /// Number of ports.
        count: u16,
    },
}

/// A compartment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compartment {
    /// Name.
    pub name: String,
    /// Number: the slot in BPF maps and workers; reused after removal.
    pub id: u32,
    /// What it may do.
    pub policy: Policy,
    /// Number of addresses and prefixes.
    pub addresses: u32,
    /// Number of attached endpoints.
    pub endpoints: u32,
}

/// State of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressState {
    /// In use.
    Ok,
    /// Probed, not yet in use: nothing is answered for it (RFC 4862 5.4, RFC 5227 2.1).
    Tentative,
    /// Another host has it.
    Duplicate,
}

/// An address or prefix with its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// What and where.
    #[serde(flatten)]
    pub spec: AddressSpec,
    /// Owner's name.
    pub name: String,
    /// State.
    pub state: AddressState,
    /// Of a duplicate: the MAC address of the host that has it, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rival: Option<String>,
}

/// One counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counter {
    /// Name as in the counter table, lower case with underscores.
    pub name: String,
    /// Value since the daemon started.
    pub value: u64,
}

/// Counters of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// By device: the XDP program's and the queues'.
    pub devices: Vec<Counters>,
    /// By worker.
    pub workers: Vec<Counters>,
    /// By compartment: the XDP program's and the workers'.
    pub compartments: Vec<Counters>,
}

/// Counters of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Device, worker or compartment.
    pub name: String,
    /// Counters that are not zero, in the table's order.
    pub counters: Vec<Counter>,
}

/// Whether an endpoint gets anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndpointState {
    /// It has claims, or takes all packets.
    Fast,
    /// The kernel has all traffic.
    Plain,
}

/// An attached endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Number.
    pub endpoint: u64,
    /// Compartment's name.
    pub name: String,
    /// Kind.
    pub kind: EndpointKind,
    /// Process that attached.
    pub pid: u32,
    /// Its name when it attached; empty if afnetd cannot see it.
    pub command: String,
    /// Whether it gets anything.
    pub state: EndpointState,
    /// Datagrams, or packets, written into its RX rings.
    pub rx: u64,
    /// Datagrams, or packets, sent for it.
    pub tx: u64,
    /// Claimed ports.
    pub claims: Vec<ClaimSpec>,
    /// What its process says about it ([`Request::Note`]).
    pub note: String,
}

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimSpec {
    /// First port.
    pub port: u16,
    /// Number of ports.
    pub count: u16,
    /// Only this address, if set.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// Only this family, 4 or 6, if set.
    #[serde(default)]
    pub family: Option<u8>,
    /// Whether others may have it too.
    #[serde(default)]
    pub shared: bool,
}

/// Group membership in a realm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Realm {
    /// Device.
    pub dev: String,
    /// VLAN.
    pub vlan: Vlan,
    /// `igmp` or `mld`.
    pub protocol: String,
    /// The version that is spoken: that of the oldest querier there is.
    pub version: u8,
    /// Who speaks for all members.
    pub speaker: Speaker,
    /// Who asked last.
    #[serde(default)]
    pub querier: Option<IpAddr>,
    /// Milliseconds until something is said, or until an older querier counts as gone.
    #[serde(default)]
    pub timer: Option<u32>,
    /// Since the daemon speaks or follows there: queries and reports of old versions heard, packets that were ignored because
    /// they were damaged or no router's, packets sent by afnetd, changes of the version.
    #[serde(default)]
    pub counters: Vec<Counter>,
    /// The groups.
    pub groups: Vec<Group>,
}

/// A group with the filter of all of its members together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Address.
    pub address: IpAddr,
    /// All sources but these; else these alone.
    pub exclude: bool,
    /// Sources.
    pub sources: Vec<IpAddr>,
    /// Compartments that are in it, each once for each filter.
    pub members: Vec<Member>,
    /// Programs of the host, or sockets of compartments, are in it as well.
    #[serde(default)]
    pub kernel: bool,
    /// Milliseconds until something is said of it alone.
    #[serde(default)]
    pub timer: Option<u32>,
}

/// Who tells the network of memberships.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaker {
    /// The kernel, which afnetd gives what its members want.
    Kernel,
    /// afnetd.
    Afnetd,
}

/// A compartment in a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// It is the kernel, for its own sockets and those of compartments, where afnetd speaks for it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub kernel: bool,
    /// It hears all sources but these; else these alone.
    #[serde(default)]
    pub exclude: bool,
    /// Sources.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
}

/// The daemon at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Instance name.
    pub instance: String,
    /// Process id.
    pub pid: u32,
    /// Devices.
    pub devices: Vec<DeviceStatus>,
    /// CPU of each worker, absent if not pinned.
    pub workers: Vec<Option<u32>>,
    /// Wake mode: `busy`, `adaptive` or `interrupt`.
    pub wake: String,
}

/// A device that the daemon owns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Name.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// MAC address, `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// MTU in bytes.
    pub mtu: u32,
    /// Number of queues.
    pub queues: u32,
    /// `zero-copy`, `copy` or `generic`.
    pub mode: String,
    /// Why each better mode was refused.
    pub refused: Vec<String>,
}

/// A line of the event stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A compartment was added.
    Added {
        /// Name.
        name: String,
    },
    /// What a compartment may do has changed.
    Changed {
        /// Name.
        name: String,
        /// The new policy.
        policy: Policy,
    },
    /// A compartment was removed.
    Deleted {
        /// Name.
        name: String,
    },
    /// An address was added or changed its state.
    Address(Address),
    /// An address was removed.
    AddressDeleted(Address),
    /// An endpoint was attached.
    Attached {
        /// Number.
        endpoint: u64,
        /// Compartment.
        name: String,
        /// Process.
        pid: u32,
    },
    /// An endpoint went away.
    Detached {
        /// Number.
        endpoint: u64,
        /// Compartment.
        name: String,
        /// Why: `closed`, `deleted`, or the tenant's violation.
        reason: String,
    },
    /// Another host uses one of our addresses (RFC 5227 2.4, RFC 4862 5.4.5).
    Conflict {
        /// The address.
        address: IpAddr,
        /// Device.
        dev: String,
        /// VLAN.
        vlan: Vlan,
        /// Owner's name.
        name: String,
        /// The other host's MAC address.
        mac: String,
    },
    /// The reader was too slow: this many events were not sent.
    Lost {
        /// Number of events.
        count: u64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_request_reads_as_documented() {
        let json = r#"{"op":"claim","port":53}"#;
        let claim: Request = serde_json::from_str(json).unwrap();
        let plain = Request::Claim { port: 53, count: 1, address: None, family: None, shared: false };
        assert_eq!(claim, plain);
        let json = r#"{"op":"unclaim","port":53}"#;
        let unclaim: Request = serde_json::from_str(json).unwrap();
        assert_eq!(unclaim, Request::Unclaim { port: 53, address: None, family: None, reason: None });
        let json = r#"{"op":"addr-add","name":"a","address":{"address":"192.0.2.1","prefix_len":24,"dev":"eth0","vlan":"10.7"}}"#;
        let Request::AddrAdd { address, .. } = serde_json::from_str(json).unwrap() else { panic!() };
        assert_eq!(address.vlan.to_string(), "10.7");
        assert!(!address.delegated && !address.fast_only);
    }

    #[test]
    fn unknown_fields_and_requests_are_refused() {
        for json in [r#"{"op":"list","x":1}"#, r#"{"op":"nonsense"}"#, r#"{}"#, "null", r#"{"op":"add"}"#] {
            assert!(serde_json::from_str::<Request>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn an_address_is_flat() {
        let spec = AddressSpec {
            address: "2001:db8::1".parse().unwrap(),
            prefix_len: 64,
            dev: "eth0".to_string(),
            vlan: Vlan::NONE,
            delegated: false,
            fast_only: true,
            defend: Some(Defend::Always),
            nodad: false,
        };
        let rival = Some("02:00:00:00:00:01".to_string());
        let address = Address { spec, name: "a".to_string(), state: AddressState::Duplicate, rival };
        let json =
            serde_json::to_string(&Reply::Ok(Answer::Addresses(alloc::vec![address.clone()]))).unwrap();
        assert!(json.contains(r#""dev":"eth0""#) && json.contains(r#""state":"duplicate""#), "{json}");
        assert!(json.contains(r#""defend":"c""#) && !json.contains("nodad"), "{json}");
        let Reply::Ok(Answer::Addresses(back)) = serde_json::from_str(&json).unwrap() else { panic!() };
        assert_eq!(back, [address]);
    }
}
