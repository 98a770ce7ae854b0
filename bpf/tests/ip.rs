//! Headers of IPv4, IPv6, its extension headers, UDP: what is wrong is passed, each with a counter of its own.

mod common;

use afnet_bpf::Counter;
use common::{
    Bench, MAC, PEER, PORT, Verdict,
    frames::{Ip4, datagram, ethernet, ipv6, tag, udp},
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
fn unknown_tags_are_passed() {
    let bench = Bench::new(false);
    let frame = datagram("192.0.2.1", PORT);
    for tags in [
        vec![(0x8100, 1), (0x8100, 2)],
        vec![(0x88a8, 1), (0x88a8, 2)],
        vec![(0x8100, 1), (0x88a8, 2)],
        vec![(0x88a8, 1), (0x8100, 2), (0x8100, 3)],
        vec![(0x8100, 4095)],
        vec![(0x88a8, 4095)],
    ] {
        bench.expect_pass("tags", &tag(&frame, &tags), Counter::PassVlan);
    }
    bench.expect_pass("ethertype", &ethernet(MAC, PEER, 0x88cc, &[0; 40]), Counter::PassEthertype);
    bench.expect_pass("802.3", &ethernet(MAC, PEER, 40, &[0; 40]), Counter::PassEthertype);
}

#[test]
fn frames_that_are_not_for_us_are_passed() {
    let bench = Bench::new(false);
    for to in ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"] {
        let mut frame = datagram(to, PORT);
        frame[5] ^= 1;
        bench.expect_pass("other MAC", &frame, Counter::PassOtherMac);
        frame[0] |= 1;
        bench.expect_pass("group MAC", &frame, Counter::PassGroupFrame);
        frame[..6].copy_from_slice(&[0xff; 6]);
        bench.expect_pass("broadcast MAC", &frame, Counter::PassGroupFrame);
    }
    for to in ["224.0.0.251", "255.255.255.255", "ff02::fb"] {
        bench.expect_pass("multicast", &datagram(to, PORT), Counter::PassMulticast);
    }
    let igmp = Ip4 { options: vec![0x94, 4, 0, 0], first: 0x46, ..Ip4::new(HOST4, "224.0.0.22", 2) };
    bench.expect_pass("IGMP", &igmp.frame(&[0x22, 0, 0, 0, 0, 0, 0, 0]), Counter::PassIgmp);
    let igmp = Ip4::new(HOST4, "192.0.2.2", 2).frame(&[0x11, 0, 0, 0, 0, 0, 0, 0]);
    bench.expect_pass("IGMP to a raw compartment", &igmp, Counter::PassIgmp);
    bench.demux.set_mac([2, 0, 0, 0, 0, 9]);
    bench.expect_pass("our MAC has changed", &datagram("192.0.2.1", PORT), Counter::PassOtherMac);
}

#[test]
fn impossible_sources_are_passed() {
    let bench = Bench::new(false);
    for from in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"] {
        for to in ["192.0.2.1", "192.0.2.2"] {
            let frame = Ip4::new(from, to, 17).frame(&udp(1, PORT, b""));
            bench.expect_pass(from, &frame, Counter::PassBadSource);
        }
    }
    for from in ["::", "::1", "ff02::1", "::ffff:192.0.2.1"] {
        for (to, next) in [("2001:db8::1", 17), ("2001:db8::2", 17), ("2001:db8::2", 6)] {
            let frame = ipv6(from, to, next, &udp(1, PORT, b""));
            bench.expect_pass(from, &frame, Counter::PassBadSource);
        }
    }
    let frame = ipv6("::2", "2001:db8::1", 17, &udp(1, PORT, b""));
    redirected(&bench, "::2 is an address", &frame, Counter::RedirectUdp);
}

#[test]
fn ipv4_headers_are_checked() {
    let bench = Bench::new(false);
    let ip = Ip4::new(HOST4, "192.0.2.1", 17);
    let payload = udp(1, PORT, b"1234");
    for first in [0x44, 0x40, 0x55, 0x65, 0x05] {
        let frame = Ip4 { first, ..ip.clone() }.frame(&payload);
        bench.expect_pass("version, header length", &frame, Counter::PassIpv4Header);
    }
    for (total, counter) in [
        (0, Counter::PassIpv4Length),
        (19, Counter::PassIpv4Length),
        (33, Counter::PassIpv4Length),
        (65535, Counter::PassIpv4Length),
        (20, Counter::PassUdpLength),
        (27, Counter::PassUdpLength),
        (31, Counter::PassUdpLength),
    ] {
        let frame = Ip4 { total: Some(total), ..ip.clone() }.frame(&payload);
        bench.expect_pass(&format!("total length {total}"), &frame, counter);
    }
    let padded = [ip.frame(&payload), vec![0; 20]].concat();
    redirected(&bench, "padding behind the packet", &padded, Counter::RedirectUdp);
    for at in 14..34 {
        let mut frame = ip.frame(&payload);
        frame[at] ^= 0x10;
        // Version, lengths and addresses have counters of their own.
        if !matches!(at, 14 | 16 | 17 | 30..34) {
            bench.expect_pass("checksum", &frame, Counter::PassIpv4Checksum);
        }
    }
    let options = Ip4 { first: 0x46, options: vec![1; 4], ..ip.clone() };
    bench.expect_pass("options", &options.frame(&payload), Counter::PassIpv4Options);
    let beyond = Ip4 { first: 0x4f, total: Some(32), ..ip.clone() };
    bench.expect_pass("header beyond total", &beyond.frame(&payload), Counter::PassIpv4Length);
    let ttl = Ip4 { ttl: 0, ..ip.clone() };
    redirected(&bench, "TTL 0 is no reason (1122 3.2.1.7)", &ttl.frame(&payload), Counter::RedirectUdp);
    let tcp = Ip4 { protocol: 6, ..ip };
    bench.expect_pass("TCP", &tcp.frame(&payload), Counter::PassProtocol);
}

#[test]
fn udp_lengths_are_checked() {
    let bench = Bench::new(false);
    for length in [0u16, 7, 13, 65535] {
        let mut payload = udp(1, PORT, b"1234");
        payload[4..6].copy_from_slice(&length.to_be_bytes());
        let frame = Ip4::new(HOST4, "192.0.2.1", 17).frame(&payload);
        bench.expect_pass("IPv4", &frame, Counter::PassUdpLength);
        let frame = ipv6(HOST6, "2001:db8::1", 17, &payload);
        bench.expect_pass("IPv6", &frame, Counter::PassUdpLength);
    }
    let mut payload = udp(1, PORT, b"1234");
    payload[5] = 9;
    let frame = Ip4::new(HOST4, "192.0.2.1", 17).frame(&payload);
    redirected(&bench, "shorter than the packet", &frame, Counter::RedirectUdp);
}

#[test]
fn ipv6_headers_are_checked() {
    let bench = Bench::new(false);
    let good = datagram("2001:db8::1", PORT);
    for version in [0x00, 0x40, 0x50, 0x70] {
        let mut frame = good.clone();
        frame[14] = version;
        bench.expect_pass("version", &frame, Counter::PassIpv6Header);
    }
    for (length, counter) in [
        (0u16, Counter::PassUdpLength),
        (7, Counter::PassUdpLength),
        (14, Counter::PassUdpLength),
        (16, Counter::PassIpv6Length),
        (65535, Counter::PassIpv6Length),
    ] {
        let mut frame = good.clone();
        frame[18..20].copy_from_slice(&length.to_be_bytes());
        bench.expect_pass(&format!("payload length {length}"), &frame, counter);
    }
}

#[test]
fn frames_truncated_anywhere_are_passed() {
    for frags in [false, true] {
        let bench = Bench::new(frags);
        for to in ["192.0.2.1", "2001:db8::1"] {
            let v4 = !to.contains(':');
            for tags in [vec![], vec![(0x8100, 0)], vec![(0x88a8, 0), (0x8100, 0)]] {
                let good = tag(&datagram(to, PORT), &tags);
                let headers = 14 + 4 * tags.len() + if v4 { 20 } else { 40 };
                for length in 14..good.len() {
                    let counter = match length {
                        _ if length < headers => Counter::PassTruncated,
                        _ if v4 => Counter::PassIpv4Length,
                        _ => Counter::PassIpv6Length,
                    };
                    bench.expect_pass(&format!("{to} {length}"), &good[..length], counter);
                }
                redirected(&bench, to, &good, Counter::RedirectUdp);
            }
        }
    }
}

#[test]
fn extension_headers_are_walked() {
    let bench = Bench::new(false);
    let pad = [1, 4, 0, 0, 0, 0];
    let flow = udp(1, PORT, b"1234");
    let chain = |headers: &[Vec<u8>]| [headers.concat(), flow.clone()].concat();
    let ours = |first, payload: &[u8]| ipv6(HOST6, "2001:db8::1", first, payload);
    let no_segments = [0, 0, 0, 0, 0, 0];
    let segments = [0, 1, 0, 0, 0, 0];
    let long = [&[17, 3, 1, 28][..], &[0; 28]].concat();
    let ah = [&[17, 4][..], &[0; 22]].concat();
    for (what, first, headers, counter) in [
        ("hop-by-hop", 0, vec![header(17, pad)], Counter::RedirectUdp),
        ("destination", 60, vec![header(17, pad)], Counter::RedirectUdp),
        ("32 bytes", 60, vec![long], Counter::RedirectUdp),
        ("routing, done", 43, vec![header(17, no_segments)], Counter::RedirectUdp),
        (
            "all",
            0,
            vec![header(60, pad), header(43, pad), header(44, segments), header(60, [0; 6]), header(17, pad)],
            Counter::PassRouting,
        ),
        (
            "all, routing done",
            0,
            vec![
                header(60, pad),
                header(43, pad),
                header(44, no_segments),
                header(60, [0; 6]),
                header(17, pad),
            ],
            Counter::RedirectUdp,
        ),
        ("routing, on its way", 43, vec![header(17, segments)], Counter::PassRouting),
        ("AH", 51, vec![ah], Counter::PassAh),
        ("8 headers", 60, [vec![header(60, pad); 7], vec![header(17, pad)]].concat(), Counter::RedirectUdp),
    ] {
        let frame = ours(first, &chain(&headers));
        let verdict = if counter == Counter::RedirectUdp { Verdict::Redirect } else { Verdict::Pass };
        bench.expect(what, &frame, verdict, counter);
    }
    for (what, first, headers) in [
        ("9 headers", 60, [vec![header(60, pad); 8], vec![header(17, pad)]].concat()),
        ("hop-by-hop second", 60, vec![header(0, pad), header(17, pad)]),
        ("hop-by-hop twice", 0, vec![header(0, pad), header(17, pad)]),
        ("far too long", 60, vec![[vec![17, 255], vec![0; 2046]].concat()]),
    ] {
        bench.expect_pass(what, &ours(first, &chain(&headers)), Counter::PassIpv6Chain);
    }
    let beyond = ours(60, &[17, 9, 0, 0, 0, 0, 0, 0]);
    bench.expect_pass("beyond the packet", &beyond, Counter::PassIpv6Chain);
    bench.expect_pass("cut", &ours(60, &[17, 0, 0, 0, 0, 0]), Counter::PassTruncated);
    for next in [50, 59, 6, 255] {
        bench.expect_pass(
            "no header of ours",
            &ours(60, &chain(&[header(next, pad)])),
            Counter::PassProtocol,
        );
    }
    let raw = ipv6(HOST6, "2001:db8::2", 43, &chain(&[header(17, segments)]));
    redirected(&bench, "a raw endpoint gets them all", &raw, Counter::RedirectRaw);
}
