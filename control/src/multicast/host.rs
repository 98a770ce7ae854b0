//! [`Host`]: all groups of a realm, and the querier's word.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::Random;
use super::filter::Filter;
use super::group::Group;
use super::message::{Family, Heard, Message, Query, Record, Version};

/// RFC 3376 8.1, RFC 3810 9.1: Robustness Variable, until a querier says another.
const ROBUSTNESS: u8 = 2;
/// RFC 3376 8.2, RFC 3810 9.2: Query Interval, likewise.
const QUERY_INTERVAL: Duration = Duration::from_secs(125);
/// RFC 3376 8.11, RFC 3810 9.11: between the repetitions of a state-change report.
const UNSOLICITED: Duration = Duration::from_secs(1);
/// RFC 2236 8.10, RFC 2710 7.10: between unsolicited reports of old versions.
const OLD_UNSOLICITED: Duration = Duration::from_secs(10);

/// The most that there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Groups of one member.
    pub groups: usize,
    /// Sources of one member for one group.
    pub sources: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { groups: 1024, sources: 128 }
    }
}

/// Why a member does not get what it wants. (Never by a filter that lets more through: RFC 3376 3.2.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// ENOBUFS.
    #[error("a member has at most {0} groups")]
    Groups(usize),
    /// ENOBUFS.
    #[error("a member names at most {0} sources of a group")]
    Sources(usize),
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Queries heard.
    pub queries: u64,
    /// Other hosts' reports of old versions heard.
    pub reports: u64,
    /// Changes of the version that is spoken.
    pub versions: u64,
}

/// The one host that a realm sees: state machine of RFC 3376 and RFC 3810, host side, with their older versions.
#[derive(Debug)]
pub struct Host<F: Family> {
    limits: Limits,
    groups: BTreeMap<F::Address, Group<F::Address>>,
    /// By member: its groups.
    members: BTreeMap<u64, BTreeSet<F::Address>>,
    /// Groups by the earliest of their times.
    due: BTreeSet<(Instant, F::Address)>,
    /// When a general query is to be answered.
    answer_at: Option<Instant>,
    /// Until when queriers of these versions count as there.
    old_until: Option<Instant>,
    oldest_until: Option<Instant>,
    version: Version,
    robustness: u8,
    query_interval: Duration,
    querier: Option<F::Address>,
    counts: Counts,
}

type Messages<F> = Vec<Message<<F as Family>::Address>>;

impl<F: Family> Host<F> {
    /// A host without any group.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            groups: BTreeMap::new(),
            members: BTreeMap::new(),
            due: BTreeSet::new(),
            answer_at: None,
            old_until: None,
            oldest_until: None,
            version: Version::Current,
            robustness: ROBUSTNESS,
            query_interval: QUERY_INTERVAL,
            querier: None,
            counts: Counts::default(),
        }
    }

    /// What has happened.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// The version that is spoken.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Who asked last.
    pub fn querier(&self) -> Option<F::Address> {
        self.querier
    }

    /// All groups of which something is wanted, with the filter of all members together.
    pub fn groups(&self) -> impl Iterator<Item = (F::Address, &Filter<F::Address>)> {
        self.groups.iter().filter(|(_, g)| !g.merged.is_none()).map(|(group, g)| (*group, &g.merged))
    }

    /// Who wants something of a group.
    pub fn members(&self, group: F::Address) -> impl Iterator<Item = u64> {
        self.groups.get(&group).into_iter().flat_map(|g| g.members.keys().copied())
    }

    /// What all members together want of a group.
    pub fn wanted(&self, group: F::Address) -> Option<&Filter<F::Address>> {
        self.groups.get(&group).map(|g| &g.merged)
    }

    /// When something is to be said of a group alone.
    pub fn group_due(&self, group: F::Address) -> Option<Instant> {
        self.groups.get(&group)?.due()
    }

    /// All groups of a member.
    pub fn groups_of(&self, member: u64) -> impl Iterator<Item = F::Address> {
        self.members.get(&member).into_iter().flatten().copied()
    }

    /// What a member wants of a group.
    pub fn filter(&self, member: u64, group: F::Address) -> Option<&Filter<F::Address>> {
        self.groups.get(&group)?.members.get(&member)
    }

    /// A member wants something else of a group from now on: IPMulticastListen of RFC 3376 2. [`Filter::none`]: it leaves.
    pub fn listen(
        &mut self,
        member: u64,
        group: F::Address,
        filter: Filter<F::Address>,
        now: Instant,
        random: Random<'_>,
    ) -> Result<Messages<F>, Refusal> {
        let own = self.members.get(&member);
        if filter.sources().len() > self.limits.sources {
            return Err(Refusal::Sources(self.limits.sources));
        }
        let count = own.map_or(0, BTreeSet::len);
        if !filter.is_none() && !own.is_some_and(|own| own.contains(&group)) && count >= self.limits.groups {
            return Err(Refusal::Groups(self.limits.groups));
        }
        Ok(self.follow(member, group, filter, now, random))
    }

    /// The same of a member that is bounded elsewhere.
    pub fn follow(
        &mut self,
        member: u64,
        group: F::Address,
        filter: Filter<F::Address>,
        now: Instant,
        random: Random<'_>,
    ) -> Messages<F> {
        let mut said = Vec::new();
        self.refresh(now);
        self.set(member, group, filter, now, random, &mut said);
        said
    }

    /// A member is gone.
    pub fn forget(&mut self, member: u64, now: Instant, random: Random<'_>) -> Messages<F> {
        let mut said = Vec::new();
        self.refresh(now);
        for group in self.members.remove(&member).unwrap_or_default() {
            self.set(member, group, Filter::none(), now, random, &mut said);
        }
        said
    }

    /// All members but one are gone.
    pub fn forget_others(&mut self, member: u64, now: Instant, random: Random<'_>) -> Messages<F> {
        let members: Vec<u64> = self.members.keys().copied().filter(|other| *other != member).collect();
        let mut said = Vec::new();
        for member in members {
            said.extend(self.forget(member, now, random));
        }
        said
    }

    fn set(
        &mut self,
        member: u64,
        address: F::Address,
        filter: Filter<F::Address>,
        now: Instant,
        random: Random<'_>,
        said: &mut Messages<F>,
    ) {
        let mut group = self.take(address).unwrap_or_else(Group::new);
        if filter.is_none() {
            group.members.remove(&member);
            if let Some(own) = self.members.get_mut(&member) {
                own.remove(&address);
                if own.is_empty() {
                    self.members.remove(&member);
                }
            }
        } else {
            group.members.insert(member, filter);
            self.members.entry(member).or_default().insert(address);
        }
        let was = !group.merged.is_none();
        if group.update(self.robustness) && F::reported(address) {
            match self.version {
                Version::Current => {
                    said.push(Message::Report(group.change(address)));
                    // If the version changes before a query is answered, nobody else has reported it last.
                    group.last_reporter = true;
                    group.change_at = group.changing().then(|| now + within(UNSOLICITED, random));
                }
                version => {
                    group.silence();
                    match (was, !group.merged.is_none()) {
                        (false, true) => {
                            said.push(Message::OldReport(version, address));
                            group.last_reporter = true;
                            group.old_left = self.robustness.saturating_sub(1);
                            group.old_at =
                                (group.old_left > 0).then(|| now + within(OLD_UNSOLICITED, random));
                        }
                        (true, false) if version == Version::Old && group.last_reporter => {
                            said.push(Message::Leave(address));
                        }
                        _ => {}
                    }
                }
            }
        } else if !F::reported(address) {
            group.silence();
        }
        self.put(address, group);
    }

    /// What was heard of the network.
    pub fn hear(&mut self, heard: &Heard<F::Address>, now: Instant, random: Random<'_>) {
        self.refresh(now);
        match heard {
            Heard::Query(query) => {
                self.counts.queries += 1;
                self.query(query, now, random);
            }
            // RFC 2236 3, RFC 2710 4: one report is enough. The current version knows no such thing.
            Heard::Report(address) if self.version != Version::Current => {
                self.counts.reports += 1;
                if let Some(mut group) = self.take(*address) {
                    (group.old_at, group.old_left, group.last_reporter) = (None, 0, false);
                    self.put(*address, group);
                }
            }
            Heard::Report(_) => self.counts.reports += 1,
        }
    }

    fn query(&mut self, query: &Query<F::Address>, now: Instant, random: Random<'_>) {
        self.querier = Some(query.querier);
        if query.version == Version::Current {
            self.robustness = query.robustness.filter(|r| *r > 0).unwrap_or(ROBUSTNESS);
            self.query_interval = query.interval.unwrap_or(QUERY_INTERVAL);
        } else if query.group.is_none() {
            // RFC 3376 7.2.1, 8.12.
            let until = now + self.query_interval * u32::from(self.robustness) + query.max_response;
            match query.version {
                Version::Oldest => self.oldest_until = Some(until),
                _ => self.old_until = Some(until),
            }
            self.refresh(now);
        }
        if self.version != Version::Current {
            return self.old_query(query, now, random);
        }
        let delay = within(query.max_response, random);
        // RFC 3376 5.2, rules 1 and 2.
        if self.answer_at.is_some_and(|at| at <= now + delay) {
            return;
        }
        match query.group {
            None => self.answer_at = Some(now + delay),
            Some(address) => {
                if let Some(mut group) = self.take(address) {
                    if !group.merged.is_none() && F::reported(address) {
                        group.asked(&query.sources, now, delay);
                    }
                    self.put(address, group);
                }
            }
        }
    }

    /// RFC 2236 3: each group has a delay of its own, which a shorter one replaces.
    fn old_query(&mut self, query: &Query<F::Address>, now: Instant, random: Random<'_>) {
        let asked: Vec<F::Address> = match query.group {
            Some(group) => vec![group],
            None => self.groups.keys().copied().collect(),
        };
        for address in asked {
            let Some(mut group) = self.take(address) else { continue };
            if !group.merged.is_none() && F::reported(address) {
                let running = group.old_at.is_some_and(|at| at <= now + query.max_response);
                if !running {
                    group.old_at = Some(now + within(query.max_response, random));
                }
            }
            self.put(address, group);
        }
    }

    /// When [`Self::timer`] is to be called.
    pub fn due(&self) -> Option<Instant> {
        let group = self.due.first().map(|(at, _)| *at);
        [group, self.answer_at, self.old_until, self.oldest_until].into_iter().flatten().min()
    }

    /// What is to be said now.
    pub fn timer(&mut self, now: Instant, random: Random<'_>) -> Messages<F> {
        self.refresh(now);
        let mut said = Vec::new();
        let mut records: Vec<Record<F::Address>> = Vec::new();
        if self.answer_at.is_some_and(|at| at <= now) {
            self.answer_at = None;
            let reported = self.groups.iter().filter(|(group, _)| F::reported(**group));
            records.extend(reported.filter_map(|(address, group)| group.current(*address)));
        }
        while let Some((at, address)) = self.due.first().copied() {
            if at > now {
                break;
            }
            let Some(mut group) = self.take(address) else { break };
            if group.change_at.is_some_and(|at| at <= now) {
                records.extend(group.change(address));
                group.change_at = group.changing().then(|| now + within(UNSOLICITED, random));
            }
            if group.answer.as_ref().is_some_and(|(at, _)| *at <= now) {
                records.extend(group.answered(address));
            }
            if group.old_at.is_some_and(|at| at <= now) {
                said.push(Message::OldReport(self.version, address));
                group.last_reporter = true;
                group.old_at = (group.old_left > 1).then(|| now + within(OLD_UNSOLICITED, random));
                group.old_left = group.old_left.saturating_sub(1);
            }
            self.put(address, group);
        }
        if !records.is_empty() {
            said.push(Message::Report(records));
        }
        said
    }

    /// The link is there again, or there is a source address at last (RFC 3590): everything is told anew.
    pub fn again(&mut self, now: Instant, random: Random<'_>) -> Messages<F> {
        (self.old_until, self.oldest_until, self.querier) = (None, None, None);
        self.refresh(now);
        let members = std::mem::take(&mut self.groups);
        (self.answer_at, self.due) = (None, BTreeSet::new());
        self.members.clear();
        let mut said = Vec::new();
        for (address, group) in members {
            for (member, filter) in group.members {
                self.set(member, address, filter, now, random, &mut said);
            }
        }
        said
    }

    /// Follows the versions of the queriers: a change silences what was to be said (RFC 3376 7.2.1).
    fn refresh(&mut self, now: Instant) {
        for until in [&mut self.old_until, &mut self.oldest_until] {
            *until = until.filter(|at| *at > now);
        }
        let version = match (self.oldest_until, self.old_until) {
            (Some(_), _) => Version::Oldest,
            (None, Some(_)) => Version::Old,
            (None, None) => Version::Current,
        };
        if version != self.version {
            self.version = version;
            self.counts.versions += 1;
            self.answer_at = None;
            self.due.clear();
            self.groups.values_mut().for_each(Group::silence);
            self.groups.retain(|_, group| !group.is_over());
        }
    }

    fn take(&mut self, address: F::Address) -> Option<Group<F::Address>> {
        let group = self.groups.remove(&address)?;
        if let Some(at) = group.due() {
            self.due.remove(&(at, address));
        }
        Some(group)
    }

    fn put(&mut self, address: F::Address, group: Group<F::Address>) {
        if group.is_over() {
            return;
        }
        self.due.extend(group.due().map(|at| (at, address)));
        self.groups.insert(address, group);
    }
}

/// A random time up to `most`, and not none at all.
fn within(most: Duration, random: Random<'_>) -> Duration {
    let span = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX).max(1);
    Duration::from_nanos(random() % span + 1)
}
