//! When the active segment is closed, and how.

use super::append::Incoming;
use super::{Appender, Log};
use crate::config::LogConfig;
use crate::error::{AppendError, ReadError, StorageError};
use crate::segment::Segment;
use std::sync::Arc;
use thalweg_core::{Offset, Timestamp, TopicPartition};

impl Log {
    /// Kafka's rule: full, too old by the producers' time, an index full, or offsets too far apart.
    pub(super) fn must_roll(
        &self,
        appender: &Appender,
        config: &LogConfig,
        incoming: &Incoming,
        now: Timestamp,
    ) -> Result<bool, AppendError> {
        let active = &appender.active;
        let size = active.size();
        // An empty segment cannot be improved on.
        if size == 0 {
            return Ok(false);
        }
        if size + incoming.size > config.segment_limit()
            || self.is_old(active, config, incoming.max_timestamp, now).map_err(storage)?
        {
            return Ok(true);
        }
        active.is_index_full(config.segment_index_bytes, incoming.last_offset).map_err(storage)
    }

    /// Whether `segment.ms` is over. The time runs from the first batch's timestamp to the one in hand, or to the clock if
    /// either has none.
    pub(super) fn is_old(
        &self,
        active: &Segment,
        config: &LogConfig,
        latest: Timestamp,
        now: Timestamp,
    ) -> Result<bool, ReadError> {
        let Some(first) = active.first_timestamp()? else { return Ok(false) };
        if first == Timestamp::NONE {
            return Ok(false);
        }
        let latest = if latest == Timestamp::NONE { now } else { latest };
        Ok(latest.millis_since(first) > self.roll_after(active, config))
    }

    /// Whether `segment.ms` is over by the clock, for a log to which nobody appends any more. Not by the records' timestamps:
    /// a copy of old records would roll at every look.
    pub(super) fn is_idle(&self, appender: &Appender, config: &LogConfig, now: Timestamp) -> bool {
        now.millis_since(appender.active_since) > self.roll_after(&appender.active, config)
    }

    fn roll_after(&self, active: &Segment, config: &LogConfig) -> i64 {
        let jitter = jitter(self.topic_partition(), active.base(), config.segment_jitter_ms);
        // The active segment is never compacted, so it must not grow older than a record may stay so.
        let longest = config.max_compaction_lag_ms.filter(|_| config.cleanup_compact);
        let segment_ms = longest.map_or(config.segment_ms, |lag| config.segment_ms.min(lag));
        segment_ms.saturating_sub(jitter)
    }

    /// Closes the active segment and starts a new one at the log's end. On an error the old one stays active, and a later
    /// call tries again.
    pub(super) fn roll(&self, appender: &mut Appender, config: &LogConfig) -> Result<(), StorageError> {
        let old = Arc::clone(&appender.active);
        let base = self.log_end_offset();
        old.seal()?;
        // Before the first batch behind it, so that a restart replays no more than one segment. It cannot be ahead of the
        // log for long: one above the log's end is removed at open.
        appender.producers.take_snapshot(&*self.home.storage, &self.home.dir)?;
        let new = self.create_segment(base, config)?;
        // Even if its batches are stable already: its indexes are not.
        appender.unsynced.push(old);
        let mut segments = (*self.segments()).clone();
        segments.push(Arc::clone(&new));
        appender.active = new;
        appender.active_since = appender.now;
        self.set_segments(segments);
        tracing::debug!(partition = %self.topic_partition(), base = %base, "rolled a new segment");
        Ok(())
    }

    /// A new segment whose name is stable: a later one must never survive a crash that this one does not.
    pub(super) fn create_segment(
        &self,
        base: Offset,
        config: &LogConfig,
    ) -> Result<Arc<Segment>, StorageError> {
        let dir = &self.home.dir;
        let new = Segment::create(self.home.clone(), base, config)
            .map_err(|err| StorageError::io("create a segment in", dir, err))?;
        if let Err(err) = self.home.storage.sync_dir(dir) {
            // An empty segment inside the range of the one before it: open would drop it, but why leave it.
            let _ = new.remove();
            return Err(StorageError::io("sync", dir, err));
        }
        Ok(Arc::new(new))
    }
}

/// Index errors as the appender sees them.
fn storage(err: ReadError) -> AppendError {
    match err {
        ReadError::Storage(err) => err.into(),
        ReadError::Fenced(err) => err.into(),
        ReadError::Corrupt { reason, .. } => reason.into(),
        ReadError::OffsetOutOfRange { requested, log_end, .. } => {
            AppendError::NotContinuous { expected: log_end, found: requested }
        }
    }
}

/// Up to `max` milliseconds, the same for the same segment.
fn jitter(partition: &TopicPartition, base: Offset, max: i64) -> i64 {
    if max <= 0 {
        return 0;
    }
    // FNV-1a: only spreads, need not be hard to guess.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64 ^ base.get().unsigned_abs();
    for byte in partition.topic.as_str().bytes().chain(partition.partition.get().to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    (hash % max.unsigned_abs()) as i64
}
