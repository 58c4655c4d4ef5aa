//! The whole cluster in one deterministic process: simulated network, disks, clocks and chance; faults from a seed; and a
//! checker that knows what a log must never do.
//!
//! ```text
//!   plan (seed) ──► cluster: controllers, brokers, clients on a simulated network
//!                     ▲ nemesis: kills, power cuts, splits, slow links, full and failing disks
//!                     └─► history ──► heal, drain ──► checker ──► anomalies
//! ```
//! A run is replayed by its seed: `THALWEG_SIM_SEED=7 cargo test -p thalweg-tests --test simulation one_run -- --nocapture`,
//! with `THALWEG_SIM_SHOW=info` (or debug, trace) to see what the services said.

mod board;
mod checker;
mod child;
mod cluster;
mod determinism;
mod dice;
mod nemesis;
mod net;
mod plan;
mod planted;
mod run;
mod trace;
mod workload;

use plan::{Outcome, Plan, Profile};
use std::env;
use std::time::{Duration, Instant};
use thalweg_core::planted::Bug;
use tracing::level_filters::LevelFilter;

/// Runs of the set: at least two simulated hours and 600 faults.
const SET: std::ops::RangeInclusive<u64> = 1..=24;
/// A planted bug must show itself within so many seeds.
const BUG_SEEDS: u64 = 24;
/// And within so much simulated time with faults.
const BUG_SECONDS: Duration = Duration::from_secs(150);

/// One plan: that of a parent process, or the seed in `THALWEG_SIM_SEED` (faults for `THALWEG_SIM_SECONDS`), or a short one.
#[test]
fn one_run() {
    if let Ok(text) = env::var(child::PLAN) {
        let plan = Plan::decode(&text).expect("a parent process writes good plans");
        child::report(&run::run(&plan, LevelFilter::OFF));
        return;
    }
    let number = |name| env::var(name).ok().map(|text| text.parse().expect("a number"));
    let mut plan = Plan::of_set(number("THALWEG_SIM_SEED").unwrap_or(1));
    plan.faults_for = match (number("THALWEG_SIM_SECONDS"), env::var("THALWEG_SIM_SEED")) {
        (Some(seconds), _) => Duration::from_secs(seconds),
        (None, Ok(_)) => plan.faults_for,
        (None, Err(_)) => Duration::from_secs(20),
    };
    plan.brokers = number("THALWEG_SIM_BROKERS").map_or(plan.brokers, |brokers| brokers as usize);
    plan.controllers = number("THALWEG_SIM_CONTROLLERS").map_or(plan.controllers, |number| number as usize);
    if let Ok(name) = env::var("THALWEG_SIM_PROFILE") {
        plan.profile = Profile::named(&name).expect("mixed, blackouts, volumes or coordinators");
    }
    plan.planted = env::var("THALWEG_SIM_PLANTED").ok();
    let show = env::var("THALWEG_SIM_SHOW").map_or(LevelFilter::OFF, |text| text.parse().expect("a level"));
    let begun = determinism::real_now();
    let outcome = run::run(&plan, show);
    describe(&plan, &outcome);
    println!(
        "{:.1} s of real time, digest {:016x}",
        (determinism::real_now() - begun).as_secs_f64(),
        outcome.digest
    );
    assert_eq!(outcome.anomalies, [""; 0], "seed {}", plan.seed);
}

/// The same seed gives the same run, to the last segment on the network and the last word in the log.
#[test]
fn a_seed_can_be_replayed() {
    let plan = |seed| Plan { faults_for: Duration::from_secs(40), trace_network: true, ..Plan::new(seed) };
    let (once, again, other) = (child::run(&plan(1)), child::run(&plan(1)), child::run(&plan(2)));
    assert!(once.events > 1_000, "the trace is empty: {once:?}");
    assert_eq!(once, again);
    assert_ne!(once.digest, other.digest);
}

/// The checker sees each bug that is planted, within a few seeds, where the same faults show nothing without it.
#[test]
fn every_planted_bug_is_found() {
    let found = |bug: Bug| {
        let profile = match bug {
            Bug::AckBeforeSync => Profile::Blackouts,
            Bug::IsrWithoutEpochs => Profile::Volumes,
            Bug::HighWatermarkAhead | Bug::TruncateToHighWatermark | Bug::NoDeduplication => Profile::Mixed,
            Bug::CommitBeforeDurable
            | Bug::CommitOfAnybody
            | Bug::MoveBeforeGivenBack
            | Bug::UnfencedOwner => Profile::Coordinators,
        };
        let groups = profile == Profile::Coordinators;
        let (planted, faults_for) = (Some(bug.name().to_owned()), BUG_SECONDS);
        let plan = |seed| Plan { planted: planted.clone(), profile, groups, faults_for, ..Plan::new(seed) };
        let (mut seeds, mut seen) = (1..=BUG_SEEDS, None);
        let found = std::cell::Cell::new(false);
        child::run_all(
            || if found.get() { None } else { seeds.next().map(plan) },
            |plan, outcome| {
                let real = outcome.anomalies.iter().find(|anomaly| is_loss(anomaly));
                if let Some(anomaly) = real {
                    println!("{} at seed {}: {anomaly}", bug.name(), plan.seed);
                    found.set(true);
                    seen.get_or_insert(plan.seed);
                }
            },
        );
        seen.is_some()
    };
    let unseen: Vec<&str> = Bug::ALL.into_iter().filter(|bug| !found(*bug)).map(Bug::name).collect();
    assert_eq!(unseen, [""; 0], "these bugs were not found");
}

/// Whether an anomaly is about records or offsets: a panic or a cluster that hangs proves nothing.
fn is_loss(anomaly: &str) -> bool {
    use checker::Kind;
    let kinds = [
        Kind::LostWrite,
        Kind::Unseen,
        Kind::Duplicate,
        Kind::InconsistentOffsets,
        Kind::ReplicasDiffer,
        Kind::DoubleOwnership,
        Kind::ZombieCommit,
        Kind::LostCommit,
        Kind::GroupSkip,
        Kind::Undelivered,
    ];
    kinds.iter().any(|kind| anomaly.starts_with(kind.name()))
}

/// Many seeds, no anomaly. For as many minutes of real time as `THALWEG_SIM_MINUTES` says; without it, a fixed set.
#[test]
fn no_seed_shows_an_anomaly() {
    let minutes = env::var("THALWEG_SIM_MINUTES").ok().map(|text| text.parse().expect("a number of minutes"));
    let first = env::var("THALWEG_SIM_FIRST_SEED").map_or(*SET.start(), |text| text.parse().expect("a seed"));
    let end = minutes.map(|minutes: u64| Instant::now() + Duration::from_secs(minutes * 60));
    let mut seeds = first..;
    let next = || {
        let more = end.map_or_else(|| SET.contains(&seeds.start), |end| Instant::now() < end);
        if more { seeds.next().map(Plan::of_set) } else { None }
    };
    let mut total = Outcome::default();
    let mut broken = Vec::new();
    child::run_all(next, |plan, outcome| {
        describe(&plan, &outcome);
        total.simulated += outcome.simulated;
        total.faults += outcome.faults;
        total.sent += outcome.sent;
        total.acknowledged += outcome.acknowledged;
        total.read += outcome.read;
        total.commits += outcome.commits;
        if !outcome.anomalies.is_empty() {
            broken.push(plan.seed);
            total.anomalies.extend(outcome.anomalies);
        }
    });
    println!(
        "in all: {:.2} simulated hours, {} faults, {} records sent, {} acknowledged as durable, {} read, {} offsets committed, \
         {} anomalies",
        total.simulated.as_secs_f64() / 3600.0,
        total.faults,
        total.sent,
        total.acknowledged,
        total.read,
        total.commits,
        total.anomalies.len()
    );
    assert_eq!(broken, [0; 0], "these seeds show anomalies");
    assert!(total.simulated >= Duration::from_secs(7_200) && total.faults >= 600, "the set is too small");
}

fn describe(plan: &Plan, outcome: &Outcome) {
    println!(
        "seed {}: {} simulated seconds, {} faults, {} records sent, {} acknowledged as durable, {} read, {} offsets committed, \
         {} anomalies",
        plan.seed,
        outcome.simulated.as_secs(),
        outcome.faults,
        outcome.sent,
        outcome.acknowledged,
        outcome.read,
        outcome.commits,
        outcome.anomalies.len()
    );
    for anomaly in outcome.anomalies.iter().take(20) {
        println!("    {anomaly}");
    }
}
