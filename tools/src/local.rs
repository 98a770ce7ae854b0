//! From one compartment to another one of the same host, as fast as one CPU sends: beside sockets in two namespaces that
//! share a veth pair, or a bridge. (What memory alone can do, and memif, is [`crate::ring`]'s.)

use std::{
    net::{Ipv4Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use afnet_tenant::{AttachOptions, Endpoint, Error, Message};
use afnet_tests::{bed::Bed, netns::Netns};
use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    afnet,
    batch::Batch,
    cpu::Busy,
    figures::{Bench, Column, Findings, Wanted},
    sink::{LOAD_CPU, Sink, pin},
    subject::{FIRST, PORT, Task, WARM_UP, Wake, kernel_sink},
};

const COLUMNS: [Column; 2] = [
    Column { name: "datagrams", unit: "M/s", less: false },
    Column { name: "cpu", unit: "us/datagram", less: true },
];
/// Datagrams of one call.
const BATCH: usize = 64;

#[derive(Clone, Copy, Debug)]
enum Way {
    Afnet,
    Veth,
    Bridge,
}

/// Measures each size of the payload.
pub fn run(bench: &Bench, sizes: &[usize]) -> Findings {
    let mut findings = Findings::default();
    for &size in sizes {
        let mut subjects = [("afnet", Way::Afnet), ("veth", Way::Veth), ("bridge", Way::Bridge)]
            .map(|(name, way)| (format!("{name}, {size} B"), way));
        let names = subjects.clone().map(|(name, _)| name);
        let wanted: Vec<Wanted<'_>> = ["datagrams", "cpu"]
            .into_iter()
            .flat_map(|of| names[1..].iter().map(move |base| (of, base)))
            .map(|(of, base)| (of, &*names[0], &**base, None))
            .collect();
        findings.rounds(bench, &mut subjects, &COLUMNS, &wanted, |way| way.measure(size, bench.time));
    }
    findings
}

impl Way {
    fn measure(self, size: usize, time: Duration) -> Result<Vec<f64>> {
        let payload = vec![0x5a; size];
        let second = Ipv4Addr::from(u32::from(FIRST) + 1);
        if let Self::Afnet = self {
            let bed = Bed::new("local");
            let daemon = afnet::start(&bed, FIRST, 2, Wake::Adaptive)?;
            let mut sink = afnet::sink(&daemon, 1..2, None)?;
            return bed.host.enter(|| {
                let mut endpoint = Endpoint::attach(&AttachOptions {
                    instance: Some(daemon.instance().into()),
                    compartment: Some("c0".into()),
                    populate: true,
                    ..AttachOptions::default()
                })?;
                endpoint.claim(PORT)?;
                let message = Message::new((second, PORT).into(), &payload);
                rate(&mut sink, time, || {
                    for _ in 0..BATCH {
                        match endpoint.sender().send(&message) {
                            Ok(()) => {}
                            Err(Error::WouldBlock) => {
                                thread::yield_now();
                                break;
                            }
                            Err(error) => bail!(error),
                        }
                    }
                    endpoint.flush();
                    Ok(())
                })
            });
        }
        let (from, to) = (Netns::new("from"), Netns::new("to"));
        let middle = matches!(self, Self::Bridge).then(|| Netns::new("middle"));
        match &middle {
            None => drop(from.ip(&format!("link add eth0 type veth peer name eth0 netns {}", to.name()))),
            Some(middle) => {
                middle.ip("link add br0 type bridge");
                middle.ip("link set br0 up");
                for (port, end) in [("port0", &from), ("port1", &to)] {
                    middle.ip(&format!("link add {port} type veth peer name eth0 netns {}", end.name()));
                    middle.ip(&format!("link set {port} master br0 up"));
                }
            }
        }
        for (ns, address) in [(&from, FIRST), (&to, second)] {
            ns.ip(&format!("addr add {address}/24 dev eth0"));
            ns.ip("link set eth0 up");
        }
        let mut sink = kernel_sink(&to, Task::Count)?;
        from.enter(|| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect((second, PORT))?;
            let mut batch = Batch::of(BATCH, &payload);
            rate(&mut sink, time, || match batch.send(&socket, BATCH) {
                Ok(_) => Ok(()),
                Err(error) => bail!(error),
            })
        })
    }
}

/// Sends for a while; what was received in a second, in millions, and what each cost.
fn rate(sink: &mut Sink, time: Duration, mut send: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    pin(LOAD_CPU)?;
    sink.count().context("the receiver does not start")?;
    let mut during = |time| -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < time {
            send()?;
        }
        Ok(())
    };
    during(WARM_UP)?;
    let (before, start, busy) = (sink.count()?, Instant::now(), Busy::now());
    during(time)?;
    let (after, cpus) = (sink.count()?, busy.cpus());
    let rate = (after - before) as f64 / start.elapsed().as_secs_f64() / 1e6;
    ensure!(rate > 0.0, "nothing arrives");
    Ok(vec![rate, cpus / rate])
}
