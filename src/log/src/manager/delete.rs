//! Deleting logs: renamed at once, removed later, so that a delete of gigabytes holds nobody up.

use super::LogManager;
use super::create::same_error;
use super::dir::DataDir;
use crate::error::StorageError;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{MutexGuard, PoisonError, atomic::Ordering};
use thalweg_core::{Timestamp, TopicPartition};

/// What stands behind the name of a deleted partition's folder.
const SUFFIX: &str = "-delete";
/// The longest file name, in bytes.
const MAX_NAME: usize = 255;

/// How long a removal that failed is left alone, in milliseconds.
const RETRY_MS: i64 = 60_000;

/// A renamed folder that waits for its removal.
#[derive(Debug)]
pub(super) struct Doomed {
    path: PathBuf,
    delay_ms: i64,
    /// Set at the first housekeeping that sees it.
    due: Option<Timestamp>,
}

/// Whether a folder's name is that of a deleted partition.
pub(super) fn is_doomed(name: &str) -> bool {
    name.ends_with(SUFFIX) && name.contains('.')
}

/// `<topic>-<partition>.<32 hex digits>-delete`, with the topic's name cut if that is too long (as Kafka does).
fn doomed_name(partition: &TopicPartition, id: [u8; 16]) -> String {
    use std::fmt::Write;
    let mut tail = format!("-{}.", partition.partition);
    for byte in id {
        let _ = write!(tail, "{byte:02x}"); // a String takes everything
    }
    tail.push_str(SUFFIX);
    let topic = partition.topic.as_str();
    format!("{}{tail}", &topic[..topic.len().min(MAX_NAME - tail.len())])
}

impl LogManager {
    /// Deletes a partition's log. It is gone for every caller when this returns, also after a crash; its files are removed
    /// by housekeeping after `file.delete.delay.ms`. Returns whether there was one.
    ///
    /// If the folder cannot be renamed the log stays as it was, and housekeeping tries again until the log is asked for
    /// anew. If only the sync of the data directory fails the log is gone, but a crash may bring its folder back, under
    /// its old topic id.
    pub fn delete(&self, partition: &TopicPartition) -> Result<bool, StorageError> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        self.delete_locked(partition)
    }

    /// Deletes many partitions' logs, as [`LogManager::delete`] does one, with one sync for each data directory. The answers are
    /// in the partitions' order.
    pub fn delete_many(&self, partitions: &[TopicPartition]) -> Vec<Result<bool, StorageError>> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let renamed: Vec<_> = partitions.iter().map(|partition| self.take_name(partition)).collect();
        let mut failed = Vec::new();
        for dir in &self.dirs {
            if renamed.iter().flatten().flatten().any(|at| std::ptr::eq(*at, dir)) {
                if let Err(err) = self.storage.sync_dir(dir.path()) {
                    failed.push((dir.path(), err));
                }
                dir.volume.try_write_checkpoints();
            }
        }
        let answer = |renamed: Result<Option<&DataDir>, StorageError>| match renamed? {
            None => Ok(false),
            Some(dir) => match failed.iter().find(|(path, _)| *path == dir.path()) {
                None => Ok(true),
                Some((path, err)) => Err(StorageError::io("sync", path, same_error(err))),
            },
        };
        renamed.into_iter().map(answer).collect()
    }

    /// [`LogManager::delete`], for a caller that holds the lock on changes.
    pub(super) fn delete_locked(&self, partition: &TopicPartition) -> Result<bool, StorageError> {
        let Some(dir) = self.take_name(partition)? else { return Ok(false) };
        let synced = self.storage.sync_dir(dir.path());
        // A later log of the name does not start before these are right, so they may fail now.
        dir.volume.try_write_checkpoints();
        synced.map_err(|err| StorageError::io("sync", dir.path(), err))?;
        Ok(true)
    }

    /// Takes a log out of the manager and its folder's name away, which is stable once its data directory is synced.
    fn take_name(&self, partition: &TopicPartition) -> Result<Option<&DataDir>, StorageError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StorageError::Closed { partition: partition.clone() });
        }
        let Some(log) = self.get(partition) else { return Ok(None) };
        let data_dir = log.data_dir();
        let Some(dir) = self.dirs.iter().find(|dir| dir.path() == data_dir) else { return Ok(None) };
        // The name goes first: until it is gone a restart, or a new topic of the name, would find the old records.
        let renamed = log
            .delete_with(|| self.doom(&data_dir, &log.dir(), partition, log.config().file_delete_delay_ms));
        if let Err(err) = renamed {
            self.undeleted().insert(partition.clone());
            return Err(err);
        }
        self.undeleted().remove(partition);
        self.map_mut().remove(partition);
        dir.volume.forget(partition);
        tracing::info!(partition = %partition, "log deleted");
        Ok(Some(dir))
    }

    /// Takes a folder's name away and leaves its removal to housekeeping. Stable once the data directory is synced.
    pub(super) fn doom(
        &self,
        data_dir: &Path,
        folder: &Path,
        partition: &TopicPartition,
        delay_ms: i64,
    ) -> Result<(), StorageError> {
        let path = data_dir.join(doomed_name(partition, (self.config.new_id)()));
        self.storage.rename(folder, &path).map_err(|err| StorageError::io("rename", folder, err))?;
        let doomed = Doomed { path, delay_ms, due: None };
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner).push(doomed);
        Ok(())
    }

    /// The logs whose deletion failed.
    pub(super) fn undeleted(&self) -> MutexGuard<'_, BTreeSet<TopicPartition>> {
        self.undeleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tries the deletions again that failed.
    pub(super) fn retry_deletes(&self) {
        let failed: Vec<_> = self.undeleted().iter().cloned().collect();
        for partition in failed {
            let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            // Asked for anew meanwhile?
            if self.undeleted().contains(&partition)
                && let Err(err) = self.delete_locked(&partition)
            {
                tracing::warn!(partition = %partition, error = %err, "cannot delete a log yet");
            }
        }
    }

    /// Removes the folders whose time has come.
    pub(super) fn remove_doomed(&self, now: Timestamp) {
        let mut due = Vec::new();
        let mut all = self.doomed.lock().unwrap_or_else(PoisonError::into_inner);
        for doomed in std::mem::take(&mut *all) {
            let at = doomed.due.unwrap_or(now.saturating_add_millis(doomed.delay_ms));
            if at <= now { due.push(doomed) } else { all.push(Doomed { due: Some(at), ..doomed }) }
        }
        drop(all);
        for doomed in due {
            let Err(err) = self.storage.remove_dir_all(&doomed.path) else { continue };
            if err.kind() != io::ErrorKind::NotFound {
                tracing::warn!(path = %doomed.path.display(), error = %err, "cannot remove a deleted partition yet");
                let again = Doomed { due: Some(now.saturating_add_millis(RETRY_MS)), ..doomed };
                self.doomed.lock().unwrap_or_else(PoisonError::into_inner).push(again);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::{PartitionId, TopicName};

    #[test]
    fn the_longest_topic_name_still_gives_a_file_name() {
        for len in [1, 200, 249] {
            let topic = TopicName::new(&"x".repeat(len)).unwrap();
            let name = doomed_name(&TopicPartition::new(topic, PartitionId(12345)), [0xab; 16]);
            assert!(name.len() <= MAX_NAME && is_doomed(&name), "{name}");
        }
    }
}
