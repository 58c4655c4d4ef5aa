//! A member in unary calls: Join, Poll with a cursor, CommitOffsets, Leave; each at whichever broker's turn it is.

use super::api::deadline;
use super::bare::accepted;
use super::seat::{Place, Places, Seat};
use crate::board::{Phase, number};
use crate::checker::{CommitId, HoldId, Partition, Process};
use crate::dice::Dice;
use std::time::Duration;
use thalweg_client::proto;
use thalweg_core::ErrorCode;
use tokio::time::{Instant, sleep};

/// How long one poll waits for records.
const POLL: Duration = Duration::from_secs(1);
/// How long one that does not come back stays away: sometimes longer than its session.
const AWAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(12));

/// Lives until `life` is over, or the run is.
pub async fn live(seat: &Seat, dice: &mut Dice, life: Duration) {
    let (process, id) = seat.process();
    let mut member = Member { seat, process, id, places: Places::new(), cursor: Vec::new(), epoch: 0 };
    if let Err(code) = member.run(dice, Instant::now() + life).await {
        seat.say(&member.id, "gave up", &code);
    }
    member.places.values().for_each(|place| seat.end_hold(place.hold));
}

struct Member<'a> {
    seat: &'a Seat,
    process: Process,
    id: String,
    places: Places,
    cursor: Vec<u8>,
    epoch: i32,
}

impl Member<'_> {
    async fn run(&mut self, dice: &mut Dice, end: Instant) -> Result<(), ErrorCode> {
        let seat = self.seat;
        let request = proto::JoinRequest { options: Some(seat.options(&self.id)) };
        let mut service = seat.api.service();
        let call = async move { service.join(deadline(request)).await };
        let joined = seat.api.within(Duration::ZERO, call).await.map_err(|error| error.code)?;
        (self.cursor, self.epoch) = (joined.cursor.to_vec(), joined.member_epoch);
        while seat.board.phase() < Phase::Done && (seat.is_calm() || Instant::now() < end) {
            let polled = self.poll().await;
            if let Err(code) = polled {
                seat.say(&self.id, "not polled", &code);
                match code {
                    ErrorCode::UnknownMember | ErrorCode::FencedMemberEpoch => return Err(code),
                    // The same cursor again, elsewhere.
                    _ => sleep(Duration::from_millis(300)).await,
                }
                continue;
            }
            if !seat.group.auto && dice.chance(60) {
                self.commit().await;
            }
            if !seat.is_calm() && dice.chance(6) {
                sleep(dice.time(AWAY.0, AWAY.1)).await;
                // It does not know what happened meanwhile.
                if !seat.group.auto {
                    self.commit().await;
                }
            }
            if dice.chance(10) {
                seat.api.turn();
            }
        }
        if !seat.is_calm() && dice.chance(55) {
            self.commit().await;
            self.places.values().for_each(|place| seat.end_hold(place.hold));
            let request = proto::LeaveRequest {
                group_id: seat.group.name.to_owned(),
                member_id: self.id.clone(),
                leaving_epoch: Some(self.epoch),
                ..Default::default()
            };
            let mut service = seat.api.service();
            let call = async move { service.leave(deadline(request)).await };
            seat.api.within(Duration::ZERO, call).await.map_err(|error| error.code)?;
        }
        Ok(())
    }

    async fn poll(&mut self) -> Result<(), ErrorCode> {
        let seat = self.seat;
        let request = proto::PollRequest {
            group_id: seat.group.name.to_owned(),
            member_id: self.id.clone(),
            cursor: self.cursor.clone().into(),
            max_wait_ms: Some(POLL.as_millis() as u32),
            ..Default::default()
        };
        let mut service = seat.api.service();
        let call = async move { service.poll(deadline(request)).await };
        let answer = seat.api.within(POLL, call).await.map_err(|error| error.code)?;
        (self.cursor, self.epoch) = (answer.cursor.to_vec(), answer.member_epoch);
        // What was being given back is given back with the poll that was answered.
        for partition in named(&answer.lost) {
            if let Some(place) = self.places.remove(&partition) {
                seat.end_hold(place.hold);
            }
        }
        for partition in named(&answer.assigned) {
            let (hold, session) = seat.begin_hold(self.process, partition, Some(self.epoch), false);
            let place = Place { hold, session, next: None, committed: None };
            if let Some(before) = self.places.insert(partition, place) {
                seat.end_hold(before.hold);
            }
        }
        for data in &answer.partitions {
            if let Some(error) = &data.error {
                seat.say(&self.id, "not read", &error.message);
                continue;
            }
            let Some((partition, records, next)) = seat.records(data) else { continue };
            let Some(place) = self.places.get_mut(&partition) else { continue };
            seat.note_poll(self.process, place.session, partition, records);
            place.next = Some(next);
        }
        let revoking = named(&answer.revoking);
        if !revoking.is_empty() {
            if !seat.group.auto {
                self.commit().await;
            }
            for partition in revoking {
                if let Some(place) = self.places.remove(&partition) {
                    seat.end_hold(place.hold);
                }
            }
        }
        Ok(())
    }

    /// Commits everything that the cursor covers.
    async fn commit(&mut self) {
        let seat = self.seat;
        let mut commits: Vec<(Partition, HoldId, CommitId, i64)> = Vec::new();
        for (partition, place) in &self.places {
            let Some(next) = place.next.filter(|next| Some(*next) != place.committed) else { continue };
            commits.push((*partition, place.hold, seat.begin_commit(place.hold, next), next));
        }
        if commits.is_empty() {
            return;
        }
        let request = proto::CommitOffsetsRequest {
            group_id: seat.group.name.to_owned(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            cursor: self.cursor.clone().into(),
            ..Default::default()
        };
        let mut service = seat.api.service();
        let call = async move { service.commit_offsets(deadline(request)).await };
        match seat.api.within(Duration::ZERO, call).await {
            Ok(answer) => {
                let accepted = accepted(&answer);
                for (partition, hold, commit, offset) in commits {
                    if accepted.contains(&partition) {
                        seat.end_commit(commit);
                        if let Some(place) =
                            self.places.get_mut(&partition).filter(|place| place.hold == hold)
                        {
                            place.committed = Some(offset);
                        }
                    }
                }
            }
            Err(error) => seat.say(&self.id, "not committed", &error),
        }
    }
}

/// The partitions of an answer.
pub fn named(topics: &[proto::TopicPartitions]) -> Vec<Partition> {
    let all = topics.iter().flat_map(|topic| topic.partitions.iter().map(|index| (&topic.topic, *index)));
    all.filter_map(|(topic, index)| number(topic, index)).collect()
}
