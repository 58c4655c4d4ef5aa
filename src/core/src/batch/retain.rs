//! A batch of which only some records stay: what compaction writes in place of the old one. Offsets, producer and epoch do not
//! change, so that a reader, a follower and a producer's retry see the same batch with holes.

use super::header::{Attributes, HEADER_LEN, seal};
use super::reader::{BatchRef, Records};
use super::record::{RecordView, put_record};
use super::{BatchError, BatchHeader};
use crate::Timestamp;
use crate::compression::{Compression, FREE_INFLATED_BYTES};
use bytes::Bytes;
use std::ops::Range;

/// What is left of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retained {
    /// Everything: the batch stays as it lies.
    All,
    /// Some records, in a batch of their own.
    Some(Bytes),
    /// No record.
    None,
}

impl BatchRef<'_> {
    /// Keeps the records that `keep` wants, byte for byte as far as it goes. With `horizon`, a batch of which a tombstone (a
    /// record without a value) stays notes from when on that may go, in place of its base timestamp (KIP-534); a batch that has
    /// a horizon keeps it. What inflates to much waits its turn, and `scratch` is small again afterwards.
    ///
    /// Errors: the batch is malformed, or inflates beyond `max_inflated`. The checksum is not looked at.
    pub fn retain(
        &self,
        horizon: Option<Timestamp>,
        max_inflated: usize,
        scratch: &mut Vec<u8>,
        keep: impl FnMut(&RecordView<'_>) -> bool,
    ) -> Result<Retained, BatchError> {
        let codec = self.header.attributes.compression()?;
        let body = &self.bytes[HEADER_LEN..];
        if codec == Compression::None {
            return self.retain_of(body, codec, horizon, keep);
        }
        let _turn = codec.inflate_in_turn(body, scratch, max_inflated)?;
        let done = self.retain_of(scratch, codec, horizon, keep);
        // The memory goes before the turn does.
        scratch.clear();
        scratch.shrink_to(FREE_INFLATED_BYTES);
        done
    }

    fn retain_of(
        &self,
        body: &[u8],
        codec: Compression,
        horizon: Option<Timestamp>,
        mut keep: impl FnMut(&RecordView<'_>) -> bool,
    ) -> Result<Retained, BatchError> {
        let header = self.header;
        // What stays, as pieces of the body: neighbours are one.
        let mut pieces: Vec<Range<usize>> = Vec::new();
        let (mut count, mut tombstones) = (0, false);
        let mut max_timestamp = Timestamp::NONE;
        let mut records = Records::of(header, body);
        let mut from = 0;
        while let Some(record) = records.next() {
            let record = record?;
            let to = records.walked(body);
            if keep(&record) {
                count += 1;
                tombstones |= record.value.is_none();
                max_timestamp = max_timestamp.max(record.timestamp);
                match pieces.last_mut() {
                    Some(last) if last.end == from => last.end = to,
                    _ => pieces.push(from..to),
                }
            }
            from = to;
        }
        if count == 0 {
            return Ok(Retained::None);
        }
        let horizon = horizon.filter(|_| tombstones && !header.attributes.has_delete_horizon());
        if count == header.record_count && horizon.is_none() {
            return Ok(Retained::All);
        }
        let size = pieces.iter().map(ExactSizeIterator::len).sum::<usize>();
        let mut kept = Vec::with_capacity(HEADER_LEN + size);
        kept.resize(HEADER_LEN, 0);
        match horizon {
            None => pieces.into_iter().for_each(|piece| kept.extend_from_slice(&body[piece])),
            // Each timestamp counts from the base timestamp, which is another one now.
            Some(horizon) => put_again(&mut kept, &header, body, &pieces, horizon)?,
        }
        if codec != Compression::None {
            let mut packed = Vec::with_capacity(kept.len());
            packed.resize(HEADER_LEN, 0);
            codec
                .compress(&kept[HEADER_LEN..], &mut packed)
                .expect("compressing memory into memory does no I/O that could fail");
            kept = packed;
        }
        let (attributes, base_timestamp) = match horizon {
            Some(horizon) => (header.attributes.with_delete_horizon(), horizon),
            None => (header.attributes, header.base_timestamp),
        };
        let header = BatchHeader { attributes, base_timestamp, max_timestamp, record_count: count, ..header };
        seal(&mut kept, header);
        Ok(Retained::Some(Bytes::from(kept)))
    }

    /// The batch without any record: it keeps its producer's last sequence known, and its offsets taken.
    pub fn emptied(&self) -> Bytes {
        let mut bytes = vec![0; HEADER_LEN];
        // Nothing is compressed, and nobody may wait for a horizon.
        let attributes = self.header.attributes.with_compression(Compression::None);
        seal(&mut bytes, BatchHeader { attributes, record_count: 0, ..self.header });
        Bytes::from(bytes)
    }
}

impl Attributes {
    /// The same, with a delete horizon in place of the base timestamp.
    #[must_use]
    const fn with_delete_horizon(self) -> Attributes {
        Attributes(self.0 | Self::DELETE_HORIZON)
    }
}

/// Encodes the records in these pieces of the body with another base timestamp.
fn put_again(
    out: &mut Vec<u8>,
    header: &BatchHeader,
    body: &[u8],
    pieces: &[Range<usize>],
    base_timestamp: Timestamp,
) -> Result<(), BatchError> {
    let mut records = Records::of(*header, body);
    let mut headers = Vec::new();
    let mut pieces = pieces.iter().peekable();
    while let Some(record) = records.next() {
        let record = record?;
        let end = records.walked(body);
        while pieces.next_if(|piece| piece.end < end).is_some() {}
        if pieces.peek().is_none_or(|piece| end <= piece.start) {
            continue;
        }
        headers.clear();
        headers.extend(record.headers.iter());
        // With LogAppendTime the deltas mean nothing, and the record's time is the header's.
        let delta = record.timestamp.as_millis().wrapping_sub(base_timestamp.as_millis());
        // A record lies within its batch: checked by the reader that gave it.
        let offset = i32::try_from(record.offset.get() - header.base_offset.get()).unwrap_or(i32::MAX);
        put_record(out, delta, offset, record.key, record.value, &headers);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, BatchIter, Header, ProducerStamp};
    use crate::{Offset, ProducerEpoch, ProducerId, Sequence};

    fn batch(codec: Compression) -> Bytes {
        let mut builder = BatchBuilder::new(codec, 1 << 16);
        for n in 0..10i64 {
            let key = format!("k{n}");
            let header = Header { key: b"h", value: Some(b"v") };
            // The fifth is a tombstone.
            let value = (n != 5).then_some(&b"value"[..]);
            builder.append(Timestamp(1_000 + n), Some(key.as_bytes()), value, &[header]);
        }
        builder.finish(ProducerStamp {
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(1),
            base_sequence: Sequence(40),
            transactional: false,
        })
    }

    fn only(bytes: &Bytes) -> BatchRef<'_> {
        let mut batches = BatchIter::new(bytes);
        let batch = batches.next().unwrap().unwrap();
        assert!(batches.next().is_none());
        batch.verify().unwrap();
        batch
    }

    #[test]
    fn what_stays_is_where_and_when_it_was() {
        for codec in
            [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd]
        {
            let bytes = batch(codec);
            let before = only(&bytes);
            let mut scratch = Vec::new();
            for horizon in [None, Some(Timestamp(99_999))] {
                let odd = |record: &RecordView<'_>| record.offset.get() % 2 == 1;
                let Retained::Some(after) = before.retain(horizon, 1 << 20, &mut scratch, odd).unwrap()
                else {
                    panic!("some stay");
                };
                let after = only(&after);
                let header = after.header;
                assert_eq!((header.base_offset, header.last_offset()), (Offset(0), Offset(9)));
                assert_eq!((header.last_sequence(), header.record_count), (Sequence(49), 5));
                assert_eq!(
                    (header.max_timestamp, header.attributes.compression()),
                    (Timestamp(1_009), Ok(codec))
                );
                assert_eq!(header.attributes.has_delete_horizon(), horizon.is_some());
                let mut inflated = Vec::new();
                let records: Vec<_> =
                    after.records(&mut inflated, 1 << 20).unwrap().map(Result::unwrap).collect();
                for (record, n) in records.iter().zip([1i64, 3, 5, 7, 9]) {
                    assert_eq!((record.offset, record.timestamp), (Offset(n), Timestamp(1_000 + n)));
                    assert_eq!(record.key, Some(format!("k{n}").as_bytes()));
                    assert_eq!(record.headers.len(), 1);
                }
                // A horizon that is there stays.
                let all = after.retain(Some(Timestamp(5)), 1 << 20, &mut Vec::new(), |_| true).unwrap();
                assert_eq!(all == Retained::All, horizon.is_some());
            }
        }
    }

    #[test]
    fn only_a_tombstone_that_stays_sets_a_horizon() {
        for codec in [Compression::None, Compression::Zstd] {
            let bytes = batch(codec);
            let batch = only(&bytes);
            let horizon = Some(Timestamp(99_999));
            let retain = |keep: fn(&RecordView<'_>) -> bool| {
                batch.retain(horizon, 1 << 20, &mut Vec::new(), keep).unwrap()
            };
            let Retained::Some(without) = retain(|record| record.value.is_some()) else {
                panic!("nine stay")
            };
            assert!(!only(&without).header.attributes.has_delete_horizon());
            let Retained::Some(with) = retain(|_| true) else { panic!("it is written anew") };
            let with = only(&with);
            assert_eq!((with.header.base_timestamp, with.header.record_count), (Timestamp(99_999), 10));
            assert!(with.header.attributes.has_delete_horizon());
            let mut inflated = Vec::new();
            let times: Vec<_> = with
                .records(&mut inflated, 1 << 20)
                .unwrap()
                .map(|record| record.unwrap().timestamp.as_millis())
                .collect();
            assert_eq!(times, (1_000..1_010).collect::<Vec<_>>());
        }
    }

    #[test]
    fn all_or_nothing_needs_no_new_batch() {
        let bytes = batch(Compression::None);
        let batch = only(&bytes);
        let retain = |keep: bool| batch.retain(None, 1 << 20, &mut Vec::new(), |_| keep).unwrap();
        assert_eq!((retain(true), retain(false)), (Retained::All, Retained::None));
        let empty = batch.emptied();
        let empty = only(&empty);
        assert_eq!((empty.header.record_count, empty.header.last_sequence()), (0, Sequence(49)));
        assert_eq!(empty.records(&mut Vec::new(), 0).unwrap().count(), 0);
    }
}
