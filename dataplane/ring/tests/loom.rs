//! All interleavings of two threads at a small ring, as loom's model of the memory allows them. Run with
//! `RUSTFLAGS="--cfg loom" cargo test -p afnet-ring --release --test loom`.
//!
//! The data area is watched too: loom fails a test in which a record is read while it may be written, so these
//! tests show that the release and acquire of the positions are enough.
#![cfg(loom)]

use afnet_abi::shm::{Record, kind};
use afnet_ring::{Consumer, Producer, pair};
use loom::{
    sync::{Arc, Condvar, Mutex},
    thread,
};

/// An eventfd: rung, it lets one waiter through, now or later.
#[derive(Clone)]
struct Doorbell(Arc<(Mutex<bool>, Condvar)>);

impl Doorbell {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn ring(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_one();
    }

    fn wait(&self) {
        let mut rung = self.0.0.lock().unwrap();
        while !*rung {
            rung = self.0.1.wait(rung).unwrap();
        }
        *rung = false;
    }
}

fn send(producer: &mut Producer, number: u64, payload: usize) -> bool {
    let Some(room) = producer.reserve(payload) else { return false };
    room.commit(&Record { kind: kind::PACKET, timestamp_ns: number, ..Record::default() }, payload);
    true
}

fn receive(consumer: &mut Consumer) -> Option<u64> {
    let item = consumer.peek().expect("honest")?;
    let number = item.record.timestamp_ns;
    item.consume();
    Some(number)
}

fn model(preemptions: usize, test: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(test);
}

/// Records arrive in order, and the room of consumed ones is written again without a race.
#[test]
fn publish_and_release_order_the_data() {
    model(5, || {
        let (mut producer, mut consumer) = pair(128);
        let writer = thread::spawn(move || {
            let mut next = 1;
            for _ in 0..5 {
                if next <= 3 && send(&mut producer, next, 0) {
                    next += 1;
                    let _ = producer.publish();
                }
            }
        });
        let mut last = 0;
        for _ in 0..3 {
            if let Some(number) = receive(&mut consumer) {
                assert_eq!(number, last + 1);
                last = number;
                let _ = consumer.release();
            }
        }
        writer.join().unwrap();
    });
}

/// A consumer that sleeps on its doorbell gets every record: no wake-up is lost.
#[test]
fn a_sleeping_consumer_is_always_woken() {
    model(5, || {
        let (mut producer, mut consumer) = pair(256);
        let doorbell = Doorbell::new();
        let bell = doorbell.clone();
        let writer = thread::spawn(move || {
            for number in 1..=2 {
                assert!(send(&mut producer, number, 0));
                if producer.publish() {
                    bell.ring();
                }
            }
        });
        for number in 1..=2 {
            loop {
                if let Some(seen) = receive(&mut consumer) {
                    assert_eq!(seen, number);
                    break;
                }
                if consumer.sleep() {
                    doorbell.wait();
                    consumer.wake();
                }
            }
        }
        writer.join().unwrap();
    });
}

/// A producer that sleeps for want of room gets it: no wake-up is lost in this direction either.
#[test]
fn a_producer_that_waits_for_room_is_always_woken() {
    model(5, || {
        let (mut producer, mut consumer) = pair(128);
        let doorbell = Doorbell::new();
        let bell = doorbell.clone();
        for number in 1..=2 {
            assert!(send(&mut producer, number, 0));
        }
        let _ = producer.publish();
        let reader = thread::spawn(move || {
            for number in 1..=2 {
                assert_eq!(receive(&mut consumer), Some(number));
                if consumer.release() {
                    bell.ring();
                }
            }
        });
        for number in 3..=4 {
            while !send(&mut producer, number, 0) {
                if producer.sleep(0) {
                    doorbell.wait();
                    producer.wake();
                }
            }
            let _ = producer.publish();
        }
        reader.join().unwrap();
    });
}

/// Both ends sleep and wake each other, through a wrap with a pad record.
#[test]
fn both_ends_may_sleep() {
    model(4, || {
        let (mut producer, mut consumer) = pair(256);
        let (to_consumer, to_producer) = (Doorbell::new(), Doorbell::new());
        let (ring_consumer, wait_producer) = (to_consumer.clone(), to_producer.clone());
        // 64 + 128 bytes, then 128 that do not fit behind them: pad, and no room before the consumer releases.
        let payloads = [0, 64, 64];
        let writer = thread::spawn(move || {
            for (number, payload) in (1..).zip(payloads) {
                while !send(&mut producer, number, payload) {
                    if producer.sleep(payload) {
                        wait_producer.wait();
                        producer.wake();
                    }
                }
                if producer.publish() {
                    ring_consumer.ring();
                }
            }
        });
        for number in 1..=3 {
            loop {
                if let Some(seen) = receive(&mut consumer) {
                    assert_eq!(seen, number);
                    if consumer.release() {
                        to_producer.ring();
                    }
                    break;
                }
                if consumer.sleep() {
                    to_consumer.wait();
                    consumer.wake();
                }
            }
        }
        writer.join().unwrap();
    });
}
