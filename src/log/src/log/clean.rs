//! What compaction asks of a log: what may be cleaned, and the swap of old segments for new ones.

use super::{Life, Log};
use crate::cleaner::{CleanError, Syncs};
use crate::error::{ReadError, StorageError};
use crate::producer_state::ProducerStates;
use crate::segment::{CleanedSegment, Segment, SwapFailure};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use thalweg_core::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// In place of a cleaned offset, for a log that was never cleaned.
pub(super) const NEVER_CLEANED: i64 = -1;

/// What of a log may be cleaned now: its first segments, all closed, stable and committed.
#[derive(Debug)]
pub(crate) struct Cleanable {
    pub segments: Vec<Arc<Segment>>,
    /// From here on nothing was cleaned yet.
    pub first_dirty: Offset,
    /// Behind the last of the segments.
    pub end: Offset,
    /// Bytes of segments that were cleaned before.
    pub clean_bytes: u64,
    /// Bytes of the others.
    pub dirty_bytes: u64,
    /// Whether `max.compaction.lag.ms` is over for a record.
    pub overdue: bool,
    /// The log's [`Log::clean_generation`] when it was looked at.
    pub generation: u64,
}

impl Cleanable {
    /// How much of it is dirty, from 0 to 1.
    pub fn ratio(&self) -> f64 {
        self.dirty_bytes as f64 / (self.clean_bytes + self.dirty_bytes).max(1) as f64
    }
}

impl Log {
    /// Below this the log is compacted; `None` if it never was.
    pub fn cleaned_offset(&self) -> Option<Offset> {
        let at = self.cleaned.load(Ordering::Acquire);
        (at != NEVER_CLEANED).then_some(Offset(at))
    }

    /// Whether compaction gave up on the log, for what was logged then, until it is opened again.
    pub fn is_uncleanable(&self) -> bool {
        self.uncleanable.load(Ordering::Acquire)
    }

    pub(crate) fn give_up_cleaning(&self) {
        self.uncleanable.store(true, Ordering::Release);
    }

    /// Whether offsets may well be missing: by its policy, or because it was compacted under an earlier one. They may be in any
    /// other log, too, if it was copied from one that was compacted.
    pub(super) fn may_have_gaps(&self) -> bool {
        self.config().cleanup_compact
            || self.cleaned_offset().is_some()
            || self.was_compacted.load(Ordering::Acquire)
    }

    /// The syncs of the logs of this directory so far.
    pub(crate) fn syncs(&self) -> Syncs {
        self.volume.syncs()
    }

    /// Changes whenever what was written changes. Odd while it does.
    pub(crate) fn clean_generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Takes the log for one cleaning; false if another one has it.
    pub(crate) fn claim_cleaning(&self) -> bool {
        !self.cleaning.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release_cleaning(&self) {
        self.cleaning.store(false, Ordering::Release);
    }

    /// Whether a cleaning that began at this generation may go on.
    pub(crate) fn may_clean(&self, generation: u64) -> bool {
        self.life() == Life::Open
            && self.volume.failure().is_none()
            && generation.is_multiple_of(2)
            && self.clean_generation() == generation
    }

    /// What may be cleaned now: whole closed segments that are synced with their indexes and lie below the high watermark and
    /// the last stable offset, and whose records are older than `min.compaction.lag.ms`. `None` if none of that is dirty.
    pub(crate) fn cleanable(&self, now: Timestamp) -> Result<Option<Cleanable>, ReadError> {
        let config = self.config();
        let generation = self.clean_generation();
        if !config.cleanup_compact || !self.may_clean(generation) {
            return Ok(None);
        }
        let (segments, unsynced) = {
            let appender = self.appender();
            (self.segments(), appender.unsynced.first().map(|segment| segment.base()))
        };
        let bound = self.high_watermark().min(self.last_stable_offset()).min(self.flushed_offset());
        let bound = unsynced.map_or(bound, |unsynced| bound.min(unsynced));
        let ends: Vec<_> = segments.iter().skip(1).map(|segment| segment.base()).collect();
        let mut count = ends.iter().take_while(|end| **end <= bound).count();
        if config.min_compaction_lag_ms > 0 {
            let youngest = now.as_millis().saturating_sub(config.min_compaction_lag_ms);
            for (i, segment) in segments[..count].iter().enumerate() {
                if segment.max_timestamp()?.is_some_and(|max| max.timestamp.as_millis() > youngest) {
                    count = i;
                    break;
                }
            }
        }
        let Some(end) = count.checked_sub(1).map(|last| ends[last]) else { return Ok(None) };
        let start = self.log_start_offset().max(segments[0].base());
        let first_dirty = self.cleaned_offset().map_or(start, |cleaned| cleaned.max(start));
        if first_dirty >= end {
            return Ok(None);
        }
        let clean = ends[..count].partition_point(|end| *end <= first_dirty);
        let bytes = |segments: &[Arc<Segment>]| segments.iter().map(|segment| segment.size()).sum::<u64>();
        let mut overdue = false;
        if let Some(lag) = config.max_compaction_lag_ms {
            for segment in &segments[clean..count] {
                let first = segment.first_timestamp()?.filter(|first| *first != Timestamp::NONE);
                overdue |= first.is_some_and(|first| now.millis_since(first) > lag);
            }
        }
        Ok(Some(Cleanable {
            first_dirty,
            end,
            clean_bytes: bytes(&segments[..clean]),
            dirty_bytes: bytes(&segments[clean..count]),
            overdue,
            generation,
            segments: segments[..count].to_vec(),
        }))
    }

    /// The last batch of each known producer: its epoch and last offset. Their sequences must stay in the log.
    pub(crate) fn last_batches(&self) -> HashMap<ProducerId, (ProducerEpoch, Offset)> {
        let appender = self.appender();
        let last = |entry: &crate::producer_state::ProducerEntry| {
            Some((entry.producer_id, (entry.producer_epoch, entry.batches.back()?.last_offset)))
        };
        appender.producers.iter().filter_map(last).collect()
    }

    /// Begins the segment that takes the place of those from `base` on, and may need as many bytes as they do.
    pub(crate) fn begin_cleaned(
        &self,
        base: Offset,
        needed: u64,
        generation: u64,
    ) -> Result<CleanedSegment, CleanError> {
        // A file system that does not say is asked by the writes.
        if let Ok(available) = self.home.storage.available_bytes(&self.volume.path)
            && available < needed
        {
            return Err(CleanError::NoRoom { needed, available });
        }
        // A folder of this name may be another log's as soon as this one is deleted, which takes this lock.
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.may_clean(generation) {
            return Err(CleanError::Interrupted);
        }
        Ok(CleanedSegment::create(self.home.clone(), base, &self.config())?)
    }

    /// Removes the files of a segment that is not needed, if they are still this log's.
    pub(crate) fn discard_cleaned(&self, cleaned: CleanedSegment) {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        if self.life() == Life::Open {
            cleaned.discard();
        }
    }

    /// Puts a cleaned segment in the place of `old`. Returns the generation from then on.
    ///
    /// Errors: the log was truncated, closed or deleted, or lost some of the segments to retention; then, as after another
    /// error, all is as before. If the disk refuses when names have changed already, the data directory is out of use.
    pub(crate) fn swap_cleaned(
        &self,
        mut cleaned: CleanedSegment,
        old: &[Arc<Segment>],
        generation: u64,
    ) -> Result<u64, CleanError> {
        // Most of the work, and it holds nobody up.
        if let Err(err) = cleaned.sync() {
            self.discard_cleaned(cleaned);
            return Err(err.into());
        }
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        let place = self.place_of(old).filter(|_| self.may_clean(generation));
        let Some(at) = place else {
            if self.life() == Life::Open {
                cleaned.discard();
            }
            return Err(CleanError::Interrupted);
        };
        let new = match cleaned.swap_in(old, &self.config()) {
            Ok(new) => new,
            Err(SwapFailure::Undone(err)) => return Err(err.into()),
            Err(SwapFailure::Halfway(err)) => {
                self.volume.fail(&err);
                return Err(err.into());
            }
        };
        {
            // A roll beside this changes the list, too.
            let _appender = self.appender();
            let mut segments = (*self.segments()).clone();
            segments.splice(at..at + old.len(), [Arc::new(new)]);
            // Remembered places in the old file mean nothing in the new one: reads see the change, and begin again.
            self.generation.fetch_add(1, Ordering::AcqRel);
            // It may hold what the cleaned segments no longer do.
            self.tail.clear();
            self.set_segments(segments);
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        let bases: Vec<_> = old[1..].iter().map(|segment| segment.base()).collect();
        let (storage, dir) = (&*self.home.storage, &self.home.dir);
        if let Err(err) = ProducerStates::delete_snapshots_at(storage, dir, &bases) {
            tracing::warn!(partition = %self.topic_partition(), error = %err, "cannot remove producer snapshots yet");
        }
        Ok(self.clean_generation())
    }

    /// Where these segments stand in the log, if they all do, and none is the active one.
    fn place_of(&self, old: &[Arc<Segment>]) -> Option<usize> {
        let segments = self.segments();
        let at = segments.iter().position(|segment| Arc::ptr_eq(segment, &old[0]))?;
        let there = segments.get(at..at + old.len())?;
        let same = there.iter().zip(old).all(|(there, old)| Arc::ptr_eq(there, old));
        (same && at + old.len() < segments.len()).then_some(at)
    }

    /// Notes, also on disk, that everything below `to` is cleaned.
    pub(crate) fn finish_cleaning(&self, to: Offset, generation: u64) -> Result<(), CleanError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.may_clean(generation) {
            return Err(CleanError::Interrupted);
        }
        self.cleaned.fetch_max(to.get(), Ordering::AcqRel);
        self.volume.write_cleaner_offsets().map_err(StorageError::from)?;
        Ok(())
    }
}
