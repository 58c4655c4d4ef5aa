//! Plain records: each gets its partition, and each partition its batch.

use super::request::Terms;
use bytes::Bytes;
use std::collections::HashMap;
use thalweg_core::batch::{BatchBuilder, HEADER_LEN, Header, ProducerStamp, record_size_bound};
use thalweg_core::compression::Compression;
use thalweg_core::partitioner::partition_for_key;
use thalweg_core::{ErrorCode, PartitionId, Timestamp};
use thalweg_proto::scan::MAX_RECORDS;
use thalweg_proto::{ApiError, v1};

/// Bytes of a header's name.
pub const MAX_HEADER_KEY_BYTES: usize = 32_767;

/// How the partition is chosen.
#[derive(Debug, Clone, Copy)]
pub enum Target {
    /// All records go here.
    Partition(PartitionId),
    /// By key; records without one go to `keyless`.
    ByKey {
        /// Partitions of the topic; above 0.
        count: u32,
        /// What the broker chose for this request.
        keyless: PartitionId,
    },
}

/// One partition's share of a request.
#[derive(Debug)]
pub struct Group {
    /// The partition.
    pub partition: PartitionId,
    /// Its batch, encoded.
    pub batch: Bytes,
}

/// A request's records, encoded.
#[derive(Debug)]
pub struct Encoded {
    /// One batch for each partition.
    pub groups: Vec<Group>,
    /// For each record: its group, and its offset within the group's batch.
    pub places: Vec<(u32, i32)>,
}

/// Checks the records as far as that needs no topic.
pub fn check(records: &[v1::Record]) -> Result<(), ApiError> {
    if records.is_empty() {
        return Err(ApiError::invalid("records", "send at least one record"));
    }
    if records.len() > MAX_RECORDS {
        return Err(ApiError::invalid(
            "records",
            format!("send at most {MAX_RECORDS} records in one request"),
        ));
    }
    for (index, record) in records.iter().enumerate() {
        if record.timestamp_ms.is_some_and(|at| at < 0) {
            return Err(ApiError::new(ErrorCode::InvalidTimestamp, "a timestamp cannot be negative")
                .with_field(format!("records[{index}].timestamp_ms")));
        }
        if record.headers.iter().any(|header| header.key.len() > MAX_HEADER_KEY_BYTES) {
            return Err(ApiError::invalid(
                format!("records[{index}].headers"),
                format!("a header's key has at most {MAX_HEADER_KEY_BYTES} bytes"),
            ));
        }
    }
    Ok(())
}

struct Open {
    partition: PartitionId,
    bytes: usize,
    builder: Option<BatchBuilder>,
}

/// Encodes records that passed [`check`]. `codec` is the topic's, if it names one. Takes about as much memory as the
/// request itself.
pub fn encode(
    records: &[v1::Record],
    target: Target,
    terms: &Terms,
    codec: Option<Compression>,
    now: Timestamp,
) -> Encoded {
    let mut open: Vec<Open> = Vec::with_capacity(1);
    let mut by_partition: HashMap<PartitionId, usize> = HashMap::new();
    let mut places = Vec::with_capacity(records.len());
    let mut headers: Vec<Header<'_>> = Vec::new();
    // First the sizes, so that each batch is built in one allocation of the right size.
    for record in records {
        let partition = partition_of(record, target);
        let group = match open.last() {
            Some(last) if last.partition == partition => open.len() - 1,
            _ => *by_partition.entry(partition).or_insert_with(|| {
                open.push(Open { partition, bytes: HEADER_LEN, builder: None });
                open.len() - 1
            }),
        };
        headers_of(record, &mut headers);
        open[group].bytes += record_size_bound(record.key.as_deref(), record.value.as_deref(), &headers);
        places.push((group as u32, 0));
    }
    let codec = codec.unwrap_or(terms.compression);
    for (record, place) in records.iter().zip(&mut places) {
        headers_of(record, &mut headers);
        let group = &mut open[place.0 as usize];
        let bytes = group.bytes;
        place.1 = group.builder.get_or_insert_with(|| BatchBuilder::new(codec, bytes)).append(
            record.timestamp_ms.map_or(now, Timestamp),
            record.key.as_deref(),
            record.value.as_deref(),
            &headers,
        );
    }
    let groups = open
        .into_iter()
        .filter_map(|group| {
            let batch = group.builder?.finish(ProducerStamp::NONE);
            Some(Group { partition: group.partition, batch })
        })
        .collect();
    Encoded { groups, places }
}

fn partition_of(record: &v1::Record, target: Target) -> PartitionId {
    match (target, &record.key) {
        (Target::Partition(partition), _) => partition,
        (Target::ByKey { count, .. }, Some(key)) => partition_for_key(key, count),
        (Target::ByKey { keyless, .. }, None) => keyless,
    }
}

fn headers_of<'a>(record: &'a v1::Record, out: &mut Vec<Header<'a>>) {
    out.clear();
    out.extend(
        record
            .headers
            .iter()
            .map(|header| Header { key: header.key.as_bytes(), value: header.value.as_deref() }),
    );
}
