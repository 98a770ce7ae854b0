//! A thread's work: flows out, frames in, on one AF_XDP socket or one generator of live frames.
//!
//! ```text
//! loop: one clock read -> each flow: what is due -> flush -> a batch of received frames -> counters
//! ```
//!
//! No allocation, lock, log or system call for a frame. With nothing to do the thread spins for a while (a wake-up costs
//! more than any latency worth measuring), then sleeps until a frame comes or is due.

use std::{
    io,
    os::fd::AsFd,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use afnet_dataplane::xsk::Anchor;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::{
    counters::Counters,
    device::Device,
    error::{Error, Result},
    receive::Receiver,
    send::{Sender, Step},
};
use crate::{
    live::{self, Generator},
    stamp,
};

/// How long an idle thread spins before it sleeps, in nanoseconds.
const SPIN: u64 = 200_000;
/// Longest sleep: how late a stop may be noticed.
const SLEEP: Duration = Duration::from_millis(5);
/// What a sleep may be longer than asked for: it ends so much before a frame is due.
const SLACK: Duration = Duration::from_micros(80);
/// Between two looks at the latencies, for the display: they cost some microseconds.
const GLANCE: u64 = 500_000_000;

/// Live frames of one system call where another flow waits: about 70 us.
const SHARED_CALL: u32 = 512;

/// Where frames go out and come in.
#[derive(Debug)]
pub enum Engine {
    /// AF_XDP.
    Xdp(Box<Anchor>),
    /// Live frames; only out.
    Live(Box<Generator>, Device),
}

/// One thread's work.
#[derive(Debug)]
pub struct Worker {
    /// Where.
    pub engine: Engine,
    /// The CPU to run on.
    pub cpu: Option<usize>,
    /// What to send.
    pub flows: Vec<Sender>,
    /// What was received, if it receives.
    pub receiver: Option<Receiver>,
}

/// When a worker ends.
#[derive(Debug, Default)]
pub struct Stop {
    /// Nothing more is sent.
    pub sending: AtomicBool,
    /// Nothing more is received either.
    pub all: AtomicBool,
    /// A worker could not go on.
    pub failed: AtomicBool,
}

impl Worker {
    /// Works until told to stop; a worker that only sends, until all is sent.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn run(&mut self, stop: &Stop, counters: &Counters) -> Result<()> {
        let result = self.work(stop, counters);
        counters.done.store(true, Relaxed);
        stop.failed.fetch_or(result.is_err(), Relaxed);
        result
    }

    fn work(&mut self, stop: &Stop, counters: &Counters) -> Result<()> {
        if let Some(id) = self.cpu {
            let ours = core_affinity::get_core_ids().unwrap_or_default();
            let core = ours.into_iter().find(|core| core.id == id);
            if !core.is_some_and(core_affinity::set_for_current) {
                return Err(Error::Usage(format!("CPU {id} does not exist or may not be used")));
            }
        }
        match &mut self.engine {
            Engine::Xdp(anchor) => run_xdp(anchor, &mut self.flows, self.receiver.as_mut(), stop, counters)
                .map_err(Error::io("AF_XDP")),
            Engine::Live(generator, device) => {
                // The kernel looks the device up in the namespace of the caller.
                device.enter_thread().and_then(|()| run_live(generator, &mut self.flows, stop, counters))
            }
        }
    }
}

fn publish(flows: &[Sender], receiver: Option<&Receiver>, counters: &Counters) {
    let sum = |of: fn(&Sender) -> u64| flows.iter().map(of).sum::<u64>();
    let (mut sent, mut bytes) = (sum(|flow| flow.sent), sum(|flow| flow.bytes));
    if let Some(receiver) = receiver {
        (sent, bytes) = (sent + receiver.returned, bytes + receiver.returned_bytes);
        counters.received.store(receiver.frames, Relaxed);
        counters.received_bytes.store(receiver.bytes, Relaxed);
        let tally = receiver.tally();
        counters.lost.store(tally.lost, Relaxed);
        counters.reordered.store(tally.reordered, Relaxed);
        counters.duplicates.store(tally.duplicates, Relaxed);
    }
    counters.sent.store(sent, Relaxed);
    counters.sent_bytes.store(bytes, Relaxed);
}

/// The shortest pause of flows, of which at least one is not done; none if all are.
#[derive(Clone, Copy)]
struct Outlook {
    done: bool,
    pause: Duration,
}

impl Outlook {
    const EMPTY: Self = Self { done: true, pause: SLEEP };

    fn add(&mut self, step: Step) {
        match step {
            Step::Busy => (self.done, self.pause) = (false, Duration::ZERO),
            Step::Pause(pause) => (self.done, self.pause) = (false, self.pause.min(pause)),
            Step::Done => {}
        }
    }
}

fn run_xdp(
    anchor: &mut Anchor,
    flows: &mut [Sender],
    mut receiver: Option<&mut Receiver>,
    stop: &Stop,
    counters: &Counters,
) -> io::Result<()> {
    let (mut busy_until, mut glance) = (0, 0);
    loop {
        let now = stamp::now();
        let mut outlook = Outlook::EMPTY;
        if !stop.sending.load(Relaxed) {
            if !flows.is_empty() {
                anchor.complete();
            }
            flows.iter_mut().for_each(|flow| outlook.add(flow.step(anchor, now)));
        }
        if anchor.tx_unsent() || outlook.pause.is_zero() {
            anchor.flush()?;
        }
        let got = match receiver.as_deref_mut() {
            Some(receiver) => receiver.step(anchor)?,
            None => 0,
        };
        publish(flows, receiver.as_deref(), counters);
        if outlook.done {
            counters.done.store(true, Relaxed);
            if receiver.is_none() {
                return drain(anchor);
            }
        }
        if stop.all.load(Relaxed) {
            return finish(anchor, flows, receiver, counters);
        }
        if let Some(receiver) = receiver.as_deref()
            && now >= glance
        {
            glance = now + GLANCE;
            let (p50, p99) = receiver.glance();
            counters.p50.store(p50, Relaxed);
            counters.p99.store(p99, Relaxed);
        }
        if got > 0 || outlook.pause.is_zero() {
            busy_until = now + SPIN;
        } else if outlook.pause <= SLACK {
            // Whoever yields may be away for milliseconds.
            std::hint::spin_loop();
        } else if now < busy_until {
            thread::yield_now();
        } else if let Some(pause) = outlook.pause.checked_sub(SLACK) {
            if receiver.is_some() {
                wait(anchor, pause)?;
            } else {
                thread::sleep(pause);
            }
        }
    }
}

/// Takes what has arrived before the end, and no more than fits into the ring.
fn finish(
    anchor: &mut Anchor,
    flows: &[Sender],
    mut receiver: Option<&mut Receiver>,
    counters: &Counters,
) -> io::Result<()> {
    let mut left = anchor.umem().total();
    while let Some(receiver) = receiver.as_deref_mut() {
        let got = receiver.step(anchor)?;
        if got == 0 || got > left {
            break;
        }
        left -= got;
    }
    publish(flows, receiver.as_deref(), counters);
    Ok(())
}

/// Waits, a while, until the kernel has taken what is in the ring: a socket that closes loses it.
fn drain(anchor: &mut Anchor) -> io::Result<()> {
    let end = stamp::now() + 100_000_000;
    while anchor.tx_unsent() && stamp::now() < end {
        anchor.flush()?;
        thread::yield_now();
    }
    Ok(())
}

/// Sleeps until a frame is there.
fn wait(anchor: &Anchor, time: Duration) -> io::Result<()> {
    let socket = anchor.fd();
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
    let time = Timespec::try_from(time).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&time)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn run_live(generator: &mut Generator, flows: &mut [Sender], stop: &Stop, counters: &Counters) -> Result<()> {
    let most = if flows.len() > 1 { SHARED_CALL } else { live::CALL };
    while !stop.sending.load(Relaxed) {
        let now = stamp::now();
        let mut outlook = Outlook::EMPTY;
        for flow in flows.iter_mut() {
            outlook.add(flow.step_live(generator, now, most)?);
        }
        publish(flows, None, counters);
        if outlook.done {
            break;
        }
        if let Some(pause) = outlook.pause.checked_sub(SLACK) {
            thread::sleep(pause);
        }
    }
    Ok(())
}
