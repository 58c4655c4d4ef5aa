//! A member that is the SDK's consumer, as an application uses it.

use super::seat::{Place, Places, REBALANCE, SESSION, Seat};
use crate::board::{Phase, TOPICS, number};
use crate::checker::{CommitId, HoldId, Partition, Process, Value};
use crate::determinism;
use crate::dice::Dice;
use crate::workload::decode;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use thalweg_client::{
    Consumer, ConsumerConfig, ConsumerRecord, OffsetAndMetadata, OffsetReset, Rebalance, RebalanceListener,
};
use thalweg_core::{Offset, PartitionId, TopicName, TopicPartition};
use tokio::time::{Instant, sleep, timeout};

/// How long one poll waits for records.
const POLL: Duration = Duration::from_millis(700);
/// How long a commit may take.
const COMMIT: Duration = Duration::from_secs(9);
/// How long an application may take for some records: often longer than its `max.poll.interval.ms`.
const HANG: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(14));

/// What a listener was told, and when.
#[derive(Debug)]
struct Told {
    at: Duration,
    partitions: Vec<Partition>,
    what: What,
}

#[derive(Debug)]
enum What {
    Assigned,
    /// With what was committed in the listener.
    Revoked(Vec<(Partition, i64)>),
    Lost,
}

struct Listener {
    commits: bool,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Listener {
    fn tell(&self, partitions: &[TopicPartition], what: What) {
        let partitions = partitions.iter().filter_map(named).collect();
        let told = Told { at: determinism::now(), partitions, what };
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(told);
    }
}

impl RebalanceListener for Listener {
    fn on_assigned(&self, rebalance: &mut Rebalance<'_>) {
        self.tell(rebalance.partitions(), What::Assigned);
    }

    fn on_revoked(&self, rebalance: &mut Rebalance<'_>) {
        let mut commits = Vec::new();
        for at in rebalance.partitions().to_vec() {
            let position = rebalance.position(&at).filter(|_| self.commits);
            let Some((partition, offset)) = named(&at).zip(position) else { continue };
            rebalance.commit(&at, OffsetAndMetadata::from(offset));
            commits.push((partition, offset.get()));
        }
        self.tell(rebalance.partitions(), What::Revoked(commits));
    }

    fn on_lost(&self, partitions: &[TopicPartition]) {
        self.tell(partitions, What::Lost);
    }
}

fn named(at: &TopicPartition) -> Option<Partition> {
    number(at.topic.as_str(), at.partition.get())
}

/// Lives until `life` is over, or the run is.
pub async fn live(seat: &Seat, dice: &mut Dice, life: Duration) {
    let (process, id) = seat.process();
    let told = Arc::<Mutex<Vec<Told>>>::default();
    let mut config = ConsumerConfig::new(seat.group.name);
    config.member_id = Some(id.clone());
    config.session_timeout = SESSION;
    config.max_poll_interval = REBALANCE;
    config.enable_auto_commit = seat.group.auto;
    config.auto_commit_interval = Duration::from_millis(1_500);
    config.offset_reset = OffsetReset::Earliest;
    config.max_poll_records = 20;
    config.listener = Some(Arc::new(Listener { commits: !seat.group.auto, told: Arc::clone(&told) }));
    let Ok(mut consumer) = seat.client.consumer(config) else { return };
    if consumer.subscribe(TOPICS.map(|topic| topic.name)).is_err() {
        return;
    }
    let mut member = Member { seat, process, id, told, places: Places::new() };
    let end = Instant::now() + life;
    while seat.board.phase() < Phase::Done && (seat.is_calm() || Instant::now() < end) {
        let polled = consumer.poll(POLL).await;
        member.follow();
        match polled {
            Ok(records) => member.take(&records),
            Err(error) => {
                seat.say(&member.id, "not polled", &error);
                if error.is_fatal() {
                    break;
                }
                sleep(Duration::from_millis(200)).await;
            }
        }
        if !seat.group.auto && dice.chance(50) {
            member.commit(&mut consumer).await;
        }
        if !seat.is_calm() && dice.chance(1) {
            sleep(dice.time(HANG.0, HANG.1)).await;
        }
    }
    if seat.is_calm() || dice.chance(50) {
        // Dropped: it leaves without a last commit.
        drop(consumer);
    } else {
        let _ = timeout(COMMIT, consumer.close()).await;
    }
    member.follow();
    member.places.values().for_each(|place| seat.end_hold(place.hold));
}

struct Member<'a> {
    seat: &'a Seat,
    process: Process,
    id: String,
    told: Arc<Mutex<Vec<Told>>>,
    places: Places,
}

impl Member<'_> {
    /// Writes down what the listener was told.
    fn follow(&mut self) {
        let all = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        for Told { at, partitions, what } in all {
            if let What::Revoked(commits) = &what {
                for (partition, offset) in commits {
                    let Some(place) = self.places.get(partition) else { continue };
                    self.seat.board.history.borrow_mut().groups.commit(place.hold, *offset, at);
                }
            }
            for partition in partitions {
                if let Some(place) = self.places.remove(&partition) {
                    self.seat.board.history.borrow_mut().groups.ends(place.hold, at);
                }
                if matches!(what, What::Assigned) {
                    let (hold, session) = self.seat.begin_hold(self.process, partition, None, false);
                    self.places.insert(partition, Place { hold, session, next: None, committed: None });
                }
            }
        }
    }

    fn take(&mut self, records: &[ConsumerRecord]) {
        let mut found: BTreeMap<Partition, Vec<(i64, Value)>> = BTreeMap::new();
        for record in records {
            let Some(partition) = named(&record.at()) else { continue };
            found.entry(partition).or_default().push((record.offset.get(), decode(record.value.as_deref())));
        }
        for (partition, records) in found {
            let Some(place) = self.places.get_mut(&partition) else { continue };
            place.next = records.last().map(|(offset, _)| offset + 1);
            self.seat.note_poll(self.process, place.session, partition, records);
        }
    }

    /// Commits what was given and is not committed.
    async fn commit(&mut self, consumer: &mut Consumer) {
        let mut commits: Vec<(Partition, HoldId, CommitId, i64)> = Vec::new();
        let mut offsets = Vec::new();
        for (partition, topic, index) in crate::board::partitions() {
            let Some(place) = self.places.get(&partition) else { continue };
            let Some(next) = place.next.filter(|next| Some(*next) != place.committed) else { continue };
            commits.push((partition, place.hold, self.seat.begin_commit(place.hold, next), next));
            let topic = TopicName::new(topic).expect("our topics have good names");
            offsets.push((TopicPartition::new(topic, PartitionId(index)), Offset(next).into()));
        }
        if offsets.is_empty() {
            return;
        }
        match timeout(COMMIT, consumer.commit_offsets(offsets)).await {
            Ok(Ok(())) => {
                for (partition, hold, commit, offset) in commits {
                    self.seat.end_commit(commit);
                    if let Some(place) = self.places.get_mut(&partition).filter(|place| place.hold == hold) {
                        place.committed = Some(offset);
                    }
                }
            }
            Ok(Err(error)) => self.seat.say(&self.id, "not committed", &error),
            Err(late) => self.seat.say(&self.id, "not committed", &late),
        }
    }
}
