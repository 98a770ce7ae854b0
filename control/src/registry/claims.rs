//! Claims of one compartment: which UDP ports take the fast path, and whose endpoint they belong to.
//!
//! The XDP program knows claims by compartment, protocol and port block, without addresses; a block is a power of two
//! long and aligned ([`pieces`]). Claims for different addresses may share ports, so pieces are counted: the first
//! user of one enters it, the last one takes it out. What reaches a worker and has no endpoint there is reinjected
//! into the kernel. Claims of loopback addresses are the workers' alone: nothing comes for them from a device.
//!
//! | claims that overlap | may both be there |
//! |---|---|
//! | both proven by sockets of the compartment | yes: the kernel has let both be bound; workers know who goes first |
//! | one is not (fast-only addresses, prefixes, blocks) | no: this is the only registry that they have |
//! | of one endpoint, the same | no |

use std::collections::BTreeMap;

use afnet_dataplane::Scope;

/// A block of ports that the XDP program can hold: `count` is a power of two, `first` a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Piece {
    /// First port.
    pub first: u16,
    /// Number of ports.
    pub count: u16,
}

/// Cuts `count` ports from `first` on into the fewest pieces. `first` may not be 0, nor the last port above 65535.
pub fn pieces(first: u16, count: u16) -> impl Iterator<Item = Piece> {
    let mut at = u32::from(first);
    let end = at + u32::from(count);
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let aligned = if at == 0 { 1 << 15 } else { 1 << at.trailing_zeros().min(15) };
        let room = 1u32 << (end - at).ilog2();
        let len = room.min(aligned);
        let piece = Piece { first: u16::try_from(at).ok()?, count: u16::try_from(len).ok()? };
        at += len;
        Some(piece)
    })
}

/// A claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub endpoint: u64,
    /// First port.
    pub first: u16,
    /// Number of ports.
    pub count: u16,
    /// Of which addresses.
    pub scope: Scope,
    /// Others may share it.
    pub shared: bool,
    /// Sockets of the compartment are bound to all of it. Then it is one port.
    pub proven: bool,
}

impl Claim {
    fn overlaps(&self, other: &Self) -> bool {
        let end = |c: &Self| u32::from(c.first) + u32::from(c.count);
        self.scope.overlaps(&other.scope)
            && u32::from(self.first) < end(other)
            && u32::from(other.first) < end(self)
    }

    /// What the XDP program is to hold for it.
    pub fn pieces(&self) -> impl Iterator<Item = Piece> {
        let count = if self.scope.is_loopback() { 0 } else { self.count };
        pieces(self.first, count)
    }

    /// Whether both may not be there together.
    fn excludes(&self, other: &Self) -> bool {
        let same = (self.first, self.count, self.scope) == (other.first, other.count, other.scope);
        let own = same && self.endpoint == other.endpoint;
        self.overlaps(other) && (own || !self.proven || !other.proven)
    }
}

/// Why a claim was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Ports 1 to 65535, at least one.
    #[error("a claim is for ports 1 to 65535, at least one")]
    Range,
    /// Somebody has it, EADDRINUSE.
    #[error("port {0} is claimed already")]
    InUse(u16),
}

/// All claims of a compartment.
#[derive(Debug, Default)]
pub struct Claims {
    /// Sorted by first port, then scope, then endpoint.
    by_port: BTreeMap<(u16, Scope, u64), Claim>,
    /// Users of each piece.
    pieces: BTreeMap<Piece, u32>,
    /// Longest claim there has been: how far before a port one can start that covers it.
    longest: u16,
}

impl Claims {
    /// Number of claims.
    pub fn len(&self) -> usize {
        self.by_port.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_port.is_empty()
    }

    /// The claims, in order of port.
    pub fn iter(&self) -> impl Iterator<Item = &Claim> {
        self.by_port.values()
    }

    /// A claim that stands in the way of `claim`.
    pub fn conflict(&self, claim: &Claim) -> Option<&Claim> {
        let from = claim.first.saturating_sub(self.longest);
        let last = claim.first.saturating_add(claim.count.saturating_sub(1));
        self.by_port
            .range((from, Scope::All, 0)..)
            .take_while(|((first, ..), _)| *first <= last)
            .map(|(_, c)| c)
            .find(|c| c.excludes(claim))
    }

    /// Whether `claim` could be entered.
    pub fn check(&self, claim: &Claim) -> Result<(), PortError> {
        let end = u32::from(claim.first) + u32::from(claim.count);
        if claim.first == 0 || claim.count == 0 || end > 1 << 16 {
            return Err(PortError::Range);
        }
        match self.conflict(claim) {
            Some(other) => Err(PortError::InUse(other.first.max(claim.first))),
            None => Ok(()),
        }
    }

    /// Enters a claim and returns the pieces that had no user before.
    pub fn insert(&mut self, claim: Claim) -> Result<Vec<Piece>, PortError> {
        self.check(&claim)?;
        self.longest = self.longest.max(claim.count);
        self.by_port.insert((claim.first, claim.scope, claim.endpoint), claim);
        let mut new = Vec::new();
        for piece in claim.pieces() {
            let users = self.pieces.entry(piece).or_insert(0);
            *users += 1;
            if *users == 1 {
                new.push(piece);
            }
        }
        Ok(new)
    }

    /// Takes out the claim of `endpoint` that starts at `first`; returns it and the pieces without user now.
    pub fn remove(&mut self, endpoint: u64, first: u16, scope: Scope) -> Option<(Claim, Vec<Piece>)> {
        let claim = self.by_port.remove(&(first, scope, endpoint))?;
        let mut gone = Vec::new();
        for piece in claim.pieces() {
            if let Some(users) = self.pieces.get_mut(&piece) {
                *users -= 1;
                if *users == 0 {
                    self.pieces.remove(&piece);
                    gone.push(piece);
                }
            }
        }
        Some((claim, gone))
    }

    /// Whether a piece that is entered covers `port`.
    #[cfg(test)]
    pub(super) fn holds(&self, port: u32) -> bool {
        self.pieces
            .keys()
            .any(|p| (u32::from(p.first)..u32::from(p.first) + u32::from(p.count)).contains(&port))
    }

    /// The claims of one endpoint.
    pub fn of(&self, endpoint: u64) -> Vec<Claim> {
        self.by_port.values().filter(|c| c.endpoint == endpoint).copied().collect()
    }

    /// A port in `low..=high` that `claim` could have, searched from `start` on round the range.
    pub fn free_port(&self, low: u16, high: u16, start: u16, scope: Scope) -> Option<u16> {
        let claim = |first| Claim { endpoint: 0, first, count: 1, scope, shared: false, proven: false };
        let span = u32::from(high.checked_sub(low)?) + 1;
        let offset = u32::from(start) % span;
        (0..span)
            .filter_map(|i| u16::try_from(u32::from(low) + (offset + i) % span).ok())
            .find(|port| self.conflict(&claim(*port)).is_none())
    }
}
