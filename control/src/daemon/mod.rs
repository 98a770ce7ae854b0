//! The daemon `afnetd`: one thread, one event loop, and the workers that it directs.
//!
//! ```text
//!   control socket   rtnetlink   BPF event rings   signals   workers' notify   second tick
//!         \              \             |              /            /             /
//!          +--------------------------- mio ------------------------------------+
//!                                       |
//!                      Core: registry, devices, endpoints, resolver
//!                       |            |              |           |
//!                   BPF maps    Dataplane API    rtnetlink   state files
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`args`] | command line |
//! | [`core`] | [`core::Core`]: all state, requests to their handlers |
//! | [`device`] | a device: XDP program, sockets, modes |
//! | [`host`] | the host link with its program |
//! | [`compartment`], [`address`] | what administrators add and remove |
//! | [`confine`] | the kernel path: what its programs are told |
//! | [`enter`] | who may move which process into a compartment |
//! | [`endpoint`], [`proof`], [`release`] | what tenants attach and claim |
//! | [`probe`] | whether addresses are free, and stay ours |
//! | [`multicast`] | groups, where nobody else reports them |
//! | [`resolve`], [`mirror`] | where packets go: the kernel's routes and neighbours |
//! | [`sockets`] | connections of addresses that are taken away |
//! | [`report`] | answers to those who look |
//! | [`start`], [`stop`] | order of coming up, restoring, and leaving nothing |
//! | [`run`] | the event loop |
//!
//! Order of changes: workers first, then BPF maps, so that a frame never reaches a worker that does not know it yet;
//! the other way round on removal. A change that fails half-way is taken back.

pub mod address;
pub mod args;
pub mod compartment;
pub mod confine;
pub mod core;
pub mod device;
pub mod endpoint;
pub mod enter;
pub mod host;
pub mod mirror;
pub mod multicast;
pub mod probe;
pub mod proof;
pub mod release;
pub mod report;
pub mod resolve;
pub mod run;
pub mod sockets;
pub mod start;
pub mod stop;
