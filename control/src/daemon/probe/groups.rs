//! Solicited-node groups of IPv6 addresses that the kernel does not have, in untagged realms: joined by sockets, so that
//! the kernel reports them (RFC 4862 5.4.2: before the first probe) and programs the device's filter. It joins those of
//! its own addresses by itself. Where the kernel does not speak (`--membership own`), afnetd is a member itself.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::OwnedFd;

use afnet_abi::vlan::Vlan;
use rustix::io::Errno;
use rustix::net::sockopt::{set_ipv6_add_membership, set_ipv6_drop_membership};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::table::Key;
use crate::dad::frame::solicited_node;
use crate::registry::Owned;

/// A group on an interface.
type Group = (u32, Ipv6Addr);

/// What has been joined.
#[derive(Debug)]
pub struct Groups {
    /// The kernel speaks.
    kernel: bool,
    /// The kernel bounds what one socket may join (net.core.optmem_max), so there are as many as it takes.
    sockets: Vec<OwnedFd>,
    /// The socket of a group, and how many addresses are in it.
    members: HashMap<Group, (usize, u32)>,
    joined: HashMap<Key, Group>,
}

impl Groups {
    /// None.
    pub fn new(kernel: bool) -> Self {
        Self { kernel, sockets: Vec::new(), members: HashMap::new(), joined: HashMap::new() }
    }

    /// For an address that is to be probed. Failing is no reason not to.
    pub fn join(&mut self, owned: &Owned, ifindex: u32) {
        let IpAddr::V6(address) = owned.address else { return };
        if !self.kernel || owned.on_device() || owned.realm.vlan != Vlan::NONE {
            return;
        }
        let (key, group) = ((owned.realm, owned.address), (ifindex, solicited_node(address)));
        if self.joined.get(&key) == Some(&group) {
            return;
        }
        self.leave(owned);
        match self.members.get_mut(&group) {
            Some((_, count)) => *count += 1,
            None => match self.enter(group) {
                Ok(at) => drop(self.members.insert(group, (at, 1))),
                Err(e) => return tracing::warn!("joining {} for {address}: {e}", group.1),
            },
        }
        self.joined.insert(key, group);
    }

    fn enter(&mut self, (ifindex, group): Group) -> Result<usize, Errno> {
        // The newest has room, if any: those before were full once.
        if let Some(at) = self.sockets.len().checked_sub(1) {
            match set_ipv6_add_membership(&self.sockets[at], &group, ifindex) {
                Err(Errno::NOBUFS | Errno::NOMEM) => {}
                other => return other.map(|()| at),
            }
        }
        let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        set_ipv6_add_membership(&socket, &group, ifindex)?;
        self.sockets.push(socket);
        Ok(self.sockets.len() - 1)
    }

    /// It is probed, used no more.
    pub fn leave(&mut self, owned: &Owned) {
        let Some(group) = self.joined.remove(&(owned.realm, owned.address)) else { return };
        let Some((at, count)) = self.members.get_mut(&group) else { return };
        *count -= 1;
        if *count == 0 {
            let at = *at;
            self.members.remove(&group);
            // Gone already if the interface is.
            let _ = self.sockets.get(at).map(|socket| set_ipv6_drop_membership(socket, &group.1, group.0));
        }
    }
}
