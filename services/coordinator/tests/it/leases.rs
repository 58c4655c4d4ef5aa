//! Shards come and go.

use crate::fake::Fake;
use crate::harness::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thalweg_coordinator::{Coordinator, StartError};
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::{ClusterId, CoordinatorId, ErrorCode};
use thalweg_runtime::Shutdown;

#[tokio::test]
async fn two_share_the_shards_and_refuse_each_others_groups() {
    let fake = Fake::start(4).await;
    fake.create("t", 1, false);
    let first = Running::serving(&fake, 1, 4).await;
    let second = Running::serving(&fake, 2, 2).await;
    first.serves(2).await;
    let (mut one, mut two) = (first.peer().await, second.peer().await);
    for shard in 0..4 {
        let group = group_in(shard, 4, 0);
        let owner = fake.lease(shard).coordinator.unwrap();
        let (own, other) =
            if owner == CoordinatorId(1) { (&mut one, &mut two) } else { (&mut two, &mut one) };
        own.commit(&group, 9).await.unwrap();
        assert_eq!(other.commit(&group, 1).await, Err(ErrorCode::NotCoordinator));
        assert_eq!(own.committed(&group).await, Ok(Some(9)));
    }
    // One leaves in good order: the other has all, with what was committed.
    first.stop().await.unwrap();
    second.serves(4).await;
    for shard in 0..4 {
        assert_eq!(two.committed(&group_in(shard, 4, 0)).await, Ok(Some(9)));
    }
}

#[tokio::test]
async fn a_coordinator_that_was_fenced_comes_back_under_new_epochs() {
    let fake = Fake::start(2).await;
    fake.create("t", 1, false);
    let running = Running::serving(&fake, 1, 2).await;
    let mut peer = running.peer().await;
    let group = group_in(0, 2, 0);
    peer.commit(&group, 5).await.unwrap();
    let before = fake.lease(0).epoch;
    fake.fence_coordinator(1);
    until(|| fake.lease(0).coordinator.is_some()).await;
    assert!(fake.lease(0).epoch > before);
    // Its marker, a commit, another marker.
    until(|| fake.batches(0) == 3).await;
    running.serves(2).await;
    assert_eq!(peer.committed(&group).await, Ok(Some(5)));
    peer.commit(&group, 6).await.unwrap();
}

#[tokio::test]
async fn another_process_under_the_same_id_ends_the_former_one() {
    let fake = Fake::start(2).await;
    fake.create("t", 1, false);
    let first = Running::serving(&fake, 1, 2).await;
    first.peer().await.commit("g", 3).await.unwrap();
    let second = Running::serving(&fake, 1, 2).await;
    let error = tokio::time::timeout(LONG, first.handle.join()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("took the place of coordinator 1"), "{error}");
    assert_eq!(second.peer().await.committed("g").await, Ok(Some(3)));
}

#[tokio::test]
async fn whoever_waits_is_told_when_a_shard_goes() {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let mut config = config(&fake, 5);
    config.intervals.hand_over = Duration::from_millis(20);
    let running = start_with(config).await;
    running.serves(1).await;
    let mut peer = running.peer().await;
    fake.silent.send_replace(true);
    let waiting = peer.send(commit("g", 5)).await;
    until(|| fake.batches(0) == 2).await;
    fake.register_ghost(9);
    fake.fence_coordinator(5);
    assert_eq!(peer.answer(waiting).await, Err(ErrorCode::NotCoordinator));
}

#[tokio::test]
async fn shards_are_served_as_soon_as_there_are_any() {
    let fake = Fake::start(0).await;
    fake.create("t", 1, false);
    let running = start(&fake, 1).await;
    let mut peer = running.peer().await;
    assert_eq!(peer.commit("g", 1).await, Err(ErrorCode::NotCoordinator));
    fake.create(OFFSETS_TOPIC, 3, true);
    running.serves(3).await;
    peer.commit("g", 1).await.unwrap();
}

#[tokio::test]
async fn a_wrong_cluster_or_no_controller_is_told_at_the_start() {
    let fake = Fake::start(1).await;
    let mut other = config(&fake, 1);
    other.cluster_id = Some(ClusterId("another".into()));
    let refused = Coordinator::start(other, Shutdown::new()).await.unwrap_err();
    assert!(matches!(refused, StartError::OtherCluster { .. }), "{refused}");
    let mut nowhere = config(&fake, 1);
    nowhere.controllers = vec!["127.0.0.1:1".into()];
    nowhere.intervals.start = Duration::from_millis(50);
    let refused = Coordinator::start(nowhere, Shutdown::new()).await.unwrap_err();
    assert!(matches!(refused, StartError::NoMetadata { .. }), "{refused}");
}

#[tokio::test]
async fn without_controllers_groups_are_served_on_as_long_as_the_log_is_ours() {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let mut config = config(&fake, 1);
    config.intervals.session = Duration::from_millis(200);
    config.intervals.lag = Duration::from_secs(3600);
    let running = start_with(config).await;
    running.serves(1).await;
    let mut peer = running.peer().await;
    peer.commit("g", 3).await.unwrap();
    assert_eq!(fake.batches(0), 2);
    peer.states("g").await.unwrap();
    assert_eq!(fake.batches(0), 2, "a question writes nothing");
    fake.deaf.store(true, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    peer.states("g").await.unwrap();
    assert_eq!(fake.batches(0), 3, "it was asked whether this is still the owner");
    peer.commit("g", 4).await.unwrap();
    assert_eq!(peer.committed("g").await, Ok(Some(4)));
    // Another has the log by now, and this one has not heard of it: it tells nothing that may be old.
    let mut usurper = fake.lease(0);
    usurper.producer_epoch = thalweg_core::ProducerEpoch(usurper.producer_epoch.get() + 1);
    crate::writing::write_marker(&fake, &usurper);
    assert_eq!(peer.states("g").await, Err(ErrorCode::NotCoordinator));
}
