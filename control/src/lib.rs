//! The control plane of afnet: the daemon `afnetd` and its command line `afnet`.
//!
//! | module | contents |
//! |---|---|
//! | [`names`] | instance, paths, names |
//! | [`config`] | `afnetd.toml` |
//! | [`registry`] | who owns which address and port: pure data |
//! | [`state`] | what a restarted daemon finds again |
//! | [`server`] | the control socket |
//! | [`system`] | privileges, cgroups, bpffs, locks, signals |

pub mod config;
pub mod error;
pub mod names;
pub mod registry;
pub mod server;
pub mod state;
pub mod system;
