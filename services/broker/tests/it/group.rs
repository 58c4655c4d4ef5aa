//! GroupService in unary calls: commits, members that heartbeat or poll, what operators do, and every refusal by its name.

use crate::coordinator::{FakeCoordinator, Groups};
use crate::harness::*;
use std::sync::atomic::Ordering;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::v1::group_service_client::GroupServiceClient;
use thalweg_proto::v1::partition_data::Data;
use thalweg_proto::v1::reset_offsets_request::To;
use thalweg_proto::{ApiError, v1};
use tonic::transport::Channel;

pub struct Setting {
    pub cluster: Cluster,
    pub groups: Groups,
    pub coordinator: FakeCoordinator,
}

pub async fn setting(shards: i32) -> Setting {
    let cluster = Cluster::start().await;
    let groups = Groups::new(&cluster.controller, shards);
    let coordinator = groups.coordinator(1).await;
    Setting { cluster, groups, coordinator }
}

pub fn client(cluster: &Cluster) -> GroupServiceClient<Channel> {
    GroupServiceClient::new(cluster.channel.clone()).max_decoding_message_size(64 << 20)
}

macro_rules! call {
    ($cluster:expr, $method:ident, $request:expr) => {
        tokio::time::timeout(LONG, client($cluster).$method($request))
            .await
            .unwrap()
            .map(tonic::Response::into_inner)
            .map_err(|status| api_error(&status))
    };
}

pub fn subscription(topics: &[&str]) -> v1::GroupSubscription {
    v1::GroupSubscription { topics: topics.iter().map(|t| (*t).to_owned()).collect(), ..Default::default() }
}

fn options(member: &str) -> v1::MemberOptions {
    v1::MemberOptions {
        group_id: "g".into(),
        member_id: member.into(),
        subscription: Some(subscription(&["t"])),
        offset_reset: v1::OffsetReset::Earliest as i32,
        ..Default::default()
    }
}

fn joining(member: &str) -> v1::HeartbeatRequest {
    v1::HeartbeatRequest {
        group_id: "g".into(),
        member_id: member.into(),
        subscription: Some(subscription(&["t"])),
        has: Some(v1::AssignedPartitions::default()),
        ..Default::default()
    }
}

fn offset(partition: i32, offset: i64) -> v1::OffsetToCommit {
    v1::OffsetToCommit { topic: "t".into(), partition, offset, ..Default::default() }
}

fn commit(member: &str, epoch: i32, offsets: Vec<v1::OffsetToCommit>) -> v1::CommitOffsetsRequest {
    v1::CommitOffsetsRequest {
        group_id: "g".into(),
        member_id: member.into(),
        member_epoch: epoch,
        offsets,
        ..Default::default()
    }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, ApiError>) -> (ErrorCode, String) {
    let error = outcome.unwrap_err();
    assert!(!error.message.is_empty());
    (error.code, error.field.unwrap_or_default())
}

async fn fill(cluster: &Cluster, partition: i32, values: &[&str]) {
    for value in values {
        cluster.produce(produce_batch("t", partition, batch(&[value]), v1::Acks::All)).await.unwrap();
    }
}

fn values(partitions: &[v1::PartitionData]) -> Vec<String> {
    let records = partitions.iter().flat_map(|data| match &data.data {
        Some(Data::Records(set)) => set.records.clone(),
        _ => Vec::new(),
    });
    records.map(|r| String::from_utf8(r.value.unwrap().to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn commits_of_many_callers_ride_together_and_are_read_back() {
    let setting = setting(1).await;
    setting.cluster.topic("t", 64, &[]).await;
    let mut callers = tokio::task::JoinSet::new();
    for partition in 0..64 {
        let mut client = client(&setting.cluster);
        let offset = v1::OffsetToCommit { metadata: "mine".into(), ..offset(partition, 7) };
        callers.spawn(async move { client.commit_offsets(commit("", 0, vec![offset])).await.unwrap() });
    }
    while let Some(answer) = callers.join_next().await {
        assert_eq!(answer.unwrap().into_inner().results[0].error, None);
    }
    let messages = setting.coordinator.shared.messages.lock().unwrap().clone();
    assert_eq!(messages.iter().sum::<usize>(), 64);
    assert!(messages.len() < 64, "{messages:?}");
    let read = v1::FetchOffsetsRequest { group_id: "g".into(), ..Default::default() };
    let answer = call!(&setting.cluster, fetch_offsets, read).unwrap();
    assert_eq!(answer.offsets.len(), 64);
    assert!(answer.offsets.iter().all(|found| found.offset == 7 && found.metadata == "mine"));
}

#[tokio::test]
async fn each_refusal_has_its_name() {
    use ErrorCode as E;
    let setting = setting(1).await;
    let cluster = &setting.cluster;
    cluster.topic("t", 1, &[]).await;
    let a = call!(cluster, heartbeat, joining("a")).unwrap();
    let b = call!(cluster, heartbeat, joining("b")).unwrap();
    let epoch = a.member_epoch;
    let beat = |member: &str, epoch| v1::HeartbeatRequest {
        subscription: None,
        member_epoch: epoch,
        ..joining(member)
    };
    assert_eq!(a.assignment.unwrap().topics.len(), 1);
    assert_eq!(
        b.assignment.unwrap().topics.len(),
        0,
        "more members than partitions: it has none, and is told so"
    );
    assert_eq!(refused(call!(cluster, heartbeat, beat("nobody", 1))), (E::UnknownMember, "member_id".into()));
    assert_eq!(
        refused(call!(cluster, heartbeat, beat("a", 99))),
        (E::FencedMemberEpoch, "member_epoch".into())
    );
    let mut wish = joining("c");
    wish.subscription.as_mut().unwrap().assignor = "best".into();
    assert_eq!(refused(call!(cluster, heartbeat, wish)), (E::InvalidRequest, "subscription.assignor".into()));
    let named = |member: &str| v1::HeartbeatRequest { instance_id: "i".into(), ..joining(member) };
    call!(cluster, heartbeat, named("d")).unwrap();
    assert_eq!(refused(call!(cluster, heartbeat, named("e"))), (E::FencedInstance, "instance_id".into()));

    // Commits.
    let outcome = |request| async { refused(call!(cluster, commit_offsets, request)) };
    assert_eq!(outcome(commit("nobody", 1, vec![offset(0, 1)])).await.0, E::UnknownMember);
    assert_eq!(outcome(commit("a", 99, vec![offset(0, 1)])).await.0, E::FencedMemberEpoch);
    assert_eq!(
        outcome(commit("b", b.member_epoch, vec![offset(0, 1)])).await.0,
        E::StaleMemberEpoch,
        "not owned"
    );
    assert_eq!(outcome(commit("", 0, vec![offset(0, 1)])).await.0, E::GroupNotEmpty);
    let long = v1::OffsetToCommit { metadata: "x".repeat(4097), ..offset(0, 1) };
    assert_eq!(outcome(commit("a", epoch, vec![long])).await, (E::InvalidRequest, "metadata".into()));
    assert_eq!(outcome(commit("a", epoch, vec![offset(0, -1)])).await, (E::InvalidRequest, "offset".into()));
    assert_eq!(outcome(commit("a", epoch, vec![])).await, (E::InvalidRequest, "offsets".into()));
    assert_eq!(
        outcome(commit("a", epoch, vec![offset(-1, 1)])).await,
        (E::InvalidRequest, "offsets.partition".into())
    );
    let many = vec![offset(0, 1); 10_001];
    assert_eq!(outcome(commit("a", epoch, many)).await, (E::InvalidRequest, "offsets".into()));
    let elsewhere = v1::OffsetToCommit { topic: "gone".into(), ..offset(0, 1) };
    let two = call!(cluster, commit_offsets, commit("a", epoch, vec![offset(0, 1), elsewhere])).unwrap();
    assert_eq!(two.results[0].error, None, "one that fails does not hide the other");
    assert_eq!(two.results[1].error.as_ref().unwrap().code(), v1::ErrorCode::UnknownTopic);

    // Operators.
    let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
    let describe = |list: &[&str]| v1::DescribeGroupsRequest { group_ids: ids(list) };
    assert_eq!(
        refused(call!(cluster, describe_groups, describe(&["none"]))),
        (E::UnknownGroup, "group_id".into())
    );
    let both = call!(cluster, describe_groups, describe(&["none", "g"])).unwrap().groups;
    assert_eq!(both[0].error.as_ref().unwrap().code(), v1::ErrorCode::UnknownGroup);
    assert_eq!(both[1].group.as_ref().unwrap().members.len(), 3);
    assert_eq!(refused(call!(cluster, describe_groups, describe(&[]))).1, "group_ids");
    assert_eq!(refused(call!(cluster, describe_groups, describe(&vec!["g"; 1001]))).1, "group_ids");
    let delete = v1::DeleteGroupsRequest { group_ids: ids(&["g"]) };
    assert_eq!(refused(call!(cluster, delete_groups, delete)).0, E::GroupNotEmpty);
    let topics = vec![v1::TopicPartitions { topic: "t".into(), ..Default::default() }];
    let forget = v1::DeleteOffsetsRequest { group_id: "g".into(), topics: topics.clone() };
    assert_eq!(refused(call!(cluster, delete_offsets, forget)).0, E::GroupNotEmpty);
    let reset =
        v1::ResetOffsetsRequest { group_id: "g".into(), topics, to: Some(To::Offset(0)), dry_run: true };
    assert_eq!(refused(call!(cluster, reset_offsets, reset)), (E::GroupNotEmpty, "group_id".into()));
    let leave = |member: &str| v1::LeaveRequest {
        group_id: "g".into(),
        member_id: member.into(),
        ..Default::default()
    };
    assert_eq!(refused(call!(cluster, leave, leave("nobody"))).0, E::UnknownMember);
    let for_now = v1::LeaveRequest { for_now: true, ..leave("a") };
    assert_eq!(refused(call!(cluster, leave, for_now)), (E::InvalidRequest, "for_now".into()));
    let states = v1::ListGroupsRequest { states: vec![9] };
    assert_eq!(refused(call!(cluster, list_groups, states)).1, "states");
    let read = v1::FetchOffsetsRequest { group_id: String::new(), ..Default::default() };
    assert_eq!(refused(call!(cluster, fetch_offsets, read)).1, "group_id");
    for member in ["a", "b", "d"] {
        call!(cluster, leave, leave(member)).unwrap();
    }
    assert!(setting.groups.members("g").is_empty());
}

#[tokio::test]
async fn a_call_waits_for_a_coordinator_that_loads_moves_or_is_yet_to_come() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let outcome = call!(&cluster, commit_offsets, commit("", 0, vec![offset(0, 1)]));
    assert_eq!(refused(outcome).0, ErrorCode::CoordinatorNotAvailable, "there is none, also after 5 s");
    let groups = Groups::new(&cluster.controller, 1);
    let mut early = client(&cluster);
    let early = tokio::spawn(async move { early.commit_offsets(commit("", 0, vec![offset(0, 2)])).await });
    let first = groups.coordinator(1).await;
    assert_eq!(early.await.unwrap().unwrap().into_inner().results[0].error, None);
    // It loads.
    *first.shared.refusals.lock().unwrap() =
        vec![ErrorCode::CoordinatorNotAvailable, ErrorCode::NotCoordinator];
    call!(&cluster, commit_offsets, commit("", 0, vec![offset(0, 3)])).unwrap();
    // Its stream breaks behind a commit, which is made again.
    first.shared.breaks.store(1, Ordering::SeqCst);
    call!(&cluster, commit_offsets, commit("", 0, vec![offset(0, 4)])).unwrap();
    assert_eq!(groups.committed("g", "t", 0), 4);
    // A goodbye that was heard, and not answered, is a goodbye.
    call!(&cluster, heartbeat, joining("a")).unwrap();
    first.shared.breaks.store(1, Ordering::SeqCst);
    let leave = v1::LeaveRequest { group_id: "g".into(), member_id: "a".into(), ..Default::default() };
    call!(&cluster, leave, leave).unwrap();
    // A deletion is not repeated when nobody knows what became of it.
    first.shared.breaks.store(1, Ordering::SeqCst);
    let delete = v1::DeleteGroupsRequest { group_ids: vec!["g".into()] };
    assert_eq!(refused(call!(&cluster, delete_groups, delete)).0, ErrorCode::CoordinatorNotAvailable);
    // It is gone, with a heartbeat in its hands.
    let joined = call!(&cluster, heartbeat, joining("a")).unwrap();
    let held = v1::HeartbeatRequest {
        member_epoch: joined.member_epoch,
        subscription: None,
        has: None,
        max_wait_ms: Some(20_000),
        ..joining("a")
    };
    let mut waiting = client(&cluster);
    let waiting = tokio::spawn(async move { waiting.heartbeat(held).await });
    groups.until("a held heartbeat", |_| first.shared.messages.lock().unwrap().len() > 8).await;
    let second = groups.coordinator(2).await;
    first.kill();
    groups.until("the second one", |_| !second.shared.messages.lock().unwrap().is_empty()).await;
    groups.put_out("g", "a");
    let status = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap().unwrap_err();
    assert_eq!(api_error(&status).code, ErrorCode::UnknownMember);
}

#[tokio::test]
async fn a_call_without_a_deadline_gives_up_on_a_coordinator_that_loads_for_ever() {
    let setting = setting(1).await;
    setting.cluster.topic("t", 1, &[]).await;
    setting.coordinator.shared.loads_ms.store(1_200, Ordering::SeqCst);
    let outcome = call!(&setting.cluster, commit_offsets, commit("", 0, vec![offset(0, 1)]));
    assert_eq!(refused(outcome).0, ErrorCode::CoordinatorNotAvailable);
}

#[tokio::test]
async fn a_cursor_is_written_whatever_it_knows_as_committed() {
    let setting = setting(1).await;
    let (cluster, groups) = (&setting.cluster, &setting.groups);
    cluster.topic("t", 1, &[]).await;
    fill(cluster, 0, &["a", "b"]).await;
    call!(cluster, commit_offsets, commit("", 0, vec![offset(0, 2)])).unwrap();
    let auto = v1::MemberOptions { auto_commit_interval_ms: Some(1), ..options("m") };
    let mut member = Poller::join(cluster, auto).await;
    let nothing = v1::PollRequest { min_bytes: Some(0), ..member.request() };
    assert_eq!(count(&member.poll_with(cluster, nothing).await.assigned), 1);
    let elsewhere = commit("m", member.epoch, vec![offset(0, 1)]);
    call!(cluster, commit_offsets, elsewhere.clone()).unwrap();
    let by_cursor = v1::CommitOffsetsRequest { cursor: member.cursor.clone(), ..commit("m", 0, vec![]) };
    assert_eq!(call!(cluster, commit_offsets, by_cursor).unwrap().results[0].error, None);
    assert_eq!(groups.committed("g", "t", 0), 2, "it was said to be durable");
    // A seek to where it was committed at last is committed too.
    call!(cluster, commit_offsets, elsewhere).unwrap();
    let seek = vec![v1::PartitionPosition { topic: "t".into(), partition: 0, offset: 2 }];
    let sought = v1::PollRequest { seek, min_bytes: Some(0), ..member.request() };
    member.poll_with(cluster, sought).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let after = v1::PollRequest { min_bytes: Some(0), ..member.request() };
    member.poll_with(cluster, after).await;
    assert_eq!(groups.committed("g", "t", 0), 2);
}

#[tokio::test]
async fn who_stops_waiting_gives_up_its_held_heartbeat() {
    let setting = setting(1).await;
    setting.cluster.topic("t", 1, &[]).await;
    let joined = call!(&setting.cluster, heartbeat, joining("a")).unwrap();
    let held = v1::HeartbeatRequest {
        member_epoch: joined.member_epoch,
        has: None,
        subscription: None,
        max_wait_ms: Some(20_000),
        ..joining("a")
    };
    let mut waiting = client(&setting.cluster);
    let waiting = tokio::spawn(async move { waiting.heartbeat(held).await });
    let shared = &setting.coordinator.shared;
    setting.groups.until("a held heartbeat", |_| shared.messages.lock().unwrap().len() == 2).await;
    waiting.abort();
    setting.groups.until("a cancellation", |_| shared.cancelled.load(Ordering::SeqCst) == 1).await;
    assert_eq!(shared.answered.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_list_has_the_groups_of_all_coordinators_or_none() {
    let setting = setting(4).await;
    let (cluster, groups) = (&setting.cluster, &setting.groups);
    let second = groups.coordinator(2).await;
    cluster.topic("t", 1, &[]).await;
    for group in ["one", "four", "three", "a"] {
        let request =
            v1::CommitOffsetsRequest { group_id: group.into(), ..commit("", 0, vec![offset(0, 1)]) };
        call!(cluster, commit_offsets, request).unwrap();
    }
    let list = call!(cluster, list_groups, v1::ListGroupsRequest::default()).unwrap();
    let ids: Vec<_> = list.groups.iter().map(|group| group.group_id.as_str()).collect();
    assert_eq!(ids, ["a", "four", "one", "three"]);
    second.fence();
    setting.coordinator.fence();
    let outcome = call!(cluster, list_groups, v1::ListGroupsRequest::default());
    assert_eq!(refused(outcome).0, ErrorCode::CoordinatorNotAvailable);
}

#[tokio::test]
async fn offsets_are_reset_in_every_form_within_the_log() {
    let setting = setting(1).await;
    let cluster = &setting.cluster;
    cluster.topic("t", 2, &[]).await;
    let at = now().as_millis() - 100_000;
    for n in 0..10 {
        let record = v1::Record { timestamp_ms: Some(at + n * 1000), ..record(None, "v") };
        cluster.produce(produce_records("t", Some(0), vec![record])).await.unwrap();
    }
    fill(cluster, 1, &["x", "y"]).await;
    let start = v1::DeleteRecordsPartition { topic: "t".into(), partition: 0, before_offset: 2 };
    let delete = v1::DeleteRecordsRequest { partitions: vec![start], ..Default::default() };
    cluster.admin().delete_records(delete).await.unwrap();
    let reset = |partitions: &[i32], to: To, dry_run| {
        let topic =
            v1::TopicPartitions { topic: "t".into(), partitions: partitions.to_vec(), ..Default::default() };
        v1::ResetOffsetsRequest { group_id: "g".into(), topics: vec![topic], to: Some(to), dry_run }
    };
    let nothing = v1::ResetOffsetsRequest { topics: vec![], ..reset(&[], To::Offset(1), true) };
    assert_eq!(refused(call!(cluster, reset_offsets, nothing)).0, ErrorCode::UnknownGroup);
    let shown = call!(cluster, reset_offsets, reset(&[], To::Offset(5), true)).unwrap().results;
    assert_eq!(
        shown.iter().map(|r| (r.partition, r.before, r.after)).collect::<Vec<_>>(),
        [(0, None, 5), (1, None, 2)]
    );
    assert_eq!(setting.groups.committed("g", "t", 0), -1, "only shown");
    let position = |spec: v1::OffsetSpec, timestamp_ms| {
        To::Position(v1::ListOffsetsPartition { spec: spec as i32, timestamp_ms, ..Default::default() })
    };
    let mut before = None;
    for (to, after) in [
        (To::Offset(5), 5),
        (To::Offset(0), 2),
        (To::ShiftBy(3), 5),
        (To::ShiftBy(-100), 2),
        (To::ShiftBy(i64::MAX), 10),
        (position(v1::OffsetSpec::Earliest, 0), 2),
        (position(v1::OffsetSpec::Latest, 0), 10),
        (position(v1::OffsetSpec::Timestamp, at + 3500), 4),
        (position(v1::OffsetSpec::Timestamp, at + 99_000), 10),
    ] {
        let result = call!(cluster, reset_offsets, reset(&[0], to.clone(), false)).unwrap().results.remove(0);
        assert_eq!((result.before, result.after, result.error), (before, after, None), "{to:?}");
        assert_eq!(setting.groups.committed("g", "t", 0), after);
        before = Some(after);
    }
    let all = v1::ResetOffsetsRequest { topics: vec![], ..reset(&[], To::Offset(3), false) };
    assert_eq!(call!(cluster, reset_offsets, all).unwrap().results.len(), 1, "what the group has committed");
    let outcome = call!(cluster, reset_offsets, reset(&[1], To::ShiftBy(1), true));
    assert_eq!(refused(outcome), (ErrorCode::InvalidRequest, "shift_by".into()));
    assert_eq!(refused(call!(cluster, reset_offsets, reset(&[0], To::Offset(-1), true))).1, "offset");
    assert_eq!(
        refused(call!(cluster, reset_offsets, reset(&[7], To::Offset(1), true))).0,
        ErrorCode::UnknownPartition
    );
    let nowhere = v1::ResetOffsetsRequest { to: None, ..reset(&[0], To::Offset(1), true) };
    assert_eq!(refused(call!(cluster, reset_offsets, nowhere)).1, "to");
    let forget =
        v1::DeleteOffsetsRequest { group_id: "g".into(), topics: reset(&[], To::Offset(1), true).topics };
    assert_eq!(call!(cluster, delete_offsets, forget).unwrap().results.len(), 1);
    assert_eq!(setting.groups.committed("g", "t", 0), -1);
}

struct Poller {
    member: String,
    cursor: bytes::Bytes,
    epoch: i32,
}

impl Poller {
    async fn join(cluster: &Cluster, options: v1::MemberOptions) -> Poller {
        let answer = call!(cluster, join, v1::JoinRequest { options: Some(options) }).unwrap();
        Poller { member: answer.member_id, cursor: answer.cursor, epoch: answer.member_epoch }
    }

    fn request(&self) -> v1::PollRequest {
        v1::PollRequest {
            group_id: "g".into(),
            member_id: self.member.clone(),
            cursor: self.cursor.clone(),
            max_wait_ms: Some(0),
            ..Default::default()
        }
    }

    async fn poll_with(&mut self, cluster: &Cluster, request: v1::PollRequest) -> v1::PollResponse {
        let answer = call!(cluster, poll, request).unwrap();
        (self.cursor, self.epoch) = (answer.cursor.clone(), answer.member_epoch);
        answer
    }

    async fn poll(&mut self, cluster: &Cluster) -> v1::PollResponse {
        let request = self.request();
        self.poll_with(cluster, request).await
    }
}

fn count(topics: &[v1::TopicPartitions]) -> usize {
    topics.iter().map(|topic| topic.partitions.len()).sum()
}

#[tokio::test]
async fn members_that_poll_share_give_back_and_lose_nothing() {
    let setting = setting(1).await;
    let (cluster, groups) = (&setting.cluster, &setting.groups);
    cluster.topic("t", 2, &[]).await;
    for partition in 0..2 {
        fill(cluster, partition, &["a", "b", "c"]).await;
    }
    let auto =
        |member: &str| v1::MemberOptions { auto_commit_interval_ms: Some(86_400_000), ..options(member) };
    let mut first = Poller::join(cluster, auto("")).await;
    assert_eq!(first.member.len(), 36, "it got a name");
    let answer = first.poll(cluster).await;
    assert_eq!((count(&answer.assigned), answer.partition_count), (2, 2));
    assert_eq!(values(&answer.partitions).len(), 6);
    // Its answer was lost: the same poll brings the same again.
    let mut second = Poller::join(cluster, auto("second")).await;
    assert_eq!(values(&second.poll(cluster).await.partitions).len(), 0, "nothing is free yet");
    let told = first.poll(cluster).await;
    assert_eq!((count(&told.revoking), told.partition_count), (1, 1));
    assert_eq!(groups.committed("g", "t", 0).max(groups.committed("g", "t", 1)), -1);
    // It comes back: what it was told to give back is committed, and given back.
    first.poll(cluster).await;
    let gone = told.revoking[0].partitions[0];
    assert_eq!(groups.committed("g", "t", gone), 3);
    let answer = second.poll(cluster).await;
    assert_eq!(answer.assigned[0].partitions, [gone]);
    assert_eq!(values(&answer.partitions), [] as [String; 0], "the other has read it");
    fill(cluster, gone, &["d"]).await;
    let wait = v1::PollRequest { max_wait_ms: Some(10_000), ..second.request() };
    assert_eq!(values(&second.poll_with(cluster, wait).await.partitions), ["d"]);
    // One leaves: the other, which waits in a long poll, is woken by what it gets.
    let wait = v1::PollRequest { max_wait_ms: Some(25_000), ..second.request() };
    let waiting = tokio::spawn({
        let mut client = client(cluster);
        async move { client.poll(wait).await.unwrap().into_inner() }
    });
    let before = setting.coordinator.shared.messages.lock().unwrap().len();
    groups
        .until("a held heartbeat", |_| {
            setting.coordinator.shared.messages.lock().unwrap().len() >= before + 2
        })
        .await;
    let leave =
        v1::LeaveRequest { group_id: "g".into(), member_id: first.member.clone(), ..Default::default() };
    call!(cluster, leave, leave).unwrap();
    let answer = tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
    assert_eq!((count(&answer.assigned), answer.partition_count), (1, 2));
    assert_eq!(refused(call!(cluster, poll, first.request())).0, ErrorCode::UnknownMember);
}

#[tokio::test]
async fn a_poll_seeks_cuts_resets_and_commits_by_its_cursor() {
    let setting = setting(1).await;
    let (cluster, groups) = (&setting.cluster, &setting.groups);
    cluster.topic("t", 1, &[]).await;
    cluster.produce(produce_batch("t", 0, batch(&["a", "b", "c", "d"]), v1::Acks::All)).await.unwrap();
    let mut member = Poller::join(cluster, options("m")).await;
    let two = v1::PollRequest { max_records: Some(2), ..member.request() };
    let again = two.clone();
    assert_eq!(values(&member.poll_with(cluster, two).await.partitions), ["a", "b"]);
    assert_eq!(
        values(&member.poll_with(cluster, again).await.partitions),
        ["a", "b"],
        "the same cursor, the same records"
    );
    let by_cursor =
        v1::CommitOffsetsRequest { cursor: member.cursor.clone(), offsets: vec![], ..commit("m", 0, vec![]) };
    let results = call!(cluster, commit_offsets, by_cursor.clone()).unwrap().results;
    assert_eq!((results.len(), results[0].error.clone()), (1, None));
    assert_eq!(groups.committed("g", "t", 0), 2);
    assert_eq!(values(&member.poll(cluster).await.partitions), ["c", "d"]);
    let seek = |offset| vec![v1::PartitionPosition { topic: "t".into(), partition: 0, offset }];
    let back = v1::PollRequest { seek: seek(3), ..member.request() };
    assert_eq!(values(&member.poll_with(cluster, back).await.partitions), ["d"]);
    // Outside the log: from where the reset says.
    let outside = v1::PollRequest { seek: seek(99), ..member.request() };
    assert_eq!(values(&member.poll_with(cluster, outside).await.partitions), ["a", "b", "c", "d"]);
    let outcome = |request| async { refused(call!(cluster, poll, request)).1 };
    assert_eq!(outcome(v1::PollRequest { seek: seek(-1), ..member.request() }).await, "seek.offset");
    let other = v1::PartitionPosition { partition: 7, ..seek(1).remove(0) };
    assert_eq!(outcome(v1::PollRequest { seek: vec![other], ..member.request() }).await, "seek");
    assert_eq!(outcome(v1::PollRequest { max_records: Some(0), ..member.request() }).await, "max_records");
    assert_eq!(
        outcome(v1::PollRequest { max_wait_ms: Some(300_001), ..member.request() }).await,
        "max_wait_ms"
    );
    assert_eq!(outcome(v1::PollRequest { max_bytes: Some(u32::MAX), ..member.request() }).await, "max_bytes");
    assert_eq!(outcome(v1::PollRequest { min_bytes: Some(u32::MAX), ..member.request() }).await, "min_bytes");
    assert_eq!(outcome(v1::PollRequest { cursor: "x".into(), ..member.request() }).await, "cursor");
    assert_eq!(outcome(v1::PollRequest { member_id: "n".into(), ..member.request() }).await, "cursor");
    let both = v1::CommitOffsetsRequest { offsets: vec![offset(0, 1)], ..by_cursor };
    assert_eq!(refused(call!(cluster, commit_offsets, both)).1, "offsets");
    // None: it must seek.
    let none = v1::MemberOptions {
        offset_reset: v1::OffsetReset::None as i32,
        group_id: "h".into(),
        ..options("n")
    };
    let mut strict = Poller::join(cluster, none).await;
    let request = |strict: &Poller| v1::PollRequest { group_id: "h".into(), ..strict.request() };
    let first = request(&strict);
    let answer = strict.poll_with(cluster, first).await;
    assert_eq!(answer.partitions[0].error.as_ref().unwrap().code(), v1::ErrorCode::OffsetOutOfRange);
    let sought = v1::PollRequest { seek: seek(3), ..request(&strict) };
    assert_eq!(values(&strict.poll_with(cluster, sought).await.partitions), ["d"]);
    // A topic that is deleted is lost.
    let names = vec!["t".to_owned()];
    cluster.admin().delete_topics(v1::DeleteTopicsRequest { names, validate_only: false }).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
}
