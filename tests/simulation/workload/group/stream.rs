//! A member on one stream: Subscribe. When the stream breaks, it opens another under the same id, at the next broker.

use super::seat::{Place, Places, Seat};
use super::unary::named;
use crate::board::{Phase, number};
use crate::checker::{CommitId, HoldId, Partition, Process};
use crate::dice::Dice;
use std::collections::BTreeMap;
use std::time::Duration;
use thalweg_client::proto;
use thalweg_client::proto::subscribe_request::Command;
use thalweg_client::proto::subscribe_response::Event;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Messages to the broker that wait for the network.
const QUEUE: usize = 64;
/// Bytes that the broker may send ahead.
const CREDIT: u64 = 256 << 10;
/// For a stream to open.
const OPENING: Duration = Duration::from_secs(8);
/// A stream that says nothing for so long is dead: the server says that it lives every few seconds.
const SILENCE: Duration = Duration::from_secs(20);
/// How often the loop comes round when nothing happens.
const GLANCE: Duration = Duration::from_millis(700);
/// How long one that does not read stays away: sometimes longer than `max.poll.interval.ms`.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(14));

/// Lives until `life` is over, or the run is.
pub async fn live(seat: &Seat, dice: &mut Dice, life: Duration) {
    let (process, id) = seat.process();
    let end = Instant::now() + life;
    while seat.board.phase() < Phase::Done && (seat.is_calm() || Instant::now() < end) {
        let Some((requests, events)) = open(seat, &id).await else {
            seat.api.turn();
            sleep(Duration::from_millis(300)).await;
            continue;
        };
        let mut member = Member {
            seat,
            process,
            id: id.clone(),
            requests,
            places: Places::new(),
            pending: BTreeMap::new(),
            last: 0,
            dealt_with: 0,
        };
        let over = member.run(events, dice, end).await;
        member.places.values().for_each(|place| seat.end_hold(place.hold));
        if over {
            return;
        }
        seat.api.turn();
    }
}

/// What to allow anew for an answer: a little more than it took.
fn size(data: &proto::PartitionData) -> u64 {
    const AROUND_A_RECORD: usize = 200;
    let Some(proto::partition_data::Data::Records(found)) = &data.data else { return 0 };
    let sizes = found.records.iter().map(|record| record.value.as_ref().map_or(0, |value| value.len()));
    sizes.map(|size| (size + AROUND_A_RECORD) as u64).sum()
}

async fn open(
    seat: &Seat,
    id: &str,
) -> Option<(mpsc::Sender<proto::SubscribeRequest>, Streaming<proto::SubscribeResponse>)> {
    let (requests, queued) = mpsc::channel(QUEUE);
    let start = proto::SubscribeStart { options: Some(seat.options(id)), ..Default::default() };
    let credit = proto::FetchStreamCredit { bytes: CREDIT, records: None };
    for command in [Command::Start(start), Command::Credit(credit)] {
        requests.try_send(proto::SubscribeRequest { command: Some(command), ..Default::default() }).ok()?;
    }
    let mut service = seat.api.service();
    match timeout(OPENING, service.subscribe(ReceiverStream::new(queued))).await {
        Ok(Ok(events)) => Some((requests, events.into_inner())),
        Ok(Err(status)) => {
            seat.say(id, "no stream", &status.message());
            None
        }
        Err(_) => None,
    }
}

struct Member<'a> {
    seat: &'a Seat,
    process: Process,
    id: String,
    requests: mpsc::Sender<proto::SubscribeRequest>,
    places: Places,
    /// Commits without answer.
    pending: BTreeMap<u64, Vec<(Partition, HoldId, CommitId, i64)>>,
    last: u64,
    /// Messages with records so far.
    dealt_with: u64,
}

impl Member<'_> {
    /// True: its life is over.
    async fn run(
        &mut self,
        mut events: Streaming<proto::SubscribeResponse>,
        dice: &mut Dice,
        end: Instant,
    ) -> bool {
        let seat = self.seat;
        let mut heard = Instant::now();
        while seat.board.phase() < Phase::Done {
            if !seat.is_calm() && Instant::now() >= end {
                return self.finish(events, dice).await;
            }
            match timeout(GLANCE, events.message()).await {
                Ok(Ok(Some(message))) => {
                    heard = Instant::now();
                    if !message.event.is_none_or(|event| self.take(event)) {
                        return false;
                    }
                }
                Ok(Ok(None)) => return false,
                Ok(Err(status)) => {
                    seat.say(&self.id, "the stream broke", &status.message());
                    return false;
                }
                Err(_) if heard.elapsed() > SILENCE => return false,
                Err(_) => {}
            }
            // One at a time, so that a late one does not undo a later one.
            if !seat.group.auto && self.pending.is_empty() && dice.chance(40) && !self.commit() {
                return false;
            }
            if !seat.is_calm() && dice.chance(1) {
                sleep(dice.time(AWAY.0, AWAY.1)).await;
            }
        }
        true
    }

    fn say(&self, command: Command) -> bool {
        let request = proto::SubscribeRequest { command: Some(command), dealt_with: Some(self.dealt_with) };
        self.requests.try_send(request).is_ok()
    }

    /// False: the stream is of no use any more.
    fn take(&mut self, event: Event) -> bool {
        let seat = self.seat;
        match event {
            Event::Joined(_) => true,
            Event::Heartbeat(_) => self.say(Command::Alive(proto::SubscribeAlive {})),
            Event::Assigned(assigned) => {
                for given in &assigned.partitions {
                    let Some(partition) = number(&given.topic, given.partition) else { continue };
                    let epoch = Some(assigned.member_epoch);
                    let (hold, session) = seat.begin_hold(self.process, partition, epoch, false);
                    seat.board.history.borrow_mut().groups.begins(hold, given.offset);
                    let place = Place { hold, session, next: None, committed: None };
                    if let Some(before) = self.places.insert(partition, place) {
                        seat.end_hold(before.hold);
                    }
                }
                true
            }
            Event::Revoke(revoke) => {
                if !seat.group.auto {
                    self.commit();
                }
                for partition in named(&revoke.partitions) {
                    if let Some(place) = self.places.remove(&partition) {
                        seat.end_hold(place.hold);
                    }
                }
                self.say(Command::Revoked(proto::SubscribeRevoked { revocation_id: revoke.revocation_id }))
            }
            Event::Lost(lost) => {
                for partition in named(&lost.partitions) {
                    if let Some(place) = self.places.remove(&partition) {
                        seat.end_hold(place.hold);
                    }
                }
                true
            }
            Event::Records(data) => {
                self.dealt_with += 1;
                if let Some(error) = &data.error {
                    seat.say(&self.id, "not read", &error.message);
                    return false;
                }
                let Some((partition, records, next)) = seat.records(&data) else { return true };
                let bytes = size(&data);
                if let Some(place) = self.places.get_mut(&partition) {
                    seat.note_poll(self.process, place.session, partition, records);
                    place.next = Some(next);
                }
                self.say(Command::Credit(proto::FetchStreamCredit { bytes, records: None }))
            }
            Event::Committed(committed) => {
                if let Some(error) = &committed.error {
                    seat.say(&self.id, "not committed", &error.message);
                }
                let Some(commits) = self.pending.remove(&committed.commit_id) else { return true };
                let failed = |partition: &Partition| {
                    let named = |result: &proto::CommitResult| number(&result.topic, result.partition);
                    committed.failures.iter().any(|result| named(result) == Some(*partition))
                };
                for (partition, hold, commit, offset) in commits {
                    if committed.error.is_none() && !failed(&partition) {
                        seat.end_commit(commit);
                        if let Some(place) =
                            self.places.get_mut(&partition).filter(|place| place.hold == hold)
                        {
                            place.committed = Some(offset);
                        }
                    }
                }
                true
            }
        }
    }

    /// Commits what was given and is not committed.
    fn commit(&mut self) -> bool {
        let mut commits = Vec::new();
        let mut offsets = Vec::new();
        for (partition, topic, index) in crate::board::partitions() {
            let Some(place) = self.places.get(&partition) else { continue };
            let Some(next) = place.next.filter(|next| Some(*next) != place.committed) else { continue };
            commits.push((partition, place.hold, self.seat.begin_commit(place.hold, next), next));
            offsets.push(proto::OffsetToCommit {
                topic: topic.to_owned(),
                partition: index,
                offset: next,
                ..Default::default()
            });
        }
        if offsets.is_empty() {
            return true;
        }
        self.last += 1;
        self.pending.insert(self.last, commits);
        let commit = proto::SubscribeCommit { commit_id: self.last, offsets, ..Default::default() };
        self.say(Command::Commit(commit))
    }

    /// Half of them crash; the others commit and leave.
    async fn finish(&mut self, mut events: Streaming<proto::SubscribeResponse>, dice: &mut Dice) -> bool {
        if dice.chance(50) {
            return true;
        }
        if !self.seat.group.auto && self.pending.is_empty() {
            self.commit();
        }
        // Half-closing the stream is how to leave.
        let (closed, _) = mpsc::channel(1);
        self.requests = closed;
        let goodbye = async {
            while let Ok(Some(message)) = events.message().await {
                if let Some(event @ Event::Committed(_)) = message.event {
                    self.take(event);
                }
            }
        };
        let _ = timeout(Duration::from_secs(5), goodbye).await;
        true
    }
}
