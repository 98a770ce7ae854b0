//! Unit and property tests of the registry; the model is a plain list searched from end to end.

use proptest::prelude::*;

use afnet_dataplane::Scope;

use super::*;

fn realm(device: u16, vlan: &str) -> Realm {
    Realm { device, vlan: vlan.parse().unwrap() }
}

fn owned(text: &str, realm: Realm) -> Owned {
    let (address, len) = text.split_once('/').unwrap();
    Owned {
        realm,
        address: address.parse().unwrap(),
        prefix_len: len.parse().unwrap(),
        delegated: false,
        fast_only: false,
        defend: None,
        nodad: false,
        state: AddressState::Ok,
    }
}

fn delegated(text: &str, realm: Realm) -> Owned {
    Owned { delegated: true, ..owned(text, realm) }
}

fn two() -> (Registry, Slot, Slot) {
    let mut registry = Registry::new(Limits::default());
    let a = registry.add("a", Policy::default(), None).unwrap();
    let b = registry.add("b", Policy::default(), None).unwrap();
    (registry, a, b)
}

#[test]
fn slots_are_reused_lowest_first_and_zero_is_the_hosts() {
    let (mut registry, a, b) = two();
    assert_eq!((a, b), (1, 2));
    registry.remove(a).unwrap();
    assert_eq!(registry.add("c", Policy::default(), None), Ok(1));
    assert_eq!(registry.add("d", Policy::default(), Some(7)), Ok(7));
    assert_eq!(registry.add("e", Policy::default(), Some(7)), Ok(3));
    assert_eq!(registry.add("f", Policy::default(), Some(0)), Ok(4));
    assert_eq!(registry.iter().map(|(_, c)| c.name.as_str()).collect::<Vec<_>>(), ["b", "c", "d", "e", "f"]);
}

#[test]
fn names_are_unique_and_limits_hold() {
    let mut registry = Registry::new(Limits { compartments: 3, addresses: 1, prefixes: 1 });
    let a = registry.add("a", Policy::default(), None).unwrap();
    assert_eq!(registry.add("a", Policy::default(), None).unwrap_err().errno, Errno::EXIST);
    registry.add("b", Policy::default(), None).unwrap();
    assert_eq!(registry.add("c", Policy::default(), None).unwrap_err().errno, Errno::NOSPC);
    let here = realm(0, "none");
    registry.add_address(a, owned("192.0.2.1/24", here)).unwrap();
    assert_eq!(registry.add_address(a, owned("192.0.2.2/24", here)).unwrap_err().errno, Errno::NOSPC);
    registry.add_address(a, owned("192.0.2.2/24", realm(1, "none"))).unwrap();
    registry.add_address(a, delegated("198.51.100.0/24", here)).unwrap();
    let more = delegated("198.51.100.0/25", realm(0, "5"));
    assert_eq!(registry.add_address(a, more).unwrap_err().errno, Errno::NOSPC);
}

#[test]
fn one_owner_for_an_address_of_a_realm() {
    let (mut registry, a, b) = two();
    let here = realm(0, "none");
    registry.add_address(a, owned("192.0.2.1/24", here)).unwrap();
    let again = registry.add_address(b, owned("192.0.2.1/32", here)).unwrap_err();
    assert_eq!(again.errno, Errno::ADDRINUSE);
    assert!(again.message.contains("belongs to a"), "{again}");
    assert_eq!(registry.add_address(a, owned("192.0.2.1/24", here)).unwrap_err().errno, Errno::EXIST);
    for other in [realm(0, "7"), realm(0, "ad:7"), realm(0, "7.7"), realm(1, "7")] {
        registry.add_address(b, owned("192.0.2.1/24", other)).unwrap();
        assert_eq!(registry.owner(other, "192.0.2.1".parse().unwrap()), Some(b));
    }
    assert_eq!(registry.owner(here, "192.0.2.1".parse().unwrap()), Some(a));
    assert_eq!(registry.kernel_owner("192.0.2.2".parse().unwrap()), None);
}

#[test]
fn one_owner_over_all_devices_for_what_the_kernel_holds() {
    let (mut registry, a, b) = two();
    let (here, there) = (realm(0, "none"), realm(1, "none"));
    let fast = |owned| Owned { fast_only: true, ..owned };
    for one in
        [owned("192.0.2.1/24", here), delegated("198.51.100.0/28", here), delegated("2001:db8::/64", here)]
    {
        registry.add_address(a, one).unwrap();
        let same = Owned { realm: there, ..one };
        let refused = registry.add_address(b, same).unwrap_err();
        assert_eq!(refused.errno, Errno::ADDRINUSE);
        assert!(
            refused.message.contains("belongs to a") && refused.message.contains("fast-only"),
            "{refused}"
        );
        assert_eq!(registry.kernel_holder(one.prefix()), Some((a, one)));
        // The fast path tells devices apart; the kernel has VLANs for itself.
        registry.add_address(b, fast(same)).unwrap();
        assert_eq!(registry.kernel_owner(one.address), Some(a));
        registry.remove_address(there, one.prefix()).unwrap();
        registry.add_address(b, Owned { realm: realm(1, "7"), ..one }).unwrap();
        // A compartment may be reached by several devices.
        registry.add_address(a, same).unwrap();
        assert_eq!(registry.remove_address(here, one.prefix()).unwrap().0, a);
        assert_eq!(registry.kernel_holder(one.prefix()), Some((a, same)));
        assert_eq!(registry.add_address(b, one).unwrap_err().errno, Errno::ADDRINUSE);
        registry.remove_address(there, one.prefix()).unwrap();
        assert_eq!(registry.kernel_holder(one.prefix()), None);
        registry.add_address(b, one).unwrap();
    }
}

#[test]
fn the_kernels_owner_is_the_longest_match_of_all_devices() {
    let (mut registry, a, b) = two();
    let (here, there) = (realm(0, "none"), realm(1, "none"));
    registry.add_address(a, delegated("10.0.0.0/8", here)).unwrap();
    registry.add_address(b, delegated("10.1.0.0/16", there)).unwrap();
    registry.add_address(a, owned("10.1.0.5/16", here)).unwrap();
    registry.add_address(b, Owned { fast_only: true, ..owned("10.0.0.7/8", here) }).unwrap();
    for (address, owner) in [
        ("10.9.9.9", Some(a)),
        ("10.1.9.9", Some(b)),
        ("10.1.0.5", Some(a)),
        ("10.0.0.7", Some(a)),
        ("11.0.0.1", None),
    ] {
        assert_eq!(registry.kernel_owner(address.parse().unwrap()), owner, "{address}");
    }
}

#[test]
fn removal_frees_addresses() {
    let (mut registry, a, b) = two();
    let here = realm(0, "none");
    registry.add_address(a, owned("192.0.2.1/24", here)).unwrap();
    registry.add_address(a, delegated("2001:db8::/64", here)).unwrap();
    registry.remove(a).unwrap();
    registry.add_address(b, owned("192.0.2.1/24", here)).unwrap();
    registry.add_address(b, delegated("2001:db8::/64", here)).unwrap();
    let prefix = delegated("2001:db8::/64", here).prefix();
    assert_eq!(registry.remove_address(here, prefix).unwrap().0, b);
    assert_eq!(registry.remove_address(here, prefix), None);
    assert_eq!(registry.get(b).unwrap().addresses.len(), 1);
}

#[test]
fn the_longest_match_owns() {
    let (mut registry, a, b) = two();
    let here = realm(0, "none");
    registry.add_address(a, delegated("10.0.0.0/8", here)).unwrap();
    registry.add_address(b, delegated("10.1.0.0/16", here)).unwrap();
    registry.add_address(a, owned("10.1.0.5/16", here)).unwrap();
    assert_eq!(registry.add_address(b, delegated("10.0.0.0/8", here)).unwrap_err().errno, Errno::ADDRINUSE);
    for (address, owner) in [
        ("10.9.9.9", Some(a)),
        ("10.1.9.9", Some(b)),
        ("10.1.0.5", Some(a)),
        ("11.0.0.1", None),
        ("::1", None),
    ] {
        assert_eq!(registry.owner(here, address.parse().unwrap()), owner, "{address}");
    }
}

#[test]
fn what_is_no_unicast_address_is_refused() {
    let (mut registry, a, _) = two();
    let here = realm(0, "none");
    for text in [
        "0.0.0.0/0",
        "0.1.2.3/8",
        "255.255.255.255/32",
        "224.0.0.1/32",
        "127.0.0.1/8",
        "192.0.2.1/33",
        "::/0",
    ]
    .into_iter()
    .chain(["::1/128", "ff02::1/128", "::ffff:192.0.2.1/128", "2001:db8::1/129"])
    {
        assert_eq!(registry.add_address(a, owned(text, here)).unwrap_err().errno, Errno::INVAL, "{text}");
    }
    for text in ["10.0.0.1/24", "10.0.0.0/32", "0.0.0.0/0", "2001:db8::1/64", "10.0.0.0/7", "2001:db8::/128"]
    {
        assert_eq!(registry.add_address(a, delegated(text, here)).unwrap_err().errno, Errno::INVAL, "{text}");
    }
    assert!(registry.get(a).unwrap().addresses.is_empty());
}

/// A claim of ports that no socket is bound to.
fn unproven(endpoint: u64, first: u16, count: u16, scope: Scope) -> Claim {
    Claim { endpoint, first, count, scope, shared: false, proven: false }
}

#[test]
fn claims_conflict_by_ports_and_address() {
    let mut claims = Claims::default();
    let [one, two] = ["192.0.2.1", "192.0.2.2"].map(|a| Some(a.parse::<IpAddr>().unwrap()));
    let scope = |address: Option<IpAddr>| address.map_or(Scope::All, Scope::Address);
    let claim = |first, count, address| unproven(1, first, count, scope(address));
    assert_eq!(claims.insert(claim(53, 1, one)).unwrap(), [Piece { first: 53, count: 1 }]);
    assert_eq!(claims.insert(claim(53, 1, two)).unwrap(), [], "the piece is there already");
    assert_eq!(claims.insert(claim(53, 1, None)), Err(PortError::InUse(53)));
    assert_eq!(claims.insert(claim(40, 20, None)), Err(PortError::InUse(53)));
    claims.insert(claim(100, 100, None)).unwrap();
    assert_eq!(claims.insert(claim(199, 1, one)), Err(PortError::InUse(199)));
    claims.insert(claim(200, 1, one)).unwrap();
    for bad in [claim(0, 1, None), claim(1, 0, None), claim(65535, 2, None)] {
        assert_eq!(claims.insert(bad), Err(PortError::Range));
    }
    assert_eq!(claims.remove(2, 53, scope(one)), None, "not the endpoint's");
    assert_eq!(claims.remove(1, 53, scope(one)).unwrap().1, []);
    assert_eq!(claims.remove(1, 53, scope(two)).unwrap().1, [Piece { first: 53, count: 1 }]);
    assert_eq!(claims.free_port(100, 201, 150, Scope::All), Some(201));
    assert_eq!(claims.free_port(100, 200, 0, Scope::All), None);
    assert_eq!(claims.of(1).len(), 2);
}

#[test]
fn proven_claims_stand_beside_each_other() {
    let mut claims = Claims::default();
    let proven = |endpoint, scope| Claim { proven: true, ..unproven(endpoint, 53, 1, scope) };
    let address = Scope::Address("192.0.2.1".parse().unwrap());
    assert_eq!(claims.insert(proven(1, Scope::All)).unwrap(), [Piece { first: 53, count: 1 }]);
    for (endpoint, scope) in [(2, Scope::All), (2, Scope::V4), (1, address), (3, Scope::V6)] {
        assert_eq!(claims.insert(proven(endpoint, scope)).unwrap(), []);
        assert_eq!(claims.insert(proven(endpoint, scope)), Err(PortError::InUse(53)), "its own");
    }
    // Who has no socket has nothing to say here.
    for scope in [Scope::All, Scope::V4, address] {
        assert_eq!(claims.insert(unproven(9, 53, 1, scope)), Err(PortError::InUse(53)));
        assert_eq!(claims.insert(unproven(9, 50, 10, scope)), Err(PortError::InUse(53)));
    }
    assert_eq!(claims.free_port(53, 54, 0, Scope::All), Some(54));
    // Of the loopback the XDP program knows nothing.
    let loopback = Scope::Address("127.0.0.1".parse().unwrap());
    assert_eq!(claims.insert(Claim { first: 99, ..proven(1, loopback) }).unwrap(), []);
    assert_eq!(claims.insert(unproven(9, 99, 1, Scope::All)).unwrap(), [Piece { first: 99, count: 1 }]);
    assert_eq!(claims.remove(1, 99, loopback).unwrap().1, []);
    for (endpoint, scope) in [(1, Scope::All), (2, Scope::All), (2, Scope::V4), (1, address)] {
        assert_eq!(claims.remove(endpoint, 53, scope).unwrap().1, []);
    }
    assert_eq!(claims.remove(3, 53, Scope::V6).unwrap().1, [Piece { first: 53, count: 1 }]);
    assert_eq!(claims.len(), 1);
}

proptest! {
    #[test]
    fn pieces_cover_exactly(first in 1u16.., count in 1u16..) {
        prop_assume!(u32::from(first) + u32::from(count) <= 1 << 16);
        let mut at = u32::from(first);
        for piece in pieces(first, count) {
            prop_assert_eq!(u32::from(piece.first), at);
            prop_assert!(piece.count.is_power_of_two() && piece.first % piece.count == 0);
            at += u32::from(piece.count);
        }
        prop_assert_eq!(at, u32::from(first) + u32::from(count));
        prop_assert!(pieces(first, count).count() <= 32);
    }

    #[test]
    fn claims_agree_with_a_list(ops in prop::collection::vec((any::<bool>(), 1u16..64, 1u16..16, 0u8..3), 1..80)) {
        let mut claims = Claims::default();
        let mut list: Vec<(u32, u32, u8)> = Vec::new();
        for (add, first, count, address) in ops {
            let to = if address > 0 { Scope::Address([192, 0, 2, address].into()) } else { Scope::All };
            if add {
                let (start, end) = (u32::from(first), u32::from(first) + u32::from(count));
                let taken = list.iter().any(|(s, e, a)| *s < end && start < *e && (*a == 0 || address == 0 || *a == address));
                let got = claims.insert(unproven(1, first, count, to));
                prop_assert_eq!(got.is_err(), taken);
                if !taken { list.push((start, end, address)); }
            } else {
                let at = list.iter().position(|(s, _, a)| *s == u32::from(first) && *a == address);
                prop_assert_eq!(claims.remove(1, first, to).is_some(), at.is_some());
                if let Some(at) = at { list.remove(at); }
            }
            // What XDP holds covers exactly the union of the claims.
            for port in 1u32..100 {
                let held = claims.holds(port);
                prop_assert_eq!(held, list.iter().any(|(s, e, _)| (*s..*e).contains(&port)));
            }
        }
    }

    #[test]
    fn owners_agree_with_a_list(
        ops in prop::collection::vec((any::<bool>(), 0u8..3, 0u8..8, 28u8..=32, 1u32..4, 0u8..2), 1..60),
    ) {
        let mut registry = Registry::new(Limits::default());
        for name in ["a", "b", "c"] {
            registry.add(name, Policy::default(), None).unwrap();
        }
        let mut list: Vec<(Realm, Prefix, Slot)> = Vec::new();
        for (add, third, last, len, slot, vlan) in ops {
            let realm = realm(0, if vlan == 0 { "none" } else { "9" });
            let address = Prefix { address: IpAddr::from([10, 0, third, last * 31]), len }.network();
            let prefix = Prefix { address, len };
            let what = Owned {
                realm, address, prefix_len: len, delegated: len < 32, fast_only: true, defend: None, nodad: false, state: AddressState::Ok,
            };
            if add {
                let taken = list.iter().any(|(r, p, _)| *r == realm && *p == prefix);
                prop_assert_eq!(registry.add_address(slot, what).is_err(), taken);
                if !taken { list.push((realm, prefix, slot)); }
            } else {
                let at = list.iter().position(|(r, p, _)| *r == realm && *p == prefix);
                prop_assert_eq!(registry.remove_address(realm, prefix).is_some(), at.is_some());
                if let Some(at) = at { list.remove(at); }
            }
            for third in 0..3 {
                for last in 0..=255 {
                    let address = IpAddr::from([10, 0, third, last]);
                    let longest = list.iter().filter(|(r, p, _)| *r == realm && p.contains(address)).max_by_key(|(_, p, _)| p.len);
                    prop_assert_eq!(registry.owner(realm, address), longest.map(|(_, _, s)| *s));
                }
            }
        }
        let owned: usize = registry.iter().map(|(_, c)| c.addresses.len()).sum();
        prop_assert_eq!(owned, list.len());
    }
}
