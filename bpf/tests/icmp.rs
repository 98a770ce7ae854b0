//! ICMP and ICMPv6 to an address of ours: errors to the flow they quote, echo for fast-only addresses.

mod common;

use afnet_bpf::{CompartmentConfig, Counter};
use common::{
    Bench, MAC, PEER, PORT, Verdict,
    frames::{Ip4, ethernet, icmp4, icmp6, ipv6, ipv6_packet, tag, udp},
};

const HOST4: &str = "192.0.2.99";
const HOST6: &str = "2001:db8::99";

#[track_caller]
fn redirected(bench: &Bench, what: &str, frame: &[u8], counter: Counter) {
    bench.expect(what, frame, Verdict::Redirect, counter);
}

/// One extension header of 8 bytes; `rest` are its last six.
fn header(next: u8, rest: [u8; 6]) -> Vec<u8> {
    [&[next, 0][..], &rest].concat()
}

#[test]
fn errors_about_a_claimed_flow_are_redirected() {
    let bench = Bench::new(false);
    let sent = |from: &str, to: &str, port| Ip4::new(from, to, 17).packet(&udp(port, 53, b""));
    let error =
        |kind, quoted: &[u8]| Ip4::new("198.51.100.1", "192.0.2.1", 1).frame(&icmp4(kind, 1, [0; 4], quoted));
    let mine = sent("192.0.2.1", HOST4, PORT);
    for kind in [3, 11, 12] {
        redirected(&bench, "error", &error(kind, &mine), Counter::RedirectError);
    }
    for kind in [0, 4, 5, 8, 13, 14, 40] {
        bench.expect_pass("no error", &error(kind, &mine), Counter::PassIcmp);
    }
    redirected(&bench, "other address", &error(3, &sent("192.0.2.11", HOST4, PORT)), Counter::RedirectError);
    for (what, quoted) in [
        ("port not claimed", sent("192.0.2.1", HOST4, 99)),
        ("another compartment's address", sent("192.0.2.4", HOST4, PORT)),
        ("nobody's address", sent(HOST4, "192.0.2.1", PORT)),
        ("TCP", Ip4::new("192.0.2.1", HOST4, 6).packet(&udp(PORT, 53, b""))),
        (
            "not the first fragment",
            Ip4 { fragment: 1, ..Ip4::new("192.0.2.1", HOST4, 17) }.packet(&udp(PORT, 53, b"")),
        ),
        ("cut before the ports end", mine[..27].to_vec()),
        ("no header", mine[..19].to_vec()),
        ("nothing", vec![]),
        ("version", [&[0x65], &mine[1..]].concat()),
        ("header length", [&[0x44], &mine[1..]].concat()),
    ] {
        bench.expect_pass(what, &error(3, &quoted), Counter::PassIcmp);
    }
    let options = Ip4 { first: 0x47, options: vec![1; 8], ..Ip4::new("192.0.2.1", HOST4, 17) };
    redirected(&bench, "options", &error(3, &options.packet(&udp(PORT, 53, b""))), Counter::RedirectError);
}

#[test]
fn icmpv6_errors_about_a_claimed_flow_are_redirected() {
    let bench = Bench::new(false);
    let sent = |from: &str, next, payload: &[u8]| ipv6_packet(from, HOST6, next, 3, payload);
    let error = |kind, quoted: &[u8]| {
        let message = icmp6("2001:db8:9::1", "2001:db8::1", kind, 0, [0; 4], quoted);
        ipv6("2001:db8:9::1", "2001:db8::1", 58, &message)
    };
    let flow = udp(PORT, 53, b"");
    let mine = sent("2001:db8::1", 17, &flow);
    for kind in [1, 2, 3, 4] {
        redirected(&bench, "error", &error(kind, &mine), Counter::RedirectError);
    }
    for kind in [0, 5, 127, 128, 129, 138, 200] {
        bench.expect_pass("no error", &error(kind, &mine), Counter::PassIcmp);
    }
    let option = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &flow].concat();
    let first = [&[17, 0, 0, 1, 0, 0, 0, 1][..], &flow].concat();
    let later = [&[17, 0, 0, 9, 0, 0, 0, 1][..], &flow].concat();
    for (what, quoted) in [
        ("other address", sent("2001:db8::11", 17, &flow)),
        ("destination options", sent("2001:db8::1", 60, &option)),
        ("first fragment", sent("2001:db8::1", 44, &first)),
    ] {
        redirected(&bench, what, &error(1, &quoted), Counter::RedirectError);
    }
    for (what, quoted) in [
        ("later fragment", sent("2001:db8::1", 44, &later)),
        ("port not claimed", sent("2001:db8::1", 17, &udp(99, 53, b""))),
        ("another compartment's address", sent("2001:db8::4", 17, &flow)),
        ("nobody's address", sent(HOST6, 17, &flow)),
        ("TCP", sent("2001:db8::1", 6, &flow)),
        ("cut", mine[..47].to_vec()),
        ("no header", mine[..39].to_vec()),
        ("nothing", vec![]),
        ("version", [&[0x40], &mine[1..]].concat()),
    ] {
        bench.expect_pass(what, &error(1, &quoted), Counter::PassIcmp);
    }
}

#[test]
fn echo_requests_to_fast_only_addresses_are_answered() {
    for frags in [false, true] {
        let bench = Bench::new(frags);
        let ping =
            |to: &str, kind, code| Ip4::new(HOST4, to, 1).frame(&icmp4(kind, code, [1, 2, 0, 3], b"abcdefg"));
        let answer =
            Ip4 { ttl: 64, ..Ip4::new("192.0.2.6", HOST4, 1) }.packet(&icmp4(0, 0, [1, 2, 0, 3], b"abcdefg"));
        let answer = ethernet(PEER, MAC, 0x0800, &answer);
        bench.expect_answer("IPv4 (1122 3.2.2.6)", &ping("192.0.2.6", 8, 0), &answer, Counter::TxEcho);
        let tags = [(0x8100, 0xe000)];
        let (tagged, tagged_answer) = (tag(&ping("192.0.2.6", 8, 0), &tags), tag(&answer, &tags));
        bench.expect_answer("tagged", &tagged, &tagged_answer, Counter::TxEcho);
        bench.expect_pass("the kernel has it", &ping("192.0.2.1", 8, 0), Counter::PassIcmp);
        bench.expect_pass("code", &ping("192.0.2.6", 8, 1), Counter::PassIcmp);
        bench.expect_pass("echo reply", &ping("192.0.2.6", 0, 0), Counter::PassIcmp);

        let ping = |to: &str, kind, code| {
            ipv6(HOST6, to, 58, &icmp6(HOST6, to, kind, code, [1, 2, 0, 3], b"abcdefg"))
        };
        let answer = icmp6("2001:db8::6", HOST6, 129, 0, [1, 2, 0, 3], b"abcdefg");
        let answer = ethernet(PEER, MAC, 0x86dd, &ipv6_packet("2001:db8::6", HOST6, 58, 64, &answer));
        bench.expect_answer("IPv6 (4443 4.2)", &ping("2001:db8::6", 128, 0), &answer, Counter::TxEcho);
        bench.expect_pass("the kernel has it", &ping("2001:db8::1", 128, 0), Counter::PassIcmp);
        bench.expect_pass("code", &ping("2001:db8::6", 128, 1), Counter::PassIcmp);
        let message = icmp6(HOST6, "2001:db8::6", 128, 0, [0; 4], b"");
        let behind = [header(58, [1, 4, 0, 0, 0, 0]), message].concat();
        bench.expect_pass("options", &ipv6(HOST6, "2001:db8::6", 60, &behind), Counter::PassIcmp);
    }
}

#[test]
fn every_echo_checksum_stays_right() {
    let bench = Bench::new(false);
    for n in 0..200u16 {
        let rest = [n.to_be_bytes(), (n.wrapping_mul(331)).to_be_bytes()].concat().try_into().unwrap();
        let ip = Ip4 { ttl: u8::try_from(n).unwrap(), ..Ip4::new(HOST4, "192.0.2.6", 1) };
        let answer = Ip4 { ttl: 64, ..Ip4::new("192.0.2.6", HOST4, 1) }.packet(&icmp4(0, 0, rest, b""));
        let answer = ethernet(PEER, MAC, 0x0800, &answer);
        bench.expect_answer("IPv4", &ip.frame(&icmp4(8, 0, rest, b"")), &answer, Counter::TxEcho);
    }
}

#[test]
fn echo_answers_take_tokens_too() {
    let bench = Bench::new(false);
    let limited = CompartmentConfig { rate_pps: 1, burst: 1, raw: false };
    bench.demux.set_compartment(1, limited).unwrap();
    let ping = Ip4::new(HOST4, "192.0.2.6", 1).frame(&icmp4(8, 0, [0; 4], b""));
    assert_eq!(bench.run(&ping).verdict, Verdict::Tx);
    bench.expect("too much", &ping, Verdict::Drop, Counter::DropRate);
}
