//! Every check that a leader makes before it appends a batch.

use super::header::{HEADER_LEN, check_crc};
use super::record::take_record;
use super::{BatchBuilder, BatchError, BatchHeader, BatchRef, ProducerStamp};
use crate::compression::Compression;
use crate::{ProducerEpoch, Sequence, Timestamp};
use bytes::Bytes;
use std::cell::RefCell;

/// What a batch may be at most.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of the batch as it was sent: `max.message.bytes`.
    pub max_batch_bytes: usize,
    /// Bytes of its records when inflated.
    pub max_inflated_bytes: usize,
    /// Records in it.
    pub max_records: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { max_batch_bytes: 1_048_588, max_inflated_bytes: 64 << 20, max_records: 1 << 20 }
    }
}

/// Scratch memory that a thread keeps between two batches; a larger one is given back.
const MAX_KEPT_SCRATCH: usize = 1 << 20;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A batch that passed every check: the only thing that a leader's log appends.
#[derive(Debug, Clone)]
pub struct ValidBatch {
    header: BatchHeader,
    bytes: Bytes,
}

impl ValidBatch {
    /// Checks exactly one batch, to the last varint.
    pub fn check(bytes: Bytes, limits: &Limits) -> Result<ValidBatch, BatchError> {
        if bytes.len() > limits.max_batch_bytes {
            return Err(BatchError::TooLarge { size: bytes.len(), limit: limits.max_batch_bytes });
        }
        let header = check_crc(&bytes)?;
        if header.attributes.is_control() {
            return Err(BatchError::Control);
        }
        let count =
            BatchError::Count { count: header.record_count, last_offset_delta: header.last_offset_delta };
        if header.record_count < 1
            || header.record_count - 1 != header.last_offset_delta
            || header.record_count as usize > limits.max_records
        {
            return Err(count);
        }
        let coherent = if header.producer_id.is_some() {
            header.producer_epoch.get() >= 0 && header.base_sequence.get() >= 0
        } else {
            header.producer_epoch == ProducerEpoch::NONE
                && header.base_sequence == Sequence::NONE
                && !header.attributes.is_transactional()
        };
        if !coherent {
            return Err(BatchError::ProducerFields);
        }
        let body = &bytes[HEADER_LEN..];
        match header.attributes.compression()? {
            Compression::None => check_records(&header, body)?,
            codec => SCRATCH.with_borrow_mut(|scratch| {
                let checked = codec
                    .inflate(body, scratch, limits.max_inflated_bytes)
                    .map_err(BatchError::from)
                    .and_then(|()| check_records(&header, scratch));
                scratch.clear();
                scratch.shrink_to(MAX_KEPT_SCRATCH);
                checked
            })?,
        }
        Ok(ValidBatch { header, bytes })
    }

    /// The batch's header as it was sent.
    pub fn header(&self) -> &BatchHeader {
        &self.header
    }

    /// All bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes behind the header.
    pub fn body(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..]
    }

    /// The batch, borrowed.
    pub fn as_ref(&self) -> BatchRef<'_> {
        BatchRef { header: self.header, bytes: &self.bytes }
    }

    /// The same records under another codec, with the same producer fields.
    pub fn recompressed(&self, to: Compression, limits: &Limits) -> Result<ValidBatch, BatchError> {
        if self.header.attributes.compression()? == to {
            return Ok(self.clone());
        }
        let mut scratch = Vec::new();
        let mut builder = BatchBuilder::new(to, self.bytes.len());
        let mut headers = Vec::new();
        for record in self.as_ref().records(&mut scratch, limits.max_inflated_bytes)? {
            let record = record?;
            headers.clear();
            headers.extend(record.headers.iter());
            builder.append(record.timestamp, record.key, record.value, &headers);
        }
        let bytes = builder.finish(ProducerStamp {
            producer_id: self.header.producer_id,
            producer_epoch: self.header.producer_epoch,
            base_sequence: self.header.base_sequence,
            transactional: self.header.attributes.is_transactional(),
        });
        if bytes.len() > limits.max_batch_bytes {
            return Err(BatchError::TooLarge { size: bytes.len(), limit: limits.max_batch_bytes });
        }
        Ok(ValidBatch { header: BatchHeader::parse(&bytes)?, bytes })
    }
}

fn check_records(header: &BatchHeader, mut rest: &[u8]) -> Result<(), BatchError> {
    let mut max_timestamp = Timestamp(i64::MIN);
    for index in 0..header.record_count {
        let record = take_record(&mut rest).map_err(|what| BatchError::Record { index, what })?;
        if record.offset_delta != index {
            return Err(BatchError::Record { index, what: "its offset is out of order" });
        }
        max_timestamp =
            max_timestamp.max(header.base_timestamp.saturating_add_millis(record.timestamp_delta));
    }
    if !rest.is_empty() {
        return Err(BatchError::TrailingBytes(rest.len()));
    }
    if max_timestamp != header.max_timestamp {
        let (header, records) = (header.max_timestamp.as_millis(), max_timestamp.as_millis());
        return Err(BatchError::MaxTimestamp { header, records });
    }
    Ok(())
}
