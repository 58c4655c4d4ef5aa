//! What the member asks of brokers: heartbeats, committed offsets, commits.

use super::super::api::{deadline, error_of};
use super::super::seat::{REBALANCE, SESSION};
use super::Member;
use crate::checker::{CommitId, HoldId, Partition};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use thalweg_client::proto;
use thalweg_core::group::MemberEpoch;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::member::{Answer, Outgoing};
use thalweg_core::metadata::command::Refusal;
use thalweg_core::{ErrorCode, PartitionId, TopicId};
use thalweg_proto::ApiError;
use tokio::time::sleep;

/// What a call brought.
pub(super) enum Done {
    Answered(u64, Result<Answer, Refusal>),
    Started {
        sessions: BTreeMap<Partition, u32>,
        asked: Duration,
        offsets: Result<BTreeMap<Partition, i64>, ApiError>,
    },
    Committed {
        commits: Vec<(Partition, HoldId, CommitId, i64)>,
        outcome: Result<BTreeSet<Partition>, ApiError>,
    },
}

impl Member<'_> {
    pub(super) fn send(&mut self, beat: Outgoing) {
        let (joins, counts) = (beat.epoch == MemberEpoch::JOIN, beat.epoch <= MemberEpoch::JOIN);
        let topics = |partitions: thalweg_core::group::state::Partitions| {
            let mut topics: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
            for at in partitions {
                topics.entry(at.topic).or_default().push(at.partition.get());
            }
            let topic = |(id, partitions): (TopicId, Vec<i32>)| proto::TopicPartitions {
                topic_id: id.0.to_vec().into(),
                topic: String::new(),
                partitions,
            };
            proto::AssignedPartitions { topics: topics.into_iter().map(topic).collect() }
        };
        let millis = |time: Duration| Some(time.as_millis() as u32);
        let request = proto::HeartbeatRequest {
            group_id: self.seat.group.name.to_owned(),
            member_id: self.id.clone(),
            member_epoch: beat.epoch.0,
            instance_id: self.machine.instance().map(ToString::to_string).unwrap_or_default(),
            subscription: beat.subscription.map(|_| self.seat.subscription(self.all_topics)),
            has: beat.has.map(topics),
            client_id: "simulated".to_owned(),
            session_timeout_ms: joins.then(|| millis(SESSION)).flatten(),
            rebalance_timeout_ms: joins.then(|| millis(REBALANCE)).flatten(),
            max_wait_ms: millis(beat.max_wait),
            leaving_epoch: beat.leaving.map(|epoch| epoch.0),
            heard_step: beat.heard,
            join_life: counts.then_some(self.life),
            join_attempt: counts.then_some(beat.number),
        };
        let mut service = self.seat.api.service();
        self.calls.spawn_local(async move {
            let answer = match service.heartbeat(request).await {
                Ok(answer) => read_answer(answer.into_inner()),
                Err(status) => {
                    let error = error_of(&status);
                    Err(Refusal::new(error.code, error.message))
                }
            };
            Done::Answered(beat.number, answer)
        });
    }

    /// Asks where to begin, for all partitions of which that is not known.
    pub(super) fn find_starts(&mut self, pause: Duration) {
        let open = self.held.iter().filter(|(_, held)| held.next.is_none());
        let sessions: BTreeMap<Partition, u32> =
            open.map(|(partition, held)| (*partition, held.session)).collect();
        if sessions.is_empty() {
            return;
        }
        let mut service = self.seat.api.service();
        let request = proto::FetchOffsetsRequest {
            group_id: self.seat.group.name.to_owned(),
            member_id: self.id.clone(),
            member_epoch: self.machine.epoch().0,
            topics: Vec::new(),
        };
        let board = std::rc::Rc::clone(&self.seat.board);
        self.calls.spawn_local(async move {
            sleep(pause).await;
            let asked = board.now();
            let answer = tokio::time::timeout(Duration::from_secs(7), service.fetch_offsets(request)).await;
            let known = |offset: &proto::CommittedOffset| {
                Some((crate::board::number(&offset.topic, offset.partition)?, offset.offset))
            };
            let offsets = match answer {
                Ok(Ok(answer)) => Ok(answer.into_inner().offsets.iter().filter_map(known).collect()),
                Ok(Err(status)) => Err(error_of(&status)),
                Err(_) => Err(ApiError::new(ErrorCode::RequestTimedOut, "no answer in time")),
            };
            Done::Started { sessions, asked, offsets }
        });
    }

    pub(super) fn commit(&mut self, owed: &[(Partition, i64)]) {
        let mut commits = Vec::new();
        let mut offsets = Vec::new();
        for (partition, offset) in owed {
            let Some(held) = self.held.get(partition) else { continue };
            commits.push((*partition, held.hold, self.seat.begin_commit(held.hold, *offset), *offset));
            offsets.push(proto::OffsetToCommit {
                topic: held.topic.to_owned(),
                partition: held.index.get(),
                offset: *offset,
                topic_id: held.at.topic.0.to_vec().into(),
                ..Default::default()
            });
        }
        let request = proto::CommitOffsetsRequest {
            group_id: self.seat.group.name.to_owned(),
            member_id: self.id.clone(),
            member_epoch: self.machine.epoch().0,
            instance_id: self.machine.instance().map(ToString::to_string).unwrap_or_default(),
            offsets,
            cursor: Default::default(),
        };
        let mut service = self.seat.api.service();
        self.committing = true;
        self.calls.spawn_local(async move {
            let call = service.commit_offsets(deadline(request));
            let outcome = match tokio::time::timeout(Duration::from_secs(8), call).await {
                Ok(Ok(answer)) => Ok(accepted(&answer.into_inner())),
                Ok(Err(status)) => Err(error_of(&status)),
                Err(_) => Err(ApiError::new(ErrorCode::RequestTimedOut, "no answer in time")),
            };
            Done::Committed { commits, outcome }
        });
    }
}

fn read_answer(answer: proto::HeartbeatResponse) -> Result<Answer, Refusal> {
    let mut assignment = answer.assignment.as_ref().map(|_| BTreeSet::new());
    for topic in answer.assignment.iter().flat_map(|assigned| &assigned.topics) {
        let wrong = || Refusal::new(ErrorCode::InvalidRequest, "a topic's id has 16 bytes");
        let id = TopicId(topic.topic_id[..].try_into().map_err(|_| wrong())?);
        let places = topic
            .partitions
            .iter()
            .map(|index| TopicIdPartition { topic: id, partition: PartitionId(*index) });
        assignment.get_or_insert_default().extend(places);
    }
    let interval = Duration::from_millis(answer.heartbeat_interval_ms.into());
    Ok(Answer { epoch: MemberEpoch(answer.member_epoch), assignment, step: answer.assignment_step, interval })
}

/// The partitions whose commit is durable.
pub fn accepted(answer: &proto::CommitOffsetsResponse) -> BTreeSet<Partition> {
    let durable = answer.results.iter().filter(|result| result.error.is_none());
    durable.filter_map(|result| crate::board::number(&result.topic, result.partition)).collect()
}
