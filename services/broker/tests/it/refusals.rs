//! Bad input: each has its code, its field and a message that helps, and the broker lives on unharmed.

use crate::harness::*;
use bytes::{Bytes, BytesMut};
use thalweg_core::ErrorCode;
use thalweg_core::batch::{BatchHeader, HEADER_LEN, ProducerStamp, crc_of};
use thalweg_core::compression::Compression;
use thalweg_proto::{ApiError, scan, v1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A batch whose header says something else, with a checksum that fits.
fn reheaded(batch: &Bytes, change: impl FnOnce(&mut BatchHeader)) -> Bytes {
    let mut header = BatchHeader::parse(batch).unwrap();
    change(&mut header);
    let body = &batch[HEADER_LEN..];
    header.crc = crc_of(&header.encode(), body);
    let mut bytes = BytesMut::from(&header.encode()[..]);
    bytes.extend_from_slice(body);
    bytes.freeze()
}

fn refused(result: Result<v1::ProduceResponse, ApiError>) -> (ErrorCode, String) {
    let error = result.unwrap_err();
    assert!(!error.message.is_empty());
    (error.code, error.field.unwrap_or_default())
}

#[tokio::test]
async fn malformed_batches_are_refused_and_harm_nothing() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let good = batch(&["a", "b"]);
    let mut flipped = BytesMut::from(&good[..]);
    flipped[70] ^= 1;
    let mut trailing = BytesMut::from(&good[..]);
    trailing.extend_from_slice(b"!");
    let body = good.slice(HEADER_LEN..);
    let mut bad_varint = BytesMut::from(&good[..HEADER_LEN]);
    bad_varint.extend_from_slice(&[0xff; 12]);
    bad_varint.extend_from_slice(&body[12.min(body.len())..]);
    let bomb = {
        let zeros = vec![0u8; 200 << 20];
        let mut packed = Vec::new();
        Compression::Zstd.compress(&zeros, &mut packed).unwrap();
        let mut bytes = BytesMut::from(&good[..HEADER_LEN]);
        bytes.extend_from_slice(&packed);
        let length = bytes.len() as i32 - 12;
        reheaded(&bytes.freeze(), |header| {
            header.batch_length = length;
            header.attributes = thalweg_core::batch::Attributes::new(Compression::Zstd, false);
        })
    };
    assert!(bomb.len() < 64 * 1024);
    let corrupt = ErrorCode::CorruptBatch;
    for (what, bytes, code) in [
        ("empty", Bytes::new(), corrupt),
        ("cut off", good.slice(..good.len() - 1), corrupt),
        ("flipped bit", flipped.freeze(), corrupt),
        ("trailing byte", trailing.freeze(), corrupt),
        ("count", reheaded(&good, |header| header.record_count = 3), corrupt),
        ("no records", reheaded(&good, |header| header.record_count = 0), corrupt),
        ("bad varint", reheaded(&bad_varint.freeze(), |_| {}), corrupt),
        ("codec", reheaded(&good, |header| header.attributes.0 |= 7), ErrorCode::UnsupportedCompression),
        ("control", reheaded(&good, |header| header.attributes.0 |= 0x20), corrupt),
        ("bomb", bomb, ErrorCode::MessageTooLarge),
    ] {
        let (found, field) = refused(cluster.produce(produce_batch("t", 0, bytes, v1::Acks::All)).await);
        assert_eq!((found, field.as_str()), (code, "record_batch"), "{what}");
    }
    assert_eq!(cluster.end_offset("t", 0).await, 0);
    cluster.produce(produce_batch("t", 0, good, v1::Acks::All)).await.unwrap();
    assert_eq!(cluster.values("t", 0).await.len(), 2);
}

#[tokio::test]
async fn what_would_grow_when_decoded_is_refused_before() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let headers = |count| {
        let headers = vec![v1::Header::default(); count];
        produce_records("t", Some(0), vec![v1::Record { headers, ..Default::default() }])
    };
    let (code, field) = refused(cluster.produce(headers(scan::MAX_HEADERS + 1)).await);
    assert_eq!((code, field.as_str()), (ErrorCode::InvalidRequest, "headers"));
    cluster.produce(headers(100)).await.unwrap();
}

#[tokio::test]
async fn each_illegal_produce_names_its_field() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[("max.message.bytes", "1000")]).await;
    let good = || produce_batch("t", 0, batch(&["a"]), v1::Acks::All);
    let records = |change: &dyn Fn(&mut v1::Record)| {
        let mut record = record(None, "v");
        change(&mut record);
        produce_records("t", Some(0), vec![record])
    };
    let large = batch(&[&"x".repeat(2000)]);
    for (request, code, field) in [
        (v1::ProduceRequest { topic: "".into(), ..good() }, ErrorCode::InvalidRequest, "topic"),
        (v1::ProduceRequest { topic: "no".into(), ..good() }, ErrorCode::UnknownTopic, "topic"),
        (v1::ProduceRequest { topic: "a/b".into(), ..good() }, ErrorCode::UnknownTopic, "topic"),
        (v1::ProduceRequest { partition: Some(1), ..good() }, ErrorCode::UnknownPartition, "partition"),
        (v1::ProduceRequest { partition: Some(-1), ..good() }, ErrorCode::UnknownPartition, "partition"),
        (v1::ProduceRequest { partition: None, ..good() }, ErrorCode::InvalidRequest, "partition"),
        (v1::ProduceRequest { payload: None, ..good() }, ErrorCode::InvalidRequest, "payload"),
        (v1::ProduceRequest { acks: 17, ..good() }, ErrorCode::InvalidRequest, "acks"),
        (v1::ProduceRequest { compression: 17, ..good() }, ErrorCode::UnsupportedCompression, "compression"),
        (produce_records("t", None, vec![]), ErrorCode::InvalidRequest, "records"),
        (produce_batch("t", 0, large, v1::Acks::All), ErrorCode::MessageTooLarge, "record_batch"),
        (records(&|r| r.value = Some(vec![b'x'; 2000].into())), ErrorCode::MessageTooLarge, "records"),
        (records(&|r| r.timestamp_ms = Some(-7)), ErrorCode::InvalidTimestamp, "records[0].timestamp_ms"),
        (
            records(&|r| r.timestamp_ms = Some(now().as_millis() + 7_200_000)),
            ErrorCode::InvalidTimestamp,
            "records",
        ),
        (
            records(&|r| r.headers = vec![v1::Header { key: "h".repeat(40_000), value: None }]),
            ErrorCode::InvalidRequest,
            "records[0].headers",
        ),
    ] {
        assert_eq!(refused(cluster.produce(request).await), (code, field.to_owned()));
    }
    cluster.produce(good()).await.unwrap();
}

#[tokio::test]
async fn one_bad_partition_of_several_does_not_fail_the_others() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 2, &[("max.message.bytes", "1000")]).await;
    // Two keys of different partitions; one of the records is too large.
    let key_of = |partition| {
        let keys = (0..100).map(|n| n.to_string());
        let on = |key: &String| thalweg_core::partitioner::partition_for_key(key.as_bytes(), 2).get();
        keys.into_iter().find(|key| on(key) == partition).unwrap()
    };
    let records = vec![record(Some(&key_of(0)), "small"), record(Some(&key_of(1)), &"x".repeat(2000))];
    let answer = cluster.produce(produce_records("t", None, records)).await.unwrap();
    let error = answer.results[1].error.as_ref().unwrap();
    assert_eq!((answer.results[0].base_offset, error.code()), (0, v1::ErrorCode::MessageTooLarge));
    assert_eq!((answer.positions[0].offset, answer.positions[1].offset), (0, -1));
}

#[tokio::test]
async fn more_replicas_than_there_are_cannot_be_asked_for() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[("min.insync.replicas", "2")]).await;
    // As it counts for the high watermark: consumers see what is written with acks=1 too, once it is as safe as can be.
    cluster.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::Leader)).await.unwrap();
    cluster.produce(produce_batch("t", 0, batch(&["b"]), v1::Acks::All)).await.unwrap();
    assert_eq!(cluster.values("t", 0).await.len(), 2);
}

#[tokio::test]
async fn illegal_fetches_name_their_field() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let wanted = |offset| v1::FetchPartition { topic: "t".into(), offset, ..Default::default() };
    let good = v1::FetchRequest { partitions: vec![wanted(0)], ..Default::default() };
    let fenced = |epoch| v1::FetchPartition { current_leader_epoch: Some(epoch), ..wanted(0) };
    for (request, code, field) in [
        (v1::FetchRequest::default(), ErrorCode::InvalidRequest, "partitions"),
        (
            v1::FetchRequest { max_wait_ms: Some(300_001), ..good.clone() },
            ErrorCode::InvalidRequest,
            "max_wait_ms",
        ),
        (
            v1::FetchRequest { min_bytes: Some(u32::MAX), ..good.clone() },
            ErrorCode::InvalidRequest,
            "min_bytes",
        ),
        (
            v1::FetchRequest { max_bytes: Some(u32::MAX), ..good.clone() },
            ErrorCode::InvalidRequest,
            "max_bytes",
        ),
        (v1::FetchRequest { format: 9, ..good.clone() }, ErrorCode::InvalidRequest, "format"),
        (
            v1::FetchRequest { isolation_level: 9, ..good.clone() },
            ErrorCode::InvalidRequest,
            "isolation_level",
        ),
        (
            v1::FetchRequest { partitions: vec![wanted(-1)], ..good.clone() },
            ErrorCode::InvalidRequest,
            "offset",
        ),
        (
            v1::FetchRequest { partitions: vec![wanted(1)], ..good.clone() },
            ErrorCode::OffsetOutOfRange,
            "offset",
        ),
        (
            v1::FetchRequest { partitions: vec![fenced(-1)], ..good.clone() },
            ErrorCode::FencedLeaderEpoch,
            "current_leader_epoch",
        ),
        (
            v1::FetchRequest { partitions: vec![fenced(99)], ..good.clone() },
            ErrorCode::UnknownLeaderEpoch,
            "current_leader_epoch",
        ),
    ] {
        let error = api_error(&cluster.consumer().fetch(request).await.unwrap_err());
        assert_eq!((error.code, error.field.as_deref()), (code, Some(field)));
    }
    // Of several partitions, each has its own error.
    let unknown = v1::FetchPartition { topic: "no".into(), ..Default::default() };
    let request = v1::FetchRequest { partitions: vec![wanted(0), unknown], ..good };
    let answer = cluster.consumer().fetch(request).await.unwrap().into_inner();
    assert_eq!(answer.partitions[0].error.as_ref().unwrap().code(), v1::ErrorCode::UnknownTopic);
}

#[tokio::test]
async fn random_bytes_on_the_port_harm_nothing() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let address = cluster.broker.as_ref().unwrap().listen_addr();
    for seed in 0..8u8 {
        let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let noise: Vec<u8> =
            (0..4096u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect();
        // The broker may close before all is written.
        let _ = socket.write_all(&noise).await;
        let _ = socket.shutdown().await;
        let _ = tokio::time::timeout(LONG, socket.read_to_end(&mut Vec::new())).await.unwrap();
    }
    cluster.produce(produce_batch("t", 0, batch(&["a"]), v1::Acks::All)).await.unwrap();
}

#[tokio::test]
async fn transactions_are_refused_until_they_are_served() {
    let cluster = Cluster::start().await;
    cluster.topic("t", 1, &[]).await;
    let stamp = ProducerStamp { transactional: true, ..stamp(1, 0, 0) };
    let sent = batch_with(&[b"a"], Compression::None, stamp);
    let (code, _) = refused(cluster.produce(produce_batch("t", 0, sent, v1::Acks::All)).await);
    assert_eq!(code, ErrorCode::Unsupported);
}
