//! One ring, step by step: order, wrap, padding, batching, sleeping, and the memfd around it.
#![cfg(not(loom))]

use std::os::fd::AsFd;

use afnet_abi::shm::{MAX_PAYLOAD, MIN_RING_LEN, Record, endpoint_kind, kind, record_len};
use afnet_ring::{Consumer, Layout, Mapping, OpenError, Producer, pair};

fn send(producer: &mut Producer, payload: &[u8]) -> bool {
    let Some(mut room) = producer.reserve(payload.len()) else { return false };
    room.write(0, payload);
    room.commit(&Record { kind: kind::DATAGRAM, ..Record::default() }, payload.len());
    true
}

fn receive(consumer: &mut Consumer) -> Option<Vec<u8>> {
    let item = consumer.peek().unwrap()?;
    let bytes = item.payload.to_vec();
    assert_eq!(item.record.len as usize, bytes.len());
    item.consume();
    Some(bytes)
}

const LAYOUT: Layout =
    Layout { kind: endpoint_kind::UDP, workers: 2, rx_len: MIN_RING_LEN, tx_len: 2 * MIN_RING_LEN };

#[test]
fn nothing_is_seen_before_publish_and_no_room_returns_before_release() {
    let (mut producer, mut consumer) = pair(256);
    assert!(send(&mut producer, b"one") && send(&mut producer, b"two"));
    assert!(producer.unpublished());
    assert!(!send(&mut producer, b"three"), "four slots are full");
    assert_eq!(receive(&mut consumer), None);
    assert!(!producer.publish(), "nobody sleeps");
    assert!(!producer.unpublished());
    assert_eq!(receive(&mut consumer).unwrap(), b"one");
    assert_eq!(producer.free(), 0);
    assert!(!consumer.release());
    assert_eq!(producer.free(), 128);
    assert_eq!(receive(&mut consumer).unwrap(), b"two");
    assert_eq!(receive(&mut consumer), None);
    assert!(!producer.drained());
    assert!(!consumer.release());
    assert!(producer.drained());
}

#[test]
fn a_record_that_meets_the_end_starts_over_at_the_front() {
    let (mut producer, mut consumer) = pair(512);
    for round in 0..100u8 {
        // 128 + 192 bytes do not divide 512: the end is met at every offset.
        for payload in [vec![round; 64], vec![round; 100]] {
            assert!(send(&mut producer, &payload), "round {round}");
            let _ = producer.publish();
            assert_eq!(receive(&mut consumer).unwrap(), payload);
            let _ = consumer.release();
        }
    }
}

#[test]
fn a_dropped_reservation_never_was() {
    let (mut producer, mut consumer) = pair(512);
    producer.reserve(100).unwrap().write(0, b"never");
    assert!(send(&mut producer, b"first"));
    let _ = producer.publish();
    assert_eq!(receive(&mut consumer).unwrap(), b"first");
    assert_eq!(receive(&mut consumer), None);
}

#[test]
fn a_commit_may_be_shorter_than_its_reservation_but_not_longer() {
    let (mut producer, mut consumer) = pair(1024);
    let mut room = producer.reserve(300).unwrap();
    room.write(0, &[7; 300]);
    room.commit(&Record { kind: kind::DATAGRAM, ..Record::default() }, 5);
    let mut room = producer.reserve(2).unwrap();
    room.write(0, &[8; 2]);
    room.commit(&Record { kind: kind::DATAGRAM, ..Record::default() }, 3000);
    let _ = producer.publish();
    assert_eq!(receive(&mut consumer).unwrap(), [7; 5]);
    assert_eq!(receive(&mut consumer).unwrap(), [8; 2]);
    assert_eq!(consumer.available().unwrap(), 0);
}

#[test]
#[should_panic(expected = "outside of the reservation")]
fn a_write_outside_of_the_reservation_panics() {
    let (mut producer, _consumer) = pair(1024);
    producer.reserve(100).unwrap().write(98, &[0; 3]);
}

#[test]
fn the_longest_record_fits_the_smallest_ring_at_any_position() {
    let (mut producer, mut consumer) = pair(MIN_RING_LEN);
    assert_eq!(producer.max_payload(), MAX_PAYLOAD);
    assert!(producer.reserve(MAX_PAYLOAD + 1).is_none() && producer.violation().is_none());
    let longest = vec![0x5a; MAX_PAYLOAD];
    for step in 0..2 * MIN_RING_LEN / 64 / 37 {
        assert!(send(&mut producer, &[0; 36 * 64]), "step {step}");
        let _ = producer.publish();
        receive(&mut consumer).unwrap();
        let _ = consumer.release();
        if step % 16 == 0 {
            assert!(send(&mut producer, &longest), "step {step}");
            let _ = producer.publish();
            assert_eq!(receive(&mut consumer).unwrap(), longest);
            let _ = consumer.release();
        }
    }
}

#[test]
fn a_sleeping_consumer_is_rung_once() {
    let (mut producer, mut consumer) = pair(4096);
    assert!(consumer.sleep() && consumer.sleeping());
    assert!(!producer.publish(), "nothing new");
    send(&mut producer, b"a");
    assert!(producer.publish(), "asleep");
    send(&mut producer, b"b");
    assert!(!producer.publish(), "rung already");
    consumer.wake();
    assert!(!consumer.sleep(), "there is something");
    assert!(!consumer.sleeping());
    while receive(&mut consumer).is_some() {}
    assert!(consumer.sleep(), "a new sleep");
    send(&mut producer, b"c");
    assert!(producer.publish(), "rung anew");
}

#[test]
fn many_rings_are_published_with_one_fence() {
    let mut rings: Vec<_> = (0..3).map(|_| pair(256)).collect();
    assert!(rings[1].1.sleep() && rings[2].1.sleep());
    rings.iter_mut().take(2).for_each(|(producer, _)| assert!(send(producer, b"a")));
    let news: Vec<bool> = rings.iter_mut().map(|(producer, _)| producer.announce()).collect();
    assert_eq!(news, [true, true, false]);
    assert_eq!(receive(&mut rings[0].1).unwrap(), b"a", "visible before the fence");
    afnet_ring::fence();
    let (awake, asleep) = (rings[0].0.must_ring(), rings[1].0.must_ring());
    assert!(!awake && asleep);
    assert!(!rings[1].0.must_ring(), "rung already");
}

#[test]
fn a_producer_that_waits_for_room_is_rung_once() {
    let (mut producer, mut consumer) = pair(256);
    while send(&mut producer, b"x") {}
    let _ = producer.publish();
    assert!(producer.sleep(1) && producer.sleeping());
    receive(&mut consumer).unwrap();
    assert!(consumer.release(), "asleep");
    receive(&mut consumer).unwrap();
    assert!(!consumer.release(), "rung already");
    producer.wake();
    assert!(!producer.sleep(1) && !producer.sleeping(), "there is room");
}

#[test]
fn both_sides_of_a_mapping_meet_in_every_ring() {
    let (daemon, fd) = Mapping::create(LAYOUT).unwrap();
    daemon.populate().unwrap();
    let tenant = Mapping::open(fd.as_fd()).unwrap();
    assert_eq!(tenant.layout(), LAYOUT);
    let mut ends: Vec<_> =
        (0..2).map(|w| (daemon.worker_side(w).unwrap(), tenant.tenant_side(w).unwrap())).collect();
    // The memory stays as long as an end does.
    drop((daemon, tenant, fd));
    for (w, ((to_tenant, _), (_, to_worker))) in (0u8..).zip(&mut ends) {
        assert_eq!((to_tenant.capacity(), to_worker.capacity()), (LAYOUT.rx_len, LAYOUT.tx_len));
        while send(to_tenant, &[w; 1000]) {}
        while send(to_worker, &[w + 100; 1000]) {}
        let _ = (to_tenant.publish(), to_worker.publish());
    }
    for (w, ((_, from_tenant), (from_worker, _))) in (0u8..).zip(&mut ends) {
        for (ring, len, byte) in [(from_worker, LAYOUT.rx_len, w), (from_tenant, LAYOUT.tx_len, w + 100)] {
            for _ in 0..len / record_len(1000) {
                assert_eq!(receive(ring).unwrap(), [byte; 1000]);
            }
            assert_eq!(receive(ring), None);
        }
    }
}

#[test]
fn ends_are_handed_out_once() {
    let (mapping, _fd) = Mapping::create(LAYOUT).unwrap();
    let clone = mapping.clone();
    assert!(mapping.worker_side(1).is_some() && clone.worker_side(1).is_none());
    assert!(clone.tenant_side(1).is_some() && mapping.tenant_side(1).is_none());
    assert!(mapping.worker_side(2).is_none() && mapping.worker_side(usize::MAX).is_none());
}

#[test]
fn the_memfd_is_sealed_against_resizing() {
    let (_mapping, fd) = Mapping::create(LAYOUT).unwrap();
    let len = LAYOUT.total_len() as u64;
    for size in [0, 4096, len - 1, len + 1] {
        assert_eq!(rustix::fs::ftruncate(&fd, size), Err(rustix::io::Errno::PERM));
    }
    let seal = rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::WRITE);
    assert_eq!(seal, Err(rustix::io::Errno::PERM), "nobody can stop the other from writing");
}

#[test]
fn a_bad_layout_is_refused() {
    for layout in [
        Layout { kind: 0, ..LAYOUT },
        Layout { workers: 0, ..LAYOUT },
        Layout { workers: 65, ..LAYOUT },
        Layout { rx_len: MIN_RING_LEN + 64, ..LAYOUT },
        Layout { tx_len: MIN_RING_LEN / 2, ..LAYOUT },
        Layout { tx_len: usize::MAX, ..LAYOUT },
    ] {
        assert_eq!(
            Mapping::create(layout).unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput,
            "{layout:?}"
        );
    }
}

#[test]
fn a_file_that_is_no_endpoint_is_refused() {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    let make = |content: &[u8], len: u64, seals: SealFlags| {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::io::write(&fd, content).unwrap();
        ftruncate(&fd, len).unwrap();
        fcntl_add_seals(&fd, seals).unwrap();
        Mapping::open(fd.as_fd()).unwrap_err()
    };
    // A true header to change.
    let header = |change: &dyn Fn(&mut [u8; 40])| {
        let (_mapping, fd) = Mapping::create(LAYOUT).unwrap();
        let mut bytes = [0; 40];
        rustix::io::pread(&fd, &mut bytes, 0).unwrap();
        change(&mut bytes);
        bytes
    };
    let len = LAYOUT.total_len() as u64;
    let whole = header(&|_| ());
    assert!(matches!(make(&whole, len, SealFlags::SHRINK), OpenError::Unsealed));
    assert!(matches!(make(&whole, 100, seals), OpenError::Magic));
    assert!(matches!(make(&whole, len - 1, seals), OpenError::Geometry(..)));
    assert!(matches!(make(&whole, len + 4096, seals), OpenError::Geometry(..)));
    assert!(matches!(make(&header(&|h| h[0] ^= 1), len, seals), OpenError::Magic));
    assert!(matches!(make(&header(&|h| h[8] = 99), len, seals), OpenError::Version { daemon: 99 }));
    assert!(matches!(make(&header(&|h| h[16] = 0), len, seals), OpenError::Geometry(..)));
    assert!(matches!(make(&header(&|h| h[24..32].fill(0xff)), len, seals), OpenError::Geometry(..)));
    let pipe = rustix::pipe::pipe().unwrap();
    assert!(matches!(Mapping::open(pipe.0.as_fd()), Err(OpenError::Unsealed)));
}
