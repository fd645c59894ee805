//! The cluster in virtual time, one seed at a time (design §3).
//!
//! `SIM_SEEDS=100000 cargo test --release --test sim promises` soaks, `SIM_SEED=17` runs one, and with
//! `SIM_TRACE=body-0-4,client-2` prints what concerns these texts. `SIM_PLANTED=DoneIgnored` plants
//! that mistake.

#![expect(
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "a simulation that cannot go on should say where"
)]

mod beside;
mod chaos;
mod cheat;
mod check;
mod client;
mod faults;
mod peer;
mod plant;
mod rng;
mod scenes;
mod store;
mod verbs;
mod world;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use faults::{Coverage, Fault, Planted, STAGED};
use world::World;

/// Histories in the gate.
const SEEDS: u64 = 2_000;
/// At most so many until a planted fault must have been caught.
const PLANTED_SEEDS: u64 = 200;
/// Faults go on for so long, in virtual milliseconds.
const CHAOS_MS: u64 = 150_000;
/// Then everything must settle: all graces over, all repetitions due.
const CALM_MS: u64 = 420_000;

/// So long after the last fault traffic flows again, and is answered within so long.
const RESUME_MS: u64 = 15_000;
const PROMPT_MS: u64 = 3_000;

/// What every history must have seen; the faults go on until it has.
const ENVELOPES: usize = 200;
const CRASHES: usize = 3;
const REATTACHES: usize = 3;
/// But no longer than this.
const CHAOS_MOST_MS: u64 = 900_000;

struct Run {
    seed: u64,
    verdict: Result<(), String>,
    coverage: Coverage,
    envelopes: usize,
    reattaches: usize,
    crashes: usize,
}

fn run(seed: u64, planted: Option<Planted>) -> Run {
    let mut world = World::new(seed, planted);
    let mut end = CHAOS_MS;
    world.run_until(end);
    while !world.check.failed() && end < CHAOS_MOST_MS && !has_seen_enough(&world) {
        end += 10_000;
        world.run_until(end);
    }
    world.calm();
    world.run_until(end + RESUME_MS);
    let said = world.speak_up();
    world.run_until(end + RESUME_MS + PROMPT_MS);
    check::resumed(&mut world, &said);
    world.run_until(end + CALM_MS);
    if !world.check.failed() {
        check::settled(&mut world);
    }
    let mut coverage = std::mem::take(&mut world.coverage);
    for (fault, times) in &world.check.coverage {
        *coverage.entry(*fault).or_default() += times;
    }
    let (reattaches, crashes) = (world.check.reattaches(), world.crashes);
    let envelopes = world.store.now.envelopes.len();
    Run { seed, verdict: world.check.verdict(), coverage, envelopes, reattaches, crashes }
}

fn has_seen_enough(world: &World) -> bool {
    world.store.now.envelopes.len() >= ENVELOPES
        && world.crashes >= CRASHES
        && world.check.reattaches() >= REATTACHES
}

/// Runs `work` on every core until there is none left, and puts the results together.
fn on_all_cores<T: Send>(work: impl Fn() -> Option<T> + Sync) -> Vec<T> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let worker = || std::iter::from_fn(&work).collect::<Vec<_>>();
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        handles.into_iter().flat_map(|handle| handle.join().expect("no panic")).collect()
    })
}

#[test]
fn promises_hold_in_every_history() {
    let one = number("SIM_SEED");
    let seeds = one.map_or(0..number("SIM_SEEDS").unwrap_or(SEEDS), |seed| seed..seed + 1);
    let planted = text("SIM_PLANTED");
    let named = |fault: &&Planted| planted.as_ref().is_some_and(|p| *p == format!("{fault:?}"));
    let planted = Planted::ALL.iter().find(named).copied();
    let next = AtomicU64::new(seeds.start);
    let mut runs = on_all_cores(|| {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        (seed < seeds.end).then(|| run(seed, planted))
    });
    runs.sort_by_key(|run| run.seed);
    let failures: Vec<_> = runs.iter().filter_map(|run| run.verdict.as_ref().err()).collect();
    failures.iter().take(40).for_each(|failure| println!("{failure}"));
    let coverage = summary(&runs);
    let count = runs.len();
    assert!(failures.is_empty(), "{} of {count} histories break a promise", failures.len());
    for Run { seed, envelopes, reattaches, crashes, .. } in &runs {
        assert!(
            *envelopes >= ENVELOPES && *crashes >= CRASHES && *reattaches >= REATTACHES,
            "seed {seed}: {envelopes} envelopes, {crashes} crashes, {reattaches} reattaches"
        );
    }
    if one.is_none() {
        let silent: Vec<_> = Fault::ALL.iter().filter(|f| !coverage.contains_key(*f)).collect();
        assert!(silent.is_empty(), "never fired: {silent:?}");
    }
}

/// Prints what the histories have seen.
fn summary(runs: &[Run]) -> Coverage {
    println!("{} histories", runs.len());
    let print = |what: &str, counts: Vec<usize>| {
        let (all, least) = (counts.iter().sum::<usize>(), counts.iter().min().copied());
        println!("  {what}: {all}, at least {} each", least.unwrap_or(0));
    };
    print("envelopes", runs.iter().map(|run| run.envelopes).collect());
    print("crashes", runs.iter().map(|run| run.crashes).collect());
    print("reattaches", runs.iter().map(|run| run.reattaches).collect());
    let mut coverage = Coverage::new();
    for (fault, times) in runs.iter().flat_map(|run| &run.coverage) {
        *coverage.entry(*fault).or_default() += times;
    }
    for fault in Fault::ALL {
        println!("  {fault:?}: {}", coverage.get(fault).copied().unwrap_or(0));
    }
    coverage
}

#[test]
fn every_planted_fault_is_caught() {
    let next = AtomicUsize::new(0);
    let results = on_all_cores(|| {
        let mut chance = Planted::ALL.iter().filter(|planted| !STAGED.contains(planted));
        let planted = *chance.nth(next.fetch_add(1, Ordering::Relaxed))?;
        let caught = (0..PLANTED_SEEDS).find_map(|seed| {
            run(seed, Some(planted)).verdict.err().map(|violation| (seed, violation))
        });
        Some((planted, caught))
    });
    for (planted, caught) in &results {
        if let Some((seed, violation)) = caught {
            println!("{planted:?}: caught after {} seeds ({violation})", seed + 1);
        }
    }
    let missed: Vec<_> = results.iter().filter(|(_, caught)| caught.is_none()).collect();
    assert!(missed.is_empty(), "not caught in {PLANTED_SEEDS} seeds: {missed:?}");
}

fn number(name: &str) -> Option<u64> {
    text(name)?.parse().ok()
}

#[expect(clippy::disallowed_methods, reason = "a test's own knob")]
fn text(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
