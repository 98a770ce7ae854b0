//! The reading end of a ring.

use core::{marker::PhantomData, ptr, ptr::NonNull};

use afnet_abi::shm::{MAX_PAYLOAD, RECORD_ALIGN, Record, kind, record_len};

use crate::{Violation, control::Words, memory::Area};

/// The reading end. One thread owns it at a time.
///
/// Records are consumed up to a private position; their room goes back to the producer with [`Self::release`],
/// once for a batch.
#[derive(Debug)]
pub struct Consumer {
    area: Area,
    words: Words,
    /// Bytes consumed. Private; `released <= tail <= head`.
    tail: u64,
    /// Bytes announced to the producer.
    released: u64,
    /// The producer's position when we last read it; checked: `head <= released + len`, never goes back.
    head: u64,
    violation: Option<Violation>,
    /// Not `Sync`: interior state belongs to one thread.
    _not_sync: PhantomData<core::cell::Cell<()>>,
}

impl Consumer {
    pub(crate) fn new(area: Area, words: Words) -> Self {
        Self { area, words, tail: 0, released: 0, head: 0, violation: None, _not_sync: PhantomData }
    }

    /// The next record, or `None` when the ring is empty. Reads the producer's position only when everything known
    /// has been consumed. Without [`Item::consume`] the same record comes again (read and checked anew).
    ///
    /// The record's `kind` is not [`kind::PAD`] but may be anything else; which kinds are welcome is the caller's
    /// business, as are all fields beside `len`.
    ///
    /// # Errors
    /// What the producer did wrong; the same from then on.
    #[inline]
    pub fn peek(&mut self) -> Result<Option<Item<'_>>, Violation> {
        if self.tail == self.head && !self.refresh()? {
            return Ok(None);
        }
        let mut record = self.area.read_record(self.tail);
        if record.kind == kind::PAD {
            self.skip_pad(&record)?;
            if self.tail == self.head && !self.refresh()? {
                return Ok(None);
            }
            record = self.area.read_record(self.tail);
            if record.kind == kind::PAD {
                // The area's start: nothing to pad there. So no chain of pads keeps us in here.
                return Err(self.violate(Violation::Pad));
            }
        }
        let len = record.len as usize;
        if len > MAX_PAYLOAD {
            return Err(self.violate(Violation::RecordTooLong));
        }
        let size = record_len(len);
        if size as u64 > self.head - self.tail || size > self.area.contiguous(self.tail) {
            return Err(self.violate(Violation::RecordOverrun));
        }
        self.area.track_read(self.tail, size);
        let payload = Payload { base: self.area.payload(self.tail), len, _ring: PhantomData };
        Ok(Some(Item { record, payload, consumer: self, size }))
    }

    /// Checks a pad record and steps over it, to the start of the area.
    #[cold]
    fn skip_pad(&mut self, record: &Record) -> Result<(), Violation> {
        self.area.track_read(self.tail, RECORD_ALIGN);
        let rest = self.area.contiguous(self.tail);
        if record.len as usize != rest - size_of::<Record>() || rest == self.area.len() {
            return Err(self.violate(Violation::Pad));
        }
        if rest as u64 > self.head - self.tail {
            return Err(self.violate(Violation::RecordOverrun));
        }
        self.tail += rest as u64;
        Ok(())
    }

    /// Gives the room of all consumed records back. `true`: the producer waits for room and nobody has rung for
    /// this sleep yet, so ring its doorbell. Without newly consumed records it does nothing.
    #[inline]
    #[must_use = "a producer that waits for room waits for its doorbell"]
    pub fn release(&mut self) -> bool {
        if self.tail == self.released {
            return false;
        }
        self.words.announce(self.tail);
        self.released = self.tail;
        crate::fence();
        self.words.must_ring()
    }

    /// Asks for the cache lines that the next record and its release touch. A hint.
    #[inline]
    pub fn prefetch(&self) {
        self.area.prefetch(self.tail);
        self.words.prefetch();
    }

    /// Bytes of records (pads included) known to be waiting; reads the producer's position if none are.
    ///
    /// # Errors
    /// What the producer did wrong.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "head - tail is at most the area's length")]
    pub fn available(&mut self) -> Result<usize, Violation> {
        if self.tail == self.head {
            self.refresh()?;
        }
        Ok((self.head - self.tail) as usize)
    }

    /// Whether nothing waits; reads the producer's position if nothing is known to. A violation counts as something
    /// that waits: [`Self::peek`] tells.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        self.available().is_ok_and(|bytes| bytes == 0)
    }

    /// Position up to which records have been consumed, in bytes since creation.
    #[inline]
    pub fn consumed(&self) -> u64 {
        self.tail
    }

    /// Position up to which records are there; reads the producer's.
    pub fn known(&mut self) -> u64 {
        let _ = self.refresh();
        self.head
    }

    /// Bytes of the ring's data area.
    pub fn capacity(&self) -> usize {
        self.area.len()
    }

    /// Says that this end waits for records. `true`: there are none, the caller may sleep until its doorbell rings,
    /// and calls [`Self::wake`] then. `false`: there are some (or a violation), do not sleep. Release first: a
    /// producer may be waiting for room.
    #[must_use = "false: do not sleep"]
    pub fn sleep(&mut self) -> bool {
        self.words.sleep();
        if self.is_empty() {
            return true;
        }
        self.words.wake();
        false
    }

    /// Says that this end waits for further records, whether or not some are there: the doorbell rings once more.
    pub fn listen(&mut self) {
        self.words.wake();
        self.words.sleep();
    }

    /// Says that this end no longer waits.
    pub fn wake(&mut self) {
        self.words.wake();
    }

    /// Whether this end has said that it waits.
    pub fn sleeping(&self) -> bool {
        self.words.sleeping()
    }

    /// What the producer did wrong, if anything was seen.
    #[inline]
    pub fn violation(&self) -> Option<Violation> {
        self.violation
    }

    /// Reads and checks the producer's position. `true`: something waits.
    #[inline]
    fn refresh(&mut self) -> Result<bool, Violation> {
        if let Some(violation) = self.violation {
            return Err(violation);
        }
        let head = self.words.peer_position();
        let limit = self.released + self.area.len() as u64;
        if head.wrapping_sub(self.head) > limit - self.head {
            return Err(self.violate(Violation::ProducerPosition));
        }
        if !head.is_multiple_of(RECORD_ALIGN as u64) {
            return Err(self.violate(Violation::Misaligned));
        }
        self.head = head;
        Ok(self.tail != head)
    }

    #[cold]
    fn violate(&mut self, violation: Violation) -> Violation {
        self.violation = Some(violation);
        // Nothing waits from here on: the hot path ends up in `refresh`, which reports.
        self.head = self.tail;
        violation
    }
}

/// A record at the ring's front: a private, checked copy of its descriptor and its payload in place.
#[derive(Debug)]
pub struct Item<'a> {
    /// The descriptor. `len` is checked, everything else is as the producer wrote it.
    pub record: Record,
    /// The payload, still in shared memory.
    pub payload: Payload<'a>,
    consumer: &'a mut Consumer,
    /// Bytes in the ring.
    size: usize,
}

impl Item<'_> {
    /// Done with this record; its room goes back with the next [`Consumer::release`].
    #[inline]
    pub fn consume(self) {
        self.consumer.area.track_read(self.consumer.tail, self.size);
        self.consumer.tail += self.size as u64;
    }
}

/// Bytes in shared memory. The peer can change them at any time: copy them out once, then look.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    base: NonNull<u8>,
    len: usize,
    _ring: PhantomData<&'a ()>,
}

impl Payload<'_> {
    /// Number of bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "an empty payload is a payload; nobody asks")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Where the bytes are, for a copy that does something on the way. Do not form a reference to them.
    #[inline]
    pub fn as_ptr(&self) -> *const u8 {
        self.base.as_ptr()
    }

    /// Copies the first bytes into `buffer`, as many as fit; returns how many.
    #[inline]
    pub fn copy_to(&self, buffer: &mut [u8]) -> usize {
        let len = self.len.min(buffer.len());
        // SAFETY: `len` bytes lie in the data area behind `base` (peek) and in `buffer`, which is private memory.
        unsafe { ptr::copy_nonoverlapping(self.base.as_ptr(), buffer.as_mut_ptr(), len) };
        len
    }

    /// A private copy of all bytes.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        self.copy_to(&mut bytes);
        bytes
    }
}
