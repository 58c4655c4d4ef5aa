//! The domain of Thalweg, and nothing else: ids, record batches, errors, topic configuration and the cluster's
//! metadata. Everything here is a value or a pure function. Time and randomness come in as arguments, so that
//! the same code runs in a service, in a test and in a deterministic simulation.
#![forbid(unsafe_code)]

pub mod batch;
pub mod compression;
pub mod config;
pub mod error;
pub mod group;
pub mod ids;
pub mod metadata;
pub mod partitioner;
pub mod planted;
pub mod replication;
pub mod time;

pub use error::{ErrorCode, Retriable};
pub use ids::{
    BrokerEpoch, BrokerId, ClusterId, CoordinatorEpoch, CoordinatorId, LeaderEpoch, LeaseEpoch,
    MetadataVersion, NodeId, Offset, PartitionEpoch, PartitionId, ProducerEpoch, ProducerId, Sequence,
    TopicId, TopicName, TopicNameError, TopicPartition,
};
pub use time::{Clock, Timestamp};
