//! One record as it lies in a batch.

use super::{BatchHeader, varint};
use crate::{Offset, Timestamp};

/// A record's header, borrowed. Keys may repeat; the order is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name: UTF-8 by convention.
    pub key: &'a [u8],
    /// The value; none is Kafka's null.
    pub value: Option<&'a [u8]>,
}

/// A record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp; the batch's with LogAppendTime.
    pub timestamp: Timestamp,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: HeadersView<'a>,
}

/// A record's headers, checked when the record was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HeadersView<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> HeadersView<'a> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The headers, in order.
    pub fn iter(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let mut rest = self.bytes;
        (0..self.count).map_while(move |_| take_header(&mut rest))
    }
}

/// A record before its place in a log is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawRecord<'a> {
    /// To be added to the batch's base timestamp, wrapping.
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: HeadersView<'a>,
}

impl RawRecord<'_> {
    /// The producer's timestamp. Wraps as in Kafka, where the delta was taken by a subtraction that wraps.
    #[inline]
    pub fn timestamp(&self, header: &BatchHeader) -> Timestamp {
        Timestamp(header.base_timestamp.as_millis().wrapping_add(self.timestamp_delta))
    }
}

/// Takes one record off the front of `bytes`; an error says what is wrong with it.
// Always: as a call, with its large result through memory, the check of a small record takes twice as long (16 ns, not 8).
#[inline(always)]
pub(super) fn take_record<'a>(bytes: &mut &'a [u8]) -> Result<RawRecord<'a>, &'static str> {
    let length = varint::take_i32(bytes).ok_or("its length is no varint")?;
    let length = usize::try_from(length).map_err(|_| "its length is negative")?;
    if length > bytes.len() {
        return Err("it is longer than its batch");
    }
    let (mut record, rest) = bytes.split_at(length);
    *bytes = rest;
    // Record attributes: one byte, unused in version 2.
    record = record.get(1..).ok_or("it has no attributes")?;
    let timestamp_delta = varint::take_i64(&mut record).ok_or("its timestamp is no varint")?;
    let offset_delta = varint::take_i32(&mut record).ok_or("its offset is no varint")?;
    let key = take_bytes(&mut record).ok_or("its key is longer than the record")?;
    let value = take_bytes(&mut record).ok_or("its value is longer than the record")?;
    let count = varint::take_i32(&mut record).ok_or("its header count is no varint")?;
    let count = usize::try_from(count).map_err(|_| "its header count is negative")?;
    let headers = HeadersView { bytes: record, count };
    for _ in 0..count {
        take_header(&mut record).ok_or("a header is longer than the record or has no key")?;
    }
    if !record.is_empty() {
        return Err("bytes follow its last field");
    }
    Ok(RawRecord { timestamp_delta, offset_delta, key, value, headers })
}

#[inline]
#[allow(clippy::option_option, reason = "outer: cut off; inner: null")]
fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varint::take_i32(bytes)? {
        -1 => Some(None),
        length => {
            let length = usize::try_from(length).ok()?;
            let (field, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some(Some(field))
        }
    }
}

fn take_header<'a>(bytes: &mut &'a [u8]) -> Option<Header<'a>> {
    let key = take_bytes(bytes)??;
    let value = take_bytes(bytes)?;
    Some(Header { key, value })
}

/// Bytes of a record without its length field.
#[inline]
pub(super) fn body_len(
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) -> usize {
    let field = |bytes: Option<&[u8]>| bytes.map_or(1, |b| varint::len(b.len() as i64) + b.len());
    1 + varint::len(timestamp_delta)
        + varint::len(i64::from(offset_delta))
        + field(key)
        + field(value)
        + varint::len(headers.len() as i64)
        + headers.iter().map(|h| field(Some(h.key)) + field(h.value)).sum::<usize>()
}

/// Appends a record.
#[inline]
pub(super) fn put_record(
    out: &mut Vec<u8>,
    timestamp_delta: i64,
    offset_delta: i32,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) {
    let length = body_len(timestamp_delta, offset_delta, key, value, headers);
    out.reserve(length + 10);
    varint::put(out, length as i64);
    out.push(0);
    varint::put(out, timestamp_delta);
    varint::put(out, i64::from(offset_delta));
    put_bytes(out, key);
    put_bytes(out, value);
    varint::put(out, headers.len() as i64);
    for header in headers {
        put_bytes(out, Some(header.key));
        put_bytes(out, header.value);
    }
}

#[inline]
fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => varint::put(out, -1),
        Some(bytes) => {
            varint::put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
    }
}
