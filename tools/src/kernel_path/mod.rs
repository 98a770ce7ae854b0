//! What the kernel path costs: the same servers in a compartment, on the host itself, and in namespaces, each measured
//! by the same clients in the same run.
//!
//! | module | contents |
//! |---|---|
//! | [`site`] | the places, with their beds and servers |
//! | [`server`] | the bench's own server |
//! | [`client`] | the bench's own clients |
//! | [`measure`] | what is measured, and the third-party clients |
//! | [`crowd`] | a thousand compartments that hold the same ports |
//!
//! All places stand from the start to the end. In each round each measure goes over all places, one shortly after the
//! other and each time in another order; ratios are made round by round.

pub mod client;
pub mod crowd;
pub mod measure;
pub mod server;
pub mod site;

use afnet_tests::bed::Bed;
use anyhow::Result;

use self::{
    measure::Measure,
    site::{Place, Site},
};
use crate::{
    cpu::Busy,
    figures::{Bench, Comparison, Figure, Findings},
};

/// What the project wants of a compartment, relative to each base; `None`: shown, not judged.
const BASES: [(Place, Place, Option<f64>); 5] = [
    (Place::Compartment, Place::Host, Some(0.95)),
    (Place::Compartment, Place::Bridge, Some(1.0)),
    (Place::Compartment, Place::Routing, Some(1.0)),
    (Place::Compartment, Place::HostByAfnet, None),
    (Place::HostNoXdp, Place::Host, None),
];

/// What the project wants of a server under the socket shim.
const SHIM_BASES: [(Place, Place, Option<f64>); 5] = [
    (Place::Shim, Place::Bridge, Some(2.0)),
    (Place::Shim, Place::Host, Some(1.3)),
    (Place::Shim, Place::Compartment, None),
    (Place::ShimBusy, Place::Bridge, Some(2.0)),
    (Place::ShimBusy, Place::Host, None),
];
/// Of round trips it wants 0.6 of the time, when sockets are busy.
const SHIM_ROUND_TRIP: f64 = 1.0 / 0.6;

/// Measures of the cost of a lookup.
const LOOKUP: [Measure; 3] = [Measure::Connects, Measure::UdpEcho, Measure::UdpRoundTrip];

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Rounds, time, and which places.
    pub bench: Bench,
    /// Only measures whose name begins so; empty: all.
    pub measures: Vec<String>,
    /// Compartments that hold the same ports, for the cost of a lookup; empty: do not measure it.
    pub crowds: Vec<u32>,
    /// UDP servers under the socket shim, too.
    pub shim: bool,
}

/// Measures everything.
///
/// # Errors
/// If a place cannot be set up.
pub fn run(options: &Options) -> Result<Findings> {
    let mut findings = Findings::default();
    places(options, &mut findings)?;
    if !options.crowds.is_empty() {
        lookups(options, &mut findings);
    }
    Ok(findings)
}

fn places(options: &Options, findings: &mut Findings) -> Result<()> {
    let wanted = |name: &str| {
        options.measures.is_empty() || options.measures.iter().any(|only| name.starts_with(&**only))
    };
    let mut measures = Vec::new();
    let all: &[Measure] = if options.shim { &Measure::UDP } else { &Measure::ALL };
    for measure in all.iter().copied().filter(|measure| wanted(measure.name())) {
        match measure.missing() {
            Some(why) => drop(findings.missing.insert(measure.name().into(), why)),
            None => measures.push(measure),
        }
    }
    let places: &[Place] = if options.shim { &Place::WITH_SHIM } else { &Place::ALL };
    let chosen = places.iter().filter(|place| options.bench.wants(place.name()));
    let beds: Vec<(Place, Bed)> = chosen.map(|place| (*place, Bed::new("path"))).collect();
    let mut sites = Vec::new();
    for (place, bed) in &beds {
        sites.push((place.name().to_owned(), Site::set_up(*place, bed, options.shim)?));
    }
    let bases = if options.shim { &SHIM_BASES } else { &BASES };
    let goals: Vec<_> = bases.iter().map(|&(over, under, goal)| (over.name(), under.name(), goal)).collect();
    measure_all(&mut sites, &measures, options, &goals, findings);
    Ok(())
}

/// The same server in one compartment while others, more and more, hold its ports.
fn lookups(options: &Options, findings: &mut Findings) {
    let beds: Vec<(u32, Bed)> = options.crowds.iter().map(|&crowd| (crowd, Bed::new("crowd"))).collect();
    let mut sites = Vec::new();
    for (crowd, bed) in &beds {
        match Site::among(*crowd, bed) {
            Ok(site) => sites.push((among(*crowd), site)),
            Err(error) => {
                findings.missing.insert(among(*crowd), format!("{error:#}"));
            }
        }
    }
    let names: Vec<String> = sites.iter().map(|(name, _)| name.clone()).collect();
    let goals: Vec<_> = names.iter().skip(1).map(|name| (name.as_str(), names[0].as_str(), None)).collect();
    measure_all(&mut sites, &LOOKUP, options, &goals, findings);
}

fn among(crowd: u32) -> String {
    format!("one of {crowd}")
}

/// Goes over sites and measures in rounds. What fails twice is not measured again, and said to be missing.
fn measure_all(
    sites: &mut [(String, Site<'_>)],
    measures: &[Measure],
    options: &Options,
    goals: &[(&str, &str, Option<f64>)],
    findings: &mut Findings,
) {
    // By measure, then by site.
    let mut rounds = vec![vec![Vec::new(); sites.len()]; measures.len()];
    let mut costs = rounds.clone();
    for round in 0..options.bench.rounds as usize {
        for ((measure, rounds), costs) in measures.iter().zip(&mut rounds).zip(&mut costs) {
            eprintln!("round {} of {}: {}", round + 1, options.bench.rounds, measure.name());
            for i in 0..sites.len() {
                // Forth and back, so that nobody always comes after the same one.
                let step = if round % 2 == 0 { i } else { sites.len() - 1 - i };
                let at = (step + round / 2) % sites.len();
                let (name, site) = &mut sites[at];
                let what = format!("{} of {name}", measure.name());
                if findings.missing.contains_key(&what) {
                    continue;
                }
                let mut busy = Busy::now();
                let value = measure.of(site, options.bench.time).or_else(|error| {
                    eprintln!("{what}, once more: {error:#}");
                    busy = Busy::now();
                    measure.of(site, options.bench.time)
                });
                match value {
                    Ok(value) => {
                        rounds[at].push(value);
                        costs[at].push(busy.cpus() / value * 1e3);
                    }
                    Err(error) => {
                        findings.missing.insert(what, format!("{error:#}"));
                        rounds[at].clear();
                    }
                }
            }
        }
    }
    let at = |name: &str| sites.iter().position(|(site, _)| site == name);
    for ((&measure, rounds), costs) in measures.iter().zip(rounds).zip(costs) {
        for (over, under, goal) in goals {
            if let (Some(over_at), Some(under_at)) = (at(over), at(under)) {
                let pairs: Vec<_> =
                    rounds[over_at].iter().copied().zip(rounds[under_at].iter().copied()).collect();
                if pairs.is_empty() {
                    continue;
                }
                let goal = match goal {
                    Some(_) if options.shim && measure.is_time() => {
                        (*over == Place::ShimBusy.name()).then_some(SHIM_ROUND_TRIP)
                    }
                    goal => *goal,
                };
                let name = measure.name();
                findings.comparisons.push(Comparison::new(
                    name,
                    measure.is_time(),
                    (over, under),
                    &pairs,
                    goal,
                ));
                if options.shim && !measure.is_time() {
                    let pairs: Vec<_> =
                        costs[over_at].iter().copied().zip(costs[under_at].iter().copied()).collect();
                    let name = cost(measure);
                    findings.comparisons.push(Comparison::new(&name, true, (over, under), &pairs, None));
                }
            }
        }
        let measured = sites.iter().zip(rounds).filter(|(_, rounds)| !rounds.is_empty());
        let figures = measured
            .map(|((name, _), rounds)| Figure::new(measure.name(), measure.unit(), name.clone(), rounds));
        findings.figures.extend(figures);
        if options.shim && !measure.is_time() {
            let measured = sites.iter().zip(costs).filter(|(_, costs)| !costs.is_empty());
            let figures =
                measured.map(|((name, _), costs)| Figure::new(&cost(measure), "us/op", name.clone(), costs));
            findings.figures.extend(figures);
        }
    }
}

/// Of what an operation of a measure costs: time of both CPUs, the client's and the generator's included.
fn cost(measure: Measure) -> String {
    format!("{} cpu", measure.name())
}
