//! Which log is compacted next.

use super::LogManager;
use crate::cleaner::CleanJob;
use crate::log::{Cleanable, Log};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use thalweg_core::Timestamp;

impl LogManager {
    /// The dirtiest log that is to be compacted, as a job that the caller runs step by step; `None` if none is dirty enough
    /// (`min.cleanable.dirty.ratio`, `max.compaction.lag.ms`). `map_bytes` bounds the memory of its map. Any number of jobs may
    /// run at a time, each on a log of its own. Looks at the logs' states and seldom at a file.
    pub fn next_cleaning(&self, now: Timestamp, map_bytes: usize) -> Option<CleanJob> {
        let mut best: Option<(f64, Arc<Log>, Cleanable)> = None;
        for log in self.logs() {
            if self.closed.load(Ordering::Acquire) {
                return None;
            }
            // Released unless it becomes the job's.
            if log.is_uncleanable() || !log.config().cleanup_compact || !log.claim_cleaning() {
                continue;
            }
            match wanted(&log, now) {
                Some(found) if best.as_ref().is_none_or(|(ratio, ..)| found.ratio() > *ratio) => {
                    let before = best.replace((found.ratio(), log, found));
                    if let Some((_, before, _)) = before {
                        before.release_cleaning();
                    }
                }
                _ => log.release_cleaning(),
            }
        }
        let (_, log, cleanable) = best?;
        Some(CleanJob::new(log, cleanable, map_bytes, now))
    }
}

/// What of a log may be cleaned, if it is enough.
fn wanted(log: &Log, now: Timestamp) -> Option<Cleanable> {
    match log.cleanable(now) {
        Ok(found) => {
            let least = f64::from(log.config().min_cleanable_dirty_permille) / 1000.0;
            found.filter(|found| found.ratio() > least || found.overdue)
        }
        Err(err) => {
            tracing::error!(
                partition = %log.topic_partition(), error = %err, "the log cannot be compacted, and is left alone"
            );
            log.give_up_cleaning();
            None
        }
    }
}
