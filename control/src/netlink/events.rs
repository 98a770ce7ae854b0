//! What changes in the kernel's links, addresses, routes, rules and neighbours, whoever changes it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteAttribute;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::addr::KernelAddress;
use super::link::Link;
use super::neigh::Neighbour;
use super::{local, split};

/// Bytes of events that may wait; a thousand addresses make some 500 KB. Overruns are noticed and cost a new look at
/// everything.
const BACKLOG: usize = 8 << 20;

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface is new or has changed.
    Link(Link),
    /// An interface is gone.
    LinkGone(u32),
    /// An address is there.
    Address(KernelAddress),
    /// An address is gone.
    AddressGone(KernelAddress),
    /// Some route or rule is new or gone (those of the local table are told by addresses).
    Routes,
    /// A neighbour is new or has changed.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(Neighbour),
    /// Events were lost: look at everything anew.
    Overrun,
}

/// The socket that tells.
#[derive(Debug)]
pub struct Events {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Events {
    /// Listens from now on, without blocking.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        // Needs CAP_NET_ADMIN; without, the default size has to do.
        let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, BACKLOG);
        socket.bind(&SocketAddr::new(0, 0))?;
        for group in [
            libc::RTNLGRP_LINK,
            libc::RTNLGRP_NEIGH,
            libc::RTNLGRP_IPV4_IFADDR,
            libc::RTNLGRP_IPV6_IFADDR,
            libc::RTNLGRP_IPV4_ROUTE,
            libc::RTNLGRP_IPV6_ROUTE,
            libc::RTNLGRP_IPV4_RULE,
            libc::RTNLGRP_IPV6_RULE,
        ] {
            socket.add_membership(group)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self { socket, buffer: vec![0; super::exchange::BUFFER] })
    }

    /// Everything that has happened since the last call.
    pub fn drain(&mut self, mut each: impl FnMut(Event)) -> io::Result<()> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(n) => {
                    let mut rest = &self.buffer[..n];
                    while let Some((one, next)) = split(rest) {
                        rest = next;
                        if let Some(event) = parse(one) {
                            each(event);
                        }
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => each(Event::Overrun),
                Err(e) => return Err(e),
            }
        }
    }

    /// For the poll.
    pub fn raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn parse(bytes: &[u8]) -> Option<Event> {
    // What does not parse is news from a newer kernel that concerns us not.
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(bytes).ok()?;
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    Some(match message {
        RouteNetlinkMessage::NewLink(link) => {
            // AF_BRIDGE tells of bridge ports, not of links.
            if u8::from(link.header.interface_family) != 0 {
                return None;
            }
            Event::Link(Link::parse(&link))
        }
        RouteNetlinkMessage::DelLink(link) if u8::from(link.header.interface_family) == 0 => {
            Event::LinkGone(link.header.index)
        }
        RouteNetlinkMessage::NewAddress(a) => Event::Address(KernelAddress::parse(&a)?),
        RouteNetlinkMessage::DelAddress(a) => Event::AddressGone(KernelAddress::parse(&a)?),
        RouteNetlinkMessage::NewNeighbour(n) => Event::Neighbour(Neighbour::parse(&n)?),
        RouteNetlinkMessage::DelNeighbour(n) => Event::NeighbourGone(Neighbour::parse(&n)?),
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            let table = route.attributes.iter().find_map(|a| match a {
                RouteAttribute::Table(table) => Some(*table),
                _ => None,
            });
            if table.unwrap_or(u32::from(route.header.table)) == u32::from(local::TABLE) {
                return None;
            }
            Event::Routes
        }
        RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_) => Event::Routes,
        _ => return None,
    })
}
