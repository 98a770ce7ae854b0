//! The commands.

use std::{
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    args::{FlowArgs, IoArgs, OutputArgs, PairArgs},
    capture::Capture,
    cli::{Cli, Command, EchoArgs, MeasureArgs, ReflectArgs, Rfc2544Args, RxArgs, TxArgs, VictimArgs},
    counters::{Counters, Totals},
    device::Device,
    echo,
    error::{Error, Result},
    latency::Latency,
    pace::Rate,
    plot,
    port::Take,
    report::{AtFraction, SizeResult, Summary, Throughput, Victim, VictimPhase, modes},
    rfc2544::{Search, Trial},
    rig::{Job, Receive, Rig, Traffic},
    screen::Screen,
    sizes::Sizes,
    track::Tally,
    trial::{self, Limit, Outcome, Unwatched, Watch as _},
};

/// Time of `measure` if nobody says.
const MEASURE: Duration = Duration::from_secs(10);
/// Streams of the victim, apart from those of the load.
const VICTIM: u16 = 0x8000;
/// Frames before the first trial: neighbours, routes and caches fill.
const WARM_UP: u64 = 64;

/// Does what the command line says; returns what goes to standard output.
///
/// # Errors
/// For a person to read.
pub fn run(cli: Cli) -> Result<String> {
    let interrupt = trial::interrupt()?;
    match cli.command {
        Command::Tx(args) => tx(&args, &interrupt),
        Command::Rx(args) => rx(&args, &interrupt),
        Command::Measure(args) => measure(&args, &interrupt),
        Command::Rfc2544(args) => rfc2544(&args, &interrupt),
        Command::Victim(args) => victim(&args, &interrupt),
        Command::Reflect(args) => reflect(&args, &interrupt),
        Command::UdpEcho(args) => udp_echo(&args, &interrupt),
    }
}

/// The result in the form that is asked for.
fn show<T: Serialize>(options: &OutputArgs, result: &T, text: String, csv: String) -> Result<String> {
    if options.json {
        let json = serde_json::to_string_pretty(result).map_err(|error| Error::Usage(error.to_string()))?;
        return Ok(json + "\n");
    }
    Ok(if options.csv { csv } else { text })
}

fn title(rig: &Rig) -> Vec<String> {
    rig.modes.iter().map(|(device, mode)| format!("{device}: {mode}")).collect()
}

fn summary(
    options: &OutputArgs,
    command: &'static str,
    rig: &Rig,
    outcome: &Outcome,
    both: bool,
) -> Result<String> {
    let summary = Summary::new(command, modes(&rig.modes), outcome, both);
    show(options, &summary, summary.text(), summary.csv())
}

fn tx(args: &TxArgs, interrupt: &AtomicBool) -> Result<String> {
    let traffic = match &args.replay.pcap {
        Some(path) => Traffic::capture(Capture::read(path)?, args.replay.as_captured),
        None => {
            let facts = args.device.claim(args.io.force)?;
            Traffic::flow(&args.flow, args.io.live, &args.device, &facts, None)?
        }
    };
    let mut rig = Rig::open(&args.io, Some(&args.device), None, traffic.longest())?;
    let mut screen = Screen::new(&args.output, title(&rig));
    let job = Job {
        traffic: &traffic,
        rate: args.pace.rate,
        burst: args.pace.burst,
        count: args.end.count,
        time: args.end.time,
        alone: false,
    };
    let outcome = rig.trial(&[job], Limit::default(), interrupt, &mut screen);
    screen.close();
    summary(&args.output, "tx", &rig, &outcome?, false)
}

fn rx(args: &RxArgs, interrupt: &AtomicBool) -> Result<String> {
    let take = if args.everything { Take::Everything } else { Take::Stamped };
    let receive = Receive { device: &args.device, take, reflect: None };
    let mut rig = Rig::open(&args.io, None, Some(receive), 0)?;
    let mut screen = Screen::new(&args.output, title(&rig));
    let limit = Limit { time: args.end.time, received: args.end.count };
    let outcome = rig.trial(&[], limit, interrupt, &mut screen);
    screen.close();
    summary(&args.output, "rx", &rig, &outcome?, false)
}

fn reflect(args: &ReflectArgs, interrupt: &AtomicBool) -> Result<String> {
    let take = if args.everything { Take::Everything } else { Take::Stamped };
    let receive = Receive { device: &args.device, take, reflect: Some(args.layer) };
    let mut rig = Rig::open(&args.io, None, Some(receive), 0)?;
    let mut screen = Screen::new(&args.output, title(&rig));
    let limit = Limit { time: args.end.time, received: args.end.count };
    let outcome = rig.trial(&[], limit, interrupt, &mut screen);
    screen.close();
    summary(&args.output, "reflect", &rig, &outcome?, false)
}

/// Opens what measuring commands need: the flow, and both ends.
fn pair(pair: &PairArgs, flow: &FlowArgs, io: &IoArgs, longest: usize) -> Result<(Traffic, Rig)> {
    let facts = pair.device.claim(io.force)?;
    let receiver: &Device = pair.rx.as_ref().unwrap_or(&pair.device);
    if io.live && pair.rx.is_none() {
        return Err(Error::Usage(
            "--live sends into a device; --rx must name where the frames come out".into(),
        ));
    }
    let other = pair.rx.as_ref().filter(|rx| **rx != pair.device).map(|rx| rx.facts()).transpose()?;
    let traffic = Traffic::flow(flow, io.live, &pair.device, &facts, other.as_ref())?;
    if !traffic.stamped() {
        return Err(Error::Usage(
            "these frames have no room for a stamp (18 bytes of UDP or TCP payload): without it nothing is measured; \
             use a larger --size, and no --no-stamp"
                .into(),
        ));
    }
    let receive = Receive { device: receiver, take: Take::Stamped, reflect: None };
    let rig = Rig::open(io, Some(&pair.device), Some(receive), traffic.longest().max(longest))?;
    Ok((traffic, rig))
}

fn measure(args: &MeasureArgs, interrupt: &AtomicBool) -> Result<String> {
    let (traffic, mut rig) = pair(&args.pair, &args.flow, &args.io, 0)?;
    let mut screen = Screen::new(&args.output, title(&rig));
    let time = if args.end.count.is_some() { args.end.time } else { Some(args.end.time.unwrap_or(MEASURE)) };
    let job = Job {
        traffic: &traffic,
        rate: args.pace.rate,
        burst: args.pace.burst,
        count: args.end.count,
        time,
        alone: false,
    };
    let outcome = rig.trial(&[job], Limit::default(), interrupt, &mut screen);
    screen.close();
    summary(&args.output, "measure", &rig, &outcome?, true)
}

/// A job of `rfc2544` and `victim`.
fn job<'a>(traffic: &'a Traffic, rate: Rate, burst: usize, time: Duration) -> Job<'a> {
    Job { traffic, rate, burst, count: None, time: Some(time), alone: false }
}

fn warm_up(rig: &mut Rig, traffic: &Traffic, interrupt: &AtomicBool) -> Result<()> {
    let job = Job { count: Some(WARM_UP), ..job(traffic, Rate::Packets(1e3), 1, Duration::from_secs(1)) };
    rig.trial(&[job], Limit::default(), interrupt, &mut Unwatched).map(drop)
}

fn rfc2544(args: &Rfc2544Args, interrupt: &AtomicBool) -> Result<String> {
    let longest = args.sizes.iter().copied().max().unwrap_or(0);
    let first = args.sizes.first().copied().unwrap_or(60);
    let flow = FlowArgs { size: Some(Sizes::one(first)), ..args.flow.clone() };
    let (flow, mut rig) = pair(&args.pair, &flow, &args.io, longest)?;
    let mut screen = Screen::new(&args.output, title(&rig));
    warm_up(&mut rig, &flow, interrupt)?;
    let mut sizes = Vec::new();
    for &size in &args.sizes {
        let traffic = flow.sized(Sizes::one(size));
        match one_size(args, size, &traffic, &mut rig, &mut screen, interrupt) {
            Ok(result) => sizes.push(result),
            // What is complete is shown.
            Err(Interrupted::Operator) => break,
            Err(Interrupted::Error(error)) => return Err(error),
        }
    }
    screen.close();
    let result = Throughput {
        command: "rfc2544",
        devices: modes(&rig.modes),
        tolerance: args.tolerance,
        trial_seconds: args.trial.as_secs_f64(),
        sizes,
    };
    if let Some(path) = &args.plot {
        std::fs::write(path, plot::svg(&result))
            .map_err(Error::io(format!("write the plot {}", path.display())))?;
    }
    show(&args.output, &result, result.text(), result.csv())
}

/// Why a search ended early.
enum Interrupted {
    Operator,
    Error(Error),
}

fn one_size(
    args: &Rfc2544Args,
    size: usize,
    traffic: &Traffic,
    rig: &mut Rig,
    screen: &mut Screen,
    interrupt: &AtomicBool,
) -> std::result::Result<SizeResult, Interrupted> {
    let mut once = |rate: Rate, what: String| {
        screen.stage(what);
        let job = job(traffic, rate, args.pace.burst, args.trial);
        let outcome = rig.trial(&[job], Limit::default(), interrupt, screen).map_err(Interrupted::Error)?;
        if outcome.interrupted { Err(Interrupted::Operator) } else { Ok(outcome) }
    };
    let found_in = |asked: f64, outcome: &Outcome| {
        let sent = outcome.totals.sent;
        Trial { asked, offered: outcome.rate(sent), sent, received: outcome.sum(..).0.received }
    };
    // Without a rate to begin with, what the generator makes is the beginning.
    let most = match args.pace.rate.packets(size as f64) {
        Some(rate) => rate,
        None => {
            let outcome = once(Rate::Max, format!("{size} bytes: the generator's limit"))?;
            outcome.rate(outcome.totals.sent)
        }
    };
    let search = Search { most, resolution: args.resolution, tolerance: args.tolerance };
    let mut found = search.run(|rate| {
        let outcome = once(Rate::Packets(rate), format!("{size} bytes: {rate:.0} frames/s"))?;
        Ok(found_in(rate, &outcome))
    })?;
    // The device carries all that the generator makes.
    found.generator_bound |= args.pace.rate == Rate::Max && found.trials.len() == 1 && found.best.is_some();
    let rate = found.best.map_or(0.0, |best| best.offered);
    let mut latencies = Vec::new();
    for &fraction in args.fractions.iter().filter(|_| rate > 0.0) {
        let part = (rate * fraction).max(1.0);
        let outcome =
            once(Rate::Packets(part), format!("{size} bytes: latency at {:.0} %", fraction * 100.0))?;
        let latency_us = outcome.sum(..).1.quantiles();
        latencies.push(AtFraction { fraction, loss: found_in(part, &outcome).loss(), latency_us });
    }
    Ok(SizeResult {
        size,
        frames_per_second: rate,
        wire_bits_per_second: rate * ((size + super::sizes::WIRE) * 8) as f64,
        generator_bound: found.generator_bound,
        latencies,
        trials: found.trials,
    })
}

fn victim(args: &VictimArgs, interrupt: &AtomicBool) -> Result<String> {
    let (load, mut rig) = pair(&args.pair, &args.flow, &args.io, args.victim_size.unwrap_or(0))?;
    let Traffic::Flow { flow, seed, .. } = &load else {
        return Err(Error::Usage("a victim needs a flow".into()));
    };
    let mut own = flow.clone();
    (own.destination, own.stream) = (args.victim_dst, Some(VICTIM));
    own.macs.1 = args.victim_dst_mac.unwrap_or(own.macs.1);
    let size = args.victim_size.unwrap_or_else(|| own.smallest());
    let victim = Traffic::Flow { flow: own, sizes: Sizes::one(size), seed: *seed };
    if !victim.stamped() {
        return Err(Error::Usage(format!("the victim's frames of {size} bytes have no room for a stamp")));
    }
    let mut screen = Screen::new(&args.output, title(&rig));
    warm_up(&mut rig, &victim, interrupt)?;
    let slow = Job { alone: true, ..job(&victim, args.victim_rate, 1, args.time) };
    let fast = job(&load, args.pace.rate, args.pace.burst, args.time);
    screen.stage("the victim alone");
    let alone = rig.trial(&[slow], Limit::default(), interrupt, &mut screen)?;
    screen.stage("the victim under load");
    let loaded = rig.trial(&[slow, fast], Limit::default(), interrupt, &mut screen)?;
    screen.close();
    let result = Victim {
        command: "victim",
        devices: modes(&rig.modes),
        alone: phase(&alone),
        loaded: phase(&loaded),
    };
    show(&args.output, &result, result.text(), result.csv())
}

/// The victim is the first flow of the first thread.
fn phase(outcome: &Outcome) -> VictimPhase {
    let (tally, latency): (Tally, Latency) = outcome.sum(VICTIM..);
    let sent = outcome.flows.first().and_then(|flows| flows.first()).copied().unwrap_or(0);
    let load: u64 = outcome.flows.iter().flatten().sum::<u64>() - sent;
    let trial = Trial { asked: 0.0, offered: 0.0, sent, received: tally.received };
    VictimPhase {
        sent,
        received: tally.received,
        loss: trial.loss(),
        latency_us: latency.quantiles(),
        load_per_second: outcome.rate(load),
        load_received_per_second: outcome.rate(outcome.sum(..VICTIM).0.received),
    }
}

fn udp_echo(args: &EchoArgs, interrupt: &Arc<AtomicBool>) -> Result<String> {
    let (counters, stop) = (Counters::default(), AtomicBool::new(false));
    let mut screen = Screen::new(&args.output, vec![format!("echo on {} (UDP socket)", args.listen)]);
    let begin = Instant::now();
    let result = thread::scope(|scope| {
        let echo = scope.spawn(|| echo::run(args.listen, &stop, &counters));
        while !echo.is_finished() {
            let (time, totals) = (begin.elapsed(), Totals::of([&counters]));
            screen.look(time, &totals);
            let over = args.end.time.is_some_and(|most| time >= most)
                || args.end.count.is_some_and(|most| totals.received >= most)
                || interrupt.load(std::sync::atomic::Ordering::Relaxed);
            stop.store(over, std::sync::atomic::Ordering::Relaxed);
            thread::sleep(Duration::from_millis(10));
        }
        echo.join().unwrap_or(Err(Error::Thread))
    });
    screen.close();
    result?;
    let interrupted = interrupt.load(std::sync::atomic::Ordering::Relaxed);
    let outcome =
        Outcome { totals: Totals::of([&counters]), time: begin.elapsed(), interrupted, ..Outcome::default() };
    let summary = Summary::new("udp-echo", Vec::new(), &outcome, false);
    show(&args.output, &summary, summary.text(), summary.csv())
}
