//! Writes the new segments: which records stay, and which segments become one.

use super::map::OffsetMap;
use super::{CleanError, CleanStats, MAX_INFLATED_BYTES};
use crate::config::MAX_SEGMENT_BYTES;
use crate::error::StorageError;
use crate::log::Log;
use crate::segment::{BatchScan, CleanedSegment, ScanError, Scanned, Segment};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use thalweg_core::batch::{BatchHeader, BatchRef, RecordView, Retained};
use thalweg_core::{Offset, ProducerEpoch, ProducerId, Timestamp};

/// What decides whether a record stays.
pub(super) struct Rules<'a> {
    /// The last offset of each key below `end`.
    pub map: &'a OffsetMap,
    /// Everything from here on stays: the map does not know of it.
    pub end: Offset,
    /// When the job began.
    pub now: Timestamp,
    /// Until when tombstones stay that are cleaned for the first time.
    pub horizon: Timestamp,
}

impl Rules<'_> {
    fn keeps(&self, batch: &BatchHeader, record: &RecordView<'_>) -> bool {
        // Nothing can supersede a record without a key.
        let Some(key) = record.key else { return true };
        if record.offset >= self.end {
            return true;
        }
        if self.map.get(key).is_some_and(|last| record.offset < last) {
            return false;
        }
        record.value.is_some() || !self.is_horizon_over(batch)
    }

    /// Whether the batch's tombstones were there long enough since the cleaning that noted it.
    fn is_horizon_over(&self, batch: &BatchHeader) -> bool {
        batch.attributes.has_delete_horizon() && batch.base_timestamp <= self.now
    }
}

/// Which segments become one: neighbours that have room in one segment together, by size and by offsets. `ends` are the
/// segments' ends.
pub(super) fn groups(segments: &[Arc<Segment>], ends: &[Offset], limit: u64) -> VecDeque<Range<usize>> {
    let mut groups: VecDeque<Range<usize>> = VecDeque::new();
    let mut bytes = 0;
    for (i, (segment, end)) in segments.iter().zip(ends).enumerate() {
        if let Some(group) = groups.back_mut() {
            // Index entries count in an `i32` from the group's base.
            let reach = end.get() - segments[group.start].base().get();
            if bytes + segment.size() <= limit && reach <= i64::from(i32::MAX) {
                bytes += segment.size();
                group.end = i + 1;
                continue;
            }
        }
        groups.push_back(i..i + 1);
        bytes = segment.size();
    }
    groups
}

/// The segments of the group in hand.
struct Group {
    segments: Range<usize>,
    /// The segment that is read, and where in it.
    at: usize,
    position: u64,
    new: CleanedSegment,
    /// Whether anything differs from what was there.
    changed: bool,
}

/// The second half of a job.
pub(super) struct Rewrite {
    waiting: VecDeque<Range<usize>>,
    group: Option<Group>,
    /// The last batch of each producer.
    last_batches: HashMap<ProducerId, (ProducerEpoch, Offset)>,
}

impl Rewrite {
    pub fn new(
        waiting: VecDeque<Range<usize>>,
        last_batches: HashMap<ProducerId, (ProducerEpoch, Offset)>,
    ) -> Rewrite {
        Rewrite { waiting, group: None, last_batches }
    }

    pub fn is_over(&self) -> bool {
        self.waiting.is_empty() && self.group.is_none()
    }

    /// Gives up the group in hand.
    pub fn discard(self, log: &Log) {
        if let Some(group) = self.group {
            log.discard_cleaned(group.new);
        }
    }

    /// Rewrites some, or swaps what is written. Returns the log's generation from then on.
    #[allow(clippy::too_many_arguments, reason = "the job's parts, which it lends for one step")]
    pub fn some(
        &mut self,
        log: &Log,
        segments: &[Arc<Segment>],
        rules: &Rules<'_>,
        generation: u64,
        budget: u64,
        stats: &mut CleanStats,
        scratch: &mut Vec<u8>,
    ) -> Result<u64, CleanError> {
        if self.group.is_none() {
            let Some(next) = self.waiting.pop_front() else { return Ok(generation) };
            let needed = segments[next.clone()].iter().map(|segment| segment.size()).sum();
            let new = log.begin_cleaned(segments[next.start].base(), needed, generation)?;
            let (at, changed) = (next.start, next.len() > 1);
            self.group = Some(Group { segments: next, at, position: 0, new, changed });
        }
        let group = self.group.as_mut().expect("a group was begun if there was none");
        let mut left = budget;
        while group.at < group.segments.end && left > 0 {
            let read = copy(group, segments, rules, &self.last_batches, left, stats, scratch)?;
            left = left.saturating_sub(read.max(1));
            if group.position >= segments[group.at].size() {
                (group.at, group.position) = (group.at + 1, 0);
            }
        }
        if group.at < group.segments.end {
            return Ok(generation);
        }
        let Some(Group { segments: range, new, changed, .. }) = self.group.take() else {
            return Ok(generation);
        };
        if !changed {
            log.discard_cleaned(new);
            return Ok(generation);
        }
        stats.segments_replaced += range.len();
        stats.segments_written += 1;
        log.swap_cleaned(new, &segments[range], generation)
    }
}

/// Copies what stays of the segment in hand, about `budget` bytes of it. Returns the bytes read.
fn copy(
    group: &mut Group,
    segments: &[Arc<Segment>],
    rules: &Rules<'_>,
    last_batches: &HashMap<ProducerId, (ProducerEpoch, Offset)>,
    budget: u64,
    stats: &mut CleanStats,
    scratch: &mut Vec<u8>,
) -> Result<u64, CleanError> {
    let segment = &segments[group.at];
    let is_last_segment = group.at + 1 == group.segments.end;
    let file = segment.open_file()?;
    let size = segment.size();
    let start = group.position;
    let mut scan = BatchScan::checked(&*file, start, size);
    while group.position - start < budget {
        let Some(batch) = scan.next().map_err(|err| segment.scan_error(err))? else { break };
        let bytes = scan.batch(&batch).map_err(|err| StorageError::io("read", &segment.path(), err))?;
        let before = group.new.size();
        let header = &batch.header;
        // The end of what is written must stay what it was.
        let is_needed = (is_last_segment && batch.end() == size)
            || last_batches.get(&header.producer_id) == Some(&(header.producer_epoch, header.last_offset()));
        let kept = keep(group, segment, &batch, bytes, rules, is_needed, scratch)?;
        group.position = batch.end();
        stats.bytes_read += header.size() as u64;
        stats.bytes_written += group.new.size() - before;
        stats.records_read += header.record_count.unsigned_abs() as u64;
        stats.records_kept += kept;
        if group.new.size() > MAX_SEGMENT_BYTES {
            return Err(CleanError::TooLarge);
        }
    }
    Ok(group.position - start)
}

/// Writes what stays of a batch. Returns the number of its records that stay.
fn keep(
    group: &mut Group,
    segment: &Segment,
    batch: &Scanned,
    bytes: &[u8],
    rules: &Rules<'_>,
    is_needed: bool,
    scratch: &mut Vec<u8>,
) -> Result<u64, CleanError> {
    let header = &batch.header;
    let all = header.record_count.unsigned_abs() as u64;
    // Markers stay with what they decide about, and what the map does not reach stays as it is.
    if header.attributes.is_control() || header.base_offset >= rules.end {
        group.new.append(header, bytes)?;
        return Ok(all);
    }
    let view = BatchRef { header: *header, bytes };
    // A batch that reaches beyond the mapped part is noted by the cleaning that maps it.
    let horizon = (header.last_offset() < rules.end).then_some(rules.horizon);
    let retained = view.retain(horizon, MAX_INFLATED_BYTES, scratch, |record| rules.keeps(header, record));
    let corrupt = |reason| segment.scan_error(ScanError::Bad { position: batch.position, reason });
    match retained.map_err(corrupt)? {
        Retained::All => {
            group.new.append(header, bytes)?;
            Ok(all)
        }
        Retained::Some(less) => {
            let new = BatchHeader::parse(&less).map_err(corrupt)?;
            group.new.append(&new, &less)?;
            group.changed = true;
            Ok(new.record_count.unsigned_abs() as u64)
        }
        Retained::None if is_needed && header.record_count == 0 => {
            group.new.append(header, bytes)?;
            Ok(0)
        }
        Retained::None => {
            group.changed = true;
            if is_needed {
                let empty = view.emptied();
                let new = BatchHeader::parse(&empty).map_err(corrupt)?;
                group.new.append(&new, &empty)?;
            }
            Ok(0)
        }
    }
}
