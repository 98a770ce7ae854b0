//! `tools/bench`: delivered packets per second of afnet and its peers, and what a compartment costs.

use std::{net::Ipv4Addr, time::Duration};

use afnet_tools::{
    afnet, cost, echo,
    figures::Findings,
    groups, kernel_path, latency, local, overload,
    priority::Priority,
    report::{Machine, Rate, Report},
    ring, sink,
    subject::{Sample, Subject, Wake},
};
use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Measures delivered packets per second beside peers, all under the same load on one machine.
///
/// Frames come from the kernel itself (BPF_F_TEST_XDP_LIVE_FRAMES on the device's XDP program, CPU 0), the
/// receiver runs on CPU 1. Rounds are interleaved and medians are shown. Needs root and a quiet machine.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Role>,
    /// Results as one JSON object
    #[arg(long, short = 'j', global = true)]
    json: bool,
    /// Rounds over all subjects
    #[arg(long, default_value_t = 3, global = true)]
    rounds: u32,
    /// Seconds of each measurement (third-party clients round up)
    #[arg(long, default_value_t = 1.0, global = true)]
    seconds: f64,
    /// Frame sizes in bytes
    #[arg(long, value_delimiter = ',', default_value = "64,1400")]
    sizes: Vec<usize>,
    /// Compartments of the subject with many
    #[arg(long, default_value_t = 1024)]
    compartments: u32,
    /// Only subjects whose name begins so
    #[arg(long, value_delimiter = ',', global = true)]
    only: Vec<String>,
    /// Of the kernel path only measures whose name begins so
    #[arg(long, value_delimiter = ',', global = true)]
    measures: Vec<String>,
    /// Compartments that hold the same port while one of them is measured
    #[arg(long, value_delimiter = ',', default_value = "1,100,1000", global = true)]
    crowds: Vec<u32>,
    /// Containers to add when measuring what one costs; 0: do not
    #[arg(long, default_value_t = 1000)]
    cost: u32,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One line: what a single afnet tenant receives
    Rate,
    /// Ordinary servers in a compartment beside the same on the host and in namespaces: connections, requests, round
    /// trips, throughput; and what a lookup costs with many compartments. `--crowds 0`: without that
    KernelPath,
    /// UDP servers under the socket shim beside the same on the kernel path, on the host and in a namespace: queries,
    /// datagrams, round trips, and what each costs
    Shim,
    /// One stream for many members of a multicast group, beside namespaces behind a bridge: copies per second, and CPU
    /// time of each
    Groups {
        /// Members
        #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
        members: Vec<u32>,
    },
    /// Datagrams that are sent back, by size, beside DPDK and kernel sockets
    Echo {
        /// Frame sizes in bytes
        #[arg(long, value_delimiter = ',', default_value = "64,256,512,1400")]
        sizes: Vec<usize>,
    },
    /// How soon an answer comes, at a low rate and at half of what can be answered, by how afnet waits, beside kernel
    /// sockets
    Latency,
    /// One receiver is flooded: what that does to another one
    Overload,
    /// From one compartment to another, beside veth pairs
    Local {
        /// Sizes of payload in bytes
        #[arg(long, value_delimiter = ',', default_value = "64,1400")]
        sizes: Vec<usize>,
    },
    /// The ring alone, from process to process, beside DPDK's memif
    Ring {
        /// Sizes in bytes
        #[arg(long, value_delimiter = ',', default_value = "64,1400")]
        sizes: Vec<usize>,
    },
    /// The far end of a ring (started by the bench itself)
    #[command(hide = true)]
    Consume,
    /// The server of the kernel path (started by the bench itself)
    #[command(hide = true)]
    Serve,
    /// Holds ports in compartments (started by the bench itself)
    #[command(hide = true)]
    Hold,
    /// A counting receiver (started by the bench itself)
    #[command(hide = true, subcommand)]
    Sink(Receiver),
}

#[derive(Debug, Subcommand)]
enum Receiver {
    /// A kernel UDP socket
    Kernel { port: u16 },
    /// Endpoints of afnet, one for each compartment
    Afnet { instance: String, start: u32, end: u32, group: Option<Ipv4Addr> },
    /// An endpoint of afnet that sends everything back
    AfnetEcho { instance: String, compartment: u32, wake: Wake },
    /// A kernel UDP socket that sends everything back
    KernelEcho { port: u16 },
    /// Kernel UDP sockets in a group, one in each namespace
    Members { port: u16, group: Ipv4Addr, namespaces: Vec<String> },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Role::Sink(Receiver::Kernel { port })) => sink::kernel(port),
        Some(Role::Sink(Receiver::Afnet { instance, start, end, group })) => {
            afnet::receive(&instance, start..end, group)
        }
        Some(Role::Sink(Receiver::AfnetEcho { instance, compartment, wake })) => {
            afnet::answer_all(&instance, compartment, wake)
        }
        Some(Role::Sink(Receiver::KernelEcho { port })) => sink::kernel_echo(port),
        Some(Role::Sink(Receiver::Members { port, group, namespaces })) => {
            groups::receive(port, group, &namespaces)
        }
        Some(Role::Rate) => {
            let samples = Subject::Afnet(1).measure(&[64], Duration::from_secs(1))?;
            let Sample { offered, delivered } = samples[0];
            println!(
                "{:.2} million 64-byte datagrams per second delivered into one tenant process ({:.2} offered)",
                delivered / 1e6,
                offered / 1e6
            );
            Ok(())
        }
        Some(Role::KernelPath) => found(&arguments, |a| kernel_path::run(&a.kernel_path())),
        Some(Role::Shim) => found(&arguments, |a| {
            kernel_path::run(&kernel_path::Options { shim: true, crowds: Vec::new(), ..a.kernel_path() })
        }),
        Some(Role::Groups { ref members }) => {
            found(&arguments, |a| Ok(groups::run(a.rounds, a.time(), members)))
        }
        Some(Role::Echo { ref sizes }) => found(&arguments, |a| Ok(echo::run(a.rounds, a.time(), sizes))),
        Some(Role::Latency) => found(&arguments, |a| Ok(latency::run(a.rounds, a.time()))),
        Some(Role::Overload) => found(&arguments, |a| Ok(overload::run(a.rounds, a.time()))),
        Some(Role::Local { ref sizes }) => found(&arguments, |a| Ok(local::run(a.rounds, a.time(), sizes))),
        Some(Role::Ring { ref sizes }) => found(&arguments, |a| Ok(ring::run(a.rounds, a.time(), sizes))),
        Some(Role::Consume) => ring::consume(),
        Some(Role::Serve) => kernel_path::server::serve(),
        Some(Role::Hold) => kernel_path::crowd::hold(),
        None => bench(&arguments),
    }
}

impl Arguments {
    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn kernel_path(&self) -> kernel_path::Options {
        kernel_path::Options {
            rounds: self.rounds,
            time: self.time(),
            only: self.only.clone(),
            measures: self.measures.clone(),
            crowds: self.crowds.iter().copied().filter(|crowd| *crowd > 0).collect(),
            shim: false,
        }
    }
}

/// One comparison by itself.
fn found(arguments: &Arguments, run: impl FnOnce(&Arguments) -> Result<Findings>) -> Result<()> {
    let machine = Machine::here();
    let _priority = Priority::raise();
    show(arguments, &Report { machine, findings: Some(run(arguments)?), ..Default::default() })
}

fn show(arguments: &Arguments, report: &Report) -> Result<()> {
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(report)?);
    } else {
        report.print();
    }
    Ok(())
}

fn bench(arguments: &Arguments) -> Result<()> {
    let mut report = Report { machine: Machine::here(), ..Default::default() };
    let _priority = Priority::raise();
    let many = Subject::Afnet(arguments.compartments);
    let subjects = [
        Subject::Afnet(1),
        many,
        Subject::Dpdk,
        Subject::Bridge,
        Subject::Routing,
        Subject::Macvlan,
        Subject::HostSocket,
    ];
    let wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| name.starts_with(only));
    let mut chosen: Vec<(Subject, Vec<Vec<Sample>>)> = Vec::new();
    for subject in subjects.into_iter().filter(|subject| wanted(&subject.name())) {
        match subject.missing() {
            Some(why) => drop(report.missing.insert(subject.name(), why)),
            None => chosen.push((subject, vec![Vec::new(); arguments.sizes.len()])),
        }
    }
    let time = arguments.time();
    for round in 1..=arguments.rounds {
        for (subject, samples) in &mut chosen {
            eprintln!("round {round} of {}: {}", arguments.rounds, subject.name());
            let measured = subject.measure(&arguments.sizes, time).with_context(|| subject.name())?;
            samples.iter_mut().zip(measured).for_each(|(samples, sample)| samples.push(sample));
        }
    }
    for (i, &size) in arguments.sizes.iter().enumerate() {
        report
            .rates
            .extend(chosen.iter().map(|(subject, samples)| Rate::new(subject.name(), size, &samples[i])));
    }
    report.compare(&arguments.sizes, &many.name());
    if kernel_path::site::Place::ALL.iter().any(|place| wanted(place.name())) {
        report.findings = Some(kernel_path::run(&arguments.kernel_path().brief())?);
    }
    if arguments.cost > 0 {
        for (name, way) in [
            ("afnet", cost::afnet as fn(u32) -> Result<cost::Cost>),
            ("afnet", cost::afnet_command),
            ("netns+bridge", cost::bridge),
        ] {
            if wanted(name) {
                eprintln!("adding {} containers: {name}", arguments.cost);
                report.costs.push(way(arguments.cost)?);
            }
        }
    }
    show(arguments, &report)
}
