//! Proof that a port is a tenant's: UDP sockets of the kernel that are bound to it.
//!
//! A claim takes datagrams away from the kernel's sockets, so whoever claims must hold the socket that would get them.
//! The kernel's bind is the registry; a second process that wants the port gets EADDRINUSE from it, as ever. The
//! daemon keeps the sockets while the claim stands: so the port cannot pass to somebody else meanwhile, and what the
//! fast path does not take still queues there.
//!
//! | checked | by |
//! |---|---|
//! | a UDP socket | `SO_DOMAIN`, `SO_TYPE`, `SO_PROTOCOL` |
//! | of this network namespace | `SO_NETNS_COOKIE` (kernel 5.14) |
//! | bound to the port, on the address or all | `getsockname()`, `IPV6_V6ONLY` |

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{ipv6_v6only, socket_domain, socket_protocol, socket_type};
use rustix::net::{AddressFamily, SocketType, getsockname, ipproto};

use crate::error::Refused;

/// From asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A socket that was checked.
#[derive(Debug)]
pub struct Proof {
    _socket: OwnedFd,
    bound: SocketAddr,
    dual_stack: bool,
}

impl Proof {
    /// Checks a socket; `cookie` is that of the daemon's network namespace, if the kernel tells it.
    pub fn check(socket: OwnedFd, cookie: Option<u64>) -> Result<Self, Refused> {
        let refuse =
            |why: &str| Refused::new(Errno::BADF, format!("a socket that came with the claim {why}"));
        let io = |e: Errno| match e {
            Errno::NOTSOCK => Refused::new(Errno::NOTSOCK, "what came with the claim is no socket"),
            e => Refused::new(e, format!("looking at a socket that came with the claim: {e}")),
        };
        let domain = socket_domain(&socket).map_err(io)?;
        let udp = socket_type(&socket).map_err(io)? == SocketType::DGRAM
            && socket_protocol(&socket).map_err(io)? == Some(ipproto::UDP)
            && matches!(domain, AddressFamily::INET | AddressFamily::INET6);
        if !udp {
            return Err(refuse("is no UDP socket"));
        }
        if cookie.is_some() && cookie != netns_cookie(socket.as_fd()) {
            return Err(refuse("is of another network namespace than afnetd's"));
        }
        let name = getsockname(&socket).map_err(io)?;
        let bound = SocketAddr::try_from(name).map_err(|_| refuse("has no address"))?;
        if bound.port() == 0 {
            return Err(refuse("is not bound"));
        }
        let dual_stack = domain == AddressFamily::INET6 && !ipv6_v6only(&socket).map_err(io)?;
        Ok(Self { _socket: socket, bound: canonical(bound), dual_stack })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.bound.port()
    }

    /// Whether the kernel would give it datagrams to `address`.
    pub fn covers(&self, address: IpAddr) -> bool {
        let bound = self.bound.ip();
        if bound.is_unspecified() {
            bound.is_ipv4() == address.is_ipv4() || self.dual_stack && bound.is_ipv6()
        } else {
            bound == address
        }
    }
}

/// IPv4-mapped addresses as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Cookie of the network namespace that a socket is in.
pub fn netns_cookie(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut cookie = 0u64;
    let mut len: libc::socklen_t = 8;
    // SAFETY: the option writes at most `len` bytes, a u64.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    (result == 0).then_some(cookie)
}

/// Cookie of the namespace of this thread; `None` if the kernel does not tell.
pub fn own_cookie() -> io::Result<Option<u64>> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    Ok(netns_cookie(socket.as_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    fn proof(address: &str) -> Proof {
        let socket = UdpSocket::bind(address).unwrap();
        Proof::check(socket.into(), own_cookie().unwrap()).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_bound_udp_socket_covers_what_the_kernel_would_give_it() {
        let exact = proof("127.0.0.1:0");
        assert!(exact.port() != 0 && exact.covers(ip("127.0.0.1")) && !exact.covers(ip("127.0.0.2")));
        let all4 = proof("0.0.0.0:0");
        assert!(all4.covers(ip("192.0.2.1")) && !all4.covers(ip("2001:db8::1")));
        let all = proof("[::]:0");
        assert!(all.covers(ip("192.0.2.1")) && all.covers(ip("2001:db8::1")));
        assert!(proof("[::ffff:127.0.0.1]:0").covers(ip("127.0.0.1")));
        let only6 = rustix::net::socket(AddressFamily::INET6, SocketType::DGRAM, None).unwrap();
        rustix::net::sockopt::set_ipv6_v6only(&only6, true).unwrap();
        rustix::net::bind(&only6, &"[::]:0".parse::<SocketAddr>().unwrap()).unwrap();
        let only6 = Proof::check(only6, None).unwrap();
        assert!(!only6.covers(ip("192.0.2.1")) && only6.covers(ip("2001:db8::1")));
    }

    #[test]
    fn anything_else_is_refused() {
        let check = |fd: OwnedFd, cookie| Proof::check(fd, cookie).unwrap_err();
        assert_eq!(check(std::fs::File::open("/dev/null").unwrap().into(), None).errno, Errno::NOTSOCK);
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(check(tcp.into(), None).message.contains("no UDP"));
        let unbound = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap();
        assert!(check(unbound, None).message.contains("not bound"));
        let foreign = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(check(foreign.into(), Some(u64::MAX)).message.contains("another network namespace"));
    }
}
