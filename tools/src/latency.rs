//! How soon an answer comes, with pktgen at both ends: at a low rate, and at half of what the subject can answer.

use std::{env, process::Command, time::Duration};

use afnet_tests::{
    bed::{Bed, PEER},
    veth::Veth,
};
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    figures::{Bench, Column, Findings, Wanted},
    kernel_path::site::finish,
    live::SOURCE,
    sink::LOAD_CPU,
    subject::{FIRST, PORT, Subject, Task, Wake, mac_text},
};

/// Frames per second when there is little to do.
const LOW: f64 = 10e3;

const COLUMNS: [Column; 7] = [
    Column { name: "p50", unit: "us", less: true },
    Column { name: "p99", unit: "us", less: true },
    Column { name: "p99.9", unit: "us", less: true },
    Column { name: "throughput", unit: "1000/s", less: false },
    Column { name: "p50 at half", unit: "us", less: true },
    Column { name: "p99 at half", unit: "us", less: true },
    Column { name: "p99.9 at half", unit: "us", less: true },
];

/// Ways to wait, and peers.
const SUBJECTS: [(&str, Subject, Wake); 7] = [
    ("afnet-busy", Subject::Afnet(1), Wake::Busy),
    ("afnet-adaptive", Subject::Afnet(1), Wake::Adaptive),
    ("afnet-interrupt", Subject::Afnet(1), Wake::Interrupt),
    ("netns+bridge", Subject::Bridge, Wake::Adaptive),
    ("netns+routing", Subject::Routing, Wake::Adaptive),
    ("macvlan", Subject::Macvlan, Wake::Adaptive),
    ("host-socket", Subject::HostSocket, Wake::Adaptive),
];

/// Measures all of them.
pub fn run(bench: &Bench) -> Findings {
    let mut findings = Findings::default();
    let mut subjects = SUBJECTS.map(|(name, subject, wake)| (name.to_owned(), (subject, wake)));
    let mut wanted: Vec<Wanted<'_>> = Vec::new();
    for Column { name, .. } in COLUMNS.iter().filter(|column| column.less) {
        for base in ["macvlan", "netns+bridge"] {
            wanted.push((name, "afnet-busy", base, Some(2.0)));
            wanted.push((name, "afnet-adaptive", base, Some(1.0)));
        }
    }
    findings.rounds(bench, &mut subjects, &COLUMNS, &wanted, |(subject, wake)| {
        measure(*subject, *wake, bench.time)
    });
    findings
}

fn measure(subject: Subject, wake: Wake, time: Duration) -> Result<Vec<f64>> {
    let bed = Bed::with("latency", Veth::default().bare());
    let standing = subject.stand(&bed, Task::Echo(wake))?;
    let mac = mac_text(standing.mac);
    let at = |rate: &str| pktgen(&bed, "measure", &mac, &["--dst", &FIRST.to_string(), "--rate", rate], time);
    at("1k")?;
    let low = at(&LOW.to_string())?;
    let most = at("max")?;
    let most = number(&most["received"]["frames_per_second"])?;
    let half = at(&format!("{:.0}", most / 2.0))?;
    let (low, half) = (quantiles(&low)?, quantiles(&half)?);
    Ok([&low[..], &[most / 1e3], &half].concat())
}

/// pktgen on the peer's device, one thread that sends and receives: what it found.
///
/// # Errors
/// If it fails.
pub fn pktgen(bed: &Bed, command: &str, mac: &str, arguments: &[&str], time: Duration) -> Result<Value> {
    let program = env::current_exe()?.with_file_name("pktgen");
    let mut child = Command::new(program);
    child.args([command, &format!("{PEER}@{}", bed.peer.name()), "--json", "-q"]);
    child.args(["--src", &SOURCE.to_string(), "--dst-mac", mac, "--dport", &PORT.to_string()]);
    child.args(["--cpus", &LOAD_CPU.to_string()]);
    child.args(["--time", &time.as_secs_f64().to_string()]).args(arguments);
    let text = finish(&mut child)?;
    serde_json::from_str(&text).with_context(|| format!("pktgen said {text}"))
}

/// p50, p99 and p99.9 in microseconds.
///
/// # Errors
/// If there are none: nothing came back.
pub fn quantiles(of: &Value) -> Result<[f64; 3]> {
    let latency = &of["latency_us"];
    ensure!(!latency.is_null(), "nothing comes back: {of}");
    Ok([number(&latency["p50"])?, number(&latency["p99"])?, number(&latency["p999"])?])
}

/// A number of pktgen's.
///
/// # Errors
/// If it is none.
pub fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("{value} is no number"))
}
