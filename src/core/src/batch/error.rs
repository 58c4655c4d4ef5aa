//! What can be wrong with a batch.

use crate::ErrorCode;
use crate::compression::InflateError;

/// Why bytes are not a batch that is stored. Never retriable: the bytes themselves must change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The bytes end before the batch does.
    #[error("the batch is cut off: {needed} bytes needed, {available} there")]
    Truncated {
        /// Bytes that the batch should have.
        needed: usize,
        /// Bytes that are there.
        available: usize,
    },
    /// The magic byte is not 2.
    #[error("record format version (magic) {0} is not supported, only 2")]
    Magic(i8),
    /// The length field cannot be.
    #[error("the batch's length field, {0}, cannot be")]
    Length(i32),
    /// The checksum does not match.
    #[error("the batch's checksum is {actual:#010x}, its header says {expected:#010x}")]
    Crc {
        /// What the header says.
        expected: u32,
        /// What the bytes give.
        actual: u32,
    },
    /// The batch is larger than allowed.
    #[error("the batch has {size} bytes, more than the {limit} that are allowed (max.message.bytes)")]
    TooLarge {
        /// Its size.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The codec's number is unknown.
    #[error("compression codec {0} is not known")]
    Codec(i16),
    /// A count in the header cannot be.
    #[error("the batch's header says {count} records and a last offset delta of {last_offset_delta}")]
    Count {
        /// The record count.
        count: i32,
        /// The last offset delta.
        last_offset_delta: i32,
    },
    /// The batch has more records than allowed.
    #[error("the batch has {count} records, more than the {limit} that are allowed")]
    TooManyRecords {
        /// Its records.
        count: i32,
        /// What is allowed.
        limit: usize,
    },
    /// The records do not inflate.
    #[error(transparent)]
    Inflate(#[from] InflateError),
    /// A record is malformed.
    #[error("record {index} is malformed: {what}")]
    Record {
        /// Its place in the batch.
        index: i32,
        /// What is wrong.
        what: &'static str,
    },
    /// Bytes follow the last record.
    #[error("{0} bytes follow the last record")]
    TrailingBytes(usize),
    /// The largest timestamp is not the header's.
    #[error("the header's largest timestamp is {header}, the records' is {records}")]
    MaxTimestamp {
        /// The header's.
        header: i64,
        /// The records'.
        records: i64,
    },
    /// A record has no key, in a compacted topic.
    #[error("record {0} has no key, which a compacted topic (cleanup.policy) requires")]
    NoKey(i32),
    /// Producer id, epoch and sequence do not go together.
    #[error("producer id, epoch and sequence do not go together")]
    ProducerFields,
    /// Control batches are the brokers' own.
    #[error("control batches cannot be produced")]
    Control,
    /// LogAppendTime is the leader's to set.
    #[error("a batch cannot be produced with the timestamp type LogAppendTime")]
    LogAppendTime,
    /// The delete horizon is the cleaner's to set.
    #[error("a batch cannot be produced with a delete horizon")]
    DeleteHorizon,
}

impl BatchError {
    /// The code that a caller is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            BatchError::TooLarge { .. }
            | BatchError::TooManyRecords { .. }
            | BatchError::Inflate(InflateError::TooLarge { .. }) => ErrorCode::MessageTooLarge,
            BatchError::Codec(_) => ErrorCode::UnsupportedCompression,
            BatchError::MaxTimestamp { .. } | BatchError::LogAppendTime => ErrorCode::InvalidTimestamp,
            BatchError::NoKey(_) => ErrorCode::InvalidRequest,
            _ => ErrorCode::CorruptBatch,
        }
    }
}
