//! Cutting the log's end off, as a follower must when its leader's log differs.

use super::{Appender, Life, Log, LogMode, producers};
use crate::error::{ReadError, StorageError};
use crate::producer_state::ProducerStates;
use crate::segment::Segment;
use crate::state_file::StateFileError;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use thalweg_core::{LeaderEpoch, Offset};

/// Where a log is cut.
struct Place {
    /// How many segments are left.
    keep: usize,
    /// The last one's new size.
    position: u64,
    /// The log's new end.
    end: Offset,
}

impl Log {
    /// Removes everything at or above `offset`, and the batch that holds `offset` wholly. Returns the new log end. Stable
    /// when this returns. A reader beside it sees the log before or after, nothing between. Refused with
    /// [`ReadError::Fenced`], without a change, unless the log follows in `epoch`, once [`Log::begin_epoch`] was called.
    ///
    /// An error while the small files beside the log are written, as on a full disk, changes nothing, and the call may be
    /// repeated. One while its segments are changed is the disk's: it takes the data directory out of use.
    pub fn truncate_to(&self, offset: Offset, epoch: LeaderEpoch) -> Result<Offset, ReadError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        if offset < self.log_start_offset() {
            return self.start_over(offset, epoch);
        }
        if offset >= self.log_end_offset() {
            let mut appender = self.appender();
            self.check_fence(&appender, epoch, LogMode::Following)?;
            // An epoch in which nothing was written ends with the log, too: the leader may not know it.
            if appender.epochs.truncate_from_end(self.log_end_offset()).map_err(StorageError::from)? {
                self.tell_unwritten_epochs(&appender);
            }
            return Ok(self.log_end_offset());
        }
        let prepare = |appender: &mut Appender| self.prepare_cut(appender, offset);
        self.rewrite(epoch, prepare, |appender, place| self.cut(appender, place))
    }

    /// Cuts off what the leader does not have (KIP-101, KIP-279). `leaders` is its answer: the largest epoch it knows that is not
    /// above this log's last one, and where that ends in its log. Cuts where that epoch ends in the shorter of both logs; if this
    /// log does not know the epoch, where the next lower one ends, and the leader must be asked again. Returns the new log end.
    /// As [`Log::truncate_to`] otherwise.
    pub fn truncate_by_epoch(
        &self,
        leaders: (LeaderEpoch, Offset),
        epoch: LeaderEpoch,
    ) -> Result<Offset, ReadError> {
        let (leader_epoch, leader_end) = leaders;
        let own = self.epoch_end_offset(leader_epoch);
        let target = match own {
            Some((own_epoch, own_end)) if own_epoch == leader_epoch => own_end.min(leader_end),
            Some((_, own_end)) => own_end,
            None => leader_end,
        };
        let high_watermark = self.high_watermark();
        if target < high_watermark {
            // The leader was elected uncleanly, or lost what it had synced. It is the leader all the same.
            tracing::error!(
                partition = %self.topic_partition(), %target, %high_watermark,
                "the leader lacks committed records; they are cut off here, too"
            );
        }
        self.truncate_to(target.max(Offset::ZERO), epoch)
    }

    /// Removes everything and starts again, empty, at `offset`. As [`Log::truncate_to`] otherwise.
    pub fn truncate_fully_and_start_at(
        &self,
        offset: Offset,
        epoch: LeaderEpoch,
    ) -> Result<Offset, ReadError> {
        let _maintenance = self.maintenance.lock().unwrap_or_else(PoisonError::into_inner);
        self.start_over(offset, epoch)
    }

    fn start_over(&self, offset: Offset, epoch: LeaderEpoch) -> Result<Offset, ReadError> {
        let prepare = |appender: &mut Appender| self.prepare_empty(appender, offset);
        self.rewrite(epoch, prepare, |appender, new| self.empty(appender, offset, new))
    }

    /// Runs a change of what was written, with readers warned: first what may fail without harm, then the change itself.
    fn rewrite<T>(
        &self,
        epoch: LeaderEpoch,
        prepare: impl FnOnce(&mut Appender) -> Result<T, ReadError>,
        change: impl FnOnce(&mut Appender, T) -> Result<Offset, ReadError>,
    ) -> Result<Offset, ReadError> {
        // No sync may be under way: it would report what is cut away as stable.
        let _flushing = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut appender = self.appender();
        self.check_writable()?;
        self.check_fence(&appender, epoch, LogMode::Following)?;
        self.generation.fetch_add(1, Ordering::AcqRel);
        // Only once readers are warned: one that finds it nonetheless reads again.
        self.tail.clear();
        let result = prepare(&mut appender).and_then(|prepared| {
            let changed = change(&mut appender, prepared);
            if let Err(err) = &changed {
                self.set_life(Life::Failed);
                // Half a change cannot be told from damage but by a recovery, and that is what a restart does.
                if matches!(err, ReadError::Storage(_)) {
                    self.volume.fail(err);
                }
            }
            changed
        });
        self.tell_unwritten_epochs(&appender);
        self.generation.fetch_add(1, Ordering::AcqRel);
        drop(appender);
        if self.flushed_offset() < self.log_end_offset() && !self.config().write_caching {
            self.request_flush();
        }
        result
    }

    fn prepare_cut(&self, appender: &mut Appender, offset: Offset) -> Result<Place, ReadError> {
        let segments = self.segments();
        let keep = segments.partition_point(|segment| segment.base() <= offset).max(1);
        let segment = &segments[keep - 1];
        let found = segment.locate(offset)?;
        let position = found.map_or(segment.size(), |batch| batch.position);
        let end = found.map_or(offset, |batch| batch.header.base_offset.min(offset));
        let end = if self.may_have_gaps() || is_behind_a_gap(segment, end)? {
            // Where compaction left a gap in front of the place, the log ends before it: with a batch, as it does whenever it
            // is opened.
            segment.end_before(position)?.min(offset)
        } else {
            end
        };
        // The batch that held the log's start may go as a whole.
        self.lower(end, end, || appender.epochs.truncate_from_end(end))?;
        Ok(Place { keep, position, end })
    }

    fn cut(&self, appender: &mut Appender, place: Place) -> Result<Offset, ReadError> {
        let Place { keep, position, end } = place;
        let segments = self.segments();
        let segment = &segments[keep - 1];
        self.set_segments(segments[..keep].to_vec());
        // From the end, so that a crash leaves no gap.
        for doomed in segments[keep..].iter().rev() {
            doomed.remove()?;
        }
        segment.truncate(position)?;
        segment.load_index()?;
        appender.active = Arc::clone(segment);
        appender.unsynced.retain(|unsynced| unsynced.base() < segment.base());
        self.reload_producers(appender, end)?;
        tracing::info!(partition = %self.topic_partition(), end = %end, "log truncated");
        Ok(end)
    }

    /// Returns the new segment, if it can be made while the old ones are there.
    fn prepare_empty(
        &self,
        appender: &mut Appender,
        offset: Offset,
    ) -> Result<Option<Arc<Segment>>, ReadError> {
        // A new segment may get the name of one that waits for its removal.
        self.remove_doomed()?;
        // Also where the log starts over further on: a crash between two removals must not look like a loss.
        let end = offset.min(self.log_start_offset());
        // Inside of the old ones a crash could take it for a gap.
        let segments = self.segments();
        let is_outside = offset < segments[0].base()
            || offset > segments[segments.len() - 1].base() && offset >= self.log_end_offset();
        let new = if is_outside { Some(self.create_segment(offset, &self.config())?) } else { None };
        if let Err(err) = self.lower(end, offset, || appender.epochs.clear()) {
            if let Some(new) = new {
                // Best effort: an empty one is removed when the log is opened.
                let _ = new.remove();
            }
            return Err(err.into());
        }
        Ok(new)
    }

    fn empty(
        &self,
        appender: &mut Appender,
        offset: Offset,
        new: Option<Arc<Segment>>,
    ) -> Result<Offset, ReadError> {
        let segments = self.segments();
        // The active one last: a crash leaves a shorter log, never a gap.
        for doomed in segments.iter().rev() {
            doomed.remove()?;
        }
        let new = match new {
            Some(new) => new,
            None => self.create_segment(offset, &self.config())?,
        };
        self.set_segments(vec![Arc::clone(&new)]);
        appender.active = new;
        appender.active_since = appender.now;
        appender.unsynced.clear();
        // A later start need not be written: the first segment's name tells it.
        for at in [&self.log_end, &self.log_start, &self.flushed, &self.high_watermark] {
            at.store(offset.get(), Ordering::Release);
        }
        let (storage, dir) = (&*self.home.storage, &self.home.dir);
        ProducerStates::delete_snapshots_before(storage, dir, Offset(i64::MAX))
            .map_err(StorageError::from)?;
        appender.producers = ProducerStates::new(offset);
        tracing::info!(partition = %self.topic_partition(), start = %offset, "log emptied");
        Ok(offset)
    }

    /// Lowers every offset that stands above the new end, and the start if it is above `start`, here and in the files, and writes
    /// the `epochs` that are left. The recovery point on disk goes first: it must not vouch for records that are written anew.
    /// After an error, as of a full disk, everything stands as before; the files may have lower offsets, which cost a longer
    /// recovery at most.
    fn lower(
        &self,
        end: Offset,
        start: Offset,
        epochs: impl FnOnce() -> Result<bool, StateFileError>,
    ) -> Result<(), StorageError> {
        let all = [&self.log_end, &self.high_watermark, &self.flushed, &self.log_start];
        let before = all.map(|at| at.load(Ordering::Acquire));
        for (at, to) in all.into_iter().zip([end, end, end, start]) {
            at.fetch_min(to.get(), Ordering::AcqRel);
        }
        let cleaned = self.cleaned.fetch_min(end.get(), Ordering::AcqRel);
        let name = self.topic_partition();
        let written = (|| {
            self.volume.lower_recovery_point(name, end)?;
            // Nor may the one for the high watermark call them committed.
            self.volume.lower_high_watermark(name, end)?;
            // Nor the cleaner's call clean what takes the place of what is cut.
            self.volume.lower_cleaner_offset(name, end)?;
            if before[3] > start.get() {
                self.volume.lower_log_start(name, start)?;
            }
            epochs()
        })();
        if written.is_err() {
            for (at, before) in all.into_iter().zip(before) {
                at.fetch_max(before, Ordering::AcqRel);
            }
            self.cleaned.fetch_max(cleaned, Ordering::AcqRel);
        }
        written?;
        Ok(())
    }

    fn reload_producers(&self, appender: &mut Appender, end: Offset) -> Result<(), ReadError> {
        let segments = self.segments();
        let start = Offset(segments[0].base().get().saturating_sub(1));
        let (storage, dir, now) = (&*self.home.storage, &self.home.dir, appender.now);
        let loaded = ProducerStates::load(storage, dir, start, end, now).map_err(StorageError::from)?;
        appender.producers = loaded;
        producers::replay(&mut appender.producers, &segments, end, now)?;
        producers::recall(&mut appender.producers, &segments)
    }
}

/// Whether no batch of the segment holds the offset in front of this one.
fn is_behind_a_gap(segment: &Segment, offset: Offset) -> Result<bool, ReadError> {
    let before = Offset(offset.get() - 1);
    Ok(before >= segment.base()
        && segment.locate(before)?.is_none_or(|batch| batch.header.base_offset > before))
}
