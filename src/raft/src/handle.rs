//! How the rest of the process talks to the node's loop.

use crate::config::{INBOX_QUEUE, INBOX_QUEUE_BYTES, MAX_COMMAND_BYTES, REQUEST_QUEUE, REQUEST_QUEUE_BYTES};
use crate::error::RaftError;
use crate::types::{Membership, MembershipChange, Progress, RaftStatus};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use thalweg_core::NodeId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// The answer to one request.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, RaftError>>;

/// What callers ask of the loop.
pub(crate) enum Request<O> {
    Propose { command: Bytes, reply: Reply<(u64, O)>, permit: OwnedSemaphorePermit },
    Read { reply: Reply<u64> },
    Change { change: MembershipChange, reply: Reply<Membership> },
    Transfer { to: NodeId, reply: Reply<()> },
    HandOver { reply: Reply<bool> },
    Progress { reply: Reply<Vec<Progress>> },
}

/// What the transport tells the loop.
pub(crate) enum Inbound {
    Message(Bytes),
    Unreachable(NodeId),
    SnapshotFailed(NodeId),
    Gone(NodeId),
}

/// The loop's ends of the queues.
pub(crate) struct Mailbox<O> {
    pub(crate) requests: mpsc::Receiver<Request<O>>,
    pub(crate) inbox: mpsc::Receiver<Inbound>,
    pub(crate) inbox_bytes: Arc<AtomicUsize>,
    pub(crate) stop: watch::Receiver<bool>,
    pub(crate) status: watch::Sender<RaftStatus>,
}

/// A handle to a running node. Cheap to clone; all clones are equal. When the last one is dropped, the node stops.
pub struct RaftHandle<O> {
    requests: mpsc::Sender<Request<O>>,
    inbox: mpsc::Sender<Inbound>,
    inbox_bytes: Arc<AtomicUsize>,
    budget: Arc<Semaphore>,
    stop: Arc<watch::Sender<bool>>,
    status: watch::Receiver<RaftStatus>,
}

/// What waits for a node's loop, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queued {
    /// Commands, reads and other requests of this process.
    pub requests: usize,
    /// Messages of other nodes.
    pub messages: usize,
}

impl<O> Clone for RaftHandle<O> {
    fn clone(&self) -> Self {
        RaftHandle {
            requests: self.requests.clone(),
            inbox: self.inbox.clone(),
            inbox_bytes: self.inbox_bytes.clone(),
            budget: self.budget.clone(),
            stop: self.stop.clone(),
            status: self.status.clone(),
        }
    }
}

impl<O> std::fmt::Debug for RaftHandle<O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RaftHandle").field("status", &*self.status.borrow()).finish_non_exhaustive()
    }
}

pub(crate) fn channel<O>(status: RaftStatus) -> (RaftHandle<O>, Mailbox<O>) {
    let (request_tx, requests) = mpsc::channel(REQUEST_QUEUE);
    let (inbox_tx, inbox) = mpsc::channel(INBOX_QUEUE);
    let (stop_tx, stop) = watch::channel(false);
    let (status_tx, status) = watch::channel(status);
    let inbox_bytes = Arc::new(AtomicUsize::new(0));
    let handle = RaftHandle {
        requests: request_tx,
        inbox: inbox_tx,
        inbox_bytes: inbox_bytes.clone(),
        budget: Arc::new(Semaphore::new(REQUEST_QUEUE_BYTES)),
        stop: Arc::new(stop_tx),
        status,
    };
    (handle, Mailbox { requests, inbox, inbox_bytes, stop, status: status_tx })
}

impl<O> RaftHandle<O> {
    /// Proposes a command and waits until it is committed and applied here. Answers its index and what applying it
    /// answered. Waits while the node's queue is full.
    ///
    /// Dropping the future does not take the command back.
    ///
    /// Errors: [`RaftError::NotLeader`] and [`RaftError::Dropped`] (nothing happened), [`RaftError::OutcomeUnknown`]
    /// and [`RaftError::Stopped`] (it may have), [`RaftError::EmptyCommand`], [`RaftError::CommandTooLarge`].
    pub async fn propose(&self, command: Bytes) -> Result<(u64, O), RaftError> {
        if command.is_empty() {
            return Err(RaftError::EmptyCommand);
        }
        if command.len() > MAX_COMMAND_BYTES {
            return Err(RaftError::CommandTooLarge { bytes: command.len(), limit: MAX_COMMAND_BYTES });
        }
        let permits = command.len() as u32;
        let permit = self.budget.clone().acquire_many_owned(permits).await.map_err(|_| RaftError::Stopped)?;
        self.ask(|reply| Request::Propose { command, reply, permit }).await
    }

    /// An index such that a state machine which has applied it reflects everything that was acknowledged before
    /// this call, anywhere in the group. Returns when this node has applied it, so its state may be read at once.
    ///
    /// Works on followers too: they ask the leader. Errors: [`RaftError::ReadTimedOut`],
    /// [`RaftError::NotLeader`] (no leader is known), [`RaftError::Stopped`].
    pub async fn read_index(&self) -> Result<u64, RaftError> {
        self.ask(|reply| Request::Read { reply }).await
    }

    /// Changes who takes part, and waits until the change is applied here. Answers the new membership.
    ///
    /// A new voter counts for the quorum at once, however far behind it is: add it as a learner first, and make it
    /// a voter when it has caught up. A node that lost its volume must come back under a new id.
    pub async fn change_membership(&self, change: MembershipChange) -> Result<Membership, RaftError> {
        self.ask(|reply| Request::Change { change, reply }).await
    }

    /// Asks the leader (this node) to hand over to `to`. Returns when that is begun; watch [`Self::status`].
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), RaftError> {
        self.ask(|reply| Request::Transfer { to, reply }).await
    }

    /// Asks the leader (this node) to hand over to the voter that is the furthest among those that answer. Returns when that is
    /// begun: `true`. Without such a voter nothing happens: `false`.
    pub async fn hand_over(&self) -> Result<bool, RaftError> {
        self.ask(|reply| Request::HandOver { reply }).await
    }

    /// How far each member is, learners too, in the order of their ids. Only the leader knows.
    pub async fn progress(&self) -> Result<Vec<Progress>, RaftError> {
        self.ask(|reply| Request::Progress { reply }).await
    }

    /// Takes in a message from a peer. Never waits: `false` means that the queue was full and the message dropped,
    /// or that the node has stopped.
    pub fn step(&self, message: Bytes) -> bool {
        let bytes = message.len();
        let queued = self.inbox_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = queued == 0 || queued + bytes <= INBOX_QUEUE_BYTES;
        if fits && self.inbox.try_send(Inbound::Message(message)).is_ok() {
            return true;
        }
        self.inbox_bytes.fetch_sub(bytes, Ordering::Relaxed);
        false
    }

    /// Tells the node that messages to `peer` do not arrive, so that it probes before it sends more. Optional.
    pub fn report_unreachable(&self, peer: NodeId) {
        // Dropped when the queue is full: it is a hint.
        let _ = self.inbox.try_send(Inbound::Unreachable(peer));
    }

    /// Tells the node that a snapshot to `peer` did not arrive, so that it is sent again before
    /// `snapshot_retry_ticks` have passed. Optional.
    pub fn report_snapshot_failed(&self, peer: NodeId) {
        let _ = self.inbox.try_send(Inbound::SnapshotFailed(peer));
    }

    /// Tells the node that the process of `peer` is gone: its connection broke and it takes no other. A follower whose leader it
    /// is then stands for election without waiting for the election timeout. Wrong news do no harm: the others do not vote
    /// for it as long as they hear the leader. Optional.
    pub fn report_gone(&self, peer: NodeId) {
        let _ = self.inbox.try_send(Inbound::Gone(peer));
    }

    /// The node's status, to read or to watch. The channel closes when the node ends.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.status.clone()
    }

    /// What waits for the node's loop.
    pub fn queued(&self) -> Queued {
        Queued {
            requests: self.requests.max_capacity() - self.requests.capacity(),
            messages: self.inbox.max_capacity() - self.inbox.capacity(),
        }
    }

    /// Asks the node to stop: it refuses new requests, hands leadership over if there is another voter, and ends.
    /// Returns at once; the node's owner sees its end.
    pub fn shutdown(&self) {
        self.stop.send_replace(true);
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request<O>) -> Result<T, RaftError> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| RaftError::Stopped)?;
        answer.await.map_err(|_| RaftError::Stopped)?
    }
}
