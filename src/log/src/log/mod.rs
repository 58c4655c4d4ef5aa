//! One partition's log.
//!
//! Appends are serialised by one lock, which covers nothing but the append itself and rolls. Reads take no lock during
//! I/O: they bound themselves by offsets that are published after the bytes they stand for are written.
//!
//! ```text
//!  log start          high watermark      flushed         log end
//!      ├──── readable ──────┤                │               │
//!      ├──────────── stable on this disk ────┤               │
//!      [ segment ][ segment ][ active segment               ]──► append
//! ```

mod append;
mod clean;
mod fence;
mod flush;
mod lookup;
mod open;
mod pieces;
mod producers;
mod read;
mod read_tail;
mod recover;
mod retention;
mod roll;
mod truncate;

pub use append::Appended;
pub(crate) use clean::Cleanable;
pub use fence::{Fenced, LogMode, LogPosition};
pub(crate) use open::OpenLog;
pub use open::RecoveryReport;
pub use read::{LogRead, MAX_READ_BYTES, ReadBound};
pub use read_tail::{TailRead, TailReader};

use crate::committer::FlushListener;
use crate::config::LogConfig;
use crate::error::StorageError;
use crate::leader_epoch::LeaderEpochFile;
use crate::pool::Memory;
use crate::producer_state::ProducerStates;
use crate::segment::{Home, Segment};
use crate::tail::Tail;
use crate::volume::Volume;
use fence::Fence;
use read::Hints;
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use thalweg_core::{LeaderEpoch, Offset, Timestamp, TopicId, TopicPartition};

/// Oldest first, never empty; the last one is the active segment.
pub(crate) type Segments = Arc<Vec<Arc<Segment>>>;

/// One partition's log. All methods may be called from any thread; those that touch files block.
pub struct Log {
    me: Weak<Log>,
    home: Home,
    topic_id: OnceLock<TopicId>,
    volume: Arc<Volume>,
    memory: Arc<Memory>,
    config: RwLock<Arc<LogConfig>>,
    segments: RwLock<Segments>,
    appender: Mutex<Appender>,
    /// Retention, delete-records and close run one at a time.
    maintenance: Mutex<()>,
    /// Segments that are out of the log and whose files are still to be removed, oldest first.
    doomed: Mutex<VecDeque<Arc<Segment>>>,
    /// What was just appended, for followers. Cleared under the append lock whenever what was written changes.
    tail: Tail,
    /// Syncs run one at a time: a second one must not report bytes that the first is still busy with.
    flushing: Mutex<()>,
    log_start: AtomicI64,
    log_end: AtomicI64,
    flushed: AtomicI64,
    high_watermark: AtomicI64,
    /// Where the first epoch starts that is not in its file; `i64::MAX` if all are.
    epochs_unwritten: AtomicI64,
    /// Odd while the log is being truncated, or compacted segments take their place. A read that sees it change is repeated.
    generation: AtomicU64,
    /// Below this the log is compacted; [`clean::NEVER_CLEANED`] if it never was.
    cleaned: AtomicI64,
    /// Whether a cleaning is under way. One at a time.
    cleaning: AtomicBool,
    /// Whether compaction failed for a reason that will not go away.
    uncleanable: AtomicBool,
    /// Whether the policy had `compact` since the log was opened.
    was_compacted: AtomicBool,
    hints: Mutex<Hints>,
    queued: AtomicBool,
    /// A [`Life`].
    life: AtomicU8,
    listener: RwLock<Option<Weak<dyn FlushListener>>>,
    report: RecoveryReport,
}

/// What only one append at a time may touch.
struct Appender {
    active: Arc<Segment>,
    epochs: LeaderEpochFile,
    /// As what the log may be written; anything goes before the first [`Log::begin_epoch`].
    fence: Option<Fence>,
    producers: ProducerStates,
    /// Closed segments that no sync covered yet, oldest first.
    unsynced: Vec<Arc<Segment>>,
    /// Records since the last sync began.
    since_flush: u64,
    /// When the oldest unsynced record was appended.
    dirty_since: Option<Timestamp>,
    /// Whether anything was appended since the last housekeeping.
    busy: bool,
    /// Since when the active segment takes appends, by the clock.
    active_since: Timestamp,
    /// The latest time that a caller named.
    now: Timestamp,
}

/// The stages of a log's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Life {
    Open = 0,
    /// A failed append could not be cut away.
    Failed = 1,
    Closed = 2,
    Deleted = 3,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("partition", self.topic_partition())
            .field("start", &self.log_start_offset())
            .field("high_watermark", &self.high_watermark())
            .field("flushed", &self.flushed_offset())
            .field("end", &self.log_end_offset())
            .finish_non_exhaustive()
    }
}

impl Log {
    /// The partition.
    pub fn topic_partition(&self) -> &TopicPartition {
        &self.home.partition
    }

    /// The id of the topic, if the folder names one.
    pub fn topic_id(&self) -> Option<TopicId> {
        self.topic_id.get().copied()
    }

    /// Gives an id to a log whose folder names none.
    pub(crate) fn adopt_topic_id(&self, id: TopicId) {
        let _ = self.topic_id.set(id);
    }

    /// The partition's folder.
    pub fn dir(&self) -> PathBuf {
        self.home.dir.to_path_buf()
    }

    /// The data directory that holds the folder.
    pub fn data_dir(&self) -> PathBuf {
        self.volume.path.clone()
    }

    /// The first offset that can be read.
    pub fn log_start_offset(&self) -> Offset {
        Offset(self.log_start.load(Ordering::Acquire))
    }

    /// The offset that the next record gets (LEO).
    pub fn log_end_offset(&self) -> Offset {
        Offset(self.log_end.load(Ordering::Acquire))
    }

    /// Everything below is stable on this disk.
    pub fn flushed_offset(&self) -> Offset {
        Offset(self.flushed.load(Ordering::Acquire))
    }

    /// Everything below is committed, as far as this replica knows.
    pub fn high_watermark(&self) -> Offset {
        Offset(self.high_watermark.load(Ordering::Acquire))
    }

    /// Everything below belongs to no open transaction. The high watermark, until there are transactions.
    pub fn last_stable_offset(&self) -> Offset {
        self.high_watermark()
    }

    /// Raises the high watermark. It never falls, and never passes the log's end.
    pub fn set_high_watermark(&self, to: Offset) {
        let to = to.min(self.log_end_offset());
        self.high_watermark.fetch_max(to.get(), Ordering::AcqRel);
        // A truncation beside this lowers the end first and the high watermark then: one of the two sees the other.
        self.high_watermark.fetch_min(self.log_end.load(Ordering::Acquire), Ordering::AcqRel);
    }

    /// The configuration.
    pub fn config(&self) -> Arc<LogConfig> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the configuration; it holds from the next append or housekeeping on. `index.interval.bytes` holds from
    /// the next segment on.
    pub fn update_config(&self, config: LogConfig) {
        self.was_compacted.fetch_or(config.cleanup_compact, Ordering::AcqRel);
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Bytes of batches in all segments.
    pub fn size_bytes(&self) -> u64 {
        self.segments().iter().map(|segment| segment.size()).sum()
    }

    /// The number of segments, at least 1.
    pub fn segment_count(&self) -> usize {
        self.segments().len()
    }

    /// What was found and mended when the log was opened.
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.report
    }

    /// The latest leader epoch that wrote here.
    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.appender().epochs.epochs().latest().map(|latest| latest.epoch)
    }

    /// Where the largest epoch not above `epoch` ends, and that epoch. `None` if nothing is known of it.
    pub fn epoch_end_offset(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let appender = self.appender();
        appender.epochs.epochs().end_offset_for(epoch, self.log_end_offset())
    }

    /// Whether appends are refused until the log is opened again.
    pub fn log_is_failed(&self) -> bool {
        self.life() == Life::Failed || self.volume.failure().is_some()
    }

    fn life(&self) -> Life {
        match self.life.load(Ordering::Acquire) {
            0 => Life::Open,
            1 => Life::Failed,
            2 => Life::Closed,
            _ => Life::Deleted,
        }
    }

    fn set_life(&self, life: Life) {
        // Later stages are not left again.
        self.life.fetch_max(life as u8, Ordering::AcqRel);
    }

    /// Refuses if nothing may be written any more.
    fn check_writable(&self) -> Result<(), StorageError> {
        let partition = || self.topic_partition().clone();
        match self.life() {
            Life::Open => self.volume.check(),
            Life::Failed => Err(StorageError::LogFailed { partition: partition() }),
            Life::Closed => Err(StorageError::Closed { partition: partition() }),
            Life::Deleted => Err(StorageError::Deleted { partition: partition() }),
        }
    }

    fn appender(&self) -> MutexGuard<'_, Appender> {
        // A panic inside an append leaves at most bytes behind the published size, which the next append overwrites.
        self.appender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments(&self) -> Segments {
        Arc::clone(&self.segments.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_segments(&self, segments: Vec<Arc<Segment>>) {
        *self.segments.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(segments);
    }
}
