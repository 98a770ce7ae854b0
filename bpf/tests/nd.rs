//! Each line of the neighbour discovery rules (RFC 4861, 4862, 6980): verdict, bytes out, counters, events.

mod common;

use afnet_bpf::{AddressEntry, ConflictKind, Counter, Event};
use common::{
    Bench, MAC, PEER, UNTAGGED, Verdict, addr,
    frames::{Nd, advertisement, lla, solicited_node, tag},
};

const HOST: &str = "2001:db8::99";
const OURS: &str = "2001:db8::1";
const TENTATIVE: &str = "2001:db8::5";
/// S and O, and O alone (RFC 4861 4.4).
const SOLICITED: u8 = 0x60;
const OVERRIDE: u8 = 0x20;

fn unicast(nd: Nd) -> Nd {
    Nd { to: nd.target.clone(), to_mac: MAC, ..nd }
}

#[test]
fn solicitations_for_our_addresses_are_answered() {
    for frags in [false, true] {
        let bench = Bench::new(frags);
        let answer = advertisement(OURS, HOST, PEER, SOLICITED);
        let ns = Nd::solicit(HOST, OURS);
        bench.expect_answer("multicast (7.2.4)", &ns.frame(), &answer, Counter::TxNa);
        bench.expect_answer("unicast", &unicast(ns.clone()).frame(), &answer, Counter::TxNa);

        let bare = Nd { options: vec![], ..ns.clone() };
        bench.expect_answer("without option: it must grow", &bare.frame(), &answer, Counter::TxNa);

        let nonce = [lla(1, PEER), vec![14, 1, 1, 2, 3, 4, 5, 6], vec![200, 2], vec![0; 14]].concat();
        let long = Nd { options: nonce, ..ns.clone() };
        bench.expect_answer("unknown options are ignored: it shrinks", &long.frame(), &answer, Counter::TxNa);

        let other = [2, 0, 0, 0, 0, 0x77];
        let elsewhere = Nd { options: lla(1, other), ..ns.clone() };
        let there = advertisement(OURS, HOST, other, SOLICITED);
        bench.expect_answer("to the link-layer address it says", &elsewhere.frame(), &there, Counter::TxNa);

        let all = advertisement(OURS, "ff02::1", [0x33, 0x33, 0, 0, 0, 1], OVERRIDE);
        bench.expect_answer("probe (7.2.4)", &Nd::solicit("::", OURS).frame(), &all, Counter::TxNa);
    }
}

#[test]
fn options_headers_before_the_solicitation_are_skipped() {
    let bench = Bench::new(false);
    let answer = advertisement(OURS, HOST, PEER, SOLICITED);
    let pad = |next| vec![next, 0, 1, 4, 0, 0, 0, 0];
    for (first, headers) in [
        (0, pad(58)),
        (60, pad(58)),
        (0, [pad(60), pad(58)].concat()),
        (60, [pad(60), pad(60), pad(58)].concat()),
    ] {
        let ns = Nd { extensions: Some((first, headers)), ..Nd::solicit(HOST, OURS) };
        bench.expect_answer("extension headers", &ns.frame(), &answer, Counter::TxNa);
    }
    let fragment = vec![58, 0, 0, 0, 0, 0, 0, 1];
    let ns = Nd { extensions: Some((44, fragment)), ..Nd::solicit(HOST, OURS) };
    bench.expect_pass("atomic fragment (6980)", &ns.frame(), Counter::PassNdFragment);
    let fragment = vec![58, 0, 0, 1, 0, 0, 0, 1];
    let ns = Nd { extensions: Some((44, fragment)), ..Nd::solicit(HOST, OURS) };
    bench.expect_pass("first fragment (6980)", &ns.frame(), Counter::PassNdFragment);
}

#[test]
fn an_address_is_answered_in_its_realm_only() {
    let bench = Bench::new(false);
    bench.own("7|2001:db8:7::1", AddressEntry { slot: 3, ..Default::default() });
    let ns = Nd::solicit(HOST, "2001:db8:7::1").frame();
    let answer = advertisement("2001:db8:7::1", HOST, PEER, SOLICITED);
    bench.expect_pass("untagged", &ns, Counter::PassNdOther);
    for tags in [vec![(0x8100, 0xa007)], vec![(0x88a8, 0), (0x8100, 7)]] {
        bench.expect_answer("tagged", &tag(&ns, &tags), &tag(&answer, &tags), Counter::TxNa);
    }
    bench.expect_pass("other realm", &tag(&ns, &[(0x88a8, 7)]), Counter::PassNdOther);
}

#[test]
fn invalid_solicitations_are_passed() {
    let bench = Bench::new(false);
    let good = Nd::solicit(HOST, OURS);
    let probe = Nd::solicit("::", OURS);
    for (what, nd, counter) in [
        ("hop limit (7.1.1)", Nd { hop_limit: 254, ..good.clone() }, Counter::PassNdHopLimit),
        ("code", Nd { code: 1, ..good.clone() }, Counter::PassNdCode),
        ("multicast target", Nd { target: "ff02::1".into(), ..good.clone() }, Counter::PassNdTarget),
        (
            "option of length 0",
            Nd { options: vec![1, 0, 0, 0, 0, 0, 0, 0], ..good.clone() },
            Counter::PassNdOption,
        ),
        (
            "option too long",
            Nd { options: vec![1, 2, 0, 0, 0, 0, 0, 0], ..good.clone() },
            Counter::PassNdOption,
        ),
        ("cut option", Nd { options: vec![1, 1, 0, 0], ..good.clone() }, Counter::PassNdOption),
        (":: to unicast", unicast(probe.clone()), Counter::PassNdSource),
        (":: to all nodes", Nd { to: "ff02::1".into(), ..probe.clone() }, Counter::PassNdSource),
        (":: with source option", Nd { options: lla(1, PEER), ..probe.clone() }, Counter::PassNdSource),
        ("multicast source", Nd { from: "ff02::1".into(), ..good.clone() }, Counter::PassNdSource),
        ("loopback source", Nd { from: "::1".into(), ..good.clone() }, Counter::PassNdSource),
        ("too long to check", Nd { options: lla(1, PEER).repeat(14), ..good.clone() }, Counter::PassNdLength),
    ] {
        bench.expect_pass(what, &nd.frame(), counter);
    }
    let longest = Nd { options: lla(1, PEER).repeat(13), ..good.clone() };
    assert_eq!(bench.run(&longest.frame()).verdict, Verdict::Tx);
    let mut sum = good.frame();
    sum[14 + 40 + 2] ^= 1;
    bench.expect_pass("checksum", &sum, Counter::PassNdChecksum);
    let mut target = good.frame();
    target[14 + 40 + 8 + 15] ^= 1;
    bench.expect_pass("checksum covers the target", &target, Counter::PassNdChecksum);
    let mut short = good.frame();
    short.truncate(14 + 40 + 23);
    short[14 + 5] = 23;
    bench.expect_pass("shorter than 24 bytes", &short, Counter::PassNdLength);
}

#[test]
fn truncated_solicitations_are_passed() {
    for frags in [false, true] {
        let bench = Bench::new(frags);
        let good = Nd::solicit(HOST, OURS).frame();
        for length in 14..good.len() {
            let counter = if length < 54 { Counter::PassTruncated } else { Counter::PassIpv6Length };
            bench.expect_pass(&format!("{length} bytes"), &good[..length], counter);
        }
    }
}

#[test]
fn what_is_not_ours_is_passed() {
    let bench = Bench::new(false);
    let nd = |target| Nd::solicit(HOST, target);
    bench.expect_pass("another target", &nd("2001:db8::98").frame(), Counter::PassNdOther);
    bench.expect_pass("NA of another", &Nd::advertise("2001:db8::98").frame(), Counter::PassNdOther);
    for kind in [133, 134, 137] {
        let other = Nd { kind, ..Nd::solicit(HOST, OURS) };
        bench.expect_pass("RS, RA, redirect", &other.frame(), Counter::PassNdOther);
    }
    for kind in [130, 131, 132, 143] {
        let mld = Nd { kind, ..Nd::solicit(HOST, OURS) };
        bench.expect_pass("MLD", &mld.frame(), Counter::PassMld);
    }
    let raw = unicast(Nd { kind: 134, ..Nd::solicit(HOST, "2001:db8::2") });
    bench.expect_pass("never to a raw endpoint", &raw.frame(), Counter::PassNdOther);
    let raw = advertisement("2001:db8::2", HOST, PEER, SOLICITED);
    let asked = Nd::solicit(HOST, "2001:db8::2").frame();
    bench.expect_answer("but answered for it", &asked, &raw, Counter::TxNa);
}

#[test]
fn our_own_frames_are_recognised() {
    let mut bench = Bench::new(false);
    for (what, nd) in [
        ("own probe", Nd { mac: MAC, ..Nd::solicit("::", TENTATIVE) }),
        ("own solicitation", Nd { mac: MAC, ..Nd::solicit(OURS, "2001:db8::3") }),
        ("own advertisement", Nd { mac: MAC, ..Nd::advertise(OURS) }),
        ("our MAC in the option", Nd { options: lla(2, MAC), ..Nd::advertise(OURS) }),
        ("our MAC in the source option", Nd { options: lla(1, MAC), ..Nd::solicit(HOST, OURS) }),
    ] {
        bench.expect_pass(what, &nd.frame(), Counter::PassNdOwn);
    }
    assert_eq!(bench.events(), vec![]);
}

#[test]
fn conflicts_are_reported_and_never_answered() {
    let mut bench = Bench::new(false);
    let solicited =
        Nd { flags: [SOLICITED, 0, 0, 0], to: "2001:db8::3".into(), to_mac: MAC, ..Nd::advertise(OURS) };
    for (what, nd, target, kind) in [
        ("NA (4862 5.4.4)", Nd::advertise(OURS), OURS, ConflictKind::Na),
        ("NA for tentative", Nd::advertise(TENTATIVE), TENTATIVE, ConflictKind::Na),
        ("solicited NA", solicited, OURS, ConflictKind::Na),
        ("NA without option", Nd { options: vec![], ..Nd::advertise(OURS) }, OURS, ConflictKind::Na),
        ("probe for tentative (4862 5.4.3)", Nd::solicit("::", TENTATIVE), TENTATIVE, ConflictKind::NsProbe),
        ("NS from our address", Nd::solicit(OURS, "2001:db8::3"), OURS, ConflictKind::NsSender),
    ] {
        bench.expect_pass(what, &nd.frame(), Counter::PassConflict);
        let wanted =
            Event::Conflict { vlan: UNTAGGED, slot: 1, addr: addr(target), mac: PEER, nonce: None, kind };
        assert_eq!(bench.events(), vec![wanted], "{what}");
    }
}

#[test]
fn a_probes_nonce_is_reported() {
    let mut bench = Bench::new(false);
    let nonce = [14, 1, 0, 0, 0, 0, 0, 9];
    let probe = |mac, target| Nd { mac, options: nonce.to_vec(), ..Nd::solicit("::", target) };
    for mac in [PEER, MAC] {
        // Our own MAC address: our own probe that came back, or a host that has our address too (RFC 7527 4.2).
        bench.expect_pass("probe with a nonce", &probe(mac, TENTATIVE).frame(), Counter::PassConflict);
        let (nonce, kind) = (Some([0, 0, 0, 0, 0, 9]), ConflictKind::NsProbe);
        let wanted = Event::Conflict { vlan: UNTAGGED, slot: 1, addr: addr(TENTATIVE), mac, nonce, kind };
        assert_eq!(bench.events(), vec![wanted]);
    }
    bench.expect_pass("for an address in use", &probe(MAC, OURS).frame(), Counter::PassNdOwn);
    bench.expect_pass("for another's", &probe(MAC, "2001:db8::98").frame(), Counter::PassNdOwn);
    let longer = Nd { options: [&[14, 2][..], &[7; 14]].concat(), ..probe(PEER, TENTATIVE) };
    bench.expect_pass("a longer nonce is none of ours", &longer.frame(), Counter::PassConflict);
    let events = bench.events();
    assert!(matches!(events[..], [Event::Conflict { nonce: None, .. }]), "{events:?}");
}

#[test]
fn invalid_advertisements_are_no_conflict() {
    let mut bench = Bench::new(false);
    let good = Nd::advertise(OURS);
    for (what, nd, counter) in [
        ("hop limit (7.1.2)", Nd { hop_limit: 64, ..good.clone() }, Counter::PassNdHopLimit),
        ("code", Nd { code: 9, ..good.clone() }, Counter::PassNdCode),
        ("multicast target", Nd { target: "ff02::1".into(), ..good.clone() }, Counter::PassNdTarget),
        ("S to multicast", Nd { flags: [SOLICITED, 0, 0, 0], ..good.clone() }, Counter::PassNdSolicited),
        (
            "option of length 0",
            Nd { options: vec![2, 0, 0, 0, 0, 0, 0, 0], ..good.clone() },
            Counter::PassNdOption,
        ),
        ("source ::", Nd { from: "::".into(), ..good.clone() }, Counter::PassNdSource),
    ] {
        bench.expect_pass(what, &nd.frame(), counter);
    }
    assert_eq!(bench.events(), vec![]);
}

#[test]
fn tentative_addresses_stay_silent() {
    let mut bench = Bench::new(false);
    let ns = Nd::solicit(HOST, TENTATIVE).frame();
    bench.expect_pass("solicitation for a tentative address", &ns, Counter::PassTentative);
    assert_eq!(bench.events(), vec![]);
    bench.own(TENTATIVE, AddressEntry { slot: 1, ..Default::default() });
    assert_eq!(bench.run(&ns).verdict, Verdict::Tx, "no longer tentative");
}

#[test]
fn a_prefix_is_answered_for_as_a_whole() {
    let bench = Bench::new(false);
    let (target, prefix) = ("2001:db8:9::77", addr("2001:db8:9::"));
    let ns = Nd::solicit(HOST, target).frame();
    bench.expect_pass("before", &ns, Counter::PassNdOther);
    let entry = AddressEntry { slot: 3, ..Default::default() };
    bench.demux.insert_prefix(UNTAGGED, prefix, 48, entry).unwrap();
    bench.expect_answer("within", &ns, &advertisement(target, HOST, PEER, SOLICITED), Counter::TxNa);
    bench.expect_pass("other realm", &tag(&ns, &[(0x8100, 5)]), Counter::PassNdOther);
    bench.demux.remove_prefix(UNTAGGED, prefix, 48).unwrap();
    bench.expect_pass("after", &ns, Counter::PassNdOther);
}

#[test]
fn the_target_counts_not_the_group_it_was_sent_to() {
    let bench = Bench::new(false);
    let (to, to_mac) = solicited_node("2001:db8::98");
    let ns = Nd { to, to_mac, ..Nd::solicit(HOST, OURS) };
    let answer = advertisement(OURS, HOST, PEER, SOLICITED);
    bench.expect_answer("other group", &ns.frame(), &answer, Counter::TxNa);
}
