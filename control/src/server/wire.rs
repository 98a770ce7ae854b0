//! Bytes and file descriptors over a Unix stream socket: one `sendmsg`/`recvmsg` each, and the queue of what could
//! not be sent yet. Shared by server and client.

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use afnet_abi::control::MAX_FDS;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// Receives bytes into `buffer` and appends descriptors to `fds`. 0: the peer has closed.
///
/// More descriptors than [`MAX_FDS`] in one message are `InvalidData`; what came of them is closed.
pub fn receive(socket: impl AsFd, buffer: &mut [u8], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(buffer)];
    let message = recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = item {
            fds.extend(rights);
        }
    }
    if message.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "too many file descriptors in one message"));
    }
    Ok(message.bytes)
}

/// Sends bytes, with the descriptors if there are any, and returns how many bytes went.
pub fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fits = fds.len() <= MAX_FDS && (fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    if !fits {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many file descriptors"));
    }
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Lines that wait for the peer to read.
#[derive(Debug, Default)]
pub struct OutQueue {
    lines: VecDeque<(Vec<u8>, Vec<OwnedFd>)>,
    /// Bytes of the first line that have gone.
    sent: usize,
    bytes: usize,
}

impl OutQueue {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.bytes - self.sent
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Appends a line; its descriptors are closed here once they have been sent.
    pub fn push(&mut self, line: Vec<u8>, fds: Vec<OwnedFd>) {
        self.bytes += line.len();
        self.lines.push_back((line, fds));
    }

    /// Sends until all has gone (`true`) or the socket is full (`false`).
    pub fn flush(&mut self, socket: impl AsFd) -> io::Result<bool> {
        while let Some((line, fds)) = self.lines.front_mut() {
            let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            match send(socket.as_fd(), &line[self.sent..], &borrowed) {
                Ok(sent) => {
                    // They travel with the first byte.
                    fds.clear();
                    self.sent += sent;
                    if self.sent == line.len() {
                        self.bytes -= line.len();
                        self.sent = 0;
                        self.lines.pop_front();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descriptors_travel_with_the_first_byte_of_their_line() {
        let (a, b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        let mut queue = OutQueue::default();
        let big = vec![b'x'; 1 << 20];
        queue.push(big.clone(), Vec::new());
        let file = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        queue.push(b"fds\n".to_vec(), vec![file(), file()]);
        let mut got = Vec::new();
        let mut fds = Vec::new();
        while !queue.is_empty() {
            queue.flush(&a).unwrap();
            let mut buffer = [0; 65536];
            let n = receive(&b, &mut buffer, &mut fds).unwrap();
            got.extend_from_slice(&buffer[..n]);
        }
        while got.len() < big.len() + 4 {
            let mut buffer = [0; 65536];
            let n = receive(&b, &mut buffer, &mut fds).unwrap();
            got.extend_from_slice(&buffer[..n]);
        }
        assert!(got.ends_with(b"fds\n"));
        assert_eq!((fds.len(), queue.len()), (2, 0));
    }

    #[test]
    fn too_many_descriptors_are_an_error_and_none_stays_open() {
        let (a, b) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let many = [file.as_fd(); MAX_FDS];
        // A second message's descriptors do not merge with the first's; within one, the kernel cuts.
        send(&a, b"x", &many).unwrap();
        let mut fds = Vec::new();
        assert_eq!(receive(&b, &mut [0; 8], &mut fds).unwrap(), 1);
        assert_eq!(fds.len(), MAX_FDS);
        assert!(send(&a, b"x", &[file.as_fd(); MAX_FDS + 1]).is_err());
    }
}
