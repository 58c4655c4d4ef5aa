//! What is done from time to time.

use super::LogManager;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use thalweg_core::Timestamp;

/// When each kind of work ran last.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    retention: Option<Timestamp>,
    checkpoint: Option<Timestamp>,
    high_watermark: Option<Timestamp>,
}

/// Whether `interval_ms` is over; if so the time starts anew.
fn is_due(last: &mut Option<Timestamp>, now: Timestamp, interval_ms: i64) -> bool {
    // A clock that was set back must not stop the work.
    let due = last.is_none_or(|last| now < last || now.millis_since(last) >= interval_ms);
    if due {
        *last = Some(now);
    }
    due
}

impl LogManager {
    /// Does only the `flush.ms` work: puts the logs whose oldest unsynced record is old enough on the committers. Does
    /// no I/O itself (it may wait for an append in progress), and costs two loads for each log that is all synced, so call
    /// it as often as `flush.ms` shall be fine (every 100 to 500 ms).
    pub fn flush_due(&self, now: Timestamp) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        for log in self.logs() {
            log.flush_if_due(now);
        }
    }

    /// Does what is due: `flush.ms`, retention and time rolls, checkpoints, removal of deleted partitions, expiry of idle
    /// producers, closing of idle files. Call it every second or so ([`LogManager::flush_due`] makes `flush.ms` finer than that). Blocks for file I/O,
    /// without holding up appends for longer than a roll. Errors are logged: the next call tries again.
    pub fn housekeeping(&self, now: Timestamp) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        let (retention, checkpoint, high_watermark) = {
            let mut rounds = self.rounds.lock().unwrap_or_else(PoisonError::into_inner);
            (
                is_due(&mut rounds.retention, now, self.config.retention_check_ms),
                is_due(&mut rounds.checkpoint, now, self.config.checkpoint_ms),
                is_due(&mut rounds.high_watermark, now, self.config.high_watermark_checkpoint_ms),
            )
        };
        for log in self.logs() {
            log.flush_if_due(now);
            if retention && let Err(err) = log.apply_retention(now) {
                tracing::warn!(partition = %log.topic_partition(), error = %err, "retention failed");
            }
            if checkpoint {
                log.flush_closed();
                log.rest(now);
                if let Err(err) = log.persist_epochs() {
                    tracing::warn!(partition = %log.topic_partition(), error = %err, "cannot write the leader epochs yet");
                }
            }
        }
        if checkpoint {
            self.memory.pool.trim();
        }
        for dir in self.dirs.iter().filter(|dir| dir.volume.failure().is_none()) {
            let volume = &dir.volume;
            let written = [
                if checkpoint { volume.write_recovery_points() } else { Ok(()) },
                if checkpoint { volume.write_log_starts() } else { Ok(()) },
                if high_watermark { volume.write_high_watermarks() } else { Ok(()) },
            ];
            for err in written.into_iter().filter_map(Result::err) {
                tracing::warn!(dir = %dir.path().display(), error = %err, "cannot write a checkpoint");
            }
        }
        self.retry_deletes();
        self.remove_doomed(now);
    }
}
