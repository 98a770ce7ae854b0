//! The control plane of afnet: the daemon `afnetd` and its command line `afnet`.
//!
//! | module | contents |
//! |---|---|
//! | [`names`] | instance, paths, names |
//! | [`config`] | `afnetd.toml` |
//! | [`registry`] | who owns which address and port: pure data |
//! | [`select`] | source addresses by RFC 6724 |
//! | [`state`] | what a restarted daemon finds again |
//! | [`dad`] | whether an address is free, and still ours: pure state machine, and its frames |
//! | [`multicast`] | group membership, IGMP and MLD: pure state machine and codecs |
//! | [`netlink`] | links, addresses, routes, neighbours of the kernel |
//! | [`server`] | the control socket |
//! | [`daemon`] | all of it together, with BPF programs and workers |
//! | [`client`], [`cli`] | the command line |
//! | [`system`] | privileges, cgroups, bpffs, locks, signals |

pub mod cli;
pub mod client;
pub mod config;
pub mod dad;
pub mod daemon;
pub mod error;
pub mod multicast;
pub mod names;
pub mod netlink;
pub mod registry;
pub mod select;
pub mod server;
pub mod state;
pub mod system;
