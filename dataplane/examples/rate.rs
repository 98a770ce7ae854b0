//! Packets per second from a device into a tenant process, everything but the generator on one CPU.
//!
//! ```text
//! CPU 0: BPF_PROG_TEST_RUN with live frames on the attached program -> AF_XDP
//! CPU 1: worker thread -> shared memory -> tenant process (this program again)
//! ```
//!
//! `cargo run --release -p afnet-dataplane --example rate -- [compartments] [bytes of frame] [seconds] [yield|block]`
//! Needs root, two CPUs, and makes network namespaces of its own.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use afnet_abi::{shm, vlan::Vlan};
use afnet_bpf::{AddressEntry, AttachMode, CompartmentConfig, Demux, DemuxConfig, Limits};
use afnet_dataplane::{
    Attachment, Compartment, Config, Counter, Dataplane, Device, EndpointKind, ModePreference, OwnedAddress,
    PortClaim,
};
use afnet_ring::Mapping;
use afnet_tests::{
    bed::{Bed, DEVICE},
    packet,
};

const PORT: u16 = 5000;
/// Ring of each endpoint: small, so that it stays in the second-level cache.
const RING: usize = shm::MIN_RING_LEN;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|a| a == "tenant") {
        tenant(&arguments[1..]);
        return;
    }
    let number =
        |at: usize, default: u32| arguments.get(at).map_or(default, |a| a.parse().expect("a number"));
    let (compartments, frame, seconds) = (number(0, 1), number(1, 64), number(2, 5));
    let mode = arguments.get(3).map_or("yield", String::as_str);

    let bed = Bed::new("rate");
    let (ifindex, mac) = (bed.host.ifindex(DEVICE), bed.device_mac());
    let pin = std::path::PathBuf::from(format!("/sys/fs/bpf/rate-{}", bed.host.name()));
    let slots = (compartments + 1).next_power_of_two().max(64);
    let config = Config { workers: vec![Some(1)], slots, ..Config::default() };
    let limits = Limits { compartments: slots, ..Limits::default() };
    let (mut demux, dataplane, tenants) = bed.host.enter(|| {
        let mut demux =
            Demux::load(&DemuxConfig { ifindex, mac, queues: 1, frags: false, limits }).expect("load");
        demux.attach(AttachMode::Native, &pin).expect("attach");
        let mut dataplane = Dataplane::start(config, Arc::new(|| {})).expect("start");
        let sockets = Box::new(demux.sockets().expect("sockets"));
        let dirty = Box::new(demux.dirty().expect("dirty"));
        let want = ModePreference::Best;
        let name = DEVICE.to_owned();
        dataplane
            .add_device(Device { name, ifindex, mac, mtu: 1500, queues: 1, want, sockets, dirty })
            .expect("add the device");
        let mut tenants = Vec::new();
        for slot in 1..=compartments {
            let addr = address(slot).into();
            demux.set_compartment(slot, CompartmentConfig::default()).expect("compartment");
            demux
                .insert_address(Vlan::NONE, addr, AddressEntry { slot, ..AddressEntry::default() })
                .expect("address");
            let owned = OwnedAddress {
                addr,
                prefix_len: 16,
                ifindex,
                vlan: Vlan::NONE,
                delegated: false,
                usable: true,
                fast_only: true,
            };
            let compartment = Compartment { addresses: vec![owned], ..Compartment::default() };
            dataplane.set_compartment(slot, compartment).expect("compartment");
            let attachment = dataplane.attach(slot, EndpointKind::Udp, RING, RING).expect("attach");
            dataplane.claim(attachment.id, &PortClaim::new(PORT, 1)).expect("claim");
            demux.insert_claim(slot, 17, PORT, 1).expect("claim");
            tenants.push(attachment);
        }
        (demux, dataplane, tenants)
    });

    let mut child = {
        let fds: Vec<String> = tenants
            .iter()
            .map(|Attachment { memfd, wake, .. }| {
                [memfd, wake].map(|fd| {
                    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).expect("inherit");
                    fd.as_raw_fd().to_string()
                })
            })
            .map(|[memfd, wake]| format!("{memfd}:{wake}"))
            .collect();
        let exe = std::env::current_exe().expect("this program");
        let mut command = Command::new(exe);
        command.arg("tenant").arg(mode).args(fds).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.spawn().expect("start the tenant")
    };
    std::thread::sleep(Duration::from_millis(300));

    let stop = Arc::new(AtomicBool::new(false));
    let program = demux.program_fd().try_clone_to_owned().expect("the program");
    let frames: Vec<Vec<u8>> = (1..=compartments).map(|slot| datagram(mac, slot, frame as usize)).collect();
    let sent = std::thread::scope(|scope| {
        let generator = scope.spawn(|| bed.host.enter(|| generate(program.as_fd(), ifindex, &frames, &stop)));
        std::thread::sleep(Duration::from_secs(1));
        let (before, start) = (dataplane.stats(), Instant::now());
        let cpu = (worker_time(), cpu_time(&format!("/proc/{}", child.id())));
        std::thread::sleep(Duration::from_secs(seconds.into()));
        let (after, time) = (dataplane.stats(), start.elapsed());
        let cpu = (worker_time() - cpu.0, cpu_time(&format!("/proc/{}", child.id())) - cpu.1);
        stop.store(true, Ordering::Relaxed);
        let sent = generator.join().expect("generator");
        let rate = |c: Counter| {
            let of =
                |s: &afnet_dataplane::Snapshot| -> u64 { s.slots.iter().map(|(_, v)| v[c as usize]).sum() };
            (of(&after) - of(&before)) as f64 / time.as_secs_f64()
        };
        let worker = |c: Counter| {
            (after.workers[0][c as usize] - before.workers[0][c as usize]) as f64 / time.as_secs_f64()
        };
        let each = |ns: u64| ns as f64 / (rate(Counter::RxDelivered) * time.as_secs_f64());
        println!("delivered {:.0}/s", rate(Counter::RxDelivered));
        println!("  CPU time by packet: worker {:.0} ns, tenant {:.0} ns", each(cpu.0), each(cpu.1));
        for c in [Counter::RxFrames, Counter::RxRingFull, Counter::RxSocketFull, Counter::RxSocketDrop] {
            println!("  {} {:.0}/s", c.name(), rate(c));
        }
        for c in [Counter::Loops, Counter::Sleeps, Counter::Doorbells] {
            println!("  worker {} {:.0}/s", c.name(), worker(c));
        }
        sent
    });
    drop(child.stdin.take());
    let out = child.wait_with_output().expect("tenant");
    println!("generated {sent}; tenant: {}", String::from_utf8_lossy(&out.stdout).trim());
    let audit = dataplane.shutdown().expect("shutdown");
    println!("lost frames: {}", audit.lost());
    demux.detach().expect("detach");
}

/// Nanoseconds that a task has run.
fn cpu_time(path: &str) -> u64 {
    let text = std::fs::read_to_string(format!("{path}/schedstat")).expect("scheduler statistics");
    text.split(' ').next().and_then(|n| n.parse().ok()).expect("a number")
}

/// Nanoseconds that the worker's thread has run.
fn worker_time() -> u64 {
    std::fs::read_dir("/proc/self/task")
        .expect("threads")
        .flatten()
        .map(|entry| entry.path().display().to_string())
        .filter(|path| {
            std::fs::read_to_string(format!("{path}/comm")).is_ok_and(|c| c.starts_with("afnet-worker"))
        })
        .map(|path| cpu_time(&path))
        .sum()
}

fn address(slot: u32) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from_bits(0xc000_0200 + 9 + slot)
}

fn datagram(mac: [u8; 6], slot: u32, len: usize) -> Vec<u8> {
    let from = "198.51.100.7:4000".parse().expect("an address");
    packet::udp(([2, 0, 0, 0, 0, 1], mac), from, (address(slot), PORT).into(), &vec![0x5a; len - 42])
}

/// Runs the program on CPU 0 until told to stop; returns how many frames it made.
fn generate(program: BorrowedFd<'_>, ifindex: u32, frames: &[Vec<u8>], stop: &AtomicBool) -> u64 {
    core_affinity::set_for_current(core_affinity::CoreId { id: 0 });
    // One call costs a page pool and some 100 us, so it makes many frames.
    let repeat = if frames.len() == 1 { 1 << 17 } else { 1 << 10 };
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for frame in frames {
            sent += u64::from(repeat);
            if let Err(error) = run(program, ifindex, frame, repeat) {
                eprintln!("test run: {error}");
                return sent;
            }
            if stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    sent
}

/// BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES.
fn run(program: BorrowedFd<'_>, ifindex: u32, frame: &[u8], repeat: u32) -> io::Result<()> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        prog_fd: u32,
        retval: u32,
        data_size_in: u32,
        data_size_out: u32,
        data_in: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
        ctx_size_in: u32,
        ctx_size_out: u32,
        ctx_in: u64,
        ctx_out: u64,
        flags: u32,
        cpu: u32,
        batch_size: u32,
        pad: u32,
    }
    let len = u32::try_from(frame.len()).expect("a frame");
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    let context = [0, len, 0, ifindex, 0, 0];
    let attr = Attr {
        prog_fd: u32::try_from(program.as_raw_fd()).expect("a descriptor"),
        data_size_in: len,
        data_in: frame.as_ptr() as u64,
        repeat,
        ctx_size_in: 24,
        ctx_in: context.as_ptr() as u64,
        flags: 2,
        batch_size: 64,
        ..Attr::default()
    };
    // SAFETY: the structure has the layout of `union bpf_attr.test`, its pointers and lengths are of live buffers.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, 10, &raw const attr, size_of::<Attr>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads all rings until its standard input closes.
fn tenant(arguments: &[String]) {
    core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
    let block = arguments[0] == "block";
    let mut rings: Vec<_> = arguments[1..]
        .iter()
        .map(|pair| {
            let fd = |n: &str| {
                // SAFETY: inherited from the parent for this, and owned by nobody else here.
                unsafe { OwnedFd::from_raw_fd(n.parse().expect("a descriptor")) }
            };
            let (memfd, wake) = pair.split_once(':').expect("two descriptors");
            let mapping = Mapping::open(fd(memfd).as_fd()).expect("map");
            let (rx, tx) = mapping.tenant_side(0).expect("rings");
            (rx, tx, fd(wake))
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    std::thread::spawn(move || {
        let _ = io::stdin().read_line(&mut String::new());
        flag.store(true, Ordering::Relaxed);
    });
    let (mut count, mut sum, mut yields, mut sleeps) = (0u64, 0u64, 0u64, 0u64);
    while !stop.load(Ordering::Relaxed) {
        let mut any = false;
        for (rx, _, _) in &mut rings {
            let mut taken = 0;
            while taken < 256
                && let Some(item) = rx.peek().expect("a well-behaved worker")
            {
                sum += u64::from(item.record.len);
                item.consume();
                taken += 1;
            }
            if taken > 0 {
                any = true;
                count += taken;
                let _ = rx.release();
            }
        }
        if any {
            continue;
        }
        if block && let [(rx, _, wake)] = rings.as_mut_slice() {
            if rx.sleep() {
                sleeps += 1;
                let mut fds = [rustix::event::PollFd::new(&*wake, rustix::event::PollFlags::IN)];
                let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                let _ = rustix::event::poll(&mut fds, Some(&timeout));
                let _ = rustix::io::read(&*wake, &mut [0; 8]);
                rx.wake();
            }
        } else {
            yields += 1;
            std::thread::yield_now();
        }
    }
    println!("{count} datagrams, {sum} bytes, {yields} yields, {sleeps} sleeps");
}
