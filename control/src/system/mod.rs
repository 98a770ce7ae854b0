//! What daemon and command line need of the machine besides networking: accounts, processes, privileges, cgroups,
//! bpffs, locks, signals, service manager.
//!
//! Small wrappers around single kernel facilities; none of them keeps a thread or blocks.

pub mod accounts;
pub mod bpffs;
pub mod caps;
pub mod cgroup;
pub mod confine;
pub mod lock;
pub mod membership;
pub mod mounts;
pub mod notify;
pub mod process;
pub mod signals;
pub mod sysctl;
