//! The files under sled: the lock, the fsync that sled does not do, the folders' entries.

use crate::error::StoreError;
use sled::Db;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// sled's threads may hold its files for a moment after the last handle of this process is gone. Our own lock is
/// ours by then, so waiting for sled's is waiting for ourselves.
const SLED_LOCK_TRIES: u32 = 100;
const SLED_LOCK_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Files {
    /// sled's file; opened a second time, for `sync_data`.
    db: File,
    /// Held for as long as the store is open.
    _lock: File,
}

impl Files {
    /// Locks `folder`, creating it if needed, and opens sled in it.
    pub(super) fn open(folder: &Path, cache_bytes: u64) -> Result<(Files, Db), StoreError> {
        let created = !folder.exists();
        fs::create_dir_all(folder).map_err(io_failed("creating the folder"))?;
        if created && let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(folder.join("lock"))
            .map_err(io_failed("opening the lock file"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::InUse { path: folder.to_owned() }),
            Err(TryLockError::Error(source)) => {
                return Err(StoreError::Io { action: "locking", source });
            }
        }
        let inner = folder.join("sled");
        let db = open_sled(&inner, cache_bytes)?;
        let file =
            File::options().read(true).write(true).open(inner.join("db")).map_err(io_failed("opening"))?;
        // The names of the files must survive too.
        file.sync_all().map_err(io_failed("syncing"))?;
        File::open(inner.join("conf")).and_then(|conf| conf.sync_all()).map_err(io_failed("syncing"))?;
        sync_folder(&inner)?;
        sync_folder(folder)?;
        Ok((Files { db: file, _lock: lock }, db))
    }

    /// Makes what sled has written survive a power cut.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.db.sync_data().map_err(io_failed("syncing"))
    }
}

fn open_sled(folder: &Path, cache_bytes: u64) -> Result<Db, StoreError> {
    let config = sled::Config::new()
        .path(folder)
        .cache_capacity(cache_bytes)
        .mode(sled::Mode::LowSpace)
        // We flush after each batch; a second flusher would only wake up an idle machine.
        .flush_every_ms(None);
    let mut tries = 0;
    loop {
        match config.open() {
            Ok(db) => return Ok(db),
            Err(sled::Error::Io(error)) if is_sled_lock(&error) && tries < SLED_LOCK_TRIES => {
                tries += 1;
                thread::sleep(SLED_LOCK_PAUSE);
            }
            Err(sled::Error::Io(error)) if is_sled_lock(&error) => {
                return Err(StoreError::InUse { path: folder.to_owned() });
            }
            Err(error) => return Err(super::failed("opening")(error)),
        }
    }
}

fn is_sled_lock(error: &io::Error) -> bool {
    error.to_string().starts_with("could not acquire lock")
}

fn sync_folder(folder: &Path) -> Result<(), StoreError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_failed("syncing a folder"))
}

fn io_failed(action: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { action, source }
}
