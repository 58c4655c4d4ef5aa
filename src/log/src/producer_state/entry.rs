//! One producer's part of the state.

use super::{NO_COORDINATOR_EPOCH, SnapshotEntry};
use std::collections::VecDeque;
use thalweg_core::batch::BatchHeader;
use thalweg_core::{Offset, ProducerEpoch, ProducerId, Sequence, Timestamp};

/// How many batches of each producer are remembered: as many as a producer may have in flight
/// (`max.in.flight.requests.per.connection` with idempotence).
pub const REMEMBERED_BATCHES: usize = 5;

/// What the producer state needs to know of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerBatch {
    /// The producer; none for a batch without idempotence.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// The first record's sequence.
    pub first_sequence: Sequence,
    /// The last record's sequence.
    pub last_sequence: Sequence,
    /// The first record's offset. Not looked at by `check`.
    pub base_offset: Offset,
    /// The last record's offset. Not looked at by `check`.
    pub last_offset: Offset,
    /// The largest timestamp of the batch's records, as stored.
    pub timestamp: Timestamp,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
}

impl From<&BatchHeader> for ProducerBatch {
    /// Of a stored batch, or of one whose offsets, and timestamp with LogAppendTime, are set already.
    fn from(header: &BatchHeader) -> Self {
        ProducerBatch {
            producer_id: header.producer_id,
            producer_epoch: header.producer_epoch,
            first_sequence: header.base_sequence,
            last_sequence: header.last_sequence(),
            base_offset: header.base_offset,
            last_offset: header.last_offset(),
            timestamp: header.max_timestamp,
            transactional: header.attributes.is_transactional(),
        }
    }
}

/// A remembered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMetadata {
    /// The first record's sequence.
    pub first_sequence: Sequence,
    /// The last record's sequence.
    pub last_sequence: Sequence,
    /// The last record's offset.
    pub last_offset: Offset,
    /// The last offset less the first.
    pub offset_delta: i32,
    /// The batch's largest timestamp, as stored.
    pub timestamp: Timestamp,
}

impl BatchMetadata {
    fn of(batch: &ProducerBatch) -> Self {
        let delta = batch.last_offset.get().saturating_sub(batch.base_offset.get());
        BatchMetadata {
            first_sequence: batch.first_sequence,
            last_sequence: batch.last_sequence,
            last_offset: batch.last_offset,
            offset_delta: i32::try_from(delta).unwrap_or(i32::MAX),
            timestamp: batch.timestamp,
        }
    }

    /// The first record's offset.
    pub fn base_offset(&self) -> Offset {
        Offset(self.last_offset.get().saturating_sub(i64::from(self.offset_delta)))
    }
}

/// What is known of one producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerEntry {
    /// The producer.
    pub producer_id: ProducerId,
    /// Its newest epoch.
    pub producer_epoch: ProducerEpoch,
    /// Its last batches of this epoch, oldest first, at most [`REMEMBERED_BATCHES`].
    pub batches: VecDeque<BatchMetadata>,
    /// The largest timestamp of its last batch or marker.
    pub last_timestamp: Timestamp,
    /// When the broker last heard of it, by the broker's clock. Not stored: a restart counts as hearing.
    pub last_seen: Timestamp,
    /// The epoch of the coordinator that wrote its last marker; -1 before the first.
    pub coordinator_epoch: i32,
    /// Where its open transaction begins.
    pub current_txn_first_offset: Option<Offset>,
}

impl ProducerEntry {
    pub(super) fn new(producer_id: ProducerId) -> Self {
        ProducerEntry {
            producer_id,
            producer_epoch: ProducerEpoch::NONE,
            batches: VecDeque::new(),
            last_timestamp: Timestamp::NONE,
            last_seen: Timestamp::NONE,
            coordinator_epoch: NO_COORDINATOR_EPOCH,
            current_txn_first_offset: None,
        }
    }

    /// The last record's sequence; none if no batch of this epoch is known.
    pub fn last_sequence(&self) -> Option<Sequence> {
        self.batches.back().map(|batch| batch.last_sequence)
    }

    /// The batch of exactly these sequences, if it is one of the remembered.
    pub fn find_batch(&self, first: Sequence, last: Sequence) -> Option<&BatchMetadata> {
        self.batches.iter().find(|batch| batch.first_sequence == first && batch.last_sequence == last)
    }

    /// Takes another epoch, which forgets the batches of the old one.
    pub(super) fn set_epoch(&mut self, epoch: ProducerEpoch) {
        if self.producer_epoch != epoch {
            self.batches.clear();
            self.producer_epoch = epoch;
        }
    }

    pub(super) fn add(&mut self, batch: &ProducerBatch, now: Timestamp) {
        self.set_epoch(batch.producer_epoch);
        if self.batches.len() == REMEMBERED_BATCHES {
            self.batches.pop_front();
        }
        self.batches.push_back(BatchMetadata::of(batch));
        self.last_timestamp = batch.timestamp;
        self.last_seen = self.last_seen.max(now);
    }

    /// Whether older batches than the known ones are worth a search: there is room, and the oldest is not the first.
    pub(super) fn wants_recall(&self) -> bool {
        let oldest = self.batches.front();
        self.batches.len() < REMEMBERED_BATCHES
            && oldest.is_some_and(|oldest| oldest.first_sequence.get() > 0)
    }

    /// Puts an older batch in front, if it directly precedes the oldest remembered one. Returns whether a still older one is
    /// of use: not behind a gap.
    pub(super) fn recall(&mut self, batch: &ProducerBatch) -> bool {
        let Some(oldest) = self.batches.front() else { return false };
        if batch.last_offset >= oldest.base_offset() {
            return self.wants_recall();
        }
        let precedes = batch.producer_epoch == self.producer_epoch
            && batch.last_sequence.get() >= 0
            && batch.last_sequence.advance(1) == oldest.first_sequence;
        if precedes && self.batches.len() < REMEMBERED_BATCHES {
            self.batches.push_front(BatchMetadata::of(batch));
        }
        precedes && self.wants_recall()
    }

    pub(super) fn is_expired(&self, now: Timestamp, expiration_ms: i64) -> bool {
        let heard = self.last_timestamp.max(self.last_seen);
        self.current_txn_first_offset.is_none()
            && now.as_millis().saturating_sub(heard.as_millis()) >= expiration_ms
    }

    pub(super) fn to_snapshot(&self) -> SnapshotEntry {
        let last = self.batches.back();
        SnapshotEntry {
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            last_sequence: last.map_or(Sequence::NONE, |batch| batch.last_sequence),
            last_offset: last.map_or(Offset::NONE, |batch| batch.last_offset),
            offset_delta: last.map_or(0, |batch| batch.offset_delta),
            timestamp: self.last_timestamp,
            coordinator_epoch: self.coordinator_epoch,
            current_txn_first_offset: self.current_txn_first_offset.unwrap_or(Offset::NONE),
        }
    }

    pub(super) fn from_snapshot(stored: &SnapshotEntry, now: Timestamp) -> Self {
        let mut entry = ProducerEntry::new(stored.producer_id);
        entry.producer_epoch = stored.producer_epoch;
        entry.last_timestamp = stored.timestamp;
        entry.last_seen = now;
        entry.coordinator_epoch = stored.coordinator_epoch;
        entry.current_txn_first_offset =
            (stored.current_txn_first_offset.get() >= 0).then_some(stored.current_txn_first_offset);
        // Kafka stores -1 where no batch is known. Other impossible values can only come from a faulty writer.
        if stored.last_offset.get() >= 0 && stored.last_sequence.get() >= 0 && stored.offset_delta >= 0 {
            entry.batches.push_back(BatchMetadata {
                first_sequence: retreat(stored.last_sequence, stored.offset_delta),
                last_sequence: stored.last_sequence,
                last_offset: stored.last_offset,
                offset_delta: stored.offset_delta,
                timestamp: stored.timestamp,
            });
        }
        entry
    }
}

/// The sequence `n` records back, wrapping from 0 to `i32::MAX`; the reverse of `Sequence::advance`.
pub(super) fn retreat(sequence: Sequence, n: i32) -> Sequence {
    if sequence.get() < n {
        Sequence(i32::MAX - (n - sequence.get()) + 1)
    } else {
        Sequence(sequence.get() - n)
    }
}
