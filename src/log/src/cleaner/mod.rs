//! Compaction: of each key only the last record stays.
//!
//! A job cleans one log, in steps that a caller may pause between:
//!
//! ```text
//!    0          first dirty            end        high watermark
//!    [ cleaned before ][  dirty       ][  not yet      ][ active ]
//!                      └─ 1. map: key ─► last offset
//!    └─ 2. rewrite ───────────────────┘  group by group, oldest first: a record goes if the map has a later one of its key
//!    └─ 3. the new end of what is cleaned is noted
//! ```
//!
//! What holds, as in Kafka: offsets never change; nothing above the high watermark or the last stable offset is touched, nor the
//! active segment; a tombstone stays for `delete.retention.ms` after its first cleaning (its batch notes until when, KIP-534) and
//! goes with a cleaning after that; the last batch of each producer stays, if need be without records, so that its sequence
//! is known to whoever copies the log.
//!
//! Where Thalweg differs from Kafka: records without a key, as a topic has that was not compacted before, stay (Kafka drops
//! them); and the last batch of each written segment stays, without records if need be, so that a segment always ends where the
//! next one begins.

mod job;
mod map;
mod pace;
mod rewrite;

pub use job::{CleanJob, CleanStats, CleanStep};
pub use pace::{Pace, Syncs};

use crate::error::{ReadError, StorageError};

/// `log.cleaner.dedupe.buffer.size`: memory for the maps of all cleaners together, in bytes.
pub const DEFAULT_DEDUPE_BUFFER_BYTES: usize = 128 << 20;

/// The least memory that a cleaner's map is given, in bytes.
pub const MIN_DEDUPE_BUFFER_BYTES: usize = 1 << 20;

/// The most that one stored batch may inflate to, in bytes. The leader checked a tighter limit before it stored the batch.
const MAX_INFLATED_BYTES: usize = 256 << 20;

/// Why a cleaning ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CleanError {
    /// The log was truncated, closed or deleted, or retention took what was being cleaned. The next round begins anew.
    #[error("the log changed meanwhile")]
    Interrupted,
    /// What was written is larger than a segment can be.
    #[error("a compacted segment would be larger than any may be")]
    TooLarge,
    /// The new segment might not fit on the disk beside the old ones, and appends need the room more.
    #[error("the disk has room for {available} bytes, and compaction may need {needed}")]
    NoRoom {
        /// The most that is to be written before anything is removed.
        needed: u64,
        /// What the disk has left.
        available: u64,
    },
    /// A bug.
    #[error("compaction panicked")]
    Panicked,
    /// A segment is damaged, or could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The disk refused.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl CleanError {
    /// Whether the next try may succeed.
    fn may_pass(&self) -> bool {
        match self {
            CleanError::Interrupted | CleanError::NoRoom { .. } => true,
            CleanError::Storage(err) | CleanError::Read(ReadError::Storage(err)) => {
                err.is_full() || !matches!(err, StorageError::Io { .. })
            }
            CleanError::TooLarge | CleanError::Panicked | CleanError::Read(_) => false,
        }
    }
}
