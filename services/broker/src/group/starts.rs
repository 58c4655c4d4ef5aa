//! Where a member begins in a partition: where the group left off, else where its `auto.offset.reset` says.

use super::call::{self, Caller};
use super::check;
use super::options::Reset;
use crate::forward::scatter;
use crate::node::Node;
use crate::refusal;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::{GroupId, MemberEpoch, MemberId};
use thalweg_core::{ErrorCode, TopicName};
use thalweg_proto::{ApiError, v1};

/// A partition with its topic's name of the moment.
pub type Named = (TopicIdPartition, TopicName);

/// Who reads.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The group.
    pub group: GroupId,
    /// The member.
    pub member: MemberId,
    /// Its epoch.
    pub epoch: MemberEpoch,
    /// Where to begin otherwise.
    pub reset: Reset,
    /// The number of a [`v1::IsolationLevel`].
    pub isolation: i32,
}

/// Where one partition begins.
#[derive(Debug, Clone)]
pub struct Start {
    /// Which.
    pub at: TopicIdPartition,
    /// Its topic.
    pub topic: TopicName,
    /// What the group committed.
    pub committed: Option<i64>,
    /// The offset; `None` where the member must seek. An error may pass.
    pub next: Result<Option<i64>, ApiError>,
}

/// Finds where partitions begin. Errors, of the whole: `UNKNOWN_MEMBER`, `FENCED_MEMBER_EPOCH`, `COORDINATOR_NOT_AVAILABLE`.
pub async fn find(
    node: &Arc<Node>,
    caller: &Caller,
    reading: &Reading,
    wanted: Vec<Named>,
) -> Result<Vec<Start>, ApiError> {
    let mut starts = Vec::with_capacity(wanted.len());
    for part in wanted.chunks(check::MAX_PARTITIONS) {
        let committed = committed(node, caller, reading, part).await?;
        let offset = |(at, topic): &Named| committed.get(&(topic.as_str(), at.partition.get())).copied();
        let open: Vec<Named> = part.iter().filter(|named| offset(named).is_none()).cloned().collect();
        let mut found = HashMap::new();
        for (named, offset) in open.iter().zip(reset(node, caller, reading, &open).await) {
            found.insert(named.0, offset);
        }
        starts.extend(part.iter().map(|named| {
            let committed = offset(named);
            let next = match committed {
                Some(offset) => Ok(Some(offset)),
                None => found.remove(&named.0).unwrap_or(Ok(None)),
            };
            Start { at: named.0, topic: named.1.clone(), committed, next }
        }));
    }
    Ok(starts)
}

async fn committed<'a>(
    node: &Node,
    caller: &Caller,
    reading: &Reading,
    wanted: &'a [Named],
) -> Result<HashMap<(&'a str, i32), i64>, ApiError> {
    let request = v1::FetchOffsetsRequest {
        group_id: reading.group.to_string(),
        member_id: reading.member.to_string(),
        member_epoch: reading.epoch.0,
        topics: by_topic(wanted),
    };
    let answer = call::fetch_offsets(node, caller, &reading.group, request).await?;
    let offsets: HashMap<_, _> =
        answer.offsets.into_iter().map(|found| ((found.topic, found.partition), found.offset)).collect();
    let known = wanted.iter().filter_map(|(at, topic)| {
        let offset = offsets.get(&(topic.to_string(), at.partition.get()))?;
        Some(((topic.as_str(), at.partition.get()), *offset))
    });
    Ok(known.collect())
}

/// Where partitions begin by `auto.offset.reset`, in their order; `None` where that says nothing.
pub async fn reset(
    node: &Arc<Node>,
    caller: &Caller,
    reading: &Reading,
    wanted: &[Named],
) -> Vec<Result<Option<i64>, ApiError>> {
    let Some(spec) = reading.reset.spec().filter(|_| !wanted.is_empty()) else {
        return vec![Ok(None); wanted.len()];
    };
    let partition = |(at, topic): &Named| v1::ListOffsetsPartition {
        topic: topic.to_string(),
        partition: at.partition.get(),
        spec: spec as i32,
        ..Default::default()
    };
    let request = v1::ListOffsetsRequest {
        partitions: wanted.iter().map(partition).collect(),
        isolation_level: reading.isolation,
        routing: v1::Routing::AnyBroker as i32,
    };
    match scatter::list_offsets(Arc::clone(node), request, caller.until()).await {
        Ok(answer) => {
            let offset = |result: v1::ListOffsetsResult| match &result.error {
                Some(error) => Err(ApiError::from_proto(error)),
                None => Ok(Some(result.offset)),
            };
            let mut found: Vec<_> = answer.results.into_iter().map(offset).collect();
            let missing = || Err(refusal::internal("a partition was left out", "a short answer"));
            found.resize_with(wanted.len(), missing);
            found
        }
        Err(error) => vec![Err(error); wanted.len()],
    }
}

/// What a member is told of a partition that has no place to begin at.
pub fn nowhere() -> ApiError {
    let message =
        "the group has committed no offset that is still there, and offset_reset is none; seek first";
    ApiError::new(ErrorCode::OffsetOutOfRange, message)
}

/// Partitions as the API says them, in the order of topic and partition.
pub fn by_topic(partitions: &[Named]) -> Vec<v1::TopicPartitions> {
    let mut topics: BTreeMap<&TopicName, v1::TopicPartitions> = BTreeMap::new();
    for (at, name) in partitions {
        let topic = topics.entry(name).or_insert_with(|| v1::TopicPartitions {
            topic_id: at.topic.0.to_vec().into(),
            topic: name.to_string(),
            partitions: Vec::new(),
        });
        topic.partitions.push(at.partition.get());
    }
    let mut topics: Vec<_> = topics.into_values().collect();
    topics.iter_mut().for_each(|topic| topic.partitions.sort_unstable());
    topics
}

/// What a member has, as a heartbeat says it.
pub fn assigned<'a>(partitions: impl IntoIterator<Item = &'a TopicIdPartition>) -> v1::AssignedPartitions {
    let mut topics: Vec<v1::TopicPartitions> = Vec::new();
    for at in partitions {
        match topics.last_mut().filter(|topic| topic.topic_id[..] == at.topic.0) {
            Some(topic) => topic.partitions.push(at.partition.get()),
            None => topics.push(v1::TopicPartitions {
                topic_id: at.topic.0.to_vec().into(),
                topic: String::new(),
                partitions: vec![at.partition.get()],
            }),
        }
    }
    v1::AssignedPartitions { topics }
}

/// What a heartbeat's answer gives.
pub fn partitions(
    assigned: &v1::AssignedPartitions,
) -> Result<std::collections::BTreeSet<TopicIdPartition>, ApiError> {
    let mut all = std::collections::BTreeSet::new();
    for topic in &assigned.topics {
        let id = check::topic_id(&topic.topic_id, "assignment.topics.topic_id")?;
        all.extend(
            topic
                .partitions
                .iter()
                .map(|index| TopicIdPartition { topic: id, partition: thalweg_core::PartitionId(*index) }),
        );
    }
    Ok(all)
}
