//! What the fast path wants: claims, blocks, realms, prefixes, raw compartments, fragments, limits, dirty bits.

mod common;

use std::{thread::sleep, time::Duration};

use afnet_bpf::{AddressEntry, CompartmentConfig, Counter};
use common::{
    BLOCK, Bench, PORT, UNTAGGED, Verdict, addr,
    frames::{Ip4, datagram, icmp6, ipv6, tag, udp},
};

const HOST4: &str = "192.0.2.99";
const HOST6: &str = "2001:db8::99";

#[track_caller]
fn redirected(bench: &Bench, what: &str, frame: &[u8], counter: Counter) {
    bench.expect(what, frame, Verdict::Redirect, counter);
}

#[test]
fn claimed_udp_is_redirected() {
    for frags in [false, true] {
        let bench = Bench::new(frags);
        for to in ["192.0.2.1", "192.0.2.11", "2001:db8::1", "2001:db8::11"] {
            redirected(&bench, to, &datagram(to, PORT), Counter::RedirectUdp);
            for port in [BLOCK.0, BLOCK.0 + 1, BLOCK.0 + 500, BLOCK.0 + BLOCK.1 - 1] {
                redirected(&bench, "block", &datagram(to, port), Counter::RedirectUdp);
            }
            for port in [0, PORT - 1, PORT + 1, BLOCK.0 - 1, BLOCK.0 + BLOCK.1, 65535] {
                bench.expect_pass("not claimed", &datagram(to, port), Counter::PassNoClaim);
            }
        }
        bench.expect_pass("no claims", &datagram("192.0.2.3", PORT), Counter::PassNoClaim);
        bench.expect_pass("no claims", &datagram("2001:db8::3", PORT), Counter::PassNoClaim);
        bench.expect_pass("no socket", &datagram("192.0.2.4", PORT), Counter::PassNoSocket);
        bench.expect_pass("no socket", &datagram("2001:db8::4", PORT), Counter::PassNoSocket);
        for to in ["192.0.2.98", "2001:db8::98"] {
            bench.expect_pass("not ours", &datagram(to, PORT), Counter::PassNotOurs);
        }
        for to in ["192.0.2.5", "2001:db8::5"] {
            bench.expect_pass("tentative", &datagram(to, PORT), Counter::PassTentative);
        }
    }
}

#[test]
fn all_ports_can_be_claimed_and_given_back() {
    let bench = Bench::new(false);
    bench.demux.insert_claim(3, 17, 0, 65535).unwrap();
    for port in [0, 1, 32767, 32768, 65534] {
        redirected(&bench, "all", &datagram("192.0.2.3", port), Counter::RedirectUdp);
    }
    bench.demux.insert_claim(3, 17, 65535, 1).unwrap();
    redirected(&bench, "the last", &datagram("192.0.2.3", 65535), Counter::RedirectUdp);
    bench.demux.remove_claim(3, 17, 0, 65535).unwrap();
    bench.expect_pass("given back", &datagram("192.0.2.3", 1), Counter::PassNoClaim);
    redirected(&bench, "still there", &datagram("192.0.2.3", 65535), Counter::RedirectUdp);
    bench.demux.clear_compartment(3).unwrap();
    bench.expect_pass("cleared", &datagram("192.0.2.3", 65535), Counter::PassNoClaim);
}

#[test]
fn many_single_ports_are_told_apart() {
    let bench = Bench::new(false);
    let ports = [7, 53, 443, 500, 1701, 4500, 65535];
    for (n, port) in ports.into_iter().enumerate() {
        bench.demux.insert_claim(3, 17, port, 1).unwrap();
        for (m, port) in ports.into_iter().enumerate() {
            let frame = datagram("192.0.2.3", port);
            match m <= n {
                true => redirected(&bench, "claimed", &frame, Counter::RedirectUdp),
                false => bench.expect_pass("not yet", &frame, Counter::PassNoClaim),
            }
        }
        bench.expect_pass("port 0", &datagram("192.0.2.3", 0), Counter::PassNoClaim);
    }
    for (n, port) in ports.into_iter().enumerate() {
        bench.demux.remove_claim(3, 17, port, 1).unwrap();
        for (m, port) in ports.into_iter().enumerate() {
            let frame = datagram("192.0.2.3", port);
            match m > n {
                true => redirected(&bench, "still claimed", &frame, Counter::RedirectUdp),
                false => bench.expect_pass("given back", &frame, Counter::PassNoClaim),
            }
        }
    }
}

#[test]
fn realms_are_apart() {
    let bench = Bench::new(false);
    bench.own("7|192.0.2.1", AddressEntry { slot: 3, ..Default::default() });
    bench.demux.insert_claim(3, 17, 99, 1).unwrap();
    for to in ["192.0.2.1", "2001:db8::1"] {
        let frame = datagram(to, PORT);
        let none = [(0x8100, 0x6000)];
        redirected(&bench, "priority tag", &tag(&frame, &none), Counter::RedirectUdp);
        bench.expect_pass("other realm", &tag(&frame, &[(0x8100, 8)]), Counter::PassNotOurs);
    }
    let frame = tag(&datagram("192.0.2.1", 99), &[(0x8100, 7)]);
    redirected(&bench, "same address, other realm", &frame, Counter::RedirectUdp);
    let frame = tag(&datagram("192.0.2.1", PORT), &[(0x8100, 7)]);
    bench.expect_pass("same address, other claims", &frame, Counter::PassNoClaim);
}

#[test]
fn a_raw_compartment_gets_everything() {
    let bench = Bench::new(false);
    for protocol in [1, 6, 17, 50, 51, 89, 132, 255] {
        let frame = Ip4::new(HOST4, "192.0.2.2", protocol).frame(&[8; 3]);
        redirected(&bench, "protocol", &frame, Counter::RedirectRaw);
    }
    for next in [6, 17, 50, 59, 89, 132, 255] {
        let frame = ipv6(HOST6, "2001:db8::2", next, &[8; 3]);
        redirected(&bench, "next header", &frame, Counter::RedirectRaw);
    }
    let echo = icmp6(HOST6, "2001:db8::2", 128, 0, [0; 4], b"ping");
    redirected(&bench, "echo", &ipv6(HOST6, "2001:db8::2", 58, &echo), Counter::RedirectRaw);
    let options = Ip4 { first: 0x46, options: vec![1; 4], ..Ip4::new(HOST4, "192.0.2.2", 6) };
    redirected(&bench, "options", &options.frame(b""), Counter::RedirectRaw);
    let fragment = Ip4 { fragment: 0x2000, ..Ip4::new(HOST4, "192.0.2.2", 6) };
    redirected(&bench, "fragment", &fragment.frame(b"12345678"), Counter::RedirectRaw);
}

#[test]
fn fragments_follow_the_claims_of_their_compartment() {
    let bench = Bench::new(false);
    let piece = [udp(1, PORT, b""), vec![0; 8]].concat();
    for fragment in [0x2000, 0x2001, 0x0001, 0x3fff] {
        let to = |to, protocol| Ip4 { fragment, ..Ip4::new(HOST4, to, protocol) }.frame(&piece);
        redirected(&bench, "UDP", &to("192.0.2.1", 17), Counter::RedirectFragment);
        bench.expect_pass("no claims", &to("192.0.2.3", 17), Counter::PassFragment);
        bench.expect_pass("ICMP", &to("192.0.2.1", 1), Counter::PassFragment);
        bench.expect_pass("no socket", &to("192.0.2.4", 17), Counter::PassNoSocket);
    }
    let dont = Ip4 { fragment: 0x4000, ..Ip4::new(HOST4, "192.0.2.1", 17) };
    redirected(&bench, "DF is no fragment", &dont.frame(&udp(1, PORT, b"")), Counter::RedirectUdp);

    for (offset_flags, counter, free) in [
        (0x0001u16, Counter::RedirectFragment, Counter::PassFragment),
        (0x0009, Counter::RedirectFragment, Counter::PassFragment),
        (0xfff8, Counter::RedirectFragment, Counter::PassFragment),
        (0x0000, Counter::RedirectUdp, Counter::PassNoClaim),
        (0x0006, Counter::RedirectUdp, Counter::PassNoClaim),
    ] {
        let mut header = vec![17, 0];
        header.extend(offset_flags.to_be_bytes());
        header.extend([0, 0, 0, 1]);
        let packet = [header, udp(1, PORT, b"12345678")].concat();
        redirected(&bench, "IPv6", &ipv6(HOST6, "2001:db8::1", 44, &packet), counter);
        bench.expect_pass("no claims", &ipv6(HOST6, "2001:db8::3", 44, &packet), free);
    }
}

#[test]
fn a_limited_compartment_drops_what_is_too_much() {
    let bench = Bench::new(false);
    let limited = CompartmentConfig { rate_pps: 10, burst: 5, raw: false };
    bench.demux.set_compartment(1, limited).unwrap();
    let frame = datagram("192.0.2.1", PORT);
    for _ in 0..5 {
        redirected(&bench, "within the burst", &frame, Counter::RedirectUdp);
    }
    bench.expect("too much", &frame, Verdict::Drop, Counter::DropRate);
    redirected(&bench, "others are not concerned", &datagram("192.0.2.2", PORT), Counter::RedirectRaw);
    bench.expect_pass("nor is the kernel path", &datagram("192.0.2.1", 9), Counter::PassNoClaim);
    sleep(Duration::from_millis(110));
    redirected(&bench, "a token is back", &frame, Counter::RedirectUdp);
    bench.expect("only one", &frame, Verdict::Drop, Counter::DropRate);
    bench.demux.set_compartment(1, CompartmentConfig::default()).unwrap();
    redirected(&bench, "no limit any more", &frame, Counter::RedirectUdp);
}

#[test]
fn the_dirty_bit_stands_before_the_redirect() {
    let bench = Bench::new(false);
    let dirty = bench.demux.dirty().unwrap();
    let word = &dirty.queue(0)[0];
    let load = || word.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(load(), 0);
    bench.run(&datagram("192.0.2.1", 9));
    assert_eq!(load(), 0, "what is passed leaves no trace");
    bench.run(&datagram("192.0.2.1", PORT));
    bench.run(&datagram("192.0.2.1", PORT));
    assert_eq!(load(), 1 << 1);
    bench.run(&datagram("2001:db8::2", PORT));
    assert_eq!(load(), 1 << 1 | 1 << 2);
    word.store(0, std::sync::atomic::Ordering::Relaxed);
    bench.run(&datagram("192.0.2.1", PORT));
    assert_eq!(load(), 1 << 1);
    assert!(dirty.queue(1).iter().all(|w| w.load(std::sync::atomic::Ordering::Relaxed) == 0));
}

#[test]
fn delegated_prefixes_deliver() {
    let bench = Bench::new(false);
    let entry = AddressEntry { slot: 1, ..Default::default() };
    bench.demux.insert_prefix(UNTAGGED, addr("203.0.113.0"), 24, entry).unwrap();
    bench.demux.insert_prefix(UNTAGGED, addr("2001:db8:9::"), 48, entry).unwrap();
    redirected(&bench, "IPv4", &datagram("203.0.113.200", PORT), Counter::RedirectUdp);
    redirected(&bench, "IPv6", &datagram("2001:db8:9:1::7", PORT), Counter::RedirectUdp);
    bench.own("203.0.113.7", AddressEntry { slot: 3, ..Default::default() });
    bench.expect_pass("an exact address wins", &datagram("203.0.113.7", PORT), Counter::PassNoClaim);
    bench.expect_pass("outside", &datagram("203.0.114.7", PORT), Counter::PassNotOurs);
    bench.demux.remove_address(UNTAGGED, addr("203.0.113.7")).unwrap();
    redirected(&bench, "the prefix again", &datagram("203.0.113.7", PORT), Counter::RedirectUdp);
}

#[test]
fn counters_are_kept_by_compartment() {
    let bench = Bench::new(false);
    bench.run(&datagram("192.0.2.1", PORT));
    bench.run(&datagram("2001:db8::2", 1));
    let one = bench.demux.compartment_counters(1).unwrap();
    assert_eq!((one[Counter::RedirectUdp as usize], one.iter().sum::<u64>()), (1, 1));
    let two = bench.demux.compartment_counters(2).unwrap();
    assert_eq!((two[Counter::RedirectRaw as usize], two.iter().sum::<u64>()), (1, 1));
    bench.demux.clear_compartment(1).unwrap();
    assert_eq!(bench.demux.compartment_counters(1).unwrap().iter().sum::<u64>(), 0);
    assert_eq!(bench.counters()[Counter::RedirectUdp as usize], 1, "the device's total stays");
}

/// Frames to groups that endpoints have joined, of their realm alone, but for what the kernel has to answer.
#[test]
fn joined_groups_are_redirected() {
    for frags in [false, true] {
        let bench = Bench::new(frags);
        let vlan = "7".parse().unwrap();
        let groups = ["224.0.0.251", "255.255.255.255", "192.0.2.255", "ff02::fb"];
        let frames = |to: &str| {
            let mut frame = datagram(to, 5353);
            frame[0] |= 1;
            frame
        };
        for to in groups {
            let passed = if to == "192.0.2.255" { Counter::PassGroupFrame } else { Counter::PassMulticast };
            bench.expect_pass("not joined", &frames(to), passed);
            bench.demux.insert_group(vlan, addr(to)).unwrap();
            bench.expect_pass("joined elsewhere", &frames(to), passed);
            redirected(&bench, "joined, tagged", &tag(&frames(to), &[(0x8100, 7)]), Counter::RedirectGroup);
            bench.demux.insert_group(UNTAGGED, addr(to)).unwrap();
            redirected(&bench, "joined", &frames(to), Counter::RedirectGroup);
        }
        let fragment = Ip4 { fragment: 0x2000, ..Ip4::new(HOST4, "224.0.0.251", 17) };
        redirected(&bench, "fragment", &fragment.frame(&udp(1, 5353, b"part")), Counter::RedirectGroup);
        let from_nobody = Ip4::new("0.0.0.0", "255.255.255.255", 17).frame(&udp(68, 67, b"discover"));
        redirected(&bench, "no address yet", &from_nobody, Counter::RedirectGroup);
        for from in ["224.0.0.1", "127.0.0.1", "255.255.255.255"] {
            let frame = Ip4::new(from, "224.0.0.251", 17).frame(&udp(1, 5353, b""));
            bench.expect_pass(from, &frame, Counter::PassMulticast);
        }
        for from in ["::", "::1", "ff02::1"] {
            let frame = ipv6(from, "ff02::fb", 17, &udp(1, 5353, b""));
            bench.expect_pass(from, &frame, Counter::PassMulticast);
        }
        let echo = Ip4::new(HOST4, "224.0.0.251", 1).frame(&[8, 0, 0, 0, 0, 0, 0, 0]);
        bench.expect_pass("echo", &echo, Counter::PassMulticast);
        let echo = ipv6(HOST6, "ff02::fb", 58, &icmp6(HOST6, "ff02::fb", 128, 0, [0; 4], &[]));
        bench.expect_pass("echo", &echo, Counter::PassMulticast);
        for to in groups {
            bench.demux.remove_group(UNTAGGED, addr(to)).unwrap();
            bench.demux.remove_group(UNTAGGED, addr(to)).unwrap();
            assert!(bench.run(&frames(to)).verdict == Verdict::Pass, "left: {to}");
        }
    }
}

#[test]
fn a_group_without_socket_is_passed() {
    let bench = Bench::new(false);
    bench.demux.insert_group(UNTAGGED, addr("224.0.0.251")).unwrap();
    bench.demux.sockets().unwrap().clear(0, 0).unwrap();
    bench.expect_pass("no socket", &datagram("224.0.0.251", 5353), Counter::PassMulticast);
}

/// Copies that are on their way to sockets (include/tags.h) come by again where the program runs in generic mode.
#[test]
fn copies_for_sockets_are_passed() {
    let bench = Bench::new(false);
    for to in ["224.0.0.251", "ff02::fb"] {
        bench.demux.insert_group(UNTAGGED, addr(to)).unwrap();
        let mut frame = datagram(to, 5353);
        redirected(&bench, to, &frame, Counter::RedirectGroup);
        frame[..6].copy_from_slice(&[0x07, 0xaf, 0, 0, 0, 1]);
        bench.expect_pass(to, &frame, Counter::PassMulticast);
    }
}
