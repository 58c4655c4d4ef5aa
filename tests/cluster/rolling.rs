//! Every process of a cluster is stopped and started again, one after the other, as Kubernetes does it, under producers and a
//! consumer group: with the same program, and from an older program to this one.
//!
//! | variable | what it does |
//! |---|---|
//! | `THALWEG_ROLL_ROUNDS` | how often all processes are rolled, by default once |
//! | `THALWEG_OLD_BINARY` | the program that the cluster is upgraded from; without it that test does nothing |

mod load;
mod readers;
mod times;

use crate::harness::{Cli, Cluster, Server, Setup, from_workspace, program_under_test};
use load::Load;
use readers::Readers;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use times::Times;

const TOPIC: &str = "rolled";
const PARTITIONS: u32 = 6;
/// What Kubernetes gives a broker before it kills it, as the upgrade's page advises.
const BROKER_GRACE: Duration = Duration::from_secs(60);
/// What it gives the others.
const GRACE: Duration = Duration::from_secs(30);
/// How long a process that was started may take until the cluster is whole again, however slow the machine.
const WHOLE_AGAIN_MS: &str = "90000";
/// Load before the first process stops and after the last one came back.
const CALM: Duration = Duration::from_secs(3);

fn rounds() -> u32 {
    match std::env::var("THALWEG_ROLL_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("THALWEG_ROLL_ROUNDS is a number"),
        Err(_) => 1,
    }
}

#[derive(Debug, Clone, Copy)]
enum Process {
    Controller(u64),
    Broker(i32),
    Coordinator(i32),
}

/// Controllers first, the leading one last of them; then brokers, then coordinators.
fn order(cluster: &Cluster) -> Vec<Process> {
    let leader = cluster.leading_controller();
    let mut controllers = cluster.controller_ids();
    controllers.sort_by_key(|id| *id == leader);
    let brokers = cluster.broker_ids().into_iter().map(Process::Broker);
    let coordinators = cluster.coordinator_ids().into_iter().map(Process::Coordinator);
    controllers.into_iter().map(Process::Controller).chain(brokers).chain(coordinators).collect()
}

fn server_of(cluster: &mut Cluster, process: Process) -> &mut Server {
    match process {
        Process::Controller(id) => cluster.controller(id),
        Process::Broker(id) => cluster.broker(id),
        Process::Coordinator(id) => cluster.coordinator(id),
    }
}

/// Stops one process, starts it again, with another program if one is given, and waits until a budget would let the next one go.
fn restart(cluster: &mut Cluster, process: Process, program: Option<&Path>) {
    let begun = Instant::now();
    let grace = if matches!(process, Process::Broker(_)) { BROKER_GRACE } else { GRACE };
    let server = server_of(cluster, process);
    server.stop_within(grace);
    let stopped = begun.elapsed();
    if let Some(program) = program {
        server.set_program(Some(program.to_owned()));
    }
    server.start();
    server.await_health();
    let ready = begun.elapsed();
    cluster.cli(&["cluster", "health", "--timeout-ms", WHOLE_AGAIN_MS]).run().ok();
    println!(
        "{process:?}: stopped after {stopped:.2?}, ready after {ready:.2?}, all in sync after {:.2?}",
        begun.elapsed()
    );
}

fn start(program: Option<PathBuf>) -> Cluster {
    Cluster::start_with(Setup {
        coordinators: 2,
        controller_flags: vec!["--offsets-topic-partitions", "8"],
        metrics: true,
        program,
        ..Setup::default()
    })
}

/// Ends the load and compares what was sent with what is stored and what the group was given.
fn check(cluster: &Cluster, load: Load, readers: Readers) -> Times {
    let written = load.finish();
    let stored = load::read_all(cluster);
    written.check(&stored);
    let given = readers.finish(written.count());
    given.check(&stored);
    println!(
        "{} records written, each stored once and in order; the group was given {} twice; the longest time without a record was {:.2?}",
        written.count(),
        given.doubled(),
        given.longest_gap(),
    );
    given.assert_none_doubled();
    written.times()
}

#[test]
fn a_cluster_is_rolled_without_an_error_a_loss_or_a_double() {
    let mut cluster = start(None);
    cluster.create_topic(TOPIC, PARTITIONS, &[]);
    let readers = Readers::start(&cluster);
    let mut load = Load::start(&cluster.bootstrap());
    std::thread::sleep(CALM);
    load.begin("the roll");
    for round in 1..=rounds() {
        println!("round {round} of {}", rounds());
        for process in order(&cluster) {
            restart(&mut cluster, process, None);
        }
    }
    load.begin("after it");
    std::thread::sleep(CALM);
    let times = check(&cluster, load, readers);
    println!("{times}");
}

#[test]
fn a_cluster_is_upgraded_from_an_old_program_without_an_error_a_loss_or_a_double() {
    let Some(old) = std::env::var_os("THALWEG_OLD_BINARY") else {
        println!("skipped: THALWEG_OLD_BINARY names no older program to upgrade from");
        return;
    };
    let old = from_workspace(Path::new(&old)).canonicalize().expect("THALWEG_OLD_BINARY is a file");
    let new = program_under_test();
    let mut cluster = start(Some(old.clone()));
    cluster.create_topic(TOPIC, PARTITIONS, &[]);
    let readers = Readers::start(&cluster);
    let mut load = Load::start(&cluster.bootstrap());
    std::thread::sleep(CALM);
    load.begin("the upgrade");
    let order = order(&cluster);
    for process in order {
        restart(&mut cluster, process, Some(&new));
        if matches!(process, Process::Broker(3)) {
            // The coordinators are the last that do not know the new level.
            let refused = cluster.cli(&["cluster", "features", "upgrade"]).run();
            assert_eq!(refused.code, 1, "{}", refused.text());
            for expected in ["coordinator 1 supports level 1", "coordinator 2 supports level 1"] {
                assert!(refused.stderr.contains(expected), "{}", refused.stderr);
            }
        }
    }
    assert_eq!(level(&cluster), 1, "nobody raised it");
    let would = cluster.cli(&["cluster", "features", "upgrade", "--dry-run"]).run().ok();
    assert!(would.text().contains("can be raised from 1 to 2"), "{}", would.text());
    assert_eq!(level(&cluster), 1, "that was a dry run");
    cluster.cli(&["cluster", "features", "upgrade"]).run().ok();
    assert_eq!(level(&cluster), 2);
    load.begin("after it");

    // The way back is closed, with a word that says so.
    for process in [Process::Coordinator(1), Process::Broker(1)] {
        let server = server_of(&mut cluster, process);
        server.stop_within(BROKER_GRACE);
        server.set_program(Some(old.clone()));
        server.spawn();
        let status = server.wait();
        assert!(!status.success(), "{process:?} of an old version is not taken");
        let said = server.stderr_tail();
        assert!(said.contains("the cluster is at feature level 2"), "{process:?}: {said}");
        server.set_program(Some(new.clone()));
        server.start();
        cluster.cli(&["cluster", "health", "--timeout-ms", WHOLE_AGAIN_MS]).run().ok();
    }
    let lowered = cluster.cli(&["cluster", "features", "upgrade", "--level", "1"]).run();
    assert_eq!(lowered.code, 1);
    assert!(lowered.stderr.contains("never lowered"), "{}", lowered.stderr);

    // And once more through, with the new level in the controllers' stores.
    for id in cluster.controller_ids() {
        restart(&mut cluster, Process::Controller(id), None);
    }
    assert_eq!(level(&cluster), 2);
    let times = check(&cluster, load, readers);
    println!("{times}");
}

/// The feature level in force; every process is known.
fn level(cluster: &Cluster) -> u64 {
    let begun = Instant::now();
    loop {
        let output = cluster.cli(&["cluster", "features", "-o", "json"]).run().ok();
        let features: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let processes = features["processes"].as_array().unwrap();
        assert_eq!(processes.len(), 8, "{features}");
        if processes.iter().all(|one| one["max_level"].is_number()) {
            return features["level"].as_u64().unwrap();
        }
        // A new leader has heard everyone after a heartbeat.
        assert!(begun.elapsed() < Duration::from_secs(30), "{features}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_founded_cluster_is_at_the_newest_level_and_says_so() {
    let cluster = start(None);
    assert_eq!(level(&cluster), 2);
    let text = cluster.cli(&["cluster", "features"]).run().ok().text();
    assert!(text.starts_with("FeatureLevel: 2\tNewest: 2\n"), "{text}");
    for process in ["controller 3", "broker 1", "coordinator 2"] {
        let line = text
            .lines()
            .find(|line| line.starts_with(process))
            .unwrap_or_else(|| panic!("{process}: {text}"));
        assert_eq!(line.split_whitespace().skip(2).collect::<Vec<_>>(), ["1-2", "alive"], "{text}");
    }
    let again = cluster.cli(&["cluster", "features", "upgrade"]).run().ok().text();
    assert_eq!(again.trim(), "the feature level is 2 already");
    let json = cluster.cli(&["cluster", "features", "upgrade", "--dry-run", "-o", "json"]).run().ok();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json, serde_json::json!({"level": 2, "previous_level": 2, "dry_run": true}));
    for (level, why) in [("1", "never lowered"), ("3", "install a newer version first")] {
        let refused = cluster.cli(&["cluster", "features", "upgrade", "--level", level]).run();
        assert_eq!(refused.code, 1, "{}", refused.stderr);
        assert!(refused.stderr.contains(why) && refused.stderr.contains("hint: "), "{}", refused.stderr);
    }
    let nonsense = Cli::new(&["cluster", "features", "upgrade", "--level", "0"]).run();
    assert_eq!(nonsense.code, 2, "{}", nonsense.stderr);
}
