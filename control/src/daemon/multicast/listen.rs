//! What endpoints hear: their requests, checked; the workers and the XDP program, told.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use afnet_abi::vlan::Vlan;
use afnet_dataplane::{self as dp, Local, Sources};
use rustix::io::Errno;

use super::super::core::Core;
use super::super::device::{bpf, dataplane_error};
use super::kernel::Users;
use crate::error::Refused;
use crate::multicast::igmp::Igmp;
use crate::multicast::mld::Mld;
use crate::registry::{Owned, Realm, Slot};

/// Most sources that an endpoint may list for a group.
pub const MAX_SOURCES: usize = 64;

/// A request of an endpoint's: what it hears in a group from now on.
#[derive(Debug)]
pub struct Wanted {
    /// A multicast group, or a broadcast address.
    pub group: IpAddr,
    /// The realm, if it is not that of the compartment's first address.
    pub realm: Option<(String, Vlan)>,
    /// From whom.
    pub sources: Sources,
}

/// What an endpoint hears in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// From whom.
    pub sources: Sources,
    /// Not at its own wish, but because this socket has joined, by its cookie.
    pub socket: Option<u64>,
}

impl Heard {
    fn asked(sources: Sources) -> Self {
        Self { sources, socket: None }
    }

    fn none() -> Self {
        Self::asked(Sources::none())
    }
}

/// The address by which everybody within the on-link prefix of an IPv4 address is reached.
pub fn subnet_broadcast(owned: &Owned) -> Option<IpAddr> {
    let IpAddr::V4(address) = owned.address else { return None };
    // Two hosts or one have none (RFC 3021).
    let hosts = u32::MAX.checked_shr(owned.prefix_len.into()).filter(|hosts| *hosts > 1)?;
    Some(Ipv4Addr::from_bits(address.to_bits() | hosts).into())
}

/// Whether a group is one of everybody's, of which no protocol tells.
fn is_broadcast(group: IpAddr) -> bool {
    !group.is_multicast()
}

impl Core {
    /// What a connection's endpoint hears in a group from now on. Refused: it hears what it did.
    pub(in super::super) fn listen(&mut self, conn: u64, wanted: Wanted) -> Result<(), Refused> {
        let endpoint = self.endpoint(conn)?;
        let (id, slot) = (endpoint.id, endpoint.slot);
        let Wanted { group, realm, mut sources } = wanted;
        let group = group.to_canonical();
        sources.list.iter_mut().for_each(|source| *source = source.to_canonical());
        sources.list.sort_unstable();
        sources.list.dedup();
        check(group, &sources)?;
        let realm = self.group_realm(slot, group, realm)?;
        let known = endpoint.groups.get(&(realm, group));
        if known.is_some_and(|heard| heard.socket.is_some()) {
            let text = format!("the endpoint hears what its socket has joined of {group}");
            return Err(Refused::new(Errno::EXIST, text));
        }
        if known.is_none() && sources.is_none() {
            let text = format!("the endpoint does not hear {group}, so it cannot leave it");
            return Err(Refused::new(Errno::ADDRNOTAVAIL, text));
        }
        let before = known.map_or(Sources::none(), |heard| heard.sources.clone());
        if known.is_none() {
            self.check_quota(slot)?;
        }
        let Some(ifindex) = self.live_ifindex(realm) else {
            let text = format!("{} is not there: join again when it is", self.device_name(realm));
            return Err(Refused::new(Errno::NETDOWN, text));
        };
        self.tell_group(realm, id, group, &sources)?;
        let heard = Heard::asked(sources);
        if let Err(e) = self.deliver_group(id, ifindex, realm, group, &heard) {
            if let Err(e) = self.tell_group(realm, id, group, &before) {
                tracing::error!("back to what endpoint {id} heard of {group}: {e}");
            }
            return Err(e);
        }
        if let Some(endpoint) = self.endpoints.get_mut(&conn) {
            if heard.sources.is_none() {
                endpoint.groups.remove(&(realm, group));
            } else {
                endpoint.groups.insert((realm, group), heard);
            }
        }
        Ok(())
    }

    /// A connection's endpoint is about to go.
    pub(in super::super) fn forget_groups(&mut self, conn: u64) {
        let Some(endpoint) = self.endpoints.get_mut(&conn) else { return };
        let (id, groups) = (endpoint.id, std::mem::take(&mut endpoint.groups));
        for (place, heard) in groups {
            self.drop_group(id, place, heard.socket);
        }
    }

    /// An endpoint hears a group no more.
    pub(super) fn drop_group(&mut self, id: u64, (realm, group): (Realm, IpAddr), socket: Option<u64>) {
        let failed = |e: Refused| tracing::error!("leaving {group}: {e}");
        if socket.is_none() {
            self.tell_group(realm, id, group, &Sources::none()).unwrap_or_else(failed);
        }
        let Some(ifindex) = self.live_ifindex(realm) else { return };
        self.deliver_group(id, ifindex, realm, group, &Heard::none()).unwrap_or_else(failed);
        if let Some(cookie) = socket {
            self.mark(cookie, ifindex, group, false).unwrap_or_else(failed);
        }
    }

    /// A device is gone, whose number was `ifindex`.
    pub(in super::super) fn groups_gone(&mut self, device: u16, ifindex: u32) {
        for (id, realm, group, heard) in self.groups_of(device) {
            let place = dp::Group { ifindex, vlan: realm.vlan, address: group };
            if let Err(e) = self.dataplane.listen(id, &place, Sources::none(), Local::Worker) {
                tracing::error!("leaving {group}: {e}");
            }
            // A socket's membership ends with the interface.
            if let Some(cookie) = heard.socket {
                self.mark(cookie, ifindex, group, false).unwrap_or_else(|e| tracing::error!("{e}"));
            }
        }
        for endpoint in self.endpoints.values_mut() {
            endpoint.groups.retain(|(realm, _), heard| realm.device != device || heard.socket.is_none());
        }
        self.multicast.kernel.forget(ifindex);
        self.forget_kernel(device);
    }

    /// A device is back.
    pub(in super::super) fn groups_back(&mut self, device: u16) {
        self.filter_again::<Igmp>(device);
        self.filter_again::<Mld>(device);
        for (id, realm, group, heard) in self.groups_of(device) {
            let Some(ifindex) = self.live_ifindex(realm) else { continue };
            let told = self.tell_group(realm, id, group, &heard.sources);
            if let Err(e) = told.and_then(|()| self.deliver_group(id, ifindex, realm, group, &heard)) {
                tracing::error!("hearing {group} again: {e}");
            }
        }
    }

    fn groups_of(&self, device: u16) -> Vec<(u64, Realm, IpAddr, Heard)> {
        let all = self.endpoints.values().flat_map(|e| e.groups.iter().map(|group| (e.id, group)));
        all.filter(|(_, ((realm, _), _))| realm.device == device)
            .map(|(id, ((realm, group), heard))| (id, *realm, *group, heard.clone()))
            .collect()
    }

    /// Looks who else is in our groups.
    pub(super) fn look_at_kernel(&mut self, now: Instant) {
        let (users, followed) = self.while_joined(Users::read);
        for ((ifindex, group), before) in self.multicast.kernel.watched() {
            let sockets = followed.get(&(ifindex, group)).copied().unwrap_or(0);
            let others = self.multicast.kernel.look((ifindex, group), &users, sockets);
            if others != before {
                let place = dp::Group { ifindex, vlan: Vlan::NONE, address: group };
                if let Err(e) = self.dataplane.set_group_kernel(&place, others) {
                    tracing::error!("{group} for the kernel: {e}");
                }
            }
        }
        self.multicast.kernel.looked(now);
    }

    /// The realm of a request, in which the compartment must have an address of the group's family.
    fn group_realm(
        &self,
        slot: Slot,
        group: IpAddr,
        named: Option<(String, Vlan)>,
    ) -> Result<Realm, Refused> {
        let named = match named {
            Some((dev, vlan)) => Some(Realm { device: self.device(&dev)?, vlan }),
            None => None,
        };
        let compartment = self.registry.get(slot).ok_or(Refused::new(Errno::NOENT, "no compartment"))?;
        let mut own = compartment
            .addresses
            .iter()
            .filter(|o| o.address.is_ipv4() == group.is_ipv4())
            .filter(|o| named.is_none_or(|realm| o.realm == realm));
        let limited = group == IpAddr::V4(Ipv4Addr::BROADCAST);
        let found = if is_broadcast(group) && !limited {
            own.find(|o| !o.delegated && subnet_broadcast(o) == Some(group))
        } else {
            own.next()
        };
        found.map(|o| o.realm).ok_or_else(|| {
            let name = &compartment.name;
            if is_broadcast(group) && !limited {
                let text = format!("{group} is neither multicast nor the broadcast address of one of {name}");
                return Refused::new(Errno::INVAL, text);
            }
            let family = if group.is_ipv4() { "IPv4" } else { "IPv6" };
            let text = format!("{name} has no {family} address there, so it cannot hear {group}");
            Refused::new(Errno::NODEV, text)
        })
    }

    pub(super) fn check_quota(&self, slot: Slot) -> Result<(), Refused> {
        let most = self.config.limits.memberships;
        let own = self.endpoints.values().filter(|e| e.slot == slot).map(|e| e.groups.len());
        if own.sum::<usize>() < most {
            return Ok(());
        }
        let text = format!(
            "the endpoints of {} are in {most} groups already: raise limits.memberships of afnetd",
            self.name(slot)
        );
        Err(Refused::new(Errno::NOBUFS, text))
    }

    /// To the machines; of broadcast they know nothing.
    fn tell_group(
        &mut self,
        realm: Realm,
        member: u64,
        group: IpAddr,
        wanted: &Sources,
    ) -> Result<(), Refused> {
        match group {
            _ if is_broadcast(group) => Ok(()),
            IpAddr::V4(group) => self.report::<Igmp>(realm, member, group, wanted),
            IpAddr::V6(group) => self.report::<Mld>(realm, member, group, wanted),
        }
    }

    /// To the workers and the XDP program.
    pub(super) fn deliver_group(
        &mut self,
        id: u64,
        ifindex: u32,
        realm: Realm,
        group: IpAddr,
        heard: &Heard,
    ) -> Result<(), Refused> {
        let place = dp::Group { ifindex, vlan: realm.vlan, address: group };
        let first = self.dataplane.members(&place) == 0;
        let local = if heard.socket.is_some() { Local::Kernel } else { Local::Worker };
        self.dataplane
            .listen(id, &place, heard.sources.clone(), local)
            .map_err(|e| dataplane_error(format!("hearing {group}"), &e))?;
        let last = self.dataplane.members(&place) == 0;
        let watched = realm.vlan == Vlan::NONE && !is_broadcast(group);
        if last && watched {
            self.multicast.kernel.unwatch((ifindex, group));
        }
        if first && !last {
            // Of VLANs it is not known whether the kernel has an interface there. A socket that has joined by itself counts
            // as somebody else until it has been in the group for a while.
            let kernel = !watched || self.multicast.kernel.look((ifindex, group), &Users::read(), 0);
            if watched {
                self.multicast.kernel.looked(Instant::now());
            }
            self.dataplane
                .set_group_kernel(&place, kernel)
                .map_err(|e| dataplane_error(format!("hearing {group}"), &e))?;
        }
        if first != last
            && realm.vlan == Vlan::NONE
            && let Some(programs) = self.kernel_path.programs()
            && let Err(e) = programs.set_fast_group(ifindex, group, !last)
        {
            tracing::error!("what this host sends to {group}: {e}");
        }
        let Some(live) = self.devices.get(usize::from(realm.device)).and_then(|d| d.live.as_ref()) else {
            return Ok(());
        };
        let entered = match (first, last) {
            (true, false) => live.demux.insert_group(realm.vlan, group),
            (_, true) => live.demux.remove_group(realm.vlan, group),
            (false, false) => Ok(()),
        };
        entered.map_err(|e| {
            // Nobody hears what the program does not redirect.
            drop(self.dataplane.listen(id, &place, Sources::none(), local));
            bpf(format!("entering {group} into the XDP program of {}", live.link.name), &e)
        })
    }
}

/// Whether the addresses can be what they are said to be.
fn check(group: IpAddr, sources: &Sources) -> Result<(), Refused> {
    let refuse = |errno, text: String| Err(Refused::new(errno, text));
    if group.is_loopback() || group.is_unspecified() {
        return refuse(Errno::INVAL, format!("{group} is neither multicast nor broadcast"));
    }
    if sources.list.len() > MAX_SOURCES {
        return refuse(
            Errno::NOBUFS,
            format!("{} sources for {group}: at most {MAX_SOURCES}", sources.list.len()),
        );
    }
    let bad = |source: &&IpAddr| {
        source.is_ipv4() != group.is_ipv4()
            || source.is_multicast()
            || source.is_unspecified()
            || source.is_loopback()
            || **source == IpAddr::V4(Ipv4Addr::BROADCAST)
    };
    if let Some(source) = sources.list.iter().find(bad) {
        return refuse(Errno::INVAL, format!("{source} cannot be a source of {group}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use afnet_abi::control::AddressState;

    use super::*;

    #[test]
    fn what_cannot_be_is_refused() {
        let ip = |text: &str| -> IpAddr { text.parse().unwrap() };
        let of = |list: &[&str]| Sources { exclude: false, list: list.iter().map(|s| ip(s)).collect() };
        for (group, sources, good) in [
            ("224.0.0.251", vec![], true),
            ("ff02::fb", vec!["fe80::1"], true),
            ("255.255.255.255", vec!["192.0.2.1"], true),
            ("127.0.0.1", vec![], false),
            ("::", vec![], false),
            ("224.0.0.251", vec!["fe80::1"], false),
            ("224.0.0.251", vec!["224.0.0.1"], false),
            ("224.0.0.251", vec!["0.0.0.0"], false),
            ("224.0.0.251", vec!["255.255.255.255"], false),
            ("ff02::fb", vec!["::1"], false),
        ] {
            assert_eq!(check(ip(group), &of(&sources)).is_ok(), good, "{group} {sources:?}");
        }
        let many: Vec<IpAddr> = (0..65).map(|n| Ipv4Addr::from_bits(0x0a00_0001 + n).into()).collect();
        let many = Sources { exclude: true, list: many };
        assert_eq!(check(ip("224.0.0.251"), &many).unwrap_err().errno, Errno::NOBUFS);
    }

    #[test]
    fn broadcast_addresses_are_those_of_the_prefix() {
        let realm = Realm { device: 0, vlan: Vlan::NONE };
        for (address, prefix_len, broadcast) in [
            ("192.0.2.10", 24, Some("192.0.2.255")),
            ("10.1.2.3", 8, Some("10.255.255.255")),
            ("192.0.2.10", 30, Some("192.0.2.11")),
            ("192.0.2.10", 31, None),
            ("192.0.2.10", 32, None),
            ("0.0.0.1", 0, Some("255.255.255.255")),
            ("2001:db8::1", 64, None),
        ] {
            let owned = Owned {
                realm,
                address: address.parse().unwrap(),
                prefix_len,
                delegated: false,
                fast_only: false,
                defend: None,
                nodad: false,
                state: AddressState::Ok,
            };
            assert_eq!(subnet_broadcast(&owned), broadcast.map(|b| b.parse().unwrap()), "{address}");
        }
    }
}
