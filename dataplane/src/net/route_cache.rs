//! What control has answered about destinations, and the packets that wait for an answer. One for each worker.
//!
//! ```text
//! packet -> lookup --Known---------------------------------> send
//!             |-----Refresh: send, and Event::Resolve once
//!             '-----Unknown -> wait(packet) --Ask::Yes-----> Event::Resolve
//!                                 control's route_reply ---> answer -> the packets that waited
//! ```
//!
//! * The cache is set-associative with [`WAYS`] ways under a keyed hash: bounded, no allocation after the start. A
//!   new entry takes the place of, in this order: an invalid one, the compartment's own least recently used one,
//!   the set's. So a tenant that sends to a million destinations mostly evicts itself.
//! * [`RouteCache::flush`] invalidates everything (one counter); control calls it after any change of routes,
//!   neighbours or addresses. [`REFRESH_NS`] and [`NEGATIVE_NS`] are the net below that.
//! * Waiting is bounded for each destination, each compartment and in all (RFC 6583 6: resolution requests are a
//!   resource of the host).

#![deny(unsafe_code)]

use std::collections::HashMap;

use afnet_abi::vlan::Vlan;

use super::{Address, Drop, from_ip, hash, place, to_ip};
use crate::route::{Route, RouteKey};

/// Entries that share a place of the hash.
pub const WAYS: usize = 4;
/// After this time a route is asked for again while the old answer stays in use: 30 s, the order of the kernel's
/// neighbour reachable time (RFC 4861 10), so that the kernel keeps confirming neighbours that are in use.
pub const REFRESH_NS: u64 = 30_000_000_000;
/// For this time "unreachable" is believed: 1 s, so that a tenant cannot make more than one request a second for a
/// dead destination, and a host that comes back is found about as fast as by the kernel's own neighbour probes.
pub const NEGATIVE_NS: u64 = 1_000_000_000;
/// Packets wait no longer than this: 3 s, as long as the kernel probes a neighbour (3 times 1 s, RFC 4861 10).
pub const WAIT_NS: u64 = 3_000_000_000;

/// [`RouteKey`] in the form of the hot path: addresses as in the shared memory, source `::` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Destination.
    pub dst: Address,
    /// Source or `::`.
    pub src: Address,
    /// Compartment.
    pub slot: u32,
    /// Device or 0.
    pub ifindex: u32,
    /// VLAN; [`Vlan::NONE`] where `ifindex` is 0.
    pub vlan: Vlan,
}

impl From<&RouteKey> for Key {
    fn from(k: &RouteKey) -> Self {
        let src = k.src.map_or([0; 16], from_ip);
        Self { dst: from_ip(k.dst), src, slot: k.slot, ifindex: k.ifindex, vlan: k.vlan }
    }
}

impl From<&Key> for RouteKey {
    fn from(k: &Key) -> Self {
        let src = (k.src != [0; 16]).then(|| to_ip(&k.src));
        Self { slot: k.slot, dst: to_ip(&k.dst), src, ifindex: k.ifindex, vlan: k.vlan }
    }
}

/// Sizes. Every one bounds memory and, for the waiting ones, how much of the others' a compartment can take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Cached routes; rounded up to a power of two.
    pub entries: usize,
    /// Destinations that wait, in all.
    pub keys: usize,
    /// Destinations that wait, of one compartment.
    pub keys_per_slot: usize,
    /// Packets that wait, of one destination (RFC 4861 7.2.2 wants at least one; the kernel keeps some hundred small
    /// ones, `unres_qlen_bytes`, and programs send bursts to those they have not met).
    pub items_per_key: usize,
    /// Packets that wait, of one compartment.
    pub items_per_slot: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 16384, keys: 1024, keys_per_slot: 32, items_per_key: 64, items_per_slot: 128 }
    }
}

/// Result of [`RouteCache::lookup`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup<'a> {
    /// Use it.
    Known(&'a Route),
    /// Use it, and ask control again; said once for each [`REFRESH_NS`].
    Refresh(&'a Route),
    /// Let the packet wait.
    Unknown,
}

/// Whether control must be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Send `Event::Resolve`.
    Yes,
    /// It was sent for an earlier packet.
    No,
}

#[derive(Clone, Debug)]
struct Entry {
    key: Key,
    route: Route,
    generation: u64,
    asked_ns: u64,
    used: u64,
}

#[derive(Debug)]
struct Waiting<T> {
    items: Vec<T>,
    since_ns: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Usage {
    keys: usize,
    items: usize,
}

/// See the module. `T` is what waits, such as a packet in a buffer of its own.
#[derive(Debug)]
pub struct RouteCache<T> {
    hash: hash::Key,
    limits: Limits,
    sets: Vec<[Option<Entry>; WAYS]>,
    mask: usize,
    generation: u64,
    tick: u64,
    waiting: HashMap<Key, Waiting<T>>,
    usage: HashMap<u32, Usage>,
    /// Emptied queues, to be used again.
    spare: Vec<Vec<T>>,
}

impl<T> RouteCache<T> {
    /// An empty cache.
    pub fn new(limits: Limits, hash: hash::Key) -> Self {
        let sets = (limits.entries / WAYS).max(1).next_power_of_two();
        Self {
            hash,
            sets: (0..sets).map(|_| [const { None }; WAYS]).collect(),
            mask: sets - 1,
            generation: 0,
            tick: 0,
            waiting: HashMap::with_capacity(limits.keys),
            usage: HashMap::with_capacity(limits.keys),
            spare: Vec::with_capacity(limits.keys),
            limits,
        }
    }

    /// The cached route for `key`.
    #[inline]
    pub fn lookup(&mut self, key: &Key, now_ns: u64) -> Lookup<'_> {
        let generation = self.generation;
        self.tick += 1;
        let tick = self.tick;
        let place = self.place(key);
        let Some(set) = self.sets.get_mut(place) else { return Lookup::Unknown };
        let Some(entry) = set.iter_mut().flatten().find(|e| e.key == *key && e.generation == generation)
        else {
            return Lookup::Unknown;
        };
        entry.used = tick;
        let age = now_ns.saturating_sub(entry.asked_ns);
        if age < NEGATIVE_NS {
            return Lookup::Known(&entry.route);
        }
        if matches!(entry.route, Route::Unreachable { .. }) {
            return Lookup::Unknown;
        }
        if age < REFRESH_NS {
            return Lookup::Known(&entry.route);
        }
        entry.asked_ns = now_ns;
        Lookup::Refresh(&entry.route)
    }

    /// Lets `item` wait for the answer about `key`.
    ///
    /// # Errors
    /// Gives the item back with [`Drop::RouteFull`] when a limit is reached.
    pub fn wait(&mut self, key: &Key, item: T, now_ns: u64) -> Result<Ask, (Drop, T)> {
        let usage = self.usage.get(&key.slot).copied().unwrap_or_default();
        if usage.items >= self.limits.items_per_slot {
            return Err((Drop::RouteFull, item));
        }
        let ask = if let Some(waiting) = self.waiting.get_mut(key) {
            if waiting.items.len() >= self.limits.items_per_key {
                return Err((Drop::RouteFull, item));
            }
            waiting.items.push(item);
            Ask::No
        } else {
            if usage.keys >= self.limits.keys_per_slot || self.waiting.len() >= self.limits.keys {
                return Err((Drop::RouteFull, item));
            }
            let mut items = self.spare.pop().unwrap_or_else(|| Vec::with_capacity(self.limits.items_per_key));
            items.push(item);
            self.waiting.insert(*key, Waiting { items, since_ns: now_ns });
            Ask::Yes
        };
        let usage = self.usage.entry(key.slot).or_default();
        usage.items += 1;
        usage.keys += usize::from(ask == Ask::Yes);
        Ok(ask)
    }

    /// Takes control's answer: caches it and hands every packet that waited for it to `ready`, in order.
    /// [`Route::Pending`] lets them wait on.
    pub fn answer(&mut self, key: &Key, route: Route, now_ns: u64, ready: impl FnMut(T)) {
        if route == Route::Pending {
            return;
        }
        self.insert(key, route, now_ns);
        if let Some(waiting) = self.waiting.remove(key) {
            self.finish(key.slot, waiting, ready);
        }
    }

    /// Forgets all routes. Whatever still waits must be asked for again: `ask` gets each of those keys.
    pub fn flush(&mut self, ask: impl FnMut(&Key)) {
        self.generation += 1;
        self.waiting.keys().for_each(ask);
    }

    /// Gives up on packets that have waited for [`WAIT_NS`]; call it a few times a second.
    pub fn expire(&mut self, now_ns: u64, mut lost: impl FnMut(&Key, T)) {
        self.remove_waiting(|_, w| now_ns.saturating_sub(w.since_ns) >= WAIT_NS, &mut lost);
    }

    /// Forgets a compartment: its waiting packets go to `lost`, its routes will not be found again.
    pub fn remove_slot(&mut self, slot: u32, mut lost: impl FnMut(&Key, T)) {
        self.remove_waiting(|k, _| k.slot == slot, &mut lost);
        for entry in self.sets.iter_mut().flatten() {
            if entry.as_ref().is_some_and(|e| e.key.slot == slot) {
                *entry = None;
            }
        }
    }

    /// Packets that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.values().map(|w| w.items.len()).sum()
    }

    fn remove_waiting(&mut self, which: impl Fn(&Key, &Waiting<T>) -> bool, lost: &mut impl FnMut(&Key, T)) {
        while let Some(key) = self.waiting.iter().find(|(k, w)| which(k, w)).map(|(k, _)| *k) {
            if let Some(waiting) = self.waiting.remove(&key) {
                self.finish(key.slot, waiting, |item| lost(&key, item));
            }
        }
    }

    fn finish(&mut self, slot: u32, mut waiting: Waiting<T>, each: impl FnMut(T)) {
        if let Some(usage) = self.usage.get_mut(&slot) {
            usage.keys -= 1;
            usage.items -= waiting.items.len();
            if usage.keys == 0 {
                self.usage.remove(&slot);
            }
        }
        waiting.items.drain(..).for_each(each);
        self.spare.push(waiting.items);
    }

    fn insert(&mut self, key: &Key, route: Route, now_ns: u64) {
        self.tick += 1;
        let (generation, tick) = (self.generation, self.tick);
        let place = self.place(key);
        let Some(set) = self.sets.get_mut(place) else { return };
        // Smaller goes first: the same key, invalid, own, others'; the least recently used of each.
        let rank = |e: &Option<Entry>| match e {
            Some(e) if e.key == *key => (0, 0),
            None => (1, 0),
            Some(e) if e.generation != generation => (1, e.used),
            Some(e) if e.key.slot == key.slot => (2, e.used),
            Some(e) => (3, e.used),
        };
        if let Some(way) = set.iter_mut().min_by_key(|e| rank(e)) {
            *way = Some(Entry { key: *key, route, generation, asked_ns: now_ns, used: tick });
        }
    }

    #[inline]
    fn place(&self, key: &Key) -> usize {
        let realm = u64::from(key.ifindex) << 32 ^ u64::from(key.slot) << 24 ^ u64::from(key.vlan.raw());
        place(self.hash.hash(&key.dst, &key.src, realm), self.mask)
    }
}

#[cfg(test)]
mod tests;
