//! Who holds a data directory, and how it was left: the `.lock` file and the clean-shutdown marker.

use crate::state_file::{self, StateFileError, TEMP_SUFFIX};
use crate::storage::{DirLock, Storage};
use std::io;
use std::path::{Path, PathBuf};
use thalweg_core::{BrokerEpoch, ErrorCode};

/// The lock file's name in each data directory.
pub const LOCK_FILE: &str = ".lock";
/// The marker's name in each data directory. It is there only between a clean stop and the next start.
pub const CLEAN_SHUTDOWN_FILE: &str = ".kafka_cleanshutdown";

/// The name of the file that says that records which were stable are gone, until the cluster knows. Not Kafka's.
pub const DAMAGE_FILE: &str = ".thalweg_damaged";

/// Why a data directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another part of this one, uses the directory.
    #[error("the data folder {} is in use by another process; stop it or choose another folder", .0.display())]
    InUse(PathBuf),
    /// The lock file could not be opened.
    #[error("cannot lock the data folder {}: {source}", dir.display())]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

impl LockError {
    /// The caller-visible code.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::StorageError
    }
}

/// Takes a data directory for this process until the lock is dropped.
pub fn lock(storage: &dyn Storage, dir: &Path) -> Result<Box<dyn DirLock>, LockError> {
    storage.lock(&dir.join(LOCK_FILE)).map_err(|source| match source.kind() {
        io::ErrorKind::WouldBlock => LockError::InUse(dir.to_owned()),
        _ => LockError::Io { dir: dir.to_owned(), source },
    })
}

/// How the directory was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastShutdown {
    /// All logs were closed: no recovery is needed. With the broker's epoch of that run, if it was noted.
    Clean(Option<BrokerEpoch>),
    /// Every log must be recovered.
    Unclean,
}

/// Reads the marker and removes it, stable **before** this returns: a crash or a full disk during recovery or later must find
/// no marker at the next start (catalogue 13).
pub fn take_clean_shutdown(storage: &dyn Storage, dir: &Path) -> Result<LastShutdown, StateFileError> {
    let path = dir.join(CLEAN_SHUTDOWN_FILE);
    let found = state_file::read(storage, &path)?;
    let Some(bytes) = found else { return Ok(LastShutdown::Unclean) };
    storage.remove_file(&path).map_err(|err| StateFileError::new(&path, err))?;
    storage.sync_dir(dir).map_err(|err| StateFileError::new(dir, err))?;
    Ok(LastShutdown::Clean(broker_epoch(&bytes)))
}

/// Writes the marker. The last thing that a clean stop does with the directory, after every log is closed and synced.
pub fn write_clean_shutdown(
    storage: &dyn Storage,
    dir: &Path,
    broker_epoch: Option<BrokerEpoch>,
) -> Result<(), StateFileError> {
    let epoch = broker_epoch.map_or(-1, BrokerEpoch::get);
    let text = format!("{{\"version\":0,\"brokerEpoch\":{epoch}}}");
    state_file::replace(storage, &dir.join(CLEAN_SHUTDOWN_FILE), text.as_bytes())
}

/// Whether the directory lost what was stable, and nobody was told yet.
pub fn is_damaged(storage: &dyn Storage, dir: &Path) -> Result<bool, StateFileError> {
    let path = dir.join(DAMAGE_FILE);
    storage.exists(&path).map_err(|err| StateFileError::new(&path, err))
}

/// Notes that the directory lost what was stable. Before the recovery points are lowered, as they are the evidence: a crash
/// behind that must not hide it.
pub fn mark_damaged(storage: &dyn Storage, dir: &Path) -> Result<(), StateFileError> {
    state_file::replace(storage, &dir.join(DAMAGE_FILE), b"records that were stable are gone\n")
}

/// Takes the note away, once the cluster knows. A crash may bring it back, which costs this broker its places once more.
pub fn forget_damage(storage: &dyn Storage, dir: &Path) -> Result<(), StateFileError> {
    let path = dir.join(DAMAGE_FILE);
    storage.remove_file(&path).map_err(|err| StateFileError::new(&path, err))
}

/// The epoch in the marker's JSON. An empty or odd marker (older Kafka wrote an empty one) just has none.
fn broker_epoch(bytes: &[u8]) -> Option<BrokerEpoch> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (_, rest) = text.split_once("\"brokerEpoch\"")?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start();
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(BrokerEpoch)
}

/// Removes replacements that a crash left unfinished in a folder. Returns how many.
pub fn remove_leftovers(storage: &dyn Storage, dir: &Path) -> Result<usize, StateFileError> {
    let io = |err| StateFileError::new(dir, err);
    let mut count = 0;
    for entry in storage.list(dir).map_err(io)? {
        if !entry.is_dir && entry.name.ends_with(TEMP_SUFFIX) {
            storage.remove_file(&dir.join(&entry.name)).map_err(io)?;
            count += 1;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{FaultError, OpKind, OpenMode, SimStorage};

    const DIR: &str = "/data";

    fn folder(seed: u64) -> SimStorage {
        let sim = SimStorage::new(seed);
        sim.create_dir_all(Path::new(DIR)).unwrap();
        sim
    }

    #[test]
    fn a_folder_in_use_is_refused_with_the_reason() {
        let sim = folder(1);
        let held = lock(&sim, Path::new(DIR)).unwrap();
        let err = lock(&sim, Path::new(DIR)).unwrap_err();
        assert!(matches!(err, LockError::InUse(_)) && err.to_string().contains("in use"), "{err}");
        drop(held);
        lock(&sim, Path::new(DIR)).unwrap();
        assert!(matches!(lock(&sim, Path::new("/none")), Err(LockError::Io { .. })));
    }

    #[test]
    fn the_marker_counts_once() {
        let sim = folder(1);
        let dir = Path::new(DIR);
        assert_eq!(take_clean_shutdown(&sim, dir).unwrap(), LastShutdown::Unclean);
        write_clean_shutdown(&sim, dir, Some(BrokerEpoch(42))).unwrap();
        sim.power_cut_strict();
        let text = state_file::read(&sim, &dir.join(CLEAN_SHUTDOWN_FILE)).unwrap().unwrap();
        assert_eq!(text, b"{\"version\":0,\"brokerEpoch\":42}");
        assert_eq!(take_clean_shutdown(&sim, dir).unwrap(), LastShutdown::Clean(Some(BrokerEpoch(42))));
        assert_eq!(take_clean_shutdown(&sim, dir).unwrap(), LastShutdown::Unclean);
    }

    #[test]
    fn a_crash_after_the_marker_was_taken_finds_none() {
        for seed in 0..50 {
            let sim = folder(seed);
            write_clean_shutdown(&sim, Path::new(DIR), None).unwrap();
            assert_eq!(take_clean_shutdown(&sim, Path::new(DIR)).unwrap(), LastShutdown::Clean(None));
            sim.power_cut();
            assert_eq!(take_clean_shutdown(&sim, Path::new(DIR)).unwrap(), LastShutdown::Unclean);
        }
    }

    #[test]
    fn a_marker_that_cannot_be_removed_for_good_stops_the_start() {
        for op in [OpKind::Remove, OpKind::SyncDir] {
            let sim = folder(1);
            write_clean_shutdown(&sim, Path::new(DIR), None).unwrap();
            sim.fail_nth(&[op], 1, FaultError::Io);
            assert!(take_clean_shutdown(&sim, Path::new(DIR)).is_err(), "{op:?}");
        }
    }

    #[test]
    fn odd_markers_are_clean_without_an_epoch() {
        for text in
            ["", "{", "{\"brokerEpoch\":}", "{\"brokerEpoch\":-1}", "{\"brokerEpoch\":99999999999999999999}"]
        {
            assert_eq!(broker_epoch(text.as_bytes()), None, "{text}");
        }
        assert_eq!(broker_epoch(b"{ \"version\" : 0, \"brokerEpoch\" : 7 }"), Some(BrokerEpoch(7)));
        assert_eq!(broker_epoch(b"\xff"), None);
    }

    #[test]
    fn unfinished_replacements_are_removed() {
        let sim = folder(1);
        for name in ["checkpoint.tmp", "checkpoint"] {
            sim.open(&Path::new(DIR).join(name), OpenMode::Create).unwrap();
        }
        sim.create_dir_all(&Path::new(DIR).join("topic.tmp")).unwrap();
        assert_eq!(remove_leftovers(&sim, Path::new(DIR)).unwrap(), 1);
        assert_eq!(sim.list(Path::new(DIR)).unwrap().len(), 2);
    }
}
