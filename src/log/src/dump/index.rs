//! Walks the entries of an `.index` or `.timeindex` file.
//!
//! The format is decoded here once more, apart from the log's own code: a check that shares its subject's decoder would
//! share its faults.

use super::{DumpError, Entry, FileKind, base_offset_of};
use crate::storage::{LogFile, OpenMode, Storage};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_core::{Offset, Timestamp};

/// `.index`: relative offset i32, position i32.
const OFFSET_ENTRY_LEN: u64 = 8;
/// `.timeindex`: timestamp i64, relative offset i32.
const TIME_ENTRY_LEN: u64 = 12;
/// Entries are read this many at a time.
const READ_ENTRIES: u64 = 1024;

/// An entry, where it lies and its raw bytes' meaning.
#[derive(Debug, Clone)]
pub struct IndexedEntry {
    /// Where the entry lies in the index file.
    pub(super) at: u64,
    /// Whether all its bytes are zero.
    pub(super) zero: bool,
    /// The entry with absolute offsets.
    pub(super) shown: Entry,
}

/// The entries of an index.
pub struct IndexEntries {
    file: Arc<dyn LogFile>,
    path: PathBuf,
    kind: FileKind,
    base: Offset,
    len: u64,
    at: u64,
    buffer: Vec<u8>,
    buffer_at: u64,
}

impl std::fmt::Debug for IndexEntries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("IndexEntries").field(&self.path).finish()
    }
}

impl IndexEntries {
    pub(super) fn open(storage: &dyn Storage, path: &Path, kind: FileKind) -> Result<Self, DumpError> {
        let base = base_offset_of(path).ok_or_else(|| DumpError::NoBaseOffset(path.to_owned()))?;
        let file = storage.open(path, OpenMode::Read).map_err(DumpError::io(path))?;
        let len = file.len().map_err(DumpError::io(path))?;
        Ok(IndexEntries {
            file,
            path: path.to_owned(),
            kind,
            base,
            len,
            at: 0,
            buffer: Vec::new(),
            buffer_at: 0,
        })
    }

    pub(super) fn entry_size(&self) -> u64 {
        match self.kind {
            FileKind::TimeIndex => TIME_ENTRY_LEN,
            _ => OFFSET_ENTRY_LEN,
        }
    }

    /// The file's length when it was opened.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn base(&self) -> Offset {
        self.base
    }

    fn fill(&mut self) -> Result<(), DumpError> {
        let size = self.entry_size();
        let left = (self.len - self.at) / size * size;
        self.buffer.resize(left.min(READ_ENTRIES * size) as usize, 0);
        self.buffer_at = self.at;
        self.file.read_exact_at(&mut self.buffer, self.at).map_err(DumpError::io(&self.path))
    }
}

/// Puts up to 8 big-endian bytes at the end of 8 that are filled with `fill`.
fn extended(bytes: &[u8], fill: u8) -> [u8; 8] {
    let mut wide = [fill; 8];
    wide[8 - bytes.len()..].copy_from_slice(bytes);
    wide
}

/// A signed big-endian number of up to 8 bytes.
fn signed(bytes: &[u8]) -> i64 {
    let negative = bytes.first().is_some_and(|first| first & 0x80 != 0);
    i64::from_be_bytes(extended(bytes, if negative { 0xff } else { 0 }))
}

impl Iterator for IndexEntries {
    type Item = Result<IndexedEntry, DumpError>;

    fn next(&mut self) -> Option<Self::Item> {
        let size = self.entry_size();
        if self.len - self.at < size {
            return None;
        }
        if self.at >= self.buffer_at + self.buffer.len() as u64
            && let Err(err) = self.fill()
        {
            self.at = self.len;
            return Some(Err(err));
        }
        let start = (self.at - self.buffer_at) as usize;
        let bytes = &self.buffer[start..start + size as usize];
        let shown = match self.kind {
            FileKind::TimeIndex => Entry::Time {
                timestamp: Timestamp(signed(&bytes[..8])),
                offset: self.base.advance(signed(&bytes[8..])),
            },
            _ => Entry::Position {
                offset: self.base.advance(signed(&bytes[..4])),
                position: u64::from_be_bytes(extended(&bytes[4..], 0)),
            },
        };
        let entry = IndexedEntry { at: self.at, zero: bytes.iter().all(|b| *b == 0), shown };
        self.at += size;
        Some(Ok(entry))
    }
}
