//! What partitions this broker holds, by name: a value that lookups share and that is swapped as a whole.

use super::partition::Partition;
use std::collections::HashMap;
use std::sync::Arc;
use thalweg_core::metadata::TopicImage;
use thalweg_core::{PartitionId, TopicName};
use thalweg_proto::ApiError;

pub(super) type Table = HashMap<TopicName, Arc<TopicReplicas>>;

/// One topic's partitions on this broker.
#[derive(Debug, Clone)]
pub(super) struct TopicReplicas {
    /// What the metadata said when the partitions were brought in line with it.
    pub image: Arc<TopicImage>,
    /// By index; `None` where other brokers have it.
    pub partitions: Vec<Option<Replica>>,
}

/// One partition.
#[derive(Debug, Clone)]
pub(super) enum Replica {
    Serving(Arc<Partition>),
    Failed(ApiError),
    /// Its log is being created or opened.
    Opening,
}

impl TopicReplicas {
    pub fn get(&self, partition: PartitionId) -> Option<&Replica> {
        self.partitions.get(usize::try_from(partition.get()).ok()?)?.as_ref()
    }

    /// The partitions that are served.
    pub fn serving(&self) -> impl Iterator<Item = &Arc<Partition>> {
        self.partitions.iter().flatten().filter_map(|replica| match replica {
            Replica::Serving(partition) => Some(partition),
            Replica::Failed(_) | Replica::Opening => None,
        })
    }

    /// Whether a log could not be opened.
    pub fn has_failed(&self) -> bool {
        self.partitions.iter().any(|replica| matches!(replica, Some(Replica::Failed(_))))
    }
}
