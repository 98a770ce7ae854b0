//! Tenants of the tests: endpoints of the client library in this process, on sockets of the host's namespace.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use afnet_tenant::{AttachOptions, Endpoint, EndpointKind, Error, IcmpError, Kind, Message};
use afnet_tests::{afnetd::Afnetd, netns::Netns, wait};

/// An endpoint. It does not look for a daemon that is gone.
pub struct Tenant<'a> {
    pub endpoint: Endpoint,
    ns: &'a Netns,
}

/// What was received, copied.
#[derive(Clone, Debug)]
pub struct Got {
    pub kind: Kind,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub payload: Vec<u8>,
    pub is_local: bool,
    pub error: Option<IcmpError>,
}

impl<'a> Tenant<'a> {
    /// Attaches to a compartment.
    #[track_caller]
    pub fn attach(daemon: &Afnetd<'a>, compartment: &str) -> Self {
        Self::with(daemon, compartment, EndpointKind::Udp)
    }

    /// Attaches and claims.
    #[track_caller]
    pub fn claiming(daemon: &Afnetd<'a>, compartment: &str, port: u16) -> Self {
        let mut tenant = Self::attach(daemon, compartment);
        assert_eq!(tenant.claim(port).unwrap(), port);
        tenant
    }

    /// Attaches with another kind of endpoint.
    #[track_caller]
    pub fn with(daemon: &Afnetd<'a>, compartment: &str, kind: EndpointKind) -> Self {
        let options = AttachOptions {
            instance: Some(daemon.instance().into()),
            compartment: Some(compartment.into()),
            kind,
            reconnect: false,
            ..Default::default()
        };
        let ns = daemon.netns();
        let mut endpoint = ns.enter(|| Endpoint::attach(&options)).expect("attach");
        endpoint.set_timeout(Some(wait::PATIENCE));
        Self { endpoint, ns }
    }

    /// Claims a port, with sockets of the namespace.
    pub fn claim(&mut self, port: u16) -> Result<u16, Error> {
        self.ns.enter(|| self.endpoint.claim(port))
    }

    /// The next thing that arrives in time.
    #[track_caller]
    pub fn receive(&mut self) -> Got {
        self.receive_within(wait::PATIENCE).expect("nothing arrived at the tenant")
    }

    /// The next thing that arrives in time.
    #[track_caller]
    pub fn receive_within(&mut self, time: Duration) -> Option<Got> {
        wait::within(time, || {
            let mut got = None;
            let result = self.endpoint.recv_batch(1, |_, datagram| {
                got = Some(Got {
                    kind: datagram.kind(),
                    local: datagram.local(),
                    remote: datagram.remote(),
                    payload: datagram.to_vec(),
                    is_local: datagram.is_local(),
                    error: datagram.icmp_error(),
                });
            });
            result.expect("receive");
            if got.is_none() {
                self.endpoint.wait(Some(Duration::from_millis(50))).expect("wait");
            }
            got
        })
    }

    /// Waits for an ICMP error.
    #[track_caller]
    pub fn error(&mut self) -> IcmpError {
        let got = self.receive();
        got.error.unwrap_or_else(|| panic!("not an error: {got:?}"))
    }

    /// Sends at once.
    #[track_caller]
    pub fn send(&mut self, message: &Message<'_>) {
        self.endpoint.send(message).expect("send");
        self.endpoint.flush();
    }

    /// Answers everything from a thread of its own.
    pub fn echo(mut self) -> Echo {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), count.clone());
        let thread = thread::spawn(move || {
            while !stopped.load(Relaxed) {
                self.endpoint.wait(Some(Duration::from_millis(50))).expect("wait");
                let visit = |sender: &mut afnet_tenant::Sender, datagram: &afnet_tenant::Datagram<'_>| {
                    if datagram.kind() == Kind::Datagram {
                        sender.reply(datagram).expect("reply");
                        counted.fetch_add(1, Relaxed);
                    }
                };
                self.endpoint.recv_batch(64, visit).expect("receive");
            }
        });
        Echo { stop, count, thread: Some(thread) }
    }
}

/// A tenant that answers everything, until it is dropped.
pub struct Echo {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Datagrams answered.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        let result = self.thread.take().expect("dropped once").join();
        assert!(result.is_ok() || thread::panicking(), "the echo tenant panicked");
    }
}

/// `len` bytes that differ from each other and, by `seed`, from those of others.
pub fn bytes(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| u8::try_from((i * 7 + i / 256 + seed) % 251).expect("below 251")).collect()
}

/// Address and port.
#[track_caller]
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().expect("an address"), port)
}

/// `recv_from` that goes on after a signal.
pub fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
    loop {
        match socket.recv_from(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

/// Waits until a compartment's (or a device's, a worker's) counters have exactly these values. Workers count at the end
/// of a batch, perhaps after the peer has its answer.
#[track_caller]
pub fn expect_counters(daemon: &Afnetd<'_>, of: &str, expected: &[(&str, u64)]) {
    let mut seen = BTreeMap::new();
    let matched = wait::within(wait::PATIENCE, || {
        seen = daemon.counters(of);
        let same = |(name, value): &(&str, u64)| seen.get(*name).copied().unwrap_or(0) == *value;
        expected.iter().all(same).then_some(())
    });
    assert!(matched.is_some(), "counters of {of} are {seen:?}, expected {expected:?}");
}

/// Sends a datagram and waits for the same one from where it was sent to.
#[track_caller]
pub fn ask(socket: &UdpSocket, to: SocketAddr, payload: &[u8]) {
    socket.send_to(payload, to).unwrap_or_else(|error| panic!("send to {to}: {error}"));
    let mut buffer = vec![0; 65_536];
    match receive(socket, &mut buffer) {
        Ok((len, from)) => {
            assert_eq!(from, to, "answered from another address");
            assert!(buffer[..len] == *payload, "{to} answered {len} bytes, not the {}", payload.len());
        }
        Err(error) => panic!("no answer from {to} to {} bytes: {error}", payload.len()),
    }
}

/// As [`ask`], again and again until an answer comes: where loss is no mistake.
#[track_caller]
pub fn ask_until_answered(socket: &UdpSocket, to: SocketAddr) {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut buffer = [0; 64];
    socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set a timeout");
    wait::until_true(&format!("an answer from {to}"), || {
        let payload = NEXT.fetch_add(1, Relaxed).to_ne_bytes();
        // Refused while nobody is there.
        let _ = socket.send_to(&payload, to);
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((len, _)) if buffer[..len] == payload => return true,
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::Interrupted) => {}
                Err(_) => return false,
            }
        }
    });
    socket.set_read_timeout(Some(wait::PATIENCE)).expect("set a timeout");
}
