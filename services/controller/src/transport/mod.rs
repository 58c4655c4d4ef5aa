//! Raft messages over gRPC, each way on its own.
//!
//! ```text
//!   raft node ──send──▶ queue ─▶ lane task ══ Deliver stream, own connection ══▶ Receiver ──step──▶ raft node
//!                        one for each peer and class, bounded, drops when full
//! ```
//! A heartbeat has a connection to itself, so that it never waits behind entries or a snapshot.

mod hello;
mod lane;
mod receiver;

pub use receiver::Receiver;

use crate::machine::Published;
use crate::peers::Peers;
use crate::quorum::Outcome;
use bytes::Bytes;
use hello::Founding;
use lane::Lane;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;
use thalweg_core::NodeId;
use thalweg_core::metadata::FeatureLevels;
use thalweg_core::metadata::limits::MAX_CONTROLLERS;
use thalweg_raft::{MessageClass, RaftHandle, Transport};
use thalweg_runtime::Dialer;
use tokio::runtime::Handle;

/// The longest piece of a message in one request.
const CHUNK_BYTES: usize = 1 << 20;
/// Pause after a failure, doubled with each further one up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What all lanes share.
pub struct Links {
    dialer: Dialer,
    peers: Arc<Peers>,
    published: Arc<Published>,
    founding: Founding,
    raft: OnceLock<RaftHandle<Outcome>>,
    /// Why a peer refuses this controller, to say it once and not with each attempt.
    refusals: Mutex<BTreeMap<NodeId, String>>,
    runtime: Handle,
}

impl Links {
    /// Links over `dialer` for a group that was founded with these voters; none for one that joined. Its tasks run where this
    /// is called.
    pub fn new(
        dialer: Dialer,
        peers: Arc<Peers>,
        published: Arc<Published>,
        founding: Vec<NodeId>,
    ) -> Arc<Links> {
        Arc::new(Links {
            dialer,
            peers,
            published,
            founding: Founding::new(founding),
            raft: OnceLock::new(),
            refusals: Mutex::default(),
            runtime: Handle::current(),
        })
    }

    /// The node that messages are for, once there is one.
    pub fn attach(&self, raft: RaftHandle<Outcome>) {
        self.raft.get_or_init(|| raft);
    }

    /// Whether a peer can read the log: all can that speak, until the feature level is raised; then those that have said so. An older
    /// one would pass over what it cannot read, and go on with other metadata than the rest. It says so when it answers a heartbeat.
    fn may_read(&self, peer: NodeId) -> bool {
        let level = self.published.image().feature_level();
        level <= FeatureLevels::UNSAID.max
            || self.peers.levels(peer).is_some_and(|levels| levels.contain(level))
    }

    /// Notes a refusal; gives whether it is news.
    fn note_refusal(&self, peer: NodeId, why: Option<String>) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        match why {
            Some(why) => refusals.insert(peer, why.clone()).is_none_or(|before| before != why),
            None => refusals.remove(&peer).is_some(),
        }
    }
}

/// The node's end: takes messages without ever waiting.
pub struct GrpcTransport {
    // The node lives on a thread of its own and holds this; the links hold the node's handle, and a node ends with its handles.
    links: Weak<Links>,
    lanes: Mutex<BTreeMap<(NodeId, u8), Lane>>,
}

impl GrpcTransport {
    /// A transport over these links, which must be kept elsewhere.
    pub fn new(links: &Arc<Links>) -> GrpcTransport {
        GrpcTransport { links: Arc::downgrade(links), lanes: Mutex::default() }
    }
}

impl Transport for GrpcTransport {
    fn send(&self, to: NodeId, class: MessageClass, message: Bytes) {
        let Some(links) = self.links.upgrade() else { return };
        if class != MessageClass::Control && !links.may_read(to) {
            tracing::debug!(%to, ?class, "raft message kept back: what the peer supports is not known, or too little");
            if let Some(raft) = links.raft.get().filter(|_| class == MessageClass::Snapshot) {
                raft.report_snapshot_failed(to);
            }
            return;
        }
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (to, class as u8);
        if !lanes.contains_key(&key) {
            // Members come and go; a lane whose member is gone ends here.
            if lanes.len() >= 3 * MAX_CONTROLLERS {
                lanes.clear();
            }
            lanes.insert(key, Lane::start(&links, to, class));
        }
        if let Some(lane) = lanes.get(&key)
            && !lane.push(message)
        {
            tracing::debug!(%to, ?class, "raft message dropped: its queue is full");
            if let Some(raft) = links.raft.get().filter(|_| class == MessageClass::Snapshot) {
                raft.report_snapshot_failed(to);
            }
        }
    }
}
