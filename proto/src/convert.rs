//! The domain's metadata as messages.

use crate::v1;
use thalweg_core::BrokerId;
use thalweg_core::metadata::TopicImage;

/// A topic in full.
pub fn topic(topic: &TopicImage) -> v1::Topic {
    let partition = |(index, partition): (
        thalweg_core::PartitionId,
        &std::sync::Arc<thalweg_core::metadata::PartitionImage>,
    )| {
        v1::Partition {
            partition: index.get(),
            leader_id: partition.leader.get(),
            leader_epoch: partition.leader_epoch.get(),
            partition_epoch: partition.partition_epoch.get(),
            replicas: ids(&partition.replicas),
            isr: ids(&partition.isr),
            eligible_leader_replicas: ids(&partition.elr),
            adding_replicas: ids(&partition.adding),
            removing_replicas: ids(&partition.removing),
        }
    };
    v1::Topic {
        name: topic.name.to_string(),
        topic_id: topic.id.to_string(),
        partitions: topic.partitions().map(partition).collect(),
        replication_factor: count(topic.replication_factor()),
        configs: (*topic.overrides).clone().into_iter().collect(),
        internal: topic.internal,
    }
}

fn ids(brokers: &[BrokerId]) -> Vec<i32> {
    brokers.iter().map(|id| id.get()).collect()
}

/// A topic in a list.
pub fn topic_listing(topic: &TopicImage) -> v1::TopicListing {
    v1::TopicListing {
        name: topic.name.to_string(),
        topic_id: topic.id.to_string(),
        partition_count: count(topic.partitions.len()),
        replication_factor: count(topic.replication_factor()),
        internal: topic.internal,
    }
}

/// Counts here are bounded far below `i32::MAX` by the metadata's limits.
fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
