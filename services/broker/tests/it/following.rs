//! Three brokers that copy from each other: leaders and followers as they are, over loopback.

use crate::brokers::*;
use crate::harness::*;
use std::sync::Arc;
use std::time::Duration;
use thalweg_broker::replicas::{Lookup, Partition};
use thalweg_core::batch::{Limits, ValidBatch};
use thalweg_core::metadata::Command;
use thalweg_core::metadata::command::{PartitionMove, ReassignPartitions};
use thalweg_core::{BrokerId, LeaderEpoch, Offset, PartitionId, TopicName, TopicPartition};
use thalweg_log::ReadBound;
use thalweg_proto::v1;

const THREE: &[&[i32]] = &[&[0, 1, 2]];

fn lookup(brokers: &Brokers, id: i32, partition: i32) -> Lookup {
    brokers.handle(id).replicas().find("t", PartitionId(partition))
}

fn replica(brokers: &Brokers, id: i32, partition: i32) -> Arc<Partition> {
    match lookup(brokers, id, partition) {
        Lookup::Here(partition) => partition,
        other => panic!("t-{partition} is not on broker {id}: {other:?}"),
    }
}

fn bytes(partition: &Partition) -> Vec<u8> {
    let log = partition.log();
    let (mut from, mut all) = (log.log_start_offset(), Vec::new());
    loop {
        let read = log.read(from, 1 << 20, ReadBound::LogEnd, true).unwrap();
        if read.data.is_empty() {
            return all;
        }
        all.extend_from_slice(&read.data);
        from = read.next_offset;
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, wait).await.is_ok(), "never: {what}");
}

/// All replicas hold the same, and know that it is committed.
async fn alike(brokers: &Brokers, ids: &[i32], partition: i32, end: i64) {
    let (partitions, end): (Vec<_>, _) =
        (ids.iter().map(|id| replica(brokers, *id, partition)).collect(), Offset(end));
    until("all replicas have everything and know it", || {
        partitions.iter().all(|p| p.log().log_end_offset() == end && p.log().high_watermark() == end)
    })
    .await;
    let whole = bytes(&partitions[0]);
    assert!(partitions.iter().all(|partition| bytes(partition) == whole), "byte for byte");
}

async fn produce(brokers: &Brokers, via: i32, partition: i32, values: &[&str]) {
    let request = produce_batch("t", partition, batch(values), v1::Acks::All);
    brokers.produce(via, request).await.unwrap();
}

fn plain(value: &str) -> ValidBatch {
    ValidBatch::check(batch(&[value]), &Limits::default()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_by_all_is_on_every_disk() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", &[&[0, 1, 2], &[1, 2, 0], &[2, 0, 1]]).await;
    for round in 0..5 {
        for partition in 0..3 {
            produce(&brokers, partition, partition, &[&format!("{round}"), "x"]).await;
        }
    }
    for partition in 0..3 {
        for id in 0..3 {
            let flushed = replica(&brokers, id, partition).log().flushed_offset();
            assert_eq!(flushed, Offset(10), "stable on broker {id} before it was acknowledged");
        }
        alike(&brokers, &[0, 1, 2], partition, 10).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c04_an_old_leaders_tail_is_cut_by_epoch_when_it_returns() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    produce(&brokers, 0, 0, &["a", "b", "c"]).await;
    alike(&brokers, &[0, 1, 2], 0, 3).await;
    // Two records that nobody copies: the leader appended them, and its followers were not told.
    let old = replica(&brokers, 0, 0);
    for value in ["lost", "lost too"] {
        old.log().append_as_leader(&plain(value), LeaderEpoch(0), now()).unwrap();
    }
    brokers.controller.fence(0);
    let new = replica(&brokers, 1, 0);
    until("broker 1 leads", || new.leading().is_some()).await;
    produce(&brokers, 1, 0, &["d", "e", "f"]).await;
    alike(&brokers, &[0, 1, 2], 0, 6).await;
    let refused = old.log().append_as_leader(&plain("late"), LeaderEpoch(0), now());
    assert!(refused.is_err(), "what was on its way to the old leader does not land");
    let values: Vec<_> = brokers.values(1, "t", &[0]).await.into_iter().map(|(_, _, value)| value).collect();
    assert_eq!(values, ["a", "b", "c", "d", "e", "f"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c01_c02_leaders_change_again_and_again_and_nothing_acknowledged_is_lost() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    let mut expected = Vec::new();
    for round in 0..6 {
        let leader = (0..3).find(|id| replica(&brokers, *id, 0).leading().is_some());
        let leader = leader.unwrap();
        // In every other epoch nothing is written.
        if round % 2 == 0 {
            produce(&brokers, leader, 0, &[&format!("{round}")]).await;
            expected.push(format!("{round}"));
        }
        until("all are in sync again", || replica(&brokers, leader, 0).in_sync() == 3).await;
        brokers.controller.fence(leader);
        until("another one leads", || {
            (0..3).any(|id| id != leader && replica(&brokers, id, 0).leading().is_some())
        })
        .await;
    }
    let leader = (0..3).find(|id| replica(&brokers, *id, 0).leading().is_some()).unwrap();
    produce(&brokers, leader, 0, &["end"]).await;
    expected.push("end".into());
    alike(&brokers, &[0, 1, 2], 0, expected.len() as i64).await;
    let values: Vec<_> =
        brokers.values(leader, "t", &[0]).await.into_iter().map(|(_, _, value)| value).collect();
    assert_eq!(values, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_that_was_away_catches_up_and_joins() {
    let mut brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    produce(&brokers, 0, 0, &["a"]).await;
    let storage = brokers.members[&2].storage.clone();
    brokers.stop(2).await.unwrap();
    for round in 0..20 {
        produce(&brokers, 0, 0, &[&format!("{round}")]).await;
    }
    brokers.add(2, storage).await;
    until("it is in sync again", || replica(&brokers, 0, 0).in_sync() == 3).await;
    alike(&brokers, &[0, 1, 2], 0, 21).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followers_log_starts_where_its_leaders_does() {
    let mut brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    produce(&brokers, 0, 0, &["a", "b", "c", "d"]).await;
    alike(&brokers, &[0, 1, 2], 0, 4).await;
    let storage = brokers.members[&2].storage.clone();
    brokers.stop(2).await.unwrap();
    produce(&brokers, 0, 0, &["e", "f", "g"]).await;
    // In the middle of a batch, above all that broker 2 has.
    until("the other one knows", || replica(&brokers, 1, 0).log().high_watermark() == Offset(7)).await;
    replica(&brokers, 0, 0).log().delete_records(Offset(5)).unwrap();
    produce(&brokers, 0, 0, &["h"]).await;
    until("broker 1 follows suit", || replica(&brokers, 1, 0).log().log_start_offset() == Offset(5)).await;
    brokers.add(2, storage).await;
    let late = replica(&brokers, 2, 0);
    until("it starts over there", || late.log().log_end_offset() == Offset(8)).await;
    until("and nowhere else", || late.log().log_start_offset() == Offset(5)).await;
    until("it is in sync again", || replica(&brokers, 0, 0).in_sync() == 3).await;
    let ends: Vec<_> = (0..3).map(|id| replica(&brokers, id, 0).log().log_end_offset()).collect();
    assert_eq!(ends, [Offset(8); 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_is_moved_is_copied_first_and_deleted_last() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", &[&[0, 1], &[0, 1]]).await;
    for round in 0..10 {
        produce(&brokers, 0, 0, &[&format!("{round}"), "x"]).await;
    }
    assert!(matches!(lookup(&brokers, 2, 0), Lookup::Nowhere));
    let partition = TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(0));
    let replicas = Some(vec![BrokerId(2), BrokerId(1)]);
    let moves = vec![PartitionMove { partition: partition.clone(), replicas }];
    brokers.controller.propose(Command::ReassignPartitions(ReassignPartitions { moves })).unwrap();
    until("broker 0 has no replica any more", || matches!(lookup(&brokers, 0, 0), Lookup::Nowhere)).await;
    until("and no log", || brokers.handle(0).replicas().logs().get(&partition).is_none()).await;
    alike(&brokers, &[1, 2], 0, 20).await;
    let leader = if replica(&brokers, 1, 0).leading().is_some() { 1 } else { 2 };
    produce(&brokers, leader, 0, &["on"]).await;
    alike(&brokers, &[1, 2], 0, 21).await;
    // The partition beside it stayed where it was.
    produce(&brokers, 0, 1, &["there"]).await;
    alike(&brokers, &[0, 1], 1, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_followers_full_disk_is_tried_again() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    produce(&brokers, 0, 0, &["a"]).await;
    let disk = brokers.members[&2].storage.sim.clone();
    disk.set_capacity(Some(disk.used_bytes()));
    // More than the space that was reserved for the first segment.
    let one_kib = "x".repeat(1024);
    for _ in 0..2 {
        let values = [one_kib.as_str(); 900];
        let request = produce_batch("t", 0, batch(&values), v1::Acks::Leader);
        brokers.produce(0, request).await.unwrap();
    }
    until("the others have it", || replica(&brokers, 1, 0).log().log_end_offset() == Offset(1_801)).await;
    assert!(replica(&brokers, 2, 0).log().log_end_offset() < Offset(1_801));
    disk.set_capacity(None);
    alike(&brokers, &[0, 1, 2], 0, 1_801).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c12_a_follower_whose_sync_failed_tells_no_more_and_stops_nobody() {
    let brokers = Brokers::start(3).await;
    brokers.topic("t", THREE).await;
    produce(&brokers, 0, 0, &["a"]).await;
    brokers.members[&2].storage.sim.fail_next_sync();
    let request = produce_batch("t", 0, batch(&["b"]), v1::Acks::Leader);
    brokers.produce(0, request).await.unwrap();
    let failed = replica(&brokers, 2, 0);
    until("its directory is out of use", || failed.log().log_is_failed()).await;
    let request = produce_batch("t", 0, batch(&["c"]), v1::Acks::Leader);
    brokers.produce(0, request).await.unwrap();
    until("the other one goes on", || replica(&brokers, 1, 0).log().log_end_offset() == Offset(3)).await;
    assert!(failed.log().flushed_offset() < Offset(2), "nothing is told to be stable that may not be");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_partitions_are_created_followed_and_deleted() {
    let brokers = Brokers::start(3).await;
    let all: Vec<&[i32]> = (0..600).map(|i| [&[0, 1, 2][..], &[1, 2, 0], &[2, 0, 1]][i % 3]).collect();
    brokers.topic("t", &all).await;
    for partition in [0, 299, 599] {
        produce(&brokers, partition % 3, partition, &["x"]).await;
        alike(&brokers, &[0, 1, 2], partition, 1).await;
    }
    assert!((0..3).all(|id| brokers.handle(id).replicas().len() == 600));
    let request = v1::DeleteTopicsRequest { names: vec!["t".into()], ..Default::default() };
    brokers.admin(0).delete_topics(request).await.unwrap();
    until("all are gone", || {
        (0..3).all(|id| {
            brokers.handle(id).replicas().is_empty() && brokers.handle(id).replicas().logs().logs().is_empty()
        })
    })
    .await;
}
