//! Lookups by time.

use super::{Life, Log};
use crate::error::{ReadError, StorageError};
use crate::segment::{BatchScan, Scanned, Segment};
use std::sync::atomic::Ordering;
use thalweg_core::batch::{BatchError, BatchIter};
use thalweg_core::{Offset, Timestamp};

/// The most that one stored batch may inflate to, in bytes. The leader checked a tighter limit before it stored the batch.
const MAX_INFLATED_BYTES: usize = 256 << 20;

/// How often a lookup is repeated because the log changed meanwhile, before it waits for the change to end.
const OPTIMISTIC_LOOKUPS: usize = 3;

impl Log {
    /// The first record, by offset, whose timestamp is at or after `at`. Does not look at the high watermark: the caller
    /// compares.
    pub fn offset_for_timestamp(&self, at: Timestamp) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        self.steadily(|| self.find_timestamp(at))
    }

    fn find_timestamp(&self, at: Timestamp) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let log_start = self.log_start_offset();
        for segment in self.segments().iter() {
            if segment.max_timestamp()?.is_none_or(|max| max.timestamp < at) {
                continue;
            }
            let start = segment.time_start(at)?.max(log_start);
            if let Some(found) = first_record(segment, start, log_start, at)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The first record that has the largest timestamp of the log, and that timestamp.
    pub fn max_timestamp_offset(&self) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        self.steadily(|| self.find_max_timestamp())
    }

    fn find_max_timestamp(&self) -> Result<Option<(Offset, Timestamp)>, ReadError> {
        let log_start = self.log_start_offset();
        let mut best: Option<(Timestamp, Offset)> = None;
        let segments = self.segments();
        for segment in segments.iter() {
            let mut max = segment.max_timestamp()?.map(|max| (max.timestamp, max.last_offset));
            // Delete-records may have hidden it: then the rest of the segment is looked through.
            if max.is_some_and(|(_, last)| last < log_start) || segment.base() < log_start {
                max = max_from(segment, log_start)?;
            }
            if let Some((timestamp, last)) = max
                && best.is_none_or(|(found, _)| timestamp > found)
            {
                best = Some((timestamp, last));
            }
        }
        let Some((timestamp, _)) = best else { return Ok(None) };
        if let Some(found) = self.find_timestamp(timestamp)? {
            return Ok(Some(found));
        }
        // It is that of a batch which compaction left without records.
        let mut best: Option<Timestamp> = None;
        for segment in segments.iter() {
            best = best.max(max_from(segment, log_start)?.map(|(timestamp, _)| timestamp));
        }
        best.map_or(Ok(None), |timestamp| self.find_timestamp(timestamp))
    }

    /// Repeats a lookup under whose hands the log was truncated or lost its oldest segments.
    fn steadily<T>(&self, lookup: impl Fn() -> Result<T, ReadError>) -> Result<T, ReadError> {
        if self.life() == Life::Deleted {
            return Err(StorageError::Deleted { partition: self.topic_partition().clone() }.into());
        }
        let state = || (self.generation.load(Ordering::Acquire), self.log_start_offset());
        for _ in 0..OPTIMISTIC_LOOKUPS {
            let before = state();
            let result = lookup();
            if before.0.is_multiple_of(2) && state() == before {
                return result;
            }
        }
        // Truncation and retention hold this lock when they change what there is.
        let _appender = self.appender();
        lookup()
    }
}

/// The first record at or behind `log_start` with a timestamp at or after `at`; batches below `start` have none.
fn first_record(
    segment: &Segment,
    start: Offset,
    log_start: Offset,
    at: Timestamp,
) -> Result<Option<(Offset, Timestamp)>, ReadError> {
    let Some(first) = segment.locate(start)? else { return Ok(None) };
    let file = segment.open_file()?;
    let mut scan = BatchScan::headers(&*file, first.position, segment.size());
    let mut scratch = Vec::new();
    while let Some(batch) = scan.next().map_err(|err| segment.scan_error(err))? {
        if batch.header.max_timestamp < at || batch.header.attributes.is_control() {
            continue;
        }
        let bytes = scan.batch(&batch).map_err(|err| StorageError::io("read", &segment.path(), err))?;
        let found = record_in(bytes, log_start, at, &mut scratch);
        if let Some(found) = found.map_err(|reason| corrupt(segment, &batch, reason))? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn record_in(
    batch: &[u8],
    log_start: Offset,
    at: Timestamp,
    scratch: &mut Vec<u8>,
) -> Result<Option<(Offset, Timestamp)>, BatchError> {
    for batch in BatchIter::new(batch) {
        let found = batch?.walk_in_turn(scratch, MAX_INFLATED_BYTES, |records| {
            for record in records {
                let record = record?;
                if record.timestamp >= at && record.offset >= log_start {
                    return Ok(Some((record.offset, record.timestamp)));
                }
            }
            Ok(None)
        })?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// The largest timestamp of the records from `log_start` on, and the last offset of a batch that has it.
fn max_from(segment: &Segment, log_start: Offset) -> Result<Option<(Timestamp, Offset)>, ReadError> {
    let Some(first) = segment.locate(log_start)? else { return Ok(None) };
    let file = segment.open_file()?;
    let mut scan = BatchScan::headers(&*file, first.position, segment.size());
    let mut scratch = Vec::new();
    let mut best: Option<(Timestamp, Offset)> = None;
    while let Some(batch) = scan.next().map_err(|err| segment.scan_error(err))? {
        if batch.header.record_count == 0 {
            continue;
        }
        let mut timestamp = batch.header.max_timestamp;
        // Only the batch that holds the log's start has records that are hidden.
        if batch.header.base_offset < log_start {
            let bytes = scan.batch(&batch).map_err(|err| StorageError::io("read", &segment.path(), err))?;
            let found = max_in(bytes, log_start, &mut scratch);
            timestamp = found.map_err(|reason| corrupt(segment, &batch, reason))?;
        }
        if timestamp.as_millis() >= 0 && best.is_none_or(|(found, _)| timestamp > found) {
            best = Some((timestamp, batch.header.last_offset()));
        }
    }
    Ok(best)
}

fn max_in(batch: &[u8], log_start: Offset, scratch: &mut Vec<u8>) -> Result<Timestamp, BatchError> {
    let mut max = Timestamp::NONE;
    for batch in BatchIter::new(batch) {
        batch?.walk_in_turn(scratch, MAX_INFLATED_BYTES, |records| {
            for record in records {
                let record = record?;
                if record.offset >= log_start {
                    max = max.max(record.timestamp);
                }
            }
            Ok(())
        })?;
    }
    Ok(max)
}

fn corrupt(segment: &Segment, batch: &Scanned, reason: BatchError) -> ReadError {
    let position = batch.position;
    segment.scan_error(crate::segment::ScanError::Bad { position, reason })
}
