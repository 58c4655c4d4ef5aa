//! How far groups are behind.

use crate::fake::Fake;
use crate::harness::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::internal::v1::group_call::Call;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::v1;

async fn describe(peer: &mut Peer, group: &str) -> v1::GroupResult {
    let request = v1::DescribeGroupsRequest { group_ids: vec![group.into()] };
    let Ok(Reply::DescribeGroup(mut response)) = peer.ask(Call::DescribeGroup(request)).await else {
        panic!("no description")
    };
    response.groups.remove(0)
}

#[tokio::test]
async fn a_description_tells_the_coordinator_the_ends_and_the_lag() {
    let fake = Fake::start(1).await;
    fake.create("t", 2, false);
    fake.ends.lock().unwrap().insert(("t".into(), 0), 12);
    let mut config = config(&fake, 3);
    config.intervals.lag = Duration::from_secs(3600);
    let running = start_with(config).await;
    running.serves(1).await;
    let mut peer = running.peer().await;
    let both = [(0, 5), (1, 1)].map(|(partition, offset)| v1::OffsetToCommit {
        topic: "t".into(),
        partition,
        offset,
        ..Default::default()
    });
    let request =
        v1::CommitOffsetsRequest { group_id: "g".into(), offsets: both.to_vec(), ..Default::default() };
    peer.ask(Call::CommitOffsets(request)).await.unwrap();
    let described = describe(&mut peer, "g").await.group.unwrap();
    assert_eq!(described.coordinator_id, 3);
    assert_eq!(described.coordinator_endpoint, running.handle.listen_addr().to_string());
    let places: Vec<_> = described
        .partitions
        .iter()
        .map(|place| (place.partition, place.committed_offset, place.log_end_offset, place.lag))
        .collect();
    // Nobody told the end of the second.
    assert_eq!(places, [(0, Some(5), Some(12), Some(7)), (1, Some(1), None, None)]);
    let asked = fake.questions.load(Ordering::Relaxed);
    fake.ends.lock().unwrap().insert(("t".into(), 1), 4);
    describe(&mut peer, "g").await;
    assert_eq!(fake.questions.load(Ordering::Relaxed), asked + 1, "for the one that is not known yet");
    describe(&mut peer, "g").await;
    assert_eq!(fake.questions.load(Ordering::Relaxed), asked + 1, "both are fresh");
    let unknown = describe(&mut peer, "nobody").await.error.unwrap();
    assert_eq!(unknown.code, ErrorCode::UnknownGroup as i32);
}

#[tokio::test]
async fn all_groups_are_looked_at_again_and_again_while_there_are_any() {
    let fake = Fake::start(4).await;
    fake.create("t", 1, false);
    fake.ends.lock().unwrap().insert(("t".into(), 0), 12);
    let running = Running::serving(&fake, 1, 4).await;
    until(|| running.handle.lag().taken_at.is_some()).await;
    assert!(running.handle.lag().partitions.is_empty());
    assert_eq!(fake.questions.load(Ordering::Relaxed), 0, "nobody is asked without groups");
    let mut peer = running.peer().await;
    let mut groups: Vec<_> = (0..4).map(|shard| group_in(shard, 4, 0)).collect();
    for group in &groups {
        peer.commit(group, 2).await.unwrap();
    }
    groups.sort();
    until(|| running.handle.lag().partitions.len() == 4).await;
    let lag = running.handle.lag();
    let told: Vec<_> = lag.partitions.iter().map(|one| (one.group.as_str(), one.lag())).collect();
    let expected: Vec<_> = groups.iter().map(|group| (group.as_str(), Some(10))).collect();
    assert_eq!(told, expected);
}
