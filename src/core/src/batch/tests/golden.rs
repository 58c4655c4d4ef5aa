//! Bytes that did not come from this code: worked out by hand from the specification
//! (<https://kafka.apache.org/documentation/#recordbatch>), or seen on the wire of Kafka's own brokers and clients.

use super::super::*;
use super::{Owned, check, hex, records};
use crate::compression::Compression;
use crate::{LeaderEpoch, Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};
use bytes::Bytes;

/// Written by hand; the checksum comes from a bitwise CRC-32C of another language.
const BY_HAND: &str = "
    00 00 00 00 00 00 03 e8   00 00 00 56   00 00 00 05   02   3f cf 40 6b
    00 10   00 00 00 02   00 00 01 74 87 6e 80 00   00 00 01 74 87 6e 81 2c
    00 00 00 00 00 00 10 92   00 07   00 00 00 64   00 00 00 03
    1a 00 00 00  04 6b 31  0a 68 65 6c 6c 6f  00
    1c 00 8b 01 02  01  00  04  02 68 02 78  02 68 01
    0e 00 d8 04 04  00  01  00";

fn by_hand_records() -> Vec<Owned> {
    let at = 1_600_000_000_000;
    vec![
        Owned::plain(at, Some("k1"), "hello"),
        Owned::plain(at - 70, None, "").with_header("h", Some("x")).with_header("h", None),
        Owned { value: None, ..Owned::plain(at + 300, Some(""), "") },
    ]
}

#[test]
fn crc32c_gives_the_check_value_of_the_catalogue() {
    assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn a_batch_by_hand_parses_to_its_fields() {
    let bytes = hex(BY_HAND);
    let header = check_crc(&bytes).unwrap();
    let expected = BatchHeader {
        base_offset: Offset(1000),
        batch_length: 86,
        leader_epoch: LeaderEpoch(5),
        crc: 0x3fcf_406b,
        attributes: Attributes::new(Compression::None, true),
        last_offset_delta: 2,
        base_timestamp: Timestamp(1_600_000_000_000),
        max_timestamp: Timestamp(1_600_000_000_300),
        producer_id: ProducerId(4242),
        producer_epoch: ProducerEpoch(7),
        base_sequence: Sequence(100),
        record_count: 3,
    };
    assert_eq!(header, expected);
    assert_eq!(header.encode(), bytes[..HEADER_LEN]);
    assert_eq!((header.size(), header.last_offset(), header.next_offset()), (98, Offset(1002), Offset(1003)));
    assert_eq!(header.last_sequence(), Sequence(102));
    assert_eq!(crc_of(bytes.first_chunk().unwrap(), &bytes[HEADER_LEN..]), header.crc);
    check(&bytes).unwrap();
    let expected: Vec<_> = (1000..).zip(by_hand_records()).collect();
    assert_eq!(records(&bytes), expected);
}

#[test]
fn the_builder_writes_the_batch_by_hand() {
    let mut builder = BatchBuilder::new(Compression::None, 1 << 10);
    for (i, record) in (0..).zip(by_hand_records()) {
        let headers: Vec<_> =
            record.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
        assert_eq!(
            builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers),
            i
        );
    }
    let stamp = ProducerStamp {
        producer_id: ProducerId(4242),
        producer_epoch: ProducerEpoch(7),
        base_sequence: Sequence(100),
        transactional: true,
    };
    let mut bytes = builder.finish(stamp).to_vec();
    // The leader's part, outside of the checksum.
    bytes[..8].copy_from_slice(&1000i64.to_be_bytes());
    bytes[12..16].copy_from_slice(&5i32.to_be_bytes());
    assert_eq!(bytes, hex(BY_HAND));
}

/// Fetched from a Kafka 0.11 broker (published with kafka-python's tests).
#[test]
fn batches_of_a_kafka_broker_are_read_and_written_again() {
    let first = hex("
        00 00 00 00 00 00 00 00 00 00 00 3b 00 00 00 01 02 03 18 a2 70 00 00 00 00 00 00 00 00 01 5d ff
        7b 06 3c 00 00 01 5d ff 7b 06 3c ff ff ff ff ff ff ff ff ff ff ff ff ff ff 00 00 00 01 12 00 00
        00 01 06 31 32 33 00");
    let second = hex("
        00 00 00 00 00 00 00 01 00 00 00 40 00 00 00 02 02 c8 5c bd 23 00 00 00 00 00 01 00 00 01 5d ff
        7c dd 6c 00 00 01 5d ff 7c de 14 ff ff ff ff ff ff ff ff ff ff ff ff ff ff 00 00 00 02 0c 00 00
        00 01 00 00 0e 00 d0 02 02 01 00 00");
    let third = hex("
        00 00 00 00 00 00 00 03 00 00 00 45 00 00 00 00 02 5c d8 ef 52 00 00 00 00 00 00 00 00 01 65 85
        b6 f3 c1 00 00 01 65 85 b6 f3 c1 ff ff ff ff ff ff ff ff ff ff ff ff ff ff 00 00 00 01 26 00 00
        00 01 06 68 64 72 02 08 68 6b 65 79 08 68 76 61 6c");
    let log = [&first[..], &second, &third].concat();
    let expected = vec![
        (0, Owned::plain(1_503_229_838_908, None, "123")),
        (1, Owned::plain(1_503_229_959_532, None, "")),
        (2, Owned::plain(1_503_229_959_700, None, "")),
        (3, Owned::plain(1_535_546_684_353, None, "hdr").with_header("hkey", Some("hval"))),
    ];
    assert_eq!(records(&log), expected);
    for batch in [&first, &second, &third] {
        check(batch).unwrap();
        let header = BatchHeader::parse(batch).unwrap();
        let mut builder = BatchBuilder::new(Compression::None, 1 << 10);
        for (_, record) in records(batch) {
            let headers: Vec<_> =
                record.headers.iter().map(|(key, value)| Header { key, value: value.as_deref() }).collect();
            builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
        }
        let again = builder.finish(ProducerStamp::NONE);
        assert_eq!(BatchHeader::parse(&again).unwrap().crc, header.crc);
        assert_eq!(again[CRC_START..], batch[CRC_START..]);
    }
}

/// Seen on the wire: librdkafka's gzip, lz4, raw snappy and zstd, and the Java client's snappy in xerial framing (published
/// with rskafka's tests).
#[test]
fn batches_of_other_clients_inflate() {
    const TAIL: &str = "ff ff ff ff ff ff ff ff ff ff ff ff ff ff";
    let cases = [
        (
            Compression::Gzip,
            1_643_105_170_535,
            format!(
                "
            00 00 00 00 00 00 00 00 00 00 00 64 00 00 00 00 02 ba 41 46 65 00 01 00 00 00 00 00 00 01 7e 90
            b3 34 67 00 00 01 7e 90 b3 34 67 {TAIL} 00 00 00 01 1f 8b 08 00 00 00 00 00 00 03 fb c3 c8 c0 c0
            70 82 b1 82 0e 40 2c 23 35 27 27 5f 21 3b 31 2d 3b 91 89 2d 2d 3f 9f 2d 29 b1 08 00 e4 cd ba 1f
            80 00 00 00"
            ),
        ),
        (
            Compression::Lz4,
            1_643_649_156_900,
            format!(
                "
            00 00 00 00 00 00 00 00 00 00 00 63 00 00 00 00 02 1b a5 92 35 00 03 00 00 00 00 00 00 01 7e b1
            1f c7 24 00 00 01 7e b1 1f c7 24 {TAIL} 00 00 00 01 04 22 4d 18 60 40 82 23 00 00 00 8f fc 01 00
            00 00 c8 01 78 01 00 50 f0 06 16 68 65 6c 6c 6f 20 6b 61 66 6b 61 02 06 66 6f 6f 06 62 61 72 00
            00 00 00"
            ),
        ),
        (
            Compression::Snappy,
            1_643_735_486_034,
            format!(
                "
            00 00 00 00 00 00 00 00 00 00 00 58 00 00 00 00 02 ad 86 f4 f4 00 02 00 00 00 00 00 00 01 7e b6
            45 0e 52 00 00 01 7e b6 45 0e 52 {TAIL} 00 00 00 01 80 01 1c fc 01 00 00 00 c8 01 78 fe 01 00 8a
            01 00 50 16 68 65 6c 6c 6f 20 6b 61 66 6b 61 02 06 66 6f 6f 06 62 61 72"
            ),
        ),
        (
            Compression::Snappy,
            1_645_092_371_121,
            format!(
                "
            00 00 00 00 00 00 00 00 00 00 00 8c 00 00 00 00 02 79 1e 2d ce 00 02 00 00 00 01 00 00 01 7f 07
            25 7a b1 00 00 01 7f 07 25 7a b1 {TAIL} 00 00 00 02 82 53 4e 41 50 50 59 00 00 00 00 01 00 00 00
            01 00 00 00 47 ff 01 1c fc 01 00 00 00 c8 01 78 fe 01 00 8a 01 00 64 16 68 65 6c 6c 6f 20 6b 61
            66 6b 61 02 06 66 6f 6f 06 62 61 72 fa 01 00 00 02 fe 80 00 96 80 00 4c 14 73 6f 6d 65 20 76 61
            6c 75 65 02 06 66 6f 6f 06 62 61 72"
            ),
        ),
        (
            Compression::Zstd,
            1_643_889_882_029,
            format!(
                "
            00 00 00 00 00 00 00 00 00 00 00 5d 00 00 00 00 02 a1 6e 4e 95 00 04 00 00 00 00 00 00 01 7e bf
            78 f3 ad 00 00 01 7e bf 78 f3 ad {TAIL} 00 00 00 01 28 b5 2f fd 00 58 1d 01 00 e8 fc 01 00 00 00
            c8 01 78 16 68 65 6c 6c 6f 20 6b 61 66 6b 61 02 06 66 6f 6f 06 62 61 72 01 00 20 05 5c"
            ),
        ),
    ];
    for (codec, at, bytes) in cases {
        let bytes = hex(&bytes);
        let batch = check(&bytes).unwrap_or_else(|error| panic!("{codec}: {error}"));
        assert_eq!(batch.header().attributes.compression(), Ok(codec));
        let key = "x".repeat(100);
        let mut expected =
            vec![(0, Owned::plain(at, Some(&key), "hello kafka").with_header("foo", Some("bar")))];
        if batch.header().record_count == 2 {
            expected.push((1, Owned::plain(at, Some(&key), "some value").with_header("foo", Some("bar"))));
        }
        assert_eq!(records(&bytes), expected, "{codec}");
    }
}

/// A commit marker, by hand: key = version 0, type 1; value = version 0, coordinator epoch 9.
#[test]
fn a_transactions_marker_is_the_cluster_s_own() {
    let mut builder = BatchBuilder::new(Compression::None, 1 << 10);
    builder.append(Timestamp(5), Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 9]), &[]);
    let stamp = ProducerStamp {
        producer_id: ProducerId(1),
        producer_epoch: ProducerEpoch(0),
        base_sequence: Sequence::NONE,
        transactional: true,
    };
    let bytes = Bytes::from(super::resealed(&builder.finish(stamp), |header| header.attributes.0 |= 1 << 5));
    assert_eq!(check(&bytes).unwrap_err(), BatchError::Control);
    let batch = ValidBatch::check_internal(bytes, &Limits::default()).unwrap();
    assert!(batch.header().attributes.is_control());
    assert_eq!(batch.header().last_sequence(), Sequence::NONE);
}
