//! Between our records and the raft crate's messages, and between those and bytes.

use crate::config::MAX_MESSAGE_BYTES;
use crate::store::{ConfState, EntryKind, HardState, LogEntry, Snapshot, SnapshotMeta};
use crate::transport::MessageClass;
use crate::types::{Membership, MembershipChange};
use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{self, ConfChangeSingle, ConfChangeType, ConfChangeV2, EntryType, Message, MessageType};
use thalweg_core::NodeId;

/// Why bytes from a peer are not a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("a raft message of {0} bytes is too large")]
    TooLarge(usize),
    #[error("bytes that are not a raft message")]
    Malformed(#[from] protobuf::ProtobufError),
}

pub(crate) fn encode_message(message: &Message) -> Result<Bytes, WireError> {
    Ok(message.write_to_bytes()?.into())
}

pub(crate) fn decode_message(bytes: &[u8]) -> Result<Message, WireError> {
    if bytes.len() > MAX_MESSAGE_BYTES {
        return Err(WireError::TooLarge(bytes.len()));
    }
    Ok(Message::parse_from_bytes(bytes)?)
}

pub(crate) fn class(message: &Message) -> MessageClass {
    match message.get_msg_type() {
        MessageType::MsgSnapshot => MessageClass::Snapshot,
        MessageType::MsgAppend | MessageType::MsgAppendResponse => MessageClass::Append,
        _ => MessageClass::Control,
    }
}

// === entries ===

pub(crate) fn entry_to_raft(entry: LogEntry) -> eraftpb::Entry {
    let mut out = eraftpb::Entry::default();
    out.set_entry_type(match entry.kind {
        EntryKind::Command => EntryType::EntryNormal,
        EntryKind::Membership => EntryType::EntryConfChange,
        EntryKind::MembershipV2 => EntryType::EntryConfChangeV2,
    });
    out.index = entry.index;
    out.term = entry.term;
    out.data = entry.data;
    out
}

pub(crate) fn entry_from_raft(entry: &eraftpb::Entry) -> LogEntry {
    let kind = match entry.get_entry_type() {
        EntryType::EntryNormal => EntryKind::Command,
        EntryType::EntryConfChange => EntryKind::Membership,
        EntryType::EntryConfChangeV2 => EntryKind::MembershipV2,
    };
    LogEntry { index: entry.index, term: entry.term, kind, data: entry.data.clone() }
}

// === states ===

pub(crate) fn hard_state_to_raft(state: HardState) -> eraftpb::HardState {
    eraftpb::HardState { term: state.term, vote: state.vote, commit: state.commit, ..Default::default() }
}

pub(crate) fn hard_state_from_raft(state: &eraftpb::HardState) -> HardState {
    HardState { term: state.term, vote: state.vote, commit: state.commit }
}

pub(crate) fn conf_to_raft(conf: &ConfState) -> eraftpb::ConfState {
    let mut out = eraftpb::ConfState::default();
    out.set_voters(conf.voters.clone());
    out.set_learners(conf.learners.clone());
    out.set_voters_outgoing(conf.voters_outgoing.clone());
    out.set_learners_next(conf.learners_next.clone());
    out.auto_leave = conf.auto_leave;
    out
}

pub(crate) fn conf_from_raft(conf: &eraftpb::ConfState) -> ConfState {
    // The crate collects these from hash sets; sorted, equal memberships have equal bytes.
    let sorted = |nodes: &[u64]| {
        let mut nodes = nodes.to_vec();
        nodes.sort_unstable();
        nodes
    };
    ConfState {
        voters: sorted(conf.get_voters()),
        learners: sorted(conf.get_learners()),
        voters_outgoing: sorted(conf.get_voters_outgoing()),
        learners_next: sorted(conf.get_learners_next()),
        auto_leave: conf.auto_leave,
    }
}

pub(crate) fn membership(conf: &ConfState) -> Membership {
    let ids = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect();
    Membership { voters: ids(&conf.voters), learners: ids(&conf.learners) }
}

pub(crate) fn snapshot_meta_to_raft(meta: &SnapshotMeta) -> eraftpb::SnapshotMetadata {
    let mut out = eraftpb::SnapshotMetadata { index: meta.index, term: meta.term, ..Default::default() };
    out.set_conf_state(conf_to_raft(&meta.conf));
    out
}

pub(crate) fn snapshot_to_raft(snapshot: Snapshot) -> eraftpb::Snapshot {
    let mut out = eraftpb::Snapshot::default();
    out.set_metadata(snapshot_meta_to_raft(&snapshot.meta));
    out.data = snapshot.data;
    out
}

pub(crate) fn snapshot_from_raft(snapshot: &eraftpb::Snapshot) -> Snapshot {
    let meta = snapshot.get_metadata();
    Snapshot {
        meta: SnapshotMeta {
            index: meta.index,
            term: meta.term,
            conf: conf_from_raft(meta.get_conf_state()),
        },
        data: snapshot.data.clone(),
    }
}

// === membership changes ===

pub(crate) fn change_to_raft(change: MembershipChange) -> ConfChangeV2 {
    let (kind, node) = match change {
        MembershipChange::AddVoter(node) => (ConfChangeType::AddNode, node),
        MembershipChange::AddLearner(node) => (ConfChangeType::AddLearnerNode, node),
        MembershipChange::Remove(node) => (ConfChangeType::RemoveNode, node),
    };
    let mut single = ConfChangeSingle::default();
    single.set_change_type(kind);
    single.node_id = node.get();
    let mut out = ConfChangeV2::default();
    out.set_changes(vec![single].into());
    out
}

/// The change in a committed entry; `None` for the entry kinds that carry none.
pub(crate) fn change_of(entry: &eraftpb::Entry) -> Result<Option<ConfChangeV2>, WireError> {
    use raft::eraftpb::ConfChange;
    match entry.get_entry_type() {
        EntryType::EntryNormal => Ok(None),
        EntryType::EntryConfChange => {
            let change = ConfChange::parse_from_bytes(&entry.data)?;
            let mut single = ConfChangeSingle::default();
            single.set_change_type(change.get_change_type());
            single.node_id = change.node_id;
            let mut out = ConfChangeV2::default();
            out.set_changes(vec![single].into());
            Ok(Some(out))
        }
        EntryType::EntryConfChangeV2 => Ok(Some(ConfChangeV2::parse_from_bytes(&entry.data)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_snapshots_survive_the_way_to_raft_and_back() {
        for kind in [EntryKind::Command, EntryKind::Membership, EntryKind::MembershipV2] {
            let entry = LogEntry { index: 7, term: 3, kind, data: Bytes::from_static(b"x") };
            assert_eq!(entry_from_raft(&entry_to_raft(entry.clone())), entry);
        }
        let conf =
            ConfState { voters: vec![1, 2], learners: vec![3], auto_leave: true, ..ConfState::default() };
        let snapshot =
            Snapshot { meta: SnapshotMeta { index: 9, term: 2, conf }, data: Bytes::from_static(b"state") };
        assert_eq!(snapshot_from_raft(&snapshot_to_raft(snapshot.clone())), snapshot);
    }

    #[test]
    fn bytes_that_are_no_message_are_refused() {
        assert!(decode_message(&[0xff; 40]).is_err());
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgHeartbeat);
        message.to = 2;
        let bytes = encode_message(&message).unwrap();
        assert_eq!(decode_message(&bytes).unwrap(), message);
    }
}
