//! One data directory of a manager.

use super::{DirState, LogManagerConfig};
use crate::data_dir::{self, LastShutdown, LockError};
use crate::error::{OpenError, StorageError};
use crate::meta_properties::MetaProperties;
use crate::state_file::{StateFileError, StateFileErrorKind};
use crate::storage::{DirLock, Storage};
use crate::uuid_text::DirectoryId;
use crate::volume::Volume;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thalweg_core::BrokerEpoch;

pub(super) struct DataDir {
    pub volume: Arc<Volume>,
    pub id: DirectoryId,
    /// Whether it was closed cleanly the last time.
    pub clean: bool,
    /// The registration under which that was, if the marker names one.
    pub clean_epoch: Option<BrokerEpoch>,
    /// Whether it lost what was stable, and the cluster does not know yet.
    pub damaged: AtomicBool,
    opened: OnceLock<Opened>,
    _lock: Box<dyn DirLock>,
}

/// How the opening of the logs went.
#[derive(Clone, Copy, Default)]
struct Opened {
    took: Duration,
    recovered: usize,
}

impl DataDir {
    /// Takes a directory into use: locks it, checks whose it is, and only then takes the marker away.
    pub fn open(
        storage: &Arc<dyn Storage>,
        path: &Path,
        config: &LogManagerConfig,
    ) -> Result<DataDir, OpenError> {
        storage.create_dir_all(path).map_err(|err| StorageError::io("create", path, err))?;
        let lock = data_dir::lock(&**storage, path).map_err(|err| match err {
            LockError::InUse(dir) => OpenError::InUse { dir },
            LockError::Io { dir, source } => StorageError::io("lock", &dir, source).into(),
        })?;
        let new_id = DirectoryId((config.new_id)());
        let claimed = MetaProperties::claim(&**storage, path, &config.cluster_id, config.node_id, new_id);
        let properties = claimed.map_err(|err| match err.kind {
            StateFileErrorKind::Properties(source) => OpenError::Foreign { dir: path.to_owned(), source },
            _ => err.into(),
        })?;
        data_dir::remove_leftovers(&**storage, path)?;
        let (clean, clean_epoch) = match data_dir::take_clean_shutdown(&**storage, path)? {
            LastShutdown::Clean(epoch) => (true, epoch),
            LastShutdown::Unclean => (false, None),
        };
        let damaged = AtomicBool::new(data_dir::is_damaged(&**storage, path)?);
        let volume = Volume::new(Arc::clone(storage), path.to_owned());
        let (id, opened) = (properties.directory_id, OnceLock::new());
        Ok(DataDir { volume, id, clean, clean_epoch, damaged, opened, _lock: lock })
    }

    /// Notes the damage that the opening of the logs found. Before the recovery points are written anew.
    pub fn note_damage(&self, storage: &dyn Storage) -> Result<(), StateFileError> {
        if self.volume.logs().iter().any(|log| log.recovery_report().lost_stable.is_some()) {
            data_dir::mark_damaged(storage, self.path())?;
            self.damaged.store(true, Ordering::Release);
        }
        Ok(())
    }

    /// Notes that the logs are open, and how long that took.
    pub fn note_opened(&self, took: Duration) {
        let recovered = self.volume.logs().iter().filter(|log| log.recovery_report().recovered).count();
        let _ = self.opened.set(Opened { took, recovered });
    }

    pub fn path(&self) -> &Path {
        &self.volume.path
    }

    pub fn state(&self, storage: &dyn Storage) -> DirState {
        let logs = self.volume.logs();
        let Opened { took, recovered } = self.opened.get().copied().unwrap_or_default();
        DirState {
            path: self.path().to_owned(),
            id: self.id,
            failed: self.volume.failure().map(str::to_owned),
            logs: logs.len(),
            log_bytes: logs.iter().map(|log| log.size_bytes()).sum(),
            available_bytes: storage.available_bytes(self.path()).ok(),
            capacity_bytes: storage.capacity_bytes(self.path()).ok(),
            waiting_for_sync: self.volume.queue.len(),
            opened_in: took,
            recovered_logs: recovered,
        }
    }

    pub fn close(&self, storage: &dyn Storage, epoch: Option<BrokerEpoch>) -> Result<(), StorageError> {
        let mut first_error = None;
        for log in self.volume.logs() {
            if let Err(err) = log.close() {
                first_error.get_or_insert(err);
            }
        }
        if let Some(err) = first_error {
            return Err(err);
        }
        self.volume.check()?;
        self.volume.write_log_starts()?;
        self.volume.write_high_watermarks()?;
        self.volume.write_recovery_points()?;
        // Last of all: it vouches for everything above.
        data_dir::write_clean_shutdown(storage, self.path(), epoch)?;
        tracing::info!(dir = %self.path().display(), "data directory closed");
        Ok(())
    }
}
