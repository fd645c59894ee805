//! The cluster in virtual time, one seed at a time (design §3).
//!
//! `SIM_SEEDS=5000 cargo test --test sim` runs more seeds, `SIM_SEED=17` one, and with
//! `SIM_TRACE=body-0-4,client-2` prints what concerns these texts.

#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a simulation that cannot go on should say where"
)]

mod check;
mod client;
mod faults;
mod peer;
mod rng;
mod store;
mod world;

use faults::{ALL_FAULTS, ALL_PLANTED, Coverage, Planted};
use world::World;

/// Histories in the gate.
const SEEDS: u64 = 1_000;
/// At most so many until a planted fault must have been caught.
const PLANTED_SEEDS: u64 = 200;
/// Faults go on for so long, in virtual milliseconds.
const CHAOS_MS: u64 = 150_000;
/// Then everything must settle: all graces over, all repetitions due.
const CALM_MS: u64 = 420_000;

struct Run {
    verdict: Result<(), String>,
    coverage: Coverage,
    envelopes: usize,
    reattaches: usize,
}

fn run(seed: u64, planted: Option<Planted>) -> Run {
    let mut world = World::new(seed, planted);
    world.run_until(CHAOS_MS);
    world.calm();
    world.run_until(CHAOS_MS + CALM_MS);
    if !world.check.failed() {
        check::settled(&mut world);
    }
    let coverage = std::mem::take(&mut world.coverage);
    let (envelopes, reattaches) = (world.check.envelopes, world.check.reattaches);
    Run { verdict: world.check.verdict(), coverage, envelopes, reattaches }
}

#[test]
fn promises_hold_in_every_history() {
    let one = number("SIM_SEED");
    let seeds = one.map_or(0..number("SIM_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let runs: Vec<Run> = std::thread::scope(|scope| {
        let work = |worker: u64| {
            let seeds = seeds.clone().filter(move |seed| seed % workers == worker);
            scope.spawn(move || seeds.map(|seed| run(seed, None)).collect::<Vec<_>>())
        };
        let handles: Vec<_> = (0..workers).map(work).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("no panic")).collect()
    });
    let mut coverage = Coverage::new();
    let (mut envelopes, mut reattaches) = (0, 0);
    let mut failures = Vec::new();
    let count = runs.len();
    let fewest = runs.iter().map(|run| run.envelopes).min().unwrap_or(0);
    for run in runs {
        run.coverage
            .iter()
            .for_each(|(fault, times)| *coverage.entry(*fault).or_default() += times);
        envelopes += run.envelopes;
        reattaches += run.reattaches;
        failures.extend(run.verdict.err());
    }
    println!(
        "{count} histories, {envelopes} envelopes (at least {fewest} each), {reattaches} reattaches"
    );
    for fault in ALL_FAULTS {
        println!("  {fault:?}: {}", coverage.get(&fault).copied().unwrap_or(0));
    }
    failures.iter().take(10).for_each(|failure| println!("{failure}"));
    assert!(failures.is_empty(), "{} of {count} histories break a promise", failures.len());
    if one.is_none() {
        let silent: Vec<_> = ALL_FAULTS.iter().filter(|f| !coverage.contains_key(f)).collect();
        assert!(silent.is_empty(), "never fired: {silent:?}");
    }
}

#[test]
fn every_planted_fault_is_caught() {
    let mut missed = Vec::new();
    for planted in ALL_PLANTED {
        let caught = (0..PLANTED_SEEDS).find_map(|seed| {
            run(seed, Some(planted)).verdict.err().map(|violation| (seed, violation))
        });
        match caught {
            Some((seed, violation)) => {
                println!("{planted:?}: caught after {} seeds ({violation})", seed + 1);
            }
            None => missed.push(planted),
        }
    }
    assert!(missed.is_empty(), "not caught in {PLANTED_SEEDS} seeds: {missed:?}");
}

fn number(name: &str) -> Option<u64> {
    text(name)?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "a test's own knob")]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
