//! What every part of one coordinator shares.

use crate::config::CoordinatorConfig;
use crate::lag::Lag;
use crate::leaders::Leaders;
use crate::membership::Membership;
use crate::metrics::Tally;
use crate::serving::Shards;
use crate::shard::{CallId, ClusterTopics, Now};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thalweg_client::controllers::{Controllers, MetadataStore};
use thalweg_core::Clock;
use thalweg_core::metadata::MetadataImage;
use thalweg_runtime::Shutdown;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// One coordinator's parts.
pub struct Node {
    /// What it was told.
    pub config: CoordinatorConfig,
    /// Where brokers reach it.
    pub endpoint: String,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// When it started: monotonic time counts from here.
    pub started: Instant,
    /// The cluster's metadata.
    pub metadata: Arc<MetadataStore>,
    /// The same as groups see it.
    pub topics: watch::Sender<Arc<ClusterTopics>>,
    /// The registration.
    pub membership: Arc<Membership>,
    /// The controllers.
    pub controllers: Arc<Controllers>,
    /// The brokers.
    pub leaders: Arc<Leaders>,
    /// The shards that are served or loaded here.
    pub shards: Shards,
    /// A turn to load a shard.
    pub loads: Semaphore,
    /// What of the calls' budget is left; see [`BUDGET_UNIT`](crate::exchange::BUDGET_UNIT).
    pub budget: Arc<Semaphore>,
    /// Ends of logs, and how far groups are behind them.
    pub lag: Lag,
    /// What happened so far, for metrics.
    pub tally: Tally,
    /// Ends everything.
    pub shutdown: Shutdown,
    calls: AtomicU64,
}

impl Node {
    /// Puts the parts together.
    #[expect(clippy::too_many_arguments, reason = "each is a part that is made before")]
    pub fn new(
        config: CoordinatorConfig,
        endpoint: String,
        clock: Arc<dyn Clock>,
        metadata: Arc<MetadataStore>,
        membership: Arc<Membership>,
        controllers: Arc<Controllers>,
        leaders: Arc<Leaders>,
        shutdown: Shutdown,
    ) -> Node {
        let topics = ClusterTopics::new(metadata.snapshot(), crate::shard::Patterns::default());
        Node {
            loads: Semaphore::new(config.limits.loads_at_once),
            budget: Arc::new(Semaphore::new(crate::exchange::units(config.limits.in_flight_bytes))),
            lag: Lag::new(Arc::clone(&leaders), &config.intervals),
            topics: watch::Sender::new(Arc::new(topics)),
            started: Instant::now(),
            shards: Shards::default(),
            tally: Tally::default(),
            calls: AtomicU64::new(1),
            config,
            endpoint,
            clock,
            metadata,
            membership,
            controllers,
            leaders,
            shutdown,
        }
    }

    /// The time, as shards count it.
    pub fn now(&self) -> Now {
        Now { mono: self.started.elapsed(), wall: self.clock.now() }
    }

    /// A number that no other call of this process has.
    pub fn next_call(&self) -> CallId {
        CallId(self.calls.fetch_add(1, Ordering::Relaxed))
    }

    /// How many shards there are, by that image; 0 while the topic does not exist.
    pub fn shard_count(image: &MetadataImage) -> i32 {
        let topic = image.topic(thalweg_core::group::OFFSETS_TOPIC);
        topic.map_or(0, |topic| i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX))
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.config.node_id).finish_non_exhaustive()
    }
}
