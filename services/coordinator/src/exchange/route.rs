//! Which shard a call is for.

use super::lane::{Answer, Lane};
use crate::lag;
use crate::node::Node;
use crate::serving::{Call, Message};
use crate::shard::ShardCall;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::{GroupId, OFFSETS_TOPIC, shard_of};
use thalweg_core::{ErrorCode, PartitionId, TopicName, TopicPartition};
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::group_call::Call as Asked;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::{ApiError, v1};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// How much earlier than the broker the coordinator gives up, so that its own word arrives: a part of the time, bounded.
const EARLIER: u32 = 10;
const EARLIER_MOST: Duration = Duration::from_millis(50);

/// Sends the calls of one message to their shards, those of a shard together.
pub fn dispatch(
    node: &Arc<Node>,
    lane: &Arc<Lane>,
    calls: impl Iterator<Item = (internal::GroupCall, OwnedSemaphorePermit)>,
) {
    let shards = Node::shard_count(&node.metadata.image());
    let mut gathered: BTreeMap<PartitionId, Vec<Call>> = BTreeMap::new();
    let mut cancelled: BTreeMap<PartitionId, Vec<_>> = BTreeMap::new();
    for (call, charge) in calls {
        let internal::GroupCall { id, client_host, within_ms, call } = call;
        if let Some(Asked::Cancel(_)) = call {
            if let Some((shard, call)) = lane.find(id) {
                cancelled.entry(shard).or_default().push(call);
            }
            continue;
        }
        let answer = Answer::to_stream(Arc::clone(lane), id, charge);
        let until = (within_ms > 0).then(|| {
            let within = Duration::from_millis(within_ms.into());
            Instant::now() + within - (within / EARLIER).min(EARLIER_MOST)
        });
        let what = match understood(call, client_host) {
            Ok(what) => what,
            Err(error) => {
                answer.give(Err(error));
                continue;
            }
        };
        match what {
            Understood::OfGroup(group, what) => {
                let shard = shard_of(&group, shards);
                let call = node.next_call();
                lane.sent(id, shard, call);
                let answer = match &what {
                    ShardCall::DescribeGroup(_) => described(node, answer),
                    _ => answer,
                };
                gathered.entry(shard).or_default().push(Call { id: call, what, answer, until });
            }
            Understood::OfShards(wanted, _) if wanted.len() > usize::try_from(shards).unwrap_or(0) => {
                answer.give(Err(ApiError::invalid("shards", format!("there are {shards} shards"))));
            }
            Understood::OfShards(wanted, request) => {
                // A cancellation of it finds nothing.
                lane.sent(id, wanted.first().copied().unwrap_or_default(), node.next_call());
                list(node, &wanted, &request, until, answer);
            }
        }
    }
    for (shard, calls) in gathered {
        send(node, shard, calls);
    }
    // Behind the calls: one may have come in the same message.
    for (shard, calls) in cancelled {
        let _ = node.shards.send(shard, Message::Cancel(calls));
    }
}

fn send(node: &Node, shard: PartitionId, calls: Vec<Call>) {
    if let Err(Message::Calls(calls)) = node.shards.send(shard, Message::Calls(calls)) {
        let error = elsewhere(node, shard);
        calls.into_iter().for_each(|call| call.answer.give(Err(error.clone())));
    }
}

fn elsewhere(node: &Node, shard: PartitionId) -> ApiError {
    match TopicName::new(OFFSETS_TOPIC) {
        Ok(topic) => crate::serving::not_here(node, &TopicPartition::new(topic, shard)),
        Err(_) => ApiError::new(ErrorCode::NotCoordinator, "the shard is not served here"),
    }
}

#[allow(clippy::large_enum_variant, reason = "nearly every call is of the large kind, and goes on at once")]
enum Understood {
    OfGroup(GroupId, ShardCall),
    OfShards(Vec<PartitionId>, v1::ListGroupsRequest),
}

/// Errors: `INVALID_REQUEST`, `UNSUPPORTED`.
fn understood(call: Option<Asked>, client_host: String) -> Result<Understood, ApiError> {
    let group =
        |id: &str, field: &str| GroupId::new(id).map_err(|error| ApiError::invalid(field, error.to_string()));
    let single = |ids: &[String]| match ids {
        [id] => group(id, "group_ids"),
        _ => Err(ApiError::invalid("group_ids", "name exactly one group")),
    };
    let Some(call) = call else {
        let message = "the call is not known; the coordinator may be older than the broker";
        return Err(ApiError::new(ErrorCode::Unsupported, message));
    };
    let (group, what) = match call {
        Asked::Heartbeat(request) => {
            let group = group(&request.group_id, "group_id")?;
            (group, ShardCall::Heartbeat { request, host: client_host.into() })
        }
        Asked::CommitOffsets(request) => {
            (group(&request.group_id, "group_id")?, ShardCall::CommitOffsets(request))
        }
        Asked::FetchOffsets(request) => {
            (group(&request.group_id, "group_id")?, ShardCall::FetchOffsets(request))
        }
        Asked::DescribeGroup(request) => (single(&request.group_ids)?, ShardCall::DescribeGroup(request)),
        Asked::DeleteGroup(request) => (single(&request.group_ids)?, ShardCall::DeleteGroup(request)),
        Asked::DeleteOffsets(request) => {
            (group(&request.group_id, "group_id")?, ShardCall::DeleteOffsets(request))
        }
        Asked::ListGroups(request) => {
            let shards = request.shards.into_iter().map(PartitionId).collect();
            return Ok(Understood::OfShards(shards, request.request.unwrap_or_default()));
        }
        // Taken out before.
        Asked::Cancel(_) => return Err(ApiError::invalid("call", "a cancellation is not answered")),
    };
    Ok(Understood::OfGroup(group, what))
}

/// An answer that is completed on its way: the coordinator, log ends and lag.
fn described(node: &Arc<Node>, answer: Answer) -> Answer {
    let (here, told) = Answer::here();
    let node = Arc::clone(node);
    tokio::spawn(async move {
        let Ok(told) = told.await else { return };
        let told = match told {
            Ok(Reply::DescribeGroup(mut response)) => {
                for group in response.groups.iter_mut().filter_map(|result| result.group.as_mut()) {
                    group.coordinator_id = node.config.node_id.get();
                    group.coordinator_endpoint = node.endpoint.clone();
                    lag::complete(&node.lag, group).await;
                }
                Ok(Reply::DescribeGroup(response))
            }
            told => told,
        };
        answer.give(told);
    });
    here
}

/// Asks each shard, and answers when all have. One that is not here makes it fail.
fn list(
    node: &Arc<Node>,
    shards: &[PartitionId],
    request: &v1::ListGroupsRequest,
    until: Option<Instant>,
    answer: Answer,
) {
    let mut waited = Vec::with_capacity(shards.len());
    for shard in shards {
        let (answer, told) = Answer::here();
        let what = ShardCall::ListGroups(request.clone());
        send(node, *shard, vec![Call { id: node.next_call(), what, answer, until }]);
        waited.push(told);
    }
    tokio::spawn(async move {
        let mut groups = Vec::new();
        for told in waited {
            match told.await {
                Ok(Ok(Reply::ListGroups(response))) => groups.extend(response.groups),
                Ok(Ok(_)) => return answer.give(Err(ApiError::new(ErrorCode::Internal, "another answer"))),
                Ok(Err(error)) => return answer.give(Err(error)),
                // The answer's own drop says why.
                Err(_) => return,
            }
        }
        groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        answer.give(Ok(Reply::ListGroups(v1::ListGroupsResponse { groups })));
    });
}
