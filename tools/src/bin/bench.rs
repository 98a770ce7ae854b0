//! `tools/bench`: delivered packets per second of afnet and its peers, and what a compartment costs.

use std::time::Duration;

use afnet_tools::{
    afnet, cost,
    report::{Machine, Rate, Report},
    sink,
    subject::{Sample, Subject},
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
    #[arg(long, short = 'j')]
    json: bool,
    /// Rounds over all subjects
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Frame sizes in bytes
    #[arg(long, value_delimiter = ',', default_value = "64,1400")]
    sizes: Vec<usize>,
    /// Compartments of the subject with many
    #[arg(long, default_value_t = 1024)]
    compartments: u32,
    /// Only subjects whose name begins so
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Containers to add when measuring what one costs; 0: do not
    #[arg(long, default_value_t = 1000)]
    cost: u32,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// One line: what a single afnet tenant receives
    Rate,
    /// A counting receiver (started by the bench itself)
    #[command(hide = true, subcommand)]
    Sink(Receiver),
}

#[derive(Debug, Subcommand)]
enum Receiver {
    /// A kernel UDP socket
    Kernel { port: u16 },
    /// Endpoints of afnet, one for each compartment
    Afnet { instance: String, compartments: u32 },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match arguments.command {
        Some(Role::Sink(Receiver::Kernel { port })) => sink::kernel(port),
        Some(Role::Sink(Receiver::Afnet { instance, compartments })) => {
            afnet::receive(&instance, compartments)
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
        None => bench(&arguments),
    }
}

fn bench(arguments: &Arguments) -> Result<()> {
    let mut report = Report { machine: Machine::here(), ..Default::default() };
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
    let time = Duration::from_secs_f64(arguments.seconds);
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
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    Ok(())
}
