//! Reassignments under way: what the metadata says of them, and how far their leaders say that they are.

use crate::describe::MAX_NAMES;
use crate::node::Node;
use crate::replicas::{Lookup, Partition};
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::metadata::{MetadataImage, PartitionImage, TopicImage};
use thalweg_core::{BrokerId, PartitionId};
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// Partitions in one answer.
const MAX_REASSIGNMENTS: usize = 10_000;
/// For a leader to tell its progress: without it the answer is still useful.
const PROGRESS_WITHIN: Duration = Duration::from_secs(1);
/// Leaders that are asked at once.
const LEADERS_AT_ONCE: usize = 32;

type Key = (String, i32);

/// Those of the named topics, or of all, with the progress that leaders tell in time.
pub async fn all(
    node: Arc<Node>,
    topics: &[String],
    until: Instant,
) -> Result<v1::ListReassignmentsResponse, ApiError> {
    let (mut listed, leaders) = {
        let image = node.metadata.image();
        let under_way = under_way(&image, topics)?;
        let leaders: BTreeSet<BrokerId> = under_way.iter().map(|(_, _, state)| state.leader).collect();
        let listed: BTreeMap<Key, v1::Reassignment> =
            under_way.iter().map(|found| (key(found), described(found))).collect();
        (listed, leaders)
    };
    let until = until.min(Instant::now() + PROGRESS_WITHIN);
    let asked = leaders.into_iter().filter(|leader| *leader != BrokerId::NONE).map(|leader| {
        let (node, topics) = (Arc::clone(&node), topics.to_vec());
        async move { (leader, progress(&node, leader, topics, until).await) }
    });
    let mut answers = stream::iter(asked).buffer_unordered(LEADERS_AT_ONCE);
    while let Some((leader, answer)) = answers.next().await {
        match answer {
            Ok(answer) => {
                for told in answer.reassignments {
                    // The leader's list may be newer than this one: only what both know of counts.
                    if let Some(listed) = listed.get_mut(&(told.topic, told.partition)) {
                        (listed.log_bytes, listed.lag) = (told.log_bytes, told.lag);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%leader, %error, "a leader did not tell its reassignments' progress")
            }
        }
    }
    Ok(v1::ListReassignmentsResponse { reassignments: listed.into_values().collect() })
}

async fn progress(
    node: &Node,
    leader: BrokerId,
    topics: Vec<String>,
    until: Instant,
) -> Result<v1::ListReassignmentsResponse, ApiError> {
    if leader == node.config.node_id {
        return led_here(node, &topics);
    }
    let request = v1::ListReassignmentsRequest { topics };
    let call =
        |channel, request| async move { AdminServiceClient::new(channel).list_reassignments(request).await };
    node.peers.call(node, leader, until, request, call).await.map_err(|failure| failure.into_error())
}

/// Those whose leader is this broker, with their progress.
pub fn led_here(node: &Node, topics: &[String]) -> Result<v1::ListReassignmentsResponse, ApiError> {
    let image = node.metadata.image();
    let under_way = under_way(&image, topics)?;
    let reassignments = under_way.iter().filter_map(|found| {
        let (topic, index, state) = found;
        match node.replicas.find(topic.name.as_str(), *index) {
            Lookup::Here(partition) if partition.leading().is_some() => {
                let mut told = described(found);
                told.log_bytes = Some(partition.log().size_bytes());
                told.lag = Some(lag(&partition, &state.adding));
                Some(told)
            }
            _ => None,
        }
    });
    Ok(v1::ListReassignmentsResponse { reassignments: reassignments.collect() })
}

/// Records that the slowest of `adding` lacks; all there are while one of them was not heard of.
fn lag(partition: &Partition, adding: &[BrokerId]) -> u64 {
    let log = partition.log();
    let (start, end) = (log.log_start_offset(), log.log_end_offset());
    let slowest = adding
        .iter()
        .map(|id| partition.follower_progress(*id).map_or(start, |progress| progress.log_end))
        .min()
        .unwrap_or(end);
    u64::try_from(end.get().saturating_sub(slowest.get())).unwrap_or(0)
}

type Found<'a> = (&'a TopicImage, PartitionId, &'a PartitionImage);

/// By topic and partition.
fn under_way<'a>(image: &'a MetadataImage, topics: &[String]) -> Result<Vec<Found<'a>>, ApiError> {
    if topics.len() > MAX_NAMES {
        return Err(ApiError::invalid("topics", format!("name at most {MAX_NAMES} topics")));
    }
    let names: BTreeSet<&str> = topics.iter().map(String::as_str).collect();
    let wanted = image.topics().filter(|topic| names.is_empty() || names.contains(topic.name.as_str()));
    let partitions = wanted.flat_map(|topic| {
        topic.partitions().map(move |(index, state)| -> Found<'a> { (topic, index, state) })
    });
    let moving = partitions.filter(|(_, _, state)| !state.adding.is_empty() || !state.removing.is_empty());
    Ok(moving.take(MAX_REASSIGNMENTS).collect())
}

fn key((topic, index, _): &Found<'_>) -> Key {
    (topic.name.to_string(), index.get())
}

fn described((topic, index, state): &Found<'_>) -> v1::Reassignment {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|id| id.get()).collect();
    v1::Reassignment {
        topic: topic.name.to_string(),
        partition: index.get(),
        replicas: ids(&state.replicas),
        adding_replicas: ids(&state.adding),
        removing_replicas: ids(&state.removing),
        log_bytes: None,
        lag: None,
    }
}
