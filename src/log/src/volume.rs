//! A data directory while it is in use: whether it failed, which logs it holds, which of them wait for an fsync.

use crate::checkpoint::{
    self, CLEANER_CHECKPOINT, HIGH_WATERMARK_CHECKPOINT, LOG_START_CHECKPOINT, PartitionOffset,
    RECOVERY_POINT_CHECKPOINT,
};
use crate::cleaner::Syncs;
use crate::committer::{Bell, CommitQueue};
use crate::error::StorageError;
use crate::log::Log;
use crate::state_file::StateFileError;
use crate::storage::Storage;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use thalweg_core::{Offset, TopicPartition};

/// Is told how long each sync of a log's file took, from whatever thread: it must return at once.
pub type FlushObserver = Arc<dyn Fn(Duration) + Send + Sync>;

pub(crate) struct Volume {
    pub storage: Arc<dyn Storage>,
    pub path: PathBuf,
    pub queue: CommitQueue,
    failure: OnceLock<String>,
    observer: OnceLock<FlushObserver>,
    syncs: Mutex<Syncs>,
    /// Rung when the directory fails.
    alarm: Mutex<Option<Bell>>,
    logs: Mutex<BTreeMap<TopicPartition, Weak<Log>>>,
    /// What was written last. One at a time, so that an older state never replaces a newer one.
    checkpoints: Mutex<BTreeMap<&'static str, Vec<PartitionOffset>>>,
}

impl std::fmt::Debug for Volume {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = f.debug_struct("Volume");
        out.field("path", &self.path).field("failure", &self.failure.get()).finish_non_exhaustive()
    }
}

impl Volume {
    pub fn new(storage: Arc<dyn Storage>, path: PathBuf) -> Arc<Volume> {
        let queue = CommitQueue::default();
        let (failure, observer, alarm) = (OnceLock::new(), OnceLock::new(), Mutex::default());
        let (syncs, logs, checkpoints) = (Mutex::default(), Mutex::default(), Mutex::default());
        Arc::new(Volume { storage, path, queue, failure, observer, syncs, alarm, logs, checkpoints })
    }

    /// Tells `observer` of every sync from now on. The first one counts.
    pub fn observe(&self, observer: FlushObserver) {
        let _ = self.observer.set(observer);
    }

    /// A file of a log was synced.
    pub fn synced_in(&self, took: Duration) {
        self.syncs.lock().unwrap_or_else(PoisonError::into_inner).add(Syncs { count: 1, took });
        if let Some(observer) = self.observer.get() {
            observer(took);
        }
    }

    /// All such syncs so far.
    pub fn syncs(&self) -> Syncs {
        *self.syncs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first failure, if the directory failed.
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Refuses if the directory failed.
    pub fn check(&self) -> Result<(), StorageError> {
        match self.failure.get() {
            None => Ok(()),
            Some(reason) => Err(StorageError::DirFailed { dir: self.path.clone(), reason: reason.clone() }),
        }
    }

    /// Takes the directory out of use for good, and tells everyone who waits for an fsync of one of its logs.
    pub fn fail(&self, reason: &dyn std::fmt::Display) {
        if self.failure.set(reason.to_string()).is_ok() {
            tracing::error!(dir = %self.path.display(), error = %reason, "data directory failed, no more writes");
            let alarm = self.alarm().clone();
            if let Some(ring) = alarm {
                ring();
            }
        }
        for log in self.logs() {
            log.tell_failed();
        }
    }

    /// Calls `bell` when the directory fails, at once if it did. The last one counts.
    pub fn on_failure(&self, bell: &Bell) {
        // Under the lock: a failure beside this either finds the bell or is found here.
        *self.alarm() = Some(Arc::clone(bell));
        if self.failure().is_some() {
            bell();
        }
    }

    fn alarm(&self) -> std::sync::MutexGuard<'_, Option<Bell>> {
        self.alarm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn register(&self, log: &Arc<Log>) {
        self.registry().insert(log.topic_partition().clone(), Arc::downgrade(log));
    }

    pub fn forget(&self, partition: &TopicPartition) {
        self.registry().remove(partition);
    }

    /// How many logs there are.
    pub fn log_count(&self) -> usize {
        self.registry().len()
    }

    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.registry().values().filter_map(Weak::upgrade).collect()
    }

    fn registry(&self) -> std::sync::MutexGuard<'_, BTreeMap<TopicPartition, Weak<Log>>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes down below which offsets every record is stable.
    pub fn write_recovery_points(&self) -> Result<(), StateFileError> {
        self.write(RECOVERY_POINT_CHECKPOINT, Log::recovery_point)
    }

    pub fn write_log_starts(&self) -> Result<(), StateFileError> {
        self.write(LOG_START_CHECKPOINT, Log::log_start_offset)
    }

    pub fn write_high_watermarks(&self) -> Result<(), StateFileError> {
        self.write(HIGH_WATERMARK_CHECKPOINT, Log::high_watermark)
    }

    /// Writes down how far the logs are compacted; those that never were are not in it.
    pub fn write_cleaner_offsets(&self) -> Result<(), StateFileError> {
        self.write_some(CLEANER_CHECKPOINT, Log::cleaned_offset)
    }

    /// Notes that there is no cleaner's checkpoint, so that none is written before a log is compacted.
    pub fn note_no_cleaner_offsets(&self) {
        let mut written = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(CLEANER_CHECKPOINT, Vec::new());
    }

    fn write(&self, name: &'static str, offset: impl Fn(&Log) -> Offset) -> Result<(), StateFileError> {
        self.write_some(name, |log| Some(offset(log)))
    }

    fn write_some(
        &self,
        name: &'static str,
        offset: impl Fn(&Log) -> Option<Offset>,
    ) -> Result<(), StateFileError> {
        let mut written = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |log: &Arc<Log>| {
            Some(PartitionOffset { partition: log.topic_partition().clone(), offset: offset(log)? })
        };
        let entries: Vec<_> = self.logs().iter().filter_map(entry).collect();
        if written.get(name) != Some(&entries) {
            // After a failure the file may hold either content: it counts as unknown until a write succeeds.
            written.remove(name);
            checkpoint::write(&*self.storage, &self.path.join(name), &entries)?;
            written.insert(name, entries);
        }
        Ok(())
    }

    /// Makes sure that the recovery point on disk vouches for nothing from `end` on. Costs no I/O if it does not.
    pub fn lower_recovery_point(
        &self,
        partition: &TopicPartition,
        end: Offset,
    ) -> Result<(), StateFileError> {
        if self.may_exceed(RECOVERY_POINT_CHECKPOINT, partition, end) {
            self.write_recovery_points()?;
        }
        Ok(())
    }

    /// Makes sure that the high watermark on disk is not above `end`. Costs no I/O if it is not.
    pub fn lower_high_watermark(
        &self,
        partition: &TopicPartition,
        end: Offset,
    ) -> Result<(), StateFileError> {
        if self.may_exceed(HIGH_WATERMARK_CHECKPOINT, partition, end) {
            self.write_high_watermarks()?;
        }
        Ok(())
    }

    /// Makes sure that the cleaner's checkpoint calls nothing clean from `end` on. Costs no I/O if it does not.
    pub fn lower_cleaner_offset(
        &self,
        partition: &TopicPartition,
        end: Offset,
    ) -> Result<(), StateFileError> {
        if self.may_exceed(CLEANER_CHECKPOINT, partition, end) {
            self.write_cleaner_offsets()?;
        }
        Ok(())
    }

    /// Makes sure that the log start on disk is not above `start`. Costs no I/O if it is not.
    pub fn lower_log_start(&self, partition: &TopicPartition, start: Offset) -> Result<(), StateFileError> {
        if self.may_exceed(LOG_START_CHECKPOINT, partition, start) {
            self.write_log_starts()?;
        }
        Ok(())
    }

    /// Whether a checkpoint on disk may hold more than `offset` for the partition.
    fn may_exceed(&self, name: &'static str, partition: &TopicPartition, offset: Offset) -> bool {
        let written = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(name).is_none_or(|entries| {
            // In the order of the registry, which is sorted.
            let found = entries.binary_search_by(|entry| entry.partition.cmp(partition));
            found.is_ok_and(|at| entries[at].offset > offset)
        })
    }

    /// Writes all checkpoints; a failure is only a warning, as the next round writes them again.
    pub fn try_write_checkpoints(&self) {
        let all = [
            self.write_recovery_points(),
            self.write_log_starts(),
            self.write_high_watermarks(),
            self.write_cleaner_offsets(),
        ];
        for err in all.into_iter().filter_map(Result::err) {
            tracing::warn!(dir = %self.path.display(), error = %err, "cannot write a checkpoint yet");
        }
    }

    /// Makes sure that no checkpoint on disk knows partitions whose logs are not here: new logs of their names would take the
    /// offsets for their own. Costs no I/O if the last writes succeeded.
    pub fn forget_on_disk(&self, partitions: &[&TopicPartition]) -> Result<(), StateFileError> {
        let is_known = |name| {
            let written = self.checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
            // In the order of the registry, which is sorted.
            written.get(name).is_none_or(|entries: &Vec<PartitionOffset>| {
                let is_in = |partition: &&TopicPartition| {
                    entries.binary_search_by(|entry| entry.partition.cmp(partition)).is_ok()
                };
                partitions.iter().any(is_in)
            })
        };
        if is_known(RECOVERY_POINT_CHECKPOINT) {
            self.write_recovery_points()?;
        }
        if is_known(LOG_START_CHECKPOINT) {
            self.write_log_starts()?;
        }
        if is_known(HIGH_WATERMARK_CHECKPOINT) {
            self.write_high_watermarks()?;
        }
        if is_known(CLEANER_CHECKPOINT) {
            self.write_cleaner_offsets()?;
        }
        Ok(())
    }

    /// A checkpoint's offsets. A damaged one counts as missing: it only costs a longer recovery.
    pub fn read_offsets(&self, name: &str) -> Result<BTreeMap<TopicPartition, Offset>, StateFileError> {
        let path: &Path = &self.path.join(name);
        match checkpoint::read::<PartitionOffset>(&*self.storage, path) {
            Ok(entries) => Ok(entries.into_iter().map(|entry| (entry.partition, entry.offset)).collect()),
            Err(err) if err.is_corrupt() => {
                tracing::warn!(error = %err, "damaged checkpoint ignored");
                Ok(BTreeMap::new())
            }
            Err(err) => Err(err),
        }
    }
}
