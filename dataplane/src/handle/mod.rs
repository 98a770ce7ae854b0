//! The control thread's handle on the workers: the crate's public API.
//!
//! Every method is synchronous and bounded: it makes what takes system calls here, moves it to the workers by command
//! and waits for their acknowledgement (a worker answers within one round of its loop). Nothing here is touched by
//! workers; they share counters, which they write and this reads.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | start, stop, events, routes, statistics |
//! | `devices.rs` | devices, the host link, their queues |
//! | `endpoints.rs` | compartments, endpoints, claims, compartments' sockets |
//! | `groups.rs` | who is in which group |

mod devices;
mod endpoints;
mod groups;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use crossbeam::channel::{Receiver, Sender, bounded};

use crate::{
    config::Config,
    counters::{Counter, Counters, Snapshot},
    error::Error,
    event::{Event, FrameAudit},
    groups::Group,
    net::hash::Key as HashKey,
    reaper::{Line, Reaper, grace_period},
    route::{Route, RouteKey},
    worker::{
        self,
        command::{Command, Reply, Request},
    },
};

/// Called by workers, on their threads, after they have put events up: must not block. Typically wakes control's
/// poller.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// How long a worker may take to answer. It answers within microseconds unless its CPU is taken from it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Events that may wait for control. When they are too many, workers keep theirs back and say them again.
const EVENTS: usize = 4096;

/// The running workers. Lives on the control thread. Dropping it stops the workers; [`Dataplane::shutdown`] also tells
/// where the frames were.
pub struct Dataplane {
    config: Config,
    workers: Vec<Worker>,
    events: Receiver<Event>,
    devices: BTreeMap<u32, devices::DeviceState>,
    slots: HashMap<u32, endpoints::SlotState>,
    endpoints: HashMap<u64, endpoints::EndpointState>,
    next_endpoint: u64,
    /// Endpoints in each group.
    groups: BTreeMap<Group, BTreeSet<u64>>,
    reaper: Reaper,
    /// By what workers tell flows that share a port apart: the same for all of them.
    flows: HashKey,
}

impl fmt::Debug for Dataplane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataplane")
            .field("config", &self.config)
            .field("devices", &self.devices)
            .field("endpoints", &self.endpoints.len())
            .finish_non_exhaustive()
    }
}

/// A worker as control sees it.
#[derive(Debug)]
struct Worker {
    line: Line,
    thread: Option<JoinHandle<()>>,
    counters: Arc<Counters>,
}

impl Dataplane {
    /// Starts the workers. They have nothing to do yet.
    ///
    /// # Errors
    /// [`Error::Config`] for a setting out of range, [`Error::Io`] if a thread or poller cannot be made.
    pub fn start(config: Config, notify: Notify) -> Result<Self, Error> {
        config.validate()?;
        let (events_in, events) = bounded(EVENTS);
        // Dropped on an error below, it stops the workers that were started before.
        let mut dataplane = Self {
            config,
            workers: Vec::new(),
            events,
            devices: BTreeMap::new(),
            slots: HashMap::new(),
            endpoints: HashMap::new(),
            next_endpoint: 1,
            groups: BTreeMap::new(),
            reaper: Reaper::start()?,
            flows: HashKey::random(),
        };
        for index in 0..dataplane.config.workers.len() {
            let worker =
                Worker::start(index, &dataplane.config, &events_in, &notify, dataplane.flows.clone())?;
            dataplane.workers.push(worker);
        }
        let lines: Vec<Line> = dataplane.workers.iter().map(|w| w.line.clone()).collect();
        dataplane.call_all(|_| Command::Peers(lines.clone()))?;
        Ok(dataplane)
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.workers.len()
    }

    /// The events that wait, oldest first. To be called after the notify callback was called.
    pub fn poll_events(&self) -> impl Iterator<Item = Event> + '_ {
        self.events.try_iter()
    }

    /// Answers [`Event::Resolve`], or tells news about a route (a neighbour's new MAC address, a changed path MTU).
    ///
    /// # Errors
    /// [`Error::Worker`].
    pub fn route_reply(&mut self, key: RouteKey, route: Route) -> Result<(), Error> {
        self.tell_all(|| Command::Route { key, route })
    }

    /// Makes all cached routes stale: the next datagram for each asks again. What waits, waits on.
    ///
    /// # Errors
    /// [`Error::Worker`].
    pub fn flush_routes(&mut self) -> Result<(), Error> {
        self.tell_all(|| Command::FlushRoutes)
    }

    /// All counters as they are now.
    pub fn stats(&self) -> Snapshot {
        let sum = |sets: &[Arc<Counters>]| {
            let mut sum = vec![0; Counter::COUNT];
            sets.iter().for_each(|set| set.add_to(&mut sum));
            sum
        };
        let mut slots: Vec<_> = self.slots.iter().map(|(slot, state)| (*slot, state.counters())).collect();
        slots.sort_unstable_by_key(|(slot, _)| *slot);
        let mut endpoints: Vec<_> =
            self.endpoints.iter().map(|(id, state)| (*id, state.slot, sum(&state.counters))).collect();
        endpoints.sort_unstable_by_key(|(id, ..)| *id);
        let workers = self.workers.iter().map(|w| sum(std::slice::from_ref(&w.counters))).collect();
        Snapshot { workers, slots, endpoints }
    }

    /// Detaches everything, stops the workers and tells where the frames were.
    ///
    /// # Errors
    /// [`Error::Worker`] if one does not answer.
    pub fn shutdown(mut self) -> Result<FrameAudit, Error> {
        self.stop()
    }

    fn stop(&mut self) -> Result<FrameAudit, Error> {
        self.clear_socket_maps();
        grace_period();
        self.reaper.wait();
        let mut audit = FrameAudit::default();
        let mut failed = None;
        for (index, worker) in self.workers.iter_mut().enumerate() {
            let Some(thread) = worker.thread.take() else { continue };
            match worker.call(Command::Stop) {
                Ok(Reply::Stopped(queues, audits)) => {
                    audit.queues.extend(audits);
                    drop(queues);
                    if thread.join().is_err() {
                        failed = Some(index);
                    }
                }
                _ => failed = Some(index),
            }
        }
        audit.queues.sort_unstable_by_key(|q| (q.ifindex, q.queue));
        failed.map_or(Ok(audit), |index| Err(Error::Worker(index)))
    }

    /// Sends a command to every worker and waits for all.
    fn call_all(&self, mut command: impl FnMut(usize) -> Command) -> Result<(), Error> {
        let mut answers = Vec::with_capacity(self.workers.len());
        for (index, worker) in self.workers.iter().enumerate() {
            answers.push(worker.send(command(index)).ok_or(Error::Worker(index))?);
        }
        for (index, answer) in answers.into_iter().enumerate() {
            match answer.recv_timeout(PATIENCE) {
                Ok(Reply::Failed(error)) => return Err(Error::io(format!("worker {index}"), error)),
                Ok(_) => {}
                Err(_) => return Err(Error::Worker(index)),
            }
        }
        Ok(())
    }

    /// Sends a command to every worker and does not wait.
    fn tell_all(&self, mut command: impl FnMut() -> Command) -> Result<(), Error> {
        for (index, worker) in self.workers.iter().enumerate() {
            let request = Request { command: command(), reply: None };
            worker.push(request).ok_or(Error::Worker(index))?;
        }
        Ok(())
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        // Nobody to tell.
        let _ = self.stop();
    }
}

impl Worker {
    fn start(
        index: usize,
        config: &Config,
        events: &Sender<Event>,
        notify: &Notify,
        flows: HashKey,
    ) -> Result<Self, Error> {
        let counters = Arc::new(Counters::default());
        let (line, thread) =
            worker::spawn(index, config, events.clone(), Arc::clone(notify), Arc::clone(&counters), flows)?;
        Ok(Self { line, thread: Some(thread), counters })
    }

    fn push(&self, request: Request) -> Option<()> {
        self.line.requests.send_timeout(request, PATIENCE).ok()?;
        self.line.waker.wake().ok()
    }

    fn send(&self, command: Command) -> Option<Receiver<Reply>> {
        let (reply, answer) = bounded(1);
        self.push(Request { command, reply: Some(reply) })?;
        Some(answer)
    }

    fn call(&self, command: Command) -> Result<Reply, ()> {
        self.send(command).and_then(|answer| answer.recv_timeout(PATIENCE).ok()).ok_or(())
    }
}
