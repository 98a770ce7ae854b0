//! What the daemon needs of the machine besides networking: privileges, cgroups, bpffs, locks, signals, service manager.
//!
//! Small wrappers around single kernel facilities; none of them keeps a thread or blocks.

pub mod bpffs;
pub mod caps;
pub mod cgroup;
pub mod lock;
pub mod notify;
pub mod signals;
pub mod sysctl;
