//! The control socket: one request, one reply, file descriptors along with either.
//!
//! The daemon is trusted, but a reply of another release, or of something else at that path, must end in an error and
//! not in a hang, a leak or a panic: every wait and every length is bounded.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        linux::net::SocketAddrExt,
        unix::net::UnixStream,
    },
    path::Path,
    time::Duration,
};

use afnet_abi::{
    ABI_VERSION,
    control::{Answer, MAX_FDS, MAX_LINE, Reply, Request},
};
use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
};

use crate::{Error, instance::abstract_name};

/// Longest wait for the daemon to read a request or to answer it. A claim takes milliseconds; a daemon that needs
/// seconds is as good as none.
const TIMEOUT: Duration = Duration::from_secs(5);

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// An open conversation with a daemon of our version.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Random number of this run of the daemon.
    pub(crate) run: u64,
}

impl Connection {
    /// Connects to the socket at `path` and agrees on the version.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Version`], [`Error::Protocol`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(path)
            .map_err(|source| Error::NotRunning { path: path.to_owned(), source })?;
        Self::begin(stream)
    }

    /// Connects to the abstract socket of `instance` (`None`: as for [`crate::socket_path`]), which a process reaches
    /// whatever its root directory is. Anybody can listen at an abstract name, so only root is believed there.
    ///
    /// # Errors
    /// As [`Self::open`]; [`Error::NotRunning`] with `EACCES` if it is not root who listens.
    pub fn open_abstract(instance: Option<&str>) -> Result<Self, Error> {
        let name = abstract_name(instance)?;
        let fail = |source| Error::NotRunning { path: format!("@{name}").into(), source };
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).map_err(fail)?;
        let stream = UnixStream::connect_addr(&address).map_err(fail)?;
        let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(|e| fail(e.into()))?;
        if !peer.uid.is_root() {
            return Err(fail(Errno::ACCESS.into()));
        }
        Self::begin(stream)
    }

    fn begin(stream: UnixStream) -> Result<Self, Error> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut connection = Self { stream, run: 0 };
        match connection.call(&Request::Hello { version: ABI_VERSION }, &[]) {
            Ok((Answer::Hello { version: ABI_VERSION, run, .. }, fds)) if fds.is_empty() => {
                connection.run = run;
                Ok(connection)
            }
            Ok((Answer::Hello { version: daemon, .. }, _)) if daemon != ABI_VERSION => {
                Err(Error::Version { daemon })
            }
            Ok((answer, _)) => Err(unexpected(&answer)),
            Err(e) => Err(e),
        }
    }

    /// One request and its reply, with `fds` and the descriptors that came back. After an error other than a refusal
    /// the conversation is out of step: drop it.
    ///
    /// # Errors
    /// [`Error::Refused`], [`Error::Disconnected`], [`Error::Protocol`], or what the kernel says.
    pub fn call(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Vec<OwnedFd>), Error> {
        let mut line = serde_json::to_vec(request).map_err(|e| Error::Protocol(e.to_string()))?;
        line.push(b'\n');
        self.send(&line, fds)?;
        let (line, fds) = self.receive()?;
        match serde_json::from_slice(&line) {
            Ok(Reply::Ok(answer)) => Ok((answer, fds)),
            Ok(Reply::Error(refusal)) => Err(Error::Refused(refusal)),
            Err(e) => Err(Error::Protocol(format!("its answer cannot be read: {e}"))),
        }
    }

    fn send(&self, line: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
        let mut sent = 0;
        while sent < line.len() {
            let mut space = [MaybeUninit::uninit(); SPACE];
            let mut control = SendAncillaryBuffer::new(&mut space);
            // With the first byte, once.
            if sent == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Error::TooManyAddresses(fds.len()));
            }
            match sendmsg(&self.stream, &[IoSlice::new(&line[sent..])], &mut control, SendFlags::NOSIGNAL) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(e) => return Err(lost(e)),
            }
        }
        Ok(())
    }

    /// One line without its newline, and the descriptors that came with it.
    fn receive(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), Error> {
        let (mut line, mut fds) = (Vec::new(), Vec::new());
        let mut chunk = [0; 4096];
        loop {
            let mut space = [MaybeUninit::uninit(); SPACE];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut iov = [IoSliceMut::new(&mut chunk)];
            let message = match recvmsg(&self.stream, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => continue,
                other => other.map_err(lost)?,
            };
            for item in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = item {
                    fds.extend(rights);
                }
            }
            if message.bytes == 0 {
                return Err(Error::Disconnected);
            }
            if message.flags.contains(ReturnFlags::CTRUNC) || fds.len() > MAX_FDS {
                return Err(Error::Protocol("too many file descriptors in one answer".to_owned()));
            }
            line.extend_from_slice(&chunk[..message.bytes]);
            if let Some(end) = line.iter().position(|b| *b == b'\n') {
                if end + 1 != line.len() {
                    return Err(Error::Protocol("more than one answer to one request".to_owned()));
                }
                line.pop();
                return Ok((line, fds));
            }
            if line.len() >= MAX_LINE {
                return Err(Error::Protocol(format!("an answer longer than {MAX_LINE} bytes")));
            }
        }
    }
}

/// A conversation that was opened before, when its descriptor alone has been kept.
impl From<OwnedFd> for Connection {
    fn from(descriptor: OwnedFd) -> Self {
        Self { stream: descriptor.into(), run: 0 }
    }
}

impl From<Connection> for OwnedFd {
    fn from(connection: Connection) -> Self {
        connection.stream.into()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// An answer to another question than ours.
pub(crate) fn unexpected(answer: &Answer) -> Error {
    // An answer can hold a thousand addresses; its beginning tells what it is.
    Error::Protocol(format!("unexpected answer {:.200}", format!("{answer:?}")))
}

/// An error of the socket itself.
fn lost(errno: Errno) -> Error {
    match errno {
        Errno::PIPE | Errno::CONNRESET => Error::Disconnected,
        Errno::AGAIN => Error::Io(io::Error::new(io::ErrorKind::TimedOut, "afnetd does not answer")),
        other => other.into(),
    }
}
