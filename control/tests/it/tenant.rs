//! A connection to the control socket that can pass descriptors.

use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use afnet_abi::ABI_VERSION;
use afnet_abi::control::{Answer, EndpointKind, Refusal, Reply, Request};
use afnet_control::server::wire;
use afnet_tests::afnetd::Afnetd;

/// A connection that has said hello.
pub struct Tenant {
    stream: UnixStream,
    /// Descriptors that came with the last reply.
    pub fds: Vec<OwnedFd>,
}

impl Tenant {
    /// Connects.
    pub fn connect(daemon: &Afnetd<'_>) -> Self {
        let stream = UnixStream::connect(daemon.socket_path()).unwrap();
        let mut tenant = Self { stream, fds: Vec::new() };
        tenant.ask(&Request::Hello { version: ABI_VERSION }).unwrap();
        tenant
    }

    /// Connects and attaches to a compartment by name.
    pub fn attach(daemon: &Afnetd<'_>, name: &str, kind: EndpointKind) -> Self {
        let mut tenant = Self::connect(daemon);
        let request = Request::Attach { kind, name: Some(name.to_owned()), rx_len: None, tx_len: None };
        let Answer::Attached { workers, .. } = tenant.ask(&request).unwrap() else { panic!() };
        assert_eq!(tenant.fds.len(), 2 + workers as usize);
        tenant
    }

    /// A request without descriptors.
    pub fn ask(&mut self, request: &Request) -> Result<Answer, Refusal> {
        self.ask_with(request, &[])
    }

    /// A request with descriptors.
    pub fn ask_with(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, Refusal> {
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        assert_eq!(wire::send(&self.stream, &line, fds).unwrap(), line.len());
        self.fds.clear();
        let mut reply = vec![0; 65536];
        let n = wire::receive(&self.stream, &mut reply, &mut self.fds).unwrap();
        let mut text = reply[..n].to_vec();
        if !text.ends_with(b"\n") {
            BufReader::new(&self.stream).read_until(b'\n', &mut text).unwrap();
        }
        match serde_json::from_slice(&text).unwrap() {
            Reply::Ok(answer) => Ok(answer),
            Reply::Error(refusal) => Err(refusal),
        }
    }

    /// Claims a port with these sockets; the port, or the errno's name.
    pub fn claim(&mut self, port: u16, count: u16, sockets: &[&dyn AsFd]) -> Result<u16, String> {
        let fds: Vec<_> = sockets.iter().map(|s| s.as_fd()).collect();
        let claim = Request::Claim { port, count, address: None, family: None, shared: false };
        match self.ask_with(&claim, &fds) {
            Ok(Answer::Claimed { port, count: got }) => {
                assert_eq!(count, got);
                Ok(port)
            }
            Ok(other) => panic!("{other:?}"),
            Err(refusal) => Err(refusal.code),
        }
    }
}

/// A request that gives a port back.
pub fn unclaim(port: u16) -> Request {
    Request::Unclaim { port, address: None, family: None, reason: None }
}
