//! Proof that a port is a tenant's: UDP sockets of the kernel that are bound to it.
//!
//! A claim takes datagrams away from the kernel's sockets, so whoever claims must hold the socket that would get them.
//! The kernel's bind is the registry; a second process that wants the port gets EADDRINUSE from it, as ever.
//!
//! | checked | of a socket made in the compartment | of any other |
//! |---|---|---|
//! | a UDP socket | `SO_DOMAIN`, `SO_TYPE`, `SO_PROTOCOL` | the same |
//! | of this network namespace | `SO_NETNS_COOKIE` (kernel 5.14) | the same |
//! | bound to the port, on which addresses | the kernel path's register of ports; one that is only connected: `getsockname()` | `getsockname()`, `IPV6_V6ONLY` |
//! | who may prove by it | every endpoint of that compartment | endpoints that an administrator attached |
//! | the port stays the tenant's | the kernel path reports when it is given up, and the claim goes | the daemon keeps the socket while the claim stands |
//!
//! Where a socket was made is told by the kernel path's programs and cannot be changed. So a socket of another
//! compartment, which is bound to the same port at other addresses, and one that a process has brought along from the
//! host, which is bound to the host's, prove nothing here. Within a compartment the kernel's own rules decide who shares
//! a port (SO_REUSEADDR of both, or SO_REUSEPORT of both and one user), and the register enforces them.
//!
//! A socket that took its port by connecting, not by `bind()`, loses it when the connection is dissolved, which no
//! program sees. The claim then stands until the socket is closed, bound or used anew.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use afnet_bpf::Registered;
use rustix::io::Errno;
use rustix::net::sockopt::{ipv6_v6only, socket_cookie, socket_domain, socket_protocol, socket_type};
use rustix::net::{AddressFamily, SocketType, getsockname, ipproto};

use crate::error::Refused;

/// From asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// A socket that was checked.
#[derive(Debug)]
pub struct Proof {
    /// Kept if no program watches it.
    kept: Option<OwnedFd>,
    /// Of one that is watched (SO_COOKIE).
    cookie: Option<u64>,
    bound: SocketAddr,
    /// It is on all addresses of the family.
    all4: bool,
    all6: bool,
}

/// A reason against a socket.
fn refuse(why: &str) -> Refused {
    Refused::new(Errno::BADF, format!("a socket that came with the claim {why}"))
}

impl Proof {
    /// Checks a socket for what can be asked of it; `cookie` is that of the daemon's network namespace, if the kernel
    /// tells it.
    pub fn check(socket: OwnedFd, cookie: Option<u64>) -> Result<Self, Refused> {
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
        let all = bound.ip().is_unspecified();
        let all6 = all && domain == AddressFamily::INET6;
        let all4 = all && (!all6 || !ipv6_v6only(&socket).map_err(io)?);
        Ok(Self { kept: Some(socket), cookie: None, bound: canonical(bound), all4, all6 })
    }

    /// Goes by what the kernel path knows of the socket: whether it is one of the compartment's, and where it is. Its
    /// release is to be watched, by its cookie, instead of keeping it.
    pub fn of_compartment(&mut self, known: &Registered, slot: u32) -> Result<(), Refused> {
        if known.slot != Some(slot) {
            return Err(refuse("was made in another compartment"));
        }
        if known.port == 0 {
            // Connected without bind(): the kernel alone has registered it, at one address.
            if self.all4 || self.all6 {
                return Err(refuse("is bound to nothing that the compartment knows of"));
            }
        } else if known.port != self.port() {
            return Err(refuse("has lost its port"));
        } else {
            (self.all4, self.all6) = (known.all4, known.all6);
        }
        let socket = self.kept.as_ref().ok_or_else(|| refuse("is closed"))?;
        let cookie = socket_cookie(socket)
            .map_err(|e| Refused::new(e, format!("identifying a socket that came with the claim: {e}")))?;
        self.cookie = Some(cookie);
        Ok(())
    }

    /// The socket.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.kept.as_ref().map(AsFd::as_fd)
    }

    /// Gives the socket up if its release is reported: a copy here would keep the port when the tenant has closed it.
    pub fn let_go(&mut self) {
        if self.cookie.is_some() {
            self.kept = None;
        }
    }

    /// Its number, if its release is reported.
    pub fn cookie(&self) -> Option<u64> {
        self.cookie
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.bound.port()
    }

    /// Whether it is on all addresses of the family of `address`.
    pub fn on_all(&self, address: IpAddr) -> bool {
        if address.is_ipv4() { self.all4 } else { self.all6 }
    }

    /// Whether the kernel would give it datagrams to `address`.
    pub fn covers(&self, address: IpAddr) -> bool {
        let bound = self.bound.ip();
        self.on_all(address) || bound == address && !bound.is_unspecified()
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
    fn the_register_says_what_a_compartments_socket_covers() {
        let known = Registered { slot: Some(5), port: 0, all4: false, all6: false };
        // At one address for the kernel, on all of them for the compartment.
        let mut all = proof("127.0.0.1:0");
        let registered = Registered { port: all.port(), all4: true, ..known };
        all.of_compartment(&registered, 5).unwrap();
        assert!(all.covers(ip("192.0.2.1")) && !all.covers(ip("2001:db8::1")));
        assert!(all.socket().is_some() && all.cookie().is_some());
        all.let_go();
        assert!(all.socket().is_none());
        // The other way round: what says "all" was registered for one.
        let mut one = proof("0.0.0.0:0");
        one.of_compartment(&Registered { port: one.port(), ..known }, 5).unwrap();
        assert!(!one.covers(ip("192.0.2.1")) && !one.covers(ip("0.0.0.0")));
        // Connected without bind().
        let mut connected = proof("127.0.0.1:0");
        connected.of_compartment(&known, 5).unwrap();
        assert!(connected.covers(ip("127.0.0.1")) && !connected.covers(ip("127.0.0.2")));
        for (address, known, why) in [
            ("127.0.0.1:0", Registered { slot: Some(6), ..known }, "another compartment"),
            ("127.0.0.1:0", Registered { slot: None, ..known }, "another compartment"),
            ("127.0.0.1:0", Registered { port: 1, ..known }, "lost its port"),
            ("0.0.0.0:0", known, "bound to nothing"),
        ] {
            let mut proof = proof(address);
            let refused = proof.of_compartment(&known, 5).unwrap_err();
            assert!(refused.message.contains(why), "{refused}");
            proof.let_go();
            assert!(proof.socket().is_some(), "nobody reports its end");
        }
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
