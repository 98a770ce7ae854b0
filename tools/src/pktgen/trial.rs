//! A trial: all workers at once, watched, until the senders are done and the last frames are in.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use super::{
    counters::{Counters, Totals},
    error::{Error, Result},
    latency::Latency,
    track::Tally,
    worker::{Stop, Worker},
};
use crate::stamp;

/// Between two looks at the counters.
const LOOK: Duration = Duration::from_millis(10);
/// After so long without a frame, nothing more will come.
const QUIET: Duration = Duration::from_millis(100);
/// Longest wait for frames after the end (RFC 2544 says two seconds).
const RESIDUE: Duration = Duration::from_secs(2);

/// What ends a trial, beside the ends of its flows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limit {
    /// Time.
    pub time: Option<Duration>,
    /// Frames received.
    pub received: Option<u64>,
}

/// What came of a trial.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// All counters.
    pub totals: Totals,
    /// How long was sent, or waited for frames if nothing was to be sent.
    pub time: Duration,
    /// From the first received frame to the last.
    pub span: Duration,
    /// Accounts by stream.
    pub streams: BTreeMap<u16, (Tally, Latency)>,
    /// Frames without stamp.
    pub other: u64,
    /// Frames that could not be sent back.
    pub dropped: u64,
    /// Frames that were due and were not sent in time.
    pub forgotten: u64,
    /// Frames sent by each flow of each worker.
    pub flows: Vec<Vec<u64>>,
    /// The operator has ended it.
    pub interrupted: bool,
}

impl Outcome {
    /// All streams of `range` together.
    pub fn sum(&self, range: impl std::ops::RangeBounds<u16>) -> (Tally, Latency) {
        let mut sum = (Tally::default(), Latency::default());
        for (_, (tally, latency)) in self.streams.range(range) {
            sum.0.add(tally);
            sum.1.add(latency);
        }
        sum
    }

    /// Events per second.
    pub fn rate(&self, count: u64) -> f64 {
        count as f64 / self.time.as_secs_f64().max(1e-9)
    }
}

/// Sees how a trial goes on.
pub trait Watch {
    /// Totals after `time`, some times a second.
    fn look(&mut self, time: Duration, totals: &Totals);
}

/// For trials that nobody watches.
#[derive(Clone, Copy, Debug)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn look(&mut self, _: Duration, _: &Totals) {}
}

/// Set by SIGINT and SIGTERM; a second one ends the process at once.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn interrupt() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .map_err(Error::io("install a signal handler"))?;
    }
    Ok(flag)
}

/// Runs the workers. Receivers begin before senders.
///
/// # Errors
/// The first that a worker met.
pub fn run(
    workers: &mut [Worker],
    limit: Limit,
    interrupt: &AtomicBool,
    watch: &mut dyn Watch,
) -> Result<Outcome> {
    let counters: Vec<Counters> = workers.iter().map(|_| Counters::default()).collect();
    let sends = workers.iter().any(|worker| !worker.flows.is_empty());
    let receives = workers.iter().any(|worker| worker.receiver.is_some());
    let stop = Stop::default();
    let mut outcome = Outcome::default();
    let mut ended_at = 0;
    thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .zip(&counters)
            .map(|(worker, counters)| scope.spawn(|| worker.run(&stop, counters)))
            .collect();
        let begin = Instant::now();
        // Set when nothing more is sent: then, and what had arrived when.
        let mut ended: Option<(Instant, u64, Instant)> = None;
        loop {
            let (now, totals) = (Instant::now(), Totals::of(&counters));
            let failed = stop.failed.load(Relaxed);
            watch.look(now - begin, &totals);
            match &mut ended {
                None => {
                    let full = limit.received.is_some_and(|most| totals.received >= most);
                    let over = limit.time.is_some_and(|time| now - begin >= time);
                    outcome.interrupted = interrupt.load(Relaxed);
                    let sent = sends && totals.done;
                    if full || over || outcome.interrupted || sent || failed {
                        (outcome.time, ended_at) = (now - begin, stamp::now());
                        stop.sending.store(true, Relaxed);
                        ended = Some((now, totals.received, now));
                    }
                }
                Some((since, received, last)) => {
                    if totals.received != *received {
                        (*received, *last) = (totals.received, now);
                    }
                    let quiet = now - *last >= QUIET
                        || now - *since >= RESIDUE
                        || interrupted_again(interrupt, &outcome);
                    if !(sends && receives) || quiet {
                        break;
                    }
                }
            }
            thread::sleep(LOOK);
        }
        stop.all.store(true, Relaxed);
        let results: Vec<_> =
            threads.into_iter().map(|thread| thread.join().unwrap_or(Err(Error::Thread))).collect();
        results.into_iter().collect::<Result<()>>()
    })?;
    outcome.totals = Totals::of(&counters);
    let spans = || workers.iter().filter_map(|worker| worker.receiver.as_ref()?.span);
    let (first, last) = (spans().map(|span| span.0).min(), spans().map(|span| span.1).max());
    outcome.span = Duration::from_nanos(last.unwrap_or(0).saturating_sub(first.unwrap_or(0)));
    let mut sending = Duration::ZERO;
    for worker in workers.iter() {
        if let Some(receiver) = &worker.receiver {
            receiver.accounts(&mut outcome.streams);
            outcome.other += receiver.other;
            outcome.dropped += receiver.dropped;
        }
        let durations = worker.flows.iter().map(|flow| flow.duration(ended_at));
        if let Some(longest) = durations.max() {
            sending = sending.max(longest);
        }
        outcome.forgotten += worker.flows.iter().map(super::send::Sender::forgotten).sum::<u64>();
        outcome.flows.push(worker.flows.iter().map(|flow| flow.sent).collect());
    }
    if !sending.is_zero() {
        outcome.time = sending;
    }
    Ok(outcome)
}

/// An interrupt that came after the sending had ended by itself.
fn interrupted_again(interrupt: &AtomicBool, outcome: &Outcome) -> bool {
    interrupt.load(Relaxed) && !outcome.interrupted
}
