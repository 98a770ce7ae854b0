//! What pktgen sends by AF_XDP, read by tcpdump and scapy.

use std::{collections::BTreeSet, process::Command, time::Instant};

use afnet_tests::{packet::read_udp, process, veth::Veth};

use crate::bed::{Pair, capture, json, pktgen};

/// For each packet of a capture: builds it again without lengths and sums, and compares.
const SCAPY: &str = "
import sys
from scapy.all import rdpcap, raw, Ether, Padding
from scapy.contrib.igmp import IGMP
from scapy.contrib.igmpv3 import IGMPv3
n = 0
for p in rdpcap(sys.argv[1]):
    before = raw(p)
    layer = p = Ether(before)
    while layer.payload:
        for field in ('chksum', 'cksum', 'len', 'plen', 'ihl', 'dataofs'):
            if field in layer.fields and not (field == 'len' and layer.name.startswith('ICMPv6')):
                del layer.fields[field]
                layer.raw_packet_cache = None
        layer = layer.payload
    p.raw_packet_cache = None
    p.clear_cache()
    after = raw(p)
    assert after == before, (p.summary(), before.hex(), after.hex())
    n += 1
print(n)
";

/// Kind, arguments, and what tcpdump says of each frame.
const KINDS: [(&str, &[&str]); 10] = [
    ("--kind udp --src 10.1.0.0/30 --dst 10.2.0.0-10.2.0.5 --sport 1000-1002", &["[udp sum ok]", "10.2.0."]),
    ("--kind udp --src 2001:db8::1 --dst ~2001:db8:1::/112 --dport ~1-65535", &["[udp sum ok]"]),
    ("--kind tcp --src ~10.0.0.0/8 --dst 10.2.0.1 --size 64", &["Flags [S]", "(correct)"]),
    ("--kind tcp --src 2001:db8::1 --dst 2001:db8::2-2001:db8::9 --size 90", &["Flags [S]", "(correct)"]),
    ("--kind arp --src 10.1.0.1 --dst 10.2.0.0/28", &["Request who-has 10.2.0.", "tell 10.1.0.1"]),
    ("--kind nd --dst 2001:db8::/124", &["[icmp6 sum ok]", "neighbor solicitation", "source link-address"]),
    ("--kind igmp --dst 239.1.0.0/28", &["igmp v3 report", "to_ex", "options (RA)"]),
    ("--kind igmp2 --dst 239.1.0.0/28", &["igmp v2 report 239.1.0.", "options (RA)"]),
    ("--kind mld --dst ff05::1-ff05::9", &["[icmp6 sum ok]", "multicast listener report v2", "to_ex"]),
    ("--kind mld1 --dst ff05::1-ff05::9", &["[icmp6 sum ok]", "multicast listener report"]),
];

fn ours(frame: &[u8]) -> bool {
    // The pair's own kernels send neighbour solicitations and reports too.
    frame[6..12] == [2, 0, 0, 0, 0, 0x77]
}

#[test]
fn tcpdump_and_scapy_find_every_kind_right() {
    let pair = Pair::new();
    let mut all = Vec::new();
    for (args, expected) in KINDS {
        for tags in ["", "--vlan 100", "--vlan 100-101,7"] {
            let frames = pair.sent(&format!("--src-mac 02:00:00:00:00:77 {args} {tags}"), 12, ours);
            let file = capture(&frames);
            let path = file.path().display();
            let text = process::run(Command::new("tcpdump").args(["-vvennr", &path.to_string()]));
            assert!(!text.contains("bad") && !text.contains("wrong"), "{args}: {text}");
            for words in expected {
                assert_eq!(text.matches(words).count(), 12, "{args} {tags}: {words}: {text}");
            }
            assert_eq!(text.matches("vlan 7").count() > 0, tags.ends_with('7'), "{text}");
            all.extend(frames);
        }
    }
    let file = capture(&all);
    let counted = process::run(Command::new("/usr/bin/python3").args(["-c", SCAPY]).arg(file.path()));
    assert_eq!(counted.trim(), all.len().to_string());
}

#[test]
fn the_same_seed_sends_the_same_frames() {
    let pair = Pair::new();
    let args = "--src-mac 02:00:00:00:00:77 --dst ~10.0.0.0/8 --sport ~1-65535 --no-stamp --seed";
    let send = |seed: u32| pair.sent(&format!("{args} {seed}"), 50, ours);
    let (one, two, other) = (send(1), send(1), send(2));
    assert_eq!(one, two);
    assert_ne!(one, other);
    let destinations: BTreeSet<_> =
        one.iter().map(|frame| read_udp(frame).expect("UDP").destination).collect();
    assert!(destinations.len() > 45, "random ones: {destinations:?}");
}

#[test]
fn jumbo_frames_in_several_pieces() {
    let pair = Pair::with(Veth::default().bare().mtu(9000));
    for (size, mix) in [(9000, "9000"), (9000, "60,9000,1514")] {
        let frames = pair.sent(&format!("--src-mac 02:00:00:00:00:77 --size {mix}"), 30, ours);
        assert_eq!(frames.iter().map(Vec::len).max(), Some(size));
        for frame in frames {
            read_udp(&frame).expect("a right datagram");
        }
    }
}

#[test]
fn a_capture_goes_out_as_it_was() {
    let pair = Pair::new();
    let frames = pair.sent("--src-mac 02:00:00:00:00:77 --size imix --dst ~10.0.0.0/8", 24, ours);
    let file = capture(&frames);
    let path = file.path().display().to_string();
    let again = pair.sent(&format!("--pcap {path}"), 48, ours);
    assert_eq!(again, [frames.clone(), frames.clone()].concat(), "twice, since so many were asked for");
    // The capture's frames are a millisecond apart.
    let begin = Instant::now();
    let result = json(&format!("tx {} --pcap {path} --as-captured", pair.left()));
    assert_eq!(result["sent"]["frames"], 24);
    assert!(begin.elapsed().as_millis() >= 23, "{:?}", begin.elapsed());
    // Live frames arrive at the left end itself.
    let wire = afnet_tests::wire::Wire::open(&pair.left, crate::bed::LEFT);
    pktgen(&format!("tx {} --live --pcap {path} --count 24 -q", pair.left()));
    for frame in &frames {
        assert_eq!(wire.expect("frame", |frame| ours(frame).then(|| frame.to_vec())), *frame);
    }
}

#[test]
fn rates_and_limits() {
    let pair = Pair::new();
    let left = pair.left();
    let tx = |args: &str| json(&format!("tx {left} --dst-mac 02:00:00:00:00:99 {args}"));
    let result = tx("--rate 2k --count 500");
    assert_eq!(result["sent"]["frames"], 500);
    let seconds = result["seconds"].as_f64().expect("a number");
    assert!(seconds >= 0.24, "500 frames at 2,000 a second in {seconds} s");
    // 84 bytes of wire: 672 bits for each frame.
    let result = tx("--rate 672kbit --time 0.5");
    let frames = result["sent"]["frames"].as_u64().expect("a number");
    // A sender that is held up sends less, never more.
    assert!((50..=500).contains(&frames), "{frames} of 500");
}
