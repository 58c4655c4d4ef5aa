//! A new lease for one shard, where its memory and its log may differ and the log cannot tell how.
//!
//! What is under way under the old lease could still be written, so the shard must not be written to again under the same producer
//! epoch. A new lease has the next one: its marker shuts out all that was sent before, and the log is read up to there.

use crate::node::Node;
use std::time::Duration;
use thalweg_client::controllers::{Controllers, Repeat, timed};
use thalweg_core::metadata::ShardLease;
use thalweg_core::{ErrorCode, Retriable, TopicPartition};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_runtime::Shutdown;
use tokio::time::Instant;

/// Between two leases of one shard at least: whatever is wrong with it does not go away by that.
const BETWEEN_LEASES: Duration = Duration::from_secs(2);

/// Asks for the lease until there is another. `over` is triggered when there is, or somebody else has the shard; `born` is when
/// the present one began.
pub(super) async fn renew(
    node: &Node,
    at: &TopicPartition,
    lease: &ShardLease,
    over: &Shutdown,
    born: Instant,
) {
    let asking = async {
        tokio::time::sleep_until(born + BETWEEN_LEASES).await;
        let mut pause = node.config.intervals.retry_first;
        loop {
            match ask(node, at, lease).await {
                Ok(()) => return,
                // The controllers are of a version, or at a feature level, without this: all shards of this process are
                // loaded again, as it was before.
                Err(error)
                    if matches!(
                        error.code,
                        ErrorCode::IncompatibleFeatureLevel
                            | ErrorCode::Unsupported
                            | ErrorCode::InvalidRequest
                    ) =>
                {
                    tracing::warn!(shard = %at, %error, "the lease of one shard cannot be renewed; beginning anew with all");
                    return node.membership.begin_anew();
                }
                // Another lease is there already, or will be: this process was fenced, or another has the shard.
                Err(error) if error.retriable() == Retriable::No => {
                    tracing::info!(shard = %at, %error, "the lease is over");
                    return;
                }
                Err(error) => tracing::debug!(shard = %at, %error, "lease not renewed yet; trying again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(node.config.intervals.retry_most);
        }
    };
    tokio::select! {
        () = asking => {}
        () = over.triggered() => {}
    }
}

async fn ask(node: &Node, at: &TopicPartition, lease: &ShardLease) -> Result<(), ApiError> {
    let epoch = *node.membership.epoch.borrow();
    let request = internal::RenewShardLeaseRequest {
        coordinator_id: node.config.node_id.get(),
        coordinator_epoch: epoch.map_or(-1, |epoch| epoch.get()),
        topic: at.topic.to_string(),
        partition: at.partition.get(),
        lease_epoch: lease.epoch.get(),
    };
    let within = node.controllers.timing().call;
    // A second attempt finds the lease renewed, and is refused for it.
    let call = node.controllers.call(Repeat::Safe, within, |target| {
        let mut client = Controllers::client(&target.channel);
        let request = timed(request.clone(), within);
        async move { client.renew_shard_lease(request).await.map(drop) }
    });
    call.await
}
