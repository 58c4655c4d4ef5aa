//! Every check that a leader makes before it appends a batch.

use super::header::{HEADER_LEN, TimestampType, check_crc, seal};
use super::record::take_record;
use super::{BatchError, BatchHeader, BatchRef};
use crate::compression::Compression;
use crate::{ProducerEpoch, ProducerId, Sequence, Timestamp};
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
    /// Whether each record must have a key, as in a compacted topic.
    pub keys_required: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_batch_bytes: 1_048_588,
            max_inflated_bytes: 64 << 20,
            max_records: 1 << 20,
            keys_required: false,
        }
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

/// Who sends a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Producer,
    Internal,
}

impl ValidBatch {
    /// Checks exactly one batch of a producer, to the last varint: size, magic, checksum, codec, flags, producer fields,
    /// counts, and that the records fill the batch with offsets in order.
    ///
    /// These are the checks of Kafka's brokers (`LogValidator`, `DefaultRecord#readFrom`). It is stricter in two points:
    /// the largest timestamp must be the records', where Kafka sets it, since the batch is stored as it came; and the
    /// producer's epoch and sequence must agree with its id, where Kafka looks at the sequence only.
    ///
    /// Errors: a [`BatchError`], whose [`code`](BatchError::code) is one of `CORRUPT_BATCH`, `MESSAGE_TOO_LARGE`,
    /// `INVALID_TIMESTAMP`, `INVALID_REQUEST` (a record without a key where keys are required) and `UNSUPPORTED_COMPRESSION`.
    pub fn check(bytes: Bytes, limits: &Limits) -> Result<ValidBatch, BatchError> {
        Self::check_from(Sender::Producer, bytes, limits)
    }

    /// The same for a batch that a service of the cluster wrote: control batches (a transaction's markers) pass.
    pub fn check_internal(bytes: Bytes, limits: &Limits) -> Result<ValidBatch, BatchError> {
        Self::check_from(Sender::Internal, bytes, limits)
    }

    fn check_from(sender: Sender, bytes: Bytes, limits: &Limits) -> Result<ValidBatch, BatchError> {
        if bytes.len() > limits.max_batch_bytes {
            return Err(BatchError::TooLarge { size: bytes.len(), limit: limits.max_batch_bytes });
        }
        let header = check_crc(&bytes)?;
        let codec = check_header(sender, &header, limits)?;
        let body = &bytes[HEADER_LEN..];
        match codec {
            Compression::None => check_records(&header, body, limits)?,
            codec => {
                let check = |records: &[u8]| check_records(&header, records, limits);
                inflated(codec, body, limits.max_inflated_bytes, check)?
            }
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

    /// The same records under another codec; all but length, codec and checksum stays as it was.
    ///
    /// Errors: [`BatchError::TooLarge`] when the batch then is larger than allowed.
    pub fn recompressed(&self, to: Compression, limits: &Limits) -> Result<ValidBatch, BatchError> {
        let from = self.header.attributes.compression()?;
        if from == to {
            return Ok(self.clone());
        }
        let mut bytes = vec![0; HEADER_LEN];
        let mut pack = |records: &[u8]| {
            to.compress(records, &mut bytes)
                .expect("compressing memory into memory does no I/O that could fail");
            Ok(())
        };
        match from {
            Compression::None => pack(self.body())?,
            from => inflated(from, self.body(), limits.max_inflated_bytes, pack)?,
        }
        if bytes.len() > limits.max_batch_bytes {
            return Err(BatchError::TooLarge { size: bytes.len(), limit: limits.max_batch_bytes });
        }
        let attributes = self.header.attributes.with_compression(to);
        let header = seal(&mut bytes, BatchHeader { attributes, ..self.header });
        Ok(ValidBatch { header, bytes: Bytes::from(bytes) })
    }
}

/// Inflates into this thread's scratch memory and hands it to `use_records`. Waits its turn when that is large.
fn inflated(
    codec: Compression,
    body: &[u8],
    limit: usize,
    use_records: impl FnOnce(&[u8]) -> Result<(), BatchError>,
) -> Result<(), BatchError> {
    SCRATCH.with_borrow_mut(|scratch| {
        let turn = codec.inflate_in_turn(body, scratch, limit);
        let done = match &turn {
            Ok(_) => use_records(scratch),
            Err(error) => Err(error.clone().into()),
        };
        // The memory goes before the turn does.
        scratch.clear();
        scratch.shrink_to(MAX_KEPT_SCRATCH);
        done
    })
}

fn check_header(sender: Sender, header: &BatchHeader, limits: &Limits) -> Result<Compression, BatchError> {
    let codec = header.attributes.compression()?;
    let (count, last_offset_delta) = (header.record_count, header.last_offset_delta);
    // Neither is negative: the header was parsed.
    if count < 1 || count - 1 != last_offset_delta {
        return Err(BatchError::Count { count, last_offset_delta });
    }
    if count as usize > limits.max_records {
        return Err(BatchError::TooManyRecords { count, limit: limits.max_records });
    }
    if header.attributes.is_control() && sender == Sender::Producer {
        return Err(BatchError::Control);
    }
    if header.attributes.has_delete_horizon() {
        return Err(BatchError::DeleteHorizon);
    }
    if header.attributes.timestamp_type() == TimestampType::LogAppendTime {
        return Err(BatchError::LogAppendTime);
    }
    let (epoch, sequence) = (header.producer_epoch, header.base_sequence);
    let coherent = if header.producer_id.is_some() {
        // A marker carries its producer's id and epoch, but takes no sequence.
        epoch.get() >= 0 && (sequence.get() >= 0 || header.attributes.is_control())
    } else {
        header.producer_id == ProducerId::NONE
            && epoch == ProducerEpoch::NONE
            && sequence == Sequence::NONE
            && !header.attributes.is_transactional()
    };
    if coherent { Ok(codec) } else { Err(BatchError::ProducerFields) }
}

fn check_records(header: &BatchHeader, mut rest: &[u8], limits: &Limits) -> Result<(), BatchError> {
    let mut max_timestamp = Timestamp(i64::MIN);
    for index in 0..header.record_count {
        let record = take_record(&mut rest).map_err(|what| BatchError::Record { index, what })?;
        if record.offset_delta != index {
            return Err(BatchError::Record { index, what: "its offset is out of order" });
        }
        if limits.keys_required && record.key.is_none() && !header.attributes.is_control() {
            return Err(BatchError::NoKey(index));
        }
        max_timestamp = max_timestamp.max(record.timestamp(header));
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
