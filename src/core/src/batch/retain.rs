//! A batch of which only some records stay: what compaction writes in place of the old one. Offsets, producer and epoch do not
//! change, so that a reader, a follower and a producer's retry see the same batch with holes.

use super::header::{Attributes, HEADER_LEN, seal};
use super::reader::BatchRef;
use super::record::{Header, RecordView, put_record};
use super::{BatchError, BatchHeader};
use crate::Timestamp;
use crate::compression::Compression;
use bytes::Bytes;

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
    /// Keeps the records that `keep` wants. With `horizon` the batch notes from when on its tombstones may go, in place of its
    /// base timestamp (KIP-534); a batch that has one keeps it.
    ///
    /// Errors: the batch is malformed, or inflates beyond `max_inflated`. The checksum is not looked at.
    pub fn retain(
        &self,
        horizon: Option<Timestamp>,
        max_inflated: usize,
        scratch: &mut Vec<u8>,
        mut keep: impl FnMut(&RecordView<'_>) -> bool,
    ) -> Result<Retained, BatchError> {
        let header = self.header;
        let codec = header.attributes.compression()?;
        let horizon = horizon.filter(|_| !header.attributes.has_delete_horizon());
        let base_timestamp = horizon.unwrap_or(header.base_timestamp);
        let mut kept = Vec::with_capacity(self.bytes.len());
        kept.resize(HEADER_LEN, 0);
        let mut headers = Vec::new();
        let (mut count, mut all) = (0, true);
        let mut max_timestamp = Timestamp::NONE;
        for record in self.records(scratch, max_inflated)? {
            let record = record?;
            if !keep(&record) {
                all = false;
                continue;
            }
            headers.clear();
            headers.extend(record.headers.iter());
            put(&mut kept, &header, base_timestamp, &record, &headers);
            max_timestamp = max_timestamp.max(record.timestamp);
            count += 1;
        }
        if count == 0 {
            return Ok(Retained::None);
        }
        if all && horizon.is_none() {
            return Ok(Retained::All);
        }
        if codec != Compression::None {
            let mut packed = Vec::with_capacity(self.bytes.len());
            packed.resize(HEADER_LEN, 0);
            codec
                .compress(&kept[HEADER_LEN..], &mut packed)
                .expect("compressing memory into memory does no I/O that could fail");
            kept = packed;
        }
        let attributes = match horizon {
            Some(_) => header.attributes.with_delete_horizon(),
            None => header.attributes,
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

fn put(
    out: &mut Vec<u8>,
    header: &BatchHeader,
    base_timestamp: Timestamp,
    record: &RecordView<'_>,
    headers: &[Header<'_>],
) {
    let timestamp_delta = record.timestamp.as_millis().wrapping_sub(base_timestamp.as_millis());
    // A record lies within its batch: checked by the reader that gave it.
    let offset_delta = i32::try_from(record.offset.get() - header.base_offset.get()).unwrap_or(i32::MAX);
    put_record(out, timestamp_delta, offset_delta, record.key, record.value, headers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, BatchIter, ProducerStamp};
    use crate::{Offset, ProducerEpoch, ProducerId, Sequence};

    fn batch(codec: Compression) -> Bytes {
        let mut builder = BatchBuilder::new(codec, 1 << 16);
        for n in 0..10i64 {
            let key = format!("k{n}");
            let header = Header { key: b"h", value: Some(b"v") };
            builder.append(Timestamp(1_000 + n), Some(key.as_bytes()), Some(b"value"), &[header]);
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
