//! Walks the batches of a `.log` file.

use super::finding::FindingKind;
use super::{DumpError, base_offset_of};
use crate::storage::{LogFile, OpenMode, Storage};
use bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thalweg_core::Offset;
use thalweg_core::batch::{BatchHeader, HEADER_LEN, LOG_OVERHEAD};

/// Zeros are looked for in pieces of this many bytes.
const CHUNK: usize = 64 << 10;

/// A batch as it lies in the file. Its checksum is not checked here.
#[derive(Debug, Clone)]
pub struct BatchEntry {
    /// Where it begins in the file.
    pub position: u64,
    /// Its header.
    pub header: BatchHeader,
    /// All its bytes, header included.
    pub bytes: Bytes,
}

/// What lies at a position of a `.log`.
pub(super) enum Step {
    /// A batch, as far as its header says.
    Batch(u64, BatchHeader),
    /// The end of the walk, with what is wrong there.
    End(Option<(u64, FindingKind)>),
}

/// Goes from header to header. Reads 61 bytes a batch.
pub(super) struct HeaderWalk {
    file: Arc<dyn LogFile>,
    path: PathBuf,
    position: u64,
    end: u64,
}

impl HeaderWalk {
    pub fn open(storage: &dyn Storage, path: &Path) -> Result<Self, DumpError> {
        let file = storage.open(path, OpenMode::Read).map_err(DumpError::io(path))?;
        let end = file.len().map_err(DumpError::io(path))?;
        Ok(HeaderWalk { file, path: path.to_owned(), position: 0, end })
    }

    /// The bytes that are looked at: the file's length when it was opened.
    pub fn len(&self) -> u64 {
        self.end
    }

    pub fn base_offset(&self) -> Option<Offset> {
        base_offset_of(&self.path)
    }

    pub fn next(&mut self) -> Result<Step, DumpError> {
        let step = self.step(self.position).map_err(DumpError::io(&self.path))?;
        if let Step::Batch(position, header) = &step {
            self.position = position + header.size() as u64;
        }
        Ok(step)
    }

    fn step(&mut self, position: u64) -> io::Result<Step> {
        let step = self.look(position, self.end)?;
        if matches!(step, Step::End(Some((_, FindingKind::IncompleteTail { .. })))) {
            // A running server may have finished the batch since the length was asked. It is the last one then.
            let now = self.file.len()?;
            if let Step::Batch(position, header) = self.look(position, now.max(self.end))? {
                self.end = position + header.size() as u64;
                return Ok(Step::Batch(position, header));
            }
        }
        Ok(step)
    }

    /// What lies at `position` if the file ends at `end`.
    fn look(&self, position: u64, end: u64) -> io::Result<Step> {
        let left = end.saturating_sub(position);
        if left == 0 {
            return Ok(Step::End(None));
        }
        let end_with = |kind| Ok(Step::End(Some((position, kind))));
        let mut head = [0; HEADER_LEN];
        let there = left.min(HEADER_LEN as u64) as usize;
        self.file.read_exact_at(&mut head[..there], position)?;
        // A batch's length field is never zero, so zeros up to behind it are no batch. Fewer may be the front of one.
        let zeros = there >= LOG_OVERHEAD && head[..there].iter().all(|b| *b == 0);
        if zeros && self.only_zeros(position, end)? {
            return end_with(FindingKind::TrailingZeros { len: left });
        }
        if there < HEADER_LEN {
            return end_with(FindingKind::IncompleteTail { len: left });
        }
        match BatchHeader::parse(&head) {
            Err(reason) => end_with(FindingKind::Malformed { reason, len: left }),
            Ok(header) if header.size() as u64 > left => end_with(FindingKind::IncompleteTail { len: left }),
            Ok(header) => Ok(Step::Batch(position, header)),
        }
    }

    fn only_zeros(&self, from: u64, end: u64) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        let mut at = from;
        while at < end {
            let n = (end - at).min(CHUNK as u64) as usize;
            self.file.read_exact_at(&mut chunk[..n], at)?;
            if chunk[..n].iter().any(|b| *b != 0) {
                return Ok(false);
            }
            at += n as u64;
        }
        Ok(true)
    }

    /// Reads a whole batch that `next` found; the walk has checked that the file holds its length.
    pub fn read(&self, position: u64, header: &BatchHeader) -> Result<Bytes, DumpError> {
        let mut bytes = vec![0; header.size()];
        self.file.read_exact_at(&mut bytes, position).map_err(DumpError::io(&self.path))?;
        Ok(Bytes::from(bytes))
    }

    /// The batch at any position, if one that lies wholly in the file seems to begin there. Does not move the walk.
    pub fn batch_at(&mut self, position: u64) -> Result<Option<(BatchHeader, Bytes)>, DumpError> {
        if position >= self.end {
            return Ok(None);
        }
        let step = self.step(position).map_err(DumpError::io(&self.path))?;
        match step {
            Step::Batch(position, header) => Ok(Some((header, self.read(position, &header)?))),
            Step::End(_) => Ok(None),
        }
    }
}

/// The batches of a `.log` file, one after the other. Stops where no whole batch follows.
pub struct Batches {
    walk: HeaderWalk,
    done: bool,
}

impl std::fmt::Debug for Batches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Batches").field(&self.walk.path).finish()
    }
}

impl Batches {
    /// Opens a file; its name does not matter.
    pub fn open(storage: &dyn Storage, path: &Path) -> Result<Self, DumpError> {
        Ok(Batches { walk: HeaderWalk::open(storage, path)?, done: false })
    }
}

impl Iterator for Batches {
    type Item = Result<BatchEntry, DumpError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let next = match self.walk.next() {
            Ok(Step::End(_)) => None,
            Ok(Step::Batch(position, header)) => {
                let entry = |bytes| BatchEntry { position, header, bytes };
                Some(self.walk.read(position, &header).map(entry))
            }
            Err(err) => Some(Err(err)),
        };
        self.done = !matches!(next, Some(Ok(_)));
        next
    }
}
