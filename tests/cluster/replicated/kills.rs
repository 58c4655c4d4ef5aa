//! Brokers and controllers are killed at random under a producer that never stops. Nothing acknowledged is lost, nothing is there
//! twice, the order holds, and the replicas are the same byte for byte.

use crate::harness::{Acknowledged, Cluster, Pace, Random, Steady, reading};
use crate::kill_rounds::rounds;
use std::thread;
use std::time::Duration;

const TOPIC: &str = "kills";
const PARTITIONS: u32 = 6;
/// Rounds if `THALWEG_KILL_ROUNDS` does not say.
const ROUNDS: u64 = 4;
/// Acknowledgements between two kills at least.
const ACKS_BETWEEN: usize = 300;

#[test]
fn a_cluster_whose_processes_are_killed_at_random_loses_nothing() {
    let mut random = Random::from_env("THALWEG_KILL_SEED");
    let mut cluster = Cluster::start();
    cluster.create_topic(TOPIC, PARTITIONS, &["segment.bytes=1048576"]);
    let mut producer = Steady::start(&cluster.bootstrap(), None, TOPIC, PARTITIONS, "steady", Pace::EVEN);
    let partitions = producer.partitions();
    producer.await_acks(ACKS_BETWEEN);
    let rounds = rounds(ROUNDS);
    let mut kills = 0;
    while kills < rounds {
        // With every replica in sync the cluster must go on without any one broker; hit while it is still mending itself, it may
        // have to wait for the one that was hit.
        let whole = random.below(3) > 0;
        if whole {
            cluster.await_in_sync(TOPIC);
        }
        let broker = (random.below(3) > 0).then(|| random.choose(&cluster.broker_ids()));
        let controller =
            (broker.is_none() || random.below(4) == 0).then(|| random.choose(&cluster.controller_ids()));
        println!("kill {kills}: broker {broker:?}, controller {controller:?}, in sync before: {whole}");
        if let Some(broker) = broker {
            cluster.broker(broker).kill();
            kills += 1;
        }
        if let Some(controller) = controller {
            cluster.controller(controller).kill();
            kills += 1;
        }
        if whole {
            producer.next_acks(&partitions);
        } else {
            thread::sleep(Duration::from_millis(random.below(1_500)));
        }
        if let Some(controller) = controller {
            cluster.controller(controller).start();
        }
        if let Some(broker) = broker {
            cluster.broker(broker).start();
        }
        producer.next_acks(&partitions);
        producer.await_acks(producer.acknowledged() + ACKS_BETWEEN);
    }
    let sent = producer.finish(false);
    println!("{} lines sent and acknowledged over {kills} kills", sent.acks());

    let described = cluster.await_in_sync(TOPIC);
    let args = ["consume", TOPIC, "--from-beginning", "--timeout-ms", "3000", "-o", "json"];
    let stored = reading(&cluster.cli(&args).run().ok().stdout);
    let mut acknowledged = Acknowledged::default();
    acknowledged.add(&sent);
    acknowledged.check(&stored);
    sent.check(&stored, false);

    let committed =
        |partition: i32| stored.get(&partition).map_or(0, |values| i64::try_from(values.len()).unwrap());
    for broker in cluster.broker_ids() {
        cluster.broker(broker).stop();
    }
    cluster.check_replicas(TOPIC, &described, committed);
    for controller in cluster.controller_ids() {
        cluster.controller(controller).stop();
    }
}
