//! netlink: links, addresses, routes, neighbours and sockets of the network namespace that the daemon lives in.
//!
//! | module | what |
//! |---|---|
//! | [`link`] | interfaces; the veth pair of the host link |
//! | [`addr`] | addresses of the compartments on the kernel's device, and the mirror of all |
//! | [`route`] | what the FIB says of a destination; routes over the host link |
//! | [`local`] | prefixes that the kernel takes for its own |
//! | [`neigh`] | neighbour entries; making the kernel resolve one |
//! | [`host_link`] | the veth pair to the host |
//! | [`ethtool`] | queues in use, checksum offload |
//! | [`events`] | what others change |
//! | [`sock_diag`] | sockets that are local to an address; closing them |
//! | [`exchange`] | requests and their answers, whatever the protocol |
//!
//! [`Netlink`] is a socket for requests to rtnetlink. Needs CAP_NET_ADMIN for changes.

pub mod addr;
pub mod ethtool;
pub mod events;
mod exchange;
pub mod host_link;
pub mod link;
pub mod local;
pub mod neigh;
pub mod route;
pub mod sock_diag;

use std::io;
use std::net::IpAddr;

use netlink_packet_core::NLM_F_ACK;
use netlink_packet_route::route::RouteAddress;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;

use self::exchange::Exchange;
pub(crate) use self::exchange::split;
use crate::error::Refused;

/// What the kernel answered to a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Error {
    /// Its errno.
    pub errno: Errno,
    /// Its explanation (extended acknowledgement), if it gave one.
    pub text: Option<String>,
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", io::Error::from(self.errno))?;
        self.text.iter().try_for_each(|text| write!(f, ": {text}"))
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self { errno: Errno::from_io_error(&error).unwrap_or(Errno::IO), text: None }
    }
}

impl Error {
    /// As a refusal of `what`.
    pub fn refused(self, what: impl std::fmt::Display) -> Refused {
        Refused::new(self.errno, format!("{what}: {self}"))
    }
}

/// A socket for requests to rtnetlink.
#[derive(Debug)]
pub struct Netlink(Exchange);

impl Netlink {
    /// Opens it in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let mut exchange = Exchange::open(NETLINK_ROUTE)?;
        // Best effort: unknown before Linux 4.20.
        let _ = exchange.socket().set_netlink_get_strict_chk(true);
        Ok(Self(exchange))
    }

    /// Asks for a change and waits until it is made.
    pub fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), Error> {
        self.0.ask(message, NLM_F_ACK | flags, |_: RouteNetlinkMessage| ())
    }

    /// Asks for one thing.
    pub fn get<T>(
        &mut self,
        message: RouteNetlinkMessage,
        mut pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let mut found = None;
        self.0.ask(message, NLM_F_ACK, |m| {
            if let Some(picked) = pick(m) {
                found = Some(picked);
            }
        })?;
        Ok(found)
    }

    /// Asks for a list; tried again if it changed meanwhile.
    pub fn dump<T>(
        &mut self,
        message: &RouteNetlinkMessage,
        pick: impl FnMut(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.0.dump(message, pick)
    }
}

/// AF_INET or AF_INET6.
pub(crate) fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

pub(crate) fn route_address(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(a) => Some(IpAddr::V4(*a)),
        RouteAddress::Inet6(a) => Some(IpAddr::V6(*a)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
