//! What can go wrong between the loader and the kernel.

use std::{io, net::IpAddr, path::PathBuf};

use afnet_abi::vlan::Vlan;

/// Why the kernel, or this crate before it, refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of libbpf failed; `what` says what was tried.
    #[error("{what}: {source}")]
    Bpf {
        /// What was tried.
        what: &'static str,
        /// What libbpf or the kernel answered.
        source: libbpf_rs::Error,
    },
    /// A system call failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The device has an XDP program that is not ours.
    #[error(
        "interface {ifindex} already runs another XDP program (id {program}); remove it first, see `bpftool prog show id {program}`"
    )]
    Busy {
        /// The device.
        ifindex: u32,
        /// Id of its program; 0 if the kernel did not tell.
        program: u32,
    },
    /// The pin belongs to something else than a link.
    #[error("{path} is no pinned link of afnet's")]
    ForeignPin {
        /// The path of the pin.
        path: PathBuf,
    },
    /// No network interface can have this index.
    #[error("there is no interface {0}")]
    NoDevice(u32),
    /// The slot is 0 (the host's) or not below [`crate::Limits::compartments`].
    #[error("compartment slot {0} is out of range")]
    Slot(u32),
    /// The queue is not one that the program was loaded for.
    #[error("queue {0} is out of range")]
    Queue(u32),
    /// The prefix is longer than its family permits, or has bits set beyond its length.
    #[error("{addr}/{len} is no prefix")]
    Prefix {
        /// The prefix's first address.
        addr: IpAddr,
        /// Its length.
        len: u8,
    },
    /// Only UDP ports can be claimed, and a block must be 1 to 65536 - `first` ports long.
    #[error("cannot claim {count} ports from {first} of protocol {protocol}")]
    Claim {
        /// IP protocol number.
        protocol: u8,
        /// First port.
        first: u16,
        /// Number of ports.
        count: u16,
    },
    /// A map is full.
    #[error("the {map} map is full ({limit} entries)")]
    Full {
        /// Which map.
        map: &'static str,
        /// Its size.
        limit: u32,
    },
    /// The address or prefix is not there.
    #[error("{addr} (vlan {vlan}) is not in the map")]
    NoAddress {
        /// The address.
        addr: IpAddr,
        /// Its realm on the device.
        vlan: Vlan,
    },
    /// The host link or its hook is missing.
    #[error("set_host_link() comes before attach_local()")]
    NoHostLink,
}

impl Error {
    /// For `map_err` on libbpf's results.
    pub(crate) fn bpf(what: &'static str) -> impl FnOnce(libbpf_rs::Error) -> Self {
        move |source| Self::Bpf { what, source }
    }

    /// From the negative errno that libbpf returned.
    pub(crate) fn answer(what: &'static str, negative: i32) -> Self {
        Self::Io { what, source: io::Error::from_raw_os_error(-negative) }
    }

    /// The errno behind it, if the kernel gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Io { source, .. } => source.raw_os_error(),
            Self::Bpf { source, .. } => match source.kind() {
                libbpf_rs::ErrorKind::PermissionDenied => Some(libc::EPERM),
                _ => None,
            },
            Self::Busy { .. } => Some(libc::EBUSY),
            Self::Full { .. } => Some(libc::E2BIG),
            Self::NoAddress { .. } => Some(libc::ENOENT),
            Self::Slot(_) | Self::Queue(_) | Self::Prefix { .. } | Self::Claim { .. } => Some(libc::EINVAL),
            Self::ForeignPin { .. } => Some(libc::EEXIST),
            Self::NoHostLink | Self::NoDevice(_) => Some(libc::ENODEV),
        }
    }
}
