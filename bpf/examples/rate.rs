//! What the program costs: nanoseconds for a frame by BPF_PROG_TEST_RUN, and frames per second by live frames
//! into a compartment whose bucket is empty (parse, two look-ups, clock, drop). Needs root.
//!
//! ```text
//! cargo run --release -p afnet-bpf --example rate [ADDRESSES...]
//! ```

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
    time::{Duration, Instant},
};

use afnet_abi::vlan::Vlan;
use afnet_bpf::{AddressEntry, CompartmentConfig, Demux, DemuxConfig, Limits};
use libbpf_rs::libbpf_sys;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PORT: u16 = 53;
/// Frames of one measurement with the same address, caches warm.
const REPEAT: i32 = 200_000;
/// Addresses visited one after another, each once, so that look-ups miss the caches as they will.
const VISITS: u32 = 20_000;

fn main() {
    let mut sizes: Vec<u32> =
        std::env::args().skip(1).map(|text| text.parse().expect("a number of addresses")).collect();
    if sizes.is_empty() {
        sizes = vec![1, 1000, 65_536, 1_000_000];
    }
    println!(
        "{:>9}  {:>10} {:>10}  {:>10} {:>10}  {:>12}",
        "addresses", "v4 ns", "v6 ns", "v4 visit", "v6 visit", "live drop/s"
    );
    for size in sizes {
        let demux = load(size);
        let _socket = socket(&demux);
        let warm = |v6| best(|| time(&demux, &frame(address(v6, size / 2)), REPEAT));
        let visit = |v6| {
            best(|| {
                let total: Duration =
                    (0..VISITS).map(|n| time(&demux, &frame(address(v6, scatter(n) % size)), 1)).sum();
                total / VISITS
            })
        };
        let row = [warm(false), warm(true), visit(false), visit(true)];
        let limited = CompartmentConfig { rate_pps: 1, burst: 1, raw: false };
        demux.set_compartment(1, limited).expect("limit");
        println!(
            "{size:>9}  {:>10} {:>10}  {:>10} {:>10}  {:>12.0}",
            row[0].as_nanos(),
            row[1].as_nanos(),
            row[2].as_nanos(),
            row[3].as_nanos(),
            live(&demux, &frame(address(false, size / 2)))
        );
    }
}

fn load(addresses: u32) -> Demux {
    let limits = Limits { compartments: 64, addresses, prefixes: 16, claims: 64, groups: 16 };
    let config = DemuxConfig { ifindex: 1, mac: MAC, queues: 1, frags: false, limits };
    let demux = Demux::load(&config).expect("load (needs root)");
    demux.set_compartment(1, CompartmentConfig::default()).expect("compartment");
    demux.insert_claim(1, 17, PORT, 1).expect("claim");
    for n in 0..addresses {
        for v6 in [false, true] {
            let entry = AddressEntry { slot: 1, ..Default::default() };
            demux.insert_address(Vlan::NONE, address(v6, n), entry).expect("address");
        }
    }
    demux
}

/// An unbound AF_XDP socket, enough for the redirect's verdict.
fn socket(demux: &Demux) -> OwnedFd {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "AF_XDP socket");
    // SAFETY: just opened, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    demux.sockets().and_then(|sockets| sockets.set(1, 0, fd.as_fd())).expect("socket map");
    fd
}

/// A permutation of the 32-bit numbers: neighbours in time are not neighbours in memory.
fn scatter(n: u32) -> u32 {
    (n ^ n >> 15).wrapping_mul(0x9e37_79b1)
}

fn address(v6: bool, n: u32) -> IpAddr {
    if v6 {
        Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n + 1)).into()
    } else {
        Ipv4Addr::from(0x0a00_0001 + n).into()
    }
}

/// A UDP datagram of 64 bytes (IPv4) or a little more.
fn frame(to: IpAddr) -> Vec<u8> {
    let mut f = MAC.to_vec();
    f.extend([2, 0, 0, 0, 0, 2]);
    match to {
        IpAddr::V4(to) => {
            f.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1]);
            f.extend(to.octets());
            let sum: u32 = f[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
            let sum = !(sum % 0xffff);
            f[24..26].copy_from_slice(&sum.to_be_bytes()[2..]);
        }
        IpAddr::V6(to) => {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, 17, 64]);
            f.extend(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 1).octets());
            f.extend(to.octets());
        }
    }
    f.extend([0x10, 0, 0, 53, 0, 26, 0, 0]);
    f.extend([0; 18]);
    f
}

/// The best of some runs: what is beyond it is the machine's noise.
fn best(run: impl Fn() -> Duration) -> Duration {
    (0..7).map(|_| run()).min().expect("several runs")
}

/// Nanoseconds for a frame, as the kernel measures them.
fn time(demux: &Demux, frame: &[u8], repeat: i32) -> Duration {
    let options = test_run(demux, frame, repeat, None);
    assert_eq!(options.retval, 4, "the frame must be redirected");
    Duration::from_nanos(options.duration.into())
}

/// Frames per second that the program drops when the kernel makes them as fast as it can.
fn live(demux: &Demux, frame: &[u8]) -> f64 {
    const FRAMES: i32 = 2_000_000;
    let start = Instant::now();
    test_run(demux, frame, FRAMES, Some(libbpf_sys::BPF_F_TEST_XDP_LIVE_FRAMES));
    f64::from(FRAMES) / start.elapsed().as_secs_f64()
}

fn test_run(demux: &Demux, frame: &[u8], repeat: i32, flags: Option<u32>) -> libbpf_sys::bpf_test_run_opts {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
        data_in: frame.as_ptr().cast(),
        data_size_in: u32::try_from(frame.len()).expect("a short frame"),
        repeat,
        flags: flags.unwrap_or(0),
        ..Default::default()
    };
    // SAFETY: the frame is as long as the options say and lives across the call.
    let answer =
        unsafe { libbpf_sys::bpf_prog_test_run_opts(demux.program_fd().as_raw_fd(), &raw mut options) };
    assert_eq!(answer, 0, "BPF_PROG_TEST_RUN: {}", std::io::Error::from_raw_os_error(-answer));
    options
}
