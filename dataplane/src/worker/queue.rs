//! A device queue in the hand of its worker: the anchor, the compartments' sockets, and who of them is active.
//!
//! ```text
//!  XDP sets bit      collect(): slot onto the        visit round robin, at most a quantum of bytes each;
//!  of the slot  ---> active list                ---> empty for LINGER: clear the bit;
//!                    (and all slots every SWEEP)     empty for another LINGER: off the list
//! ```
//!
//! The bit of an active slot stays set, so that XDP, which sets only what is not set, neither pays an atomic operation
//! for its frames nor fights with the worker for the line. The bit is set before the frame is in the RX ring (rings are
//! published at the end of a NAPI poll), and XDP may have found it set just before it was cleared: hence the second
//! LINGER. The sweep catches what slips through all the same.
//!
//! Cost follows the number of active compartments: an idle one costs a bit in the words that are scanned.

use std::sync::{Arc, atomic::Ordering};

use afnet_ring::prefetch;

use super::core::SCRATCH;
use crate::{
    config::{DirtyMap, QueueMode},
    event::QueueAudit,
    xsk::{Anchor, Bound, RxDesc, RxSocket},
};

/// Descriptors taken at one visit: enough to make a visit's fixed cost small, few enough that the headers prefetched
/// for them (64 lines) stay in the first-level cache.
pub(crate) const BATCH: usize = 64;

/// Visits ahead whose ring is asked for; twice as many for what leads to it.
const AHEAD: usize = 4;

/// Visits with something to take after which a socket is no longer watched: a watched one costs the CPU that fills it a
/// call of the poller for each batch, some 100 ns; watching it again before the next sleep costs a system call or two.
const FINDS: u32 = 16;

/// Bytes that a compartment may take from the worker's time at one visit before the next one has its turn: about 40
/// frames of full size, or a whole batch of small ones. Half of it would cost throughput with one compartment.
const QUANTUM: usize = 64 << 10;

/// How long a slot stays on the active list without work, in nanoseconds. Longer than a NAPI poll lasts (some 100 us
/// when a softirq is long), short enough that a thousand idle slots do not stay to be visited.
const LINGER: u64 = 2_000_000;

/// What the queue is for.
#[derive(Clone, Debug)]
pub(crate) enum QueueKind {
    /// A device's.
    Device { mac: [u8; 6], mtu: u32, dirty: Arc<dyn DirtyMap>, queue: u32 },
    /// The veth pair's to the kernel.
    Host { mac: [u8; 6], kernel_mac: [u8; 6], mtu: u32 },
}

/// A compartment's socket.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) socket: RxSocket,
    /// Bytes that it may still take in this round; negative after an overdraft.
    credit: i64,
    active: bool,
    /// When it leaves the active list, unless work comes.
    until: u64,
    /// Whether its fd is registered with the worker's poller.
    armed: bool,
    /// Visits that found something since then.
    finds: u32,
}

impl Member {
    /// The poller watches it, or refused to.
    pub(crate) fn set_armed(&mut self, armed: bool) {
        (self.armed, self.finds) = (armed, 0);
    }
}

/// A queue.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) ifindex: u32,
    queue: u32,
    pub(crate) anchor: Anchor,
    pub(crate) kind: QueueKind,
    mode: QueueMode,
    pub(crate) multi_buffer: bool,
    pub(crate) busy_poll: bool,
    /// By slot.
    members: Vec<Option<Box<Member>>>,
    /// Sockets out of the XSKMAP that may still hold frames.
    pub(crate) retired: Vec<(u32, RxSocket)>,
    /// Slots to visit.
    active: Vec<u32>,
    /// Bits of the dirty bitmap that are left set because their slots are on the active list.
    left_set: Vec<u64>,
    /// Where the next round of visits goes on.
    next: usize,
    /// A packet in several frames.
    pub(crate) assembly: Assembly,
    /// Slots whose socket the poller does not watch.
    pub(crate) unarmed: Vec<u32>,
    /// The poller's number for the anchor.
    pub(crate) token: usize,
    /// The anchor itself has something (the host link; else nothing is redirected to it).
    pub(crate) anchor_active: bool,
    /// The kernel refused a system call; it was reported.
    pub(crate) failed: bool,
}

impl Queue {
    /// From a bound anchor, for up to `slots` compartments.
    pub(crate) fn new(ifindex: u32, queue: u32, bound: Bound, kind: QueueKind, slots: u32) -> Self {
        let slots = if matches!(kind, QueueKind::Host { .. }) { 0 } else { slots as usize };
        Self {
            ifindex,
            queue,
            anchor: bound.anchor,
            kind,
            mode: bound.mode,
            multi_buffer: bound.multi_buffer,
            busy_poll: bound.busy_poll,
            members: std::iter::repeat_with(|| None).take(slots).collect(),
            retired: Vec::new(),
            active: Vec::with_capacity(64),
            left_set: vec![0; slots.div_ceil(64)],
            next: 0,
            assembly: Assembly::default(),
            unarmed: Vec::new(),
            token: 0,
            anchor_active: false,
            failed: false,
        }
    }

    /// Its number on the device.
    pub(crate) fn number(&self) -> u32 {
        self.queue
    }

    /// Whether it is the host link's.
    pub(crate) fn is_host(&self) -> bool {
        matches!(self.kind, QueueKind::Host { .. })
    }

    /// A compartment's socket arrives. One that was there before is retired.
    pub(crate) fn add_socket(&mut self, slot: u32, socket: RxSocket) {
        self.retire(slot);
        let member = Member { socket, credit: 0, active: false, until: 0, armed: false, finds: 0 };
        if let Some(place) = self.members.get_mut(slot as usize) {
            *place = Some(Box::new(member));
            self.unarmed.push(slot);
        }
    }

    /// A compartment's socket is out of the XSKMAP.
    pub(crate) fn retire(&mut self, slot: u32) -> Option<&RxSocket> {
        let member = self.members.get_mut(slot as usize)?.take()?;
        self.active.retain(|s| *s != slot);
        // Whoever has the slot next starts anew.
        self.clear(slot);
        self.unarmed.retain(|s| *s != slot);
        self.retired.push((slot, member.socket));
        self.retired.last().map(|(_, socket)| socket)
    }

    /// If the slot's socket is watched in vain, notes that it shall not be any longer, and gives it.
    #[inline]
    pub(crate) fn disarm(&mut self, slot: u32) -> Option<&RxSocket> {
        let member = self.members.get_mut(slot as usize)?.as_deref_mut()?;
        if !member.armed || member.finds < FINDS {
            return None;
        }
        member.armed = false;
        self.unarmed.push(slot);
        Some(&member.socket)
    }

    /// The slot's member.
    pub(crate) fn member_mut(&mut self, slot: u32) -> Option<&mut Member> {
        self.members.get_mut(slot as usize)?.as_deref_mut()
    }

    /// Puts slots whose bit is set onto the active list.
    pub(crate) fn collect(&mut self, now: u64) {
        let Self { kind: QueueKind::Device { dirty, queue, .. }, members, active, left_set, .. } = self
        else {
            return;
        };
        for ((index, word), left) in (0u32..).zip(dirty.words(*queue)).zip(left_set) {
            // A plain load, so that the line stays shared with the CPU that sets bits.
            let mut news = word.load(Ordering::Relaxed) & !*left;
            while news != 0 {
                let bit = news & news.wrapping_neg();
                news ^= bit;
                if activate(members, active, index * 64 + bit.trailing_zeros(), now) {
                    *left |= bit;
                } else {
                    // No socket (any more): what came has passed to the kernel.
                    word.fetch_and(!bit, Ordering::Relaxed);
                }
            }
        }
    }

    /// Clears the slot's bit. False if it was not left set.
    fn clear(&mut self, slot: u32) -> bool {
        let (index, bit) = (slot as usize / 64, 1u64 << (slot % 64));
        let Some(left) = self.left_set.get_mut(index).filter(|left| **left & bit != 0) else { return false };
        *left &= !bit;
        if let QueueKind::Device { dirty, queue, .. } = &self.kind
            && let Some(word) = dirty.words(*queue).get(index)
        {
            word.fetch_and(!bit, Ordering::Relaxed);
        }
        true
    }

    /// Puts all slots onto the active list that have something, bit or no bit.
    pub(crate) fn sweep(&mut self, now: u64) {
        for slot in 0..u32::try_from(self.members.len()).unwrap_or(0) {
            let waiting = |m: &Member| !m.socket.is_empty();
            if self.members.get(slot as usize).and_then(Option::as_deref).is_some_and(waiting) {
                self.activate(slot, now);
            }
        }
        self.anchor_active |= self.anchor.rx_pending();
    }

    /// Marks one slot.
    pub(crate) fn activate(&mut self, slot: u32, now: u64) {
        let _ = activate(&mut self.members, &mut self.active, slot, now);
    }

    /// Visits the next slot of the active list: its number and how many descriptors it put into `out`. `None` at the
    /// list's end; the visit after that starts at its front. A slot that has had nothing for long leaves the list (and
    /// another takes its place).
    #[inline]
    pub(crate) fn visit(&mut self, out: &mut [RxDesc], now: u64) -> Option<(u32, usize)> {
        self.look_ahead();
        loop {
            let Some(&slot) = self.active.get(self.next) else {
                self.next = 0;
                return None;
            };
            let Some(member) = self.members.get_mut(slot as usize).and_then(Option::as_deref_mut) else {
                self.active.swap_remove(self.next);
                continue;
            };
            let quantum = i64::try_from(QUANTUM).unwrap_or(i64::MAX);
            member.credit = (member.credit + quantum).min(quantum);
            // An overdraft is less than one packet, so after a quantum there is always credit.
            let budget = usize::try_from(member.credit).unwrap_or(0);
            let (n, bytes) = member.socket.receive(out, budget);
            if n == 0 {
                member.credit = 0;
                if now > member.until {
                    member.until = now + LINGER;
                    if !self.clear(slot) {
                        if let Some(member) = self.member_mut(slot) {
                            member.active = false;
                        }
                        self.active.swap_remove(self.next);
                        continue;
                    }
                }
            } else {
                member.finds = member.finds.saturating_add(1);
                member.credit -= i64::try_from(bytes).unwrap_or(quantum);
                member.until = now + LINGER;
            }
            self.next += 1;
            return Some((slot, n));
        }
    }

    /// Asks for what the next visits read: another CPU has just written it.
    #[inline]
    fn look_ahead(&self) {
        let member = |ahead: usize| {
            let slot = *self.active.get(self.next + ahead)?;
            self.members.get(slot as usize)?.as_deref()
        };
        if let Some(far) = member(2 * AHEAD) {
            prefetch(std::ptr::from_ref(far).cast());
            prefetch(std::ptr::from_ref(far).cast::<u8>().wrapping_add(64));
        }
        if let Some(near) = member(AHEAD) {
            near.socket.prefetch();
        }
    }

    /// Whether a frame waits on the active list or at the anchor.
    pub(crate) fn waiting(&mut self) -> bool {
        let Self { active, members, anchor, .. } = self;
        let full = |slot: &u32| {
            members.get(*slot as usize).and_then(Option::as_deref).is_some_and(|m| !m.socket.is_empty())
        };
        active.iter().any(full) || anchor.rx_pending()
    }

    /// Empties a socket that is about to be closed; its packets are lost, its frames are not.
    pub(crate) fn discard(&mut self, socket: &mut RxSocket) {
        let mut descs = [RxDesc::default(); BATCH];
        loop {
            let (n, _) = socket.receive(&mut descs, usize::MAX);
            recycle(&mut self.anchor, descs.get(..n).unwrap_or_default());
            if n == 0 {
                return;
            }
        }
    }

    /// Takes all that is left everywhere and recycles it undelivered, then counts frames. For the end.
    pub(crate) fn audit(&mut self) -> QueueAudit {
        let mut descs = [RxDesc::default(); BATCH];
        let retired = self.retired.iter_mut().map(|(_, socket)| socket);
        let members = self.members.iter_mut().flatten().map(|m| &mut m.socket);
        for socket in members.chain(retired) {
            loop {
                let (n, _) = socket.receive(&mut descs, usize::MAX);
                recycle(&mut self.anchor, descs.get(..n).unwrap_or_default());
                if n == 0 {
                    break;
                }
            }
        }
        loop {
            let n = self.anchor.receive(&mut descs);
            recycle(&mut self.anchor, descs.get(..n).unwrap_or_default());
            if n == 0 {
                break;
            }
        }
        self.anchor.complete();
        let account = self.anchor.umem().account();
        QueueAudit {
            ifindex: self.ifindex,
            queue: self.queue,
            mode: self.mode,
            total: u32::try_from(self.anchor.umem().total()).unwrap_or(u32::MAX),
            free: account.free,
            fill: account.fill,
            tx: account.tx,
            lost: account.held,
            foreign: self.anchor.umem().foreign(),
        }
    }
}

/// A packet that came in several frames.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    bytes: Vec<u8>,
    /// Longer than any packet may be: the rest is ignored.
    overlong: bool,
}

impl Assembly {
    /// Whether none is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.overlong
    }

    /// The next part. The first packet makes the buffer as large as any packet needs.
    pub(crate) fn add(&mut self, part: &[u8]) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(SCRATCH);
        }
        if self.bytes.len() + part.len() > SCRATCH {
            self.overlong = true;
        } else {
            self.bytes.extend_from_slice(part);
        }
    }

    /// Calls `each` with the packet, unless it is too long, and starts anew. Whether it was not.
    pub(crate) fn finish(&mut self, each: impl FnOnce(&[u8])) -> bool {
        let whole = !std::mem::take(&mut self.overlong);
        if whole {
            each(&self.bytes);
        }
        self.bytes.clear();
        whole
    }
}

fn recycle(anchor: &mut Anchor, descs: &[RxDesc]) {
    for desc in descs {
        if let Some(piece) = anchor.umem_mut().claim(*desc) {
            anchor.umem_mut().recycle(piece.into_frame());
        }
    }
}

/// Puts a slot onto the active list. False if it has no socket.
fn activate(members: &mut [Option<Box<Member>>], active: &mut Vec<u32>, slot: u32, now: u64) -> bool {
    let Some(member) = members.get_mut(slot as usize).and_then(Option::as_deref_mut) else { return false };
    member.until = now + LINGER;
    if !member.active {
        member.active = true;
        active.push(slot);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_in_parts_come_whole_or_not_at_all() {
        let mut assembly = Assembly::default();
        for part in [b"ab", b"cd"] {
            assembly.add(part);
            assert!(!assembly.is_empty());
        }
        assert!(assembly.finish(|whole| assert_eq!(whole, b"abcd")));
        assert!(assembly.is_empty());
        for _ in 0..40 {
            assembly.add(&[0; 2048]);
        }
        assert!(!assembly.finish(|_| unreachable!("too long")));
        assembly.add(b"next");
        assert!(assembly.finish(|whole| assert_eq!(whole, b"next")));
    }
}
