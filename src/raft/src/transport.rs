//! The seam to the network.

use bytes::Bytes;
use thalweg_core::NodeId;

/// How a message should travel, so that a heartbeat never waits behind a snapshot. Messages of different classes
/// may overtake one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MessageClass {
    /// Votes, heartbeats, read requests: small and urgent.
    Control,
    /// Log entries and their acknowledgements.
    Append,
    /// A whole snapshot, perhaps many megabytes.
    Snapshot,
}

/// Carries opaque messages to other nodes, which give them to [`RaftHandle::step`](crate::RaftHandle::step).
///
/// Best effort: a message may be lost, doubled, delayed or reordered, but not changed. `send` is called from the
/// node's loop and must not block; a transport with a full queue drops the message. The transport makes sure that
/// both ends belong to the same cluster.
pub trait Transport: Send + Sync + 'static {
    /// Sends `message` to `to`.
    fn send(&self, to: NodeId, class: MessageClass, message: Bytes);
}

/// The transport of a group of one: there is nobody to send to.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTransport;

impl Transport for NoTransport {
    fn send(&self, to: NodeId, _class: MessageClass, _message: Bytes) {
        tracing::debug!(%to, "raft message dropped: this node has no transport");
    }
}

impl<T: Transport> Transport for std::sync::Arc<T> {
    fn send(&self, to: NodeId, class: MessageClass, message: Bytes) {
        (**self).send(to, class, message);
    }
}
