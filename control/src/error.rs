//! Refusals: what the daemon answers when it does not do what it was asked to.
//!
//! A refusal carries an errno for programs and one sentence for a person: what was tried, what the kernel answered
//! where it was the kernel, what to do. Nothing has changed when one is returned.

use std::{fmt, io};

use afnet_abi::control::Refusal;
use rustix::io::Errno;

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    /// For programs.
    pub errno: Errno,
    /// For a person.
    pub message: String,
}

impl Refused {
    /// A refusal with `errno` and a sentence.
    pub fn new(errno: Errno, message: impl Into<String>) -> Self {
        Self { errno, message: message.into() }
    }

    /// A refusal because a system call answered `error` when `what` was tried.
    pub fn io(what: impl fmt::Display, error: &io::Error) -> Self {
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        Self { errno, message: format!("{what}: {error}") }
    }

    /// The form that travels over the control socket.
    pub fn to_wire(&self) -> Refusal {
        Refusal {
            code: errno_name(self.errno).to_owned(),
            errno: self.errno.raw_os_error(),
            message: self.message.clone(),
        }
    }
}

/// Adds what was tried to an error of the system.
pub trait Context<T> {
    /// `what: error` as a [`Refused`]; `what` is evaluated on error only.
    fn refused<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T, Refused>;
}

impl<T> Context<T> for io::Result<T> {
    fn refused<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T, Refused> {
        self.map_err(|e| Refused::io(what(), &e))
    }
}

impl<T> Context<T> for Result<T, Errno> {
    fn refused<D: fmt::Display>(self, what: impl FnOnce() -> D) -> Result<T, Refused> {
        self.map_err(|e| Refused::io(what(), &e.into()))
    }
}

/// Symbolic name of the errnos that refusals use; others are `EIO`-like strangers and read `EUNKNOWN`.
pub fn errno_name(errno: Errno) -> &'static str {
    const NAMES: &[(Errno, &str)] = &[
        (Errno::ACCESS, "EACCES"),
        (Errno::ADDRINUSE, "EADDRINUSE"),
        (Errno::ADDRNOTAVAIL, "EADDRNOTAVAIL"),
        (Errno::AGAIN, "EAGAIN"),
        (Errno::BADF, "EBADF"),
        (Errno::BADMSG, "EBADMSG"),
        (Errno::BUSY, "EBUSY"),
        (Errno::EXIST, "EEXIST"),
        (Errno::HOSTUNREACH, "EHOSTUNREACH"),
        (Errno::INVAL, "EINVAL"),
        (Errno::IO, "EIO"),
        (Errno::MFILE, "EMFILE"),
        (Errno::MSGSIZE, "EMSGSIZE"),
        (Errno::NETDOWN, "ENETDOWN"),
        (Errno::NETUNREACH, "ENETUNREACH"),
        (Errno::NFILE, "ENFILE"),
        (Errno::NOBUFS, "ENOBUFS"),
        (Errno::NODEV, "ENODEV"),
        (Errno::NOENT, "ENOENT"),
        (Errno::NOMEM, "ENOMEM"),
        (Errno::NOSPC, "ENOSPC"),
        (Errno::NOTCONN, "ENOTCONN"),
        (Errno::NOTSOCK, "ENOTSOCK"),
        (Errno::NXIO, "ENXIO"),
        (Errno::OPNOTSUPP, "EOPNOTSUPP"),
        (Errno::PERM, "EPERM"),
        (Errno::PROTO, "EPROTO"),
        (Errno::PROTONOSUPPORT, "EPROTONOSUPPORT"),
        (Errno::SRCH, "ESRCH"),
        (Errno::TIMEDOUT, "ETIMEDOUT"),
        (Errno::USERS, "EUSERS"),
    ];
    NAMES.iter().find(|(e, _)| *e == errno).map_or("EUNKNOWN", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_errno_and_cause() {
        let refused: Result<(), _> =
            Err(io::Error::from_raw_os_error(libc::EBUSY)).refused(|| "binding eth0");
        let wire = refused.unwrap_err().to_wire();
        assert_eq!((wire.code.as_str(), wire.errno), ("EBUSY", libc::EBUSY));
        assert!(wire.message.starts_with("binding eth0: "), "{}", wire.message);
    }
}
