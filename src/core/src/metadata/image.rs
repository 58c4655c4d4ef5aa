//! The cluster's metadata at one version: an immutable value that is cheap to clone.

use super::limits::MAX_HOST_LEN;
pub use super::partition::PartitionImage;
use super::shards::{CoordinatorRegistration, ShardLease};
use crate::config::{Overrides, TopicConfig};
use crate::{
    BrokerEpoch, BrokerId, ClusterId, CoordinatorId, MetadataVersion, NodeId, PartitionId, TopicId,
    TopicName, TopicPartition,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

/// The newest feature level that this program understands. It guards new commands and changes to what a command does: a cluster at
/// an older level keeps the older behaviour until every service is new enough. See [`super::features`].
pub const FEATURE_LEVEL: u16 = 2;

/// Where a service is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Endpoint {
    /// A DNS name or an address; an IPv6 address without brackets. 1 to [`MAX_HOST_LEN`] bytes.
    pub host: String,
    /// The TCP port, never 0.
    pub port: u16,
}

/// A text is no `host:port`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an endpoint is \"host:port\" with a port from 1 to 65535")]
pub struct EndpointError;

impl Endpoint {
    /// Names a host and a port, checked.
    pub fn new(host: &str, port: u16) -> Result<Endpoint, EndpointError> {
        let endpoint = Endpoint { host: host.to_owned(), port };
        if endpoint.is_valid() { Ok(endpoint) } else { Err(EndpointError) }
    }

    pub(super) fn is_valid(&self) -> bool {
        let host = self.host.as_str();
        let plain =
            host.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b':' | b'[' | b']' | b'/' | b'@'));
        !host.is_empty()
            && host.len() <= MAX_HOST_LEN
            && self.port != 0
            && (plain || host.parse::<Ipv6Addr>().is_ok())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError)?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bracketed.is_none() && host.contains(':') {
            return Err(EndpointError);
        }
        Endpoint::new(bracketed.unwrap_or(host), port.parse().map_err(|_| EndpointError)?)
    }
}

/// A broker as the cluster knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerRegistration {
    /// The broker's id.
    pub id: BrokerId,
    /// The version of the metadata at which this incarnation was registered.
    pub epoch: BrokerEpoch,
    /// Random, new at each start of the broker's process.
    pub incarnation: [u8; 16],
    /// Where clients reach it.
    pub endpoint: Endpoint,
    /// Where the other services reach it.
    pub internal_endpoint: Endpoint,
    /// Its rack or zone.
    pub rack: Option<String>,
    /// The ids of its log directories, each given once and kept for life.
    pub log_dirs: Vec<String>,
    /// Whether the cluster holds it for gone. A broker starts fenced.
    pub fenced: bool,
    /// Whether it asked to stop; it gets no new leadership then.
    pub in_controlled_shutdown: bool,
    /// Whether everything is to be moved off it; it gets no new replica then.
    #[serde(default)]
    pub draining: bool,
    /// The log directories that it had when it came back without one and some partition was lost by that. When it brings all of
    /// them again, those partitions have their data again. At most [`MAX_NEEDED_LOG_DIRS`].
    ///
    /// [`MAX_NEEDED_LOG_DIRS`]: super::limits::MAX_NEEDED_LOG_DIRS
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needed_log_dirs: Vec<String>,
}

impl BrokerRegistration {
    /// Whether it may lead, be in an ISR, and get replicas.
    pub fn is_active(&self) -> bool {
        !self.fenced && !self.in_controlled_shutdown
    }

    /// Whether new replicas may go to it.
    pub fn takes_replicas(&self) -> bool {
        self.is_active() && !self.draining
    }
}

/// One topic.
#[derive(Debug, Clone, PartialEq)]
pub struct TopicImage {
    /// Its id, for life.
    pub id: TopicId,
    /// Its name.
    pub name: TopicName,
    /// Its partitions, by index. Shared, so that a change of one does not copy all.
    pub partitions: Vec<Arc<PartitionImage>>,
    /// What its configuration overrides.
    pub overrides: Arc<Overrides>,
    /// Its configuration, resolved.
    pub config: Arc<TopicConfig>,
    /// Whether it belongs to the cluster itself.
    pub internal: bool,
}

impl TopicImage {
    /// The partition of that index.
    pub fn partition(&self, partition: PartitionId) -> Option<&Arc<PartitionImage>> {
        self.partitions.get(usize::try_from(partition.get()).ok()?)
    }

    /// Partitions with their index, in order.
    pub fn partitions(&self) -> impl Iterator<Item = (PartitionId, &Arc<PartitionImage>)> {
        // At most MAX_PARTITIONS_PER_TOPIC, so the index fits.
        self.partitions.iter().enumerate().map(|(index, partition)| (PartitionId(index as i32), partition))
    }

    /// How many replicas a partition has: that of the first, as all have the same unless someone moved single ones. A
    /// reassignment under way counts as done.
    pub fn replication_factor(&self) -> usize {
        self.partitions.first().map_or(0, |partition| partition.target_replicas().count())
    }

    /// How many replicas of that partition must be in sync for acks=all.
    pub fn min_insync(&self, partition: &PartitionImage) -> usize {
        partition.min_insync(self.config.min_insync_replicas)
    }
}

/// The cluster's metadata at one version. A clone shares everything with its original until one of them changes.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct MetadataImage {
    pub(super) version: MetadataVersion,
    pub(super) cluster_id: Option<ClusterId>,
    pub(super) feature_level: u16,
    pub(super) brokers: Arc<BTreeMap<BrokerId, Arc<BrokerRegistration>>>,
    pub(super) topics: Arc<BTreeMap<TopicName, Arc<TopicImage>>>,
    pub(super) topic_names: Arc<BTreeMap<TopicId, TopicName>>,
    pub(super) partition_count: usize,
    pub(super) next_producer_id: i64,
    pub(super) controllers: Arc<BTreeMap<NodeId, Endpoint>>,
    pub(super) coordinators: Arc<BTreeMap<CoordinatorId, Arc<CoordinatorRegistration>>>,
    pub(super) leases: Arc<BTreeMap<TopicPartition, ShardLease>>,
}

impl MetadataImage {
    /// The metadata of a cluster that is not initialised yet.
    pub fn new() -> MetadataImage {
        MetadataImage::default()
    }

    /// The version: the Raft index of the last command applied. It never goes back.
    pub fn version(&self) -> MetadataVersion {
        self.version
    }

    /// The cluster's id, once it is initialised.
    pub fn cluster_id(&self) -> Option<&ClusterId> {
        self.cluster_id.as_ref()
    }

    /// The feature level in force; 0 before the cluster is initialised.
    pub fn feature_level(&self) -> u16 {
        self.feature_level
    }

    /// The first producer id that was not given away yet.
    pub fn next_producer_id(&self) -> i64 {
        self.next_producer_id
    }

    /// Where the controllers are reached, in the order of their id.
    pub fn controllers(&self) -> impl ExactSizeIterator<Item = (NodeId, &Endpoint)> {
        self.controllers.iter().map(|(id, endpoint)| (*id, endpoint))
    }

    /// The brokers, fenced ones included, in the order of their id.
    pub fn brokers(&self) -> impl ExactSizeIterator<Item = &Arc<BrokerRegistration>> {
        self.brokers.values()
    }

    /// The broker of that id.
    pub fn broker(&self, id: BrokerId) -> Option<&Arc<BrokerRegistration>> {
        self.brokers.get(&id)
    }

    /// The brokers that may lead, in the order of their id.
    pub fn active_brokers(&self) -> impl Iterator<Item = &Arc<BrokerRegistration>> {
        self.brokers().filter(|broker| broker.is_active())
    }

    /// The coordinators, fenced ones included, in the order of their id.
    pub fn coordinators(&self) -> impl ExactSizeIterator<Item = &Arc<CoordinatorRegistration>> {
        self.coordinators.values()
    }

    /// The coordinator of that id.
    pub fn coordinator(&self, id: CoordinatorId) -> Option<&Arc<CoordinatorRegistration>> {
        self.coordinators.get(&id)
    }

    /// Who serves each shard, in the order of topic and partition.
    pub fn leases(&self) -> impl ExactSizeIterator<Item = (&TopicPartition, &ShardLease)> {
        self.leases.iter()
    }

    /// Who serves a shard; `None` if that partition is none.
    pub fn lease(&self, shard: &TopicPartition) -> Option<&ShardLease> {
        self.leases.get(shard)
    }

    /// The topics, internal ones included, in the order of their name.
    pub fn topics(&self) -> impl ExactSizeIterator<Item = &Arc<TopicImage>> {
        self.topics.values()
    }

    /// The topics whose name is greater than `name`, in order: the next page of a list.
    pub fn topics_after<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Arc<TopicImage>> {
        use std::ops::Bound;
        self.topics.range::<str, _>((Bound::Excluded(name), Bound::Unbounded)).map(|(_, topic)| topic)
    }

    /// The topic of that name. Any text may be asked for.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(name)
    }

    /// The topic of that id.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.topic_names.get(&id)?)
    }

    /// One partition.
    pub fn partition(&self, at: &TopicPartition) -> Option<&Arc<PartitionImage>> {
        self.topic(at.topic.as_str())?.partition(at.partition)
    }

    /// How many partitions all topics have together.
    pub fn partition_count(&self) -> usize {
        self.partition_count
    }

    /// How many partitions a broker leads. One that asked to stop may do so when it leads none.
    pub fn leaderships_of(&self, broker: BrokerId) -> usize {
        let partitions = self.topics().flat_map(|topic| topic.partitions.iter());
        partitions.filter(|partition| partition.leader == broker).count()
    }

    /// How many replicas a broker holds or is being given. One that is drained is empty when it has none.
    pub fn replicas_of(&self, broker: BrokerId) -> usize {
        let partitions = self.topics().flat_map(|topic| topic.partitions.iter());
        partitions.filter(|partition| partition.replicas.contains(&broker)).count()
    }

    /// The reassignments under way, in the order of topic and partition.
    pub fn reassignments(
        &self,
    ) -> impl Iterator<Item = (&Arc<TopicImage>, PartitionId, &Arc<PartitionImage>)> {
        let all =
            self.topics().flat_map(|topic| topic.partitions().map(move |(id, image)| (topic, id, image)));
        all.filter(|(_, _, partition)| partition.is_reassigning())
    }

    /// The topics that differ between an older image and this one, found by walking both; topics that are shared cost one
    /// pointer comparison each. A topic deleted and created again under its name is both removed and changed.
    pub fn changes_since(&self, older: &MetadataImage) -> Changes {
        let mut changes = Changes::default();
        if Arc::ptr_eq(&self.topics, &older.topics) {
            return changes;
        }
        for topic in self.topics() {
            match older.topic(topic.name.as_str()) {
                Some(before) if Arc::ptr_eq(before, topic) || before == topic => {}
                _ => changes.changed.push(Arc::clone(topic)),
            }
        }
        let gone = |topic: &&Arc<TopicImage>| !self.topic_names.contains_key(&topic.id);
        changes.removed.extend(older.topics().filter(gone).map(Arc::clone));
        changes
    }
}

/// The topics that differ between two images.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Changes {
    /// Topics that are new or differ, as they are now.
    pub changed: Vec<Arc<TopicImage>>,
    /// Topics whose id no longer exists, as they were. To be handled before the changed ones.
    pub removed: Vec<Arc<TopicImage>>,
}
