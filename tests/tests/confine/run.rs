//! Runs cases every way and compares.

use std::env;

use afnet_tests::{afnetd::Afnetd, bed::Bed};

use crate::{
    cast::{Cast, play},
    place::{HOST, Place, Shape},
    probe::Build,
    report::Report,
    script::Case,
    world::World,
};

/// A way to run cases beside the oracle.
type Way = (&'static str, fn(&Case) -> Vec<Cast>);

const WAYS: &[Way] = &[
    ("alone", |case| vec![Cast::new(case, Place::compartment(case.shape, 0), Build::Libc, 0)]),
    ("alone, raw", |case| vec![Cast::new(case, Place::compartment(case.shape, 0), Build::Raw, 0)]),
    ("crowd", crowd),
    ("crowd, reversed", |case| crowd(case).into_iter().rev().collect()),
];

/// Two compartments and, if it can have the same kind of addresses, the host.
fn crowd(case: &Case) -> Vec<Cast> {
    if !case.has_crowd() {
        return Vec::new();
    }
    let (first, second) = (Place::compartment(case.shape, 0), Place::compartment(case.shape, 1));
    let mut casts = vec![Cast::new(case, first, Build::Libc, 0), Cast::new(case, second, Build::Raw, 1)];
    if case.shape == Shape::Dual && !case.no_host && !case.only_confined {
        casts.push(Cast::new(case, HOST, Build::Libc, 2));
    }
    casts
}

/// Whether `CONFINE_WAYS` asks for it.
pub fn way_is_wanted(way: &str) -> bool {
    let ways = env::var("CONFINE_WAYS").unwrap_or_default();
    ways.is_empty() || ways.split(';').any(|wanted| wanted == way)
}

/// Runs cases every way.
///
/// # Panics
/// With everything that differs.
pub fn conform(label: &str, cases: &[Case]) {
    let wanted = env::var("CONFINE_CASE").unwrap_or_default();
    let cases: Vec<&Case> = cases.iter().filter(|case| case.name.contains(&wanted)).collect();
    let mut report = Report::default();
    let truths = truths(label, &cases, &mut report);
    if WAYS.iter().any(|(way, _)| way_is_wanted(way)) {
        let bed = Bed::new(label);
        World::prepare(&bed);
        let mut daemon = Afnetd::start(&bed);
        run_ways(&mut World::confined(&bed, &daemon), &cases, &truths, way_is_wanted, &mut report);
        report.assert_empty();
        for place in daemon.json("list").as_array().expect("a list") {
            daemon.ok(&format!("del {} --force", place["name"].as_str().expect("a name")));
        }
        daemon.stop();
    }
    report.assert_empty();
}

/// What the oracle answers to each case that has one.
pub fn truths(label: &str, cases: &[&Case], report: &mut Report) -> Vec<Option<Vec<String>>> {
    let mut oracle = World::oracle(label);
    let cast = |case: &Case| vec![Cast::new(case, Place::compartment(case.shape, 0), Build::Libc, 0)];
    let mut truth = |case: &&Case| {
        let truth = (!case.only_confined).then(|| play_again(&mut oracle, case, cast, None).remove(0))?;
        report.check_oracle(case, &truth);
        Some(truth)
    };
    cases.iter().map(&mut truth).collect()
}

/// Plays a case, and a second or third time if two of its ports happen to have the same number.
fn play_again(
    world: &mut World<'_>,
    case: &Case,
    casts: impl Fn(&Case) -> Vec<Cast>,
    truth: Option<&[String]>,
) -> Vec<Vec<String>> {
    let mut answers = play(world, case, casts(case));
    for _ in 0..2 {
        if !answers.iter().any(|answers| Report::is_about_ports(case, truth, answers)) {
            break;
        }
        answers = play(world, case, casts(case));
    }
    answers
}

/// Runs cases in the world of compartments, every way that is wanted.
pub fn run_ways(
    world: &mut World<'_>,
    cases: &[&Case],
    truths: &[Option<Vec<String>>],
    wanted: impl Fn(&str) -> bool,
    report: &mut Report,
) {
    for (case, truth) in cases.iter().zip(truths) {
        for (way, casts) in WAYS.iter().filter(|(way, _)| wanted(way)) {
            let unconfined: Vec<bool> = casts(case).iter().map(|cast| cast.unconfined).collect();
            if unconfined.is_empty() {
                continue;
            }
            for (copy, answers) in play_again(world, case, casts, truth.as_deref()).iter().enumerate() {
                let who = if unconfined[copy] { " (host)" } else { "" };
                let way = match unconfined.len() {
                    1 => way.to_string(),
                    _ => format!("{way}: copy {copy}{who}"),
                };
                report.compare(case, &way, truth.as_deref(), answers, unconfined[copy]);
            }
        }
    }
}
