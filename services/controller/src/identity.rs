//! The cluster's id on disk, so that a folder of another cluster is refused.

use crate::error::StartError;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use thalweg_core::ClusterId;

/// The file in the controller's folder.
const FILE: &str = "cluster.id";
/// The longest id that is believed.
const MAX_LEN: u64 = 128;

/// Reads the cluster's id, or makes one if the folder is new.
pub fn load_or_create(data_dir: &Path) -> Result<ClusterId, StartError> {
    let failed = |source: io::Error| StartError::DataDir { path: data_dir.to_owned(), source };
    let path = data_dir.join(FILE);
    match fs::metadata(&path) {
        Ok(meta) if meta.len() <= MAX_LEN => {
            let id = fs::read_to_string(&path).map_err(failed)?;
            let id = id.trim();
            if id.is_empty() {
                let empty = io::Error::new(
                    io::ErrorKind::InvalidData,
                    "cluster.id is empty; restore it from a broker's meta.properties",
                );
                return Err(failed(empty));
            }
            Ok(ClusterId(id.into()))
        }
        Ok(_) => Err(failed(io::Error::new(io::ErrorKind::InvalidData, "cluster.id is no cluster id"))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let id: String = rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
            create(data_dir, &path, &id).map_err(failed)?;
            Ok(ClusterId(id.into()))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Writes the file so that a power cut leaves it whole or not there.
fn create(data_dir: &Path, path: &Path, id: &str) -> io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary)?;
    writeln!(file, "{id}")?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(data_dir)?.sync_all()?;
    if let Some(parent) = data_dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("controller");
        let first = load_or_create(&folder).unwrap();
        assert_eq!(load_or_create(&folder).unwrap(), first);
        assert_ne!(load_or_create(&dir.path().join("other")).unwrap(), first);
        fs::write(folder.join(FILE), "").unwrap();
        assert!(load_or_create(&folder).is_err());
    }
}
