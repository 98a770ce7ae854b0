//! Which endpoint of a compartment has a UDP port.
//!
//! A claim is a range of ports, for one of the compartment's addresses or for all of them. Claims of the same scope do
//! not overlap (control's registry and [`crate::Dataplane::claim`] see to it); a claim for the address that was hit
//! goes before one for all.

use crate::net::Address;

/// A range of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    /// `None`: all addresses of the compartment.
    pub(crate) address: Option<Address>,
    pub(crate) first: u16,
    /// Last port, not before the first.
    pub(crate) last: u16,
}

impl Claim {
    /// `count` ports from `first` on; `None` if that is none, includes port 0, or goes beyond 65535.
    pub(crate) fn new(first: u16, count: u16, address: Option<Address>) -> Option<Self> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        (first != 0).then_some(Self { address, first, last })
    }

    /// Whether both are of the same scope and share a port.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.address == other.address && self.first <= other.last && other.first <= self.last
    }

    /// Whether it lets its endpoint send from `port` and, if the tenant chose one, `address`.
    #[inline]
    pub(crate) fn permits(&self, port: u16, address: Option<&Address>) -> bool {
        self.first <= port
            && port <= self.last
            && match (&self.address, address) {
                (Some(own), Some(chosen)) => own == chosen,
                _ => true,
            }
    }
}

/// The claims of a compartment, each with its endpoint's index.
#[derive(Debug, Default)]
pub(crate) struct ClaimTable {
    /// Without address; sorted by first port, disjoint.
    all: Vec<(Claim, u32)>,
    /// With address; sorted by address and first port, disjoint for each address.
    exact: Vec<(Claim, u32)>,
}

impl ClaimTable {
    fn list(&mut self, claim: &Claim) -> &mut Vec<(Claim, u32)> {
        if claim.address.is_some() { &mut self.exact } else { &mut self.all }
    }

    /// Enters a claim.
    pub(crate) fn insert(&mut self, claim: Claim, endpoint: u32) {
        let list = self.list(&claim);
        let at = list.partition_point(|(c, _)| *c < claim);
        list.insert(at, (claim, endpoint));
    }

    /// Removes a claim of an endpoint.
    pub(crate) fn remove(&mut self, claim: &Claim, endpoint: u32) {
        self.list(claim).retain(|(c, e)| c != claim || *e != endpoint);
    }

    /// Removes all claims of an endpoint.
    pub(crate) fn remove_all(&mut self, endpoint: u32) {
        self.all.retain(|(_, e)| *e != endpoint);
        self.exact.retain(|(_, e)| *e != endpoint);
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.exact.is_empty()
    }

    /// The endpoint that has `port` of `address`.
    #[inline]
    pub(crate) fn find(&self, address: &Address, port: u16) -> Option<u32> {
        if !self.exact.is_empty()
            && let Some(endpoint) = before(&self.exact, |c| (c.address, c.first) <= (Some(*address), port))
                .filter(|(c, _)| c.address == Some(*address) && port <= c.last)
        {
            return Some(endpoint.1);
        }
        match self.all.as_slice() {
            // Nearly always: one claim.
            [(claim, endpoint)] => (claim.first <= port && port <= claim.last).then_some(*endpoint),
            all => before(all, |c| c.first <= port).filter(|(c, _)| port <= c.last).map(|(_, e)| *e),
        }
    }
}

/// The last entry of a sorted list for which `holds` is true.
fn before(list: &[(Claim, u32)], holds: impl Fn(&Claim) -> bool) -> Option<&(Claim, u32)> {
    list.partition_point(|(c, _)| holds(c)).checked_sub(1).and_then(|at| list.get(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::mapped;

    #[test]
    fn the_most_specific_claim_wins() {
        let (a, b) = (mapped([10, 0, 0, 1]), mapped([10, 0, 0, 2]));
        let mut table = ClaimTable::default();
        assert_eq!(table.find(&a, 53), None);
        table.insert(Claim::new(53, 1, None).unwrap(), 1);
        assert_eq!((table.find(&a, 53), table.find(&a, 54)), (Some(1), None));
        table.insert(Claim::new(1000, 100, None).unwrap(), 2);
        table.insert(Claim::new(1050, 1, Some(a)).unwrap(), 3);
        table.insert(Claim::new(53, 1, Some(b)).unwrap(), 4);
        assert_eq!((table.find(&a, 53), table.find(&b, 53)), (Some(1), Some(4)));
        assert_eq!((table.find(&a, 1050), table.find(&b, 1050)), (Some(3), Some(2)));
        assert_eq!((table.find(&a, 1099), table.find(&a, 1100), table.find(&a, 999)), (Some(2), None, None));
        table.remove_all(3);
        assert_eq!(table.find(&a, 1050), Some(2));
        table.remove(&Claim::new(53, 1, None).unwrap(), 1);
        assert_eq!((table.find(&a, 53), table.find(&b, 53)), (None, Some(4)));
    }

    #[test]
    fn ranges_are_checked() {
        assert!(Claim::new(0, 1, None).is_none());
        assert!(Claim::new(1, 0, None).is_none());
        assert!(Claim::new(65535, 2, None).is_none());
        let block = Claim::new(65000, 536, None).unwrap();
        assert_eq!(block.last, 65535);
        assert!(block.overlaps(&Claim::new(65535, 1, None).unwrap()));
        assert!(!block.overlaps(&Claim::new(65535, 1, Some(mapped([10, 0, 0, 1]))).unwrap()));
    }
}
