//! Many datagrams in one system call (recvmmsg, sendmmsg), over a connected or bound UDP socket.

use std::{io, net::UdpSocket, os::fd::AsRawFd, ptr};

/// Bytes of each buffer: a datagram of an Ethernet frame.
const BUFFER: usize = 2048;

/// Buffers for a number of datagrams.
#[derive(Debug)]
pub struct Batch {
    buffers: Vec<[u8; BUFFER]>,
    payload: usize,
    /// What is sent, if not what was received before.
    content: Vec<u8>,
}

impl Batch {
    /// For up to `number` datagrams at once; those sent have `payload` bytes.
    pub fn new(number: usize, payload: usize) -> Self {
        Self { buffers: vec![[0; BUFFER]; number], payload: payload.min(BUFFER), content: Vec::new() }
    }

    /// For up to `number` datagrams at once; those sent are all the same.
    pub fn of(number: usize, content: &[u8]) -> Self {
        Self { content: content.to_vec(), ..Self::new(number, content.len()) }
    }

    /// Waits for one datagram and takes as many as there are. Interrupted: none.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` after the socket's time-out.
    pub fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let number = self.buffers.len();
        self.call(number, BUFFER, |messages, number| {
            // SAFETY: each message names a live vector, which names a live buffer.
            unsafe {
                libc::recvmmsg(socket.as_raw_fd(), messages, number, libc::MSG_WAITFORONE, ptr::null_mut())
            }
        })
    }

    /// Sends `number` datagrams to the socket's peer, and says how many went.
    ///
    /// # Errors
    /// What the kernel says of the first one.
    pub fn send(&mut self, socket: &UdpSocket, number: usize) -> io::Result<usize> {
        for buffer in &mut self.buffers {
            buffer.iter_mut().zip(&self.content).for_each(|(to, from)| *to = *from);
        }
        self.call(number.min(self.buffers.len()), self.payload, |messages, number| {
            // SAFETY: as above; nothing is written.
            unsafe { libc::sendmmsg(socket.as_raw_fd(), messages, number, 0) }
        })
    }

    fn call(
        &mut self,
        number: usize,
        len: usize,
        call: impl FnOnce(*mut libc::mmsghdr, libc::c_uint) -> libc::c_int,
    ) -> io::Result<usize> {
        let vector =
            |buffer: &mut [u8; BUFFER]| libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: len };
        let mut vectors: Vec<libc::iovec> = self.buffers[..number].iter_mut().map(vector).collect();
        // SAFETY: zeroes are a valid mmsghdr.
        let mut messages: Vec<libc::mmsghdr> = vec![unsafe { std::mem::zeroed() }; number];
        for (message, vector) in messages.iter_mut().zip(&mut vectors) {
            message.msg_hdr.msg_iov = ptr::from_mut(vector);
            message.msg_hdr.msg_iovlen = 1;
        }
        let count = libc::c_uint::try_from(number).unwrap_or(libc::c_uint::MAX);
        match usize::try_from(call(messages.as_mut_ptr(), count)) {
            Ok(done) => Ok(done),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(0),
                error => Err(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_go_and_come_in_batches() {
        let server = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
        client.connect(server.local_addr().expect("name")).expect("connect");
        let mut batch = Batch::new(8, 64);
        assert_eq!(batch.send(&client, 5).expect("send"), 5);
        assert_eq!(batch.send(&client, 50).expect("send"), 8, "no more than there are buffers");
        let mut received = 0;
        while received < 13 {
            received += batch.receive(&server).expect("receive");
        }
        server.set_read_timeout(Some(std::time::Duration::from_millis(1))).expect("set a time-out");
        assert_eq!(batch.receive(&server).expect_err("none is left").kind(), io::ErrorKind::WouldBlock);
    }
}
