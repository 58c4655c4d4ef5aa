//! What to move so that every broker has its share, decided from an image alone. The same image gives the same answer, so there
//! is no need to ask again before it changes.
//!
//! ```text
//!   image ──► plan ─────────────► ReassignPartitions   drained brokers first, then the new and the underloaded ones
//!         └─► leader_imbalance ─► ElectLeaders         once the replicas that should lead can
//! ```

mod load;
mod planner;

use super::command::PartitionMove;
use super::image::MetadataImage;
use super::limits::MAX_ELECTIONS;
use crate::{BrokerId, TopicPartition};
use std::collections::BTreeMap;

/// How much may move at once, and how uneven the cluster may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalanceLimits {
    /// Partitions that get new replicas at once in the whole cluster. Default 20.
    pub max_moves: usize,
    /// Partitions that get a new replica on the same broker at once. Default 5.
    pub max_moves_per_broker: usize,
    /// By how many per cent of its share a broker may have more or less than its share. Default 10.
    pub tolerance_percent: u32,
    /// Whether replicas and preferred leaders are spread evenly without anyone asking; otherwise only drained brokers are
    /// emptied. Default true.
    pub automatic: bool,
}

impl Default for BalanceLimits {
    fn default() -> BalanceLimits {
        BalanceLimits { max_moves: 20, max_moves_per_broker: 5, tolerance_percent: 10, automatic: true }
    }
}

/// The moves to begin now, given what is under way: for one `ReassignPartitions` command. Empty when there is nothing to do or
/// nothing may begin before something else ends.
///
/// - Replicas leave draining brokers first: to where the most racks are used, then to the broker with the fewest replicas. A
///   partition that lacks a replica on another broker waits. One on its way to a broker that is gone goes elsewhere, so that
///   no drain waits for a dead broker while others could take its place. Without a drain such a move waits: the broker may
///   come back, nothing is missing meanwhile, and draining the dead one moves it on.
/// - Then, unless some partition anywhere lacks a replica, they move from the fullest brokers to the emptiest until each is
///   within the tolerance, never to fewer racks.
/// - The first of a partition's replicas becomes one on a broker that is first for few others. When no replica moves, such an
///   exchange of places is planned by itself: it costs nothing but a later election.
///
/// Only active brokers that are not draining are given anything. Every move makes the cluster more even, so that this ends.
pub fn plan(image: &MetadataImage, limits: &BalanceLimits) -> Vec<PartitionMove> {
    planner::Planner::new(image, limits).plan()
}

/// What keeps a drain from its end, in replicas on the draining broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StuckDrain {
    /// Every active broker that is not draining has the partition already: more brokers are needed.
    pub nowhere_to_go: usize,
    /// The partition has no leader to copy from: a replica that was in sync must come back.
    pub offline: usize,
}

/// The draining brokers with replicas that no plan can move off them before brokers join or come back, in the order of their
/// id. A replica that only waits for its turn, or for another replica to catch up, does not count.
pub fn stuck_drains(image: &MetadataImage) -> BTreeMap<BrokerId, StuckDrain> {
    planner::Planner::new(image, &BalanceLimits::default()).stuck()
}

/// The partitions that should be led by their preferred replica again, and can: those of brokers that lead less than they should
/// by more than `tolerance_percent` of the partitions that prefer them (Kafka's `leader.imbalance.per.broker.percentage`). For
/// one `ElectLeaders` command; at most [`MAX_ELECTIONS`]. Empty means nothing is to be done, while that command takes no
/// partitions for all of them: do not send it then.
pub fn leader_imbalance(image: &MetadataImage, tolerance_percent: u32) -> Vec<TopicPartition> {
    /// What one broker should lead.
    #[derive(Default)]
    struct Preferred {
        all: usize,
        elsewhere: Vec<TopicPartition>,
    }
    let mut brokers: BTreeMap<BrokerId, Preferred> =
        image.active_brokers().map(|broker| (broker.id, Preferred::default())).collect();
    for topic in image.topics() {
        for (id, partition) in topic.partitions() {
            let preferred = partition.preferred_leader();
            let Some(broker) = brokers.get_mut(&preferred) else { continue };
            broker.all += 1;
            if partition.is_online() && partition.leader != preferred && partition.isr.contains(&preferred) {
                broker.elsewhere.push(TopicPartition::new(topic.name.clone(), id));
            }
        }
    }
    let uneven = |preferred: &Preferred| {
        preferred.elsewhere.len() * 100 > preferred.all.saturating_mul(tolerance_percent as usize)
    };
    brokers
        .into_values()
        .filter(uneven)
        .flat_map(|preferred| preferred.elsewhere)
        .take(MAX_ELECTIONS)
        .collect()
}
