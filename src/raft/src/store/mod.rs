//! The seam to the disk: what a Raft node must not forget.
//!
//! ```text
//!   snapshot (index 40)        log: 39 40 41 42 43 44        hard state: term, vote, commit
//!   ├ membership               ├──────┘            │         commit is in [snapshot index, last index]
//!   └ data                     kept tail     last index
//! ```
//! Two implementations, one conformance suite: [`SledStore`] and [`MemStore`].

mod mem;
mod record;
mod sled;

pub use mem::{MemDisk, MemStore, WritePoint};
pub use record::{ConfState, EntryKind, HardState, LogEntry, SnapshotMeta};
pub use sled::SledStore;

use crate::error::StoreError;
use bytes::Bytes;
use thalweg_core::{ClusterId, NodeId};

/// Whose store it is. Written when it is founded, checked whenever it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The cluster; `None` while it is not known: the first leader of a new group draws its id.
    pub cluster_id: Option<ClusterId>,
    /// The node.
    pub node_id: NodeId,
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.cluster_id {
            Some(cluster_id) => write!(f, "node {} of cluster {cluster_id}", self.node_id),
            None => write!(f, "node {} of a cluster not known yet", self.node_id),
        }
    }
}

impl Identity {
    /// What a store of `self` is after it was opened as `expected`: one that knows its cluster keeps it.
    fn opened_as(&self, expected: &Identity) -> Result<Identity, StoreError> {
        let same_cluster = match (&self.cluster_id, &expected.cluster_id) {
            (Some(found), Some(expected)) => found == expected,
            _ => true,
        };
        if self.node_id != expected.node_id || !same_cluster {
            return Err(StoreError::Identity { found: self.to_string(), expected: expected.to_string() });
        }
        let cluster_id = self.cluster_id.clone().or_else(|| expected.cluster_id.clone());
        Ok(Identity { cluster_id, node_id: self.node_id })
    }
}

/// A snapshot with its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where in the log it was taken, and who took part then.
    pub meta: SnapshotMeta,
    /// The state machine's state.
    pub data: Bytes,
}

/// Everything that must reach the disk together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// A snapshot to install. What the log then holds up to its index may stay or go.
    pub snapshot: Option<Snapshot>,
    /// Set with a snapshot that came from the leader: the whole log is dropped and starts behind the snapshot.
    pub reset_log: bool,
    /// Entries to append, without gaps. They replace whatever the log holds from the first one's index on.
    pub entries: Vec<LogEntry>,
    /// The new hard state.
    pub hard_state: Option<HardState>,
}

impl WriteBatch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.snapshot.is_none() && self.entries.is_empty() && self.hard_state.is_none()
    }
}

/// What a store holds, without the bulk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// Term, vote and commit index; all 0 in an empty store.
    pub hard_state: HardState,
    /// The latest snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The index and term of the entry before the first one kept; (0, 0) in an empty store.
    pub log_start: (u64, u64),
    /// The index of the last entry; that of `log_start` if there are none.
    pub last_index: u64,
}

/// The durable state of one node. Exclusive: a second opener is refused with [`StoreError::InUse`].
///
/// A node reads back what it wrote, also before a crash; after a crash it finds every batch for which `write`
/// returned `Ok`, and of any other batch either all or nothing.
pub trait RaftStore: Send + 'static {
    /// Whose store it is.
    fn identity(&self) -> &Identity;

    /// Notes the cluster that the store belongs to, durably, if it was not known.
    ///
    /// Errors: [`StoreError::Identity`] if it belongs to another.
    fn learn_cluster(&mut self, cluster_id: &ClusterId) -> Result<(), StoreError>;

    /// Counts the starts of this node, durably: 1 at the first call ever. Tags requests, so that an answer to an
    /// earlier life is not taken for one to this.
    fn begin_incarnation(&mut self) -> Result<u64, StoreError>;

    /// What the store holds.
    fn summary(&self) -> Result<Summary, StoreError>;

    /// The entries `low..high`, in order, as many as fit in `max_bytes` of data, but at least one. All of them
    /// must exist.
    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<LogEntry>, StoreError>;

    /// The term of one kept entry.
    fn term(&self, index: u64) -> Result<u64, StoreError>;

    /// The latest snapshot with its data.
    fn snapshot(&self) -> Result<Option<Snapshot>, StoreError>;

    /// Writes a batch, all or nothing, and returns when it would survive a power cut.
    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError>;

    /// Forgets the entries up to and including `index`, which a snapshot must cover. No-op if they are gone.
    fn compact(&mut self, index: u64) -> Result<(), StoreError>;
}

impl<S: RaftStore + ?Sized> RaftStore for Box<S> {
    fn identity(&self) -> &Identity {
        (**self).identity()
    }

    fn learn_cluster(&mut self, cluster_id: &ClusterId) -> Result<(), StoreError> {
        (**self).learn_cluster(cluster_id)
    }

    fn begin_incarnation(&mut self) -> Result<u64, StoreError> {
        (**self).begin_incarnation()
    }

    fn summary(&self) -> Result<Summary, StoreError> {
        (**self).summary()
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<LogEntry>, StoreError> {
        (**self).entries(low, high, max_bytes)
    }

    fn term(&self, index: u64) -> Result<u64, StoreError> {
        (**self).term(index)
    }

    fn snapshot(&self) -> Result<Option<Snapshot>, StoreError> {
        (**self).snapshot()
    }

    fn write(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        (**self).write(batch)
    }

    fn compact(&mut self, index: u64) -> Result<(), StoreError> {
        (**self).compact(index)
    }
}
