//! Why a partition cannot be read.

use super::assignments::Key;
use crate::ClientError;
use thalweg_core::batch::BatchError;
use thalweg_core::{ErrorCode, Offset, PartitionId, TopicName};
use thalweg_proto::ApiError;

/// Why a partition cannot be read on. The others of the reader can.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The offset is outside the log, and `offset_reset` is none.
    #[error(
        "offset {requested} of {topic}-{partition} is out of range: {log_start} to {high_watermark} can be read; ask for \
         one of those"
    )]
    OffsetOutOfRange {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The offset that was asked for.
        requested: Offset,
        /// The first offset that is still there.
        log_start: Offset,
        /// The offset that the next committed record will get.
        high_watermark: Offset,
    },
    /// The leader refused the partition for good.
    #[error("{topic}-{partition} cannot be read: {source}")]
    Refused {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// Why.
        source: Box<ApiError>,
    },
    /// What the leader sent is damaged. Nothing of it is given.
    #[error("what was read of {topic}-{partition} from offset {offset} on is damaged: {source}")]
    Corrupt {
        /// The topic.
        topic: TopicName,
        /// The partition.
        partition: PartitionId,
        /// The offset that was asked for.
        offset: Offset,
        /// What is wrong.
        source: BatchError,
    },
    /// The cluster could not be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl ReadError {
    pub(super) fn out_of_range(key: &Key, requested: Offset, range: (Offset, Offset)) -> ReadError {
        let (log_start, high_watermark) = range;
        ReadError::OffsetOutOfRange {
            topic: key.0.clone(),
            partition: key.1,
            requested,
            log_start,
            high_watermark,
        }
    }

    pub(super) fn refused(key: &Key, error: ApiError) -> ReadError {
        ReadError::Refused { topic: key.0.clone(), partition: key.1, source: Box::new(error) }
    }

    pub(super) fn corrupt(key: &Key, offset: Offset, source: BatchError) -> ReadError {
        ReadError::Corrupt { topic: key.0.clone(), partition: key.1, offset, source }
    }

    /// The code that fits, where one does.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            ReadError::OffsetOutOfRange { .. } => Some(ErrorCode::OffsetOutOfRange),
            ReadError::Refused { source, .. } => Some(source.code),
            ReadError::Corrupt { source, .. } => Some(source.code()),
            ReadError::Client(error) => error.code(),
        }
    }

    /// Whether the same assignment may succeed later.
    pub fn retriable(&self) -> bool {
        match self {
            ReadError::Client(error) => error.retriable(),
            // Another replica, or the same one after the network, may give it whole.
            ReadError::Corrupt { .. } => true,
            ReadError::OffsetOutOfRange { .. } | ReadError::Refused { .. } => false,
        }
    }
}
