//! Deleting logs: renamed at once, removed later, so that a delete of gigabytes holds nobody up.

use super::LogManager;
use crate::error::StorageError;
use std::path::PathBuf;
use std::sync::{PoisonError, atomic::Ordering};
use thalweg_core::{Timestamp, TopicPartition};

/// What stands behind the name of a deleted partition's folder.
const SUFFIX: &str = "-delete";
/// The longest file name, in bytes.
const MAX_NAME: usize = 255;

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
    pub fn delete(&self, partition: &TopicPartition) -> Result<bool, StorageError> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.load(Ordering::Acquire) {
            return Err(StorageError::Closed { partition: partition.clone() });
        }
        let Some(log) = self.get(partition) else { return Ok(false) };
        let data_dir = log.data_dir();
        let Some(dir) = self.dirs.iter().find(|dir| dir.path() == data_dir) else { return Ok(false) };
        log.mark_deleted();
        self.map_mut().remove(partition);
        dir.volume.forget(partition);
        // A later log of the same name must not find this one's offsets in the checkpoints.
        dir.volume.write_recovery_points()?;
        dir.volume.write_log_starts()?;
        dir.volume.write_high_watermarks()?;
        let doomed = data_dir.join(doomed_name(partition, (self.config.new_id)()));
        self.storage
            .rename(&log.dir(), &doomed)
            .map_err(|err| StorageError::io("rename", &log.dir(), err))?;
        self.storage.sync_dir(&data_dir).map_err(|err| StorageError::io("sync", &data_dir, err))?;
        let delay_ms = log.config().file_delete_delay_ms;
        let doomed = Doomed { path: doomed, delay_ms, due: None };
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner).push(doomed);
        tracing::info!(partition = %partition, "log deleted");
        Ok(true)
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
            if let Err(err) = self.storage.remove_dir_all(&doomed.path) {
                // The next start tries again.
                tracing::warn!(path = %doomed.path.display(), error = %err, "cannot remove a deleted partition");
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
