//! One plan: what leaves the draining brokers, what goes to the emptier ones, and who comes first.

use super::load::Load;
use super::{BalanceLimits, StuckDrain};
use crate::metadata::command::PartitionMove;
use crate::metadata::image::{MetadataImage, PartitionImage, TopicImage};
use crate::metadata::limits::MAX_PLANNED_MOVES;
use crate::{BrokerId, PartitionId, TopicPartition};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

/// How many of the fullest, and of the emptiest, brokers are looked at for one move. The racks may forbid the best pair.
const PAIRS_LOOKED_AT: usize = 8;

pub(super) struct Planner<'a> {
    image: &'a MetadataImage,
    limits: &'a BalanceLimits,
    load: Load<'a>,
    moves: Vec<PartitionMove>,
    /// What `moves` has, to find it again.
    planned: BTreeSet<(usize, PartitionId)>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(image: &'a MetadataImage, limits: &'a BalanceLimits) -> Planner<'a> {
        let load = Load::new(image);
        Planner { image, limits, load, moves: Vec::new(), planned: BTreeSet::new() }
    }

    pub(super) fn plan(mut self) -> Vec<PartitionMove> {
        if self.load.brokers.values().any(|broker| broker.draining) {
            self.drain();
        }
        if self.limits.automatic && !self.lacks_replicas() {
            while self.load.under_way < self.limits.max_moves
                && self.moves.len() < MAX_PLANNED_MOVES
                && self.even_out()
            {}
            // What is under way changes who comes first by itself.
            if self.moves.is_empty() && self.load.under_way == 0 {
                self.exchange_places();
            }
        }
        self.moves
    }

    /// Whether some partition lacks a replica on a broker that shall keep it. Then the first thing is that it gets it back.
    fn lacks_replicas(&self) -> bool {
        let mut partitions = self.image.topics().flat_map(|topic| topic.partitions.iter());
        partitions.any(|partition| self.lacks_a_replica(partition))
    }

    fn lacks_a_replica(&self, partition: &PartitionImage) -> bool {
        let kept = |id: &BrokerId| self.load.get(*id).is_some_and(|broker| !broker.draining);
        partition.settled_replicas().filter(kept).any(|id| !partition.isr.contains(&id))
    }

    fn is_draining(&self, id: BrokerId) -> bool {
        self.load.get(id).is_some_and(|broker| broker.draining)
    }

    /// Moves replicas off the draining brokers.
    fn drain(&mut self) {
        let image = self.image;
        for (number, topic) in image.topics().enumerate() {
            for (id, partition) in topic.partitions() {
                if self.load.under_way >= self.limits.max_moves || self.moves.len() >= MAX_PLANNED_MOVES {
                    return;
                }
                if let Some(target) = self.off_draining(partition) {
                    let before: Vec<BrokerId> = partition.target_replicas().collect();
                    self.push((number, topic), id, &before, target);
                }
            }
        }
    }

    /// Whether a place of a partition must be given to another broker for the sake of a drain: the broker there is draining
    /// itself, or was to get the replica and is gone. One that waits for a dead broker could wait for ever, and its draining
    /// member with it.
    fn must_go(&self, partition: &PartitionImage, id: BrokerId) -> bool {
        self.is_draining(id) || self.is_stray(partition, id)
    }

    /// Whether a replica is being added where it cannot come to stay.
    fn is_stray(&self, partition: &PartitionImage, id: BrokerId) -> bool {
        let takes = self.load.get(id).is_some_and(|broker| broker.takes);
        partition.adding.contains(&id) && !takes
    }

    /// Whether a draining broker holds, or is being given, a replica. One that is being removed holds it still.
    fn has_draining(&self, partition: &PartitionImage) -> bool {
        partition.replicas.iter().any(|id| self.is_draining(*id))
    }

    /// Where a partition goes that some draining broker holds; `None` when it is on its way, cannot move now, or nowhere.
    fn off_draining(&self, partition: &PartitionImage) -> Option<Vec<BrokerId>> {
        // One that is being moved may go on, unless it goes to where it cannot stay.
        let may_end = !partition.adding.iter().any(|id| self.is_stray(partition, *id));
        if !self.has_draining(partition)
            || !partition.is_online()
            || (partition.is_reassigning() && may_end)
            || self.lacks_a_replica(partition)
        {
            return None;
        }
        let mut target: Vec<BrokerId> = partition.target_replicas().collect();
        let mut moved = false;
        for place in 0..target.len() {
            if self.must_go(partition, target[place])
                && let Some(heir) = self.replacement(&target, place)
            {
                target[place] = heir;
                moved = true;
            }
        }
        moved.then_some(target)
    }

    /// How many replicas of each draining broker cannot leave it before something else happens; see [`super::stuck_drains`].
    pub(super) fn stuck(&self) -> BTreeMap<BrokerId, StuckDrain> {
        let mut stuck: BTreeMap<BrokerId, StuckDrain> = BTreeMap::new();
        if !self.load.brokers.values().any(|broker| broker.draining) {
            return stuck;
        }
        for partition in self.image.topics().flat_map(|topic| &topic.partitions) {
            let target: Vec<BrokerId> = partition.target_replicas().collect();
            let nobody = || {
                target.iter().any(|id| self.must_go(partition, *id))
                    && self.load.takers().all(|broker| target.contains(&broker.id))
            };
            for id in partition.replicas.iter().filter(|id| self.is_draining(**id)) {
                if !partition.is_online() {
                    stuck.entry(*id).or_default().offline += 1;
                } else if nobody() {
                    stuck.entry(*id).or_default().nowhere_to_go += 1;
                }
            }
        }
        stuck
    }

    /// The broker that takes one place of `target`: the most racks, then the fewest replicas. `None` when there is none, or when
    /// it is given enough for now: waiting for the right one is better than moving twice.
    fn replacement(&self, target: &[BrokerId], place: usize) -> Option<BrokerId> {
        let mut with = target.to_vec();
        let mut racks = |id: BrokerId| {
            with[place] = id;
            self.load.racks(&with)
        };
        let candidates = self.load.takers().filter(|broker| !target.contains(&broker.id));
        let best = candidates.min_by_key(|broker| (Reverse(racks(broker.id)), broker.replicas, broker.id))?;
        (best.incoming < self.limits.max_moves_per_broker).then_some(best.id)
    }

    /// Plans one move from a full broker to an empty one. Returns whether there was one.
    fn even_out(&mut self) -> bool {
        let share = self.load.share(|broker| broker.replicas, self.limits.tolerance_percent);
        let mut brokers: Vec<(usize, BrokerId)> =
            self.load.takers().map(|broker| (broker.replicas, broker.id)).collect();
        brokers.sort_unstable();
        let room =
            |id| self.load.get(id).is_some_and(|broker| broker.incoming < self.limits.max_moves_per_broker);
        let empty: Vec<_> =
            brokers.iter().copied().filter(|(_, id)| room(*id)).take(PAIRS_LOOKED_AT).collect();
        for &(from_has, from) in brokers.iter().rev().take(PAIRS_LOOKED_AT) {
            for &(to_has, to) in &empty {
                let uneven = from_has > share.high || to_has < share.low;
                if uneven && from_has >= to_has + 2 && self.move_one(from, to) {
                    return true;
                }
            }
        }
        false
    }

    /// Plans one move between these brokers: of the topic that the first has the most of, compared to the second.
    fn move_one(&mut self, from: BrokerId, to: BrokerId) -> bool {
        let mut best: Option<(isize, usize, &'a TopicImage, PartitionId, Vec<BrokerId>)> = None;
        for (number, topic) in self.image.topics().enumerate() {
            let mut excess = 0isize;
            for partition in &topic.partitions {
                let has = |id| partition.target_replicas().any(|replica| replica == id);
                excess += isize::from(has(from)) - isize::from(has(to));
            }
            if best.as_ref().is_some_and(|(most, ..)| excess <= *most) {
                continue;
            }
            let mut partitions = topic.partitions();
            let movable = partitions.find_map(|(id, partition)| {
                let free = !self.planned.contains(&(number, id));
                let target = if free { self.with_replica_moved(partition, from, to) } else { None };
                target.map(|target| (id, target))
            });
            if let Some((id, target)) = movable {
                best = Some((excess, number, topic, id, target));
            }
        }
        let Some((_, number, topic, id, target)) = best else { return false };
        let before: Vec<BrokerId> =
            topic.partition(id).map_or_else(Vec::new, |partition| partition.target_replicas().collect());
        self.push((number, topic), id, &before, target);
        true
    }

    /// The replicas after one moved between these brokers; `None` if it cannot, or only to fewer racks.
    fn with_replica_moved(
        &self,
        partition: &PartitionImage,
        from: BrokerId,
        to: BrokerId,
    ) -> Option<Vec<BrokerId>> {
        let at = partition.replicas.iter().position(|id| *id == from)?;
        if partition.replicas.contains(&to) || partition.is_reassigning() || !partition.is_online() {
            return None;
        }
        let mut target = partition.replicas.clone();
        target[at] = to;
        (self.load.racks(&target) >= self.load.racks(&partition.replicas)).then_some(target)
    }

    /// Lets replicas of the same partition change places until the brokers are first about equally often.
    fn exchange_places(&mut self) {
        let share = self.load.share(|broker| broker.preferred, self.limits.tolerance_percent);
        let firsts =
            |load: &Load<'_>, id| load.get(id).filter(|broker| broker.takes).map(|broker| broker.preferred);
        let image = self.image;
        for (number, topic) in image.topics().enumerate() {
            for (id, partition) in topic.partitions() {
                if self.moves.len() >= MAX_PLANNED_MOVES {
                    return;
                }
                // Its list has those that shall go, and one that waits for a dead broker does not end soon.
                if partition.is_reassigning() {
                    continue;
                }
                let Some(has) = firsts(&self.load, partition.preferred_leader()) else { continue };
                let others = partition.replicas.iter().enumerate().skip(1);
                let counted =
                    others.filter_map(|(at, id)| firsts(&self.load, *id).map(|others| (others, at)));
                let Some((least, at)) = counted.min() else { continue };
                if has >= least + 2 && (has > share.high || least < share.low) {
                    let mut target = partition.replicas.clone();
                    target.swap(0, at);
                    self.push((number, topic), id, &partition.replicas, target);
                }
            }
        }
    }

    fn push(
        &mut self,
        (number, topic): (usize, &TopicImage),
        id: PartitionId,
        before: &[BrokerId],
        mut target: Vec<BrokerId>,
    ) {
        self.load.shift(before, -1);
        self.load.put_first(&mut target);
        self.load.shift(&target, 1);
        self.load.begin(before, &target);
        self.planned.insert((number, id));
        let partition = TopicPartition::new(topic.name.clone(), id);
        self.moves.push(PartitionMove { partition, replicas: Some(target) });
    }
}
