//! A worker: one pinned thread that owns some device queues and serves all endpoints on them.
//!
//! ```text
//!  round():  clock ── commands ──> collect dirty slots ──> rx of each active slot ──> RX rings
//!                                  host link rx ─────────────────────────────────^
//!            TX rings of unparked endpoints ──> route ──> headers ──> staged frames / RX rings
//!            flush: fill rings, transmission, publish + doorbells, events
//!  idle():   yield, or park the TX rings, arm the sockets and sleep until one of them calls
//! ```
//!
//! Everything here is touched by the worker's thread alone, except counters (it writes, control reads) and what comes
//! through the command channel. In `round()` there is no allocation, lock or log, and system calls are for batches:
//! one to transmit 32 packets, one to wake a tenant that sleeps. Nothing here may panic: the lints below see to it.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | start, rounds, idling, sleeping |
//! | `command.rs`, `apply.rs` | what control says, and doing it |
//! | `core.rs` | tables, clock, events |
//! | `queue.rs` | active list and fairness of a queue |
//! | `slot.rs`, `claims.rs`, `endpoint.rs` | compartments, ports, the halves of endpoints |
//! | `rx.rs` | frames to endpoints |
//! | `groups.rs` | multicast and broadcast to all endpoints that have joined |
//! | `tx.rs`, `raw.rs` | records to routes |
//! | `send.rs`, `wire.rs` | datagrams to frames |
//! | `local.rs` | between endpoints of this host |
//! | `peers.rs` | to the worker that has the device's queue |
//! | `poll.rs` | what wakes a sleeping worker |
//! | `copy.rs` | copies from and to rings |

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)
)]

mod apply;
pub(crate) mod claims;
pub(crate) mod command;
mod copy;
mod core;
mod endpoint;
pub(crate) mod groups;
mod local;
mod peers;
mod poll;
pub(crate) mod queue;
mod raw;
mod rx;
mod send;
mod slot;
mod tx;
mod wire;

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam::channel::{Receiver, Sender, bounded};
use mio::Waker;

use self::{
    command::Request,
    core::Core,
    endpoint::TxHalf,
    peers::Peers,
    poll::{Poller, Source},
    queue::Queue,
};
use crate::{
    config::{Config, WakeMode},
    counters::{Counter, Counters},
    error::Error,
    event::Event,
    handle::Notify,
    net::hash::Key as HashKey,
    reaper::Line,
};

/// Commands that may wait; control waits when they are more.
const REQUESTS: usize = 1024;

/// How long an adaptive worker looks for work after the last one, in nanoseconds. Falling asleep and being woken costs
/// about as much (epoll_wait, wake-up, in a virtual machine an interrupt to the other CPU too).
const SPIN: u64 = 50_000;

/// How long an unparked TX ring is looked at after its last record, in nanoseconds: a tenant that answers requests
/// shall not need a system call for each.
const TX_LINGER: u64 = 1_000_000;

/// Busy rounds between two looks at doorbells, which cost some 300 ns. An idle worker looks every time: a tenant on the
/// same CPU has its turn between two rounds, and waits for the answer to its bell.
const POLL_EVERY: u32 = 64;

/// Between two sweeps over everything that could have been missed, and looks at timers, in nanoseconds.
const SWEEP: u64 = 100_000_000;

/// Unfinished packets given up at one sweep: more are left to the next one.
const EXPIRE: usize = 256;

/// Longest sleep: the sweep of a worker that sleeps. Everything it waits for wakes it, so this is a net.
const NAP: Duration = Duration::from_secs(1);

/// Starts a worker.
pub(crate) fn spawn(
    index: usize,
    config: &Config,
    events: Sender<Event>,
    notify: Notify,
    counters: Arc<Counters>,
    flows: HashKey,
) -> Result<(Line, JoinHandle<()>), Error> {
    let poller = Poller::new().map_err(|e| Error::io("poller of a worker", e))?;
    let waker = Waker::new(poller.registry(), Source::Waker.token())
        .map_err(|e| Error::io("waker of a worker", e))?;
    let (requests, queue) = bounded(REQUESTS);
    let cpu = config.workers.get(index).copied().flatten();
    if let Some(cpu) = cpu
        && !core_affinity::get_core_ids().unwrap_or_default().iter().any(|id| id.id == cpu)
    {
        return Err(Error::Config(format!("worker {index}: no CPU {cpu} to run on")));
    }
    let mut worker = Worker {
        core: Core::new(config, events, notify, counters, flows),
        devices: Vec::new(),
        hosts: Vec::new(),
        tx: Vec::new(),
        unparked: Vec::with_capacity(1024),
        poller,
        requests: queue,
        peers: Peers::default(),
        wake: config.wake,
        queues_made: 0,
        last_work: 0,
        next_sweep: 0,
        rounds: 0,
        stopped: false,
    };
    let thread = thread::Builder::new()
        .name(format!("afnet-worker-{index}"))
        .spawn(move || {
            if let Some(cpu) = cpu
                && !core_affinity::set_for_current(core_affinity::CoreId { id: cpu })
            {
                tracing::warn!("worker {index} could not be pinned to CPU {cpu}");
            }
            worker.run();
        })
        .map_err(|e| Error::io("thread of a worker", e))?;
    Ok((Line { requests, waker: Arc::new(waker) }, thread))
}

/// See the module.
#[derive(Debug)]
struct Worker {
    core: Core,
    devices: Vec<Queue>,
    /// The host link's queue; at most one is used.
    hosts: Vec<Queue>,
    /// Sending halves by index.
    tx: Vec<Option<Box<TxHalf>>>,
    /// Indices of TX rings to look at.
    unparked: Vec<u32>,
    poller: Poller,
    requests: Receiver<Request>,
    peers: Peers,
    wake: WakeMode,
    /// Number for the next queue's token.
    queues_made: usize,
    last_work: u64,
    next_sweep: u64,
    rounds: u32,
    stopped: bool,
}

impl Worker {
    fn run(&mut self) {
        self.core.tick();
        while !self.stopped {
            if !self.requests.is_empty() {
                self.apply();
            }
            let worked = self.round();
            self.rounds = self.rounds.wrapping_add(1);
            if self.core.now >= self.next_sweep {
                self.sweep();
            }
            // After the round: a long one is no time without work.
            self.core.tick();
            if worked {
                self.last_work = self.core.now;
                if self.rounds.is_multiple_of(POLL_EVERY) {
                    self.poll(Some(Duration::ZERO));
                }
            } else {
                self.idle();
                self.core.tick();
            }
        }
    }

    /// Moves everything that waits, bounded for each source. Whether there was anything.
    fn round(&mut self) -> bool {
        self.core.counters.inc(Counter::Loops);
        let received = self.receive();
        let sent = self.transmit();
        let worked = received || sent;
        self.flush();
        worked
    }

    /// Ends a round: everything collected in it goes out.
    fn flush(&mut self) {
        for queue in self.devices.iter_mut().chain(&mut self.hosts) {
            let result = queue.anchor.refill().and_then(|()| queue.anchor.flush());
            if let Err(error) = result
                && !queue.failed
            {
                let errno = error.raw_os_error().unwrap_or(0);
                queue.failed = self.core.events.send(Event::QueueFailed {
                    ifindex: queue.ifindex,
                    queue: queue.number(),
                    errno,
                });
            }
        }
        let mut violated = None;
        self.core.publish(|index| violated = Some(index));
        if let Some(index) = violated {
            self.violation(index);
        }
        self.core.events.flush();
        self.peers.flush();
    }

    /// Stops serving an endpoint whose tenant broke the protocol, and tells control. Should the event not get through,
    /// control finds the counter.
    fn violation(&mut self, index: u32) {
        let (mut id, mut reason) = (0, "");
        if let Some(half) = self.core.rx.get_mut(index as usize).and_then(Option::as_deref_mut) {
            half.closed = true;
            half.count(Counter::Violations, 1);
            id = half.id;
            reason = half.ring.violation().map_or(reason, |v| v.reason());
        }
        if let Some(half) = self.tx.get_mut(index as usize).and_then(Option::as_deref_mut) {
            half.closed = true;
            half.active = false;
            self.unparked.retain(|i| *i != index);
            reason = half.ring.violation().map_or(reason, |v| v.reason());
        }
        self.core.counters.inc(Counter::Violations);
        self.core.events.send(Event::Violation { endpoint: id, reason });
    }

    /// Catches what was missed, and looks at timers.
    fn sweep(&mut self) {
        self.next_sweep = self.core.now + SWEEP;
        self.core.adjust_clock();
        for queue in self.devices.iter_mut().chain(&mut self.hosts) {
            queue.sweep(self.core.now);
        }
        self.expire_routes();
        let Core { reassembler, counters, slots, now, .. } = &mut self.core;
        reassembler.expire(*now, EXPIRE, |slot, reason| {
            counters.inc(reason.into());
            if let Some(slot) = slots.get(slot as usize).and_then(Option::as_deref) {
                slot.counters.inc(reason.into());
            }
        });
    }

    /// Nothing to do: yield or sleep, by the wake mode.
    fn idle(&mut self) {
        let spin = match self.wake {
            WakeMode::Busy => true,
            WakeMode::Adaptive => self.core.now - self.last_work < SPIN,
            WakeMode::Interrupt => false,
        };
        if !spin {
            self.sleep();
            return;
        }
        self.poll(Some(Duration::ZERO));
        // The tenant may share this CPU, and so may the softirq thread that fills our rings.
        thread::yield_now();
    }

    /// Parks all TX rings, arms all sockets, looks once more, and sleeps.
    fn sleep(&mut self) {
        if self.park_all() && self.arm_all() && self.requests.is_empty() {
            self.core.counters.inc(Counter::Sleeps);
            self.poll(Some(NAP));
            self.core.tick();
            self.last_work = self.core.now;
        }
    }

    /// Parks every TX ring. False if one of them has something after all.
    fn park_all(&mut self) -> bool {
        while let Some(index) = self.unparked.last().copied() {
            if !self.park(index) {
                return false;
            }
            self.unparked.pop();
        }
        true
    }

    /// Parks a TX ring: from now on the tenant rings. False if it has something.
    fn park(&mut self, index: u32) -> bool {
        let Some(half) = self.tx.get_mut(index as usize).and_then(Option::as_deref_mut) else { return true };
        half.release();
        if half.closed || half.ring.sleep() {
            half.active = false;
            half.counters.inc(Counter::Parked);
            return true;
        }
        false
    }

    /// Has every socket watched. False if one of them has something already.
    fn arm_all(&mut self) -> bool {
        for queue in self.devices.iter_mut().chain(&mut self.hosts) {
            let token = queue.token;
            while let Some(slot) = queue.unarmed.pop() {
                if let Some(member) = queue.member_mut(slot) {
                    use std::os::fd::AsFd;
                    let source = Source::Member { queue: token, slot };
                    // Refused only for want of memory; the sweep serves the socket then.
                    member.set_armed(self.poller.watch(member.socket.as_fd(), source).is_ok());
                }
            }
            queue.collect(self.core.now);
            // What waits at an anchor is served next round: its event may have been taken already.
            queue.anchor_active |= queue.anchor.rx_pending();
            if queue.waiting() || queue.anchor.tx_unsent() {
                return false;
            }
        }
        true
    }

    /// Takes events of sockets and doorbells.
    fn poll(&mut self, timeout: Option<Duration>) {
        let Self { poller, devices, hosts, tx, unparked, core, .. } = self;
        let now = core.now;
        poller.wait(timeout, |source| match source {
            Source::Waker => {}
            Source::Anchor { queue } => {
                if let Some(queue) = devices.iter_mut().chain(hosts.iter_mut()).find(|q| q.token == queue) {
                    queue.anchor_active = true;
                }
            }
            Source::Member { queue, slot } => {
                if let Some(queue) = devices.iter_mut().find(|q| q.token == queue) {
                    queue.activate(slot, now);
                }
            }
            Source::Doorbell { index } => {
                if let Some(half) = tx.get_mut(index as usize).and_then(Option::as_deref_mut)
                    && !half.active
                    && !half.closed
                {
                    half.ring.wake();
                    half.active = true;
                    half.until = now + TX_LINGER;
                    unparked.push(index);
                }
            }
        });
    }
}
