//! Fragments to datagrams, in bounded memory and with bounded work for each fragment. One for each worker.
//!
//! ```text
//! table: key -> entry --head--> block -> block -> block   (sorted by offset, never overlapping)
//!               | by age (IPv4, IPv6), by age within the compartment
//! ```
//!
//! | rule | source |
//! |---|---|
//! | overlap, contradicting end, same range with other bytes: the datagram is dropped silently, and so is the rest of it until its time is over | RFC 5722 4, 8200 4.5 |
//! | an exact copy of a fragment is ignored | RFC 8200 4.5 |
//! | atomic fragments never come here: the parser resolves them | RFC 6946 |
//! | an IPv6 first fragment holds the whole header chain | RFC 7112 5 |
//! | CE with Not-ECT: dropped; CE with ECT: CE; else the first fragment's | RFC 3168 5.3 |
//! | 30 s (IPv4, as the kernel) and 60 s (IPv6) from the first fragment to arrive, no ICMP Time Exceeded | RFC 1122 3.3.2, 8200 4.5 |
//! | nothing beyond 65535 bytes | RFC 791, 8200 |
//!
//! Memory: every compartment has a budget; all share one pool. A compartment above its budget gives up its own
//! oldest datagram. When the pool is empty, an old datagram of a compartment that holds more than this one goes, or
//! else this one's own oldest. The newest wins, since real fragments arrive back to back: a flood has to fill the
//! whole budget between two of them to do harm, and only to its own compartment.
//!
//! Work: a fragment that is in order is appended in constant time; any other walks at most the blocks of one
//! datagram ([`Config::max_fragments`] plus 43). Evictions are paid by the memory they free.
//!
//! A finished datagram is a plain IP packet with a rebuilt header: [`super::parse::parse_ip`] reads it. If it turns
//! out not to be claimed, it goes into the kernel as it is when it fits the host link's MTU, or else cut again by
//! [`super::fragment::Refragment`] to at most [`Datagram::largest`] (what the path has shown to carry).

#![deny(unsafe_code)]

mod pool;
mod table;

use afnet_abi::vlan::Vlan;

use self::{
    pool::{BLOCK, BLOCK_COST, Pool},
    table::{ENTRY_COST, Entry, Key, MAX_HEADER, NONE, Table},
};
use super::{Drop, Mac, build::IPV6_LEN, checksum, extension, hash, parse::Packet, protocol};

/// Longest finished datagram: an IPv6 header and the longest payload.
const MAX_PACKET: usize = IPV6_LEN + 65535;
/// Other compartments' datagrams that are looked at for a victim when the pool is empty.
const VICTIMS: usize = 16;

/// Sizes and times.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Compartments are numbered below this.
    pub slots: u32,
    /// Budget of a compartment in bytes, bookkeeping included; at least 128 KiB is needed for every datagram.
    pub bytes_per_slot: usize,
    /// Memory of all compartments in bytes, reserved at the start, touched when used.
    pub bytes_total: usize,
    /// Lifetime of an unfinished IPv4 datagram.
    pub v4_timeout_ns: u64,
    /// Lifetime of an unfinished IPv6 datagram.
    pub v6_timeout_ns: u64,
    /// Most fragments of a datagram. 65535 bytes over the 576 bytes that every IPv4 host must take are 119.
    pub max_fragments: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            slots: 4096,
            bytes_per_slot: 1 << 20,
            bytes_total: 16 << 20,
            v4_timeout_ns: 30_000_000_000,
            v6_timeout_ns: 60_000_000_000,
            max_fragments: 128,
        }
    }
}

/// A finished datagram; lives in the reassembler's buffer until the next call.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// The IP packet, unfragmented, header rebuilt.
    pub packet: &'a [u8],
    /// Length of the longest fragment as an IP packet.
    pub largest: usize,
    /// Number of fragments.
    pub fragments: u16,
    /// Identification, for cutting it again.
    pub id: u32,
    /// Device of the fragments.
    pub ifindex: u32,
    /// Tags of the fragments.
    pub vlan: Vlan,
    /// Source of the first fragment's frame.
    pub src_mac: Mac,
    /// Destination of the first fragment's frame.
    pub dst_mac: Mac,
}

/// See the module.
#[derive(Debug)]
pub struct Reassembler {
    config: Config,
    pool: Pool,
    table: Table,
    buffer: Box<[u8]>,
}

/// A fragment that passed the checks it can be given by itself.
struct Part<'a> {
    key: Key,
    offset: u32,
    end: u32,
    more: bool,
    data: &'a [u8],
    /// Headers before the fragmented part.
    header: &'a [u8],
    /// Place in `header` of the byte that announces the fragment header.
    announced_at: usize,
    packet: &'a Packet,
}

/// Where a fragment goes.
enum Place {
    /// Between two blocks (or [`pool::NONE`]).
    Between {
        before: u32,
        after: u32,
    },
    Duplicate,
    Overlap,
}

impl Reassembler {
    /// Reserves everything it will ever use.
    pub fn new(config: Config, hash: hash::Key) -> Self {
        let count = |bytes: usize| u32::try_from(bytes).unwrap_or(u32::MAX - 1);
        // Small fragments (a tail, tombstones) need entries, large ones blocks; memory for both is set aside.
        let entries = count((config.bytes_total / 4 / ENTRY_COST).max(1));
        let blocks = count((config.bytes_total / 4 * 3 / BLOCK_COST).max(1));
        Self {
            pool: Pool::new(blocks),
            table: Table::new(entries, config.slots, hash),
            buffer: vec![0; MAX_PACKET].into_boxed_slice(),
            config,
        }
    }

    /// Takes a fragment of compartment `slot` that came in on `ifindex`; gives the datagram that it completes.
    /// `lost` is told of each datagram that had to go for it: its compartment and why.
    ///
    /// # Errors
    /// Why the fragment was dropped, the rest of its datagram too in case of [`Drop::FragmentOverlap`],
    /// [`Drop::FragmentCount`], [`Drop::FragmentEcn`].
    pub fn push(
        &mut self,
        slot: u32,
        ifindex: u32,
        now_ns: u64,
        frame: &[u8],
        packet: &Packet,
        mut lost: impl FnMut(u32, Drop),
    ) -> Result<Option<Datagram<'_>>, Drop> {
        let part = part(slot, ifindex, frame, packet)?;
        if !self.table.has_slot(slot) {
            return Err(Drop::FragmentMemory);
        }
        let mut found = self.table.find(&part.key);
        if let Some(n) = found
            && self.is_old(n, now_ns)
        {
            self.give_up(n, Drop::FragmentTimeout, &mut lost);
            found = None;
        }
        let blocks = part.data.len().div_ceil(BLOCK);
        let n = match found {
            Some(n) if self.table.entry(n).dead => return Err(Drop::FragmentDead),
            Some(n) => n,
            None => {
                self.make_room(slot, NONE, blocks, ENTRY_COST, &mut lost)?;
                self.table.insert(part.key, packet.v6, now_ns).ok_or(Drop::FragmentMemory)?
            }
        };
        let (before, after) = match self.place(n, &part) {
            Place::Between { before, after } => (before, after),
            Place::Duplicate => return Err(Drop::FragmentDuplicate),
            Place::Overlap => return Err(self.kill(n, Drop::FragmentOverlap)),
        };
        if self.table.entry(n).fragments >= self.config.max_fragments {
            return Err(self.kill(n, Drop::FragmentCount));
        }
        if let Err(e) = self.make_room(slot, n, blocks, 0, &mut lost) {
            // Nothing but this datagram is left to give up, and it cannot be finished.
            return Err(self.kill(n, e));
        }
        self.store(n, &part, before, after)?;
        if self.table.entry(n).total == Some(self.table.entry(n).received) {
            return self.finish(n).map(Some);
        }
        Ok(None)
    }

    /// Gives up datagrams whose time is over, at most `most` of each family; `lost` as in [`Self::push`].
    pub fn expire(&mut self, now_ns: u64, most: usize, mut lost: impl FnMut(u32, Drop)) {
        for v6 in [false, true] {
            for _ in 0..most {
                match self.table.oldest(v6) {
                    Some(n) if self.is_old(n, now_ns) => {
                        self.give_up(n, Drop::FragmentTimeout, &mut lost);
                    }
                    _ => break,
                }
            }
        }
    }

    /// When [`Self::expire`] has something to do next.
    pub fn next_expiry(&self) -> Option<u64> {
        [false, true]
            .into_iter()
            .filter_map(|v6| {
                let entry = self.table.entry(self.table.oldest(v6)?);
                Some(entry.created_ns.saturating_add(self.timeout(v6)))
            })
            .min()
    }

    /// Forgets a compartment.
    pub fn remove_slot(&mut self, slot: u32) {
        while let Some(n) = self.table.oldest_of(slot, NONE) {
            self.remove(n);
        }
    }

    /// Bytes that count in a compartment's budget now.
    pub fn bytes(&self, slot: u32) -> usize {
        self.table.bytes(slot)
    }

    const fn timeout(&self, v6: bool) -> u64 {
        if v6 { self.config.v6_timeout_ns } else { self.config.v4_timeout_ns }
    }

    fn is_old(&self, n: u32, now_ns: u64) -> bool {
        let entry = self.table.entry(n);
        now_ns.saturating_sub(entry.created_ns) >= self.timeout(entry.v6)
    }

    /// Finds where a fragment goes; RFC 815's holes are the gaps of the list.
    fn place(&self, n: u32, part: &Part<'_>) -> Place {
        let entry = self.table.entry(n);
        let tail_end = if entry.tail == pool::NONE { 0 } else { self.pool.block(entry.tail).end() };
        if part.offset >= tail_end {
            // Behind everything: the usual case. Beyond a known end it contradicts it.
            return if entry.total.is_some() {
                Place::Overlap
            } else {
                Place::Between { before: entry.tail, after: pool::NONE }
            };
        }
        let (mut before, mut at) = (pool::NONE, entry.head);
        while at != pool::NONE && self.pool.block(at).end() <= part.offset {
            (before, at) = (at, self.pool.block(at).next);
        }
        if at != pool::NONE && self.pool.block(at).offset < part.end {
            return if self.is_copy(at, part) { Place::Duplicate } else { Place::Overlap };
        }
        // In a gap, so something follows: then it cannot be the last.
        if part.more { Place::Between { before, after: at } } else { Place::Overlap }
    }

    /// Whether the fragment whose first block is `at` has the same range, flag and bytes.
    fn is_copy(&self, mut at: u32, part: &Part<'_>) -> bool {
        let first = self.pool.block(at);
        let mut rest = part.data;
        let mut same = first.start && first.offset == part.offset && first.more == part.more;
        loop {
            let bytes = self.pool.bytes(at);
            match rest.split_at_checked(bytes.len()) {
                Some((mine, others)) if mine == bytes => rest = others,
                _ => same = false,
            }
            at = self.pool.block(at).next;
            if !same || at == pool::NONE || self.pool.block(at).start {
                return same && rest.is_empty();
            }
        }
    }

    /// Copies a fragment into blocks between two others and notes what it tells about the datagram.
    fn store(&mut self, n: u32, part: &Part<'_>, before: u32, after: u32) -> Result<(), Drop> {
        let mut before = before;
        let mut offset = part.offset;
        for (i, chunk) in part.data.chunks(BLOCK).enumerate() {
            let block = self.pool.take(offset, chunk, i == 0, part.more).ok_or(Drop::FragmentMemory)?;
            self.table.charge(n, BLOCK_COST);
            self.pool.link(block, after);
            if before == pool::NONE {
                self.table.entry_mut(n).head = block;
            } else {
                self.pool.link(before, block);
            }
            before = block;
            offset += u32::try_from(chunk.len()).unwrap_or(0);
        }
        let entry = self.table.entry_mut(n);
        if after == pool::NONE {
            entry.tail = before;
        }
        entry.received += part.end - part.offset;
        entry.fragments += 1;
        entry.ecn |= 1 << (part.packet.tos & 3);
        entry.largest =
            entry.largest.max(u16::try_from(part.packet.end - part.packet.l3).unwrap_or(u16::MAX));
        if !part.more {
            entry.total = Some(part.end);
        }
        if part.offset == 0 {
            let (kept, _) = entry.header.split_at_mut(part.header.len().min(MAX_HEADER));
            kept.copy_from_slice(part.header);
            entry.header_len = u8::try_from(part.header.len()).unwrap_or(0);
            entry.announced_at = u8::try_from(part.announced_at).unwrap_or(0);
            entry.protocol = part.packet.protocol;
            entry.src_mac = part.packet.src_mac;
            entry.dst_mac = part.packet.dst_mac;
        }
        Ok(())
    }

    /// Makes a packet of a complete datagram and forgets it.
    fn finish(&mut self, n: u32) -> Result<Datagram<'_>, Drop> {
        let entry = self.table.entry(n);
        let Some(ecn) = ecn(entry) else { return Err(self.kill(n, Drop::FragmentEcn)) };
        let header_len = usize::from(entry.header_len);
        let mut at = header_len;
        let mut block = entry.head;
        while block != pool::NONE {
            let bytes = self.pool.bytes(block);
            if let Some(to) = self.buffer.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
            at += bytes.len();
            block = self.pool.block(block).next;
        }
        let entry = self.table.entry(n);
        let written = self.buffer.get_mut(..at).and_then(|packet| rebuild(packet, entry, ecn));
        let (largest, fragments, key) = (usize::from(entry.largest), entry.fragments, entry.key);
        let (src_mac, dst_mac) = (entry.src_mac, entry.dst_mac);
        if written.is_none() {
            return Err(self.kill(n, Drop::FragmentTooBig));
        }
        self.remove(n);
        let packet = self.buffer.get(..at).unwrap_or_default();
        let Key { id, ifindex, vlan, .. } = key;
        Ok(Datagram { packet, largest, fragments, id, ifindex, vlan, src_mac, dst_mac })
    }

    /// Makes sure that `blocks` more blocks and `extra` bytes are within the budget and the pool has them, and an
    /// entry if `extra` is not 0. Gives up others for it, never `keep`.
    fn make_room(
        &mut self,
        slot: u32,
        keep: u32,
        blocks: usize,
        extra: usize,
        lost: &mut impl FnMut(u32, Drop),
    ) -> Result<(), Drop> {
        let need = blocks * BLOCK_COST + extra;
        while self.table.bytes(slot) + need > self.config.bytes_per_slot {
            let victim = self.table.oldest_of(slot, keep).ok_or(Drop::FragmentMemory)?;
            self.give_up(victim, Drop::FragmentEvicted, lost);
        }
        while self.pool.available() < blocks || (extra != 0 && !self.table.has_room()) {
            let victim = self.victim(slot, keep).ok_or(Drop::FragmentMemory)?;
            self.give_up(victim, Drop::FragmentEvicted, lost);
        }
        Ok(())
    }

    /// Whom to give up when all memory is used: an old datagram of a compartment that holds more than `slot`, or
    /// `slot`'s own oldest.
    fn victim(&self, slot: u32, keep: u32) -> Option<u32> {
        let mine = self.table.bytes(slot);
        for v6 in [false, true] {
            let mut at = self.table.oldest(v6);
            for _ in 0..VICTIMS {
                let Some(n) = at else { break };
                let other = self.table.entry(n).key.slot;
                if other != slot && self.table.bytes(other) > mine {
                    return Some(n);
                }
                at = self.table.younger(n);
            }
        }
        self.table.oldest_of(slot, keep)
    }

    /// Drops what a datagram holds but remembers it, so that its other fragments are ignored. `why`, for the caller.
    fn kill(&mut self, n: u32, why: Drop) -> Drop {
        let head = self.table.entry(n).head;
        let count = self.pool.release(head);
        self.table.refund(n, count * BLOCK_COST);
        let entry = self.table.entry_mut(n);
        entry.dead = true;
        (entry.head, entry.tail) = (pool::NONE, pool::NONE);
        why
    }

    /// Removes a datagram before its completion. Those dropped before are not counted again.
    fn give_up(&mut self, n: u32, why: Drop, lost: &mut impl FnMut(u32, Drop)) {
        let entry = self.table.entry(n);
        if !entry.dead {
            lost(entry.key.slot, why);
        }
        self.remove(n);
    }

    fn remove(&mut self, n: u32) {
        self.pool.release(self.table.entry(n).head);
        self.table.remove(n);
    }
}

/// Checks a fragment by itself.
fn part<'a>(slot: u32, ifindex: u32, frame: &'a [u8], packet: &'a Packet) -> Result<Part<'a>, Drop> {
    let fragment = packet.fragment.as_ref().ok_or(Drop::Protocol)?;
    let data = frame.get(packet.l4..packet.end).ok_or(Drop::Truncated)?;
    if data.is_empty() || (fragment.more && data.len() % 8 != 0) {
        return Err(Drop::FragmentLength);
    }
    let header_end = if packet.v6 { fragment.header } else { packet.l4 };
    let header = frame.get(packet.l3..header_end).ok_or(Drop::Truncated)?;
    let end = usize::from(fragment.offset) + data.len();
    // What the IP length field will count: all for IPv4, what is behind the fixed header for IPv6.
    let counted = end + header.len() - if packet.v6 { IPV6_LEN } else { 0 };
    if counted > 65535 {
        return Err(Drop::FragmentTooBig);
    }
    if fragment.offset == 0
        && (header.len() > MAX_HEADER || (packet.v6 && !whole_chain(data, packet.protocol)))
    {
        return Err(Drop::FragmentHeader);
    }
    Ok(Part {
        key: Key {
            src: packet.src,
            dst: packet.dst,
            id: fragment.id,
            slot,
            ifindex,
            vlan: packet.vlan,
            protocol: if packet.v6 { 0 } else { packet.protocol },
        },
        offset: u32::from(fragment.offset),
        end: u32::try_from(end).map_err(|_| Drop::FragmentTooBig)?,
        more: fragment.more,
        data,
        header,
        announced_at: fragment.announced_at.saturating_sub(packet.l3),
        packet,
    })
}

/// Whether a first fragment holds all headers up to the upper layer's (RFC 7112 5).
fn whole_chain(data: &[u8], next: u8) -> bool {
    let Ok(chain) = extension::walk(data, 0, next, 0, data.len()) else { return false };
    let upper = match chain.protocol {
        protocol::TCP => 20,
        protocol::UDP | protocol::UDPLITE | protocol::ICMPV6 => 8,
        _ => 0,
    };
    chain.fragment.is_none() && data.len() - chain.l4 >= upper
}

/// The reassembled codepoint (RFC 3168 5.3); `None`: CE and Not-ECT.
fn ecn(entry: &Entry) -> Option<u8> {
    const NOT_ECT: u8 = 1;
    const CE: u8 = 1 << 3;
    let tos = match (entry.v6, &entry.header) {
        (false, [_, tos, ..]) => *tos,
        (true, [v0, v1, ..]) => v0 << 4 | v1 >> 4,
    };
    match entry.ecn {
        seen if seen & CE == 0 => Some(tos & 3),
        seen if seen & NOT_ECT == 0 => Some(3),
        _ => None,
    }
}

/// Writes the kept header in front of the data in `packet` and makes it that of an unfragmented packet.
fn rebuild(packet: &mut [u8], entry: &Entry, ecn: u8) -> Option<()> {
    let len = packet.len();
    let header = packet.get_mut(..usize::from(entry.header_len))?;
    header.copy_from_slice(entry.header.get(..header.len())?);
    if entry.v6 {
        *header.get_mut(usize::from(entry.announced_at))? = entry.protocol;
        let [_, v1, _, _, l0, l1, ..] = header else { return None };
        *v1 = *v1 & 0xcf | ecn << 4;
        [*l0, *l1] = u16::try_from(len - IPV6_LEN).ok()?.to_be_bytes();
    } else {
        let [_, tos, l0, l1, _, _, f0, f1, _, _, c0, c1, ..] = header else { return None };
        *tos = *tos & 0xfc | ecn;
        [*l0, *l1] = u16::try_from(len).ok()?.to_be_bytes();
        [*f0, *f1, *c0, *c1] = [0; 4];
        let sum = checksum::finish(checksum::sum(header));
        header.get_mut(10..12)?.copy_from_slice(&sum);
    }
    Some(())
}

#[cfg(test)]
mod tests;
