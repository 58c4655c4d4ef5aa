//! Brokers come and go: one joins and gets its share, one is drained and forgotten, one returns with an empty disk.

use crate::harness::{Cluster, Pace, Steady, eventually, reading};
use serde_json::Value;

const TOPIC: &str = "t";
const PARTITIONS: u32 = 12;

#[test]
fn a_broker_that_joins_gets_its_share_and_one_that_is_drained_can_go() {
    let mut cluster = Cluster::start();
    cluster.create_topic(TOPIC, PARTITIONS, &[]);
    let mut producer = Steady::start(&cluster.bootstrap(), None, TOPIC, PARTITIONS, "steady", Pace::EVEN);
    producer.await_acks(300);

    // 36 replicas over 4 brokers are 9 each; near enough is a share too.
    cluster.join_broker(4, &[]);
    eventually("the fourth broker has its share of replicas", || {
        (held(&cluster, 4)["replicas"].as_u64()? >= 7).then_some(())
    });
    eventually("and of leaderships", || (held(&cluster, 4)["leaders"].as_u64()? >= 2).then_some(()));
    eventually("nothing moves any more", || {
        let moving = cluster.cli(&["topic", "reassign", "-o", "json"]).run().ok();
        (moving.text().trim() == "[]").then_some(())
    });
    producer.next_acks(&producer.partitions());

    let drained = cluster.cli(&["broker", "drain", "1"]).run().ok().text();
    assert!(drained.contains("safe to stop"), "{drained}");
    for partition in cluster.describe(TOPIC) {
        assert!(!partition.replicas.contains(&1), "{partition:?}");
        assert_eq!(partition.replicas.len(), 3, "{partition:?}");
    }
    let listed = cluster.cli(&["broker", "list"]).run().ok().text();
    assert!(listed.lines().any(|line| line.starts_with('1') && line.contains("drained")), "{listed}");

    // Alive it is not forgotten; stopped it is.
    cluster.cli(&["broker", "unregister", "1"]).run().refused(&["error: ", "hint: ", "drain"]);
    cluster.broker(1).stop();
    eventually("a broker that is gone can be forgotten", || {
        (cluster.cli(&["broker", "unregister", "1"]).run().code == 0).then_some(())
    });
    let known = cluster.describe_cluster();
    let ids: Vec<i64> =
        known["brokers"].as_array().unwrap().iter().filter_map(|one| one["id"].as_i64()).collect();
    assert_eq!(ids, [2, 3, 4]);
    assert!(cluster.describe(TOPIC).iter().all(|partition| partition.leader > 1));
    producer.next_acks(&producer.partitions());
    let sent = producer.finish(false);

    cluster.check_stored(TOPIC, &sent, &[2, 3, 4]);
}

fn held(cluster: &Cluster, id: i64) -> Value {
    let described = cluster.describe_cluster();
    let brokers = described["brokers"].as_array().unwrap();
    brokers.iter().find(|broker| broker["id"] == id).cloned().unwrap_or_default()
}

#[test]
fn a_broker_that_returns_with_an_empty_disk_gets_everything_again() {
    let mut cluster = Cluster::start();
    cluster.create_topic(TOPIC, 3, &[]);
    let lines: String = (0..500).map(|n| format!("line {n}\n")).collect();
    cluster.cli(&["produce", TOPIC, "--partition", "0"]).input(lines.clone()).run().ok();
    // The leader of what was written loses its disk.
    let victim = cluster.describe(TOPIC)[0].leader;
    cluster.broker(victim).kill();
    std::fs::remove_dir_all(cluster.broker_dir(victim)).unwrap();
    cluster.broker(victim).start();
    let described = cluster.await_in_sync(TOPIC);
    let consume = ["consume", TOPIC, "--partition", "0", "--from-beginning", "--max-records", "500"];
    assert_eq!(cluster.cli(&consume).run().ok().text(), lines);
    for broker in cluster.broker_ids() {
        cluster.broker(broker).stop();
    }
    cluster.check_replicas(TOPIC, &described, |partition| if partition == 0 { 500 } else { 0 });
}

#[test]
fn a_rolling_restart_interrupts_nothing() {
    let mut cluster = Cluster::start();
    cluster.create_topic(TOPIC, 6, &[]);
    let mut producer = Steady::start(&cluster.bootstrap(), None, TOPIC, 6, "steady", Pace::EVEN);
    producer.await_acks(300);
    for broker in cluster.broker_ids() {
        cluster.broker(broker).stop();
        producer.next_acks(&producer.partitions());
        cluster.broker(broker).start();
        cluster.cli(&["cluster", "health", "--timeout-ms", "60000"]).run().ok();
    }
    for controller in cluster.controller_ids() {
        cluster.controller(controller).stop();
        producer.next_acks(&producer.partitions());
        cluster.controller(controller).start();
        cluster.leading_controller();
    }
    let sent = producer.finish(false);
    let args = ["consume", TOPIC, "--from-beginning", "--timeout-ms", "3000", "-o", "json"];
    sent.check(&reading(&cluster.cli(&args).run().ok().stdout), false);
}
