//! Records through one ring of afnet, from one process to another, beside DPDK's memif.
//!
//! The parent produces in batches of 64, a child (`bench consume`, with the memfd as its standard input) copies every
//! payload out, as a worker and a tenant would. Both spin, and yield the CPU when they find nothing to do: no doorbells,
//! so this is the rate of the memory alone. On two CPUs every cache line travels; on one, where they take turns, as
//! worker and tenant do on a small machine, none does.

use std::{
    env,
    io::{self, Read as _},
    os::fd::AsFd as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use afnet_abi::shm::{Record, endpoint_kind, kind};
use afnet_ring::{Layout, Mapping, Producer};
use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    dpdk,
    figures::{Bench, Column, Findings, Wanted},
    sink::{LOAD_CPU, SINK_CPU, pin},
    subject::WARM_UP,
};

/// Records between two publishes or releases: what a worker takes from a device in one turn.
const BATCH: usize = 64;
/// Bytes of the ring: memif's 1024 buffers of 2 KiB. Between two CPUs one that fits into a CPU's own cache is slower: the
/// consumer then fetches every line from the producer's cache, and not from the one that they share.
const RING: usize = 1 << 21;
/// Length in bytes of the record that ends the run.
const END: usize = 1;

const COLUMNS: [Column; 1] = [Column { name: "records", unit: "M/s", less: false }];

#[derive(Clone, Copy, Debug)]
enum Way {
    /// Producer and consumer on these CPUs.
    Ring(usize, usize),
    Memif,
}

/// Measures each size.
pub fn run(bench: &Bench, sizes: &[usize]) -> Findings {
    let mut findings = Findings::default();
    for &size in sizes {
        let mut subjects = [
            (format!("ring, {size} B"), Way::Ring(LOAD_CPU, SINK_CPU)),
            (format!("memif, {size} B"), Way::Memif),
            (format!("one CPU, {size} B"), Way::Ring(SINK_CPU, SINK_CPU)),
        ];
        let [ours, theirs, _] = subjects.clone().map(|(name, _)| name);
        let goal = if size < 1024 { 0.7 } else { 1.0 };
        let wanted: [Wanted<'_>; 1] = [("records", &ours, &theirs, Some(goal))];
        findings.rounds(bench, &mut subjects, &COLUMNS, &wanted, |way| match *way {
            Way::Ring(from, to) => ring(from, to, size, bench.time),
            Way::Memif => memif(size, bench.time),
        });
    }
    findings
}

fn ring(from: usize, to: usize, size: usize, time: Duration) -> Result<Vec<f64>> {
    let layout = Layout { kind: endpoint_kind::UDP, workers: 1, rx_len: RING, tx_len: RING };
    let (mapping, fd) = Mapping::create(layout)?;
    mapping.populate()?;
    let (producer, _) = mapping.worker_side(0).context("the ring is taken")?;
    // A thread of its own: this one keeps its CPUs.
    thread::scope(|scope| {
        let child = scope.spawn(|| {
            pin(to)?;
            let mut child = Command::new(env::current_exe()?)
                .arg("consume")
                .stdin(Stdio::from(fd))
                .stdout(Stdio::piped())
                .spawn()
                .context("start the consumer")?;
            pin(from)?;
            produce(producer, size, time);
            let mut text = String::new();
            child.stdout.take().context("a pipe")?.read_to_string(&mut text)?;
            ensure!(child.wait()?.success(), "the consumer failed");
            Ok(vec![text.trim().parse().with_context(|| format!("the consumer said {text:?}"))?])
        });
        child.join().unwrap_or_else(|_| bail!("a thread died"))
    })
}

fn produce(mut producer: Producer, size: usize, time: Duration) {
    let payload = vec![0x5a; size];
    let record = Record { kind: kind::DATAGRAM, ..Record::default() };
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..BATCH {
            while !put(&mut producer, &record, &payload) {
                let _ = producer.publish();
                thread::yield_now();
            }
        }
        let _ = producer.publish();
    }
    while !put(&mut producer, &record, &[0; END]) {
        thread::yield_now();
    }
    let _ = producer.publish();
}

fn put(producer: &mut Producer, record: &Record, payload: &[u8]) -> bool {
    let Some(mut room) = producer.reserve(payload.len()) else { return false };
    room.write(0, payload);
    room.commit(record, payload.len());
    true
}

/// The child's side: says how many million records it had in a second.
///
/// # Errors
/// If standard input is no ring, or breaks its rules.
pub fn consume() -> Result<()> {
    let mapping = Mapping::open(io::stdin().as_fd())?;
    mapping.populate()?;
    let (mut consumer, _) = mapping.tenant_side(0).context("the ring is taken")?;
    let mut bytes = [0; 2048];
    let mut records = 0u64;
    let mut start = None;
    loop {
        let mut batch = 0;
        while batch < BATCH
            && let Some(item) = consumer.peek()?
        {
            if item.payload.len() == END {
                let seconds = start.unwrap_or_else(Instant::now).elapsed().as_secs_f64();
                println!("{}", records as f64 / seconds / 1e6);
                return Ok(());
            }
            item.payload.copy_to(std::hint::black_box(&mut bytes));
            item.consume();
            batch += 1;
        }
        let _ = consumer.release();
        if batch == 0 {
            thread::yield_now();
        } else {
            start.get_or_insert_with(Instant::now);
            records += batch as u64;
        }
    }
}

/// Frames have 14 bytes of header, which rings have none of; so they are as long as a record's payload.
fn memif(size: usize, time: Duration) -> Result<Vec<f64>> {
    if let Some(why) = dpdk::missing() {
        bail!(why);
    }
    let directory = env::temp_dir().join(format!("afnet-bench-{}-memif", std::process::id()));
    std::fs::create_dir_all(&directory)?;
    let measured = (|| {
        let (mut receiver, mut sender) = dpdk::memif(&directory, size)?;
        dpdk::count(&mut sender)?;
        thread::sleep(WARM_UP);
        let (before, start) = (dpdk::count(&mut receiver)?, Instant::now());
        thread::sleep(time);
        let (after, time) = (dpdk::count(&mut receiver)?, start.elapsed());
        let rate = (after - before) as f64 / time.as_secs_f64() / 1e6;
        ensure!(rate > 0.0, "nothing arrives");
        Ok(vec![rate])
    })();
    let _ = std::fs::remove_dir_all(&directory);
    measured
}
