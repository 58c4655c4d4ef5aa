//! A segment's two indexes together, and the largest timestamp so far.

use super::Scanned;
use crate::index::offset::{self, OffsetEntry};
use crate::index::time::{self, TimeEntry};
use crate::index::{IndexFile, path_of};
use crate::storage::Storage;
use std::io;
use std::path::Path;
use thalweg_core::{Offset, Timestamp};

/// The largest timestamp up to some point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MaxTimestamp {
    pub timestamp: Timestamp,
    /// The last offset of the first batch that has it.
    pub last_offset: Offset,
}

#[derive(Debug)]
pub(crate) struct SegmentIndex {
    offsets: IndexFile<OffsetEntry>,
    times: IndexFile<TimeEntry>,
    /// Bytes of log since the last entry.
    since_entry: u64,
    max: Option<MaxTimestamp>,
}

impl SegmentIndex {
    pub fn empty(dir: &Path, base: Offset) -> Self {
        SegmentIndex {
            offsets: IndexFile::empty(path_of(dir, base.get(), offset::EXTENSION)),
            times: IndexFile::empty(path_of(dir, base.get(), time::EXTENSION)),
            since_entry: 0,
            max: None,
        }
    }

    /// As [`SegmentIndex::empty`], in files whose names go on with `suffix`.
    pub fn empty_at(dir: &Path, base: Offset, suffix: &str) -> Self {
        let path = |extension: &str| path_of(dir, base.get(), &format!("{extension}{suffix}"));
        SegmentIndex {
            offsets: IndexFile::empty(path(offset::EXTENSION)),
            times: IndexFile::empty(path(time::EXTENSION)),
            ..SegmentIndex::empty(dir, base)
        }
    }

    /// Makes lookups independent of the files' names.
    pub fn pin(&mut self, storage: &dyn Storage) -> io::Result<()> {
        self.offsets.pin(storage)?;
        self.times.pin(storage)
    }

    /// The index in its files; `None` if one is missing or cannot belong to a log of `size` bytes.
    pub fn open(storage: &dyn Storage, dir: &Path, base: Offset, size: u64) -> io::Result<Option<Self>> {
        let offsets = IndexFile::<OffsetEntry>::open(storage, path_of(dir, base.get(), offset::EXTENSION))?;
        let times = IndexFile::<TimeEntry>::open(storage, path_of(dir, base.get(), time::EXTENSION))?;
        let (Some(offsets), Some(times)) = (offsets, times) else { return Ok(None) };
        let in_range = offsets
            .last()
            .is_none_or(|last| last.relative <= i32::MAX as u32 && u64::from(last.position) < size);
        // A closed segment's time index ends with its largest timestamp, so it is empty only if the log is.
        let has_time = times.last().map_or(size == 0, |last| last.relative <= i32::MAX as u32 && size > 0);
        if !in_range || !has_time {
            return Ok(None);
        }
        let max = times.last().map(|last| MaxTimestamp {
            timestamp: Timestamp(last.timestamp),
            last_offset: base.advance(i64::from(last.relative)),
        });
        Ok(Some(SegmentIndex { offsets, times, since_entry: 0, max }))
    }

    /// Takes notice of the next batch of the log, with Kafka's rule: an entry for the first batch that begins more than
    /// `interval` bytes behind the one of the last entry.
    pub fn note(&mut self, batch: &Scanned, base: Offset, interval: u64) {
        let header = &batch.header;
        let last_offset = header.last_offset();
        if self.max.is_none_or(|max| header.max_timestamp > max.timestamp) && header.max_timestamp.0 >= 0 {
            self.max = Some(MaxTimestamp { timestamp: header.max_timestamp, last_offset });
        }
        if self.since_entry > interval
            && let Some(relative) = relative(base, last_offset)
            && let Ok(position) = u32::try_from(batch.position)
        {
            self.offsets.push(OffsetEntry { relative, position });
            self.note_time(base);
            self.since_entry = 0;
        }
        self.since_entry += header.size() as u64;
    }

    /// Adds the largest timestamp to the time index, if it is larger than the last one there.
    fn note_time(&mut self, base: Offset) {
        let Some(max) = self.max else { return };
        let Some(relative) = relative(base, max.last_offset) else { return };
        let timestamp = max.timestamp.as_millis();
        if self.times.last().is_none_or(|last| timestamp > last.timestamp) {
            self.times.push(TimeEntry { timestamp, relative });
        }
    }

    /// Adds the last time entry, before the segment is closed.
    pub fn finish(&mut self, base: Offset) {
        self.note_time(base);
    }

    pub fn is_full(&self, max_bytes: u64) -> bool {
        self.offsets.is_full(max_bytes) || self.times.is_full(max_bytes)
    }

    /// The last offset and the position of the last entry's batch.
    pub fn last_batch(&self, base: Offset) -> Option<(Offset, u64)> {
        let last = self.offsets.last()?;
        Some((base.advance(i64::from(last.relative)), u64::from(last.position)))
    }

    pub fn max(&self) -> Option<MaxTimestamp> {
        self.max
    }

    /// Both files or, for memory, neither: whoever removes the files after an error finds all entries still in memory, if
    /// nothing was stored before.
    pub fn store(&mut self, storage: &dyn Storage) -> io::Result<()> {
        self.offsets.write(storage)?;
        self.times.write(storage)?;
        self.offsets.written();
        self.times.written();
        Ok(())
    }

    /// Whether all entries are in memory, so that the files may go.
    pub fn is_fresh(&self) -> bool {
        self.offsets.is_fresh() && self.times.is_fresh()
    }

    pub fn store_if_large(&mut self, storage: &dyn Storage) -> io::Result<()> {
        if self.offsets.wants_store() { self.store(storage) } else { Ok(()) }
    }

    /// Makes both files stable. Returns whether there was anything to sync.
    pub fn sync(&mut self, storage: &dyn Storage) -> io::Result<bool> {
        // Nothing was ever noted: there need not be files.
        if self.since_entry == 0 && self.offsets.is_untouched() && self.times.is_untouched() {
            return Ok(false);
        }
        let offsets = self.offsets.sync(storage)?;
        Ok(self.times.sync(storage)? || offsets)
    }

    pub fn unmap(&mut self) {
        self.offsets.unmap();
        self.times.unmap();
    }

    /// The last entry at or below `offset`: a batch's last offset and position.
    pub fn lookup_offset(
        &mut self,
        storage: &dyn Storage,
        base: Offset,
        offset: Offset,
    ) -> io::Result<Option<(Offset, u64)>> {
        let relative = offset.get().saturating_sub(base.get());
        let after = self.offsets.partition_point(storage, |entry| i64::from(entry.relative) <= relative)?;
        let Some(i) = after.checked_sub(1) else { return Ok(None) };
        let entry = self.offsets.get(storage, i)?;
        Ok(Some((base.advance(i64::from(entry.relative)), u64::from(entry.position))))
    }

    /// An offset below which every record is older than `at`.
    pub fn lookup_time(&mut self, storage: &dyn Storage, base: Offset, at: Timestamp) -> io::Result<Offset> {
        let after = self.times.partition_point(storage, |entry| entry.timestamp <= at.as_millis())?;
        let Some(i) = after.checked_sub(1) else { return Ok(base) };
        let entry = self.times.get(storage, i)?;
        Ok(base.advance(i64::from(entry.relative)))
    }

    /// The position of the entry that lies `back` entries before the end.
    pub fn position_from_end(&mut self, storage: &dyn Storage, back: usize) -> io::Result<u64> {
        let Some(i) = self.offsets.len().checked_sub(back) else { return Ok(0) };
        if i >= self.offsets.len() {
            return Ok(0);
        }
        Ok(u64::from(self.offsets.get(storage, i)?.position))
    }
}

/// An offset as an entry holds it: Kafka's field is an `i32`.
fn relative(base: Offset, offset: Offset) -> Option<u32> {
    u32::try_from(offset.get() - base.get()).ok().filter(|relative| *relative <= i32::MAX as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{FaultError, OpKind, SimStorage};

    #[test]
    fn half_a_store_leaves_everything_in_memory() {
        let sim = SimStorage::new(1);
        let mut index = SegmentIndex::empty(Path::new("/"), Offset(0));
        index.offsets.push(OffsetEntry { relative: 1, position: 100 });
        index.times.push(TimeEntry { timestamp: 7, relative: 1 });
        sim.fail_nth_on(".timeindex", &[OpKind::Write], 1, FaultError::NoSpace);
        assert!(index.store(&sim).is_err() && index.is_fresh());
        // Whoever meets the error removes both files.
        for extension in [offset::EXTENSION, time::EXTENSION] {
            sim.remove_file(&path_of(Path::new("/"), 0, extension)).unwrap();
        }
        index.store(&sim).unwrap();
        let stored = SegmentIndex::open(&sim, Path::new("/"), Offset(0), 200).unwrap().unwrap();
        assert_eq!((stored.offsets.len(), stored.times.len()), (1, 1));
    }
}
