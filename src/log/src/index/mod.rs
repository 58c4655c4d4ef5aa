//! A segment's sparse indexes: files of fixed-size entries, strictly rising.
//!
//! Entries are appended in memory and stored with plain writes a page at a time, never through a map (a full disk would be
//! a SIGBUS). What is stored is mapped read-only at the first lookup. Indexes are caches: whatever is wrong with one, it is
//! rebuilt from the log.

pub(crate) mod offset;
pub(crate) mod time;

use crate::storage::{Mapping, OpenMode, Storage};
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

/// Entries in memory, in bytes as stored, at which they are written to the file.
const STORE_BYTES: usize = 4096;

/// A fixed-size entry.
pub(crate) trait IndexEntry: Copy + fmt::Debug {
    /// Its size in the file, in bytes.
    const SIZE: usize;
    fn encode(&self, out: &mut Vec<u8>);
    /// Decodes exactly `SIZE` bytes.
    fn decode(bytes: &[u8]) -> Self;
}

/// One index file.
pub(crate) struct IndexFile<E> {
    path: PathBuf,
    /// Entries in the file.
    stored: usize,
    /// Entries behind them, in memory only.
    tail: Vec<E>,
    last: Option<E>,
    mapping: Option<Mapping>,
    /// The file, if there is one, is left from an earlier life and must be emptied at the first store.
    fresh: bool,
    /// Stored entries are not synced yet.
    dirty: bool,
}

impl<E: fmt::Debug> fmt::Debug for IndexFile<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IndexFile { path, stored, tail, last, .. } = self;
        let mut out = f.debug_struct("IndexFile");
        out.field("path", path)
            .field("stored", stored)
            .field("tail", &tail.len())
            .field("last", last)
            .finish()
    }
}

impl<E: IndexEntry> IndexFile<E> {
    /// An index without entries; replaces what the file may hold.
    pub fn empty(path: PathBuf) -> Self {
        IndexFile { path, stored: 0, tail: Vec::new(), last: None, mapping: None, fresh: true, dirty: false }
    }

    /// The index in a file. `None` if there is no such file, or its length is no whole number of entries.
    pub fn open(storage: &dyn Storage, path: PathBuf) -> io::Result<Option<Self>> {
        let file = match storage.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(err) => return Err(err),
        };
        let len = file.len()?;
        let size = E::SIZE as u64;
        // An index never has more entries than the segment's file has bytes.
        if len % size != 0 || len / size > i32::MAX as u64 {
            return Ok(None);
        }
        let mut last = None;
        if len > 0 {
            let mut entry = vec![0; E::SIZE];
            file.read_exact_at(&mut entry, len - size)?;
            last = Some(E::decode(&entry));
        }
        let stored = (len / size) as usize;
        Ok(Some(IndexFile {
            path,
            stored,
            tail: Vec::new(),
            last,
            mapping: None,
            fresh: false,
            dirty: false,
        }))
    }

    pub fn len(&self) -> usize {
        self.stored + self.tail.len()
    }

    pub fn last(&self) -> Option<E> {
        self.last
    }

    /// Whether one more entry would exceed a file of `max_bytes`.
    pub fn is_full(&self, max_bytes: u64) -> bool {
        (self.len() as u64 + 1) * E::SIZE as u64 > max_bytes
    }

    /// Adds an entry in memory. The caller keeps the order.
    pub fn push(&mut self, entry: E) {
        self.tail.push(entry);
        self.last = Some(entry);
    }

    /// Whether there is a page's worth of entries to store.
    pub fn wants_store(&self) -> bool {
        self.tail.len() * E::SIZE >= STORE_BYTES
    }

    /// Writes the entries in memory to the file; creates it even if there are none. After an error all is as before and
    /// may be tried again.
    pub fn store(&mut self, storage: &dyn Storage) -> io::Result<()> {
        self.write(storage)?;
        self.written();
        Ok(())
    }

    /// The first half of [`IndexFile::store`]: the entries are in the file as well, but memory still holds them, so that
    /// they can be written again.
    pub fn write(&self, storage: &dyn Storage) -> io::Result<()> {
        if self.tail.is_empty() && !self.fresh {
            return Ok(());
        }
        let mode = if self.fresh { OpenMode::Truncate } else { OpenMode::ReadWrite };
        let file = storage.open(&self.path, mode)?;
        let mut bytes = Vec::with_capacity(self.tail.len() * E::SIZE);
        self.tail.iter().for_each(|entry| entry.encode(&mut bytes));
        file.write_all_at(&mut [IoSlice::new(&bytes)], (self.stored * E::SIZE) as u64)
    }

    /// The second half: memory lets go of what [`IndexFile::write`] wrote.
    pub fn written(&mut self) {
        if self.tail.is_empty() && !self.fresh {
            return;
        }
        self.stored += self.tail.len();
        self.tail = Vec::new();
        self.fresh = false;
        self.dirty = true;
        self.mapping = None;
    }

    /// Whether all entries are in memory and the file does not count.
    pub fn is_fresh(&self) -> bool {
        self.fresh
    }

    /// Stores the entries and makes them stable. Returns whether there was anything to sync.
    pub fn sync(&mut self, storage: &dyn Storage) -> io::Result<bool> {
        self.store(storage)?;
        let dirty = self.dirty;
        if dirty {
            storage.open(&self.path, OpenMode::ReadWrite)?.sync_data()?;
            self.dirty = false;
        }
        Ok(dirty)
    }

    /// Whether there are neither entries nor a file of this life.
    pub fn is_untouched(&self) -> bool {
        self.fresh && self.tail.is_empty()
    }

    /// The entry at a position below `len()`.
    pub fn get(&mut self, storage: &dyn Storage, i: usize) -> io::Result<E> {
        if let Some(entry) = i.checked_sub(self.stored).and_then(|i| self.tail.get(i)) {
            return Ok(*entry);
        }
        let bytes = self.map(storage)?;
        let entry = bytes.get(i * E::SIZE..(i + 1) * E::SIZE).ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(E::decode(entry))
    }

    /// The number of entries from the front for which `below` holds; it must hold for none behind them.
    pub fn partition_point(
        &mut self,
        storage: &dyn Storage,
        below: impl Fn(&E) -> bool,
    ) -> io::Result<usize> {
        if self.stored == 0 || self.tail.first().is_some_and(&below) {
            return Ok(self.stored + self.tail.partition_point(below));
        }
        let stored = self.stored;
        let bytes = self.map(storage)?;
        let (mut low, mut high) = (0, stored);
        while low < high {
            let mid = low + (high - low) / 2;
            let entry = bytes.get(mid * E::SIZE..(mid + 1) * E::SIZE).ok_or(io::ErrorKind::UnexpectedEof)?;
            if below(&E::decode(entry)) {
                low = mid + 1;
            } else {
                high = mid;
            }
        }
        Ok(low)
    }

    /// Maps what is stored, so that lookups need the file's name no more.
    pub fn pin(&mut self, storage: &dyn Storage) -> io::Result<()> {
        if self.stored > 0 { self.map(storage).map(drop) } else { Ok(()) }
    }

    /// Gives the map back; the next lookup makes it anew.
    pub fn unmap(&mut self) {
        self.mapping = None;
    }

    fn map(&mut self, storage: &dyn Storage) -> io::Result<&[u8]> {
        if self.mapping.is_none() {
            let file = storage.open(&self.path, OpenMode::Read)?;
            self.mapping = Some(file.map(self.stored * E::SIZE)?);
        }
        Ok(self.mapping.as_ref().map_or(&[], |mapping| (**mapping).as_ref()))
    }
}

/// The index file of a segment's file: same folder and base offset, another extension.
pub(crate) fn path_of(dir: &Path, base: i64, extension: &str) -> PathBuf {
    dir.join(format!("{base:020}.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::offset::OffsetEntry;
    use super::*;
    use crate::storage::{FaultError, OpKind, SimStorage};

    fn entry(i: u32) -> OffsetEntry {
        OffsetEntry { relative: i * 10, position: i * 100 }
    }

    #[test]
    fn lookups_see_stored_and_unstored_entries_alike() {
        let sim = SimStorage::new(1);
        let path = PathBuf::from("/00.index");
        let mut index = IndexFile::<OffsetEntry>::empty(path.clone());
        for i in 0..1500 {
            index.push(entry(i));
            if index.wants_store() {
                index.store(&sim).unwrap();
            }
            let wanted = i / 2;
            let at = index.partition_point(&sim, |e| e.relative <= wanted * 10).unwrap();
            assert_eq!(at as u32, wanted + 1);
            assert_eq!(index.get(&sim, at - 1).unwrap(), entry(wanted));
        }
        assert!(index.stored > 1000 && !index.tail.is_empty());
        index.sync(&sim).unwrap();
        let mut again = IndexFile::<OffsetEntry>::open(&sim, path).unwrap().unwrap();
        assert_eq!((again.len(), again.last()), (1500, Some(entry(1499))));
        assert_eq!(again.get(&sim, 3).unwrap(), entry(3));
    }

    #[test]
    fn a_failed_store_is_tried_again() {
        let sim = SimStorage::new(1);
        let mut index = IndexFile::<OffsetEntry>::empty(PathBuf::from("/00.index"));
        index.push(entry(1));
        index.push(entry(2));
        sim.fail_nth(&[OpKind::Write], 1, FaultError::NoSpace);
        assert!(index.store(&sim).is_err());
        index.store(&sim).unwrap();
        let mut again = IndexFile::<OffsetEntry>::open(&sim, PathBuf::from("/00.index")).unwrap().unwrap();
        assert_eq!((again.len(), again.get(&sim, 0).unwrap()), (2, entry(1)));
    }

    #[test]
    fn an_old_life_is_replaced_and_a_torn_file_refused() {
        let sim = SimStorage::new(1);
        let path = PathBuf::from("/00.index");
        let file = sim.open(&path, OpenMode::Create).unwrap();
        file.write_all_at(&mut [IoSlice::new(&[7; 21])], 0).unwrap();
        assert!(IndexFile::<OffsetEntry>::open(&sim, path.clone()).unwrap().is_none());
        let mut index = IndexFile::<OffsetEntry>::empty(path.clone());
        index.store(&sim).unwrap();
        assert_eq!(IndexFile::<OffsetEntry>::open(&sim, path).unwrap().unwrap().len(), 0);
    }
}
