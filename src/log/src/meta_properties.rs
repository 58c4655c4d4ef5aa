//! `meta.properties`, Kafka's version 1: says to whom a data directory belongs, so that a folder of another cluster or node,
//! or of a newer program, is refused before anything in it is touched.

use crate::state_file::{self, StateFileError};
use crate::storage::Storage;
use crate::uuid_text::DirectoryId;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use thalweg_core::{BrokerId, ClusterId};

/// The file's name in each data directory.
pub const META_PROPERTIES: &str = "meta.properties";

/// Why a properties file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PropertiesError {
    /// The bytes are not UTF-8.
    #[error("the file is not text")]
    NotText,
    /// A line is neither a comment nor `key=value`.
    #[error("line {line} is not of the form key=value")]
    Line {
        /// The line's number, from 1.
        line: usize,
    },
    /// A key is not there.
    #[error("the key {key} is missing")]
    Missing {
        /// The key.
        key: &'static str,
    },
    /// A value cannot be read.
    #[error("the key {key} has the illegal value {value:?}")]
    Illegal {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
    },
    /// The file is of another version of the format.
    #[error(
        "the folder has format version {found}, this program knows version {known}; use the program that wrote it"
    )]
    Version {
        /// The version in the file.
        found: u32,
        /// The version that is known.
        known: u32,
    },
    /// The folder belongs to another cluster.
    #[error(
        "the folder belongs to cluster {found}, this is cluster {expected}; use another folder, or join that cluster"
    )]
    OtherCluster {
        /// The cluster in the file.
        found: ClusterId,
        /// This cluster.
        expected: ClusterId,
    },
    /// The folder belongs to another node.
    #[error(
        "the folder belongs to node {found}, this is node {expected}; start it with that node id or use another folder"
    )]
    OtherNode {
        /// The node in the file.
        found: BrokerId,
        /// This node.
        expected: BrokerId,
    },
}

/// Whose a data directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaProperties {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node.
    pub node_id: BrokerId,
    /// The directory's own id.
    pub directory_id: DirectoryId,
}

const VERSION: u32 = 1;

impl MetaProperties {
    /// The file's text, keys in the order that Kafka's tools write.
    pub fn encode(&self) -> String {
        let MetaProperties { cluster_id, node_id, directory_id } = self;
        let cluster_id = escape(&cluster_id.0);
        format!(
            "#\ncluster.id={cluster_id}\ndirectory.id={directory_id}\nnode.id={node_id}\nversion={VERSION}\n"
        )
    }

    /// Reads the file's text. Unknown keys are passed over.
    pub fn decode(bytes: &[u8]) -> Result<MetaProperties, PropertiesError> {
        let values = parse(bytes)?;
        let version = values.number::<u32>("version")?;
        if version != VERSION {
            return Err(PropertiesError::Version { found: version, known: VERSION });
        }
        let cluster_id = values.get("cluster.id")?;
        if cluster_id.is_empty() {
            return Err(PropertiesError::Illegal { key: "cluster.id", value: String::new() });
        }
        let node_id: i32 = values.number("node.id")?;
        if node_id < 0 {
            return Err(PropertiesError::Illegal { key: "node.id", value: node_id.to_string() });
        }
        Ok(MetaProperties {
            cluster_id: ClusterId(Arc::from(cluster_id)),
            node_id: BrokerId(node_id),
            directory_id: values.number("directory.id")?,
        })
    }

    /// Refuses a folder of another cluster or node.
    pub fn check_owner(&self, cluster_id: &ClusterId, node_id: BrokerId) -> Result<(), PropertiesError> {
        if self.cluster_id != *cluster_id {
            let (found, expected) = (self.cluster_id.clone(), cluster_id.clone());
            return Err(PropertiesError::OtherCluster { found, expected });
        }
        if self.node_id != node_id {
            return Err(PropertiesError::OtherNode { found: self.node_id, expected: node_id });
        }
        Ok(())
    }

    /// Reads the directory's file; `None` if it was never used.
    pub fn read(storage: &dyn Storage, dir: &Path) -> Result<Option<MetaProperties>, StateFileError> {
        let path = dir.join(META_PROPERTIES);
        let Some(bytes) = state_file::read(storage, &path)? else { return Ok(None) };
        Self::decode(&bytes).map(Some).map_err(|err| StateFileError::new(&path, err))
    }

    /// Claims a directory: checks its file, or writes one with `new_id` (random, from the caller) if there is none.
    /// The caller holds the directory's lock.
    pub fn claim(
        storage: &dyn Storage,
        dir: &Path,
        cluster_id: &ClusterId,
        node_id: BrokerId,
        new_id: DirectoryId,
    ) -> Result<MetaProperties, StateFileError> {
        let path = dir.join(META_PROPERTIES);
        if let Some(found) = Self::read(storage, dir)? {
            found.check_owner(cluster_id, node_id).map_err(|err| StateFileError::new(&path, err))?;
            return Ok(found);
        }
        let new = MetaProperties { cluster_id: cluster_id.clone(), node_id, directory_id: new_id };
        state_file::replace(storage, &path, new.encode().as_bytes())?;
        Ok(new)
    }
}

/// The keys and values of a properties file.
pub(crate) struct Properties(HashMap<String, String>);

impl Properties {
    pub(crate) fn get(&self, key: &'static str) -> Result<&str, PropertiesError> {
        self.0.get(key).map(String::as_str).ok_or(PropertiesError::Missing { key })
    }

    pub(crate) fn number<T: std::str::FromStr>(&self, key: &'static str) -> Result<T, PropertiesError> {
        let value = self.get(key)?;
        value.parse().map_err(|_| PropertiesError::Illegal { key, value: value.to_owned() })
    }
}

/// Reads Java's properties as far as such files use them: `key=value` or `key: value`, comments with `#` or `!`, and a
/// backslash before a character that stands for itself.
pub(crate) fn parse(bytes: &[u8]) -> Result<Properties, PropertiesError> {
    let text = std::str::from_utf8(bytes).map_err(|_| PropertiesError::NotText)?;
    let mut values = HashMap::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let error = || PropertiesError::Line { line: i + 1 };
        let (key, value) = line.split_once(['=', ':']).ok_or_else(error)?;
        values.insert(key.trim_end().to_owned(), unescape(value.trim_start()).ok_or_else(error)?);
    }
    Ok(Properties(values))
}

/// Java escapes these in values.
const ESCAPED: [char; 5] = ['\\', ':', '=', '#', '!'];

fn escape(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for c in value.chars() {
        if ESCAPED.contains(&c) {
            text.push('\\');
        }
        text.push(c);
    }
    text
}

/// `None` for the escapes that such values never need: control characters and code points.
fn unescape(text: &str) -> Option<String> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.push(chars.next().filter(|c| !c.is_ascii_alphanumeric())?),
            c => value.push(c),
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state_file::StateFileErrorKind;
    use crate::storage::SimStorage;

    const ID: DirectoryId = DirectoryId([7; 16]);

    fn cluster(name: &str) -> ClusterId {
        ClusterId(Arc::from(name))
    }

    #[test]
    fn kafkas_own_file_is_read() {
        let text = b"#\n#Thu Nov 20 10:00:00 UTC 2025\ncluster.id=4L6g3nShT-eMCtK--X86sw\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ\nnode.id=3\nversion=1\n";
        let meta = MetaProperties::decode(text).unwrap();
        assert_eq!(meta.cluster_id, cluster("4L6g3nShT-eMCtK--X86sw"));
        assert_eq!(meta.node_id, BrokerId(3));
        assert_eq!(meta.directory_id, DirectoryId(1u128.to_be_bytes()));
    }

    #[test]
    fn the_text_reads_back() {
        for name in ["plain", "with=equals:and#more!\\"] {
            let meta = MetaProperties { cluster_id: cluster(name), node_id: BrokerId(0), directory_id: ID };
            assert_eq!(MetaProperties::decode(meta.encode().as_bytes()), Ok(meta));
        }
    }

    #[test]
    fn bad_files_are_refused_with_the_reason() {
        use PropertiesError::*;
        let rest = "\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ\n";
        let cases: [(String, PropertiesError); 7] = [
            (String::new(), Missing { key: "version" }),
            ("version=2\n".into(), Version { found: 2, known: 1 }),
            ("version=0\nbroker.id=1\n".into(), Version { found: 0, known: 1 }),
            ("version=x\n".into(), Illegal { key: "version", value: "x".into() }),
            ("version\n".into(), Line { line: 1 }),
            (format!("version=1\nnode.id=1{rest}"), Missing { key: "cluster.id" }),
            (
                format!("version=1\ncluster.id=c\nnode.id=-1{rest}"),
                Illegal { key: "node.id", value: "-1".into() },
            ),
        ];
        for (text, why) in cases {
            assert_eq!(MetaProperties::decode(text.as_bytes()), Err(why), "{text}");
        }
        assert_eq!(MetaProperties::decode(b"\xff"), Err(NotText));
    }

    #[test]
    fn a_folder_is_claimed_once_and_kept() {
        let sim = SimStorage::new(1);
        let dir = Path::new("/data");
        sim.create_dir_all(dir).unwrap();
        let mine = MetaProperties::claim(&sim, dir, &cluster("a"), BrokerId(1), ID).unwrap();
        sim.power_cut_strict();
        let other_id = DirectoryId([9; 16]);
        assert_eq!(MetaProperties::claim(&sim, dir, &cluster("a"), BrokerId(1), other_id).unwrap(), mine);
        let err = MetaProperties::claim(&sim, dir, &cluster("b"), BrokerId(1), ID).unwrap_err();
        assert!(matches!(err.kind, StateFileErrorKind::Properties(PropertiesError::OtherCluster { .. })));
        assert!(err.to_string().contains("/data/meta.properties") && err.to_string().contains("cluster a"));
        let err = MetaProperties::claim(&sim, dir, &cluster("a"), BrokerId(2), ID).unwrap_err();
        assert!(matches!(err.kind, StateFileErrorKind::Properties(PropertiesError::OtherNode { .. })));
    }
}
