//! Untagged realms where afnetd speaks (`--membership own`). The kernel speaks there as well, so a program at the egress of
//! the device takes what it says; here it is a member like others, of which is known what it wants:
//!
//! ```text
//! its reports --TC program--> ring --follow()--> the filters that it has last said
//! /proc/net/igmp, igmp6 ---------------------+-> whether it is in a group at all: before anything is said, and
//!                                            v   once a second
//!                                          Host, as KERNEL
//! ```
//!
//! Whatever is lost, late, or forged (by a raw socket of root's), a group that the kernel is in stays one, with all sources
//! where the filter is not known, and one that it is not in is none: nobody can have afnetd leave what a socket is in, or
//! join what none is in. A forged filter holds until the next query, as it would if the querier had heard the forgery.
//!
//! If afnetd is killed the kernel speaks again: at once, since the program goes too; on kernels without TCX after
//! [`HOLD`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use afnet_abi::vlan::Vlan;
use afnet_bpf::Membership;

use super::super::core::Core;
use super::super::device::bpf;
use super::kernel::Users;
use super::{Spoken, with_random};
use crate::error::{Context, Refused};
use crate::multicast::igmp::Igmp;
use crate::multicast::mld::Mld;
use crate::multicast::{Filter, Heard, Message, Version, follow, message};
use crate::netlink::addr::KernelAddress;
use crate::registry::Realm;

/// Number of the kernel as a member: above those of addresses.
pub const KERNEL: u64 = u64::MAX;

/// Between two looks at what the kernel is in. Twice as long, and what was lost is heard of twice as late: after two looks.
const LOOK: Duration = Duration::from_secs(1);

/// How long the kernel is silent if afnetd is. Of some looks, since a busy machine may delay one; much longer, and queriers
/// forget the host (RFC 3376 8.4: after 260 s).
const HOLD: Duration = Duration::from_secs(5);

/// The kernel's answer to a query comes within its time, and by some ticks of the clock later.
const LATE: Duration = Duration::from_secs(1);

/// What is known of the kernel, beside its filters as a member.
#[derive(Debug, Default)]
pub struct Followed {
    /// Groups that it is in with a filter that it has not said, so that all sources are taken to be wanted; until when it
    /// may answer for some of them only.
    assumed: HashMap<(Realm, IpAddr), Option<Instant>>,
    /// Groups that it was in at the last look without having said so: it is about to, or it was lost.
    unsaid: HashSet<(Realm, IpAddr)>,
    /// When to look again; never, unless we speak for it.
    next_look: Option<Instant>,
}

impl Followed {
    /// When [`Core::follow_kernel`] has something to do.
    pub fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// A query is about to be answered by the kernel, too.
    pub fn asked<A: Copy + Into<IpAddr>>(&mut self, realm: Realm, heard: &Heard<A>, now: Instant) {
        if let Heard::Query(query) = heard
            && !query.sources.is_empty()
            && let Some(group) = query.group
            && let Some(until) = self.assumed.get_mut(&(realm, group.into()))
        {
            *until = (*until).max(Some(now + query.max_response + LATE));
        }
    }

    /// Whether a report of the kernel's names all that it wants of a group.
    fn is_whole(&self, place: (Realm, IpAddr), now: Instant) -> bool {
        self.assumed.get(&place).is_some_and(|until| until.is_none_or(|until| until < now))
    }
}

/// The untagged realm of a device.
fn untagged(device: u16) -> Realm {
    Realm { device, vlan: Vlan::NONE }
}

impl Core {
    /// Takes the word from the kernel at a device that is there, or leaves it to it.
    pub(in super::super) fn take_word(&mut self, index: usize) -> Result<(), Refused> {
        let speaker = self.probes.cookie().refused(|| "identifying the socket that reports leave by")?;
        let Some(live) = self.devices.get_mut(index).and_then(|d| d.live.as_mut()) else { return Ok(()) };
        if !self.multicast.own {
            let given = live.demux.give_reports_back();
            return given
                .map_err(|e| bpf(format!("giving the word to the kernel at {}", live.link.name), &e));
        }
        live.demux.take_reports(speaker).map_err(|e| {
            let mut refused =
                bpf(format!("taking the kernel's membership reports at {}", live.link.name), &e);
            refused.message += ": use --membership kernel";
            refused
        })?;
        self.follow_kernel(Instant::now());
        Ok(())
    }

    /// Gives it back: nothing is said any more of what the kernel is in.
    pub(super) fn give_word_back(&mut self) {
        for live in self.devices.iter_mut().filter_map(|d| d.live.as_mut()) {
            if let Err(e) = live.demux.give_reports_back() {
                tracing::error!("giving the word to the kernel at {}: {e}", live.link.name);
            }
        }
    }

    /// Looks at what the kernel is in, and holds the word.
    pub(super) fn follow_kernel(&mut self, now: Instant) {
        let users = Users::read();
        let first = self.multicast.followed.next_look.is_none();
        let mut unsaid = HashSet::new();
        for device in 0..u16::try_from(self.devices.len()).unwrap_or(u16::MAX) {
            let Some(ifindex) = self.live_ifindex(untagged(device)) else { continue };
            if let Some(live) = &self.devices[usize::from(device)].live {
                live.demux.speak_on(HOLD);
            }
            self.look_at::<Igmp>(device, ifindex, &users, (first, &mut unsaid));
            self.look_at::<Mld>(device, ifindex, &users, (first, &mut unsaid));
        }
        self.multicast.followed.unsaid = unsaid;
        self.multicast.followed.next_look = Some(now + LOOK);
    }

    fn look_at<F: Spoken>(
        &mut self,
        device: u16,
        ifindex: u32,
        users: &Users,
        (first, unsaid): (bool, &mut HashSet<(Realm, IpAddr)>),
    ) {
        let (realm, all) = (untagged(device), &mut self.multicast);
        let host = F::host(all.hosts(realm));
        let mut wanted: BTreeMap<F::Address, Filter<F::Address>> = (host.groups_of(KERNEL))
            .filter_map(|group| Some((group, host.filter(KERNEL, group)?.clone())))
            .collect();
        for group in users.groups(ifindex).filter_map(F::address) {
            let place = (realm, group.into());
            if wanted.contains_key(&group) {
                continue;
            }
            if first || all.followed.unsaid.contains(&place) {
                wanted.insert(group, Filter::none());
            } else {
                unsaid.insert(place);
            }
        }
        self.settle::<F>(device, wanted, users);
    }

    /// What the kernel has said at a device.
    pub(super) fn kernel_said(&mut self, device: u16, packets: &[&Membership]) {
        if self.multicast.own && !packets.is_empty() {
            let users = Users::read();
            self.said::<Igmp>(device, packets, &users);
            self.said::<Mld>(device, packets, &users);
        }
    }

    fn said<F: Spoken>(&mut self, device: u16, packets: &[&Membership], users: &Users) {
        let (realm, now) = (untagged(device), Instant::now());
        let all = &mut self.multicast;
        let mut wanted: BTreeMap<F::Address, Filter<F::Address>> = BTreeMap::new();
        for said in packets.iter().filter_map(|packet| F::read(&packet.packet)) {
            let records = match said {
                Message::Report(records) => records,
                // Which says nothing of sources: the lists decide.
                Message::OldReport(_, group) | Message::Leave(group) => {
                    wanted.insert(group, Filter::none());
                    continue;
                }
            };
            for record in records {
                let place = (realm, record.group.into());
                let whole = all.followed.is_whole(place, now);
                let host = F::host(all.hosts(realm));
                let known = || host.filter(KERNEL, record.group).cloned().unwrap_or(Filter::none());
                let filter = wanted.entry(record.group).or_insert_with(known);
                *filter = follow(filter, &record, whole);
                if record.kind.is_whole() || whole && record.kind == message::Kind::IsInclude {
                    all.followed.assumed.remove(&place);
                }
            }
        }
        self.settle::<F>(device, wanted, users);
    }

    /// Makes the kernel a member as it wants to be, by its own word, and its lists.
    fn settle<F: Spoken>(
        &mut self,
        device: u16,
        wanted: BTreeMap<F::Address, Filter<F::Address>>,
        users: &Users,
    ) {
        let realm = untagged(device);
        let Some(ifindex) = self.live_ifindex(realm) else { return };
        let now = Instant::now();
        let all = &mut self.multicast;
        let mut said = Vec::new();
        for (group, mut filter) in wanted.into_iter().filter(|(group, _)| F::reported(*group)) {
            let place = (realm, group.into());
            // It says nothing of its filters while there are queriers of old versions.
            let current = F::host(all.hosts(realm)).version() == Version::Current;
            if users.of((ifindex, group.into())) == 0 {
                filter = Filter::none();
                all.followed.assumed.remove(&place);
            } else if filter.is_none() || !current {
                filter = Filter::all();
                all.followed.assumed.entry(place).or_default();
            }
            let known = F::host(all.hosts(realm)).filter(KERNEL, group);
            if known != Some(&filter) && !(known.is_none() && filter.is_none()) {
                said.extend(with_random(all, |all, random| {
                    F::host(all.hosts(realm)).follow(KERNEL, group, filter, now, random)
                }));
            }
        }
        self.say::<F>(realm, &message::joined(said));
    }

    /// A device is gone, and with it what the kernel is in there.
    pub(super) fn forget_kernel(&mut self, device: u16) {
        let (realm, now) = (untagged(device), Instant::now());
        self.with_host::<Igmp>(realm, |host, random| host.forget(KERNEL, now, random));
        self.with_host::<Mld>(realm, |host, random| host.forget(KERNEL, now, random));
        self.multicast.followed.assumed.retain(|(of, _), _| *of != realm);
    }

    /// The kernel has an address at last that reports of MLD can come from: all is told anew (RFC 3590).
    pub(in super::super) fn spoken_from(&mut self, address: &KernelAddress) {
        let local = matches!(address.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        if !self.multicast.own || !local || address.ours || address.tentative {
            return;
        }
        if let Some(device) = self.device_by_ifindex(address.ifindex) {
            let now = Instant::now();
            self.with_host::<Mld>(untagged(device), |host, random| host.again(now, random));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::multicast::Query;

    #[test]
    fn answers_to_queries_for_sources_are_no_whole_filters() {
        let (group, source) = (Ipv4Addr::new(239, 1, 2, 3), Ipv4Addr::new(192, 0, 2, 1));
        let (place, start) = ((untagged(0), IpAddr::from(group)), Instant::now());
        let query = |group, sources: &[Ipv4Addr]| {
            Heard::Query(Query {
                version: Version::Current,
                querier: source,
                group,
                sources: sources.iter().copied().collect(),
                max_response: Duration::from_secs(10),
                robustness: None,
                interval: None,
            })
        };
        let mut followed = Followed::default();
        assert!(!followed.is_whole(place, start), "what is known is not replaced by an answer");
        // A flood of queries for what is not assumed takes no memory.
        followed.asked(place.0, &query(Some(group), &[source]), start);
        assert!(followed.assumed.is_empty());
        followed.assumed.insert(place, None);
        followed.asked(place.0, &query(Some(group), &[]), start);
        followed.asked(place.0, &query(None, &[]), start);
        assert!(followed.is_whole(place, start));
        followed.asked(place.0, &query(Some(group), &[source]), start);
        assert!(!followed.is_whole(place, start + Duration::from_secs(10)));
        assert!(followed.is_whole(place, start + Duration::from_secs(12)));
    }
}
