//! Prefixes that the kernel takes for its own although no device has their addresses (AnyIP).
//!
//! A route of the type `local` in the table `local` does it: the kernel then delivers what arrives for any address of
//! the prefix, answers for IPv4 addresses, and lets sockets use them as source (IPv6 ones that bind to one need
//! IPV6_FREEBIND: that looks at the addresses of devices). The metric is the index of the device that the prefix was
//! given on: so a prefix may be held for several devices, and each daemon knows its own routes again by it.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope, RouteType,
};
use rustix::io::Errno;

use super::route::PROTOCOL;
use super::{Error, Netlink, family, route_address};
use crate::registry::Prefix;

/// Index of `lo`, the same in every network namespace.
pub const LOOPBACK: u32 = 1;
/// RT_TABLE_LOCAL: the kernel's own entries, one for each address, and ours.
pub const TABLE: u8 = 255;

/// A prefix held by the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalRoute {
    /// Which.
    pub prefix: Prefix,
    /// Index of the device that it was given on.
    pub device: u32,
}

impl LocalRoute {
    fn message(self) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header = RouteHeader {
            address_family: family(self.prefix.address),
            destination_prefix_length: self.prefix.len,
            table: TABLE,
            protocol: RouteProtocol::Other(PROTOCOL),
            scope: if self.prefix.address.is_ipv4() { RouteScope::Host } else { RouteScope::Universe },
            kind: RouteType::Local,
            ..RouteHeader::default()
        };
        message.attributes = vec![
            RouteAttribute::Destination(self.prefix.network().into()),
            RouteAttribute::Oif(LOOPBACK),
            RouteAttribute::Priority(self.device),
        ];
        message
    }

    /// Reads a route, if it is one of ours.
    fn parse(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if (header.table, header.kind, header.protocol)
            != (TABLE, RouteType::Local, RouteProtocol::Other(PROTOCOL))
        {
            return None;
        }
        let (mut address, mut device) = (None, 0);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(to) => address = route_address(to),
                RouteAttribute::Priority(metric) => device = *metric,
                _ => {}
            }
        }
        Some(Self { prefix: Prefix { address: address?, len: header.destination_prefix_length }, device })
    }
}

impl Netlink {
    /// Makes the kernel take a prefix for its own; what it sends there itself is cut to `mtu`. Having it already is
    /// fine.
    pub fn add_local_route(&mut self, route: LocalRoute, mtu: Option<u32>) -> Result<(), Error> {
        let mut message = route.message();
        message.attributes.extend(mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        self.change(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Undoes it. Nothing there is fine.
    pub fn del_local_route(&mut self, route: LocalRoute) -> Result<(), Error> {
        match self.change(RouteNetlinkMessage::DelRoute(route.message()), 0) {
            Err(e) if e.errno == Errno::SRCH => Ok(()),
            other => other,
        }
    }

    /// All prefixes that daemons have made the kernel's.
    pub fn local_routes(&mut self) -> Result<Vec<LocalRoute>, Error> {
        let mut message = RouteMessage::default();
        // Strict checking lets the kernel filter by these.
        message.header.table = TABLE;
        message.header.kind = RouteType::Local;
        message.header.protocol = RouteProtocol::Other(PROTOCOL);
        self.dump(&RouteNetlinkMessage::GetRoute(message), |m| match m {
            RouteNetlinkMessage::NewRoute(route) => LocalRoute::parse(&route),
            _ => None,
        })
    }
}
