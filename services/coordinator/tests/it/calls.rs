//! What goes over one broker's stream.

use crate::fake::Fake;
use crate::harness::*;
use thalweg_core::ErrorCode;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::group_call::Call;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::v1;

fn joining(group: &str, member: &str, max_wait_ms: u32) -> Call {
    Call::Heartbeat(v1::HeartbeatRequest {
        group_id: group.into(),
        member_id: member.into(),
        member_epoch: 0,
        subscription: Some(v1::GroupSubscription { topics: vec!["t".into()], ..Default::default() }),
        has: Some(v1::AssignedPartitions::default()),
        client_id: "a-client".into(),
        max_wait_ms: Some(max_wait_ms),
        ..Default::default()
    })
}

fn beating(group: &str, member: &str, epoch: i32, max_wait_ms: u32) -> Call {
    Call::Heartbeat(v1::HeartbeatRequest {
        group_id: group.into(),
        member_id: member.into(),
        member_epoch: epoch,
        max_wait_ms: Some(max_wait_ms),
        ..Default::default()
    })
}

fn beat(reply: Result<Reply, ErrorCode>) -> v1::HeartbeatResponse {
    match reply {
        Ok(Reply::Heartbeat(response)) => response,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_call_is_told_and_the_others_go_on() {
    let fake = Fake::start(4).await;
    fake.create("t", 1, false);
    let running = Running::serving(&fake, 1, 4).await;
    let mut peer = running.peer().await;
    let two = vec!["a".to_owned(), "b".to_owned()];
    let describe = Call::DescribeGroup(v1::DescribeGroupsRequest { group_ids: two.clone() });
    let list = |shards: Vec<i32>| {
        let request = Some(v1::ListGroupsRequest::default());
        Call::ListGroups(internal::ListShardGroupsRequest { shards, request })
    };
    let first = peer
        .send_all(vec![
            (None, 0),
            (Some(commit("", 1)), 0),
            (Some(describe), 0),
            (Some(Call::DeleteGroup(v1::DeleteGroupsRequest { group_ids: two })), 0),
            (Some(list(vec![0, 1, 2, 3, 0])), 0),
            (Some(list(vec![17])), 0),
            (Some(commit("good", 1)), 0),
        ])
        .await;
    let invalid = Err(ErrorCode::InvalidRequest);
    let expected = [
        Err(ErrorCode::Unsupported),
        invalid.clone(),
        invalid.clone(),
        invalid.clone(),
        invalid,
        Err(ErrorCode::NotCoordinator),
    ];
    for (id, expected) in (first..).zip(expected) {
        assert_eq!(peer.answer(id).await, expected, "{id}");
    }
    assert!(peer.answer(first + 6).await.is_ok());
}

#[tokio::test]
async fn a_message_with_too_many_calls_ends_the_stream() {
    let fake = Fake::start(1).await;
    let running = Running::serving(&fake, 1, 1).await;
    let mut peer = running.peer().await;
    peer.send_message(internal::ExchangeRequest { calls: vec![Default::default(); 10_001] }).await;
    let status = peer.replies.message().await.unwrap_err();
    assert_eq!(thalweg_proto::ApiError::from_status(&status).unwrap().code, ErrorCode::InvalidRequest);
    // Others are served.
    assert_eq!(running.peer().await.commit("g", 1).await, Err(ErrorCode::UnknownTopic));
}

#[tokio::test]
async fn groups_of_several_shards_are_listed_together() {
    let fake = Fake::start(4).await;
    fake.create("t", 1, false);
    let running = Running::serving(&fake, 1, 4).await;
    let mut peer = running.peer().await;
    let mut groups: Vec<_> = (0..4).map(|shard| group_in(shard, 4, 0)).collect();
    for group in &groups {
        peer.commit(group, 3).await.unwrap();
    }
    let request = Some(v1::ListGroupsRequest::default());
    let all = internal::ListShardGroupsRequest { shards: vec![0, 1, 2, 3], request };
    let Ok(Reply::ListGroups(list)) = peer.ask(Call::ListGroups(all)).await else { panic!("no list") };
    groups.sort();
    assert_eq!(
        list.groups.iter().map(|group| &group.group_id).collect::<Vec<_>>(),
        groups.iter().collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_heartbeat_that_waits_holds_up_nobody_and_hears_of_a_new_member() {
    let fake = Fake::start(1).await;
    fake.create("t", 2, false);
    let running = Running::serving(&fake, 1, 1).await;
    let (mut peer, mut other) = (running.peer().await, running.peer().await);
    let joined = beat(peer.ask(joining("g", "a", 5_000)).await);
    let given = joined.assignment.unwrap();
    assert_eq!(given.topics[0].partitions, [0, 1]);
    let told = Call::Heartbeat(v1::HeartbeatRequest {
        group_id: "g".into(),
        member_id: "a".into(),
        member_epoch: joined.member_epoch,
        has: Some(given),
        ..Default::default()
    });
    let epoch = beat(peer.ask(told).await).member_epoch;
    let waiting = peer.send(beating("g", "a", epoch, 20_000)).await;
    assert!(!peer.is_answered(waiting).await);
    peer.commit("another", 1).await.unwrap();
    let second = other.send(joining("g", "b", 0)).await;
    let revoked = beat(peer.answer(waiting).await);
    assert_eq!(revoked.assignment.unwrap().topics[0].partitions.len(), 1, "it shall give one back");
    beat(other.answer(second).await);
}

#[tokio::test]
async fn a_half_closed_stream_answers_what_is_open_and_ends() {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let running = Running::serving(&fake, 1, 1).await;
    let mut peer = running.peer().await;
    fake.silent.send_replace(true);
    let id = peer.send(commit("g", 5)).await;
    let describe = v1::DescribeGroupsRequest { group_ids: vec!["g".into()] };
    let described = peer.send(Call::DescribeGroup(describe)).await;
    peer.half_close();
    until(|| fake.batches(0) == 2).await;
    fake.silent.send_replace(false);
    assert!(peer.answer(id).await.is_ok());
    assert!(peer.answer(described).await.is_ok());
    assert!(peer.replies.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_call_is_refused_when_its_time_is_over() {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let running = Running::serving(&fake, 1, 1).await;
    let mut peer = running.peer().await;
    fake.silent.send_replace(true);
    let id = peer.send_within(commit("g", 5), 60).await;
    assert_eq!(peer.answer(id).await, Err(ErrorCode::RequestTimedOut));
    fake.silent.send_replace(false);
    assert_eq!(peer.committed("g").await, Ok(Some(5)), "it happened all the same");
}

#[tokio::test]
async fn a_coordinator_that_stood_still_does_not_end_sessions_for_it() {
    let fake = Fake::start(1).await;
    fake.create("t", 1, false);
    let running = Running::serving(&fake, 1, 1).await;
    let mut peer = running.peer().await;
    let Call::Heartbeat(join) = joining("g", "m", 0) else { unreachable!() };
    let join = v1::HeartbeatRequest { session_timeout_ms: Some(2_000), ..join };
    let epoch = beat(peer.ask(Call::Heartbeat(join)).await).member_epoch;
    // Everything of this process does, also what would have sent the heartbeat.
    std::thread::sleep(std::time::Duration::from_millis(3_000));
    let answer = beat(peer.ask(beating("g", "m", epoch, 0)).await);
    assert_eq!(answer.member_epoch, epoch);
}
