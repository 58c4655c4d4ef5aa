//! How long a partition is without a leader. The figures are printed, not judged: `just failover` asks for many of them from a
//! release build.

use crate::harness::{Cluster, Namespaces, Pace, Setup, Steady};
use std::thread;
use std::time::{Duration, Instant};

const TOPIC: &str = "failover";
const PARTITIONS: u32 = 6;
/// Rounds of each kind if `THALWEG_FAILOVER_ROUNDS` does not say.
const ROUNDS: u32 = 1;
/// Acknowledgements that were on their way when the leader died belong to the time before.
const ON_THE_WAY: Duration = Duration::from_millis(50);
/// How long a graceful stop, or a new election among the controllers, is watched.
const WATCH: Duration = Duration::from_secs(6);

fn rounds() -> u32 {
    match std::env::var("THALWEG_FAILOVER_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("THALWEG_FAILOVER_ROUNDS is a number"),
        Err(_) => ROUNDS,
    }
}

/// Nothing says that the broker is gone: its session must run out, and its producer must notice that nobody answers.
#[test]
fn failover_of_a_broker_that_is_cut_off() {
    let namespaces = match Namespaces::make(&[1, 2, 3]) {
        Ok(namespaces) => namespaces,
        Err(why) => {
            println!("skipped: this machine lets us make no network namespaces: {why}");
            return;
        }
    };
    let cluster = Cluster::start_in(Setup::default(), namespaces.places());
    cluster.create_topic(TOPIC, PARTITIONS, &[]);
    let hub = cluster.namespace();
    let mut producer =
        Steady::start(&cluster.bootstrap(), hub.as_deref(), TOPIC, PARTITIONS, "steady", Pace::EVEN);
    producer.await_acks(200);
    let mut cut = Vec::new();
    for round in 0..rounds() {
        let (broker, led) = leader(&cluster, &producer, round);
        let begun = Instant::now();
        namespaces.cut(broker);
        thread::sleep(ON_THE_WAY);
        let first = producer.next_acks(&led);
        cut.extend(led.iter().map(|partition| first[partition] - begun));
        namespaces.mend(broker);
        cluster.await_in_sync(TOPIC);
        cluster.cli(&["topic", "elect-leaders"]).run().ok();
    }
    producer.finish(false);
    tell("cable of a leader's broker pulled, to the next acknowledged write", &mut cut);
}

#[test]
fn failover() {
    let rounds = rounds();
    let mut cluster = Cluster::start();
    cluster.create_topic(TOPIC, PARTITIONS, &[]);
    let mut producer = Steady::start(&cluster.bootstrap(), None, TOPIC, PARTITIONS, "steady", Pace::EVEN);
    producer.await_acks(200);
    let (mut killed, mut stopped, mut undisturbed, mut metadata) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let (broker, led) = leader(&cluster, &producer, round);
        let begun = Instant::now();
        cluster.broker(broker).kill();
        thread::sleep(ON_THE_WAY);
        let first = producer.next_acks(&led);
        killed.extend(led.iter().map(|partition| first[partition] - begun));
        recover(&mut cluster, broker);

        let (broker, led) = leader(&cluster, &producer, round);
        producer.catch_up();
        cluster.broker(broker).signal(rustix::process::Signal::TERM);
        let gaps = producer.longest_gaps(WATCH);
        println!(
            "round {round}: broker {broker} stopped; without an acknowledgement: {gaps:?}, it led {led:?}"
        );
        stopped.extend(led.iter().map(|partition| gaps[partition]));
        assert!(cluster.broker(broker).wait().success());
        recover(&mut cluster, broker);

        let controller = cluster.leading_controller();
        cluster.controller(controller).kill();
        let begun = Instant::now();
        let name = format!("new-{round}");
        let create = cluster.cli(&["topic", "create", &name, "--replication-factor", "3"]);
        let created = thread::spawn(move || {
            create.run().ok();
            begun.elapsed()
        });
        undisturbed.extend(producer.longest_gaps(WATCH).into_values());
        metadata.push(created.join().unwrap());
        cluster.controller(controller).start();
    }
    producer.finish(false);
    tell("SIGKILL of a leader's broker, to the next acknowledged write", &mut killed);
    tell("graceful stop of a leader's broker, longest time without an acknowledgement", &mut stopped);
    tell("SIGKILL of the leading controller, longest time without an acknowledgement", &mut undisturbed);
    tell("SIGKILL of the leading controller, to the next topic created", &mut metadata);
}

/// A broker that leads something, another one each round, and what it leads.
fn leader(cluster: &Cluster, producer: &Steady, round: u32) -> (i32, Vec<i32>) {
    let described = cluster.await_in_sync(TOPIC);
    let index = usize::try_from(round).unwrap() % described.len();
    let broker = described[index].leader;
    let written = producer.partitions();
    let led = described.iter().filter(|one| one.leader == broker && written.contains(&one.partition));
    (broker, led.map(|one| one.partition).collect())
}

fn recover(cluster: &mut Cluster, broker: i32) {
    cluster.broker(broker).start();
    cluster.await_in_sync(TOPIC);
    cluster.cli(&["topic", "elect-leaders"]).run().ok();
}

fn tell(what: &str, times: &mut [Duration]) {
    times.sort_unstable();
    let Some(last) = times.len().checked_sub(1) else { return };
    let at = |share: usize| times[last * share / 100].as_secs_f64();
    println!("{what}: p50 {:.3} s, p99 {:.3} s, max {:.3} s of {}", at(50), at(99), at(100), times.len());
}
