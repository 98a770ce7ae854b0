//! What the kernel's routing says of a destination, and routes to addresses that the kernel reaches over the host link.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
    RouteVia,
};

use super::{Error, Netlink, family, route_address};
use crate::registry::{Prefix, bits};

/// RTPROT of the routes that the daemon makes; not in iproute2's table, so `ip route` shows the number.
pub(super) const PROTOCOL: u8 = 0xaf;

/// A question to the FIB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteQuery {
    /// Destination.
    pub dst: IpAddr,
    /// Source; one that the kernel does not hold is refused with EINVAL.
    pub src: Option<IpAddr>,
    /// Device that it has to leave by.
    pub oif: Option<u32>,
}

/// Kind of a route, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// To a next hop or a neighbour.
    Unicast,
    /// To the host itself.
    Local,
    /// Link-layer broadcast.
    Broadcast,
    /// Link-layer multicast.
    Multicast,
    /// Something else, for which nothing is sent.
    Other,
}

/// The answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Kind.
    pub kind: Kind,
    /// Device.
    pub oif: u32,
    /// Next hop, if the destination is not on-link. May be IPv6 for an IPv4 destination (RFC 5549).
    pub gateway: Option<IpAddr>,
    /// MTU of the route, if it has one of its own (path MTU discovery, `mtu` of the route).
    pub mtu: Option<u32>,
    /// Length of the prefix that matched; only from [`Netlink::fib_prefix`].
    prefix_len: u8,
}

impl Found {
    /// Straight out of a device.
    pub fn on_link(oif: u32) -> Self {
        Self { kind: Kind::Unicast, oif, gateway: None, mtu: None, prefix_len: 0 }
    }

    fn parse(message: &RouteMessage) -> Self {
        let mut found = Self {
            kind: match message.header.kind {
                RouteType::Unicast => Kind::Unicast,
                RouteType::Local | RouteType::Anycast => Kind::Local,
                RouteType::Broadcast => Kind::Broadcast,
                RouteType::Multicast => Kind::Multicast,
                _ => Kind::Other,
            },
            oif: 0,
            gateway: None,
            mtu: None,
            prefix_len: message.header.destination_prefix_length,
        };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(oif) => found.oif = *oif,
                RouteAttribute::Gateway(address) => found.gateway = route_address(address),
                RouteAttribute::Via(RouteVia::Inet(a)) => found.gateway = Some(IpAddr::V4(*a)),
                RouteAttribute::Via(RouteVia::Inet6(a)) => found.gateway = Some(IpAddr::V6(*a)),
                RouteAttribute::Metrics(metrics) => {
                    found.mtu = metrics.iter().find_map(|m| match m {
                        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        found
    }
}

impl Netlink {
    /// Where a packet would go. Errors are those that a `connect()` would give: ENETUNREACH, EHOSTUNREACH, EACCES ...
    pub fn route(&mut self, query: &RouteQuery) -> Result<Found, Error> {
        self.lookup(query, RouteFlags::empty())
    }

    /// Length of the prefix of the route that matches.
    pub fn fib_prefix(&mut self, query: &RouteQuery) -> Result<u8, Error> {
        self.lookup(query, RouteFlags::FibMatch).map(|found| found.prefix_len)
    }

    fn lookup(&mut self, query: &RouteQuery, flags: RouteFlags) -> Result<Found, Error> {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(query.dst),
            destination_prefix_length: bits(query.dst),
            source_prefix_length: query.src.map_or(0, bits),
            flags,
            ..RouteHeader::default()
        };
        message.attributes.push(RouteAttribute::Destination(query.dst.into()));
        message.attributes.extend(query.src.map(|src| RouteAttribute::Source(src.into())));
        message.attributes.extend(query.oif.map(RouteAttribute::Oif));
        let found = self.get(RouteNetlinkMessage::GetRoute(message), |m| match m {
            RouteNetlinkMessage::NewRoute(route) => Some(Found::parse(&route)),
            _ => None,
        })?;
        found.ok_or(Error { errno: rustix::io::Errno::NETUNREACH, text: None })
    }

    /// Sends `prefix` out of a device, as if all of it were on-link there. `src`: source the host prefers.
    pub fn add_route(&mut self, prefix: Prefix, oif: u32, src: Option<IpAddr>) -> Result<(), Error> {
        let mut message = device_route(prefix, oif);
        message.attributes.extend(src.map(|src| RouteAttribute::PrefSource(src.into())));
        self.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Undoes [`Self::add_route`]. ESRCH: there is none.
    pub fn del_route(&mut self, prefix: Prefix, oif: u32) -> Result<(), Error> {
        self.change(RouteNetlinkMessage::DelRoute(device_route(prefix, oif)), 0)
    }
}

fn device_route(prefix: Prefix, oif: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(prefix.address),
        destination_prefix_length: prefix.len,
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(PROTOCOL),
        scope: if prefix.address.is_ipv4() { RouteScope::Link } else { RouteScope::Universe },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(prefix.network().into()), RouteAttribute::Oif(oif)];
    message
}
