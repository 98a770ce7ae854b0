//! The control socket: accepts, reads requests, hands them to a [`Service`], sends replies and events.
//!
//! ```text
//!   listener --accept--> Conn --line--> Service::request --Answer + fds--> Conn
//!                          ^                                                |
//!                          +------------------ events ----------------------+
//! ```
//!
//! * Listens at a path and under an abstract name; who comes by which makes no difference.
//! * Runs on the control thread, within the daemon's one mio loop; never blocks.
//! * The socket is open to everybody (tenants need no privilege); what a peer may do depends on its credentials.
//! * Each connection is served [`BURST`] requests at a time, so none keeps the others waiting.
//! * A peer that sends rubbish loses its connection, nobody else's.

mod conn;
pub mod peer;
pub mod wire;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use afnet_abi::ABI_VERSION;
use afnet_abi::control::{Answer, Event, Reply, Request};
use mio::net::UnixListener;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;

pub use self::conn::{Conn, Incoming, MAX_EVENTS, UNPRIVILEGED_LINE};
use self::peer::Peer;
use crate::error::{Context, Refused};

/// Requests of one connection before it is the next one's turn. A batch of the CLI sends one after the other anyway.
const BURST: usize = 32;
/// How long a connection may stay without a hello. A second would do for a busy machine; longer lets a hostile
/// user hold descriptors for nothing.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// What answers requests.
pub trait Service {
    /// Carries out a request of a connection that has said hello.
    fn request(&mut self, conn: &mut Conn, request: Request) -> Result<Outcome, Refused>;
    /// A connection is over; what belonged to it goes.
    fn closed(&mut self, conn: u64);
}

/// What a request yields.
#[derive(Debug)]
pub struct Outcome {
    /// The reply.
    pub answer: Answer,
    /// Descriptors that go with it, closed here afterwards.
    pub fds: Vec<OwnedFd>,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Self { answer, fds: Vec::new() }
    }
}

/// Bounds and identity of a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Instance name, for the hello.
    pub instance: String,
    /// Number of this run, for the hello.
    pub run: u64,
    /// Group of administrators.
    pub group: Option<u32>,
    /// Connections in all.
    pub connections: usize,
    /// Connections of one unprivileged user.
    pub user_connections: usize,
}

/// The listening socket and its connections. Tokens from `first_token` on are its own.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    path: PathBuf,
    listener: UnixListener,
    /// Under the abstract name.
    abstract_listener: Option<UnixListener>,
    registry: Registry,
    first_token: usize,
    conns: Vec<Option<Conn>>,
    free: Vec<usize>,
    /// Connections to serve again without waiting for an event.
    active: Vec<usize>,
    users: HashMap<u32, usize>,
    next_id: u64,
    accepting: bool,
    buffer: Vec<u8>,
}

impl Server {
    /// Listens at `path`. A socket left by a dead daemon is replaced; a live one is EADDRINUSE.
    pub fn new(
        path: &Path,
        registry: &Registry,
        first_token: usize,
        settings: Settings,
    ) -> Result<Self, Refused> {
        let what = || format!("listening on {}", path.display());
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            let text = format!(
                "a daemon already answers on {}: stop it, or choose another --instance",
                path.display()
            );
            return Err(Refused::new(Errno::ADDRINUSE, text));
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(Refused::io(what(), &e)),
            _ => {}
        }
        let mut listener = UnixListener::bind(path).refused(what)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).refused(what)?;
        let registry = registry.try_clone().refused(what)?;
        registry.register(&mut listener, Token(first_token), Interest::READABLE).refused(what)?;
        Ok(Self {
            settings,
            path: path.to_owned(),
            listener,
            abstract_listener: None,
            registry,
            first_token,
            conns: Vec::new(),
            free: Vec::new(),
            active: Vec::new(),
            users: HashMap::new(),
            next_id: 1,
            accepting: true,
            buffer: vec![0; CHUNK],
        })
    }

    /// Listens under an abstract name, too: for tenants that cannot reach the path (any more), because they have
    /// changed their root or have a mount namespace of their own. The name is anybody's in the network namespace to
    /// take, so clients look who is at the other end.
    pub fn listen_abstract(&mut self, name: &str) -> Result<(), Refused> {
        let what = || format!("listening on @{name}");
        let address = SocketAddr::from_abstract_name(name).refused(what)?;
        let listener = std::os::unix::net::UnixListener::bind_addr(&address).refused(what)?;
        listener.set_nonblocking(true).refused(what)?;
        let listener = self.abstract_listener.insert(UnixListener::from_std(listener));
        self.registry.register(listener, Token(self.first_token), Interest::READABLE).refused(what)
    }

    /// Takes note of a readiness event with one of the server's tokens; [`Self::serve`] acts on it.
    pub fn ready(&mut self, token: Token, event: &mio::event::Event) {
        let Some(index) = (token.0 - self.first_token).checked_sub(1) else {
            self.accepting = true;
            return;
        };
        if let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) {
            conn.ready(event.is_readable() || event.is_read_closed() || event.is_error());
            self.active.push(index);
        }
    }

    /// Whether [`Self::serve`] has more to do at once.
    pub fn pending(&self) -> bool {
        !self.active.is_empty()
    }

    /// Serves a turn: accepts, and up to [`BURST`] requests of each connection that is ready.
    pub fn serve(&mut self, service: &mut impl Service) {
        if self.accepting {
            self.accept();
        }
        let mut turn = std::mem::take(&mut self.active);
        turn.sort_unstable();
        turn.dedup();
        for index in turn {
            self.serve_one(index, service);
        }
    }

    fn serve_one(&mut self, index: usize, service: &mut impl Service) {
        let Some(conn) = self.conns.get_mut(index).and_then(Option::as_mut) else { return };
        let mut alive = conn.flush();
        for _ in 0..BURST {
            if !alive {
                break;
            }
            match conn.next(&mut self.buffer) {
                Incoming::Request(request) => Self::dispatch(&self.settings, conn, request, service),
                Incoming::Closed => alive = false,
                Incoming::Nothing => {
                    alive = conn.flush();
                    break;
                }
            }
            alive = alive && conn.flush();
        }
        if !alive {
            self.close(index, service);
        } else if conn.pending() {
            self.active.push(index);
        }
    }

    fn dispatch(settings: &Settings, conn: &mut Conn, request: Request, service: &mut impl Service) {
        let result = match request {
            Request::Hello { version } if version == ABI_VERSION => {
                conn.hello = true;
                Ok(Outcome::from(Answer::Hello {
                    version: ABI_VERSION,
                    instance: settings.instance.clone(),
                    run: settings.run,
                }))
            }
            Request::Hello { version } => {
                let text = format!(
                    "you speak version {version} of the protocol, this afnetd speaks {ABI_VERSION}: install matching versions"
                );
                return conn.refuse_and_close(Errno::PROTONOSUPPORT, text);
            }
            _ if !conn.hello => {
                return conn.refuse_and_close(Errno::PROTO, "the first request is a hello".to_owned());
            }
            request if conn.monitor => {
                let text = format!("this connection is a stream of events, {request:?} does not belong here");
                return conn.refuse_and_close(Errno::PROTO, text);
            }
            request => service.request(conn, request),
        };
        match result {
            Ok(outcome) => conn.reply(&Reply::Ok(outcome.answer), outcome.fds),
            Err(refused) => conn.reply(&Reply::Error(refused.to_wire()), Vec::new()),
        }
    }

    fn accept(&mut self) {
        let mut by_path = true;
        loop {
            let listener = if by_path { Some(&self.listener) } else { self.abstract_listener.as_ref() };
            let Some(listener) = listener else { break };
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && by_path => by_path = false,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e)
                    if e.kind() == io::ErrorKind::Interrupted
                        || e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) => {
                    // Out of descriptors: tried again by `sweep`, when some may have been closed.
                    tracing::warn!("accepting a connection: {e}");
                    return;
                }
            }
        }
        self.accepting = false;
    }

    fn admit(&mut self, mut stream: mio::net::UnixStream) {
        let peer = match Peer::of(stream.as_fd(), self.settings.group) {
            Ok(peer) => peer,
            Err(e) => return tracing::warn!("credentials of a connection: {e}"),
        };
        let users = self.users.get(&peer.uid).copied().unwrap_or(0);
        let total = self.conns.len() - self.free.len();
        if total >= self.settings.connections || !peer.admin && users >= self.settings.user_connections {
            let refusal =
                Refused::new(Errno::USERS, "too many connections: raise limits.connections").to_wire();
            if let Ok(mut line) = serde_json::to_vec(&Reply::Error(refusal)) {
                line.push(b'\n');
                // Best effort: a fresh socket has room for a line.
                let _ = wire::send(stream.as_fd(), &line, &[]);
            }
            return;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.conns.push(None);
            self.conns.len() - 1
        });
        let token = Token(self.first_token + 1 + index);
        if let Err(e) = self.registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE) {
            self.free.push(index);
            return tracing::warn!("watching a connection: {e}");
        }
        *self.users.entry(peer.uid).or_insert(0) += 1;
        self.conns[index] = Some(Conn::new(self.next_id, peer, stream));
        self.next_id += 1;
        self.active.push(index);
    }

    fn close(&mut self, index: usize, service: &mut impl Service) {
        let Some(mut conn) = self.conns[index].take() else { return };
        // Closing the descriptor takes it out of the epoll set as well.
        let _ = self.registry.deregister(&mut conn.stream);
        self.free.push(index);
        if let Some(users) = self.users.get_mut(&conn.peer.uid) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&conn.peer.uid);
            }
        }
        service.closed(conn.id);
    }

    /// Sends an event to all monitors.
    pub fn broadcast(&mut self, event: &Event) {
        for conn in self.conns.iter_mut().flatten().filter(|c| c.monitor) {
            conn.event(event);
            // If it fails, the next readiness event (there is one) closes the connection.
            conn.flush();
        }
    }

    /// Closes a connection whose tenant broke the ring protocol.
    pub fn kick(&mut self, id: u64, errno: Errno, message: &str) {
        if let Some(index) = self.conns.iter().position(|c| c.as_ref().is_some_and(|c| c.id == id)) {
            if let Some(conn) = &mut self.conns[index] {
                conn.refuse_and_close(errno, message.to_owned());
            }
            self.active.push(index);
        }
    }

    /// Once a second or so: closes connections without hello, retries to accept.
    pub fn sweep(&mut self, now: Instant, service: &mut impl Service) {
        let late = |c: &Conn| !c.hello && now.duration_since(c.since) > HELLO_TIMEOUT;
        for index in 0..self.conns.len() {
            if self.conns[index].as_ref().is_some_and(late) {
                self.close(index, service);
            }
        }
        if self.accepting {
            self.accept();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Gone already if the runtime directory was removed first.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests;
