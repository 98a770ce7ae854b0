//! afnet's BPF programs, their loader and typed maps.
//!
//! ```text
//!              frame
//!                v
//!  prog/xdp.bpf.c: parse -> whose address? -> claimed? --> AF_XDP socket of (compartment, queue)
//!                |  maps, written by Demux:                    ^
//!                |  addresses, prefixes, claims, compartments  Sockets, Dirty (worker)
//!                +-> ARP reply, NA, echo reply (XDP_TX); conflict -> Events
//!                +-> everything else: the kernel
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`demux`](Demux) | load and attach the programs of one device, all its tables |
//! | [`sockets`](Sockets), [`dirty`](Dirty) | the worker's handles |
//! | [`events`](Events) | conflicts, packets of IGMP and MLD |
//! | [`local`](Demux::attach_local), [`host`](HostDemux) | what this host sends to its own compartments; what its kernel says of memberships |
//! | [`confine`](Confinement) | the kernel path: ordinary sockets keep to their compartment's addresses |
//! | [`releases`](Releases) | what the kernel path knows of the sockets behind claims, and when they are gone |
//! | [`joined`](Joined) | whether such a socket is in a multicast group |
//! | [`counters`](Counter) | the tables of verdicts, drop reasons and refusals |
//!
//! One loaded object for each device, so a realm is (object, VLAN); one [`Confinement`] for the daemon. Both belong to
//! the control thread; [`Sockets`], [`Dirty`] and [`Events`] own what they need and may move. Loading and attaching need
//! CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (or root) and a bpffs for the pins.

mod confine;
mod counters;
mod demux;
mod dirty;
mod error;
mod events;
mod host;
mod joined;
mod link;
mod local;
mod map;
mod releases;
mod skel;
mod sockets;
mod tables;
mod tc;

pub use confine::{Confined, Confinement, ConfinementConfig, Source};
pub use counters::{Counter, Refusal};
pub use demux::{AddressEntry, CompartmentConfig, Demux, DemuxConfig, Limits};
pub use dirty::Dirty;
pub use error::Error;
pub use events::{ConflictKind, Event, Events, Membership, Memberships, Ring};
pub use host::{HostCounters, HostDemux};
pub use joined::Joined;
pub use link::AttachMode;
pub use releases::{Registered, Releases};
pub use sockets::Sockets;
