//! What can go wrong for a tenant, and the errno that stands for it.

use std::{io, net::SocketAddr, path::PathBuf};

use afnet_abi::{ABI_VERSION, control::Refusal};
use afnet_ring::OpenError;
use rustix::io::Errno;

use crate::IcmpError;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No daemon answers at the control socket. The kernel's errno: `ENOENT`, `ECONNREFUSED`, `EACCES`.
    #[error("no afnetd answers at {}: {source} (is the daemon running? AFNET_INSTANCE selects another)", path.display())]
    NotRunning {
        /// The control socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not a name of an instance. `EINVAL`.
    #[error("bad instance name {0:?}: 1 to 32 letters, digits, `_` or `-`, not starting with `-`")]
    Instance(String),
    /// The daemon refuses; nothing has changed. Its errno.
    #[error("afnetd refuses: {} ({})", .0.message, .0.code)]
    Refused(Refusal),
    /// The daemon speaks another version. `EPROTONOSUPPORT`.
    #[error("afnetd speaks version {daemon}, this library version {}: use those of one release", ABI_VERSION)]
    Version {
        /// The daemon's version.
        daemon: u32,
    },
    /// The daemon said something that this library does not understand. `EPROTO`.
    #[error("afnetd broke the protocol: {0}")]
    Protocol(String),
    /// The memory that the daemon sent is not an endpoint's. `EPROTO`.
    #[error("afnetd sent a bad endpoint")]
    Memory(#[from] OpenError),
    /// A kernel socket for the claim could not be bound. The kernel's errno, `EADDRINUSE` among them.
    #[error("cannot bind the kernel's UDP socket {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// More kernel-held addresses than one claim can carry proofs for: claim them one by one. `E2BIG`.
    #[error("the compartment has {0} addresses, too many for one claim: claim each with claim_at")]
    TooManyAddresses(usize),
    /// Nothing there, or no room, and the call must not block; or its time is up. `EAGAIN`.
    #[error("would block")]
    WouldBlock,
    /// The connection to the daemon is gone, and nothing can take its place. `ENOTCONN`.
    #[error("not connected to afnetd")]
    Disconnected,
    /// Longer than any datagram or packet. `EMSGSIZE`.
    #[error("{0} bytes are too long for one message")]
    TooLong(usize),
    /// A combination that makes no sense: the text says which. `EINVAL`.
    #[error("{0}")]
    Invalid(&'static str),
    /// An ICMP error about something that this endpoint sent. Its errno.
    #[error(transparent)]
    Icmp(IcmpError),
    /// What the kernel said.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// The errno that a socket call would have set.
    pub fn errno(&self) -> i32 {
        let raw = |e: &io::Error| e.raw_os_error().unwrap_or(Errno::IO.raw_os_error());
        match self {
            Self::Refused(refusal) => refusal.errno,
            Self::Bind { source, .. } | Self::Io(source) | Self::NotRunning { source, .. } => raw(source),
            Self::Icmp(error) => error.errno,
            Self::Instance(_) | Self::Invalid(_) => Errno::INVAL.raw_os_error(),
            Self::Version { .. } => Errno::PROTONOSUPPORT.raw_os_error(),
            Self::Protocol(_) | Self::Memory(_) => Errno::PROTO.raw_os_error(),
            Self::TooManyAddresses(_) => Errno::TOOBIG.raw_os_error(),
            Self::WouldBlock => Errno::AGAIN.raw_os_error(),
            Self::Disconnected => Errno::NOTCONN.raw_os_error(),
            Self::TooLong(_) => Errno::MSGSIZE.raw_os_error(),
        }
    }

    /// Whether somebody else has the port: another claim, or a socket of the kernel.
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Bind { .. })
            && self.errno() == Errno::ADDRINUSE.raw_os_error()
    }
}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Io(errno.into())
    }
}
