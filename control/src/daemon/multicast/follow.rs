//! Groups that the socket behind a claim has joined: the kernel says what it hears of them, and the workers deliver it.
//!
//! ```text
//! program -- setsockopt() --> kernel: errors, filters, reports to the network, as ever
//!    shim -- Follow, the socket along --> the claim's own? in the group? which sources?   asked of the kernel
//!                                         mark: not from the kernel as well --> workers --> XDP program
//! ```
//!
//! Nothing that a tenant says is believed, and the network is told nothing: the socket is a member by itself. What sockets
//! of this host send to the group it hears by the kernel, before, meanwhile and after. The mark is of no effect but on what
//! a worker hands on to the kernel, so a daemon that dies takes nothing with it.
//!
//! If such sockets are all that the kernel has in a group, the workers keep it to themselves. The kernel only tells how many
//! it has, and a tenant may leave when it likes: so one counts as no other member only if it has been in the group all the
//! time while they were counted ([`Core::while_joined`]). Else somebody who has joined would miss what it is taken for.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use afnet_abi::control::Answer;
use afnet_abi::vlan::Vlan;
use afnet_bpf::Joined;
use afnet_dataplane::Sources;
use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;

use super::super::core::Core;
use super::super::device::bpf;
use super::listen::{Heard, MAX_SOURCES};
use super::{Spoken, filter};
use crate::error::Refused;
use crate::multicast::Filter;
use crate::registry::{Realm, Slot};
use crate::system::membership::{self, Place};

/// What the kernel frees it does not use again so soon: an RCU grace period takes a tick at least, and `kfree_rcu()` another.
/// A count that has taken longer is none; twice as long would be one that can be cheated.
const SURELY: Duration = Duration::from_millis(2);
/// Sockets that are asked for each time, a few microseconds each: with many more it would take too long. Those beyond are
/// somebody else, which costs a copy of each datagram.
const MOST_JOINED: usize = 128;

/// Names of compartments, each with what a socket of theirs hears.
type Hearers<A> = Vec<(String, Filter<A>)>;

impl Core {
    /// What the socket behind a claim of a connection's endpoint hears in a group goes to the endpoint from now on, at each
    /// device. Refused: it comes to the socket.
    pub(in super::super) fn follow(
        &mut self,
        conn: u64,
        group: IpAddr,
        sockets: &[OwnedFd],
    ) -> Result<Answer, Refused> {
        let endpoint = self.endpoint(conn)?;
        let group = group.to_canonical();
        if !group.is_multicast() {
            return Err(Refused::new(Errno::INVAL, format!("{group} is not multicast")));
        }
        let [socket] = sockets else {
            return Err(Refused::new(Errno::BADF, "one socket is to come along, which has joined the group"));
        };
        let cookie =
            socket_cookie(socket).map_err(|e| Refused::new(e, format!("identifying a socket: {e}")))?;
        let mut proofs = endpoint.proofs.values().flatten();
        if !proofs.any(|p| p.cookie() == Some(cookie) && p.on_all(group)) {
            let text =
                format!("the socket is not one that a claim stands on, at all addresses of {group}'s family");
            return Err(Refused::new(Errno::BADF, text));
        }
        let (mut member, mut refused) = (false, None);
        for device in (0..self.devices.len()).filter_map(|at| u16::try_from(at).ok()) {
            let realm = Realm { device, vlan: Vlan::NONE };
            let Some(ifindex) = self.live_ifindex(realm) else { continue };
            let followed = membership::filter(socket, (ifindex, group), MAX_SOURCES)
                .map_err(|e| Refused::new(e, format!("asking what a socket hears of {group}: {e}")))
                .and_then(|filter| {
                    member |= filter.is_some();
                    let (exclude, list) = filter.unwrap_or((false, Vec::new()));
                    self.follow_at(conn, (realm, group), ifindex, cookie, Sources { exclude, list })
                });
            if let Err(e) = followed {
                self.unfollow(conn, (realm, group), cookie);
                refused = Some(e);
            }
        }
        refused.map_or(Ok(Answer::Follows { member }), Err)
    }

    fn follow_at(
        &mut self,
        conn: u64,
        (realm, group): (Realm, IpAddr),
        ifindex: u32,
        cookie: u64,
        sources: Sources,
    ) -> Result<(), Refused> {
        let endpoint = self.endpoint(conn)?;
        let (id, slot) = (endpoint.id, endpoint.slot);
        let known = endpoint.groups.get(&(realm, group));
        if known.map_or(sources.is_none(), |heard| heard.sources == sources && heard.socket == Some(cookie)) {
            return Ok(());
        }
        if known.is_some_and(|heard| heard.socket != Some(cookie)) {
            let text = format!("the endpoint hears {group} otherwise");
            return Err(Refused::new(Errno::EXIST, text));
        }
        if sources.is_none() {
            self.unfollow(conn, (realm, group), cookie);
            return Ok(());
        }
        if sources.list.len() > MAX_SOURCES {
            let text = format!("more than {MAX_SOURCES} sources for {group}");
            return Err(Refused::new(Errno::NOBUFS, text));
        }
        if known.is_none() {
            if !self.is_confined_to(slot, ifindex) {
                let (name, dev) = (self.name(slot), self.device_name(realm));
                return Err(Refused::new(Errno::NODEV, format!("{name} has no address at {dev}")));
            }
            self.check_quota(slot)?;
        }
        // Queriers are heard from now on.
        self.multicast.hosts(realm);
        let heard = Heard { sources, socket: Some(cookie) };
        // First, so that nothing comes twice.
        self.mark(cookie, ifindex, group, true)?;
        let delivered = self.deliver_group(id, ifindex, realm, group, &heard);
        if let Some(endpoint) = self.endpoints.get_mut(&conn) {
            endpoint.groups.insert((realm, group), heard);
        }
        delivered
    }

    /// A group that a socket has joined is the kernel's again to deliver; nothing, if it was.
    fn unfollow(&mut self, conn: u64, place: (Realm, IpAddr), cookie: u64) {
        let Some(endpoint) = self.endpoints.get_mut(&conn) else { return };
        if endpoint.groups.get(&place).is_some_and(|heard| heard.socket == Some(cookie)) {
            endpoint.groups.remove(&place);
            let id = endpoint.id;
            self.drop_group(id, place, Some(cookie));
        }
    }

    /// The same of all groups of a socket.
    pub(in super::super) fn unfollow_all(&mut self, conn: u64, cookie: u64) {
        let Some(endpoint) = self.endpoints.get(&conn) else { return };
        let of_it = endpoint.groups.iter().filter(|(_, heard)| heard.socket == Some(cookie));
        for place in of_it.map(|(place, _)| *place).collect::<Vec<_>>() {
            self.unfollow(conn, place, cookie);
        }
    }

    /// A compartment may have lost its last address at a device: its sockets hear nothing there any more.
    pub(in super::super) fn unfollow_elsewhere(&mut self, slot: Slot) {
        let mut gone = Vec::new();
        for (conn, endpoint) in self.endpoints.iter().filter(|(_, endpoint)| endpoint.slot == slot) {
            for ((realm, group), heard) in &endpoint.groups {
                let there =
                    self.live_ifindex(*realm).is_some_and(|ifindex| self.is_confined_to(slot, ifindex));
                if let Some(cookie) = heard.socket.filter(|_| !there) {
                    gone.push((*conn, (*realm, *group), cookie));
                }
            }
        }
        for (conn, place, cookie) in gone {
            self.unfollow(conn, place, cookie);
        }
    }

    /// What such sockets hear in a realm: whose they are and from whom, for those who look.
    pub(super) fn heard_by_sockets<F: Spoken>(
        &self,
        realm: Realm,
    ) -> BTreeMap<F::Address, Hearers<F::Address>> {
        let mut groups: BTreeMap<F::Address, Hearers<F::Address>> = BTreeMap::new();
        // They are sockets of the kernel, which knows no tags.
        if realm.vlan != Vlan::NONE {
            return groups;
        }
        for endpoint in self.endpoints.values() {
            let there =
                endpoint.groups.iter().filter(|((of, _), heard)| *of == realm && heard.socket.is_some());
            for ((_, group), heard) in there {
                if let Some(group) = F::address(*group) {
                    let member = (self.name(endpoint.slot), filter::<F>(&heard.sources));
                    groups.entry(group).or_default().push(member);
                }
            }
        }
        groups
    }

    /// Counts, and tells how many sockets that are followed have been in each group all the time, and were at the last count.
    pub(super) fn while_joined<T>(&mut self, count: impl FnOnce() -> T) -> (T, HashMap<Place, u32>) {
        let start = Instant::now();
        let before = self.joined();
        let counted = count();
        let now = if before.is_empty() { HashMap::new() } else { self.joined() };
        let surely = start.elapsed() < SURELY;
        let last = std::mem::replace(&mut self.multicast.joined, now);
        let mut sockets = HashMap::new();
        for (socket, time) in before.iter().filter(|_| surely) {
            if [&self.multicast.joined, &last].iter().all(|then| then.get(socket) == Some(time)) {
                *sockets.entry((socket.ifindex, socket.group)).or_default() += 1;
            }
        }
        (counted, sockets)
    }

    /// Which of them are in their groups.
    fn joined(&self) -> HashMap<Joined, u32> {
        let Some(programs) = self.kernel_path.programs() else { return HashMap::new() };
        let all = self.endpoints.values().flat_map(|endpoint| {
            endpoint.groups.iter().filter_map(move |((realm, group), heard)| {
                let cookie = heard.socket?;
                let port = endpoint.proofs.values().flatten().find(|p| p.cookie() == Some(cookie))?.port();
                let ifindex = self.live_ifindex(*realm)?;
                Some(Joined { slot: endpoint.slot, cookie, port, ifindex, group: *group })
            })
        });
        all.take(MOST_JOINED).filter_map(|socket| Some((socket, programs.joined(&socket)?))).collect()
    }

    /// Whether the kernel spares a socket what the workers hand on to it of a group.
    pub(super) fn mark(&self, cookie: u64, ifindex: u32, group: IpAddr, on: bool) -> Result<(), Refused> {
        let Some(programs) = self.kernel_path.programs() else {
            return Err(Refused::new(Errno::OPNOTSUPP, "without the kernel path no socket is followed"));
        };
        let what = || format!("marking a socket that has joined {group}");
        programs.set_replicated(cookie, ifindex, group, on).map_err(|e| bpf(what(), &e))
    }
}
