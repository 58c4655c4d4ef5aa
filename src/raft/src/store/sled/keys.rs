//! The keys of the tree. Numbers are big-endian, so keys sort as their numbers do.

use crate::error::StoreError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// Format, node id, cluster id.
    Identity,
    /// Term, vote, commit.
    HardState,
    /// Index and term of the entry before the first one kept.
    LogStart,
    /// Generation, length, index, term and membership of the current snapshot.
    Snapshot,
    /// Starts of the node.
    Incarnation,
    /// An entry, with the beginning of its data.
    Entry(u64),
    /// A further part of an entry's data.
    EntryPart(u64, u32),
    /// A part of a snapshot's data.
    SnapshotPart(u64, u32),
}

impl Key {
    pub(super) const ENTRIES: &'static [u8] = b"E";
    pub(super) const PARTS: &'static [u8] = b"X";
    pub(super) const SNAPSHOTS: &'static [u8] = b"S";

    pub(super) fn encode(self) -> Vec<u8> {
        match self {
            Key::Identity => b"MI".to_vec(),
            Key::HardState => b"MH".to_vec(),
            Key::LogStart => b"ML".to_vec(),
            Key::Snapshot => b"MS".to_vec(),
            Key::Incarnation => b"MN".to_vec(),
            Key::Entry(index) => numbered(Self::ENTRIES, index, None),
            Key::EntryPart(index, part) => numbered(Self::PARTS, index, Some(part)),
            Key::SnapshotPart(generation, part) => numbered(Self::SNAPSHOTS, generation, Some(part)),
        }
    }

    /// The prefix of all parts of an entry.
    pub(super) fn entry_parts(index: u64) -> Vec<u8> {
        numbered(Self::PARTS, index, None)
    }

    /// The prefix of all parts of a snapshot.
    pub(super) fn snapshot_parts(generation: u64) -> Vec<u8> {
        numbered(Self::SNAPSHOTS, generation, None)
    }

    /// The index in the key of an entry or of a part of one.
    pub(super) fn entry_index(key: &[u8]) -> Result<u64, StoreError> {
        number(key)
    }
}

fn numbered(prefix: &[u8], number: u64, part: Option<u32>) -> Vec<u8> {
    let mut key = prefix.to_vec();
    key.extend_from_slice(&number.to_be_bytes());
    if let Some(part) = part {
        key.extend_from_slice(&part.to_be_bytes());
    }
    key
}

fn number(key: &[u8]) -> Result<u64, StoreError> {
    key.get(1..)
        .and_then(|rest| rest.first_chunk::<8>())
        .map(|bytes| u64::from_be_bytes(*bytes))
        .ok_or_else(|| StoreError::Damaged { what: "a key is malformed".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_read_back() {
        assert!(Key::Entry(255).encode() < Key::Entry(256).encode());
        assert!(Key::EntryPart(1, 300).encode() < Key::EntryPart(2, 0).encode());
        assert_eq!(Key::entry_index(&Key::Entry(7).encode()).unwrap(), 7);
        assert_eq!(Key::entry_index(&Key::EntryPart(7, 9).encode()).unwrap(), 7);
        assert!(Key::SnapshotPart(3, 9).encode() < Key::snapshot_parts(4));
        assert!(Key::entry_index(b"E123").is_err());
    }
}
