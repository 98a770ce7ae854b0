//! The writing end of a ring.

use core::{marker::PhantomData, ptr};

use afnet_abi::shm::{MAX_PAYLOAD, RECORD_ALIGN, Record, kind, record_len};

use crate::{Payload, Violation, control::Words, memory::Area};

/// The writing end. One thread owns it at a time.
///
/// Records are committed to a private position and become visible with [`Self::publish`], once for a batch.
#[derive(Debug)]
pub struct Producer {
    area: Area,
    words: Words,
    /// Bytes committed. Private; `published <= head <= tail + len`.
    head: u64,
    /// Bytes announced to the consumer.
    published: u64,
    /// The consumer's position when we last read it; checked: `tail <= published`, never goes back.
    tail: u64,
    violation: Option<Violation>,
    /// Not `Sync`: interior state belongs to one thread.
    _not_sync: PhantomData<core::cell::Cell<()>>,
}

impl Producer {
    pub(crate) fn new(area: Area, words: Words) -> Self {
        Self { area, words, head: 0, published: 0, tail: 0, violation: None, _not_sync: PhantomData }
    }

    /// Longest payload in bytes that this ring can ever take: [`MAX_PAYLOAD`], except in the small rings of tests.
    pub fn max_payload(&self) -> usize {
        // With half of the area for the longest record, an empty ring has room for it at any position, padding
        // included.
        (self.area.len() / 2 - size_of::<Record>()).min(MAX_PAYLOAD)
    }

    /// Bytes of the ring's data area.
    pub fn capacity(&self) -> usize {
        self.area.len()
    }

    /// Room for one record with at most `payload` bytes, contiguous. Reads the consumer's position only if the one
    /// read before leaves too little room.
    ///
    /// `None`: full, or `payload` exceeds [`Self::max_payload`], or the peer broke the rules
    /// ([`Self::violation`]).
    #[inline]
    pub fn reserve(&mut self, payload: usize) -> Option<Reserved<'_>> {
        if payload > self.max_payload() {
            return None;
        }
        let need = record_len(payload);
        let contiguous = self.area.contiguous(self.head);
        let pad = if need > contiguous { contiguous } else { 0 };
        if self.room() < need + pad && (!self.refresh() || self.room() < need + pad) {
            return None;
        }
        if pad != 0 {
            self.pad(pad);
        }
        self.area.track_write(self.head, need);
        Some(Reserved { producer: self, payload })
    }

    /// Fills the rest of the area, `bytes` long, with a pad record.
    #[cold]
    fn pad(&mut self, bytes: usize) {
        self.area.track_write(self.head, RECORD_ALIGN);
        let len = u32::try_from(bytes - size_of::<Record>()).unwrap_or(u32::MAX);
        self.area.write_record(self.head, &Record { len, kind: kind::PAD, ..Record::default() });
        self.head += bytes as u64;
    }

    /// Makes all committed records visible to the consumer. `true`: the consumer sleeps and nobody has rung for
    /// this sleep yet, so ring its doorbell. Without new records it does nothing.
    #[inline]
    #[must_use = "a sleeping consumer waits for its doorbell"]
    pub fn publish(&mut self) -> bool {
        if !self.announce() {
            return false;
        }
        crate::fence();
        self.must_ring()
    }

    /// [`Self::publish`] in parts, for many rings at once: announce all, then [`crate::fence`] once, then ask each that
    /// had something new (`true`) whether it [must be rung](Self::must_ring).
    #[inline]
    #[must_use = "a sleeping consumer waits for its doorbell"]
    pub fn announce(&mut self) -> bool {
        if self.head == self.published {
            return false;
        }
        self.words.announce(self.head);
        self.published = self.head;
        true
    }

    /// See [`Self::announce`].
    #[inline]
    #[must_use = "a sleeping consumer waits for its doorbell"]
    pub fn must_ring(&mut self) -> bool {
        self.words.must_ring()
    }

    /// Asks for the cache lines that the next record and its announcement touch. A hint.
    #[inline]
    pub fn prefetch(&self) {
        self.area.prefetch(self.head);
        self.words.prefetch();
    }

    /// Whether committed records wait for [`Self::publish`].
    #[inline]
    pub fn unpublished(&self) -> bool {
        self.head != self.published
    }

    /// Bytes of room now; reads the consumer's position. A record may need up to twice its length if it meets the
    /// end of the area.
    pub fn free(&mut self) -> usize {
        self.refresh();
        self.room()
    }

    /// Whether the consumer has taken everything that was published; reads its position.
    pub fn drained(&mut self) -> bool {
        self.refresh() && self.tail == self.published
    }

    /// Says that this end waits for room for `payload` bytes. `true`: there is none, the caller may sleep until its
    /// doorbell rings, and calls [`Self::wake`] then. `false`: there is room (or a violation), do not sleep.
    /// Publish first: room comes only from records that the consumer can see.
    #[must_use = "false: do not sleep"]
    pub fn sleep(&mut self, payload: usize) -> bool {
        self.words.sleep();
        let need = record_len(payload.min(self.max_payload()));
        let contiguous = self.area.contiguous(self.head);
        let pad = if need > contiguous { contiguous } else { 0 };
        if self.refresh() && self.room() < need + pad {
            return true;
        }
        self.words.wake();
        false
    }

    /// Says that this end no longer waits.
    pub fn wake(&mut self) {
        self.words.wake();
    }

    /// Whether this end has said that it waits.
    pub fn sleeping(&self) -> bool {
        self.words.sleeping()
    }

    /// What the consumer did wrong, if anything was seen. From then on there is no room, ever.
    #[inline]
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "head - tail is at most the area's length")]
    fn room(&self) -> usize {
        self.area.len() - self.head.wrapping_sub(self.tail) as usize
    }

    /// Reads and checks the consumer's position. `false`: it is a violation.
    #[inline]
    fn refresh(&mut self) -> bool {
        if self.violation.is_some() {
            return false;
        }
        let tail = self.words.peer_position();
        if tail.wrapping_sub(self.tail) > self.published - self.tail {
            return self.violate(Violation::ConsumerPosition);
        }
        if !tail.is_multiple_of(RECORD_ALIGN as u64) {
            return self.violate(Violation::Misaligned);
        }
        self.tail = tail;
        true
    }

    #[cold]
    fn violate(&mut self, violation: Violation) -> bool {
        self.violation = Some(violation);
        // No room from here on, by the ordinary arithmetic of the hot path.
        self.tail = self.head.wrapping_sub(self.area.len() as u64);
        false
    }
}

/// Room for one record. Dropped without [`Self::commit`], it is as if it had never been.
#[derive(Debug)]
pub struct Reserved<'a> {
    producer: &'a mut Producer,
    payload: usize,
}

impl Reserved<'_> {
    /// Bytes of payload that fit.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.payload
    }

    /// Start of the payload: [`Self::capacity`] bytes to be written through this pointer before `commit`. The peer
    /// can write them too; do not form a reference to them, and do not read back.
    #[inline]
    pub fn payload_ptr(&mut self) -> *mut u8 {
        self.producer.area.payload(self.producer.head).as_ptr()
    }

    /// Copies `bytes` to `offset` of the payload.
    ///
    /// # Panics
    /// If they do not fit in [`Self::capacity`].
    #[inline]
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(
            offset <= self.payload && bytes.len() <= self.payload - offset,
            "write outside of the reservation"
        );
        // SAFETY: within the reserved payload, which lies in the data area; `bytes` is private memory.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.payload_ptr().add(offset), bytes.len()) }
    }

    /// Copies a payload of another ring to the start of this one, as much as fits, without a stop in private memory;
    /// returns how much.
    #[inline]
    pub fn write_payload(&mut self, payload: &Payload<'_>) -> usize {
        let len = payload.len().min(self.payload);
        // SAFETY: `len` bytes lie behind both pointers, in data areas. The payload of a reservation is not published
        // and that of an item not released, so the two do not overlap, even within one ring.
        unsafe { ptr::copy_nonoverlapping(payload.as_ptr(), self.payload_ptr(), len) };
        len
    }

    /// Completes the record with `len` bytes of payload, at most [`Self::capacity`] (more is cut). `record.len` is
    /// set here. Visible to the consumer with the next [`Producer::publish`].
    #[inline]
    pub fn commit(self, record: &Record, len: usize) {
        let len = len.min(self.payload);
        let record = Record { len: u32::try_from(len).unwrap_or(u32::MAX), reserved: 0, ..*record };
        self.producer.area.write_record(self.producer.head, &record);
        self.producer.head += record_len(len) as u64;
    }
}
