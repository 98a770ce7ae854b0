//! Group membership in tagged realms, where the kernel has no interface: afnetd is the one MLD speaker there, for the
//! solicited-node groups of its IPv6 addresses (RFC 4862 5.4.2). Drives [`crate::multicast`].
//!
//! ```text
//! address given, taken -> Host::listen, forget --+
//! XDP program's ring: queries, reports -> hear --+--> reports, by AF_PACKET
//! timers -> Host::timer -------------------------+
//! ```
//!
//! Reports have no source address (`::`, RFC 3590): the host has no address of its own in such a realm. In untagged realms
//! the kernel speaks, for its own addresses and for those that `probe::groups` joins.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use afnet_abi::control::{Answer, Group, Realm as RealmGroups};
use afnet_abi::vlan::Vlan;
use afnet_bpf::Membership;

use super::core::Core;
use crate::dad::{frame, splitmix};
use crate::multicast::mld::Mld;
use crate::multicast::{Family, Filter, Host, Limits, Message, Version};
use crate::registry::{Owned, Realm};

/// Each address is a member of its own, of one group, with no sources.
const LIMITS: Limits = Limits { groups: 1, sources: 0 };
/// Groups are spread over time by their random delays; this many go out in one turn of the loop at most.
const BURST: usize = 64;

/// What there is for it.
#[derive(Debug, Default)]
pub struct Multicast {
    realms: HashMap<Realm, Host<Mld>>,
    /// By address: its number as a member, which says nothing else.
    members: HashMap<(Realm, IpAddr), u64>,
    next_member: u64,
    random: u64,
}

impl Multicast {
    /// `seed`: delays are to differ from those of other hosts.
    pub fn new(seed: u64) -> Self {
        Self { random: seed, ..Self::default() }
    }

    /// When [`Core::multicast`] has something to do.
    pub fn next(&self) -> Option<Instant> {
        self.realms.values().filter_map(Host::due).min()
    }
}

/// The solicited-node group of an address for which we have to speak.
fn group(owned: &Owned) -> Option<Ipv6Addr> {
    match owned.address {
        IpAddr::V6(v6) if owned.realm.vlan != Vlan::NONE && !owned.delegated => {
            Some(frame::solicited_node(v6))
        }
        _ => None,
    }
}

impl Core {
    /// An address is to be heard of: before it is probed.
    pub(super) fn join(&mut self, owned: &Owned) {
        let Some(group) = group(owned) else { return };
        let all = &mut self.multicast;
        let member = *all.members.entry((owned.realm, owned.address)).or_insert_with(|| {
            all.next_member += 1;
            all.next_member
        });
        let host = all.realms.entry(owned.realm).or_insert_with(|| Host::new(LIMITS));
        let random = &mut all.random;
        let said = host.listen(member, group, Filter::all(), Instant::now(), &mut || splitmix(random));
        match said {
            Ok(said) => self.say(owned.realm, &said),
            Err(e) => tracing::error!("joining {group} for {}: {e}", owned.address),
        }
    }

    /// It is no more.
    pub(super) fn leave(&mut self, owned: &Owned) {
        let all = &mut self.multicast;
        let Some(member) = all.members.remove(&(owned.realm, owned.address)) else { return };
        let Some(host) = all.realms.get_mut(&owned.realm) else { return };
        let random = &mut all.random;
        let said = host.forget(member, Instant::now(), &mut || splitmix(random));
        self.say(owned.realm, &said);
    }

    /// Does what is due.
    pub(super) fn multicast(&mut self, now: Instant) {
        let due =
            |(realm, host): (&Realm, &Host<Mld>)| host.due().is_some_and(|at| at <= now).then_some(*realm);
        let realms: Vec<Realm> = self.multicast.realms.iter().filter_map(due).take(BURST).collect();
        for realm in realms {
            let all = &mut self.multicast;
            let Some(host) = all.realms.get_mut(&realm) else { continue };
            let random = &mut all.random;
            let said = host.timer(now, &mut || splitmix(random));
            // Nothing wanted, nothing left to say.
            if host.due().is_none() && host.groups().next().is_none() {
                all.realms.remove(&realm);
            }
            self.say(realm, &said);
        }
    }

    /// What the XDP program of a device has heard.
    pub(super) fn heard(&mut self, device: u16, membership: &Membership) {
        let all = &mut self.multicast;
        let Some(host) = all.realms.get_mut(&Realm { device, vlan: membership.vlan }) else { return };
        if let Some(heard) = Mld::parse(&membership.packet) {
            let random = &mut all.random;
            host.hear(&heard, Instant::now(), &mut || splitmix(random));
        }
    }

    /// A device's link is there: whoever is at the other end knows nothing of us.
    pub(super) fn join_again(&mut self, device: u16) {
        let realms: Vec<Realm> =
            self.multicast.realms.keys().filter(|realm| realm.device == device).copied().collect();
        for realm in realms {
            let all = &mut self.multicast;
            let Some(host) = all.realms.get_mut(&realm) else { continue };
            let random = &mut all.random;
            let said = host.again(Instant::now(), &mut || splitmix(random));
            self.say(realm, &said);
        }
    }

    /// Sends messages. What is lost is repeated: that is what robustness is for.
    fn say(&self, realm: Realm, said: &[Message<Ipv6Addr>]) {
        let live = self.devices.get(usize::from(realm.device)).and_then(|d| d.live.as_ref());
        let Some(live) = live.filter(|live| live.link.ready()) else { return };
        let mtu = usize::try_from(live.link.mtu).unwrap_or(usize::MAX);
        for message in said {
            for packet in Mld::build(message, Ipv6Addr::UNSPECIFIED, mtu) {
                let frame = frame::multicast6(live.mac(), realm.vlan, &packet);
                if let Err(e) = self.probes.send(live.link.ifindex, &frame) {
                    tracing::debug!("sending an MLD report to {}: {e}", live.link.name);
                }
            }
        }
    }

    /// Groups, for those who look.
    pub(super) fn maddr(&self) -> Answer {
        let now = Instant::now();
        let owners: HashMap<u64, String> = (self.multicast.members.iter())
            .filter_map(|((realm, address), member)| {
                Some((*member, self.registry.owner_of(*realm, *address)?.to_owned()))
            })
            .collect();
        let mut realms: Vec<(&Realm, &Host<Mld>)> = self.multicast.realms.iter().collect();
        realms.sort_unstable_by_key(|(realm, _)| **realm);
        let list = realms.into_iter().map(|(realm, host)| RealmGroups {
            dev: self.device_name(*realm).to_owned(),
            vlan: realm.vlan,
            protocol: "mld".to_owned(),
            version: if host.version() == Version::Current { 2 } else { 1 },
            querier: host.querier().map(IpAddr::V6),
            timer: host.due().map(|at| millis(at.saturating_duration_since(now))),
            groups: host
                .groups()
                .map(|(address, filter)| {
                    let mut members: Vec<String> =
                        host.members(address).filter_map(|member| owners.get(&member).cloned()).collect();
                    members.sort_unstable();
                    members.dedup();
                    Group {
                        address: address.into(),
                        exclude: filter.excludes(),
                        sources: filter.sources().iter().map(|source| IpAddr::V6(*source)).collect(),
                        members,
                    }
                })
                .collect(),
        });
        Answer::Groups(list.collect())
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
