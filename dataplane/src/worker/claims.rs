//! Which endpoint of a compartment has a UDP port.
//!
//! ```text
//! datagram ── port of the very address? ── of the family? ── of all addresses? ── nobody's
//!                     |                        |                    |
//!                     entry: the newest claim's endpoint, or one of its group by the flow
//! ```
//!
//! A claim is a range of ports of some scope. Ranges of one scope are disjoint or equal (control's registry and
//! [`crate::Dataplane::claim`] see to it). Equal ones make an entry, newest last: it serves, or, if it is shared, all
//! shared ones do; the others are there for when it is gone.

use afnet_ring::prefetch;

use crate::{
    net::{Address, from_ip, is_v4},
    ports::{Families, PortClaim, Scope, Sharing},
};

/// Of which addresses, in the form of the hot path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    All,
    Family { v4: bool },
    Exact(Address),
}

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    place: Place,
    pub(crate) first: u16,
    /// Last port, not before the first.
    pub(crate) last: u16,
}

impl Claim {
    /// `None` if it is no port, includes port 0, or goes beyond 65535.
    pub(crate) fn new(first: u16, count: u16, scope: Scope) -> Option<Self> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        let place = match scope {
            Scope::All => Place::All,
            Scope::V4 => Place::Family { v4: true },
            Scope::V6 => Place::Family { v4: false },
            Scope::Address(address) => Place::Exact(from_ip(address)),
        };
        (first != 0).then_some(Self { place, first, last })
    }

    /// Whether both are of the same scope and share a port.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.place == other.place && self.first <= other.last && other.first <= self.last
    }

    /// The address, if it is for one.
    #[inline]
    pub(crate) fn address(&self) -> Option<Address> {
        match self.place {
            Place::Exact(address) => Some(address),
            _ => None,
        }
    }

    /// Whether it lets its endpoint send from `port` and, if the tenant chose one, `address`.
    #[inline]
    pub(crate) fn permits(&self, port: u16, address: Option<&Address>) -> bool {
        self.first <= port
            && port <= self.last
            && match (&self.place, address) {
                (Place::Exact(own), Some(chosen)) => own == chosen,
                (Place::Family { v4 }, Some(chosen)) => is_v4(chosen) == *v4,
                _ => true,
            }
    }

    /// Whether it is of the family, or of both.
    #[inline]
    pub(crate) fn speaks(&self, v4: bool) -> bool {
        match &self.place {
            Place::All => true,
            Place::Family { v4: own } => *own == v4,
            Place::Exact(own) => is_v4(own) == v4,
        }
    }
}

/// A claim with what control says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) claim: Claim,
    pub(crate) sharing: Sharing,
    /// See [`PortClaim::loopback`].
    loopback: Families,
}

impl Held {
    /// `None` if the range is none.
    pub(crate) fn new(claim: &PortClaim) -> Option<Self> {
        let PortClaim { first, count, scope, sharing, loopback } = *claim;
        let exact = |v4| matches!(scope, Scope::Address(a) if a.is_loopback() && a.is_ipv4() == v4);
        let loopback = Families { v4: loopback.v4 || exact(true), v6: loopback.v6 || exact(false) };
        Claim::new(first, count, scope).map(|claim| Self { claim, sharing, loopback })
    }

    /// Whether both may not be there together.
    pub(crate) fn excludes(&self, other: &Self) -> bool {
        self.claim.overlaps(&other.claim)
            && (self.claim != other.claim
                || self.sharing == Sharing::Exclusive
                || other.sharing == Sharing::Exclusive)
    }

    /// Whether it has loopback addresses of the family.
    #[inline]
    pub(crate) fn on_loopback(&self, v4: bool) -> bool {
        if v4 { self.loopback.v4 } else { self.loopback.v6 }
    }
}

/// Equal claims of several endpoints.
#[derive(Debug)]
struct Entry {
    claim: Claim,
    /// Oldest first; never empty.
    holders: Vec<(Held, u32)>,
    /// The newest's endpoint.
    endpoint: u32,
    loopback: Families,
    /// Endpoints that share the flows; empty if it is one.
    group: Vec<u32>,
}

impl Entry {
    fn new(held: Held, endpoint: u32) -> Self {
        let mut entry = Self {
            claim: held.claim,
            holders: vec![(held, endpoint)],
            endpoint,
            loopback: held.loopback,
            group: Vec::new(),
        };
        entry.settle();
        entry
    }

    /// Who serves now.
    fn settle(&mut self) {
        self.group.clear();
        let Some((newest, endpoint)) = self.holders.last() else { return };
        (self.endpoint, self.loopback) = (*endpoint, newest.loopback);
        if newest.sharing == Sharing::Flows {
            let shared = self.holders.iter().filter(|(held, _)| held.sharing == Sharing::Flows);
            self.group.extend(shared.map(|(_, endpoint)| *endpoint));
            if self.group.len() < 2 {
                self.group.clear();
            }
        }
    }

    /// The endpoint for a flow.
    #[inline]
    fn pick(&self, flow: impl FnOnce() -> u64) -> u32 {
        if self.group.is_empty() {
            return self.endpoint;
        }
        // The hash's high half, scaled to the number of members.
        let members = self.group.len() as u64;
        let at = usize::try_from(((flow() >> 32) * members) >> 32).unwrap_or(0);
        self.group.get(at).copied().unwrap_or(self.endpoint)
    }
}

/// The claims of a compartment.
#[derive(Debug, Default)]
pub(crate) struct ClaimTable {
    /// Sorted by first port, disjoint.
    all: Vec<Entry>,
    /// The same, IPv4 and IPv6.
    four: Vec<Entry>,
    six: Vec<Entry>,
    /// Sorted by address and first port, disjoint for each address.
    exact: Vec<Entry>,
}

impl ClaimTable {
    fn list(&mut self, claim: &Claim) -> &mut Vec<Entry> {
        match claim.place {
            Place::All => &mut self.all,
            Place::Family { v4: true } => &mut self.four,
            Place::Family { v4: false } => &mut self.six,
            Place::Exact(_) => &mut self.exact,
        }
    }

    /// Asks for the first claims.
    #[inline]
    pub(crate) fn prefetch(&self) {
        for first in
            [&self.all, &self.four, &self.six, &self.exact].into_iter().filter_map(|list| list.first())
        {
            prefetch(std::ptr::from_ref(first).cast());
        }
    }

    /// Enters a claim, which is the newest of its range then.
    pub(crate) fn insert(&mut self, held: Held, endpoint: u32) {
        let list = self.list(&held.claim);
        let at = list.partition_point(|entry| entry.claim < held.claim);
        match list.get_mut(at).filter(|entry| entry.claim == held.claim) {
            Some(entry) => {
                entry.holders.push((held, endpoint));
                entry.settle();
            }
            None => list.insert(at, Entry::new(held, endpoint)),
        }
    }

    /// Removes a claim of an endpoint.
    pub(crate) fn remove(&mut self, claim: &Claim, endpoint: u32) {
        drop_holders(self.list(claim), |held, e| held.claim == *claim && e == endpoint);
    }

    /// Removes all claims of an endpoint.
    pub(crate) fn remove_all(&mut self, endpoint: u32) {
        for list in [&mut self.all, &mut self.four, &mut self.six, &mut self.exact] {
            drop_holders(list, |_, e| e == endpoint);
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.four.is_empty() && self.six.is_empty() && self.exact.is_empty()
    }

    /// The endpoint that has `port` of `address`; `flow` is a hash of the flow, for those who share the port.
    #[inline]
    pub(crate) fn find(&self, address: &Address, port: u16, flow: impl FnOnce() -> u64) -> Option<u32> {
        if !self.exact.is_empty()
            && let Some(entry) = exact(&self.exact, address, port)
        {
            return Some(entry.pick(flow));
        }
        if !(self.four.is_empty() && self.six.is_empty())
            && let Some(entry) = ranged(if is_v4(address) { &self.four } else { &self.six }, port)
        {
            return Some(entry.pick(flow));
        }
        ranged(&self.all, port).map(|entry| entry.pick(flow))
    }

    /// The endpoint that has `port` of a loopback address.
    pub(crate) fn find_loopback(
        &self,
        address: &Address,
        port: u16,
        flow: impl FnOnce() -> u64,
    ) -> Option<u32> {
        let v4 = is_v4(address);
        let serves = |entry: &&Entry| if v4 { entry.loopback.v4 } else { entry.loopback.v6 };
        exact(&self.exact, address, port)
            .or_else(|| ranged(if v4 { &self.four } else { &self.six }, port).filter(serves))
            .or_else(|| ranged(&self.all, port).filter(serves))
            .map(|entry| entry.pick(flow))
    }
}

fn drop_holders(list: &mut Vec<Entry>, gone: impl Fn(&Held, u32) -> bool) {
    list.retain_mut(|entry| {
        let before = entry.holders.len();
        entry.holders.retain(|(held, endpoint)| !gone(held, *endpoint));
        if entry.holders.len() != before {
            entry.settle();
        }
        !entry.holders.is_empty()
    });
}

fn exact<'a>(list: &'a [Entry], address: &Address, port: u16) -> Option<&'a Entry> {
    let place = Place::Exact(*address);
    before(list, |c| (c.place, c.first) <= (place, port))
        .filter(|entry| entry.claim.place == place && port <= entry.claim.last)
}

#[inline]
fn ranged(list: &[Entry], port: u16) -> Option<&Entry> {
    match list {
        // Nearly always: one claim.
        [entry] => (entry.claim.first <= port && port <= entry.claim.last).then_some(entry),
        all => before(all, |c| c.first <= port).filter(|entry| port <= entry.claim.last),
    }
}

/// The last entry of a sorted list for which `holds` is true.
fn before(list: &[Entry], holds: impl Fn(&Claim) -> bool) -> Option<&Entry> {
    list.partition_point(|entry| holds(&entry.claim)).checked_sub(1).and_then(|at| list.get(at))
}

#[cfg(test)]
mod tests;
