//! One stream to a multicast group with many members: endpoints of afnet, one in each compartment, beside sockets in
//! namespaces behind a bridge. A single process reads all of them, as elsewhere in the bench.

use std::{
    env,
    fs::File,
    io,
    net::{Ipv4Addr, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use afnet_tests::{
    afnetd::Afnetd,
    bed::{Bed, DEVICE},
    netns::Netns,
};
use anyhow::{Context as _, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{
    afnet,
    batch::Batch,
    cpu::Busy,
    figures::{Bench, Column, Findings, Wanted},
    live::{Generator, Template, Verdict},
    sink::{LOAD_CPU, SINK_CPU, Sink, answer, pin},
    subject::{FIRST, PORT, Wake},
};

/// The group.
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 77, 0, 1);
/// Its MAC address (RFC 1112 6.4).
const MAC: [u8; 6] = [0x01, 0x00, 0x5e, 77, 0, 1];
/// Bytes of each frame.
const SIZE: usize = 64;
/// Before the measurement.
const WARM_UP: Duration = Duration::from_millis(300);
/// Datagrams taken from a socket at once.
const BATCH: usize = 64;

const COPIES: &str = "copies";
const CPU: &str = "cpu";
const COLUMNS: [Column; 2] = [
    Column { name: COPIES, unit: "M/s", less: false },
    // Of both CPUs, the generator's included.
    Column { name: CPU, unit: "us/copy", less: true },
];

/// Who replicates.
#[derive(Clone, Copy, Debug)]
enum Way {
    Afnet,
    Bridge,
}

impl Way {
    fn name(self, members: u32) -> String {
        match self {
            Self::Afnet => format!("afnet-{members}"),
            Self::Bridge => format!("bridge-{members}"),
        }
    }

    fn measure(self, members: u32, time: Duration) -> Result<Vec<f64>> {
        let bed = Bed::new("groups");
        // Dropped in this order: receiver, then where it was.
        let (daemon, containers): (Option<Afnetd<'_>>, Vec<Netns>);
        let mut sink = match self {
            Self::Afnet => {
                daemon = Some(afnet::start(&bed, FIRST, members, Wake::Adaptive)?);
                afnet::sink(daemon.as_ref().context("a daemon")?, 0..members, Some(GROUP))?
            }
            Self::Bridge => {
                (daemon, containers) = (None, bridged(&bed, members));
                let mut command = bed.host.command(env::current_exe()?);
                command.args(["sink", "members", &PORT.to_string(), &GROUP.to_string()]);
                Sink::spawn(command.args(containers.iter().map(Netns::name)))?
            }
        };
        sink.count().context("the members do not start")?;
        let template = Template {
            macs: (bed.peer_mac(), MAC),
            destination: GROUP,
            port: PORT,
            addresses: 1,
            size: SIZE,
        };
        let row = bed.host.enter(|| {
            pin(LOAD_CPU)?;
            let mut generator = Generator::new(&bed.host, DEVICE, Verdict::Pass)?;
            generator.run(&template, WARM_UP)?;
            let (before, busy) = (sink.count()?, Busy::now());
            let offered = generator.run(&template, time)?;
            let (after, cpus) = (sink.count()?, busy.cpus());
            let copies = (after - before) as f64 / offered.time.as_secs_f64() / 1e6;
            ensure!(copies > 0.0, "nothing arrives");
            Ok(vec![copies, cpus / copies])
        });
        drop(sink);
        drop(daemon);
        row
    }
}

/// Measures all numbers of members.
pub fn run(bench: &Bench, members: &[u32]) -> Findings {
    let mut findings = Findings::default();
    for &members in members {
        let mut subjects = [Way::Afnet, Way::Bridge].map(|way| (way.name(members), way));
        let [ours, theirs] = [Way::Afnet, Way::Bridge].map(|way| way.name(members));
        let wanted: [Wanted<'_>; 2] = [COPIES, CPU].map(|of| (of, &*ours, &*theirs, None));
        findings.rounds(bench, &mut subjects, &COLUMNS, &wanted, |way| way.measure(members, bench.time));
    }
    findings
}

/// Namespaces whose devices are ports of a bridge, as the bed's device is.
fn bridged(bed: &Bed, members: u32) -> Vec<Netns> {
    let host = &bed.host;
    host.ip("link add br0 type bridge");
    host.ip(&format!("link set {DEVICE} master br0 up"));
    host.ip("link set br0 up");
    (0..members)
        .map(|i| {
            let container = Netns::new("member");
            host.ip(&format!("link add v{i} type veth peer eth0 netns {}", container.name()));
            host.ip(&format!("link set v{i} master br0 up"));
            container.ip(&format!("addr add {}/16 dev eth0", address(i)));
            container.ip("link set eth0 up");
            container
        })
        .collect()
}

/// The i-th member's.
fn address(i: u32) -> Ipv4Addr {
    (u32::from(FIRST) + i).into()
}

/// The receiving process of the namespaces: a socket in each of them, all read in turn when there is something.
///
/// # Errors
/// If there is no such namespace, or the group cannot be joined there.
pub fn receive(port: u16, group: Ipv4Addr, namespaces: &[String]) -> Result<()> {
    let member = |(i, name): (u32, &String)| -> Result<UdpSocket> {
        let ns =
            File::open(format!("/run/netns/{name}")).with_context(|| format!("open namespace {name}"))?;
        move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network))?;
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
        socket.set_nonblocking(true)?;
        socket.join_multicast_v4(&group, &address(i)).with_context(|| format!("join {group} in {name}"))?;
        Ok(socket)
    };
    let sockets = (0..).zip(namespaces).map(member).collect::<Result<Vec<_>>>()?;
    let count = Arc::new(AtomicU64::new(0));
    answer(Arc::clone(&count));
    pin(SINK_CPU)?;
    let mut entries: Vec<libc::pollfd> = sockets
        .iter()
        .map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
        .collect();
    let mut batch = Batch::new(BATCH, 0);
    loop {
        let len = libc::nfds_t::try_from(entries.len())?;
        // SAFETY: that many entries, which live through the call.
        if unsafe { libc::poll(entries.as_mut_ptr(), len, -1) } < 0 {
            return Err(io::Error::last_os_error()).context("poll");
        }
        let ready = entries.iter().zip(&sockets).filter(|(entry, _)| entry.revents != 0);
        for (_, socket) in ready {
            let received = match batch.receive(socket) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                received => received?,
            };
            // One writer: a plain addition is enough.
            count.store(count.load(Ordering::Relaxed) + received as u64, Ordering::Relaxed);
        }
        thread::yield_now();
    }
}
