//! Random sequences of socket calls (`probe/calls/fuzz.c`) on the kernel's sockets and on accelerated ones.
//!
//! `FUZZ_SEEDS=FIRST..END` and `FUZZ_STEPS=N` for longer runs than the default. A difference tells its seed.

use std::{env, ops::Range};

use afnet_tests::shim::Counts;

use crate::{
    accepted,
    run::{Carried, Case, finish, is_sound},
    world::{CALLS, NAME, Way, World},
};

/// Seeds of a run without further wishes: some seconds.
const SEEDS: Range<u64> = 1..41;
/// Calls, or attempts at them, of each.
const STEPS: &str = "250";

#[test]
fn random_calls() {
    let seeds = env::var("FUZZ_SEEDS").map_or(SEEDS, |text| {
        let (first, end) = text.split_once("..").expect("FUZZ_SEEDS=FIRST..END");
        first.parse().expect("a number")..end.parse().expect("a number")
    });
    let steps = env::var("FUZZ_STEPS").unwrap_or(STEPS.into());
    let (oracle, world) = (World::oracle("fuzz"), World::confined("fuzz"));
    let mut daemon = world.daemon();
    let mut findings = String::new();
    let (mut accelerated, mut carried) = (0, 0);
    for seed in seeds {
        let family = if seed % 2 == 0 { '6' } else { '4' };
        let port = 10_000 + usize::try_from(seed % 1000).expect("small") * 20;
        let case = Case { name: "fuzz".into(), family, port, carried: Carried::Setup };
        let play = |world: &World, daemon, way| {
            let mut command = world.command(way, daemon, CALLS);
            command.args(["fuzz", &family.to_string(), &port.to_string()]).arg(world.socket());
            command.env("FUZZ_SEED", seed.to_string()).env("FUZZ_STEPS", &steps);
            finish(world, &mut command)
        };
        let truth = play(&oracle, None, Way::Oracle);
        let outcome = play(&world, Some(&daemon), Way::Fast);
        let counts = Counts::take(&world.stats());
        accelerated += counts.of("accelerated");
        carried += counts.of("rx") + counts.of("tx");
        assert!(is_sound(&truth.answers), "seed {seed}: the case itself is wrong:\n{}", truth.answers);
        let different = accepted::compare(&case, Way::Fast, &truth.answers, &outcome.answers);
        if !different.is_empty() {
            findings += &format!("FUZZ_SEEDS={seed}..{} FUZZ_STEPS={steps}\n{different}", seed + 1);
        }
    }
    assert!(findings.is_empty(), "\n{findings}");
    assert!(accelerated > 0 && carried > 0, "{accelerated} sockets accelerated, {carried} datagrams");
    daemon.ok(&format!("del {NAME} --force"));
    daemon.stop();
}
