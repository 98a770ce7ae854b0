//! One group: its members, what has to be said of it, and when.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::filter::Filter;
use super::message::{Kind, Record};

/// Sources of a query that are remembered until it is answered (RFC 3376 9.1). With more, the whole group is reported.
const MAX_QUERIED: usize = 256;

/// A group of which something is wanted, or to be said.
#[derive(Clone, Debug)]
pub struct Group<A> {
    /// What each member wants.
    pub members: BTreeMap<u64, Filter<A>>,
    /// What they want together.
    pub merged: Filter<A>,
    /// Reports with the filter mode that are to come (RFC 3376 5.1).
    mode_left: u8,
    /// And with sources.
    sources_left: BTreeMap<A, u8>,
    /// When the next of those.
    pub change_at: Option<Instant>,
    /// When a query is to be answered, and for which sources; none: for the group.
    pub answer: Option<(Instant, BTreeSet<A>)>,
    /// Old versions: when it is reported, and how often more without being asked.
    pub old_at: Option<Instant>,
    /// How often.
    pub old_left: u8,
    /// It was us who reported last, as far as known.
    pub last_reporter: bool,
}

impl<A: Copy + Ord> Group<A> {
    pub(super) fn new() -> Self {
        Self {
            members: BTreeMap::new(),
            merged: Filter::none(),
            mode_left: 0,
            sources_left: BTreeMap::new(),
            change_at: None,
            answer: None,
            old_at: None,
            old_left: 0,
            last_reporter: false,
        }
    }

    /// The earliest of its times.
    pub fn due(&self) -> Option<Instant> {
        let answer = self.answer.as_ref().map(|(at, _)| *at);
        [self.change_at, answer, self.old_at].into_iter().flatten().min()
    }

    /// Whether it can be forgotten.
    pub fn is_over(&self) -> bool {
        self.members.is_empty() && self.due().is_none()
    }

    /// Forgets what was to be said (RFC 3376 7.2.1: the version has changed).
    pub fn silence(&mut self) {
        self.mode_left = 0;
        self.sources_left.clear();
        (self.change_at, self.answer, self.old_at, self.old_left) = (None, None, None, 0);
    }

    /// Merges the members' filters anew, and notes what is to be reported of the difference (RFC 3376 5.1). `true`:
    /// something.
    pub fn update(&mut self, robustness: u8) -> bool {
        let new = Filter::merge(self.members.values());
        if new == self.merged {
            return false;
        }
        let old = std::mem::replace(&mut self.merged, new);
        if old.excludes() != self.merged.excludes() {
            self.mode_left = robustness;
            // What the new mode's list says it says whole.
            self.sources_left.clear();
        } else {
            for source in old.sources().symmetric_difference(self.merged.sources()) {
                self.sources_left.insert(*source, robustness);
            }
        }
        true
    }

    /// The records of the next state-change report, which counts as sent.
    pub fn change(&mut self, group: A) -> Vec<Record<A>> {
        let record = |kind, sources: BTreeSet<A>| Record { kind, group, sources };
        let mut records = Vec::new();
        if self.mode_left > 0 {
            self.mode_left -= 1;
            let kind = if self.merged.excludes() { Kind::ToExclude } else { Kind::ToInclude };
            records.push(record(kind, self.merged.sources().clone()));
        } else {
            let (allow, block): (BTreeSet<A>, BTreeSet<A>) =
                self.sources_left.keys().partition(|source| self.merged.accepts(**source));
            for (kind, sources) in [(Kind::Allow, allow), (Kind::Block, block)] {
                if !sources.is_empty() {
                    records.push(record(kind, sources));
                }
            }
        }
        self.sources_left.retain(|_, left| {
            *left -= 1;
            *left > 0
        });
        records
    }

    /// Whether more state-change reports are to come.
    pub fn changing(&self) -> bool {
        self.mode_left > 0 || !self.sources_left.is_empty()
    }

    /// The record that tells all.
    pub fn current(&self, group: A) -> Option<Record<A>> {
        let kind = if self.merged.excludes() { Kind::IsExclude } else { Kind::IsInclude };
        (!self.merged.is_none()).then(|| Record { kind, group, sources: self.merged.sources().clone() })
    }

    /// A query for the group or some of its sources is to be answered after `delay` (RFC 3376 5.2, rules 3 to 5).
    pub fn asked(&mut self, sources: &BTreeSet<A>, now: Instant, delay: Duration) {
        let at = now + delay;
        match &mut self.answer {
            None => self.answer = Some((at, sources.clone())),
            Some((pending, all)) => {
                *pending = at.min(*pending);
                if sources.is_empty() || all.is_empty() {
                    all.clear();
                } else {
                    all.extend(sources);
                }
            }
        }
        if let Some((_, all)) = &mut self.answer
            && all.len() > MAX_QUERIED
        {
            all.clear();
        }
    }

    /// The answer, if there is something to answer.
    pub fn answered(&mut self, group: A) -> Option<Record<A>> {
        let (_, asked) = self.answer.take()?;
        if asked.is_empty() {
            return self.current(group);
        }
        let wanted: BTreeSet<A> = asked.into_iter().filter(|source| self.merged.accepts(*source)).collect();
        (!wanted.is_empty()).then_some(Record { kind: Kind::IsInclude, group, sources: wanted })
    }
}
