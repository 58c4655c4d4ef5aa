//! One partition as the cluster knows it.

use crate::replication::effective_min_insync;
use crate::{BrokerId, LeaderEpoch, PartitionEpoch};
use serde::{Deserialize, Serialize};

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionImage {
    /// The leader, or [`BrokerId::NONE`] while there is none.
    pub leader: BrokerId,
    /// Counts the changes of the leader, from 0.
    pub leader_epoch: LeaderEpoch,
    /// Counts every change of this partition, from 0.
    pub partition_epoch: PartitionEpoch,
    /// Every replica; the first is the preferred leader. During a reassignment those that shall be come first, then those
    /// that shall go.
    pub replicas: Vec<BrokerId>,
    /// The replicas in sync, in the order of `replicas`. Never empty: the last one stays even when it is gone.
    pub isr: Vec<BrokerId>,
    /// Replicas out of the ISR that are known to hold all that was committed (KIP-966), in the order of `replicas`. Only while
    /// the ISR is smaller than `min.insync.replicas`, because nothing is committed then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elr: Vec<BrokerId>,
    /// Replicas being added by a reassignment, in the order of `replicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adding: Vec<BrokerId>,
    /// Replicas being removed by a reassignment: the end of `replicas`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removing: Vec<BrokerId>,
    /// The only replica that held all that was committed came back without its log directory. Nobody leads until it brings it,
    /// or until someone elects another one uncleanly.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

impl PartitionImage {
    /// Whether it has a leader.
    pub fn is_online(&self) -> bool {
        self.leader != BrokerId::NONE
    }

    /// Whether some replica that is not just being added is not in sync.
    pub fn is_under_replicated(&self) -> bool {
        self.settled_replicas().any(|id| !self.isr.contains(&id))
    }

    /// The replica that should lead when it can.
    pub fn preferred_leader(&self) -> BrokerId {
        self.replicas.first().copied().unwrap_or(BrokerId::NONE)
    }

    /// Whether a reassignment is under way.
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }

    /// The replicas that it shall have: all, but those being removed. The preferred leader comes first.
    pub fn target_replicas(&self) -> impl Iterator<Item = BrokerId> {
        self.replicas.iter().copied().filter(|id| !self.removing.contains(id))
    }

    /// The replicas that it has for good or still has: all, but those being added. A cancelled reassignment ends with them.
    pub fn settled_replicas(&self) -> impl Iterator<Item = BrokerId> {
        self.replicas.iter().copied().filter(|id| !self.adding.contains(id))
    }

    /// How many replicas must be in sync for acks=all and for the high watermark to move, given `min.insync.replicas`: never
    /// more than the partition has, those being added not counted, so that growing it does not stop it.
    pub fn min_insync(&self, min_insync_replicas: usize) -> usize {
        effective_min_insync(min_insync_replicas, self.settled_replicas().count())
    }

    /// Whether a clean election may choose it, if it is active: it holds all that was committed.
    pub fn is_eligible(&self, id: BrokerId) -> bool {
        !self.lost && (self.isr.contains(&id) || self.elr.contains(&id))
    }
}
