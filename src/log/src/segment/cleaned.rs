//! A segment that compaction puts in the place of one or several.
//!
//! ```text
//!   write and sync *.cleaned ─► rename to *.swap ─► rename the old ones to *.deleted ─► rename to the final names
//!       a crash undoes it            from here on a crash finishes it at the next start
//! ```
//!
//! The folder is synced behind each step, since a crash may keep any of the names that were changed since the last sync. A
//! `.log.swap` is what decides: it is whole, and every segment that begins in its range is one of those it replaces. It ends
//! where they ended, because compaction keeps a group's last batch, if need be without records.
//!
//! What is written goes past the page cache where the file system allows. Through it hundreds of megabytes would wait to be
//! written, and the next sync of an append waits for its place behind them (ADR 22).

use super::gather::Gather;
use super::{BatchScan, Home, LOG_EXTENSION, Scanned, Segment, index::SegmentIndex};
use crate::config::LogConfig;
use crate::error::{ReadError, StorageError};
use crate::index::{offset, path_of, time};
use crate::storage::{LogFile, OpenMode};
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_core::Offset;
use thalweg_core::batch::BatchHeader;

/// Behind the names of files that are being written.
const CLEANED: &str = ".cleaned";
/// Behind the names of files that are whole and go to their final names.
const SWAP: &str = ".swap";
/// Behind the names of files that were replaced.
const DELETED: &str = ".deleted";

/// A segment's files; the batches last, as they decide.
const EXTENSIONS: [&str; 3] = [time::EXTENSION, offset::EXTENSION, LOG_EXTENSION];

/// Bytes that are gathered for one write.
const WRITE_BYTES: usize = 1 << 20;
/// Bytes from which on what was written through the page cache is synced, so that the last sync has no gigabyte to wait for and
/// others' syncs do not wait behind it.
const SYNC_BYTES: u64 = 16 << 20;

/// A segment in the making.
#[derive(Debug)]
pub(crate) struct CleanedSegment {
    home: Home,
    base: Offset,
    index_interval: u64,
    file: Arc<dyn LogFile>,
    /// The same file, for writes past the page cache; none where they are refused.
    direct: Option<Arc<dyn LogFile>>,
    index: SegmentIndex,
    buffer: Gather,
    written: u64,
    synced: u64,
}

/// Why the old segments were not replaced.
#[derive(Debug)]
pub(crate) enum SwapFailure {
    /// Nothing has changed.
    Undone(ReadError),
    /// The names are half changed; the next start finishes it.
    Halfway(StorageError),
}

impl CleanedSegment {
    /// Begins one that starts where its first predecessor does. Replaces what an earlier try left.
    pub fn create(home: Home, base: Offset, config: &LogConfig) -> Result<CleanedSegment, StorageError> {
        let path = name(&home.dir, base, LOG_EXTENSION, CLEANED);
        let opened = home.storage.open(&path, OpenMode::Truncate);
        let file = opened.map_err(|err| StorageError::io("create", &path, err))?;
        let direct = match home.storage.open_direct(&path) {
            Ok(direct) => direct,
            Err(err) => {
                tracing::debug!(path = %path.display(), error = %err, "no direct writes");
                None
            }
        };
        let index = SegmentIndex::empty_at(&home.dir, base, CLEANED);
        let index_interval = config.index_interval_bytes;
        Ok(CleanedSegment {
            home,
            base,
            index_interval,
            file,
            direct,
            index,
            buffer: Gather::new(WRITE_BYTES),
            written: 0,
            synced: 0,
        })
    }

    /// Bytes of batches in it.
    pub fn size(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    /// Adds a batch, which must lie above those before.
    pub fn append(&mut self, header: &BatchHeader, bytes: &[u8]) -> Result<(), StorageError> {
        self.index.note(&Scanned { header: *header, position: self.size() }, self.base, self.index_interval);
        let mut rest = bytes;
        while !rest.is_empty() {
            rest = self.buffer.take(rest);
            if self.buffer.is_full() {
                self.write_out()?;
                let stored = self.index.store_if_large(&*self.home.storage);
                stored.map_err(|err| self.error("store the index of", err))?;
            }
        }
        if self.direct.is_none() && self.written - self.synced >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    /// Writes what was gathered: all of it only if it is full or nothing follows, so that each direct write begins where it may.
    fn write_out(&mut self) -> Result<(), StorageError> {
        let (mut whole, rest) = self.buffer.parts();
        let mut at = self.written;
        if let Some(direct) = &self.direct
            && !whole.is_empty()
        {
            match direct.write_all_at(&mut [IoSlice::new(whole)], at) {
                Ok(()) => {
                    at += whole.len() as u64;
                    whole = &[];
                }
                // Some file systems open a file so and take no such write, or want larger blocks.
                Err(err) if err.kind() == ErrorKind::InvalidInput || err.kind() == ErrorKind::Unsupported => {
                    tracing::debug!(partition = %self.home.partition, error = %err, "no direct writes");
                    self.direct = None;
                }
                Err(err) => return Err(self.error("write", err)),
            }
        }
        let done = self.file.write_all_at(&mut [IoSlice::new(whole), IoSlice::new(rest)], at);
        done.map_err(|err| self.error("write", err))?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }

    /// Makes the batches stable.
    pub fn sync(&mut self) -> Result<(), StorageError> {
        if self.buffer.len() > 0 {
            self.write_out()?;
        }
        if self.synced < self.written {
            self.file.sync_data().map_err(|err| self.error("sync", err))?;
            self.synced = self.written;
        }
        Ok(())
    }

    /// Removes the files. The caller makes sure that they are still its own.
    pub fn discard(self) {
        for extension in EXTENSIONS {
            for suffix in [CLEANED, SWAP] {
                // Best effort: what is left is removed when the log is opened.
                let _ = self.home.storage.remove_file(&name(&self.home.dir, self.base, extension, suffix));
            }
        }
    }

    /// Takes the place of `old`, which follow one another and begin where this one does. Stable when this returns. Whoever
    /// holds the old ones may go on reading them.
    pub fn swap_in(mut self, old: &[Arc<Segment>], config: &LogConfig) -> Result<Segment, SwapFailure> {
        let prepared = self.prepare(old);
        if let Err(err) = prepared {
            old.iter().for_each(|segment| segment.unretire());
            self.discard();
            return Err(SwapFailure::Undone(err));
        }
        self.replace(old).map_err(SwapFailure::Halfway)?;
        let CleanedSegment { home, base, file, written, .. } = self;
        for segment in old {
            for extension in EXTENSIONS {
                let path = name(&home.dir, segment.base(), extension, DELETED);
                // Best effort: what is left is removed when the log is opened.
                if let Err(err) = home.storage.remove_file(&path)
                    && err.kind() != ErrorKind::NotFound
                {
                    tracing::warn!(path = %path.display(), error = %err, "cannot remove a compacted segment yet");
                }
            }
        }
        Ok(Segment::adopt(home, base, config, written, file))
    }

    /// What may fail without harm.
    fn prepare(&mut self, old: &[Arc<Segment>]) -> Result<(), ReadError> {
        self.sync()?;
        let storage = Arc::clone(&self.home.storage);
        self.index.finish(self.base);
        self.index.sync(&*storage).map_err(|err| self.error("sync the index of", err))?;
        // The files' contents before their names: a `.swap` is whole wherever it is found.
        self.sync_dir()?;
        for segment in old {
            segment.retire()?;
        }
        for extension in EXTENSIONS {
            let from = name(&self.home.dir, self.base, extension, CLEANED);
            let to = name(&self.home.dir, self.base, extension, SWAP);
            storage.rename(&from, &to).map_err(|err| StorageError::io("rename", &from, err))?;
        }
        Ok(())
    }

    fn replace(&self, old: &[Arc<Segment>]) -> Result<(), StorageError> {
        let storage = &*self.home.storage;
        let rename = |from: &Path, to: &Path| match storage.rename(from, to) {
            // An index may be missing: it would have been built when it was needed.
            Err(err) if err.kind() != ErrorKind::NotFound => Err(StorageError::io("rename", from, err)),
            _ => Ok(()),
        };
        self.sync_dir()?;
        for segment in old.iter().rev() {
            for extension in EXTENSIONS {
                let path = path_of(&self.home.dir, segment.base().get(), extension);
                rename(&path, &name(&self.home.dir, segment.base(), extension, DELETED))?;
            }
        }
        // None of them may come back beside the new one.
        self.sync_dir()?;
        for extension in EXTENSIONS {
            let to = path_of(&self.home.dir, self.base.get(), extension);
            rename(&name(&self.home.dir, self.base, extension, SWAP), &to)?;
        }
        self.sync_dir()
    }

    fn sync_dir(&self) -> Result<(), StorageError> {
        let dir = &self.home.dir;
        self.home.storage.sync_dir(dir).map_err(|err| StorageError::io("sync", dir, err))
    }

    fn error(&self, action: &'static str, err: io::Error) -> StorageError {
        StorageError::io(action, &name(&self.home.dir, self.base, LOG_EXTENSION, CLEANED), err)
    }
}

fn name(dir: &Path, base: Offset, extension: &str, suffix: &str) -> PathBuf {
    path_of(dir, base.get(), &format!("{extension}{suffix}"))
}

/// Finishes or undoes what a crash interrupted, before a folder's segments are opened. May itself be interrupted anywhere.
pub(crate) fn finish_swaps(home: &Home) -> Result<(), StorageError> {
    let (storage, dir) = (&*home.storage, &*home.dir);
    let io = |action, err| StorageError::io(action, dir, err);
    let names: Vec<_> =
        storage.list(dir).map_err(|err| io("list", err))?.into_iter().map(|entry| entry.name).collect();
    let wanted = format!(".{LOG_EXTENSION}{SWAP}");
    let swaps = names.iter().filter_map(|name| name.strip_suffix(&wanted)?.parse().ok().map(Offset));
    for base in swaps {
        finish_swap(home, base, &names)?;
    }
    for left in storage.list(dir).map_err(|err| io("list", err))? {
        if [CLEANED, SWAP, DELETED].iter().any(|suffix| left.name.ends_with(suffix)) {
            storage.remove_file(&dir.join(&left.name)).map_err(|err| io("clean", err))?;
        }
    }
    Ok(())
}

/// Removes what the swap replaces, and gives it its final name.
fn finish_swap(home: &Home, base: Offset, names: &[String]) -> Result<(), StorageError> {
    let (storage, dir) = (&*home.storage, &*home.dir);
    let sync_dir = || storage.sync_dir(dir).map_err(|err| StorageError::io("sync", dir, err));
    let swap = name(dir, base, LOG_EXTENSION, SWAP);
    let io = |err| StorageError::io("read", &swap, err);
    let file = storage.open(&swap, OpenMode::Read).map_err(io)?;
    let mut scan = BatchScan::headers(&*file, 0, file.len().map_err(io)?);
    let mut end = base;
    while let Ok(Some(batch)) = scan.next() {
        end = batch.header.next_offset();
    }
    tracing::info!(partition = %home.partition, segment = %base, %end, "finishing the swap of a compacted segment");
    // Its own place, too: an index of the old segment must not stay.
    for old in names {
        let Some((digits, extension)) = old.split_once('.') else { continue };
        let replaced =
            digits.parse().is_ok_and(|at| base.get() == at || (base.get()..end.get()).contains(&at));
        if replaced && EXTENSIONS.contains(&extension) {
            storage.remove_file(&dir.join(old)).map_err(|err| StorageError::io("remove", dir, err))?;
        }
    }
    sync_dir()?;
    for extension in EXTENSIONS {
        let from = name(dir, base, extension, SWAP);
        match storage.rename(&from, &path_of(dir, base.get(), extension)) {
            Err(err) if err.kind() != ErrorKind::NotFound => {
                return Err(StorageError::io("rename", &from, err));
            }
            _ => {}
        }
    }
    sync_dir()
}
