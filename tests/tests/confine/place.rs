//! The machines of the cases, and the names of their addresses.

use std::net::IpAddr;

/// Which addresses a machine has.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Shape {
    /// One of each family.
    Dual,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
    /// Of each family two in one subnet and one in another.
    Multi,
    /// One of each family, and a delegated prefix of each that is routed to it.
    Prefix,
    /// The peer's: of each family one in each subnet.
    Peer,
}

impl Shape {
    /// By its name in a case.
    ///
    /// # Panics
    /// If there is none.
    pub fn named(name: &str) -> Self {
        match name {
            "dual" => Self::Dual,
            "v4" => Self::V4,
            "v6" => Self::V6,
            "multi" => Self::Multi,
            "prefix" => Self::Prefix,
            _ => panic!("no such shape: {name}"),
        }
    }
}

/// A machine: which one, by the number that its addresses end in.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Place {
    /// Last byte of its first addresses.
    pub number: u8,
    /// Its addresses.
    pub shape: Shape,
}

/// The host's own.
pub const HOST: Place = Place { number: 1, shape: Shape::Dual };
/// The peer's first number; further peers, with addresses of their own in the same namespace, follow.
pub const FIRST_PEER: u8 = 100;

impl Place {
    /// The first, second, ... compartment of a shape.
    pub fn compartment(shape: Shape, which: u8) -> Self {
        let offset = match shape {
            Shape::Dual => 0,
            Shape::V4 => 1,
            Shape::V6 => 2,
            Shape::Multi => 3,
            Shape::Prefix => 4,
            Shape::Peer => FIRST_PEER,
        };
        Self { number: 10 * (which + 1) + offset, shape }
    }

    /// A peer.
    pub fn peer(which: u8) -> Self {
        Self { number: FIRST_PEER + which, shape: Shape::Peer }
    }

    /// Name of the compartment.
    pub fn name(self) -> String {
        format!("c{}", self.number)
    }

    /// Names that cases use, without the machine's, with the addresses behind them:
    ///
    /// | name | address |
    /// |---|---|
    /// | `4`, `6` | the first of the family |
    /// | `4x`, `6x` | a second one in the same subnet (`multi`) |
    /// | `4y`, `6y` | one in another subnet (`multi`) |
    /// | `4p`, `4q`, `6p`, `6q` | addresses of the delegated prefix (`prefix`) |
    /// | `4n`, `6n` | never there at first; `net: add a4n` gives it to the machine |
    pub fn addresses(self) -> Vec<(&'static str, IpAddr)> {
        let all = [
            ("4", format!("192.0.2.{}", self.number)),
            ("6", format!("2001:db8::{}", self.number)),
            ("4x", format!("192.0.2.{}", 120 + self.number)),
            ("6x", format!("2001:db8::{}:0", self.number)),
            ("4y", format!("198.51.100.{}", self.number)),
            ("6y", format!("2001:db8:2::{}", self.number)),
            ("4p", format!("203.0.113.{}", self.block() + 5)),
            ("4q", format!("203.0.113.{}", self.block() + 9)),
            ("6p", format!("2001:db8:b:{}::5", self.number)),
            ("6q", format!("2001:db8:b:{}:1:2:3:4", self.number)),
            ("4n", format!("192.0.2.{}", 150 + self.number)),
            ("6n", format!("2001:db8::{}:1", self.number)),
        ];
        let wanted = |name: &str| {
            match self.shape {
                Shape::Dual => "46",
                Shape::V4 => "4",
                Shape::V6 => "6",
                Shape::Multi => "46xy",
                Shape::Prefix => "46pq",
                Shape::Peer => "46y",
            }
            .contains(name.chars().last().unwrap_or('4'))
                || name.ends_with('n') && self.number < FIRST_PEER
        };
        let all = all.map(|(name, address)| (name, address.parse().expect("an address")));
        all.into_iter().filter(|(name, _)| wanted(name)).collect()
    }

    /// The delegated prefixes.
    pub fn prefixes(self) -> [String; 2] {
        [format!("203.0.113.{}/28", self.block()), format!("2001:db8:b:{}::/64", self.number)]
    }

    /// Start of the delegated IPv4 prefix.
    fn block(self) -> u8 {
        self.number / 10 * 16
    }

    /// The addresses that it has from the start, with the length of the subnet.
    pub fn configured(self) -> Vec<String> {
        let own = self.addresses().into_iter().filter(|(name, _)| !name.ends_with(['n', 'p', 'q']));
        own.map(|(_, address)| with_len(address)).collect()
    }
}

/// `ADDRESS/LEN` in the subnets of the worlds.
pub fn with_len(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 })
}

/// All names of addresses for programs that play `a`, `b`, `host` and `peer` at these places.
pub fn names(places: &[(&str, Place)]) -> Vec<(String, IpAddr)> {
    let mut names: Vec<(String, IpAddr)> = places
        .iter()
        .flat_map(|(machine, place)| {
            place.addresses().into_iter().map(move |(name, address)| (format!("{machine}{name}"), address))
        })
        .collect();
    for (name, address) in [
        ("peer6l", "fe80::100"),
        ("nobody4", "192.0.2.99"),
        ("nobody6", "2001:db8::99"),
        ("away4", "198.18.0.1"),
        ("away6", "2001:db8:ff::1"),
    ] {
        names.push((name.into(), address.parse().expect("an address")));
    }
    names
}
