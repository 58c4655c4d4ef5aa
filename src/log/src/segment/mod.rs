//! One segment: a `.log` file of batches and its two sparse indexes.
//!
//! One appender at a time (the log's lock), any number of readers beside it. A reader looks at `size()` first: the bytes
//! below it are written and do not change, except when the log is truncated.

mod cleaned;
mod gather;
mod index;
mod lookup;
mod scan;
mod write;

pub(crate) use cleaned::{CleanedSegment, SwapFailure, finish_swaps};
pub(crate) use index::MaxTimestamp;
pub(crate) use scan::{BatchScan, ScanError, Scanned};

use crate::config::LogConfig;
use crate::error::{ReadError, StorageError};
use crate::index as index_file;
use crate::storage::{LogFile, OpenMode, Storage};
use index::SegmentIndex;
use std::io;
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
    /// Compaction takes its files' names away: from now on it lives by what it has open.
    retired: AtomicBool,
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
            retired: AtomicBool::new(false),
        }
    }

    /// The segment in a file that is open, which now has the segment's name.
    pub fn adopt(home: Home, base: Offset, config: &LogConfig, size: u64, file: Arc<dyn LogFile>) -> Segment {
        Segment::assemble(home, base, config, size, file, None)
    }

    /// Opens all that readers may need and keeps it open, so that those who hold the segment go on when its files lose their
    /// names.
    pub fn retire(&self) -> Result<(), ReadError> {
        // First: what rests from here on closes nothing.
        self.retired.store(true, Ordering::Release);
        let opened = (|| {
            let mut guard = self.index()?;
            let pinned = loaded(&mut guard).pin(&*self.home.storage);
            drop(guard);
            pinned.map_err(|err| StorageError::io("map the index of", &self.path(), err))?;
            self.open_file().map(drop)?;
            Ok(())
        })();
        if opened.is_err() {
            self.unretire();
        }
        opened
    }

    /// The files keep their names after all.
    pub fn unretire(&self) {
        self.retired.store(false, Ordering::Release);
    }

    fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
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

    /// Closes the file; the next use opens it.
    pub fn close_file(&self) {
        *locked(&self.file) = None;
    }

    /// Closes the file of a segment that may take appends, if nobody used it since the last call. The caller holds the log's
    /// append lock. What is not synced stays with its handle, so that no failed write-back goes unseen.
    pub fn rest_active(&self) {
        if !self.used.swap(false, Ordering::Relaxed) && !self.dirty.load(Ordering::Acquire) {
            self.close_file();
        }
    }

    /// Closes the file and gives the index maps back if nobody used the segment since the last call. Only for segments
    /// that take no more appends.
    pub fn rest(&self) {
        if !self.used.swap(false, Ordering::Relaxed) {
            // Under each lock: a segment that is being retired is asked to stay open before the lock is taken to open it.
            let mut file = locked(&self.file);
            if !self.is_retired() {
                *file = None;
            }
            drop(file);
            if let Some(index) = &mut *locked(&self.index)
                && !self.is_retired()
            {
                index.unmap();
            }
        }
    }
}

fn loaded<'a>(guard: &'a mut MutexGuard<'_, Option<SegmentIndex>>) -> &'a mut SegmentIndex {
    guard.as_mut().expect("Segment::index fills the slot before it returns the guard")
}
