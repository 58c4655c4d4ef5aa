//! Join and Poll: a member in unary calls. The broker keeps nothing between two of them; the cursor holds it, so that any broker
//! can serve any poll, and a poll whose answer was lost can be made again.
//!
//! ```text
//!   poll: cursor ─► commit what is due ─► heartbeat: give back, take ─► where new partitions begin ─► read
//!                                            ▲                                                         │ nothing there:
//!                                            └──── something changed ◄──── held heartbeat  ∥  long poll ◄
//! ```

mod reading;

use super::call::{self, Caller};
use super::check;
use super::cursor::{Cursor, NOWHERE, Place};
use super::options::{Options, millis};
use super::starts::{self, Reading};
use crate::in_flight::Charge;
use crate::node::Node;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::{GroupId, MemberEpoch, MemberId};
use thalweg_core::{ErrorCode, Offset, PartitionId, TopicName};
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// Records of one answer when the client does not say (`max.poll.records`).
const DEFAULT_RECORDS: u32 = 500;
/// Records of one answer at most.
const MAX_RECORDS: u32 = 100_000;
/// Bytes of one answer when the client does not say.
const DEFAULT_BYTES: u32 = 8 << 20;
/// How long is waited when the client does not say, in milliseconds.
const DEFAULT_WAIT_MS: u32 = 500;
const MAX_WAIT_MS: u32 = crate::read::fetch::MAX_WAIT_MS;
/// How long a first answer to a joining member may wait for its assignment.
const JOIN_WAIT_MS: u32 = 1_000;
/// How long a poll may take beyond its wait when the client sets no deadline: for a coordinator, and a leader, to be found.
const LATE: Duration = Duration::from_secs(10);
/// What is kept of the caller's time for the answer to be put together.
const TRAVEL: Duration = Duration::from_millis(50);

/// Serves Join.
pub async fn join(
    node: &Node,
    caller: &Caller,
    request: v1::JoinRequest,
) -> Result<v1::JoinResponse, ApiError> {
    let options = Options::of(request.options, "options")?;
    let until = caller.until();
    // Until the first assignment is made there is no epoch to go on with.
    let mut attempt = 0;
    let epoch = loop {
        attempt += 1;
        let joining = v1::HeartbeatRequest {
            max_wait_ms: Some(JOIN_WAIT_MS.min(millis(options.session) / 2)),
            ..options.joining(attempt)
        };
        let answer = call::heartbeat(node, caller, &options.group, joining).await?;
        let epoch = MemberEpoch(answer.member_epoch);
        if epoch > MemberEpoch::JOIN {
            break epoch;
        }
        if Instant::now() + TRAVEL >= until {
            let message = "the group's assignment was not made in time; retry";
            return Err(ApiError::new(ErrorCode::CoordinatorNotAvailable, message));
        }
        tokio::time::sleep(TRAVEL).await;
    };
    let cursor = Cursor {
        epoch,
        instance: options.instance.as_ref().map(ToString::to_string).unwrap_or_default(),
        session: options.session,
        auto_commit: options.auto_commit,
        committed_at: node.clock.now(),
        reset: options.reset,
        format: options.format,
        isolation: options.isolation,
        turn: 0,
        heard: None,
        places: BTreeMap::new(),
    };
    let member_id = options.member.to_string();
    let cursor = cursor.encode(options.group.as_str(), &member_id);
    Ok(v1::JoinResponse { member_id, member_epoch: epoch.0, cursor })
}

/// Serves Poll. The charge is to be kept as long as the answer is.
pub async fn poll(
    node: &Arc<Node>,
    caller: &Caller,
    request: v1::PollRequest,
) -> Result<(v1::PollResponse, Charge), ApiError> {
    // A poll says what the member has. Carried out long after, it would take that back from one that has gone on since.
    let wait = Duration::from_millis(request.max_wait_ms.unwrap_or(DEFAULT_WAIT_MS).into());
    let caller = &caller.within(wait + LATE);
    let mut polling = Polling::begin(node, caller, &request)?;
    let wanted = Wanted::of(node, caller, &request)?;
    polling.commit_what_is_due().await?;
    polling.seek(&request.seek)?;
    polling.beat().await?;
    let found = polling.read(&wanted).await?;
    Ok(polling.answer(found))
}

/// What the client asked for, checked.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    records: u64,
    bytes: usize,
    min_bytes: u32,
    until: Instant,
}

impl Wanted {
    fn of(node: &Node, caller: &Caller, request: &v1::PollRequest) -> Result<Wanted, ApiError> {
        let most = node.config.limits.max_fetch_bytes;
        let in_range = |field: &str, value: u32, most: u32| match (1..=most).contains(&value) {
            true => Ok(value),
            false => Err(ApiError::invalid(field, format!("1 to {most}"))),
        };
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let min_bytes = request.min_bytes.unwrap_or(1);
        if min_bytes > most {
            return Err(ApiError::invalid("min_bytes", format!("at most {most} bytes")));
        }
        let wait = request.max_wait_ms.unwrap_or(DEFAULT_WAIT_MS);
        if wait > MAX_WAIT_MS {
            return Err(ApiError::invalid("max_wait_ms", format!("at most {MAX_WAIT_MS} ms may be waited")));
        }
        let until = Instant::now() + Duration::from_millis(wait.into());
        let deadline = caller.deadline.map(|deadline| deadline.checked_sub(TRAVEL).unwrap_or(deadline));
        Ok(Wanted {
            records: in_range("max_records", request.max_records.unwrap_or(DEFAULT_RECORDS), MAX_RECORDS)?
                .into(),
            bytes: in_range("max_bytes", request.max_bytes.unwrap_or(DEFAULT_BYTES.min(most)), most)?
                as usize,
            min_bytes,
            until: deadline.map_or(until, |deadline| until.min(deadline)),
        })
    }
}

/// One poll.
struct Polling<'a> {
    node: &'a Arc<Node>,
    caller: &'a Caller,
    group: GroupId,
    member: MemberId,
    cursor: Cursor,
    assigned: Vec<TopicIdPartition>,
    revoking: Vec<TopicIdPartition>,
    lost: Vec<TopicIdPartition>,
}

/// What was read.
struct Found {
    partitions: Vec<v1::PartitionData>,
    charge: Charge,
}

impl<'a> Polling<'a> {
    fn begin(
        node: &'a Arc<Node>,
        caller: &'a Caller,
        request: &v1::PollRequest,
    ) -> Result<Polling<'a>, ApiError> {
        let group = check::group(&request.group_id, "group_id")?;
        let member = check::member(&request.member_id, "member_id")?;
        let cursor = Cursor::decode(&request.cursor, &request.group_id, &request.member_id)?;
        let (assigned, revoking, lost) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Polling { node, caller, group, member, cursor, assigned, revoking, lost })
    }

    fn reading(&self) -> Reading {
        Reading {
            group: self.group.clone(),
            member: self.member.clone(),
            epoch: self.cursor.epoch,
            reset: self.cursor.reset,
            isolation: self.cursor.isolation,
        }
    }

    /// The client came back: it has dealt with all that it was given.
    async fn commit_what_is_due(&mut self) -> Result<(), ApiError> {
        let Some(every) = self.cursor.auto_commit else { return Ok(()) };
        let now = self.node.clock.now();
        let age = now.millis_since(self.cursor.committed_at);
        let is_due = u128::try_from(age).is_ok_and(|age| age >= every.as_millis());
        let gives_back = self.cursor.places.values().any(|place| place.is_revoking);
        if !is_due && !gives_back {
            return Ok(());
        }
        let image = self.node.metadata.snapshot();
        let behind =
            self.cursor.places.iter().filter(|(_, place)| place.next >= 0 && place.next != place.committed);
        let offsets: Vec<_> = behind
            .filter_map(|(at, place)| {
                let topic = image.topic_by_id(at.topic)?;
                Some((*at, place.to_commit(topic.name.as_str(), *at)))
            })
            .collect();
        for part in offsets.chunks(check::MAX_PARTITIONS) {
            let request = v1::CommitOffsetsRequest {
                group_id: self.group.to_string(),
                member_id: self.member.to_string(),
                member_epoch: self.cursor.epoch.0,
                instance_id: self.cursor.instance.clone(),
                offsets: part.iter().map(|(_, offset)| offset.clone()).collect(),
                ..Default::default()
            };
            let answer = call::commit(self.node, self.caller, &self.group, request).await?;
            for ((at, offset), result) in part.iter().zip(answer.results) {
                match (result.error, self.cursor.places.get_mut(at)) {
                    (None, Some(place)) => place.committed = offset.offset,
                    (error, _) => tracing::debug!(?error, group = %self.group, "an automatic commit failed"),
                }
            }
        }
        self.cursor.committed_at = now;
        Ok(())
    }

    fn seek(&mut self, positions: &[v1::PartitionPosition]) -> Result<(), ApiError> {
        let image = self.node.metadata.image();
        for position in positions {
            if position.offset < 0 {
                return Err(ApiError::invalid("seek.offset", "an offset is 0 or more"));
            }
            let topic = image.topic(&position.topic).map(|topic| topic.id);
            let at =
                topic.map(|topic| TopicIdPartition { topic, partition: PartitionId(position.partition) });
            let place = at.and_then(|at| self.cursor.places.get_mut(&at));
            let place = place.ok_or_else(|| {
                let (topic, partition) = (&position.topic, position.partition);
                ApiError::invalid("seek", format!("partition {topic}-{partition} is not the member's"))
            })?;
            place.next = position.offset;
            // Also back to where the last commit was: what was committed meanwhile is not what it wants committed.
            place.committed = -1;
        }
        Ok(())
    }

    /// Gives back what the client was told to, and takes what there is.
    async fn beat(&mut self) -> Result<(), ApiError> {
        self.cursor.places.retain(|_, place| !place.is_revoking);
        // Always said: after an answer that was lost it is how the coordinator knows where this member stands.
        let has = Some(starts::assigned(self.cursor.places.keys()));
        let heard_step = self.cursor.heard;
        let answer = self.heartbeat(v1::HeartbeatRequest { has, heard_step, ..self.request() }).await?;
        self.cursor.epoch = MemberEpoch(answer.member_epoch);
        let Some(assignment) = &answer.assignment else { return Ok(()) };
        let assignment = starts::partitions(assignment)?;
        self.cursor.heard = answer.assignment_step;
        let image = self.node.metadata.snapshot();
        let mut gone = Vec::new();
        for (at, place) in &mut self.cursor.places {
            if assignment.contains(at) {
                continue;
            }
            if image.topic_by_id(at.topic).is_some() {
                place.is_revoking = true;
                self.revoking.push(*at);
            } else {
                gone.push(*at);
            }
        }
        // Nothing can be done for a topic that is no more.
        self.cursor.places.retain(|at, _| !gone.contains(at));
        self.lost.extend(gone);
        for at in assignment {
            if let std::collections::btree_map::Entry::Vacant(new) = self.cursor.places.entry(at) {
                new.insert(Place::NEW);
                self.assigned.push(at);
            }
        }
        Ok(())
    }

    async fn heartbeat(&self, request: v1::HeartbeatRequest) -> Result<v1::HeartbeatResponse, ApiError> {
        let answer = call::heartbeat(self.node, self.caller, &self.group, request).await?;
        if answer.member_epoch <= MemberEpoch::JOIN.0 {
            let message = "the coordinator took the member's epoch back; join anew";
            return Err(ApiError::new(ErrorCode::FencedMemberEpoch, message));
        }
        Ok(answer)
    }

    fn request(&self) -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            group_id: self.group.to_string(),
            member_id: self.member.to_string(),
            member_epoch: self.cursor.epoch.0,
            instance_id: self.cursor.instance.clone(),
            ..Default::default()
        }
    }

    fn has_news(&self) -> bool {
        !(self.assigned.is_empty() && self.revoking.is_empty() && self.lost.is_empty())
    }

    fn answer(self, mut found: Found) -> (v1::PollResponse, Charge) {
        let image = self.node.metadata.snapshot();
        let name = |at: &TopicIdPartition| image.topic_by_id(at.topic).map(|topic| topic.name.clone());
        for (at, _) in self.cursor.places.iter().filter(|(_, place)| place.next == NOWHERE) {
            if let Some(topic) = name(at) {
                found.partitions.push(failed(&topic, *at, &starts::nowhere()));
            }
        }
        let named = |partitions: &[TopicIdPartition]| by_topic(partitions, name);
        let count = self.cursor.places.values().filter(|place| !place.is_revoking).count();
        let answer = v1::PollResponse {
            partitions: found.partitions,
            cursor: self.cursor.encode(self.group.as_str(), self.member.as_str()),
            member_epoch: self.cursor.epoch.0,
            assigned: named(&self.assigned),
            revoking: named(&self.revoking),
            lost: named(&self.lost),
            partition_count: u32::try_from(count).unwrap_or(u32::MAX),
        };
        (answer, found.charge)
    }
}

fn nothing(topic: String, partition: i32) -> v1::PartitionData {
    v1::PartitionData {
        topic,
        partition,
        next_offset: Offset::NONE.get(),
        high_watermark: Offset::NONE.get(),
        last_stable_offset: Offset::NONE.get(),
        log_start_offset: Offset::NONE.get(),
        ..Default::default()
    }
}

/// A partition that cannot be read.
pub fn failed(topic: &TopicName, at: TopicIdPartition, error: &ApiError) -> v1::PartitionData {
    v1::PartitionData { error: Some(error.to_proto()), ..nothing(topic.to_string(), at.partition.get()) }
}

/// Partitions by topic, in order; the name is empty where the topic is gone.
pub fn by_topic<'a>(
    partitions: impl IntoIterator<Item = &'a TopicIdPartition>,
    name: impl Fn(&TopicIdPartition) -> Option<TopicName>,
) -> Vec<v1::TopicPartitions> {
    let mut topics: Vec<v1::TopicPartitions> = Vec::new();
    for at in partitions {
        match topics.last_mut().filter(|topic| topic.topic_id[..] == at.topic.0) {
            Some(topic) => topic.partitions.push(at.partition.get()),
            None => topics.push(v1::TopicPartitions {
                topic_id: at.topic.0.to_vec().into(),
                topic: name(at).map(|name| name.to_string()).unwrap_or_default(),
                partitions: vec![at.partition.get()],
            }),
        }
    }
    topics
}
