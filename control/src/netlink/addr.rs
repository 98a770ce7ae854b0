//! Addresses on the kernel's devices, `lo` included.
//!
//! A compartment's address goes to its device as /32 or /128, without a route for its prefix: the host's own routes
//! stay as they are. It carries the protocol number [`PROTOCOL`], which tells ours from the host's (and shows in
//! `ip addr`). IPv6 ones are deprecated from the start, so that the host does not choose them as a source of its own
//! traffic (RFC 6724 rule 3); whoever binds to one may use it all the same.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
    CacheInfo,
};

use super::{Error, Netlink, family};
use crate::registry::bits;

/// IFA_PROTO of the compartments' addresses.
pub const PROTOCOL: u8 = 0xaf;

/// An address of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelAddress {
    /// Device.
    pub ifindex: u32,
    /// Address.
    pub address: IpAddr,
    /// Its prefix.
    pub prefix_len: u8,
    /// Put there by an afnetd.
    pub ours: bool,
    /// Not to be chosen as a source.
    pub deprecated: bool,
}

impl KernelAddress {
    pub(super) fn parse(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut address = None;
        let (mut ours, mut deprecated) =
            (false, message.header.flags.contains(AddressHeaderFlags::Deprecated));
        for attribute in &message.attributes {
            match attribute {
                // Of a point-to-point link ADDRESS is the peer's and LOCAL ours; IPv6 has ADDRESS alone.
                AddressAttribute::Local(a) => local = Some(*a),
                AddressAttribute::Address(a) => address = Some(*a),
                AddressAttribute::Protocol(p) => ours = u8::from(*p) == PROTOCOL,
                AddressAttribute::Flags(flags) => deprecated = flags.contains(AddressFlags::Deprecated),
                _ => {}
            }
        }
        let (ifindex, prefix_len) = (message.header.index, message.header.prefix_len);
        Some(Self { ifindex, address: local.or(address)?, prefix_len, ours, deprecated })
    }
}

fn message(ifindex: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = bits(address);
    message.header.scope = AddressScope::Universe;
    message.header.index = ifindex;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    message
}

impl Netlink {
    /// Gives a device an address. EEXIST: it has it.
    pub fn add_address(&mut self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let mut message = message(ifindex, address);
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
        if address.is_ipv6() {
            // Duplicates are looked for by the daemon, on behalf of all realms, not by the kernel's device.
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.attributes.push(AddressAttribute::Flags(flags));
            let mut lifetime = CacheInfo::default();
            lifetime.ifa_valid = u32::MAX;
            lifetime.ifa_preferred = 0;
            message.attributes.push(AddressAttribute::CacheInfo(lifetime));
        }
        self.change(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Takes it away. EADDRNOTAVAIL: it has none such.
    pub fn del_address(&mut self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        self.change(RouteNetlinkMessage::DelAddress(message(ifindex, address)), 0)
    }

    /// All addresses of the namespace.
    pub fn addresses(&mut self) -> Result<Vec<KernelAddress>, Error> {
        self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), |m| match m {
            RouteNetlinkMessage::NewAddress(a) => KernelAddress::parse(&a),
            _ => None,
        })
    }
}
