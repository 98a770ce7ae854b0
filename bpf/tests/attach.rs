//! On a real device (veth, the kernel as the other host): attach, take over, detach, answers on the wire.
//! Needs root.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use afnet_bpf::{AddressEntry, AttachMode, CompartmentConfig, Counter, Demux, DemuxConfig, Error, Limits};
use afnet_tests::{
    netns::{Netns, unique},
    veth::Veth,
    wait,
};
use common::{UNTAGGED, addr};

/// A bpffs of the test's own.
struct Bpffs(PathBuf);

impl Bpffs {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("afnet-bpffs-{}-{}", std::process::id(), unique()));
        fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(&path).status().unwrap();
        assert!(mounted.success(), "mount a bpffs (needs root)");
        Self(path)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

struct Bed {
    host: Netns,
    peer: Netns,
    config: DemuxConfig,
    bpffs: Bpffs,
}

impl Bed {
    fn new() -> Self {
        let (host, peer) = (Netns::new("host"), Netns::new("peer"));
        Veth::default().bare().connect((&host, "eth0"), (&peer, "peer0"));
        peer.ip("addr add 192.0.2.99/24 dev peer0");
        peer.ip("addr add 2001:db8::99/64 dev peer0 nodad");
        // The kernel learns of the carrier a little later, and loses what is sent before.
        wait::until_true("the link", || {
            let up = |ns: &Netns, name| ns.ip(&format!("link show dev {name}")).contains("state UP");
            up(&host, "eth0")
                && up(&peer, "peer0")
                && peer.ip("-6 route show table local").contains("2001:db8::99")
        });
        let limits = Limits { compartments: 16, addresses: 64, prefixes: 16, claims: 64, groups: 16 };
        let config = DemuxConfig {
            ifindex: host.ifindex("eth0"),
            mac: host.mac("eth0"),
            queues: 1,
            frags: false,
            limits,
        };
        Self { host, peer, config, bpffs: Bpffs::new() }
    }

    fn load(&self) -> Demux {
        Demux::load(&self.config).expect("load (needs root)")
    }

    fn attach(&self, demux: &mut Demux, mode: AttachMode, pin: &Path) -> Result<(), Error> {
        // The index is looked up in the namespace of the thread.
        self.host.enter(|| demux.attach(mode, pin))
    }

    fn pin(&self) -> PathBuf {
        self.bpffs.0.join("afnet").join("link-eth0")
    }

    /// Id of the program that the device runs; 0 if none.
    fn running(&self) -> u32 {
        let link: serde_json::Value =
            serde_json::from_str(&self.host.ip("-j -d link show dev eth0")).unwrap();
        u32::try_from(link[0]["xdp"]["prog"]["id"].as_u64().unwrap_or(0)).unwrap()
    }
}

#[test]
fn a_pinned_program_outlives_its_daemon_and_is_taken_over() {
    let bed = Bed::new();
    let mut first = bed.load();
    bed.attach(&mut first, AttachMode::Native, &bed.pin()).unwrap();
    let id = first.program_id();
    assert_eq!(bed.running(), id);
    drop(first);
    assert_eq!(bed.running(), id, "as after a crash");

    let mut second = bed.load();
    bed.attach(&mut second, AttachMode::Native, &bed.pin()).unwrap();
    assert_eq!(bed.running(), second.program_id(), "taken over");
    let mut third = bed.load();
    bed.attach(&mut third, AttachMode::Generic, &bed.pin()).unwrap();
    assert_eq!(bed.running(), third.program_id(), "in another mode");
    third.detach().unwrap();
    assert_eq!(bed.running(), 0);
    assert!(!bed.pin().exists());
    third.detach().expect("detaching twice is no error");
}

#[test]
fn a_foreign_program_is_left_alone() {
    let bed = Bed::new();
    let (mut theirs, mut ours) = (bed.load(), bed.load());
    bed.attach(&mut theirs, AttachMode::Native, &bed.pin()).unwrap();
    let other = bed.bpffs.0.join("other");
    let error = bed.attach(&mut ours, AttachMode::Native, &other).unwrap_err();
    assert!(
        matches!(error, Error::Busy { program, .. } if program == theirs.program_id()),
        "{error}: {error:?}"
    );
    assert_eq!(bed.running(), theirs.program_id());
    assert!(!other.exists());
}

#[test]
fn a_pin_that_is_no_link_is_left_alone() {
    let bed = Bed::new();
    let mut demux = bed.load();
    let pin = bed.bpffs.0.join("map");
    let made = Command::new("bpftool")
        .args(["map", "create"])
        .arg(&pin)
        .args(["type", "array", "key", "4", "value", "4", "entries", "1", "name", "x"])
        .status();
    assert!(made.unwrap().success());
    let error = bed.attach(&mut demux, AttachMode::Native, &pin).unwrap_err();
    assert!(matches!(error, Error::ForeignPin { .. }), "{error:?}");
    assert!(pin.exists());
}

#[test]
fn a_pin_of_a_device_that_is_gone_is_replaced() {
    let bed = Bed::new();
    let mut demux = bed.load();
    bed.attach(&mut demux, AttachMode::Native, &bed.pin()).unwrap();
    drop(demux);
    bed.host.ip("link del eth0");
    Veth::default().bare().connect((&bed.host, "eth0"), (&bed.peer, "peer0"));
    let config = DemuxConfig { ifindex: bed.host.ifindex("eth0"), ..bed.config.clone() };
    let mut demux = Demux::load(&config).unwrap();
    bed.attach(&mut demux, AttachMode::Native, &bed.pin()).unwrap();
    assert_eq!(bed.running(), demux.program_id());
}

#[test]
fn the_kernel_next_door_believes_our_answers() {
    for mode in [AttachMode::Native, AttachMode::Generic] {
        let bed = Bed::new();
        let mut demux = bed.load();
        bed.attach(&mut demux, mode, &bed.pin()).unwrap();
        // veth delivers what XDP_TX sends only if the other end runs a program as well; this one passes all.
        // (GRO makes that end poll too, but then nothing wakes it for such frames.)
        let mut other =
            Demux::load(&DemuxConfig { ifindex: bed.peer.ifindex("peer0"), ..bed.config.clone() })
                .expect("load");
        let pin = bed.bpffs.0.join("peer");
        bed.peer.enter(|| other.attach(AttachMode::Native, &pin)).unwrap();
        demux.set_compartment(1, CompartmentConfig::default()).unwrap();
        for text in ["192.0.2.6", "2001:db8::6"] {
            let entry = AddressEntry { slot: 1, fast_only: true, ..Default::default() };
            demux.insert_address(UNTAGGED, addr(text), entry).unwrap();
            // Resolved by ARP or ND, then answered: all by the program, the host has no address.
            let (reached, output) = bed.peer.attempt(&format!("ping -c 3 -i 0.01 -W 1 -s 900 {text}"));
            let counters = demux.counters().unwrap();
            let counted: Vec<_> =
                Counter::all().map(|c| (c, counters[c as usize])).filter(|(_, n)| *n != 0).collect();
            assert!(reached, "{mode:?} {text}: {counted:?} {output}");
            let neighbour = bed.peer.ip(&format!("neigh show {text} dev peer0"));
            let mac = bed.config.mac.map(|byte| format!("{byte:02x}")).join(":");
            assert!(neighbour.contains(&mac), "{neighbour}");
        }
        let counters = demux.counters().unwrap();
        assert_eq!(counters[Counter::TxEcho as usize], 6);
        assert!(counters[Counter::TxArp as usize] >= 1 && counters[Counter::TxNa as usize] >= 1);
        assert_eq!(counters[Counter::PassBadSource as usize], 0);
    }
}
