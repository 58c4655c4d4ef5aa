//! `partition.metadata`: the id of the topic that a partition's folder belongs to (KIP-516), so that a topic deleted and
//! created again under its old name does not inherit old records.

use crate::meta_properties::{PropertiesError, parse};
use crate::state_file::{self, StateFileError};
use crate::storage::{OpenMode, Storage};
use crate::uuid_text;
use std::io::{self, IoSlice};
use std::path::Path;
use thalweg_core::TopicId;

/// The file's name in a partition's folder.
pub const PARTITION_METADATA: &str = "partition.metadata";

const VERSION: u32 = 0;

/// The file's text, as Kafka writes it.
pub fn encode(topic_id: TopicId) -> String {
    format!("version: {VERSION}\ntopic_id: {}\n", uuid_text::encode(&topic_id.0))
}

/// Reads the file's text.
pub fn decode(bytes: &[u8]) -> Result<TopicId, PropertiesError> {
    let values = parse(bytes)?;
    let version = values.number::<u32>("version")?;
    if version != VERSION {
        return Err(PropertiesError::Version { found: version, known: VERSION });
    }
    let text = values.get("topic_id")?;
    match uuid_text::decode(text) {
        // Kafka's all-zero id means "none", which no topic may have.
        Some(id) if id != [0; 16] => Ok(TopicId(id)),
        _ => Err(PropertiesError::Illegal { key: "topic_id", value: text.to_owned() }),
    }
}

/// Reads the file of a partition's folder; `None` if there is none.
pub fn read(storage: &dyn Storage, partition_dir: &Path) -> Result<Option<TopicId>, StateFileError> {
    let path = partition_dir.join(PARTITION_METADATA);
    let Some(bytes) = state_file::read(storage, &path)? else { return Ok(None) };
    decode(&bytes).map(Some).map_err(|err| StateFileError::new(&path, err))
}

/// Writes the file of a partition's folder, stable when this returns.
pub fn write(storage: &dyn Storage, partition_dir: &Path, topic_id: TopicId) -> Result<(), StateFileError> {
    state_file::replace(storage, &partition_dir.join(PARTITION_METADATA), encode(topic_id).as_bytes())
}

/// Writes the file of a folder that was just made. Stable only with its batch: a crash before that may leave half a file, which
/// counts as none while the folder holds no record.
pub(crate) fn write_in_batch(
    storage: &dyn Storage,
    partition_dir: &Path,
    topic_id: TopicId,
) -> Result<(), StateFileError> {
    let path = partition_dir.join(PARTITION_METADATA);
    let write = || {
        let file = storage.open(&path, OpenMode::Truncate)?;
        file.write_all_at(&mut [IoSlice::new(encode(topic_id).as_bytes())], 0)
    };
    write().map_err(|err: io::Error| StateFileError::new(&path, err))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::SimStorage;

    #[test]
    fn the_text_is_kafkas_and_reads_back() {
        let id = TopicId(*b"0123456789abcdef");
        assert_eq!(encode(id), "version: 0\ntopic_id: MDEyMzQ1Njc4OWFiY2RlZg\n");
        assert_eq!(decode(encode(id).as_bytes()), Ok(id));
    }

    #[test]
    fn bad_files_are_refused() {
        for bad in [
            "",
            "version: 1\ntopic_id: MDEyMzQ1Njc4OWFiY2RlZg\n",
            "version: 0\n",
            "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA\n",
            "version: 0\ntopic_id: short\n",
        ] {
            assert!(decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_file_survives_a_power_cut() {
        let sim = SimStorage::new(1);
        let dir = Path::new("/t-0");
        sim.create_dir_all(dir).unwrap();
        assert_eq!(read(&sim, dir).unwrap(), None);
        write(&sim, dir, TopicId([5; 16])).unwrap();
        sim.power_cut_strict();
        assert_eq!(read(&sim, dir).unwrap(), Some(TopicId([5; 16])));
    }
}
