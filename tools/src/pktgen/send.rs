//! A flow on its way out: patterns in turn, at a pace, up to a count or a time.

use std::time::Duration;

use afnet_dataplane::xsk::Anchor;

use super::pace::Pace;
use crate::{
    live::{self, Generator},
    pattern::{Pattern, Walk},
};

/// Frames made between two looks at clock and rings: what copy mode sends with two system calls.
const BATCH: usize = 64;
/// Runs of a mix of live frames: each size gets its weight times this at once, since each change costs a system call.
const RUN: u32 = 64;

/// What is to be sent, as one thread sends it.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Frames, one pattern for each size.
    pub patterns: Vec<Pattern>,
    /// Indices of patterns, in turn. Never empty.
    pub round: Vec<usize>,
    /// Where to begin.
    pub walk: Walk,
    /// Most frames.
    pub count: u64,
}

impl Plan {
    /// Longest frame.
    pub fn longest(&self) -> usize {
        self.patterns.iter().map(Pattern::size).max().unwrap_or(0)
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Sent, or found no room; go on at once.
    Busy,
    /// Nothing is due for so long.
    Pause(Duration),
    /// The flow has ended.
    Done,
}

/// A flow on its way.
#[derive(Debug)]
pub struct Sender {
    plan: Plan,
    pace: Pace,
    /// Begin and end in nanoseconds of the clock.
    time: (u64, u64),
    /// When the last frames went out.
    last: u64,
    at: usize,
    /// Frames sent.
    pub sent: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bodies must be written: frames have been used for something else.
    dirty: bool,
    /// Runs for live frames: index and frames; position in them, and what is left of the current one.
    runs: Vec<(usize, u32)>,
    left: u32,
}

impl Sender {
    /// Sends `plan` at `pace` in `time`, from the first to before the second. `shared`: the frames are also received
    /// into.
    pub fn new(plan: Plan, pace: Pace, time: (u64, u64), shared: bool) -> Self {
        let heads = plan.patterns.windows(2).all(|pair| pair[0].head() == pair[1].head());
        let zero = plan.patterns.iter().all(|pattern| pattern.body().iter().all(|byte| *byte == 0));
        let runs = runs(&plan);
        let left = runs.first().map_or(0, |run| run.1);
        let dirty = shared || !heads || !zero;
        Self { plan, pace, time, last: 0, at: 0, sent: 0, bytes: 0, dirty, runs, left }
    }

    /// Frames that were due and are not sent any more, since the sender was held up.
    pub fn forgotten(&self) -> u64 {
        self.pace.forgotten()
    }

    /// How long was sent, if the flow was stopped at `stop` at the latest: to the last frame of a count, or to the end
    /// of the time.
    pub fn duration(&self, stop: u64) -> Duration {
        let (begin, end) = self.time;
        let until = if self.sent >= self.plan.count || self.pace.ended() { self.last } else { stop.min(end) };
        Duration::from_nanos(until.max(self.last).saturating_sub(begin).max(1))
    }

    /// How many frames to send now, at most `most`.
    fn due(&mut self, now: u64, most: usize) -> Result<usize, Step> {
        let left = usize::try_from(self.plan.count - self.sent).unwrap_or(usize::MAX);
        let (begin, end) = self.time;
        if left == 0 || now >= end {
            return Err(Step::Done);
        }
        if now < begin {
            return Err(Step::Pause(Duration::from_nanos(begin - now)));
        }
        match self.pace.due(now, most.min(left)) {
            0 if self.pace.ended() => Err(Step::Done),
            0 => {
                let end = Duration::from_nanos(end - now);
                Err(Step::Pause(self.pace.pause(now).min(end)))
            }
            due => {
                self.last = now;
                Ok(due)
            }
        }
    }

    /// Stages what is due; the caller flushes.
    pub fn step(&mut self, anchor: &mut Anchor, now: u64) -> Step {
        let due = match self.due(now, BATCH) {
            Ok(due) => due,
            Err(step) => return step,
        };
        // Room for the longest frame, in as many pieces as it takes.
        let piece = anchor.umem().tx_room();
        let pieces = self.plan.longest().div_ceil(piece).max(1);
        let room = anchor.tx_room() / pieces;
        if room < due {
            self.pace.unsent(due - room.min(due));
        }
        for _ in 0..due.min(room) {
            let index = self.plan.round[self.at];
            self.at = if self.at + 1 == self.plan.round.len() { 0 } else { self.at + 1 };
            let pattern = &self.plan.patterns[index];
            if !stage(anchor, pattern, &mut self.plan.walk, now, self.dirty) {
                break;
            }
            self.sent += 1;
            self.bytes += pattern.size() as u64;
        }
        Step::Busy
    }

    /// Runs what is due as live frames, at most `most`.
    ///
    /// # Errors
    /// Of the generator.
    pub fn step_live(&mut self, generator: &mut Generator, now: u64, most: u32) -> Result<Step, live::Error> {
        let due = match self.due(now, most as usize) {
            Ok(due) => due,
            Err(step) => return Ok(step),
        };
        let mut rest = u32::try_from(due).unwrap_or(live::CALL);
        generator.begin(&self.plan.walk);
        while rest > 0 {
            let (index, length) = self.runs[self.at];
            let pattern = &self.plan.patterns[index];
            let now = rest.min(self.left);
            generator.load(pattern);
            let before = generator.sequence();
            generator.call(pattern, now)?;
            // A signal may have cut it short.
            let done = generator.sequence() - before;
            self.sent += done;
            self.bytes += done * pattern.size() as u64;
            rest -= now;
            self.left -= now;
            if self.left == 0 && length > 0 {
                self.at = if self.at + 1 == self.runs.len() { 0 } else { self.at + 1 };
                self.left = self.runs[self.at].1;
            }
            if done < u64::from(now) {
                break;
            }
        }
        generator.end(&mut self.plan.walk);
        Ok(Step::Busy)
    }
}

/// Writes the next frame of a pattern into frames of the UMEM and stages them. False if there was no frame.
#[inline]
fn stage(anchor: &mut Anchor, pattern: &Pattern, walk: &mut Walk, now: u64, dirty: bool) -> bool {
    let umem = anchor.umem_mut();
    let room = umem.tx_room();
    let Some(mut frame) = umem.alloc() else { return false };
    let (head, size) = (pattern.head(), pattern.size());
    let to = umem.packet_mut(&mut frame);
    pattern.write(walk, now, to);
    let first = size.min(room);
    if dirty {
        to[head..first].copy_from_slice(&pattern.body()[..first - head]);
    }
    anchor.stage(frame, first, size > first);
    // What does not fit into one frame goes on in others.
    let mut at = first;
    while at < size {
        let umem = anchor.umem_mut();
        // The caller has seen that there are enough.
        let Some(mut frame) = umem.alloc() else { return false };
        let length = (size - at).min(room);
        if dirty {
            let from = at - head;
            umem.packet_mut(&mut frame)[..length].copy_from_slice(&pattern.body()[from..from + length]);
        }
        at += length;
        anchor.stage(frame, length, at < size);
    }
    true
}

/// The round of a plan as runs of equal frames. One pattern: one endless run. A mix: its weights, many times at once.
/// A capture: frame by frame.
fn runs(plan: &Plan) -> Vec<(usize, u32)> {
    let mut weights = vec![0u32; plan.patterns.len()];
    plan.round.iter().for_each(|index| weights[*index] += 1);
    match plan.patterns.len() {
        1 => vec![(0, live::CALL)],
        patterns
            if patterns < plan.round.len() || weights.iter().all(|weight| *weight == 1) && patterns <= 16 =>
        {
            weights.into_iter().enumerate().map(|(index, weight)| (index, weight * RUN)).collect()
        }
        _ => plan.round.iter().map(|index| (*index, 1)).collect(),
    }
}
