use super::*;
use thalweg_core::ErrorCode;
use thalweg_core::Timestamp;
use thalweg_core::batch::{BatchBuilder, ProducerStamp};
use thalweg_core::compression::Compression;

fn key() -> Key {
    (TopicName::new("t").unwrap(), PartitionId(0))
}

fn endpoint() -> Arc<str> {
    Arc::from("b:1")
}

/// One batch at `base`, as a leader stores it.
fn batch(base: i64, values: &[&[u8]], codec: Compression) -> Vec<u8> {
    let mut builder = BatchBuilder::new(codec, 1 << 16);
    for value in values {
        builder.append(Timestamp(5), None, Some(value), &[]);
    }
    let mut bytes = builder.finish(ProducerStamp::NONE).to_vec();
    bytes[..8].copy_from_slice(&base.to_be_bytes());
    bytes
}

fn data(tag: u64, next: i64, bytes: Vec<u8>) -> proto::PartitionData {
    proto::PartitionData {
        topic: "t".into(),
        next_offset: next,
        high_watermark: next,
        tag,
        data: Some(Data::RecordBatches(bytes.into())),
        ..Default::default()
    }
}

fn reading(offset: i64) -> (Assignments, u64) {
    let mut assignments = Assignments::default();
    assignments.assign(key(), Offset(offset));
    let (at, tag) = assignments.attach(&key(), &endpoint(), None).unwrap();
    assert_eq!(at, Offset(offset));
    (assignments, tag)
}

fn offsets(chunk: &Chunk) -> Vec<(i64, Vec<u8>)> {
    let mut lent = Vec::new();
    let mut scratch = Vec::new();
    let mut records = chunk.records(&mut scratch);
    while let Some(record) = records.next_record() {
        let record = record.unwrap();
        lent.push((record.offset.get(), record.value.unwrap().to_vec()));
    }
    let mut called = Vec::new();
    let each = |record: thalweg_core::batch::RecordView<'_>| {
        called.push((record.offset.get(), record.value.unwrap().to_vec()));
    };
    chunk.for_each_record(&mut Vec::new(), each).unwrap();
    assert_eq!(lent, called);
    lent
}

#[test]
fn records_below_the_wanted_offset_are_left_out_under_every_codec() {
    for codec in Compression::ALL {
        let (mut assignments, tag) = reading(11);
        let mut bytes = batch(10, &[b"a", b"b", b"c"], codec);
        bytes.extend(batch(13, &[b"d"], Compression::None));
        bytes.extend(batch(14, &[b"e", b"f"], codec));
        let Accepted::Chunk(chunk) = assignments.accept(&data(tag, 16, bytes), true) else {
            panic!("{codec}")
        };
        assert_eq!((chunk.first_wanted, chunk.next_offset), (Offset(11), Offset(16)));
        let expected: Vec<(i64, Vec<u8>)> =
            (11..16).map(|at| (at, vec![b"abcdef"[at as usize - 10]])).collect();
        assert_eq!(offsets(&chunk), expected);
        assert_eq!(assignments.position(&key()), Some(Offset(16)));
    }
}

#[test]
fn data_from_before_a_seek_a_pause_or_another_leader_is_dropped() {
    let (mut assignments, old) = reading(0);
    let stale = || data(old, 1, batch(0, &[b"a"], Compression::None));
    assert_eq!(assignments.detach(&key()), Some(endpoint()));
    assert!(matches!(assignments.accept(&stale(), true), Accepted::Nothing));
    assignments.assign(key(), Offset(50));
    let (_, new) = assignments.attach(&key(), &endpoint(), None).unwrap();
    assert!(matches!(assignments.accept(&stale(), true), Accepted::Nothing));
    assert_eq!(assignments.position(&key()), Some(Offset(50)));
    assert!(assignments.attach(&key(), &endpoint(), None).is_none(), "it is read already");
    assignments.lost(&endpoint(), "reset");
    let late = data(new, 51, batch(50, &[b"b"], Compression::None));
    assert!(matches!(assignments.accept(&late, true), Accepted::Nothing));
    assert_eq!(assignments.wanted(), [(key(), Fate::Refresh)]);
    assert!(matches!(assignments.accept(&data(9, 1, Vec::new()), true), Accepted::Nothing));
}

#[test]
fn a_paused_partition_is_not_looked_for_until_it_is_resumed() {
    let (mut assignments, _) = reading(7);
    assignments.pause(&key());
    assignments.search(&key(), Fate::Refresh);
    assignments.lost(&endpoint(), "reset");
    assert!(assignments.wanted().is_empty());
    assignments.resume(&key());
    assert_eq!(assignments.wanted(), [(key(), Fate::Follow)]);
    assert_eq!(assignments.position(&key()), Some(Offset(7)));
}

#[test]
fn a_reset_moves_the_position_unless_a_seek_came_first() {
    let (mut assignments, _) = reading(7);
    assignments.search(&key(), Fate::Reset(Start::Earliest));
    assert_eq!(assignments.attach(&key(), &endpoint(), Some(Offset(20))).unwrap().0, Offset(20));
    assignments.search(&key(), Fate::Reset(Start::Earliest));
    assignments.assign(key(), Offset(90));
    assert_eq!(assignments.attach(&key(), &endpoint(), Some(Offset(20))).unwrap().0, Offset(90));
}

#[test]
fn damage_is_told_and_moves_nothing() {
    let mut bytes = batch(0, &[b"abcdef"], Compression::None);
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    let (mut assignments, tag) = reading(0);
    let broken = assignments.accept(&data(tag, 1, bytes.clone()), true);
    let Accepted::Broken(_, error) = broken else { panic!("a bad checksum") };
    assert_eq!(error.code(), Some(ErrorCode::CorruptBatch));
    assert_eq!(assignments.position(&key()), Some(Offset(0)));
    assert!(
        matches!(assignments.accept(&data(tag, 1, bytes), false), Accepted::Chunk(_)),
        "unless nobody checks"
    );
    let back = assignments.accept(&data(tag, 0, Vec::new()), true);
    assert!(matches!(back, Accepted::Broken(..)), "a leader cannot go back");
    assert!(matches!(assignments.accept(&data(tag, 4, Vec::new()), true), Accepted::Nothing));
    assert_eq!(assignments.position(&key()), Some(Offset(4)), "an empty stretch is passed over");
}

#[test]
fn a_refusal_is_handed_on() {
    let (mut assignments, tag) = reading(0);
    let error = ApiError::new(ErrorCode::NotLeader, "moved").to_proto();
    let refused = proto::PartitionData { error: Some(error), ..data(tag, 0, Vec::new()) };
    let Accepted::Refused(_, error) = assignments.accept(&refused, true) else {
        panic!("an error is no data")
    };
    assert_eq!(error.code, ErrorCode::NotLeader);
}

#[test]
fn a_failure_is_told_until_the_stream_is_open_or_data_came() {
    let (mut assignments, _) = reading(0);
    let told = |assignments: &Assignments, open| assignments.failure(|_| open).map(|(_, why)| why.to_owned());
    assert_eq!(told(&assignments, false), None, "a stream that opens has not failed");
    assignments.lost(&endpoint(), "reset");
    let why = Some("broker at b:1: reset".to_owned());
    assert_eq!(told(&assignments, true), why);
    let (_, tag) = assignments.attach(&key(), &endpoint(), None).unwrap();
    assert_eq!((told(&assignments, false), told(&assignments, true)), (why, None));
    let _ = assignments.accept(&data(tag, 4, Vec::new()), true);
    assert_eq!(told(&assignments, false), None);
    assignments.failed(&key(), "no leader".to_owned());
    assert!(told(&assignments, false).is_some());
    assignments.pause(&key());
    assignments.failed(&key(), "no leader".to_owned());
    assignments.resume(&key());
    assert_eq!(told(&assignments, false), None, "nobody wanted to read it");
}
