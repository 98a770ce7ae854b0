//! Everything that a run needs, set up once and used for one trial after the other: traffic, sockets, threads' work.

use std::{
    net::{IpAddr, Ipv6Addr},
    os::fd::OwnedFd,
    sync::atomic::AtomicBool,
    time::Duration,
};

use super::{
    args::{FlowArgs, IoArgs},
    capture::Capture,
    device::{Device, Facts},
    error::{Error, Result},
    flow::{Flow, Kind, Mac, default_addresses},
    pace::{Pace, Pacer, Rate, Timeline},
    port::{self, Report, Take, Wanted},
    receive::Receiver,
    send::{Plan, Sender},
    sizes::Sizes,
    span::Addresses,
    swap::Layer,
    trial::{self, Limit, Outcome, Watch},
    worker::{Engine, Worker},
};
use crate::{
    live::{Generator, Verdict},
    pattern::{Pattern, Walk},
    stamp,
};

/// From the start of a trial to its first frame, so that all threads are there.
const AHEAD: u64 = 5_000_000;

/// What is sent.
#[derive(Clone, Debug)]
pub enum Traffic {
    /// A flow.
    Flow {
        /// What its frames are; the stream is that of the first thread.
        flow: Box<Flow>,
        /// Their sizes.
        sizes: Sizes,
        /// Of random values.
        seed: u64,
    },
    /// A capture.
    Capture {
        /// Frames.
        patterns: Vec<Pattern>,
        /// Their times, if these matter.
        offsets: Option<Vec<u64>>,
    },
}

impl Traffic {
    /// A flow from its arguments, with addresses filled in from the devices.
    ///
    /// # Errors
    /// If it cannot be, or nobody knows the destination's MAC address.
    pub fn flow(args: &FlowArgs, live: bool, tx: &Device, facts: &Facts, rx: Option<&Facts>) -> Result<Self> {
        let v6 = args.kind.v6().or_else(|| Some(args.dst.or(args.src)?.v6())).unwrap_or(false);
        let (source, destination) = defaults(args.kind, v6);
        let (source, destination) = (args.src.unwrap_or(source), args.dst.unwrap_or(destination));
        let derived = args.kind.group() || destination.first.is_multicast();
        let to = match (args.dst_mac, rx) {
            (Some(mac), _) => mac,
            _ if derived => Mac::default(),
            _ if live => facts.mac,
            (None, Some(rx)) => rx.mac,
            (None, None) => tx.neighbour(destination.first)?,
        };
        // A live frame comes from elsewhere.
        let from = args.src_mac.unwrap_or(match (live, rx) {
            (false, _) => facts.mac,
            (true, Some(rx)) => rx.mac,
            (true, None) => [2, 0, 0, 0, 0, 1],
        });
        let flow = Flow {
            kind: args.kind,
            macs: (from, to),
            tags: args.vlan.clone(),
            source,
            destination,
            ports: (args.sport, args.dport),
            ttl: args.ttl,
            stream: (!args.no_stamp).then_some(args.stream),
        };
        let sizes = args.size.clone().unwrap_or_else(|| Sizes::one(flow.smallest()));
        let traffic = Self::Flow { flow: Box::new(flow), sizes, seed: args.seed };
        // What cannot be is said before anything is opened.
        traffic.plan(0, 1, u64::MAX)?;
        Ok(traffic)
    }

    /// A capture.
    pub fn capture(capture: Capture, as_captured: bool) -> Self {
        let patterns = capture.frames.into_iter().map(Pattern::raw).collect();
        Self::Capture { patterns, offsets: as_captured.then_some(capture.offsets) }
    }

    /// The same flow with frames of other sizes.
    pub fn sized(&self, sizes: Sizes) -> Self {
        match self {
            Self::Flow { flow, seed, .. } => Self::Flow { flow: flow.clone(), sizes, seed: *seed },
            capture @ Self::Capture { .. } => capture.clone(),
        }
    }

    /// Mean bytes of a frame.
    pub fn mean(&self) -> f64 {
        match self {
            Self::Flow { flow, sizes, .. } => {
                // A control message may be longer than asked for.
                let real = |(size, weight): &(usize, usize)| {
                    (flow.pattern(*size).map_or(*size, |pattern| pattern.size()), *weight)
                };
                Sizes { weights: sizes.weights.iter().map(real).collect() }.mean()
            }
            Self::Capture { patterns, .. } => {
                patterns.iter().map(Pattern::size).sum::<usize>() as f64 / patterns.len().max(1) as f64
            }
        }
    }

    /// Bytes of the longest frame.
    pub fn longest(&self) -> usize {
        match self {
            Self::Flow { sizes, .. } => sizes.longest(),
            Self::Capture { patterns, .. } => patterns.iter().map(Pattern::size).max().unwrap_or(0),
        }
    }

    /// Whether frames have stamps.
    pub fn stamped(&self) -> bool {
        self.plan(0, 1, 0).is_ok_and(|plan| plan.patterns.iter().all(|pattern| pattern.stamp().is_some()))
    }

    /// What thread `share` of `shares` sends.
    fn plan(&self, share: u32, shares: u32, count: u64) -> Result<Plan> {
        match self {
            Self::Flow { flow, sizes, seed } => {
                let mut flow = flow.clone();
                let share16 = u16::try_from(share).unwrap_or(0);
                flow.stream = flow.stream.map(|stream| stream.wrapping_add(share16));
                let patterns: Result<Vec<Pattern>> =
                    sizes.weights.iter().map(|(size, _)| Ok(flow.pattern(*size)?)).collect();
                let patterns = patterns?;
                let walk = Walk::new(*seed);
                let walk =
                    patterns.first().map_or(walk.clone(), |pattern| walk.share(pattern, share, shares));
                Ok(Plan { patterns, round: sizes.round(), walk, count })
            }
            Self::Capture { patterns, offsets } => Ok(Plan {
                round: (0..patterns.len()).collect(),
                count: if offsets.is_some() { count.min(patterns.len() as u64) } else { count },
                patterns: patterns.clone(),
                walk: Walk::new(0),
            }),
        }
    }
}

/// Source and destination where nobody says.
fn defaults(kind: Kind, v6: bool) -> (Addresses, Addresses) {
    let (source, destination) = default_addresses(v6);
    let link_local: IpAddr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1).into();
    match kind {
        Kind::Igmp | Kind::Igmp2 => (source, Addresses::one([239, 1, 1, 1].into())),
        // Reports come from link-local addresses, or nobody heeds them.
        Kind::Mld | Kind::Mld1 => {
            (Addresses::one(link_local), Addresses::one(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 1, 1).into()))
        }
        _ => (source, destination),
    }
}

/// A flow of a trial.
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// What.
    pub traffic: &'a Traffic,
    /// How fast, all threads together.
    pub rate: Rate,
    /// Frames of a burst.
    pub burst: usize,
    /// How many, all threads together.
    pub count: Option<u64>,
    /// How long.
    pub time: Option<Duration>,
    /// Sent by the first thread alone.
    pub alone: bool,
}

/// Opened devices.
#[derive(Debug)]
pub struct Rig {
    workers: Vec<Worker>,
    /// The first of them send.
    senders: usize,
    /// Sending and receiving on the same sockets.
    shared: bool,
    /// Mode of each device, sender first.
    pub modes: Vec<(String, Report)>,
    _programs: Vec<OwnedFd>,
}

/// What the receiving side does.
#[derive(Clone, Copy, Debug)]
pub struct Receive<'a> {
    /// Where.
    pub device: &'a Device,
    /// Which frames.
    pub take: Take,
    /// Whether they go back.
    pub reflect: Option<Layer>,
}

impl Rig {
    /// Opens devices: frames up to `longest` bytes go out on `tx` and come in on `rx`, which may be the same.
    ///
    /// # Errors
    /// If one carries the default route, or the kernel refuses.
    pub fn open(args: &IoArgs, tx: Option<&Device>, rx: Option<Receive<'_>>, longest: usize) -> Result<Self> {
        if !args.ring.is_power_of_two() || !(64..=65536).contains(&args.ring) {
            return Err(Error::Usage(format!(
                "a ring of {} entries: a power of two from 64 to 65536",
                args.ring
            )));
        }
        let shared = !args.live && tx.is_some() && tx == rx.map(|rx| rx.device);
        let mut rig =
            Self { workers: Vec::new(), senders: 0, shared, modes: Vec::new(), _programs: Vec::new() };
        if let Some(device) = tx {
            let facts = device.claim(args.force)?;
            fits(device, &facts, longest)?;
            if args.live {
                rig.add_live(args, device, &facts)?;
            } else {
                let wanted = Wanted {
                    queues: args.queues.0.clone(),
                    mode: args.mode,
                    take: rx.filter(|_| shared).map(|rx| rx.take),
                    longest,
                    ring: args.ring,
                };
                let receiver = rx.filter(|_| shared);
                rig.add_xdp(device, &facts, &wanted, args.cpus.as_ref().map(|c| &c.0), receiver)?;
            }
            rig.senders = rig.workers.len();
        }
        if let Some(receive) = rx.filter(|_| !shared) {
            let facts = receive.device.claim(args.force)?;
            // A longer frame than asked for may arrive.
            let longest = longest.max(usize::try_from(facts.mtu).unwrap_or(1500) + 18);
            let wanted = Wanted {
                queues: args.rx_queues.0.clone(),
                mode: args.mode,
                take: Some(receive.take),
                longest,
                ring: args.ring,
            };
            let cpus = args.rx_cpus.as_ref().map(|cpus| &cpus.0);
            rig.add_xdp(receive.device, &facts, &wanted, cpus, Some(receive))?;
        }
        Ok(rig)
    }

    fn add_live(&mut self, args: &IoArgs, device: &Device, facts: &Facts) -> Result<()> {
        let otherwise = if args.live_drop { Verdict::Drop } else { Verdict::Pass };
        let cpus: Vec<Option<usize>> = match &args.cpus {
            Some(cpus) => cpus.0.iter().map(|cpu| Some(*cpu as usize)).collect(),
            None => vec![None],
        };
        for cpu in cpus {
            let generator = device.enter(|| Ok(Generator::open(facts.ifindex, otherwise)?))?;
            self.workers.push(Worker {
                engine: Engine::Live(Box::new(generator), device.clone()),
                cpu,
                flows: Vec::new(),
                receiver: None,
            });
        }
        self.modes.push((device.to_string(), Report { mode: "live frames", refused: Vec::new() }));
        Ok(())
    }

    fn add_xdp(
        &mut self,
        device: &Device,
        facts: &Facts,
        wanted: &Wanted,
        cpus: Option<&Vec<u32>>,
        receive: Option<Receive<'_>>,
    ) -> Result<()> {
        let opened = device.enter(|| port::open(device, facts, wanted))?;
        for (i, mut anchor) in opened.anchors.into_iter().enumerate() {
            if receive.is_some() {
                anchor.refill().map_err(Error::io("give frames to the kernel"))?;
            }
            self.workers.push(Worker {
                engine: Engine::Xdp(Box::new(anchor)),
                cpu: cpus.and_then(|cpus| cpus.get(i % cpus.len())).map(|cpu| *cpu as usize),
                flows: Vec::new(),
                receiver: receive.map(|receive| Receiver::new(receive.reflect)),
            });
        }
        self.modes.push((device.to_string(), opened.report));
        self._programs.extend(opened.program);
        Ok(())
    }

    /// Sends all jobs at once, and receives.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn trial(
        &mut self,
        jobs: &[Job<'_>],
        limit: Limit,
        interrupt: &AtomicBool,
        watch: &mut dyn Watch,
    ) -> Result<Outcome> {
        let begin = stamp::now() + AHEAD;
        for worker in &mut self.workers {
            worker.flows.clear();
            if let Some(receiver) = &mut worker.receiver {
                receiver.reset();
            }
        }
        for job in jobs {
            let threads = if job.alone { 1 } else { self.senders };
            let shares = u32::try_from(threads).unwrap_or(1);
            for (i, worker) in self.workers.iter_mut().take(threads).enumerate() {
                let share = u32::try_from(i).unwrap_or(0);
                let count = job.count.map_or(u64::MAX, |count| part(count, i as u64, threads as u64));
                let plan = job.traffic.plan(share, shares, count)?;
                let rate = job.rate.packets(job.traffic.mean()).map(|rate| rate / threads as f64);
                let pace = match job.traffic {
                    Traffic::Capture { offsets: Some(offsets), .. } => {
                        Pace::Times(Timeline::new(offsets.clone(), begin))
                    }
                    _ => Pace::Rate(Pacer::new(rate, job.burst, begin)),
                };
                let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
                let end = job.time.map_or(u64::MAX, |time| begin.saturating_add(nanoseconds(time)));
                worker.flows.push(Sender::new(plan, pace, (begin, end), self.shared));
            }
        }
        trial::run(&mut self.workers, limit, interrupt, watch)
    }
}

/// Share `i` of `n` of a count.
fn part(count: u64, i: u64, n: u64) -> u64 {
    count / n + u64::from(i < count % n)
}

/// Frames must fit the device's MTU.
fn fits(device: &Device, facts: &Facts, longest: usize) -> Result<()> {
    // Ethernet and two tags come on top.
    if longest > usize::try_from(facts.mtu).unwrap_or(usize::MAX) + 22 {
        return Err(Error::Usage(format!(
            "frames of {longest} bytes do not fit the MTU of {device}, {}: `ip link set {} mtu {}`",
            facts.mtu,
            device.name,
            longest - 14
        )));
    }
    Ok(())
}
