//! Reading: what Fetch, FetchStream and Tail share.

pub mod certain;
pub mod decode;
pub mod fetch;
pub mod fetch_stream;
pub mod list_offsets;
pub mod reader;
pub mod tail;

use crate::refusal;
use crate::replicas::Partition;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::batch::BatchHeader;
use thalweg_core::{ErrorCode, Offset};
use thalweg_log::ReadBound;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// How records come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Decoded.
    Records,
    /// As they are stored.
    Batches,
}

impl Format {
    /// Reads it from a request.
    pub fn of(number: i32) -> Result<Format, ApiError> {
        match v1::RecordFormat::try_from(number) {
            Ok(v1::RecordFormat::Unspecified | v1::RecordFormat::Records) => Ok(Format::Records),
            Ok(v1::RecordFormat::Batches) => Ok(Format::Batches),
            Err(_) => {
                Err(ApiError::invalid("format", format!("{number} is no format: 1 records, 2 batches")))
            }
        }
    }
}

/// How far a caller may read.
pub fn bound_of(isolation_level: i32) -> Result<ReadBound, ApiError> {
    match v1::IsolationLevel::try_from(isolation_level) {
        Ok(v1::IsolationLevel::Unspecified | v1::IsolationLevel::ReadUncommitted) => {
            Ok(ReadBound::HighWatermark)
        }
        Ok(v1::IsolationLevel::ReadCommitted) => Ok(ReadBound::LastStable),
        Err(_) => Err(ApiError::invalid(
            "isolation_level",
            format!("{isolation_level} is no isolation level: 1 read_uncommitted, 2 read_committed"),
        )),
    }
}

/// Checks a routing field.
pub fn check_routing(number: i32) -> Result<(), ApiError> {
    match v1::Routing::try_from(number) {
        Ok(_) => Ok(()),
        Err(_) => {
            Err(ApiError::invalid("routing", format!("{number} is no routing: 1 any broker, 2 leader only")))
        }
    }
}

/// How a partition is read.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How records come.
    pub format: Format,
    /// How far a caller may read.
    pub bound: ReadBound,
    /// Bytes to which one batch may inflate.
    pub max_inflated_bytes: usize,
}

/// How much to read at once.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    /// Bytes of batches, or of decoded records.
    pub max_bytes: usize,
    /// Whether the first batch comes even if it is larger.
    pub whole_first: bool,
    /// Plain records at most.
    pub max_records: u64,
    /// Only below this offset.
    pub until: Option<Offset>,
}

/// Some data of one partition.
#[derive(Debug)]
pub struct Chunk {
    /// The data.
    pub data: v1::partition_data::Data,
    /// What it weighs.
    pub bytes: usize,
    /// Where to read on.
    pub next_offset: Offset,
    /// How far a caller may read.
    pub readable_end: Offset,
    /// The high watermark.
    pub high_watermark: Offset,
    /// The last stable offset.
    pub last_stable_offset: Offset,
    /// The first offset that is still there.
    pub log_start_offset: Offset,
}

impl Chunk {
    /// How many records it holds.
    pub fn records(&self) -> u64 {
        match &self.data {
            v1::partition_data::Data::Records(set) => set.records.len() as u64,
            v1::partition_data::Data::RecordBatches(bytes) => decode::count_records(bytes),
        }
    }

    /// As it is sent.
    pub fn into_proto(self, topic: &str, partition: i32, tag: u64) -> v1::PartitionData {
        v1::PartitionData {
            topic: topic.to_owned(),
            partition,
            next_offset: self.next_offset.get(),
            high_watermark: self.high_watermark.get(),
            last_stable_offset: self.last_stable_offset.get(),
            log_start_offset: self.log_start_offset.get(),
            tag,
            error: None,
            data: Some(self.data),
        }
    }
}

/// How long a caller waits for a leader that was just elected to learn how far its partition is committed. One round trip with
/// its followers usually, before it is told to come back.
pub const SETTLE_PATIENCE: Duration = Duration::from_millis(500);

/// Waits until the partition's high watermark can be told: what a leader that was just elected has may be below what an earlier
/// one told, and nobody shall see it go back (catalogue 6).
///
/// Errors: `OFFSET_NOT_AVAILABLE`, when it cannot be told by `until`.
pub async fn settled(partition: &Arc<Partition>, until: Instant) -> Result<(), ApiError> {
    if !partition.is_settling() {
        return Ok(());
    }
    let (session, registration) = partition.wait_here();
    let settled = async {
        loop {
            registration.acknowledge();
            if !partition.is_settling() {
                return;
            }
            session.marked().await;
            session.take_ready(&mut Vec::new());
        }
    };
    tokio::time::timeout_at(until, settled).await.map_err(|_| offset_not_available(partition))
}

/// The partition's high watermark cannot be told yet.
pub fn offset_not_available(partition: &Partition) -> ApiError {
    let message = format!(
        "the leader of {} was just elected and does not know yet how far the partition is committed; retry",
        partition.topic_partition()
    );
    ApiError::new(ErrorCode::OffsetNotAvailable, message)
}

/// Reads from `from` on; `None` when there is nothing to read. `scratch` holds what is inflated and is reused.
/// Blocks for file I/O, which is a copy from the page cache for those who keep up.
pub fn read(
    partition: &Partition,
    from: Offset,
    terms: &Terms,
    amount: Amount,
    scratch: &mut Vec<u8>,
) -> Result<Option<Chunk>, ApiError> {
    let log = partition.log();
    let end = |high_watermark: Offset, last_stable: Offset| match terms.bound {
        ReadBound::LastStable => last_stable.min(high_watermark),
        _ => high_watermark,
    };
    let mut from = from;
    loop {
        let read = log
            .read(from, amount.max_bytes, terms.bound, amount.whole_first)
            .map_err(|error| refusal::read(&error, log.high_watermark()))?;
        if read.data.is_empty() {
            return Ok(None);
        }
        let (data, count, bytes, next_offset) = match terms.format {
            Format::Batches => {
                let (count, bytes) = (record_count(&read.data), read.data.len());
                (v1::partition_data::Data::RecordBatches(read.data), count, bytes, read.next_offset)
            }
            Format::Records => {
                let (records, bytes, next) = records(&read.data, from, terms, amount, scratch)?;
                if records.is_empty() && next > from && amount.until.is_none_or(|until| next < until) {
                    // Only control batches: nothing for the caller, go on behind them.
                    from = next;
                    continue;
                }
                if records.is_empty() {
                    return Ok(None);
                }
                let count = records.len() as u64;
                (v1::partition_data::Data::Records(v1::RecordSet { records }), count, bytes, next)
            }
        };
        partition.traffic().read(count, bytes);
        return Ok(Some(Chunk {
            data,
            bytes,
            next_offset,
            readable_end: end(read.high_watermark, read.last_stable_offset),
            high_watermark: read.high_watermark,
            last_stable_offset: read.last_stable_offset,
            log_start_offset: read.log_start_offset,
        }));
    }
}

/// Records of producers in whole batches, by their headers.
fn record_count(batches: &[u8]) -> u64 {
    let (mut rest, mut count) = (batches, 0);
    while let Ok(header) = BatchHeader::parse(rest) {
        if !header.attributes.is_control() {
            count += u64::from(header.record_count.unsigned_abs());
        }
        rest = rest.get(header.size()..).unwrap_or_default();
    }
    count
}

fn records(
    data: &Bytes,
    from: Offset,
    terms: &Terms,
    amount: Amount,
    scratch: &mut Vec<u8>,
) -> Result<(Vec<v1::Record>, usize, Offset), ApiError> {
    let wanted = decode::Wanted {
        from,
        until: amount.until,
        max_bytes: amount.max_bytes,
        max_records: amount.max_records,
        max_inflated_bytes: terms.max_inflated_bytes,
    };
    let decoded = decode::decode(data, wanted, scratch).map_err(|error| {
        ApiError::new(ErrorCode::StorageError, format!("a stored batch cannot be read: {error}"))
    })?;
    if scratch.capacity() > MAX_KEPT_SCRATCH {
        *scratch = Vec::new();
    }
    Ok((decoded.records, decoded.bytes, decoded.next_offset))
}

/// Scratch memory that a stream keeps between two reads; a larger one is given back.
const MAX_KEPT_SCRATCH: usize = 4 << 20;
