//! The machine by example, and by what must hold whatever happens.

use std::net::IpAddr;

use afnet_abi::vlan::Vlan;
use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Not random at all.
fn fixed(value: u64) -> impl FnMut() -> u64 {
    let mut next = value;
    move || {
        next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        next
    }
}

/// Lets time pass up to `until` and returns what happened when, in milliseconds since `start`.
fn run(machine: &mut Machine, start: Instant, until: Duration, random: Random<'_>) -> Vec<(u128, Step)> {
    let mut seen = Vec::new();
    while let Some(due) = machine.due().filter(|due| *due <= start + until) {
        let step = machine.timer(due, random);
        if step != Step::default() {
            seen.push(((due - start).as_millis(), step));
        }
        assert!(machine.due().is_none_or(|next| next > due), "{machine:?} does not come forward");
    }
    seen
}

fn is_probe(step: &Step) -> bool {
    matches!(step.send, Some(Send::Probe(_)))
}

#[test]
fn a_free_ipv4_address_is_probed_thrice_and_announced_twice() {
    for seed in 0..200 {
        let (start, mut random) = (Instant::now(), fixed(seed));
        let mut machine = Machine::start(&Timing::ACD, Defend::Once, start, None, &mut random);
        let seen = run(&mut machine, start, 20 * SECOND, &mut random);
        let times: Vec<u128> = seen.iter().map(|(at, _)| *at).collect();
        let [a, b, c, used, again] = times[..] else { panic!("{seen:?}") };
        assert!(
            a <= 1000 && (1000..=2000).contains(&(b - a)) && (1000..=2000).contains(&(c - b)),
            "{times:?}"
        );
        assert!((1999..=2000).contains(&(used - c)) && (1999..=2001).contains(&(again - used)), "{times:?}");
        assert!(seen[..3].iter().all(|(_, step)| is_probe(step) && step.change.is_none()));
        let announce = Some(Send::Announce { replace: false });
        assert_eq!(seen[3].1, Step { send: announce, change: Some(Change::Usable) });
        assert_eq!(seen[4].1, Step { send: announce, change: None });
        assert!(machine.idle() && used <= Timing::ACD.longest().as_millis());
    }
}

#[test]
fn a_free_ipv6_address_is_probed_once_and_announced_thrice() {
    let (start, mut random) = (Instant::now(), fixed(7));
    let mut machine = Machine::start(&Timing::DAD, Defend::Once, start, None, &mut random);
    let seen = run(&mut machine, start, 20 * SECOND, &mut random);
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen[0].0 <= 1000 && (999..=1001).contains(&(seen[1].0 - seen[0].0)));
    assert_eq!(seen[1].1.change, Some(Change::Usable));
    assert!(seen[2..].iter().all(|(_, step)| step.send == Some(Send::Announce { replace: false })));
}

#[test]
fn any_sign_of_another_host_before_it_is_in_use_is_a_duplicate() {
    for timing in [&Timing::ACD, &Timing::DAD] {
        for sign in [Sign::Use, Sign::Probe(None), Sign::Probe(Some([9; 6]))] {
            // Before the first probe, between, after the last.
            for probes in 0..=timing.probes {
                let (mut now, mut random) = (Instant::now(), fixed(1));
                let mut machine = Machine::start(timing, Defend::Always, now, None, &mut random);
                for _ in 0..probes {
                    now = machine.due().unwrap();
                    assert!(is_probe(&machine.timer(now, &mut random)));
                }
                let step = machine.conflict(sign, now);
                assert_eq!(step, Step { send: None, change: Some(Change::Lost) }, "{sign:?} {probes}");
                assert!(machine.due().is_none() && !machine.idle());
                assert_eq!(machine.conflict(Sign::Use, now), Step::default(), "said once");
            }
        }
    }
}

#[test]
fn a_probe_that_comes_back_is_a_loop_and_probing_goes_on() {
    let (mut now, mut random) = (Instant::now(), fixed(3));
    let mut machine = Machine::start(&Timing::DAD, Defend::Once, now, None, &mut random);
    let mut nonces = Vec::new();
    // Twice all probes come back, the third time none.
    for round in 0..10 {
        now = machine.due().unwrap();
        let step = machine.timer(now, &mut random);
        if step.change == Some(Change::Usable) {
            assert_eq!(nonces.len(), 1 + 3 + 3);
            return;
        }
        let Some(Send::Probe(nonce)) = step.send else { panic!("{step:?}") };
        assert!(!nonces.contains(&nonce), "nonces are fresh");
        nonces.push(nonce);
        if round < 4 {
            assert_eq!(machine.conflict(Sign::Probe(Some(nonce)), now), Step::default());
        }
    }
    panic!("{machine:?} never ends");
}

#[test]
fn an_old_nonce_of_ours_is_a_loop_still() {
    let (now, mut random) = (Instant::now(), fixed(3));
    let mut machine = Machine::start(&Timing::ACD, Defend::Once, now, None, &mut random);
    let mut first = None;
    for _ in 0..3 {
        let due = machine.due().unwrap();
        if let Some(Send::Probe(nonce)) = machine.timer(due, &mut random).send {
            first.get_or_insert(nonce);
        }
    }
    assert_eq!(machine.conflict(Sign::Probe(first), now), Step::default());
}

#[test]
fn the_three_policies_of_rfc_5227_2_4() {
    let announce = Step { send: Some(Send::Announce { replace: true }), change: None };
    let lost = Step { send: None, change: Some(Change::Lost) };
    let nothing = Step::default();
    let cases = [
        // Signs at these seconds, and what follows from each.
        (Defend::GiveUp, vec![(0, lost)]),
        (Defend::Once, vec![(0, announce), (9, lost), (30, nothing)]),
        (Defend::Once, vec![(0, announce), (10, announce), (21, announce), (22, lost)]),
        (Defend::Always, vec![(0, announce), (1, nothing), (9, nothing), (10, announce), (11, nothing)]),
    ];
    for (defend, signs) in cases {
        let (start, mut random) = (Instant::now(), fixed(5));
        let mut machine = Machine::used(&Timing::ACD, defend, None, false);
        for (at, wanted) in signs {
            let now = start + at * SECOND;
            while machine.due().is_some_and(|due| due <= now) {
                machine.timer(machine.due().unwrap(), &mut random);
            }
            assert_eq!(machine.conflict(Sign::Probe(None), now), nothing, "a probe is answered, no more");
            assert_eq!(machine.conflict(Sign::Use, now), wanted, "{defend:?} at {at} s");
        }
    }
}

#[test]
fn after_ten_failures_an_address_waits_a_minute() {
    let (now, mut random) = (Instant::now(), fixed(5));
    let mut failures = Failures::default();
    for _ in 0..9 {
        failures.add(now);
        assert_eq!(failures.earliest(), None);
    }
    failures.add(now);
    assert_eq!(failures.earliest(), Some(now + 60 * SECOND));
    let machine = Machine::start(&Timing::ACD, Defend::Once, now + SECOND, failures.earliest(), &mut random);
    assert!(machine.due().unwrap() >= now + 60 * SECOND);
    assert!(!failures.stale(now + 599 * SECOND) && failures.stale(now + 600 * SECOND));
}

#[test]
fn what_others_decide_waits_for_them() {
    let now = Instant::now();
    let mut machine = Machine::held(&Timing::DAD, Defend::Once);
    assert!(machine.due().is_none() && machine.is_held() && !machine.idle());
    assert_eq!(machine.conflict(Sign::Use, now), Step::default(), "the kernel sees it too");
    assert_eq!(machine.postponed(now), machine);
}

/// What may happen.
#[derive(Clone, Debug)]
enum Input {
    Pass(u64),
    Sign(Sign),
    Loop,
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    let one = prop_oneof![
        4 => (0u64..5000).prop_map(Input::Pass),
        1 => Just(Input::Sign(Sign::Use)),
        1 => Just(Input::Sign(Sign::Probe(None))),
        1 => any::<[u8; 6]>().prop_map(|nonce| Input::Sign(Sign::Probe(Some(nonce)))),
        1 => Just(Input::Loop),
    ];
    prop::collection::vec(one, 0..60)
}

proptest! {
    /// Whatever happens: used only after enough probes and a quiet time; silent when lost; no more than one defence in
    /// ten seconds; never a timer that stands still.
    #[test]
    fn promises(inputs in inputs(), v6: bool, defend in 0u8..3, seed: u64) {
        let defend = [Defend::GiveUp, Defend::Once, Defend::Always][usize::from(defend)];
        let timing = if v6 { &Timing::DAD } else { &Timing::ACD };
        let mut random = fixed(seed);
        let mut now = Instant::now();
        let mut machine = Machine::start(timing, defend, now, None, &mut random);
        let (mut probes, mut last_probe, mut last_nonce) = (0u8, None, None);
        let (mut used, mut lost, mut last_defence) = (false, false, None::<Instant>);
        for input in inputs {
            let mut steps = Vec::new();
            match input {
                Input::Pass(ms) => {
                    let until = now + Duration::from_millis(ms);
                    while let Some(due) = machine.due().filter(|due| *due <= until) {
                        now = now.max(due);
                        steps.push((now, machine.timer(now, &mut random)));
                    }
                    now = until;
                    prop_assert_eq!(machine.timer(now, &mut random), Step::default(), "not before it is due");
                }
                Input::Sign(sign) => {
                    let step = machine.conflict(sign, now);
                    if let Some(Send::Announce { .. }) = step.send {
                        prop_assert!(last_defence.is_none_or(|last| now - last >= DEFEND_INTERVAL));
                        last_defence = Some(now);
                    }
                    if !used && !lost {
                        prop_assert_eq!(step.change, Some(Change::Lost));
                    }
                    prop_assert!(!(used && defend == Defend::Always && step.change.is_some()));
                    steps.push((now, step));
                }
                Input::Loop => {
                    if let Some(nonce) = last_nonce {
                        steps.push((now, machine.conflict(Sign::Probe(Some(nonce)), now)));
                    }
                }
            }
            for (at, step) in steps {
                prop_assert!(!lost || step == Step::default(), "silent when lost");
                match step.send {
                    Some(Send::Probe(nonce)) => {
                        prop_assert!(!used);
                        prop_assert!(last_probe.is_none_or(|last| at - last >= timing.gap.0));
                        (probes, last_probe, last_nonce) = (probes.saturating_add(1), Some(at), Some(nonce));
                    }
                    Some(Send::Announce { .. }) => prop_assert!(used || step.change == Some(Change::Usable)),
                    None => {}
                }
                match step.change {
                    Some(Change::Usable) => {
                        prop_assert!(!used && probes >= timing.probes);
                        prop_assert!(last_probe.is_some_and(|last| at - last >= timing.settle));
                        used = true;
                    }
                    Some(Change::Lost) => lost = true,
                    None => {}
                }
            }
        }
    }
}

#[test]
fn frames_are_those_of_the_rfcs() {
    use afnet_tests::packet;
    let mac = [2, 0, 0, 0, 0, 9];
    let (v4, v6): (IpAddr, IpAddr) = ("192.0.2.7".parse().unwrap(), "2001:db8::1:2:3".parse().unwrap());
    let IpAddr::V4(four) = v4 else { unreachable!() };
    let IpAddr::V6(six) = v6 else { unreachable!() };
    for (tags, vlan) in [
        (vec![], "none"),
        (vec![(0x8100, 7)], "7"),
        (vec![(0x88a8, 7)], "ad:7"),
        (vec![(0x88a8, 10), (0x8100, 7)], "10.7"),
    ] {
        let vlan: Vlan = vlan.parse().unwrap();
        let make = |send, address| packet::untag(&frame::build(send, address, mac, vlan), &tags).unwrap();
        let replace = Send::Announce { replace: true };
        let nobody = std::net::Ipv4Addr::UNSPECIFIED;
        let arp = |sender| packet::arp(1, (mac, sender), ([0; 6], four), packet::BROADCAST);
        assert_eq!(make(Send::Probe([1; 6]), v4), arp(nobody), "5227 2.1.1");
        assert_eq!(make(replace, v4), arp(four), "5227 2.3");
        let probe = make(Send::Probe([1, 2, 3, 4, 5, 6]), v6);
        let body = [&six.octets()[..], &[14, 1, 1, 2, 3, 4, 5, 6]].concat();
        let group = packet::solicited_node(six);
        let macs = (mac, packet::multicast_mac(group));
        let unspecified = std::net::Ipv6Addr::UNSPECIFIED;
        assert_eq!(probe, packet::icmpv6(macs, unspecified, group, 135, &[0; 4], &body), "4862 5.4.2, 7527");
        for (replace, flags, to) in [(false, 0, "ff02::2"), (true, 0b001, "ff02::1")] {
            let seen = packet::read_advertisement(&make(Send::Announce { replace }, v6)).unwrap();
            assert_eq!((seen.flags, seen.target, seen.link_layer), (flags, six, Some(mac)));
            assert_eq!(seen.addresses, (v6, to.parse().unwrap()));
        }
    }
}

#[test]
fn groups_map_to_link_layer_addresses() {
    let mac = |text: &str| frame::group_mac(text.parse().unwrap());
    assert_eq!(mac("224.128.1.2"), Some([1, 0, 0x5e, 0, 1, 2]));
    assert_eq!(mac("239.255.1.2"), Some([1, 0, 0x5e, 0x7f, 1, 2]));
    assert_eq!(mac("ff02::1:ff00:1234"), Some([0x33, 0x33, 0xff, 0, 0x12, 0x34]));
    assert_eq!(mac("255.255.255.255"), Some([0xff; 6]));
    assert_eq!(mac("192.0.2.1"), None);
}
