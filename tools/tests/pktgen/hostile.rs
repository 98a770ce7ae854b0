//! Arguments and files that make no sense: an answer for a person, never a panic.

use afnet_tests::{veth::Veth, xdp_pass};

use crate::bed::{LEFT, Pair, RIGHT, refused};

#[test]
fn absurd_arguments() {
    let pair = Pair::new();
    let tx = format!("tx {} --dst-mac 02:00:00:00:00:99 --count 1", pair.left());
    let measure = format!("measure {} --rx {} --count 1", pair.left(), pair.right());
    let cases = [
        (&tx, "--dst 0.0.0.0/0", "too many values"),
        (&tx, "--dst ~::/0", "too many values"),
        (&tx, "--dst 10.0.0.9-10.0.0.1", "must not be below"),
        (&tx, "--dst 10.0.0.1 --src ::1", "one family"),
        (&tx, "--dport 65536", "at most 65535"),
        (&tx, "--vlan 5000", "at most 4094"),
        (&tx, "--vlan 1,2,3", "at most two"),
        (&tx, "--size 59", "60 to 9000"),
        (&tx, "--size 99999999999999999999", "no list of sizes"),
        (&tx, "--size 2000", "do not fit the MTU"),
        (&tx, "--dst ::1 --size 60", "too short"),
        (&tx, "--rate 0", "no rate"),
        (&tx, "--rate -5", "unexpected argument"),
        (&tx, "--rate 1e30", "no rate"),
        (&tx, "--time 0", "no seconds"),
        (&tx, "--kind igmp --dst 10.0.0.1", "multicast groups"),
        (&tx, "--kind nd --dst 10.0.0.1", "one family"),
        (&tx, "--ring 1000", "power of two"),
        (&tx, "--queues 9999", "no list"),
        (&tx, "--queues 17", "AF_XDP"),
        (&tx, "--cpus 4000", "CPU 4000"),
        (&tx, "--mode zero-copy", "zero-copy"),
        (&tx, "--pcap /does/not/exist", "No such file"),
        (&tx, "--as-captured", "--pcap"),
        (&measure, "--no-stamp", "stamp"),
        (&measure, "--kind arp", "stamp"),
        (&measure, "--kind tcp", "stamp"),
    ];
    for (command, args, words) in cases {
        let text = refused(&format!("{command} {args}"));
        assert!(text.contains(words), "{args}: {text}");
    }
    for (args, words) in [
        ("", "Usage"),
        ("tx nosuch0 --count 1", "no interface nosuch0"),
        ("tx x@nosuchns --count 1", "nosuchns"),
        ("tx a/b", "no device"),
        ("udp-echo 203.0.113.1:7", "bind 203.0.113.1:7"),
        ("rfc2544 x --tolerance 2", "no fraction"),
    ] {
        let text = refused(args);
        assert!(text.contains(words), "{args}: {text}");
    }
    let text = refused(&format!("tx {} --dst 192.0.2.77 --count 1", pair.left()));
    assert!(text.contains("finds no MAC address of 192.0.2.77"), "{text}");
    pair.left.ip(&format!("link set {LEFT} down"));
    assert!(refused(&tx).contains("is down"));
}

#[test]
fn malformed_captures() {
    let pair = Pair::new();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    let good =
        std::fs::read(crate::bed::capture(&[vec![0; 60], vec![1; 90]]).path()).expect("read a capture");
    let mut huge = good.clone();
    huge[32..36].fill(0xff);
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("text", b"To be, or not to be, that is the question"),
        ("cut", &good[..good.len() - 10]),
        ("header alone", &good[..24]),
        ("a packet of 4 GiB", &huge),
    ];
    for (what, bytes) in cases {
        std::fs::write(file.path(), bytes).expect("write a file");
        let text = refused(&format!("tx {} --pcap {} --count 1", pair.left(), file.path().display()));
        assert!(text.contains(&file.path().display().to_string()), "{what}: {text}");
    }
}

#[test]
fn a_program_that_is_there_stays() {
    let pair = Pair::with(Veth::default().bare());
    let index = pair.right.ifindex(RIGHT);
    pair.right.enter(|| xdp_pass::attach(index)).expect("attach a program");
    let text = refused(&format!("rx {} --time 0.1", pair.right()));
    assert!(text.contains("another XDP program is attached"), "{text}");
    assert!(pair.right.ip(&format!("link show dev {RIGHT}")).contains("xdp"));
    assert!(!pair.left.ip(&format!("link show dev {LEFT}")).contains("xdp"));
}
