//! Cost of the packet codec in nanoseconds for one packet: `cargo bench -p afnet-dataplane --bench net`.
//!
//! `rx`: parse a frame, look at UDP, copy the payload into a ring's memory while summing, verify. `tx`: copy a payload
//! from a ring's memory while summing, write the headers in front. 1024 frames in turn, so that the branch predictor
//! and the first-level cache do not see the same bytes every time (1024 frames of 2048 bytes are a UMEM's 2 MiB).

use std::hint::black_box;

use afnet_abi::vlan::Vlan;
use afnet_dataplane::net::{
    build::{self, Ip, Link},
    checksum, hash, mapped,
    parse::{parse, udp},
    reassembly::{Config, Reassembler},
    route_cache::{Key, Limits, RouteCache},
};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const FRAMES: usize = 1024;
const FRAME_SIZE: usize = 2048;

fn link(vlan: Vlan) -> Link {
    Link { src_mac: [2, 0, 0, 0, 0, 1], dst_mac: [2, 0, 0, 0, 0, 2], vlan }
}

fn ip(v6: bool, n: usize) -> Ip {
    let low = n.to_le_bytes();
    let (mut src, mut dst) = (mapped([192, 0, 2, 1]), mapped([10, 0, low[1], low[0]]));
    if v6 {
        src = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
        dst = src;
        dst[13] = low[1];
        dst[12] = low[0];
    }
    Ip { src, dst, protocol: 17, ttl: 64, tos: 0, dont_fragment: true, id: 0, flow_label: 0 }
}

/// Frames with UDP payloads of `len` bytes.
fn frames(v6: bool, vlan: Vlan, len: usize) -> Vec<Vec<u8>> {
    (0..FRAMES)
        .map(|n| {
            let head = build::headers_len(vlan, v6);
            let mut frame = Vec::with_capacity(FRAME_SIZE);
            frame.resize(head + len, n.to_le_bytes()[0]);
            let sum = checksum::sum(&frame[head..]);
            build::udp_frame(&mut frame, &link(vlan), &ip(v6, n), 4000, 53, len, sum).expect("fits");
            frame
        })
        .collect()
}

fn rx(c: &mut Criterion) {
    let mut group = c.benchmark_group("rx");
    let tagged = Vlan::new(None, Some(5)).expect("a VLAN");
    for (name, v6, vlan) in [("v4", false, Vlan::NONE), ("v6", true, Vlan::NONE), ("v4-tag", false, tagged)] {
        // UDP payloads of frames of 64 and 1400 bytes and of a full 1500-byte packet.
        for len in [22, 64, 1400] {
            let frames = frames(v6, vlan, len);
            let mut ring = vec![0u8; FRAMES * FRAME_SIZE];
            let mut n = 0;
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| {
                    n = (n + 1) % FRAMES;
                    let frame = black_box(&frames[n][..]);
                    let packet = parse(frame).expect("good");
                    let udp = udp(frame, &packet).expect("good");
                    let payload = &frame[udp.payload.clone()];
                    let to = ring[n * FRAME_SIZE..][..payload.len()].as_mut_ptr();
                    // SAFETY: `to` has room for the payload.
                    let sum = unsafe { checksum::copy_and_sum(payload, to) };
                    udp.verify(sum).expect("good");
                    black_box(udp.dst_port)
                });
            });
        }
    }
    group.finish();
}

fn tx(c: &mut Criterion) {
    let mut group = c.benchmark_group("tx");
    for (name, v6) in [("v4", false), ("v6", true)] {
        for len in [22, 64, 1400] {
            let ring = vec![0x5au8; FRAMES * FRAME_SIZE];
            let mut umem = vec![0u8; FRAMES * FRAME_SIZE];
            let link = link(Vlan::NONE);
            let mut n = 0;
            group.throughput(Throughput::Elements(1));
            group.bench_function(BenchmarkId::new(name, len), |b| {
                b.iter(|| {
                    n = (n + 1) % FRAMES;
                    let ip = black_box(ip(v6, n));
                    let frame = &mut umem[n * FRAME_SIZE..][..FRAME_SIZE];
                    let head = build::headers_len(link.vlan, v6);
                    let from = ring[n * FRAME_SIZE..][..len].as_ptr();
                    let to = frame[head..][..len].as_mut_ptr();
                    // SAFETY: both slices have `len` bytes.
                    let sum = unsafe { checksum::copy_and_sum_shared(from, len, to) };
                    build::udp_frame(frame, &link, &ip, 53, 4000, len, sum).expect("fits")
                });
            });
        }
    }
    group.finish();
}

fn parts(c: &mut Criterion) {
    let mut group = c.benchmark_group("part");
    let frames = frames(false, Vlan::NONE, 1400);
    let mut n = 0;
    group.bench_function("parse+udp v4", |b| {
        b.iter(|| {
            n = (n + 1) % 16;
            let frame = black_box(&frames[n][..]);
            let packet = parse(frame).expect("good");
            black_box(udp(frame, &packet).expect("good").header_sum)
        });
    });
    let source = vec![7u8; 1400];
    let mut to = vec![0u8; 1400];
    group.bench_function("sum 1400", |b| b.iter(|| checksum::sum(black_box(&source))));
    group.bench_function("copy 1400", |b| {
        b.iter(|| black_box(&mut to[..]).copy_from_slice(black_box(&source)));
    });
    group.bench_function("copy_and_sum 1400", |b| {
        // SAFETY: `to` is as long as `source`.
        b.iter(|| unsafe { checksum::copy_and_sum(black_box(&source), to.as_mut_ptr()) });
    });
    group.bench_function("copy_and_sum_shared 1400", |b| {
        // SAFETY: `to` is as long as `source`.
        b.iter(|| unsafe {
            checksum::copy_and_sum_shared(black_box(&source).as_ptr(), 1400, to.as_mut_ptr())
        });
    });
    group.finish();
}

fn tables(c: &mut Criterion) {
    let mut group = c.benchmark_group("table");
    let mut cache = RouteCache::<u32>::new(Limits::default(), hash::Key::random());
    let route = afnet_dataplane::Route::Host { src: [192, 0, 2, 1].into() };
    let keys: Vec<Key> = (0..FRAMES)
        .map(|n| Key {
            dst: ip(false, n).dst,
            src: [0; 16],
            slot: u32::try_from(n).expect("small"),
            ifindex: 0,
            vlan: Vlan::NONE,
        })
        .collect();
    for key in &keys {
        cache.answer(key, route, 0, |_| ());
    }
    let mut n = 0;
    group.bench_function("route lookup, 1024 compartments", |b| {
        b.iter(|| {
            n = (n + 1) % FRAMES;
            matches!(
                cache.lookup(black_box(&keys[n]), 1),
                afnet_dataplane::net::route_cache::Lookup::Known(_)
            )
        });
    });

    // Two fragments of a 2000-byte datagram, in order.
    let mut pieces = Vec::new();
    let ip = ip(false, 1);
    for piece in afnet_dataplane::net::fragment::Pieces::new(false, 2008, 1500, false).expect("fits") {
        let mut frame = vec![0; 34 + piece.len];
        build::piece_frame(&mut frame, &link(Vlan::NONE), &Ip { dont_fragment: false, ..ip }, &piece)
            .expect("fits");
        let packet = parse(&frame).expect("good");
        pieces.push((frame, packet));
    }
    let mut reassembler = Reassembler::new(Config::default(), hash::Key::random());
    group.bench_function("reassemble 2 fragments, 2000 bytes", |b| {
        b.iter(|| {
            let mut len = 0;
            for (frame, packet) in &pieces {
                let done = reassembler.push(1, 2, 0, black_box(frame), packet, |_, _| ()).expect("good");
                len = done.map_or(0, |d| d.packet.len());
            }
            assert_eq!(len, 2028);
        });
    });
    group.finish();
}

criterion_group!(benches, rx, tx, parts, tables);
criterion_main!(benches);
