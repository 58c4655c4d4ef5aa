//! Record batches made by hand.

use bytes::Bytes;
use thalweg_core::batch::{BatchBuilder, HEADER_LEN, ProducerStamp, crc_of};
use thalweg_core::compression::Compression;
use thalweg_core::{ProducerEpoch, ProducerId, Sequence, Timestamp};

/// The timestamp of every batch made here.
const TIME: Timestamp = Timestamp(1_750_000_000_000);
/// Where the checksum stands in a header.
const CRC_AT: std::ops::Range<usize> = 17..21;

/// A batch of these values, without keys, codec and producer.
pub fn batch(values: &[&[u8]]) -> Bytes {
    batch_of(Compression::None, ProducerStamp::NONE, values)
}

/// A batch of these values from an idempotent producer.
pub fn stamped(producer_id: i64, epoch: i32, sequence: i32, values: &[&[u8]]) -> Bytes {
    let stamp = ProducerStamp {
        producer_id: ProducerId(producer_id),
        producer_epoch: ProducerEpoch(epoch.try_into().unwrap()),
        base_sequence: Sequence(sequence),
        transactional: false,
    };
    batch_of(Compression::None, stamp, values)
}

/// A batch of these values.
pub fn batch_of(compression: Compression, stamp: ProducerStamp, values: &[&[u8]]) -> Bytes {
    let mut builder = BatchBuilder::new(compression, 1 << 20);
    for value in values {
        builder.append(TIME, None, Some(value), &[]);
    }
    builder.finish(stamp)
}

/// The batch with its length and checksum made right again, after something else in it was made wrong.
pub fn reseal(mut batch: Vec<u8>) -> Bytes {
    let length = i32::try_from(batch.len() - 12).unwrap();
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let header = batch.first_chunk::<HEADER_LEN>().expect("a whole header");
    let crc = crc_of(header, &batch[HEADER_LEN..]);
    batch[CRC_AT].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}
