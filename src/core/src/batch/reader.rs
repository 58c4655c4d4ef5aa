//! Walks batches, and the records of a batch.

use super::header::{HEADER_LEN, TimestampType, check_crc};
use super::record::{RecordView, take_record};
use super::{BatchError, BatchHeader};
use crate::compression::{Compression, FREE_INFLATED_BYTES};

/// Whole batches one behind the other, as a log file or a fetch holds them. Ends behind the first error; a short tail is
/// [`BatchError::Truncated`].
#[derive(Debug, Clone)]
pub struct BatchIter<'a> {
    bytes: &'a [u8],
}

/// One whole batch, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct BatchRef<'a> {
    /// Its header.
    pub header: BatchHeader,
    /// All its bytes.
    pub bytes: &'a [u8],
}

impl<'a> BatchIter<'a> {
    /// Walks `bytes`.
    pub const fn new(bytes: &'a [u8]) -> BatchIter<'a> {
        BatchIter { bytes }
    }

    /// What has not been walked.
    pub const fn remaining(&self) -> &'a [u8] {
        self.bytes
    }
}

impl<'a> Iterator for BatchIter<'a> {
    type Item = Result<BatchRef<'a>, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.bytes.is_empty() {
            return None;
        }
        let parsed = BatchHeader::parse(self.bytes).and_then(|header| {
            let truncated = BatchError::Truncated { needed: header.size(), available: self.bytes.len() };
            let (bytes, rest) = self.bytes.split_at_checked(header.size()).ok_or(truncated)?;
            Ok((BatchRef { header, bytes }, rest))
        });
        match parsed {
            Ok((batch, rest)) => {
                self.bytes = rest;
                Some(Ok(batch))
            }
            Err(error) => {
                self.bytes = &[];
                Some(Err(error))
            }
        }
    }
}

impl<'a> BatchRef<'a> {
    /// Checks the checksum.
    pub fn verify(&self) -> Result<(), BatchError> {
        check_crc(self.bytes).map(drop)
    }

    /// Walks the records. `scratch` takes the inflated bytes of a compressed batch, at most `max_inflated`; what it held
    /// is lost. The checksum is not looked at: see [`BatchRef::verify`].
    ///
    /// Errors: the codec is unknown, or the records do not inflate within `max_inflated`.
    pub fn records<'s>(
        &self,
        scratch: &'s mut Vec<u8>,
        max_inflated: usize,
    ) -> Result<Records<'s>, BatchError>
    where
        'a: 's,
    {
        let body = &self.bytes[HEADER_LEN..];
        let rest: &'s [u8] = match self.header.attributes.compression()? {
            Compression::None => body,
            codec => {
                codec.inflate(body, scratch, max_inflated)?;
                scratch
            }
        };
        Ok(Records { header: self.header, rest, next: 0, least_delta: 0 })
    }

    /// Hands the records to `walk`, as a server does that has many callers: in turn with others when they inflate to much
    /// ([`Compression::inflate_in_turn`]), and `scratch` is small again afterwards. `walk` must not wait for anything.
    pub fn walk_in_turn<T>(
        &self,
        scratch: &mut Vec<u8>,
        max_inflated: usize,
        walk: impl FnOnce(Records<'_>) -> Result<T, BatchError>,
    ) -> Result<T, BatchError> {
        let body = &self.bytes[HEADER_LEN..];
        let records = |rest| Records { header: self.header, rest, next: 0, least_delta: 0 };
        match self.header.attributes.compression()? {
            Compression::None => walk(records(body)),
            codec => {
                let _turn = codec.inflate_in_turn(body, scratch, max_inflated)?;
                let done = walk(records(scratch));
                // The memory goes before the turn does.
                scratch.clear();
                scratch.shrink_to(FREE_INFLATED_BYTES);
                done
            }
        }
    }
}

/// The records of one batch, in order. Ends behind the first malformed one.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    header: BatchHeader,
    rest: &'a [u8],
    next: i32,
    /// The smallest offset delta that the next record may have: compaction leaves gaps, but keeps the order.
    least_delta: i32,
}

/// Where a walk over a batch's records stands, without the bytes: for a caller that keeps those itself and lends one record
/// at a time.
#[derive(Debug, Clone, Copy)]
pub struct RecordsPosition {
    remaining: usize,
    next: i32,
    least_delta: i32,
}

impl<'a> Records<'a> {
    /// The records in `body`, inflated if the batch is compressed.
    pub(super) const fn of(header: BatchHeader, body: &'a [u8]) -> Records<'a> {
        Records { header, rest: body, next: 0, least_delta: 0 }
    }

    /// How many bytes of `body`, with which the walk began, lie behind it.
    pub(super) const fn walked(&self, body: &[u8]) -> usize {
        body.len() - self.rest.len()
    }

    /// Where the walk stands.
    #[inline]
    pub fn position(&self) -> RecordsPosition {
        RecordsPosition { remaining: self.rest.len(), next: self.next, least_delta: self.least_delta }
    }

    /// Goes on with a walk. `records` must be the bytes that it began with, inflated if the batch was compressed.
    #[inline]
    pub fn resume(header: &BatchHeader, records: &'a [u8], position: RecordsPosition) -> Records<'a> {
        let walked = records.len().saturating_sub(position.remaining);
        let rest = &records[walked..];
        Records { header: *header, rest, next: position.next, least_delta: position.least_delta }
    }
}

impl Records<'_> {
    /// Ends the walk: behind a malformed record nothing is known to be one.
    #[cold]
    fn stop(&mut self, index: i32, what: &'static str) -> BatchError {
        self.next = i32::MAX;
        self.rest = &[];
        BatchError::Record { index, what }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next;
        if index >= self.header.record_count {
            let trailing = std::mem::take(&mut self.rest).len();
            return (trailing > 0).then_some(Err(BatchError::TrailingBytes(trailing)));
        }
        self.next += 1;
        let record = match take_record(&mut self.rest) {
            Ok(record)
                if record.offset_delta < self.least_delta
                    || record.offset_delta > self.header.last_offset_delta =>
            {
                return Some(Err(self.stop(index, "its offset is out of order")));
            }
            Ok(record) => record,
            Err(what) => return Some(Err(self.stop(index, what))),
        };
        self.least_delta = record.offset_delta.saturating_add(1);
        let timestamp = match self.header.attributes.timestamp_type() {
            TimestampType::LogAppendTime => self.header.max_timestamp,
            TimestampType::CreateTime => record.timestamp(&self.header),
        };
        Some(Ok(RecordView {
            offset: self.header.base_offset.advance(i64::from(record.offset_delta)),
            timestamp,
            key: record.key,
            value: record.value,
            headers: record.headers,
        }))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // The count comes from outside: nothing is allocated by it.
        (0, usize::try_from(self.header.record_count.saturating_sub(self.next)).ok())
    }
}
