//! The bytes of a ring: a mapping shared with another process, or plain memory within this one.
//!
//! This module and `control` are the only ones that dereference shared memory. The peer may write all of it at
//! any moment, so everything here goes through raw pointers; what is read is a copy that the caller checks.

use core::{
    cell::UnsafeCell,
    fmt, ptr,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};
use std::sync::Arc;

use afnet_abi::shm::{RECORD_ALIGN, Record};

use crate::sync::{RingControl, Tracker};

/// Asks for the cache line at `at`, for reading, where another CPU has just written or nobody has been for long. A hint:
/// never faults, whatever the address.
#[inline(always)]
pub fn prefetch(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch never faults; SSE is part of x86_64.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        let _ = at;
    }
}

/// 64-bit words of a descriptor.
const RECORD_WORDS: usize = size_of::<Record>() / size_of::<u64>();

/// A block of memory that outlives every ring end in it: unmapped or freed when the last one is dropped.
#[derive(Debug)]
pub(crate) enum Region {
    /// An `mmap` of a memfd.
    #[cfg_attr(loom, expect(dead_code, reason = "a model has no files"))]
    Mapped { base: NonNull<u8>, len: usize },
    /// One ring in this process's memory.
    Plain { control: Box<RingControl>, data: Box<[Slot]> },
}

/// [`RECORD_ALIGN`] bytes of plain memory, aligned like a page of a mapping is.
#[repr(C, align(64))]
pub(crate) struct Slot(UnsafeCell<[u8; RECORD_ALIGN]>);

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}

// SAFETY: the region is only an address range with an owner; all access to the bytes is by raw pointer under the
// ring protocol (positions are released before the other end acquires them), and tolerates a peer that races.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Control words and `len` bytes of data outside of any mapping.
    pub(crate) fn plain(len: usize) -> Self {
        let slot = || Slot(UnsafeCell::new([0; RECORD_ALIGN]));
        Self::Plain { control: Box::default(), data: (0..len / RECORD_ALIGN).map(|_| slot()).collect() }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if let Self::Mapped { base, len } = *self {
            // SAFETY: `base` and `len` are those of the mmap that made this region, which nobody else unmaps; the
            // ends that point into it hold an Arc of it, so none is left.
            let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), len) };
        }
    }
}

/// The data area of one ring.
pub(crate) struct Area {
    /// First byte; aligned to [`RECORD_ALIGN`].
    base: NonNull<u8>,
    /// Bytes; a power of two and a multiple of [`RECORD_ALIGN`].
    len: usize,
    tracker: Arc<Tracker>,
    /// Keeps the memory in place.
    _region: Arc<Region>,
}

// SAFETY: the pointer is into `_region`, which is Send and Sync and lives as long as this.
unsafe impl Send for Area {}

impl fmt::Debug for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Area").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Area {
    /// # Safety
    /// `base` is aligned to [`RECORD_ALIGN`] and `len` bytes from it lie in `region`; `len` is a power of two,
    /// at least two records long. The two ends of a ring share `tracker`.
    pub(crate) unsafe fn new(
        base: NonNull<u8>,
        len: usize,
        region: Arc<Region>,
        tracker: Arc<Tracker>,
    ) -> Self {
        debug_assert!(len.is_power_of_two() && len >= 2 * RECORD_ALIGN);
        debug_assert!(base.as_ptr().addr().is_multiple_of(RECORD_ALIGN));
        Self { base, len, tracker, _region: region }
    }

    /// Bytes of the area.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Place of a position in the area, always below `len`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "only the low bits are wanted")]
    pub(crate) fn offset(&self, position: u64) -> usize {
        position as usize & (self.len - 1)
    }

    /// Bytes from a position to the end of the area.
    #[inline(always)]
    pub(crate) fn contiguous(&self, position: u64) -> usize {
        self.len - self.offset(position)
    }

    /// Address of the payload of a record at `position`, a multiple of [`RECORD_ALIGN`]. With an empty payload at
    /// the very end it points one past the area, as an end pointer may.
    #[inline(always)]
    pub(crate) fn payload(&self, position: u64) -> NonNull<u8> {
        // SAFETY: the offset is a multiple of RECORD_ALIGN below `len`, so at least a descriptor fits behind it.
        unsafe { self.base.add(self.offset(position) + size_of::<Record>()) }
    }

    /// Asks for the lines of a descriptor at `position` and of what follows it.
    #[inline]
    pub(crate) fn prefetch(&self, position: u64) {
        let at = self.offset(position);
        // SAFETY: both lie in the area, or one past it; nothing is read.
        unsafe {
            prefetch(self.base.as_ptr().add(at));
            prefetch(self.base.as_ptr().add(at + RECORD_ALIGN));
        }
    }

    /// Private copy of the descriptor at `position`, a multiple of [`RECORD_ALIGN`]: each word is read once.
    #[inline(always)]
    pub(crate) fn read_record(&self, position: u64) -> Record {
        let mut words = [0u64; RECORD_WORDS];
        // SAFETY: the offset is a multiple of RECORD_ALIGN below `len`: RECORD_WORDS aligned words lie there.
        let source = unsafe { self.base.add(self.offset(position)) }.cast::<AtomicU64>();
        for (i, word) in words.iter_mut().enumerate() {
            // SAFETY: within the descriptor, see above; a reference to an atomic may be written by anybody.
            *word = unsafe { source.add(i).as_ref() }.load(Ordering::Relaxed);
        }
        // SAFETY: same size, and every bit pattern is a Record: it consists of integers without padding.
        unsafe { core::mem::transmute::<[u64; RECORD_WORDS], Record>(words) }
    }

    /// Writes the descriptor at `position`, a multiple of [`RECORD_ALIGN`] within room that this end owns.
    #[inline(always)]
    pub(crate) fn write_record(&self, position: u64, record: &Record) {
        // SAFETY: the offset is a multiple of RECORD_ALIGN below `len`, so an aligned descriptor fits there.
        unsafe { ptr::write(self.base.add(self.offset(position)).cast::<Record>().as_ptr(), *record) }
    }

    /// Tells the model checker that the bytes are read now.
    #[inline(always)]
    pub(crate) fn track_read(&self, position: u64, bytes: usize) {
        self.tracker.read(self.offset(position) / RECORD_ALIGN, bytes / RECORD_ALIGN);
    }

    /// Tells the model checker that the bytes are written now.
    #[inline(always)]
    pub(crate) fn track_write(&self, position: u64, bytes: usize) {
        self.tracker.write(self.offset(position) / RECORD_ALIGN, bytes / RECORD_ALIGN);
    }
}

const _: () = {
    assert!(size_of::<Record>() == RECORD_ALIGN && align_of::<Record>() == RECORD_ALIGN);
    assert!(size_of::<Slot>() == RECORD_ALIGN);
};
