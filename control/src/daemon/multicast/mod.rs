//! Group membership: of the endpoints, for which the workers replicate, and of the IPv6 addresses, whose solicited-node
//! groups have to be heard (RFC 4862 5.4.2). Drives [`crate::multicast`].
//!
//! ```text
//! address given, taken ----------+
//! endpoint wants a group --------+-> Host (one of IGMP, one of MLD in each realm): all filters merged
//! XDP's ring: queries, reports --+        |                            |
//! timers ------------------------+        | tagged realm               | untagged realm
//!                                         v                            v
//!                                  reports, by AF_PACKET       sockets of ours (kernel.rs):
//!                                                              the kernel merges and reports
//! ```
//! With `--membership own` the way on the left is that of untagged realms, too, and the kernel a member (own.rs).
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the machines and what they say |
//! | `listen.rs` | endpoints: what may be asked for, workers, XDP program |
//! | `follow.rs` | sockets under the shim: what they have joined by themselves |
//! | `kernel.rs` | groups that the kernel reports for us; who else is in them; the device's filter |
//! | `own.rs` | what the kernel is in where we report |
//!
//! One speaker for each realm: where the kernel has an interface it speaks for itself already, so it is given what our
//! members want, and the machine only follows: queriers, versions, filters for those who look. Or the word is taken from it.
//!
//! Reports in untagged realms come from the host's addresses. In tagged ones it has none: they come from 0.0.0.0 (RFC 3376
//! 4.2.13), or from `::` (RFC 3590) unless a compartment has a link-local address there.

mod follow;
mod kernel;
mod listen;
mod own;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use abi::{Answer, Group, Realm as RealmGroups};
use afnet_abi::control as abi;
use afnet_abi::vlan::Vlan;
use afnet_bpf::{Joined, Membership};
use afnet_dataplane::Sources;
use rustix::io::Errno;

use self::kernel::{Filters, Kernel};
use self::own::{Followed, KERNEL};
use super::core::Core;
use crate::dad::{frame, splitmix};
use crate::error::Refused;
use crate::multicast::igmp::Igmp;
use crate::multicast::mld::Mld;
use crate::multicast::{Family, Filter, Host, Limits, Message, Version};
use crate::registry::{Owned, Realm};

pub use self::listen::{Heard, MAX_SOURCES, Wanted, subnet_broadcast};

/// Groups are spread over time by their random delays; this many realms have their turn in one of the loop at most.
const BURST: usize = 64;
/// Numbers of addresses as members; those below are endpoints', the last one is [`KERNEL`].
const ADDRESSES: u64 = 1 << 63;

/// What there is for it.
#[derive(Debug)]
pub struct Multicast {
    realms: HashMap<Realm, Hosts>,
    limits: Limits,
    /// By address: its number as a member, which says nothing else.
    members: HashMap<(Realm, IpAddr), u64>,
    next_member: u64,
    random: u64,
    kernel: Kernel,
    filters: Filters,
    /// We speak in untagged realms, too.
    own: bool,
    followed: Followed,
    /// Sockets that were followed and in their groups at the last look, and the time that they are there.
    joined: HashMap<Joined, u32>,
}

/// The machines of a realm.
#[derive(Debug)]
struct Hosts {
    igmp: Host<Igmp>,
    mld: Host<Mld>,
    /// Packets of IGMP and of MLD that were damaged, forged, or of no interest.
    ignored: (u64, u64),
    /// Packets of each that were sent.
    sent: (u64, u64),
}

/// A family that is spoken here.
trait Spoken: Family<Address: Into<IpAddr>> {
    /// Its name, and that of its newest version.
    const NAME: (&str, u8);

    fn host(hosts: &mut Hosts) -> &mut Host<Self>
    where
        Self: Sized;

    fn shown(hosts: &Hosts) -> &Host<Self>
    where
        Self: Sized;

    fn address(address: IpAddr) -> Option<Self::Address>;

    /// Its half of a pair.
    fn of(pair: &mut (u64, u64)) -> &mut u64;
}

impl Spoken for Igmp {
    const NAME: (&str, u8) = ("igmp", 3);

    fn host(hosts: &mut Hosts) -> &mut Host<Self> {
        &mut hosts.igmp
    }

    fn shown(hosts: &Hosts) -> &Host<Self> {
        &hosts.igmp
    }

    fn address(address: IpAddr) -> Option<Ipv4Addr> {
        if let IpAddr::V4(address) = address { Some(address) } else { None }
    }

    fn of((igmp, _): &mut (u64, u64)) -> &mut u64 {
        igmp
    }
}

impl Spoken for Mld {
    const NAME: (&str, u8) = ("mld", 2);

    fn host(hosts: &mut Hosts) -> &mut Host<Self> {
        &mut hosts.mld
    }

    fn shown(hosts: &Hosts) -> &Host<Self> {
        &hosts.mld
    }

    fn address(address: IpAddr) -> Option<Ipv6Addr> {
        if let IpAddr::V6(address) = address { Some(address) } else { None }
    }

    fn of((_, mld): &mut (u64, u64)) -> &mut u64 {
        mld
    }
}

impl Multicast {
    /// `seed`: delays are to differ from those of other hosts. `groups`: most of one member. `own`: the kernel is not to
    /// speak.
    pub fn new(seed: u64, groups: usize, own: bool) -> Self {
        Self {
            realms: HashMap::new(),
            limits: Limits { groups, sources: MAX_SOURCES },
            members: HashMap::new(),
            next_member: ADDRESSES,
            random: seed,
            kernel: Kernel::default(),
            filters: Filters::default(),
            own,
            followed: Followed::default(),
            joined: HashMap::new(),
        }
    }

    /// When [`Core::multicast`] has something to do.
    pub fn next(&self) -> Option<Instant> {
        let machines = self.realms.values().flat_map(|hosts| [hosts.igmp.due(), hosts.mld.due()]).flatten();
        machines.chain(self.kernel.next_look()).chain(self.followed.next_look()).min()
    }

    /// Whether we report membership there, and not the kernel.
    pub fn speaks(&self, realm: Realm) -> bool {
        self.own || realm.vlan != Vlan::NONE
    }

    /// The solicited-node group of an address for which we have to speak. The kernel joins those of its own addresses; and
    /// where it speaks, `probe::groups` joins the others.
    fn solicited(&self, owned: &Owned) -> Option<Ipv6Addr> {
        match owned.address {
            IpAddr::V6(v6) if self.speaks(owned.realm) && !owned.delegated && !owned.on_device() => {
                Some(frame::solicited_node(v6))
            }
            _ => None,
        }
    }

    fn hosts(&mut self, realm: Realm) -> &mut Hosts {
        let limits = self.limits;
        self.realms.entry(realm).or_insert_with(|| Hosts {
            igmp: Host::new(limits),
            mld: Host::new(limits),
            ignored: (0, 0),
            sent: (0, 0),
        })
    }
}

/// Whether a member but the kernel is in a group.
fn is_held<F: Spoken>(host: &Host<F>, group: F::Address) -> bool {
    host.members(group).any(|member| member != KERNEL)
}

/// With our random numbers.
fn with_random<T>(all: &mut Multicast, act: impl FnOnce(&mut Multicast, &mut dyn FnMut() -> u64) -> T) -> T {
    let mut random = all.random;
    let done = act(all, &mut || splitmix(&mut random));
    all.random = random;
    done
}

/// Sources in a family's own form.
fn filter<F: Spoken>(wanted: &Sources) -> Filter<F::Address> {
    let list = wanted.list.iter().filter_map(|source| F::address(*source)).collect();
    if wanted.exclude { Filter::Exclude(list) } else { Filter::Include(list) }
}

impl Core {
    /// An address is to be heard of: before it is probed.
    pub(super) fn join(&mut self, owned: &Owned) {
        let Some(group) = self.multicast.solicited(owned) else { return };
        let all = &mut self.multicast;
        let member = *all.members.entry((owned.realm, owned.address)).or_insert_with(|| {
            all.next_member += 1;
            all.next_member
        });
        if let Err(e) = self.report::<Mld>(owned.realm, member, group, &Sources::all()) {
            tracing::error!("joining {group} for {}: {e}", owned.address);
        }
    }

    /// It is no more.
    pub(super) fn leave(&mut self, owned: &Owned) {
        let Some(group) = self.multicast.solicited(owned) else { return };
        let Some(member) = self.multicast.members.remove(&(owned.realm, owned.address)) else { return };
        if let Err(e) = self.report::<Mld>(owned.realm, member, group, &Sources::none()) {
            tracing::error!("leaving {group} for {}: {e}", owned.address);
        }
    }

    /// What a member wants of a group, to the machine and so to the network. Refused: it is as before.
    fn report<F: Spoken>(
        &mut self,
        realm: Realm,
        member: u64,
        group: F::Address,
        wanted: &Sources,
    ) -> Result<(), Refused> {
        let ifindex = self.live_ifindex(realm);
        let all = &mut self.multicast;
        let host = F::host(all.hosts(realm));
        let (before, own) = (is_held(host, group), host.filter(member, group).cloned());
        let now = Instant::now();
        let said = with_random(all, |all, random| {
            F::host(all.hosts(realm)).listen(member, group, filter::<F>(wanted), now, random)
        });
        let said = said.map_err(|e| Refused::new(Errno::NOBUFS, e.to_string()))?;
        let host = F::host(all.hosts(realm));
        let held = is_held(host, group);
        let merged = host.wanted(group).cloned().unwrap_or(Filter::none());
        let address: IpAddr = group.into();
        if all.speaks(realm) {
            if let Some(ifindex) = ifindex {
                all.filters.change(ifindex, address, before, held);
                self.hear_host_link(realm, address, held);
            }
            self.say::<F>(realm, &said);
            return Ok(());
        }
        let Some(ifindex) = ifindex else { return Ok(()) };
        if let Err(e) = all.kernel.set(ifindex, address, &merged) {
            // Back to what it was, which was within all limits.
            let own = own.unwrap_or(Filter::none());
            drop(with_random(all, |all, random| {
                F::host(all.hosts(realm)).listen(member, group, own, now, random)
            }));
            let text = format!(
                "the kernel does not join {address} with {} sources: {e}; see net.ipv4.igmp_max_msf, net.ipv6.mld_max_msf and net.core.optmem_max",
                merged.sources().len()
            );
            return Err(Refused::new(e, text));
        }
        self.hear_host_link(realm, address, held);
        Ok(())
    }

    /// By IPv4 the kernel takes what endpoints send to its own sockets at the host link, if it is in the group there.
    fn hear_host_link(&mut self, realm: Realm, group: IpAddr, wanted: bool) {
        let link = self.host.as_ref().map(|host| host.link.kernel.ifindex);
        let Some(link) = link.filter(|_| realm.vlan == Vlan::NONE && group.is_ipv4()) else { return };
        let wanted = if wanted { Filter::<IpAddr>::all() } else { Filter::none() };
        if let Err(e) = self.multicast.kernel.set(link, group, &wanted) {
            tracing::warn!("joining {group} at the host link: {e}");
        }
    }

    /// A device is back, whose filter knows nothing of groups.
    fn filter_again<F: Spoken>(&mut self, device: u16) {
        let mut realms: Vec<Realm> = self.multicast.realms.keys().copied().collect();
        realms.retain(|realm| realm.device == device && self.multicast.speaks(*realm));
        for realm in realms {
            let Some(ifindex) = self.live_ifindex(realm) else { continue };
            let all = &mut self.multicast;
            let host = F::host(all.hosts(realm));
            let held: Vec<F::Address> = host.groups().map(|(g, _)| g).filter(|g| is_held(host, *g)).collect();
            held.into_iter().for_each(|group| all.filters.change(ifindex, group.into(), false, true));
        }
    }

    fn live_ifindex(&self, realm: Realm) -> Option<u32> {
        let device = self.devices.get(usize::from(realm.device))?;
        device.live.as_ref().map(|live| live.link.ifindex)
    }

    /// Does what is due.
    pub(super) fn multicast(&mut self, now: Instant) {
        self.turn_machines::<Igmp>(now);
        self.turn_machines::<Mld>(now);
        if self.multicast.kernel.next_look().is_some_and(|at| at <= now) {
            self.look_at_kernel(now);
        }
        if self.multicast.followed.next_look().is_some_and(|at| at <= now) {
            self.follow_kernel(now);
        }
    }

    fn turn_machines<F: Spoken>(&mut self, now: Instant) {
        let due = |(realm, hosts): (&Realm, &Hosts)| {
            F::shown(hosts).due().is_some_and(|at| at <= now).then_some(*realm)
        };
        let realms: Vec<Realm> = self.multicast.realms.iter().filter_map(due).take(BURST).collect();
        for realm in realms {
            self.with_host::<F>(realm, |host, random| host.timer(now, random));
            let over = |hosts: &Hosts| {
                let idle = hosts.igmp.groups().next().is_none() && hosts.mld.groups().next().is_none();
                idle && hosts.igmp.due().is_none() && hosts.mld.due().is_none()
            };
            // Nothing wanted, nothing left to say. Where the kernel is a member it may want something at any time, and
            // expects that queriers have been heard.
            let followed = self.multicast.own && realm.vlan == Vlan::NONE;
            if !followed
                && self.multicast.realms.get(&realm).is_some_and(over)
                && self.heard_by_sockets::<Igmp>(realm).is_empty()
                && self.heard_by_sockets::<Mld>(realm).is_empty()
            {
                self.multicast.realms.remove(&realm);
            }
        }
    }

    /// Has a machine do something, and says what comes of it.
    fn with_host<F: Spoken>(
        &mut self,
        realm: Realm,
        act: impl FnOnce(&mut Host<F>, &mut dyn FnMut() -> u64) -> Vec<Message<F::Address>>,
    ) {
        if !self.multicast.realms.contains_key(&realm) {
            return;
        }
        let said = with_random(&mut self.multicast, |all, random| act(F::host(all.hosts(realm)), random));
        self.say::<F>(realm, &said);
    }

    /// What the programs of a device have heard.
    pub(super) fn heard(&mut self, device: u16, packets: &[Membership]) {
        // Queries first: the kernel's answers are understood by them.
        for membership in packets.iter().filter(|membership| !membership.kernels) {
            let realm = Realm { device, vlan: membership.vlan };
            match membership.packet.first().map(|byte| byte >> 4) {
                Some(4) => self.heard_of::<Igmp>(realm, &membership.packet),
                _ => self.heard_of::<Mld>(realm, &membership.packet),
            }
        }
        let kernels: Vec<&Membership> = packets.iter().filter(|membership| membership.kernels).collect();
        self.kernel_said(device, &kernels);
    }

    fn heard_of<F: Spoken>(&mut self, realm: Realm, packet: &[u8]) {
        let Some(hosts) = self.multicast.realms.get_mut(&realm) else { return };
        let Some(heard) = F::parse(packet) else {
            *F::of(&mut hosts.ignored) += 1;
            return;
        };
        let now = Instant::now();
        self.multicast.followed.asked(realm, &heard, now);
        self.with_host::<F>(realm, |host, random| {
            host.hear(&heard, now, random);
            Vec::new()
        });
    }

    /// A device's link is there: whoever is at the other end knows nothing of us.
    pub(super) fn join_again(&mut self, device: u16) {
        let realms: Vec<Realm> =
            self.multicast.realms.keys().filter(|realm| realm.device == device).copied().collect();
        for realm in realms {
            let now = Instant::now();
            self.with_host::<Igmp>(realm, |host, random| host.again(now, random));
            self.with_host::<Mld>(realm, |host, random| host.again(now, random));
        }
    }

    /// We go: what we report alone is left. Of what the kernel is in, it speaks itself from now on.
    pub(super) fn leave_groups(&mut self) {
        let realms: Vec<Realm> = self.multicast.realms.keys().copied().collect();
        for realm in realms {
            let now = Instant::now();
            self.with_host::<Igmp>(realm, |host, random| host.forget_others(KERNEL, now, random));
            self.with_host::<Mld>(realm, |host, random| host.forget_others(KERNEL, now, random));
        }
        self.give_word_back();
    }

    /// Sends messages where we are the speaker. What is lost is repeated: that is what robustness is for.
    fn say<F: Spoken>(&mut self, realm: Realm, said: &[Message<F::Address>]) {
        if said.is_empty() || !self.multicast.speaks(realm) {
            return;
        }
        let live = self.devices.get(usize::from(realm.device)).and_then(|d| d.live.as_ref());
        let Some(live) = live.filter(|live| live.link.ready()) else { return };
        let Some(source) = self.speaker::<F>(realm) else { return };
        let mtu = usize::try_from(live.link.mtu).unwrap_or(usize::MAX);
        let mut sent = 0;
        for packet in said.iter().flat_map(|message| F::build(message, source, mtu)) {
            let frame = frame::multicast(live.mac(), realm.vlan, &packet);
            match self.probes.send(live.link.ifindex, &frame) {
                Ok(()) => sent += 1,
                Err(e) => tracing::debug!("sending a membership report to {}: {e}", live.link.name),
            }
        }
        if let Some(hosts) = self.multicast.realms.get_mut(&realm) {
            *F::of(&mut hosts.sent) += sent;
        }
    }

    /// What reports come from.
    fn speaker<F: Spoken>(&self, realm: Realm) -> Option<F::Address> {
        let ipv6 = F::address(Ipv6Addr::UNSPECIFIED.into()).is_some();
        let own = if realm.vlan == Vlan::NONE {
            self.mirror.speaker(self.live_ifindex(realm)?, ipv6)
        } else {
            self.registry.link_local(realm).map(IpAddr::V6)
        };
        own.and_then(F::address)
            .or(F::address(Ipv4Addr::UNSPECIFIED.into()))
            .or(F::address(Ipv6Addr::UNSPECIFIED.into()))
    }

    /// Groups, for those who look.
    pub(super) fn maddr(&self) -> Answer {
        let mut realms: Vec<Realm> = self.multicast.realms.keys().copied().collect();
        realms.sort_unstable();
        let list = realms
            .into_iter()
            .flat_map(|realm| [self.shown::<Igmp>(realm), self.shown::<Mld>(realm)].into_iter().flatten());
        Answer::Groups(list.collect())
    }

    fn shown<F: Spoken>(&self, realm: Realm) -> Option<RealmGroups> {
        let hosts = self.multicast.realms.get(&realm)?;
        let host = F::shown(hosts);
        let sockets = self.heard_by_sockets::<F>(realm);
        if host.groups().next().is_none() && host.querier().is_none() && sockets.is_empty() {
            return None;
        }
        let now = Instant::now();
        let left = |at: Instant| millis(at.saturating_duration_since(now));
        let ifindex = self.live_ifindex(realm);
        let owners: HashMap<u64, String> = (self.multicast.members.iter())
            .filter(|((of, _), _)| *of == realm)
            .filter_map(|((realm, address), member)| {
                Some((*member, self.registry.owner_of(*realm, *address)?.to_owned()))
            })
            .chain(self.endpoints.values().map(|endpoint| (endpoint.id, self.name(endpoint.slot))))
            .chain([(KERNEL, "kernel".to_owned())])
            .collect();
        let (name, newest) = F::NAME;
        let sources = |filter: &Filter<F::Address>| filter.sources().iter().map(|s| (*s).into()).collect();
        let all: BTreeSet<F::Address> =
            host.groups().map(|(group, _)| group).chain(sockets.keys().copied()).collect();
        let groups = all.into_iter().map(|group| {
            let sockets = sockets.get(&group).map_or(&[][..], Vec::as_slice);
            let own = host.members(group).filter_map(|member| {
                Some((owners.get(&member)?.clone(), member == KERNEL, host.filter(member, group)?))
            });
            let theirs = sockets.iter().map(|(name, wanted)| (name.clone(), false, wanted));
            let member = |(name, kernel, wanted): (String, bool, &Filter<F::Address>)| abi::Member {
                name,
                kernel,
                exclude: wanted.excludes(),
                sources: sources(wanted),
            };
            let mut members: Vec<abi::Member> = own.chain(theirs).map(member).collect();
            let filter = Filter::merge(host.wanted(group).into_iter().chain(sockets.iter().map(|(_, f)| f)));
            members.sort_unstable_by(|a, b| {
                (a.kernel, &a.name, a.exclude, &a.sources).cmp(&(b.kernel, &b.name, b.exclude, &b.sources))
            });
            members.dedup();
            let address = group.into();
            Group {
                address,
                exclude: filter.excludes(),
                sources: sources(&filter),
                members,
                kernel: ifindex.is_some_and(|i| self.multicast.kernel.has_others(i, address))
                    || host.filter(KERNEL, group).is_some(),
                timer: host.group_due(group).map(left),
            }
        });
        let groups = groups.collect();
        let (counts, mut ignored, mut sent) = (host.counts(), hosts.ignored, hosts.sent);
        let counters = [
            ("queries", counts.queries),
            ("reports", counts.reports),
            ("ignored", *F::of(&mut ignored)),
            ("sent", *F::of(&mut sent)),
            ("version_changes", counts.versions),
        ];
        Some(RealmGroups {
            dev: self.device_name(realm).to_owned(),
            vlan: realm.vlan,
            protocol: name.to_owned(),
            version: match host.version() {
                Version::Current => newest,
                Version::Old => newest - 1,
                Version::Oldest => 1,
            },
            speaker: if self.multicast.speaks(realm) { abi::Speaker::Afnetd } else { abi::Speaker::Kernel },
            querier: host.querier().map(Into::into),
            timer: host.due().map(left),
            counters: counters.map(|(name, value)| abi::Counter { name: name.to_owned(), value }).into(),
            groups,
        })
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
