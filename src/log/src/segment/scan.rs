//! Walks the batches of a segment's file, headers only or with their checksums.

use crate::storage::LogFile;
use std::io;
use thalweg_core::batch::{BatchError, BatchHeader, HEADER_LEN, check_crc};

/// Bytes read at once when whole batches are wanted.
const WINDOW_CHECKED: usize = 1 << 20;
/// Bytes read at once when only headers are wanted: wide enough for many small batches, narrow enough for one large one.
const WINDOW_HEADERS: usize = 16 << 10;

/// A batch of the walk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scanned {
    pub header: BatchHeader,
    /// Where the batch begins in the file.
    pub position: u64,
}

impl Scanned {
    /// Where the batch ends in the file.
    pub fn end(&self) -> u64 {
        self.position + self.header.size() as u64
    }
}

/// Why the walk stopped before the end.
#[derive(Debug)]
pub(crate) enum ScanError {
    Io(io::Error),
    /// From `position` on there is no whole, good batch.
    Bad {
        position: u64,
        reason: BatchError,
    },
}

impl From<io::Error> for ScanError {
    fn from(err: io::Error) -> Self {
        ScanError::Io(err)
    }
}

/// The walk. Memory is bounded by the largest batch that the file has room for.
pub(crate) struct BatchScan<'a> {
    file: &'a dyn LogFile,
    position: u64,
    end: u64,
    checked: bool,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> BatchScan<'a> {
    /// Walks the batches in `[start, end)` by their headers.
    pub fn headers(file: &'a dyn LogFile, start: u64, end: u64) -> Self {
        BatchScan { file, position: start, end, checked: false, window: Vec::new(), window_start: 0 }
    }

    /// Walks the batches in `[start, end)` and checks each checksum.
    pub fn checked(file: &'a dyn LogFile, start: u64, end: u64) -> Self {
        BatchScan { checked: true, ..BatchScan::headers(file, start, end) }
    }

    /// The next batch; `None` exactly at the end.
    pub fn next(&mut self) -> Result<Option<Scanned>, ScanError> {
        let position = self.position;
        if position >= self.end {
            return Ok(None);
        }
        let left = self.end - position;
        let bad = |reason| ScanError::Bad { position, reason };
        if left < HEADER_LEN as u64 {
            return Err(bad(BatchError::Truncated { needed: HEADER_LEN, available: left as usize }));
        }
        let header = BatchHeader::parse(self.bytes(position, HEADER_LEN)?).map_err(bad)?;
        if header.size() as u64 > left {
            return Err(bad(BatchError::Truncated { needed: header.size(), available: left as usize }));
        }
        if self.checked {
            check_crc(self.bytes(position, header.size())?).map_err(bad)?;
        }
        let scanned = Scanned { header, position };
        self.position = scanned.end();
        Ok(Some(scanned))
    }

    /// The bytes of the batch that `next` just gave.
    pub fn batch(&mut self, scanned: &Scanned) -> io::Result<&[u8]> {
        self.bytes(scanned.position, scanned.header.size())
    }

    /// `len` bytes at `position`, which must lie before the end.
    fn bytes(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let held = self.window_start..self.window_start + self.window.len() as u64;
        if position < held.start || position + len as u64 > held.end {
            let window = if self.checked { WINDOW_CHECKED } else { WINDOW_HEADERS };
            let want = (self.end - position).min(len.max(window) as u64) as usize;
            self.window.resize(want, 0);
            self.window_start = position;
            if let Err(err) = self.file.read_exact_at(&mut self.window, position) {
                self.window.clear();
                return Err(err);
            }
        }
        let at = (position - self.window_start) as usize;
        Ok(&self.window[at..at + len])
    }
}
