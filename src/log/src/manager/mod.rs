//! All logs of a broker, over all its data directories.

mod clean;
mod create;
mod delete;
mod dir;
mod housekeeping;
mod open;

use crate::committer::Committer;
use crate::config::LogConfig;
use crate::data_dir;
use crate::error::{OpenError, StorageError};
use crate::log::Log;
use crate::pool::Memory;
use crate::storage::Storage;
use crate::tail::DEFAULT_TAIL_BYTES;
use crate::uuid_text::DirectoryId;
use crate::volume::FlushObserver;
pub use create::NewLog;
use delete::Doomed;
use dir::DataDir;
use housekeeping::Rounds;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;
use thalweg_core::{BrokerEpoch, BrokerId, ClusterId, TopicPartition};

/// Free read buffers that are kept, in bytes.
pub const DEFAULT_FREE_BUFFER_BYTES: usize = 32 << 20;
/// `log.retention.check.interval.ms`: how often retention runs.
pub const DEFAULT_RETENTION_CHECK_MS: i64 = 300_000;
/// `log.flush.offset.checkpoint.interval.ms`: how often recovery points and log starts are written down.
pub const DEFAULT_CHECKPOINT_MS: i64 = 60_000;
/// `replica.high.watermark.checkpoint.interval.ms`: how often the high watermarks are written down.
pub const DEFAULT_HIGH_WATERMARK_CHECKPOINT_MS: i64 = 5_000;

/// Who runs the committers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CommitMode {
    /// A thread for each data directory.
    #[default]
    Threads,
    /// Nobody: a simulation calls [`LogManager::run_committers`].
    Manual,
}

/// What a manager is opened with.
#[derive(Clone)]
pub struct LogManagerConfig {
    /// `log.dirs`: the data directories; created if they are not there.
    pub dirs: Vec<PathBuf>,
    /// The cluster to which the directories must belong.
    pub cluster_id: ClusterId,
    /// The node to which they must belong.
    pub node_id: BrokerId,
    /// Who runs the committers.
    pub commit_mode: CommitMode,
    /// Free read buffers that are kept, in bytes. Default [`DEFAULT_FREE_BUFFER_BYTES`].
    pub free_buffer_bytes: usize,
    /// Batches that are kept in memory for followers until they have them, in bytes over all logs; 0 keeps none. Default
    /// [`DEFAULT_TAIL_BYTES`].
    pub tail_bytes: usize,
    /// Default [`DEFAULT_RETENTION_CHECK_MS`].
    pub retention_check_ms: i64,
    /// Default [`DEFAULT_CHECKPOINT_MS`].
    pub checkpoint_ms: i64,
    /// Default [`DEFAULT_HIGH_WATERMARK_CHECKPOINT_MS`].
    pub high_watermark_checkpoint_ms: i64,
    /// Makes the id of a directory that is used for the first time, and the suffix of a deleted folder. The default is
    /// random; a simulation gives its own.
    pub new_id: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
}

impl LogManagerConfig {
    /// The defaults.
    pub fn new(dirs: Vec<PathBuf>, cluster_id: ClusterId, node_id: BrokerId) -> Self {
        LogManagerConfig {
            dirs,
            cluster_id,
            node_id,
            commit_mode: CommitMode::Threads,
            free_buffer_bytes: DEFAULT_FREE_BUFFER_BYTES,
            tail_bytes: DEFAULT_TAIL_BYTES,
            retention_check_ms: DEFAULT_RETENTION_CHECK_MS,
            checkpoint_ms: DEFAULT_CHECKPOINT_MS,
            high_watermark_checkpoint_ms: DEFAULT_HIGH_WATERMARK_CHECKPOINT_MS,
            new_id: Arc::new(random_id),
        }
    }
}

impl fmt::Debug for LogManagerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LogManagerConfig { dirs, cluster_id, node_id, commit_mode, .. } = self;
        let mut out = f.debug_struct("LogManagerConfig");
        out.field("dirs", dirs).field("cluster_id", cluster_id).field("node_id", node_id);
        out.field("commit_mode", commit_mode).finish_non_exhaustive()
    }
}

/// A random (version 4) UUID. The standard library seeds its hashers from the system's randomness.
fn random_id() -> [u8; 16] {
    let half = || RandomState::new().hash_one(std::process::id()).to_be_bytes();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&half());
    id[8..].copy_from_slice(&half());
    id[6] = id[6] & 0x0f | 0x40;
    id[8] = id[8] & 0x3f | 0x80;
    id
}

/// How a data directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirState {
    /// Where it is.
    pub path: PathBuf,
    /// Its id.
    pub id: DirectoryId,
    /// Why it takes no more writes, if so.
    pub failed: Option<String>,
    /// The number of its logs.
    pub logs: usize,
    /// Bytes of batches in its logs.
    pub log_bytes: u64,
    /// Bytes that may still be written; `None` if the file system does not say.
    pub available_bytes: Option<u64>,
    /// Bytes that the file system holds in all; `None` if it does not say.
    pub capacity_bytes: Option<u64>,
    /// Logs that wait for a sync.
    pub waiting_for_sync: usize,
    /// How long it took to open the logs at the start, recovery included.
    pub opened_in: Duration,
    /// Logs that had to be scanned then.
    pub recovered_logs: usize,
}

/// The logs of a broker. Holds the data directories' locks until it is dropped.
pub struct LogManager {
    config: LogManagerConfig,
    storage: Arc<dyn Storage>,
    memory: Arc<Memory>,
    logs: RwLock<BTreeMap<TopicPartition, Arc<Log>>>,
    /// Creations and deletions run one at a time.
    changes: Mutex<()>,
    doomed: Mutex<Vec<Doomed>>,
    /// The logs whose deletion failed and is to be tried again.
    undeleted: Mutex<BTreeSet<TopicPartition>>,
    rounds: Mutex<Rounds>,
    closed: AtomicBool,
    /// Before the directories: they stop before the locks are given free.
    committers: Vec<Committer>,
    dirs: Vec<DataDir>,
}

impl fmt::Debug for LogManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("LogManager");
        out.field("dirs", &self.config.dirs).field("logs", &self.map().len()).finish_non_exhaustive()
    }
}

impl LogManager {
    /// A partition's log, if it is here.
    pub fn get(&self, partition: &TopicPartition) -> Option<Arc<Log>> {
        self.map().get(partition).cloned()
    }

    /// All logs, by topic and partition.
    pub fn logs(&self) -> Vec<Arc<Log>> {
        self.map().values().cloned().collect()
    }

    /// How the data directories are.
    pub fn dir_states(&self) -> Vec<DirState> {
        self.dirs.iter().map(|dir| dir.state(&*self.storage)).collect()
    }

    /// Tells `observer_of(directory)` of every sync of a log in that directory from now on. The first call counts.
    pub fn on_flush(&self, observer_of: impl Fn(&Path) -> FlushObserver) {
        self.dirs.iter().for_each(|dir| dir.volume.observe(observer_of(dir.path())));
    }

    /// The epoch of the registration under which every directory was last closed cleanly; `None` if one was not, or is new.
    pub fn clean_shutdown_epoch(&self) -> Option<BrokerEpoch> {
        let mut epochs = self.dirs.iter().map(|dir| dir.clean_epoch);
        let first = epochs.next().flatten()?;
        epochs.all(|epoch| epoch == Some(first)).then_some(first)
    }

    /// The first data directory that failed, and why; `None` if all are in use.
    pub fn failed_dir(&self) -> Option<(PathBuf, String)> {
        let failed = |dir: &DataDir| Some((dir.path().to_owned(), dir.volume.failure()?.to_owned()));
        self.dirs.iter().find_map(failed)
    }

    /// Whether records that were known to be stable are gone (a damaged disk, catalogue 11), and [`LogManager::damage_told`] was
    /// not called since. Survives restarts.
    pub fn is_damaged(&self) -> bool {
        self.dirs.iter().any(|dir| dir.damaged.load(Ordering::Acquire))
    }

    /// The cluster knows of the damage: it counts on this broker only for what it copies from now on.
    pub fn damage_told(&self) {
        for dir in self.dirs.iter().filter(|dir| dir.damaged.load(Ordering::Acquire)) {
            match data_dir::forget_damage(&*self.storage, dir.path()) {
                Ok(()) => dir.damaged.store(false, Ordering::Release),
                Err(err) => {
                    tracing::warn!(dir = %dir.path().display(), error = %err, "the note of a damage is still there");
                }
            }
        }
    }

    /// Calls `bell` when a data directory fails, at once if one did. It must return at once.
    pub fn on_dir_failure(&self, bell: Arc<dyn Fn() + Send + Sync>) {
        self.dirs.iter().for_each(|dir| dir.volume.on_failure(&bell));
    }

    /// Calls `bell` whenever a log asks for a sync and none did before, with [`CommitMode::Manual`]. It must return at once; the
    /// first one counts.
    pub fn on_sync_request(&self, bell: Arc<dyn Fn() + Send + Sync>) {
        self.committers.iter().for_each(|committer| committer.ring(Arc::clone(&bell)));
    }

    /// Syncs what is queued, with [`CommitMode::Manual`]. Returns the number of logs.
    pub fn run_committers(&self) -> usize {
        self.committers.iter().map(Committer::run_once).sum()
    }

    /// Replaces the configuration of every log of a topic.
    pub fn update_config(&self, topic: &str, config: &LogConfig) {
        for log in self.logs() {
            if log.topic_partition().topic.as_str() == topic {
                log.update_config(config.clone());
            }
        }
    }

    /// Flushes all logs, gives reserved space back, writes snapshots and checkpoints, and, where all that went well, the
    /// marker of a clean stop. Afterwards appends are refused; reads go on. `broker_epoch` is noted in the marker.
    ///
    /// The first error is returned, but every log is tried: a directory that could not be closed is recovered at the next
    /// start.
    pub fn close(&self, broker_epoch: Option<BrokerEpoch>) -> Result<(), StorageError> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let mut first_error = None;
        for dir in &self.dirs {
            if let Err(err) = dir.close(&*self.storage, broker_epoch) {
                tracing::error!(dir = %dir.path().display(), error = %err, "data directory not closed cleanly");
                first_error.get_or_insert(err);
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    fn check_open(&self) -> Result<(), OpenError> {
        if self.closed.load(Ordering::Acquire) { Err(OpenError::Closed) } else { Ok(()) }
    }

    fn map(&self) -> std::sync::RwLockReadGuard<'_, BTreeMap<TopicPartition, Arc<Log>>> {
        self.logs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn map_mut(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<TopicPartition, Arc<Log>>> {
        self.logs.write().unwrap_or_else(PoisonError::into_inner)
    }
}
