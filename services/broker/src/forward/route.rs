//! Who is to serve a partition, by this broker's metadata.

use crate::node::Node;
use crate::replicas::Lookup;
use thalweg_core::{BrokerId, ErrorCode, PartitionId};
use thalweg_proto::ApiError;

/// Who is to serve a partition.
#[derive(Debug)]
pub enum Route {
    /// This broker.
    Here,
    /// That one.
    There(BrokerId),
    /// Nobody at the moment; that may change.
    Nobody(ApiError),
    /// Nobody ever: there is no such partition.
    Refused(ApiError),
}

/// Finds the leader of a partition.
pub fn route(node: &Node, topic: &str, partition: i32) -> Route {
    let leader = {
        let image = node.metadata.image();
        let found = image.topic(topic).and_then(|topic| topic.partition(PartitionId(partition)).cloned());
        found.map(|partition| partition.leader)
    };
    match leader {
        Some(leader) if leader != BrokerId::NONE && leader != node.config.node_id => Route::There(leader),
        Some(leader) if leader == node.config.node_id => {
            match node.replicas.find(topic, PartitionId(partition)) {
                Lookup::Here(replica) if replica.leading().is_some() => Route::Here,
                Lookup::Failed(error) => Route::Refused(error),
                // The image is here before the partitions follow it.
                _ => Route::Nobody(node.not_led_here(topic, partition)),
            }
        }
        _ => match node.not_led_here(topic, partition) {
            error if error.code == ErrorCode::LeaderNotAvailable => Route::Nobody(error),
            error => Route::Refused(error),
        },
    }
}

/// Whether this broker leads every partition of a topic. `false` for one that does not exist.
pub fn leads_all(node: &Node, topic: &str) -> bool {
    let Some(count) = node.metadata.partition_count(topic) else { return false };
    (0..count).all(|partition| {
        matches!(
            node.replicas.find(topic, PartitionId(partition as i32)),
            Lookup::Here(replica) if replica.leading().is_some()
        )
    })
}
