//! The log as it should be: a list of batches.

use crate::harness::stored;
use std::collections::HashMap;
use thalweg_core::batch::ValidBatch;
use thalweg_core::{LeaderEpoch, Offset};

#[derive(Debug, Clone)]
pub struct ModelBatch {
    pub base: Offset,
    pub end: Offset,
    pub bytes: Vec<u8>,
    pub epoch: LeaderEpoch,
}

/// What one producer sent: sequence and offset of its batches, and how to send the last one again.
#[derive(Debug, Clone, Default)]
pub struct ModelProducer {
    pub next_sequence: i32,
    pub batches: Vec<(ValidBatch, Offset)>,
}

#[derive(Debug, Default)]
pub struct Model {
    pub batches: Vec<ModelBatch>,
    pub log_start: Offset,
    pub log_end: Offset,
    pub high_watermark: Offset,
    pub epoch: LeaderEpoch,
    pub producers: HashMap<i64, ModelProducer>,
}

impl Model {
    pub fn append(&mut self, batch: &ValidBatch) -> Offset {
        let base = self.log_end;
        let end = base.advance(i64::from(batch.header().record_count));
        let bytes = stored(batch, base, self.epoch);
        self.batches.push(ModelBatch { base, end, bytes, epoch: self.epoch });
        self.log_end = end;
        base
    }

    /// The batches that a read from `from` below `below` may return, from the first one on.
    pub fn readable(&self, from: Offset, below: Offset) -> impl Iterator<Item = &ModelBatch> {
        self.batches.iter().filter(move |batch| batch.end > from && batch.end <= below)
    }

    pub fn truncate(&mut self, to: Offset) {
        if to >= self.log_end {
            return;
        }
        // The batch that holds the offset goes as a whole.
        let first_cut = self.batches.iter().find(|batch| batch.end > to);
        self.log_end = first_cut.map_or(to, |batch| batch.base.min(to));
        self.batches.retain(|batch| batch.end <= to);
        self.high_watermark = self.high_watermark.min(self.log_end);
        self.producers.clear();
    }

    pub fn start_at(&mut self, start: Offset) {
        self.log_start = start;
        self.batches.retain(|batch| batch.end > start);
    }
}
