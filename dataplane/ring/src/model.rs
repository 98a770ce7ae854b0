//! What a ring promises, as functions of a byte string: proptest runs them as unit tests, a fuzzer on its corpus.
//!
//! | function | checks |
//! |---|---|
//! | [`follows_queue`] | any interleaving of two honest ends behaves like a queue with bounded room |
//! | [`survives_peer`] | an end whose peer writes anything anywhere stays within the area, ends, and reports |

use core::{
    ptr::NonNull,
    sync::atomic::{AtomicU8, Ordering},
};
use std::{collections::VecDeque, sync::Arc};

use afnet_abi::shm::{MAX_PAYLOAD, RECORD_ALIGN, Record, RingControl, kind, record_len};

use crate::{
    Consumer, Producer, Violation,
    control::{End, Words},
    memory::{Area, Region},
    plain::pair,
    sync::Tracker,
};

/// Decisions, read from a byte string; zeros after its end.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn more(&self) -> bool {
        !self.0.is_empty()
    }

    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> usize {
        usize::from(u16::from_le_bytes([self.byte(), self.byte()]))
    }

    fn number(&mut self) -> u64 {
        u64::from_le_bytes(core::array::from_fn(|_| self.byte()))
    }
}

/// What one ring must do, in the simplest terms.
struct Queue {
    /// Bytes of the data area.
    len: usize,
    /// Committed, not consumed: payload (`None`: a pad) and bytes in the ring.
    records: VecDeque<(Option<Vec<u8>>, usize)>,
    /// How many of them the consumer may see.
    published: usize,
    /// Whether something was committed since the last publish.
    news: bool,
    /// Bytes from the last publish to the next reservation are at this place of the area.
    place: usize,
    /// Bytes that the producer cannot use: committed and not released.
    used: usize,
    /// Bytes consumed and not released.
    unreleased: usize,
    /// The end sleeps and has not been rung for it.
    consumer_waits: bool,
    producer_waits: bool,
}

impl Queue {
    /// Pad and record that a payload needs.
    fn need(&self, payload: usize) -> (usize, usize) {
        let size = record_len(payload);
        let rest = self.len - self.place;
        (if size > rest { rest } else { 0 }, size)
    }

    fn commit(&mut self, payload: Option<Vec<u8>>, size: usize) {
        self.records.push_back((payload, size));
        self.place = (self.place + size) % self.len;
        self.used += size;
        self.news = true;
    }

    /// The next payload that the consumer must see, pads in front of it consumed.
    fn front(&mut self) -> Option<&Vec<u8>> {
        while self.published > 0 && self.records.front()?.0.is_none() {
            self.pop();
        }
        if self.published == 0 { None } else { self.records.front()?.0.as_ref() }
    }

    fn pop(&mut self) {
        let (_, size) = self.records.pop_front().expect("only after front()");
        self.published -= 1;
        self.unreleased += size;
    }
}

/// Runs two honest ends of a ring by the script and compares them with a queue.
///
/// # Panics
/// If they differ.
pub fn follows_queue(script: &[u8]) {
    let mut script = Script(script);
    let len = 256usize << (script.byte() % 6);
    let (mut producer, mut consumer) = pair(len);
    let mut queue = Queue {
        len,
        records: VecDeque::new(),
        published: 0,
        news: false,
        place: 0,
        used: 0,
        unreleased: 0,
        consumer_waits: false,
        producer_waits: false,
    };
    let mut serial = 0u8;
    while script.more() {
        match script.byte() % 8 {
            0..=2 => {
                serial = serial.wrapping_add(1);
                let payload = script.word() % (producer.max_payload() + 2);
                produce(&mut producer, &mut queue, &vec![serial; payload], script.byte());
            }
            3 => {
                assert_eq!(producer.unpublished(), queue.news);
                assert_eq!(producer.publish(), queue.news && queue.consumer_waits);
                queue.consumer_waits &= !queue.news;
                queue.news = false;
                queue.published = queue.records.len();
            }
            4 | 5 => {
                for _ in 0..=script.byte() % 16 {
                    consume(&mut consumer, &mut queue);
                }
            }
            6 => {
                let news = queue.unreleased != 0;
                assert_eq!(consumer.release(), news && queue.producer_waits);
                queue.producer_waits &= !news;
                queue.used -= core::mem::take(&mut queue.unreleased);
            }
            _ => doze(&mut producer, &mut consumer, &mut queue, script.byte()),
        }
    }
    assert_eq!((producer.violation(), consumer.violation()), (None, None));
}

fn produce(producer: &mut Producer, queue: &mut Queue, payload: &[u8], fate: u8) {
    let (pad, size) = queue.need(payload.len());
    let fits = payload.len() <= producer.max_payload() && queue.used + pad + size <= queue.len;
    let Some(mut room) = producer.reserve(payload.len()) else {
        assert!(!fits, "room refused");
        return;
    };
    assert!(fits, "room out of nothing");
    if pad != 0 {
        queue.commit(None, pad);
    }
    room.write(0, payload);
    match fate % 8 {
        0 => {} // never was
        1 => {
            let kept = payload.len() / 2;
            room.commit(&Record { kind: kind::PACKET, ..Record::default() }, kept);
            queue.commit(Some(payload[..kept].to_vec()), record_len(kept));
        }
        _ => {
            room.commit(&Record { kind: kind::PACKET, ..Record::default() }, payload.len());
            queue.commit(Some(payload.to_vec()), size);
        }
    }
}

fn consume(consumer: &mut Consumer, queue: &mut Queue) {
    let expected = queue.front();
    let item = consumer.peek().expect("the producer is honest");
    match (item, expected) {
        (None, None) => {}
        (Some(item), Some(payload)) => {
            assert_eq!(item.record.len as usize, payload.len());
            assert_eq!(&item.payload.to_vec(), payload);
            item.consume();
            queue.pop();
        }
        (item, expected) => panic!("the ring has {item:?}, the queue {expected:?}"),
    }
}

/// One end goes to sleep or wakes.
fn doze(producer: &mut Producer, consumer: &mut Consumer, queue: &mut Queue, what: u8) {
    match what % 4 {
        0 => {
            let slept_already = consumer.sleeping();
            let empty = queue.published == 0;
            assert_eq!(consumer.sleep(), empty);
            queue.consumer_waits = empty && (!slept_already || queue.consumer_waits);
        }
        1 => {
            consumer.wake();
            queue.consumer_waits = false;
        }
        2 => {
            let slept_already = producer.sleeping();
            let payload = usize::from(what) % producer.max_payload();
            let (pad, size) = queue.need(payload);
            let full = queue.used + pad + size > queue.len;
            assert_eq!(producer.sleep(payload), full);
            queue.producer_waits = full && (!slept_already || queue.producer_waits);
        }
        _ => {
            producer.wake();
            queue.producer_waits = false;
        }
    }
}

/// A ring of which only one end is honest, and the memory to forge.
struct Forge {
    region: Arc<Region>,
    len: usize,
}

impl Forge {
    fn new(len: usize) -> Self {
        Self { region: Arc::new(Region::plain(len)), len }
    }

    fn parts(&self) -> (&RingControl, NonNull<u8>) {
        match &*self.region {
            Region::Plain { control, data } => (control, NonNull::from(&**data).cast()),
            Region::Mapped { .. } => unreachable!("made plain"),
        }
    }

    fn end(&self, end: End) -> (Area, Words) {
        let (control, base) = self.parts();
        // SAFETY: as in `plain::pair`.
        unsafe {
            let tracker = Arc::new(Tracker::new(self.len / RECORD_ALIGN));
            let area = Area::new(base, self.len, Arc::clone(&self.region), tracker);
            (area, Words::new(NonNull::from(control), end))
        }
    }

    /// Writes where and what the script says: a shared word, or bytes of the data area.
    fn scribble(&self, script: &mut Script<'_>, near: u64) {
        let (control, base) = self.parts();
        match script.byte() % 8 {
            0 => control.producer.position.store(script.number(), Ordering::Release),
            1 => control.consumer.position.store(script.number(), Ordering::Release),
            // Likely values: a few records around what the honest end expects.
            2 => control.producer.position.store(nudge(near, script.byte()), Ordering::Release),
            3 => control.consumer.position.store(nudge(near, script.byte()), Ordering::Release),
            4 => control.producer.sleep.store(script.byte().into(), Ordering::Relaxed),
            5 => control.consumer.sleep.store(script.byte().into(), Ordering::Relaxed),
            _ => {
                let at = script.word() % (self.len - 8);
                // Descriptors are where lengths and kinds stand.
                let at = if script.byte().is_multiple_of(4) { at } else { at & !(RECORD_ALIGN - 1) };
                for i in 0..8 {
                    // SAFETY: within the data area, whose slots are UnsafeCells; atomic like the readers' access.
                    unsafe { base.add(at + i).cast::<AtomicU8>().as_ref() }
                        .store(script.byte(), Ordering::Relaxed);
                }
            }
        }
    }

    /// Whether the bytes lie in the data area.
    fn contains(&self, start: *const u8, bytes: usize) -> bool {
        let base = self.parts().1.as_ptr().addr();
        start.addr() >= base && start.addr() + bytes <= base + self.len
    }
}

fn nudge(near: u64, by: u8) -> u64 {
    near.wrapping_add(u64::from(by) * 32).wrapping_sub(64)
}

/// Runs each end of a ring by the script against a peer that writes anything anywhere between its steps.
///
/// # Panics
/// If the end leaves the data area, or forgets a violation it has reported.
pub fn survives_peer(script: &[u8]) {
    let mut script = Script(script);
    let forge = Forge::new(256 << (script.byte() % 4));
    if script.byte().is_multiple_of(2) {
        let (area, words) = forge.end(End::Consumer);
        honest_consumer(&forge, Consumer::new(area, words), &mut script);
    } else {
        let (area, words) = forge.end(End::Producer);
        honest_producer(&forge, Producer::new(area, words), &mut script);
    }
}

fn honest_consumer(forge: &Forge, mut consumer: Consumer, script: &mut Script<'_>) {
    let mut seen: Option<Violation> = None;
    let mut consumed = 0u64;
    while script.more() {
        forge.scribble(script, consumed);
        match script.byte() % 4 {
            0 => {
                let _ = consumer.release();
            }
            1 => {
                let _ = consumer.sleep();
                consumer.wake();
            }
            _ => match consumer.peek() {
                Ok(item) => {
                    assert_eq!(seen, None, "forgiven");
                    if let Some(item) = item {
                        assert!(item.payload.len() <= MAX_PAYLOAD && item.record.kind != kind::PAD);
                        assert_eq!(item.payload.len(), item.record.len as usize);
                        assert!(forge.contains(item.payload.as_ptr(), item.payload.len()));
                        consumed += record_len(item.payload.len()) as u64;
                        item.consume();
                    }
                }
                Err(violation) => {
                    assert!(seen.is_none_or(|v| v == violation), "{seen:?} became {violation:?}");
                    seen = Some(violation);
                    assert_eq!(consumer.violation(), seen);
                }
            },
        }
    }
}

fn honest_producer(forge: &Forge, mut producer: Producer, script: &mut Script<'_>) {
    let mut seen: Option<Violation> = None;
    let mut produced = 0u64;
    while script.more() {
        forge.scribble(script, produced);
        match script.byte() % 4 {
            0 => {
                let _ = producer.publish();
            }
            1 => {
                assert!(producer.free() <= forge.len);
                let _ = producer.sleep(script.word());
                producer.wake();
            }
            _ => {
                let payload = script.word() % forge.len;
                if let Some(mut room) = producer.reserve(payload) {
                    assert_eq!(seen, None, "forgiven");
                    assert!(
                        forge.contains(room.payload_ptr(), room.capacity()) && room.capacity() == payload
                    );
                    room.write(0, &vec![1; payload]);
                    room.commit(&Record { kind: kind::PACKET, ..Record::default() }, payload);
                    produced += record_len(payload) as u64;
                }
            }
        }
        if let Some(violation) = seen {
            assert_eq!(producer.violation(), Some(violation), "forgotten");
        }
        seen = producer.violation();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn follows_queue(script in proptest::collection::vec(any::<u8>(), 0..1500)) {
            super::follows_queue(&script);
        }

        #[test]
        fn survives_peer(script in proptest::collection::vec(any::<u8>(), 0..1500)) {
            super::survives_peer(&script);
        }
    }
}
