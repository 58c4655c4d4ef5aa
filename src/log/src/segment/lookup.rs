//! Finding batches, and the index that helps.

use super::{BatchScan, MaxTimestamp, ScanError, Scanned, Segment, index::SegmentIndex, loaded, locked};
use crate::error::{ReadError, StorageError};
use std::sync::MutexGuard;
use thalweg_core::{Offset, Timestamp};

impl Segment {
    /// The first batch that ends at or above `offset`; `None` if there is none in this segment.
    pub fn locate(&self, offset: Offset) -> Result<Option<Scanned>, ReadError> {
        let start = self.index_position(offset)?;
        let file = self.open_file()?;
        let mut scan = BatchScan::headers(&*file, start, self.size());
        while let Some(batch) = scan.next().map_err(|err| self.scan_error(err))? {
            if batch.header.last_offset() >= offset {
                return Ok(Some(batch));
            }
        }
        Ok(None)
    }

    /// A position at or before the first batch that ends at or above `offset`.
    fn index_position(&self, offset: Offset) -> Result<u64, ReadError> {
        let storage = &*self.home.storage;
        for _ in 0..2 {
            let found = {
                let mut guard = self.index()?;
                loaded(&mut guard).lookup_offset(storage, self.base, offset)
            };
            match found {
                Ok(None) => return Ok(0),
                Ok(Some((last, position))) if self.is_batch_at(position, last) => return Ok(position),
                // The entry does not fit the log, or the file could not be read: indexes are caches.
                _ => self.rebuild_index()?,
            }
        }
        Ok(0)
    }

    fn is_batch_at(&self, position: u64, last: Offset) -> bool {
        let Ok(file) = self.file() else { return false };
        let mut scan = BatchScan::headers(&*file, position, self.size());
        matches!(scan.next(), Ok(Some(batch)) if batch.header.last_offset() == last)
    }

    /// The offset from which a search for the first record at or after `at` starts.
    pub fn time_start(&self, at: Timestamp) -> Result<Offset, ReadError> {
        let storage = &*self.home.storage;
        let found = {
            let mut guard = self.index()?;
            loaded(&mut guard).lookup_time(storage, self.base, at)
        };
        match found {
            Ok(offset) => Ok(offset),
            Err(_) => {
                self.rebuild_index()?;
                Ok(self.base)
            }
        }
    }

    /// The largest timestamp and the last offset of the first batch that has it; `None` without any.
    pub fn max_timestamp(&self) -> Result<Option<MaxTimestamp>, ReadError> {
        let mut guard = self.index()?;
        Ok(loaded(&mut guard).max())
    }

    /// The first batch's largest timestamp, which decides when the segment rolls; `None` if it is empty.
    pub fn first_timestamp(&self) -> Result<Option<Timestamp>, ReadError> {
        if let Some(found) = *locked(&self.first_timestamp) {
            return Ok(Some(found));
        }
        let file = self.open_file()?;
        let first = BatchScan::headers(&*file, 0, self.size()).next();
        let found = first.map_err(|err| self.scan_error(err))?.map(|batch| batch.header.max_timestamp);
        *locked(&self.first_timestamp) = found;
        Ok(found)
    }

    /// The offset behind the last batch.
    pub fn next_offset(&self) -> Result<Offset, ReadError> {
        let start = self.index_position(Offset(i64::MAX))?;
        let file = self.open_file()?;
        let mut scan = BatchScan::headers(&*file, start, self.size());
        let mut next = self.base;
        while let Some(batch) = scan.next().map_err(|err| self.scan_error(err))? {
            next = batch.header.next_offset();
        }
        Ok(next)
    }

    /// The offset behind the last batch that begins below `position`. Reads all headers up to there.
    pub fn end_before(&self, position: u64) -> Result<Offset, ReadError> {
        let file = self.open_file()?;
        let mut scan = BatchScan::headers(&*file, 0, position);
        let mut end = self.base;
        while let Some(batch) = scan.next().map_err(|err| self.scan_error(err))? {
            end = batch.header.next_offset();
        }
        Ok(end)
    }

    /// A position from which about `back` index entries lie before the end.
    pub fn tail_position(&self, back: usize) -> Result<u64, ReadError> {
        let mut guard = self.index()?;
        let found = loaded(&mut guard).position_from_end(&*self.home.storage, back);
        Ok(found.unwrap_or(0).min(self.size()))
    }

    pub fn scan_error(&self, err: ScanError) -> ReadError {
        match err {
            ScanError::Io(err) => StorageError::io("read", &self.path(), err).into(),
            ScanError::Bad { position, reason } => ReadError::Corrupt {
                partition: (*self.home.partition).clone(),
                segment: self.base,
                position,
                reason,
            },
        }
    }

    /// The index, loaded from its files or built anew.
    pub(super) fn index(&self) -> Result<MutexGuard<'_, Option<SegmentIndex>>, ReadError> {
        let mut guard = locked(&self.index);
        if guard.is_none() && self.size() == 0 {
            *guard = Some(self.new_index());
        }
        if guard.is_none() {
            let found = SegmentIndex::open(&*self.home.storage, &self.home.dir, self.base, self.size());
            let found = found.map_err(|err| StorageError::io("read the index of", &self.path(), err))?;
            *guard = match found.filter(|index| self.fits(index)) {
                Some(index) => Some(index),
                None => Some(self.build_index()?),
            };
        }
        Ok(guard)
    }

    /// Whether an index from a file ends with what the log says. Entries in the middle are checked when they are used.
    fn fits(&self, index: &SegmentIndex) -> bool {
        let last = index.last_batch(self.base);
        if last.is_some_and(|(offset, position)| !self.is_batch_at(position, offset)) {
            return false;
        }
        let Some(max) = index.max() else { return true };
        let Ok(file) = self.file() else { return false };
        // The batch with the largest timestamp mostly lies behind the last entry; if not, its place is not known cheaply.
        let start = match last {
            Some((offset, _)) if max.last_offset < offset => return true,
            Some((_, position)) => position,
            None => 0,
        };
        let mut scan = BatchScan::headers(&*file, start, self.size());
        while let Ok(Some(batch)) = scan.next() {
            if batch.header.last_offset() == max.last_offset {
                return batch.header.max_timestamp == max.timestamp;
            }
        }
        false
    }

    /// An index made from the log, and stored if the disk allows.
    fn build_index(&self) -> Result<SegmentIndex, ReadError> {
        let mut index = SegmentIndex::empty(&self.home.dir, self.base);
        let file = self.open_file()?;
        let mut scan = BatchScan::headers(&*file, 0, self.size());
        while let Some(batch) = scan.next().map_err(|err| self.scan_error(err))? {
            index.note(&batch, self.base, self.index_interval);
        }
        // An empty segment has no index files before its first roll or recovery.
        if self.size() > 0 {
            tracing::info!(partition = %self.home.partition, segment = %self.base, "rebuilt the index");
        }
        index.finish(self.base);
        // The files of its name are another segment's by now.
        if self.is_retired() {
            return Ok(index);
        }
        if let Err(err) = index.store(&*self.home.storage) {
            tracing::warn!(partition = %self.home.partition, error = %err, "cannot store a rebuilt index");
            // A failed store leaves everything in memory.
            self.remove_index_files();
        }
        Ok(index)
    }

    pub(super) fn rebuild_index(&self) -> Result<(), ReadError> {
        let mut guard = locked(&self.index);
        let built = self.build_index()?;
        *guard = Some(built);
        Ok(())
    }

    /// An empty index, for a scan that fills it.
    pub fn new_index(&self) -> SegmentIndex {
        SegmentIndex::empty(&self.home.dir, self.base)
    }

    /// Adds a batch to an index that a scan fills.
    pub fn note_in(&self, index: &mut SegmentIndex, batch: &Scanned) {
        index.note(batch, self.base, self.index_interval);
    }
}
