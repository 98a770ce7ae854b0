//! Datagrams that are sent back: how many in a second, by size of the frame. The bed's peer drops the answers in XDP and
//! counts them.

use std::time::Duration;

use afnet_tests::{
    bed::{Bed, DEVICE, PEER},
    veth::Veth,
};
use anyhow::{Context as _, Result, ensure};

use crate::{
    cpu::Busy,
    figures::{Bench, Column, Findings, Wanted},
    live::{Generator, Template, Verdict},
    sink::{LOAD_CPU, pin},
    subject::{FIRST, PORT, Subject, Task, WARM_UP, Wake},
};

const SUBJECTS: [Subject; 5] =
    [Subject::Afnet(1), Subject::Dpdk, Subject::HostSocket, Subject::Macvlan, Subject::Bridge];

/// Measures all subjects at each size.
pub fn run(bench: &Bench, sizes: &[usize]) -> Findings {
    let mut findings = Findings::default();
    for &size in sizes {
        let mut subjects: Vec<(String, Subject)> =
            SUBJECTS.iter().map(|subject| (format!("{}, {size} B", subject.name()), *subject)).collect();
        let names: Vec<String> = subjects.iter().map(|(name, _)| name.clone()).collect();
        let wanted: Vec<Wanted<'_>> = [Some(1.5), Some(3.0), None, None]
            .into_iter()
            .zip(&names[1..])
            .map(|(goal, base)| ("answers", &*names[0], &**base, goal))
            .collect();
        findings
            .rounds(bench, &mut subjects, &COLUMNS, &wanted, |subject| measure(*subject, size, bench.time));
    }
    findings
}

const COLUMNS: [Column; 2] = [
    Column { name: "answers", unit: "M/s", less: false },
    // Of both CPUs, the generator's included.
    Column { name: "cpu", unit: "us/answer", less: true },
];

fn measure(subject: Subject, size: usize, time: Duration) -> Result<Vec<f64>> {
    if let Some(why) = subject.missing() {
        anyhow::bail!(why);
    }
    let bed = Bed::with("echo", Veth::default().bare());
    // A generator that never runs: its program drops what comes back.
    let _drop = bed.peer.enter(|| Generator::new(&bed.peer, PEER, Verdict::Drop))?;
    let standing = subject.stand(&bed, Task::Echo(Wake::Adaptive))?;
    let macs = (bed.peer_mac(), standing.mac);
    let template = Template { macs, destination: FIRST, port: PORT, addresses: 1, size };
    bed.host.enter(|| {
        pin(LOAD_CPU)?;
        let mut generator = Generator::new(&bed.host, DEVICE, Verdict::Pass)?;
        generator.run(&template, WARM_UP)?;
        let (before, busy) = (answered(&bed)?, Busy::now());
        let offered = generator.run(&template, time)?;
        let (after, cpus) = (answered(&bed)?, busy.cpus());
        let answers = (after - before) as f64 / offered.time.as_secs_f64() / 1e6;
        ensure!(answers > 1e-3, "nothing comes back");
        Ok(vec![answers, cpus / answers])
    })
}

/// Frames that the peer has received.
fn answered(bed: &Bed) -> Result<u64> {
    let links: serde_json::Value =
        serde_json::from_str(&bed.peer.ip(&format!("-j -s link show dev {PEER}")))?;
    links[0]["stats64"]["rx"]["packets"].as_u64().context("a count in what ip says")
}
