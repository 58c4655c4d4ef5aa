//! What comes late, by a broker that had held it up: it must not free what its member still reads.

use super::assignor::TopicIdPartition;
use super::records::GroupValue;
use super::state::Partitions;
use super::*;
use crate::metadata::command::Refusal;
use crate::{ErrorCode, PartitionId, Timestamp, TopicId, TopicName};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

struct OneTopic;

impl TopicLookup for OneTopic {
    fn topic(&self, _: &TopicName) -> Option<(TopicId, i32)> {
        Some((TopicId([1; 16]), 2))
    }

    fn matching(&self, _: &str) -> Arc<BTreeSet<TopicName>> {
        Arc::default()
    }
}

fn set(list: &[i32]) -> Partitions {
    list.iter().map(|n| TopicIdPartition { topic: TopicId([1; 16]), partition: PartitionId(*n) }).collect()
}

fn id(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

fn beat(name: &str, epoch: i32, has: &[i32], heard: Option<u64>) -> Heartbeat {
    let wish = Subscription { topics: [TopicName::new("t").unwrap()].into(), ..Subscription::default() };
    Heartbeat {
        member: id(name),
        epoch: MemberEpoch(epoch),
        instance: None,
        subscription: (epoch == 0).then_some(wish),
        has: Some(set(has)),
        heard,
        attempt: None,
        client_id: "c".into(),
        host: "h".into(),
        session_timeout: Duration::from_secs(45),
        rebalance_timeout: Duration::from_secs(300),
        leaving: None,
    }
}

fn join(name: &str, life: u64, number: u64) -> Heartbeat {
    Heartbeat { attempt: Some(Attempt { life, number }), ..beat(name, 0, &[], None) }
}

fn say(group: &mut Group, beat: &Heartbeat) -> Result<HeartbeatAnswer, Refusal> {
    let (changes, answer) = group.heartbeat(beat, Timestamp(1))?;
    changes.iter().for_each(|change| group.replay(change));
    Ok(answer)
}

fn assign(group: &mut Group) {
    let spec = TopicSpec { name: "t".into(), racks: vec![BTreeSet::new(); 2] };
    let changes = group.assign(&OneTopic, |_| Some(spec.clone()));
    changes.iter().for_each(|change| group.replay(change));
}

/// As if the next assignment said so.
fn aim(group: &mut Group, targets: &[(&str, &[i32])]) {
    let epoch = MemberEpoch(group.epoch.0 + 1);
    group.replay(&Change::Group(Some(GroupValue { epoch, target_epoch: epoch, ..group.value() })));
    for (name, target) in targets {
        group.replay(&Change::Target(id(name), Some(Arc::new(set(target)))));
    }
}

fn current(group: &Group, name: &str) -> Current {
    group.members[&id(name)].current.clone()
}

/// "a" has both partitions; "b" is new, and "a" gives it partition 1.
fn two_members() -> Group {
    let mut group = Group::default();
    say(&mut group, &join("a", 1, 1)).unwrap();
    assign(&mut group);
    say(&mut group, &join("a", 1, 2)).unwrap();
    say(&mut group, &join("b", 2, 1)).unwrap();
    aim(&mut group, &[("a", &[0]), ("b", &[1])]);
    group
}

#[test]
fn a_report_from_before_a_partition_came_does_not_give_it_back() {
    let mut group = two_members();
    let epoch = say(&mut group, &join("b", 2, 2)).unwrap().epoch.0;
    let waits = current(&group, "b");
    assert!(waits.waiting && waits.owned.is_empty());
    // It says so, by a broker that is slow to pass it on.
    let late = beat("b", epoch, &[], Some(waits.step));
    // Meanwhile it gets the partition, in the same epoch, and the next assignment takes it again.
    let a = current(&group, "a").epoch.0;
    say(&mut group, &beat("a", a, &[0, 1], None)).unwrap();
    let told = Some(current(&group, "a").step);
    say(&mut group, &beat("a", a, &[0], told)).unwrap();
    say(&mut group, &beat("b", epoch, &[], Some(waits.step))).unwrap();
    assert!(current(&group, "b").owned.keys().eq(set(&[1]).iter()));
    aim(&mut group, &[("a", &[0, 1]), ("b", &[])]);
    let told = Some(current(&group, "b").step);
    say(&mut group, &beat("b", epoch, &[1], told)).unwrap();
    let asked = current(&group, "b");
    assert!(asked.epoch.0 == epoch && asked.revoking.keys().eq(set(&[1]).iter()));

    say(&mut group, &late).unwrap();
    assert_eq!(current(&group, "b"), asked, "it reads 1, and has not given it back");
    say(&mut group, &beat("b", epoch, &[], Some(asked.step))).unwrap();
    assert!(current(&group, "b").revoking.is_empty(), "now it has");
}

#[test]
fn a_late_copy_of_a_join_frees_nothing() {
    let mut group = two_members();
    let a = current(&group, "a");
    let answer = say(&mut group, &beat("a", a.epoch.0, &[0, 1], None)).unwrap();
    assert_eq!(answer.assignment, Some(set(&[0])));
    let asked = current(&group, "a");
    assert!(asked.revoking.keys().eq(set(&[1]).iter()));
    // Both attempts come again; whoever might still wait hears where the member stands.
    for number in [1, 2] {
        let answer = say(&mut group, &join("a", 1, number)).unwrap();
        assert_eq!((answer.epoch, answer.assignment), (asked.epoch, Some(set(&[0]))));
        assert_eq!(current(&group, "a"), asked);
    }
    // A new attempt is a new beginning, and so is that of another process under its id.
    for begins in [join("a", 1, 3), join("a", 7, 1), join("a", 7, 2)] {
        say(&mut group, &begins).unwrap();
        let now = current(&group, "a");
        assert!(now.revoking.is_empty() && now.joined_by == begins.attempt && now.step > asked.step);
    }
}

#[test]
fn a_late_copy_of_a_join_does_not_bring_back_who_left_for_now() {
    let mut group = Group::default();
    let instance = InstanceId::new("i");
    let named = |beat: Heartbeat| Heartbeat { instance: instance.clone().ok(), ..beat };
    say(&mut group, &named(join("a", 1, 1))).unwrap();
    assign(&mut group);
    say(&mut group, &named(join("a", 1, 2))).unwrap();
    say(&mut group, &named(Heartbeat { has: None, ..beat("a", -2, &[], None) })).unwrap();
    let refused = say(&mut group, &named(join("a", 1, 2))).unwrap_err();
    assert_eq!(refused.code, ErrorCode::FencedMemberEpoch);
    assert_eq!(current(&group, "a").epoch, MemberEpoch::LEAVE_FOR_NOW);
    // It comes back itself.
    say(&mut group, &named(join("a", 1, 3))).unwrap();
}

#[test]
fn a_late_goodbye_of_one_that_never_heard_it_had_joined_does_not_put_it_out() {
    let mut group = Group::default();
    say(&mut group, &join("a", 1, 1)).unwrap();
    assign(&mut group);
    // It gave up waiting for the answer, said goodbye without an epoch to name, and joined anew.
    let goodbye = |life, number| Heartbeat {
        attempt: Some(Attempt { life, number }),
        has: None,
        ..beat("a", MemberEpoch::LEAVE.0, &[], None)
    };
    say(&mut group, &join("a", 1, 3)).unwrap();
    let refused = say(&mut group, &goodbye(1, 2)).unwrap_err();
    assert_eq!(
        (refused.code, refused.field.as_deref()),
        (ErrorCode::FencedMemberEpoch, Some("join_attempt"))
    );
    assert!(group.members.contains_key(&id("a")));
    // Its own, which follows the join, is heard.
    say(&mut group, &goodbye(1, 4)).unwrap();
    assert!(group.members.is_empty());
}

#[test]
fn a_join_that_is_asked_again_gets_what_was_assigned_meanwhile() {
    let mut group = Group::default();
    assert_eq!(say(&mut group, &join("a", 1, 1)).unwrap().epoch, MemberEpoch::JOIN);
    assign(&mut group);
    let answer = say(&mut group, &join("a", 1, 1)).unwrap();
    assert_eq!((answer.epoch, answer.assignment), (MemberEpoch(1), Some(set(&[0, 1]))));
    assert_eq!(current(&group, "a").epoch, MemberEpoch(1));
}
