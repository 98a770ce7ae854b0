//! Results: for a person, as JSON, as CSV.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{
    latency::Quantiles,
    port::Report as Mode,
    rfc2544::Trial,
    screen::{bits, si, wire_bits},
    track::Tally,
    trial::Outcome,
};

/// Frames in one direction.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Direction {
    /// Frames.
    pub frames: u64,
    /// Their bytes, without check sequences.
    pub bytes: u64,
    /// For so long.
    pub seconds: f64,
    /// Frames per second.
    pub frames_per_second: f64,
    /// Bits per second on the wire, with preamble, check sequence and gap.
    pub wire_bits_per_second: f64,
}

impl Direction {
    fn new(time: Duration, frames: u64, bytes: u64) -> Self {
        let seconds = time.as_secs_f64();
        let rate = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        Self {
            frames,
            bytes,
            seconds,
            frames_per_second: rate(frames),
            wire_bits_per_second: rate(wire_bits(frames, bytes)),
        }
    }
}

/// A device and how it was opened.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceMode {
    /// Its name.
    pub device: String,
    /// Its mode.
    #[serde(flatten)]
    pub mode: Mode,
}

/// Devices with their modes.
pub fn modes(modes: &[(String, Mode)]) -> Vec<DeviceMode> {
    modes.iter().map(|(device, mode)| DeviceMode { device: device.clone(), mode: mode.clone() }).collect()
}

/// One stream.
#[derive(Clone, Debug, Serialize)]
pub struct Stream {
    /// Its number.
    pub stream: u16,
    /// What was counted.
    #[serde(flatten)]
    pub tally: Tally,
    /// Microseconds.
    pub latency_us: Option<Quantiles>,
}

/// What came of one trial.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Command.
    pub command: &'static str,
    /// Devices.
    pub devices: Vec<DeviceMode>,
    /// Seconds.
    pub seconds: f64,
    /// Whether the operator ended it.
    pub interrupted: bool,
    /// Out.
    pub sent: Direction,
    /// In.
    pub received: Direction,
    /// Received frames without stamp.
    pub unstamped: u64,
    /// Frames that a reflector could not send back.
    pub dropped: u64,
    /// Frames that were due and not sent, since a thread was held up.
    pub behind: u64,
    /// Of the stamped frames that were sent here, the fraction that did not arrive.
    pub loss: Option<f64>,
    /// All streams together.
    pub total: Tally,
    /// Microseconds from the stamp to reception; a round trip if frames came back.
    pub latency_us: Option<Quantiles>,
    /// Stamps whose time makes no sense.
    pub odd_times: u64,
    /// Each stream.
    pub streams: Vec<Stream>,
}

impl Summary {
    /// From an outcome. `both`: what was sent here should have arrived here.
    pub fn new(command: &'static str, devices: Vec<DeviceMode>, outcome: &Outcome, both: bool) -> Self {
        let totals = outcome.totals;
        let (mut total, latency) = outcome.sum(..);
        let sent: u64 = outcome.flows.iter().flatten().sum();
        // Who only receives does not know when the sender began and ended, but when frames came.
        let span = if both || outcome.span.is_zero() { outcome.time } else { outcome.span };
        let sends = outcome.flows.iter().any(|flows| !flows.is_empty());
        let loss = (both && sent > 0).then(|| {
            // What was lost before the first frame and after the last leaves no gap.
            total.lost = sent.saturating_sub(total.received);
            total.lost as f64 / sent as f64
        });
        Self {
            command,
            devices,
            seconds: outcome.time.as_secs_f64(),
            interrupted: outcome.interrupted,
            sent: Direction::new(if sends { outcome.time } else { span }, totals.sent, totals.sent_bytes),
            received: Direction::new(span, totals.received, totals.received_bytes),
            unstamped: outcome.other,
            dropped: outcome.dropped,
            behind: outcome.forgotten,
            loss,
            total,
            latency_us: latency.quantiles(),
            odd_times: latency.odd,
            streams: outcome
                .streams
                .iter()
                .map(|(stream, (tally, latency))| Stream {
                    stream: *stream,
                    tally: *tally,
                    latency_us: latency.quantiles(),
                })
                .collect(),
        }
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for DeviceMode { device, mode } in &self.devices {
            let _ = writeln!(text, "{device:<10} {mode}");
        }
        let mut direction = |name: &str, it: &Direction| {
            if it.frames > 0 {
                let _ = writeln!(
                    text,
                    "{name:<10} {} frames in {:.2} s: {}/s, {} on the wire",
                    it.frames,
                    it.seconds,
                    si(it.frames_per_second),
                    bits(it.wire_bits_per_second)
                );
            }
        };
        direction("sent", &self.sent);
        direction("received", &self.received);
        let Tally { lost, reordered, duplicates, late, restarts, received } = self.total;
        if received > 0 || self.loss.is_some() {
            let percent = self.loss.map_or(String::new(), |loss| format!(" ({:.4} %)", loss * 100.0));
            let _ = writeln!(
                text,
                "lost       {lost}{percent}, reordered {reordered}, duplicates {duplicates}, late {late}"
            );
        }
        if let Some(latency) = self.latency_us {
            let _ = writeln!(text, "latency    {}", quantiles(&latency));
        }
        for (count, what) in [
            (self.unstamped, "received frames had no stamp"),
            (self.dropped, "frames could not be sent back"),
            (self.behind, "frames were not sent in time: the sender was held up"),
            (restarts, "jumps of a sequence: a sender that started again, or a forger"),
            (self.odd_times, "stamps had times of the future: another host's clock, or a forger's"),
        ] {
            if count > 0 {
                let _ = writeln!(text, "note       {count} {what}");
            }
        }
        text
    }

    /// As CSV.
    pub fn csv(&self) -> String {
        let latency = self.latency_us.unwrap_or_default();
        let Tally { received, lost, reordered, duplicates, .. } = self.total;
        format!(
            "command,seconds,sent,sent_per_second,received,received_per_second,stamped,lost,reordered,duplicates,\
             {LATENCY_COLUMNS}\n{},{:.3},{},{:.0},{},{:.0},{received},{lost},{reordered},{duplicates},{}\n",
            self.command,
            self.seconds,
            self.sent.frames,
            self.sent.frames_per_second,
            self.received.frames,
            self.received.frames_per_second,
            latency_csv(&latency),
        )
    }
}

const LATENCY_COLUMNS: &str = "min_us,mean_us,p50_us,p90_us,p99_us,p99.9_us,max_us";

fn latency_csv(it: &Quantiles) -> String {
    format!(
        "{:.3},{:.3},{:.3},{:.3},{:.3},{:.3},{:.3}",
        it.min, it.mean, it.p50, it.p90, it.p99, it.p999, it.max
    )
}

/// `p50 ... us`.
pub fn quantiles(it: &Quantiles) -> String {
    format!(
        "min {:.1}, p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1} us",
        it.min, it.p50, it.p90, it.p99, it.p999, it.max
    )
}

/// Latency at a part of the throughput.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct AtFraction {
    /// The part.
    pub fraction: f64,
    /// Loss there.
    pub loss: f64,
    /// Microseconds.
    pub latency_us: Option<Quantiles>,
}

/// One size of an RFC 2544 run.
#[derive(Clone, Debug, Serialize)]
pub struct SizeResult {
    /// Bytes of a frame.
    pub size: usize,
    /// Frames per second without more loss than tolerated.
    pub frames_per_second: f64,
    /// The same in bits on the wire.
    pub wire_bits_per_second: f64,
    /// The generator was the limit: the device may carry more.
    pub generator_bound: bool,
    /// Latencies at parts of it.
    pub latencies: Vec<AtFraction>,
    /// The search.
    pub trials: Vec<Trial>,
}

/// An RFC 2544 run.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    /// Command.
    pub command: &'static str,
    /// Devices.
    pub devices: Vec<DeviceMode>,
    /// Tolerated loss.
    pub tolerance: f64,
    /// Seconds of a trial.
    pub trial_seconds: f64,
    /// By size.
    pub sizes: Vec<SizeResult>,
}

impl Throughput {
    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for DeviceMode { device, mode } in &self.devices {
            let _ = writeln!(text, "{device:<10} {mode}");
        }
        let _ = writeln!(text, "{:>6} {:>12} {:>16}  trials  latency in us", "bytes", "frames/s", "wire");
        for it in &self.sizes {
            let _ = write!(
                text,
                "{:>6} {:>12} {:>16}  {:>6}",
                it.size,
                si(it.frames_per_second),
                bits(it.wire_bits_per_second),
                it.trials.len()
            );
            for at in &it.latencies {
                if let Some(latency) = at.latency_us {
                    let percent = at.fraction * 100.0;
                    let _ = write!(text, "  {percent:.0} %: p50 {:.1} p99 {:.1}", latency.p50, latency.p99);
                }
            }
            text.push_str(if it.generator_bound { "  (limit of the generator)\n" } else { "\n" });
        }
        text
    }

    /// As CSV: a row for each size and fraction.
    pub fn csv(&self) -> String {
        let mut text = format!(
            "size,frames_per_second,wire_bits_per_second,generator_bound,fraction,loss,{LATENCY_COLUMNS}\n"
        );
        for it in &self.sizes {
            for at in &it.latencies {
                let _ = writeln!(
                    text,
                    "{},{:.0},{:.0},{},{},{},{}",
                    it.size,
                    it.frames_per_second,
                    it.wire_bits_per_second,
                    it.generator_bound,
                    at.fraction,
                    at.loss,
                    latency_csv(&at.latency_us.unwrap_or_default())
                );
            }
        }
        text
    }
}

/// A victim, alone and under load.
#[derive(Clone, Debug, Serialize)]
pub struct Victim {
    /// Command.
    pub command: &'static str,
    /// Devices.
    pub devices: Vec<DeviceMode>,
    /// Nothing but the victim.
    pub alone: VictimPhase,
    /// With the load.
    pub loaded: VictimPhase,
}

/// The victim in one phase.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct VictimPhase {
    /// Frames of the victim sent.
    pub sent: u64,
    /// Frames of the victim received.
    pub received: u64,
    /// Fraction lost.
    pub loss: f64,
    /// Microseconds.
    pub latency_us: Option<Quantiles>,
    /// Frames of the load per second.
    pub load_per_second: f64,
    /// Of those, received per second.
    pub load_received_per_second: f64,
}

impl Victim {
    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for DeviceMode { device, mode } in &self.devices {
            let _ = writeln!(text, "{device:<10} {mode}");
        }
        for (name, it) in [("alone", &self.alone), ("loaded", &self.loaded)] {
            let latency = it.latency_us.map_or("no frame arrived".into(), |latency| quantiles(&latency));
            let _ = writeln!(
                text,
                "{name:<10} victim: {} of {} received, loss {:.4} %, {latency}; load: {}/s sent, {}/s received",
                it.received,
                it.sent,
                it.loss * 100.0,
                si(it.load_per_second),
                si(it.load_received_per_second)
            );
        }
        text
    }

    /// As CSV.
    pub fn csv(&self) -> String {
        let mut text =
            format!("phase,sent,received,loss,load_per_second,load_received_per_second,{LATENCY_COLUMNS}\n");
        for (name, it) in [("alone", &self.alone), ("loaded", &self.loaded)] {
            let _ = writeln!(
                text,
                "{name},{},{},{},{:.0},{:.0},{}",
                it.sent,
                it.received,
                it.loss,
                it.load_per_second,
                it.load_received_per_second,
                latency_csv(&it.latency_us.unwrap_or_default())
            );
        }
        text
    }
}
