//! What a controller tells of itself, and the leading one of the cluster.

use crate::quorum::Quorum;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thalweg_core::BrokerId;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::metadata::leaders::Elections;
use thalweg_raft::Role;
use thalweg_runtime::observe::{Family, Histogram, Samples, Source};
use tokio::time::Instant;

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
    "Leaders that partitions got while this controller led; the first leader of a new partition does not count.",
    &[],
);
static UNCLEAN: Family = Family::counter(
    "thalweg_unclean_leader_elections_total",
    "Those of them that may lack records which were acknowledged: nobody was left who had them all.",
    &[],
);
static COMMITS: Family = Family::histogram(
    "thalweg_raft_commit_duration_seconds",
    "How long commands took from being proposed here until a majority had them on disk and they were applied.",
    &[],
);
static APPLIES: Family = Family::histogram(
    "thalweg_raft_apply_duration_seconds",
    "How long committed commands took to be applied to the metadata here.",
    &[],
);
static QUEUE: Family = Family::gauge(
    "thalweg_raft_queue_length",
    "What waits for the Raft node: requests of this process, messages of other controllers.",
    &["queue"],
);
static AVAILABLE: Family = Family::gauge(
    "thalweg_controller_disk_available_bytes",
    "Bytes that can still be written where the metadata lies.",
    &[],
);

/// The metrics of a controller.
pub static FAMILIES: [&Family; 17] = [
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
    &UNCLEAN,
    &COMMITS,
    &APPLIES,
    &QUEUE,
    &AVAILABLE,
];

/// What happened on a controller since it started. Counted without locks.
#[derive(Debug, Default)]
pub struct Tally {
    elections: AtomicU64,
    unclean: AtomicU64,
    /// From the proposal of commands to their application.
    pub commits: Histogram,
    /// The application of commands.
    pub applies: Histogram,
}

impl Tally {
    /// Partitions got leaders.
    pub fn elected(&self, found: Elections) {
        self.elections.fetch_add(found.all, Ordering::Relaxed);
        self.unclean.fetch_add(found.unclean, Ordering::Relaxed);
    }

    fn tell(&self, samples: &mut Samples<'_>) {
        samples.count(&ELECTIONS, &[], self.elections.load(Ordering::Relaxed));
        samples.count(&UNCLEAN, &[], self.unclean.load(Ordering::Relaxed));
        samples.histogram(&COMMITS, &[], self.commits.snapshot());
        samples.histogram(&APPLIES, &[], self.applies.snapshot());
    }
}

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
        let queued = self.0.queued();
        samples.count(&QUEUE, &["requests"], queued.requests as u64);
        samples.count(&QUEUE, &["messages"], queued.messages as u64);
        if let Some(bytes) = self.0.disk().available(Instant::now()) {
            samples.count(&AVAILABLE, &[], bytes);
        }
        self.0.published().tally.tell(samples);
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
    let partitions = image.topics().flat_map(|topic| topic.partitions.iter());
    let offline = partitions.filter(|partition| partition.leader == BrokerId::NONE).count();
    samples.count(&OFFLINE, &[], offline as u64);
    samples.count(
        &UNSERVED,
        &[],
        image.leases().filter(|(_, lease)| lease.coordinator.is_none()).count() as u64,
    );
}
