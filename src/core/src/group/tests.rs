//! A group with its members, driven by hand and at random. Every change goes through the bytes of the log.

use super::assignor::TopicIdPartition;
use super::state::Partitions;
use super::*;
use crate::metadata::command::Refusal;
use crate::{ErrorCode, LeaderEpoch, Offset, PartitionId, Timestamp, TopicId, TopicName};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Topics t1, t2, .. with so many partitions.
#[derive(Default)]
struct World(BTreeMap<TopicName, i32>);

fn id_of(name: &TopicName) -> TopicId {
    let mut id = [0; 16];
    id[0] = name.as_str().as_bytes()[1];
    TopicId(id)
}

impl TopicLookup for World {
    fn topic(&self, name: &TopicName) -> Option<(TopicId, i32)> {
        self.0.get(name).map(|count| (id_of(name), *count))
    }

    fn matching(&self, pattern: &str) -> Arc<BTreeSet<TopicName>> {
        Arc::new(self.0.keys().filter(|name| name.as_str().starts_with(pattern)).cloned().collect())
    }
}

/// One process as it sees itself.
#[derive(Debug, Clone, Default)]
struct Process {
    epoch: MemberEpoch,
    has: Partitions,
    instance: Option<InstanceId>,
}

#[derive(Default)]
struct Driver {
    world: World,
    group: Group,
    processes: BTreeMap<MemberId, Process>,
    /// What a goodbye names.
    leaving: Option<MemberEpoch>,
}

fn topic(name: &str) -> TopicName {
    TopicName::new(name).unwrap()
}

fn member(name: &str) -> MemberId {
    MemberId::new(name).unwrap()
}

impl Driver {
    fn new(partitions: i32) -> Driver {
        Driver { world: World(BTreeMap::from([(topic("t1"), partitions)])), ..Driver::default() }
    }

    fn replay(&mut self, changes: Vec<Change>) {
        for change in changes {
            let record = GroupRecord { group: GroupId::new("g").unwrap(), change };
            let (key, value) = record.encode();
            assert_eq!(GroupRecord::decode(&key, value.as_deref()).as_ref(), Ok(&record));
            self.group.replay(&record.change);
        }
        let holders = self.group.members.iter().flat_map(|(id, member)| {
            member.current.owned.keys().chain(member.current.revoking.keys()).map(move |at| (*at, id.clone()))
        });
        let mut owners = BTreeMap::new();
        for (at, id) in holders {
            assert_eq!(owners.insert(at, id), None, "{at:?} has two owners");
        }
        assert_eq!(owners, self.group.owners);
    }

    fn send(
        &mut self,
        name: &str,
        epoch: MemberEpoch,
        wish: Option<Subscription>,
    ) -> Result<HeartbeatAnswer, Refusal> {
        let process = self.processes.entry(member(name)).or_default().clone();
        let beat = Heartbeat {
            member: member(name),
            epoch,
            instance: process.instance,
            subscription: wish,
            has: Some(process.has),
            heard: None,
            attempt: None,
            client_id: "c".into(),
            host: "h".into(),
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_secs(300),
            leaving: self.leaving,
        };
        let (changes, answer) = self.group.heartbeat(&beat, Timestamp(1))?;
        self.replay(changes);
        if let Some(process) = self.processes.get_mut(&member(name)) {
            process.epoch = answer.epoch;
            if let Some(assignment) = &answer.assignment {
                process.has = assignment.clone();
            }
        }
        self.check_no_partition_is_shared();
        Ok(answer)
    }

    fn join(&mut self, name: &str) -> Result<HeartbeatAnswer, Refusal> {
        let wish = Subscription { topics: BTreeSet::from([topic("t1")]), ..Subscription::default() };
        if let Some(process) = self.processes.get_mut(&member(name)) {
            process.has.clear();
        }
        self.send(name, MemberEpoch::JOIN, Some(wish))
    }

    fn beat(&mut self, name: &str) -> Result<HeartbeatAnswer, Refusal> {
        let epoch = self.processes[&member(name)].epoch;
        if epoch == MemberEpoch::JOIN { self.join(name) } else { self.send(name, epoch, None) }
    }

    fn leave(&mut self, name: &str, epoch: MemberEpoch) {
        self.send(name, epoch, None).unwrap();
        self.processes.remove(&member(name));
    }

    fn assign(&mut self) {
        let specs: BTreeMap<TopicId, TopicSpec> = self
            .world
            .0
            .iter()
            .map(|(name, count)| {
                let racks = vec![BTreeSet::new(); usize::try_from(*count).unwrap()];
                (id_of(name), TopicSpec { name: name.as_str().into(), racks })
            })
            .collect();
        let changes = self.group.assign(&self.world, |id| specs.get(&id).cloned());
        self.replay(changes);
    }

    /// Heartbeats of everybody until nothing moves.
    fn settle(&mut self) {
        for _ in 0..6 {
            self.assign();
            for name in self.processes.keys().cloned().collect::<Vec<_>>() {
                self.beat(name.as_str()).unwrap();
            }
        }
        assert_eq!(self.group.state(), GroupState::Stable, "{:#?}", self.group);
    }

    fn check_no_partition_is_shared(&self) {
        let mut seen = BTreeMap::new();
        for (id, process) in &self.processes {
            for at in &process.has {
                assert_eq!(seen.insert(*at, id), None, "{at:?} is read twice");
            }
        }
    }

    fn has(&self, name: &str) -> Vec<i32> {
        self.processes[&member(name)].has.iter().map(|at| at.partition.get()).collect()
    }

    fn commit(&self, by: Committer, partition: i32, offset: i64) -> Result<Change, ErrorCode> {
        let committed = CommittedOffset {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch::NONE,
            metadata: "".into(),
            at: Timestamp(5),
            topic: None,
        };
        self.group.check_committer(&by).map_err(|refusal| refusal.code)?;
        self.group
            .commit(&by, &topic("t1"), id_of(&topic("t1")), PartitionId(partition), committed)
            .map_err(|refusal| refusal.code)
    }

    fn as_member(&self, name: &str) -> Committer {
        Committer::Member(member(name), self.processes[&member(name)].epoch, None)
    }
}

#[test]
fn members_share_and_only_what_moves_pauses() {
    let mut group = Driver::new(6);
    group.join("a").unwrap();
    group.settle();
    assert_eq!(group.has("a").len(), 6);
    group.join("b").unwrap();
    group.assign();
    // b waits: a has not given back.
    assert_eq!(group.beat("b").unwrap().assignment, Some(Partitions::new()));
    let kept = group.beat("a").unwrap().assignment.unwrap();
    assert_eq!(kept.len(), 3, "a is told to give back and goes on with the rest");
    assert_eq!(group.beat("b").unwrap().assignment, Some(Partitions::new()), "not before a said so");
    group.beat("a").unwrap();
    assert_eq!(group.beat("b").unwrap().assignment.map(|got| got.len()), Some(3));
    assert_eq!(group.has("a").len(), 3);
    // c joins and takes its share; the others keep two of what they had.
    let before = (group.has("a"), group.has("b"));
    group.join("c").unwrap();
    group.settle();
    assert_eq!(group.has("c").len(), 2);
    assert!(group.has("a").iter().all(|p| before.0.contains(p)));
    assert!(group.has("b").iter().all(|p| before.1.contains(p)));
    // a leaves: what it had goes to the others.
    group.leave("a", MemberEpoch::LEAVE);
    group.settle();
    assert_eq!((group.has("b").len(), group.has("c").len()), (3, 3));
}

#[test]
fn a_member_that_was_fenced_can_neither_beat_nor_commit() {
    let mut group = Driver::new(2);
    group.join("a").unwrap();
    group.join("b").unwrap();
    group.settle();
    let lost = group.has("a")[0];
    assert!(group.commit(group.as_member("a"), lost, 7).is_ok());
    let out = group.group.without(&[member("a")], Timestamp(9));
    let stale = group.as_member("a");
    let paused = group.processes.remove(&member("a")).unwrap();
    group.replay(out);
    group.settle();
    assert_eq!(group.has("b").len(), 2);
    group.processes.insert(member("a"), Process { has: Partitions::new(), ..paused });
    assert_eq!(group.beat("a").unwrap_err().code, ErrorCode::UnknownMember);
    assert_eq!(group.commit(stale.clone(), lost, 8), Err(ErrorCode::UnknownMember));
    // It joins anew: its old epoch says nothing about what it has now.
    group.join("a").unwrap();
    group.settle();
    let now = group.has("a")[0];
    assert_eq!(group.commit(stale, now, 8), Err(ErrorCode::StaleMemberEpoch));
    assert!(group.commit(group.as_member("a"), now, 8).is_ok());
}

#[test]
fn a_former_self_has_no_say_once_the_member_joined_anew_under_its_id() {
    let mut group = Driver::new(4);
    group.join("a").unwrap();
    group.join("b").unwrap();
    group.settle();
    let (former, had, others) = (group.as_member("a"), group.has("a"), group.has("b"));
    let Committer::Member(_, former_epoch, _) = former else { unreachable!("it is a member") };
    assert!(group.commit(former.clone(), had[0], 100).is_ok());
    // It crashed and is back, while a commit of its is on its way.
    let answer = group.join("a").unwrap();
    assert_eq!((answer.epoch, answer.assignment), (MemberEpoch::JOIN, Some(Partitions::new())));
    assert_eq!(group.commit(former.clone(), had[0], 130), Err(ErrorCode::FencedMemberEpoch));
    group.leaving = Some(former_epoch);
    let goodbye = group.send("a", MemberEpoch::LEAVE, None).unwrap_err();
    assert_eq!(
        (goodbye.code, goodbye.field.as_deref()),
        (ErrorCode::FencedMemberEpoch, Some("leaving_epoch"))
    );
    // Its answer was lost, and it asks again: that puts nothing off.
    let epoch = group.group.epoch;
    group.join("a").unwrap();
    assert_eq!(group.group.epoch, epoch);
    group.assign();
    group.join("a").unwrap();
    assert_eq!(
        (group.has("a"), group.group.epoch),
        (had.clone(), epoch),
        "what it had, with the next target"
    );
    assert_eq!(group.commit(former, had[0], 130), Err(ErrorCode::StaleMemberEpoch));
    assert!(group.commit(group.as_member("a"), had[0], 130).is_ok());
    assert_eq!(group.send("a", MemberEpoch::LEAVE, None).unwrap_err().code, ErrorCode::FencedMemberEpoch);
    // Nobody else gives anything back for it.
    for _ in 0..3 {
        group.beat("b").unwrap();
        assert_eq!(group.has("b"), others);
    }
    assert_eq!(group.group.state(), GroupState::Stable);
    // One that never got as far as the target need not wait for another.
    group.leaving = None;
    group.join("c").unwrap();
    group.assign();
    let epoch = group.group.epoch;
    assert!(group.join("c").unwrap().epoch == epoch && group.group.epoch == epoch);
    group.leave("c", MemberEpoch::LEAVE);
    // An answer that was lost behind the first epoch: again the same.
    group.join("a").unwrap();
    group.settle();
    assert_eq!((group.has("a"), group.has("b")), (had, others));
    group.leaving = Some(group.processes[&member("a")].epoch);
    group.leave("a", MemberEpoch::LEAVE);
    group.leaving = None;
    group.settle();
    assert_eq!(group.has("b").len(), 4);
}

#[test]
fn a_static_member_that_comes_back_under_its_id_gets_the_same_and_its_former_commits_do_not_count() {
    let mut group = Driver::new(4);
    let instance = InstanceId::new("i").unwrap();
    group.processes.insert(member("a"), Process { instance: Some(instance.clone()), ..Process::default() });
    group.join("a").unwrap();
    group.join("b").unwrap();
    group.settle();
    let (had, others) = (group.has("a"), group.has("b"));
    let Committer::Member(id, epoch, _) = group.as_member("a") else { unreachable!("it is a member") };
    let former = Committer::Member(id, epoch, Some(instance));
    group.leaving = Some(epoch);
    group.send("a", MemberEpoch::LEAVE_FOR_NOW, None).unwrap();
    group.send("a", MemberEpoch::LEAVE_FOR_NOW, None).unwrap();
    group.join("a").unwrap();
    group.settle();
    assert_eq!((group.has("a"), group.has("b")), (had.clone(), others));
    assert_eq!(group.commit(former, had[0], 130), Err(ErrorCode::StaleMemberEpoch));
    let late = group.send("a", MemberEpoch::LEAVE_FOR_NOW, None).unwrap_err();
    assert_eq!(late.code, ErrorCode::FencedMemberEpoch);
}

#[test]
fn a_rightful_commit_counts_while_the_epoch_moves_on() {
    let mut group = Driver::new(2);
    group.join("a").unwrap();
    group.settle();
    let before = group.as_member("a");
    group.join("b").unwrap();
    group.assign();
    // Asked to give one back: both still count, under the epoch that it knows.
    group.beat("a").unwrap();
    assert!(group.commit(before.clone(), 0, 1).is_ok() && group.commit(before.clone(), 1, 1).is_ok());
    group.settle();
    let (kept, gone) = (group.has("a")[0], group.has("b")[0]);
    // The epoch moved on; what it kept it may commit under the old one, what another has it may not.
    assert!(group.commit(before.clone(), kept, 2).is_ok());
    assert_eq!(group.commit(before, gone, 2), Err(ErrorCode::StaleMemberEpoch));
    assert_eq!(group.commit(Committer::Outside, kept, 2), Err(ErrorCode::GroupNotEmpty));
    let ahead = Committer::Member(member("a"), MemberEpoch(99), None);
    assert_eq!(group.commit(ahead, kept, 2), Err(ErrorCode::FencedMemberEpoch));
}

#[test]
fn a_static_member_comes_back_to_its_partitions_and_the_old_process_is_fenced() {
    let mut group = Driver::new(4);
    let instance = InstanceId::new("i").unwrap();
    group.processes.insert(member("a1"), Process { instance: Some(instance.clone()), ..Process::default() });
    group.join("a1").unwrap();
    group.join("b").unwrap();
    group.settle();
    let had = group.has("a1");
    // Somebody else with its name, while it lives.
    group.processes.insert(member("a2"), Process { instance: Some(instance), ..Process::default() });
    assert_eq!(group.join("a2").unwrap_err().code, ErrorCode::FencedInstance);
    group.processes.remove(&member("a2"));
    let old = group.processes[&member("a1")].clone();
    group.leave("a1", MemberEpoch::LEAVE_FOR_NOW);
    let epoch = group.group.epoch;
    group.processes.insert(member("a2"), Process { instance: old.instance.clone(), ..Process::default() });
    group.join("a2").unwrap();
    assert_eq!((group.has("a2"), group.group.epoch), (had, epoch), "nothing moved");
    group.processes.insert(member("a1"), Process { has: Partitions::new(), ..old });
    assert_eq!(group.beat("a1").unwrap_err().code, ErrorCode::FencedInstance);
}

#[test]
fn topics_that_appear_and_grow_are_assigned() {
    let mut group = Driver::new(1);
    let wish = Subscription { pattern: Some("t".into()), ..Subscription::default() };
    group.send("a", MemberEpoch::JOIN, Some(wish)).unwrap();
    group.assign();
    let epoch = group.group.target_epoch;
    group.beat_again("a");
    assert_eq!(group.group.topics_changed(&group.world), None);
    group.world.0.insert(topic("t1"), 2);
    group.world.0.insert(topic("t2"), 1);
    let change = group.group.topics_changed(&group.world).unwrap();
    group.replay(vec![change]);
    group.assign();
    assert!(group.group.target_epoch > epoch);
    group.beat_again("a");
    assert_eq!(group.processes[&member("a")].has.len(), 3);
}

#[test]
fn offsets_live_as_long_as_there_are_members_and_a_while_after() {
    let mut group = Driver::new(1);
    group.join("a").unwrap();
    group.settle();
    let change = group.commit(group.as_member("a"), 0, 1).unwrap();
    group.replay(vec![change]);
    let week = Duration::from_secs(7 * 24 * 3600);
    let late = Timestamp(8 * 24 * 3600 * 1000);
    assert_eq!(group.group.expire(week, late), vec![], "a group with members keeps them");
    assert_eq!(group.group.delete().unwrap_err().code, ErrorCode::GroupNotEmpty);
    group.leave("a", MemberEpoch::LEAVE);
    assert_eq!(group.group.expire(week, Timestamp(1000)), vec![]);
    let gone = group.group.expire(week, late);
    group.replay(gone);
    assert!(group.group.offsets.is_empty());
    assert_eq!(group.group, Group::default());
}

#[test]
fn bad_wishes_are_refused() {
    let mut group = Driver::new(1);
    let code = |group: &mut Driver, wish| group.send("a", MemberEpoch::JOIN, wish).unwrap_err();
    assert_eq!(code(&mut group, None).field.as_deref(), Some("subscription"));
    assert_eq!(code(&mut group, Some(Subscription::default())).field.as_deref(), Some("subscription.topics"));
    let topics = BTreeSet::from([topic("t1")]);
    let wish = Subscription { topics, assignor: Some("best".into()), ..Subscription::default() };
    assert_eq!(code(&mut group, Some(wish)).field.as_deref(), Some("subscription.assignor"));
    assert_eq!(group.send("a", MemberEpoch(3), None).unwrap_err().code, ErrorCode::UnknownMember);
    assert_eq!(group.send("a", MemberEpoch(-7), None).unwrap_err().code, ErrorCode::InvalidRequest);
}

impl Driver {
    fn beat_again(&mut self, name: &str) {
        for _ in 0..3 {
            let wish = Subscription { pattern: Some("t".into()), ..Subscription::default() };
            let epoch = self.processes[&member(name)].epoch;
            self.send(name, epoch, Some(wish).filter(|_| epoch == MemberEpoch::JOIN)).unwrap();
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Join(u8),
    Beat(u8),
    LostAnswer(u8),
    Leave(u8),
    Expire(u8),
    Assign,
    Grow,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0u8..4;
    let step = prop_oneof![
        2 => who.clone().prop_map(Step::Join),
        8 => who.clone().prop_map(Step::Beat),
        2 => who.clone().prop_map(Step::LostAnswer),
        1 => who.clone().prop_map(Step::Leave),
        1 => who.prop_map(Step::Expire),
        4 => Just(Step::Assign),
        1 => Just(Step::Grow),
    ];
    prop::collection::vec(step, 0..80)
}

proptest! {
    #[test]
    fn no_partition_ever_has_two_owners_and_in_the_end_all_are_owned(steps in steps()) {
        let mut group = Driver::new(5);
        for step in steps {
            match step {
                Step::Join(n) => {
                    let name = format!("m{n}");
                    group.processes.entry(member(&name)).or_default();
                    group.join(&name).unwrap();
                }
                Step::Beat(n) | Step::LostAnswer(n) => {
                    let name = format!("m{n}");
                    let Some(before) = group.processes.get(&member(&name)).cloned() else { continue };
                    group.beat(&name).unwrap();
                    if matches!(step, Step::LostAnswer(_)) {
                        // It never heard: it goes on with what it had, less what it has to give back anyway.
                        let now = group.processes[&member(&name)].has.clone();
                        let has: BTreeSet<TopicIdPartition> = before.has.intersection(&now).copied().collect();
                        group.processes.insert(member(&name), Process { has, ..before });
                    }
                }
                Step::Leave(n) => {
                    let name = format!("m{n}");
                    if group.group.members.contains_key(&member(&name)) {
                        group.leave(&name, MemberEpoch::LEAVE);
                    }
                }
                Step::Expire(n) => {
                    let out = group.group.without(&[member(&format!("m{n}"))], Timestamp(2));
                    group.processes.remove(&member(&format!("m{n}")));
                    group.replay(out);
                }
                Step::Assign => group.assign(),
                Step::Grow => {
                    group.world.0.entry(topic("t1")).and_modify(|count| *count = (*count + 1).min(9));
                    let change = group.group.topics_changed(&group.world);
                    group.replay(change.into_iter().collect());
                }
            }
        }
        if group.processes.is_empty() {
            return Ok(());
        }
        group.settle();
        let owned: usize = group.processes.values().map(|process| process.has.len()).sum();
        prop_assert_eq!(owned, usize::try_from(group.world.0[&topic("t1")]).unwrap());
        let sizes: Vec<usize> = group.processes.values().map(|process| process.has.len()).collect();
        prop_assert!(sizes.iter().max().unwrap() - sizes.iter().min().unwrap() <= 1);
    }
}
