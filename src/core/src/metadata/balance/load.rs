//! What each broker has, counted once for a plan and kept while the plan grows.

use crate::BrokerId;
use crate::metadata::image::{BrokerRegistration, MetadataImage, PartitionImage};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One broker's part in a plan.
#[derive(Debug)]
pub(super) struct Broker<'a> {
    pub(super) id: BrokerId,
    pub(super) rack: Option<&'a str>,
    pub(super) active: bool,
    /// Whether it may be given replicas.
    pub(super) takes: bool,
    pub(super) draining: bool,
    /// Replicas that it shall have once all that is under way or planned is done.
    pub(super) replicas: usize,
    /// Of these, the ones that are first of their partition.
    pub(super) preferred: usize,
    /// Replicas that it is being given now.
    pub(super) incoming: usize,
}

/// All brokers.
#[derive(Debug)]
pub(super) struct Load<'a> {
    pub(super) brokers: BTreeMap<BrokerId, Broker<'a>>,
    /// Partitions that are being given replicas now. Those that wait for a fenced broker do not count: they cost nothing, and
    /// would stop everything else for as long as it is away.
    pub(super) under_way: usize,
}

/// How much is enough.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// One with less lacks something.
    pub(super) low: usize,
    /// One with more has too much.
    pub(super) high: usize,
}

impl<'a> Load<'a> {
    pub(super) fn new(image: &'a MetadataImage) -> Load<'a> {
        let broker = |broker: &'a Arc<BrokerRegistration>| Broker {
            id: broker.id,
            rack: broker.rack.as_deref(),
            active: broker.is_active(),
            takes: broker.takes_replicas(),
            draining: broker.draining,
            replicas: 0,
            preferred: 0,
            incoming: 0,
        };
        let brokers = image.brokers().map(|registration| (registration.id, broker(registration))).collect();
        let mut load = Load { brokers, under_way: 0 };
        for partition in image.topics().flat_map(|topic| topic.partitions.iter()) {
            load.count(partition);
        }
        load
    }

    fn count(&mut self, partition: &PartitionImage) {
        for (place, id) in partition.target_replicas().enumerate() {
            if let Some(broker) = self.brokers.get_mut(&id) {
                broker.replicas += 1;
                broker.preferred += usize::from(place == 0);
            }
        }
        let mut moving = false;
        for id in partition.adding.iter().filter(|id| !partition.isr.contains(id)) {
            if let Some(broker) = self.brokers.get_mut(id) {
                broker.incoming += 1;
                moving |= broker.active;
            }
        }
        self.under_way += usize::from(moving);
    }

    /// Counts a partition's target once more (`sign` 1) or no longer (-1).
    pub(super) fn shift(&mut self, target: &[BrokerId], sign: isize) {
        for (place, id) in target.iter().enumerate() {
            if let Some(broker) = self.brokers.get_mut(id) {
                broker.replicas = broker.replicas.saturating_add_signed(sign);
                let first = if place == 0 { sign } else { 0 };
                broker.preferred = broker.preferred.saturating_add_signed(first);
            }
        }
    }

    /// Notes the replicas that a partition is given when it goes from `before` to `after`.
    pub(super) fn begin(&mut self, before: &[BrokerId], after: &[BrokerId]) {
        let mut moving = false;
        for id in after.iter().filter(|id| !before.contains(id)) {
            if let Some(broker) = self.brokers.get_mut(id) {
                broker.incoming += 1;
                moving = true;
            }
        }
        self.under_way += usize::from(moving);
    }

    pub(super) fn get(&self, id: BrokerId) -> Option<&Broker<'a>> {
        self.brokers.get(&id)
    }

    /// The brokers that may be given replicas, in the order of their id.
    pub(super) fn takers(&self) -> impl Iterator<Item = &Broker<'a>> {
        self.brokers.values().filter(|broker| broker.takes)
    }

    /// What of `counted` each broker that takes replicas should have.
    pub(super) fn share(&self, counted: impl Fn(&Broker<'a>) -> usize, tolerance_percent: u32) -> Share {
        let (mut all, mut brokers) = (0usize, 0usize);
        for broker in self.takers() {
            all += counted(broker);
            brokers += 1;
        }
        let parts = brokers.max(1) * 100;
        let tolerance = tolerance_percent.min(100) as usize;
        Share { low: all * (100 - tolerance) / parts, high: (all * (100 + tolerance)).div_ceil(parts) }
    }

    /// How many racks these replicas use. Brokers without one are a rack of their own, as in the placement of new partitions.
    pub(super) fn racks(&self, replicas: &[BrokerId]) -> usize {
        let racks = replicas.iter().filter_map(|id| self.get(*id)).map(|broker| broker.rack);
        racks.collect::<BTreeSet<_>>().len()
    }

    /// Puts first the replica whose broker is first for the fewest others, if the one that is first now has more. `target` is
    /// not counted itself.
    pub(super) fn put_first(&self, target: &mut [BrokerId]) {
        let firsts = |id: BrokerId| {
            // One that takes nothing is the last choice.
            self.get(id).filter(|broker| broker.takes).map_or(usize::MAX, |broker| broker.preferred)
        };
        let Some(&first) = target.first() else { return };
        // The first of several, so that nothing changes needlessly.
        let best = (0..target.len()).min_by_key(|at| (firsts(target[*at]), *at)).unwrap_or(0);
        if firsts(target[best]) < firsts(first) {
            target.swap(0, best);
        }
    }
}
