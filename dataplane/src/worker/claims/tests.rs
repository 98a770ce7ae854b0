use std::net::IpAddr;

use super::*;
use crate::net::mapped;

const NONE: Families = Families { v4: false, v6: false };

fn held(first: u16, count: u16, scope: Scope, sharing: Sharing) -> Held {
    Held::new(&PortClaim { first, count, scope, sharing, loopback: NONE }).unwrap()
}

fn one(first: u16, scope: Scope) -> Held {
    held(first, 1, scope, Sharing::Newest)
}

fn at(address: [u8; 4]) -> Scope {
    Scope::Address(IpAddr::from(address))
}

fn no_flow() -> u64 {
    unreachable!("nobody shares the port")
}

#[test]
fn the_most_specific_claim_wins() {
    let (a, b) = (mapped([10, 0, 0, 1]), mapped([10, 0, 0, 2]));
    let six = from_ip("2001:db8::1".parse().unwrap());
    let mut table = ClaimTable::default();
    let find = |table: &ClaimTable, address: &Address, port| table.find(address, port, no_flow);
    assert_eq!(find(&table, &a, 53), None);
    table.insert(one(53, Scope::All), 1);
    assert_eq!(
        (find(&table, &a, 53), find(&table, &a, 54), find(&table, &six, 53)),
        (Some(1), None, Some(1))
    );
    table.insert(held(1000, 100, Scope::All, Sharing::Exclusive), 2);
    table.insert(one(1050, at([10, 0, 0, 1])), 3);
    table.insert(one(53, at([10, 0, 0, 2])), 4);
    table.insert(one(53, Scope::V4), 5);
    assert_eq!(
        (find(&table, &a, 53), find(&table, &b, 53), find(&table, &six, 53)),
        (Some(5), Some(4), Some(1))
    );
    table.insert(one(53, Scope::V6), 6);
    assert_eq!((find(&table, &a, 53), find(&table, &six, 53)), (Some(5), Some(6)));
    assert_eq!((find(&table, &a, 1050), find(&table, &b, 1050)), (Some(3), Some(2)));
    assert_eq!(
        (find(&table, &a, 1099), find(&table, &a, 1100), find(&table, &a, 999)),
        (Some(2), None, None)
    );
    table.remove_all(3);
    assert_eq!(find(&table, &a, 1050), Some(2));
    table.remove(&one(53, Scope::V4).claim, 5);
    table.remove(&one(53, Scope::All).claim, 1);
    assert_eq!(
        (find(&table, &a, 53), find(&table, &b, 53), find(&table, &six, 53)),
        (None, Some(4), Some(6))
    );
    for endpoint in 1..7 {
        table.remove_all(endpoint);
    }
    assert!(table.is_empty());
}

#[test]
fn the_newest_serves_and_the_one_before_comes_back() {
    let a = mapped([10, 0, 0, 1]);
    let mut table = ClaimTable::default();
    for endpoint in [1, 2, 3] {
        table.insert(one(53, Scope::All), endpoint);
        assert_eq!(table.find(&a, 53, no_flow), Some(endpoint));
    }
    table.remove(&one(53, Scope::All).claim, 2);
    assert_eq!(table.find(&a, 53, no_flow), Some(3));
    table.remove_all(3);
    assert_eq!(table.find(&a, 53, no_flow), Some(1));
    table.remove_all(1);
    assert!(table.find(&a, 53, no_flow).is_none() && table.is_empty());
}

#[test]
fn a_group_shares_flows_evenly_and_each_flow_stays() {
    let a = mapped([10, 0, 0, 1]);
    let shared = held(53, 1, Scope::V4, Sharing::Flows);
    let mut table = ClaimTable::default();
    table.insert(one(53, Scope::V4), 9);
    // Alone it needs no flow; beneath, one that is not shared waits.
    table.insert(shared, 1);
    assert_eq!(table.find(&a, 53, no_flow), Some(1));
    for endpoint in [2, 3, 4] {
        table.insert(shared, endpoint);
    }
    let flows = |table: &ClaimTable| -> Vec<u32> {
        let key = crate::net::hash::Key::fixed(7);
        let flow = |n: u32| table.find(&a, 53, || key.hash(&a, &a, u64::from(n))).unwrap();
        (0..4096).map(flow).collect()
    };
    let first = flows(&table);
    assert_eq!(first, flows(&table));
    for endpoint in 1..=4 {
        let share = first.iter().filter(|e| **e == endpoint).count();
        assert!((800..1250).contains(&share), "{endpoint}: {share}");
    }
    table.remove_all(3);
    assert!(flows(&table).iter().all(|e| [1, 2, 4].contains(e)));
    // One that shares with nobody takes everything, until it goes.
    table.insert(one(53, Scope::V4), 5);
    assert_eq!(table.find(&a, 53, no_flow), Some(5));
    table.remove_all(5);
    assert!(flows(&table).iter().all(|e| [1, 2, 4].contains(e)));
    for endpoint in [1, 2, 4] {
        table.remove_all(endpoint);
    }
    assert_eq!(table.find(&a, 53, no_flow), Some(9));
    // Hashes at the ends of their range.
    table.insert(shared, 1);
    table.insert(shared, 2);
    assert_eq!((table.find(&a, 53, || 0), table.find(&a, 53, || u64::MAX)), (Some(1), Some(2)));
}

#[test]
fn loopback_is_for_claims_that_have_it() {
    let (four, six) = (mapped([127, 0, 0, 1]), from_ip("::1".parse().unwrap()));
    let mut table = ClaimTable::default();
    let find = |table: &ClaimTable, address: &Address, port| table.find_loopback(address, port, no_flow);
    table.insert(one(53, Scope::All), 1);
    assert_eq!((find(&table, &four, 53), find(&table, &six, 53)), (None, None));
    let wild =
        PortClaim { scope: Scope::All, loopback: Families { v4: true, v6: false }, ..PortClaim::new(54, 1) };
    table.insert(Held::new(&wild).unwrap(), 2);
    assert_eq!((find(&table, &four, 54), find(&table, &six, 54)), (Some(2), None));
    table.insert(one(54, at([127, 0, 0, 1])), 3);
    assert_eq!((find(&table, &four, 54), find(&table, &mapped([127, 0, 0, 2]), 54)), (Some(3), Some(2)));
    let loopback = one(54, Scope::Address("::1".parse().unwrap()));
    assert!(loopback.on_loopback(false) && !loopback.on_loopback(true));
    table.insert(loopback, 4);
    assert_eq!(find(&table, &six, 54), Some(4));
}

#[test]
fn ranges_are_checked() {
    for (first, count) in [(0, 1), (1, 0), (65535, 2)] {
        assert!(Claim::new(first, count, Scope::All).is_none());
    }
    let block = held(65000, 536, Scope::All, Sharing::Exclusive);
    assert_eq!(block.claim.last, 65535);
    assert!(block.excludes(&one(65535, Scope::All)));
    assert!(!block.excludes(&one(65535, at([10, 0, 0, 1]))) && !block.excludes(&one(65535, Scope::V4)));
    assert!(!one(53, Scope::All).excludes(&held(53, 1, Scope::All, Sharing::Flows)));
    assert!(one(53, Scope::All).excludes(&held(53, 2, Scope::All, Sharing::Newest)));
}

#[test]
fn who_claims_a_family_speaks_it_alone() {
    let (a, six) = (mapped([10, 0, 0, 1]), from_ip("2001:db8::1".parse().unwrap()));
    let claim = one(53, Scope::V6).claim;
    assert!(claim.permits(53, None) && claim.permits(53, Some(&six)) && !claim.permits(53, Some(&a)));
    assert!(claim.speaks(false) && !claim.speaks(true));
    let claim = one(53, at([10, 0, 0, 1])).claim;
    assert!(claim.permits(53, Some(&a)) && !claim.permits(53, Some(&mapped([10, 0, 0, 2]))));
    assert!(claim.speaks(true) && !claim.speaks(false) && claim.address() == Some(a));
    let all = one(53, Scope::All).claim;
    assert!(all.speaks(true) && all.speaks(false) && !all.permits(54, None) && all.address().is_none());
}
