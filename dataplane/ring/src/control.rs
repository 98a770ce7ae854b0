//! The shared words of a ring as one of its ends sees them: its own line to announce in, the peer's to read.
//!
//! ```text
//!   this end                                    the other end
//!   write data                                  sleep word := odd
//!   position := p   (release)                   ---- full fence ----
//!   ---- full fence ----                        position == p?  -> does not sleep
//!   sleep word odd, not rung for it? -> ring
//! ```
//!
//! Of two threads that each write their word, fence, and read the other's, at least one sees the other's write
//! (store buffering with full fences): either the sleeper sees the record or the publisher sees the sleeper.

use core::ptr::NonNull;

use crate::{
    memory::prefetch,
    sync::{AtomicU32, AtomicU64, Ordering, RingControl, fence},
};

/// Which end of the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Producer,
    Consumer,
}

/// Shared words of one ring and the private state that goes with them.
#[derive(Debug)]
pub(crate) struct Words {
    /// Written by this end only.
    own_position: NonNull<AtomicU64>,
    /// Written by this end only.
    own_sleep: NonNull<AtomicU32>,
    /// Written by the peer: hostile.
    peer_position: NonNull<AtomicU64>,
    /// Written by the peer: hostile. Any value is legal; lying costs the liar its wake-ups.
    peer_sleep: NonNull<AtomicU32>,
    /// Value of our own sleep word; odd while we sleep.
    word: u32,
    /// Value of the peer's sleep word when we last looked: a sleep is rung for once.
    seen: u32,
}

// SAFETY: the pointers are into a region that the owner of the words keeps alive, and lead to atomics.
unsafe impl Send for Words {}

impl Words {
    /// # Safety
    /// `control` points to control words that outlive this value.
    pub(crate) unsafe fn new(control: NonNull<RingControl>, end: End) -> Self {
        // SAFETY: valid by the caller's promise; atomics may be written by anybody while this reference lives.
        let control = unsafe { control.as_ref() };
        let producer = (NonNull::from(&control.producer.position), NonNull::from(&control.producer.sleep));
        let consumer = (NonNull::from(&control.consumer.position), NonNull::from(&control.consumer.sleep));
        let (own, peer) = match end {
            End::Producer => (producer, consumer),
            End::Consumer => (consumer, producer),
        };
        Self {
            own_position: own.0,
            own_sleep: own.1,
            peer_position: peer.0,
            peer_sleep: peer.1,
            word: 0,
            seen: 0,
        }
    }

    /// Announces our position: what we wrote (or finished reading) before is the peer's from now on.
    #[inline(always)]
    pub(crate) fn announce(&self, position: u64) {
        // SAFETY: points to an atomic in a live region (`new`).
        unsafe { self.own_position.as_ref() }.store(position, Ordering::Release);
    }

    /// The position that the peer announces. Hostile.
    #[inline(always)]
    pub(crate) fn peer_position(&self) -> u64 {
        // SAFETY: points to an atomic in a live region (`new`).
        unsafe { self.peer_position.as_ref() }.load(Ordering::Acquire)
    }

    /// After [`Self::announce`] and a full fence: whether the peer sleeps and has not been rung for this sleep. Counts
    /// as rung.
    #[inline]
    pub(crate) fn must_ring(&mut self) -> bool {
        // SAFETY: points to an atomic in a live region (`new`).
        let word = unsafe { self.peer_sleep.as_ref() }.load(Ordering::Relaxed);
        let news = word != self.seen;
        self.seen = word;
        news && word & 1 == 1
    }

    /// Asks for both ends' lines.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(self.own_position.as_ptr().cast());
        prefetch(self.peer_sleep.as_ptr().cast());
    }

    /// Says that we sleep. The caller then looks at the ring once more, before it does.
    pub(crate) fn sleep(&mut self) {
        if self.word & 1 == 0 {
            self.set_word();
        }
        fence(Ordering::SeqCst);
    }

    /// Says that we are awake.
    pub(crate) fn wake(&mut self) {
        if self.word & 1 == 1 {
            self.set_word();
        }
    }

    /// Whether our word says that we sleep.
    pub(crate) fn sleeping(&self) -> bool {
        self.word & 1 == 1
    }

    fn set_word(&mut self) {
        self.word = self.word.wrapping_add(1);
        // SAFETY: points to an atomic in a live region (`new`).
        unsafe { self.own_sleep.as_ref() }.store(self.word, Ordering::Relaxed);
    }
}
