//! Sockets of the network namespace: those that are local to an address, and closing them (`ss -K`).
//!
//! | [`Which`] | sockets |
//! |---|---|
//! | `Tcp` | connections in every state, and listeners that are bound to the address |
//! | `TcpConnections` | without listeners |
//! | `Udp` | connected ones, and those bound to the address |
//! | `UdpConnected` | connected ones alone |
//!
//! What the kernel does to a socket that is destroyed: a TCP connection sends RST and is closed, a listener is closed
//! (`accept()` gives EINVAL), both and UDP report ECONNABORTED. A UDP socket whose program has bound it to a port stays
//! bound: nothing but the program can change that. Of several unconnected UDP sockets with one address and port
//! (SO_REUSEPORT) the kernel finds one only. A TCP socket that is bound and neither listens nor is connected is not
//! found either.
//!
//! The kernel filters by address (INET_DIAG_REQ_BYTECODE), so a hundred thousand sockets of others cost the walk and
//! no copies. Needs CAP_NET_ADMIN for destroying, and a kernel with CONFIG_INET_DIAG_DESTROY.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_core::{NLM_F_ACK, NetlinkSerializable};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, SOCK_DIAG_BY_FAMILY, SockDiagDestroy, SockDiagMessage, TCP_CLOSE,
};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use rustix::io::Errno;

use super::exchange::Exchange;
use crate::registry::Prefix;

/// How often the list is read again because sockets were found: of a SO_REUSEPORT group of listeners each pass closes
/// one at least, and connections may come up meanwhile. What is left after so many has to wait for the next call.
const PASSES: usize = 64;

/// Which sockets of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// TCP connections and listeners.
    Tcp,
    /// TCP connections in any state.
    TcpConnections,
    /// UDP sockets, connected or bound.
    Udp,
    /// UDP sockets that are connected.
    UdpConnected,
}

impl Which {
    fn protocol(self) -> u8 {
        match self {
            Self::Tcp | Self::TcpConnections => 6,
            Self::Udp | Self::UdpConnected => 17,
        }
    }

    fn states(self) -> StateFlags {
        match self {
            Self::Tcp => StateFlags::all() - StateFlags::CLOSE,
            Self::TcpConnections => StateFlags::all() - StateFlags::CLOSE - StateFlags::LISTEN,
            Self::Udp => StateFlags::ESTABLISHED | StateFlags::CLOSE,
            Self::UdpConnected => StateFlags::ESTABLISHED,
        }
    }
}

/// Why sockets were not destroyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// This kernel cannot.
    #[error("this kernel cannot close the sockets of others (CONFIG_INET_DIAG_DESTROY)")]
    Unsupported,
    /// It refused.
    #[error(transparent)]
    Kernel(#[from] super::Error),
}

/// A UDP socket that is bound to the wildcard address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WildcardUdp {
    /// `0.0.0.0` or `::` (which may take IPv4 as well), and the port.
    pub local: SocketAddr,
    /// User id of its owner.
    pub uid: u32,
    /// Inode, as in `/proc/PID/fd`.
    pub inode: u32,
}

/// A socket for questions about sockets.
#[derive(Debug)]
pub struct SockDiag(Exchange);

impl SockDiag {
    /// Opens it in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        Exchange::open(NETLINK_SOCK_DIAG).map(Self)
    }

    /// Closes the sockets that are local to an address or prefix, IPv4-mapped ones included, and returns how many.
    /// `gone`: whether this address of the prefix is meant.
    pub fn destroy_local(
        &mut self,
        prefix: Prefix,
        which: Which,
        gone: impl Fn(IpAddr) -> bool,
    ) -> Result<usize, Error> {
        let mut destroyed = HashSet::new();
        for _ in 0..PASSES {
            let before = destroyed.len();
            for socket in self.local(prefix, which)? {
                let id = &socket.socket_id;
                if gone(id.source_address.to_canonical())
                    && !destroyed.contains(&id.cookie)
                    && self.destroy(&socket, which)?
                {
                    destroyed.insert(id.cookie);
                }
            }
            if destroyed.len() == before {
                break;
            }
        }
        Ok(destroyed.len())
    }

    /// Sockets that are local to a prefix.
    fn local(&mut self, prefix: Prefix, which: Which) -> Result<Vec<InetResponseHeader>, Error> {
        let families: &[u8] = if prefix.address.is_ipv4() { &[AF_INET, AF_INET6] } else { &[AF_INET6] };
        let mut all = Vec::new();
        for family in families {
            let request = request(*family, which.protocol(), which.states());
            let found = self.dump(Filtered { request, code: local_to(prefix) })?;
            all.extend(
                found.into_iter().filter(|s| prefix.contains(s.socket_id.source_address.to_canonical())),
            );
        }
        Ok(all)
    }

    /// Whether it was there.
    fn destroy(&mut self, socket: &InetResponseHeader, which: Which) -> Result<bool, Error> {
        let mut request = request(socket.family, which.protocol(), StateFlags::empty());
        request.socket_id = socket.socket_id.clone();
        let message = SockDiagDestroy::new(SockDiagMessage::InetRequest(request));
        match self.0.ask(message, NLM_F_ACK, |_: SockDiagMessage| ()) {
            Ok(()) => Ok(true),
            // Gone; or another one of its SO_REUSEPORT group was found in its place.
            Err(e) if matches!(e.errno, Errno::NOENT | Errno::STALE) => Ok(false),
            Err(e) if e.errno == Errno::OPNOTSUPP => Err(Error::Unsupported),
            Err(e) => Err(e.into()),
        }
    }

    /// UDP sockets that are bound to a wildcard address.
    pub fn wildcard_udp(&mut self) -> Result<Vec<WildcardUdp>, Error> {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let request = request(family, Which::Udp.protocol(), StateFlags::CLOSE);
            let found = self.dump(Filtered { request, code: Vec::new() })?;
            all.extend(found.into_iter().filter_map(|s| {
                let local = SocketAddr::new(s.socket_id.source_address, s.socket_id.source_port);
                let wildcard = local.ip().is_unspecified() && local.port() != 0 && s.state == TCP_CLOSE;
                wildcard.then_some(WildcardUdp { local, uid: s.uid, inode: s.inode })
            }));
        }
        Ok(all)
    }

    fn dump(&mut self, request: Filtered) -> Result<Vec<InetResponseHeader>, Error> {
        let found = self.0.dump(&request, |message| match message {
            SockDiagMessage::InetResponse(response) => Some(response.header),
            _ => None,
        });
        found.map_err(|e| match e.errno {
            // Without the protocol's part of sock_diag (CONFIG_INET_DIAG, CONFIG_INET_UDP_DIAG).
            Errno::NOENT => Error::Unsupported,
            _ => e.into(),
        })
    }
}

fn request(family: u8, protocol: u8, states: StateFlags) -> InetRequest {
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states, socket_id }
}

/// A request for a list, with a program that filters it.
#[derive(Clone, Debug)]
struct Filtered {
    request: InetRequest,
    code: Vec<u8>,
}

impl NetlinkSerializable for Filtered {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        let attribute = if self.code.is_empty() { 0 } else { 4 + self.code.len() };
        SockDiagMessage::InetRequest(self.request.clone()).buffer_len() + attribute
    }

    fn serialize(&self, buffer: &mut [u8]) {
        /// From linux/inet_diag.h.
        const INET_DIAG_REQ_BYTECODE: u16 = 1;
        let request = SockDiagMessage::InetRequest(self.request.clone());
        let (head, attribute) = buffer.split_at_mut(request.buffer_len());
        request.serialize(head);
        let len = u16::try_from(attribute.len()).unwrap_or(0);
        if let Some((header, value)) = attribute.split_at_mut_checked(4) {
            header[..2].copy_from_slice(&len.to_ne_bytes());
            header[2..].copy_from_slice(&INET_DIAG_REQ_BYTECODE.to_ne_bytes());
            value.copy_from_slice(&self.code);
        }
    }
}

/// A program of one instruction: accept sockets whose local address lies in the prefix, with any port. A condition of
/// IPv4 fits IPv4-mapped addresses of IPv6 sockets too.
fn local_to(prefix: Prefix) -> Vec<u8> {
    /// From linux/inet_diag.h.
    const INET_DIAG_BC_S_COND: u8 = 7;
    let (family, address) = match prefix.network() {
        IpAddr::V4(a) => (AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (AF_INET6, a.octets().to_vec()),
    };
    // struct inet_diag_bc_op, then struct inet_diag_hostcond. Where to go on: behind the end accepts, 4 beyond refuses.
    let end = 4 + 8 + u8::try_from(address.len()).unwrap_or(0);
    let mut code = vec![INET_DIAG_BC_S_COND, end];
    code.extend((u16::from(end) + 4).to_ne_bytes());
    code.extend([family, prefix.len, 0, 0]);
    code.extend((-1i32).to_ne_bytes());
    code.extend(address);
    code
}

#[cfg(test)]
mod tests;
