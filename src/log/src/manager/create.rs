//! Creating many logs at once: everything is written first, and made stable by one sync for each data directory.
//!
//! A log that is created alone costs a sync for its folder's name, one for the topic's id, one for its segment's name. A cluster
//! that gets ten thousand partitions cannot wait for thirty thousand of them.

use super::LogManager;
use super::dir::DataDir;
use super::open::home;
use crate::config::LogConfig;
use crate::error::{OpenError, StorageError};
use crate::log::{Log, OpenLog};
use crate::partition_metadata;
use std::io;
use std::sync::{Arc, PoisonError};
use thalweg_core::{Offset, Timestamp, TopicId, TopicPartition};

/// Fewer new logs in a directory than this are synced one by one: a batch's sync covers the whole file system, with all that
/// others wrote there.
const MIN_BATCH: usize = 8;

/// A log that is wanted.
#[derive(Debug, Clone)]
pub struct NewLog {
    /// The partition.
    pub partition: TopicPartition,
    /// The topic's id.
    pub topic_id: Option<TopicId>,
    /// Its configuration.
    pub config: LogConfig,
}

type Opened = Result<Arc<Log>, OpenError>;

impl LogManager {
    /// [`LogManager::get_or_create`] for many logs at once, the answers in their order. Those that are created are stable when
    /// this returns. Name each partition once.
    pub fn get_or_create_many(&self, wanted: &[NewLog], now: Timestamp) -> Vec<Opened> {
        let _changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers: Vec<Option<Opened>> = wanted.iter().map(|_| None).collect();
        let mut new: Vec<(usize, &DataDir)> = Vec::new();
        let mut load: Vec<usize> = self.dirs.iter().map(|dir| dir.volume.log_count()).collect();
        for (i, log) in wanted.iter().enumerate() {
            let emptiest = (0..self.dirs.len())
                .filter(|at| self.dirs[*at].volume.failure().is_none())
                .min_by_key(|at| load[*at]);
            match emptiest {
                // What is there in some way is opened, set aside or refused with care.
                Some(at) if self.is_free(&log.partition) => {
                    load[at] += 1;
                    new.push((i, &self.dirs[at]));
                }
                _ => answers[i] = Some(self.alone(log, now)),
            }
        }
        for dir in &self.dirs {
            let here: Vec<usize> =
                new.iter().filter(|(_, at)| std::ptr::eq(*at, dir)).map(|(i, _)| *i).collect();
            if here.len() < MIN_BATCH {
                here.iter().for_each(|i| answers[*i] = Some(self.alone(&wanted[*i], now)));
                continue;
            }
            let logs: Vec<&NewLog> = here.iter().map(|i| &wanted[*i]).collect();
            for (i, answer) in here.into_iter().zip(self.create_batch(dir, &logs, now)) {
                answers[i] = Some(answer);
            }
        }
        answers.into_iter().map(|answer| answer.unwrap_or(Err(OpenError::AllFailed))).collect()
    }

    fn alone(&self, log: &NewLog, now: Timestamp) -> Opened {
        self.get_or_create_locked(&log.partition, log.topic_id, log.config.clone(), now)
    }

    /// Whether neither a log nor a folder has the partition's name.
    fn is_free(&self, partition: &TopicPartition) -> bool {
        let name = partition.to_string();
        let is_there = |dir: &DataDir| self.storage.exists(&dir.path().join(&name)).unwrap_or(true);
        self.check_open().is_ok() && self.get(partition).is_none() && !self.dirs.iter().any(is_there)
    }

    fn create_batch(&self, dir: &DataDir, wanted: &[&NewLog], now: Timestamp) -> Vec<Opened> {
        let batch = match self.storage.begin_batch(dir.path()) {
            Ok(Some(batch)) => batch,
            // The storage has no such thing, or a handle is lacking.
            Ok(None) | Err(_) => return wanted.iter().map(|log| self.alone(log, now)).collect(),
        };
        let names: Vec<_> = wanted.iter().map(|log| &log.partition).collect();
        if dir.volume.forget_on_disk(&names).is_err() {
            // Each one meets the error by itself.
            return wanted.iter().map(|log| self.alone(log, now)).collect();
        }
        let mut created: Vec<Opened> = wanted.iter().map(|log| self.write_new(dir, log, now)).collect();
        let synced = batch.sync();
        if let Err(err) = &synced {
            tracing::error!(dir = %dir.path().display(), error = %err, "cannot make new logs stable");
            for log in &mut created {
                *log = Err(StorageError::io("sync", dir.path(), same_error(err)).into());
            }
        }
        for (answer, log) in created.iter().zip(wanted) {
            match answer {
                Ok(created) => drop(self.map_mut().insert(log.partition.clone(), Arc::clone(created))),
                // Best effort: what is left is used, or set aside, by the next call or start.
                Err(_) => {
                    dir.volume.forget(&log.partition);
                    let _ = self.storage.remove_dir_all(&dir.path().join(log.partition.to_string()));
                }
            }
        }
        let count = created.iter().filter(|answer| answer.is_ok()).count();
        tracing::info!(logs = count, dir = %dir.path().display(), "logs created");
        created
    }

    /// Writes a new log's folder, topic id and first segment, without making them stable.
    fn write_new(&self, dir: &DataDir, log: &NewLog, now: Timestamp) -> Opened {
        let path = dir.path().join(log.partition.to_string());
        self.storage.create_dir(&path).map_err(|err| StorageError::io("create", &path, err))?;
        if let Some(id) = log.topic_id {
            partition_metadata::write_in_batch(&*self.storage, &path, id)?;
        }
        Log::create_in_batch(OpenLog {
            home: home(&self.storage, path, &log.partition),
            topic_id: log.topic_id,
            volume: Arc::clone(&dir.volume),
            memory: Arc::clone(&self.memory),
            config: log.config.clone(),
            log_start: Offset::ZERO,
            recovery_point: Some(Offset::ZERO),
            high_watermark: Offset::ZERO,
            cleaned: None,
            clean: true,
            now,
        })
    }
}

/// An error once more, for each of those whom it concerns.
pub(super) fn same_error(err: &io::Error) -> io::Error {
    match err.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(err.kind(), err.to_string()),
    }
}
