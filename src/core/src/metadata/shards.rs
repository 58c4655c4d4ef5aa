//! Which coordinator serves which partitions of the internal topics.
//!
//! The partitions of `__consumer_offsets` are shards. Each is leased to one active coordinator, under an epoch that counts its
//! owners. Leases change in the command that makes it necessary (a coordinator came, went or stops, the topic was created), so
//! that there is no moment in which nobody knows who should serve a group.

use super::image::Endpoint;
use crate::{CoordinatorEpoch, CoordinatorId, LeaseEpoch, ProducerEpoch, ProducerId};
use serde::{Deserialize, Serialize};

/// A coordinator as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorRegistration {
    /// The coordinator's id.
    pub id: CoordinatorId,
    /// The version of the metadata at which this incarnation was registered.
    pub epoch: CoordinatorEpoch,
    /// Random, new at each start of the process.
    pub incarnation: [u8; 16],
    /// Where brokers reach it.
    pub endpoint: Endpoint,
    /// Its rack or zone.
    pub rack: Option<String>,
    /// Whether the cluster holds it for gone. It has no shards then.
    pub fenced: bool,
    /// Whether it asked to stop; its shards go to others.
    pub in_controlled_shutdown: bool,
}

impl CoordinatorRegistration {
    /// Whether it may have shards.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }
}

/// Who serves a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardLease {
    /// The coordinator; `None` while there is no active one.
    pub coordinator: Option<CoordinatorId>,
    /// Counts the owners, from 1. It never goes back.
    pub epoch: LeaseEpoch,
    /// Who the shard's records are written by, with an epoch that goes up with each owner: the log itself refuses what a
    /// former owner sends after the first write of the next one. A new id when the epochs are used up.
    pub producer_id: ProducerId,
    /// See [`producer_id`](ShardLease::producer_id).
    pub producer_epoch: ProducerEpoch,
}
