//! What can go wrong, by who has to know: the caller of one request, or the owner of the whole node.

use crate::config::ConfigError;
use std::io;
use std::path::PathBuf;
use thalweg_core::{ErrorCode, NodeId};

/// Why one request was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RaftError {
    /// This node does not lead; nothing was proposed. Ask the leader.
    #[error("this controller does not lead; the leader is {}", leader.map_or("not known".to_owned(), |id| id.to_string()))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<NodeId>,
    },
    /// The proposal was overwritten by another leader's: it did not and will not happen. Safe to send again.
    #[error("the proposal was dropped: another leader took over")]
    Dropped,
    /// Leadership was lost with the proposal on its way: it may or may not happen.
    #[error("leadership was lost before the proposal was committed; it may still happen")]
    OutcomeUnknown,
    /// No quorum confirmed the read in time.
    #[error("no quorum confirmed the read in time")]
    ReadTimedOut,
    /// The command is empty; Raft keeps the empty entry for itself.
    #[error("an empty command cannot be proposed")]
    EmptyCommand,
    /// The command is too long.
    #[error("the command has {bytes} bytes, more than {limit}")]
    CommandTooLarge {
        /// Its length.
        bytes: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// A membership change is under way; one at a time.
    #[error("another membership change is not finished yet")]
    MembershipChangeInProgress,
    /// The change would make no sense, for example remove the last voter.
    #[error("the membership change is refused: {reason}")]
    MembershipChangeRefused {
        /// Why.
        reason: String,
    },
    /// The node has stopped, or is stopping.
    #[error("the raft node has stopped")]
    Stopped,
}

impl RaftError {
    /// The caller-visible code; it says whether to retry.
    pub fn code(&self) -> ErrorCode {
        match self {
            RaftError::NotLeader { leader: Some(_) } => ErrorCode::NotLeader,
            RaftError::NotLeader { leader: None } | RaftError::Dropped | RaftError::ReadTimedOut => {
                ErrorCode::ControllerNotAvailable
            }
            RaftError::OutcomeUnknown => ErrorCode::RequestTimedOut,
            RaftError::EmptyCommand
            | RaftError::CommandTooLarge { .. }
            | RaftError::MembershipChangeRefused { .. } => ErrorCode::InvalidRequest,
            RaftError::MembershipChangeInProgress => ErrorCode::Throttled,
            RaftError::Stopped => ErrorCode::ShuttingDown,
        }
    }
}

/// Why a store cannot be opened, read or written. After any of them the node must stop: a failed fsync is never
/// tried again, because the kernel may have dropped the pages (catalogue 12).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process, or another node of this process, has the store open.
    #[error("the raft store {} is in use by another process", path.display())]
    InUse {
        /// The store's folder.
        path: PathBuf,
    },
    /// The folder was written by a version this one does not know.
    #[error("the raft store has format {found}; this version reads format {supported}")]
    Format {
        /// The format on disk.
        found: u32,
        /// The format of this version.
        supported: u32,
    },
    /// The folder belongs to another node or cluster.
    #[error("the raft store belongs to {found}, not to {expected}")]
    Identity {
        /// What the folder says.
        found: String,
        /// What this node is.
        expected: String,
    },
    /// The file system failed.
    #[error("raft store: {action} failed: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// How it failed.
        #[source]
        source: io::Error,
    },
    /// The store's bytes make no sense. Remove this voter, wipe its folder, and add it under a new id.
    #[error(
        "the raft store is damaged: {what}; remove this voter from the group and add it again under a new id"
    )]
    Damaged {
        /// What was found.
        what: String,
    },
    /// A test's fault.
    #[error("the test pulled the plug")]
    Unplugged,
}

/// Why a snapshot could not be taken in by the state machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot cannot be read: {reason}")]
pub struct RestoreError {
    /// Why, in words for the operator.
    pub reason: String,
}

/// Why a committed command could not be applied by the state machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the committed command at index {index} cannot be read: {reason}")]
pub struct ApplyError {
    /// Where it is.
    pub index: u64,
    /// Why, in words for the operator.
    pub reason: String,
}

/// Why the node could not start, or why it ended. Its owner must act on it; nothing is retried inside.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RaftFailure {
    /// A setting cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state machine refused a snapshot.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The state machine cannot apply a committed command.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The leader knows that this node had entries which its store does not hold. Its disk was lost or rolled
    /// back, so its votes and acknowledgements cannot be relied on.
    #[error(
        "node {node_id} has acknowledged entries up to {acknowledged} but its store ends at {last_index}: its volume \
         was lost or is an old copy; remove this voter from the group and add it again, empty, under a new id"
    )]
    LostEntries {
        /// This node.
        node_id: NodeId,
        /// What the leader knows to be stored here.
        acknowledged: u64,
        /// What is.
        last_index: u64,
    },
    /// The raft crate failed where it must not.
    #[error("the raft core failed: {reason}")]
    Core {
        /// Its words.
        reason: String,
    },
    /// The thread could not be started.
    #[error("the raft thread cannot be started")]
    Spawn(#[source] io::Error),
    /// The node's thread panicked: a bug, or the raft crate met a state it forbids.
    #[error("the raft thread panicked: {message}")]
    Panicked {
        /// The panic's message.
        message: String,
    },
}

impl RaftFailure {
    /// The code under which the failure is reported.
    pub fn code(&self) -> ErrorCode {
        match self {
            RaftFailure::Config(_) => ErrorCode::InvalidConfig,
            RaftFailure::Store(_) => ErrorCode::StorageError,
            _ => ErrorCode::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::Retriable;

    #[test]
    fn a_caller_is_told_whether_to_try_again() {
        assert_eq!(
            RaftError::NotLeader { leader: Some(NodeId(2)) }.code().retriable(),
            Retriable::AfterRefresh
        );
        assert_eq!(RaftError::NotLeader { leader: None }.code().retriable(), Retriable::Yes);
        assert_eq!(RaftError::Dropped.code().retriable(), Retriable::Yes);
        assert_eq!(RaftError::EmptyCommand.code().retriable(), Retriable::No);
        assert_eq!(
            RaftError::NotLeader { leader: None }.to_string(),
            "this controller does not lead; the leader is not known"
        );
    }
}
