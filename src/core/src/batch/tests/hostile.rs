//! Bytes that were changed by accident or with intent: refused, or read without harm. Never a panic.

use super::super::*;
use super::round_trip::{any_codec, any_record, build};
use super::{check, resealed};
use crate::ErrorCode;
use crate::compression::Compression;
use proptest::collection::vec;
use proptest::prelude::*;

/// Base offset and leader epoch are the leader's to set, and not under the checksum.
fn is_unchecked(at: usize) -> bool {
    at < 8 || (12..16).contains(&at)
}

/// Walks everything that can be walked.
fn walk(bytes: &[u8]) -> (usize, Option<BatchError>) {
    let mut scratch = Vec::new();
    let mut count = 0;
    for batch in BatchIter::new(bytes) {
        let records = batch.map(|batch| batch.records(&mut scratch, 1 << 16));
        match records {
            Err(error) | Ok(Err(error)) => return (count, Some(error)),
            Ok(Ok(records)) => {
                for record in records {
                    match record {
                        Err(error) => return (count, Some(error)),
                        Ok(record) => {
                            assert_eq!(record.headers.iter().count(), record.headers.len());
                            count += 1;
                        }
                    }
                }
            }
        }
    }
    (count, None)
}

#[test]
fn every_flipped_bit_and_every_cut_of_a_batch_is_refused() {
    for codec in Compression::ALL {
        let records: Vec<_> =
            (0..5).map(|i| super::Owned::plain(i, Some("key"), "value").with_header("h", None)).collect();
        let bytes = build(codec, &records, ProducerStamp::NONE);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut flipped = bytes.to_vec();
                flipped[at] ^= 1 << bit;
                assert_eq!(check(&flipped).is_ok(), is_unchecked(at), "{codec}: bit {bit} of byte {at}");
            }
            assert!(matches!(check(&bytes[..at]), Err(BatchError::Truncated { .. })), "{codec}: cut at {at}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// With a checksum that fits the change, so that everything behind it is reached.
    #[test]
    fn a_change_with_a_true_checksum_is_refused_or_harmless(
        codec in any_codec(),
        all in vec(any_record(), 1..5),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        cut in 0usize..20,
    ) {
        let mut bytes = build(codec, &all, ProducerStamp::NONE).to_vec();
        let len = bytes.len();
        bytes.truncate(len - cut.min(len - HEADER_LEN));
        // From the attributes on.
        for (at, byte) in changes {
            let at = CRC_START + at.index(bytes.len() - CRC_START);
            bytes[at] = byte;
        }
        let Ok(_) = BatchHeader::parse(&bytes) else { return Ok(()) };
        let bytes = resealed(&bytes, |_| {});
        match check(&bytes) {
            Ok(batch) => {
                let (count, error) = walk(&bytes);
                // The walk's own cap is lower than the check's.
                if let Some(error) = error {
                    prop_assert_eq!(error.code(), ErrorCode::MessageTooLarge);
                } else {
                    prop_assert_eq!(count, batch.header().record_count as usize);
                }
            }
            Err(_) => {
                walk(&bytes);
            }
        }
    }

    #[test]
    fn any_bytes_end_in_an_error_or_at_their_end(bytes in vec(any::<u8>(), 0..400)) {
        walk(&bytes);
        prop_assert!(check(&bytes).is_err());
    }

    /// Random bytes behind a header that is good.
    #[test]
    fn any_records_end_in_an_error_or_at_their_end(
        codec in any_codec(),
        body in vec(any::<u8>(), 0..300),
        count in 1..20i32,
    ) {
        let good = build(codec, &[super::Owned::plain(1, None, "v")], ProducerStamp::NONE);
        let bytes = resealed(&[&good[..HEADER_LEN], &body].concat(), |header| {
            header.record_count = count;
            header.last_offset_delta = count - 1;
        });
        if check(&bytes).is_ok() {
            prop_assert_eq!(walk(&bytes), (count as usize, None));
        } else {
            walk(&bytes);
        }
    }
}

#[test]
fn the_walk_over_batches_ends_behind_a_torn_tail() {
    let one = build(Compression::None, &[super::Owned::plain(1, None, "v")], ProducerStamp::NONE);
    let bytes = [&one[..], &one, &one[..30]].concat();
    let mut walk = BatchIter::new(&bytes);
    assert_eq!(walk.next().unwrap().unwrap().bytes, &one[..]);
    assert_eq!(walk.next().unwrap().unwrap().bytes, &one[..]);
    assert_eq!(walk.remaining().len(), 30);
    assert_eq!(
        walk.next().unwrap().unwrap_err(),
        BatchError::Truncated { needed: HEADER_LEN, available: 30 }
    );
    assert!(walk.next().is_none());
}
