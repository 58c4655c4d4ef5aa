//! Who may write to the internal topics: the coordinator that holds the partition's lease, and nobody else.
//!
//! The lease's epoch comes with the call, on the internal port. It keeps out a former owner from the moment in which this broker
//! hears of the next one; what that one writes first closes the log itself to the former owner, on every broker.

use crate::node::Node;
use thalweg_core::metadata::shards::is_reserved;
use thalweg_core::{ErrorCode, LeaseEpoch, PartitionId, TopicPartition};
use thalweg_proto::{ApiError, LEASE_EPOCH_HEADER};

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
        match image.lease(&at) {
            Some(lease) if epoch < lease.epoch => {
                let message =
                    format!("lease {epoch} of {topic}-{partition} is over, it is at {} now", lease.epoch);
                Err(ApiError::new(ErrorCode::StaleCoordinatorEpoch, message))
            }
            // One that is newer than what this broker has heard of is good.
            _ => Ok(()),
        }
    }
}
