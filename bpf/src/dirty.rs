//! [`Dirty`]: which compartments have had frames since the worker last looked.
//!
//! ```text
//! queue 0: | word 0: slots 0-63 | word 1: slots 64-127 | ... | padding to a cache line
//! queue 1: | ...
//! ```
//!
//! The XDP program sets a compartment's bit, if it is not set yet, *before* it redirects the frame, and the
//! kernel publishes the frame only after the program's batch is done. So a worker that has cleared a bit looks at the
//! socket's ring for some time yet. While it looks at the ring anyway it leaves the bit set: that costs XDP least.

use std::{os::fd::AsFd, ptr::NonNull, sync::atomic::AtomicU64};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::Error;

/// A shared mapping of an array map, unmapped on drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: memory shared with the kernel; it is only ever accessed through atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of a map that has BPF_F_MMAPABLE.
    pub fn new(map: impl AsFd, len: usize) -> Result<Self, Error> {
        let len = len.next_multiple_of(rustix::param::page_size());
        // SAFETY: a fresh mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map, 0)
        }
        .map_err(|e| Error::Io { what: "map a BPF map's memory", source: e.into() })?;
        Ok(Self { start: NonNull::new(start.cast()).expect("mmap does not return null"), len })
    }

    /// `count` atomics of type `A` from byte `offset` on.
    pub fn atomics<A: Atomic>(&self, offset: usize, count: usize) -> &[A] {
        assert!(offset.is_multiple_of(align_of::<A>()) && offset + count * size_of::<A>() <= self.len);
        // SAFETY: within the mapping, aligned, and atomics may be shared with the kernel and other threads.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(offset).cast(), count) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by new(), and no reference into it outlives self.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
        debug_assert_eq!(unmapped, Ok(()));
    }
}

/// Types that may lie in memory which others write to.
pub(crate) trait Atomic {}
impl Atomic for AtomicU64 {}
impl Atomic for std::sync::atomic::AtomicU32 {}

/// Handle to a device's dirty bitmap. Owns its mapping, may move to another thread.
#[derive(Debug)]
pub struct Dirty {
    mapping: Mapping,
    queues: u32,
    words: u32,
}

impl Dirty {
    /// Words that the slots need, rounded up to a cache line, so that two queues never share one.
    pub(crate) fn words(slots: u32) -> u32 {
        slots.div_ceil(64).next_multiple_of(8)
    }

    pub(crate) fn new(map: impl AsFd, queues: u32, words: u32) -> Result<Self, Error> {
        let mapping = Mapping::new(map, queues as usize * words as usize * size_of::<u64>())?;
        Ok(Self { mapping, queues, words })
    }

    /// The bits of `queue`: bit `slot % 64` of word `slot / 64`.
    ///
    /// # Panics
    /// If the device has no such queue.
    pub fn queue(&self, queue: u32) -> &[AtomicU64] {
        assert!(queue < self.queues, "queue {queue} of {}", self.queues);
        let words = self.words as usize;
        self.mapping.atomics(queue as usize * words * size_of::<u64>(), words)
    }
}
