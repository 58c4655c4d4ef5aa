//! Where the controllers are reached.

use crate::config::Voter;
use crate::machine::Published;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thalweg_core::NodeId;
use thalweg_core::metadata::limits::MAX_CONTROLLERS;
use thalweg_core::metadata::{Endpoint, FeatureLevels};
use tokio::sync::watch;

/// The addresses of the controllers, from three sources: the metadata, what this controller was told at its start, and what
/// the others say of themselves.
pub struct Peers {
    node_id: NodeId,
    own: Endpoint,
    listed: BTreeMap<NodeId, Endpoint>,
    heard: Mutex<BTreeMap<NodeId, Heard>>,
    changed: watch::Sender<u64>,
    published: Arc<Published>,
}

/// What a controller says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Heard {
    endpoint: Endpoint,
    /// Whether it holds the metadata, or at least has held it: it knows its cluster.
    knows_cluster: bool,
    /// The feature levels that it supports, as far as that still holds.
    levels: Option<FeatureLevels>,
    /// Its streams to this controller that are open.
    streams: usize,
}

/// A stream of a controller that has said who it is. When its last one ends, what it supports is no longer known: it may come back as
/// an older program.
pub struct PeerStream {
    peers: Arc<Peers>,
    /// None if it is not counted.
    id: Option<NodeId>,
}

impl Drop for PeerStream {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.peers.stream_ended(id);
        }
    }
}

impl Peers {
    /// Those listed at the start, and this one at `own`.
    pub fn new(node_id: NodeId, own: Endpoint, listed: &[Voter], published: Arc<Published>) -> Peers {
        Peers {
            node_id,
            own,
            listed: listed.iter().map(|voter| (voter.id, voter.endpoint.clone())).collect(),
            heard: Mutex::default(),
            changed: watch::Sender::new(0),
            published,
        }
    }

    /// This controller.
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Where this controller is reached.
    pub fn own(&self) -> &Endpoint {
        &self.own
    }

    /// A controller says where it is, whether it knows its cluster, and what it supports, on a stream that it has opened.
    pub fn hear(
        self: &Arc<Self>,
        id: NodeId,
        endpoint: Endpoint,
        knows_cluster: bool,
        levels: FeatureLevels,
    ) -> PeerStream {
        let mut heard = self.heard();
        let full = heard.len() >= MAX_CONTROLLERS && !heard.contains_key(&id);
        if full || id == self.node_id {
            return PeerStream { peers: Arc::clone(self), id: None };
        }
        let streams = heard.get(&id).map_or(0, |before| before.streams);
        let mut news = Heard { endpoint, knows_cluster, levels: Some(levels), streams };
        let is_news = heard.get(&id) != Some(&news);
        // With the levels, under one lock: otherwise the end of an older stream could take them away from this one.
        news.streams += 1;
        heard.insert(id, news);
        drop(heard);
        if is_news {
            self.changed.send_modify(|count| *count += 1);
        }
        PeerStream { peers: Arc::clone(self), id: Some(id) }
    }

    fn stream_ended(&self, id: NodeId) {
        let level = self.published.image().feature_level();
        let mut heard = self.heard();
        let Some(heard) = heard.get_mut(&id) else { return };
        heard.streams = heard.streams.saturating_sub(1);
        // What keeps it out may stay until it says otherwise: that does no harm, and tells operators why.
        let keeps_out =
            |levels: FeatureLevels| levels == FeatureLevels::UNSAID || (level > 0 && !levels.contain(level));
        if heard.streams == 0 {
            heard.levels = heard.levels.filter(|levels| keeps_out(*levels));
        }
    }

    /// Changes whenever a controller says something new of itself.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Where a controller that knows its cluster said that it is. Others are not noted in the metadata: see
    /// [`Peers::has_been_noted`].
    pub fn claimed(&self, id: NodeId) -> Option<Endpoint> {
        if id == self.node_id {
            return Some(self.own.clone());
        }
        self.heard().get(&id).filter(|heard| heard.knows_cluster).map(|heard| heard.endpoint.clone())
    }

    /// Which feature levels a controller supports, if it was heard and has not gone since.
    pub fn levels(&self, id: NodeId) -> Option<FeatureLevels> {
        if id == self.node_id {
            return Some(FeatureLevels::OURS);
        }
        self.heard().get(&id).and_then(|heard| heard.levels)
    }

    /// Whether the metadata names the controller. A voter that is named has known its cluster; if it no longer does, its disk
    /// was lost.
    pub fn has_been_noted(&self, id: NodeId) -> bool {
        self.published.image().controllers().any(|(noted, _)| noted == id)
    }

    /// Every address that a controller may have, the best first. An address that does not answer leads to the next: after all
    /// controllers have moved, the metadata names addresses that are gone.
    pub fn candidates(&self, id: NodeId) -> Vec<Endpoint> {
        let image = self.published.image();
        let noted = image.controllers().find(|(known, _)| *known == id).map(|(_, endpoint)| endpoint.clone());
        let heard = self.heard().get(&id).map(|heard| heard.endpoint.clone());
        let mut found: Vec<Endpoint> = Vec::new();
        for endpoint in [noted, self.listed.get(&id).cloned(), heard].into_iter().flatten() {
            if !found.contains(&endpoint) {
                found.push(endpoint);
            }
        }
        found
    }

    /// The best address of a controller.
    pub fn endpoint(&self, id: NodeId) -> Option<Endpoint> {
        if id == self.node_id {
            return Some(self.own.clone());
        }
        self.candidates(id).into_iter().next()
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Endpoint {
        text.parse().unwrap()
    }

    #[test]
    fn a_controllers_own_word_comes_after_what_was_noted_and_listed() {
        let listed: Vec<Voter> = ["1@a:1", "2@b:1"].map(|text| text.parse().unwrap()).to_vec();
        let peers = Arc::new(Peers::new(NodeId(1), at("a:1"), &listed, Published::new(None)));
        let mut changes = peers.changes();
        assert_eq!(peers.candidates(NodeId(2)), [at("b:1")]);
        assert_eq!(peers.endpoint(NodeId(3)), None);
        let ours = FeatureLevels::OURS;
        peers.hear(NodeId(3), at("c:1"), false, FeatureLevels::UNSAID);
        let first = peers.hear(NodeId(2), at("b:2"), true, ours);
        peers.hear(NodeId(1), at("nonsense:1"), true, FeatureLevels::UNSAID);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let second = peers.hear(NodeId(2), at("b:2"), true, ours);
        assert!(!changes.has_changed().unwrap(), "no news");
        assert_eq!(peers.candidates(NodeId(2)), [at("b:1"), at("b:2")]);
        assert_eq!(peers.claimed(NodeId(2)), Some(at("b:2")));
        assert_eq!(peers.endpoint(NodeId(3)), Some(at("c:1")));
        assert_eq!(peers.claimed(NodeId(3)), None, "it does not know its cluster yet");
        assert_eq!(peers.claimed(NodeId(1)), Some(at("a:1")));
        let levels = [1, 2, 3, 4].map(|id| peers.levels(NodeId(id)));
        assert_eq!(levels, [Some(ours), Some(ours), Some(FeatureLevels::UNSAID), None]);
        drop(first);
        assert_eq!(peers.levels(NodeId(2)), Some(ours), "another stream is open");
        drop(second);
        assert_eq!(peers.levels(NodeId(2)), None, "it may come back as an older program");
        assert_eq!(peers.claimed(NodeId(2)), Some(at("b:2")), "its address is known still");
        let _again = peers.hear(NodeId(2), at("b:2"), true, ours);
        assert_eq!(peers.levels(NodeId(2)), Some(ours));
        for id in 10..100 {
            peers.hear(NodeId(id), at("d:1"), true, ours);
        }
        assert!(peers.heard().len() <= MAX_CONTROLLERS);
    }
}
