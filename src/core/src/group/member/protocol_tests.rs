//! Members against the coordinator's side of the protocol, over a network that loses, delays and repeats.

use super::*;
use crate::ErrorCode;
use crate::group::assignor::{TopicIdPartition, TopicSpec};
use crate::group::{Attempt, Change, Group, GroupState, Heartbeat, TopicLookup};
use crate::{Timestamp, TopicId, TopicName};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const SESSION: u64 = 6_000;
const REBALANCE: u64 = 8_000;
/// One step of the world, in milliseconds.
const TICK: u64 = 20;
/// What the coordinator asks for between two heartbeats.
const INTERVAL: Duration = Duration::from_millis(1_000);
/// Long enough for whatever hung to be over, and for a few rebalances.
const CALM: u64 = SESSION + 3 * REBALANCE;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One topic that grows.
struct Topics(i32);

impl TopicLookup for Topics {
    fn topic(&self, _: &TopicName) -> Option<(TopicId, i32)> {
        Some((TopicId([1; 16]), self.0))
    }

    fn matching(&self, _: &str) -> Arc<BTreeSet<TopicName>> {
        Arc::default()
    }
}

/// What is on its way to the coordinator.
#[derive(Debug, Clone)]
struct Asked {
    arrives: u64,
    process: usize,
    beat: Outgoing,
    /// The number that the answer goes by; 0: nobody waits for it any more.
    number: u64,
}

/// What is on its way back.
#[derive(Debug, Clone)]
struct Answered {
    arrives: u64,
    process: usize,
    number: u64,
    outcome: Result<Answer, Refusal>,
}

/// An answer that waits for something to tell.
#[derive(Debug)]
struct Held {
    process: usize,
    number: u64,
    until: u64,
    told: (MemberEpoch, Partitions),
}

/// A process with a member in it, and the application's own view of what it may read.
#[derive(Debug)]
struct Process {
    member: Membership,
    reads: Partitions,
    /// What it was asked to give back, and when it will be done with it.
    finishing: Vec<(u64, Partitions)>,
    frozen_until: u64,
    patience: u64,
    ended: bool,
    lost_last_ask: u64,
}

struct World {
    now: u64,
    topics: Topics,
    group: Group,
    processes: Vec<Process>,
    asked: Vec<Asked>,
    answered: Vec<Answered>,
    held: BTreeMap<MemberId, Held>,
    sessions: BTreeMap<MemberId, u64>,
    /// Until when what is being revoked must be given back. Another revocation, another time.
    patience: BTreeMap<MemberId, (u64, Vec<TopicIdPartition>)>,
    /// When a target last did not have a partition, for each member.
    excluded: BTreeSet<(MemberId, TopicIdPartition)>,
    /// A stream of numbers that decides what the network does.
    luck: u64,
    chaos: bool,
    holds: bool,
    revoked: usize,
}

impl World {
    fn new(partitions: i32, seed: u64, holds: bool) -> World {
        World {
            now: 0,
            topics: Topics(partitions),
            group: Group::default(),
            processes: Vec::new(),
            asked: Vec::new(),
            answered: Vec::new(),
            held: BTreeMap::new(),
            sessions: BTreeMap::new(),
            patience: BTreeMap::new(),
            excluded: BTreeSet::new(),
            luck: seed | 1,
            chaos: false,
            holds,
            revoked: 0,
        }
    }

    fn chance(&mut self, out_of: u64) -> bool {
        self.draw(out_of) == 0
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.luck = self.luck.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.luck >> 33) % below
    }

    fn join(&mut self, instance: Option<u8>) {
        let id = MemberId::new(&format!("m{}", self.processes.len())).unwrap();
        let instance = instance.map(|n| InstanceId::new(&format!("i{n}")).unwrap());
        let subscription =
            Subscription { topics: [TopicName::new("t").unwrap()].into(), ..Subscription::default() };
        let timeouts = Timeouts {
            session: ms(SESSION),
            rebalance: ms(REBALANCE),
            hold: if self.holds { ms(1_500) } else { Duration::ZERO },
            answer: ms(1_000),
            leave: ms(2_000),
            ..Timeouts::default()
        };
        self.processes.push(Process {
            member: Membership::new(id, instance, subscription, timeouts, ms(self.now)),
            reads: Partitions::new(),
            finishing: Vec::new(),
            frozen_until: 0,
            patience: 100,
            ended: false,
            lost_last_ask: 0,
        });
    }

    fn replay(&mut self, changes: &[Change]) {
        for change in changes {
            self.group.replay(change);
        }
        for (id, member) in &self.group.members {
            let revoking: Vec<TopicIdPartition> = member.current.revoking.keys().copied().collect();
            if revoking.is_empty() {
                self.patience.remove(id);
            } else if self.patience.get(id).is_none_or(|(_, before)| *before != revoking) {
                self.patience.insert(id.clone(), (self.now + REBALANCE, revoking));
            }
        }
        for change in changes {
            if let Change::Target(id, Some(target)) = change {
                let all = (0..self.topics.0)
                    .map(|n| TopicIdPartition { topic: TopicId([1; 16]), partition: crate::PartitionId(n) });
                self.excluded.extend(all.filter(|at| !target.contains(at)).map(|at| (id.clone(), at)));
            }
        }
    }

    /// The coordinator handles a heartbeat.
    fn handle(&mut self, process: usize, beat: &Outgoing, number: u64) {
        let id = self.processes[process].member.id().clone();
        let heartbeat = Heartbeat {
            member: id.clone(),
            epoch: beat.epoch,
            instance: self.processes[process].member.instance().cloned(),
            subscription: beat.subscription.clone(),
            has: beat.has.clone(),
            heard: beat.heard,
            attempt: Some(Attempt { life: process as u64, number: beat.number }),
            client_id: "c".into(),
            host: "h".into(),
            session_timeout: ms(SESSION),
            rebalance_timeout: ms(REBALANCE),
            leaving: beat.leaving,
        };
        let before = self.group.members.get(&id).map(|member| member.current.clone());
        let outcome = match self.group.heartbeat(&heartbeat, Timestamp(1)) {
            Err(refusal) => Err(refusal),
            Ok((changes, answer)) => {
                self.replay(&changes);
                Ok(answer)
            }
        };
        // It has another call now; the one before has nothing more to tell.
        if outcome.is_ok()
            && let Some(held) = self.held.remove(&id)
        {
            let answer = Answer { epoch: held.told.0, assignment: None, step: None, interval: INTERVAL };
            self.reply(held.process, held.number, Ok(answer));
        }
        let stays = beat.epoch >= MemberEpoch::JOIN;
        if let Ok(answer) = &outcome
            && stays
        {
            let owned = before.map(|current| current.owned.into_keys().collect());
            let told = (beat.epoch, beat.has.clone().or(owned).unwrap_or_default());
            let until = self.now + beat.max_wait.as_millis() as u64;
            if told == (answer.epoch, self.owned(&id)) && self.now < until {
                self.sessions.insert(id.clone(), self.now + SESSION + (until - self.now));
                self.held.insert(id, Held { process, number, until, told });
                return;
            }
        }
        let step = self.step(&id);
        let outcome = outcome.map(|answer| {
            if stays {
                self.sessions.insert(id.clone(), self.now + SESSION);
            }
            let assignment = answer.assignment.or_else(|| stays.then(|| self.owned(&id)));
            Answer { epoch: answer.epoch, assignment, step, interval: INTERVAL }
        });
        self.reply(process, number, outcome);
    }

    fn reply(&mut self, process: usize, number: u64, outcome: Result<Answer, Refusal>) {
        if self.chaos && self.chance(8) {
            return;
        }
        let copies = if self.chaos && self.chance(8) { 2 } else { 1 };
        for _ in 0..copies {
            let late = if self.chaos && self.chance(6) { self.draw(3_000) } else { self.draw(60) };
            let answer = Answered { arrives: self.now + late, process, number, outcome: outcome.clone() };
            self.answered.push(answer);
        }
    }

    /// The coordinator's own time.
    fn coordinate(&mut self) {
        if self.group.epoch != self.group.target_epoch && self.now.is_multiple_of(60) {
            let racks = vec![BTreeSet::new(); self.topics.0 as usize];
            let spec = TopicSpec { name: "t".into(), racks };
            let changes = self.group.assign(&self.topics, |_| Some(spec.clone()));
            self.replay(&changes);
        }
        let silent = self.sessions.iter().filter(|(_, at)| self.now >= **at).map(|(id, _)| id.clone());
        let slow = self.patience.iter().filter(|(_, (at, _))| self.now >= *at).map(|(id, _)| id.clone());
        let out: Vec<MemberId> = silent.chain(slow).collect();
        for id in out {
            let changes = self.group.without(std::slice::from_ref(&id), Timestamp(1));
            self.sessions.remove(&id);
            self.patience.remove(&id);
            self.replay(&changes);
        }
        self.sessions.retain(|id, _| self.group.members.contains_key(id));
        self.patience.retain(|id, _| self.group.members.contains_key(id));
        for (id, held) in std::mem::take(&mut self.held) {
            if let Some(change) = self.group.push(&id) {
                self.replay(&[change]);
            }
            let Some(member) = self.group.members.get(&id) else {
                let refusal = Refusal::new(ErrorCode::UnknownMember, "it is out");
                self.reply(held.process, held.number, Err(refusal));
                continue;
            };
            let (epoch, owned) = (member.current.epoch, self.owned(&id));
            if held.told == (epoch, owned.clone()) && self.now < held.until {
                self.held.insert(id, held);
                continue;
            }
            let step = self.step(&id);
            self.sessions.insert(id, self.now + SESSION);
            let answer = Answer { epoch, assignment: Some(owned), step, interval: INTERVAL };
            self.reply(held.process, held.number, Ok(answer));
        }
    }

    fn step(&self, id: &MemberId) -> Option<u64> {
        self.group.members.get(id).map(|member| member.current.step)
    }

    fn owned(&self, id: &MemberId) -> Partitions {
        let member = self.group.members.get(id);
        member.map(|member| member.current.owned.keys().copied().collect()).unwrap_or_default()
    }

    fn tick(&mut self) {
        self.now += TICK;
        let due = |arrives: u64| arrives <= self.now;
        let (asked, later): (Vec<_>, Vec<_>) = self.asked.drain(..).partition(|asked| due(asked.arrives));
        self.asked = later;
        for asked in asked {
            self.handle(asked.process, &asked.beat, asked.number);
        }
        self.coordinate();
        let now = self.now;
        let (ready, later): (Vec<_>, Vec<_>) = self
            .answered
            .drain(..)
            .partition(|answer| answer.arrives <= now && self.processes[answer.process].frozen_until <= now);
        self.answered = later;
        for answer in ready {
            self.processes[answer.process].member.answered(answer.number, answer.outcome, ms(now));
        }
        for index in 0..self.processes.len() {
            if self.processes[index].frozen_until <= now {
                self.run(index);
            }
        }
        self.check_nothing_is_read_twice();
    }

    fn run(&mut self, index: usize) {
        let now = self.now;
        let process = &mut self.processes[index];
        let (done, rest): (Vec<_>, Vec<_>) = process.finishing.drain(..).partition(|(at, _)| *at <= now);
        process.finishing = rest;
        for (_, partitions) in done {
            // The application has left them before it says so.
            if partitions.is_subset(process.member.has()) {
                process.reads.retain(|at| !partitions.contains(at));
            }
            process.member.gave_back(&partitions, ms(now));
        }
        while let Some(event) = self.processes[index].member.poll(ms(now)) {
            let process = &mut self.processes[index];
            match event {
                Event::Send(beat) => {
                    if self.chaos && self.chance(8) {
                        continue;
                    }
                    let late = if self.chaos { self.draw(400) } else { self.draw(40) };
                    // The member gave it up and asked through another broker, and then it comes all the same. Its answer goes
                    // nowhere.
                    if self.chaos && self.chance(4) {
                        let arrives = now + late + self.draw(4_000);
                        self.asked.push(Asked { arrives, process: index, beat: beat.clone(), number: 0 });
                    }
                    let process = &mut self.processes[index];
                    // One after the other, as on one connection.
                    let arrives = (now + late).max(process.lost_last_ask);
                    process.lost_last_ask = arrives;
                    let number = beat.number;
                    self.asked.push(Asked { arrives, process: index, beat, number });
                }
                Event::Assigned(given) => {
                    assert!(process.reads.is_disjoint(&given));
                    process.reads.extend(given);
                }
                Event::Revoke { partitions, until } => {
                    assert!(partitions.is_subset(&process.reads));
                    for at in &partitions {
                        let moved = self.excluded.contains(&(process.member.id().clone(), *at));
                        assert!(moved, "{at:?} was revoked and did not move");
                    }
                    assert!(until <= ms(now + REBALANCE));
                    self.revoked += partitions.len();
                    process.finishing.push((now + process.patience, partitions));
                }
                Event::Lost { partitions, .. } => {
                    process.reads.retain(|at| !partitions.contains(at));
                    process.finishing.retain(|(_, waits)| waits.is_disjoint(&partitions));
                }
                Event::Left => {
                    process.reads.clear();
                    process.ended = true;
                }
                Event::Failed(_) => process.ended = true,
            }
        }
        let process = &self.processes[index];
        assert_eq!(&process.reads, process.member.has(), "{}", process.member.id());
    }

    fn check_nothing_is_read_twice(&self) {
        let mut readers: BTreeMap<TopicIdPartition, usize> = BTreeMap::new();
        for (index, process) in self.processes.iter().enumerate() {
            // The coordinator puts out who is silent, and who does not give back; a frozen process cannot know.
            let member = &process.member;
            let revoking = member.revoking.as_ref().map(|revoking| revoking.heard_by);
            let out = [Some(member.alive + ms(SESSION)), revoking, member.heard_by];
            let out = out.into_iter().flatten().any(|at| ms(self.now) >= at);
            if out && process.frozen_until > self.now {
                continue;
            }
            for at in &process.reads {
                let other = readers.insert(*at, index);
                assert_eq!(
                    other, None,
                    "{at:?} is read by {index} too, at {} ms: {:#?}",
                    self.now, self.group
                );
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / TICK {
            self.tick();
        }
    }

    /// No more faults; at the end everybody has its target.
    fn settle(&mut self) {
        self.chaos = false;
        for process in &mut self.processes {
            process.frozen_until = 0;
            process.patience = 100;
            process.member.waits(ms(self.now));
        }
        self.pass(CALM);
        let living: Vec<&Process> = self.processes.iter().filter(|process| !process.ended).collect();
        for process in &living {
            let id = process.member.id();
            assert!(process.member.is_joined(), "{id}");
            let target = self.group.target.get(id).unwrap_or_else(|| panic!("{id} has no target"));
            assert_eq!((&process.reads, process.member.has()), (&**target, &process.reads), "{id}");
        }
        assert_eq!(self.group.members.len(), living.len());
        let read: usize = living.iter().map(|process| process.reads.len()).sum();
        if living.is_empty() {
            assert_eq!(self.group.state(), GroupState::Empty);
        } else {
            assert_eq!(self.group.state(), GroupState::Stable);
            assert_eq!(read, self.topics.0 as usize);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    Join(Option<u8>),
    Leave(usize, bool),
    Freeze(usize, u64),
    Patience(usize, u64),
    Works(usize),
    Waits(usize),
    Grow,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0usize..6;
    let step = prop_oneof![
        8 => (1u64..4_000).prop_map(Step::Pass),
        3 => prop::option::weighted(0.3, 0u8..2).prop_map(Step::Join),
        1 => (who.clone(), any::<bool>()).prop_map(|(who, for_now)| Step::Leave(who, for_now)),
        2 => (who.clone(), 500u64..2 * SESSION).prop_map(|(who, time)| Step::Freeze(who, time)),
        1 => (who.clone(), 0u64..2 * REBALANCE).prop_map(|(who, time)| Step::Patience(who, time)),
        1 => who.clone().prop_map(Step::Works),
        1 => who.prop_map(Step::Waits),
        1 => Just(Step::Grow),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_read_twice_and_in_the_end_everybody_has_its_target(
        steps in steps(), seed in any::<u64>(), holds in any::<bool>(), chaos in any::<bool>()
    ) {
        let mut world = World::new(5, seed, holds);
        world.chaos = chaos;
        for step in steps {
            let count = world.processes.len().max(1);
            let now = world.now;
            match step {
                Step::Pass(time) => world.pass(time),
                Step::Join(instance) => {
                    if world.processes.len() < 6 {
                        world.join(instance);
                    }
                }
                Step::Leave(who, for_now) => {
                    if let Some(process) = world.processes.get_mut(who % count) {
                        process.reads.clear();
                        process.finishing.clear();
                        process.member.leave(for_now, ms(now));
                    }
                }
                Step::Freeze(who, time) => {
                    if let Some(process) = world.processes.get_mut(who % count) {
                        process.frozen_until = now + time;
                    }
                }
                Step::Patience(who, time) => {
                    if let Some(process) = world.processes.get_mut(who % count) {
                        process.patience = time;
                    }
                }
                Step::Works(who) => {
                    if let Some(process) = world.processes.get_mut(who % count) {
                        process.member.works(ms(now));
                    }
                }
                Step::Waits(who) => {
                    if let Some(process) = world.processes.get_mut(who % count) {
                        process.member.waits(ms(now));
                    }
                }
                Step::Grow => world.topics.0 = (world.topics.0 + 1).min(9),
            }
            if let Some(change) = world.group.topics_changed(&world.topics) {
                world.replay(&[change]);
            }
        }
        world.settle();
    }
}

#[test]
fn only_what_moves_is_revoked_and_it_moves_in_milliseconds() {
    let mut world = World::new(12, 7, true);
    for count in 1..=4 {
        world.join(None);
        let before = world.revoked;
        // The assignment is made, what moves is given back, and given: without waiting for a heartbeat's interval.
        world.pass(600);
        assert_eq!(world.group.state(), GroupState::Stable, "after 600 ms with {count}");
        assert_eq!(world.revoked - before, if count == 1 { 0 } else { 12 / count });
    }
    let before = world.revoked;
    let leaver = &mut world.processes[0];
    leaver.reads.clear();
    leaver.member.leave(false, ms(world.now));
    world.pass(400);
    assert_eq!(
        (world.group.state(), world.revoked),
        (GroupState::Stable, before),
        "nobody else gives anything back"
    );
    world.settle();
}
