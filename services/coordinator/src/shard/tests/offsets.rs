//! Committing, reading, expiring and forgetting offsets; who may.

use super::client::settle;
use super::*;

const DAY: u64 = 24 * 3600 * 1000;

#[test]
fn a_rightful_commit_during_an_epoch_bump_is_not_lost() {
    let mut rig = Rig::new(2);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    let before = a.clone();
    b.join(&mut rig).unwrap();
    rig.pass(100);
    assert_eq!(before.commit(&mut rig, &[(0, 1), (1, 1)]), Ok(vec![None, None]));
    settle(&mut rig, &mut [&mut a, &mut b]);
    let (kept, moved) = (a.partitions()[0], b.partitions()[0]);
    // Its epoch moved on; under the old one it still may commit what it kept, and nothing of what it gave back.
    let outcome = before.commit(&mut rig, &[(kept, 2), (moved, 2)]);
    assert_eq!(outcome, Ok(vec![None, Some(ErrorCode::StaleMemberEpoch)]));
    assert_eq!(
        rig.committed("g"),
        [(kept, 2), (moved, 1)].into_iter().collect::<BTreeMap<_, _>>().into_iter().collect::<Vec<_>>()
    );
    let ahead = Client { epoch: a.epoch + 1, ..a.clone() };
    assert_eq!(ahead.commit(&mut rig, &[(kept, 3)]), Err(ErrorCode::FencedMemberEpoch));
    let unknown = Client { id: "x".to_owned(), ..a.clone() };
    assert_eq!(unknown.commit(&mut rig, &[(kept, 3)]), Err(ErrorCode::UnknownMember));
}

#[test]
fn from_outside_only_a_group_without_members_is_changed() {
    let mut rig = Rig::new(2);
    assert_eq!(rig.commit_outside("g", &[(0, 5), (1, 6)]), [None, None]);
    let mut a = Client::new("g", "a");
    a.join(&mut rig).unwrap();
    let delete = ShardCall::DeleteGroup(v1::DeleteGroupsRequest { group_ids: vec!["g".to_owned()] });
    let topic = v1::TopicPartitions { topic: "t".to_owned(), partitions: vec![0], ..Default::default() };
    let forget = ShardCall::DeleteOffsets(v1::DeleteOffsetsRequest {
        group_id: "g".to_owned(),
        topics: vec![topic.clone()],
    });
    let outcome = rig.ask(ShardCall::CommitOffsets(commit("g", "t", &[(0, 1)])));
    assert_eq!(results(outcome), Err(ErrorCode::GroupNotEmpty));
    assert_eq!(rig.ask(forget.clone()).unwrap_err().code, ErrorCode::GroupNotEmpty);
    assert_eq!(deleted(rig.ask(delete.clone())), Some(ErrorCode::GroupNotEmpty));
    assert_eq!(rig.committed("g"), [(0, 5), (1, 6)]);
    // Empty, all of it is allowed.
    a.leave(&mut rig, -1).unwrap();
    assert_eq!(rig.commit_outside("g", &[(0, 1)]), [None]);
    match rig.ask(forget) {
        Ok(Reply::DeleteOffsets(answer)) => assert_eq!(answer.results.len(), 1),
        other => panic!("{other:?}"),
    }
    assert_eq!(rig.committed("g"), [(1, 6)]);
    assert_eq!(deleted(rig.ask(delete.clone())), None);
    assert!(!rig.has_group("g") && rig.shard.offset_count() == 0);
    assert_eq!(deleted(rig.ask(delete)), Some(ErrorCode::UnknownGroup));
    assert_eq!(rig.committed("g"), [], "a group that is not known has committed nothing");
    let forget = v1::DeleteOffsetsRequest { group_id: "g".to_owned(), topics: vec![topic] };
    assert_eq!(rig.ask(ShardCall::DeleteOffsets(forget)).unwrap_err().code, ErrorCode::UnknownGroup);
    let describe = v1::DescribeGroupsRequest { group_ids: vec!["g".to_owned()] };
    match rig.ask(ShardCall::DescribeGroup(describe)) {
        Ok(Reply::DescribeGroup(answer)) => {
            let error = answer.groups[0].error.as_ref().unwrap();
            assert_eq!(error.code, ErrorCode::UnknownGroup as i32);
        }
        other => panic!("{other:?}"),
    }
}

fn deleted(reply: Result<Reply, Refusal>) -> Option<ErrorCode> {
    match reply {
        Ok(Reply::DeleteGroup(answer)) => {
            let error = answer.results[0].error.as_ref();
            error.map(|error| ErrorCode::from_number(error.code).unwrap())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_commits_are_named_one_by_one() {
    let mut rig = Rig::new(2);
    let good = commit("g", "t", &[(0, 1)]).offsets.remove(0);
    let offsets = vec![
        good.clone(),
        v1::OffsetToCommit { topic: "nowhere".to_owned(), ..good.clone() },
        v1::OffsetToCommit { topic: "a/b".to_owned(), ..good.clone() },
        v1::OffsetToCommit { partition: 2, ..good.clone() },
        v1::OffsetToCommit { partition: -1, ..good.clone() },
        v1::OffsetToCommit { offset: -1, ..good.clone() },
        v1::OffsetToCommit { metadata: "x".repeat(4_097), ..good.clone() },
        v1::OffsetToCommit { topic_id: vec![9; 16].into(), ..good.clone() },
        v1::OffsetToCommit { topic_id: vec![9; 3].into(), ..good.clone() },
        v1::OffsetToCommit { partition: 1, metadata: "x".repeat(4_096), leader_epoch: Some(3), ..good },
    ];
    let request = v1::CommitOffsetsRequest { offsets, ..commit("g", "t", &[]) };
    let reply = rig.ask(ShardCall::CommitOffsets(request));
    use ErrorCode::*;
    let wanted = [
        None,
        Some(UnknownTopic),
        Some(InvalidRequest),
        Some(UnknownPartition),
        Some(UnknownPartition),
        Some(InvalidRequest),
        Some(InvalidRequest),
        Some(UnknownTopic),
        Some(InvalidRequest),
        None,
    ];
    assert_eq!(results(reply), Ok(wanted.to_vec()));
    let fetch = v1::FetchOffsetsRequest { group_id: "g".to_owned(), ..Default::default() };
    match rig.ask(ShardCall::FetchOffsets(fetch)) {
        Ok(Reply::FetchOffsets(answer)) => {
            let epochs: Vec<Option<i32>> = answer.offsets.iter().map(|at| at.leader_epoch).collect();
            assert_eq!(epochs, [None, Some(3)]);
            assert_eq!(answer.offsets[1].metadata.len(), 4_096);
            assert_eq!(answer.offsets[0].committed_at_ms, rig.now.wall.as_millis());
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(results(rig.ask(ShardCall::CommitOffsets(commit("g", "t", &[])))), Err(InvalidRequest));
    let many = vec![(0, 1); 10_001];
    assert_eq!(results(rig.ask(ShardCall::CommitOffsets(commit("g", "t", &many)))), Err(InvalidRequest));
}

#[test]
fn as_many_offsets_as_a_shard_has_room_for() {
    let mut rig = Rig::with(4, GroupConfig { max_offsets: 2, ..GroupConfig::default() });
    let outcome = rig.commit_outside("g", &[(0, 1), (1, 1), (2, 1)]);
    assert_eq!(outcome, [None, None, Some(ErrorCode::Throttled)]);
    assert_eq!(rig.commit_outside("g", &[(1, 2)]), [None], "what is there can be moved");
}

#[test]
fn what_a_member_asks_under_an_old_epoch_is_an_error_never_nothing() {
    let mut rig = Rig::new(2);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.join(&mut rig).unwrap();
    assert_eq!(a.commit(&mut rig, &[(0, 7), (1, 8)]), Ok(vec![None, None]));
    let old = a.clone();
    for round in 0..2 {
        b.join(&mut rig).unwrap();
        settle(&mut rig, &mut [&mut a, &mut b]);
        if round == 0 {
            b.leave(&mut rig, -1).unwrap();
            settle(&mut rig, &mut [&mut a]);
        }
    }
    let fetch = |client: &Client| v1::FetchOffsetsRequest {
        group_id: "g".to_owned(),
        member_id: client.id.clone(),
        member_epoch: client.epoch,
        topics: vec![v1::TopicPartitions {
            topic_id: vec![1; 16].into(),
            topic: String::new(),
            partitions: vec![1, 0],
        }],
    };
    assert_eq!(offsets(rig.ask(ShardCall::FetchOffsets(fetch(&a))).unwrap()), [(0, 7), (1, 8)]);
    let refused =
        |rig: &mut Rig, client: &Client| rig.ask(ShardCall::FetchOffsets(fetch(client))).unwrap_err().code;
    assert_eq!(refused(&mut rig, &old), ErrorCode::FencedMemberEpoch);
    let unknown = Client { id: "x".to_owned(), ..old };
    assert_eq!(refused(&mut rig, &unknown), ErrorCode::UnknownMember);
}

#[test]
fn offsets_outlive_a_long_rebalance_and_expire_when_the_group_is_long_empty() {
    let mut rig = Rig::new(2);
    let (mut a, mut b) = (Client::new("g", "a"), Client::new("g", "b"));
    a.rebalance_ms = 86_400_000;
    a.session_ms = 1_800_000;
    b.session_ms = 1_800_000;
    a.join(&mut rig).unwrap();
    a.commit(&mut rig, &[(0, 7), (1, 8)]).unwrap();
    b.join(&mut rig).unwrap();
    rig.pass(100);
    a.beat(&mut rig).unwrap();
    // Eight days in which a is asked to give back, time and again, and nobody commits.
    rig.commit_outside("simple", &[(0, 1)]);
    for _ in 0..(8 * 24 * 4) {
        rig.pass(900_000);
        let _ = a.beat(&mut rig).map(|_| a.says = false);
        if a.epoch > 0 && b.beat(&mut rig).is_err() {
            b.join(&mut rig).unwrap();
        }
    }
    assert_eq!(rig.committed("g"), [(0, 7), (1, 8)], "a group with members keeps its offsets");
    assert!(!rig.has_group("simple"), "one that never had members does not");
    let id = a.id.clone();
    assert!(a.leave(&mut rig, -1).is_ok(), "{id}");
    b.leave(&mut rig, -1).unwrap();
    rig.pass(7 * DAY - 1);
    assert_eq!(rig.committed("g"), [(0, 7), (1, 8)]);
    rig.pass(600_001);
    assert!(!rig.has_group("g"));
}

#[test]
fn a_group_without_members_and_offsets_is_soon_forgotten() {
    let mut rig = Rig::new(1);
    let mut a = Client::new("g", "a");
    a.join(&mut rig).unwrap();
    a.leave(&mut rig, -1).unwrap();
    assert_eq!(rig.state("g"), v1::GroupState::Empty);
    rig.pass(600_000);
    assert!(!rig.has_group("g"));
}

#[test]
fn the_offsets_of_a_deleted_topic_are_dropped_also_when_it_is_created_anew() {
    let mut rig = Rig::new(2);
    rig.create("u", 1);
    rig.commit_outside("g", &[(0, 5), (1, 6)]);
    rig.ask(ShardCall::CommitOffsets(commit("g", "u", &[(0, 3)]))).unwrap();
    rig.delete("t");
    assert_eq!(rig.committed("g"), [(0, 3)]);
    rig.create("t", 2);
    assert_eq!(rig.committed("g"), [(0, 3)]);
    rig.commit_outside("g", &[(0, 9)]);
    // While nobody serves the shard the topic goes and comes back.
    let all = rig.records().len();
    let old = rig.topic_id("t");
    rig.delete_unseen("t");
    rig.create_unseen("t", 2);
    assert_ne!(rig.topic_id("t"), old);
    rig.fail_over(all);
    let fetch = v1::FetchOffsetsRequest { group_id: "g".to_owned(), ..Default::default() };
    let refusal = rig.ask(ShardCall::FetchOffsets(fetch)).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::CoordinatorNotAvailable, "not yet known whose offsets these are");
    rig.pass(10_000);
    assert_eq!(rig.committed("g"), [(0, 3)]);
}
