//! What changes a segment: appends, closing, syncing, truncation, removal.

use super::{LOG_EXTENSION, Scanned, Segment, WriteFailure, index::SegmentIndex, loaded, locked};
use crate::config::LogConfig;
use crate::error::{ReadError, StorageError};
use crate::index::{self as index_file, offset, time};
use std::io::{self, IoSlice};
use std::sync::atomic::Ordering;
use thalweg_core::Offset;

/// The caller holds the log's append lock.
impl Segment {
    /// Reserves disk space so that `len` more bytes fit. A failure is no error: the write itself will say.
    pub fn reserve_for(&self, len: u64, config: &LogConfig) {
        let (size, reserved) = (self.size(), self.reserved.load(Ordering::Relaxed));
        if size + len <= reserved {
            return;
        }
        let step = config.reserve_step(size);
        // Never beyond what the segment may grow to.
        let want = (size + len.max(step)).min(config.segment_limit().max(size + len));
        if step > 0 && want > size + len {
            let done = self.file().and_then(|file| file.reserve(reserved, want - reserved));
            self.reserved.store(if done.is_ok() { want } else { size + len }, Ordering::Relaxed);
        }
    }

    /// Writes bytes at the end, all or nothing. They are not seen by readers before [`Segment::publish`].
    pub fn write(&self, bytes: &mut [IoSlice<'_>]) -> Result<(), WriteFailure> {
        let size = self.size();
        let file = self.file().map_err(|error| WriteFailure { error, torn: false })?;
        self.dirty.store(true, Ordering::Release);
        file.write_all_at(bytes, size).map_err(|error| {
            let torn = file.set_len(size).is_err();
            self.reserved.store(size, Ordering::Relaxed);
            WriteFailure { error, torn }
        })?;
        // Once more behind the write: a flush that took the mark off in between may have synced without these bytes, and
        // the flush that covers them must not find the segment clean.
        self.dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Notes batches that were just written, each with its position, and shows them to readers.
    pub fn publish(&self, batches: impl Iterator<Item = Scanned>) {
        let mut end = self.size();
        let mut guard = locked(&self.index);
        for batch in batches {
            if batch.position == 0 {
                *locked(&self.first_timestamp) = Some(batch.header.max_timestamp);
            }
            if let Some(index) = &mut *guard {
                index.note(&batch, self.base, self.index_interval);
            }
            end = batch.end();
        }
        // A failure to store leaves the entries in memory; the next call, or the roll, tries again.
        if let Some(index) = &mut *guard
            && let Err(err) = index.store_if_large(&*self.home.storage)
        {
            tracing::warn!(partition = %self.home.partition, error = %err, "cannot store index entries yet");
        }
        // Under the index's lock, so that a rebuild beside this sees both the entry and the bytes, or neither.
        self.size.store(end, Ordering::Release);
    }

    /// Loads the index if it is not there. The active segment's always is: `publish` relies on it.
    pub fn load_index(&self) -> Result<(), ReadError> {
        self.index().map(drop)
    }

    /// Whether an index has no room for one more entry, or offset `last` is too far from the base for one.
    pub fn is_index_full(&self, max_bytes: u64, last: Offset) -> Result<bool, ReadError> {
        if last.get() - self.base.get() > i64::from(i32::MAX) {
            return Ok(true);
        }
        let mut guard = self.index()?;
        Ok(loaded(&mut guard).is_full(max_bytes))
    }

    /// Closes the segment for appends: the time index gets its last entry, both indexes are stored, reserved space is given
    /// back. May be tried again after an error.
    pub fn seal(&self) -> Result<(), StorageError> {
        let io = |action, err| StorageError::io(action, &self.path(), err);
        // An index that nobody loaded is on disk already; one of an empty segment says nothing.
        if let Some(index) = &mut *locked(&self.index)
            && self.size() > 0
        {
            index.finish(self.base);
            index.store(&*self.home.storage).map_err(|err| io("store the index of", err))?;
        }
        self.release_reserved().map_err(|err| io("release reserved space of", err))
    }

    /// Gives back the disk space that is reserved behind the end. Not beside a write.
    pub fn release_reserved(&self) -> io::Result<()> {
        if self.reserved.load(Ordering::Relaxed) > self.size() {
            self.file()?.release_reserved()?;
            self.reserved.store(self.size(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Takes the dirty mark off: the caller syncs next.
    pub fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::AcqRel)
    }

    /// Makes the batches stable.
    pub fn sync(&self) -> Result<(), StorageError> {
        let done = self.file().and_then(|file| file.sync_data());
        done.map_err(|err| StorageError::io("sync", &self.path(), err))
    }

    /// Makes the indexes stable, for a segment that will not be scanned at recovery. Returns whether there was anything to
    /// sync.
    pub fn sync_index(&self) -> Result<bool, StorageError> {
        match &mut *locked(&self.index) {
            Some(index) => index
                .sync(&*self.home.storage)
                .map_err(|err| StorageError::io("sync the index of", &self.path(), err)),
            None => Ok(false),
        }
    }

    /// Writes the index in memory to its files.
    pub fn store_index(&self) -> Result<(), StorageError> {
        match &mut *locked(&self.index) {
            Some(index) => index
                .store(&*self.home.storage)
                .map_err(|err| StorageError::io("store the index of", &self.path(), err)),
            None => Ok(()),
        }
    }

    /// Removes index files that may be incomplete. The index in memory stays in use if it needs no file, and is built
    /// anew from the log at its next use if it does.
    pub fn discard_stored_index(&self) {
        let mut index = locked(&self.index);
        self.remove_index_files();
        if index.as_ref().is_some_and(|index| !index.is_fresh()) {
            *index = None;
        }
    }

    /// Removes the index files, for an index whose entries are all in memory.
    pub(super) fn remove_index_files(&self) {
        for extension in [offset::EXTENSION, time::EXTENSION] {
            let path = index_file::path_of(&self.home.dir, self.base.get(), extension);
            if let Err(err) = self.home.storage.remove_file(&path)
                && err.kind() != io::ErrorKind::NotFound
            {
                tracing::error!(path = %path.display(), error = %err, "cannot remove an incomplete index");
            }
        }
    }

    /// Cuts the file at a batch boundary and the indexes with it, and makes that stable. The caller keeps readers away from
    /// what is cut.
    pub fn truncate(&self, position: u64) -> Result<(), ReadError> {
        let io = |err| StorageError::io("cut", &self.path(), err);
        let file = self.file().map_err(io)?;
        if position < self.size() || position < file.len().map_err(io)? {
            self.size.store(position, Ordering::Release);
            file.set_len(position).map_err(io)?;
            self.reserved.store(position, Ordering::Relaxed);
            file.sync_data().map_err(io)?;
            self.rebuild_index()?;
            if position == 0 {
                *locked(&self.first_timestamp) = None;
            }
        }
        Ok(())
    }

    /// Notes what a scan found: the bytes of whole batches, and the index that belongs to them.
    pub fn recovered(&self, size: u64, index: SegmentIndex) {
        self.size.store(size, Ordering::Release);
        *locked(&self.index) = Some(index);
    }

    /// Removes the files; the batches first, so that indexes without them are known as left over.
    pub fn remove(&self) -> Result<(), StorageError> {
        let storage = &*self.home.storage;
        for extension in [LOG_EXTENSION, offset::EXTENSION, time::EXTENSION] {
            let path = index_file::path_of(&self.home.dir, self.base.get(), extension);
            match storage.remove_file(&path) {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    return Err(StorageError::io("remove", &path, err));
                }
                _ => {}
            }
            // A segment must be gone for good before its neighbour goes: a gap in the middle would look like a loss.
            if extension == LOG_EXTENSION {
                let dir = &self.home.dir;
                storage.sync_dir(dir).map_err(|err| StorageError::io("sync", dir, err))?;
            }
        }
        Ok(())
    }
}
