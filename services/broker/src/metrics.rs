//! What a broker tells of itself, read from its partitions when somebody asks.

use crate::in_flight::InFlight;
use crate::node::Node;
use crate::replicas::Partition;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use thalweg_log::{DirState, LogManager};
use thalweg_runtime::observe::{Family, Histogram, Samples, Source};

/// Topics that have series of their own; the others are told together as [`OTHER_TOPICS`], so that no cluster has so many topics
/// that its monitoring fails.
pub const MAX_TOPICS: usize = 1_000;
/// The name that stands for all further topics. No topic can have it.
pub const OTHER_TOPICS: &str = "(other)";

static RECORDS_IN: Family =
    Family::counter("thalweg_topic_records_in_total", "Records that producers wrote.", &["topic"]);
static BYTES_IN: Family = Family::counter(
    "thalweg_topic_bytes_in_total",
    "Bytes of batches that producers wrote, as stored.",
    &["topic"],
);
static RECORDS_OUT: Family = Family::counter(
    "thalweg_topic_records_out_total",
    "Records that consumers read; all of a batch, even if they wanted only its end.",
    &["topic"],
);
static BYTES_OUT: Family =
    Family::counter("thalweg_topic_bytes_out_total", "Bytes of records that consumers read.", &["topic"]);
static LOG_BYTES: Family = Family::gauge("thalweg_log_size_bytes", "Bytes in segment files.", &["topic"]);
static SEGMENTS: Family = Family::gauge("thalweg_log_segments", "Segments.", &["topic"]);
static REPLICATED_IN: Family =
    Family::counter("thalweg_replication_bytes_in_total", "Bytes of batches that came from leaders.", &[]);
static REPLICATED_OUT: Family = Family::counter(
    "thalweg_replication_bytes_out_total",
    "Bytes of batches that were read for followers.",
    &[],
);
static PARTITIONS: Family = Family::gauge("thalweg_broker_partitions", "Replicas on this broker.", &["role"]);
static UNDER_REPLICATED: Family = Family::gauge(
    "thalweg_under_replicated_partitions",
    "Partitions led here of which a replica is not in sync.",
    &[],
);
static UNDER_MIN_ISR: Family = Family::gauge(
    "thalweg_under_min_isr_partitions",
    "Partitions led here that take no acks=all writes, because fewer replicas are in sync than min.insync.replicas.",
    &[],
);
static ISR_SHRINKS: Family =
    Family::counter("thalweg_isr_shrinks_total", "How often the ISR of a partition led here shrank.", &[]);
static ISR_EXPANDS: Family =
    Family::counter("thalweg_isr_expands_total", "How often the ISR of a partition led here grew.", &[]);
static BUDGET: Family = Family::gauge(
    "thalweg_broker_budget_bytes",
    "Bytes held: of produce requests not acknowledged, of unary fetch answers not sent, of messages that are being received.",
    &["budget"],
);
static BUDGET_LIMIT: Family = Family::gauge(
    "thalweg_broker_budget_limit_bytes",
    "Bytes beyond which a budget has no more room.",
    &["budget"],
);
static THROTTLED: Family = Family::counter(
    "thalweg_broker_throttled_total",
    "Requests without room in their budget: refused with THROTTLED, or held back until there was some.",
    &["budget", "how"],
);
static CATCH_UP: Family = Family::counter(
    "thalweg_replication_catch_up_bytes_total",
    "Bytes that were asked of leaders to catch up, within replication.throttled.rate.",
    &[],
);
static CATCH_UP_HELD: Family = Family::counter(
    "thalweg_replication_throttled_total",
    "How often catching up had to wait for replication.throttled.rate.",
    &[],
);
static FENCED: Family = Family::gauge(
    "thalweg_broker_fenced",
    "1 while the controllers hold this broker for gone, or it is not registered.",
    &[],
);
static METADATA_VERSION: Family =
    Family::gauge("thalweg_metadata_version", "The version of the metadata that is applied here.", &[]);
static DIRECTORIES: Family =
    Family::gauge("thalweg_log_directories", "Log directories, by whether they can be written.", &["state"]);
static AVAILABLE: Family = Family::gauge(
    "thalweg_log_directory_available_bytes",
    "Bytes that can still be written to a log directory.",
    &["directory"],
);
static CAPACITY: Family = Family::gauge(
    "thalweg_log_directory_capacity_bytes",
    "Bytes that the file system of a log directory holds in all.",
    &["directory"],
);
static FLUSH: Family = Family::histogram(
    "thalweg_log_flush_duration_seconds",
    "How long each fdatasync of a segment took.",
    &["directory"],
);
static FLUSH_QUEUE: Family =
    Family::gauge("thalweg_log_flush_queue_length", "Partitions that wait for an fdatasync.", &["directory"]);
static RECOVERY: Family = Family::gauge(
    "thalweg_log_recovery_seconds",
    "How long it took to open the logs of a directory when the broker started, recovery included.",
    &["directory"],
);
static RECOVERED: Family = Family::gauge(
    "thalweg_log_recovered_partitions",
    "Partitions whose log had to be scanned then, because the broker had not stopped in good order.",
    &["directory"],
);

/// The metrics of a broker.
pub static FAMILIES: [&Family; 27] = [
    &RECORDS_IN,
    &BYTES_IN,
    &RECORDS_OUT,
    &BYTES_OUT,
    &LOG_BYTES,
    &SEGMENTS,
    &REPLICATED_IN,
    &REPLICATED_OUT,
    &PARTITIONS,
    &UNDER_REPLICATED,
    &UNDER_MIN_ISR,
    &ISR_SHRINKS,
    &ISR_EXPANDS,
    &BUDGET,
    &BUDGET_LIMIT,
    &THROTTLED,
    &CATCH_UP,
    &CATCH_UP_HELD,
    &FENCED,
    &METADATA_VERSION,
    &DIRECTORIES,
    &AVAILABLE,
    &CAPACITY,
    &FLUSH,
    &FLUSH_QUEUE,
    &RECOVERY,
    &RECOVERED,
];

/// How long the syncs of each log directory took.
#[derive(Debug)]
pub struct FlushTimes(BTreeMap<PathBuf, Arc<Histogram>>);

impl FlushTimes {
    /// Those of `logs`, from now on.
    pub fn of(logs: &LogManager) -> FlushTimes {
        let dirs = logs.dir_states().into_iter().map(|dir| (dir.path, Arc::default()));
        let times: BTreeMap<PathBuf, Arc<Histogram>> = dirs.collect();
        logs.on_flush(|dir| {
            let histogram = times.get(dir).map(Arc::clone).unwrap_or_default();
            Arc::new(move |took| histogram.record(took))
        });
        FlushTimes(times)
    }

    fn tell(&self, samples: &mut Samples<'_>) {
        for (dir, histogram) in &self.0 {
            samples.histogram(&FLUSH, &[&dir.to_string_lossy()], histogram.snapshot());
        }
    }
}

/// Tells of one broker, for as long as it lives.
pub(crate) struct BrokerSource {
    node: Weak<Node>,
}

impl BrokerSource {
    pub(crate) fn new(node: &Arc<Node>) -> Arc<BrokerSource> {
        Arc::new(BrokerSource { node: Arc::downgrade(node) })
    }
}

#[derive(Default)]
struct Topic {
    records_in: u64,
    bytes_in: u64,
    records_out: u64,
    bytes_out: u64,
    log_bytes: u64,
    segments: u64,
}

#[derive(Default)]
struct Totals {
    leaders: u64,
    followers: u64,
    replicated_in: u64,
    replicated_out: u64,
    under_replicated: u64,
    under_min_isr: u64,
    isr_shrinks: u64,
    isr_expands: u64,
}

impl Topic {
    fn add(&mut self, partition: &Partition) {
        let (traffic, log) = (partition.traffic(), partition.log());
        self.records_in += traffic.records_in();
        self.bytes_in += traffic.bytes_in();
        self.records_out += traffic.records_out();
        self.bytes_out += traffic.bytes_out();
        self.log_bytes += log.size_bytes();
        self.segments += log.segment_count() as u64;
    }

    fn tell(&self, name: &str, samples: &mut Samples<'_>) {
        samples.count(&RECORDS_IN, &[name], self.records_in);
        samples.count(&BYTES_IN, &[name], self.bytes_in);
        samples.count(&RECORDS_OUT, &[name], self.records_out);
        samples.count(&BYTES_OUT, &[name], self.bytes_out);
        samples.count(&LOG_BYTES, &[name], self.log_bytes);
        samples.count(&SEGMENTS, &[name], self.segments);
    }
}

impl Totals {
    fn add(&mut self, partition: &Partition) {
        let traffic = partition.traffic();
        self.replicated_in += traffic.replicated_in();
        self.replicated_out += traffic.replicated_out();
        self.isr_shrinks += traffic.isr_shrinks();
        self.isr_expands += traffic.isr_expands();
        let Some(role) = partition.leading() else {
            self.followers += 1;
            return;
        };
        self.leaders += 1;
        // What a reassignment adds is not missing.
        let wanted = role.replicas.iter().filter(|id| !role.adding.contains(id));
        self.under_replicated += u64::from(wanted.into_iter().any(|id| !role.isr.contains(id)));
        self.under_min_isr += u64::from(role.isr.len() < role.min_isr());
    }

    fn tell(&self, samples: &mut Samples<'_>) {
        samples.count(&REPLICATED_IN, &[], self.replicated_in);
        samples.count(&REPLICATED_OUT, &[], self.replicated_out);
        samples.count(&PARTITIONS, &["leader"], self.leaders);
        samples.count(&PARTITIONS, &["follower"], self.followers);
        samples.count(&UNDER_REPLICATED, &[], self.under_replicated);
        samples.count(&UNDER_MIN_ISR, &[], self.under_min_isr);
        samples.count(&ISR_SHRINKS, &[], self.isr_shrinks);
        samples.count(&ISR_EXPANDS, &[], self.isr_expands);
    }
}

impl Source for BrokerSource {
    fn collect(&self, samples: &mut Samples<'_>) {
        let Some(node) = self.node.upgrade() else { return };
        let (mut topics, mut others, mut totals) = (BTreeMap::new(), Topic::default(), Totals::default());
        for partition in node.replicas.served() {
            totals.add(&partition);
            let name = &partition.topic_partition().topic;
            if topics.len() < MAX_TOPICS || topics.contains_key(name) {
                topics.entry(name.clone()).or_insert_with(Topic::default).add(&partition);
            } else {
                others.add(&partition);
            }
        }
        let is_full = topics.len() == MAX_TOPICS;
        topics.iter().for_each(|(name, topic)| topic.tell(name.as_str(), samples));
        if is_full {
            others.tell(OTHER_TOPICS, samples);
        }
        totals.tell(samples);
        budgets(&node, samples);
        let catch_up = node.replicas.catch_up();
        samples.count(&CATCH_UP, &[], catch_up.given_bytes());
        samples.count(&CATCH_UP_HELD, &[], catch_up.held_back());
        let image = node.metadata.image();
        let fenced = image.broker(node.config.node_id).is_none_or(|broker| broker.fenced);
        samples.count(&FENCED, &[], fenced.into());
        samples.count(&METADATA_VERSION, &[], image.version().get());
        let dirs = node.replicas.logs().dir_states();
        let failed = dirs.iter().filter(|dir| dir.failed.is_some()).count();
        samples.count(&DIRECTORIES, &["good"], (dirs.len() - failed) as u64);
        samples.count(&DIRECTORIES, &["failed"], failed as u64);
        dirs.iter().for_each(|dir| directory(dir, samples));
        node.flushes.tell(samples);
    }
}

fn directory(dir: &DirState, samples: &mut Samples<'_>) {
    let path = dir.path.to_string_lossy();
    if let Some(bytes) = dir.available_bytes {
        samples.count(&AVAILABLE, &[&path], bytes);
    }
    if let Some(bytes) = dir.capacity_bytes {
        samples.count(&CAPACITY, &[&path], bytes);
    }
    samples.count(&FLUSH_QUEUE, &[&path], dir.waiting_for_sync as u64);
    samples.number(&RECOVERY, &[&path], dir.opened_in.as_secs_f64());
    samples.count(&RECOVERED, &[&path], dir.recovered_logs as u64);
}

fn budgets(node: &Node, samples: &mut Samples<'_>) {
    let all: [(&str, &InFlight); 4] = [
        ("produce", &node.in_flight),
        ("fetch", &node.answers),
        ("receive", &node.half_received),
        ("receive_internal", &node.half_forwarded),
    ];
    for (name, budget) in all {
        samples.count(&BUDGET, &[name], budget.used() as u64);
        samples.count(&BUDGET_LIMIT, &[name], budget.limit() as u64);
        samples.count(&THROTTLED, &[name, "refused"], budget.refused());
        samples.count(&THROTTLED, &[name, "held_back"], budget.held_back());
    }
}
