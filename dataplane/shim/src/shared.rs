//! What all processes that have a socket share: its rings' private positions, what it is connected to, its options.
//!
//! A page or two of anonymous shared memory for each accelerated socket: a forked child has it at the same address, so
//! that parent and child take turns at the rings and each datagram goes to one of them. The pointers in it (the ring
//! ends' mapping) lead to memory that the child has inherited, too.
//!
//! ```text
//!   rx lock -> Receiving: consumers, armed?, errors      tx lock -> Sending: producers
//!   both locks: peer, local address                      atomics: state, options, counts
//! ```

use core::{
    cell::UnsafeCell,
    mem::MaybeUninit,
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering},
};

use afnet_abi::shm::MAX_WORKERS;
use afnet_ring::{Consumer, Producer};

use crate::{
    address::Name,
    bundles::Bundles,
    errors::Errors,
    groups::Groups,
    known::Known,
    lock::{Held, Lock},
};

/// Where a socket stands. It only goes forward, but for a daemon that comes back ([`LOST`] to [`FAST`]).
pub(crate) mod state {
    /// With the kernel, so far.
    pub(crate) const IDLE: u32 = 0;
    /// On the fast path.
    pub(crate) const FAST: u32 = 1;
    /// The daemon has gone: what is in the rings is read, the rest is the kernel's.
    pub(crate) const LOST: u32 = 2;
    /// With the kernel for good; what is in the rings is read first.
    pub(crate) const PLAIN: u32 = 3;
}

/// Bits of [`Options::wants`]: control messages that the program has asked for, and modes.
pub(crate) mod wants {
    pub(crate) const PKTINFO: u32 = 1 << 0;
    pub(crate) const TTL: u32 = 1 << 1;
    pub(crate) const TOS: u32 = 1 << 2;
    pub(crate) const PKTINFO6: u32 = 1 << 3;
    pub(crate) const HOPLIMIT: u32 = 1 << 4;
    pub(crate) const TCLASS: u32 = 1 << 5;
    pub(crate) const ORIGDST: u32 = 1 << 6;
    pub(crate) const ORIGDST6: u32 = 1 << 7;
    /// SO_TIMESTAMP, in the old layout and in that of 64 bits.
    pub(crate) const STAMP: u32 = 1 << 8;
    /// SO_TIMESTAMPNS.
    pub(crate) const STAMPNS: u32 = 1 << 9;
    /// SO_TIMESTAMPING, received in software.
    pub(crate) const STAMPING: u32 = 1 << 10;
    /// UDP_GRO.
    pub(crate) const GRO: u32 = 1 << 11;
    pub(crate) const RECVERR: u32 = 1 << 12;
    pub(crate) const RECVERR6: u32 = 1 << 13;
    /// Don't fragment: IP_MTU_DISCOVER is DO or PROBE.
    pub(crate) const DF: u32 = 1 << 14;
    pub(crate) const DF6: u32 = 1 << 15;
    /// IP_MTU_DISCOVER is DONT: "fragmentation needed" is no error.
    pub(crate) const FRAGMENT: u32 = 1 << 16;
    /// IPV6_V6ONLY.
    pub(crate) const SIX_ONLY: u32 = 1 << 17;
    /// Any of these makes control messages.
    pub(crate) const MESSAGES: u32 = PKTINFO
        | TTL
        | TOS
        | PKTINFO6
        | HOPLIMIT
        | TCLASS
        | ORIGDST
        | ORIGDST6
        | STAMP
        | STAMPNS
        | STAMPING
        | GRO;
}

/// Copies of the kernel socket's options, which stays their home: read anew after every change.
#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) wants: AtomicU32,
    pub(crate) nonblocking: AtomicBool,
    /// SO_RCVTIMEO in nanoseconds; 0: for ever.
    pub(crate) receive_timeout: AtomicU64,
    pub(crate) ttl: AtomicU8,
    pub(crate) tos: AtomicU8,
    pub(crate) hops: AtomicU8,
    pub(crate) tclass: AtomicU8,
    /// UDP_SEGMENT.
    pub(crate) segment: AtomicU16,
    pub(crate) receive_shut: AtomicBool,
    pub(crate) send_shut: AtomicBool,
}

/// Under the rx lock.
pub(crate) struct Receiving {
    consumers: [MaybeUninit<Consumer>; MAX_WORKERS],
    workers: usize,
    /// Ring to look at first.
    pub(crate) next: usize,
    /// The workers are told to ring.
    pub(crate) armed: bool,
    /// The eventfd may have been written since it was last emptied.
    pub(crate) rung: bool,
    /// It was written by ourselves.
    pub(crate) signalled: bool,
    /// A worker has rung, or is about to: a record has come since the rings were armed.
    pub(crate) owed: bool,
    /// End of the rings when the program left something in them.
    pub(crate) left_at: u64,
    /// Receives since the kernel's queue was looked at.
    pub(crate) since_kernel: u32,
    /// The kernel's queue comes first: it holds what came before the rings.
    pub(crate) kernel_first: bool,
    /// Names that the socket had before, oldest first: what came in their time was filtered by them.
    epochs: [Epoch; EPOCHS],
    count: usize,
    pub(crate) errors: Errors,
}

/// Changes of names that are remembered while records of the time before wait. Beyond, the oldest records are filtered by
/// later names.
const EPOCHS: usize = 4;

/// A time in which a socket had the same names.
#[derive(Clone, Copy)]
struct Epoch {
    names: Names,
    /// Where it ended in each ring.
    ends: [u64; MAX_WORKERS],
}

/// Under the tx lock.
pub(crate) struct Sending {
    producers: [MaybeUninit<Producer>; MAX_WORKERS],
    workers: usize,
    pub(crate) known: Known,
    pub(crate) groups: Groups,
    pub(crate) bundles: Bundles,
}

impl Receiving {
    #[inline]
    pub(crate) fn rings(&mut self) -> &mut [Consumer] {
        let first: *mut Consumer = self.consumers.as_mut_ptr().cast();
        // SAFETY: the first `workers` are initialised (`install`).
        unsafe { core::slice::from_raw_parts_mut(first, self.workers) }
    }

    /// A record has been consumed.
    #[inline]
    pub(crate) fn took(&mut self) {
        self.rung = true;
        self.owed |= self.armed;
    }

    /// Whether no ring holds anything.
    #[inline]
    pub(crate) fn is_empty(&mut self) -> bool {
        self.rings().iter_mut().all(Consumer::is_empty)
    }
}

impl Sending {
    #[inline]
    pub(crate) fn rings(&mut self) -> &mut [Producer] {
        let first: *mut Producer = self.producers.as_mut_ptr().cast();
        // SAFETY: the first `workers` are initialised (`install`).
        unsafe { core::slice::from_raw_parts_mut(first, self.workers) }
    }
}

/// Where a socket's peer and its own address are, under either lock; changed under both.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Names {
    /// Bound to; unspecified: all addresses.
    pub(crate) local: Name,
    /// Connected to, if the port is not 0.
    pub(crate) peer: Option<Name>,
}

/// The shared memory of one socket.
#[repr(C)]
pub(crate) struct Shared {
    pub(crate) state: AtomicU32,
    /// AF_INET or AF_INET6.
    pub(crate) family: AtomicI32,
    /// Datagrams without the fast path, while [`state::IDLE`].
    pub(crate) before: AtomicU32,
    /// It is worth the fast path: it has a port of its own choice, or has seen some datagrams.
    pub(crate) wanted: AtomicBool,
    /// How the program waits for it has been seen. See [`crate::attach::consider`].
    pub(crate) seen: AtomicBool,
    /// Somebody is putting it on the fast path.
    pub(crate) joining: AtomicBool,
    /// Looks at it in vain, one after the other.
    pub(crate) vain: AtomicU32,
    /// Processes that have it; one that was killed still counts.
    processes: AtomicU32,
    /// Port at which it listens to the loopback, 0: at none.
    pub(crate) listens: AtomicU16,
    /// Entries in epoll sets, of all processes.
    pub(crate) watchers: AtomicU32,
    /// It has a peer.
    pub(crate) connected: AtomicBool,
    /// Interface by which the last datagram came in.
    pub(crate) device: AtomicU32,
    /// Those of them with EPOLLET.
    pub(crate) edges: AtomicU32,
    /// It stands in the list of those that were left with something.
    pub(crate) left: AtomicBool,
    /// The error that the next call reports.
    pub(crate) error: AtomicI32,
    /// Coarse time of the last look at the daemon's connection.
    pub(crate) checked: AtomicU64,
    pub(crate) wake: AtomicI32,
    pub(crate) connection: AtomicI32,
    pub(crate) doorbells: [AtomicI32; MAX_WORKERS],
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) options: Options,
    names: UnsafeCell<Names>,
    rx_lock: Lock,
    tx_lock: Lock,
    rx: UnsafeCell<Receiving>,
    tx: UnsafeCell<Sending>,
}

// SAFETY: the cells are reached through the locks only.
unsafe impl Sync for Shared {}

/// The receiving half, locked.
pub(crate) struct Rx<'a> {
    shared: &'a Shared,
    _held: Held<'a>,
}

/// The sending half, locked.
pub(crate) struct Tx<'a> {
    shared: &'a Shared,
    _held: Held<'a>,
}

impl Shared {
    /// A new one, for a socket that is with the kernel. `None`: no memory.
    pub(crate) fn create(family: i32) -> Option<&'static Self> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        // SAFETY: new memory at an address of the kernel's choice.
        let base = unsafe { libc::mmap(core::ptr::null_mut(), size_of::<Self>(), access, kind, -1, 0) };
        if base == libc::MAP_FAILED {
            return None;
        }
        // SAFETY: zeroed memory of that size, page-aligned. All zero is a valid value: integers, locks yet to be set
        // up, no ring ends (`workers` is 0), and options of `None` (see the test).
        let shared = unsafe { &*base.cast::<Self>() };
        // SAFETY: nobody else has it yet.
        unsafe {
            shared.rx_lock.init();
            shared.tx_lock.init();
            shared.names.get().write(Names::default());
        }
        shared.family.store(family, Ordering::Relaxed);
        shared.processes.store(1, Ordering::Relaxed);
        shared.no_descriptors();
        Some(shared)
    }

    fn no_descriptors(&self) {
        self.wake.store(-1, Ordering::Relaxed);
        self.connection.store(-1, Ordering::Relaxed);
        self.doorbells.iter().for_each(|d| d.store(-1, Ordering::Relaxed));
    }

    #[inline]
    pub(crate) fn state(&self) -> u32 {
        self.state.load(Ordering::Acquire)
    }

    /// Whether more than one process may have it.
    pub(crate) fn is_forked(&self) -> bool {
        self.processes.load(Ordering::Relaxed) > 1
    }

    /// A process more has it.
    pub(crate) fn joins(&self) {
        self.processes.fetch_add(1, Ordering::Relaxed);
    }

    /// A process less has it.
    pub(crate) fn leaves(&self) {
        self.processes.fetch_sub(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn lock_rx(&self) -> Rx<'_> {
        Rx { shared: self, _held: self.rx_lock.lock() }
    }

    #[inline]
    pub(crate) fn lock_tx(&self) -> Tx<'_> {
        Tx { shared: self, _held: self.tx_lock.lock() }
    }

    /// Changes where it is bound and connected.
    pub(crate) fn set_names(&self, names: Names) {
        let mut rx = self.lock_rx();
        let _tx = self.lock_tx();
        // SAFETY: both locks are held.
        let old = unsafe { self.names.get().replace(names) };
        self.connected.store(names.peer.is_some(), Ordering::Relaxed);
        if old.peer != names.peer || old.local.ip != names.local.ip {
            rx.ends(old);
        }
    }

    /// A copy; takes a lock.
    pub(crate) fn names(&self) -> Names {
        self.lock_tx().names()
    }

    /// Puts ring ends in, and where the socket is; those of a daemon that has gone are dropped. `copied`: a device copies
    /// what it sends.
    pub(crate) fn install(&self, ends: Vec<(Consumer, Producer)>, names: Names, copied: bool) {
        let mut rx = self.lock_rx();
        let mut tx = self.lock_tx();
        // SAFETY: both locks are held.
        unsafe { self.names.get().write(names) };
        self.connected.store(names.peer.is_some(), Ordering::Relaxed);
        drop_ends(&mut rx, &mut tx);
        tx.bundles = Bundles::new(copied);
        for (i, (consumer, producer)) in ends.into_iter().take(MAX_WORKERS).enumerate() {
            if let (Some(a), Some(b)) = (rx.consumers.get_mut(i), tx.producers.get_mut(i)) {
                a.write(consumer);
                b.write(producer);
            }
            rx.workers = i + 1;
            tx.workers = i + 1;
        }
        rx.next = 0;
        rx.armed = false;
        rx.rung = true;
        rx.signalled = false;
        rx.owed = false;
        rx.count = 0;
        rx.kernel_first = true;
    }

    /// Gives the memory back, and this process's part of the rings.
    ///
    /// # Safety
    /// Nobody in this process uses it any more.
    pub(crate) unsafe fn destroy(&self) {
        // No locks: another process may hold them for ever, and has no need of what goes here: the ring ends' reference
        // counts are this process's own copies.
        // SAFETY: the caller's promise; the workers' number does not change while processes share it.
        let (rx, tx) = unsafe { (&mut *self.rx.get(), &mut *self.tx.get()) };
        let (workers, mut ends) = (rx.workers, Vec::new());
        for i in 0..workers {
            // SAFETY: initialised up to `workers`. A copy for this process: the memory of the others stays untouched.
            ends.push(unsafe { (rx.consumers[i].assume_init_read(), tx.producers[i].assume_init_read()) });
        }
        drop(ends);
        // SAFETY: mapped by `create`, with this length.
        unsafe { libc::munmap(core::ptr::from_ref(self).cast_mut().cast(), size_of::<Self>()) };
    }
}

fn drop_ends(rx: &mut Receiving, tx: &mut Sending) {
    for i in 0..rx.workers {
        if let (Some(a), Some(b)) = (rx.consumers.get_mut(i), tx.producers.get_mut(i)) {
            // SAFETY: initialised up to `workers`, which becomes 0 now.
            unsafe {
                a.assume_init_drop();
                b.assume_init_drop();
            }
        }
    }
    rx.workers = 0;
    tx.workers = 0;
}

impl Rx<'_> {
    #[inline]
    pub(crate) fn names(&self) -> Names {
        // SAFETY: changed under both locks only, of which this is one.
        unsafe { *self.shared.names.get() }
    }
}

impl Rx<'_> {
    /// Whether records may wait that came in the time of other names.
    pub(crate) fn is_filtering(&self) -> bool {
        self.count != 0
    }

    /// Names by which a ring's next record is filtered.
    #[inline]
    pub(crate) fn filter(&mut self, at: usize) -> Names {
        if self.count == 0 { self.names() } else { self.old_filter(at) }
    }

    #[cold]
    fn old_filter(&mut self, at: usize) -> Names {
        let next = self.rings().get(at).map_or(0, Consumer::consumed);
        let mut all = self.epochs.iter().take(self.count);
        all.find(|epoch| next < epoch.ends[at]).map_or_else(|| self.names(), |epoch| epoch.names)
    }

    /// The socket had other names until now.
    fn ends(&mut self, names: Names) {
        let mut ends = [0; MAX_WORKERS];
        for (end, ring) in ends.iter_mut().zip(self.rings()) {
            *end = ring.known();
        }
        let now: Vec<u64> = self.rings().iter().map(Consumer::consumed).collect();
        let over = |epoch: &Epoch| now.iter().zip(&epoch.ends).all(|(now, end)| now >= end);
        while self.count > 0 && (over(&self.epochs[0]) || self.count == EPOCHS) {
            self.epochs.rotate_left(1);
            self.count -= 1;
        }
        let at = self.count;
        self.epochs[at] = Epoch { names, ends };
        self.count += 1;
    }
}

impl Tx<'_> {
    #[inline]
    pub(crate) fn names(&self) -> Names {
        // SAFETY: changed under both locks only, of which this is one.
        unsafe { *self.shared.names.get() }
    }
}

impl Deref for Rx<'_> {
    type Target = Receiving;
    #[inline]
    fn deref(&self) -> &Receiving {
        // SAFETY: the lock is held.
        unsafe { &*self.shared.rx.get() }
    }
}

impl DerefMut for Rx<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Receiving {
        // SAFETY: the lock is held, and borrowed mutably.
        unsafe { &mut *self.shared.rx.get() }
    }
}

impl Deref for Tx<'_> {
    type Target = Sending;
    #[inline]
    fn deref(&self) -> &Sending {
        // SAFETY: the lock is held.
        unsafe { &*self.shared.tx.get() }
    }
}

impl DerefMut for Tx<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Sending {
        // SAFETY: the lock is held, and borrowed mutably.
        unsafe { &mut *self.shared.tx.get() }
    }
}
