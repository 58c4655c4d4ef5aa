//! ResetOffsets: where the offsets of a group without members would go, and if wanted, the commit that takes them there.

use super::call::{self, Caller};
use super::check;
use crate::forward::scatter;
use crate::node::{Node, unknown_topic};
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_core::group::GroupId;
use thalweg_core::{ErrorCode, PartitionId};
use thalweg_proto::v1::reset_offsets_request::To;
use thalweg_proto::{ApiError, v1};

type Key = (String, i32);

/// Serves one call. Who names exactly one partition is refused with the status.
pub async fn reset(
    node: &Arc<Node>,
    caller: &Caller,
    request: v1::ResetOffsetsRequest,
) -> Result<v1::ResetOffsetsResponse, ApiError> {
    let group = check::group(&request.group_id, "group_id")?;
    let to = request.to.as_ref().ok_or_else(|| {
        ApiError::invalid("to", "say where to: a position, an offset, or how many records to shift by")
    })?;
    check_target(to)?;
    let topics = check::topics(node, request.topics, "topics")?;
    let alone = matches!(topics.as_slice(), [topic] if topic.partitions.len() == 1);
    check_empty(node, caller, &group).await?;
    let before = committed(node, caller, &group, &topics).await?;
    let wanted = if topics.is_empty() {
        if before.is_empty() {
            let message = format!("group \"{group}\" has committed nothing; name the topics to reset");
            return Err(ApiError::new(ErrorCode::UnknownGroup, message).with_field("group_id"));
        }
        before.keys().cloned().collect()
    } else {
        partitions(node, &topics)?
    };
    if wanted.len() > check::MAX_PARTITIONS {
        let message = format!("that is more than {} partitions; name fewer topics", check::MAX_PARTITIONS);
        return Err(ApiError::invalid("topics", message));
    }
    let mut results = targets(node, caller, wanted, &before, to).await?;
    if !request.dry_run {
        commit(node, caller, &group, &mut results).await?;
    }
    match results.as_slice() {
        [v1::ResetResult { error: Some(error), .. }] if alone => Err(ApiError::from_proto(error)),
        _ => Ok(v1::ResetOffsetsResponse { results }),
    }
}

fn check_target(to: &To) -> Result<(), ApiError> {
    match to {
        To::Offset(offset) if *offset < 0 => Err(ApiError::invalid("offset", "an offset is 0 or more")),
        To::Position(position) if v1::OffsetSpec::try_from(position.spec).is_err() => {
            Err(ApiError::invalid("position.spec", format!("{} is no offset spec", position.spec)))
        }
        _ => Ok(()),
    }
}

/// The commit would be refused too; a dry run must not promise what cannot be done.
async fn check_empty(node: &Node, caller: &Caller, group: &GroupId) -> Result<(), ApiError> {
    match call::describe(node, caller, group).await {
        Ok(found) if found.members.is_empty() => Ok(()),
        Ok(found) => {
            let members = found.members.len();
            let message = format!("the group has {members} members; stop them before its offsets are moved");
            Err(ApiError::new(ErrorCode::GroupNotEmpty, message).with_field("group_id"))
        }
        // A group that is not there yet may be given its first offsets.
        Err(error) if error.code == ErrorCode::UnknownGroup => Ok(()),
        Err(error) => Err(error),
    }
}

async fn committed(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    topics: &[v1::TopicPartitions],
) -> Result<BTreeMap<Key, i64>, ApiError> {
    // A topic without partitions is all of it, which is more than the coordinator can be asked for: everything is.
    let whole = topics.iter().any(|topic| topic.partitions.is_empty());
    let request = v1::FetchOffsetsRequest {
        group_id: group.to_string(),
        topics: if whole { Vec::new() } else { topics.to_vec() },
        ..Default::default()
    };
    let answer = call::fetch_offsets(node, caller, group, request).await?;
    let offset = |found: v1::CommittedOffset| ((found.topic, found.partition), found.offset);
    Ok(answer.offsets.into_iter().map(offset).collect())
}

/// Every partition that was named, in the order of topic and partition.
fn partitions(node: &Node, topics: &[v1::TopicPartitions]) -> Result<Vec<Key>, ApiError> {
    let image = node.metadata.image();
    let mut wanted = BTreeMap::new();
    for topic in topics {
        let found = image.topic(&topic.topic).ok_or_else(|| unknown_topic(&topic.topic))?;
        if topic.partitions.is_empty() {
            wanted.extend(found.partitions().map(|(index, _)| ((topic.topic.clone(), index.get()), ())));
        }
        for partition in &topic.partitions {
            if found.partition(PartitionId(*partition)).is_none() {
                return Err(node.not_led_here(&topic.topic, *partition));
            }
            wanted.insert((topic.topic.clone(), *partition), ());
        }
    }
    Ok(wanted.into_keys().collect())
}

/// Where each partition goes, within its log.
async fn targets(
    node: &Arc<Node>,
    caller: &Caller,
    wanted: Vec<Key>,
    before: &BTreeMap<Key, i64>,
    to: &To,
) -> Result<Vec<v1::ResetResult>, ApiError> {
    let look = |spec, at| look_up(node, caller, &wanted, spec, at);
    let first = look(v1::OffsetSpec::Earliest, 0).await?;
    let last = look(v1::OffsetSpec::Latest, 0).await?;
    let found = match to {
        To::Position(position) => match v1::OffsetSpec::try_from(position.spec) {
            Ok(v1::OffsetSpec::Earliest) => first.clone(),
            Ok(spec @ (v1::OffsetSpec::Timestamp | v1::OffsetSpec::MaxTimestamp)) => {
                look(spec, position.timestamp_ms).await?
            }
            _ => last.clone(),
        },
        To::Offset(offset) => vec![Ok(*offset); wanted.len()],
        To::ShiftBy(by) => {
            let shifted = |key: &Key| match before.get(key) {
                // Before the first record is at the first one; -1 would say that there is none.
                Some(offset) => Ok(offset.saturating_add(*by).max(0)),
                None => {
                    let message = "there is no committed offset to shift from; reset it to a position first";
                    Err(ApiError::invalid("shift_by", message))
                }
            };
            wanted.iter().map(shifted).collect()
        }
    };
    let parts = wanted.iter().zip(found).zip(first.into_iter().zip(last));
    let result = |((key, found), (first, last)): ((&Key, _), (_, _))| {
        let after = clamp(found, first, last);
        v1::ResetResult {
            topic: key.0.clone(),
            partition: key.1,
            before: before.get(key).copied(),
            after: *after.as_ref().unwrap_or(&-1),
            error: after.err().map(|error| error.to_proto()),
        }
    };
    Ok(parts.map(result).collect())
}

/// No record that late: the end.
fn clamp(
    found: Result<i64, ApiError>,
    first: Result<i64, ApiError>,
    last: Result<i64, ApiError>,
) -> Result<i64, ApiError> {
    let (found, first, last) = (found?, first?, last?);
    Ok(if found < 0 { last } else { found.clamp(first.min(last), last) })
}

async fn look_up(
    node: &Arc<Node>,
    caller: &Caller,
    wanted: &[Key],
    spec: v1::OffsetSpec,
    timestamp_ms: i64,
) -> Result<Vec<Result<i64, ApiError>>, ApiError> {
    let partition = |key: &Key| v1::ListOffsetsPartition {
        topic: key.0.clone(),
        partition: key.1,
        spec: spec as i32,
        timestamp_ms,
        min_leader_epoch: None,
    };
    let request = v1::ListOffsetsRequest {
        partitions: wanted.iter().map(partition).collect(),
        routing: v1::Routing::AnyBroker as i32,
        ..Default::default()
    };
    let answer = match scatter::list_offsets(Arc::clone(node), request, caller.until()).await {
        Ok(answer) => answer,
        // A single partition's error is the call's.
        Err(error) if wanted.len() == 1 => return Ok(vec![Err(error)]),
        Err(error) => return Err(error),
    };
    let offset = |result: v1::ListOffsetsResult| match &result.error {
        Some(error) => Err(ApiError::from_proto(error)),
        None => Ok(result.offset),
    };
    Ok(answer.results.into_iter().map(offset).collect())
}

async fn commit(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    results: &mut [v1::ResetResult],
) -> Result<(), ApiError> {
    let image = node.metadata.snapshot();
    let possible: Vec<usize> = (0..results.len()).filter(|at| results[*at].error.is_none()).collect();
    if possible.is_empty() {
        return Ok(());
    }
    let offset = |at: &usize| {
        let result = &results[*at];
        let topic = image.topic(&result.topic);
        v1::OffsetToCommit {
            topic: result.topic.clone(),
            partition: result.partition,
            offset: result.after,
            topic_id: topic.map(|topic| topic.id.0.to_vec().into()).unwrap_or_default(),
            ..Default::default()
        }
    };
    let request = v1::CommitOffsetsRequest {
        group_id: group.to_string(),
        offsets: possible.iter().map(offset).collect(),
        ..Default::default()
    };
    let answer = call::commit(node, caller, group, request).await?;
    for (at, committed) in possible.into_iter().zip(answer.results) {
        results[at].error = committed.error;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_outside_the_log_go_to_its_nearest_end() {
        let at = |found| clamp(Ok(found), Ok(10), Ok(20)).unwrap();
        assert_eq!([at(5), at(10), at(15), at(20), at(25), at(-1)], [10, 10, 15, 20, 20, 20]);
        let gone = || Err(ApiError::new(ErrorCode::UnknownTopic, "gone"));
        assert!(clamp(Ok(5), gone(), Ok(20)).is_err() && clamp(gone(), Ok(1), Ok(20)).is_err());
    }
}
