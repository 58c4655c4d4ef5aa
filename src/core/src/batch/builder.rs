//! Builds a batch in the stored format, record by record.

use super::header::{Attributes, HEADER_LEN, check_size, seal};
use super::record::{Header, body_len, put_record};
use super::{BatchError, BatchHeader, varint};
use crate::compression::Compression;
use crate::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use bytes::Bytes;

/// The largest size limit that is reserved at once.
const MAX_RESERVE: usize = 1 << 20;

/// Who wrote a batch, for idempotence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerStamp {
    /// The producer.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence.
    pub base_sequence: Sequence,
    /// Whether the batch is part of a transaction.
    pub transactional: bool,
}

impl ProducerStamp {
    /// No idempotent producer.
    pub const NONE: ProducerStamp = ProducerStamp {
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
        base_sequence: Sequence::NONE,
        transactional: false,
    };
}

/// Collects records. They are written once, into one buffer with room for the header in front.
#[derive(Debug)]
pub struct BatchBuilder {
    compression: Compression,
    size_limit: usize,
    buffer: Vec<u8>,
    count: i32,
    base_timestamp: Timestamp,
    max_timestamp: Timestamp,
}

impl BatchBuilder {
    /// A batch of about `size_limit` uncompressed bytes; the first record fits whatever its size.
    pub fn new(compression: Compression, size_limit: usize) -> BatchBuilder {
        BatchBuilder::with_buffer(compression, size_limit, Vec::with_capacity(size_limit.min(MAX_RESERVE)))
    }

    /// The same in a buffer that was used before.
    pub fn with_buffer(compression: Compression, size_limit: usize, mut buffer: Vec<u8>) -> BatchBuilder {
        buffer.clear();
        buffer.resize(HEADER_LEN, 0);
        BatchBuilder {
            compression,
            size_limit,
            buffer,
            count: 0,
            base_timestamp: Timestamp::NONE,
            max_timestamp: Timestamp::NONE,
        }
    }

    /// Whether the record still fits. Always true for the first.
    #[inline]
    pub fn has_room_for(&self, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> bool {
        // The deltas are taken at their longest; a few bytes do not matter here.
        self.count == 0
            || (self.count < i32::MAX
                && self.buffer.len() + 5 + body_len(i64::MAX, i32::MAX, key, value, headers)
                    <= self.size_limit)
    }

    /// Adds a record and gives its place in the batch.
    #[inline]
    pub fn append(
        &mut self,
        timestamp: Timestamp,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[Header<'_>],
    ) -> i32 {
        let delta = self.count;
        if delta == 0 {
            self.base_timestamp = timestamp;
            self.max_timestamp = timestamp;
        } else if timestamp > self.max_timestamp {
            self.max_timestamp = timestamp;
        }
        // Wraps as in Kafka's clients: the reader's addition wraps back, so that any two timestamps share a batch.
        let timestamp_delta = timestamp.as_millis().wrapping_sub(self.base_timestamp.as_millis());
        put_record(&mut self.buffer, timestamp_delta, delta, key, value, headers);
        self.count += 1;
        delta
    }

    /// Uncompressed bytes so far, with the header.
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Records so far.
    pub const fn record_count(&self) -> i32 {
        self.count
    }

    /// Whether there is no record.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The batch, with base offset 0 and no leader epoch. A builder without records gives a batch that no leader takes.
    ///
    /// Panics when the batch is 2 GiB or larger: callers bound records and batches by `max.request.size` long before.
    pub fn finish(self, stamp: ProducerStamp) -> Bytes {
        let mut bytes = self.buffer;
        if self.compression != Compression::None {
            // Text shrinks to a half or less; the buffer grows by itself where it does not.
            let mut packed = Vec::with_capacity(HEADER_LEN + bytes.len() / 2);
            packed.resize(HEADER_LEN, 0);
            self.compression
                .compress(&bytes[HEADER_LEN..], &mut packed)
                .expect("compressing memory into memory does no I/O that could fail");
            bytes = packed;
        }
        let header = BatchHeader {
            base_offset: Offset::ZERO,
            batch_length: 0,
            leader_epoch: LeaderEpoch::NONE,
            crc: 0,
            attributes: Attributes::new(self.compression, stamp.transactional),
            last_offset_delta: (self.count - 1).max(0),
            base_timestamp: self.base_timestamp,
            max_timestamp: self.max_timestamp,
            producer_id: stamp.producer_id,
            producer_epoch: stamp.producer_epoch,
            base_sequence: stamp.base_sequence,
            record_count: self.count,
        };
        seal(&mut bytes, header);
        Bytes::from(bytes)
    }
}

/// The same batch with another producer id, epoch and sequence, and in the transaction or not as `stamp` says. The
/// checksum is taken anew without looking at the old one: `batch` is one that this process built.
///
/// Errors: `batch` is not exactly one batch.
pub fn restamp(batch: &Bytes, stamp: ProducerStamp) -> Result<Bytes, BatchError> {
    let mut header = BatchHeader::parse(batch)?;
    check_size(&header, batch)?;
    header.producer_id = stamp.producer_id;
    header.producer_epoch = stamp.producer_epoch;
    header.base_sequence = stamp.base_sequence;
    header.attributes = header.attributes.with_transactional(stamp.transactional);
    let mut bytes = batch.to_vec();
    seal(&mut bytes, header);
    Ok(Bytes::from(bytes))
}

/// The most that a record of these sizes adds to a batch.
pub fn record_size_bound(key: Option<&[u8]>, value: Option<&[u8]>, headers: &[Header<'_>]) -> usize {
    let length = body_len(i64::MAX, i32::MAX, key, value, headers);
    varint::len(length as i64) + length
}
