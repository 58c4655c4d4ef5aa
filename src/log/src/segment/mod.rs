//! One segment: a `.log` file of batches and its two sparse indexes.
//!
//! One appender at a time (the log's lock), any number of readers beside it. A reader looks at `size()` first: the bytes
//! below it are written and do not change, except when the log is truncated.

mod index;
mod scan;

pub(crate) use index::MaxTimestamp;
pub(crate) use scan::{BatchScan, ScanError, Scanned};

use crate::config::LogConfig;
use crate::error::{ReadError, StorageError};
use crate::index::{self as index_file, offset, time};
use crate::storage::{LogFile, OpenMode, Storage};
use index::SegmentIndex;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_core::{Offset, Timestamp, TopicPartition};

/// The extension of the file with the batches.
pub(crate) const LOG_EXTENSION: &str = "log";

/// What names a partition's files and where they lie.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub storage: Arc<dyn Storage>,
    pub dir: Arc<Path>,
    pub partition: Arc<TopicPartition>,
}

/// A failed write, and whether what it left behind is gone.
#[derive(Debug)]
pub(crate) struct WriteFailure {
    pub error: io::Error,
    /// The file could not be cut back: it may end in garbage.
    pub torn: bool,
}

#[derive(Debug)]
pub(crate) struct Segment {
    home: Home,
    base: Offset,
    index_interval: u64,
    /// Bytes of whole batches.
    size: AtomicU64,
    /// Disk space is reserved up to here.
    reserved: AtomicU64,
    /// Whether there are bytes that no fsync covered.
    dirty: AtomicBool,
    file: Mutex<Option<Arc<dyn LogFile>>>,
    /// `None` until it is needed.
    index: Mutex<Option<SegmentIndex>>,
    /// The first batch's largest timestamp, once it is known.
    first_timestamp: Mutex<Option<Timestamp>>,
    /// Used since the last `rest`.
    used: AtomicBool,
}

/// Every lock of a segment guards plain data whose state is whole between two statements, so a panic elsewhere does not
/// make it unusable.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Segment {
    /// A new, empty segment with its file. The name is not stable before the folder is synced.
    pub fn create(home: Home, base: Offset, config: &LogConfig) -> io::Result<Segment> {
        let path = index_file::path_of(&home.dir, base.get(), LOG_EXTENSION);
        let file = home.storage.open(&path, OpenMode::Truncate)?;
        let index = SegmentIndex::empty(&home.dir, base);
        Ok(Segment::assemble(home, base, config, 0, file, Some(index)))
    }

    /// The segment in an existing file.
    pub fn open(home: Home, base: Offset, config: &LogConfig) -> io::Result<Segment> {
        let path = index_file::path_of(&home.dir, base.get(), LOG_EXTENSION);
        let file = home.storage.open(&path, OpenMode::ReadWrite)?;
        let size = file.len()?;
        Ok(Segment::assemble(home, base, config, size, file, None))
    }

    fn assemble(
        home: Home,
        base: Offset,
        config: &LogConfig,
        size: u64,
        file: Arc<dyn LogFile>,
        index: Option<SegmentIndex>,
    ) -> Segment {
        Segment {
            home,
            base,
            index_interval: config.index_interval_bytes,
            size: AtomicU64::new(size),
            reserved: AtomicU64::new(size),
            dirty: AtomicBool::new(false),
            file: Mutex::new(Some(file)),
            index: Mutex::new(index),
            first_timestamp: Mutex::new(None),
            used: AtomicBool::new(false),
        }
    }

    pub fn base(&self) -> Offset {
        self.base
    }

    /// Bytes of whole batches in the file.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    pub fn path(&self) -> PathBuf {
        index_file::path_of(&self.home.dir, self.base.get(), LOG_EXTENSION)
    }

    /// The open file; opens it if it rested.
    pub fn file(&self) -> io::Result<Arc<dyn LogFile>> {
        self.used.store(true, Ordering::Relaxed);
        let mut file = locked(&self.file);
        if let Some(file) = &*file {
            return Ok(Arc::clone(file));
        }
        let opened = self.home.storage.open(&self.path(), OpenMode::ReadWrite)?;
        *file = Some(Arc::clone(&opened));
        Ok(opened)
    }

    /// As [`Segment::file`], with an error that names the file.
    pub fn open_file(&self) -> Result<Arc<dyn LogFile>, StorageError> {
        self.file().map_err(|err| StorageError::io("open", &self.path(), err))
    }

    /// Closes the file and gives the index maps back if nobody used the segment since the last call. Only for segments
    /// that take no more appends.
    pub fn rest(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            *locked(&self.file) = None;
            if let Some(index) = &mut *locked(&self.index) {
                index.unmap();
            }
        }
    }

    // --- writing; the caller holds the log's append lock ---

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
        })
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

    /// Makes the indexes stable, for a segment that will not be scanned at recovery.
    pub fn sync_index(&self) -> Result<(), StorageError> {
        let mut guard = locked(&self.index);
        match &mut *guard {
            Some(index) => index
                .sync(&*self.home.storage)
                .map_err(|err| StorageError::io("sync the index of", &self.path(), err)),
            None => Ok(()),
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

    /// Removes index files that may be incomplete. What is in memory stays in use.
    pub fn discard_stored_index(&self) {
        for extension in [offset::EXTENSION, time::EXTENSION] {
            let path = index_file::path_of(&self.home.dir, self.base.get(), extension);
            if let Err(err) = self.home.storage.remove_file(&path)
                && err.kind() != io::ErrorKind::NotFound
            {
                tracing::error!(path = %path.display(), error = %err, "cannot remove an incomplete index");
            }
        }
    }

    // --- truncation and removal ---

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

    // --- lookups ---

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

    // --- the index ---

    /// The index, loaded from its files or built anew.
    fn index(&self) -> Result<MutexGuard<'_, Option<SegmentIndex>>, ReadError> {
        let mut guard = locked(&self.index);
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
        tracing::info!(partition = %self.home.partition, segment = %self.base, "rebuilt the index");
        index.finish(self.base);
        if let Err(err) = index.store(&*self.home.storage) {
            tracing::warn!(partition = %self.home.partition, error = %err, "cannot store a rebuilt index");
            self.discard_stored_index();
        }
        Ok(index)
    }

    fn rebuild_index(&self) -> Result<(), ReadError> {
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

fn loaded<'a>(guard: &'a mut MutexGuard<'_, Option<SegmentIndex>>) -> &'a mut SegmentIndex {
    guard.as_mut().expect("Segment::index fills the slot before it returns the guard")
}
