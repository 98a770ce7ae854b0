//! The kernel's RX ring of one AF_XDP socket, mapped: single producer (kernel), single consumer (the worker).
//!
//! ```text
//!  mmap(fd, XDP_PGOFF_RX_RING)
//!  +----------+----------+-------+---------------------------+
//!  | producer | consumer | flags | desc[0 .. len], 16 B each |   offsets: getsockopt(XDP_MMAP_OFFSETS)
//!  +----------+----------+-------+---------------------------+
//! ```

use std::{
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use afnet_ring::prefetch;
use rustix::{
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, munmap},
    net::xdp::{XDP_PGOFF_RX_RING, XdpDesc},
};

use super::RxDesc;

/// A mapped RX ring.
#[derive(Debug)]
pub(super) struct RxRing {
    map: NonNull<std::ffi::c_void>,
    map_len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    descs: NonNull<XdpDesc>,
    /// Entries - 1; the number of entries is a power of two.
    mask: u32,
    /// Next entry to read; what we have told the kernel.
    position: u32,
    /// The kernel's position when last looked at.
    seen: u32,
}

// SAFETY: the mapping is owned by this object and not tied to a thread; there is one consumer, the owner.
unsafe impl Send for RxRing {}

impl RxRing {
    /// Maps the RX ring of `len` (power of two) entries that `fd` was given by XDP_RX_RING.
    pub(super) fn map(fd: impl AsFd, len: u32) -> Result<Self, Errno> {
        let offsets = rustix::net::sockopt::xdp_mmap_offsets(&fd)?.rx;
        let at = |offset: u64| usize::try_from(offset).map_err(|_| Errno::INVAL);
        let (producer, consumer, desc) = (at(offsets.producer)?, at(offsets.consumer)?, at(offsets.desc)?);
        let map_len = desc + len as usize * size_of::<XdpDesc>();
        if producer + 4 > desc || consumer + 4 > desc || !len.is_power_of_two() {
            return Err(Errno::INVAL);
        }
        // SAFETY: a new mapping at an address of the kernel's choice.
        let map = unsafe {
            mmap(
                std::ptr::null_mut(),
                map_len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                fd,
                XDP_PGOFF_RX_RING,
            )?
        };
        let map = NonNull::new(map).ok_or(Errno::FAULT)?;
        // SAFETY: all three lie within the mapping (checked above); the kernel aligns them to cache lines.
        let (producer, consumer, descs) =
            unsafe { (map.byte_add(producer), map.byte_add(consumer), map.byte_add(desc)) };
        let mut ring = Self {
            map,
            map_len,
            producer: producer.cast(),
            consumer: consumer.cast(),
            descs: descs.cast(),
            mask: len - 1,
            position: 0,
            seen: 0,
        };
        ring.position = ring.consumer().load(Ordering::Relaxed);
        ring.seen = ring.position;
        Ok(ring)
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, aligned; shared with the kernel, so accessed as an atomic only.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as `producer`.
        unsafe { self.consumer.as_ref() }
    }

    /// Takes up to `out.len()` descriptors, no further packet once they name `budget` bytes or more, and gives their
    /// entries back to the kernel; returns how many, and how many bytes. Packets in several frames come whole.
    #[inline]
    pub(super) fn take(&mut self, out: &mut [RxDesc], budget: usize) -> (usize, usize) {
        if self.seen == self.position {
            // Acquire: the descriptors and the frames they name were written before the position.
            self.seen = self.producer().load(Ordering::Acquire);
        }
        let available = self.seen.wrapping_sub(self.position).min(self.mask + 1);
        let (mut n, mut bytes) = (0, 0);
        let mut complete = (0, 0);
        for to in out.iter_mut().take(available as usize) {
            if complete.1 >= budget {
                break;
            }
            let entry = self.position.wrapping_add(n) & self.mask;
            // SAFETY: `entry` is masked to the ring, and the kernel does not write entries between the consumer's
            // position and the producer's.
            let desc = unsafe { self.descs.add(entry as usize).read() };
            *to = RxDesc { addr: desc.addr, len: desc.len, options: desc.options.bits() };
            bytes += desc.len as usize;
            n += 1;
            if !to.continues() {
                complete = (n, bytes);
            }
        }
        let (n, bytes) = complete;
        if n > 0 {
            self.position = self.position.wrapping_add(n);
            // Release: the entries were read before the kernel may write them again.
            self.consumer().store(self.position, Ordering::Release);
        }
        (n as usize, bytes)
    }

    /// Asks for the lines that [`Self::take`] reads.
    #[inline]
    pub(super) fn prefetch(&self) {
        prefetch(self.producer.as_ptr().cast_const().cast());
        let entry = (self.position & self.mask) as usize;
        prefetch(self.descs.as_ptr().wrapping_add(entry).cast_const().cast());
    }

    /// Whether the kernel has put something in. One load of a shared line.
    pub(super) fn is_empty(&self) -> bool {
        self.producer().load(Ordering::Acquire) == self.position
    }
}

impl Drop for RxRing {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours alone and no reference to it outlives `self`. Failure would mean that it is
        // not mapped, and there is nothing to do about it.
        let _ = unsafe { munmap(self.map.as_ptr(), self.map_len) };
    }
}
