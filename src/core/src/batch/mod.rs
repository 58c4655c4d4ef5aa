//! Kafka's record batch, format v2 (magic 2): what is sent, stored and fetched.
//!
//! ```text
//! baseOffset i64 | batchLength i32 | partitionLeaderEpoch i32 | magic i8 | crc u32 |
//! attributes i16 | lastOffsetDelta i32 | baseTimestamp i64 | maxTimestamp i64 |
//! producerId i64 | producerEpoch i16 | baseSequence i32 | recordCount i32 | records ...
//! ```
//! The checksum covers everything from the attributes on, so that a leader sets offset and epoch without touching the rest.

mod builder;
mod error;
mod header;
mod reader;
mod record;
mod retain;
#[cfg(test)]
mod tests;
mod validate;
pub mod varint;

pub use builder::{BatchBuilder, ProducerStamp, record_size_bound, restamp};
pub use error::BatchError;
pub use header::{
    Attributes, BatchHeader, CRC_START, HEADER_LEN, LOG_OVERHEAD, MAGIC, TimestampType, check_crc, crc_of,
};
pub use reader::{BatchIter, BatchRef, Records, RecordsPosition};
pub use record::{Header, HeadersView, RecordView};
pub use retain::Retained;
pub use validate::{Limits, ValidBatch};
