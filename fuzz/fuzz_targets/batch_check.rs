//! A leader's check of a batch that a producer sent.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use thalweg_core::batch::{BatchHeader, CRC_START, HEADER_LEN, LOG_OVERHEAD, Limits, MAGIC, ValidBatch};
use thalweg_core::compression::Compression;

const LIMITS: Limits = Limits {
    max_batch_bytes: 1 << 20,
    max_inflated_bytes: 4 << 20,
    max_records: 1 << 16,
    keys_required: false,
};

fuzz_target!(|data: &[u8]| {
    // As it came: nearly always refused.
    let _ = ValidBatch::check(Bytes::copy_from_slice(data), &LIMITS);
    let Some(batch) = sealed(data) else { return };
    let Ok(batch) = ValidBatch::check(batch, &LIMITS) else { return };
    assert_eq!(walk(&batch), batch.header().record_count);
    for codec in Compression::ALL {
        // Refused only if it becomes larger than a batch may be.
        if let Ok(other) = batch.recompressed(codec, &LIMITS) {
            let again =
                ValidBatch::check(other.bytes().clone(), &LIMITS).expect("it was valid under another codec");
            assert_eq!(walk(&again), batch.header().record_count);
        }
    }
});

/// The bytes with magic, length and checksum set right, so that the fuzzer need not guess them.
fn sealed(data: &[u8]) -> Option<Bytes> {
    let mut bytes = data.to_vec();
    if bytes.len() < HEADER_LEN {
        return None;
    }
    let length = i32::try_from(bytes.len() - LOG_OVERHEAD).ok()?;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[16] = MAGIC as u8;
    let (header, body) = bytes.split_first_chunk::<HEADER_LEN>()?;
    let crc = thalweg_core::batch::crc_of(header, body);
    bytes[CRC_START - 4..CRC_START].copy_from_slice(&crc.to_be_bytes());
    BatchHeader::parse(&bytes).ok()?;
    Some(Bytes::from(bytes))
}

fn walk(batch: &ValidBatch) -> i32 {
    let mut scratch = Vec::new();
    let records =
        batch.as_ref().records(&mut scratch, LIMITS.max_inflated_bytes).expect("a valid batch inflates");
    let mut count = 0;
    for (delta, record) in (0..).zip(records) {
        let record = record.expect("a valid batch has valid records");
        assert_eq!(record.offset, batch.header().base_offset.advance(delta));
        assert_eq!(record.headers.iter().count(), record.headers.len());
        count += 1;
    }
    count
}
