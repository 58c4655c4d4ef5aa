//! What can go wrong with a log. Each error names the code that a caller of the API is told.

use crate::log::Fenced;
use crate::meta_properties::PropertiesError;
use crate::state_file::StateFileError;
use std::io;
use std::path::{Path, PathBuf};
use thalweg_core::batch::BatchError;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, TopicId, TopicPartition};

/// The disk, or what is left of it, refuses.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// A call failed. After this the log is as it was before.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// A checkpoint or snapshot could not be read or written.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
    /// An append failed, and what it left behind could not be cut away. Reads below it go on; appends are refused until
    /// the log is opened again.
    #[error("the log {partition} failed earlier and takes no appends until it is opened again")]
    LogFailed {
        /// The log.
        partition: TopicPartition,
    },
    /// An fsync of the data directory failed. What the kernel held is lost, so the directory is out until a restart.
    #[error("the data directory {} failed and takes no writes until a restart: {reason}", dir.display())]
    DirFailed {
        /// The data directory.
        dir: PathBuf,
        /// The first failure.
        reason: String,
    },
    /// The log was closed, as at shutdown.
    #[error("the log {partition} is closed")]
    Closed {
        /// The log.
        partition: TopicPartition,
    },
    /// The partition was deleted from this broker.
    #[error("the log {partition} was deleted")]
    Deleted {
        /// The log.
        partition: TopicPartition,
    },
}

impl StorageError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        StorageError::Io { action, path: path.to_owned(), source }
    }

    /// What a caller of the API is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            StorageError::Deleted { .. } => ErrorCode::UnknownPartition,
            StorageError::Closed { .. } => ErrorCode::ShuttingDown,
            _ => ErrorCode::StorageError,
        }
    }

    /// Whether the disk (or its quota) is full.
    pub fn is_full(&self) -> bool {
        matches!(self, StorageError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}

/// Why a batch was not appended. The log is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The batch contradicts what is known of its producer.
    #[error(transparent)]
    Producer(#[from] crate::producer_state::SequenceError),
    /// The batch does not fit into a segment.
    #[error("a batch of {size} bytes is larger than segment.bytes ({limit})")]
    LargerThanSegment {
        /// The batch's size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// A replicated batch does not continue the log.
    #[error("a batch at offset {found} does not continue the log, which ends at {expected}")]
    NotContinuous {
        /// The log's end.
        expected: Offset,
        /// The batch's base offset.
        found: Offset,
    },
    /// The caller led the partition in an earlier epoch.
    #[error("the leader epoch {found} is over, the log has records of epoch {current}")]
    StaleEpoch {
        /// The newest epoch in the log.
        current: LeaderEpoch,
        /// The caller's.
        found: LeaderEpoch,
    },
    /// A replicated batch is malformed, or its checksum does not match.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// A replicated batch is of an epoch that cannot follow: below the log's latest, or above the leader's own.
    #[error("a replicated batch is of epoch {found}, which is not between {latest} and {leader}")]
    EpochOutOfOrder {
        /// The latest epoch in the log.
        latest: LeaderEpoch,
        /// The leader's.
        leader: LeaderEpoch,
        /// The batch's.
        found: LeaderEpoch,
    },
    /// The log is written by someone else, or in another epoch.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// Offsets are used up: the log cannot grow beyond `i64::MAX`.
    #[error("the log has no offsets left")]
    OffsetsExhausted,
}

impl AppendError {
    /// What a caller of the API is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            AppendError::Storage(err) => err.code(),
            AppendError::Producer(err) => err.code(),
            AppendError::LargerThanSegment { .. } => ErrorCode::MessageTooLarge,
            AppendError::NotContinuous { .. } => ErrorCode::InvalidRequest,
            AppendError::StaleEpoch { .. } => ErrorCode::FencedLeaderEpoch,
            AppendError::Batch(err) => err.code(),
            AppendError::EpochOutOfOrder { .. } => ErrorCode::FencedLeaderEpoch,
            AppendError::Fenced(err) => err.code(),
            AppendError::OffsetsExhausted => ErrorCode::InvalidRequest,
        }
    }
}

/// Why a read, lookup or delete-records found nothing to answer with.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is outside the log.
    #[error("offset {requested} is outside the log, which holds {log_start} to {log_end}")]
    OffsetOutOfRange {
        /// The offset asked for.
        requested: Offset,
        /// The first offset there is.
        log_start: Offset,
        /// The end of what may be asked for, exclusive.
        log_end: Offset,
    },
    /// The log is written by someone else, or in another epoch.
    #[error(transparent)]
    Fenced(#[from] Fenced),
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The stored bytes are damaged.
    #[error("the log {partition} is damaged at byte {position} of the segment {segment}: {reason}")]
    Corrupt {
        /// The log.
        partition: TopicPartition,
        /// The segment's base offset.
        segment: Offset,
        /// Where in the segment's file.
        position: u64,
        /// What is wrong.
        reason: BatchError,
    },
}

impl ReadError {
    /// What a caller of the API is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            ReadError::OffsetOutOfRange { .. } => ErrorCode::OffsetOutOfRange,
            ReadError::Fenced(err) => err.code(),
            ReadError::Storage(err) => err.code(),
            ReadError::Corrupt { .. } => ErrorCode::StorageError,
        }
    }
}

/// Why a data directory, or a log in it, could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the data directory.
    #[error("the data directory {} is in use by another process", dir.display())]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// No data directory was named, or one twice.
    #[error("data directories must be named, each once")]
    NoDirs,
    /// `meta.properties` names another cluster or node, or a newer version.
    #[error("the data directory {} cannot be used: meta.properties: {source}", dir.display())]
    Foreign {
        /// The data directory.
        dir: PathBuf,
        /// What it says.
        #[source]
        source: PropertiesError,
    },
    /// One partition lies in two data directories.
    #[error("the partition {partition} lies both in {} and in {}", first.display(), second.display())]
    Twice {
        /// The partition.
        partition: TopicPartition,
        /// One folder.
        first: PathBuf,
        /// The other folder.
        second: PathBuf,
    },
    /// A folder holds the partition of an older topic of the same name.
    #[error("the folder of {partition} belongs to the topic id {found:?}, not to {wanted:?}")]
    OtherTopic {
        /// The partition.
        partition: TopicPartition,
        /// The topic id in the folder.
        found: Option<TopicId>,
        /// The topic id that was asked for.
        wanted: Option<TopicId>,
    },
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A closed segment is damaged where a scan needs it.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The manager is closed, as at shutdown.
    #[error("the logs are closed")]
    Closed,
    /// Every data directory failed.
    #[error("no data directory takes writes")]
    AllFailed,
}

impl OpenError {
    /// What a caller of the API is told.
    pub fn code(&self) -> ErrorCode {
        match self {
            OpenError::Read(err) => err.code(),
            OpenError::Storage(err) => err.code(),
            OpenError::Foreign { .. } => ErrorCode::InconsistentClusterId,
            OpenError::Closed => ErrorCode::ShuttingDown,
            _ => ErrorCode::StorageError,
        }
    }
}

impl From<StateFileError> for OpenError {
    fn from(err: StateFileError) -> Self {
        OpenError::Storage(err.into())
    }
}

impl From<StateFileError> for AppendError {
    fn from(err: StateFileError) -> Self {
        AppendError::Storage(err.into())
    }
}
