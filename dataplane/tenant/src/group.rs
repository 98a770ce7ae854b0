//! Groups: what an endpoint hears beside what is sent to its compartment's addresses.

use std::net::IpAddr;

use afnet_abi::{control::Request, vlan::Vlan};

use crate::{Endpoint, Error, connection::unexpected};

/// What an endpoint hears in a multicast group, or at a broadcast address: the ports that it has claimed, from these
/// sources (RFC 3376 2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// The group; or 255.255.255.255, or the broadcast address of one of the compartment's addresses.
    pub group: IpAddr,
    /// Device and VLAN; `None`: those of the compartment's first address of the family.
    pub device: Option<(String, Vlan)>,
    /// All sources but the listed ones; else the listed ones alone.
    pub exclude: bool,
    /// The list, of 64 at most.
    pub sources: Vec<IpAddr>,
}

impl Membership {
    /// All sources.
    pub fn all(group: IpAddr) -> Self {
        Self { group, device: None, exclude: true, sources: Vec::new() }
    }

    /// No source: not in the group.
    pub fn none(group: IpAddr) -> Self {
        Self { exclude: false, ..Self::all(group) }
    }

    /// Only this source (RFC 4607).
    pub fn of(group: IpAddr, source: IpAddr) -> Self {
        Self { exclude: false, sources: vec![source], ..Self::all(group) }
    }

    fn is_none(&self) -> bool {
        !self.exclude && self.sources.is_empty()
    }

    fn is_at(&self, other: &Self) -> bool {
        (self.group, &self.device) == (other.group, &other.device)
    }
}

impl Endpoint {
    /// Hears a group from all sources, at the device of the compartment's first address of the family.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub fn join(&mut self, group: IpAddr) -> Result<(), Error> {
        self.listen(&Membership::all(group))
    }

    /// Hears it no more.
    ///
    /// # Errors
    /// As [`Self::listen`].
    pub fn leave(&mut self, group: IpAddr) -> Result<(), Error> {
        self.listen(&Membership::none(group))
    }

    /// What the endpoint hears in a group from now on, instead of what was said before. The host tells the network, by
    /// IGMP or MLD, for all members together. What endpoints of this host send to the group is heard as well, unless they
    /// say [`crate::Message::no_loop`]. While no daemon runs, groups are not heard.
    ///
    /// # Errors
    /// [`Error::Refused`]: EINVAL (no group, or impossible sources), ENODEV (no address there), ENOBUFS (too many groups or
    /// sources), EADDRNOTAVAIL (left without having been in it), ENETDOWN.
    pub fn listen(&mut self, membership: &Membership) -> Result<(), Error> {
        self.send_membership(membership)?;
        let known = &mut self.sender.groups;
        known.retain(|m| !m.is_at(membership));
        if !membership.is_none() {
            known.push(membership.clone());
        }
        Ok(())
    }

    /// Tells the daemon.
    pub(crate) fn send_membership(&mut self, membership: &Membership) -> Result<(), Error> {
        let Membership { group, device, exclude, sources } = membership.clone();
        let (dev, vlan) = device.map_or((None, Vlan::NONE), |(dev, vlan)| (Some(dev), vlan));
        let request = Request::Listen { group, dev, vlan, exclude, sources };
        match self.call(&request, &[])? {
            afnet_abi::control::Answer::Done => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }
}
