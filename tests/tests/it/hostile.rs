//! A tenant that writes garbage all over its memory while the daemon works with it, and a victim beside it.

use std::{
    collections::BTreeMap,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    thread,
};

use afnet_abi::{
    control::Event,
    shm::{self, MAX_PAYLOAD, RECORD_ALIGN, kind},
};
use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, PEER_V4, PEER_V6},
    wait,
};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::{
    bare::Bare,
    client::{Tenant, ask, at, bytes, expect_counters},
};

/// xorshift64 (Marsaglia 2003): the same crimes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn below_usize(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("below a usize")
    }

    /// A number near something that matters, or any.
    fn number(&mut self) -> u64 {
        const EDGES: [u64; 12] = [
            0,
            1,
            RECORD_ALIGN as u64 - 1,
            RECORD_ALIGN as u64,
            MAX_PAYLOAD as u64,
            MAX_PAYLOAD as u64 + 1,
            1 << 20,
            u32::MAX as u64,
            1 << 32,
            1 << 63,
            u64::MAX - 63,
            u64::MAX,
        ];
        match self.below(3) {
            0 => self.next(),
            1 => EDGES[self.below_usize(12)],
            _ => EDGES[self.below_usize(12)].wrapping_add(self.below(129)).wrapping_sub(64),
        }
    }
}

/// All of an endpoint's memory, writable.
struct Memory {
    base: NonNull<u8>,
    len: usize,
    rx_len: usize,
    tx_len: usize,
}

// SAFETY: only ever accessed by atomics, whatever the daemon does meanwhile.
unsafe impl Sync for Memory {}
// SAFETY: as above; the mapping belongs to no thread.
unsafe impl Send for Memory {}

impl Memory {
    fn of(bare: &Bare) -> Self {
        let len = shm::total_len(1, bare.rx_len, bare.tx_len);
        // SAFETY: a new mapping of the endpoint's memory, of its length.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                bare.memory.as_fd(),
                0,
            )
        };
        let base = NonNull::new(base.expect("map the endpoint").cast()).expect("not null");
        Self { base, len, rx_len: bare.rx_len, tx_len: bare.tx_len }
    }

    /// The word at a multiple of eight.
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= self.len);
        // SAFETY: in the mapping and aligned; everybody in this process uses it as an atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    fn half(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && at + 4 <= self.len);
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(self.base.as_ptr().add(at).cast()) }
    }

    /// Line `line` of the two rings' controls: rx producer, rx consumer, tx producer, tx consumer.
    fn line(&self, line: usize) -> usize {
        shm::worker_offset(0, self.rx_len, self.tx_len) + line * 64
    }

    /// A place in the TX ring's data.
    fn tx(&self, position: u64) -> usize {
        let start = shm::worker_offset(0, self.rx_len, self.tx_len) + shm::CTL_LEN + self.rx_len;
        start + usize::try_from(position).expect("64 bits") % self.tx_len
    }

    /// A descriptor of garbage, now and then with a length and kind that pass.
    fn descriptor(&self, random: &mut Random, position: u64) {
        let at = self.tx(position);
        for word in 0..8 {
            self.word(at + word * 8).store(random.next(), Relaxed);
        }
        let len = if random.below(4) == 0 { random.number() } else { random.below(2000) };
        let kinds = [
            kind::PAD,
            kind::DATAGRAM,
            kind::PACKET,
            kind::ERROR,
            u8::try_from(random.below(256)).expect("a byte"),
        ];
        let head = len & 0xffff_ffff | u64::from(kinds[random.below_usize(5)]) << 32;
        self.word(at).store(head | random.next() << 48, Relaxed);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `of` with this length; no reference outlives `self`.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

/// Writes garbage from two threads until the daemon has had enough.
fn misbehave(bare: &Bare, seed: u64) {
    let memory = Memory::of(bare);
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for thread in 0..2 {
            let (memory, stop) = (&memory, &stop);
            scope.spawn(move || {
                let mut random = Random(seed * 2 + thread + 1);
                let mut position = 0;
                let mut patience = 2000 + random.below(2000);
                while !stop.load(Relaxed) {
                    // First garbage in the place where records belong, at positions that make sense; later anything.
                    for _ in 0..16 {
                        let place = position + RECORD_ALIGN as u64 * random.below(64);
                        memory.descriptor(&mut random, place);
                    }
                    if patience > 0 {
                        patience -= 1;
                        position += RECORD_ALIGN as u64 * random.below(32);
                        memory.word(memory.line(2)).store(position, Relaxed);
                    } else {
                        let line = memory.line(random.below_usize(4));
                        let value = random.number();
                        memory.word(line).store(value, Relaxed);
                    }
                    memory
                        .half(memory.line(random.below_usize(4)) + 8)
                        .store(u32::try_from(random.next() >> 32).expect("half a word"), Relaxed);
                    // The header is read by nobody any more.
                    memory.word(8 * random.below_usize(5)).store(random.next(), Relaxed);
                    let _ = rustix::io::write(&bare.doorbells[0], &1u64.to_ne_bytes());
                    thread::yield_now();
                }
            });
        }
        let closed = wait::within(wait::PATIENCE, || bare.is_closed().then_some(()));
        stop.store(true, Relaxed);
        assert!(closed.is_some(), "endpoint {} is still served", bare.endpoint);
    });
}

#[test]
fn garbage_hurts_its_author_alone() {
    const ROUNDS: u64 = 12;
    let bed = Bed::new("hostile");
    let mut daemon = Afnetd::start(&bed);
    daemon.add_compartment("victim", &["192.0.2.10/24", "2001:db8::10/64"]);
    daemon.ok("add evil");
    daemon.ok("addr add 192.0.2.66/24 dev dev0 afnetns evil fast-only");
    let mut monitor = daemon.connect();
    monitor.send(br#"{"op":"monitor"}"#);
    let victim = Tenant::claiming(&daemon, "victim", 7).echo();
    let done = AtomicBool::new(false);
    let mut asked = 0;
    let mut evil = Vec::new();
    thread::scope(|scope| {
        let crimes = scope.spawn(|| {
            let endpoints: Vec<u64> = (0..ROUNDS)
                .map(|seed| {
                    let bare = Bare::attach(&daemon, "evil");
                    bare.claim(7, &[]);
                    misbehave(&bare, seed);
                    bare.endpoint
                })
                .collect();
            done.store(true, Relaxed);
            endpoints
        });
        let flood = scope.spawn(|| {
            let socket = bed.peer_socket(PEER_V4);
            while !done.load(Relaxed) {
                for _ in 0..16 {
                    let _ = socket.send_to(&[0; 300], at("192.0.2.66", 7));
                }
                thread::yield_now();
            }
        });
        let (four, six) = (bed.peer_socket(PEER_V4), bed.peer_socket(PEER_V6));
        while !crimes.is_finished() {
            ask(&four, at("192.0.2.10", 7), &bytes(1000, asked));
            ask(&six, at("2001:db8::10", 7), &bytes(30, asked));
            asked += 1;
        }
        done.store(true, Relaxed);
        flood.join().expect("the flood");
        evil = crimes.join().expect("the crimes");
    });
    assert!(asked > 0 && victim.count() == 2 * asked as u64);
    let counters = daemon.counters("victim");
    assert!(counters.keys().all(|name| !name.contains("drop") && !name.contains("full")), "{counters:?}");
    expect_counters(&daemon, "evil", &[("violations", ROUNDS)]);
    // Each end was told, with a reason.
    let mut reasons = BTreeMap::new();
    while reasons.len() < evil.len() {
        let line = monitor.line();
        assert!(!line.is_empty(), "the daemon told of {reasons:?} only");
        if let Ok(Event::Detached { endpoint, name, reason }) = serde_json::from_str(&line) {
            assert_eq!(name, "evil");
            assert_ne!(reason, "closed", "endpoint {endpoint}");
            reasons.insert(endpoint, reason);
        }
    }
    assert_eq!(reasons.keys().copied().collect::<Vec<_>>(), evil);
    // The compartment itself is as it was: who behaves is welcome.
    let mut tenant = Tenant::claiming(&daemon, "evil", 7);
    bed.peer_socket(PEER_V4).send_to(b"honest", at("192.0.2.66", 7)).unwrap();
    wait::until_true("an honest datagram", || tenant.receive().payload == b"honest");
    drop((tenant, victim));
    daemon.stop();
}
