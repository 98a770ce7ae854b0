//! A peer that forges positions, sleep words, lengths and kinds while the honest end runs: the honest end keeps
//! within its memory, never loops without end, never panics, and reports a violation.
#![cfg(not(loom))]
#![expect(clippy::cast_possible_truncation, reason = "random numbers are cut to size on purpose")]

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use afnet_abi::shm::{
    CTL_LEN, HEADER_LEN, MAX_PAYLOAD, MIN_RING_LEN, Record, RingControl, endpoint_kind, kind, record_len,
};
use afnet_ring::{Layout, Mapping, Violation};

const LAYOUT: Layout =
    Layout { kind: endpoint_kind::UDP, workers: 1, rx_len: MIN_RING_LEN, tx_len: MIN_RING_LEN };

/// The tenant's own mapping of the memfd, to write into as it likes.
struct Forger {
    base: *mut u8,
    state: u64,
}

// SAFETY: an address; all access is atomic.
unsafe impl Send for Forger {}

impl Forger {
    fn new(fd: &OwnedFd, seed: u64) -> Self {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping; it stays until the process ends.
        let base = unsafe {
            mmap(std::ptr::null_mut(), LAYOUT.total_len(), access, MapFlags::SHARED, fd, 0).unwrap()
        };
        Self { base: base.cast(), state: seed }
    }

    /// xorshift64.
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= LAYOUT.total_len());
        // SAFETY: aligned and within the mapping; atomic.
        unsafe { AtomicU64::from_ptr(self.base.add(offset).cast()) }
    }

    fn control(&self, tx: bool) -> &RingControl {
        let offset = HEADER_LEN + if tx { size_of::<RingControl>() } else { 0 };
        // SAFETY: page-aligned base; RingControl consists of atomics.
        unsafe { &*self.base.add(offset).cast::<RingControl>() }
    }

    fn data(tx: bool) -> usize {
        HEADER_LEN + CTL_LEN + if tx { LAYOUT.rx_len } else { 0 }
    }

    /// Random words over some descriptors; with lengths and kinds that are often nearly right.
    fn scribble(&mut self, tx: bool) {
        for _ in 0..64 {
            let slot = self.random() as usize % (MIN_RING_LEN / 64) * 64;
            let first = match self.random() % 4 {
                0 => self.random(),
                1 => (u64::from(kind::DATAGRAM) << 32) | (self.random() % 200_000),
                2 => (u64::from(kind::PAD) << 32) | (MIN_RING_LEN - slot - 64) as u64,
                _ => (u64::from(kind::DATAGRAM) << 32) | (self.random() % 1500),
            };
            self.word(Self::data(tx) + slot).store(first, Ordering::Relaxed);
            let other = self.random();
            self.word(Self::data(tx) + slot + 8 * (1 + other as usize % 7)).store(other, Ordering::Relaxed);
        }
    }
}

/// Runs `forge` on a thread of its own until `honest` returns.
fn against(mut forger: Forger, forge: impl Fn(&mut Forger) + Sync, honest: impl FnOnce()) {
    /// Ends the forger also when the honest end fails its test.
    struct Done<'a>(&'a AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                forge(&mut forger);
            }
        });
        let _done = Done(&done);
        honest();
    });
}

/// The worker's reading end against a tenant that publishes true positions over data that changes all the time.
#[test]
fn a_worker_survives_descriptors_that_change_under_it() {
    let mut seen = Vec::new();
    let end = Instant::now() + Duration::from_millis(700);
    let mut seed = 1;
    while Instant::now() < end {
        let (mapping, fd) = Mapping::create(LAYOUT).unwrap();
        let (_, mut consumer) = mapping.worker_side(0).unwrap();
        let forger = Forger::new(&fd, seed);
        seed += 1;
        // Plausible everywhere to begin with, or the first zeros would end every run at once.
        for slot in 0..MIN_RING_LEN / 64 {
            let descriptor = u64::from(kind::DATAGRAM) << 32;
            forger.word(Forger::data(true) + slot * 64).store(descriptor, Ordering::Relaxed);
        }
        let control = Forger::new(&fd, 1);
        let forge = |f: &mut Forger| {
            f.scribble(true);
            let sleep = f.random() as u32;
            f.control(true).producer.sleep.store(sleep, Ordering::Relaxed);
        };
        against(forger, forge, || {
            let mut private = vec![0; MAX_PAYLOAD];
            let mut released = 0;
            for _ in 0..10_000 {
                // All that the rules allow, always.
                let all = released + MIN_RING_LEN as u64;
                control.control(true).producer.position.store(all, Ordering::Release);
                match consumer.peek() {
                    Ok(Some(item)) => {
                        assert!(item.payload.len() <= MAX_PAYLOAD);
                        assert_eq!(item.payload.copy_to(&mut private), item.payload.len());
                        item.consume();
                    }
                    Ok(None) => {}
                    Err(violation) => {
                        assert_eq!(consumer.peek().unwrap_err(), violation);
                        seen.push(violation);
                        break;
                    }
                }
                let _ = consumer.release();
                released = control.control(true).consumer.position.load(Ordering::Relaxed);
            }
        });
    }
    assert!(!seen.is_empty());
}

/// Each rule about descriptors, broken once.
#[test]
fn a_worker_survives_forged_descriptors() {
    let descriptor = |kind: u8, len: usize| (u64::from(kind) << 32) | len as u64;
    let last = MIN_RING_LEN - 64;
    // Slots before the forged one are empty datagrams; everything is published up to `published`.
    for (slot, forged, published, expected) in [
        (0, descriptor(kind::DATAGRAM, MAX_PAYLOAD + 1), MIN_RING_LEN, Violation::RecordTooLong),
        (0, descriptor(kind::DATAGRAM, u32::MAX as usize), MIN_RING_LEN, Violation::RecordTooLong),
        (0, descriptor(kind::DATAGRAM, 1), 64, Violation::RecordOverrun),
        (last, descriptor(kind::DATAGRAM, 1), MIN_RING_LEN, Violation::RecordOverrun),
        (0, descriptor(kind::PAD, last), MIN_RING_LEN, Violation::Pad),
        (64, descriptor(kind::PAD, last - 128), MIN_RING_LEN, Violation::Pad),
        (64, descriptor(kind::PAD, last), MIN_RING_LEN, Violation::Pad),
        (64, descriptor(kind::PAD, u32::MAX as usize), MIN_RING_LEN, Violation::Pad),
        (64, descriptor(kind::PAD, last - 64), 128, Violation::RecordOverrun),
    ] {
        let (mapping, fd) = Mapping::create(LAYOUT).unwrap();
        let (_, mut consumer) = mapping.worker_side(0).unwrap();
        let forger = Forger::new(&fd, 1);
        for honest in 0..slot / 64 {
            forger
                .word(Forger::data(true) + honest * 64)
                .store(descriptor(kind::DATAGRAM, 0), Ordering::Relaxed);
        }
        forger.word(Forger::data(true) + slot).store(forged, Ordering::Relaxed);
        forger.control(true).producer.position.store(published as u64, Ordering::Release);
        for _ in 0..slot / 64 {
            consumer.peek().unwrap().unwrap().consume();
        }
        assert_eq!(consumer.peek().unwrap_err(), expected, "{forged:#x} at {slot}");
    }
}

/// The worker's reading end against a tenant that forges positions.
#[test]
fn a_worker_survives_forged_producer_positions() {
    for (forged, expected) in [
        (MIN_RING_LEN as u64 + 64, Violation::ProducerPosition),
        (u64::MAX, Violation::ProducerPosition),
        (u64::MAX - 63, Violation::ProducerPosition),
        (100, Violation::Misaligned),
    ] {
        let (mapping, fd) = Mapping::create(LAYOUT).unwrap();
        let (_, mut consumer) = mapping.worker_side(0).unwrap();
        Forger::new(&fd, 1).control(true).producer.position.store(forged, Ordering::Release);
        assert_eq!(consumer.peek().unwrap_err(), expected, "{forged}");
        assert!(!consumer.sleep(), "a violation is no reason to sleep");
        assert_eq!(consumer.violation(), Some(expected));
    }
    // Going back.
    let (mapping, fd) = Mapping::create(LAYOUT).unwrap();
    let ((_, mut consumer), (_, mut producer)) =
        (mapping.worker_side(0).unwrap(), Mapping::open(fd.as_fd()).unwrap().tenant_side(0).unwrap());
    for _ in 0..2 {
        producer.reserve(0).unwrap().commit(&Record { kind: kind::DATAGRAM, ..Record::default() }, 0);
    }
    let _ = producer.publish();
    consumer.peek().unwrap().unwrap().consume();
    consumer.peek().unwrap().unwrap().consume();
    Forger::new(&fd, 1).control(true).producer.position.store(64, Ordering::Release);
    assert_eq!(consumer.peek().unwrap_err(), Violation::ProducerPosition);
}

/// The worker's writing end against a tenant that forges the consumer's words, concurrently.
#[test]
fn a_worker_survives_a_forged_consumer() {
    let end = Instant::now() + Duration::from_millis(500);
    let (mut runs, mut violations, mut rung) = (0u64, 0, 0u64);
    while Instant::now() < end {
        let (mapping, fd) = Mapping::create(LAYOUT).unwrap();
        let (mut producer, _) = mapping.worker_side(0).unwrap();
        runs += 1;
        let forge = |f: &mut Forger| {
            let (choice, value) = (f.random(), f.random());
            let words = &f.control(false).consumer;
            words.sleep.store(value as u32, Ordering::Relaxed);
            // True for a while, then anything.
            let near = f.control(false).producer.position.load(Ordering::Relaxed);
            let position = match choice % 200 {
                0 => value,
                1 => near + 64,
                2 => near.saturating_sub(100),
                _ => near,
            };
            words.position.store(position, Ordering::Release);
            f.scribble(false);
        };
        against(Forger::new(&fd, runs), forge, || {
            let payload = [0x5a; 1400];
            let mut published = 0u64;
            for _ in 0..20_000 {
                if let Some(mut room) = producer.reserve(payload.len()) {
                    room.write(0, &payload);
                    room.commit(&Record { kind: kind::DATAGRAM, ..Record::default() }, payload.len());
                }
                rung += u64::from(producer.publish());
                published += 1;
                if producer.violation().is_some() {
                    violations += 1;
                    assert!(producer.reserve(0).is_none() && producer.free() == 0);
                    assert!(!producer.sleep(0));
                    break;
                }
            }
            assert!(rung <= published * runs, "more rings than publishes");
        });
    }
    assert!(violations > 0, "no violation in {runs} runs");
}

/// What the honest tenant of one ring receives is untouched by the forger of another ring in the same worker.
#[test]
fn a_neighbour_is_untouched() {
    let (hostile, hostile_fd) = Mapping::create(LAYOUT).unwrap();
    let (victim, victim_fd) = Mapping::create(LAYOUT).unwrap();
    let (mut to_hostile, mut from_hostile) = hostile.worker_side(0).unwrap();
    let (mut to_victim, _) = victim.worker_side(0).unwrap();
    let (mut at_victim, _) = Mapping::open(victim_fd.as_fd()).unwrap().tenant_side(0).unwrap();
    let forge = |f: &mut Forger| {
        for tx in [false, true] {
            f.scribble(tx);
            let value = f.random();
            f.control(tx).producer.position.store(value, Ordering::Release);
            f.control(tx).consumer.position.store(value.rotate_left(20), Ordering::Release);
        }
    };
    against(Forger::new(&hostile_fd, 7), forge, || {
        let mut bytes = [0; 600];
        for number in 0..20_000u64 {
            if let Some(room) = to_hostile.reserve(600) {
                room.commit(&Record::default(), 600);
            }
            let _ = to_hostile.publish();
            let _ = from_hostile.peek().map(|item| item.map(afnet_ring::Item::consume));
            let size = number as usize % 600;
            let mut room = to_victim.reserve(size).unwrap();
            room.write(0, &vec![number as u8; size]);
            room.commit(&Record { kind: kind::DATAGRAM, timestamp_ns: number, ..Record::default() }, size);
            let _ = to_victim.publish();
            let item = at_victim.peek().unwrap().unwrap();
            assert_eq!((item.record.timestamp_ns, item.payload.copy_to(&mut bytes)), (number, size));
            assert!(bytes[..size].iter().all(|b| *b == number as u8));
            item.consume();
            let _ = at_victim.release();
        }
        assert!(to_hostile.violation().is_some() && from_hostile.violation().is_some());
    });
    assert_eq!(record_len(0), 64);
}
