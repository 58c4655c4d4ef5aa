//! Callers that are late, confused or not members at all: each is refused by name, and the group is none the worse for it.

use crate::harness::{Api, Cluster, Dev, Setup, within};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::{ApiError, v1};
use tonic::{Code, Response, Status};

const GROUP: &str = "g";
const TOPIC: &str = "t";

/// The code that a call was refused with; it must say why.
#[track_caller]
fn reason<T: std::fmt::Debug>(result: Result<Response<T>, Status>) -> ErrorCode {
    let status = match result {
        Ok(answer) => panic!("not refused: {answer:?}"),
        Err(status) => status,
    };
    let error = ApiError::from_status(&status).unwrap_or_else(|| panic!("no reason: {status:?}"));
    assert!(!error.message.is_empty(), "a refusal says why");
    error.code
}

/// The code that a commit of exactly one partition was refused with, if it was: by the status, or by its result.
#[track_caller]
fn partition_reason(result: Result<Response<v1::CommitOffsetsResponse>, Status>) -> Option<ErrorCode> {
    let answer = match result {
        Ok(answer) => answer.into_inner(),
        Err(status) => return Some(reason::<()>(Err(status))),
    };
    assert_eq!(answer.results.len(), 1, "{answer:?}");
    code_of(answer.results[0].error.as_ref())
}

/// The code that a call for exactly one group was refused with, if it was.
#[track_caller]
fn group_reason<T>(
    result: Result<Response<T>, Status>,
    results: impl Fn(&T) -> &Vec<v1::GroupResult>,
) -> Option<ErrorCode> {
    match result {
        Ok(answer) => code_of(results(answer.get_ref())[0].error.as_ref()),
        Err(status) => Some(reason::<()>(Err(status))),
    }
}

fn code_of(error: Option<&v1::Error>) -> Option<ErrorCode> {
    let error = error?;
    assert!(!error.message.is_empty(), "a refusal says why");
    ErrorCode::ALL.iter().copied().find(|code| *code as i32 == error.code)
}

/// Joins and gives the epoch and the partitions that come with it or after it.
async fn join(api: &Api, member: &str, instance: &str) -> (i32, Vec<v1::TopicPartitions>) {
    let mut groups = api.groups.clone();
    let (mut epoch, mut has) = (0, Vec::new());
    for _ in 0..200 {
        let beat = v1::HeartbeatRequest { instance_id: instance.to_owned(), ..beat(member, epoch, &has) };
        let answer = within("Heartbeat", groups.heartbeat(beat)).await.unwrap().into_inner();
        epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            has = assignment.topics;
        }
        if has.iter().any(|topic| !topic.partitions.is_empty()) {
            return (epoch, has);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{member} is given nothing");
}

fn beat(member: &str, epoch: i32, has: &[v1::TopicPartitions]) -> v1::HeartbeatRequest {
    v1::HeartbeatRequest {
        group_id: GROUP.to_owned(),
        member_id: member.to_owned(),
        member_epoch: epoch,
        subscription: (epoch == 0).then(subscription),
        has: Some(v1::AssignedPartitions { topics: has.to_vec() }),
        ..Default::default()
    }
}

fn subscription() -> v1::GroupSubscription {
    v1::GroupSubscription { topics: vec![TOPIC.to_owned()], ..Default::default() }
}

fn commit(member: &str, epoch: i32, partition: i32, offset: i64) -> v1::CommitOffsetsRequest {
    v1::CommitOffsetsRequest {
        group_id: GROUP.to_owned(),
        member_id: member.to_owned(),
        member_epoch: epoch,
        offsets: vec![v1::OffsetToCommit {
            topic: TOPIC.to_owned(),
            partition,
            offset,
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn some_topic() -> Vec<v1::TopicPartitions> {
    vec![v1::TopicPartitions { topic: TOPIC.to_owned(), ..Default::default() }]
}

async fn committed(api: &Api) -> Vec<(i32, i64)> {
    let request = v1::FetchOffsetsRequest { group_id: GROUP.to_owned(), ..Default::default() };
    let answer = within("FetchOffsets", api.groups.clone().fetch_offsets(request)).await.unwrap();
    answer.into_inner().offsets.iter().map(|one| (one.partition, one.offset)).collect()
}

async fn started() -> (Dev, Api) {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic(TOPIC, 2, &[]).await;
    for partition in 0..2 {
        api.produce_values(TOPIC, partition, &["a", "b", "c"]).await.unwrap();
    }
    (dev, api)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_no_member_is_told_so() {
    let (_dev, api) = started().await;
    let mut groups = api.groups.clone();
    let (epoch, has) = join(&api, "m", "").await;
    let stranger = groups.heartbeat(beat("stranger", epoch, &[])).await;
    assert_eq!(reason(stranger), ErrorCode::UnknownMember);
    assert_eq!(
        reason(groups.commit_offsets(commit("stranger", epoch, 0, 1)).await),
        ErrorCode::UnknownMember
    );
    let leave = v1::LeaveRequest {
        group_id: GROUP.to_owned(),
        member_id: "stranger".to_owned(),
        ..Default::default()
    };
    assert_eq!(reason(groups.leave(leave.clone()).await), ErrorCode::UnknownMember);
    let elsewhere = v1::LeaveRequest { group_id: "elsewhere".to_owned(), ..leave };
    let gone = reason(groups.leave(elsewhere).await);
    assert!([ErrorCode::UnknownGroup, ErrorCode::UnknownMember].contains(&gone), "{gone}");
    // A member whose epoch is not the group's own rejoins under the same id, and is given its partitions again.
    let wrong = groups.heartbeat(beat("m", epoch + 7, &has)).await;
    assert_eq!(reason(wrong), ErrorCode::FencedMemberEpoch);
    assert_eq!(
        reason(groups.commit_offsets(commit("m", epoch + 7, 0, 1)).await),
        ErrorCode::FencedMemberEpoch
    );
    let (again, has) = join(&api, "m", "").await;
    assert_eq!(has.iter().map(|topic| topic.partitions.len()).sum::<usize>(), 2);
    assert_eq!(partition_reason(groups.commit_offsets(commit("m", again, 0, 1)).await), None);
    assert_eq!(committed(&api).await, [(0, 1)], "nothing that was refused left a trace");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_from_another_owners_time_is_refused() {
    let (_dev, api) = started().await;
    let mut groups = api.groups.clone();
    let (first, has) = join(&api, "a", "").await;
    assert_eq!(partition_reason(groups.commit_offsets(commit("a", first, 1, 2)).await), None);
    // b joins; a gives one partition back.
    drop(within("Heartbeat", groups.heartbeat(beat("b", 0, &[]))).await.unwrap());
    let (mut epoch, mut mine) = (first, has);
    let mut taken = None;
    for _ in 0..200 {
        let answer =
            within("Heartbeat", groups.heartbeat(beat("a", epoch, &mine))).await.unwrap().into_inner();
        epoch = answer.member_epoch;
        if let Some(assignment) = answer.assignment {
            mine = assignment.topics;
        }
        let kept: Vec<i32> = mine.iter().flat_map(|topic| topic.partitions.clone()).collect();
        if kept.len() == 1 && epoch > first {
            taken = Some(1 - kept[0]);
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let taken = taken.expect("one of two partitions is b's");
    let refused = partition_reason(groups.commit_offsets(commit("a", epoch, taken, 1)).await);
    assert_eq!(refused, Some(ErrorCode::StaleMemberEpoch), "a partition that it no longer has");
    assert_eq!(partition_reason(groups.commit_offsets(commit("a", epoch, 1 - taken, 3)).await), None);
    // b gives its epochs of before away when it comes anew: what it commits with an old one is refused.
    let (old, _) = join(&api, "b", "").await;
    let (new, _) = join(&api, "b", "").await;
    if old < new {
        let late = groups.commit_offsets(commit("b", old, taken, 1)).await;
        let code = partition_reason(late);
        assert!(
            [Some(ErrorCode::StaleMemberEpoch), Some(ErrorCode::FencedMemberEpoch)].contains(&code),
            "{code:?}"
        );
    }
    let offsets = committed(&api).await;
    assert!(offsets.iter().all(|(_, offset)| *offset >= 2), "no offset went back: {offsets:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_under_a_static_members_name_is_fenced() {
    let (dev, api) = started().await;
    let mut groups = api.groups.clone();
    let (epoch, has) = join(&api, "first", "worker").await;
    let second = v1::HeartbeatRequest { instance_id: "worker".to_owned(), ..beat("second", 0, &[]) };
    assert_eq!(reason(groups.heartbeat(second.clone()).await), ErrorCode::FencedInstance);
    let consume = ["consume", TOPIC, "--group", GROUP, "--instance-id", "worker", "--timeout-ms", "20000"];
    let bootstrap = dev.addr().to_string();
    let output = tokio::task::spawn_blocking(move || {
        crate::harness::Cli::new(&consume).args(["--bootstrap", &bootstrap]).run()
    });
    output.await.unwrap().refused(&["instance id"]);
    // When the first one is away for now, another process goes on in its place, and the first is fenced.
    let away = v1::LeaveRequest {
        group_id: GROUP.to_owned(),
        member_id: "first".to_owned(),
        instance_id: "worker".to_owned(),
        for_now: true,
        ..Default::default()
    };
    within("Leave", groups.leave(away)).await.unwrap();
    let taken = within("Heartbeat", groups.heartbeat(second)).await.unwrap().into_inner();
    assert!(taken.member_epoch > 0);
    let late = v1::HeartbeatRequest { instance_id: "worker".to_owned(), ..beat("first", epoch, &has) };
    let code = reason(groups.heartbeat(late).await);
    assert!([ErrorCode::FencedInstance, ErrorCode::UnknownMember].contains(&code), "{code}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_no_sense_is_refused_with_the_field() {
    let (_dev, api) = started().await;
    let mut groups = api.groups.clone();
    let asks = |subscription: v1::GroupSubscription| v1::HeartbeatRequest {
        subscription: Some(subscription),
        ..beat("m", 0, &[])
    };
    let invalid = [
        asks(v1::GroupSubscription { assignor: "fair".to_owned(), ..subscription() }),
        asks(v1::GroupSubscription { pattern: "(".to_owned(), ..Default::default() }),
        asks(v1::GroupSubscription { topics: vec!["no/topic".to_owned()], ..Default::default() }),
        v1::HeartbeatRequest { subscription: None, ..beat("m", 0, &[]) },
        v1::HeartbeatRequest { group_id: String::new(), ..beat("m", 0, &[]) },
        v1::HeartbeatRequest { group_id: "g".repeat(250), ..beat("m", 0, &[]) },
        v1::HeartbeatRequest { member_id: String::new(), ..beat("m", 0, &[]) },
        v1::HeartbeatRequest { session_timeout_ms: Some(1), ..beat("m", 0, &[]) },
        v1::HeartbeatRequest { rebalance_timeout_ms: Some(u32::MAX), ..beat("m", 0, &[]) },
        beat("m", -9, &[]),
    ];
    for request in invalid {
        let shown = format!("{request:?}");
        let status = groups.heartbeat(request).await.expect_err(&shown);
        assert_eq!(status.code(), Code::InvalidArgument, "{shown}: {status:?}");
        let error = ApiError::from_status(&status).unwrap();
        assert_eq!(error.code, ErrorCode::InvalidRequest, "{shown}: {error}");
    }
    // From outside, into a group that nobody is in.
    let long = v1::OffsetToCommit {
        topic: TOPIC.to_owned(),
        offset: 1,
        metadata: "x".repeat(4097),
        ..Default::default()
    };
    let outside = |offset: v1::OffsetToCommit| v1::CommitOffsetsRequest {
        group_id: GROUP.to_owned(),
        offsets: vec![offset],
        ..Default::default()
    };
    let refused = partition_reason(groups.commit_offsets(outside(long)).await);
    assert_eq!(refused, Some(ErrorCode::InvalidRequest));
    assert_eq!(
        partition_reason(groups.commit_offsets(commit("", 0, 0, -5)).await),
        Some(ErrorCode::InvalidRequest)
    );
    let unknown = v1::OffsetToCommit { topic: "nowhere".to_owned(), offset: 1, ..Default::default() };
    assert_eq!(
        partition_reason(groups.commit_offsets(outside(unknown)).await),
        Some(ErrorCode::UnknownTopic)
    );
    let nothing = v1::CommitOffsetsRequest { group_id: GROUP.to_owned(), ..Default::default() };
    assert_eq!(reason(groups.commit_offsets(nothing).await), ErrorCode::InvalidRequest);
    let text = v1::OffsetToCommit {
        topic: TOPIC.to_owned(),
        offset: 1,
        metadata: "x".repeat(4096),
        ..Default::default()
    };
    assert_eq!(partition_reason(groups.commit_offsets(outside(text)).await), None, "4,096 bytes are allowed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_group_is_said_to_be_one() {
    let (_dev, api) = started().await;
    let mut groups = api.groups.clone();
    let describe = v1::DescribeGroupsRequest { group_ids: vec!["nobody".to_owned()] };
    let answer = within("DescribeGroups", groups.describe_groups(describe)).await;
    assert_eq!(group_reason(answer, |answer| &answer.groups), Some(ErrorCode::UnknownGroup));
    let delete = v1::DeleteGroupsRequest { group_ids: vec!["nobody".to_owned()] };
    let answer = within("DeleteGroups", groups.delete_groups(delete)).await;
    assert_eq!(group_reason(answer, |answer| &answer.results), Some(ErrorCode::UnknownGroup));
    let forget = v1::DeleteOffsetsRequest { group_id: "nobody".to_owned(), topics: some_topic() };
    assert_eq!(reason(groups.delete_offsets(forget).await), ErrorCode::UnknownGroup);
    let reset = v1::ResetOffsetsRequest {
        group_id: "nobody".to_owned(),
        to: Some(v1::reset_offsets_request::To::Offset(0)),
        ..Default::default()
    };
    assert_eq!(reason(groups.reset_offsets(reset).await), ErrorCode::UnknownGroup);
    let fetch = v1::FetchOffsetsRequest { group_id: "nobody".to_owned(), ..Default::default() };
    let answer = within("FetchOffsets", groups.fetch_offsets(fetch)).await.unwrap().into_inner();
    assert!(answer.offsets.is_empty(), "a group that is not known has committed nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_with_members_is_not_changed_from_outside() {
    let (_dev, api) = started().await;
    let mut groups = api.groups.clone();
    let (epoch, _) = join(&api, "m", "").await;
    assert_eq!(partition_reason(groups.commit_offsets(commit("m", epoch, 0, 2)).await), None);
    assert_eq!(reason(groups.commit_offsets(commit("", 0, 0, 1)).await), ErrorCode::GroupNotEmpty);
    let reset = |dry_run| v1::ResetOffsetsRequest {
        group_id: GROUP.to_owned(),
        to: Some(v1::reset_offsets_request::To::Offset(0)),
        dry_run,
        ..Default::default()
    };
    assert_eq!(reason(groups.reset_offsets(reset(false)).await), ErrorCode::GroupNotEmpty);
    let forget = v1::DeleteOffsetsRequest { group_id: GROUP.to_owned(), topics: some_topic() };
    assert_eq!(reason(groups.delete_offsets(forget).await), ErrorCode::GroupNotEmpty);
    let delete = v1::DeleteGroupsRequest { group_ids: vec![GROUP.to_owned()] };
    let answer = within("DeleteGroups", groups.delete_groups(delete)).await;
    assert_eq!(group_reason(answer, |answer| &answer.results), Some(ErrorCode::GroupNotEmpty));
    assert_eq!(committed(&api).await, [(0, 2)]);
}

/// A cluster without a coordinator says so, and says that it is worth another try; when one comes, the call does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_coordinator_a_call_is_refused_as_worth_another_try() {
    let mut cluster = Cluster::start_with(Setup {
        controllers: 1,
        brokers: 1,
        controller_flags: vec!["--offsets-topic-partitions", "3", "--offsets-topic-replication-factor", "1"],
        ..Setup::default()
    });
    let api = cluster.api(1).await;
    api.create_topic(TOPIC, 2, &[]).await;
    let status = api.groups.clone().heartbeat(beat("m", 0, &[])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let error = ApiError::from_status(&status).unwrap();
    assert_eq!(error.code, ErrorCode::CoordinatorNotAvailable, "{error}");
    cluster.cli(&["group", "list"]).run().refused(&["coordinator", "hint: "]);
    cluster.new_coordinator(1);
    cluster.coordinator(1).start();
    for _ in 0..30 {
        if api.groups.clone().heartbeat(beat("m", 0, &[])).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("a coordinator is there, and still no group is served");
}
