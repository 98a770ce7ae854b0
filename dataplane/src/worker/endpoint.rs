//! The two halves of an endpoint in one worker.
//!
//! The receiving half (RX ring) may be written while any endpoint's TX ring is read, for local delivery and errors: so
//! the halves are kept in different tables, under the same index.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use afnet_abi::shm::{ErrorInfo, MAX_QUOTE, Record, kind};
use afnet_ring::{Consumer, Producer};

use super::claims::{Claim, Held};
use crate::{
    config::EndpointKind,
    counters::{Counter, Counters},
};

/// Rings an eventfd.
pub(crate) fn ring(fd: &OwnedFd) {
    // EAGAIN: the counter is full, so the other side has not read it for 2^64 - 1 rings and is awake anyway.
    let _ = rustix::io::write(fd, &1u64.to_ne_bytes());
}

/// Receiving half.
#[derive(Debug)]
pub(crate) struct RxHalf {
    pub(crate) id: u64,
    pub(crate) ring: Producer,
    pub(crate) wake: Arc<OwnedFd>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) slot_counters: Arc<Counters>,
    /// Its claims: what it hears in groups.
    pub(crate) ports: Vec<Claim>,
    /// Has unpublished records and is on the worker's list for that.
    pub(crate) touched: bool,
    /// Records written in this round and their bytes, not yet counted.
    pub(crate) fresh: (u64, u64),
    /// The tenant wants the kernel to have what comes.
    pub(crate) leaving: bool,
    /// Broke the protocol: nothing is written any more.
    pub(crate) closed: bool,
}

impl RxHalf {
    /// Counts for the endpoint and its compartment.
    #[inline]
    pub(crate) fn count(&self, counter: Counter, n: u64) {
        self.counters.add(counter, n);
        self.slot_counters.add(counter, n);
    }

    /// Notes a record written; counted when it is published.
    #[inline]
    pub(crate) fn delivered(&mut self, bytes: usize) {
        self.fresh.0 += 1;
        self.fresh.1 += bytes as u64;
    }

    /// Counts what was noted.
    pub(crate) fn count_delivered(&mut self) {
        let (records, bytes) = std::mem::take(&mut self.fresh);
        self.count(Counter::RxDelivered, records);
        self.count(Counter::RxDeliveredBytes, bytes);
    }

    /// Writes an ICMP error, or one of our own making, about a datagram of this endpoint's, of whose contents `quoted` is
    /// known. Whether there was room.
    pub(crate) fn error(&mut self, record: &Record, info: &ErrorInfo, quoted: &[u8]) -> bool {
        let bytes = error_bytes(info);
        let quoted = quoted.get(..MAX_QUOTE).unwrap_or(quoted);
        let len = bytes.len() + quoted.len();
        let Some(mut room) = self.ring.reserve(len) else {
            self.count(Counter::RxRingFull, 1);
            return false;
        };
        room.write(0, &bytes);
        room.write(bytes.len(), quoted);
        room.commit(&Record { kind: kind::ERROR, ..*record }, len);
        self.count(Counter::RxErrors, 1);
        true
    }
}

/// [`ErrorInfo`] as it lies in memory.
fn error_bytes(info: &ErrorInfo) -> [u8; size_of::<ErrorInfo>()] {
    let mut out = [0; size_of::<ErrorInfo>()];
    let fields = info
        .errno
        .to_ne_bytes()
        .into_iter()
        .chain([info.icmp_type, info.icmp_code])
        .chain(info.reserved.to_ne_bytes())
        .chain(info.mtu.to_ne_bytes())
        .chain(info.offender);
    for (to, from) in out.iter_mut().zip(fields) {
        *to = from;
    }
    out
}

/// Sending half.
#[derive(Debug)]
pub(crate) struct TxHalf {
    pub(crate) id: u64,
    pub(crate) slot: u32,
    pub(crate) kind: EndpointKind,
    pub(crate) ring: Consumer,
    pub(crate) doorbell: OwnedFd,
    pub(crate) wake: Arc<OwnedFd>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) slot_counters: Arc<Counters>,
    /// What it may send from, in the order of claiming.
    pub(crate) claims: Vec<Held>,
    /// Not parked: on the worker's list of rings to look at.
    pub(crate) active: bool,
    /// When it is parked, unless it sends again.
    pub(crate) until: u64,
    /// Broke the protocol: nothing is read any more.
    pub(crate) closed: bool,
}

impl TxHalf {
    /// Counts for the endpoint and its compartment.
    #[inline]
    pub(crate) fn count(&self, counter: Counter, n: u64) {
        self.counters.add(counter, n);
        self.slot_counters.add(counter, n);
    }

    /// Gives room back to the tenant and wakes it if it waits for some.
    pub(crate) fn release(&mut self) {
        if self.ring.release() {
            ring(&self.wake);
            self.count(Counter::Doorbells, 1);
        }
    }
}

impl AsFd for TxHalf {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.doorbell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_info_is_laid_out_as_in_the_abi() {
        let info = ErrorInfo {
            errno: 0x0403_0201,
            icmp_type: 5,
            icmp_code: 6,
            reserved: 0,
            mtu: 0x0c0b_0a09,
            offender: [13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28],
        };
        let bytes = error_bytes(&info);
        // SAFETY: ErrorInfo is repr(C) of integers, without padding (its size is asserted in the ABI).
        let memory: [u8; size_of::<ErrorInfo>()] = unsafe { std::mem::transmute(info) };
        assert_eq!(bytes, memory);
    }
}
