//! What a look into a file can find.

use crate::checkpoint::CheckpointError;
use crate::producer_state::SnapshotError;
use std::fmt;
use thalweg_core::batch::BatchError;
use thalweg_core::{LeaderEpoch, Offset, Timestamp};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Legal in some logs, or not checkable.
    Note,
    /// A tail that the next start cuts off: left by a crash, or a running server is just writing it.
    Torn,
    /// The file is damaged. An index can be rebuilt; records cannot.
    Damage,
}

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    /// The byte in the file.
    pub position: u64,
    /// What it is.
    pub kind: FindingKind,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FindingKind {
    /// The file ends within a batch: a crash tore it, or a running server is just writing it.
    #[error("the file ends inside a batch: {len} bytes of it are there")]
    IncompleteTail {
        /// The bytes from the batch's begin to the file's end.
        len: u64,
    },
    /// Only zero bytes up to the file's end.
    #[error("{len} zero bytes follow the last entry")]
    TrailingZeros {
        /// How many.
        len: u64,
    },
    /// Bytes that are no whole entry up to the file's end.
    #[error("{len} bytes follow that are no entry")]
    TrailingBytes {
        /// How many.
        len: u64,
    },
    /// A batch's header makes no sense; nothing behind it can be found.
    #[error("no batch begins here ({reason}); the {len} bytes from here on cannot be read")]
    Malformed {
        /// What is wrong with it.
        reason: BatchError,
        /// The bytes from here to the file's end.
        len: u64,
    },
    /// A batch's bytes do not give its checksum.
    #[error("the batch at offset {offset} is damaged: {reason}")]
    BadBatch {
        /// The batch's base offset.
        offset: Offset,
        /// What is wrong with it.
        reason: BatchError,
    },
    /// The checksum is good, but the records are not as the header says.
    #[error("the records of the batch at offset {offset} are malformed: {reason}")]
    BadRecords {
        /// The batch's base offset.
        offset: Offset,
        /// What is wrong with them.
        reason: BatchError,
    },
    /// The records' number or offsets are not as the header says.
    #[error("the batch at offset {offset} announces {announced} records and has {found}")]
    RecordCount {
        /// The batch's base offset.
        offset: Offset,
        /// The count in the header.
        announced: i32,
        /// The records found in order.
        found: i64,
    },
    /// The header's largest timestamp is not the records'.
    #[error("the batch at offset {offset} has the largest timestamp {announced}, its records {found}")]
    MaxTimestamp {
        /// The batch's base offset.
        offset: Offset,
        /// The timestamp in the header.
        announced: Timestamp,
        /// The records' largest.
        found: Timestamp,
    },
    /// A batch begins before the one in front of it ended.
    #[error("the batch at offset {found} begins below {expected}, where the one before ends")]
    OffsetOverlap {
        /// The end of the batch before.
        expected: Offset,
        /// The batch's base offset.
        found: Offset,
    },
    /// Offsets are missing, as only compaction may leave it, and this log was not compacted so far (a follower copies its
    /// leader's gaps).
    #[error("offsets {expected} to {found} are missing (legal only in a compacted log)")]
    OffsetGap {
        /// The end of the batch before.
        expected: Offset,
        /// The batch's base offset.
        found: Offset,
    },
    /// A batch's offset is below the one in the file's name.
    #[error("the batch at offset {found} is below {base}, the offset in the file's name")]
    BelowFileName {
        /// The offset in the name.
        base: Offset,
        /// The batch's base offset.
        found: Offset,
    },
    /// The file's name is not 20 digits.
    #[error("the file's name is not 20 digits, so offsets cannot be checked against it")]
    NoBaseOffset,
    /// A batch's leader epoch is lower than that of the one before.
    #[error("the batch at offset {offset} has leader epoch {found} after {before}")]
    EpochFell {
        /// The batch's base offset.
        offset: Offset,
        /// The epoch before.
        before: LeaderEpoch,
        /// Its epoch.
        found: LeaderEpoch,
    },
    /// An entry does not lie above the one before.
    #[error("the entry does not lie above the one before it")]
    NotRising,
    /// There is no `.log` file to check the index against.
    #[error("there is no .log file beside it to check it against")]
    NoLog,
    /// No sound batch begins at an index entry's position.
    #[error("the entry for offset {offset} points to byte {target}, where no sound batch begins")]
    PointsNowhere {
        /// The entry's offset.
        offset: Offset,
        /// The entry's position in the `.log`.
        target: u64,
    },
    /// The batch at an index entry's position does not end at its offset.
    #[error("the entry for offset {offset} points to the batch that ends at {found}")]
    PointsElsewhere {
        /// The entry's offset.
        offset: Offset,
        /// The last offset of the batch at its position.
        found: Offset,
    },
    /// No batch of the segment holds a time index entry's offset.
    #[error("the entry for offset {offset} names no batch of this segment")]
    NoSuchOffset {
        /// The entry's offset.
        offset: Offset,
    },
    /// A time index entry's timestamp is not that of its batch.
    #[error("the entry for offset {offset} has timestamp {stored}, its batch {found}")]
    TimestampDiffers {
        /// The entry's offset.
        offset: Offset,
        /// The entry's timestamp.
        stored: Timestamp,
        /// The batch's largest timestamp.
        found: Timestamp,
    },
    /// A batch before a time index entry's offset is younger than it says.
    #[error("the entry for offset {offset} has timestamp {stored}, but {found} came before")]
    YoungerBefore {
        /// The entry's offset.
        offset: Offset,
        /// The entry's timestamp.
        stored: Timestamp,
        /// The largest timestamp before.
        found: Timestamp,
    },
    /// A checkpoint is malformed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A producer snapshot is damaged.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A state file is larger than any may be.
    #[error("the file has {0} bytes, more than any state file of this version")]
    TooLarge(u64),
}

impl FindingKind {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            FindingKind::OffsetGap { .. } | FindingKind::NoBaseOffset | FindingKind::NoLog => Severity::Note,
            FindingKind::IncompleteTail { .. } => Severity::Torn,
            _ => Severity::Damage,
        }
    }
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        self.kind.severity()
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.position, self.kind)
    }
}

/// Most findings that a report keeps.
pub const MAX_FINDINGS: usize = 10_000;

/// What was found in a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The entries that were read.
    pub entries: u64,
    /// The records in them, for a `.log`.
    pub records: u64,
    /// The bytes of the file that were looked at.
    pub bytes: u64,
    /// What is wrong, in the file's order; the first [`MAX_FINDINGS`].
    pub findings: Vec<Finding>,
    /// Further findings that were only counted.
    pub more_findings: u64,
}

impl Report {
    pub(super) fn add(&mut self, position: u64, kind: impl Into<FindingKind>) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { position, kind: kind.into() });
        } else {
            self.more_findings += 1;
        }
    }

    /// Whether nothing at all was found.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// The worst finding.
    pub fn severity(&self) -> Option<Severity> {
        self.findings.iter().map(Finding::severity).max()
    }
}
