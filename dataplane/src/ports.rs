//! Claims as control makes them: ports, which addresses, and who else may have them.

use std::net::IpAddr;

/// Which of a compartment's addresses a claim is for. The order is that of generality; a datagram goes by the most
/// specific claim that there is for its port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// All of them.
    #[default]
    All,
    /// The IPv4 ones.
    V4,
    /// The IPv6 ones.
    V6,
    /// This one; a loopback address stands for the compartment's own loopback.
    Address(IpAddr),
}

impl Scope {
    /// Whether it has this address; `All` and families have no loopback addresses.
    pub fn contains(&self, address: IpAddr) -> bool {
        match self {
            Self::Address(own) => *own == address,
            _ if address.is_loopback() => false,
            Self::All => true,
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }

    /// Whether some address may be in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Address(address), scope) | (scope, Self::Address(address)) => scope.contains(*address),
            (Self::V4, Self::V6) | (Self::V6, Self::V4) => false,
            _ => true,
        }
    }

    /// Whether it is one address of the compartment's loopback.
    pub fn is_loopback(&self) -> bool {
        matches!(self, Self::Address(address) if address.is_loopback())
    }
}

/// Who else may have the same ports at the same scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody.
    #[default]
    Exclusive,
    /// The newest claim gets everything; when it is gone the one before does (as sockets with SO_REUSEADDR).
    Newest,
    /// While it is the newest, it and all others of this kind get the flows that fall to them (SO_REUSEPORT).
    Flows,
}

/// Address families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// A claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortClaim {
    /// First port, not 0.
    pub first: u16,
    /// Number of ports.
    pub count: u16,
    /// Of which addresses.
    pub scope: Scope,
    /// Who else.
    pub sharing: Sharing,
    /// Of these families it gets what endpoints of the compartment send to loopback addresses, too. An
    /// [`Scope::Address`] of the loopback does in any case.
    pub loopback: Families,
}

impl PortClaim {
    /// Ports of all addresses, for one endpoint alone.
    pub fn new(first: u16, count: u16) -> Self {
        Self { first, count, scope: Scope::All, sharing: Sharing::Exclusive, loopback: Families::default() }
    }

    /// The same of other addresses.
    pub fn at(self, scope: Scope) -> Self {
        Self { scope, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_overlap_where_they_share_an_address() {
        let at = |text: &str| Scope::Address(text.parse().unwrap());
        let (four, six) = (at("192.0.2.1"), at("2001:db8::1"));
        for (a, b, want) in [
            (Scope::All, Scope::All, true),
            (Scope::All, Scope::V6, true),
            (Scope::V4, Scope::V6, false),
            (Scope::V4, four, true),
            (Scope::V4, six, false),
            (Scope::All, six, true),
            (four, at("192.0.2.2"), false),
            (four, four, true),
            // The loopback is nobody's but who asks for it.
            (Scope::All, at("127.0.0.1"), false),
            (Scope::V6, at("::1"), false),
            (at("::1"), at("::1"), true),
        ] {
            assert_eq!((a.overlaps(&b), b.overlaps(&a)), (want, want), "{a:?} {b:?}");
        }
        assert!(at("127.0.0.2").is_loopback() && !four.is_loopback() && !Scope::All.is_loopback());
    }
}
