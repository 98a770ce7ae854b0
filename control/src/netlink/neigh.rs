//! Neighbour entries of the kernel: read, and entries that make it resolve or that stand for good.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::{Error, Netlink, family};

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It has this MAC address; `stale`: not confirmed lately, the kernel asks again when it is used.
    Known {
        /// MAC address.
        mac: [u8; 6],
        /// Not confirmed lately.
        stale: bool,
    },
    /// Being asked for.
    Incomplete,
    /// Does not answer.
    Failed,
}

/// An entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Device.
    pub ifindex: u32,
    /// Address.
    pub address: IpAddr,
    /// State.
    pub state: State,
}

impl Neighbour {
    pub(super) fn parse(message: &NeighbourMessage) -> Option<Self> {
        // Entries of bridges (AF_BRIDGE) and proxies are none of ours.
        if message.header.flags.contains(NeighbourFlags::Proxy) {
            return None;
        }
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
                _ => {}
            }
        }
        let state = match (message.header.state, mac) {
            (NeighbourState::Failed, _) => State::Failed,
            (NeighbourState::Stale, Some(mac)) => State::Known { mac, stale: true },
            (NeighbourState::Incomplete | NeighbourState::None, _) | (_, None) => State::Incomplete,
            (_, Some(mac)) => State::Known { mac, stale: false },
        };
        Some(Self { ifindex: message.header.ifindex, address: address?, state })
    }
}

fn message(ifindex: u32, address: IpAddr, state: NeighbourState, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(address);
    message.header.ifindex = ifindex;
    message.header.state = state;
    message.header.flags = flags;
    let destination = match address {
        IpAddr::V4(a) => NeighbourAddress::Inet(a),
        IpAddr::V6(a) => NeighbourAddress::Inet6(a),
    };
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

impl Netlink {
    /// Makes the kernel resolve or confirm a neighbour, as if a packet had been sent to it (NTF_USE).
    pub fn use_neighbour(&mut self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let message = message(ifindex, address, NeighbourState::None, NeighbourFlags::Use);
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE)
    }

    /// Enters a neighbour for good.
    pub fn add_neighbour(&mut self, ifindex: u32, address: IpAddr, mac: [u8; 6]) -> Result<(), Error> {
        let mut message = message(ifindex, address, NeighbourState::Permanent, NeighbourFlags::empty());
        message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.change(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
    }

    /// Takes it out.
    pub fn del_neighbour(&mut self, ifindex: u32, address: IpAddr) -> Result<(), Error> {
        let message = message(ifindex, address, NeighbourState::None, NeighbourFlags::empty());
        self.change(RouteNetlinkMessage::DelNeighbour(message), 0)
    }

    /// All entries of the namespace.
    pub fn neighbours(&mut self) -> Result<Vec<Neighbour>, Error> {
        self.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), |m| match m {
            RouteNetlinkMessage::NewNeighbour(n) => Neighbour::parse(&n),
            _ => None,
        })
    }
}
