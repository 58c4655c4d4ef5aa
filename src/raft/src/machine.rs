//! The seam to what is replicated.

use crate::error::{ApplyError, RestoreError};
use crate::types::Role;
use bytes::Bytes;
use thalweg_core::ClusterId;

/// The replicated state machine. It is owned by the node's loop and called from there only, one call at a time;
/// what others shall see it publishes itself (a watch channel, an atomically swapped image).
///
/// ```text
///   restore(snapshot)  apply(s+1)  apply(s+2) ... role_changed(Leader) apply(n) ... snapshot()
///   └── at start, and when too far behind the leader
/// ```
/// `apply` must be deterministic: time and randomness are part of the command. After a restart everything since
/// the last snapshot is applied again.
pub trait StateMachine: Send + 'static {
    /// What applying a command answers to its proposer.
    type Output: Send + 'static;

    /// Whether the committed command at `index` can be applied here. An error ends the node before it is: a command that only newer
    /// programs know must not be passed over, or this state would no longer be that of the others.
    fn check(&self, _index: u64, _command: &[u8]) -> Result<(), ApplyError> {
        Ok(())
    }

    /// Applies the committed command at `index`. Indexes grow, but not by one each time: Raft uses some itself.
    fn apply(&mut self, index: u64, command: &[u8]) -> Self::Output;

    /// The whole state as of the last applied command. Called on the node's loop: encode quickly.
    fn snapshot(&self) -> Bytes;

    /// Replaces the whole state by that of a snapshot taken at `index`.
    fn restore(&mut self, index: u64, snapshot: &[u8]) -> Result<(), RestoreError>;

    /// The cluster that the state belongs to, once a command or snapshot has said so. The node notes it in its store, and
    /// ends rather than take in the state of another cluster.
    fn cluster_id(&self) -> Option<&ClusterId> {
        None
    }

    /// The node's role changed. `Leader` is told only when everything committed before this leadership has been
    /// applied, so the state may be relied on from then until another role is told.
    fn role_changed(&mut self, _role: Role) {}
}
