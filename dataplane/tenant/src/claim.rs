//! Claims, and the kernel sockets behind them.
//!
//! A claim of a port is an overlay on real UDP sockets, one for each address that the kernel holds too. They make the
//! kernel's bind the one registry of ports, prove to afnetd that the port is ours, and receive the traffic while no
//! daemon runs. So they live as long as the claim, whatever happens to the daemon.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use afnet_abi::{
    control::{Address, AddressState, MAX_FDS},
    vlan::Vlan,
};
use rustix::{io::Errno, net::netdevice::name_to_index};

use crate::Error;

/// A bound kernel socket, non-blocking and close-on-exec.
#[derive(Debug)]
pub(crate) struct KernelSocket {
    pub(crate) socket: UdpSocket,
    pub(crate) local: SocketAddr,
}

/// Ports that belong to the endpoint.
#[derive(Debug)]
pub(crate) struct Claim {
    /// First port.
    pub(crate) port: u16,
    /// Number of ports.
    pub(crate) count: u16,
    /// Only this address.
    pub(crate) address: Option<IpAddr>,
    /// One for each kernel-held address; none for a block.
    pub(crate) sockets: Vec<KernelSocket>,
}

impl Claim {
    /// The sockets, to be sent along.
    pub(crate) fn proof(&self) -> Vec<BorrowedFd<'_>> {
        self.sockets.iter().map(|s| s.socket.as_fd()).collect()
    }

    fn has(&self, port: u16) -> bool {
        port.checked_sub(self.port).is_some_and(|above| above < self.count)
    }
}

/// All claims of an endpoint, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Claims(pub(crate) Vec<Claim>);

impl Claims {
    /// The socket with this descriptor.
    pub(crate) fn socket(&self, fd: RawFd) -> Option<&KernelSocket> {
        self.sockets().find(|s| s.socket.as_raw_fd() == fd)
    }

    /// All sockets.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = &KernelSocket> {
        self.0.iter().flat_map(|claim| &claim.sockets)
    }

    /// Sends through the kernel: from `local` if given, from port `local_port` or that of the first claim.
    pub(crate) fn send(
        &self,
        local: Option<IpAddr>,
        local_port: u16,
        remote: SocketAddr,
        payload: &[u8],
        segment: u16,
    ) -> Result<(), Error> {
        let mut failure = Error::Disconnected;
        let claims = self.0.iter().filter(|c| local_port == 0 || c.has(local_port));
        let sockets = claims
            .flat_map(|claim| &claim.sockets)
            .filter(|s| s.local.is_ipv4() == remote.is_ipv4() && local.is_none_or(|ip| s.local.ip() == ip));
        for socket in sockets {
            let size = if segment == 0 { payload.len().max(1) } else { usize::from(segment) };
            // An empty datagram is one chunk too.
            let mut chunks = payload.chunks(size).chain(payload.is_empty().then_some(payload));
            match chunks.try_for_each(|chunk| socket.socket.send_to(chunk, remote).map(|_| ())) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Error::WouldBlock),
                // Another of our addresses may have a route where this one has none.
                Err(e) => failure = e.into(),
            }
        }
        Err(failure)
    }
}

/// Addresses that the kernel may hold, of those of the compartment: where a claim binds sockets. Never one of a VLAN:
/// if the kernel holds that too, then for another compartment, of the untagged realm. Link-local ones get
/// the scope of their device; `any` is some socket to ask the kernel with.
pub(crate) fn kernel_held(
    addresses: &[Address],
    only: Option<IpAddr>,
    any: BorrowedFd<'_>,
) -> Vec<SocketAddr> {
    let held = addresses.iter().filter(|a| {
        !a.spec.fast_only
            && !a.spec.delegated
            && a.spec.vlan == Vlan::NONE
            && a.state != AddressState::Duplicate
            && only.is_none_or(|ip| ip == a.spec.address)
    });
    let socket_address = |a: &Address| match a.spec.address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            let scope = name_to_index(any, &a.spec.dev).unwrap_or(0);
            SocketAddr::V6(SocketAddrV6::new(v6, 0, 0, scope))
        }
        ip => SocketAddr::new(ip, 0),
    };
    let mut list: Vec<_> = held.map(socket_address).collect();
    // One address may be in several realms; the kernel knows it once.
    list.sort_unstable();
    list.dedup();
    list
}

/// Binds `port` (0: one that is free) of each address and returns the port and the sockets. An address that the
/// kernel does not hold after all (no interface in that realm, or not yet usable) is left out: whether the proof is
/// complete is afnetd's to judge.
pub(crate) fn bind(addresses: &[SocketAddr], mut port: u16) -> Result<(u16, Vec<KernelSocket>), Error> {
    // The daemon takes no more descriptors in one message.
    if addresses.len() > MAX_FDS {
        return Err(Error::TooManyAddresses(addresses.len()));
    }
    let mut sockets = Vec::with_capacity(addresses.len());
    for address in addresses {
        let mut address = *address;
        address.set_port(port);
        let fail = |source| Error::Bind { address, source };
        match UdpSocket::bind(address) {
            Ok(socket) => {
                socket.set_nonblocking(true).map_err(fail)?;
                let local = socket.local_addr().map_err(fail)?;
                port = local.port();
                sockets.push(KernelSocket { socket, local });
            }
            Err(e) if e.raw_os_error() == Some(Errno::ADDRNOTAVAIL.raw_os_error()) => {}
            Err(source) => return Err(fail(source)),
        }
    }
    Ok((port, sockets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 0)
    }

    #[test]
    fn one_port_is_bound_on_every_address_the_kernel_has() {
        let (port, sockets) = bind(&[on("127.0.0.1"), on("192.0.2.77"), on("127.0.0.2")], 0).unwrap();
        assert_ne!(port, 0);
        let bound: Vec<_> = sockets.iter().map(|s| s.local.to_string()).collect();
        assert_eq!(bound, [format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}")]);
        let again = bind(&[on("127.0.0.2")], port).unwrap_err();
        assert!(again.is_in_use(), "{again}");
    }

    #[test]
    fn the_kernel_sends_from_the_claimed_port() {
        let (port, sockets) = bind(&[on("127.0.0.1")], 0).unwrap();
        let claims = Claims(vec![Claim { port, count: 1, address: None, sockets }]);
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let remote = peer.local_addr().unwrap();
        let mut buffer = [0; 64];
        claims.send(None, 0, remote, b"abcde", 2).unwrap();
        for part in [&b"ab"[..], b"cd", b"e"] {
            let (n, from) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..n], from.port()), (part, port));
        }
        claims.send(Some("127.0.0.1".parse().unwrap()), port, remote, b"", 0).unwrap();
        assert_eq!(peer.recv_from(&mut buffer).unwrap().0, 0);
        for (local, port) in [(Some("127.0.0.2".parse().unwrap()), 0), (None, port ^ 1)] {
            let none = claims.send(local, port, remote, b"x", 0).unwrap_err();
            assert!(matches!(none, Error::Disconnected), "{none}");
        }
    }
}
