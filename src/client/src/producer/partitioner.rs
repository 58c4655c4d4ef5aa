//! Which partition a record goes to.

use std::sync::Arc;
use thalweg_core::PartitionId;

/// Chooses the partition of records that name none (`partitioner.class`).
#[derive(Clone, Default)]
pub enum Partitioner {
    /// By `murmur2(key) mod partitions`, as Kafka; records without key stay on one partition until it got `batch_size`
    /// bytes, then move to another at random (KIP-794), avoiding those without leader.
    #[default]
    Default,
    /// One partition after the other, whatever the key.
    RoundRobin,
    /// The program's own choice.
    Custom(Arc<dyn PartitionerFn>),
}

/// A program's own partitioner.
pub trait PartitionerFn: Send + Sync + 'static {
    /// The partition of a record, below `partitions`; what lies above is taken modulo. `partitions` is at least 1.
    fn partition(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        partitions: u32,
    ) -> PartitionId;
}

impl<F> PartitionerFn for F
where
    F: Fn(&str, Option<&[u8]>, Option<&[u8]>, u32) -> PartitionId + Send + Sync + 'static,
{
    fn partition(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        partitions: u32,
    ) -> PartitionId {
        self(topic, key, value, partitions)
    }
}
