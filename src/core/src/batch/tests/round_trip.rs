//! What goes in comes out, whatever it is.

use super::super::*;
use super::{Owned, check, records, resealed};
use crate::compression::Compression;
use crate::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(super) fn any_codec() -> impl Strategy<Value = Compression> {
    proptest::sample::select(&Compression::ALL[..])
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..80), (any::<u8>(), 0usize..3000).prop_map(|(byte, len)| vec![byte; len])]
}

fn any_timestamp() -> impl Strategy<Value = Timestamp> {
    // Mostly of our time, sometimes anything at all.
    prop_oneof![4 => 1_600_000_000_000..1_800_000_000_000i64, 1 => any::<i64>()].prop_map(Timestamp)
}

pub(super) fn any_record() -> impl Strategy<Value = Owned> {
    let header = (vec(any::<u8>(), 0..20), option::of(any_bytes()));
    (any_timestamp(), option::of(any_bytes()), option::of(any_bytes()), vec(header, 0..4))
        .prop_map(|(timestamp, key, value, headers)| Owned { timestamp, key, value, headers })
}

fn any_stamp() -> impl Strategy<Value = ProducerStamp> {
    let some =
        (0..=i64::MAX, 0..=i16::MAX, 0..=i32::MAX, any::<bool>()).prop_map(|(id, epoch, sequence, tx)| {
            ProducerStamp {
                producer_id: ProducerId(id),
                producer_epoch: ProducerEpoch(epoch),
                base_sequence: Sequence(sequence),
                transactional: tx,
            }
        });
    prop_oneof![Just(ProducerStamp::NONE), some]
}

pub(super) fn build(codec: Compression, all: &[Owned], stamp: ProducerStamp) -> Bytes {
    let mut builder = BatchBuilder::new(codec, 1 << 16);
    assert!(builder.is_empty());
    for (i, record) in (0..).zip(all) {
        let headers: Vec<_> =
            record.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        let before = builder.len();
        assert_eq!(builder.append(record.timestamp, key, value, &headers), i);
        assert!(builder.len() - before <= record_size_bound(key, value, &headers));
    }
    assert_eq!(builder.record_count(), all.len() as i32);
    builder.finish(stamp)
}

fn values(bytes: &[u8]) -> Vec<Owned> {
    records(bytes).into_iter().map(|(_, record)| record).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_codec_gives_the_records_back(
        codec in any_codec(),
        to in any_codec(),
        all in vec(any_record(), 1..12),
        stamp in any_stamp(),
    ) {
        let bytes = build(codec, &all, stamp);
        let batch = check(&bytes).unwrap();
        prop_assert_eq!(batch.header().base_offset, Offset::ZERO);
        prop_assert_eq!(batch.header().leader_epoch, LeaderEpoch::NONE);
        prop_assert_eq!(batch.header().size(), bytes.len());
        prop_assert_eq!(batch.body(), &bytes[HEADER_LEN..]);
        let latest = all.iter().map(|record| record.timestamp).max();
        prop_assert_eq!(Some(batch.header().max_timestamp), latest);
        prop_assert_eq!(batch.as_ref().bytes, &bytes[..]);
        prop_assert_eq!(&values(&bytes), &all);

        let again = batch.recompressed(to, &Limits::default()).unwrap();
        let checked = check(again.bytes()).unwrap();
        prop_assert_eq!(checked.header(), again.header());
        prop_assert_eq!(again.header().attributes.compression(), Ok(to));
        prop_assert_eq!(again.header().base_sequence, stamp.base_sequence);
        prop_assert_eq!(again.header().attributes.is_transactional(), stamp.transactional);
        prop_assert_eq!(&values(again.bytes()), &all);
    }

    #[test]
    fn a_header_encodes_and_parses(
        (base_offset, leader_epoch, crc, flags) in any::<(i64, i32, u32, i16)>(),
        (base, max, id, epoch, sequence) in any::<(i64, i64, i64, i16, i32)>(),
        batch_length in 49..=i32::MAX,
        (record_count, last_offset_delta) in (0..=i32::MAX).prop_flat_map(|d| (0..=d, Just(d))),
    ) {
        let header = BatchHeader {
            base_offset: Offset(base_offset), batch_length, leader_epoch: LeaderEpoch(leader_epoch), crc,
            attributes: Attributes(flags), last_offset_delta, base_timestamp: Timestamp(base),
            max_timestamp: Timestamp(max), producer_id: ProducerId(id), producer_epoch: ProducerEpoch(epoch),
            base_sequence: Sequence(sequence), record_count,
        };
        prop_assert_eq!(BatchHeader::parse(&header.encode()), Ok(header));
        // None of them overflows.
        let _ = (header.size(), header.last_offset(), header.next_offset());
    }

    #[test]
    fn a_new_stamp_changes_the_stamp_alone(
        codec in any_codec(),
        all in vec(any_record(), 1..5),
        (first, second) in (any_stamp(), any_stamp()),
    ) {
        let bytes = build(codec, &all, first);
        let restamped = restamp(&bytes, second).unwrap();
        prop_assert_eq!(&restamped, &build(codec, &all, second));
    }
}

#[test]
fn restamp_takes_one_whole_batch() {
    let bytes = build(Compression::None, &[Owned::plain(1, None, "v")], ProducerStamp::NONE);
    let two = Bytes::from([&bytes[..], &bytes].concat());
    assert_eq!(restamp(&two, ProducerStamp::NONE), Err(BatchError::TrailingBytes(bytes.len())));
    let short = bytes.slice(..bytes.len() - 1);
    assert!(matches!(restamp(&short, ProducerStamp::NONE), Err(BatchError::Truncated { .. })));
}

#[test]
fn a_builder_stops_at_its_limit_but_takes_a_first_record_of_any_size() {
    let value = [b'v'; 1000];
    let mut builder = BatchBuilder::new(Compression::None, 500);
    assert!(builder.has_room_for(None, Some(&value), &[]));
    builder.append(Timestamp(1), None, Some(&value), &[]);
    assert!(!builder.has_room_for(None, None, &[]));
    check(&builder.finish(ProducerStamp::NONE)).unwrap();

    // A buffer that was used before leaves nothing in the batch.
    let mut builder = BatchBuilder::with_buffer(Compression::None, 5000, vec![0xee; 300]);
    assert_eq!(builder.len(), HEADER_LEN);
    while builder.has_room_for(Some(b"k"), Some(&value), &[]) {
        builder.append(Timestamp(1), Some(b"k"), Some(&value), &[]);
    }
    assert_eq!(builder.record_count(), 4);
    let bytes = builder.finish(ProducerStamp::NONE);
    assert!(bytes.len() <= 5000);
    check(&bytes).unwrap();
}

#[test]
fn log_append_time_is_the_time_of_all_records() {
    let all = [Owned::plain(1, None, "a"), Owned::plain(2, None, "b")];
    let stored = resealed(&build(Compression::Lz4, &all, ProducerStamp::NONE), |header| {
        header.attributes = header.attributes.with_timestamp_type(TimestampType::LogAppendTime);
        header.max_timestamp = Timestamp(99);
        header.base_offset = Offset(40);
    });
    let read: Vec<_> =
        records(&stored).into_iter().map(|(offset, record)| (offset, record.timestamp)).collect();
    assert_eq!(read, [(40, Timestamp(99)), (41, Timestamp(99))]);
}

#[test]
fn a_compacted_batch_keeps_its_gaps() {
    let all = [Owned::plain(1, None, "a"), Owned::plain(1, None, "b")];
    let mut bytes = build(Compression::None, &all, ProducerStamp::NONE).to_vec();
    // The second record's offset delta, 1, becomes 4; the header's last offset stays that of a record that is gone.
    let second = HEADER_LEN + (bytes.len() - HEADER_LEN) / 2;
    bytes[second + 3] = 8;
    let compacted = resealed(&bytes, |header| header.last_offset_delta = 6);
    let offsets: Vec<_> = records(&compacted).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(offsets, [0, 4]);
    assert_eq!(BatchHeader::parse(&compacted).unwrap().next_offset(), Offset(7));
    assert!(check(&compacted).is_err(), "a producer may not leave gaps");
    let all_gone = resealed(&bytes[..HEADER_LEN], |h| (h.record_count, h.last_offset_delta) = (0, 6));
    assert_eq!(records(&all_gone), []);
}
