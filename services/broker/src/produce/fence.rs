//! Who may write to the internal topics: the coordinator that holds the partition's lease, and nobody else.
//!
//! The lease's epoch comes with the call, on the internal port. It keeps out a former owner from the moment in which this broker
//! hears of the next one, be it by the metadata or by that one's first write; what that one writes first closes the log itself to
//! the former owner, on every broker, unless the partition's producer epochs were used up and it came with another producer id.

use crate::node::Node;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use thalweg_core::metadata::shards::is_reserved;
use thalweg_core::planted::{Bug, planted};
use thalweg_core::{ErrorCode, LeaseEpoch, PartitionId, TopicId, TopicPartition};
use thalweg_proto::{ApiError, LEASE_EPOCH_HEADER};

/// The newest lease that a write came with, for each partition: the metadata may be behind. As many as there are partitions of
/// internal topics.
#[derive(Debug, Default)]
pub struct SeenLeases(Mutex<BTreeMap<(TopicId, PartitionId), LeaseEpoch>>);

impl SeenLeases {
    /// The newest lease of a partition, after a write with `epoch` came to a broker whose metadata knows `known`.
    fn newest(&self, at: (TopicId, PartitionId), epoch: LeaseEpoch, known: LeaseEpoch) -> LeaseEpoch {
        // Whole at every step.
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = seen.entry(at).or_insert(known);
        *newest = (*newest).max(epoch).max(known);
        *newest
    }
}

/// Who a request comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writer {
    /// A client, or a broker for its client.
    Client,
    /// A coordinator, with a lease of this epoch.
    Coordinator(LeaseEpoch),
}

impl Writer {
    /// Reads the header of a call on the internal port. What is no number is no lease.
    pub fn of(headers: &http::HeaderMap) -> Writer {
        let epoch = headers.get(LEASE_EPOCH_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
        epoch.map_or(Writer::Client, |epoch| Writer::Coordinator(LeaseEpoch(epoch)))
    }

    /// Whether this writer may write there. Any text may be given as the topic.
    ///
    /// Errors: `POLICY_VIOLATION`; `STALE_COORDINATOR_EPOCH` when the partition was leased to another meanwhile.
    pub fn check(self, node: &Node, topic: &str, partition: Option<i32>) -> Result<(), ApiError> {
        // All others cost no look at the metadata.
        if !is_reserved(topic) {
            return Ok(());
        }
        let image = node.metadata.image();
        let Some(found) = image.topic(topic).filter(|topic| topic.internal) else { return Ok(()) };
        let (Writer::Coordinator(epoch), Some(partition)) = (self, partition) else {
            let message =
                format!("topic \"{topic}\" belongs to the cluster itself; only coordinators write to it");
            return Err(ApiError::new(ErrorCode::PolicyViolation, message).with_field("topic"));
        };
        let at = TopicPartition { topic: found.name.clone(), partition: PartitionId(partition) };
        // Without a lease there is no such partition, which is for others to say.
        let Some(lease) = image.lease(&at) else { return Ok(()) };
        // One that is newer than what this broker has heard of is good.
        let newest = node.leases.newest((found.id, at.partition), epoch, lease.epoch);
        if epoch < newest && !planted(Bug::UnfencedOwner) {
            let message = format!("lease {epoch} of {topic}-{partition} is over, it is at {newest} now");
            return Err(ApiError::new(ErrorCode::StaleCoordinatorEpoch, message));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_lease_shuts_out_the_older_before_the_metadata_tells_of_it() {
        let seen = SeenLeases::default();
        let at = |n| (TopicId([1; 16]), PartitionId(n));
        let known = LeaseEpoch(5);
        assert_eq!(seen.newest(at(0), LeaseEpoch(5), known), LeaseEpoch(5));
        assert_eq!(seen.newest(at(0), LeaseEpoch(6), known), LeaseEpoch(6), "its write");
        assert_eq!(seen.newest(at(0), LeaseEpoch(5), known), LeaseEpoch(6), "the former owner's write");
        assert_eq!(seen.newest(at(1), LeaseEpoch(5), known), LeaseEpoch(5), "another partition");
        assert_eq!(
            seen.newest(at(0), LeaseEpoch(6), LeaseEpoch(8)),
            LeaseEpoch(8),
            "the metadata went ahead"
        );
    }
}
