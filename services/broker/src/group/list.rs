//! Groups as operators see them: lists, descriptions, deletions.

use super::call::{self, Caller, is_elsewhere};
use super::check;
use super::exchange::unintelligible;
use super::lanes::Attempt;
use crate::forward::Patience;
use crate::node::Node;
use futures_util::stream::FuturesUnordered;
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::{CoordinatorId, ErrorCode};
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::group_call::Call;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::{ApiError, v1};

/// Groups of one call that are asked for at once.
const AT_ONCE: usize = 64;
/// States that a list may be asked for.
const MAX_STATES: usize = 16;

/// Serves ListGroups: every shard's, or none.
pub async fn list(
    node: &Node,
    caller: &Caller,
    request: v1::ListGroupsRequest,
) -> Result<v1::ListGroupsResponse, ApiError> {
    let known =
        |state: &i32| v1::GroupState::try_from(*state).is_ok_and(|s| s != v1::GroupState::Unspecified);
    if request.states.len() > MAX_STATES || !request.states.iter().all(known) {
        return Err(ApiError::invalid("states", "1 empty, 2 assigning, 3 reconciling, 4 stable"));
    }
    let until = caller.until();
    let mut patience = Patience::new(node, until);
    let mut open: Option<BTreeSet<i32>> = None;
    let mut groups = Vec::new();
    loop {
        patience.look();
        let mut failed = BTreeSet::new();
        let mut last = None;
        let (by_coordinator, homeless) = served(node, open.as_ref());
        let is_unknown = by_coordinator.is_empty() && homeless.is_empty() && open.is_none();
        failed.extend(homeless);
        let mut asked: FuturesUnordered<_> = by_coordinator
            .into_iter()
            .map(|(id, shards)| {
                let request = &request;
                async move {
                    let answer = shards_of(node, caller, id, &shards, request, until).await;
                    (shards, answer)
                }
            })
            .collect();
        while let Some((shards, answer)) = asked.next().await {
            match answer {
                Ok(found) => groups.extend(found),
                Err(error) if is_elsewhere(&error) => {
                    failed.extend(shards);
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if failed.is_empty() && !is_unknown {
            break;
        }
        if !patience.wait(node).await {
            let why = last.map_or_else(|| "no coordinator serves them".to_owned(), |error| error.message);
            let message = format!("{} shards of groups are not served at the moment: {why}", failed.len());
            return Err(ApiError::new(ErrorCode::CoordinatorNotAvailable, message));
        }
        open = Some(failed).filter(|_| !is_unknown);
    }
    groups.sort_by(|a: &v1::ListedGroup, b| a.group_id.cmp(&b.group_id));
    // A shard that moved in between may have been told of twice.
    groups.dedup_by(|a, b| a.group_id == b.group_id);
    Ok(v1::ListGroupsResponse { groups })
}

/// The shards of each coordinator, and those that nobody serves.
fn served(node: &Node, open: Option<&BTreeSet<i32>>) -> (BTreeMap<CoordinatorId, Vec<i32>>, Vec<i32>) {
    let image = node.metadata.image();
    let mut by_coordinator: BTreeMap<CoordinatorId, Vec<i32>> = BTreeMap::new();
    let mut homeless = Vec::new();
    let shards = image.leases().filter(|(at, _)| at.topic.as_str() == OFFSETS_TOPIC);
    let mut seen = 0;
    for (at, lease) in shards {
        seen += 1;
        let shard = at.partition.get();
        if open.is_some_and(|open| !open.contains(&shard)) {
            continue;
        }
        match lease.coordinator {
            Some(id) => by_coordinator.entry(id).or_default().push(shard),
            None => homeless.push(shard),
        }
    }
    // Partitions that were added a moment ago have no lease yet.
    let count = image.topic(OFFSETS_TOPIC).map_or(0, |topic| topic.partitions.len());
    if seen < count && open.is_none() {
        homeless.extend((seen..count).filter_map(|shard| i32::try_from(shard).ok()));
    }
    (by_coordinator, homeless)
}

async fn shards_of(
    node: &Node,
    caller: &Caller,
    id: CoordinatorId,
    shards: &[i32],
    request: &v1::ListGroupsRequest,
    until: tokio::time::Instant,
) -> Result<Vec<v1::ListedGroup>, ApiError> {
    let shards = shards.to_vec();
    let call = Call::ListGroups(internal::ListShardGroupsRequest { shards, request: Some(request.clone()) });
    let attempt = Attempt { shard: None, client_host: Arc::clone(&caller.host), until, call };
    match node.groups.lanes.ask(node, id, attempt).await {
        Ok(Reply::ListGroups(answer)) => Ok(answer.groups),
        Ok(_) => Err(unintelligible()),
        Err(failure) => Err(failure.into_error()),
    }
}

/// Serves DescribeGroups. Who asks for exactly one is refused with the status.
pub async fn describe(
    node: &Node,
    caller: &Caller,
    request: v1::DescribeGroupsRequest,
) -> Result<v1::DescribeGroupsResponse, ApiError> {
    let groups = each(&request.group_ids, |id| async move {
        let group = call::describe(node, caller, &check::group(&id, "group_ids")?).await?;
        Ok(v1::GroupResult { group_id: id, group: Some(group), error: None })
    });
    Ok(v1::DescribeGroupsResponse { groups: groups.await? })
}

/// Serves DeleteGroups. Who names exactly one is refused with the status.
pub async fn delete(
    node: &Node,
    caller: &Caller,
    request: v1::DeleteGroupsRequest,
) -> Result<v1::DeleteGroupsResponse, ApiError> {
    let results = each(&request.group_ids, |id| async move {
        call::delete(node, caller, &check::group(&id, "group_ids")?).await?;
        Ok(v1::GroupResult { group_id: id, group: None, error: None })
    });
    Ok(v1::DeleteGroupsResponse { results: results.await? })
}

/// Does the same to each group, several at once, and keeps their order.
async fn each<F>(ids: &[String], act: impl Fn(String) -> F) -> Result<Vec<v1::GroupResult>, ApiError>
where
    F: Future<Output = Result<v1::GroupResult, ApiError>>,
{
    if ids.is_empty() || ids.len() > check::MAX_GROUPS {
        return Err(ApiError::invalid("group_ids", format!("name 1 to {} groups", check::MAX_GROUPS)));
    }
    let alone = ids.len() == 1;
    // Collected first: a stream that borrows its closure is not general enough for a handler's future.
    let asked: Vec<_> = ids.iter().cloned().map(act).collect();
    let outcomes: Vec<_> = stream::iter(asked).buffered(AT_ONCE).collect().await;
    let result = |(id, outcome): (&String, Result<v1::GroupResult, ApiError>)| match outcome {
        Err(error) if !alone => {
            Ok(v1::GroupResult { group_id: id.clone(), group: None, error: Some(error.to_proto()) })
        }
        outcome => outcome,
    };
    ids.iter().zip(outcomes).map(result).collect()
}

/// Serves DeleteOffsets. Who names exactly one partition is refused with the status.
pub async fn delete_offsets(
    node: &Node,
    caller: &Caller,
    mut request: v1::DeleteOffsetsRequest,
) -> Result<v1::DeleteOffsetsResponse, ApiError> {
    let group = check::group(&request.group_id, "group_id")?;
    if request.topics.is_empty() {
        return Err(ApiError::invalid("topics", "name at least one topic"));
    }
    request.topics = check::topics(node, request.topics, "topics")?;
    let alone = matches!(request.topics.as_slice(), [topic] if topic.partitions.len() == 1);
    let answer = call::delete_offsets(node, caller, &group, request).await?;
    match answer.results.as_slice() {
        [only] if alone => match &only.error {
            Some(error) => Err(ApiError::from_proto(error)),
            None => Ok(answer),
        },
        _ => Ok(answer),
    }
}
