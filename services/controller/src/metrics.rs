//! What a controller tells of itself, and the leading one of the cluster.

use crate::quorum::Quorum;
use std::sync::Arc;
use thalweg_core::BrokerId;
use thalweg_core::metadata::MetadataImage;
use thalweg_raft::Role;
use thalweg_runtime::observe::{Family, Samples, Source};

static ACTIVE: Family =
    Family::gauge("thalweg_controller_active", "1 on the controller that leads; one in the cluster.", &[]);
static TERM: Family = Family::gauge("thalweg_raft_term", "The Raft term.", &[]);
static COMMIT: Family = Family::gauge(
    "thalweg_raft_commit_index",
    "The last committed entry of the Raft log that is known here.",
    &[],
);
static APPLIED: Family =
    Family::gauge("thalweg_raft_applied_index", "The last entry of the Raft log that was applied here.", &[]);
static VOTERS: Family = Family::gauge("thalweg_raft_voters", "Voters of the Raft group.", &[]);
static BROKERS: Family = Family::gauge(
    "thalweg_cluster_brokers",
    "Registered brokers. Only the leading controller tells it.",
    &["state"],
);
static COORDINATORS: Family = Family::gauge(
    "thalweg_cluster_coordinators",
    "Registered coordinators. Only the leading controller tells it.",
    &["state"],
);
static TOPICS: Family =
    Family::gauge("thalweg_cluster_topics", "Topics. Only the leading controller tells it.", &[]);
static PARTITIONS: Family =
    Family::gauge("thalweg_cluster_partitions", "Partitions. Only the leading controller tells it.", &[]);
static OFFLINE: Family = Family::gauge(
    "thalweg_offline_partitions",
    "Partitions that nobody leads. Only the leading controller tells it.",
    &[],
);
static UNSERVED: Family = Family::gauge(
    "thalweg_unserved_shards",
    "Shards of consumer groups that no coordinator has. Only the leading controller tells it.",
    &[],
);
static ELECTIONS: Family = Family::counter(
    "thalweg_leader_elections_total",
    "Leaders that the partitions of today have had: the sum of their leader epochs. Only the leading controller tells it.",
    &[],
);

/// The metrics of a controller.
pub static FAMILIES: [&Family; 12] = [
    &ACTIVE,
    &TERM,
    &COMMIT,
    &APPLIED,
    &VOTERS,
    &BROKERS,
    &COORDINATORS,
    &TOPICS,
    &PARTITIONS,
    &OFFLINE,
    &UNSERVED,
    &ELECTIONS,
];

pub(crate) struct ControllerSource(pub(crate) Quorum);

impl Source for ControllerSource {
    fn collect(&self, samples: &mut Samples<'_>) {
        let status = self.0.status().borrow().clone();
        let leads = status.role == Role::Leader && status.serving;
        samples.count(&ACTIVE, &[], leads.into());
        samples.count(&TERM, &[], status.term);
        samples.count(&COMMIT, &[], status.commit);
        samples.count(&APPLIED, &[], status.applied);
        samples.count(&VOTERS, &[], status.voters.len() as u64);
        if leads {
            cluster(&self.0.published().image(), samples);
        }
    }
}

fn cluster(image: &Arc<MetadataImage>, samples: &mut Samples<'_>) {
    let count = |active: bool| image.brokers().filter(|broker| broker.is_active() == active).count() as u64;
    samples.count(&BROKERS, &["active"], count(true));
    samples.count(&BROKERS, &["fenced"], count(false));
    let count = |active: bool| image.coordinators().filter(|one| one.is_active() == active).count() as u64;
    samples.count(&COORDINATORS, &["active"], count(true));
    samples.count(&COORDINATORS, &["fenced"], count(false));
    samples.count(&TOPICS, &[], image.topics().len() as u64);
    samples.count(&PARTITIONS, &[], image.partition_count() as u64);
    let partitions = || image.topics().flat_map(|topic| topic.partitions.iter());
    let offline = partitions().filter(|partition| partition.leader == BrokerId::NONE).count();
    samples.count(&OFFLINE, &[], offline as u64);
    let elections: u64 =
        partitions().map(|partition| u64::from(partition.leader_epoch.get().unsigned_abs())).sum();
    samples.count(&ELECTIONS, &[], elections);
    samples.count(
        &UNSERVED,
        &[],
        image.leases().filter(|(_, lease)| lease.coordinator.is_none()).count() as u64,
    );
}
