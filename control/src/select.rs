//! Source address selection of RFC 6724 section 5, within a compartment's addresses on the outgoing link.
//!
//! | rule | here |
//! |---|---|
//! | 1 same address, 2 scope, 6 label, 8 longest prefix | as in the text |
//! | 3 deprecated | a compartment's addresses are never deprecated |
//! | 4 home, 7 temporary | no such addresses |
//! | 5 outgoing interface, 5.5 | the candidates are those of the outgoing link |
//!
//! Ties go to the address that was added first. IPv4 is treated as IPv4-mapped (section 3.2); candidates of the other
//! family never qualify.

use std::cmp::Ordering;
use std::net::{IpAddr, Ipv6Addr};

/// An address that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The address.
    pub address: IpAddr,
    /// Its on-link prefix: rule 8 looks no further.
    pub prefix_len: u8,
}

/// The best of `candidates` as the source of a packet to `dst`.
pub fn select(dst: IpAddr, candidates: impl IntoIterator<Item = Candidate>) -> Option<IpAddr> {
    candidates
        .into_iter()
        .filter(|c| c.address.is_ipv4() == dst.is_ipv4())
        // `reduce` keeps the earlier one of equals.
        .reduce(|best, next| if better(dst, &next, &best) == Ordering::Greater { next } else { best })
        .map(|c| c.address)
}

/// `Greater` if `a` is the better source.
fn better(dst: IpAddr, a: &Candidate, b: &Candidate) -> Ordering {
    let same = |c: &Candidate| c.address == dst;
    let label_matches = |c: &Candidate| label(c.address) == label(dst);
    same(a)
        .cmp(&same(b))
        .then_with(|| by_scope(dst, a, b))
        .then_with(|| label_matches(a).cmp(&label_matches(b)))
        .then_with(|| common(dst, a).cmp(&common(dst, b)))
}

/// Rule 2.
fn by_scope(dst: IpAddr, a: &Candidate, b: &Candidate) -> Ordering {
    let (d, sa, sb) = (scope(dst), scope(a.address), scope(b.address));
    match sa.cmp(&sb) {
        Ordering::Equal => Ordering::Equal,
        // The smaller scope is good enough only if it reaches the destination.
        Ordering::Less if sa < d => Ordering::Less,
        Ordering::Less => Ordering::Greater,
        Ordering::Greater if sb < d => Ordering::Greater,
        Ordering::Greater => Ordering::Less,
    }
}

/// Scope as in a multicast address (RFC 4291 2.7): 2 link-local, 5 site-local, 14 global.
fn scope(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(a) if a.is_link_local() || a.is_loopback() => 2,
        IpAddr::V4(_) => 14,
        IpAddr::V6(a) if a.is_multicast() => a.octets()[1] & 0xf,
        IpAddr::V6(a) if a.is_unicast_link_local() || a.is_loopback() => 2,
        IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfec0 => 5,
        IpAddr::V6(_) => 14,
    }
}

/// Label of the default policy table (section 2.1).
fn label(address: IpAddr) -> u8 {
    const TABLE: &[(Ipv6Addr, u32, u8)] = &[
        (Ipv6Addr::LOCALHOST, 128, 0),
        (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 4),
        (Ipv6Addr::UNSPECIFIED, 96, 3),
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 5),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 2),
        (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 12),
        (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 11),
        (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 13),
        (Ipv6Addr::UNSPECIFIED, 0, 1),
    ];
    let bits = mapped(address);
    let matches = |(net, len, _): &&(Ipv6Addr, u32, u8)| (net.to_bits() ^ bits).leading_zeros() >= *len;
    TABLE.iter().find(matches).map_or(1, |(_, _, label)| *label)
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// CommonPrefixLen (section 2.2).
fn common(dst: IpAddr, candidate: &Candidate) -> u32 {
    let offset = if dst.is_ipv4() { 96 } else { 0 };
    let equal = (mapped(dst) ^ mapped(candidate.address)).leading_zeros();
    equal.saturating_sub(offset).min(u32::from(candidate.prefix_len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(dst: &str, candidates: &[&str]) -> String {
        let parse = |text: &&str| {
            let (address, len) = text.split_once('/').unwrap_or((text, "64"));
            Candidate { address: address.parse().unwrap(), prefix_len: len.parse().unwrap() }
        };
        let chosen = select(dst.parse().unwrap(), candidates.iter().map(parse));
        chosen.map_or("none".to_owned(), |a| a.to_string())
    }

    #[test]
    fn the_examples_of_rfc_6724_section_10_1() {
        for (dst, candidates, chosen) in [
            // Prefer appropriate scope.
            ("2001:db8:1::1", ["2001:db8:3::1", "fe80::1"], "2001:db8:3::1"),
            ("ff05::1", ["2001:db8:3::1", "fe80::1"], "2001:db8:3::1"),
            // Prefer same address.
            ("2001:db8:1::1", ["2001:db8:1::1", "2001:db8:2::1"], "2001:db8:1::1"),
            // Prefer appropriate scope.
            ("fe80::1", ["fe80::2", "2001:db8:1::1"], "fe80::2"),
            // Longest matching prefix.
            ("2001:db8:1::1", ["2001:db8:1::2", "2001:db8:3::2"], "2001:db8:1::2"),
            // Prefer matching label.
            (
                "2002:c633:6401::1",
                ["2002:c633:6401::d5e3:7953:13eb:22e8", "2001:db8:1::2"],
                "2002:c633:6401:0:d5e3:7953:13eb:22e8",
            ),
        ] {
            let [a, b] = candidates;
            let chosen: IpAddr = chosen.parse().unwrap_or_else(|_| a.parse().unwrap());
            assert_eq!(choose(dst, &[a, b]), chosen.to_string(), "{dst}");
            assert_eq!(choose(dst, &[b, a]), chosen.to_string(), "{dst}, other order");
        }
    }

    #[test]
    fn unique_local_talks_to_unique_local() {
        assert_eq!(choose("fd00::1", &["2001:db8::1", "fd11::1"]), "fd11::1");
        assert_eq!(choose("2001:4860::1", &["fd11::1", "2a00::1"]), "2a00::1");
    }

    #[test]
    fn the_on_link_prefix_bounds_rule_8() {
        // Both share 24 bits within their prefixes; the longer common tail of the second does not count.
        assert_eq!(choose("192.0.2.9", &["192.0.2.1/24", "192.0.2.8/24"]), "192.0.2.1");
        assert_eq!(choose("192.0.2.9", &["192.0.2.1/24", "192.0.2.8/31"]), "192.0.2.8");
        assert_eq!(choose("10.1.0.1", &["192.0.2.1/24", "10.2.0.1/16"]), "10.2.0.1");
    }

    #[test]
    fn families_do_not_mix_and_ties_go_to_the_first() {
        assert_eq!(choose("192.0.2.1", &["2001:db8::1"]), "none");
        assert_eq!(choose("2001:db8::1", &["192.0.2.1/24"]), "none");
        assert_eq!(choose("8.8.8.8", &["192.0.2.5/24", "192.0.2.4/24"]), "192.0.2.5");
        assert_eq!(choose("169.254.0.1", &["192.0.2.5/24", "169.254.9.9/16"]), "169.254.9.9");
    }
}
