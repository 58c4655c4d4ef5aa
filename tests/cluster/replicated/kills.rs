//! Brokers and controllers are killed and frozen at random under a producer that never stops. Nothing acknowledged is lost, nothing is
//! there twice, the order holds, and the replicas are the same byte for byte.

use crate::harness::{Cluster, Namespaces, Pace, Random, Setup, Steady};
use crate::kill_rounds::rounds;
use std::thread;
use std::time::Duration;

const TOPIC: &str = "kills";
const PARTITIONS: u32 = 6;
/// Rounds if `THALWEG_KILL_ROUNDS` does not say.
const ROUNDS: u64 = 4;
/// Acknowledgements between two faults at least.
const ACKS_BETWEEN: usize = 300;
/// A frozen broker, or one that is cut off, may come back before its session is over, or after.
const GONE_MS: u64 = 14_000;

/// What is done to the cluster.
#[derive(Debug)]
enum Fault {
    /// These processes are killed at the same moment.
    Kill { brokers: Vec<i32>, controllers: Vec<u64> },
    /// This broker stands still for so long.
    Freeze { broker: i32, time: Duration },
    /// Nothing gets to this broker or from it for so long.
    Cut { broker: i32, time: Duration },
}

impl Fault {
    /// One process most of the time; sometimes two, or all of them, as when the power fails.
    fn any(random: &mut Random, cluster: &Cluster) -> Fault {
        let (brokers, controllers) = (cluster.broker_ids(), cluster.controller_ids());
        match random.below(16) {
            0..=6 => Fault::Kill { brokers: vec![random.choose(&brokers)], controllers: Vec::new() },
            7..=9 => Fault::Kill { brokers: Vec::new(), controllers: vec![random.choose(&controllers)] },
            10 | 11 => Fault::Kill {
                brokers: vec![random.choose(&brokers)],
                controllers: vec![random.choose(&controllers)],
            },
            12 => {
                let spared = random.choose(&brokers);
                let two = brokers.into_iter().filter(|broker| *broker != spared).collect();
                Fault::Kill { brokers: two, controllers: Vec::new() }
            }
            13 => Fault::Kill { brokers, controllers },
            _ => Fault::Freeze {
                broker: random.choose(&brokers),
                time: Duration::from_millis(random.below(GONE_MS)),
            },
        }
    }

    /// Whether the cluster must go on without what is gone, if all was well before.
    fn is_survived(&self) -> bool {
        match self {
            Fault::Kill { brokers, controllers } => brokers.len() <= 1 && controllers.len() <= 1,
            Fault::Freeze { .. } | Fault::Cut { .. } => true,
        }
    }
}

#[test]
fn a_cluster_whose_processes_are_killed_at_random_loses_nothing() {
    torture(Cluster::start(), None, &["segment.bytes=1048576"], rounds(ROUNDS), Fault::any);
}

#[test]
fn a_cluster_whose_cables_are_pulled_at_random_loses_nothing() {
    let namespaces = match Namespaces::make(&[1, 2, 3]) {
        Ok(namespaces) => namespaces,
        Err(why) => {
            println!("skipped: this machine lets us make no network namespaces: {why}");
            return;
        }
    };
    let cluster = Cluster::start_in(Setup::default(), namespaces.places());
    torture(cluster, Some(&namespaces), &[], rounds(ROUNDS) / 2, |random, cluster| match random.below(3) {
        0 => Fault::any(random, cluster),
        _ => Fault::Cut {
            broker: random.choose(&cluster.broker_ids()),
            time: Duration::from_millis(random.below(GONE_MS)),
        },
    });
}

/// With `write.caching` an acknowledgement says that two brokers have it in memory: one at a time may die.
#[test]
fn a_cluster_that_syncs_late_loses_nothing_to_one_death_at_a_time() {
    torture(Cluster::start(), None, &["write.caching=true"], rounds(ROUNDS) / 2, |random, cluster| {
        Fault::Kill { brokers: vec![random.choose(&cluster.broker_ids())], controllers: Vec::new() }
    });
}

fn torture(
    mut cluster: Cluster,
    cables: Option<&Namespaces>,
    configs: &[&str],
    rounds: u64,
    next: impl Fn(&mut Random, &Cluster) -> Fault,
) {
    let mut random = Random::from_env("THALWEG_KILL_SEED");
    cluster.create_topic(TOPIC, PARTITIONS, configs);
    let namespace = cluster.namespace();
    let mut producer =
        Steady::start(&cluster.bootstrap(), namespace.as_deref(), TOPIC, PARTITIONS, "steady", Pace::EVEN);
    let partitions = producer.partitions();
    producer.await_acks(ACKS_BETWEEN);
    let cached = configs.contains(&"write.caching=true");
    for round in 0..rounds {
        // With every replica in sync the cluster must go on without any one broker; hit while it is still mending itself, it may
        // have to wait for the one that was hit.
        let whole = cached || random.below(3) > 0;
        if whole {
            cluster.await_in_sync(TOPIC);
        }
        let fault = next(&mut random, &cluster);
        println!("round {round}: {fault:?}, in sync before: {whole}");
        match &fault {
            Fault::Kill { brokers, controllers } => {
                brokers.iter().for_each(|broker| cluster.broker(*broker).kill());
                controllers.iter().for_each(|controller| cluster.controller(*controller).kill());
            }
            Fault::Freeze { broker, .. } => cluster.broker(*broker).freeze(),
            Fault::Cut { broker, .. } => cables.expect("there are cables to pull").cut(*broker),
        }
        if whole && fault.is_survived() {
            producer.next_acks(&partitions);
        } else {
            thread::sleep(Duration::from_millis(random.below(1_500)));
        }
        match fault {
            Fault::Kill { brokers, controllers } => {
                controllers.iter().for_each(|controller| cluster.controller(*controller).spawn());
                brokers.iter().for_each(|broker| cluster.broker(*broker).spawn());
                controllers.iter().for_each(|controller| drop(cluster.controller(*controller).await_ready()));
                brokers.iter().for_each(|broker| drop(cluster.broker(*broker).await_ready()));
            }
            Fault::Freeze { broker, time } => {
                thread::sleep(time);
                cluster.broker(broker).thaw();
            }
            Fault::Cut { broker, time } => {
                thread::sleep(time);
                cables.expect("there are cables to put back").mend(broker);
            }
        }
        producer.next_acks(&partitions);
        producer.await_acks(producer.acknowledged() + ACKS_BETWEEN);
    }
    let sent = producer.finish(false);
    println!("{} lines sent and acknowledged over {rounds} rounds", sent.acks());

    cluster.check_stored(TOPIC, &sent, &cluster.broker_ids());
    for controller in cluster.controller_ids() {
        cluster.controller(controller).stop();
    }
}
