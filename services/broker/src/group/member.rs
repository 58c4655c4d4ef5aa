//! The bare protocol, and commits: what goes to the coordinator as it came, once it is checked.

use super::call::{self, Caller};
use super::{check, cursor};
use crate::node::Node;
use std::time::Duration;
use thalweg_core::group::MemberEpoch;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// What is kept of the caller's time for the answer to travel.
const TRAVEL: Duration = Duration::from_millis(100);

/// Serves Heartbeat.
pub async fn heartbeat(
    node: &Node,
    caller: &Caller,
    mut request: v1::HeartbeatRequest,
) -> Result<v1::HeartbeatResponse, ApiError> {
    let group = check::heartbeat(&request)?;
    if request.member_epoch < MemberEpoch::JOIN.0 {
        call::leave(node, caller, &group, request.clone()).await?;
        return Ok(v1::HeartbeatResponse { member_epoch: request.member_epoch, ..Default::default() });
    }
    // An answer that comes behind the caller's deadline would tell nobody.
    if let Some(deadline) = caller.deadline {
        let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(TRAVEL).as_millis();
        let most = u32::try_from(left).unwrap_or(u32::MAX);
        request.max_wait_ms = request.max_wait_ms.map(|wait| wait.min(most));
    }
    call::heartbeat(node, caller, &group, request).await
}

/// Serves Leave.
pub async fn leave(
    node: &Node,
    caller: &Caller,
    request: v1::LeaveRequest,
) -> Result<v1::LeaveResponse, ApiError> {
    let group = check::group(&request.group_id, "group_id")?;
    check::member(&request.member_id, "member_id")?;
    let instance = check::instance(&request.instance_id, "instance_id")?;
    if request.for_now && instance.is_none() {
        return Err(ApiError::invalid("for_now", "only a static member can come back; name its instance_id"));
    }
    let epoch = if request.for_now { MemberEpoch::LEAVE_FOR_NOW } else { MemberEpoch::LEAVE };
    let goodbye = v1::HeartbeatRequest {
        group_id: request.group_id,
        member_id: request.member_id,
        instance_id: request.instance_id,
        member_epoch: epoch.0,
        leaving_epoch: request.leaving_epoch,
        ..Default::default()
    };
    call::leave(node, caller, &group, goodbye).await?;
    Ok(v1::LeaveResponse {})
}

/// Serves CommitOffsets. Who commits exactly one partition, by name, is refused with the status.
pub async fn commit(
    node: &Node,
    caller: &Caller,
    mut request: v1::CommitOffsetsRequest,
) -> Result<v1::CommitOffsetsResponse, ApiError> {
    let group = check::group(&request.group_id, "group_id")?;
    check::instance(&request.instance_id, "instance_id")?;
    if !request.member_id.is_empty() {
        check::member(&request.member_id, "member_id")?;
    }
    if !request.cursor.is_empty() {
        return commit_cursor(node, caller, request).await;
    }
    check::offsets(&request.offsets, "offsets")?;
    let alone = request.offsets.len() == 1;
    request.cursor.clear();
    let answer = call::commit(node, caller, &group, request).await?;
    match answer.results.as_slice() {
        [only] if alone => match &only.error {
            Some(error) => Err(ApiError::from_proto(error)),
            None => Ok(answer),
        },
        _ => Ok(answer),
    }
}

async fn commit_cursor(
    node: &Node,
    caller: &Caller,
    request: v1::CommitOffsetsRequest,
) -> Result<v1::CommitOffsetsResponse, ApiError> {
    if !request.offsets.is_empty() {
        return Err(ApiError::invalid("offsets", "commit offsets, or a cursor, not both"));
    }
    let group = check::group(&request.group_id, "group_id")?;
    let cursor = cursor::Cursor::decode(&request.cursor, &request.group_id, &request.member_id)?;
    // In the order of topic and partition. All of it is written: what the cursor knows as committed may be another's by now, or
    // overtaken, and only the coordinator can say that it is durable.
    let mut results = Vec::new();
    let mut offsets = Vec::new();
    let image = node.metadata.snapshot();
    let mut places: Vec<_> = cursor
        .places
        .iter()
        .filter(|(_, place)| place.next >= 0)
        .filter_map(|(at, place)| Some((image.topic_by_id(at.topic)?.name.clone(), at, place)))
        .collect();
    places.sort_by(|a, b| (&a.0, a.1.partition).cmp(&(&b.0, b.1.partition)));
    for (topic, at, place) in places {
        let partition = at.partition.get();
        results.push(v1::CommitResult { topic: topic.to_string(), partition, error: None });
        offsets.push((results.len() - 1, place.to_commit(topic.as_str(), *at)));
    }
    for part in offsets.chunks(check::MAX_PARTITIONS) {
        let request = v1::CommitOffsetsRequest {
            group_id: request.group_id.clone(),
            member_id: request.member_id.clone(),
            member_epoch: cursor.epoch.0,
            instance_id: cursor.instance.clone(),
            offsets: part.iter().map(|(_, offset)| offset.clone()).collect(),
            ..Default::default()
        };
        let answer = call::commit(node, caller, &group, request).await?;
        for ((at, _), result) in part.iter().zip(answer.results) {
            results[*at].error = result.error;
        }
    }
    Ok(v1::CommitOffsetsResponse { results })
}

/// Serves FetchOffsets.
pub async fn fetch_offsets(
    node: &Node,
    caller: &Caller,
    mut request: v1::FetchOffsetsRequest,
) -> Result<v1::FetchOffsetsResponse, ApiError> {
    let group = check::group(&request.group_id, "group_id")?;
    if !request.member_id.is_empty() {
        check::member(&request.member_id, "member_id")?;
    }
    request.topics = check::topics(node, request.topics, "topics")?;
    call::fetch_offsets(node, caller, &group, request).await
}
