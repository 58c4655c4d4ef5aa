//! The log's start moves: retention by age and size, and delete-records.

use super::{Appender, Life, Log};
use crate::config::LogConfig;
use crate::error::{ReadError, StorageError};
use crate::producer_state::ProducerStates;
use crate::segment::Segment;
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use thalweg_core::{Offset, Timestamp};

impl Log {
    /// Moves the log's start to `before`: what is below is not served any more, and segments wholly below it are removed.
    /// Returns the start, which never moves back. Stable when this returns. Not above the high watermark.
    pub fn delete_records(&self, before: Offset) -> Result<Offset, ReadError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let high_watermark = self.high_watermark();
        if before > high_watermark {
            return Err(ReadError::OffsetOutOfRange {
                requested: before,
                log_start: self.log_start_offset(),
                log_end: high_watermark,
            });
        }
        {
            let mut appender = self.appender();
            self.check_writable()?;
            if before > self.log_start_offset() {
                self.log_start.store(before.get(), Ordering::Release);
            }
            let segments = self.segments();
            // The last segment stays, even if the log is empty now.
            let ends = segments.iter().skip(1).map(|segment| segment.base());
            let count = ends.take_while(|end| *end <= self.log_start_offset()).count();
            self.take_segments(&mut appender, count);
        }
        // The files first: they may be what gives the disk room for the rest. A crash in between finds a later start, too.
        let removed = self.remove_doomed();
        self.cut_epochs();
        self.volume.write_log_starts().map_err(StorageError::from)?;
        removed?;
        Ok(self.log_start_offset())
    }

    /// Closes the active segment if it is too old, and removes the closed segments that are beyond `retention.ms` or
    /// `retention.bytes`, never above the high watermark. Returns how many. What could not be removed is tried again at the
    /// next call.
    pub fn apply_retention(&self, now: Timestamp) -> Result<usize, ReadError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let config = self.config();
        let count = {
            let mut appender = self.appender();
            if self.life() != Life::Open || self.volume.failure().is_some() {
                return Ok(0);
            }
            appender.now = appender.now.max(now);
            if appender.active.size() > 0 && self.is_idle(&appender, &config, now) {
                self.try_roll(&mut appender, &config);
            }
            let mut count = self.beyond_retention(&config, now)?;
            // All of them means the active one too: its records are expired, nobody appends. Without room for a new one the
            // others go at least.
            if count == self.segment_count() && !self.try_roll(&mut appender, &config) {
                count -= 1;
            }
            self.take_segments(&mut appender, count);
            count
        };
        let removed = self.remove_doomed();
        self.cut_epochs();
        removed?;
        Ok(count)
    }

    /// Rolls, and says whether that went well. A full disk must not keep retention from making room.
    fn try_roll(&self, appender: &mut Appender, config: &LogConfig) -> bool {
        let rolled = self.roll(appender, config);
        if let Err(err) = &rolled {
            tracing::warn!(partition = %self.topic_partition(), error = %err, "cannot roll a segment yet");
        }
        rolled.is_ok()
    }

    /// How many of the oldest segments may go.
    fn beyond_retention(&self, config: &LogConfig, now: Timestamp) -> Result<usize, ReadError> {
        let segments = self.segments();
        let (log_start, high_watermark) = (self.log_start_offset(), self.high_watermark());
        let mut excess = match config.retention_bytes {
            Some(limit) if config.cleanup_delete => self.size_bytes().saturating_sub(limit),
            _ => 0,
        };
        let mut count = 0;
        for (i, segment) in segments.iter().enumerate() {
            let is_active = i + 1 == segments.len();
            let end = if is_active { self.log_end_offset() } else { segments[i + 1].base() };
            if end > high_watermark || segment.size() == 0 {
                break;
            }
            let hidden = end <= log_start && !is_active;
            let expired = match config.retention_ms {
                Some(limit) if config.cleanup_delete => is_expired(segment, now, limit)?,
                _ => false,
            };
            let surplus = !is_active && excess > 0 && excess >= segment.size();
            if !(hidden || expired || surplus) {
                break;
            }
            excess = excess.saturating_sub(segment.size());
            count += 1;
        }
        Ok(count)
    }

    /// Takes the first `count` segments out of the log. Readers that hold them go on; the files are removed later.
    fn take_segments(&self, appender: &mut Appender, count: usize) {
        let mut doomed = (*self.segments()).clone();
        let kept = doomed.split_off(count);
        let Some(first) = kept.first().map(|segment| segment.base()).filter(|_| count > 0) else { return };
        self.log_start.fetch_max(first.get(), Ordering::AcqRel);
        appender.unsynced.retain(|segment| segment.base() >= first);
        self.set_segments(kept);
        self.doomed().extend(doomed);
    }

    fn doomed(&self) -> MutexGuard<'_, VecDeque<Arc<Segment>>> {
        self.doomed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the files of segments that were taken out, oldest first, so that a crash leaves no gap. The caller holds the
    /// lock on maintenance. What is left after an error is tried again by the next call.
    pub(super) fn remove_doomed(&self) -> Result<(), StorageError> {
        let mut any = false;
        loop {
            let Some(segment) = self.doomed().front().cloned() else { break };
            segment.remove()?;
            self.doomed().pop_front();
            any = true;
            tracing::info!(
                partition = %self.topic_partition(), segment = %segment.base(), bytes = segment.size(),
                "segment removed"
            );
        }
        if any {
            let first = self.segments()[0].base();
            ProducerStates::delete_snapshots_before(&*self.home.storage, &self.home.dir, first)?;
        }
        Ok(())
    }

    /// Drops the leader epochs below the log's start. Too many do no harm, so a failure waits for the next round.
    fn cut_epochs(&self) {
        let mut appender = self.appender();
        let cut = appender.epochs.truncate_from_start(self.log_start_offset());
        self.tell_unwritten_epochs(&appender);
        if let Err(err) = cut {
            tracing::warn!(partition = %self.topic_partition(), error = %err, "cannot shorten the leader epochs yet");
        }
    }
}

/// Whether the segment's youngest record is older than `limit` milliseconds. Records without a timestamp never are.
fn is_expired(segment: &Segment, now: Timestamp, limit: i64) -> Result<bool, ReadError> {
    Ok(segment.max_timestamp()?.is_some_and(|max| now.millis_since(max.timestamp) > limit))
}
