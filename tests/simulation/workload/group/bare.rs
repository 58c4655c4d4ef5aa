//! A member that speaks the bare protocol and reads from the leaders, as the SDK does: the product's own state machine, in a shell
//! that also freezes, hangs and crashes.

mod calls;

pub use calls::accepted;

use super::seat::{REBALANCE, SESSION, Seat};
use crate::board::Phase;
use crate::checker::{HoldId, OffsetRead, Partition, Process};
use crate::dice::Dice;
use crate::workload::read::records;
use calls::Done;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use thalweg_client::{Chunk, PartitionReader, ReaderConfig, Start, proto};
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::member::{Event, Membership, Timeouts};
use thalweg_core::group::{InstanceId, MemberId, Subscription};
use thalweg_core::{Offset, PartitionId, TopicName};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// After a question that failed.
const RETRY: Duration = Duration::from_millis(400);
/// Between two commits.
const COMMITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(3));
/// How long a frozen member stands still: often longer than its session.
const FREEZE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));
/// How long an application may take for some records: often longer than its `max.poll.interval.ms`.
const HANG: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Lives until `life` is over, or the run is.
pub async fn live(seat: &Seat, dice: &mut Dice, life: Duration) {
    let Ok(reader) = seat.client.reader(ReaderConfig::default()).await else { return };
    let mut member = Member::new(seat, reader, dice);
    member.run(dice, Instant::now() + life).await;
    // Whatever became of it, it reads nothing any more.
    member.held.values().for_each(|held| seat.end_hold(held.hold));
}

/// A partition in this member's hands.
#[derive(Debug)]
struct Held {
    hold: HoldId,
    session: u32,
    at: TopicIdPartition,
    topic: &'static str,
    index: PartitionId,
    /// The next record, once it is known where to begin.
    next: Option<i64>,
    committed: Option<i64>,
    giving: bool,
}

/// How far the end of a life is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Living,
    /// Its last commit is made, and then it leaves; a static member perhaps only for now.
    Leaving {
        for_now: bool,
    },
    Left,
}

struct Member<'a> {
    seat: &'a Seat,
    process: Process,
    id: String,
    machine: Membership,
    reader: PartitionReader,
    held: BTreeMap<Partition, Held>,
    calls: JoinSet<Done>,
    committing: bool,
    begun: Instant,
    next_commit: Instant,
    busy_until: Option<Instant>,
    reassign_at: Option<Instant>,
    stage: Stage,
    all_topics: bool,
    life: u64,
}

impl<'a> Member<'a> {
    fn new(seat: &'a Seat, reader: PartitionReader, dice: &mut Dice) -> Member<'a> {
        let (process, id) = seat.process();
        let timeouts = Timeouts { session: SESSION, rebalance: REBALANCE, ..Timeouts::default() };
        let instance = dice.chance(25).then(|| InstanceId::new(&seat.instance()).expect("a short name"));
        let all_topics = !dice.chance(15);
        let machine = Membership::new(
            MemberId::new(&id).expect("a short name"),
            instance,
            subscription(&seat.subscription(all_topics)),
            timeouts,
            Duration::ZERO,
        );
        let now = Instant::now();
        Member {
            seat,
            process,
            id,
            machine,
            reader,
            held: BTreeMap::new(),
            calls: JoinSet::new(),
            committing: false,
            begun: now,
            next_commit: now + COMMITS.0,
            busy_until: None,
            reassign_at: None,
            stage: Stage::Living,
            all_topics,
            life: dice.next(),
        }
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    async fn run(&mut self, dice: &mut Dice, end: Instant) {
        let (mut end, mut broad_at) = (Some(end), Instant::now() + dice.time(COMMITS.0, FREEZE.1));
        loop {
            while let Some(event) = self.machine.poll(self.now()) {
                if self.follow(event).await {
                    return;
                }
            }
            let calm = self.seat.is_calm();
            if self.seat.board.phase() >= Phase::Done {
                return;
            }
            if calm {
                end = None;
                broad_at = broad_at.min(Instant::now());
            }
            if !self.all_topics && broad_at <= Instant::now() {
                self.all_topics = true;
                self.machine.subscribe(subscription(&self.seat.subscription(true)), self.now());
            }
            if self.stage == Stage::Living && end.is_some_and(|end| end <= Instant::now()) {
                if dice.chance(45) {
                    return;
                }
                self.stage = Stage::Leaving { for_now: dice.chance(50) };
                self.next_commit = Instant::now();
            }
            self.give_back(dice);
            self.commit_if_due(dice, calm).await;
            self.leave_if_done();
            self.wait(dice, calm, end).await;
        }
    }

    /// Waits for whatever comes first.
    async fn wait(&mut self, dice: &mut Dice, calm: bool, end: Option<Instant>) {
        let wake = self.machine.next_wake().map(|at| self.begun + at);
        // Now and then it looks how far the run is.
        let glance = Instant::now() + Duration::from_secs(1);
        let commit = (!self.committing && self.busy_until.is_none()).then_some(self.next_commit);
        let times = [wake, end, commit, self.busy_until, self.reassign_at, Some(glance)];
        // Time stands still for a loop that never waits.
        let soon = Instant::now() + Duration::from_millis(1);
        let next = times.into_iter().flatten().min().unwrap_or(glance).max(soon);
        let reads = self.busy_until.is_none() && self.stage == Stage::Living;
        tokio::select! {
            biased;
            Some(done) = self.calls.join_next() => {
                if let Ok(done) = done {
                    self.done(done).await;
                }
            }
            chunk = self.reader.next(), if reads => match chunk {
                Ok(chunk) => self.take(&chunk, dice, calm),
                Err(error) => {
                    self.seat.say(&self.id, "not read", &error);
                    self.reassign_at = Some(Instant::now() + RETRY);
                }
            },
            () = sleep_until(next) => {}
        }
        let now = Instant::now();
        if self.busy_until.is_some_and(|until| until <= now) {
            self.busy_until = None;
            self.machine.waits(self.now());
        }
        if self.reassign_at.is_some_and(|at| at <= now) {
            self.reassign_at = None;
            for held in self.held.values().filter(|held| !held.giving) {
                let Some(next) = held.next else { continue };
                let start = Start::Offset(Offset(next));
                if let Err(error) = self.reader.assign(held.topic, held.index, start).await {
                    self.seat.say(&self.id, "not assigned", &error);
                    self.reassign_at = Some(Instant::now() + RETRY);
                }
            }
        }
    }

    /// Does what the machine wants. True: nothing follows.
    async fn follow(&mut self, event: Event) -> bool {
        match event {
            Event::Send(beat) => self.send(beat),
            Event::Assigned(partitions) => {
                for at in partitions {
                    let Some((partition, topic, index)) = self.seat.named(&at) else { continue };
                    let epoch = Some(self.machine.epoch().0);
                    let (hold, session) = self.seat.begin_hold(self.process, partition, epoch, true);
                    let held =
                        Held { hold, session, at, topic, index, next: None, committed: None, giving: false };
                    self.held.insert(partition, held);
                }
                self.find_starts(Duration::ZERO);
            }
            Event::Revoke { partitions, .. } => {
                for at in partitions {
                    let Some((partition, topic, index)) = self.seat.named(&at) else { continue };
                    let _ = self.reader.unassign(topic, index).await;
                    if let Some(held) = self.held.get_mut(&partition) {
                        held.giving = true;
                    }
                }
            }
            Event::Lost { partitions, why } => {
                self.seat.say(&self.id, "lost partitions", &why.refusal().message);
                for at in partitions {
                    let Some((partition, topic, index)) = self.seat.named(&at) else { continue };
                    let _ = self.reader.unassign(topic, index).await;
                    if let Some(held) = self.held.remove(&partition) {
                        self.seat.end_hold(held.hold);
                    }
                }
            }
            Event::Left => return true,
            Event::Failed(refusal) => {
                self.seat.say(&self.id, "failed", &refusal.message);
                return true;
            }
        }
        false
    }

    async fn done(&mut self, done: Done) {
        match done {
            Done::Answered(number, outcome) => {
                if let Err(refusal) = &outcome {
                    self.seat.say(&self.id, "a heartbeat was not answered", &refusal.message);
                    if refusal.code.retriable() != thalweg_core::Retriable::No {
                        self.seat.api.turn();
                    }
                }
                self.machine.answered(number, outcome, self.now());
            }
            Done::Started { sessions, asked, offsets } => match offsets {
                Ok(offsets) => self.start(&sessions, asked, &offsets).await,
                Err(error) => {
                    self.seat.say(&self.id, "no offsets", &error);
                    self.seat.api.turn();
                    self.find_starts(RETRY);
                }
            },
            Done::Committed { commits, outcome } => {
                self.committing = false;
                let accepted = match outcome {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        self.seat.say(&self.id, "not committed", &error);
                        self.seat.api.turn();
                        return;
                    }
                };
                for (partition, hold, commit, offset) in commits {
                    if !accepted.contains(&partition) {
                        continue;
                    }
                    self.seat.end_commit(commit);
                    if let Some(held) = self.held.get_mut(&partition).filter(|held| held.hold == hold) {
                        held.committed = Some(offset);
                    }
                }
            }
        }
    }

    async fn start(
        &mut self,
        sessions: &BTreeMap<Partition, u32>,
        asked: Duration,
        offsets: &BTreeMap<Partition, i64>,
    ) {
        for (partition, session) in sessions {
            let current = |held: &&mut Held| held.session == *session && held.next.is_none() && !held.giving;
            let Some(held) = self.held.get_mut(partition).filter(current) else { continue };
            let committed = offsets.get(partition).copied();
            let start = committed.unwrap_or(0);
            let (board, group) = (&self.seat.board, self.seat.group.group);
            let read = OffsetRead { group, partition: *partition, asked, at: board.now(), offset: committed };
            board.history.borrow_mut().groups.reads.push(read);
            board.history.borrow_mut().groups.begins(held.hold, start);
            (held.next, held.committed) = (Some(start), committed);
            let place = Start::Offset(Offset(start));
            if let Err(error) = self.reader.assign(held.topic, held.index, place).await {
                self.seat.say(&self.id, "not assigned", &error);
                self.reassign_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// The application is given records.
    fn take(&mut self, chunk: &Chunk, dice: &mut Dice, calm: bool) {
        let partition = crate::board::number(&chunk.topic, chunk.partition.get());
        let Some(partition) = partition else { return };
        let Some(held) = self.held.get_mut(&partition).filter(|held| held.next.is_some() && !held.giving)
        else {
            return;
        };
        self.seat.note_poll(self.process, held.session, partition, records(chunk));
        held.next = Some(chunk.next_offset.get());
        if !calm && dice.chance(1) {
            self.machine.works(self.now());
            self.busy_until = Some(Instant::now() + dice.time(HANG.0, HANG.1));
        }
    }

    /// What was given to the application and not committed.
    fn owed(&self, which: impl Fn(&Held) -> bool) -> Vec<(Partition, i64)> {
        let held = self.held.iter().filter(|(_, held)| which(held) && held.next != held.committed);
        held.filter_map(|(partition, held)| Some((*partition, held.next?))).collect()
    }

    /// Gives back what was revoked, with a last commit before it, mostly.
    fn give_back(&mut self, dice: &mut Dice) {
        if self.committing || !self.held.values().any(|held| held.giving) {
            return;
        }
        let owed = self.owed(|held| held.giving);
        if !owed.is_empty() && !dice.chance(10) {
            return self.commit(&owed);
        }
        let given: Vec<Partition> =
            self.held.iter().filter(|(_, held)| held.giving).map(|(partition, _)| *partition).collect();
        let mut places = BTreeSet::new();
        for partition in given {
            if let Some(held) = self.held.remove(&partition) {
                self.seat.end_hold(held.hold);
                places.insert(held.at);
            }
        }
        self.machine.gave_back(&places, self.now());
    }

    async fn commit_if_due(&mut self, dice: &mut Dice, calm: bool) {
        if self.committing || Instant::now() < self.next_commit || self.busy_until.is_some() {
            return;
        }
        self.next_commit = Instant::now() + dice.time(COMMITS.0, COMMITS.1);
        let owed = self.owed(|held| !held.giving);
        if owed.is_empty() || !self.machine.is_joined() {
            return;
        }
        if !calm && dice.chance(12) {
            // It has made up its mind, and is stopped before it speaks.
            for held in self.held.values() {
                self.seat.board.history.borrow_mut().groups.was_late(held.hold);
            }
            let stopped = dice.time(FREEZE.0, FREEZE.1);
            self.seat.say(&self.id, "frozen", &format!("{stopped:?}"));
            sleep(stopped).await;
        }
        self.commit(&owed);
    }

    /// A member that leaves has committed everything before, if it could.
    fn leave_if_done(&mut self) {
        let Stage::Leaving { for_now } = self.stage else { return };
        if self.committing {
            return;
        }
        self.stage = Stage::Left;
        for held in std::mem::take(&mut self.held).into_values() {
            self.seat.end_hold(held.hold);
        }
        self.machine.leave(for_now, self.now());
    }
}

fn subscription(wanted: &proto::GroupSubscription) -> Subscription {
    let topics = wanted.topics.iter().map(|name| TopicName::new(name).expect("our topics have good names"));
    Subscription { topics: topics.collect(), pattern: None, rack: None, assignor: None }
}
