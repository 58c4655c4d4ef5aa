//! One partition as a leader keeps it: whole batches, and Kafka's sequence rules.

use bytes::Bytes;
use thalweg_core::ErrorCode;
use thalweg_core::batch::{BatchIter, Limits, ValidBatch};

#[derive(Default)]
pub struct Log {
    pub batches: Vec<(i64, Bytes)>,
    pub start: i64,
    pub end: i64,
    producer: (i64, i16),
    next_sequence: i32,
    recent: Vec<(i32, i32, i64)>,
}

pub struct Appended {
    pub base: i64,
    pub last: i64,
    pub duplicate: bool,
}

impl Log {
    pub fn append(&mut self, bytes: &Bytes) -> Result<Appended, ErrorCode> {
        let batch = ValidBatch::check(bytes.clone(), &Limits::default()).map_err(|error| error.code())?;
        let header = *batch.header();
        let (sequence, count) = (header.base_sequence.get(), header.record_count);
        if header.producer_id.is_some() {
            let producer = (header.producer_id.get(), header.producer_epoch.get());
            if producer != self.producer {
                if producer.0 == self.producer.0 && producer.1 < self.producer.1 {
                    return Err(ErrorCode::InvalidProducerEpoch);
                }
                if sequence != 0 {
                    return Err(ErrorCode::OutOfOrderSequence);
                }
                (self.producer, self.next_sequence) = (producer, 0);
                self.recent.clear();
            }
            if let Some((_, _, base)) =
                self.recent.iter().find(|known| (known.0, known.1) == (sequence, count))
            {
                return Ok(Appended { base: *base, last: base + i64::from(count) - 1, duplicate: true });
            }
            if sequence != self.next_sequence {
                return Err(ErrorCode::OutOfOrderSequence);
            }
            self.next_sequence += count;
            self.recent.push((sequence, count, self.end));
            if self.recent.len() > 5 {
                self.recent.remove(0);
            }
        }
        let base = self.end;
        let mut stored = bytes.to_vec();
        stored[..8].copy_from_slice(&base.to_be_bytes());
        self.batches.push((base, stored.into()));
        self.end += i64::from(count);
        Ok(Appended { base, last: self.end - 1, duplicate: false })
    }

    /// The values of all records, in order.
    pub fn values(&self) -> Vec<Vec<u8>> {
        let mut values = Vec::new();
        for (_, bytes) in &self.batches {
            let batch = BatchIter::new(bytes).next().unwrap().unwrap();
            let mut scratch = Vec::new();
            let records = batch.records(&mut scratch, 1 << 20).unwrap();
            values.extend(records.map(|record| record.unwrap().value.unwrap_or_default().to_vec()));
        }
        values
    }

    /// Whole batches from the one that holds `offset` on, one at least, up to about `max` bytes.
    pub fn read(&self, offset: i64, max: usize) -> (Bytes, i64) {
        let first = self.batches.partition_point(|(base, _)| *base <= offset).saturating_sub(1);
        let mut bytes = Vec::new();
        let mut next = offset;
        for (index, (_, batch)) in self.batches.iter().enumerate().skip(first) {
            if !bytes.is_empty() && bytes.len() + batch.len() > max {
                break;
            }
            bytes.extend_from_slice(batch);
            next = self.batches.get(index + 1).map_or(self.end, |(base, _)| *base);
        }
        (bytes.into(), next)
    }
}
