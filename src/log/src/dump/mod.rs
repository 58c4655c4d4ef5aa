//! Looks into a log's files without a server: typed entries to print, and findings of what is wrong.
//!
//! Files are only read, in bounded pieces, and may be written meanwhile: how long a file is, is asked once, and what is
//! appended later is not looked at. A batch that a running server has written only in part is the finding
//! [`FindingKind::IncompleteTail`], which is less than damage ([`Severity::Torn`]).
//!
//! | file | entries | checked |
//! |---|---|---|
//! | `.log` | batches | header, CRC, records, offsets and epochs that rise, no gap but where the partition was compacted, nothing below the file's name, nothing behind |
//! | `.index` | offset, position | both rise; a whole, sound batch that ends at the offset begins at the position |
//! | `.timeindex` | timestamp, offset | both rise; the batch of the offset reached the timestamp first |
//! | `.snapshot` | producers | checksum, length |
//! | `leader-epoch-checkpoint` | epochs | form, both rise |
//! | the other `-checkpoint` files | partitions, offsets | form |

mod finding;
mod index;
mod segment;
#[cfg(test)]
mod tests;
mod verify;

pub use finding::{Finding, FindingKind, MAX_FINDINGS, Report, Severity};
pub use segment::{BatchEntry, Batches};
pub use verify::verify;

use crate::checkpoint::{self, PartitionOffset};
use crate::leader_epoch::EpochStart;
use crate::producer_state::{SnapshotEntry, decode_snapshot};
use crate::state_file::{self, StateFileError};
use crate::storage::Storage;
use index::IndexEntries;
use std::io;
use std::path::{Path, PathBuf};
use thalweg_core::{ErrorCode, Offset, Timestamp};

/// What a file holds, told by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `<20 digits>.log`.
    Log,
    /// `<20 digits>.index`.
    OffsetIndex,
    /// `<20 digits>.timeindex`.
    TimeIndex,
    /// `<20 digits>.snapshot`.
    ProducerSnapshot,
    /// `leader-epoch-checkpoint`.
    LeaderEpochs,
    /// `recovery-point-offset-checkpoint` and its like.
    OffsetCheckpoint,
}

/// The names of offset checkpoints end so.
const OFFSET_CHECKPOINT_SUFFIX: &str = "-offset-checkpoint";
/// The digits in a segment file's name.
const NAME_DIGITS: usize = 20;

impl FileKind {
    /// The kind of the file at `path`; `None` if the name says nothing.
    pub fn of(path: &Path) -> Option<FileKind> {
        let name = path.file_name()?.to_str()?;
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("log") => Some(FileKind::Log),
            Some("index") => Some(FileKind::OffsetIndex),
            Some("timeindex") => Some(FileKind::TimeIndex),
            Some("snapshot") => Some(FileKind::ProducerSnapshot),
            _ if name == crate::leader_epoch::LEADER_EPOCH_CHECKPOINT => Some(FileKind::LeaderEpochs),
            _ if name.ends_with(OFFSET_CHECKPOINT_SUFFIX) => Some(FileKind::OffsetCheckpoint),
            _ => None,
        }
    }
}

/// The base offset in a segment file's name; `None` if it is not 20 digits.
pub fn base_offset_of(path: &Path) -> Option<Offset> {
    let stem = path.file_stem()?.to_str()?;
    let all_digits = stem.len() == NAME_DIGITS && stem.bytes().all(|b| b.is_ascii_digit());
    all_digits.then(|| stem.parse().ok().map(Offset)).flatten()
}

/// Why a file cannot be looked into at all, as opposed to what is found in it.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file system refused.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The name is none of a log's files.
    #[error(
        "{} is none of a log's files; expected .log, .index, .timeindex, .snapshot or a checkpoint",
        .0.display()
    )]
    UnknownKind(PathBuf),
    /// An index's entries count from the offset in its name, which is not 20 digits.
    #[error("the name of {} must be 20 digits, the segment's base offset", .0.display())]
    NoBaseOffset(PathBuf),
    /// A checkpoint or snapshot is damaged, so that none of its entries can be shown.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
}

impl DumpError {
    fn io(path: &Path) -> impl Fn(io::Error) -> DumpError + '_ {
        |source| DumpError::Io { path: path.to_owned(), source }
    }

    /// The code for a tool's exit.
    pub fn code(&self) -> ErrorCode {
        match self {
            DumpError::Io { .. } | DumpError::StateFile(_) => ErrorCode::StorageError,
            DumpError::UnknownKind(_) | DumpError::NoBaseOffset(_) => ErrorCode::InvalidRequest,
        }
    }
}

/// One entry of a file.
#[derive(Debug, Clone)]
pub enum Entry {
    /// Of a `.log`.
    Batch(BatchEntry),
    /// Of an `.index`: the batch that ends at `offset` begins at `position`.
    Position {
        /// The batch's last offset.
        offset: Offset,
        /// Where it begins in the `.log`, in bytes.
        position: u64,
    },
    /// Of a `.timeindex`: no record up to `offset` is younger than `timestamp`.
    Time {
        /// The largest timestamp so far.
        timestamp: Timestamp,
        /// The offset that reached it.
        offset: Offset,
    },
    /// Of a `.snapshot`.
    Producer(SnapshotEntry),
    /// Of a `leader-epoch-checkpoint`.
    Epoch(EpochStart),
    /// Of an offset checkpoint.
    Partition(PartitionOffset),
}

/// The entries of a file, in its order. Stops at the first that cannot be read; [`verify`] says why.
pub enum Entries {
    /// Of a `.log`.
    Batches(Batches),
    /// Of an index.
    Index(IndexEntries),
    /// Of a small file, read whole.
    Small(std::vec::IntoIter<Entry>),
}

impl std::fmt::Debug for Entries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Entries")
    }
}

/// Opens a file to print its entries.
pub fn open(storage: &dyn Storage, path: &Path) -> Result<Entries, DumpError> {
    match FileKind::of(path).ok_or_else(|| DumpError::UnknownKind(path.to_owned()))? {
        FileKind::Log => Ok(Entries::Batches(Batches::open(storage, path)?)),
        kind @ (FileKind::OffsetIndex | FileKind::TimeIndex) => {
            Ok(Entries::Index(IndexEntries::open(storage, path, kind)?))
        }
        kind => Ok(Entries::Small(small_entries(storage, path, kind)?.into_iter())),
    }
}

fn small_entries(storage: &dyn Storage, path: &Path, kind: FileKind) -> Result<Vec<Entry>, DumpError> {
    let bytes = state_file::read(storage, path)?
        .ok_or_else(|| DumpError::io(path)(io::ErrorKind::NotFound.into()))?;
    match kind {
        FileKind::ProducerSnapshot => {
            let entries = decode_snapshot(&bytes).map_err(|err| StateFileError::new(path, err))?;
            Ok(entries.into_iter().map(Entry::Producer).collect())
        }
        FileKind::LeaderEpochs => {
            Ok(checkpoint_entries(path, &bytes)?.into_iter().map(Entry::Epoch).collect())
        }
        _ => Ok(checkpoint_entries(path, &bytes)?.into_iter().map(Entry::Partition).collect()),
    }
}

fn checkpoint_entries<E: checkpoint::CheckpointEntry>(
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<E>, DumpError> {
    Ok(checkpoint::decode(bytes).map_err(|err| StateFileError::new(path, err))?)
}

impl Iterator for Entries {
    type Item = Result<Entry, DumpError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Entries::Batches(batches) => Some(batches.next()?.map(Entry::Batch)),
            Entries::Index(index) => Some(index.next()?.map(|entry| entry.shown)),
            Entries::Small(entries) => entries.next().map(Ok),
        }
    }
}
