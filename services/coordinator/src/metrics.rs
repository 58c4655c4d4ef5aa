//! What a coordinator tells of itself and of the groups that it serves.

use crate::exchange::{BUDGET_UNIT, units};
use crate::lag::LagSnapshot;
use crate::node::Node;
use crate::shard::Counts;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use thalweg_core::ErrorCode;
use thalweg_runtime::observe::{Family, Histogram, Samples, Source};

/// Groups that have series of their own; of others only the counts by state are told.
pub const MAX_GROUPS: usize = 1_000;

static SHARDS: Family = Family::gauge(
    "thalweg_coordinator_shards",
    "Shards that this coordinator has, by whether they are loaded.",
    &["state"],
);
static GROUPS: Family = Family::gauge(
    "thalweg_coordinator_groups",
    "Groups that this coordinator serves, as of the last look (every 10 s).",
    &["state"],
);
static MEMBERS: Family =
    Family::gauge("thalweg_group_members", "Members of a group, as of the last look.", &["group"]);
static LAG: Family = Family::gauge(
    "thalweg_group_lag_records",
    "Records between a group's committed offsets and the high watermarks of a topic, as of the last look.",
    &["group", "topic"],
);

static REBALANCES: Family = Family::counter(
    "thalweg_group_rebalances_total",
    "Assignments of groups that were computed here, all groups together.",
    &[],
);
static EXPIRED: Family = Family::counter(
    "thalweg_group_members_expired_total",
    "Members that were put out of their group because they were silent, or gave partitions back too late.",
    &[],
);
static THROTTLED: Family = Family::counter(
    "thalweg_coordinator_throttled_total",
    "Calls that were answered with THROTTLED, because the group or the shard is full.",
    &[],
);
static LOADS: Family = Family::histogram(
    "thalweg_coordinator_shard_load_seconds",
    "How long it took to read a shard's log before its groups were served.",
    &[],
);
static IN_FLIGHT: Family = Family::gauge(
    "thalweg_coordinator_in_flight_bytes",
    "Bytes of calls that were read and not answered.",
    &[],
);
static IN_FLIGHT_LIMIT: Family = Family::gauge(
    "thalweg_coordinator_in_flight_limit_bytes",
    "Bytes of such calls beyond which no more is read.",
    &[],
);

/// The metrics of a coordinator.
pub static FAMILIES: [&Family; 10] = [
    &SHARDS,
    &GROUPS,
    &MEMBERS,
    &LAG,
    &REBALANCES,
    &EXPIRED,
    &THROTTLED,
    &LOADS,
    &IN_FLIGHT,
    &IN_FLIGHT_LIMIT,
];

/// What happened on a coordinator since it started. Counted without locks.
#[derive(Debug, Default)]
pub struct Tally {
    rebalances: AtomicU64,
    expired: AtomicU64,
    throttled: AtomicU64,
    /// How long shards took to load.
    pub loads: Histogram,
}

impl Tally {
    /// A shard did so much.
    pub fn count(&self, counts: Counts) {
        if counts != Counts::default() {
            self.rebalances.fetch_add(counts.rebalances, Ordering::Relaxed);
            self.expired.fetch_add(counts.expired_members, Ordering::Relaxed);
        }
    }

    /// A call was refused.
    pub fn refused(&self, code: ErrorCode) {
        if code == ErrorCode::Throttled {
            self.throttled.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn tell(&self, samples: &mut Samples<'_>) {
        let told =
            [(&REBALANCES, &self.rebalances), (&EXPIRED, &self.expired), (&THROTTLED, &self.throttled)];
        told.iter().for_each(|(family, count)| samples.count(family, &[], count.load(Ordering::Relaxed)));
        samples.histogram(&LOADS, &[], self.loads.snapshot());
    }
}

pub(crate) struct CoordinatorSource(Weak<Node>);

impl CoordinatorSource {
    pub(crate) fn new(node: &Arc<Node>) -> Arc<CoordinatorSource> {
        Arc::new(CoordinatorSource(Arc::downgrade(node)))
    }
}

impl Source for CoordinatorSource {
    fn collect(&self, samples: &mut Samples<'_>) {
        let Some(node) = self.0.upgrade() else { return };
        let served = node.shards.served();
        samples.count(&SHARDS, &["served"], served as u64);
        samples.count(&SHARDS, &["loading"], node.shards.len().saturating_sub(served) as u64);
        let limit = units(node.config.limits.in_flight_bytes);
        let used = limit.saturating_sub(node.budget.available_permits());
        samples.count(&IN_FLIGHT, &[], (used * BUDGET_UNIT) as u64);
        samples.count(&IN_FLIGHT_LIMIT, &[], (limit * BUDGET_UNIT) as u64);
        node.tally.tell(samples);
        tell(&node.lag.snapshot(), samples);
    }
}

fn tell(snapshot: &LagSnapshot, samples: &mut Samples<'_>) {
    let mut states = BTreeMap::from([("empty", 0), ("assigning", 0), ("reconciling", 0), ("stable", 0)]);
    for group in &snapshot.groups {
        *states.entry(group.state).or_default() += 1;
    }
    states.iter().for_each(|(state, count)| samples.count(&GROUPS, &[state], *count));
    let named: BTreeSet<_> = snapshot.groups.iter().take(MAX_GROUPS).map(|group| &group.id).collect();
    for group in snapshot.groups.iter().take(MAX_GROUPS) {
        samples.count(&MEMBERS, &[group.id.as_str()], group.members.into());
    }
    let mut behind: BTreeMap<_, i64> = BTreeMap::new();
    for one in snapshot.partitions.iter().filter(|one| named.contains(&one.group)) {
        if let Some(lag) = one.lag() {
            *behind.entry((&one.group, &one.at.topic)).or_default() += lag;
        }
    }
    for ((group, topic), lag) in behind {
        samples.number(&LAG, &[group.as_str(), topic.as_str()], lag as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lag::{GroupSize, PartitionLag};
    use thalweg_core::group::GroupId;
    use thalweg_core::{Offset, PartitionId, TopicName, TopicPartition};
    use thalweg_runtime::observe::{Registry, Value};

    struct Of(LagSnapshot);

    impl Source for Of {
        fn collect(&self, samples: &mut Samples<'_>) {
            tell(&self.0, samples);
        }
    }

    #[test]
    fn what_shards_did_adds_up() {
        let tally = Tally::default();
        tally.count(Counts { rebalances: 2, expired_members: 1 });
        tally.count(Counts { rebalances: 1, expired_members: 0 });
        tally.refused(ErrorCode::Throttled);
        tally.refused(ErrorCode::UnknownMember);
        let counts = [&tally.rebalances, &tally.expired, &tally.throttled].map(|n| n.load(Ordering::Relaxed));
        assert_eq!(counts, [3, 1, 1]);
    }

    #[test]
    fn lag_is_told_for_each_topic_and_only_where_it_is_known() {
        let id = GroupId::new("readers").unwrap();
        let partition = |n, log_end: Option<i64>| PartitionLag {
            group: id.clone(),
            at: TopicPartition::new(TopicName::new("t").unwrap(), PartitionId(n)),
            committed: Offset(5),
            log_end: log_end.map(Offset),
        };
        let groups = vec![GroupSize { id: id.clone(), state: "stable", members: 2 }];
        let partitions = vec![partition(0, Some(12)), partition(1, Some(6)), partition(2, None)];
        let registry = Registry::new();
        registry.add("coordinator", 0, Arc::new(Of(LagSnapshot { taken_at: None, groups, partitions })));
        let gathered = registry.gather();
        let value = |family: &Family| &gathered[family.name].1[0].value;
        assert_eq!(value(&LAG), &Value::Number(8.0));
        assert_eq!(value(&MEMBERS), &Value::Number(2.0));
        assert_eq!(gathered[GROUPS.name].1.len(), 4);
    }
}
