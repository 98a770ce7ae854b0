//! One connection: bytes in, lines out of them; replies and events to the peer.
//!
//! A peer may be hostile. What it can hold of the daemon is bounded: a line of [`MAX_LINE`] bytes
//! ([`UNPRIVILEGED_LINE`] if it is no administrator), [`MAX_FDS`] descriptors, one reply that it does not read (no
//! further request is read before), and [`MAX_EVENTS`] bytes of events.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use afnet_abi::control::{Event, MAX_FDS, MAX_LINE, Refusal, Reply, Request};
use mio::net::UnixStream;
use rustix::io::Errno;

use super::peer::{self, Peer};
use super::wire::{OutQueue, receive};
use crate::error::Refused;
use crate::system::process::Process;

/// Longest line of a peer that is no administrator: a tenant's requests have some hundred bytes.
pub const UNPRIVILEGED_LINE: usize = 4096;
/// Bytes of events that wait for a reader; beyond, events are counted as lost. Some thousand events.
pub const MAX_EVENTS: usize = 1 << 20;

/// A connection.
#[derive(Debug)]
pub struct Conn {
    /// Unique in the daemon's run.
    pub id: u64,
    /// The other end.
    pub peer: Peer,
    /// When it was accepted.
    pub since: Instant,
    /// Whether it has said hello.
    pub hello: bool,
    /// Whether it wants events.
    pub monitor: bool,
    pub(super) stream: UnixStream,
    input: Vec<u8>,
    /// Bytes of `input` that are known to hold no newline.
    scanned: usize,
    fds: Vec<OwnedFd>,
    out: OutQueue,
    lost: u64,
    /// Nothing more is read; closed when the queue is empty.
    closing: bool,
    /// The socket may hold more than was read (mio is edge-triggered).
    readable: bool,
    eof: bool,
}

/// What a connection has to say when it is served.
#[derive(Debug)]
pub enum Incoming {
    /// A request; descriptors that came with it are taken by [`Conn::take_fds`].
    Request(Request),
    /// Nothing complete yet.
    Nothing,
    /// The connection is over.
    Closed,
}

impl Conn {
    pub(super) fn new(id: u64, peer: Peer, stream: UnixStream) -> Self {
        Self {
            id,
            peer,
            since: Instant::now(),
            hello: false,
            monitor: false,
            stream,
            input: Vec::new(),
            scanned: 0,
            fds: Vec::new(),
            out: OutQueue::default(),
            lost: 0,
            closing: false,
            readable: true,
            eof: false,
        }
    }

    pub(super) fn ready(&mut self, readable: bool) {
        self.readable |= readable;
    }

    /// Whether serving it again without a new event could do something.
    pub(super) fn pending(&self) -> bool {
        self.out.is_empty() && !self.closing && (self.readable || self.input.len() > self.scanned)
    }

    /// The descriptors that came since they were last taken.
    pub fn take_fds(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.fds)
    }

    /// The process that connected, if it still lives.
    pub fn process(&self) -> io::Result<Process> {
        peer::peer_process(self.stream.as_fd(), self.peer.pid)
    }

    /// The groups that it had when it connected.
    pub fn groups(&self) -> io::Result<Vec<u32>> {
        peer::groups(self.stream.as_fd())
    }

    /// Whether it may give administrative orders now: it has not been moved into a compartment since it connected.
    pub fn admin(&self) -> bool {
        self.peer.admin && peer::free(self.stream.as_fd(), self.peer.pid)
    }

    /// The next complete request.
    pub(super) fn next(&mut self, buffer: &mut [u8]) -> Incoming {
        if self.closing || !self.out.is_empty() {
            return Incoming::Nothing;
        }
        loop {
            if let Some(at) = self.input[self.scanned..].iter().position(|b| *b == b'\n') {
                let end = self.scanned + at;
                let request = serde_json::from_slice(&self.input[..end]);
                self.input.drain(..=end);
                self.scanned = 0;
                if self.input.is_empty() {
                    // An idle tenant's connection keeps no buffer.
                    self.input = Vec::new();
                }
                return match request {
                    Ok(request) => Incoming::Request(request),
                    Err(e) => {
                        self.refuse_and_close(Errno::BADMSG, format!("not a request: {e}"));
                        Incoming::Nothing
                    }
                };
            }
            self.scanned = self.input.len();
            let most = if self.peer.admin { MAX_LINE } else { UNPRIVILEGED_LINE };
            if self.input.len() >= most {
                self.refuse_and_close(Errno::MSGSIZE, format!("a line is at most {most} bytes"));
                return Incoming::Nothing;
            }
            if self.eof {
                return Incoming::Closed;
            }
            if !self.readable {
                return Incoming::Nothing;
            }
            match receive(self.stream.as_fd(), buffer, &mut self.fds) {
                Ok(0) => self.eof = true,
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                    self.refuse_and_close(Errno::MSGSIZE, e.to_string());
                    return Incoming::Nothing;
                }
                Err(_) => return Incoming::Closed,
            }
            if self.fds.len() > MAX_FDS {
                self.refuse_and_close(Errno::MSGSIZE, "too many file descriptors".to_owned());
                return Incoming::Nothing;
            }
        }
    }

    /// Queues a reply with its descriptors.
    pub fn reply(&mut self, reply: &Reply, fds: Vec<OwnedFd>) {
        self.push(reply, fds);
    }

    /// Queues an error reply; the connection ends when it has gone.
    pub fn refuse_and_close(&mut self, errno: Errno, message: String) {
        let refusal: Refusal = Refused::new(errno, message).to_wire();
        self.push(&Reply::Error(refusal), Vec::new());
        self.closing = true;
        self.input = Vec::new();
        self.scanned = 0;
        self.fds.clear();
    }

    /// Queues an event, or counts it as lost if the reader is too slow.
    pub fn event(&mut self, event: &Event) {
        if self.out.len() >= MAX_EVENTS {
            self.lost += 1;
            return;
        }
        if self.lost > 0 {
            self.push(&Event::Lost { count: self.lost }, Vec::new());
            self.lost = 0;
        }
        self.push(event, Vec::new());
    }

    fn push(&mut self, message: &impl serde::Serialize, fds: Vec<OwnedFd>) {
        match serde_json::to_vec(message) {
            Ok(mut line) => {
                line.push(b'\n');
                self.out.push(line, fds);
            }
            Err(e) => {
                tracing::error!("a reply could not be written as JSON: {e}");
                self.closing = true;
            }
        }
    }

    /// Sends what waits. `false`: the connection is over.
    pub(super) fn flush(&mut self) -> bool {
        match self.out.flush(self.stream.as_fd()) {
            Ok(true) => !self.closing,
            Ok(false) => true,
            Err(_) => false,
        }
    }
}
