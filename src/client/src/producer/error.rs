//! Why a record was not taken, and why a taken one was not delivered.

use crate::ClientError;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{ErrorCode, PartitionId, TopicName};
use thalweg_proto::ApiError;

/// Why a record was not taken. Nothing of it was sent.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The buffer is full: brokers answer more slowly than records come.
    #[error(
        "the producer's buffer of {buffer_memory} bytes is full (waited {waited:?}); send more slowly or raise buffer_memory"
    )]
    BufferFull {
        /// Its size.
        buffer_memory: usize,
        /// How long the call waited.
        waited: Duration,
    },
    /// `try_send` does not wait for metadata; `send` does.
    #[error("the metadata of topic {topic} is not there yet; use send, or call prepare first")]
    MetadataNotReady {
        /// The topic.
        topic: String,
    },
    /// The topic's metadata could not be fetched.
    #[error("the metadata of topic {topic} could not be fetched: {source}")]
    Metadata {
        /// The topic.
        topic: String,
        /// Why.
        source: Box<ClientError>,
    },
    /// The record names a partition that the topic does not have.
    #[error("topic {topic} has no partition {partition}; it has {partitions}")]
    UnknownPartition {
        /// The topic.
        topic: String,
        /// What was asked for.
        partition: i32,
        /// How many there are.
        partitions: usize,
    },
    /// The record is larger than the producer's own limit.
    #[error(
        "the record has {size} bytes in its batch, more than the {limit} that are allowed (max_request_size)"
    )]
    RecordTooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The producer was closed, or its sender ended.
    #[error("the producer is closed")]
    Closed,
}

impl SendError {
    /// The code that fits, where one does.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            SendError::Metadata { source, .. } => source.code(),
            SendError::UnknownPartition { .. } => Some(ErrorCode::UnknownPartition),
            SendError::RecordTooLarge { .. } => Some(ErrorCode::MessageTooLarge),
            SendError::BufferFull { .. } | SendError::MetadataNotReady { .. } | SendError::Closed => None,
        }
    }

    /// Whether the same record may be taken later.
    pub fn retriable(&self) -> bool {
        match self {
            SendError::BufferFull { .. } | SendError::MetadataNotReady { .. } => true,
            SendError::Metadata { source, .. } => source.retriable(),
            SendError::UnknownPartition { .. } | SendError::RecordTooLarge { .. } | SendError::Closed => {
                false
            }
        }
    }
}

/// Why a record that was taken was not delivered.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The leader refused the record's batch for good.
    #[error("{0}")]
    Refused(Arc<ApiError>),
    /// No answer within `delivery_timeout`. The record may have been written or not.
    #[error("not delivered within {after:?}; {last}")]
    TimedOut {
        /// How long it was tried.
        after: Duration,
        /// The last failure, as a sentence.
        last: Arc<str>,
        /// The broker's last code, if a broker answered.
        code: Option<ErrorCode>,
    },
    /// The topic was deleted and created again with fewer partitions. The record may have been written to the old one.
    #[error(
        "topic {topic} was deleted and created again with {partitions} partitions; partition {partition} is gone, and \
         the record with it"
    )]
    TopicRecreated {
        /// The topic.
        topic: TopicName,
        /// The record's partition.
        partition: PartitionId,
        /// How many there are now.
        partitions: usize,
    },
    /// The producer's sender ended with the record still in it. The record may have been written or not.
    #[error("the producer's sender ended before the record was delivered")]
    SenderGone,
}

impl DeliveryError {
    /// The broker's code, if a broker answered.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            DeliveryError::Refused(error) => Some(error.code),
            DeliveryError::TimedOut { code, .. } => *code,
            DeliveryError::TopicRecreated { .. } => Some(ErrorCode::UnknownPartition),
            DeliveryError::SenderGone => None,
        }
    }

    /// Whether the record may be sent again. After [`TimedOut`](Self::TimedOut) that can write it twice.
    pub fn retriable(&self) -> bool {
        match self {
            DeliveryError::Refused(error) => error.retriable() != thalweg_core::Retriable::No,
            DeliveryError::TimedOut { .. } | DeliveryError::SenderGone => true,
            DeliveryError::TopicRecreated { .. } => false,
        }
    }
}
