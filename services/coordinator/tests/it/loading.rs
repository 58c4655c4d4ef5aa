//! Taking over a shard.

use crate::fake::Fake;
use crate::harness::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::group::LEASE_MARKER;

#[tokio::test]
async fn what_one_coordinator_acknowledged_the_next_one_knows() {
    let fake = Fake::start(3).await;
    fake.create("t", 1, false);
    let first = Running::serving(&fake, 1, 3).await;
    let mut peer = first.peer().await;
    let groups: Vec<_> = (0..3).flat_map(|shard| [group_in(shard, 3, 0), group_in(shard, 3, 1)]).collect();
    for (offset, group) in (1..).zip(&groups) {
        peer.commit(group, offset).await.unwrap();
    }
    first.stop().await.unwrap();
    let second = Running::serving(&fake, 2, 3).await;
    {
        let logs = fake.logs.lock().unwrap();
        for log in logs.values() {
            let is_marker = |key: &&bytes::Bytes| key[..] == LEASE_MARKER.to_be_bytes();
            assert_eq!(log.keys().iter().filter(is_marker).count(), 2, "one for each owner");
        }
    }
    let mut peer = second.peer().await;
    for (offset, group) in (1..).zip(&groups) {
        assert_eq!(peer.committed(group).await, Ok(Some(offset)));
    }
}

#[tokio::test]
async fn calls_wait_while_a_shard_is_loaded_as_long_as_they_may() {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let first = Running::serving(&fake, 1, 1).await;
    first.peer().await.commit("g", 7).await.unwrap();
    first.stop().await.unwrap();
    fake.unreadable.send_replace(true);
    let second = start(&fake, 2).await;
    let mut peer = second.peer().await;
    until(|| fake.lease(0).coordinator.is_some_and(|id| id.get() == 2)).await;
    until(|| fake.fetches.load(Ordering::Relaxed) > 0 && fake.batches(0) == 3).await;
    let impatient = peer.send_within(fetch("g"), 50).await;
    let patient = peer.send(fetch("g")).await;
    assert_eq!(peer.answer(impatient).await, Err(ErrorCode::CoordinatorNotAvailable));
    assert!(!peer.is_answered(patient).await);
    assert_eq!(second.handle.shards_served(), 0);
    fake.unreadable.send_replace(false);
    assert!(peer.answer(patient).await.is_ok());
    assert_eq!(peer.committed("g").await, Ok(Some(7)));
}

#[tokio::test]
async fn a_log_that_needs_many_reads_is_loaded_whole() {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let first = Running::serving(&fake, 1, 1).await;
    let mut peer = first.peer().await;
    for n in 0..60 {
        peer.commit(&format!("group-{n}"), n).await.unwrap();
    }
    first.stop().await.unwrap();
    let mut config = config(&fake, 2);
    config.limits.load_fetch_bytes = 200;
    let before = fake.fetches.load(Ordering::Relaxed);
    let second = start_with(config).await;
    second.serves(1).await;
    assert!(fake.fetches.load(Ordering::Relaxed) - before >= 10);
    let mut peer = second.peer().await;
    for n in 0..60 {
        assert_eq!(peer.committed(&format!("group-{n}")).await, Ok(Some(n)));
    }
}

#[tokio::test]
async fn a_leader_that_goes_in_mid_load_is_followed() {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let first = Running::serving(&fake, 1, 1).await;
    first.peer().await.commit("g", 7).await.unwrap();
    first.stop().await.unwrap();
    fake.unreadable.send_replace(true);
    let second = start(&fake, 2).await;
    until(|| fake.batches(0) == 3).await;
    fake.fence(0);
    tokio::time::sleep(Duration::from_millis(20)).await;
    fake.unreadable.send_replace(false);
    second.serves(1).await;
    assert_eq!(second.peer().await.committed("g").await, Ok(Some(7)));
}
