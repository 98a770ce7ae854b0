//! What the fuzz targets of `tests/fuzz` run. Each takes any bytes and panics if a promise is broken; `cargo
//! test` replays the corpora and every saved crash through the same functions.
//!
//! | target | input | promise |
//! |---|---|---|
//! | [`parse`] | a frame | offsets lie in order within the frame; nothing panics |
//! | [`reassembly`] | frames, each after its length (2 bytes, big-endian) | budget kept, result is a whole packet |
//! | [`request`] | lines of the control socket | what is accepted survives a round trip |
//! | [`ring`] | a script | two honest ends are a queue, a hostile one does no harm (`afnet_ring::model`) |

use std::{fs, path::Path};

use afnet_abi::control::Request;
use afnet_dataplane::net::{
    self, hash, icmp, parse as codec, raw,
    reassembly::{Config, Reassembler},
};

/// Takes any bytes; panics if a promise is broken.
pub type Target = fn(&[u8]);

/// Name and function of each target.
pub const TARGETS: [(&str, Target); 4] =
    [("parse", parse), ("reassembly", reassembly), ("request", request), ("ring", ring)];

/// The codec on one frame, and on the same bytes as an IP packet that a raw endpoint sends.
pub fn parse(frame: &[u8]) {
    for packet in [codec::parse(frame), codec::parse_group(frame)].into_iter().flatten() {
        check(frame, &packet);
        if let Ok(udp) = codec::udp(frame, &packet) {
            assert!(
                packet.l4 + 8 <= udp.payload.start && udp.payload.end <= packet.end,
                "{udp:?} in {packet:?}"
            );
        }
        // Any answer is fine; panics are not.
        let _ = icmp::error(frame, &packet);
    }
    if let Ok(packet) = raw::validate(frame, |_| true) {
        check(frame, &packet);
        assert_ne!(packet.protocol, net::protocol::IGMP);
    }
}

fn check(bytes: &[u8], packet: &codec::Packet) {
    let ordered = packet.l3 < packet.l4 && packet.l4 <= packet.end && packet.end <= bytes.len();
    assert!(ordered, "{packet:?} in {} bytes", bytes.len());
    assert_eq!(net::is_v4(&packet.src), !packet.v6);
}

/// Frames through a small reassembler, time passing.
pub fn reassembly(mut input: &[u8]) {
    const BUDGET: usize = 128 << 10;
    let config = Config { slots: 2, bytes_per_slot: BUDGET, bytes_total: 256 << 10, ..Config::default() };
    let mut reassembler = Reassembler::new(config, hash::Key::random());
    let mut now = 1;
    while let Some((len, rest)) = input.split_first_chunk() {
        let len = usize::from(u16::from_be_bytes(*len));
        let (frame, rest) = rest.split_at(len.min(rest.len()));
        input = rest;
        // Lengths that are no multiple of 8 let time pass: a timeout is within reach of a short input.
        now += (len as u64 % 8) * 1_000_000_000;
        let slot = u32::try_from(len % 2).unwrap_or(0);
        if let Ok(packet) = codec::parse(frame)
            && packet.fragment.is_some()
            && let Ok(Some(whole)) = reassembler.push(slot, 1, now, frame, &packet, |_, _| ())
        {
            let again = codec::parse_ip(whole.packet).expect("a reassembled packet parses");
            assert!(again.fragment.is_none() && again.end == whole.packet.len());
            assert_eq!((again.src, again.dst), (packet.src, packet.dst));
        }
        assert!(reassembler.bytes(slot) <= BUDGET);
        reassembler.expire(now, 4, |_, _| ());
    }
    reassembler.expire(u64::MAX / 2, usize::MAX, |_, _| ());
    assert_eq!((reassembler.bytes(0), reassembler.bytes(1)), (0, 0), "memory is left after every timeout");
}

/// Lines of the control socket.
pub fn request(input: &[u8]) {
    for line in input.split(|&byte| byte == b'\n') {
        if let Ok(request) = serde_json::from_slice::<Request>(line) {
            let text = serde_json::to_string(&request).expect("a request is JSON");
            assert_eq!(serde_json::from_str::<Request>(&text).expect("the same request"), request);
        }
    }
}

/// A script for the ring's model; the first byte chooses the property.
pub fn ring(script: &[u8]) {
    match script.split_first() {
        Some((0..=127, script)) => afnet_ring::model::survives_peer(script),
        Some((_, script)) => afnet_ring::model::follows_queue(script),
        None => (),
    }
}

/// Runs `target` on every file of a directory; returns how many there were.
///
/// # Panics
/// If the directory cannot be read, or the target does.
pub fn replay(target: Target, directory: &Path) -> usize {
    let mut files: Vec<_> = fs::read_dir(directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.expect("read a directory").path())
        .collect();
    files.sort();
    for file in &files {
        // Named first, so that a panic tells which file it was.
        eprintln!("{}", file.display());
        target(&fs::read(file).expect("read a saved input"));
    }
    files.len()
}
