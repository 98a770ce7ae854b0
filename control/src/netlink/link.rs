//! Interfaces: what the daemon must know of one, and the veth pair to the host.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
};
use rustix::io::Errno;

use super::{Error, Netlink};

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// MAC address; of other lengths than 6: not Ethernet.
    pub mac: Option<[u8; 6]>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// There is somebody at the other end, as far as the driver can tell.
    pub carrier: bool,
    /// Ethernet frames.
    pub ethernet: bool,
    /// RX queues it was made with; drivers may use fewer.
    pub rx_queues: u32,
    /// Id of the XDP program that is attached.
    pub xdp: Option<u32>,
}

impl Link {
    /// Whether frames go out and come in.
    pub fn ready(&self) -> bool {
        self.up && self.carrier
    }

    pub(super) fn parse(message: &LinkMessage) -> Self {
        let mut link = Self {
            ifindex: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            rx_queues: 1,
            xdp: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::NumRxQueues(n) => link.rx_queues = *n,
                LinkAttribute::Xdp(xdp) => {
                    link.xdp = xdp.iter().find_map(|x| match x {
                        LinkXdp::ProgId(id) => Some(*id),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        link
    }
}

/// A veth pair to be made, both ends alike.
#[derive(Clone, Debug)]
pub struct VethPair<'a> {
    /// Name of one end.
    pub name: &'a str,
    /// Name of the other.
    pub peer: &'a str,
    /// RX and TX queues of each.
    pub queues: u32,
    /// MTU in bytes.
    pub mtu: u32,
}

impl Netlink {
    /// An interface by name.
    pub fn link(&mut self, name: &str) -> Result<Link, Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        let link = self.get(RouteNetlinkMessage::GetLink(message), pick)?;
        link.ok_or(Error { errno: Errno::NODEV, text: None })
    }

    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>, Error> {
        self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()), pick)
    }

    /// Makes a veth pair, both ends down. EEXIST if there is one of these names.
    pub fn add_veth(&mut self, pair: &VethPair<'_>) -> Result<(), Error> {
        let end = |name: &str| {
            let mut message = LinkMessage::default();
            message.attributes = vec![
                LinkAttribute::IfName(name.to_owned()),
                LinkAttribute::Mtu(pair.mtu),
                LinkAttribute::NumTxQueues(pair.queues),
                LinkAttribute::NumRxQueues(pair.queues),
            ];
            message
        };
        let mut message = end(pair.name);
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(pair.peer)))),
        ]));
        self.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Sets an interface up.
    pub fn set_up(&mut self, ifindex: u32) -> Result<(), Error> {
        self.set_flags(ifindex, LinkFlags::Up)
    }

    /// Sets an interface up that resolves no neighbours: everything it sends goes to whoever is at the other end.
    pub fn set_up_without_arp(&mut self, ifindex: u32) -> Result<(), Error> {
        self.set_flags(ifindex, LinkFlags::Up | LinkFlags::Noarp)
    }

    fn set_flags(&mut self, ifindex: u32, flags: LinkFlags) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        message.header.flags = flags;
        message.header.change_mask = flags;
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Removes an interface.
    pub fn del_link(&mut self, ifindex: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.index = ifindex;
        self.change(RouteNetlinkMessage::DelLink(message), 0)
    }
}

fn pick(message: RouteNetlinkMessage) -> Option<Link> {
    match message {
        RouteNetlinkMessage::NewLink(link) => Some(Link::parse(&link)),
        _ => None,
    }
}
