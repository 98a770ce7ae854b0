//! Where a compartment's packets go: the kernel's FIB and neighbour tables decide, nothing here routes.
//!
//! ```text
//! RouteKey -> owned by a compartment of the sender's realm? --------------------> Local
//!          -> realm without kernel interface (tagged)? -------------------------> Learn
//!          -> RTM_GETROUTE: local -> a compartment's? Local : Host
//!                           out of one of our devices -> neighbour known? Wire
//!                                       \-> NTF_USE, Pending; the neighbour event answers
//!                           none ------------------------------------------------> Unreachable
//! ```
//!
//! * The on-link prefix of a compartment's address counts as a route of the device, since the kernel has the address
//!   as /32 or /128 only. A longer route of the kernel's goes before it.
//! * The fast path sends over owned devices alone. If the kernel would use another one, the compartment's device is
//!   asked for; if that has no way either, the destination is unreachable.
//! * If the tenant names the device and no route fits, the kernel takes an IPv4 destination for on-link there, as for a
//!   socket with SO_BINDTODEVICE, and so do we.
//! * Workers ask again every 30 s for what they use; a stale neighbour is then confirmed by the kernel (NTF_USE).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use afnet_abi::control::AddressState;
use afnet_abi::vlan::Vlan;
use afnet_dataplane::{Route, RouteKey};
use rustix::io::Errno;

use super::core::Core;
use super::multicast::subnet_broadcast;
use crate::dad::frame::group_mac;
use crate::netlink::neigh::{Neighbour, State};
use crate::netlink::route::{Found, Kind, RouteQuery};
use crate::registry::{Owned, Prefix, Realm, Slot, bits};
use crate::select::{Candidate, select};

/// Next hops that wait in all, and questions for each: bounds what floods of unknown destinations can hold (RFC 6583).
/// The workers have bounds for each compartment.
const MAX_WAITING: usize = 4096;
const MAX_KEYS: usize = 256;
/// The kernel gives up after 3 s; if its word is lost, so do we, later.
const PATIENCE: Duration = Duration::from_secs(5);
/// Next hops whose MAC addresses are remembered as handed out; beyond, all routes are asked for anew.
const MAX_HANDED: usize = 1 << 16;
/// Flushes are put together: many changes come at once, and each flush makes all workers ask again.
const FLUSH_DELAY: Duration = Duration::from_millis(10);

/// Questions that wait for a neighbour, and what was handed out.
#[derive(Debug, Default)]
pub struct Resolver {
    waiting: HashMap<(u32, IpAddr), Waiting>,
    handed: HashMap<(u32, IpAddr), [u8; 6]>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    keys: Vec<RouteKey>,
}

/// No way, with an errno as `sendto()` would give it.
fn unreachable(errno: Errno) -> Route {
    Route::Unreachable { errno: errno.raw_os_error() }
}

impl Core {
    /// Answers a worker's question.
    pub(super) fn resolve(&mut self, key: RouteKey) {
        let route = self.route(&key);
        tracing::debug!("{key:?}: {route:?}");
        if let Err(e) = self.dataplane.route_reply(key, route) {
            tracing::error!("answering a worker: {e}");
        }
    }

    fn route(&mut self, key: &RouteKey) -> Route {
        let Some(compartment) = self.registry.get(key.slot) else { return unreachable(Errno::NETUNREACH) };
        let device = match key.ifindex {
            0 => None,
            ifindex => match self.device_by_ifindex(ifindex) {
                Some(device) => Some(Realm { device, vlan: key.vlan }),
                None => return unreachable(Errno::NODEV),
            },
        };
        if key.dst.is_loopback() || key.dst.is_unspecified() {
            return unreachable(Errno::NETUNREACH);
        }
        // What the packet may be sent from.
        let own: Vec<Owned> = compartment
            .addresses
            .iter()
            .filter(|o| o.address.is_ipv4() == key.dst.is_ipv4() && o.state == AddressState::Ok)
            .filter(|o| device.is_none_or(|realm| o.realm == realm))
            .filter(|o| key.src.is_none_or(|src| o.prefix().contains(src)))
            .copied()
            .collect();
        if own.is_empty() {
            // As on a machine without addresses of the family; or one that it has chosen is not there (any more).
            let errno = if key.src.is_none() { Errno::NETUNREACH } else { Errno::ADDRNOTAVAIL };
            return unreachable(errno);
        }
        self.local(key, &own).or_else(|| self.learn(key, &own)).unwrap_or_else(|| self.by_kernel(key, &own))
    }

    /// A compartment of the same realm.
    fn local(&self, key: &RouteKey, own: &[Owned]) -> Option<Route> {
        let (realm, slot) =
            own.iter().find_map(|o| Some((o.realm, self.registry.owner(o.realm, key.dst)?)))?;
        Some(Route::Local { slot, src: source(key, own.iter().filter(|o| o.realm == realm))? })
    }

    /// A tagged realm, if the key or the source leaves no other, or the destination is on-link there.
    fn learn(&self, key: &RouteKey, own: &[Owned]) -> Option<Route> {
        let untagged = own.iter().any(|o| o.realm.vlan == Vlan::NONE);
        let tagged = |o: &&Owned| o.realm.vlan != Vlan::NONE;
        let on_link = own.iter().filter(tagged).find(|o| on_link(o).contains(key.dst));
        let realm = match on_link {
            Some(owned) => owned.realm,
            None if untagged => return None,
            None => own.iter().find(tagged)?.realm,
        };
        let live = self.devices.get(usize::from(realm.device))?.live.as_ref()?;
        let src = source(key, own.iter().filter(|o| o.realm == realm))?;
        let (ifindex, vlan, src_mac, mtu) = (live.link.ifindex, realm.vlan, live.mac(), live.link.mtu);
        let group = if is_broadcast(key.dst, own) { Some([0xff; 6]) } else { group_mac(key.dst) };
        Some(match group {
            Some(dst_mac) => Route::Wire { ifindex, vlan, src_mac, dst_mac, mtu, src },
            None => Route::Learn { ifindex, vlan, src_mac, mtu, src },
        })
    }

    /// What the kernel says.
    fn by_kernel(&mut self, key: &RouteKey, own: &[Owned]) -> Route {
        let own: Vec<Owned> = own.iter().filter(|o| o.realm.vlan == Vlan::NONE).copied().collect();
        let oif = (key.ifindex != 0).then_some(key.ifindex);
        // A source that the kernel does not have would be refused; rules by source do not apply to it.
        let src = key.src.filter(|src| own.iter().any(|o| o.on_device() && o.address == *src));
        let query = RouteQuery { dst: key.dst, src, oif };
        let answer = self.netlink.route(&query);
        let mut errno = Errno::NETUNREACH;
        match answer {
            Ok(found) if found.kind == Kind::Local => return self.to_host(key, &own),
            Ok(found) if found.kind == Kind::Other => return unreachable(Errno::NETUNREACH),
            Ok(found) => {
                if let Some(device) = self.device_by_ifindex(found.oif)
                    && own.iter().any(|o| o.realm.device == device)
                {
                    let found = self.prefer_on_link(&query, found, device, &own);
                    return self.on_wire(key, device, &found, &own);
                }
            }
            Err(e) => errno = e.errno,
        }
        // Out of the compartment's own device, if there is any way.
        let mut devices: Vec<u16> = own.iter().map(|o| o.realm.device).collect();
        devices.dedup();
        for device in devices {
            let live = self.devices.get(usize::from(device)).and_then(|d| d.live.as_ref());
            let Some(ifindex) = live.map(|l| l.link.ifindex) else { continue };
            let here = |o: &&Owned| o.realm.device == device;
            if own.iter().filter(here).any(|o| on_link(o).contains(key.dst)) {
                let found = Found::on_link(ifindex);
                return self.on_wire(key, device, &found, &own);
            }
            let query = RouteQuery { oif: Some(ifindex), ..query };
            match self.netlink.route(&query) {
                // With a device that has no route the kernel takes everything for on-link there; a gateway means
                // that it knows a way.
                Ok(found)
                    if found.oif == ifindex && (found.gateway.is_some() || found.kind != Kind::Unicast) =>
                {
                    return self.on_wire(key, device, &found, &own);
                }
                Ok(_) => {}
                Err(e) => errno = e.errno,
            }
        }
        unreachable(errno)
    }

    /// To an address that the kernel delivers to itself: a compartment's in another realm, or the host's.
    fn to_host(&self, key: &RouteKey, own: &[Owned]) -> Route {
        let Some(src) = source(key, own.iter()) else { return unreachable(Errno::ADDRNOTAVAIL) };
        match self.registry.kernel_owner(key.dst) {
            Some(slot) => Route::Local { slot, src },
            None => Route::Host { src },
        }
    }

    /// Without gateway if the destination is on-link by a compartment's address and no longer prefix of the FIB
    /// says otherwise.
    fn prefer_on_link(&mut self, query: &RouteQuery, found: Found, device: u16, own: &[Owned]) -> Found {
        let covering = own.iter().filter(|o| o.realm.device == device && on_link(o).contains(query.dst));
        match covering.map(|o| o.prefix_len).max() {
            Some(len) if found.gateway.is_some() => match self.netlink.fib_prefix(query) {
                Ok(kernel) if kernel > len => found,
                _ => Found::on_link(found.oif),
            },
            _ => found,
        }
    }

    /// Out of a device: which MAC address?
    fn on_wire(&mut self, key: &RouteKey, device: u16, found: &Found, own: &[Owned]) -> Route {
        let Some(src) = source(key, own.iter().filter(|o| o.realm.device == device)) else {
            return unreachable(Errno::ADDRNOTAVAIL);
        };
        let Some(live) = self.devices.get(usize::from(device)).and_then(|d| d.live.as_ref()) else {
            return unreachable(Errno::NETDOWN);
        };
        if !live.link.up {
            return unreachable(Errno::NETDOWN);
        }
        let ifindex = live.link.ifindex;
        let wire = |dst_mac| Route::Wire {
            ifindex,
            vlan: Vlan::NONE,
            src_mac: live.mac(),
            dst_mac,
            mtu: live.link.mtu.min(found.mtu.unwrap_or(u32::MAX)),
            src,
        };
        if found.kind == Kind::Broadcast || is_broadcast(key.dst, own) {
            return wire([0xff; 6]);
        }
        if let Some(mac) = group_mac(key.dst) {
            return wire(mac);
        }
        let next_hop = found.gateway.unwrap_or(key.dst);
        match self.mirror.neighbour(ifindex, next_hop) {
            Some(State::Known { mac, stale }) => {
                let route = wire(mac);
                if stale && let Err(e) = self.netlink.use_neighbour(ifindex, next_hop) {
                    tracing::debug!("confirming {next_hop}: {e}");
                }
                if self.resolver.handed.len() >= MAX_HANDED {
                    self.resolver.handed.clear();
                    self.flush_routes_soon();
                }
                self.resolver.handed.insert((ifindex, next_hop), mac);
                route
            }
            _ => self.wait(key, ifindex, next_hop),
        }
    }

    /// Makes the kernel resolve a neighbour and remembers who asked.
    fn wait(&mut self, key: &RouteKey, ifindex: u32, next_hop: IpAddr) -> Route {
        let full = self.resolver.waiting.len() >= MAX_WAITING;
        if full && !self.resolver.waiting.contains_key(&(ifindex, next_hop)) {
            return unreachable(Errno::NOBUFS);
        }
        if let Err(e) = self.netlink.use_neighbour(ifindex, next_hop) {
            tracing::debug!("resolving {next_hop}: {e}");
            return unreachable(Errno::HOSTUNREACH);
        }
        let new = || Waiting { since: Instant::now(), keys: Vec::new() };
        let waiting = self.resolver.waiting.entry((ifindex, next_hop)).or_insert_with(new);
        if !waiting.keys.contains(key) {
            if waiting.keys.len() >= MAX_KEYS {
                return unreachable(Errno::NOBUFS);
            }
            waiting.keys.push(*key);
        }
        Route::Pending
    }

    /// A neighbour has changed.
    pub(super) fn neighbour(&mut self, neighbour: &Neighbour) {
        self.mirror.set_neighbour(neighbour);
        let place = (neighbour.ifindex, neighbour.address);
        let handed = self.resolver.handed.get(&place);
        match neighbour.state {
            State::Known { mac, .. } => {
                if handed.is_some_and(|old| *old != mac) {
                    self.resolver.handed.remove(&place);
                    self.flush_routes_soon();
                }
                for key in self.resolver.take(place) {
                    self.resolve(key);
                }
            }
            State::Failed => {
                if self.resolver.handed.remove(&place).is_some() {
                    self.flush_routes_soon();
                }
                self.give_up(place);
            }
            State::Incomplete => {}
        }
    }

    /// A neighbour is gone from the kernel's table.
    pub(super) fn neighbour_gone(&mut self, neighbour: &Neighbour) {
        self.mirror.remove_neighbour(neighbour);
        self.give_up((neighbour.ifindex, neighbour.address));
    }

    fn give_up(&mut self, place: (u32, IpAddr)) {
        for key in self.resolver.take(place) {
            if let Err(e) = self.dataplane.route_reply(key, unreachable(Errno::HOSTUNREACH)) {
                tracing::error!("answering a worker: {e}");
            }
        }
    }

    /// Gives up on neighbours of which the kernel has said nothing for too long.
    pub(super) fn expire_neighbours(&mut self, now: Instant) {
        let late = |(place, w): (&(u32, IpAddr), &Waiting)| (now - w.since > PATIENCE).then_some(*place);
        let late: Vec<_> = self.resolver.waiting.iter().filter_map(late).collect();
        late.into_iter().for_each(|place| self.give_up(place));
    }

    /// Has the workers ask for all routes anew, together with whatever else changes meanwhile.
    pub(super) fn flush_routes_soon(&mut self) {
        self.flush_at.get_or_insert_with(|| Instant::now() + FLUSH_DELAY);
    }

    /// Does it if it is time.
    pub(super) fn flush_routes(&mut self, now: Instant) {
        if self.flush_at.is_some_and(|at| at <= now) {
            self.flush_at = None;
            if let Err(e) = self.dataplane.flush_routes() {
                tracing::error!("flushing routes: {e}");
            }
        }
    }

    /// Forgets a device that is gone.
    pub(super) fn forget_routes(&mut self, ifindex: u32) {
        self.resolver.handed.retain(|(device, _), _| *device != ifindex);
        let places: Vec<_> = self.resolver.waiting.keys().filter(|(i, _)| *i == ifindex).copied().collect();
        places.into_iter().for_each(|place| self.give_up(place));
    }
}

impl Resolver {
    /// Forgets the questions of a compartment that is gone.
    pub fn forget_slot(&mut self, slot: Slot) {
        self.waiting.retain(|_, w| {
            w.keys.retain(|key| key.slot != slot);
            !w.keys.is_empty()
        });
    }

    fn take(&mut self, place: (u32, IpAddr)) -> Vec<RouteKey> {
        self.waiting.remove(&place).map(|w| w.keys).unwrap_or_default()
    }
}

/// The on-link prefix of an address; a delegated prefix lies behind the compartment, not on the link.
fn on_link(owned: &Owned) -> Prefix {
    let len = if owned.delegated { bits(owned.address) } else { owned.prefix_len };
    Prefix { address: owned.address, len }
}

/// The tenant's choice, else by RFC 6724; a delegated prefix offers its first address if there is nothing else.
fn source<'a>(key: &RouteKey, own: impl Iterator<Item = &'a Owned> + Clone) -> Option<IpAddr> {
    if key.src.is_some() {
        return key.src;
    }
    let candidate = |o: &Owned| Candidate { address: o.address, prefix_len: o.prefix_len };
    let exact = own.clone().filter(|o| !o.delegated).map(candidate);
    select(key.dst, exact).or_else(|| select(key.dst, own.map(candidate)))
}

/// Whether it is everybody of an address's on-link prefix.
fn is_broadcast(dst: IpAddr, own: &[Owned]) -> bool {
    own.iter().filter(|o| !o.delegated).any(|o| subnet_broadcast(o) == Some(dst))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(address: &str, prefix_len: u8, delegated: bool) -> Owned {
        let realm = Realm { device: 0, vlan: Vlan::NONE };
        let address = address.parse().unwrap();
        let state = AddressState::Ok;
        Owned { realm, address, prefix_len, delegated, fast_only: false, defend: None, nodad: false, state }
    }

    #[test]
    fn a_delegated_prefix_is_the_last_choice_of_a_source() {
        let key = |dst: &str| RouteKey {
            slot: 1,
            dst: dst.parse().unwrap(),
            src: None,
            ifindex: 0,
            vlan: Vlan::NONE,
        };
        let prefix = owned("2001:db8:1::", 64, true);
        let address = owned("2001:db8:2::1", 64, false);
        let to = key("2001:db8:1::5");
        assert_eq!(source(&to, [prefix, address].iter()), Some(address.address));
        assert_eq!(source(&to, [prefix].iter()), Some(prefix.address));
        let chosen = RouteKey { src: Some("2001:db8:1::7".parse().unwrap()), ..to };
        assert_eq!(source(&chosen, [address].iter()), chosen.src);
        assert!(
            !on_link(&prefix).contains(to.dst)
                && on_link(&address).contains("2001:db8:2::9".parse().unwrap())
        );
    }
}
