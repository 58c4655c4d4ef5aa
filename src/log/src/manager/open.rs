//! Opening the data directories, and creating logs in them.

use super::dir::DataDir;
use super::{CommitMode, LogManager, LogManagerConfig, delete};
use crate::checkpoint::{
    CLEANER_CHECKPOINT, HIGH_WATERMARK_CHECKPOINT, LOG_START_CHECKPOINT, RECOVERY_POINT_CHECKPOINT,
};
use crate::committer::Committer;
use crate::config::LogConfig;
use crate::error::{OpenError, StorageError};
use crate::log::{Log, OpenLog};
use crate::partition_metadata;
use crate::pool::{BufferPool, Memory};
use crate::segment::{Home, LOG_EXTENSION};
use crate::storage::{OpenMode, Storage};
use crate::tail::TailBudget;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;
use thalweg_core::{Offset, Timestamp, TopicId, TopicPartition};

impl LogManager {
    /// Locks and checks the data directories and opens every log in them; those of a directory that was not closed cleanly
    /// are recovered. Blocks as long as that takes. `config_for` is asked once for each partition found.
    pub fn open(
        storage: Arc<dyn Storage>,
        config: LogManagerConfig,
        now: Timestamp,
        config_for: &(dyn Fn(&TopicPartition) -> LogConfig + Sync),
    ) -> Result<LogManager, OpenError> {
        let distinct: BTreeSet<_> = config.dirs.iter().collect();
        if config.dirs.is_empty() || distinct.len() < config.dirs.len() {
            return Err(OpenError::NoDirs);
        }
        let mut dirs = Vec::new();
        for path in &config.dirs {
            dirs.push(DataDir::open(&storage, path, &config)?);
        }
        let pool = BufferPool::new(config.free_buffer_bytes);
        let memory = Arc::new(Memory { pool, tails: TailBudget::new(config.tail_bytes) });
        let mut logs = BTreeMap::new();
        for dir in &dirs {
            // Only told, never decided by.
            let begun = Instant::now();
            open_logs(&storage, dir, &memory, now, config_for, openers(config.commit_mode), &mut logs)?;
            dir.note_damage(&*storage)?;
            dir.note_opened(begun.elapsed());
            // From here on the checkpoints must not know of logs that are gone, nor miss those that were cut.
            dir.volume.write_recovery_points()?;
            dir.volume.write_log_starts()?;
            // A stale high watermark does no harm before a new log of the name is created, which asks again.
            for err in [dir.volume.write_high_watermarks(), dir.volume.write_cleaner_offsets()]
                .into_iter()
                .filter_map(Result::err)
            {
                tracing::warn!(dir = %dir.path().display(), error = %err, "cannot write a checkpoint yet");
            }
        }
        let mut committers = Vec::new();
        for dir in &dirs {
            let volume = Arc::clone(&dir.volume);
            committers.push(match config.commit_mode {
                CommitMode::Manual => Committer::manual(volume),
                CommitMode::Threads => Committer::start(volume)
                    .map_err(|err| StorageError::io("start the committer of", dir.path(), err))?,
            });
        }
        tracing::info!(logs = logs.len(), dirs = dirs.len(), "logs opened");
        Ok(LogManager {
            config,
            storage,
            memory,
            logs: RwLock::new(logs),
            changes: Mutex::default(),
            doomed: Mutex::default(),
            undeleted: Mutex::default(),
            rounds: Mutex::default(),
            closed: AtomicBool::new(false),
            committers,
            dirs,
        })
    }

    /// A partition's log; created in the data directory with the fewest logs if it is not here. A log of another topic id
    /// is refused: it is an older topic's of the same name, to be deleted first. A folder of the name that is no log of
    /// this topic is set aside as if deleted, never adopted.
    pub fn get_or_create(
        &self,
        partition: &TopicPartition,
        topic_id: Option<TopicId>,
        config: LogConfig,
        now: Timestamp,
    ) -> Result<Arc<Log>, OpenError> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        self.get_or_create_locked(partition, topic_id, config, now)
    }

    /// [`LogManager::get_or_create`], for a caller that holds the lock on changes.
    pub(super) fn get_or_create_locked(
        &self,
        partition: &TopicPartition,
        topic_id: Option<TopicId>,
        config: LogConfig,
        now: Timestamp,
    ) -> Result<Arc<Log>, OpenError> {
        self.check_open()?;
        if let Some(log) = self.get(partition) {
            let is_failed_delete = self.undeleted().contains(partition);
            let is_same = topic_id.is_none() || log.topic_id().is_none() || log.topic_id() == topic_id;
            if is_same || !is_failed_delete {
                let log = self.check_topic(log, topic_id)?;
                self.undeleted().remove(partition);
                return Ok(log);
            }
            self.delete_locked(partition)?;
        }
        let (dir, adopted) = match self.set_aside(partition, topic_id, &config)? {
            Some(dir) => (dir, true),
            None => {
                let usable = self.dirs.iter().filter(|dir| dir.volume.failure().is_none());
                let dir = usable.min_by_key(|dir| dir.volume.log_count()).ok_or(OpenError::AllFailed)?;
                (dir, false)
            }
        };
        dir.volume.forget_on_disk(&[partition])?;
        let path = dir.path().join(partition.to_string());
        let log = create(&self.storage, dir, &self.memory, partition, &path, topic_id, config, adopted, now);
        let log = match log {
            Ok(log) => log,
            Err(err) => {
                // Best effort: what is left is used, or set aside, by the next call or start.
                if !adopted {
                    let _ = self.storage.remove_dir_all(&path);
                }
                return Err(err);
            }
        };
        self.map_mut().insert(partition.clone(), Arc::clone(&log));
        tracing::info!(partition = %partition, dir = %dir.path().display(), "log created");
        Ok(log)
    }

    /// Sets the folders aside that have the partition's name without being its log: a delete or a creation failed half-way,
    /// or someone copied them. Returns the data directory in which there is one of the same topic id.
    fn set_aside(
        &self,
        partition: &TopicPartition,
        topic_id: Option<TopicId>,
        config: &LogConfig,
    ) -> Result<Option<&DataDir>, OpenError> {
        let mut same = None;
        for dir in self.dirs.iter().filter(|dir| dir.volume.failure().is_none()) {
            let path = dir.path().join(partition.to_string());
            if !self.storage.exists(&path).map_err(|err| StorageError::io("look for", &path, err))? {
                continue;
            }
            let found = match partition_metadata::read(&*self.storage, &path) {
                Ok(found) => found,
                Err(err) if err.is_corrupt() => None,
                Err(err) => return Err(err.into()),
            };
            if found.is_some() && found == topic_id && same.is_none() {
                same = Some(dir);
                continue;
            }
            tracing::warn!(partition = %partition, path = %path.display(), "a folder of another topic is set aside");
            self.doom(dir.path(), &path, partition, config.file_delete_delay_ms)?;
            let synced = self.storage.sync_dir(dir.path());
            synced.map_err(|err| StorageError::io("sync", dir.path(), err))?;
        }
        Ok(same)
    }

    fn check_topic(&self, log: Arc<Log>, wanted: Option<TopicId>) -> Result<Arc<Log>, OpenError> {
        match (log.topic_id(), wanted) {
            (Some(found), Some(wanted)) if found != wanted => {
                let partition = log.topic_partition().clone();
                Err(OpenError::OtherTopic { partition, found: Some(found), wanted: Some(wanted) })
            }
            (None, Some(wanted)) => {
                partition_metadata::write(&*self.storage, &log.dir(), wanted)?;
                log.adopt_topic_id(wanted);
                Ok(log)
            }
            _ => Ok(log),
        }
    }
}

/// Folders from which on several threads open them.
const PARALLEL_FROM: usize = 64;
/// Threads that open logs at most: most of the time goes into waiting for the disk.
const MAX_OPENERS: usize = 8;

/// What opening the logs of one directory takes.
struct Opener<'a> {
    storage: &'a Arc<dyn Storage>,
    dir: &'a DataDir,
    memory: &'a Arc<Memory>,
    now: Timestamp,
    config_for: &'a (dyn Fn(&TopicPartition) -> LogConfig + Sync),
    recovery_points: BTreeMap<TopicPartition, Offset>,
    log_starts: BTreeMap<TopicPartition, Offset>,
    high_watermarks: BTreeMap<TopicPartition, Offset>,
    cleaned: BTreeMap<TopicPartition, Offset>,
}

fn open_logs(
    storage: &Arc<dyn Storage>,
    dir: &DataDir,
    memory: &Arc<Memory>,
    now: Timestamp,
    config_for: &(dyn Fn(&TopicPartition) -> LogConfig + Sync),
    threads: usize,
    logs: &mut BTreeMap<TopicPartition, Arc<Log>>,
) -> Result<(), OpenError> {
    let volume = &dir.volume;
    let opener = Opener {
        storage,
        dir,
        memory,
        now,
        config_for,
        recovery_points: volume.read_offsets(RECOVERY_POINT_CHECKPOINT)?,
        log_starts: volume.read_offsets(LOG_START_CHECKPOINT)?,
        high_watermarks: volume.read_offsets(HIGH_WATERMARK_CHECKPOINT)?,
        cleaned: volume.read_offsets(CLEANER_CHECKPOINT)?,
    };
    if opener.cleaned.is_empty() {
        volume.note_no_cleaner_offsets();
    }
    let entries = storage.list(dir.path()).map_err(|err| StorageError::io("list", dir.path(), err))?;
    let names: Vec<_> = entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect();
    let opened = if threads < 2 || names.len() < PARALLEL_FROM {
        opener.open_all(&names)?
    } else {
        let opener = &opener;
        std::thread::scope(|scope| {
            let pieces = names.chunks(names.len().div_ceil(threads));
            let openers: Vec<_> = pieces.map(|names| scope.spawn(move || opener.open_all(names))).collect();
            let mut all = Vec::new();
            for opened in openers {
                all.extend(opened.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok::<_, OpenError>(all)
        })?
    };
    for (partition, log) in opened {
        let second = log.dir();
        if let Some(first) = logs.insert(partition.clone(), log) {
            return Err(OpenError::Twice { partition, first: first.dir(), second });
        }
    }
    Ok(())
}

/// How many threads may open logs.
fn openers(mode: CommitMode) -> usize {
    match mode {
        // A simulation has one thread.
        CommitMode::Manual => 1,
        CommitMode::Threads => MAX_OPENERS,
    }
}

impl Opener<'_> {
    fn open_all(&self, names: &[String]) -> Result<Vec<(TopicPartition, Arc<Log>)>, OpenError> {
        names.iter().filter_map(|name| self.open(name).transpose()).collect()
    }

    /// Opens the log in a folder; `None` if there is none.
    fn open(&self, name: &str) -> Result<Option<(TopicPartition, Arc<Log>)>, OpenError> {
        let Opener { storage, dir, memory, now, config_for, .. } = self;
        let path = dir.path().join(name);
        if delete::is_doomed(name) {
            storage.remove_dir_all(&path).map_err(|err| StorageError::io("remove", &path, err))?;
            return Ok(None);
        }
        let Ok(partition) = name.parse::<TopicPartition>() else {
            if name != "lost+found" {
                tracing::warn!(path = %path.display(), "a folder that is no partition's is left alone");
            }
            return Ok(None);
        };
        let topic_id = match partition_metadata::read(&***storage, &path) {
            Err(err) if err.is_corrupt() && holds_no_record(&***storage, &path)? => {
                tracing::warn!(partition = %partition, error = %err, "a folder whose creation a crash cut short is removed");
                storage.remove_dir_all(&path).map_err(|err| StorageError::io("remove", &path, err))?;
                return Ok(None);
            }
            read => read?,
        };
        let at = |map: &BTreeMap<_, Offset>| map.get(&partition).copied();
        let log = Log::open(OpenLog {
            topic_id,
            home: home(storage, path, &partition),
            volume: Arc::clone(&dir.volume),
            memory: Arc::clone(memory),
            config: config_for(&partition),
            log_start: at(&self.log_starts).unwrap_or(Offset::ZERO),
            recovery_point: at(&self.recovery_points),
            high_watermark: at(&self.high_watermarks).unwrap_or(Offset::ZERO),
            cleaned: at(&self.cleaned),
            clean: dir.clean,
            now: *now,
        })?;
        if log.recovery_report().recovered {
            tracing::debug!(partition = %partition, end = %log.log_end_offset(), "log recovered");
        }
        Ok(Some((partition, log)))
    }
}

/// Whether a folder has no segment with a byte in it.
fn holds_no_record(storage: &dyn Storage, path: &Path) -> Result<bool, StorageError> {
    let io = |err| StorageError::io("look into", path, err);
    for entry in storage.list(path).map_err(io)? {
        let file = path.join(&entry.name);
        let is_segment = file.extension().is_some_and(|extension| extension == LOG_EXTENSION);
        if is_segment && !storage.open(&file, OpenMode::Read).and_then(|file| file.is_empty()).map_err(io)? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn home(storage: &Arc<dyn Storage>, path: PathBuf, partition: &TopicPartition) -> Home {
    Home { storage: Arc::clone(storage), dir: path.into(), partition: Arc::new(partition.clone()) }
}

#[allow(
    clippy::too_many_arguments,
    reason = "each is a different thing, and the only caller has them at hand"
)]
fn create(
    storage: &Arc<dyn Storage>,
    dir: &DataDir,
    memory: &Arc<Memory>,
    partition: &TopicPartition,
    path: &Path,
    topic_id: Option<TopicId>,
    config: LogConfig,
    adopted: bool,
    now: Timestamp,
) -> Result<Arc<Log>, OpenError> {
    storage.create_dir_all(path).map_err(|err| StorageError::io("create", path, err))?;
    if let Some(id) = topic_id {
        partition_metadata::write(&**storage, path, id)?;
    }
    Log::open(OpenLog {
        home: home(storage, path.to_owned(), partition),
        topic_id,
        volume: Arc::clone(&dir.volume),
        memory: Arc::clone(memory),
        config,
        log_start: Offset::ZERO,
        // A new folder has nothing to scan: that saves a sync and two files for each of many partitions.
        recovery_point: (!adopted).then_some(Offset::ZERO),
        high_watermark: Offset::ZERO,
        cleaned: None,
        clean: !adopted,
        now,
    })
}
