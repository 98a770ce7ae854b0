//! What a worker knows beside its queues: compartments, endpoints, routes, fragments, the clock, counters.
//!
//! Apart from the queues so that a frame in a UMEM can be looked at (borrowed) while all of this changes.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use afnet_abi::shm::Record;
use afnet_ring::prefetch;
use crossbeam::channel::Sender;

use super::{
    endpoint::{RxHalf, ring},
    groups::Groups,
    slot::Slot,
};
use crate::{
    config::{Config, EndpointKind},
    counters::{Counter, Counters},
    event::Event,
    handle::Notify,
    net::{
        Address,
        fragment::Ids,
        hash::Key as HashKey,
        next_hop::NextHops,
        reassembly::{self, Reassembler},
        route_cache::{Limits, RouteCache},
    },
};

/// Memory for unfinished fragments of all compartments in a worker. Reserved, touched when used.
const REASSEMBLY_TOTAL: usize = 16 << 20;
/// Learned next hops of a worker.
const NEXT_HOPS: usize = 4096;

/// The longest packet (an IPv6 header and 65535 bytes) and its link header, rounded up.
pub(crate) const SCRATCH: usize = 66 << 10;

/// A datagram or packet that waits for its next hop.
#[derive(Debug)]
pub(crate) struct Waiting {
    /// Index of the sender.
    pub(crate) endpoint: u32,
    /// Its id, to find out whether the index still means it.
    pub(crate) id: u64,
    /// Its compartment and kind: what it has sent goes out when it is gone itself.
    pub(crate) slot: u32,
    pub(crate) kind: EndpointKind,
    pub(crate) record: Record,
    pub(crate) payload: Vec<u8>,
}

/// Way to control.
pub(crate) struct Events {
    channel: Sender<Event>,
    notify: Notify,
    unnotified: bool,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("unnotified", &self.unnotified).finish_non_exhaustive()
    }
}

impl Events {
    /// Puts an event up. False if control has too many to read.
    pub(crate) fn send(&mut self, event: Event) -> bool {
        self.unnotified = true;
        self.channel.try_send(event).is_ok()
    }

    /// Calls control if something was put up since the last time.
    pub(crate) fn flush(&mut self) {
        if std::mem::take(&mut self.unnotified) {
            (self.notify)();
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Core {
    /// Nanoseconds of a monotonic clock, read once a round.
    pub(crate) now: u64,
    /// Nanoseconds of CLOCK_REALTIME at the same moment.
    pub(crate) realtime: u64,
    clock: Clock,
    pub(crate) slots: Vec<Option<Box<Slot>>>,
    /// Exact addresses of all compartments, to find the owner of what comes from the host.
    pub(crate) owners: HashMap<Address, u32>,
    /// Slots that have delegated prefixes.
    pub(crate) delegated: Vec<u32>,
    /// Who is in which group.
    pub(crate) groups: Groups,
    /// Receiving halves by index.
    pub(crate) rx: Vec<Option<Box<RxHalf>>>,
    /// By slot: the endpoint that had a datagram last. For prefetching only.
    pub(crate) last: Vec<u32>,
    /// Endpoints with unpublished records.
    touched: Vec<u32>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) reassembler: Reassembler,
    pub(crate) routes: RouteCache<Waiting>,
    pub(crate) hops: NextHops,
    pub(crate) ids: Ids,
    /// Key of the hash of flows.
    flows: HashKey,
    pub(crate) events: Events,
    /// Buffers of what has waited, for reuse.
    pub(crate) spare: Vec<Vec<u8>>,
    /// Room for one packet of any length with its headers. Taken while in use.
    pub(crate) scratch: Vec<u8>,
}

impl Core {
    /// Reserves everything whose size does not depend on what comes.
    pub(crate) fn new(
        config: &Config,
        channel: Sender<Event>,
        notify: Notify,
        counters: Arc<Counters>,
        flows: HashKey,
    ) -> Self {
        let reassembly = reassembly::Config {
            slots: config.slots,
            bytes_per_slot: config.reassembly_bytes,
            bytes_total: REASSEMBLY_TOTAL.max(4 * config.reassembly_bytes),
            ..reassembly::Config::default()
        };
        Self {
            now: 0,
            realtime: 0,
            clock: Clock::new(),
            slots: std::iter::repeat_with(|| None).take(config.slots as usize).collect(),
            owners: HashMap::new(),
            delegated: Vec::new(),
            groups: Groups::default(),
            rx: Vec::new(),
            last: vec![0; config.slots as usize],
            touched: Vec::with_capacity(1024),
            counters,
            reassembler: Reassembler::new(reassembly, HashKey::random()),
            routes: RouteCache::new(Limits::default(), HashKey::random()),
            hops: NextHops::new(NEXT_HOPS, HashKey::random()),
            ids: Ids::new(HashKey::random()),
            flows,
            events: Events { channel, notify, unnotified: false },
            spare: Vec::new(),
            scratch: vec![0; SCRATCH],
        }
    }

    /// Reads the clock. Once a round.
    #[inline]
    pub(crate) fn tick(&mut self) {
        self.now = self.clock.monotonic();
        self.realtime = self.now.wrapping_add(self.clock.offset);
    }

    /// Follows changes of the realtime clock. A few times a second.
    pub(crate) fn adjust_clock(&mut self) {
        self.clock.adjust();
    }

    /// The slot, if it is in use.
    #[inline]
    pub(crate) fn slot(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)?.as_deref()
    }

    /// The endpoint that has `port` of `address` in a compartment, for the flow from `remote`.
    #[inline]
    pub(crate) fn claimant(
        &self,
        slot: &Slot,
        (address, port): (&Address, u16),
        (remote, remote_port): (&Address, u16),
    ) -> Option<u32> {
        slot.claims.find(address, port, || self.flow(address, port, remote, remote_port))
    }

    /// Hash of a flow: the same in every worker.
    #[inline]
    pub(crate) fn flow(&self, address: &Address, port: u16, remote: &Address, remote_port: u16) -> u64 {
        self.flows.hash(address, remote, u64::from(port) << 16 | u64::from(remote_port))
    }

    /// Counts for the worker and, if in use, the slot.
    #[inline]
    pub(crate) fn count(&self, slot: u32, counter: impl Into<Counter>) {
        let counter = counter.into();
        self.counters.inc(counter);
        if let Some(slot) = self.slot(slot) {
            slot.counters.inc(counter);
        }
    }

    /// The compartment that owns `address` in any realm.
    pub(crate) fn owner(&self, address: &Address) -> Option<u32> {
        if let Some(slot) = self.owners.get(address) {
            return Some(*slot);
        }
        let by_prefix = self.delegated.iter().filter_map(|s| Some((self.slot(*s)?.owns(address)?, *s)));
        by_prefix.max().map(|(_, slot)| slot)
    }

    /// Builds the lookup tables of [`Core::owner`] anew. A change of addresses is rare.
    pub(crate) fn forget_owner(&mut self, slot: u32) {
        self.owners.retain(|_, s| *s != slot);
        self.delegated.retain(|s| *s != slot);
    }

    /// What a datagram to a compartment will touch first, as far as the last one tells.
    #[inline]
    pub(crate) fn prefetch(&self, slot: u32) {
        if let Some(slot) = self.slots.get(slot as usize).and_then(Option::as_deref) {
            prefetch_lines(slot);
        }
        let index = self.last.get(slot as usize).copied().unwrap_or(0);
        if let Some(half) = self.rx.get(index as usize).and_then(Option::as_deref) {
            prefetch_lines(half);
        }
    }

    /// And what these lead to.
    #[inline]
    pub(crate) fn prefetch_near(&self, slot: u32) {
        let index = self.last.get(slot as usize).copied().unwrap_or(0);
        if let Some(slot) = self.slot(slot) {
            slot.counters.prefetch();
            slot.claims.prefetch();
        }
        if let Some(half) = self.rx.get(index as usize).and_then(Option::as_deref) {
            half.ring.prefetch();
            half.counters.prefetch();
        }
    }

    /// Notes that the endpoint's RX ring has unpublished records.
    #[inline]
    pub(crate) fn touch(&mut self, index: u32) {
        if let Some(endpoint) = self.rx.get_mut(index as usize).and_then(Option::as_deref_mut)
            && !endpoint.touched
        {
            endpoint.touched = true;
            self.touched.push(index);
        }
    }

    /// Publishes what was written in this round and wakes tenants that sleep. Violations seen on the way are left to
    /// `violated`.
    pub(crate) fn publish(&mut self, mut violated: impl FnMut(u32)) {
        // Two passes: one fence for all, whose price is that of all stores on their way.
        self.touched.retain(|index| {
            let Some(endpoint) = self.rx.get_mut(*index as usize).and_then(Option::as_deref_mut) else {
                return false;
            };
            endpoint.touched = false;
            endpoint.count_delivered();
            // What is not new may be a violation.
            endpoint.ring.announce() || endpoint.ring.violation().is_some()
        });
        if self.touched.is_empty() {
            return;
        }
        afnet_ring::fence();
        for index in self.touched.drain(..) {
            let Some(endpoint) = self.rx.get_mut(index as usize).and_then(Option::as_deref_mut) else {
                continue;
            };
            if endpoint.ring.must_ring() {
                ring(&endpoint.wake);
                endpoint.counters.inc(Counter::Doorbells);
                self.counters.inc(Counter::Doorbells);
            }
            if endpoint.ring.violation().is_some() && !endpoint.closed {
                violated(index);
            }
        }
    }
}

/// Asks for all lines of a value.
#[inline]
fn prefetch_lines<T>(value: &T) {
    let first = std::ptr::from_ref(value).cast::<u8>();
    for offset in (0..size_of::<T>()).step_by(64) {
        prefetch(first.wrapping_add(offset));
    }
}

/// Monotonic nanoseconds, and how far CLOCK_REALTIME is ahead of them.
#[derive(Debug)]
struct Clock {
    start: std::time::Instant,
    offset: u64,
}

impl Clock {
    fn new() -> Self {
        let mut clock = Self { start: std::time::Instant::now(), offset: 0 };
        clock.adjust();
        clock
    }

    /// Starts at one second, so that "long ago" can be expressed.
    #[inline]
    fn monotonic(&self) -> u64 {
        nanoseconds(self.start.elapsed()) + 1_000_000_000
    }

    fn adjust(&mut self) {
        let real = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds);
        self.offset = real.wrapping_sub(self.monotonic());
    }
}

fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
