//! Group membership under attack: forged and damaged messages, floods of thc-ipv6 and trafgen. And scapy reads what afnetd
//! says.

use std::{
    fs,
    io::Write,
    net::{IpAddr, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE, PEER, PEER_V4, PEER_V6},
    membership::Query,
    packet, wait,
    wire::Wire,
};

use crate::groups::{SPEAKERS, start};

const PORT: u16 = 5000;
const GROUPS: [(&str, &str); 2] = [("239.1.2.3", PEER_V4), ("ff15::123", PEER_V6)];
const FIVE: &[(u16, u16)] = &[(0x8100, 5)];
const ROUTER_MAC: packet::Mac = [2, 0xcc, 0, 0, 0, 9];
/// IGMPv2 queries from anybody about any group, as trafgen makes them; and reports of version 2.
const TRAFGEN: &str = "{ eth(da=01:00:5e:00:00:01, sa=02:cc:00:00:00:08, type=0x0800), 0x46, 0xc0, const16(32), drnd(2), 0, 0, 1, 2, \
     drnd(2), 192, 0, 2, drnd(1), 224, 0, 0, 1, 0x94, 4, 0, 0, 0x11, drnd(3), 239, drnd(3) } \
     { eth(da=01:00:5e:00:00:16, sa=02:cc:00:00:00:08, type=0x0800), 0x46, 0xc0, const16(32), drnd(2), 0, 0, 1, 2, \
     csumip(14, 37), 192, 0, 2, drnd(1), 239, drnd(3), 0x94, 4, 0, 0, 0x16, drnd(7) }\n";

/// Memory of a process in KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("read its status");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

/// The groups of all realms as `afnet maddr` has them, in one text each.
fn shown(daemon: &Afnetd<'_>) -> Vec<String> {
    let realms = daemon.json("maddr");
    let groups = realms.as_array().expect("a list").iter().flat_map(|realm| {
        let groups = realm["groups"].as_array().cloned().unwrap_or_default();
        groups.into_iter().map(|g| format!("{} {} {}", realm["vlan"], g["address"], g["exclude"]))
    });
    groups.collect()
}

/// How many groups the kernel alone is in.
fn kernels(daemon: &Afnetd<'_>) -> usize {
    let realms = daemon.json("maddr");
    let groups = realms.as_array().expect("a list").iter().flat_map(|realm| realm["groups"].as_array());
    let members = groups.flatten().filter_map(|group| group["members"].as_array());
    members.filter(|members| members.iter().all(|member| member["kernel"] == true)).count()
}

#[test]
fn floods_and_forgeries_harm_nobody() {
    for (membership_of, _) in SPEAKERS {
        floods_and_forgeries(membership_of);
    }
}

fn floods_and_forgeries(membership_of: &str) {
    let bed = Bed::new("groupflood");
    let mut daemon = start(&bed, membership_of);
    daemon.add_compartment("a", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.add_compartment("b", &["192.0.2.11/24", "2001:db8::11/64"]);
    daemon.ok("add c");
    for address in ["192.0.2.12/24", "2001:db8::12/64"] {
        daemon.ok(&format!("addr add {address} dev {DEVICE} vlan 5 afnetns c"));
    }
    bed.peer.ip(&format!("route add 224.0.0.0/4 dev {PEER}"));
    let (mut a, mut c) = (daemon.claim("a", PORT), daemon.claim("c", PORT));
    let _echo = daemon.echo("b", 7);
    for (group, _) in GROUPS {
        let group: IpAddr = group.parse().expect("an address");
        a.join(group).expect("join");
        c.join(group).expect("join");
    }
    let before = shown(&daemon);
    // Those of the kernel come to it where afnetd speaks for it.
    let all = before.len() - if membership_of == "own" { kernels(&daemon) } else { 0 };
    assert_eq!(all, 5, "four, and a solicited-node group: {before:?}");
    let pid = daemon.process().id();
    let memory_before = memory(pid);

    let config = tempfile::NamedTempFile::new().expect("make a file");
    fs::write(config.path(), TRAFGEN).expect("write the packets");
    let trafgen = format!(
        "trafgen --dev {PEER} --conf {} --num 20000 --cpus 1 --no-cpu-stats",
        config.path().display()
    );
    for attack in [
        format!("atk6-flood_mld26 {PEER} ff02::16 20000"),
        format!("atk6-flood_mld6 {PEER} ff02::1 20000"),
        format!("atk6-fake_mld26 {PEER} query"),
        format!("atk6-flood_mldrouter6 {PEER} ff02::1 20000"),
        trafgen,
    ] {
        let flood = bed.peer.spawn(&attack);
        // The victim's questions are answered meanwhile.
        for (own, to) in [(PEER_V4, "192.0.2.11:7"), (PEER_V6, "[2001:db8::11]:7")] {
            let socket = bed.peer_socket(own);
            socket.set_read_timeout(Some(Duration::from_millis(500))).expect("set a timeout");
            let mut answers = 0;
            let end = wait::within(wait::PATIENCE, || {
                socket.send_to(b"still there?", to).expect("send");
                answers += usize::from(socket.recv(&mut [0; 100]).is_ok());
                (answers == 50).then_some(())
            });
            assert!(end.is_some(), "{answers} answers during {attack}");
        }
        assert_eq!(shown(&daemon), before, "during {attack}");
        // Some never end by themselves.
        drop(flood);
    }
    // Messages in the VLAN where afnetd speaks: none of these is a router's.
    let wire = Wire::open(&bed.peer, PEER);
    for (from, version) in [("192.0.2.254", 3), ("fe80::fe", 2)] {
        let from: IpAddr = from.parse().expect("an address");
        let good = Query { version, from, group: None, sources: &[], response: 100, ttl: 1 };
        let send = |frame: Vec<u8>| wire.send(&packet::tag(frame, FIVE));
        let far = Query { ttl: 2, ..good.clone() };
        send(far.frame(ROUTER_MAC));
        let mut bent = good.frame(ROUTER_MAC);
        *bent.last_mut().expect("bytes") ^= 1;
        send(bent);
        // Shorter at each step: cut in the middle of everything.
        let whole = good.frame(ROUTER_MAC);
        (14..whole.len()).for_each(|len| send(whole[..len].to_vec()));
    }
    // One from too far away and a damaged one at least, of each protocol; the shortest are not told of.
    let ignored = |realm: &serde_json::Value| {
        let counters = realm["counters"].as_array().into_iter().flatten();
        let count = counters.filter(|c| c["name"] == "ignored").find_map(|c| c["value"].as_u64());
        realm["vlan"] == "5" && count.is_some_and(|count| count >= 2)
    };
    wait::until_true("the daemon to have ignored all that", || {
        daemon.json("maddr").as_array().is_some_and(|all| all.iter().filter(|r| ignored(r)).count() == 2)
    });
    let text = daemon.ok("maddr");
    assert!(!text.contains("192.0.2.254") && !text.contains("querier fe80::fe "), "{text}");
    assert_eq!(shown(&daemon), before);
    let grown = memory(pid).saturating_sub(memory_before);
    assert!(grown < 32 << 10, "the daemon has grown by {grown} KiB");
    // The groups are heard as before.
    let mut buffer = [0; 100];
    for (group, own) in GROUPS {
        let socket = bed
            .peer
            .enter(|| UdpSocket::bind((own.parse::<IpAddr>().expect("an address"), 0)))
            .expect("bind");
        a.set_timeout(Some(Duration::from_millis(200)));
        let heard = wait::within(wait::PATIENCE, || {
            socket.send_to(b"heard", (group.parse::<IpAddr>().expect("an address"), PORT)).expect("send");
            a.recv(&mut buffer).ok()
        });
        assert!(heard.is_some(), "{group}");
    }
    drop((a, c));
    daemon.stop();
}

/// Prints, for each frame in hexadecimal on standard input, what scapy makes of it.
const SCAPY: &str = r#"
import sys, json, logging
logging.getLogger("scapy").setLevel(logging.ERROR)
from scapy.all import Ether, IP, IPv6, IPOption_Router_Alert, ICMPv6MLReport2, IPv6ExtHdrHopByHop, RouterAlert
from scapy.contrib.igmpv3 import IGMPv3, IGMPv3mr, IGMPv3gr
for line in sys.stdin:
    p = Ether(bytes.fromhex(line))
    out = {}
    if IP in p:
        ip = p[IP]
        good = IP(bytes(ip)); sums = good.chksum; del good.chksum; good = IP(bytes(good))
        out = dict(to=ip.dst, mac=p.dst, ttl=ip.ttl, tos=ip.tos, alert=any(isinstance(o, IPOption_Router_Alert) for o in ip.options),
                   sums=good.chksum == sums)
        if IGMPv3 in p:
            out["records"] = [[r.rtype, r.maddr, list(r.srcaddrs)] for r in p[IGMPv3mr].records]
    elif IPv6 in p:
        ip = p[IPv6]
        out = dict(to=ip.dst, mac=p.dst, ttl=ip.hlim, alert=RouterAlert in p, sums=True)
        if ICMPv6MLReport2 in p:
            m = p[ICMPv6MLReport2]
            again = IPv6(bytes(ip)); del again[ICMPv6MLReport2].cksum
            out["sums"] = IPv6(bytes(again))[ICMPv6MLReport2].cksum == m.cksum
            out["records"] = [[r.rtype, r.dst, list(r.sources)] for r in m.records]
    print(json.dumps(out))
"#;

#[test]
fn scapy_reads_what_is_reported() {
    let bed = Bed::new("scapy");
    let mut daemon = Afnetd::start(&bed);
    daemon.ok("add a");
    for address in ["192.0.2.10/24", "2001:db8::10/64"] {
        daemon.ok(&format!("addr add {address} dev {DEVICE} vlan 5 afnetns a"));
    }
    let mut a = daemon.claim("a", PORT);
    let wire = Wire::open(&bed.peer, PEER);
    let mut frames = Vec::new();
    let mut wanted = Vec::new();
    for (group, source) in GROUPS {
        let all = [
            afnet_tenant::Membership::of(group.parse().unwrap(), source.parse().unwrap()),
            afnet_tenant::Membership::all(group.parse().unwrap()),
        ];
        for (membership, record) in
            all.iter().zip([serde_json::json!([5, group, [source]]), serde_json::json!([4, group, []])])
        {
            a.listen(membership).expect("listen");
            let frame = wire.expect("a report", |frame| {
                let inner = packet::untag(frame, FIVE)?;
                let said = afnet_tests::membership::read(inner.get(14..)?)?;
                let group = group.parse::<IpAddr>().ok()?;
                let about = |s: &afnet_tests::membership::Said| {
                    matches!(s, afnet_tests::membership::Said::Record(kind, of, _)
                        if *of == group && Some(u64::from(*kind)) == record[0].as_u64())
                };
                said.iter().any(about).then_some(inner)
            });
            frames.push(frame);
            wanted.push((source == PEER_V4, record));
        }
    }
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", SCAPY])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start python3");
    let mut input = python.stdin.take().expect("its input");
    for frame in &frames {
        let hex: String = frame.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(input, "{hex}").expect("write");
    }
    drop(input);
    let output = python.wait_with_output().expect("its output");
    let text = String::from_utf8(output.stdout).expect("text");
    assert_eq!(text.lines().count(), wanted.len(), "{text}");
    for (line, (v4, record)) in text.lines().zip(&wanted) {
        let seen: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let (to, mac) =
            if *v4 { ("224.0.0.22", "01:00:5e:00:00:16") } else { ("ff02::16", "33:33:00:00:00:16") };
        assert_eq!((&seen["to"], &seen["mac"]), (&to.into(), &mac.into()), "{seen}");
        assert_eq!(
            (&seen["ttl"], &seen["alert"], &seen["sums"]),
            (&1.into(), &true.into(), &true.into()),
            "{seen}"
        );
        assert!(!v4 || seen["tos"] == 0xc0, "{seen}");
        assert!(
            seen["records"].as_array().is_some_and(|all| all.contains(record)),
            "{seen} without {record}"
        );
    }
    drop(a);
    daemon.stop();
}
