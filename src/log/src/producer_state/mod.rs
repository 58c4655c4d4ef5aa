//! What a partition remembers of each idempotent producer: enough to answer a repeated batch with its first offsets and to
//! refuse one that leaves a gap.
//!
//! Checking and changing are two calls, with the write between them:
//!
//! ```text
//!   check(batch) ──► write to the log ──(it succeeded)──► apply(batch)
//! ```
//!
//! so that a failed append leaves no trace here, and a snapshot is never ahead of the log (catalogue 15). The state after a
//! restart is the newest snapshot not above the log's end, plus `apply` of every batch from there on.
//!
//! Where Thalweg differs from Kafka:
//! - Kafka lets a producer id that it does not know start at any sequence, because retention may have dropped the id's state;
//!   a gap after a loss goes unseen. Here such a batch is [`SequenceError::UnknownProducerId`]: the producer takes a new
//!   epoch and starts again at 0, and nothing is lost silently.
//! - Kafka answers an old duplicate with OUT_OF_ORDER_SEQUENCE. Here it is [`SequenceError::DuplicateSequence`], which
//!   the producer may count as success (the batch is in the log), without an offset.
//! - Kafka expires an id by its last batch's timestamp, which the producer chose. Here the broker's clock counts as well, so
//!   that a producer of old records is not forgotten between two of its batches.

mod check;
mod entry;
mod snapshot;
#[cfg(test)]
mod tests;

pub use check::{SequenceCheck, SequenceError};
pub use entry::{BatchMetadata, ProducerBatch, ProducerEntry, REMEMBERED_BATCHES};
pub use snapshot::{
    Snapshot, SnapshotEntry, SnapshotError, decode_snapshot, encode_snapshot, snapshot_file_name,
    snapshot_offset,
};

use crate::state_file::StateFileError;
use crate::storage::Storage;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use thalweg_core::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// Most producer ids that one partition remembers. Beyond it the ones unheard of for longest are forgotten, as if expired;
/// only those inside an open transaction stay.
pub const MAX_PRODUCER_IDS: usize = 100_000;

/// `producer.id.expiration.ms`: an id that wrote nothing for a day is forgotten.
pub const DEFAULT_EXPIRATION_MS: i64 = 86_400_000;

/// The producers of one partition.
#[derive(Debug, Clone, Default)]
pub struct ProducerStates {
    producers: HashMap<ProducerId, ProducerEntry>,
    /// Open transactions by their first offset.
    open_transactions: BTreeMap<Offset, ProducerId>,
    /// The offset behind the last batch applied: what a snapshot taken now would cover.
    map_end: Offset,
    /// What the newest snapshot on disk covers.
    snapshot_end: Offset,
}

impl ProducerStates {
    /// Knows no producer, and has seen the log up to `map_end`.
    pub fn new(map_end: Offset) -> Self {
        ProducerStates { map_end, snapshot_end: map_end, ..ProducerStates::default() }
    }

    /// The state of a producer.
    pub fn get(&self, id: ProducerId) -> Option<&ProducerEntry> {
        self.producers.get(&id)
    }

    /// All producers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &ProducerEntry> {
        self.producers.values()
    }

    /// The number of producers.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether no producer is known.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// The offset behind the last batch that was applied.
    pub fn map_end_offset(&self) -> Offset {
        self.map_end
    }

    /// The first offset of the oldest transaction that is still open: the last stable offset is not above it.
    pub fn first_undecided_offset(&self) -> Option<Offset> {
        self.open_transactions.keys().next().copied()
    }

    /// Whether a leader may append the batch. Changes nothing.
    pub fn check(&self, batch: &ProducerBatch) -> Result<SequenceCheck, SequenceError> {
        check::check(self.producers.get(&batch.producer_id), batch)
    }

    /// Remembers a batch that is in the log. For a leader after [`ProducerStates::check`] and the write; for a follower and
    /// for recovery without a check, since the leader made it.
    ///
    /// `now` is the broker's clock; it only defers the id's expiry.
    pub fn apply(&mut self, batch: &ProducerBatch, now: Timestamp) {
        self.advance_map_end(batch.last_offset.advance(1));
        if !batch.producer_id.is_some() {
            return;
        }
        let id = batch.producer_id;
        let entry = self.entry(id);
        entry.add(batch, now);
        if batch.transactional && entry.current_txn_first_offset.is_none() {
            entry.current_txn_first_offset = Some(batch.base_offset);
            self.open_transactions.insert(batch.base_offset, id);
        }
    }

    /// Remembers a control batch that ends a producer's transaction.
    pub fn apply_end_marker(
        &mut self,
        id: ProducerId,
        epoch: ProducerEpoch,
        coordinator_epoch: i32,
        offset: Offset,
        timestamp: Timestamp,
        now: Timestamp,
    ) {
        self.advance_map_end(offset.advance(1));
        if !id.is_some() {
            return;
        }
        let entry = self.entry(id);
        entry.set_epoch(epoch);
        entry.coordinator_epoch = coordinator_epoch;
        entry.last_timestamp = timestamp;
        entry.last_seen = entry.last_seen.max(now);
        if let Some(first) = entry.current_txn_first_offset.take() {
            self.open_transactions.remove(&first);
        }
    }

    /// Gives back to producers the older batches that a snapshot does not hold (it keeps one for each). `batches` are the
    /// last ones of the log in offset order, as far back as the caller cares to read headers; those that the state does not
    /// follow from are passed over. Without it, a producer that repeats several batches after a clean restart is answered
    /// `DuplicateSequence` for all but the last.
    pub fn recall(&mut self, batches: &[ProducerBatch]) {
        for batch in batches.iter().rev() {
            self.recall_one(batch);
        }
    }

    /// The producers of which older batches than the known ones may be in the log, and each one's oldest known offset.
    pub fn wanting_recall(&self) -> HashMap<ProducerId, Offset> {
        let wanting = self.producers.values().filter(|entry| entry.wants_recall());
        let oldest = |entry: &ProducerEntry| entry.batches.front().map(BatchMetadata::base_offset);
        wanting.filter_map(|entry| Some((entry.producer_id, oldest(entry)?))).collect()
    }

    /// As [`ProducerStates::recall`] for one batch. Returns whether a still older batch of its producer is of use.
    pub fn recall_one(&mut self, batch: &ProducerBatch) -> bool {
        self.producers.get_mut(&batch.producer_id).is_some_and(|entry| entry.recall(batch))
    }

    /// Notes that the log goes on to `offset` with batches that have no producer.
    pub fn advance_map_end(&mut self, offset: Offset) {
        self.map_end = self.map_end.max(offset);
    }

    /// Forgets producers that wrote nothing for `expiration_ms`, except inside an open transaction. Returns how many.
    pub fn expire(&mut self, now: Timestamp, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, entry| !entry.is_expired(now, expiration_ms));
        before - self.producers.len()
    }

    /// A producer's entry, made if there is none.
    fn entry(&mut self, id: ProducerId) -> &mut ProducerEntry {
        if self.producers.len() >= MAX_PRODUCER_IDS && !self.producers.contains_key(&id) {
            self.forget_oldest();
        }
        self.producers.entry(id).or_insert_with(|| ProducerEntry::new(id))
    }

    /// Forgets a sixteenth at once, so that the search is paid once for many new ids.
    fn forget_oldest(&mut self) {
        let mut seen: Vec<_> = (self.producers.values())
            .filter(|entry| entry.current_txn_first_offset.is_none())
            .map(|entry| (entry.last_seen, entry.producer_id))
            .collect();
        seen.sort_unstable();
        for (_, id) in seen.into_iter().take(MAX_PRODUCER_IDS / 16) {
            self.producers.remove(&id);
        }
    }

    /// What a snapshot taken now would hold, if the log went on since the last one. Encode it under the log's lock, write it
    /// outside, then call [`ProducerStates::snapshot_written`].
    pub fn snapshot(&self) -> Option<Snapshot> {
        (self.map_end > self.snapshot_end).then(|| {
            let entries: Vec<_> = self.producers.values().map(ProducerEntry::to_snapshot).collect();
            Snapshot::new(self.map_end, entries)
        })
    }

    /// Notes that a snapshot is on disk.
    pub fn snapshot_written(&mut self, offset: Offset) {
        self.snapshot_end = self.snapshot_end.max(offset);
    }

    /// Encodes, writes and notes a snapshot in one go, for closing and recovery.
    pub fn take_snapshot(&mut self, storage: &dyn Storage, dir: &Path) -> Result<(), StateFileError> {
        if let Some(snapshot) = self.snapshot() {
            snapshot.write(storage, dir)?;
            self.snapshot_written(snapshot.offset());
        }
        Ok(())
    }

    /// The newest good snapshot of the log `[log_start, log_end]`. Snapshots above its end or at or below its start are
    /// removed, and so are damaged ones, in favour of the next older. The caller then applies every batch from
    /// [`ProducerStates::map_end_offset`] to `log_end`.
    pub fn load(
        storage: &dyn Storage,
        dir: &Path,
        log_start: Offset,
        log_end: Offset,
        now: Timestamp,
    ) -> Result<ProducerStates, StateFileError> {
        let found = snapshot::load_newest(storage, dir, log_start, log_end)?;
        let Some((offset, entries)) = found else { return Ok(ProducerStates::new(log_start)) };
        let mut states = ProducerStates::new(offset);
        for entry in entries {
            let entry = ProducerEntry::from_snapshot(&entry, now);
            if let Some(first) = entry.current_txn_first_offset {
                states.open_transactions.insert(first, entry.producer_id);
            }
            states.producers.insert(entry.producer_id, entry);
        }
        Ok(states)
    }

    /// Removes the snapshots below `offset`, after the segments that began there were deleted.
    pub fn delete_snapshots_before(
        storage: &dyn Storage,
        dir: &Path,
        offset: Offset,
    ) -> Result<usize, StateFileError> {
        snapshot::delete(storage, dir, |found| found < offset)
    }

    /// Removes the snapshots at these offsets, except the newest, after segments were merged.
    pub fn delete_snapshots_at(
        storage: &dyn Storage,
        dir: &Path,
        gone: &[Offset],
    ) -> Result<usize, StateFileError> {
        if gone.is_empty() {
            return Ok(0);
        }
        let newest = snapshot::offsets(storage, dir)?.into_iter().max();
        snapshot::delete(storage, dir, |found| Some(found) != newest && gone.contains(&found))
    }

    /// Removes every snapshot that is not at one of `keep`, except the newest.
    pub fn delete_stray_snapshots(
        storage: &dyn Storage,
        dir: &Path,
        keep: &[Offset],
    ) -> Result<usize, StateFileError> {
        let newest = snapshot::offsets(storage, dir)?.into_iter().max();
        snapshot::delete(storage, dir, |found| Some(found) != newest && !keep.contains(&found))
    }
}

/// The epoch of a coordinator that has written no marker yet.
pub const NO_COORDINATOR_EPOCH: i32 = -1;
