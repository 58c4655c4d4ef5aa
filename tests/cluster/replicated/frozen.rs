//! A broker that is frozen (SIGSTOP) while it leads, and comes back believing that it still does.

use crate::harness::{Acknowledged, Cluster, Pace, Steady, eventually, reading, within};
use std::time::Duration;
use thalweg_proto::v1::{self, produce_request::Payload};

/// What a record that only the old leader has holds.
const TAIL: &str = "written by the old leader alone";

#[test]
fn a_leader_that_freezes_is_replaced_and_comes_back_as_a_follower() {
    let mut cluster = Cluster::start();
    cluster.create_topic("t", 3, &[]);
    let mut producer = Steady::start(&cluster.bootstrap(), None, "t", 3, "steady", Pace::EVEN);
    let partitions = producer.partitions();
    producer.await_acks(300);
    let old = cluster.describe("t")[0].leader;
    cluster.broker(old).freeze();
    cluster.await_topic("t", "led by others", |partitions| {
        partitions.iter().all(|one| one.leader >= 0 && one.leader != old)
    });
    producer.next_acks(&partitions);
    cluster.broker(old).thaw();
    cluster.await_in_sync("t");
    producer.next_acks(&partitions);
    let sent = producer.finish(false);

    let described = cluster.await_in_sync("t");
    let args = ["consume", "t", "--from-beginning", "--timeout-ms", "3000", "-o", "json"];
    let stored = reading(&cluster.cli(&args).run().ok().stdout);
    let mut acknowledged = Acknowledged::default();
    acknowledged.add(&sent);
    acknowledged.check(&stored);
    sent.check(&stored, false);
    for broker in cluster.broker_ids() {
        cluster.broker(broker).stop();
    }
    cluster.check_replicas("t", &described, |partition| stored[&partition].len() as i64);
}

/// The last one standing takes records with acks=1 only; those are its own. When it comes back behind a leader that was in sync
/// before, they are cut off, and nothing was ever promised about them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_minority_leader_wrote_alone_is_cut_off_when_it_returns() {
    let mut cluster = Cluster::start();
    cluster.create_topic("t", 1, &[]);
    let before = cluster.describe("t").remove(0);
    let old = before.leader;
    let others: Vec<i32> = before.replicas.iter().copied().filter(|broker| *broker != old).collect();
    let api = cluster.api(old).await;
    for value in ["a", "b", "c"] {
        api.produce_values("t", 0, &[value]).await.unwrap();
    }

    for broker in &others {
        cluster.broker(*broker).kill();
    }
    // Asked for acks=all, it may append and wait, or refuse; it never says that it is done.
    let mut waiting = api.producer.clone();
    let alone = v1::ProduceRequest { timeout_ms: 120_000, ..produce(v1::Acks::All, "never acknowledged") };
    let alone = tokio::spawn(async move { waiting.produce(alone).await });
    let written = api.produce(produce(v1::Acks::Leader, TAIL)).await.unwrap();
    assert!(written.results[0].error.is_none(), "{written:?}");
    cluster.broker(old).freeze();
    for broker in &others {
        cluster.broker(*broker).start();
    }
    cluster.await_topic("t", "led by one that was in sync", |partitions| {
        others.contains(&partitions[0].leader) && partitions[0].isr.len() >= 2
    });
    let leader = cluster.describe("t")[0].leader;
    let new = cluster.api(leader).await;
    new.produce_values("t", 0, &["d", "e"]).await.unwrap();

    cluster.broker(old).thaw();
    let outcome = within("the old leader's answer", alone).await.unwrap();
    let acknowledged = outcome
        .as_ref()
        .is_ok_and(|answer| answer.get_ref().results.iter().any(|result| result.error.is_none()));
    assert!(!acknowledged, "a leader without followers acknowledged acks=all: {outcome:?}");
    let described = cluster.await_in_sync("t");
    let values = new.values("t", 0).await;
    assert_eq!(
        values,
        [b"a", b"b", b"c", b"d", b"e"],
        "the tail of the old leader is gone, all else is there"
    );
    for broker in cluster.broker_ids() {
        cluster.broker(broker).stop();
    }
    cluster.check_replicas("t", &described, |_| 5);
    let log = std::fs::read(crate::harness::segments(&cluster.broker_dir(old), "t", 0).remove(0)).unwrap();
    assert!(!log.windows(TAIL.len()).any(|bytes| bytes == TAIL.as_bytes()), "its own tail is cut off");
}

fn produce(acks: v1::Acks, value: &str) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: "t".to_owned(),
        partition: Some(0),
        payload: Some(Payload::Records(crate::harness::records(&[value]))),
        acks: acks.into(),
        routing: v1::Routing::LeaderOnly.into(),
        ..Default::default()
    }
}

/// A follower that freezes holds up nobody for longer than it may lag.
#[test]
fn a_follower_that_freezes_is_left_behind_and_catches_up() {
    let mut cluster = Cluster::start();
    cluster.create_topic("t", 1, &[]);
    let follower = cluster.describe("t")[0].replicas[2];
    cluster.broker(follower).freeze();
    let mut producer = Steady::start(&cluster.bootstrap(), None, "t", 1, "steady", Pace::EVEN);
    producer.await_acks(300);
    assert!(
        !cluster.describe("t")[0].isr.contains(&follower),
        "acks=all without it means that it left the ISR"
    );
    cluster.broker(follower).thaw();
    eventually("it is in sync again", || cluster.describe("t")[0].isr.contains(&follower).then_some(()));
    std::thread::sleep(Duration::from_millis(200));
    producer.finish(false);
}
