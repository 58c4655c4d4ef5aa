//! Encoded batches that are wrong somewhere. Each is refused whole, with the reason.

use super::canary::Canary;
use crate::harness::{Api, Dev, batch, batch_of, refused, reseal, stamped};
use bytes::Bytes;
use thalweg_core::ErrorCode;
use thalweg_core::batch::{HEADER_LEN, ProducerStamp};
use thalweg_core::compression::Compression;
use thalweg_proto::v1::{self, produce_request::Payload};
use tonic::Code;

/// A good batch of three records, changed.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = batch(&[b"one", b"two", b"three"]).to_vec();
    change(&mut bytes);
    bytes
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) {
    bytes[at..at + field.len()].copy_from_slice(field);
}

/// What is wrong, and the bytes. The checksum is right unless it is what is wrong.
fn malformed() -> Vec<(String, ErrorCode, Bytes)> {
    use ErrorCode::{CorruptBatch, InvalidTimestamp, MessageTooLarge, UnsupportedCompression};
    let good = batch(&[b"one", b"two", b"three"]);
    let mut cases: Vec<(String, ErrorCode, Bytes)> = Vec::new();
    let mut case = |what: &str, code, bytes: Bytes| cases.push((what.to_owned(), code, bytes));

    case("no bytes at all", CorruptBatch, Bytes::new());
    for len in [1, 12, 16, 17, HEADER_LEN - 1, HEADER_LEN, good.len() - 1] {
        case(&format!("cut off after {len} bytes"), CorruptBatch, good.slice(..len));
    }
    for at in [17, 21, 43, HEADER_LEN, good.len() - 1] {
        let flipped = changed(|bytes| bytes[at] ^= 1);
        case(&format!("byte {at} is not under its checksum"), CorruptBatch, flipped.into());
    }
    for magic in [0, 1, 3, 0xff] {
        case(&format!("magic {magic}"), CorruptBatch, reseal(changed(|bytes| bytes[16] = magic)));
    }
    for length in [0, 48, -1, i32::MIN, i32::MAX, good.len() as i32] {
        let bytes = changed(|bytes| put(bytes, 8, &length.to_be_bytes()));
        case(&format!("a length of {length}"), CorruptBatch, bytes.into());
    }
    for (count, delta) in [(2, 1), (4, 3), (3, 5), (3, 1), (0, 0), (-1, 2), (i32::MIN, -1)] {
        let bytes = changed(|bytes| {
            put(bytes, 23, &i32::to_be_bytes(delta));
            put(bytes, 57, &i32::to_be_bytes(count));
        });
        case(&format!("{count} records up to delta {delta} announced, 3 there"), CorruptBatch, reseal(bytes));
    }
    let billions = changed(|bytes| {
        put(bytes, 23, &i32::to_be_bytes(i32::MAX - 1));
        put(bytes, 57, &i32::to_be_bytes(i32::MAX));
    });
    case("two billion records announced", MessageTooLarge, reseal(billions));
    case(
        "bytes behind the last record",
        CorruptBatch,
        reseal(changed(|bytes| bytes.extend_from_slice(b"more"))),
    );
    case("bytes behind the batch", CorruptBatch, changed(|bytes| bytes.extend_from_slice(b"more")).into());
    case("two batches", CorruptBatch, [good.clone(), good.clone()].concat().into());
    let varint = |first: &[u8]| {
        let mut bytes = good[..HEADER_LEN].to_vec();
        bytes.extend_from_slice(first);
        reseal(bytes)
    };
    case("a record's length is a varint without end", CorruptBatch, varint(&[0xff; 12]));
    case("a record's length is cut off", CorruptBatch, varint(&[0x80]));
    case("a record is longer than the batch", CorruptBatch, varint(&[0xfe, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0]));
    case("a record has a negative length", CorruptBatch, varint(&[0x03, 0, 0, 0, 0, 0]));
    case("a record of no bytes", CorruptBatch, varint(&[0x00]));
    // Length, attributes, both deltas, key length, value length, header count.
    case("a key longer than its record", CorruptBatch, varint(&[0x0c, 0, 0, 0, 0x7e, 0x01, 0]));
    case("a value of length -2", CorruptBatch, varint(&[0x0c, 0, 0, 0, 0x01, 0x03, 0]));
    case(
        "a billion headers",
        CorruptBatch,
        varint(&[0x14, 0, 0, 0, 0x01, 0x01, 0x80, 0x94, 0xeb, 0xdc, 0x03]),
    );
    case("headers of a negative count", CorruptBatch, varint(&[0x0c, 0, 0, 0, 0x01, 0x01, 0x01]));
    for codec in 5..8u8 {
        case(&format!("codec {codec}"), UnsupportedCompression, reseal(changed(|bytes| bytes[22] = codec)));
    }
    for codec in 1..5u8 {
        let bytes = changed(|bytes| bytes[22] = codec);
        case(&format!("plain records under codec {codec}"), CorruptBatch, reseal(bytes));
    }
    for codec in Compression::ALL.into_iter().filter(|codec| *codec != Compression::None) {
        let packed = batch_of(codec, ProducerStamp::NONE, &[&[7; 3000]]).to_vec();
        let half = packed[..HEADER_LEN + (packed.len() - HEADER_LEN) / 2].to_vec();
        case(&format!("{codec} that breaks off"), CorruptBatch, reseal(half));
        let claimed_plain = {
            let mut bytes = packed.clone();
            bytes[22] = 0;
            reseal(bytes)
        };
        case(&format!("{codec} that says it is none"), CorruptBatch, claimed_plain);
    }
    case("a control batch", CorruptBatch, reseal(changed(|bytes| bytes[22] |= 1 << 5)));
    let time = |at: usize| changed(|bytes| put(bytes, at, &1i64.to_be_bytes()));
    case("another largest timestamp than the records'", InvalidTimestamp, reseal(time(35)));
    case(
        "a producer id without epoch",
        CorruptBatch,
        reseal(changed(|bytes| put(bytes, 43, &5i64.to_be_bytes()))),
    );
    case("a sequence below -1", CorruptBatch, {
        let mut bytes = stamped(1, 0, 0, &[b"x"]).to_vec();
        put(&mut bytes, 53, &(-5i32).to_be_bytes());
        reseal(bytes)
    });
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn malformed_batches_are_refused_whole() {
    let mut dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    api.create_topic("t", 1, &[]).await;
    api.produce_batch("t", 0, batch(&[b"before"])).await.unwrap();
    for (what, reason, bytes) in malformed() {
        let result = api.produce_batch("t", 0, bytes).await;
        let Err(status) = &result else { panic!("{what}: accepted: {result:?}") };
        println!("{what}: {}", status.message());
        let error = refused(result, Code::InvalidArgument, reason);
        assert!(
            error.field.is_some_and(|field| field.contains("record_batch")),
            "{what}: the field is named"
        );
        assert_eq!(api.end_offset("t", 0).await, 1, "{what}: nothing is stored");
    }
    let result = api.produce_batch("t", 0, batch(&[b"one", b"two", b"three"])).await.unwrap();
    assert_eq!((result.base_offset, result.last_offset), (1, 3), "the unchanged batch is good");
    let expected = [&b"before"[..], b"one", b"two", b"three"];
    assert_eq!(api.values("t", 0).await, expected);
    canary.sings(&api).await;
    let api = canary.sings_after_a_kill(&mut dev).await;
    assert_eq!(api.values("t", 0).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_random_bytes_are_a_batch() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    let mut canary = Canary::new(&api).await;
    api.create_topic("t", 1, &[]).await;
    let good = batch_of(Compression::Zstd, ProducerStamp::NONE, &[&[7; 500], b"x"]);
    let mut seed = 0x5eed_u64;
    let mut random = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for round in 0..300 {
        let bytes = if round % 3 == 0 {
            (0..random() % 2000).map(|_| random() as u8).collect()
        } else {
            // A good batch with some bytes changed behind what the server sets itself, under a right or a wrong checksum.
            let mut bytes = good.to_vec();
            for _ in 0..=random() % 4 {
                let at = 21 + random() % (bytes.len() - 21);
                bytes[at] ^= 1 << (random() % 8);
            }
            if bytes[..] == good[..] {
                continue;
            }
            if round % 3 == 1 { bytes } else { reseal(bytes).to_vec() }
        };
        let end = api.end_offset("t", 0).await;
        match api.produce_batch("t", 0, bytes).await {
            // A flipped bit in a timestamp or a value under a right checksum makes another good batch.
            Ok(result) => assert!(round % 3 == 2 && result.base_offset == end, "round {round}: {result:?}"),
            Err(status) => {
                assert!(
                    matches!(status.code(), Code::InvalidArgument | Code::FailedPrecondition),
                    "round {round}: {status:?}"
                );
                assert_eq!(api.end_offset("t", 0).await, end, "round {round}: nothing is stored");
            }
        }
    }
    canary.sings(&api).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn requests_that_make_no_sense_name_the_field() {
    let dev = Dev::start();
    let api = Api::connect(&dev).await;
    api.create_topic("t", 2, &[]).await;
    let good = || v1::ProduceRequest {
        topic: "t".into(),
        partition: Some(0),
        payload: Some(Payload::RecordBatch(batch(&[b"x"]))),
        acks: v1::Acks::All.into(),
        ..Default::default()
    };
    let cases: [(&str, v1::ProduceRequest); 5] = [
        ("partition", v1::ProduceRequest { partition: None, ..good() }),
        ("payload", v1::ProduceRequest { payload: None, ..good() }),
        (
            "records",
            v1::ProduceRequest { payload: Some(Payload::Records(v1::RecordSet::default())), ..good() },
        ),
        ("acks", v1::ProduceRequest { acks: 77, ..good() }),
        ("timeout_ms", v1::ProduceRequest { timeout_ms: 600_001, ..good() }),
    ];
    for (field, request) in cases {
        let result = api.produce(request).await;
        let Err(status) = &result else { panic!("{field}: {result:?}") };
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        let error = thalweg_proto::ApiError::from_status(status).unwrap();
        assert!(error.field.as_deref().is_some_and(|named| named.contains(field)), "{field}: {error:?}");
    }
    api.produce(good()).await.unwrap();
    assert_eq!(api.end_offset("t", 0).await, 1);
}
