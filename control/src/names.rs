//! Names and places: everything that an instance of the daemon leaves in the system derives from its name.
//!
//! | what | default instance | instance `x` |
//! |---|---|---|
//! | runtime directory | `/run/afnet` | `/run/afnet-x` |
//! | control socket | `/run/afnet/afnetd.sock` | `/run/afnet-x/afnetd.sock` |
//! | the same without a path | `@afnet/default` | `@afnet/x` |
//! | state of a compartment | `/run/afnet/compartments/NAME.json` | `/run/afnet-x/compartments/NAME.json` |
//! | pins in bpffs | `/sys/fs/bpf/afnet/link-DEV` | `/sys/fs/bpf/afnet-x/link-DEV` |
//! | cgroups, below the cgroup v2 root | `afnet/NAME` | `afnet-x/NAME` |
//! | host link (veth) | `afnetH0`, `afnetW0` | `afnetH` and `afnetW` with a hash of `x` |
//!
//! Pure: computes names, touches nothing.

use std::path::{Path, PathBuf};

use afnet_abi::control::MAX_NAME;

/// Where bpffs is, and is mounted if it is not.
pub const BPFFS: &str = "/sys/fs/bpf";

/// An instance of the daemon: a name, empty for the default one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instance(String);

/// Why a name was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Not an instance name.
    #[error("bad instance name {0:?}: 1 to 64 letters, digits, `_` or `-`, not starting with `-`")]
    Instance(String),
    /// Not a compartment name.
    #[error("bad name {0:?}: 1 to {MAX_NAME} letters, digits, `.`, `_` or `-`, not starting with `.` or `-`")]
    Compartment(String),
}

impl Instance {
    /// The instance called `name`; the empty name and `default` are the default instance.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || name == "default" {
            Ok(Self::default())
        } else if name.len() <= 64 && name.bytes().all(good) && !name.starts_with('-') {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidName::Instance(name.to_owned()))
        }
    }

    /// For people: the name, `default` for the default instance.
    pub fn name(&self) -> &str {
        if self.0.is_empty() { "default" } else { &self.0 }
    }

    /// `afnet` or `afnet-NAME`: the last component of every directory of the instance.
    pub fn directory(&self) -> String {
        if self.0.is_empty() { "afnet".to_owned() } else { format!("afnet-{}", self.0) }
    }

    /// Directory of socket and state, owned by root.
    pub fn runtime_dir(&self) -> PathBuf {
        Path::new("/run").join(self.directory())
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.runtime_dir().join("afnetd.sock")
    }

    /// The control socket's other name, in the abstract namespace of the network namespace.
    pub fn abstract_socket(&self) -> String {
        format!("afnet/{}", self.name())
    }

    /// Directory of the state files.
    pub fn state_dir(&self) -> PathBuf {
        self.runtime_dir().join("compartments")
    }

    /// Directory of the pins.
    pub fn pin_dir(&self) -> PathBuf {
        Path::new(BPFFS).join(self.directory())
    }

    /// Pin of the XDP link of device `dev`.
    pub fn link_pin(&self, dev: &str) -> PathBuf {
        // bpffs refuses dots in names, device names may hold them (eth0.5).
        self.pin_dir().join(format!("link-{}", dev.replace('.', "_")))
    }

    /// Names of the host link's ends: the kernel's and the workers'. At most 14 bytes each (IFNAMSIZ is 16).
    pub fn host_link(&self) -> (String, String) {
        let tag =
            if self.0.is_empty() { "0".to_owned() } else { format!("{:08x}", fnv1a(self.0.as_bytes())) };
        (format!("afnetH{tag}"), format!("afnetW{tag}"))
    }
}

/// FNV-1a, 32 bits: short, stable names; no defence against anybody.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

/// Checks a compartment's name. A good one is also a good file name and cgroup name: no `/`, no leading dot.
pub fn check_compartment(name: &str) -> Result<(), InvalidName> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let first = name.bytes().next().is_some_and(|b| b != b'.' && b != b'-');
    // A cgroup directory already holds the kernel's files `cgroup.*` and those of the controllers.
    let reserved =
        ["cgroup.", "cpu.", "memory.", "io.", "pids.", "cpuset.", "irq.", "misc.", "rdma.", "hugetlb."];
    if first
        && name.len() <= MAX_NAME
        && name.bytes().all(good)
        && !reserved.iter().any(|r| name.starts_with(r))
    {
        Ok(())
    } else {
        Err(InvalidName::Compartment(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_follow_the_instance() {
        let default = Instance::new("").unwrap();
        assert_eq!(default, Instance::new("default").unwrap());
        assert_eq!(default.socket(), Path::new("/run/afnet/afnetd.sock"));
        assert_eq!(default.abstract_socket(), "afnet/default");
        assert_eq!(default.host_link(), ("afnetH0".to_owned(), "afnetW0".to_owned()));
        let named = Instance::new("blue").unwrap();
        assert_eq!(named.state_dir(), Path::new("/run/afnet-blue/compartments"));
        assert_eq!(named.link_pin("eth0.5"), Path::new("/sys/fs/bpf/afnet-blue/link-eth0_5"));
        let (host, worker) = named.host_link();
        assert!(host.len() <= 15 && worker.len() <= 15 && host != worker);
    }

    #[test]
    fn bad_names_are_refused() {
        for name in ["-x", "a/b", "a b", "a.b", "x".repeat(65).as_str(), "ä", ".."] {
            assert!(Instance::new(name).is_err(), "{name}");
        }
        for name in ["", ".x", "-x", "a/b", "a b", "..", "x".repeat(64).as_str(), "cgroup.procs", "ä", "a\n"]
        {
            assert!(check_compartment(name).is_err(), "{name}");
        }
        for name in ["afns-1", "a.b_c", "0", "x".repeat(63).as_str()] {
            assert_eq!(check_compartment(name), Ok(()), "{name}");
        }
    }
}
