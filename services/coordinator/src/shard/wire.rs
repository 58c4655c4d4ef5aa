//! Between messages and the domain. What comes from outside is checked here, before anything is built from it.

use super::config::GroupConfig;
use super::topics::ImageTopics;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::heartbeat::MAX_TOPICS;
use thalweg_core::group::state::Partitions;
use thalweg_core::group::{
    Attempt, CommittedOffset, Committer, GroupId, GroupState, Heartbeat, InstanceId, MemberEpoch, MemberId,
    Subscription,
};
use thalweg_core::metadata::command::Refusal;
use thalweg_core::metadata::limits::MAX_RACK_LEN;
use thalweg_core::{ErrorCode, PartitionId, TopicId, TopicName};
use thalweg_proto::{ApiError, v1};

/// Names of a subscription that a description tells.
const MAX_TOLD_TOPICS: usize = 100;
/// Bytes of what a member calls itself.
const MAX_CLIENT_ID: usize = 249;

pub(super) fn invalid(field: &str, message: impl Into<String>) -> Refusal {
    Refusal::field(ErrorCode::InvalidRequest, field, message)
}

pub(super) fn group_id(text: &str) -> Result<GroupId, Refusal> {
    GroupId::new(text).map_err(|error| invalid("group_id", error.to_string()))
}

fn member_id(text: &str) -> Result<MemberId, Refusal> {
    MemberId::new(text).map_err(|error| invalid("member_id", error.to_string()))
}

fn instance_id(text: &str) -> Result<Option<InstanceId>, Refusal> {
    let some = (!text.is_empty()).then(|| InstanceId::new(text)).transpose();
    some.map_err(|error| invalid("instance_id", error.to_string()))
}

/// Who commits or asks; an empty member id is somebody from outside.
pub(super) fn committer(member: &str, epoch: i32, instance: &str) -> Result<Committer, Refusal> {
    if member.is_empty() {
        return Ok(Committer::Outside);
    }
    Ok(Committer::Member(member_id(member)?, MemberEpoch(epoch), instance_id(instance)?))
}

/// A heartbeat, and for how long its answer may wait.
pub(super) fn heartbeat(
    request: v1::HeartbeatRequest,
    host: Arc<str>,
    config: &GroupConfig,
) -> Result<(GroupId, Heartbeat, Duration), Refusal> {
    let group = group_id(&request.group_id)?;
    let joins = request.member_epoch == MemberEpoch::JOIN.0;
    if request.client_id.len() > MAX_CLIENT_ID {
        return Err(invalid("client_id", format!("it has at most {MAX_CLIENT_ID} bytes")));
    }
    let millis = |asked: Option<u32>, default: Duration| {
        asked.map_or(default, |millis| Duration::from_millis(millis.into()))
    };
    let session_timeout = millis(request.session_timeout_ms, config.session_timeout);
    if joins && !config.session_timeouts.contains(&session_timeout) {
        let (least, most) = (config.session_timeouts.start(), config.session_timeouts.end());
        let message = format!("it is from {} to {} milliseconds", least.as_millis(), most.as_millis());
        return Err(invalid("session_timeout_ms", message));
    }
    let rebalance_timeout = millis(request.rebalance_timeout_ms, config.rebalance_timeout);
    if joins && !config.rebalance_timeouts.contains(&rebalance_timeout) {
        let (least, most) = (config.rebalance_timeouts.start(), config.rebalance_timeouts.end());
        let message = format!("it is from {} to {} milliseconds", least.as_millis(), most.as_millis());
        return Err(invalid("rebalance_timeout_ms", message));
    }
    let beat = Heartbeat {
        member: member_id(&request.member_id)?,
        epoch: MemberEpoch(request.member_epoch),
        instance: instance_id(&request.instance_id)?,
        subscription: request.subscription.map(subscription).transpose()?,
        has: request.has.map(|has| partitions(&has.topics, config.max_named)).transpose()?,
        heard: request.heard_step,
        attempt: request.join_life.zip(request.join_attempt).map(|(life, number)| Attempt { life, number }),
        client_id: request.client_id.into(),
        host,
        session_timeout,
        rebalance_timeout,
        leaving: request.leaving_epoch.map(MemberEpoch),
    };
    Ok((group, beat, millis(request.max_wait_ms, Duration::ZERO).min(config.max_hold)))
}

fn subscription(wish: v1::GroupSubscription) -> Result<Subscription, Refusal> {
    if wish.topics.len() > MAX_TOPICS {
        return Err(invalid("subscription.topics", format!("a member names at most {MAX_TOPICS} topics")));
    }
    if wish.rack.len() > MAX_RACK_LEN {
        return Err(invalid("subscription.rack", format!("a rack has at most {MAX_RACK_LEN} bytes")));
    }
    let name = |name: &String| {
        TopicName::new(name).map_err(|error| invalid("subscription.topics", format!("{name:?}: {error}")))
    };
    Ok(Subscription {
        topics: wish.topics.iter().map(name).collect::<Result<_, _>>()?,
        pattern: Some(wish.pattern).filter(|pattern| !pattern.is_empty()),
        rack: Some(wish.rack).filter(|rack| !rack.is_empty()).map(Arc::from),
        assignor: Some(wish.assignor).filter(|assignor| !assignor.is_empty()),
    })
}

/// Partitions by their topic's id.
fn partitions(topics: &[v1::TopicPartitions], most: usize) -> Result<Partitions, Refusal> {
    check_named(topics, "has", most)?;
    let mut partitions = Partitions::new();
    for topic in topics {
        let id = topic_id(&topic.topic_id, "has.topics.topic_id")?;
        let id = id.ok_or_else(|| invalid("has.topics.topic_id", "name the topic by its id"))?;
        partitions.extend(
            topic.partitions.iter().map(|n| TopicIdPartition { topic: id, partition: PartitionId(*n) }),
        );
    }
    Ok(partitions)
}

/// Bounds what a request names.
pub(super) fn check_named(topics: &[v1::TopicPartitions], field: &str, most: usize) -> Result<(), Refusal> {
    let named: usize = topics.iter().map(|topic| topic.partitions.len().max(1)).sum();
    if named > most { Err(invalid(field, format!("it names at most {most} partitions"))) } else { Ok(()) }
}

/// A topic's id; `None` for no bytes.
pub(super) fn topic_id(bytes: &[u8], field: &str) -> Result<Option<TopicId>, Refusal> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let id = bytes.try_into().map_err(|_| invalid(field, "a topic's id has 16 bytes"))?;
    Ok(Some(TopicId(id)))
}

/// The name of a topic that a request names by name or by id; `None` if no topic has that id.
pub(super) fn named(
    topic: &v1::TopicPartitions,
    topics: &dyn ImageTopics,
) -> Result<Option<TopicName>, Refusal> {
    if !topic.topic.is_empty() {
        let name = TopicName::new(&topic.topic);
        return name.map(Some).map_err(|error| invalid("topics.topic", error.to_string()));
    }
    let id = topic_id(&topic.topic_id, "topics.topic_id")?;
    let id = id.ok_or_else(|| invalid("topics", "name the topic"))?;
    Ok(topics.name(id))
}

/// Partitions by topic, with the names of those that are there.
pub(super) fn by_topic<'a>(
    partitions: impl Iterator<Item = &'a TopicIdPartition>,
    topics: &dyn ImageTopics,
) -> Vec<v1::TopicPartitions> {
    let mut found: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
    for at in partitions {
        found.entry(at.topic).or_default().push(at.partition.get());
    }
    let one = |(id, partitions): (TopicId, Vec<i32>)| v1::TopicPartitions {
        topic_id: bytes::Bytes::copy_from_slice(&id.0),
        topic: topics.name(id).map(|name| name.to_string()).unwrap_or_default(),
        partitions,
    };
    found.into_iter().map(one).collect()
}

pub(super) fn committed(
    topic: &TopicName,
    partition: PartitionId,
    offset: &CommittedOffset,
) -> v1::CommittedOffset {
    v1::CommittedOffset {
        topic: topic.to_string(),
        partition: partition.get(),
        offset: offset.offset.get(),
        leader_epoch: Some(offset.leader_epoch.get()).filter(|epoch| *epoch >= 0),
        metadata: offset.metadata.to_string(),
        committed_at_ms: offset.at.as_millis(),
    }
}

pub(super) fn state(state: GroupState) -> v1::GroupState {
    match state {
        GroupState::Empty => v1::GroupState::Empty,
        GroupState::Assigning => v1::GroupState::Assigning,
        GroupState::Reconciling => v1::GroupState::Reconciling,
        GroupState::Stable => v1::GroupState::Stable,
    }
}

/// A subscription for people: the first names, and the pattern, as far as they have at most `most` bytes.
pub(super) fn wish(subscription: &Subscription, most: usize) -> v1::GroupSubscription {
    let mut left = most;
    let mut fits = |text: &str| left.checked_sub(text.len()).map(|rest| left = rest).is_some();
    let pattern = subscription.pattern.clone().filter(|pattern| fits(pattern)).unwrap_or_default();
    let topics = subscription.topics.iter().take(MAX_TOLD_TOPICS).take_while(|name| fits(name.as_str()));
    v1::GroupSubscription {
        topics: topics.map(ToString::to_string).collect(),
        pattern,
        assignor: subscription.assignor.clone().unwrap_or_default(),
        rack: subscription.rack.as_deref().unwrap_or_default().to_owned(),
    }
}

/// A refusal as a field of an answer.
pub(super) fn error(refusal: Refusal) -> v1::Error {
    let mut error = ApiError::new(refusal.code, refusal.message);
    error.field = refusal.field;
    error.to_proto()
}
