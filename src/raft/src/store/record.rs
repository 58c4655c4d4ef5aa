//! The records of a store and their bytes. Integers are big-endian; a list is a `u16` count and its items.

use crate::error::StoreError;
use bytes::Bytes;

/// The most nodes that a list of a stored membership may name.
const MAX_NODES: usize = 1024;

/// What Raft must remember of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// The latest term seen.
    pub term: u64,
    /// Who got this node's vote in that term; 0 is nobody.
    pub vote: u64,
    /// The last index known to be committed. May lag; never ahead of the log, never behind the snapshot.
    pub commit: u64,
}

/// The kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// A command for the state machine, or empty: a new leader's first entry.
    Command = 0,
    /// A membership change in its first form.
    Membership = 1,
    /// A membership change in its second form (joint consensus).
    MembershipV2 = 2,
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its index, from 1.
    pub index: u64,
    /// The term of the leader that appended it.
    pub term: u64,
    /// What `data` is.
    pub kind: EntryKind,
    /// The command, or the encoded membership change.
    pub data: Bytes,
}

/// Who takes part in the group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfState {
    /// Voters.
    pub voters: Vec<u64>,
    /// Learners.
    pub learners: Vec<u64>,
    /// The voters of the old membership, while a joint change is under way.
    pub voters_outgoing: Vec<u64>,
    /// Voters of the old membership that become learners when the joint change ends.
    pub learners_next: Vec<u64>,
    /// Whether Raft ends the joint change by itself.
    pub auto_leave: bool,
}

/// Where a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotMeta {
    /// The last applied index in it.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The membership as of that index.
    pub conf: ConfState,
}

// === bytes ===

/// A cursor that never trusts a length.
pub(super) struct Reader<'a> {
    what: &'static str,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(what: &'static str, bytes: &'a [u8]) -> Reader<'a> {
        Reader { what, rest: bytes }
    }

    fn damaged(&self) -> StoreError {
        StoreError::Damaged { what: format!("a {} is malformed", self.what) }
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or_else(|| self.damaged())?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self) -> Result<u8, StoreError> {
        Ok(self.take::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, StoreError> {
        Ok(u32::from_be_bytes(self.take()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, StoreError> {
        Ok(u64::from_be_bytes(self.take()?))
    }

    fn nodes(&mut self) -> Result<Vec<u64>, StoreError> {
        let count = usize::from(u16::from_be_bytes(self.take()?));
        if count > MAX_NODES {
            return Err(self.damaged());
        }
        (0..count).map(|_| self.u64()).collect()
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(super) fn end(self) -> Result<(), StoreError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.damaged()) }
    }
}

fn put_nodes(out: &mut Vec<u8>, nodes: &[u64]) {
    // A membership of more than MAX_NODES never gets this far: `MembershipChange` adds one node at a time.
    let count = nodes.len().min(MAX_NODES);
    out.extend_from_slice(&(count as u16).to_be_bytes());
    nodes[..count].iter().for_each(|node| out.extend_from_slice(&node.to_be_bytes()));
}

impl HardState {
    pub(super) fn encode(&self) -> Vec<u8> {
        [self.term, self.vote, self.commit].iter().flat_map(|field| field.to_be_bytes()).collect()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<HardState, StoreError> {
        let mut reader = Reader::new("hard state", bytes);
        let state = HardState { term: reader.u64()?, vote: reader.u64()?, commit: reader.u64()? };
        reader.end()?;
        Ok(state)
    }
}

impl EntryKind {
    pub(super) fn decode(byte: u8) -> Result<EntryKind, StoreError> {
        match byte {
            0 => Ok(EntryKind::Command),
            1 => Ok(EntryKind::Membership),
            2 => Ok(EntryKind::MembershipV2),
            _ => Err(StoreError::Damaged { what: format!("a log entry has the unknown kind {byte}") }),
        }
    }
}

impl SnapshotMeta {
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.index.to_be_bytes());
        out.extend_from_slice(&self.term.to_be_bytes());
        out.push(u8::from(self.conf.auto_leave));
        put_nodes(out, &self.conf.voters);
        put_nodes(out, &self.conf.learners);
        put_nodes(out, &self.conf.voters_outgoing);
        put_nodes(out, &self.conf.learners_next);
    }

    pub(super) fn decode(reader: &mut Reader<'_>) -> Result<SnapshotMeta, StoreError> {
        let (index, term) = (reader.u64()?, reader.u64()?);
        let auto_leave = reader.u8()? != 0;
        let conf = ConfState {
            voters: reader.nodes()?,
            learners: reader.nodes()?,
            voters_outgoing: reader.nodes()?,
            learners_next: reader.nodes()?,
            auto_leave,
        };
        Ok(SnapshotMeta { index, term, conf })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes() -> impl Strategy<Value = Vec<u64>> {
        proptest::collection::vec(any::<u64>(), 0..8)
    }

    proptest! {
        #[test]
        fn a_hard_state_reads_back(term: u64, vote: u64, commit: u64) {
            let state = HardState { term, vote, commit };
            prop_assert_eq!(HardState::decode(&state.encode()).unwrap(), state);
        }

        #[test]
        fn a_snapshot_meta_reads_back(
            index: u64, term: u64, auto_leave: bool,
            voters in nodes(), learners in nodes(), voters_outgoing in nodes(), learners_next in nodes(),
        ) {
            let conf = ConfState { voters, learners, voters_outgoing, learners_next, auto_leave };
            let meta = SnapshotMeta { index, term, conf };
            let mut bytes = Vec::new();
            meta.encode(&mut bytes);
            let mut reader = Reader::new("snapshot", &bytes);
            prop_assert_eq!(SnapshotMeta::decode(&mut reader).unwrap(), meta);
            reader.end().unwrap();
            for cut in 0..bytes.len() {
                prop_assert!(SnapshotMeta::decode(&mut Reader::new("snapshot", &bytes[..cut])).is_err());
            }
        }

        #[test]
        fn random_bytes_are_refused_or_read(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = HardState::decode(&bytes);
            let _ = SnapshotMeta::decode(&mut Reader::new("snapshot", &bytes));
        }
    }
}
