//! Connections to the internal ports of the brokers that lead partitions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_client::controllers::MetadataStore;
use thalweg_core::{BrokerId, ErrorCode, PartitionId, TopicPartition};
use thalweg_proto::ApiError;
use thalweg_runtime::Dialer;
use tonic::transport::Channel;

/// Shards whose streams share a connection: fewer than the calls that a broker takes on one.
const SHARDS_PER_CONNECTION: i32 = 64;

/// What a connection is for. Bulk on the one must not hold up the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// Writes of these shards.
    Writes(i32),
    /// Loading.
    Reads,
    /// Short questions.
    Questions,
}

impl Use {
    /// The writes of a shard.
    pub fn writes_of(shard: PartitionId) -> Use {
        Use::Writes(shard.get() / SHARDS_PER_CONNECTION)
    }
}

/// Where a partition's leader is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The broker.
    pub id: BrokerId,
    /// Its internal endpoint.
    pub endpoint: Arc<str>,
}

/// The brokers, as a coordinator reaches them.
pub struct Leaders {
    dialer: Dialer,
    metadata: Arc<MetadataStore>,
    channels: Mutex<BTreeMap<(Arc<str>, Use), Channel>>,
}

impl Leaders {
    /// Knows nobody yet.
    pub fn new(dialer: Dialer, metadata: Arc<MetadataStore>) -> Leaders {
        Leaders { dialer, metadata, channels: Mutex::default() }
    }

    /// Who leads a partition, by the newest image.
    ///
    /// Errors: `UNKNOWN_TOPIC`, `LEADER_NOT_AVAILABLE`.
    pub fn leader_of(&self, at: &TopicPartition) -> Result<Leader, ApiError> {
        let image = self.metadata.image();
        let partition = image.partition(at);
        let partition = partition
            .ok_or_else(|| ApiError::new(ErrorCode::UnknownTopic, format!("there is no partition {at}")))?;
        match image.broker(partition.leader) {
            Some(broker) => {
                Ok(Leader { id: broker.id, endpoint: broker.internal_endpoint.to_string().into() })
            }
            None => {
                let message = format!("partition {at} has no leader at the moment");
                Err(ApiError::new(ErrorCode::LeaderNotAvailable, message))
            }
        }
    }

    /// A connection to a leader.
    pub fn channel(&self, leader: &Leader, what: Use) -> Result<Channel, ApiError> {
        // A map of handles is whole at every step.
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(&leader.endpoint), what);
        if let Some(channel) = channels.get(&key) {
            return Ok(channel.clone());
        }
        let channel = self.dialer.channel(&leader.endpoint).map_err(|error| {
            ApiError::new(ErrorCode::LeaderNotAvailable, format!("broker {}: {error}", leader.id))
        })?;
        // Whoever moved or left is forgotten with the next that comes.
        let image = self.metadata.image();
        let known: Vec<String> = image.brokers().map(|broker| broker.internal_endpoint.to_string()).collect();
        channels.retain(|(endpoint, _), _| known.iter().any(|known| **known == **endpoint));
        channels.insert(key, channel.clone());
        Ok(channel)
    }
}

impl fmt::Debug for Leaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Leaders").finish_non_exhaustive()
    }
}
