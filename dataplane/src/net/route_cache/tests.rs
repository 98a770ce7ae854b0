use super::*;
use crate::net::mapped;

fn key(slot: u32, host: u32) -> Key {
    let [_, b, c, d] = host.to_be_bytes();
    Key { dst: mapped([10, b, c, d]), src: [0; 16], slot, ifindex: 0, vlan: Vlan::NONE }
}

fn wire(last: u8) -> Route {
    Route::Wire {
        ifindex: 2,
        vlan: Vlan::NONE,
        src_mac: [2, 0, 0, 0, 0, 1],
        dst_mac: [2, 0, 0, 0, 0, last],
        mtu: 1500,
        src: [10, 0, 0, 1].into(),
    }
}

fn cache() -> RouteCache<u32> {
    RouteCache::new(Limits { entries: 1024, ..Limits::default() }, hash::Key::random())
}

/// Answers and collects what waited.
fn answer(c: &mut RouteCache<u32>, key: &Key, route: Route, now: u64) -> Vec<u32> {
    let mut ready = Vec::new();
    c.answer(key, route, now, |item| ready.push(item));
    ready
}

#[test]
fn keys_have_two_forms() {
    for (dst, src) in [("10.0.0.1", None), ("2001:db8::1", Some("2001:db8::2")), ("::1", None)] {
        let long = RouteKey {
            slot: 7,
            dst: dst.parse().unwrap(),
            src: src.map(|s| s.parse().unwrap()),
            ifindex: 3,
            vlan: Vlan::new(None, Some(9)).unwrap(),
        };
        assert_eq!(RouteKey::from(&Key::from(&long)), long);
    }
}

#[test]
fn asked_once_and_sent_in_order() {
    let mut c = cache();
    let k = key(1, 1);
    assert_eq!(c.lookup(&k, 0), Lookup::Unknown);
    assert_eq!(c.wait(&k, 10, 0), Ok(Ask::Yes));
    assert_eq!(c.wait(&k, 11, 0), Ok(Ask::No));
    assert_eq!(answer(&mut c, &k, Route::Pending, 1), []);
    assert_eq!(c.lookup(&k, 1), Lookup::Unknown);
    assert_eq!(c.waiting(), 2);
    assert_eq!(answer(&mut c, &k, wire(1), 2), [10, 11]);
    assert_eq!(c.lookup(&k, 3), Lookup::Known(&wire(1)));
    assert_eq!(c.waiting(), 0);
    // An answer that nobody waits for replaces the old one.
    assert_eq!(answer(&mut c, &k, wire(2), 4), []);
    assert_eq!(c.lookup(&k, 5), Lookup::Known(&wire(2)));
    assert_eq!(c.lookup(&key(2, 1), 5), Lookup::Unknown, "another compartment's");
}

#[test]
fn answers_age() {
    let mut c = cache();
    let k = key(1, 1);
    answer(&mut c, &k, wire(1), 0);
    assert_eq!(c.lookup(&k, REFRESH_NS - 1), Lookup::Known(&wire(1)));
    assert_eq!(c.lookup(&k, REFRESH_NS), Lookup::Refresh(&wire(1)));
    assert_eq!(c.lookup(&k, REFRESH_NS + 1), Lookup::Known(&wire(1)), "said once");
    let dead = Route::Unreachable { errno: 113 };
    answer(&mut c, &k, dead, 0);
    assert_eq!(c.lookup(&k, NEGATIVE_NS - 1), Lookup::Known(&dead));
    assert_eq!(c.lookup(&k, NEGATIVE_NS), Lookup::Unknown);
    assert_eq!(c.wait(&k, 1, NEGATIVE_NS), Ok(Ask::Yes));
}

#[test]
fn a_flush_forgets_and_asks_again() {
    let mut c = cache();
    answer(&mut c, &key(1, 1), wire(1), 0);
    c.wait(&key(1, 2), 5, 0).unwrap();
    let mut asked = Vec::new();
    c.flush(|k| asked.push(*k));
    assert_eq!(asked, [key(1, 2)]);
    assert_eq!(c.lookup(&key(1, 1), 1), Lookup::Unknown);
    assert_eq!(answer(&mut c, &key(1, 2), wire(2), 1), [5]);
}

#[test]
fn waiting_is_bounded() {
    let mut c = cache();
    let limits = Limits::default();
    for n in 0..u32::try_from(limits.items_per_key).unwrap() {
        assert!(c.wait(&key(1, 1), n, 0).is_ok());
    }
    assert_eq!(c.wait(&key(1, 1), 99, 0), Err((Drop::RouteFull, 99)));
    for host in 2..=u32::try_from(limits.keys_per_slot).unwrap() {
        assert_eq!(c.wait(&key(1, host), host, 0), Ok(Ask::Yes), "{host}");
    }
    assert_eq!(c.wait(&key(1, 5000), 0, 0), Err((Drop::RouteFull, 0)));
    // Another compartment has its own share, and the items have a limit too.
    for n in 0..limits.items_per_slot {
        let host = u32::try_from(n / limits.items_per_key).unwrap();
        assert!(c.wait(&key(2, host), 0, 0).is_ok(), "{n}");
    }
    assert_eq!(c.wait(&key(2, 77), 0, 0), Err((Drop::RouteFull, 0)));
    // All compartments together.
    let total = |c: &RouteCache<u32>| c.waiting.len();
    for slot in 3..200 {
        for host in 0..32 {
            let _ = c.wait(&key(slot, host), 0, 0);
        }
    }
    assert_eq!(total(&c), limits.keys);
    // Everything comes back.
    let mut lost = 0;
    c.expire(WAIT_NS - 1, |_, _| panic!("too early"));
    c.remove_slot(1, |k, _| {
        assert_eq!(k.slot, 1);
        lost += 1;
    });
    assert_eq!(lost, limits.items_per_key + limits.keys_per_slot - 1);
    c.expire(WAIT_NS, |_, _| lost += 1);
    assert_eq!((c.waiting(), total(&c), c.usage.len()), (0, 0, 0));
    assert_eq!(c.wait(&key(1, 1), 1, 0), Ok(Ask::Yes));
}

#[test]
fn a_removed_compartment_leaves_no_route() {
    let mut c = cache();
    answer(&mut c, &key(1, 1), wire(1), 0);
    answer(&mut c, &key(2, 1), wire(2), 0);
    c.remove_slot(1, |_, _| ());
    assert_eq!(c.lookup(&key(1, 1), 1), Lookup::Unknown);
    assert_eq!(c.lookup(&key(2, 1), 1), Lookup::Known(&wire(2)));
}

#[test]
fn a_scan_evicts_its_own_compartment_first() {
    let mut c = cache();
    answer(&mut c, &key(9, 1), wire(9), 0);
    for host in 0..50_000 {
        answer(&mut c, &key(1, host), wire(1), 0);
    }
    assert_eq!(c.lookup(&key(9, 1), 1), Lookup::Known(&wire(9)));
    let cached = c.sets.iter().flatten().flatten().count();
    assert!(cached <= 1024 && cached > 900, "{cached}");
}
