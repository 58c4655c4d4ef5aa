//! Which coordinator serves which partitions of the internal topics.
//!
//! The partitions of `__consumer_offsets` are shards. Each is leased to one active coordinator, under an epoch that counts its
//! owners. Leases change in the command that makes it necessary (a coordinator came, went or stops, the topic was created), so
//! that there is no moment in which nobody knows who should serve a group.

use super::image::{Endpoint, MetadataImage};
use crate::group::OFFSETS_TOPIC;
use crate::{CoordinatorEpoch, CoordinatorId, LeaseEpoch, ProducerEpoch, ProducerId, TopicPartition};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// The internal topic of transactions. Not there yet, but its name is kept for it.
pub const TRANSACTIONS_TOPIC: &str = "__transaction_state";

/// Whether a topic's name is the cluster's own, so that no user may create it.
pub fn is_reserved(topic: &str) -> bool {
    [OFFSETS_TOPIC, TRANSACTIONS_TOPIC].contains(&topic)
}

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
    /// Counts the changes of owner, from 1; 0 as long as there was none. It never goes back.
    pub epoch: LeaseEpoch,
    /// Who the shard's records are written by, with an epoch that goes up with each owner: the log itself refuses what a
    /// former owner sends after the first write of the next one. A new id when the epochs are used up; none before the first
    /// owner.
    pub producer_id: ProducerId,
    /// See [`producer_id`](ShardLease::producer_id).
    pub producer_epoch: ProducerEpoch,
}

impl ShardLease {
    /// That of a shard which never had an owner.
    pub const NEW: ShardLease = ShardLease {
        coordinator: None,
        epoch: LeaseEpoch(0),
        producer_id: ProducerId::NONE,
        producer_epoch: ProducerEpoch::NONE,
    };

    /// Given to a coordinator, another or another process of the same. Without an owner if all producer ids of the cluster are
    /// used up: two shards with the same one could write for each other.
    pub(super) fn granted(self, to: CoordinatorId, next_producer_id: &mut i64) -> ShardLease {
        let (producer_id, producer_epoch) = match self.producer_epoch.get().checked_add(1) {
            Some(epoch) if self.producer_id.is_some() => (self.producer_id, epoch),
            _ => {
                let fresh = *next_producer_id;
                let Some(next) = fresh.checked_add(1) else { return self.withdrawn() };
                *next_producer_id = next;
                (ProducerId(fresh), 0)
            }
        };
        ShardLease {
            coordinator: Some(to),
            epoch: next(self.epoch),
            producer_id,
            producer_epoch: ProducerEpoch(producer_epoch),
        }
    }

    /// Taken from its owner, with nobody to give it to.
    fn withdrawn(self) -> ShardLease {
        match self.coordinator {
            Some(_) => ShardLease { coordinator: None, epoch: next(self.epoch), ..self },
            None => self,
        }
    }
}

fn next(epoch: LeaseEpoch) -> LeaseEpoch {
    // One change a second for 68 years.
    LeaseEpoch(epoch.get().saturating_add(1))
}

/// The shards of a cluster: the partitions of the cluster's own topics that coordinators serve.
pub(super) fn shards(image: &MetadataImage) -> impl Iterator<Item = TopicPartition> {
    let topic = image.topic(OFFSETS_TOPIC).filter(|topic| topic.internal);
    topic
        .into_iter()
        .flat_map(|topic| topic.partitions().map(|(id, _)| TopicPartition::new(topic.name.clone(), id)))
}

/// Who serves which shard from now on. Same arguments, same result.
///
/// Every shard goes to one of `active`, the numbers of any two of them differ by at most one, and no shard moves that need not
/// for that. `restarted` is another process than before: it keeps its shards, under new epochs. What is no shard any more has no
/// lease; if the same name comes back, it begins anew.
pub(super) fn hand_out(
    leases: &BTreeMap<TopicPartition, ShardLease>,
    shards: impl Iterator<Item = TopicPartition>,
    active: impl Iterator<Item = CoordinatorId>,
    restarted: Option<CoordinatorId>,
    next_producer_id: &mut i64,
) -> BTreeMap<TopicPartition, ShardLease> {
    let mut held: BTreeMap<CoordinatorId, Vec<TopicPartition>> = active.map(|id| (id, Vec::new())).collect();
    let (mut free, mut count) = (Vec::new(), 0);
    for shard in shards {
        count += 1;
        let owner = leases.get(&shard).and_then(|lease| lease.coordinator);
        match owner.and_then(|owner| held.get_mut(&owner)) {
            Some(held) => held.push(shard),
            None => free.push(shard),
        }
    }
    let lease = |shard: &TopicPartition| leases.get(shard).copied().unwrap_or(ShardLease::NEW);
    if held.is_empty() {
        return free.into_iter().map(|shard| (shard.clone(), lease(&shard).withdrawn())).collect();
    }

    let (share, rest) = (count / held.len(), count % held.len());
    // Those who have most may keep one more, so that nothing moves for the sake of who it is.
    let mut by_load: Vec<_> = held.into_iter().collect();
    by_load.sort_by_key(|(id, shards)| (Reverse(shards.len()), *id));
    let quota = |rank: usize| share + usize::from(rank < rest);
    for (rank, (_, shards)) in by_load.iter_mut().enumerate() {
        free.extend(shards.split_off(quota(rank).min(shards.len())));
    }
    free.sort_unstable();
    let mut free = free.into_iter();
    let mut owners = BTreeMap::new();
    for (rank, (id, shards)) in by_load.into_iter().enumerate() {
        let missing = quota(rank) - shards.len();
        owners.extend(shards.into_iter().chain(free.by_ref().take(missing)).map(|shard| (shard, id)));
    }
    // In the order of the shards, so that new producer ids are in it too.
    let given = owners.into_iter().map(|(shard, owner)| {
        let before = lease(&shard);
        let same = before.coordinator == Some(owner) && restarted != Some(owner);
        (shard, if same { before } else { before.granted(owner, next_producer_id) })
    });
    given.collect()
}
