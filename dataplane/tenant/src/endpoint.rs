//! An attachment to afnetd: claims, rings, waiting, and what happens when the daemon goes.
//!
//! | file descriptor | in the endpoint's epoll set | means |
//! |---|---|---|
//! | wake eventfd | always | a worker rang: datagrams (while armed), or room to send |
//! | control socket | hang-up only | the daemon is gone |
//! | kernel sockets of the claims | input | a datagram took the kernel path |

use std::{
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::PathBuf,
    time::{Duration, Instant},
};

use afnet_abi::{
    control::{Address, Answer, EndpointKind, Request},
    shm::MAX_PAYLOAD,
};
use rustix::event::epoll;

use crate::{
    Error, Sender,
    claim::{self, Claim, Claims, KernelSocket},
    connection::{Connection, unexpected},
    instance::socket_path,
    session::{Rx, Session},
};

/// Data of the wake eventfd in the epoll set. Kernel sockets have their descriptor's number there.
pub(crate) const WAKE: u64 = u64::MAX;
/// Data of the control socket in the epoll set.
pub(crate) const CONNECTION: u64 = u64::MAX - 1;
/// Shortest time between two attempts to reach a daemon that is gone.
pub(crate) const RETRY: Duration = Duration::from_millis(250);
/// Ports to try when the kernel picks one that is taken on another address.
const PORT_ATTEMPTS: usize = 32;

/// How to attach.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// The daemon's instance; `None`: environment variable `AFNET_INSTANCE`, else the default one.
    pub instance: Option<String>,
    /// The compartment; `None`: that of the process's cgroup. Naming one needs the rights of an administrator.
    pub compartment: Option<String>,
    /// Datagrams of claimed ports, or all packets of the compartment.
    pub kind: EndpointKind,
    /// Bytes of each worker's RX ring, a power of two; `None`: the daemon's default.
    pub rx_len: Option<u64>,
    /// Bytes of each worker's TX ring, a power of two; `None`: the daemon's default.
    pub tx_len: Option<u64>,
    /// How long [`Endpoint::wait`] looks at the rings, yielding the CPU between looks, before it sleeps.
    pub spin: Duration,
    /// Attach again by itself when the daemon has been restarted: looked for four times a second in calls that
    /// receive, wait or send. Such a call can take as long as the daemon needs to answer, 5 seconds at most.
    pub reconnect: bool,
    /// Touch all of the rings' memory now instead of when it is first used.
    pub populate: bool,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self {
            instance: None,
            compartment: None,
            kind: EndpointKind::Udp,
            rx_len: None,
            tx_len: None,
            spin: Duration::ZERO,
            reconnect: true,
            populate: false,
        }
    }
}

/// An attachment to afnetd.
///
/// While the daemon is gone, [`Self::is_connected`] is false: datagrams of claimed ports then come through the kernel
/// and go through it, in the same calls. Dropping the endpoint gives its claims back.
#[derive(Debug)]
pub struct Endpoint {
    pub(crate) options: AttachOptions,
    path: PathBuf,
    /// `None`: the daemon is gone.
    pub(crate) connection: Option<Connection>,
    run: u64,
    id: u64,
    name: String,
    addresses: Vec<Address>,
    pub(crate) epoll: OwnedFd,
    /// The last session's, also when the daemon is gone.
    pub(crate) wake: Option<OwnedFd>,
    pub(crate) rx: Vec<Rx>,
    /// RX ring to look at first: round robin.
    pub(crate) next: usize,
    pub(crate) sender: Sender,
    /// Whether the workers are told to ring.
    pub(crate) armed: bool,
    /// Kernel sockets that had something when last looked at.
    pub(crate) ready: Vec<RawFd>,
    /// Batches since the last look.
    pub(crate) batches: u32,
    /// Datagram from a kernel socket.
    pub(crate) buffer: Box<[u8]>,
    last_attempt: Instant,
    pub(crate) nonblocking: bool,
    pub(crate) timeout: Option<Duration>,
}

impl Endpoint {
    /// Attaches to the daemon.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Refused`] (no such compartment, not in one, not allowed), [`Error::Version`],
    /// or what the kernel says.
    pub fn attach(options: &AttachOptions) -> Result<Self, Error> {
        let path = socket_path(options.instance.as_deref())?;
        let session = Session::open(&path, options)?;
        let mut endpoint = Self {
            options: options.clone(),
            path,
            connection: None,
            run: session.connection.run,
            id: session.id,
            name: String::new(),
            addresses: Vec::new(),
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            wake: None,
            rx: Vec::new(),
            next: 0,
            sender: Sender {
                kind: options.kind,
                tx: Vec::new(),
                claims: Claims::default(),
                groups: Vec::new(),
                connected: false,
                full: None,
            },
            armed: false,
            ready: Vec::new(),
            batches: 0,
            buffer: vec![0; MAX_PAYLOAD].into_boxed_slice(),
            last_attempt: Instant::now(),
            nonblocking: false,
            timeout: None,
        };
        endpoint.install(session)?;
        Ok(endpoint)
    }

    /// Takes a session over in place of the last one.
    fn install(&mut self, session: Session) -> Result<(), Error> {
        use epoll::{EventData, EventFlags};
        let Session { connection, id, name, addresses, wake, rx, tx, .. } = session;
        epoll::add(&self.epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        epoll::add(&self.epoll, &connection, EventData::new_u64(CONNECTION), EventFlags::RDHUP)?;
        self.run = connection.run;
        self.connection = Some(connection);
        // The daemon's side may keep the old eventfd alive, and it would stay in the set.
        if let Some(old) = self.wake.replace(wake) {
            let _ = epoll::delete(&self.epoll, old);
        }
        (self.id, self.name, self.addresses) = (id, name, addresses);
        (self.rx, self.next, self.armed) = (rx, 0, false);
        self.ready.clear();
        self.sender.tx = tx;
        self.sender.full = None;
        self.sender.connected = true;
        Ok(())
    }

    /// The endpoint's number, unique in the daemon's run.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Datagrams or packets.
    pub fn kind(&self) -> EndpointKind {
        self.options.kind
    }

    /// The compartment's name.
    pub fn compartment(&self) -> &str {
        &self.name
    }

    /// The compartment's addresses when last heard of: at attaching and at each claim.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Random number of the daemon's run: another one after a restart.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// Whether a daemon serves the endpoint, as far as has been noticed: receiving, waiting and a full ring look.
    pub fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    /// With `true` the calls that receive and send one datagram do not block.
    pub fn set_nonblocking(&mut self, nonblocking: bool) {
        self.nonblocking = nonblocking;
    }

    /// Longest time that a call that receives or sends one datagram blocks; `None`: for ever.
    pub fn set_timeout(&mut self, timeout: Option<Duration>) {
        self.timeout = timeout;
    }

    // ---- claims ----

    /// Claims a UDP port on all addresses of the compartment, those to come included; 0 picks one. Returns the port.
    ///
    /// Binds a kernel socket for each address that the kernel holds and sends them along as proof.
    ///
    /// # Errors
    /// [`Error::is_in_use`] if the kernel or the daemon says that somebody has it; [`Error::Refused`].
    pub fn claim(&mut self, port: u16) -> Result<u16, Error> {
        self.enter(port, 1, None)
    }

    /// Claims a UDP port of one address only.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn claim_at(&mut self, address: IpAddr, port: u16) -> Result<u16, Error> {
        self.enter(port, 1, Some(address))
    }

    /// Claims `count` UDP ports from `first` on. There are no kernel sockets behind a block: while no daemon runs, its
    /// traffic is lost.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub fn claim_block(&mut self, first: u16, count: u16) -> Result<(), Error> {
        if first == 0 || count == 0 || u32::from(first) + u32::from(count) > 1 << 16 {
            return Err(Error::Invalid("a block is of ports 1 to 65535, at least one"));
        }
        self.enter(first, count, None).map(|_| ())
    }

    /// Gives a claim back and closes its kernel sockets. `port` and `address` as when claimed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is no such claim.
    pub fn unclaim(&mut self, port: u16, address: Option<IpAddr>) -> Result<(), Error> {
        let claims = &mut self.sender.claims.0;
        let found = claims.iter().position(|c| c.port == port && c.address == address);
        let at = found.ok_or(Error::Invalid("no such claim"))?;
        let claim = claims.remove(at);
        self.unwatch(&claim.sockets);
        self.ready.clear();
        match self.call(&Request::Unclaim { port, address, family: None, reason: None }, &[]) {
            // The daemon is gone, and the claim with it.
            Err(Error::Disconnected) => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn enter(&mut self, port: u16, count: u16, address: Option<IpAddr>) -> Result<u16, Error> {
        if self.options.kind != EndpointKind::Udp {
            return Err(Error::Invalid("a raw endpoint receives everything and claims no ports"));
        }
        self.refresh_addresses()?;
        let mut attempts = if port == 0 { PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            match self.try_enter(port, count, address) {
                Err(e) if e.is_in_use() && attempts > 0 => {}
                other => return other,
            }
        }
    }

    fn try_enter(&mut self, port: u16, count: u16, address: Option<IpAddr>) -> Result<u16, Error> {
        let mut claim = Claim { port, count, address, sockets: Vec::new() };
        let result = self.complete(&mut claim).and_then(|()| self.send_claim(&claim));
        match result {
            Ok(port) => {
                claim.port = port;
                self.sender.claims.0.push(claim);
                Ok(port)
            }
            Err(e) => {
                self.unwatch(&claim.sockets);
                Err(e)
            }
        }
    }

    /// Gives a claim a kernel socket for each address that the kernel holds now. After an error it has those that it
    /// had before.
    fn complete(&self, claim: &mut Claim) -> Result<(), Error> {
        if claim.count != 1 {
            return Ok(());
        }
        let any = self.connection.as_ref().ok_or(Error::Disconnected)?.as_fd();
        let mut held = claim::kernel_held(&self.addresses, claim.address, any);
        let (kept, gone): (Vec<_>, Vec<_>) = core::mem::take(&mut claim.sockets)
            .into_iter()
            .partition(|s: &KernelSocket| held.iter().any(|h| h.ip() == s.local.ip()));
        self.unwatch(&gone);
        claim.sockets = kept;
        held.retain(|h| !claim.sockets.iter().any(|s| s.local.ip() == h.ip()));
        let (port, new) = claim::bind(&held, claim.port)?;
        for socket in &new {
            let data = epoll::EventData::new_u64(key(&socket.socket));
            epoll::add(&self.epoll, &socket.socket, data, epoll::EventFlags::IN)?;
        }
        claim.port = port;
        claim.sockets.extend(new);
        Ok(())
    }

    /// Takes sockets out of the epoll set before they are closed: the daemon may have copies of their descriptors,
    /// and closing ours would not.
    fn unwatch(&self, sockets: &[KernelSocket]) {
        for socket in sockets {
            let _ = epoll::delete(&self.epoll, &socket.socket);
        }
    }

    fn send_claim(&mut self, claim: &Claim) -> Result<u16, Error> {
        let Claim { port, count, address, .. } = *claim;
        let request = Request::Claim { port, count, address, family: None, shared: false };
        match self.call(&request, &claim.proof())? {
            Answer::Claimed { port, count }
                if count == claim.count && (claim.port == 0 || port == claim.port) =>
            {
                Ok(port)
            }
            answer => Err(unexpected(&answer)),
        }
    }

    fn refresh_addresses(&mut self) -> Result<(), Error> {
        let request =
            Request::AddrList { name: Some(self.name.clone()), dev: None, vlan: None, family: None };
        match self.call(&request, &[]) {
            Ok(Answer::Addresses(addresses)) => self.addresses = addresses,
            Ok(answer) => return Err(unexpected(&answer)),
            // A daemon that does not tell: what it said at attaching must do.
            Err(Error::Refused(_)) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// One request without descriptors in the answer.
    pub(crate) fn call(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<Answer, Error> {
        let connection = self.connection.as_mut().ok_or(Error::Disconnected)?;
        let result = connection.call(request, fds);
        if !matches!(result, Ok(_) | Err(Error::Refused(_))) {
            // Out of step: an answer that comes late must not be taken for the next one's.
            self.disconnect();
        }
        result.map(|(answer, _)| answer)
    }

    // ---- the daemon's absence ----

    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
        self.sender.connected = false;
    }

    /// Attaches anew, claims everything again, with the same kernel sockets, and joins its groups, whether or not the daemon
    /// has gone.
    /// What the old rings still hold is lost.
    ///
    /// # Errors
    /// As [`Self::attach`] and [`Self::claim`]; then the endpoint is not connected.
    pub fn reconnect(&mut self) -> Result<(), Error> {
        self.last_attempt = Instant::now();
        // First, or the daemon would see our own claims in our way.
        self.disconnect();
        let session = Session::open(&self.path, &self.options)?;
        self.install(session)?;
        let mut claims = core::mem::take(&mut self.sender.claims);
        let result = claims.0.iter_mut().try_for_each(|claim| {
            self.complete(claim)?;
            self.send_claim(claim)?;
            Ok(())
        });
        // Kept in any case: their sockets have the traffic while nobody else does.
        self.sender.claims = claims;
        let groups = self.sender.groups.clone();
        let result = result.and_then(|()| groups.iter().try_for_each(|m| self.send_membership(m)));
        if result.is_err() {
            self.disconnect();
        }
        result
    }

    /// Attaches anew if that is wanted, and not too soon after the last attempt. Whether it has worked.
    pub(crate) fn try_reconnect(&mut self) -> bool {
        self.options.reconnect && self.last_attempt.elapsed() >= RETRY && self.reconnect().is_ok()
    }
}

/// A kernel socket's data in the epoll set.
pub(crate) fn key(socket: &impl AsRawFd) -> u64 {
    // Descriptors are not negative.
    u64::try_from(socket.as_raw_fd()).unwrap_or(0)
}
