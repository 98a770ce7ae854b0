//! `tools/bench`: afnet beside its peers.

use std::{fs, net::Ipv4Addr, path::PathBuf, time::Duration};

use afnet_tools::{
    afnet, bars, density, echo,
    figures::{Bench, Findings},
    groups, kernel_path, latency, local, overload,
    priority::Priority,
    rates,
    report::{Machine, Part, Report},
    ring, sink,
    subject::{Subject, Wake},
};
use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// Measures afnet beside its peers, all under the same load on one machine: everything, or one comparison.
///
/// Frames come from the kernel itself (BPF_F_TEST_XDP_LIVE_FRAMES on the device's XDP program, CPU 0) or from clients on
/// CPU 0, the receiver runs on CPU 1. Rounds are interleaved; medians are shown, and of ratios those of the rounds' own.
/// Needs root and a quiet machine.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Role>,
    /// Results as one JSON object
    #[arg(long, short = 'j', global = true)]
    json: bool,
    /// Draws the results into a file (SVG), too
    #[arg(long, value_name = "FILE", global = true)]
    plot: Option<PathBuf>,
    /// Rounds over all subjects
    #[arg(long, default_value_t = 3, global = true)]
    rounds: u32,
    /// Seconds of each measurement (third-party clients round up)
    #[arg(long, default_value_t = 1.0, global = true)]
    seconds: f64,
    /// Only subjects whose name begins so
    #[arg(long, value_delimiter = ',', global = true)]
    only: Vec<String>,
}

/// The comparisons; what each has by default is what a run of everything does.
#[derive(Clone, Debug, Subcommand)]
enum Role {
    /// Datagrams delivered to a process, by size and number of compartments, beside DPDK and kernel sockets
    Rates {
        /// Frame sizes in bytes, up to about 3400
        #[arg(long, value_delimiter = ',', default_value = "64,256,512,1400")]
        sizes: Vec<usize>,
        /// Compartments that get their share of frames; each takes five open files of the daemon, and thousands take long
        #[arg(long, value_delimiter = ',', default_value = "1,16,256,1024")]
        compartments: Vec<u32>,
    },
    /// Datagrams that are sent back, by size, beside DPDK and kernel sockets
    Echo {
        /// Frame sizes in bytes
        #[arg(long, value_delimiter = ',', default_value = "64,256,512,1400")]
        sizes: Vec<usize>,
    },
    /// The ring alone, from process to process, beside DPDK's memif
    Ring {
        /// Sizes in bytes
        #[arg(long, value_delimiter = ',', default_value = "64,1400")]
        sizes: Vec<usize>,
    },
    /// How soon an answer comes, at a low rate and at half of what can be answered, by how afnet waits, beside kernel
    /// sockets
    Latency,
    /// One receiver is flooded: what that does to another one
    Overload,
    /// What a compartment costs: time, memory; and CPU time of the daemon while tenants wait
    Density {
        /// Compartments
        #[arg(long, value_delimiter = ',', default_value = "1,100,1000")]
        numbers: Vec<u32>,
    },
    /// From one compartment to another, beside veth pairs
    Local {
        /// Sizes of payload in bytes
        #[arg(long, value_delimiter = ',', default_value = "64,1400")]
        sizes: Vec<usize>,
    },
    /// One stream for many members of a multicast group, beside namespaces behind a bridge
    Groups {
        /// Members
        #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
        members: Vec<u32>,
    },
    /// Ordinary servers in a compartment beside the same on the host and in namespaces: connections, requests, round
    /// trips, throughput; and what a lookup costs with many compartments
    KernelPath {
        /// Only measures whose name begins so
        #[arg(long, value_delimiter = ',')]
        measures: Vec<String>,
        /// Compartments that hold the same port while one of them is measured; 0: without that
        #[arg(long, value_delimiter = ',', default_value = "1,100,1000")]
        crowds: Vec<u32>,
    },
    /// UDP servers under the socket shim beside the same on the kernel path, on the host and in a namespace: queries,
    /// datagrams, round trips, and what each costs
    Shim {
        /// Only measures whose name begins so
        #[arg(long, value_delimiter = ',')]
        measures: Vec<String>,
    },
    /// One line: what a single afnet tenant receives
    Rate,
    /// The server of the kernel path (started by the bench itself)
    #[command(hide = true)]
    Serve,
    /// Holds ports in compartments (started by the bench itself)
    #[command(hide = true)]
    Hold,
    /// The far end of a ring (started by the bench itself)
    #[command(hide = true)]
    Consume,
    /// A counting receiver (started by the bench itself)
    #[command(hide = true, subcommand)]
    Sink(Receiver),
}

#[derive(Clone, Debug, Subcommand)]
enum Receiver {
    /// A kernel UDP socket
    Kernel { port: u16 },
    /// A kernel UDP socket that sends everything back
    KernelEcho { port: u16 },
    /// Kernel UDP sockets in a group, one in each namespace
    Members { port: u16, group: Ipv4Addr, namespaces: Vec<String> },
    /// Endpoints of afnet, one for each compartment
    Afnet { instance: String, start: u32, end: u32, group: Option<Ipv4Addr> },
    /// An endpoint of afnet that sends everything back
    AfnetEcho { instance: String, compartment: u32, wake: Wake },
    /// Endpoints of afnet that wait
    AfnetWaiting { instance: String, compartments: u32 },
}

/// What a run of everything does, one after the other.
const ALL: [&str; 10] =
    ["rates", "echo", "ring", "latency", "overload", "density", "local", "groups", "kernel-path", "shim"];

fn main() -> Result<()> {
    let Arguments { command, json, plot, rounds, seconds, only } = Arguments::parse();
    let bench = Bench { rounds, time: Duration::from_secs_f64(seconds), only };
    let roles = match command {
        Some(Role::Sink(receiver)) => return receive(receiver),
        Some(Role::Serve) => return kernel_path::server::serve(),
        Some(Role::Hold) => return kernel_path::crowd::hold(),
        Some(Role::Consume) => return ring::consume(),
        Some(Role::Rate) => {
            let row = Subject::Afnet(1).measure(64, bench.time)?;
            println!(
                "{:.2} million 64-byte datagrams per second delivered into one tenant process ({:.2} offered)",
                row[0], row[1]
            );
            return Ok(());
        }
        Some(role) => vec![role],
        None => ALL.iter().filter_map(|name| Arguments::parse_from(["bench", name]).command).collect(),
    };
    let mut report = Report { machine: Machine::here(), parts: Vec::new() };
    let _priority = Priority::raise();
    for role in &roles {
        if let Some((name, findings)) = measure(role, &bench)? {
            report.parts.push(Part { name, findings });
        }
    }
    if let Some(file) = plot {
        fs::write(&file, bars::svg(&report)).with_context(|| format!("write {}", file.display()))?;
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    Ok(())
}

fn measure(role: &Role, bench: &Bench) -> Result<Option<(&'static str, Findings)>> {
    let kernel_path = |measures: &Vec<String>, crowds: Vec<u32>, shim| kernel_path::Options {
        bench: bench.clone(),
        measures: measures.clone(),
        crowds,
        shim,
    };
    Ok(Some(match role {
        Role::Rates { sizes, compartments } => ("rates", rates::run(bench, sizes, compartments)),
        Role::Echo { sizes } => ("echo", echo::run(bench, sizes)),
        Role::Ring { sizes } => ("ring", ring::run(bench, sizes)),
        Role::Latency => ("latency", latency::run(bench)),
        Role::Overload => ("overload", overload::run(bench)),
        Role::Density { numbers } => ("density", density::run(bench, numbers)),
        Role::Local { sizes } => ("local", local::run(bench, sizes)),
        Role::Groups { members } => ("groups", groups::run(bench, members)),
        Role::KernelPath { measures, crowds } => {
            let crowds = crowds.iter().copied().filter(|crowd| *crowd > 0).collect();
            ("kernel-path", kernel_path::run(&kernel_path(measures, crowds, false))?)
        }
        Role::Shim { measures } => ("shim", kernel_path::run(&kernel_path(measures, Vec::new(), true))?),
        Role::Rate | Role::Serve | Role::Hold | Role::Consume | Role::Sink(_) => return Ok(None),
    }))
}

fn receive(receiver: Receiver) -> Result<()> {
    match receiver {
        Receiver::Kernel { port } => sink::kernel(port),
        Receiver::KernelEcho { port } => sink::kernel_echo(port),
        Receiver::Members { port, group, namespaces } => groups::receive(port, group, &namespaces),
        Receiver::Afnet { instance, start, end, group } => afnet::receive(&instance, start..end, group),
        Receiver::AfnetEcho { instance, compartment, wake } => {
            afnet::answer_all(&instance, compartment, wake)
        }
        Receiver::AfnetWaiting { instance, compartments } => afnet::wait_all(&instance, compartments),
    }
}
