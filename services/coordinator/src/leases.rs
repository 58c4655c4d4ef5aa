//! Follows the metadata: one task for each shard that is leased to this process.

use crate::node::Node;
use crate::serving::{Door, Lease, serve};
use crate::shard::{ClusterTopics, Patterns};
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::metadata::{MetadataImage, ShardLease};
use thalweg_core::{CoordinatorEpoch, CoordinatorId, PartitionId, TopicPartition};
use thalweg_runtime::Shutdown;
use tokio::task::{JoinError, JoinSet};

/// A shard that has a task.
struct Held {
    lease: ShardLease,
    over: Shutdown,
}

/// Starts and ends the shards' tasks with each new image, until the shutdown. A task that panics ends the coordinator.
pub async fn follow_leases(node: Arc<Node>) -> Result<(), JoinError> {
    let (mut versions, mut epochs) = (node.metadata.watch(), node.membership.epoch.subscribe());
    let mut held: BTreeMap<PartitionId, Held> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let patterns = Patterns::default();
    let mut seen = None;
    loop {
        let epoch = *epochs.borrow_and_update();
        versions.mark_unchanged();
        let image = node.metadata.snapshot();
        if seen != Some(image.version()) {
            seen = Some(image.version());
            node.topics.send_replace(Arc::new(ClusterTopics::new(Arc::clone(&image), patterns.clone())));
        }
        follow(&node, &image, epoch, &mut held, &mut tasks);
        tokio::select! {
            Ok(()) = versions.changed() => {}
            Ok(()) = epochs.changed() => {}
            Some(ended) = tasks.join_next() => ended?,
            () = node.shutdown.triggered() => break,
        }
    }
    // Whoever waits is told where to go.
    held.values().for_each(|held| held.over.trigger());
    let all = async {
        while let Some(ended) = tasks.join_next().await {
            ended?;
        }
        Ok(())
    };
    let within = node.config.intervals.hand_over * 2;
    tokio::time::timeout(within, all).await.unwrap_or(Ok(()))
}

fn follow(
    node: &Arc<Node>,
    image: &MetadataImage,
    epoch: Option<CoordinatorEpoch>,
    held: &mut BTreeMap<PartitionId, Held>,
    tasks: &mut JoinSet<()>,
) {
    let leased = leased_to(image, node.config.node_id, epoch);
    held.retain(|shard, held| {
        let stays = leased.get(shard).is_some_and(|(_, lease)| *lease == held.lease);
        if !stays {
            node.shards.close(*shard, held.lease.epoch);
            held.over.trigger();
        }
        stays
    });
    for (shard, (at, lease)) in leased {
        if held.contains_key(&shard) {
            continue;
        }
        let (door, inbox) = Door::new(lease.epoch);
        node.shards.open(shard, door);
        let over = Shutdown::new();
        held.insert(shard, Held { lease, over: over.clone() });
        tasks.spawn(serve(Arc::clone(node), Lease { at, lease, inbox, over }));
    }
}

/// The shards that a process has. None when the image has another registration under its id: another process's, which may come
/// with other leases, or an own one that is not told yet.
fn leased_to(
    image: &MetadataImage,
    id: CoordinatorId,
    epoch: Option<CoordinatorEpoch>,
) -> BTreeMap<PartitionId, (TopicPartition, ShardLease)> {
    let registered = image.coordinator(id).map(|registered| registered.epoch);
    if registered.is_none() || registered != epoch {
        return BTreeMap::new();
    }
    let own = image
        .leases()
        .filter(|(at, lease)| at.topic.as_str() == OFFSETS_TOPIC && lease.coordinator == Some(id));
    own.map(|(at, lease)| (at.partition, (at.clone(), *lease))).collect()
}
