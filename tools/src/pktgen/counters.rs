//! What the threads count and the display reads: one writer each, written once for each batch.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Counters of one thread, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Frames sent.
    pub sent: AtomicU64,
    /// Their bytes.
    pub sent_bytes: AtomicU64,
    /// Frames received.
    pub received: AtomicU64,
    /// Their bytes.
    pub received_bytes: AtomicU64,
    /// Numbers that are missing so far.
    pub lost: AtomicU64,
    /// Frames that came late.
    pub reordered: AtomicU64,
    /// Frames that came twice.
    pub duplicates: AtomicU64,
    /// Median latency in nanoseconds, now and then.
    pub p50: AtomicU64,
    /// 99th percentile, likewise.
    pub p99: AtomicU64,
    /// All has been sent.
    pub done: AtomicBool,
}

/// What all threads counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Frames sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Frames received.
    pub received: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Missing.
    pub lost: u64,
    /// Late.
    pub reordered: u64,
    /// Twice.
    pub duplicates: u64,
    /// Highest median of a thread.
    pub p50: u64,
    /// Highest 99th percentile of a thread.
    pub p99: u64,
    /// All threads have sent all.
    pub done: bool,
}

impl Totals {
    /// Adds up.
    pub fn of<'a>(counters: impl IntoIterator<Item = &'a Counters>) -> Self {
        let mut totals = Self { done: true, ..Self::default() };
        for one in counters {
            totals.sent += one.sent.load(Relaxed);
            totals.sent_bytes += one.sent_bytes.load(Relaxed);
            totals.received += one.received.load(Relaxed);
            totals.received_bytes += one.received_bytes.load(Relaxed);
            totals.lost += one.lost.load(Relaxed);
            totals.reordered += one.reordered.load(Relaxed);
            totals.duplicates += one.duplicates.load(Relaxed);
            totals.p50 = totals.p50.max(one.p50.load(Relaxed));
            totals.p99 = totals.p99.max(one.p99.load(Relaxed));
            totals.done &= one.done.load(Relaxed);
        }
        totals
    }
}
