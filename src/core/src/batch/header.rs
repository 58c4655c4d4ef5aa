//! The 61 bytes in front of a batch's records.

use super::BatchError;
use crate::compression::Compression;
use crate::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// Bytes of the whole header.
pub const HEADER_LEN: usize = 61;
/// Bytes in front of what the length field counts: base offset and length.
pub const LOG_OVERHEAD: usize = 12;
/// Where the checksum stands.
const CRC_AT: usize = 17;
/// Where the checksummed part begins: at the attributes.
pub const CRC_START: usize = 21;
/// The only format version there is here.
pub const MAGIC: i8 = 2;

/// A batch's attribute bits: 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon. The others have no
/// meaning yet: they are ignored and kept as they come, as Kafka does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attributes(pub i16);

/// What a batch's timestamps mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TimestampType {
    /// The producer's time.
    #[default]
    CreateTime,
    /// The leader's time of the append.
    LogAppendTime,
}

impl Attributes {
    const CODEC_MASK: i16 = 0x07;
    const LOG_APPEND_TIME: i16 = 1 << 3;
    const TRANSACTIONAL: i16 = 1 << 4;
    const CONTROL: i16 = 1 << 5;
    pub(super) const DELETE_HORIZON: i16 = 1 << 6;

    /// The attributes of a new batch.
    pub const fn new(compression: Compression, transactional: bool) -> Attributes {
        Attributes(compression.bits() | if transactional { Self::TRANSACTIONAL } else { 0 })
    }

    /// The codec.
    pub fn compression(self) -> Result<Compression, BatchError> {
        let bits = self.0 & Self::CODEC_MASK;
        Compression::from_bits(bits).ok_or(BatchError::Codec(bits))
    }

    /// The same with another codec.
    #[must_use]
    pub const fn with_compression(self, compression: Compression) -> Attributes {
        Attributes((self.0 & !Self::CODEC_MASK) | compression.bits())
    }

    /// What the timestamps mean.
    pub const fn timestamp_type(self) -> TimestampType {
        if self.0 & Self::LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    /// The same with another meaning of the timestamps.
    #[must_use]
    pub const fn with_timestamp_type(self, kind: TimestampType) -> Attributes {
        match kind {
            TimestampType::CreateTime => Attributes(self.0 & !Self::LOG_APPEND_TIME),
            TimestampType::LogAppendTime => Attributes(self.0 | Self::LOG_APPEND_TIME),
        }
    }

    /// The same, as part of a transaction or not.
    #[must_use]
    pub const fn with_transactional(self, transactional: bool) -> Attributes {
        let others = self.0 & !Self::TRANSACTIONAL;
        Attributes(if transactional { others | Self::TRANSACTIONAL } else { others })
    }

    /// Whether the batch is part of a transaction.
    pub const fn is_transactional(self) -> bool {
        self.0 & Self::TRANSACTIONAL != 0
    }

    /// Whether the batch holds a transaction's marker.
    pub const fn is_control(self) -> bool {
        self.0 & Self::CONTROL != 0
    }

    /// Whether the cleaner has set, in place of the base timestamp, when the batch's tombstones may go (KIP-534).
    pub const fn has_delete_horizon(self) -> bool {
        self.0 & Self::DELETE_HORIZON != 0
    }
}

/// A batch's header, by field, in the order of the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// The first record's offset. Not under the checksum: the leader sets it.
    pub base_offset: Offset,
    /// Bytes behind this field.
    pub batch_length: i32,
    /// The epoch of the leader that appended it. Not under the checksum.
    pub leader_epoch: LeaderEpoch,
    /// CRC-32C of all from the attributes on.
    pub crc: u32,
    /// Codec and flags.
    pub attributes: Attributes,
    /// The last record's offset less the first one's.
    pub last_offset_delta: i32,
    /// The first record's timestamp.
    pub base_timestamp: Timestamp,
    /// The largest timestamp; all records' with LogAppendTime.
    pub max_timestamp: Timestamp,
    /// The idempotent producer, or none.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence.
    pub base_sequence: Sequence,
    /// Records in the batch.
    pub record_count: i32,
}

impl BatchHeader {
    /// Reads a header off the front of `bytes`. Checks what can be checked without the rest: magic, length, counts. No
    /// checksum, no codec.
    ///
    /// Errors: [`BatchError::Truncated`], [`BatchError::Magic`], [`BatchError::Length`], [`BatchError::Count`].
    pub fn parse(bytes: &[u8]) -> Result<BatchHeader, BatchError> {
        let header: &[u8; HEADER_LEN] = bytes
            .first_chunk()
            .ok_or(BatchError::Truncated { needed: HEADER_LEN, available: bytes.len() })?;
        let magic = header[16] as i8;
        if magic != MAGIC {
            return Err(BatchError::Magic(magic));
        }
        let parsed = BatchHeader {
            base_offset: Offset(i64::from_be_bytes(field(header, 0))),
            batch_length: i32::from_be_bytes(field(header, 8)),
            leader_epoch: LeaderEpoch(i32::from_be_bytes(field(header, 12))),
            crc: u32::from_be_bytes(field(header, CRC_AT)),
            attributes: Attributes(i16::from_be_bytes(field(header, 21))),
            last_offset_delta: i32::from_be_bytes(field(header, 23)),
            base_timestamp: Timestamp(i64::from_be_bytes(field(header, 27))),
            max_timestamp: Timestamp(i64::from_be_bytes(field(header, 35))),
            producer_id: ProducerId(i64::from_be_bytes(field(header, 43))),
            producer_epoch: ProducerEpoch(i16::from_be_bytes(field(header, 51))),
            base_sequence: Sequence(i32::from_be_bytes(field(header, 53))),
            record_count: i32::from_be_bytes(field(header, 57)),
        };
        if parsed.batch_length < (HEADER_LEN - LOG_OVERHEAD) as i32 {
            return Err(BatchError::Length(parsed.batch_length));
        }
        // A compacted batch may hold fewer records than offsets, but never more.
        if parsed.record_count < 0
            || parsed.last_offset_delta < 0
            || parsed.record_count - 1 > parsed.last_offset_delta
        {
            return Err(BatchError::Count {
                count: parsed.record_count,
                last_offset_delta: parsed.last_offset_delta,
            });
        }
        Ok(parsed)
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(0, &self.base_offset.get().to_be_bytes());
        put(8, &self.batch_length.to_be_bytes());
        put(12, &self.leader_epoch.get().to_be_bytes());
        put(16, &MAGIC.to_be_bytes());
        put(CRC_AT, &self.crc.to_be_bytes());
        put(21, &self.attributes.0.to_be_bytes());
        put(23, &self.last_offset_delta.to_be_bytes());
        put(27, &self.base_timestamp.as_millis().to_be_bytes());
        put(35, &self.max_timestamp.as_millis().to_be_bytes());
        put(43, &self.producer_id.get().to_be_bytes());
        put(51, &self.producer_epoch.get().to_be_bytes());
        put(53, &self.base_sequence.get().to_be_bytes());
        put(57, &self.record_count.to_be_bytes());
        bytes
    }

    /// Bytes of the whole batch.
    pub fn size(&self) -> usize {
        LOG_OVERHEAD + self.batch_length.max(0) as usize
    }

    /// The last record's offset.
    pub fn last_offset(&self) -> Offset {
        self.base_offset.advance(i64::from(self.last_offset_delta))
    }

    /// The offset behind the batch.
    pub fn next_offset(&self) -> Offset {
        self.last_offset().advance(1)
    }

    /// The last record's sequence.
    pub fn last_sequence(&self) -> Sequence {
        match self.base_sequence {
            Sequence::NONE => Sequence::NONE,
            first => first.advance(self.last_offset_delta),
        }
    }
}

fn field<const N: usize>(header: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&header[at..at + N]);
    bytes
}

/// The checksum of a batch: CRC-32C of all from the attributes on.
pub fn crc_of(header: &[u8; HEADER_LEN], body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header[CRC_START..]), body)
}

/// Writes the header's fields in front of `batch`, which is all there but for its first 61 bytes, with the checksum of the
/// whole; `header.crc` and the length are not looked at.
pub(super) fn seal(batch: &mut [u8], mut header: BatchHeader) -> BatchHeader {
    header.batch_length = i32::try_from(batch.len() - LOG_OVERHEAD)
        .expect("a batch is bounded far below 2 GiB by max.message.bytes");
    batch[..HEADER_LEN].copy_from_slice(&header.encode());
    header.crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[CRC_AT..CRC_START].copy_from_slice(&header.crc.to_be_bytes());
    header
}

/// Checks that `batch` is exactly one batch whose checksum holds.
pub fn check_crc(batch: &[u8]) -> Result<BatchHeader, BatchError> {
    let header = BatchHeader::parse(batch)?;
    check_size(&header, batch)?;
    let actual = crc32c::crc32c(&batch[CRC_START..]);
    if actual != header.crc {
        return Err(BatchError::Crc { expected: header.crc, actual });
    }
    Ok(header)
}

/// Checks that `batch` has exactly the bytes that its header says.
pub(super) fn check_size(header: &BatchHeader, batch: &[u8]) -> Result<(), BatchError> {
    match batch.len().checked_sub(header.size()) {
        None => Err(BatchError::Truncated { needed: header.size(), available: batch.len() }),
        Some(0) => Ok(()),
        Some(trailing) => Err(BatchError::TrailingBytes(trailing)),
    }
}
