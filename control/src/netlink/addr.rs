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
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope, CacheInfo,
};

use rustix::io::Errno;

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
    /// The kernel is asking whether another host has it.
    pub tentative: bool,
    /// One has (IFA_F_DADFAILED).
    pub failed: bool,
}

impl KernelAddress {
    pub(super) fn parse(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut address = None;
        let (mut ours, mut flags) =
            (false, AddressFlags::from_bits_retain(u32::from(message.header.flags.bits())));
        for attribute in &message.attributes {
            match attribute {
                // Of a point-to-point link ADDRESS is the peer's and LOCAL ours; IPv6 has ADDRESS alone.
                AddressAttribute::Local(a) => local = Some(*a),
                AddressAttribute::Address(a) => address = Some(*a),
                AddressAttribute::Protocol(p) => ours = u8::from(*p) == PROTOCOL,
                AddressAttribute::Flags(all) => flags = *all,
                _ => {}
            }
        }
        Some(Self {
            ifindex: message.header.index,
            address: local.or(address)?,
            prefix_len: message.header.prefix_len,
            ours,
            deprecated: flags.contains(AddressFlags::Deprecated),
            tentative: flags.contains(AddressFlags::Tentative),
            failed: flags.contains(AddressFlags::Dadfailed),
        })
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
    /// Gives a device an address, to be used at once. EEXIST: it has it.
    pub fn add_address(&mut self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        self.give(ifindex, address, false)
    }

    /// Gives a device an IPv6 address of which the kernel first asks whether another host has it. It tells by
    /// [`KernelAddress::tentative`] and [`KernelAddress::failed`].
    pub fn ask_for_address(&mut self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        self.give(ifindex, address, true)
    }

    fn give(&mut self, ifindex: u32, address: IpAddr, ask: bool) -> Result<(), Error> {
        let mut message = message(ifindex, address);
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
        if address.is_ipv6() {
            let nodad = if ask { AddressFlags::empty() } else { AddressFlags::Nodad };
            let flags = nodad | AddressFlags::Noprefixroute;
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

    /// One IPv6 address of a device, as it is now.
    pub fn address(&mut self, ifindex: u32, address: IpAddr) -> Result<Option<KernelAddress>, Error> {
        let mut message = AddressMessage::default();
        message.header.family = family(address);
        message.header.index = ifindex;
        message.attributes = vec![AddressAttribute::Address(address)];
        let found = self.get(RouteNetlinkMessage::GetAddress(message), |m| match m {
            RouteNetlinkMessage::NewAddress(a) => KernelAddress::parse(&a),
            _ => None,
        });
        match found {
            Err(e) if e.errno == Errno::ADDRNOTAVAIL => Ok(None),
            other => other,
        }
    }

    /// All addresses of the namespace.
    pub fn addresses(&mut self) -> Result<Vec<KernelAddress>, Error> {
        self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), |m| match m {
            RouteNetlinkMessage::NewAddress(a) => KernelAddress::parse(&a),
            _ => None,
        })
    }
}
