//! Records a second through one ring, from one process to another: `cargo run --release -p afnet-ring --example rate`.
//!
//! The parent produces in batches of 64, a child (this program again, with the memfd as its standard input) copies
//! every payload out, as a worker and a tenant would. Both spin, and yield the CPU when they find nothing to do: no
//! doorbells, so this is the rate of the memory alone. Measured with both on one CPU, where they take turns (as
//! worker and tenant do on a small machine), and on two, where every cache line travels.
//! `rate SECONDS` changes the 2 seconds for each line.

use std::{
    env,
    error::Error,
    os::fd::AsFd,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use afnet_abi::shm::{Record, endpoint_kind, kind};
use afnet_ring::{Layout, Mapping, Producer};

/// Records between two publishes or releases: what a worker takes from a device in one turn.
const BATCH: usize = 64;
/// Bytes of the ring: the daemon's default order of magnitude; 512 full-size records.
const RING: usize = 1 << 20;
/// Length in bytes of the record that ends the run.
const END: usize = 1;

fn main() -> Result<(), Box<dyn Error>> {
    if env::args().nth(1).as_deref() == Some("consume") {
        return consume();
    }
    let time = Duration::from_secs_f64(env::args().nth(1).map_or(Ok(2.0), |s| s.parse())?);
    for (size, consumer_cpu) in [(64, 0), (1400, 0), (64, 1), (1400, 1)] {
        pin(consumer_cpu)?;
        let layout = Layout { kind: endpoint_kind::UDP, workers: 1, rx_len: RING, tx_len: RING };
        let (mapping, fd) = Mapping::create(layout)?;
        mapping.populate()?;
        let (producer, _) = mapping.worker_side(0).ok_or("taken")?;
        let mut child = Command::new(env::current_exe()?).arg("consume").stdin(Stdio::from(fd)).spawn()?;
        pin(0)?;
        print!("{} ", if consumer_cpu == 0 { " one CPU, " } else { "two CPUs, " });
        std::io::Write::flush(&mut std::io::stdout())?;
        produce(producer, size, time);
        if !child.wait()?.success() {
            return Err("the consumer failed".into());
        }
    }
    Ok(())
}

/// Binds this thread, and the children it makes from now on, to a CPU.
fn pin(cpu: usize) -> Result<(), Box<dyn Error>> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
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

fn consume() -> Result<(), Box<dyn Error>> {
    let mapping = Mapping::open(std::io::stdin().as_fd())?;
    mapping.populate()?;
    let (mut consumer, _) = mapping.tenant_side(0).ok_or("taken")?;
    let mut bytes = [0; 2048];
    let (mut records, mut size) = (0u64, 0);
    let mut start = None;
    loop {
        let mut batch = 0;
        while batch < BATCH
            && let Some(item) = consumer.peek()?
        {
            if item.payload.len() == END {
                let seconds = start.unwrap_or_else(Instant::now).elapsed().as_secs_f64();
                let rate = records as f64 / seconds / 1e6;
                println!("{size:5} bytes: {rate:6.2} M records/s, {:6.2} Gbit/s of payload", {
                    rate * 1e6 * size as f64 * 8.0 / 1e9
                });
                return Ok(());
            }
            size = std::hint::black_box(&mut bytes)[..].len().min(item.payload.copy_to(&mut bytes));
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
