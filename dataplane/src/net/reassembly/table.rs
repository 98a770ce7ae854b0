//! Datagrams in reassembly: a slab of entries, found by a keyed hash, in order of age overall and in order of age
//! within each compartment.
//!
//! Indices come from this table's own lists only, never from a packet.

#![deny(unsafe_code)]
#![allow(clippy::indexing_slicing, reason = "indices are made and handed out by `Table::insert` only")]

use afnet_abi::vlan::Vlan;

use super::pool;
use crate::net::{Address, Mac, hash, place};

/// No entry.
pub const NONE: u32 = u32::MAX;
/// What an entry counts in budgets, whatever it holds.
pub const ENTRY_COST: usize = size_of::<Entry>();
/// Longest kept header: IPv4 with all options is 60 bytes; IPv6 with its unfragmentable part gets the rest.
pub const MAX_HEADER: usize = 128;

/// What makes fragments belong together (RFC 791 3.2, RFC 8200 4.5), within a compartment and realm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub src: Address,
    pub dst: Address,
    pub id: u32,
    pub slot: u32,
    pub ifindex: u32,
    pub vlan: Vlan,
    /// IPv4's protocol; 0 for IPv6, where it is not part of the key.
    pub protocol: u8,
}

/// A datagram.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: Key,
    pub v6: bool,
    /// Dropped: stays to swallow further fragments.
    pub dead: bool,
    pub created_ns: u64,
    /// First block and last block, in order of offset.
    pub head: u32,
    pub tail: u32,
    /// Bytes here, and in all once the last fragment has come.
    pub received: u32,
    pub total: Option<u32>,
    pub fragments: u16,
    /// Bit `1 << codepoint` for each ECN codepoint seen.
    pub ecn: u8,
    /// Length of the longest fragment as an IP packet.
    pub largest: u16,
    /// Headers in front of the fragmented part, from the first fragment; `header_len` 0: not here yet.
    pub header: [u8; MAX_HEADER],
    pub header_len: u8,
    /// IPv6: place in `header` of the byte that announced the fragment header, and what that announced.
    pub announced_at: u8,
    pub protocol: u8,
    pub src_mac: Mac,
    pub dst_mac: Mac,
    /// Bytes that this entry counts in its compartment's budget.
    pub cost: usize,
    chain: u32,
    age: Links,
    own: Links,
}

/// Links of a doubly linked list.
#[derive(Clone, Copy, Debug)]
struct Links {
    prev: u32,
    next: u32,
}

const UNLINKED: Links = Links { prev: NONE, next: NONE };

/// Both ends of such a list.
#[derive(Clone, Copy, Debug)]
struct Ends {
    first: u32,
    last: u32,
}

const EMPTY: Ends = Ends { first: NONE, last: NONE };

/// A compartment's share.
#[derive(Clone, Copy, Debug)]
struct Share {
    bytes: usize,
    own: Ends,
}

/// The entries.
#[derive(Debug)]
pub struct Table {
    hash: hash::Key,
    /// Grows up to `count`, within the capacity that it has from the start: memory that is not needed stays untouched.
    entries: Vec<Entry>,
    count: u32,
    buckets: Vec<u32>,
    /// Entries that were in use before.
    free: u32,
    /// By age: IPv4, IPv6 (their timeouts differ, so each list is in order of expiry too).
    ages: [Ends; 2],
    shares: Vec<Share>,
}

impl Table {
    /// Room for `count` datagrams of compartments below `slots`.
    pub fn new(count: u32, slots: u32, hash: hash::Key) -> Self {
        Self {
            hash,
            entries: Vec::with_capacity(count as usize),
            count,
            buckets: vec![NONE; (count.max(1) as usize).next_power_of_two()],
            free: NONE,
            ages: [EMPTY; 2],
            shares: vec![Share { bytes: 0, own: EMPTY }; slots as usize],
        }
    }

    /// Whether the table knows this compartment.
    pub fn has_slot(&self, slot: u32) -> bool {
        (slot as usize) < self.shares.len()
    }

    /// Whether an entry is free.
    pub fn has_room(&self) -> bool {
        self.free != NONE || self.entries.len() < self.count as usize
    }

    /// Bytes that a compartment's datagrams count.
    pub fn bytes(&self, slot: u32) -> usize {
        self.shares.get(slot as usize).map_or(0, |s| s.bytes)
    }

    pub fn entry(&self, n: u32) -> &Entry {
        &self.entries[n as usize]
    }

    pub fn entry_mut(&mut self, n: u32) -> &mut Entry {
        &mut self.entries[n as usize]
    }

    /// The entry of `key`.
    pub fn find(&self, key: &Key) -> Option<u32> {
        let mut n = self.buckets[self.bucket(key)];
        while n != NONE {
            let entry = self.entry(n);
            if entry.key == *key {
                return Some(n);
            }
            n = entry.chain;
        }
        None
    }

    /// A new entry for `key`, whose compartment the table has; `None` without room.
    pub fn insert(&mut self, key: Key, v6: bool, now_ns: u64) -> Option<u32> {
        let bucket = self.bucket(&key);
        let entry = Entry {
            key,
            v6,
            dead: false,
            created_ns: now_ns,
            head: pool::NONE,
            tail: pool::NONE,
            received: 0,
            total: None,
            fragments: 0,
            ecn: 0,
            largest: 0,
            header: [0; MAX_HEADER],
            header_len: 0,
            announced_at: 0,
            protocol: key.protocol,
            src_mac: [0; 6],
            dst_mac: [0; 6],
            cost: 0,
            chain: self.buckets[bucket],
            age: UNLINKED,
            own: UNLINKED,
        };
        let n = if self.free != NONE {
            let n = self.free;
            self.free = self.entry(n).chain;
            *self.entry_mut(n) = entry;
            n
        } else if self.has_room() {
            self.entries.push(entry);
            u32::try_from(self.entries.len() - 1).ok()?
        } else {
            return None;
        };
        self.buckets[bucket] = n;
        push(&mut self.entries, &mut self.ages[usize::from(v6)], n, |e| &mut e.age);
        push(&mut self.entries, &mut self.shares[key.slot as usize].own, n, |e| &mut e.own);
        self.charge(n, ENTRY_COST);
        Some(n)
    }

    /// Takes the entry out. Its blocks must have been released.
    pub fn remove(&mut self, n: u32) {
        let (key, v6, cost, after) = {
            let e = self.entry(n);
            (e.key, e.v6, e.cost, e.chain)
        };
        self.refund(n, cost);
        let bucket = self.bucket(&key);
        if self.buckets[bucket] == n {
            self.buckets[bucket] = after;
        } else {
            let mut at = self.buckets[bucket];
            while self.entry(at).chain != n {
                at = self.entry(at).chain;
            }
            self.entry_mut(at).chain = after;
        }
        unlink(&mut self.entries, &mut self.ages[usize::from(v6)], n, |e| &mut e.age);
        unlink(&mut self.entries, &mut self.shares[key.slot as usize].own, n, |e| &mut e.own);
        self.entry_mut(n).chain = self.free;
        self.free = n;
    }

    /// Counts `bytes` more for the entry and its compartment.
    pub fn charge(&mut self, n: u32, bytes: usize) {
        self.entry_mut(n).cost += bytes;
        let slot = self.entry(n).key.slot;
        self.shares[slot as usize].bytes += bytes;
    }

    /// Counts `bytes` less.
    pub fn refund(&mut self, n: u32, bytes: usize) {
        self.entry_mut(n).cost -= bytes;
        let slot = self.entry(n).key.slot;
        self.shares[slot as usize].bytes -= bytes;
    }

    /// Oldest entry of a family.
    pub fn oldest(&self, v6: bool) -> Option<u32> {
        some(self.ages[usize::from(v6)].first)
    }

    /// The next younger one of the same family.
    pub fn younger(&self, n: u32) -> Option<u32> {
        some(self.entry(n).age.next)
    }

    /// Oldest entry of a compartment, but not `except`.
    pub fn oldest_of(&self, slot: u32, except: u32) -> Option<u32> {
        let first = self.shares.get(slot as usize)?.own.first;
        if first != NONE && first == except { some(self.entry(first).own.next) } else { some(first) }
    }

    fn bucket(&self, key: &Key) -> usize {
        let realm = u64::from(key.ifindex).rotate_left(48)
            ^ u64::from(key.slot).rotate_left(32)
            ^ u64::from(key.vlan.raw()).rotate_left(20)
            ^ u64::from(key.id)
            ^ u64::from(key.protocol).rotate_left(56);
        place(self.hash.hash(&key.src, &key.dst, realm), self.buckets.len() - 1)
    }
}

fn some(n: u32) -> Option<u32> {
    (n != NONE).then_some(n)
}

fn push(entries: &mut [Entry], ends: &mut Ends, n: u32, links: impl Fn(&mut Entry) -> &mut Links) {
    *links(&mut entries[n as usize]) = Links { prev: ends.last, next: NONE };
    match some(ends.last) {
        Some(last) => links(&mut entries[last as usize]).next = n,
        None => ends.first = n,
    }
    ends.last = n;
}

fn unlink(entries: &mut [Entry], ends: &mut Ends, n: u32, links: impl Fn(&mut Entry) -> &mut Links) {
    let Links { prev, next } = *links(&mut entries[n as usize]);
    match some(prev) {
        Some(prev) => links(&mut entries[prev as usize]).next = next,
        None => ends.first = next,
    }
    match some(next) {
        Some(next) => links(&mut entries[next as usize]).prev = prev,
        None => ends.last = prev,
    }
}
