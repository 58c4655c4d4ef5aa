//! Which replica holds what was committed: brokers with logs around the machine, in random histories of crashes, power losses, lost
//! disks, late metadata and late requests. Leaders and followers act by the rules of [`crate::replication`], each on the image that it
//! has seen. Whoever is elected without losing records on purpose holds every record that was ever committed.

use super::*;
use crate::replication::{ReplicaProgress, high_watermark, may_commit, may_join_isr};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const BROKERS: i32 = 5;

#[derive(Debug, Clone)]
enum Op {
    /// Whoever believes to lead appends a record. Numbers choose among those who can do what is asked.
    Append(i32),
    /// A follower takes up to so many records from the leader it knows, and says how far it has come.
    Copy {
        to: i32,
        records: usize,
        flush: bool,
    },
    Flush(i32),
    /// A leader moves its high watermark.
    Commit(i32),
    /// A leader asks for an ISR without one follower, or with one that may join.
    Shrink {
        leader: i32,
        without: i32,
    },
    Expand {
        leader: i32,
        with: i32,
    },
    /// The oldest request comes to the controllers, and its answer to the leader.
    Deliver,
    /// A broker sees the newest metadata.
    See(i32),
    Fence(i32),
    Unfence(i32),
    Stop {
        broker: i32,
        cleanly: bool,
    },
    /// The process ends. With a loss of power it keeps what it had fsynced, and as much of the rest as chance has it.
    Crash {
        broker: i32,
        power: bool,
        kept: usize,
    },
    /// A new process registers: with its disk, with an empty one, or with the one it had before.
    Start {
        broker: i32,
        disk: u8,
    },
    MinInsync(u8),
    Reassign(Option<BTreeSet<i32>>),
    Prefer,
    /// Everyone who runs is told all there is to know, and one follower more joins the ISR if it can: without such a pause nothing
    /// would ever be well.
    Pause,
    /// The usual: records are appended, copied and committed. `flushes` has a bit for each broker.
    Work {
        records: usize,
        flushes: u8,
    },
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let broker = || 0..BROKERS;
    let op = prop_oneof![
        8 => broker().prop_map(Op::Append),
        24 => (broker(), 1usize..5, prop::bool::weighted(0.7))
            .prop_map(|(to, records, flush)| Op::Copy { to, records, flush }),
        6 => broker().prop_map(Op::Flush),
        14 => broker().prop_map(Op::Commit),
        4 => (broker(), broker()).prop_map(|(leader, without)| Op::Shrink { leader, without }),
        12 => (broker(), broker()).prop_map(|(leader, with)| Op::Expand { leader, with }),
        12 => Just(Op::Deliver),
        24 => broker().prop_map(Op::See),
        8 => broker().prop_map(Op::Fence),
        12 => broker().prop_map(Op::Unfence),
        1 => (broker(), any::<bool>()).prop_map(|(broker, cleanly)| Op::Stop { broker, cleanly }),
        6 => (broker(), any::<bool>(), 0usize..2)
            .prop_map(|(broker, power, kept)| Op::Crash { broker, power, kept }),
        14 => (broker(), prop::sample::select(vec![0u8, 0, 0, 0, 0, 1, 2]))
            .prop_map(|(broker, disk)| Op::Start { broker, disk }),
        1 => (1u8..4).prop_map(Op::MinInsync),
        2 => prop::option::weighted(0.8, prop::collection::btree_set(broker(), 1..4)).prop_map(Op::Reassign),
        1 => Just(Op::Prefer),
        12 => Just(Op::Pause),
        16 => (1usize..4, any::<u8>()).prop_map(|(records, flushes)| Op::Work { records, flushes }),
    ];
    prop::collection::vec(op, 20..400)
}

/// A log as the numbers of its records, and how many of them are fsynced.
#[derive(Debug, Clone, Default, PartialEq)]
struct Disk {
    name: String,
    records: Vec<u64>,
    flushed: usize,
}

#[derive(Debug, Default)]
struct Broker {
    up: bool,
    epoch: i64,
    closed_cleanly_at: Option<BrokerEpoch>,
    disk: Disk,
    /// The disk that it had before it got an empty one.
    old_disk: Option<Disk>,
    high_watermark: usize,
    /// What it knows of the metadata.
    seen: Option<MetadataImage>,
    /// As a leader: where its epoch began, the followers with their incarnation, what it asked for.
    epoch_start: usize,
    followers: BTreeMap<i32, (BrokerRef, ReplicaProgress)>,
    proposal: Option<Vec<BrokerRef>>,
}

fn progress(disk: &Disk) -> ReplicaProgress {
    ReplicaProgress { log_end: Offset(disk.records.len() as i64), flushed: Offset(disk.flushed as i64) }
}

impl Broker {
    fn partition(&self) -> Option<&PartitionImage> {
        self.seen.as_ref()?.topic("a")?.partitions.first().map(std::sync::Arc::as_ref)
    }

    fn leads(&self, me: i32) -> bool {
        self.up && self.partition().is_some_and(|partition| partition.leader == BrokerId(me))
    }

    fn new_process(&mut self) {
        self.up = false;
        self.seen = None;
        self.high_watermark = 0;
        self.followers.clear();
        self.proposal = None;
    }
}

/// What happened in all cases together, to see that the test tests something.
#[derive(Debug, Default)]
struct Seen {
    elections: usize,
    from_eligible: usize,
    lost: usize,
    reassigned: usize,
}

struct World {
    cluster: Cluster,
    brokers: Vec<Broker>,
    requests: Vec<(i32, AlterPartition)>,
    committed: Vec<u64>,
    next: u64,
    caching: bool,
    /// Lost power since they were last in sync, so that with write caching they may lack what was committed.
    powerless: BTreeSet<i32>,
    seen: Seen,
}

impl World {
    fn new(caching: bool, min_insync: u8) -> World {
        let all: Vec<i32> = (0..BROKERS).collect();
        let mut cluster = Cluster::with_brokers(&all);
        let min = min_insync.to_string();
        let config = [
            ("min.insync.replicas", min.as_str()),
            ("write.caching", if caching { "true" } else { "false" }),
        ];
        cluster.run(Command::CreateTopic(topic("a", explicit(&[&[0, 1, 2]]), &config))).unwrap();
        let broker = |id: &i32| Broker {
            up: true,
            epoch: cluster.broker(*id).epoch.get(),
            disk: Disk { name: format!("disk-of-{id}"), ..Disk::default() },
            seen: Some(cluster.image.clone()),
            ..Broker::default()
        };
        let brokers = all.iter().map(broker).collect();
        let (requests, committed, powerless) = (Vec::new(), Vec::new(), BTreeSet::new());
        World { cluster, brokers, requests, committed, next: 0, caching, powerless, seen: Seen::default() }
    }

    fn broker(&mut self, id: i32) -> &mut Broker {
        &mut self.brokers[id as usize]
    }

    fn now(&self) -> PartitionImage {
        self.cluster.image.topic("a").unwrap().partitions[0].as_ref().clone()
    }

    /// Runs a command and looks at the election that it made.
    fn command(&mut self, command: Command) -> Outcome {
        let before = self.now();
        let outcome = self.cluster.run(command);
        let after = self.now();
        if after.is_online() && after.leader_epoch != before.leader_epoch {
            self.seen.elections += 1;
            self.seen.from_eligible += usize::from(before.elr.contains(&after.leader));
        }
        self.seen.lost += usize::from(after.lost && !before.lost);
        self.seen.reassigned += usize::from(before.is_reassigning() && !after.is_reassigning());
        outcome
    }

    fn copy(&mut self, to: i32, records: usize, flush: bool) {
        let Some((from, epoch)) =
            self.brokers[to as usize].partition().map(|now| (now.leader.get(), now.leader_epoch))
        else {
            return;
        };
        if from < 0 || from == to || !self.brokers[to as usize].up || !self.brokers[from as usize].leads(from)
        {
            return;
        }
        let leader = &self.brokers[from as usize];
        let known = leader.partition().unwrap();
        if known.leader_epoch != epoch || !known.replicas.contains(&BrokerId(to)) {
            return;
        }
        let (log, leaders_mark) = (leader.disk.records.clone(), leader.high_watermark);
        let follower = self.broker(to);
        let common = log.iter().zip(&follower.disk.records).take_while(|(a, b)| a == b).count();
        follower.disk.records.truncate(common);
        follower.disk.flushed = follower.disk.flushed.min(common);
        follower.disk.records.extend(log.iter().skip(common).take(records));
        if flush {
            follower.disk.flushed = follower.disk.records.len();
        }
        follower.high_watermark = leaders_mark.min(follower.disk.records.len());
        let reached = progress(&follower.disk);
        let who = BrokerRef { id: BrokerId(to), epoch: BrokerEpoch(follower.epoch) };
        self.broker(from).followers.insert(to, (who, reached));
    }

    fn commit(&mut self, leader: i32) -> Result<(), TestCaseError> {
        let caching = self.caching;
        let broker = &self.brokers[leader as usize];
        if !broker.leads(leader) {
            return Ok(());
        }
        let topic = broker.seen.as_ref().unwrap().topic("a").unwrap();
        let now = &topic.partitions[0];
        if !may_commit(now.isr.len(), topic.min_insync(now)) {
            return Ok(());
        }
        let asked = broker.proposal.iter().flatten().map(|member| member.id);
        let maximal: BTreeSet<BrokerId> = now.isr.iter().copied().chain(asked).collect();
        let mut members = Vec::new();
        for id in maximal {
            if id == BrokerId(leader) {
                members.push(progress(&broker.disk));
            } else if let Some((_, reached)) = broker.followers.get(&id.get()) {
                members.push(*reached);
            } else {
                return Ok(());
            }
        }
        let mark = high_watermark(Offset(broker.high_watermark as i64), members, caching).get() as usize;
        let log = broker.disk.records[..mark].to_vec();
        self.broker(leader).high_watermark = mark;
        let both = log.len().min(self.committed.len());
        prop_assert_eq!(&log[..both], &self.committed[..both], "two histories were committed");
        if log.len() > self.committed.len() {
            self.committed = log;
        }
        Ok(())
    }

    /// A leader asks for another ISR. One request at a time, as each is for one partition epoch.
    fn ask(&mut self, leader: i32, with: Option<i32>, without: Option<i32>) {
        let caching = self.caching;
        let broker = &self.brokers[leader as usize];
        if !broker.leads(leader) || broker.proposal.is_some() {
            return;
        }
        let image = broker.seen.as_ref().unwrap();
        let topic = image.topic("a").unwrap();
        let now = &topic.partitions[0];
        let epoch_of = |id: BrokerId| image.broker(id).map_or(BrokerEpoch(-1), |broker| broker.epoch);
        let staying = now.isr.iter().filter(|id| **id == now.leader || Some(id.get()) != without);
        let mut isr: Vec<BrokerRef> = staying.map(|id| BrokerRef { id: *id, epoch: epoch_of(*id) }).collect();
        if let Some(with) = with {
            let (mark, start) = (Offset(broker.high_watermark as i64), Offset(broker.epoch_start as i64));
            match broker.followers.get(&with) {
                Some((who, reached))
                    if now.replicas.contains(&who.id)
                        && !now.isr.contains(&who.id)
                        && may_join_isr(*reached, mark, start, caching) =>
                {
                    isr.push(*who);
                }
                _ => return,
            }
        }
        let request = AlterPartition {
            broker: BrokerRef { id: BrokerId(leader), epoch: BrokerEpoch(broker.epoch) },
            topic_id: topic.id,
            partition: PartitionId(0),
            leader_epoch: now.leader_epoch,
            partition_epoch: now.partition_epoch,
            isr: isr.clone(),
        };
        self.broker(leader).proposal = Some(isr);
        self.requests.push((leader, request));
    }

    fn deliver(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let (leader, request) = self.requests.remove(0);
        let (epoch, asked) = (request.broker.epoch, request.isr.clone());
        let outcome = self.command(Command::AlterPartition(request));
        if outcome.is_ok() {
            // Unless it lost its power after it had caught up.
            let brokers = &self.brokers;
            let caught_up = |id: i32, member: &BrokerRef| {
                let process = &brokers[id as usize];
                member.id == BrokerId(id) && member.epoch == BrokerEpoch(process.epoch) && process.up
            };
            self.powerless.retain(|id| !asked.iter().any(|member| caught_up(*id, member)));
        }
        let broker = self.broker(leader);
        // When it was accepted, the metadata tells.
        if outcome.is_err() && broker.epoch == epoch.get() && broker.proposal.as_ref() == Some(&asked) {
            broker.proposal = None;
        }
    }

    fn see(&mut self, id: i32) {
        let image = self.cluster.image.clone();
        let broker = self.broker(id);
        if !broker.up {
            return;
        }
        let epochs = |broker: &Broker| broker.partition().map(|now| (now.leader_epoch, now.partition_epoch));
        let before = epochs(broker);
        broker.seen = Some(image);
        let after = epochs(broker);
        if before != after {
            broker.proposal = None;
        }
        if before.map(|(leader, _)| leader) != after.map(|(leader, _)| leader) {
            broker.followers.clear();
            broker.epoch_start = broker.disk.records.len();
        }
    }

    /// With write caching a replica that loses its power may lose what is committed, which is what the others are for. So one of the
    /// others must be there whose power did not fail.
    fn may_lose_power(&self, id: i32) -> bool {
        let now = self.now();
        let other = |other: &BrokerId| other.get() != id && !self.powerless.contains(&other.get());
        !self.caching || now.isr.iter().chain(&now.elr).any(other)
    }

    fn crash(&mut self, id: i32, power: bool, kept: usize) {
        if !self.broker(id).up || (power && !self.may_lose_power(id)) {
            return;
        }
        if power {
            self.powerless.insert(id);
            let disk = &mut self.broker(id).disk;
            disk.records.truncate(disk.flushed + kept);
            disk.flushed = disk.records.len();
        }
        self.broker(id).new_process();
    }

    fn stop(&mut self, id: i32, cleanly: bool) {
        let broker = self.cluster.broker(id);
        if !self.broker(id).up {
            return;
        }
        self.command(Command::BeginControlledShutdown(broker)).unwrap();
        if cleanly {
            let process = self.broker(id);
            process.disk.flushed = process.disk.records.len();
            process.closed_cleanly_at = Some(BrokerEpoch(process.epoch));
            process.new_process();
        }
    }

    fn start(&mut self, id: i32, disk: u8) {
        if self.broker(id).up {
            return;
        }
        let number = self.next;
        let process = self.broker(id);
        match disk {
            1 => {
                let empty = Disk { name: format!("disk-{number}-of-{id}"), ..Disk::default() };
                process.old_disk = Some(std::mem::replace(&mut process.disk, empty));
                process.closed_cleanly_at = None;
            }
            2 if process.old_disk.is_some() => {
                process.disk = process.old_disk.take().unwrap();
                process.closed_cleanly_at = None;
            }
            _ => {}
        }
        let (dir, clean) = (process.disk.name.clone(), process.closed_cleanly_at.take());
        if disk != 0 {
            // It was gone for long enough.
            let broker = self.cluster.broker(id);
            self.command(Command::FenceBroker(broker)).unwrap();
        }
        self.next += 1;
        let mut command = registration(id, 0);
        command.incarnation[..8].copy_from_slice(&self.next.to_be_bytes());
        (command.log_dirs, command.clean_shutdown_epoch) = (vec![dir], clean);
        let Ok(Response::BrokerRegistered { epoch }) = self.command(Command::RegisterBroker(command)) else {
            panic!("it is not alive elsewhere");
        };
        let process = self.broker(id);
        (process.up, process.epoch) = (true, epoch.get());
        self.see(id);
    }

    /// One of those who believe to lead: usually there is one, but it need not be.
    fn believer(&self, which: i32) -> Option<i32> {
        let all: Vec<i32> = (0..BROKERS).filter(|id| self.brokers[*id as usize].leads(*id)).collect();
        all.get(which as usize % all.len().max(1)).copied()
    }

    /// One of the replicas, by what the controllers know.
    fn replica(&self, which: i32) -> i32 {
        let now = self.now();
        now.replicas[which as usize % now.replicas.len()].get()
    }

    fn append(&mut self, leader: i32) {
        self.next += 1;
        let record = self.next;
        self.broker(leader).disk.records.push(record);
    }

    fn work(&mut self, records: usize, flushes: u8) -> Result<(), TestCaseError> {
        let Some(leader) = self.believer(0) else { return Ok(()) };
        for _ in 0..records {
            self.append(leader);
        }
        for id in 0..BROKERS {
            let flush = flushes & (1 << id) != 0 && !self.caching;
            self.copy(id, records, flush);
            if id == leader && flush {
                let disk = &mut self.broker(id).disk;
                disk.flushed = disk.records.len();
            }
        }
        self.commit(leader)
    }

    fn pause(&mut self) -> Result<(), TestCaseError> {
        for id in 0..BROKERS {
            if self.broker(id).up {
                // Refused while it wants to stop.
                let _ = self.command(Command::UnfenceBroker(self.cluster.broker(id)));
            }
        }
        while !self.requests.is_empty() {
            self.deliver();
        }
        for id in 0..BROKERS {
            self.see(id);
        }
        self.work(0, 0)?;
        let Some(leader) = self.believer(0) else { return Ok(()) };
        for id in 0..BROKERS {
            self.copy(id, usize::MAX, false);
            self.ask(leader, Some(id), None);
        }
        Ok(())
    }

    fn step(&mut self, op: &Op) -> Result<(), TestCaseError> {
        let (believer, replica) = match op {
            Op::Append(id) | Op::Commit(id) => (self.believer(*id), 0),
            Op::Shrink { leader, without: other } | Op::Expand { leader, with: other } => {
                (self.believer(*leader), self.replica(*other))
            }
            Op::Copy { to, .. } | Op::Flush(to) | Op::See(to) => (None, self.replica(*to)),
            _ => (None, 0),
        };
        match op.clone() {
            Op::Append(_) => believer.into_iter().for_each(|leader| self.append(leader)),
            // With write caching a flush is seldom, so that there is something to lose.
            Op::Copy { records, flush, .. } => self.copy(replica, records, flush && !self.caching),
            Op::Flush(which) if self.caching && which > 0 => {}
            Op::Flush(_) => {
                let disk = &mut self.broker(replica).disk;
                disk.flushed = disk.records.len();
            }
            Op::Commit(_) => believer.map_or(Ok(()), |leader| self.commit(leader))?,
            Op::Shrink { .. } => {
                believer.into_iter().for_each(|leader| self.ask(leader, None, Some(replica)))
            }
            Op::Expand { .. } => {
                believer.into_iter().for_each(|leader| self.ask(leader, Some(replica), None))
            }
            Op::Deliver => self.deliver(),
            Op::See(_) => self.see(replica),
            Op::Fence(id) => {
                self.command(Command::FenceBroker(self.cluster.broker(id))).unwrap();
            }
            Op::Unfence(id) if self.broker(id).up => {
                // Refused while it wants to stop.
                let _ = self.command(Command::UnfenceBroker(self.cluster.broker(id)));
            }
            Op::Unfence(_) => {}
            Op::Stop { broker, cleanly } => self.stop(broker, cleanly),
            Op::Crash { broker, power, kept } => self.crash(broker, power, kept),
            Op::Start { broker, disk } => self.start(broker, disk),
            Op::MinInsync(value) => {
                let value = value.to_string();
                self.command(alter("a", &[("min.insync.replicas", &value)], &[])).unwrap();
            }
            Op::Reassign(target) => {
                let partition = TopicPartition::new(name("a"), PartitionId(0));
                let replicas = target.map(|ids| ids.into_iter().map(BrokerId).collect());
                let moves = vec![PartitionMove { partition, replicas }];
                self.command(Command::ReassignPartitions(ReassignPartitions { moves })).unwrap();
            }
            Op::Pause => self.pause()?,
            Op::Work { records, flushes } => self.work(records, flushes)?,
            Op::Prefer => {
                let all = ElectLeaders { partitions: vec![], unclean: false };
                self.command(Command::ElectLeaders(all)).unwrap();
            }
        }
        Ok(())
    }

    /// With write caching, when everyone who may lead has lost power since it was last in sync, records may be gone: the others lost
    /// their sessions meanwhile. Nothing is promised then.
    fn is_excused(&self) -> bool {
        let now = self.now();
        self.caching && now.isr.iter().chain(&now.elr).all(|id| self.powerless.contains(&id.get()))
    }

    /// What must hold at all times.
    fn check(&self) -> Result<(), TestCaseError> {
        let now = self.now();
        let holds = |id: BrokerId, records: usize| {
            let disk = &self.brokers[id.get() as usize].disk;
            disk.records[..records.min(disk.records.len())].starts_with(&self.committed)
        };
        // A process that has ended leads in name only; with what the next one has it registers first.
        if now.is_online() && self.brokers[now.leader.get() as usize].up {
            prop_assert!(
                holds(now.leader, usize::MAX),
                "leader {} lacks some of what was committed: {:?}",
                now.leader,
                now
            );
        }
        // Without write caching every broker that may be elected would even after a loss of power.
        for id in now.replicas.iter().filter(|id| !self.caching && now.is_eligible(**id)) {
            let broker = &self.brokers[id.get() as usize];
            prop_assert!(
                holds(*id, broker.disk.flushed),
                "{} is eligible but lacks something: {:?}",
                id,
                now
            );
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whoever_leads_holds_all_that_was_committed(ops in ops(), caching: bool, min_insync in 1u8..4) {
        let mut world = World::new(caching, min_insync);
        for op in &ops {
            world.step(op)?;
            if world.is_excused() {
                break;
            }
            world.check()?;
        }
    }
}

/// The same with histories that are always the same, to see that they come to what is to be tested.
#[test]
fn the_histories_reach_elections_of_all_kinds() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let (mut seen, mut committed, mut excused) = (Seen::default(), 0, 0);
    for case in 0..100 {
        let history = ops().new_tree(&mut runner).unwrap().current();
        let mut world = World::new(case % 2 == 0, 2);
        for op in &history {
            world.step(op).unwrap();
            if world.is_excused() {
                excused += 1;
                break;
            }
            world.check().unwrap();
        }
        committed += world.committed.len();
        seen.elections += world.seen.elections;
        seen.from_eligible += world.seen.from_eligible;
        seen.lost += world.seen.lost;
        seen.reassigned += world.seen.reassigned;
    }
    let enough = seen.elections >= 200 && seen.from_eligible >= 20 && seen.lost >= 2 && seen.reassigned >= 10;
    let checked = committed >= 1000 && excused < 30;
    assert!(enough && checked, "{seen:?}, {committed} records committed, {excused} histories excused");
}
