//! A tenant without the client library: the control socket, descriptors and the memory, to be used or abused by hand.

use std::{
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::net::UnixStream,
};

use afnet_abi::{
    ABI_VERSION,
    control::{Answer, EndpointKind, MAX_FDS, Refusal, Reply, Request},
};
use afnet_ring::Mapping;
use afnet_tests::{afnetd::Afnetd, wait};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

const SPACE: usize = rustix::cmsg_space!(ScmRights(MAX_FDS));

/// An attachment.
pub struct Bare {
    stream: UnixStream,
    pub endpoint: u64,
    pub memory: OwnedFd,
    pub doorbells: Vec<OwnedFd>,
    pub rx_len: usize,
    pub tx_len: usize,
}

impl Bare {
    /// Attaches a `udp` endpoint.
    #[track_caller]
    pub fn attach(daemon: &Afnetd<'_>, compartment: &str) -> Self {
        let stream = UnixStream::connect(daemon.socket_path()).expect("connect");
        stream.set_read_timeout(Some(wait::PATIENCE)).expect("set a timeout");
        call(&stream, &Request::Hello { version: ABI_VERSION }, &[]).expect("hello").unwrap();
        let attach = Request::Attach {
            kind: EndpointKind::Udp,
            name: Some(compartment.into()),
            rx_len: None,
            tx_len: None,
        };
        let (answer, fds) = call(&stream, &attach, &[]).expect("attach").unwrap();
        let Answer::Attached { endpoint, rx_len, tx_len, .. } = answer else { panic!("{answer:?}") };
        let mut fds = fds.into_iter();
        let memory = fds.next().expect("the memory");
        let _wake = fds.next().expect("the wake eventfd");
        let length = |len: u64| usize::try_from(len).expect("a length");
        let (rx_len, tx_len) = (length(rx_len), length(tx_len));
        Self { stream, endpoint, memory, doorbells: fds.collect(), rx_len, tx_len }
    }

    /// Claims a port with these sockets as proof.
    #[track_caller]
    pub fn claim(&self, port: u16, proof: &[BorrowedFd<'_>]) {
        let claim = Request::Claim { port, count: 1, address: None, family: None, shared: false };
        self.ask(&claim, proof).unwrap();
    }

    /// One request.
    #[track_caller]
    pub fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, Refusal> {
        call(&self.stream, request, fds).expect("an answer").map(|(answer, _)| answer)
    }

    /// Gives it back.
    #[track_caller]
    pub fn unclaim(&self, port: u16) {
        let unclaim = Request::Unclaim { port, address: None, family: None, reason: None };
        call(&self.stream, &unclaim, &[]).expect("unclaim").unwrap();
    }

    /// Whether the daemon has closed the connection.
    pub fn is_closed(&self) -> bool {
        self.stream.set_nonblocking(true).expect("set non-blocking");
        let mut buffer = [0; 4096];
        loop {
            match rustix::net::recv(&self.stream, &mut buffer, RecvFlags::empty()) {
                Ok((_, 0)) | Err(rustix::io::Errno::CONNRESET) => return true,
                // It says why first.
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    /// The rings.
    pub fn mapping(&self) -> Mapping {
        Mapping::open(self.memory.as_fd()).expect("map the endpoint")
    }
}

/// One request; `None` if the daemon closes instead of answering.
fn call(
    stream: &UnixStream,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Option<Result<(Answer, Vec<OwnedFd>), Refusal>> {
    let mut line = serde_json::to_vec(request).expect("a request is JSON");
    line.push(b'\n');
    let mut space = [MaybeUninit::uninit(); SPACE];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(stream, &[IoSlice::new(&line)], &mut control, SendFlags::NOSIGNAL).ok()?;
    let (mut answer, mut received) = (Vec::new(), Vec::new());
    while answer.last() != Some(&b'\n') {
        let mut chunk = [0; 4096];
        let mut space = [MaybeUninit::uninit(); SPACE];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(&mut chunk)];
        let message = match recvmsg(stream, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            // With a timeout it is not started again after the process was stopped for a moment.
            Err(rustix::io::Errno::INTR) => continue,
            other => other.ok()?,
        };
        for item in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = item {
                received.extend(rights);
            }
        }
        if message.bytes == 0 {
            return None;
        }
        answer.extend_from_slice(&chunk[..message.bytes]);
    }
    Some(match serde_json::from_slice(&answer).expect("a reply") {
        Reply::Ok(answer) => Ok((answer, received)),
        Reply::Error(refusal) => Err(refusal),
    })
}
