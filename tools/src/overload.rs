//! One receiver is flooded as fast as can be, another one answers 10,000 datagrams per second: what the flood does to it.

use std::{net::Ipv4Addr, time::Duration};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE},
    netns::Netns,
    veth::Veth,
};
use anyhow::{Context as _, Result};

use crate::{
    afnet,
    cpu::Busy,
    figures::{Bench, Column, Findings, Wanted},
    latency::{number, pktgen, quantiles},
    sink::Sink,
    subject::{FIRST, Subject, Task, Wake, kernel_sink, know_the_peer, mac_text},
};

const COLUMNS: [Column; 6] = [
    Column { name: "loss", unit: "%", less: true },
    Column { name: "p99 alone", unit: "us", less: true },
    Column { name: "p99 loaded", unit: "us", less: true },
    Column { name: "flood", unit: "M/s", less: false },
    Column { name: "flood delivered", unit: "M/s", less: false },
    // Seconds of both CPUs for a million frames of the flood, pktgen's included.
    Column { name: "cpu", unit: "s/million", less: true },
];

/// Measures afnet beside namespaces behind a bridge.
pub fn run(bench: &Bench) -> Findings {
    let mut findings = Findings::default();
    let mut subjects = [Subject::Afnet(2), Subject::Bridge].map(|subject| (subject.name(), subject));
    let [ours, theirs] = [Subject::Afnet(2), Subject::Bridge].map(Subject::name);
    let wanted: [Wanted<'_>; 3] =
        ["p99 loaded", "flood delivered", "cpu"].map(|of| (of, &*ours, &*theirs, None));
    findings.rounds(bench, &mut subjects, &COLUMNS, &wanted, |subject| measure(*subject, bench.time));
    findings
}

fn measure(subject: Subject, time: Duration) -> Result<Vec<f64>> {
    let bed = Bed::with("overload", Veth::default().bare());
    // Dropped in this order: receivers, then where they are.
    let (daemon, containers): (Option<Afnetd<'_>>, Vec<Netns>);
    let (mut victim, mut flooded): (Sink, Sink);
    let macs = if let Subject::Afnet(_) = subject {
        containers = Vec::new();
        know_the_peer(&bed, &bed.host, DEVICE);
        daemon = Some(afnet::start(&bed, FIRST, 2, Wake::Adaptive)?);
        let daemon = daemon.as_ref().context("a daemon")?;
        victim = afnet::echo(daemon, 0, Wake::Adaptive)?;
        flooded = afnet::sink(daemon, 1..2, None)?;
        [bed.device_mac(); 2]
    } else {
        daemon = None;
        containers =
            (0..2).map(|i| subject.container(&bed, i).context("a namespace")).collect::<Result<_>>()?;
        victim = kernel_sink(&containers[0], Task::Echo(Wake::Adaptive))?;
        flooded = kernel_sink(&containers[1], Task::Count)?;
        [containers[0].mac("eth0"), containers[1].mac("eth0")]
    };
    victim.count()?;
    let second = Ipv4Addr::from(u32::from(FIRST) + 1);
    let before = flooded.count()?;
    let busy = Busy::now();
    let (victims, floods, own) = (FIRST.to_string(), second.to_string(), mac_text(macs[0]));
    let arguments = ["--dst", &floods, "--victim-dst", &victims, "--victim-dst-mac", &own];
    let found = pktgen(&bed, "victim", &mac_text(macs[1]), &arguments, time)?;
    let cpus = busy.cpus();
    let delivered = (flooded.count()? - before) as f64 / time.as_secs_f64() / 1e6;
    let flood = number(&found["loaded"]["load_per_second"])? / 1e6;
    let [_, alone, _] = quantiles(&found["alone"])?;
    let [_, loaded, _] = quantiles(&found["loaded"])?;
    drop((victim, flooded));
    drop((daemon, containers));
    Ok(vec![number(&found["loaded"]["loss"])? * 100.0, alone, loaded, flood, delivered, cpus / flood])
}
