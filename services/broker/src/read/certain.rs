//! When a reader is told that its offset lies beyond the end of the log.
//!
//! It resets its place then, and reads records twice or passes some over. So it must be true, and a leader that was cut off from
//! the controllers, and does not know that another leads since, has a shorter log than its readers may have seen. Kafka's
//! consumers find that out by the leader epoch of what they read last (KIP-320), as far as they know and say it; a plain client
//! does not, and a committed offset need not have one. So the broker makes sure: it asks the controllers how far the metadata is,
//! *after* it found the offset beyond its end, waits for its own to be as far, and only if it leads there in the same epoch was it
//! the leader when it looked, and the answer is true: epochs only rise, so nobody else led in between. Otherwise the reader asks
//! again, and finds the one who leads.
//!
//! Below the beginning nothing has to be asked: a log's beginning only rises, so one that is behind tells a lower one.

use crate::node::Node;
use crate::replicas::Partition;
use std::time::Duration;
use thalweg_core::{ErrorCode, LeaderEpoch};
use thalweg_proto::{ApiError, Detail};
use tokio::time::Instant;

/// For the metadata to come here that the controllers have.
const METADATA_WITHIN: Duration = Duration::from_millis(500);

/// Whether a refusal says that the offset is beyond the end.
pub fn is_beyond_end(error: &ApiError) -> bool {
    let detail = error.detail.as_ref();
    matches!(detail, Some(Detail::OffsetRange { requested, high_watermark, .. }) if requested > high_watermark)
}

/// What a reader is told of a read that was refused while this broker led the partition in `epoch`, as it thought. Within two
/// seconds, whatever the controllers do.
pub async fn certain(node: &Node, partition: &Partition, epoch: LeaderEpoch, error: ApiError) -> ApiError {
    if !is_beyond_end(&error) {
        return error;
    }
    let at = partition.topic_partition();
    let confirmed = match node.controller.current_version().await {
        Ok(Some(version)) => {
            let mut versions = node.metadata.watch();
            let here = versions.wait_for(|here| *here >= version);
            matches!(tokio::time::timeout(METADATA_WITHIN, here).await, Ok(Ok(_)))
        }
        // Controllers from before this question, as in the middle of an upgrade. Heartbeats that are answered say less, but without
        // them no reader whose offset is beyond the end would ever be told.
        Ok(None) => node.controller.is_confirmed(),
        Err(error) => {
            tracing::debug!(partition = %at, %error, "leadership not confirmed");
            false
        }
    };
    if confirmed {
        let image = node.metadata.image();
        let state = image.topic(at.topic.as_str()).and_then(|topic| topic.partition(at.partition));
        let leads =
            state.is_some_and(|state| state.leader == node.config.node_id && state.leader_epoch == epoch);
        if leads && partition.leading().is_some_and(|role| role.leader_epoch == epoch) {
            return error;
        }
        if state.is_none_or(|state| state.leader != node.config.node_id) {
            return node.not_led_here(at.topic.as_str(), at.partition.get());
        }
    }
    unconfirmed(partition)
}

/// The same, for a caller who waits until `deadline` only.
pub async fn certain_by(
    node: &Node,
    partition: &Partition,
    epoch: LeaderEpoch,
    error: ApiError,
    deadline: Option<Instant>,
) -> ApiError {
    let certain = certain(node, partition, epoch, error);
    match deadline {
        Some(deadline) => {
            tokio::time::timeout_at(deadline, certain).await.unwrap_or_else(|_| unconfirmed(partition))
        }
        None => certain.await,
    }
}

fn unconfirmed(partition: &Partition) -> ApiError {
    let at = partition.topic_partition();
    let message = format!(
        "the offset is beyond the end of {at} here, but the controllers do not confirm that this broker still leads it; retry"
    );
    ApiError::new(ErrorCode::OffsetNotAvailable, message)
}
