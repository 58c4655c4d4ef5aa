//! One cleaning of one log, in steps.

use super::map::OffsetMap;
use super::pace::Syncs;
use super::rewrite::{Rewrite, Rules, groups};
use super::{CleanError, MAX_INFLATED_BYTES};
use crate::error::StorageError;
use crate::log::{Cleanable, Log};
use crate::segment::{BatchScan, Segment};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use thalweg_core::batch::{BatchError, BatchRef};
use thalweg_core::{Offset, Timestamp, TopicPartition};

/// Bytes of a log that one step reads, unless a single batch is larger.
const STEP_BYTES: u64 = 4 << 20;

/// What a cleaning has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CleanStats {
    /// Bytes that were read, for the map and for the new segments.
    pub bytes_read: u64,
    /// Bytes that were written.
    pub bytes_written: u64,
    /// Records that were looked at for the new segments.
    pub records_read: u64,
    /// Records that stay of those.
    pub records_kept: u64,
    /// Segments that were replaced.
    pub segments_replaced: usize,
    /// Segments that took their places.
    pub segments_written: usize,
    /// Keys in the map.
    pub keys: usize,
}

/// How a step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CleanStep {
    /// There is more to do. The step read and wrote so many bytes.
    More(u64),
    /// The log is clean.
    Done(CleanStats),
    /// The cleaning ended early, for a reason that was logged. What was replaced by then is good.
    Stopped,
}

/// The right to clean a log.
struct Claim(Arc<Log>);

impl Drop for Claim {
    fn drop(&mut self) {
        self.0.release_cleaning();
    }
}

/// Where the job is.
enum Stage {
    /// Reads the dirty part into the map: the next segment, and where in it.
    Mapping {
        segment: usize,
        position: u64,
    },
    Rewriting(Box<Rewrite>),
    Over,
}

/// One cleaning of one log. It holds no lock between two steps, and none in a step but for the swaps of segments; appends, reads
/// and retention go on beside it. Dropped early it leaves the log as it is.
pub struct CleanJob {
    log: Claim,
    /// What is cleaned.
    segments: Vec<Arc<Segment>>,
    /// Where each of them ends.
    ends: Vec<Offset>,
    first_dirty: Offset,
    /// Where the mapped part ends: the end of what is cleaned, unless the map gets full before.
    end: Offset,
    now: Timestamp,
    generation: u64,
    map: OffsetMap,
    stage: Stage,
    stats: CleanStats,
    scratch: Vec<u8>,
}

impl fmt::Debug for CleanJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("CleanJob");
        out.field("partition", self.partition())
            .field("first_dirty", &self.first_dirty)
            .field("end", &self.end);
        out.finish_non_exhaustive()
    }
}

impl CleanJob {
    /// A job for a log that the caller has claimed; `map_bytes` bounds the memory of its map.
    pub(crate) fn new(log: Arc<Log>, cleanable: Cleanable, map_bytes: usize, now: Timestamp) -> CleanJob {
        let Cleanable { segments, first_dirty, end, generation, .. } = cleanable;
        let offsets = (end.get() - first_dirty.get()).unsigned_abs();
        let first = segments.partition_point(|segment| segment.base() <= first_dirty).saturating_sub(1);
        CleanJob {
            log: Claim(log),
            map: OffsetMap::new(map_bytes, offsets),
            ends: segments.iter().skip(1).map(|segment| segment.base()).chain([end]).collect(),
            segments,
            first_dirty,
            end,
            now,
            generation,
            stage: Stage::Mapping { segment: first, position: 0 },
            stats: CleanStats::default(),
            scratch: Vec::new(),
        }
    }

    /// The partition whose log is cleaned.
    pub fn partition(&self) -> &TopicPartition {
        self.log.0.topic_partition()
    }

    /// The syncs of appends so far, in the log's directory: what [`super::Pace`] compares.
    pub fn syncs(&self) -> Syncs {
        self.log.0.syncs()
    }

    /// Does some of the work. Blocks for file I/O, of a few megabytes or one batch, or for the swap of some segments. Errors are
    /// logged: a log that cannot be cleaned is left alone until it is opened again, and does the others no harm.
    pub fn step(&mut self) -> CleanStep {
        let before = self.stats;
        // What is wrong with one log must not end the broker.
        let result = catch_unwind(AssertUnwindSafe(|| self.try_step())).unwrap_or(Err(CleanError::Panicked));
        let log = &self.log.0;
        match result {
            Ok(false) => {
                let stats = &self.stats;
                let read = stats.bytes_read - before.bytes_read;
                CleanStep::More(read + stats.bytes_written - before.bytes_written)
            }
            Ok(true) => {
                let stats = self.stats;
                tracing::info!(
                    partition = %log.topic_partition(), from = %self.first_dirty, to = %self.end, keys = stats.keys,
                    bytes_read = stats.bytes_read, bytes_written = stats.bytes_written,
                    records = stats.records_read, kept = stats.records_kept,
                    segments = stats.segments_replaced, into = stats.segments_written, "log compacted"
                );
                CleanStep::Done(stats)
            }
            Err(err) => {
                self.stop();
                let partition = self.partition();
                match err {
                    err if matches!(err, CleanError::Interrupted)
                        || !self.log.0.may_clean(self.generation) =>
                    {
                        tracing::debug!(%partition, error = %err, "compaction interrupted");
                    }
                    err if err.may_pass() => {
                        tracing::warn!(%partition, error = %err, "compaction stopped, to be tried again");
                    }
                    err => {
                        tracing::error!(%partition, error = %err, "the log cannot be compacted, and is left alone");
                        self.log.0.give_up_cleaning();
                    }
                }
                CleanStep::Stopped
            }
        }
    }

    fn stop(&mut self) {
        if let Stage::Rewriting(rewrite) = std::mem::replace(&mut self.stage, Stage::Over) {
            rewrite.discard(&self.log.0);
        }
    }

    /// Returns whether the job is over.
    fn try_step(&mut self) -> Result<bool, CleanError> {
        if !self.log.0.may_clean(self.generation) {
            return Err(CleanError::Interrupted);
        }
        match &mut self.stage {
            Stage::Mapping { segment, position } => {
                let (at, from) = (*segment, *position);
                let next = self.map_some(at, from)?;
                self.stage = match next {
                    Some((segment, position)) => Stage::Mapping { segment, position },
                    None => self.begin_rewrite(),
                };
                Ok(false)
            }
            Stage::Rewriting(rewrite) => {
                let horizon = self.now.saturating_add_millis(self.log.0.config().delete_retention_ms);
                let rules = Rules { map: &self.map, end: self.end, now: self.now, horizon };
                let generation = rewrite.some(
                    &self.log.0,
                    &self.segments,
                    &rules,
                    self.generation,
                    STEP_BYTES,
                    &mut self.stats,
                    &mut self.scratch,
                )?;
                self.generation = generation;
                if rewrite.is_over() {
                    self.log.0.finish_cleaning(self.end, generation)?;
                    self.stage = Stage::Over;
                    return Ok(true);
                }
                Ok(false)
            }
            Stage::Over => Err(CleanError::Interrupted),
        }
    }

    /// Maps some of the dirty part, from `position` in the segment `at` on. Returns where to go on; `None` if all is mapped, or
    /// the map is full.
    fn map_some(&mut self, at: usize, position: u64) -> Result<Option<(usize, u64)>, CleanError> {
        let segment = Arc::clone(&self.segments[at]);
        let file = segment.open_file()?;
        let size = segment.size();
        let mut scan = BatchScan::checked(&*file, position, size);
        let mut reached = position;
        while reached - position < STEP_BYTES {
            let Some(batch) = scan.next().map_err(|err| segment.scan_error(err))? else { break };
            reached = batch.end();
            self.stats.bytes_read += batch.header.size() as u64;
            // Markers have keys of their own, and what was mapped by an earlier job has no double.
            if batch.header.attributes.is_control()
                || batch.header.last_offset() < self.first_dirty
                || batch.header.record_count == 0
            {
                continue;
            }
            let bytes = scan.batch(&batch).map_err(|err| StorageError::io("read", &segment.path(), err))?;
            let (map, first_dirty) = (&mut self.map, self.first_dirty);
            let view = BatchRef { header: batch.header, bytes };
            let full = view.walk_in_turn(&mut self.scratch, MAX_INFLATED_BYTES, |records| {
                for record in records {
                    let record = record?;
                    // Mapped by the round that ended inside this batch: again, and a small map would be full at the same
                    // record for ever.
                    if record.offset < first_dirty {
                        continue;
                    }
                    if let Some(key) = record.key
                        && !map.put(key, record.offset)
                    {
                        return Ok(Some(record.offset));
                    }
                }
                Ok::<_, BatchError>(None)
            });
            let corrupt = |reason| crate::segment::ScanError::Bad { position: batch.position, reason };
            if let Some(full) = full.map_err(|reason| segment.scan_error(corrupt(reason)))? {
                tracing::info!(
                    partition = %self.partition(), keys = self.map.len(), end = %full,
                    "the cleaner's map is full; the rest is compacted in a further round"
                );
                self.end = full;
                return Ok(None);
            }
        }
        if reached < size {
            return Ok(Some((at, reached)));
        }
        Ok((at + 1 < self.segments.len()).then_some((at + 1, 0)))
    }

    fn begin_rewrite(&mut self) -> Stage {
        self.stats.keys = self.map.len();
        let log = &self.log.0;
        let end = self.end;
        self.segments.retain(|segment| segment.base() < end);
        let limit = log.config().segment_limit();
        Stage::Rewriting(Box::new(Rewrite::new(
            groups(&self.segments, &self.ends, limit),
            log.last_batches(),
        )))
    }
}

impl Drop for CleanJob {
    fn drop(&mut self) {
        self.stop();
    }
}
