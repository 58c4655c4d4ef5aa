//! Stored batches as plain records.

use bytes::Bytes;
use thalweg_core::Offset;
use thalweg_core::batch::{BatchError, BatchIter, HeadersView, RecordView, TimestampType};
use thalweg_core::compression::Compression;
use thalweg_proto::v1;

/// What a record weighs besides its key, value and headers, in bytes: its fields' tags, lengths, offset and timestamp.
const RECORD_OVERHEAD: usize = 24;

/// Which records are wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The first offset.
    pub from: Offset,
    /// Only below this offset.
    pub until: Option<Offset>,
    /// Stop behind the record with which this many bytes are reached; the first comes whatever its size.
    pub max_bytes: usize,
    /// Stop behind this many records.
    pub max_records: u64,
    /// Bytes to which one batch may inflate.
    pub max_inflated_bytes: usize,
}

/// What was decoded.
#[derive(Debug)]
pub struct Decoded {
    /// In order.
    pub records: Vec<v1::Record>,
    /// Where to read on; more of the same data may be left.
    pub next_offset: Offset,
    /// What the records weigh.
    pub bytes: usize,
}

/// Decodes whole batches. `scratch` holds what is inflated and is reused.
pub fn decode(data: &Bytes, wanted: Wanted, scratch: &mut Vec<u8>) -> Result<Decoded, BatchError> {
    let mut out = Decoded { records: Vec::new(), next_offset: wanted.from, bytes: 0 };
    for batch in BatchIter::new(data) {
        let batch = batch?;
        let header = batch.header;
        if header.next_offset() <= wanted.from {
            continue;
        }
        // Control batches are for brokers; a reader steps over them.
        if !header.attributes.is_control() {
            let plain = header.attributes.compression()? == Compression::None;
            let kind = timestamp_type(header.attributes.timestamp_type());
            let whole = batch.walk_in_turn(scratch, wanted.max_inflated_bytes, |records| {
                for record in records {
                    let record = record?;
                    if record.offset < wanted.from {
                        continue;
                    }
                    out.next_offset = record.offset;
                    let full =
                        out.bytes >= wanted.max_bytes || out.records.len() as u64 >= wanted.max_records;
                    if full || wanted.until.is_some_and(|until| record.offset >= until) {
                        return Ok(false);
                    }
                    let record = to_proto(&record, data, plain, kind);
                    out.bytes += weight(&record);
                    out.records.push(record);
                }
                Ok(true)
            })?;
            if !whole {
                return Ok(out);
            }
        }
        out.next_offset = header.next_offset();
    }
    Ok(out)
}

/// How many records whole batches hold, by their headers.
pub fn count_records(data: &[u8]) -> u64 {
    BatchIter::new(data)
        .map_while(Result::ok)
        .map(|batch| u64::try_from(batch.header.record_count).unwrap_or(0))
        .sum()
}

/// What a record weighs when it is sent, in bytes.
pub fn weight(record: &v1::Record) -> usize {
    let headers = record.headers.iter();
    RECORD_OVERHEAD
        + record.key.as_ref().map_or(0, Bytes::len)
        + record.value.as_ref().map_or(0, Bytes::len)
        + headers.map(|header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len)).sum::<usize>()
}

fn to_proto(record: &RecordView<'_>, data: &Bytes, plain: bool, kind: v1::TimestampType) -> v1::Record {
    // What is not compressed lies in `data` as it is, and is shared with it.
    let bytes = |part: &[u8]| if plain { data.slice_ref(part) } else { Bytes::copy_from_slice(part) };
    v1::Record {
        key: record.key.map(bytes),
        value: record.value.map(bytes),
        headers: headers(record.headers, bytes),
        timestamp_ms: Some(record.timestamp.as_millis()),
        offset: record.offset.get(),
        timestamp_type: kind as i32,
    }
}

fn headers(view: HeadersView<'_>, bytes: impl Fn(&[u8]) -> Bytes) -> Vec<v1::Header> {
    view.iter()
        .map(|header| v1::Header {
            key: String::from_utf8_lossy(header.key).into_owned(),
            value: header.value.map(&bytes),
        })
        .collect()
}

fn timestamp_type(kind: TimestampType) -> v1::TimestampType {
    match kind {
        TimestampType::CreateTime => v1::TimestampType::CreateTime,
        TimestampType::LogAppendTime => v1::TimestampType::LogAppendTime,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::Timestamp;
    use thalweg_core::batch::{BatchBuilder, Header, ProducerStamp};

    fn batch(codec: Compression, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new(codec, 1024);
        for value in values {
            let header = Header { key: b"h", value: Some(b"x") };
            builder.append(Timestamp(5), None, Some(value.as_bytes()), &[header]);
        }
        builder.finish(ProducerStamp::NONE)
    }

    fn wanted(from: i64) -> Wanted {
        Wanted {
            from: Offset(from),
            until: None,
            max_bytes: 1 << 20,
            max_records: 100,
            max_inflated_bytes: 1 << 20,
        }
    }

    fn values(decoded: &Decoded) -> Vec<&[u8]> {
        decoded.records.iter().filter_map(|record| record.value.as_deref()).collect()
    }

    #[test]
    fn records_below_the_offset_are_skipped_with_every_codec() {
        for codec in Compression::ALL {
            let data = batch(codec, &["a", "b", "c"]);
            let decoded = decode(&data, wanted(1), &mut Vec::new()).unwrap();
            assert_eq!(values(&decoded), [b"b", b"c"]);
            assert_eq!(decoded.next_offset, Offset(3));
            assert_eq!(decoded.records[0].headers[0].key, "h");
            assert_eq!(decoded.records[0].timestamp_ms, Some(5));
        }
    }

    #[test]
    fn a_batch_is_cut_at_the_bounds_and_goes_on_where_it_was_cut() {
        let data = batch(Compression::Zstd, &["a", "b", "c"]);
        for bound in [
            Wanted { max_bytes: 1, ..wanted(1) },
            Wanted { max_records: 1, ..wanted(1) },
            Wanted { until: Some(Offset(2)), ..wanted(1) },
        ] {
            let decoded = decode(&data, bound, &mut Vec::new()).unwrap();
            assert_eq!((values(&decoded), decoded.next_offset), (vec![&b"b"[..]], Offset(2)));
        }
        assert_eq!(count_records(&data), 3);
    }
}
