//! Small files that hold state beside the log: read whole, replaced whole.
//!
//! A replacement is written under another name, synced, renamed over the old file, and the folder is synced: after a power
//! cut either the old content is there or the new, never a mixture (catalogue 14).

use crate::checkpoint::CheckpointError;
use crate::meta_properties::PropertiesError;
use crate::producer_state::SnapshotError;
use crate::storage::{OpenMode, Storage};
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use thalweg_core::ErrorCode;

/// The largest state file that is read, in bytes. A million entries fit; a larger file is not one of ours.
pub const MAX_STATE_FILE_BYTES: u64 = 64 << 20;

/// Stands behind the name of a replacement that is not complete. Such a file is left over from a crash and may be removed.
pub const TEMP_SUFFIX: &str = ".tmp";

/// Why a state file could not be read or replaced.
#[derive(Debug, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct StateFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub kind: StateFileErrorKind,
}

/// What is wrong with a state file.
#[derive(Debug, thiserror::Error)]
pub enum StateFileErrorKind {
    /// The file system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is larger than [`MAX_STATE_FILE_BYTES`].
    #[error("the file has {0} bytes, more than any state file of this version")]
    TooLarge(u64),
    /// A checkpoint that is damaged.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A producer snapshot that is damaged.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// `meta.properties` or `partition.metadata` is damaged, of a newer version, or names someone else.
    #[error(transparent)]
    Properties(#[from] PropertiesError),
}

impl StateFileError {
    pub(crate) fn new(path: &Path, kind: impl Into<StateFileErrorKind>) -> Self {
        StateFileError { path: path.to_owned(), kind: kind.into() }
    }

    /// What a caller of the API is told. All of these concern the machine, not the request.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::StorageError
    }

    /// Whether the content is damaged (so that it may be rebuilt), as opposed to a file system that fails.
    pub fn is_corrupt(&self) -> bool {
        !matches!(self.kind, StateFileErrorKind::Io(_))
    }
}

/// Reads a whole state file; `None` if there is none.
pub(crate) fn read(storage: &dyn Storage, path: &Path) -> Result<Option<Vec<u8>>, StateFileError> {
    let io = |err: io::Error| StateFileError::new(path, err);
    let file = match storage.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(io(err)),
    };
    let len = file.len().map_err(io)?;
    if len > MAX_STATE_FILE_BYTES {
        return Err(StateFileError::new(path, StateFileErrorKind::TooLarge(len)));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, 0).map_err(io)?;
    Ok(Some(bytes))
}

/// Replaces a state file so that a crash at any point leaves the old or the new content.
pub(crate) fn replace(storage: &dyn Storage, path: &Path, bytes: &[u8]) -> Result<(), StateFileError> {
    let io = |err: io::Error| StateFileError::new(path, err);
    let mut temp = OsString::from(path);
    temp.push(TEMP_SUFFIX);
    let temp = PathBuf::from(temp);
    let file = storage.open(&temp, OpenMode::Truncate).map_err(io)?;
    file.write_all_at(&mut [IoSlice::new(bytes)], 0).map_err(io)?;
    file.sync_data().map_err(io)?;
    storage.rename(&temp, path).map_err(io)?;
    storage.sync_dir(path.parent().unwrap_or(Path::new("."))).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimStorage;

    #[test]
    fn a_power_cut_at_any_call_leaves_the_old_or_the_new_content() {
        let path = Path::new("/d/checkpoint");
        for cut in 0..8 {
            for seed in 0..40 {
                let sim = SimStorage::new(seed);
                sim.create_dir_all(Path::new("/d")).unwrap();
                replace(&sim, path, &[1; 2000]).unwrap();
                sim.cut_after_ops(cut);
                let done = replace(&sim, path, &[2; 3000]).is_ok();
                sim.restart();
                let found = read(&sim, path).unwrap().unwrap();
                if done {
                    assert_eq!(found, [2; 3000]);
                } else {
                    assert!(found == [1; 2000] || found == [2; 3000], "cut {cut}, seed {seed}");
                }
            }
        }
    }

    #[test]
    fn an_oversized_file_is_refused_before_it_is_read() {
        let sim = SimStorage::new(1);
        let path = Path::new("/big");
        sim.open(path, OpenMode::Create).unwrap().set_len(MAX_STATE_FILE_BYTES + 1).unwrap();
        let err = read(&sim, path).unwrap_err();
        assert!(matches!(err.kind, StateFileErrorKind::TooLarge(_)) && err.is_corrupt());
        assert!(read(&sim, Path::new("/none")).unwrap().is_none());
    }
}
