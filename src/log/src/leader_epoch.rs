//! Where each leader's epoch starts in a partition's log (KIP-101, KIP-279), kept in `leader-epoch-checkpoint`.
//!
//! A follower that returns asks its leader where an epoch ended and cuts its own log there. So the list on disk must never be
//! ahead of the truth: it is cut before the log is. A new epoch, though, is only noted in memory, because a broker that takes
//! over thousands of partitions cannot sync a file for each: until [`LeaderEpochFile::persist`] the log's recovery point stays at
//! or below [`LeaderEpochFile::unwritten_from`], so that a recovery finds the epoch in the batches.

use crate::checkpoint::{self, CheckpointEntry, fields, number};
use crate::state_file::StateFileError;
use crate::storage::Storage;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_core::{LeaderEpoch, Offset};

/// The file's name in a partition's folder.
pub const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";

/// An epoch and the first offset that its leader wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochStart {
    /// The leader's epoch.
    pub epoch: LeaderEpoch,
    /// The first offset of the epoch.
    pub start: Offset,
}

impl CheckpointEntry for EpochStart {
    fn format(&self, line: &mut String) {
        // Writing to a String cannot fail.
        let _ = write!(line, "{} {}", self.epoch, self.start);
    }

    fn parse(line: &str) -> Option<Self> {
        let [epoch, start] = fields(line)?;
        Some(EpochStart { epoch: LeaderEpoch(number(epoch)?), start: Offset(number(start)?) })
    }
}

/// The epochs of one log, epochs and start offsets both strictly rising. Pure; [`LeaderEpochFile`] keeps it on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<EpochStart>,
}

impl LeaderEpochs {
    /// Builds the list from entries in any state: a later entry wins over earlier ones that it contradicts.
    pub fn from_entries(entries: impl IntoIterator<Item = EpochStart>) -> Self {
        let mut epochs = LeaderEpochs::default();
        for entry in entries {
            epochs.assign(entry.epoch, entry.start);
        }
        epochs
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The newest entry.
    pub fn latest(&self) -> Option<EpochStart> {
        self.entries.last().copied()
    }

    /// The epoch of the batch at an offset; `None` below the first entry.
    pub fn epoch_at(&self, offset: Offset) -> Option<LeaderEpoch> {
        let after = self.entries.partition_point(|entry| entry.start <= offset);
        after.checked_sub(1).map(|i| self.entries[i].epoch)
    }

    /// Whether [`LeaderEpochs::assign`] would change anything. Cheap: it is asked before every append.
    pub fn needs_assign(&self, epoch: LeaderEpoch, start: Offset) -> bool {
        epoch.get() >= 0
            && start.get() >= 0
            && self.latest().is_none_or(|last| epoch != last.epoch || start < last.start)
    }

    /// Notes that `epoch` starts at `start`. Entries that contradict it (same or later epoch, same or later start) give
    /// way, as they come from records that were cut away. Returns whether anything changed; negative values are ignored.
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        if !self.needs_assign(epoch, start) {
            return false;
        }
        while self.latest().is_some_and(|last| last.epoch >= epoch || last.start >= start) {
            self.entries.pop();
        }
        self.entries.push(EpochStart { epoch, start });
        true
    }

    /// The end of the largest epoch that is not above `epoch`, and that epoch: the answer to OffsetsForLeaderEpoch.
    ///
    /// - The latest epoch ends at `log_end`.
    /// - An epoch above the latest, a negative one, or any in an empty list is not known: `None`.
    /// - An epoch below the first entry "ends" where the first entry starts, under its own name.
    pub fn end_offset_for(&self, epoch: LeaderEpoch, log_end: Offset) -> Option<(LeaderEpoch, Offset)> {
        let latest = self.latest()?;
        if epoch.get() < 0 || epoch > latest.epoch {
            return None;
        }
        if epoch == latest.epoch {
            return Some((epoch, log_end));
        }
        let next = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let floor = next.checked_sub(1).map_or(epoch, |i| self.entries[i].epoch);
        Some((floor, self.entries[next].start))
    }

    /// Drops what starts at or above `end`, after the log was cut there. Returns whether anything changed.
    pub fn truncate_from_end(&mut self, end: Offset) -> bool {
        let keep = self.entries.partition_point(|entry| entry.start < end);
        let changed = keep < self.entries.len();
        self.entries.truncate(keep);
        changed
    }

    /// Drops what ends at or below `start`, after the log's start moved there; the epoch that holds `start` now starts
    /// at it. Returns whether anything changed.
    pub fn truncate_from_start(&mut self, start: Offset) -> bool {
        let after = self.entries.partition_point(|entry| entry.start <= start);
        let Some(holder) = after.checked_sub(1) else { return false };
        let changed = holder > 0 || self.entries[0].start != start;
        self.entries.drain(..holder);
        self.entries[0].start = start;
        changed
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

/// [`LeaderEpochs`] with their file. Except for new epochs, memory changes only after the file did, so that a failed write
/// changes nothing.
#[derive(Debug)]
pub struct LeaderEpochFile {
    storage: Arc<dyn Storage>,
    path: PathBuf,
    epochs: LeaderEpochs,
    /// Where the first epoch starts that the file does not have.
    unwritten_from: Option<Offset>,
}

impl LeaderEpochFile {
    /// Reads the file of the partition's folder; none is an empty list. A damaged one is an error (`is_corrupt`): the caller
    /// rebuilds the list from the batches' headers and hands it to [`LeaderEpochFile::rebuilt`].
    pub fn open(storage: Arc<dyn Storage>, partition_dir: &Path) -> Result<Self, StateFileError> {
        let path = partition_dir.join(LEADER_EPOCH_CHECKPOINT);
        let epochs = LeaderEpochs::from_entries(checkpoint::read(&*storage, &path)?);
        Ok(LeaderEpochFile { storage, path, epochs, unwritten_from: None })
    }

    /// The empty list of a folder that was just made and has no such file.
    pub fn empty(storage: Arc<dyn Storage>, partition_dir: &Path) -> Self {
        let path = partition_dir.join(LEADER_EPOCH_CHECKPOINT);
        LeaderEpochFile { storage, path, epochs: LeaderEpochs::default(), unwritten_from: None }
    }

    /// Replaces the file by a list that was rebuilt from the log.
    pub fn rebuilt(
        storage: Arc<dyn Storage>,
        partition_dir: &Path,
        epochs: LeaderEpochs,
    ) -> Result<Self, StateFileError> {
        let path = partition_dir.join(LEADER_EPOCH_CHECKPOINT);
        checkpoint::write(&*storage, &path, epochs.entries())?;
        Ok(LeaderEpochFile { storage, path, epochs, unwritten_from: None })
    }

    /// The list.
    pub fn epochs(&self) -> &LeaderEpochs {
        &self.epochs
    }

    /// Follows the partition's folder after it was renamed.
    pub fn moved_to(&mut self, partition_dir: &Path) {
        self.path = partition_dir.join(LEADER_EPOCH_CHECKPOINT);
    }

    /// [`LeaderEpochs::assign`], in memory. No record from [`LeaderEpochFile::unwritten_from`] on may be left out of a recovery
    /// before [`LeaderEpochFile::persist`].
    pub fn assign(&mut self, epoch: LeaderEpoch, start: Offset) -> bool {
        let changed = self.epochs.assign(epoch, start);
        if changed {
            // What gave way to the new entry started at or above it, or was contradicted: the file is wrong from there on.
            self.unwritten_from = Some(self.unwritten_from.map_or(start, |from| from.min(start)));
        }
        changed
    }

    /// Where the first epoch starts that the file does not have; `None` if it has all.
    pub fn unwritten_from(&self) -> Option<Offset> {
        self.unwritten_from
    }

    /// Writes down what is only in memory. Costs two syncs if there is something, nothing otherwise.
    pub fn persist(&mut self) -> Result<(), StateFileError> {
        if self.unwritten_from.is_some() {
            checkpoint::write(&*self.storage, &self.path, self.epochs.entries())?;
            self.unwritten_from = None;
        }
        Ok(())
    }

    /// [`LeaderEpochs::truncate_from_end`], on disk first. After an error the file may lack what is in memory from `end` on.
    pub fn truncate_from_end(&mut self, end: Offset) -> Result<bool, StateFileError> {
        self.update(|epochs| epochs.truncate_from_end(end)).inspect_err(|_| self.doubt(end))
    }

    /// [`LeaderEpochs::truncate_from_start`], on disk first.
    pub fn truncate_from_start(&mut self, start: Offset) -> Result<bool, StateFileError> {
        self.update(|epochs| epochs.truncate_from_start(start))
    }

    /// Forgets everything, on disk first. After an error the file may lack all that is in memory.
    pub fn clear(&mut self) -> Result<bool, StateFileError> {
        let cleared = self.update(|epochs| {
            let changed = epochs.latest().is_some();
            epochs.clear();
            changed
        });
        cleared.inspect_err(|_| self.doubt(Offset::ZERO))
    }

    /// The file may already be the shorter one: it is wrong from there on until it is written again.
    fn doubt(&mut self, from: Offset) {
        self.unwritten_from = Some(self.unwritten_from.map_or(from, |before| before.min(from)));
    }

    fn update(&mut self, change: impl FnOnce(&mut LeaderEpochs) -> bool) -> Result<bool, StateFileError> {
        let mut next = self.epochs.clone();
        if !change(&mut next) {
            return Ok(false);
        }
        checkpoint::write(&*self.storage, &self.path, next.entries())?;
        self.epochs = next;
        self.unwritten_from = None;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{FaultError, OpKind, SimStorage};
    use proptest::prelude::*;

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        LeaderEpochs::from_entries(entries.iter().map(|(e, s)| entry(*e, *s)))
    }

    fn entry(epoch: i32, start: i64) -> EpochStart {
        EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) }
    }

    fn end(epochs: &LeaderEpochs, epoch: i32) -> Option<(i32, i64)> {
        epochs.end_offset_for(LeaderEpoch(epoch), Offset(100)).map(|(e, o)| (e.get(), o.get()))
    }

    #[test]
    fn an_epochs_end_is_the_next_ones_start() {
        let list = epochs(&[(2, 10), (5, 20), (7, 30)]);
        assert_eq!(end(&list, 2), Some((2, 20)));
        assert_eq!(end(&list, 5), Some((5, 30)));
        assert_eq!(end(&list, 7), Some((7, 100)));
    }

    #[test]
    fn unknown_epochs_are_answered_as_kafka_does() {
        let list = epochs(&[(2, 10), (5, 20), (7, 30)]);
        assert_eq!(end(&list, 6), Some((5, 30)), "between two: the lower one's end");
        assert_eq!(end(&list, 1), Some((1, 10)), "below all: the first one's start");
        assert_eq!(end(&list, 8), None, "above all");
        assert_eq!(end(&list, -1), None);
        assert_eq!(end(&epochs(&[]), 0), None);
    }

    #[test]
    fn the_same_epoch_is_noted_once() {
        let mut list = epochs(&[(1, 10)]);
        assert!(!list.assign(LeaderEpoch(1), Offset(15)));
        assert!(!list.assign(LeaderEpoch(-1), Offset(15)));
        assert_eq!(list.entries(), [entry(1, 10)]);
    }

    #[test]
    fn contradicted_entries_give_way() {
        let mut list = epochs(&[(1, 10), (2, 20), (3, 30)]);
        assert!(list.assign(LeaderEpoch(4), Offset(20)));
        assert_eq!(list.entries(), [entry(1, 10), entry(4, 20)], "offsets were rewritten");
        assert!(list.assign(LeaderEpoch(2), Offset(50)));
        assert_eq!(list.entries(), [entry(1, 10), entry(2, 50)], "a lower epoch");
    }

    #[test]
    fn the_end_is_cut_with_the_log() {
        let mut list = epochs(&[(1, 10), (2, 20), (3, 30)]);
        assert!(!list.truncate_from_end(Offset(31)));
        assert!(list.truncate_from_end(Offset(30)));
        assert_eq!(list.entries(), [entry(1, 10), entry(2, 20)]);
        assert!(list.truncate_from_end(Offset(0)));
        assert!(list.entries().is_empty());
    }

    #[test]
    fn the_start_moves_with_the_log() {
        let mut list = epochs(&[(1, 10), (2, 20), (3, 30)]);
        assert!(!list.truncate_from_start(Offset(5)));
        assert!(!list.truncate_from_start(Offset(10)));
        assert!(list.truncate_from_start(Offset(25)));
        assert_eq!(list.entries(), [entry(2, 25), entry(3, 30)]);
        assert!(list.truncate_from_start(Offset(99)));
        assert_eq!(list.entries(), [entry(3, 99)]);
    }

    #[test]
    fn an_offsets_epoch_is_found() {
        let list = epochs(&[(1, 10), (2, 20)]);
        let at = |offset| list.epoch_at(Offset(offset)).map(LeaderEpoch::get);
        assert_eq!([at(9), at(10), at(19), at(20), at(999)], [None, Some(1), Some(1), Some(2), Some(2)]);
    }

    #[test]
    fn the_file_is_kafkas_and_survives() {
        let sim = SimStorage::new(1);
        sim.create_dir_all(Path::new("/t-0")).unwrap();
        let storage: Arc<dyn Storage> = Arc::new(sim.clone());
        let mut file = LeaderEpochFile::open(Arc::clone(&storage), Path::new("/t-0")).unwrap();
        assert!(file.assign(LeaderEpoch(0), Offset(0)));
        file.persist().unwrap();
        assert!(file.assign(LeaderEpoch(3), Offset(42)));
        assert_eq!(file.unwritten_from(), Some(Offset(42)));
        file.persist().unwrap();
        let ops = sim.op_count();
        assert!(!file.assign(LeaderEpoch(3), Offset(43)));
        file.persist().unwrap();
        assert_eq!((sim.op_count(), file.unwritten_from()), (ops, None), "nothing new, nothing written");
        sim.power_cut_strict();
        let path = Path::new("/t-0/leader-epoch-checkpoint");
        assert_eq!(crate::state_file::read(&sim, path).unwrap().unwrap(), b"0\n2\n0 0\n3 42\n");
        let again = LeaderEpochFile::open(storage, Path::new("/t-0")).unwrap();
        assert_eq!(again.epochs(), file.epochs());
    }

    #[test]
    fn a_failed_write_changes_nothing() {
        let sim = SimStorage::new(1);
        sim.create_dir_all(Path::new("/t-0")).unwrap();
        let mut file = LeaderEpochFile::open(Arc::new(sim.clone()), Path::new("/t-0")).unwrap();
        file.assign(LeaderEpoch(0), Offset(0));
        file.assign(LeaderEpoch(1), Offset(5));
        sim.fail_nth(&[OpKind::Write], 1, FaultError::NoSpace);
        assert!(file.truncate_from_end(Offset(5)).is_err());
        assert_eq!(file.epochs().entries(), [entry(0, 0), entry(1, 5)]);
        sim.fail_nth(&[OpKind::Write], 1, FaultError::NoSpace);
        assert!(file.persist().is_err());
        assert_eq!(file.unwritten_from(), Some(Offset(0)));
        file.persist().unwrap();
        assert!(file.truncate_from_end(Offset(5)).unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        /// Against the plain truth: the epoch of every offset, one by one.
        #[test]
        fn the_list_tells_the_truth_about_every_offset(
            steps in prop::collection::vec((0u8..4, 0i64..8), 1..40)
        ) {
            let mut list = LeaderEpochs::default();
            let (mut log, mut start, mut epoch) = (Vec::<i32>::new(), 0i64, 0i32);
            for (kind, n) in steps {
                let end = start + log.len() as i64;
                match kind {
                    0 | 1 => {
                        epoch += i32::from(kind == 1);
                        if n > 0 {
                            list.assign(LeaderEpoch(epoch), Offset(end));
                        }
                        log.extend((0..n).map(|_| epoch));
                    }
                    2 => {
                        log.truncate(log.len().saturating_sub(n as usize));
                        list.truncate_from_end(Offset(start + log.len() as i64));
                    }
                    _ => {
                        let n = (n as usize).min(log.len());
                        log.drain(..n);
                        start += n as i64;
                        list.truncate_from_start(Offset(start));
                    }
                }
                for (i, epoch) in log.iter().enumerate() {
                    let at = Offset(start + i as i64);
                    prop_assert_eq!(list.epoch_at(at), Some(LeaderEpoch(*epoch)));
                }
                let end = Offset(start + log.len() as i64);
                if let Some(last) = log.last() {
                    for (i, asked) in log.iter().enumerate() {
                        let above = log[i..].iter().position(|e| e > asked);
                        let want = above.map_or(end, |n| Offset(start + (i + n) as i64));
                        prop_assert_eq!(
                            list.end_offset_for(LeaderEpoch(*asked), end),
                            Some((LeaderEpoch(*asked), want))
                        );
                    }
                    prop_assert_eq!(list.end_offset_for(LeaderEpoch(last + 1), end), None);
                }
                prop_assert!(list.entries().windows(2).all(|w| w[0].epoch < w[1].epoch && w[0].start < w[1].start));
            }
        }
    }
}
