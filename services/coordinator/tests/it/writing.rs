//! Writes: once each, in order, whatever happens on the way.

use crate::fake::Fake;
use crate::harness::*;
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thalweg_core::batch::{BatchBuilder, ProducerStamp};
use thalweg_core::compression::Compression;
use thalweg_core::group::{GroupId, LEASE_MARKER, lease_marker, shard_of};
use thalweg_core::metadata::ShardLease;
use thalweg_core::metadata::image::FEATURE_LEVEL;
use thalweg_core::{CoordinatorId, ErrorCode, LeaseEpoch, Sequence, Timestamp};

/// Writes the first record of another owner.
pub fn write_marker(fake: &Fake, lease: &ShardLease) {
    let (key, value) = lease_marker(lease.epoch, CoordinatorId(7));
    let mut builder = BatchBuilder::new(Compression::None, 4096);
    builder.append(Timestamp(0), Some(&key), Some(&value), &[]);
    let stamp = ProducerStamp {
        producer_id: lease.producer_id,
        producer_epoch: lease.producer_epoch,
        base_sequence: Sequence(0),
        transactional: false,
    };
    fake.logs.lock().unwrap().entry(0).or_default().append(&builder.finish(stamp)).unwrap();
}

async fn one_shard() -> (Fake, Running, Peer) {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let running = Running::serving(&fake, 1, 1).await;
    let peer = running.peer().await;
    (fake, running, peer)
}

/// Commits so often that as much is under way as may be, and then `more` times.
async fn fill(fake: &Fake, peer: &mut Peer, more: i64) -> Vec<u64> {
    let mut ids = Vec::new();
    for n in 0..5 {
        let before = fake.batches(0);
        ids.push(peer.send(commit(&format!("group-{n}"), n)).await);
        until(|| fake.batches(0) > before).await;
    }
    for n in 5..5 + more {
        ids.push(peer.send(commit(&format!("group-{n}"), n)).await);
    }
    ids
}

/// The key of every record in the shard's log, markers apart.
fn commits(fake: &Fake) -> Vec<Bytes> {
    let keys = fake.logs.lock().unwrap()[&0].keys();
    keys.into_iter().filter(|key| key[..] != LEASE_MARKER.to_be_bytes()).collect()
}

/// How many records the shard's log has, markers apart; each key once.
fn written(fake: &Fake) -> usize {
    let keys = commits(fake);
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "nothing was written twice");
    keys.len()
}

#[tokio::test]
async fn calls_that_come_together_are_few_writes_and_at_most_five_are_under_way() {
    let (fake, _running, mut peer) = one_shard().await;
    fake.silent.send_replace(true);
    let ids = fill(&fake, &mut peer, 195).await;
    fake.silent.send_replace(false);
    for id in ids {
        peer.answer(id).await.unwrap();
    }
    assert_eq!(fake.most_in_flight.load(Ordering::Relaxed), 5);
    assert!(fake.batches(0) < 50, "{} batches for 200 commits", fake.batches(0));
    assert_eq!(peer.committed("group-199").await, Ok(Some(199)));
}

#[tokio::test]
async fn a_refusal_that_may_pass_is_tried_again_in_order() {
    let (fake, _running, mut peer) = one_shard().await;
    fake.refusals.lock().unwrap().extend([
        ErrorCode::NotEnoughReplicas,
        ErrorCode::NotLeader,
        ErrorCode::Throttled,
        ErrorCode::UnknownTopic,
    ]);
    for offset in 0..5 {
        peer.commit("g", offset).await.unwrap();
    }
    assert_eq!(peer.committed("g").await, Ok(Some(4)));
    assert_eq!(commits(&fake).len(), 5);
}

#[tokio::test]
async fn a_broken_stream_writes_nothing_twice() {
    let (fake, _running, mut peer) = one_shard().await;
    fake.silent.send_replace(true);
    let ids = fill(&fake, &mut peer, 15).await;
    // The acks of what is in the log are lost.
    fake.cut();
    fake.silent.send_replace(false);
    for id in ids {
        peer.answer(id).await.unwrap();
    }
    assert_eq!(written(&fake), 20);
}

#[tokio::test]
async fn a_silent_leader_is_left_for_the_next_one() {
    let (fake, _running, mut peer) = one_shard().await;
    fake.silent.send_replace(true);
    let id = peer.send(commit("g", 5)).await;
    until(|| fake.batches(0) == 2).await;
    // Broker 0 says nothing more, as one that was stopped; the streams to broker 1 are new.
    fake.fence(0);
    until(|| fake.leader_of(0).get() == 1).await;
    fake.silent.send_replace(false);
    peer.answer(id).await.unwrap();
    peer.commit("h", 6).await.unwrap();
    assert_eq!(written(&fake), 2);
}

#[tokio::test]
async fn another_owner_in_the_log_ends_the_shard_here() {
    let (fake, running, mut peer) = one_shard().await;
    peer.commit("g", 5).await.unwrap();
    let mut next = fake.lease(0);
    next.producer_epoch = thalweg_core::ProducerEpoch(next.producer_epoch.get() + 1);
    write_marker(&fake, &next);
    // Nothing tells this one of it but the log, and no offset is told that the other may have moved on from.
    assert_eq!(peer.committed("g").await, Err(ErrorCode::NotCoordinator));
    assert_eq!(running.handle.shards_served(), 0);
    assert_eq!(peer.commit("g", 6).await, Err(ErrorCode::NotCoordinator));
    assert_eq!(peer.committed("g").await, Err(ErrorCode::NotCoordinator), "and stays so");
}

/// Refuses a write of the one shard of two that serves "g", and gives the lease epochs of both before and after.
async fn lose_a_write(level: u16) -> [(LeaseEpoch, LeaseEpoch); 2] {
    let fake = Fake::start_at_level(level, 2).await;
    fake.create("t", 1, false);
    let running = Running::serving(&fake, 1, 2).await;
    let mut peer = running.peer().await;
    peer.commit("g", 5).await.unwrap();
    let shard = shard_of(&GroupId::new("g").unwrap(), 2).get();
    let (before, other) = (fake.lease(shard).epoch, fake.lease(1 - shard).epoch);
    let written = fake.batches(shard);
    fake.refusals.lock().unwrap().push_back(ErrorCode::OutOfOrderSequence);
    assert_eq!(peer.commit("g", 6).await, Err(ErrorCode::NotCoordinator));
    until(|| fake.lease(shard).epoch > before).await;
    until(|| fake.batches(shard) > written).await;
    running.serves(2).await;
    assert_eq!(peer.committed("g").await, Ok(Some(5)), "what was refused did not happen");
    peer.commit("g", 7).await.unwrap();
    [(before, fake.lease(shard).epoch), (other, fake.lease(1 - shard).epoch)]
}

#[tokio::test]
async fn when_memory_and_log_may_differ_the_log_of_that_shard_alone_is_read_again() {
    let [(before, after), (other_before, other_after)] = lose_a_write(FEATURE_LEVEL).await;
    assert_eq!(after.get(), before.get() + 1);
    assert_eq!(other_before, other_after, "the other shard goes on");
}

#[tokio::test]
async fn before_the_feature_level_is_there_every_shard_is_read_again() {
    let [(before, after), (other_before, other_after)] = lose_a_write(1).await;
    assert!(after > before && other_after > other_before);
}

#[tokio::test]
async fn a_shard_that_has_nothing_to_write_writes_its_marker_again() {
    let fake = Fake::start(1).await;
    let mut config = config(&fake, 1);
    config.intervals.marker = Duration::from_millis(20);
    let running = start_with(config).await;
    running.serves(1).await;
    // The log does not forget who writes, and nobody asked anything.
    until(|| fake.batches(0) >= 4).await;
    assert_eq!(commits(&fake).len(), 0);
    assert_eq!(
        running.peer().await.commit("g", 1).await,
        Err(ErrorCode::UnknownTopic),
        "it is served all the same"
    );
}

#[tokio::test]
async fn while_the_log_takes_no_writes_little_is_kept_and_the_rest_refused_at_once() {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let mut config = config(&fake, 1);
    config.limits.backlog_bytes = 5_000;
    let running = start_with(config).await;
    running.serves(1).await;
    let mut peer = running.peer().await;
    fake.silent.send_replace(true);
    let ids = fill(&fake, &mut peer, 40).await;
    // Whoever asks with the next message is behind those.
    assert_eq!(peer.commit("late", 1).await, Err(ErrorCode::CoordinatorNotAvailable));
    fake.silent.send_replace(false);
    let mut kept = 0;
    for id in ids {
        match peer.answer(id).await {
            Ok(_) => kept += 1,
            Err(code) => assert_eq!(code, ErrorCode::CoordinatorNotAvailable),
        }
    }
    assert!((5..45).contains(&kept), "{kept} of 45 were kept");
    peer.commit("late", 1).await.unwrap();
}
