//! What every handler of one broker shares.

use crate::config::BrokerConfig;
use crate::controller::ControllerLink;
use crate::forward::Peers;
use crate::group::Groups;
use crate::in_flight::InFlight;
use crate::metadata::MetadataStore;
use crate::metrics::FlushTimes;
use crate::produce::fence::SeenLeases;
use crate::producer_ids::ProducerIds;
use crate::replicas::{Lookup, Partition, ReplicaManager};
use crate::replication::leader::isr::IsrBell;
use crate::stopping::Stopping;
use std::sync::Arc;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::{BrokerId, Clock, ErrorCode, LeaderEpoch, PartitionId};
use thalweg_proto::{ApiError, Detail};
use thalweg_runtime::{Dialer, Shutdown};
use tokio::time::Instant;

/// One broker's parts.
pub struct Node {
    /// What it was told.
    pub config: BrokerConfig,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The cluster's metadata.
    pub metadata: Arc<MetadataStore>,
    /// The partitions on this broker.
    pub replicas: Arc<ReplicaManager>,
    /// Bytes of produce requests in flight.
    pub in_flight: Arc<InFlight>,
    /// Bytes of unary Fetch answers.
    pub answers: Arc<InFlight>,
    /// Bytes of messages of clients that have not come to their end.
    pub half_received: Arc<InFlight>,
    /// The same of other services, on the internal port.
    pub half_forwarded: Arc<InFlight>,
    /// How long the syncs of each log directory took.
    pub flushes: FlushTimes,
    /// The controllers.
    pub controller: Arc<ControllerLink>,
    /// Rung when a follower may join an ISR.
    pub isr: IsrBell,
    /// How it reaches other services.
    pub dialer: Dialer,
    /// The other brokers.
    pub peers: Peers,
    /// The coordinators of consumer groups.
    pub groups: Groups,
    /// The leases that coordinators wrote with.
    pub leases: SeenLeases,
    /// Ids for idempotent producers.
    pub producer_ids: ProducerIds,
    /// Ends everything.
    pub shutdown: Shutdown,
}

impl Node {
    /// A partition that this broker leads.
    ///
    /// Errors: `UNKNOWN_TOPIC`, `UNKNOWN_PARTITION`, `NOT_LEADER` with the leader, `LEADER_NOT_AVAILABLE`, `STORAGE_ERROR`.
    pub fn led_here(&self, topic: &str, partition: i32) -> Result<Arc<Partition>, ApiError> {
        match self.replicas.find(topic, PartitionId(partition)) {
            Lookup::Here(replica) if replica.leading().is_some() => Ok(replica),
            Lookup::Failed(error) => Err(error),
            _ => Err(self.not_led_here(topic, partition)),
        }
    }

    /// Why a partition is not served here, by the metadata.
    pub fn not_led_here(&self, topic: &str, partition: i32) -> ApiError {
        let image = self.metadata.image();
        let Some(found) = image.topic(topic) else {
            return unknown_topic(topic);
        };
        let Some(state) = found.partition(PartitionId(partition)) else {
            let last = found.partitions.len().saturating_sub(1);
            return ApiError::new(
                ErrorCode::UnknownPartition,
                format!("topic \"{topic}\" has no partition {partition}; it has 0 to {last}"),
            )
            .with_field("partition");
        };
        if state.leader == BrokerId::NONE {
            let message = format!("partition {topic}-{partition} has no leader at the moment; retry");
            return ApiError::new(ErrorCode::LeaderNotAvailable, message);
        }
        if state.leader == self.config.node_id {
            let message = format!("partition {topic}-{partition} is being opened on this broker; retry");
            return ApiError::new(ErrorCode::LeaderNotAvailable, message);
        }
        let endpoint = endpoint_of(&image, state.leader);
        let message = format!("broker {} leads partition {topic}-{partition}, at {endpoint}", state.leader);
        ApiError::new(ErrorCode::NotLeader, message).with_detail(Detail::NotLeader {
            leader: state.leader,
            endpoint,
            epoch: state.leader_epoch,
        })
    }

    /// Checks a caller's idea of the leader epoch against `current`.
    pub fn check_epoch(&self, known: Option<i32>, current: LeaderEpoch) -> Result<(), ApiError> {
        match known.map(LeaderEpoch) {
            Some(known) if known < current => Err(ApiError::new(
                ErrorCode::FencedLeaderEpoch,
                format!("leader epoch {known} is over, it is {current} now; refresh the metadata"),
            )
            .with_field("current_leader_epoch")),
            Some(known) if known > current => Err(ApiError::new(
                ErrorCode::UnknownLeaderEpoch,
                format!("leader epoch {known} is not known here yet, it is {current}; retry"),
            )
            .with_field("current_leader_epoch")),
            _ => Ok(()),
        }
    }

    /// When a call gives up whose answer must leave at `deadline`, if it has one.
    pub fn until(&self, deadline: Option<Instant>) -> Instant {
        let most = Instant::now() + self.config.intervals.metadata_wait;
        deadline.map_or(most, |deadline| most.min(deadline))
    }

    /// A view of the shutdown for one stream.
    pub fn stopping(&self) -> Stopping {
        Stopping::new(self.shutdown.clone())
    }

    /// Ends when a write that is still not acknowledged must be given up, because the broker stops.
    pub async fn last_call(&self) {
        self.shutdown.triggered().await;
        tokio::time::sleep(self.config.intervals.answer_grace).await;
    }
}

/// There is no such topic.
pub fn unknown_topic(topic: &str) -> ApiError {
    // A caller's text is not repeated without bound.
    let shown: String = topic.chars().take(thalweg_core::TopicName::MAX_LEN).collect();
    ApiError::new(ErrorCode::UnknownTopic, format!("topic \"{shown}\" does not exist; create it first"))
        .with_field("topic")
}

/// Where clients reach a broker; empty if it is not known.
pub fn endpoint_of(image: &MetadataImage, broker: BrokerId) -> String {
    image.broker(broker).map(|broker| broker.endpoint.to_string()).unwrap_or_default()
}
