//! Two namespaces, a veth pair, and pktgen on it.

use std::process::{Command, Output};

use afnet_tests::{netns::Netns, process::Process, veth::Veth, wire::Wire};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};

/// The binary under test.
pub const PKTGEN: &str = env!("CARGO_BIN_EXE_pktgen");
/// Devices and their addresses; static neighbours are not set: the kernel resolves.
pub const LEFT: &str = "left0";
pub const RIGHT: &str = "right0";
pub const LEFT_V4: &str = "192.0.2.1";
pub const RIGHT_V4: &str = "192.0.2.2";
pub const LEFT_V6: &str = "2001:db8::1";
pub const RIGHT_V6: &str = "2001:db8::2";

/// Two ends.
pub struct Pair {
    pub left: Netns,
    pub right: Netns,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(Veth::default().bare())
    }

    pub fn with(veth: Veth) -> Self {
        let (left, right) = (Netns::new("left"), Netns::new("right"));
        veth.connect((&left, LEFT), (&right, RIGHT));
        for (ns, device, v4, v6) in [(&left, LEFT, LEFT_V4, LEFT_V6), (&right, RIGHT, RIGHT_V4, RIGHT_V6)] {
            ns.ip(&format!("addr add {v4}/24 dev {device}"));
            ns.ip(&format!("addr add {v6}/64 dev {device} nodad"));
        }
        Self { left, right }
    }

    /// The left device as pktgen names it.
    pub fn left(&self) -> String {
        format!("{LEFT}@{}", self.left.name())
    }

    /// The right one.
    pub fn right(&self) -> String {
        format!("{RIGHT}@{}", self.right.name())
    }

    /// `pktgen tx LEFT ARGS` to its end; returns the frames that arrive at the right end, which are known by `ours`.
    pub fn sent(&self, args: &str, count: usize, ours: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let wire = Wire::open(&self.right, RIGHT);
        pktgen(&format!("tx {} --dst-mac 02:00:00:00:00:99 -q --count {count} {args}", self.left()));
        (0..count)
            .map(|_| wire.expect("frame of pktgen", |frame| ours(frame).then(|| frame.to_vec())))
            .collect()
    }
}

/// Arguments, split at white space.
pub fn command(args: &str) -> Command {
    let mut command = Command::new(PKTGEN);
    command.args(args.split_whitespace());
    command
}

/// Runs pktgen to its successful end; returns standard output.
#[track_caller]
pub fn pktgen(args: &str) -> String {
    afnet_tests::process::run(&mut command(args))
}

/// As [`pktgen`] with `--json`.
#[track_caller]
pub fn json(args: &str) -> serde_json::Value {
    let text = pktgen(&format!("{args} --json -q"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Runs pktgen, which must refuse without a panic; returns what it says.
#[track_caller]
pub fn refused(args: &str) -> String {
    let Output { status, stderr, .. } = command(args).output().expect("start pktgen");
    let text = String::from_utf8_lossy(&stderr).into_owned();
    assert!(matches!(status.code(), Some(1 | 2)), "{args}: {status}: {text}");
    assert!(!text.contains("panicked") && !text.is_empty(), "{args}: {text}");
    text
}

/// Starts pktgen; `--interval` makes it show that it runs.
pub fn start(args: &str, ready: &str) -> Process {
    let mut process = Process::spawn(&mut command(args));
    process.wait_for_output(ready);
    process
}

/// A capture file of frames.
pub fn capture(frames: &[Vec<u8>]) -> tempfile::NamedTempFile {
    let mut writer = PcapWriter::with_header(Vec::new(), PcapHeader::default()).expect("write to memory");
    for (i, frame) in frames.iter().enumerate() {
        let length = u32::try_from(frame.len()).expect("a frame");
        let time = std::time::Duration::from_millis(i as u64);
        writer.write_packet(&PcapPacket::new(time, length, frame)).expect("write to memory");
    }
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), writer.into_writer()).expect("write a capture");
    file
}

/// The left end's MAC address.
pub fn mac(ns: &Netns, device: &str) -> String {
    ns.mac(device).map(|byte| format!("{byte:02x}")).join(":")
}
