//! What the kernel has, as last heard: addresses and neighbours. Filled once, then kept by events.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use crate::netlink::addr::KernelAddress;
use crate::netlink::neigh::{Neighbour, State};
use crate::netlink::{Error, Netlink};

/// Most neighbours remembered; the kernel's own limit (gc_thresh3) is 1024 by default, so this is never reached
/// unless somebody raised that a lot. Beyond, entries are asked for when they are needed.
const MAX_NEIGHBOURS: usize = 1 << 17;

/// The mirror.
#[derive(Debug, Default)]
pub struct Mirror {
    addresses: HashMap<(u32, IpAddr), KernelAddress>,
    /// The host's own of them, by device: few.
    own: BTreeMap<u32, BTreeSet<IpAddr>>,
    neighbours: HashMap<(u32, IpAddr), State>,
}

impl Mirror {
    /// Reads everything anew.
    pub fn fill(&mut self, netlink: &mut Netlink) -> Result<(), Error> {
        let addresses = netlink.addresses()?;
        let neighbours = netlink.neighbours()?;
        self.addresses.clear();
        self.own.clear();
        addresses.into_iter().for_each(|address| self.set_address(address));
        self.neighbours.clear();
        for neighbour in neighbours {
            self.set_neighbour(&neighbour);
        }
        Ok(())
    }

    /// An address is there.
    pub fn set_address(&mut self, address: KernelAddress) {
        self.remove_address(&address);
        self.addresses.insert((address.ifindex, address.address), address);
        if !address.ours {
            self.own.entry(address.ifindex).or_default().insert(address.address);
        }
    }

    /// An address is gone.
    pub fn remove_address(&mut self, address: &KernelAddress) {
        self.addresses.remove(&(address.ifindex, address.address));
        if let Some(own) = self.own.get_mut(&address.ifindex) {
            own.remove(&address.address);
        }
    }

    /// A neighbour is there.
    pub fn set_neighbour(&mut self, neighbour: &Neighbour) {
        let key = (neighbour.ifindex, neighbour.address);
        if self.neighbours.len() < MAX_NEIGHBOURS || self.neighbours.contains_key(&key) {
            self.neighbours.insert(key, neighbour.state);
        }
    }

    /// A neighbour is gone.
    pub fn remove_neighbour(&mut self, neighbour: &Neighbour) {
        self.neighbours.remove(&(neighbour.ifindex, neighbour.address));
    }

    /// State of a neighbour.
    pub fn neighbour(&self, ifindex: u32, address: IpAddr) -> Option<State> {
        self.neighbours.get(&(ifindex, address)).copied()
    }

    /// The host's own (not a compartment's) entry for an address, on any device.
    pub fn host_address(&self, address: IpAddr) -> Option<&KernelAddress> {
        self.addresses.values().find(|a| a.address == address && !a.ours)
    }

    /// Addresses of a device that an afnetd put there.
    pub fn ours(&self, ifindex: u32) -> Vec<IpAddr> {
        self.addresses.values().filter(|a| a.ours && a.ifindex == ifindex).map(|a| a.address).collect()
    }

    /// All that an afnetd put on devices.
    pub fn all_ours(&self) -> impl Iterator<Item = KernelAddress> {
        self.addresses.values().filter(|a| a.ours).copied()
    }

    /// Whether a device has an address, and it is in use.
    pub fn has(&self, ifindex: u32, address: IpAddr) -> bool {
        self.addresses.get(&(ifindex, address)).is_some_and(|a| !a.tentative && !a.failed)
    }

    /// The host's own addresses of a device and a family.
    fn own(&self, ifindex: u32, ipv6: bool) -> impl Iterator<Item = IpAddr> {
        self.own.get(&ifindex).into_iter().flatten().copied().filter(move |a| a.is_ipv6() == ipv6)
    }

    /// An address of the host's own on a device, to reach compartments from. Global ones first.
    pub fn host_source(&self, ifindex: u32, ipv6: bool) -> Option<IpAddr> {
        self.own(ifindex, ipv6).find(|address| !is_link_local(*address))
    }

    /// The host's address on a device that membership reports come from: any of IPv4, a link-local one of IPv6.
    pub fn speaker(&self, ifindex: u32, ipv6: bool) -> Option<IpAddr> {
        let source = self.host_source(ifindex, ipv6).filter(|_| !ipv6);
        source.or_else(|| self.own(ifindex, ipv6).find(|a| is_link_local(*a) && self.has(ifindex, *a)))
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}
