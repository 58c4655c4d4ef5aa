//! One partition's log, with a leader's checks of idempotent producers.

use bytes::{Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use thalweg_core::batch::{BatchHeader, BatchIter, HEADER_LEN, check_crc};
use thalweg_core::{ErrorCode, Offset};

/// Batches of a producer that are remembered.
const REMEMBERED: usize = 5;

#[derive(Debug, Default, Clone)]
pub struct Log {
    batches: Vec<(BatchHeader, Bytes)>,
    producers: BTreeMap<i64, Producer>,
}

#[derive(Debug, Default, Clone)]
struct Producer {
    epoch: i16,
    next: i32,
    recent: VecDeque<(i32, i64)>,
}

impl Log {
    pub fn end(&self) -> i64 {
        self.batches.last().map_or(0, |(header, _)| header.next_offset().get())
    }

    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// Appends a batch: its first offset.
    pub fn append(&mut self, batch: &Bytes) -> Result<i64, ErrorCode> {
        let mut header = check_crc(batch).map_err(|error| error.code())?;
        let end = self.end();
        let (epoch, first) = (header.producer_epoch.get(), header.base_sequence.get());
        let producer = self
            .producers
            .entry(header.producer_id.get())
            .or_insert_with(|| Producer { epoch, ..Producer::default() });
        if epoch < producer.epoch {
            return Err(ErrorCode::InvalidProducerEpoch);
        }
        if epoch > producer.epoch {
            *producer = Producer { epoch, ..Producer::default() };
        }
        if let Some((_, base)) = producer.recent.iter().find(|(sequence, _)| *sequence == first) {
            return Ok(*base);
        }
        if first != producer.next {
            return Err(ErrorCode::OutOfOrderSequence);
        }
        producer.next += header.record_count;
        producer.recent.push_back((first, end));
        if producer.recent.len() > REMEMBERED {
            producer.recent.pop_front();
        }
        header.base_offset = Offset(end);
        let mut stored = BytesMut::from(&header.encode()[..]);
        stored.extend_from_slice(&batch[HEADER_LEN..]);
        self.batches.push((header, stored.freeze()));
        Ok(end)
    }

    /// Whole batches from the one with that offset on; and where the next ones begin.
    pub fn read(&self, from: i64, max_bytes: usize) -> (Bytes, i64) {
        let (mut all, mut next) = (BytesMut::new(), from);
        let first = self.batches.partition_point(|(header, _)| header.next_offset().get() <= from);
        for (header, batch) in &self.batches[first..] {
            if !all.is_empty() && all.len() + batch.len() > max_bytes {
                break;
            }
            all.extend_from_slice(batch);
            next = header.next_offset().get();
        }
        (all.freeze(), next)
    }

    /// Every record's key.
    pub fn keys(&self) -> Vec<Bytes> {
        let (all, _) = self.read(0, usize::MAX);
        let mut scratch = Vec::new();
        let mut keys = Vec::new();
        for batch in BatchIter::new(&all) {
            for record in batch.unwrap().records(&mut scratch, 64 << 20).unwrap() {
                keys.push(Bytes::copy_from_slice(record.unwrap().key.unwrap()));
            }
        }
        keys
    }
}
