//! What is seen while it runs: one screen on a terminal, a line for each interval elsewhere.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use super::{args::OutputArgs, counters::Totals, sizes::WIRE, trial::Watch};

/// Rates that the screen's curve shows.
const CURVE: usize = 60;
/// Between two screens.
const REFRESH: Duration = Duration::from_millis(250);
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The display.
#[derive(Debug)]
pub struct Screen {
    style: Style,
    title: Vec<String>,
    stage: String,
    interval: Duration,
    next: Duration,
    last: (Duration, Totals),
    curve: VecDeque<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Nothing,
    Lines,
    Full,
}

impl Screen {
    /// As the output's options ask. `title`: lines that stand above.
    pub fn new(options: &OutputArgs, title: Vec<String>) -> Self {
        let style = if options.quiet {
            Style::Nothing
        } else if io::stderr().is_terminal() && io::stdout().is_terminal() && !options.json && !options.csv {
            Style::Full
        } else {
            Style::Lines
        };
        if style == Style::Lines {
            title.iter().for_each(|line| eprintln!("{line}"));
        }
        let interval = if style == Style::Full { REFRESH } else { options.interval };
        Self {
            style,
            title,
            stage: String::new(),
            interval,
            next: interval,
            last: Default::default(),
            curve: VecDeque::with_capacity(CURVE),
        }
    }

    /// A new trial begins.
    pub fn stage(&mut self, stage: impl Into<String>) {
        self.stage = stage.into();
        (self.next, self.last) = (self.interval, Default::default());
        if self.style == Style::Lines && !self.stage.is_empty() {
            eprintln!("{}", self.stage);
        }
    }

    /// Leaves the screen to others.
    pub fn close(&mut self) {
        if self.style == Style::Full {
            // Back to the beginning: what comes replaces the display.
            eprint!("\x1b[H\x1b[J");
        }
        self.style = Style::Nothing;
    }

    fn full(&mut self, time: Duration, rates: &Rates, totals: &Totals) {
        if self.curve.len() == CURVE {
            self.curve.pop_front();
        }
        self.curve.push_back(if totals.received > 0 { rates.received } else { rates.sent });
        let mut text = String::from("\x1b[H");
        let mut line = |content: String| {
            text.push_str(&content);
            text.push_str("\x1b[K\n");
        };
        self.title.iter().for_each(|title| line(title.clone()));
        line(format!("{}   {:.0} s   Ctrl-C ends with the summary", self.stage, time.as_secs_f64()));
        line(String::new());
        line(format!("{:<10}{:>16}{:>16}{:>18}", "", "frames/s", "wire", "frames"));
        line(format!("{:<10}{:>16}{:>16}{:>18}", "sent", si(rates.sent), bits(rates.sent_bits), totals.sent));
        line(format!(
            "{:<10}{:>16}{:>16}{:>18}",
            "received",
            si(rates.received),
            bits(rates.received_bits),
            totals.received
        ));
        line(String::new());
        line(format!(
            "missing {}   reordered {}   duplicates {}",
            totals.lost, totals.reordered, totals.duplicates
        ));
        line(if totals.p99 > 0 {
            format!("latency: p50 {}, p99 {}", time_text(totals.p50), time_text(totals.p99))
        } else {
            String::new()
        });
        line(String::new());
        let most = self.curve.iter().fold(1.0, |most: f64, rate| most.max(*rate));
        line(self.curve.iter().map(|rate| bar(rate / most)).collect());
        text.push_str("\x1b[J");
        let _ = io::stderr().write_all(text.as_bytes());
    }
}

/// Rates of an interval.
struct Rates {
    sent: f64,
    sent_bits: f64,
    received: f64,
    received_bits: f64,
}

impl Watch for Screen {
    fn look(&mut self, time: Duration, totals: &Totals) {
        if self.style == Style::Nothing || time < self.next {
            return;
        }
        let (then, before) = self.last;
        let seconds = (time - then).as_secs_f64().max(1e-9);
        let per = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let rates = Rates {
            sent: per(totals.sent, before.sent),
            sent_bits: per(
                wire_bits(totals.sent, totals.sent_bytes),
                wire_bits(before.sent, before.sent_bytes),
            ),
            received: per(totals.received, before.received),
            received_bits: per(
                wire_bits(totals.received, totals.received_bytes),
                wire_bits(before.received, before.received_bytes),
            ),
        };
        match self.style {
            Style::Full => self.full(time, &rates, totals),
            _ => eprintln!(
                "{:>6.1} s  sent {}/s {}  received {}/s {}  missing {}{}",
                time.as_secs_f64(),
                si(rates.sent),
                bits(rates.sent_bits),
                si(rates.received),
                bits(rates.received_bits),
                totals.lost,
                if totals.p99 > 0 {
                    format!("  p50 {} p99 {}", time_text(totals.p50), time_text(totals.p99))
                } else {
                    String::new()
                }
            ),
        }
        self.last = (time, *totals);
        self.next = time + self.interval;
    }
}

/// Bits that frames take on a wire.
pub fn wire_bits(frames: u64, bytes: u64) -> u64 {
    bytes.saturating_add(frames.saturating_mul(WIRE as u64)).saturating_mul(8)
}

/// `1.23 M`.
pub fn si(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2} G", v / 1e9),
        v if v >= 1e6 => format!("{:.2} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// `1.23 Gbit/s`.
pub fn bits(value: f64) -> String {
    let text = si(value);
    if text.ends_with(char::is_alphabetic) { format!("{text}bit/s") } else { format!("{text} bit/s") }
}

fn time_text(nanoseconds: u64) -> String {
    format!("{:.1} us", nanoseconds as f64 / 1e3)
}

fn bar(fraction: f64) -> char {
    let steps = BARS.iter().enumerate().rev();
    steps.into_iter().find(|(i, _)| fraction >= *i as f64 / 8.0).map_or(' ', |(_, bar)| *bar)
}
