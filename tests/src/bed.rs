//! The usual test bed: two namespaces and a veth pair.
//!
//! ```text
//!   host namespace                      peer namespace (plain kernel stack)
//!   dev0  192.0.2.1/24      ---------   peer0  192.0.2.100/24
//!         2001:db8::1/64                       2001:db8::100/64
//!   afnetd, tenants
//! ```
//!
//! Compartments of the tests take 192.0.2.10 and 2001:db8::10 onwards.

use std::net::{IpAddr, UdpSocket};

use crate::{netns::Netns, veth::Veth, wait};

/// afnetd's device in the host namespace.
pub const DEVICE: &str = "dev0";
/// The other end.
pub const PEER: &str = "peer0";
/// The peer's addresses.
pub const PEER_V4: &str = "192.0.2.100";
/// The peer's addresses.
pub const PEER_V6: &str = "2001:db8::100";
/// The host's own addresses.
pub const HOST_V4: &str = "192.0.2.1";
/// The host's own addresses.
pub const HOST_V6: &str = "2001:db8::1";

/// Host and peer namespace, connected.
#[derive(Debug)]
pub struct Bed {
    /// Where afnetd and the tenants are.
    pub host: Netns,
    /// Where the judge is.
    pub peer: Netns,
}

impl Bed {
    /// One queue, MTU 1500.
    #[track_caller]
    pub fn new(label: &str) -> Self {
        Self::with(label, Veth::default())
    }

    /// With a veth pair of one's own making.
    #[track_caller]
    pub fn with(label: &str, veth: Veth) -> Self {
        let (host, peer) = (Netns::new(&format!("{label}-host")), Netns::new(&format!("{label}-peer")));
        veth.connect((&host, DEVICE), (&peer, PEER));
        for (ns, device, v4, v6) in [(&host, DEVICE, HOST_V4, HOST_V6), (&peer, PEER, PEER_V4, PEER_V6)] {
            ns.ip(&format!("addr add {v4}/24 dev {device}"));
            ns.ip(&format!("addr add {v6}/64 dev {device} nodad"));
            // The kernel adds it from a work queue; whoever compares routes must find it there from the start.
            let route = format!("local {v6} dev {device}");
            wait::until_true(&route, || ns.ip("-6 route show table local").contains(&route));
        }
        Self { host, peer }
    }

    /// A UDP socket of the peer's kernel on a free port of `address`, with a receive timeout of [`wait::PATIENCE`].
    #[track_caller]
    pub fn peer_socket(&self, address: &str) -> UdpSocket {
        socket_in(&self.peer, address, 0)
    }

    /// MAC address of afnetd's device.
    #[track_caller]
    pub fn device_mac(&self) -> [u8; 6] {
        self.host.mac(DEVICE)
    }

    /// MAC address of the peer.
    #[track_caller]
    pub fn peer_mac(&self) -> [u8; 6] {
        self.peer.mac(PEER)
    }
}

/// A UDP socket in `ns` bound to `address` and `port` (0: any), with a receive timeout of [`wait::PATIENCE`].
#[track_caller]
pub fn socket_in(ns: &Netns, address: &str, port: u16) -> UdpSocket {
    let address: IpAddr = address.parse().expect("an address");
    let socket = ns
        .enter(|| UdpSocket::bind((address, port)))
        .unwrap_or_else(|error| panic!("bind {address}:{port}: {error}"));
    socket.set_read_timeout(Some(wait::PATIENCE)).expect("set a timeout");
    socket
}
