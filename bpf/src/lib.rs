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
//! | [`events`](Events) | conflicts |
//! | [`local`](Demux::attach_local), [`host`](HostDemux) | what this host sends to its own compartments |
//! | [`counters`](Counter) | the table of verdicts and drop reasons |
//!
//! One loaded object for each device, so a realm is (object, VLAN). [`Demux`] belongs to the control thread;
//! [`Sockets`], [`Dirty`] and [`Events`] own what they need and may move. Loading and attaching need CAP_BPF,
//! CAP_NET_ADMIN and CAP_PERFMON (or root) and a bpffs for the pin.

mod counters;
mod demux;
mod dirty;
mod error;
mod events;
mod host;
mod link;
mod local;
mod map;
mod skel;
mod sockets;
mod tables;

pub use counters::Counter;
pub use demux::{AddressEntry, CompartmentConfig, Demux, DemuxConfig, Limits};
pub use dirty::Dirty;
pub use error::Error;
pub use events::{ConflictKind, Event, Events};
pub use host::{HostCounters, HostDemux};
pub use link::AttachMode;
pub use sockets::Sockets;
