//! The workers' counters: one table gives enum, names, help texts and storage.
//!
//! Each worker has a set of its own, and so has each slot and each endpoint in each worker: one writer, so plain
//! relaxed loads and stores; readers ([`crate::Dataplane::stats`]) see whole values.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use afnet_ring::prefetch;

use crate::net::{Drop, net_drops};

macro_rules! counters {
    ([$($name:ident $text:literal $help:literal;)*] $($drop:ident $drop_text:literal $drop_help:literal;)*) => {
        /// What is counted. Those that are named `drop_...` are packets refused by [`crate::net`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Counter {
            $(#[doc = $help] $name,)*
            $(#[doc = $drop_help] $drop,)*
        }

        impl Counter {
            /// All of them, in order of their index.
            pub const ALL: &'static [Self] = &[$(Self::$name,)* $(Self::$drop,)*];
            /// How many.
            pub const COUNT: usize = Self::ALL.len();

            /// Lower case with underscores, as shown.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    $(Self::$drop => concat!("drop_", $drop_text),)*
                }
            }

            /// One line for a person.
            pub const fn help(self) -> &'static str {
                match self {
                    $(Self::$name => $help,)*
                    $(Self::$drop => $drop_help,)*
                }
            }
        }

        impl From<Drop> for Counter {
            fn from(reason: Drop) -> Self {
                match reason { $(Drop::$drop => Self::$drop,)* }
            }
        }
    };
}

net_drops! {
    counters
    RxFrames "rx_frames" "frames taken from AF_XDP sockets";
    RxBytes "rx_bytes" "bytes of these frames";
    RxDelivered "rx_delivered" "datagrams or packets written into an endpoint's RX ring";
    RxDeliveredBytes "rx_delivered_bytes" "payload bytes of these";
    RxRingFull "rx_ring_full" "dropped: the endpoint's RX ring was full";
    RxSocketFull "rx_socket_full" "dropped by the kernel: the compartment's AF_XDP socket was full";
    RxSocketDrop "rx_socket_drop" "dropped by the kernel at the compartment's AF_XDP socket: no frame free, or too long";
    RxFragments "rx_fragments" "fragments received";
    RxReassembled "rx_reassembled" "packets put together from fragments";
    RxErrors "rx_errors" "ICMP errors, and errors of this host's own, passed to an endpoint";
    RxReinjected "rx_reinjected" "frames handed on to the kernel: nothing on the fast path wanted them";
    RxReinjectDrop "rx_reinject_drop" "dropped: the kernel should have it, but there is no host link or no room";
    RxTooLong "rx_too_long" "dropped: longer than 64 KiB";
    RxGroupCopies "rx_group_copies" "copies of multicast and broadcast datagrams made for endpoints";
    RxGroupOwn "rx_group_own" "dropped: multicast or broadcast from the wire with a source of our own";
    RxHost "rx_host" "packets from the host itself";
    RxNoEndpoint "rx_no_endpoint" "dropped: from the host for an address or port that no endpoint has";
    RxIsolated "rx_isolated" "dropped: from this host for a compartment that is isolated";
    TxRecords "tx_records" "records taken from endpoints' TX rings";
    TxDatagrams "tx_datagrams" "datagrams or packets sent, after segmentation";
    TxBytes "tx_bytes" "payload bytes of these";
    TxFrames "tx_frames" "frames given to AF_XDP sockets";
    TxFragmented "tx_fragmented" "datagrams that had to be fragmented";
    TxSegmented "tx_segmented" "records that were cut into segments";
    TxRecordInvalid "tx_record_invalid" "dropped: a record that makes no sense";
    TxNotClaimed "tx_not_claimed" "dropped: local port that the endpoint has not claimed";
    TxSpoofed "tx_spoofed" "dropped: source address that is not the compartment's";
    TxUnreachable "tx_unreachable" "dropped: no route, or the next hop does not answer";
    TxWaited "tx_waited" "waited for a next hop";
    TxNoQueue "tx_no_queue" "dropped: this worker has no queue on the device";
    TxPutOff "tx_put_off" "times a record had to wait for a free frame or room in the device's TX ring";
    TxLocal "tx_local" "datagrams or packets delivered to a compartment of this host";
    TxLocalDrop "tx_local_drop" "local deliveries dropped: no endpoint and no host link, or its ring was full";
    TxIsolated "tx_isolated" "dropped: to the host or another compartment, and one of the two is isolated (EPERM)";
    TxLoopback "tx_loopback" "datagrams delivered to a loopback address of the sender's own compartment";
    TxNoListener "tx_no_listener" "dropped: to a loopback address of which no endpoint has the port (ECONNREFUSED)";
    TxHost "tx_host" "datagrams or packets handed to the host itself";
    Violations "violations" "endpoints closed for breaking the ring protocol";
    Doorbells "doorbells" "times a sleeping tenant was woken";
    Parked "parked" "times an idle TX ring was parked";
    Sleeps "sleeps" "times the worker slept";
    Loops "loops" "rounds of the worker's loop";
    FrameForeign "frame_foreign" "descriptors from the kernel that name a frame it should not have";
}

/// A set of counters: one thread writes, any reads.
#[derive(Debug)]
pub(crate) struct Counters([AtomicU64; Counter::COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; Counter::COUNT])
    }
}

impl Counters {
    /// Adds `n`. By the one writer only: a load and a store, not an atomic addition.
    #[inline]
    pub(crate) fn add(&self, counter: Counter, n: u64) {
        if let Some(cell) = self.0.get(counter as usize) {
            cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    /// Adds 1.
    #[inline]
    pub(crate) fn inc(&self, counter: Counter) {
        self.add(counter, 1);
    }

    /// Asks for the line of the first ones, those of received packets.
    #[inline]
    pub(crate) fn prefetch(&self) {
        prefetch(self.0.as_ptr().cast());
    }

    /// Adds all values to `sum`, which has [`Counter::COUNT`] elements.
    pub(crate) fn add_to(&self, sum: &mut [u64]) {
        for (to, from) in sum.iter_mut().zip(&self.0) {
            *to = to.wrapping_add(from.load(Relaxed));
        }
    }
}

/// Counters at one moment; each `Vec` is indexed by `Counter as usize`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By worker.
    pub workers: Vec<Vec<u64>>,
    /// By slot, summed over workers; slots that have (had) endpoints since they were made.
    pub slots: Vec<(u32, Vec<u64>)>,
    /// By endpoint, with its slot, summed over workers.
    pub endpoints: Vec<(u64, u32, Vec<u64>)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_indices_match() {
        let mut names: Vec<_> = Counter::ALL.iter().map(|c| c.name()).collect();
        for (i, c) in Counter::ALL.iter().enumerate() {
            assert_eq!(*c as usize, i);
            assert!(c.name().chars().all(|c| c.is_ascii_lowercase() || c == '_'));
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Counter::COUNT);
    }
}
