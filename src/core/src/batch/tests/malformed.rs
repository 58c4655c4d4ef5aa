//! One batch for each thing that can be wrong, each with the one error that it gives.

use super::super::varint::put;
use super::super::*;
use super::{check, resealed};
use crate::compression::{Compression, InflateError};
use crate::{ErrorCode, ProducerEpoch, ProducerId, Sequence, Timestamp};
use bytes::Bytes;

const AT: Timestamp = Timestamp(1_700_000_000_000);

fn good(codec: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec, 1 << 10);
    builder.append(AT, Some(b"key"), Some(b"value"), &[Header { key: b"h", value: None }]);
    builder.append(AT.saturating_add_millis(7), None, Some(b"another value"), &[]);
    builder.finish(ProducerStamp::NONE).to_vec()
}

/// A batch of two whose second record is these fields, with a true length field.
fn with_record(fields: &[u8]) -> Vec<u8> {
    let mut record = Vec::new();
    put(&mut record, fields.len() as i64);
    record.extend_from_slice(fields);
    with_record_bytes(&record)
}

/// The same, the length field included.
fn with_record_bytes(record: &[u8]) -> Vec<u8> {
    let mut builder = BatchBuilder::new(Compression::None, 1 << 10);
    builder.append(AT, None, Some(b"first"), &[]);
    let mut bytes = builder.finish(ProducerStamp::NONE).to_vec();
    bytes.extend_from_slice(record);
    resealed(&bytes, |header| {
        header.record_count = 2;
        header.last_offset_delta = 1;
    })
}

/// attributes, timestamp delta 0, offset delta 1.
const PREFIX: [u8; 3] = [0, 0, 2];

fn record(rest: &[u8]) -> Vec<u8> {
    with_record(&[&PREFIX[..], rest].concat())
}

fn varint(value: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    put(&mut bytes, value);
    bytes
}

#[test]
fn the_pieces_of_the_table_make_good_batches() {
    for codec in Compression::ALL {
        check(&good(codec)).unwrap();
    }
    // null key, null value, no headers
    check(&record(&[1, 1, 0])).unwrap();
    // one header "h" with a null value
    check(&record(&[1, 1, 2, 2, b'h', 1])).unwrap();
}

#[test]
fn every_malformed_header_has_its_error() {
    let valid = good(Compression::None);
    let set = |at: usize, bytes: &[u8]| {
        let mut batch = valid.clone();
        batch[at..at + bytes.len()].copy_from_slice(bytes);
        batch
    };
    let header = |change: fn(&mut BatchHeader)| resealed(&valid, change);
    let size = valid.len();
    let cases: Vec<(&str, Vec<u8>, BatchError)> = vec![
        ("nothing", vec![], BatchError::Truncated { needed: HEADER_LEN, available: 0 }),
        ("half a header", valid[..60].to_vec(), BatchError::Truncated { needed: HEADER_LEN, available: 60 }),
        ("cut off", valid[..size - 1].to_vec(), BatchError::Truncated { needed: size, available: size - 1 }),
        ("a byte more", [&valid[..], &[0]].concat(), BatchError::TrailingBytes(1)),
        ("two batches", [&valid[..], &valid].concat(), BatchError::TrailingBytes(size)),
        ("magic 0", set(16, &[0]), BatchError::Magic(0)),
        ("magic 1", set(16, &[1]), BatchError::Magic(1)),
        ("magic -1", set(16, &[0xff]), BatchError::Magic(-1)),
        ("length of less than a header", set(8, &48i32.to_be_bytes()), BatchError::Length(48)),
        ("negative length", set(8, &(-1i32).to_be_bytes()), BatchError::Length(-1)),
        (
            "the largest length",
            set(8, &i32::MAX.to_be_bytes()),
            BatchError::Truncated { needed: LOG_OVERHEAD + i32::MAX as usize, available: size },
        ),
        (
            "no record",
            header(|h| (h.record_count, h.last_offset_delta) = (0, 0)),
            BatchError::Count { count: 0, last_offset_delta: 0 },
        ),
        (
            "negative count",
            header(|h| h.record_count = -1),
            BatchError::Count { count: -1, last_offset_delta: 1 },
        ),
        (
            "negative last offset",
            header(|h| h.last_offset_delta = -2),
            BatchError::Count { count: 2, last_offset_delta: -2 },
        ),
        (
            "fewer records than offsets",
            header(|h| h.last_offset_delta = 2),
            BatchError::Count { count: 2, last_offset_delta: 2 },
        ),
        (
            "more records than offsets",
            header(|h| h.last_offset_delta = 0),
            BatchError::Count { count: 2, last_offset_delta: 0 },
        ),
        (
            "the largest count",
            header(|h| (h.record_count, h.last_offset_delta) = (i32::MAX, i32::MAX - 1)),
            BatchError::TooManyRecords { count: i32::MAX, limit: 1 << 20 },
        ),
        (
            "a record more than there is",
            header(|h| (h.record_count, h.last_offset_delta) = (3, 2)),
            BatchError::Record { index: 2, what: "its length is no varint" },
        ),
        (
            "a record less than there is",
            header(|h| (h.record_count, h.last_offset_delta, h.max_timestamp) = (1, 0, AT)),
            BatchError::TrailingBytes(20),
        ),
        ("codec 5", header(|h| h.attributes.0 |= 5), BatchError::Codec(5)),
        ("codec 7", header(|h| h.attributes.0 |= 7), BatchError::Codec(7)),
        ("a control batch", header(|h| h.attributes.0 |= 1 << 5), BatchError::Control),
        ("a delete horizon", header(|h| h.attributes.0 |= 1 << 6), BatchError::DeleteHorizon),
        ("LogAppendTime", header(|h| h.attributes.0 |= 1 << 3), BatchError::LogAppendTime),
        ("a transaction without producer", header(|h| h.attributes.0 |= 1 << 4), BatchError::ProducerFields),
        ("a producer without epoch", header(|h| h.producer_id = ProducerId(1)), BatchError::ProducerFields),
        (
            "a producer without sequence",
            header(|h| (h.producer_id, h.producer_epoch) = (ProducerId(1), ProducerEpoch(0))),
            BatchError::ProducerFields,
        ),
        ("an epoch alone", header(|h| h.producer_epoch = ProducerEpoch(0)), BatchError::ProducerFields),
        ("a sequence alone", header(|h| h.base_sequence = Sequence(0)), BatchError::ProducerFields),
        ("producer -2", header(|h| h.producer_id = ProducerId(-2)), BatchError::ProducerFields),
        (
            "a largest timestamp that is none",
            header(|h| h.max_timestamp = Timestamp(AT.as_millis() + 8)),
            BatchError::MaxTimestamp { header: AT.as_millis() + 8, records: AT.as_millis() + 7 },
        ),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(check(&bytes).unwrap_err(), expected, "{name}");
    }
    // What has no meaning yet is let through.
    check(&header(|h| h.attributes.0 |= 1 << 7 | i16::MIN)).unwrap();
}

#[test]
fn every_malformed_record_has_its_error() {
    const LONG_KEY: &str = "its key is longer than the record";
    const LONG_VALUE: &str = "its value is longer than the record";
    const HEADER: &str = "a header is longer than the record or has no key";
    let cases: Vec<(&str, Vec<u8>, &'static str)> = vec![
        ("length that never ends", with_record_bytes(&[0xff; 12]), "its length is no varint"),
        ("length -1", with_record_bytes(&varint(-1)), "its length is negative"),
        (
            "length beyond the batch",
            with_record_bytes(&[&varint(8)[..], &PREFIX, &[1, 1, 0]].concat()),
            "it is longer than its batch",
        ),
        (
            "the largest length",
            with_record_bytes(&varint(i64::from(i32::MAX))),
            "it is longer than its batch",
        ),
        ("length 0", with_record(&[]), "it has no attributes"),
        ("attributes alone", with_record(&[0]), "its timestamp is no varint"),
        (
            "timestamp that never ends",
            with_record(&[&[0][..], &[0xff; 11]].concat()),
            "its timestamp is no varint",
        ),
        ("no offset", with_record(&[0, 0]), "its offset is no varint"),
        (
            "offset of 64 bits",
            with_record(&[&[0, 0][..], &varint(1 << 40)].concat()),
            "its offset is no varint",
        ),
        ("offset 0 again", with_record(&[0, 0, 0, 1, 1, 0]), "its offset is out of order"),
        ("offset too far", with_record(&[0, 0, 4, 1, 1, 0]), "its offset is out of order"),
        ("negative offset", with_record(&[0, 0, 1, 1, 1, 0]), "its offset is out of order"),
        ("no key", record(&[]), LONG_KEY),
        ("key of -2", record(&[3, 1, 0]), LONG_KEY),
        ("key beyond the record", record(&[8, b'k', 1, 0]), LONG_KEY),
        ("the largest key", record(&varint(i64::from(i32::MAX))), LONG_KEY),
        ("no value", record(&[1]), LONG_VALUE),
        ("value of -2", record(&[1, 3, 0]), LONG_VALUE),
        ("value beyond the record", record(&[1, 6, b'v', 0]), LONG_VALUE),
        ("no header count", record(&[1, 1]), "its header count is no varint"),
        ("header count -1", record(&[1, 1, 1]), "its header count is negative"),
        ("a header too many", record(&[1, 1, 4, 2, b'h', 1]), HEADER),
        ("the largest header count", record(&[&[1, 1][..], &varint(i64::from(i32::MAX))].concat()), HEADER),
        ("a header's null key", record(&[1, 1, 2, 1, 1]), HEADER),
        ("a header's key of -2", record(&[1, 1, 2, 3, 1]), HEADER),
        ("a header's value of -2", record(&[1, 1, 2, 2, b'h', 3]), HEADER),
        ("a header beyond the record", record(&[1, 1, 2, 2, b'h', 4, b'v']), HEADER),
        ("a header too few", record(&[1, 1, 0, 2, b'h', 1]), "bytes follow its last field"),
    ];
    for (name, bytes, what) in cases {
        assert_eq!(check(&bytes).unwrap_err(), BatchError::Record { index: 1, what }, "{name}");
        // A reader of such bytes meets the same end, without a check in front.
        let mut scratch = Vec::new();
        let batch = BatchIter::new(&bytes).next().unwrap().unwrap();
        let walked: Vec<_> = batch.records(&mut scratch, 0).unwrap().collect();
        assert!(walked[0].is_ok() && walked[1..].iter().any(Result::is_err) && walked.len() <= 3, "{name}");
    }
}

#[test]
fn what_does_not_inflate_is_refused_for_every_codec() {
    for codec in &Compression::ALL[1..] {
        let valid = good(*codec);
        // The packed bytes cut short, with a header that fits them.
        let cut = resealed(&valid[..valid.len() - 6], |_| {});
        assert_eq!(check(&cut).unwrap_err().code(), ErrorCode::CorruptBatch, "{codec}");
        let garbage = resealed(&[&valid[..HEADER_LEN], &[0xa5; 40]].concat(), |_| {});
        let error = check(&garbage).unwrap_err();
        assert!(
            matches!(&error, BatchError::Inflate(InflateError::Malformed { codec: said, .. }) if said == codec),
            "{codec}: {error}"
        );
        let followed = resealed(&[&valid[..], b"trailing bytes"].concat(), |_| {});
        assert_eq!(check(&followed).unwrap_err().code(), ErrorCode::CorruptBatch, "{codec}");
        let limits = Limits { max_inflated_bytes: 30, ..Limits::default() };
        assert_eq!(
            ValidBatch::check(Bytes::from(valid), &limits).unwrap_err(),
            BatchError::Inflate(InflateError::TooLarge { limit: 30 }),
            "{codec}"
        );
    }
}

#[test]
fn a_record_without_a_key_is_refused_where_keys_are_required() {
    use crate::batch::{BatchBuilder, ProducerStamp};
    for codec in [Compression::None, Compression::Zstd] {
        let mut builder = BatchBuilder::new(codec, 1 << 10);
        builder.append(Timestamp(1), Some(b"k"), Some(b"v"), &[]);
        let keyed = builder.finish(ProducerStamp::NONE);
        let mut builder = BatchBuilder::new(codec, 1 << 10);
        builder.append(Timestamp(1), Some(b""), None, &[]);
        builder.append(Timestamp(1), None, Some(b"v"), &[]);
        let keyless = builder.finish(ProducerStamp::NONE);
        let compacted = Limits { keys_required: true, ..Limits::default() };
        ValidBatch::check(keyed, &compacted).unwrap();
        ValidBatch::check(keyless.clone(), &Limits::default()).unwrap();
        let error = ValidBatch::check(keyless, &compacted).unwrap_err();
        assert_eq!((error.code(), error), (ErrorCode::InvalidRequest, BatchError::NoKey(1)));
    }
}

#[test]
fn limits_are_exact_and_have_the_code_of_their_size() {
    let bytes = Bytes::from(good(Compression::None));
    let limits = |bytes: usize, records: usize| Limits {
        max_batch_bytes: bytes,
        max_records: records,
        ..Limits::default()
    };
    ValidBatch::check(bytes.clone(), &limits(bytes.len(), 2)).unwrap();
    let large = ValidBatch::check(bytes.clone(), &limits(bytes.len() - 1, 2)).unwrap_err();
    assert_eq!(large, BatchError::TooLarge { size: bytes.len(), limit: bytes.len() - 1 });
    let many = ValidBatch::check(bytes.clone(), &limits(bytes.len(), 1)).unwrap_err();
    assert_eq!(many, BatchError::TooManyRecords { count: 2, limit: 1 });
    for (error, code) in [
        (large, ErrorCode::MessageTooLarge),
        (many, ErrorCode::MessageTooLarge),
        (BatchError::Inflate(InflateError::TooLarge { limit: 1 }), ErrorCode::MessageTooLarge),
        (BatchError::Codec(6), ErrorCode::UnsupportedCompression),
        (BatchError::LogAppendTime, ErrorCode::InvalidTimestamp),
        (BatchError::MaxTimestamp { header: 1, records: 2 }, ErrorCode::InvalidTimestamp),
        (BatchError::Control, ErrorCode::CorruptBatch),
        (BatchError::Crc { expected: 1, actual: 2 }, ErrorCode::CorruptBatch),
    ] {
        assert_eq!(error.code(), code, "{error}");
    }
}
