//! Atomics, and the race detector for the bytes between them. Under `cfg(loom)` loom's, so that the model
//! checker explores the very code that ships.

#[cfg(not(loom))]
pub(crate) use real::*;

#[cfg(loom)]
pub(crate) use checked::*;

#[cfg(not(loom))]
mod real {
    pub(crate) use afnet_abi::shm::RingControl;
    pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    /// Nothing: outside of the model checker nobody watches the data area.
    #[derive(Debug)]
    pub(crate) struct Tracker;

    impl Tracker {
        pub(crate) fn new(_slots: usize) -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn read(&self, _slot: usize, _count: usize) {}

        #[inline(always)]
        pub(crate) fn write(&self, _slot: usize, _count: usize) {}
    }
}

#[cfg(loom)]
mod checked {
    pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    /// As `afnet_abi::shm::ProducerLine` and `ConsumerLine`.
    #[derive(Debug, Default)]
    pub(crate) struct Line {
        pub(crate) position: AtomicU64,
        pub(crate) sleep: AtomicU32,
    }

    /// As `afnet_abi::shm::RingControl`.
    #[derive(Debug, Default)]
    pub(crate) struct RingControl {
        pub(crate) producer: Line,
        pub(crate) consumer: Line,
    }

    /// One cell for each slot of [`afnet_abi::shm::RECORD_ALIGN`] bytes: an access to it stands for an access to
    /// the bytes, and loom fails the test if two of them race.
    #[derive(Debug)]
    pub(crate) struct Tracker(Vec<loom::cell::UnsafeCell<()>>);

    impl Tracker {
        pub(crate) fn new(slots: usize) -> Self {
            Self((0..slots).map(|_| loom::cell::UnsafeCell::new(())).collect())
        }

        pub(crate) fn read(&self, slot: usize, count: usize) {
            self.0[slot..slot + count].iter().for_each(|cell| cell.with(|_| ()));
        }

        pub(crate) fn write(&self, slot: usize, count: usize) {
            self.0[slot..slot + count].iter().for_each(|cell| cell.with_mut(|_| ()));
        }
    }
}
