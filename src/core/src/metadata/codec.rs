//! Commands and images as bytes: one format byte, then MessagePack with field names, so that a field can be added without
//! a new format.

use super::command::Command;
use super::features::FeatureLevels;
use super::image::{BrokerRegistration, Endpoint, MetadataImage, PartitionImage, TopicImage};
use super::invariants::{self, Violation};
use super::shards::{CoordinatorRegistration, ShardLease};
use crate::config::{Overrides, TopicConfig};
use crate::{ClusterId, MetadataVersion, NodeId, TopicId, TopicName, TopicPartition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::Arc;

/// The first byte of an encoded command.
pub const COMMAND_FORMAT: u8 = 1;
/// The first byte of an encoded image.
pub const IMAGE_FORMAT: u8 = 1;
/// The longest encoded command, in bytes: as much as the Raft log takes. The largest explicit assignment fits, and ISR changes of
/// as many partitions as one command may name, with ten replicas each.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;
/// The longest encoded image, in bytes; far beyond what the limits of the metadata allow.
pub const MAX_IMAGE_BYTES: usize = 256 << 20;

/// How deep values may be nested. Ours need less than half of it; the library's own bound of 1,024 can overflow a thread's
/// stack.
const MAX_DEPTH: usize = 32;

/// Bytes that are no command or image of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// There is not even a format byte.
    #[error("the bytes are empty")]
    Empty,
    /// A newer version wrote them.
    #[error("format {format} is not known, only formats up to {known}; a newer version wrote it")]
    UnknownFormat {
        /// The format byte.
        format: u8,
        /// The newest format that this version reads.
        known: u8,
    },
    /// They are longer than allowed.
    #[error("{len} bytes are more than the {limit} that are allowed")]
    TooLarge {
        /// Their length.
        len: usize,
        /// The bound.
        limit: usize,
    },
    /// They belong to a cluster at a feature level that this version does not support.
    #[error(
        "the metadata is at feature level {level}, this program supports {}; start another version of it",
        FeatureLevels::OURS
    )]
    UnsupportedLevel {
        /// The level.
        level: u16,
    },
    /// They are not what the format says, or name a command that only a newer version knows.
    #[error("the bytes are malformed: {0}")]
    Malformed(String),
    /// They are well-formed but say what cannot be.
    #[error("the metadata contradicts itself: {0}")]
    Inconsistent(#[from] Violation),
}

impl CodecError {
    /// The code for a caller. Never to be retried: the bytes stay what they are.
    pub const fn code(&self) -> crate::ErrorCode {
        match self {
            CodecError::TooLarge { .. } => crate::ErrorCode::InvalidRequest,
            CodecError::UnknownFormat { .. } => crate::ErrorCode::Unsupported,
            CodecError::UnsupportedLevel { .. } => crate::ErrorCode::IncompatibleFeatureLevel,
            _ => crate::ErrorCode::Internal,
        }
    }
}

/// A command as bytes. Fails only when it is longer than [`MAX_COMMAND_BYTES`].
pub fn encode_command(command: &Command) -> Result<Vec<u8>, CodecError> {
    let bytes = encode(COMMAND_FORMAT, command);
    if bytes.len() > MAX_COMMAND_BYTES {
        return Err(CodecError::TooLarge { len: bytes.len(), limit: MAX_COMMAND_BYTES });
    }
    Ok(bytes)
}

/// A command from bytes. One that raises the feature level beyond what this version knows is none: whoever passed over it would
/// no longer have the metadata that the others have.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    match decode(bytes, COMMAND_FORMAT, MAX_COMMAND_BYTES)? {
        Command::FinalizeFeatureLevel(command) if command.level > FeatureLevels::OURS.max => {
            Err(CodecError::UnsupportedLevel { level: command.level })
        }
        command => Ok(command),
    }
}

/// A whole image as bytes: a snapshot.
pub fn encode_image(image: &MetadataImage) -> Vec<u8> {
    let topic = |topic: &Arc<TopicImage>| StoredTopic {
        id: topic.id,
        name: topic.name.clone(),
        internal: topic.internal,
        overrides: Arc::clone(&topic.overrides),
        partitions: topic.partitions.clone(),
    };
    let stored = StoredImage {
        version: image.version,
        cluster_id: image.cluster_id.clone(),
        feature_level: image.feature_level,
        next_producer_id: image.next_producer_id,
        brokers: image.brokers().map(Arc::clone).collect(),
        topics: image.topics().map(topic).collect(),
        controllers: image.controllers().map(|(id, endpoint)| (id, endpoint.clone())).collect(),
        coordinators: image.coordinators().map(Arc::clone).collect(),
        leases: image.leases().map(|(shard, lease)| (shard.clone(), *lease)).collect(),
    };
    encode(IMAGE_FORMAT, &stored)
}

/// An image from bytes, checked against its invariants.
pub fn decode_image(bytes: &[u8]) -> Result<MetadataImage, CodecError> {
    let stored: StoredImage = decode(bytes, IMAGE_FORMAT, MAX_IMAGE_BYTES)?;
    // Before a cluster is founded it has none.
    if stored.feature_level != 0 && !FeatureLevels::OURS.contain(stored.feature_level) {
        return Err(CodecError::UnsupportedLevel { level: stored.feature_level });
    }
    let (broker_count, topic_count) = (stored.brokers.len(), stored.topics.len());
    let brokers: BTreeMap<_, _> = stored.brokers.into_iter().map(|broker| (broker.id, broker)).collect();
    let mut topics = BTreeMap::new();
    let mut topic_names = BTreeMap::new();
    let mut partition_count = 0;
    for topic in stored.topics {
        partition_count += topic.partitions.len();
        topic_names.insert(topic.id, topic.name.clone());
        let topic = TopicImage {
            id: topic.id,
            name: topic.name,
            partitions: topic.partitions,
            config: Arc::new(TopicConfig::resolve_lossy(&topic.overrides)),
            overrides: topic.overrides,
            internal: topic.internal,
        };
        topics.insert(topic.name.clone(), Arc::new(topic));
    }
    let (coordinator_count, lease_count) = (stored.coordinators.len(), stored.leases.len());
    let coordinators: BTreeMap<_, _> = stored.coordinators.into_iter().map(|one| (one.id, one)).collect();
    let leases: BTreeMap<_, _> = stored.leases.into_iter().collect();
    if brokers.len() != broker_count
        || topics.len() != topic_count
        || coordinators.len() != coordinator_count
        || leases.len() != lease_count
    {
        return Err(CodecError::Malformed("something is there twice".to_owned()));
    }
    let image = MetadataImage {
        version: stored.version,
        cluster_id: stored.cluster_id,
        feature_level: stored.feature_level,
        brokers: Arc::new(brokers),
        topics: Arc::new(topics),
        topic_names: Arc::new(topic_names),
        partition_count,
        next_producer_id: stored.next_producer_id,
        controllers: Arc::new(stored.controllers.into_iter().collect()),
        coordinators: Arc::new(coordinators),
        leases: Arc::new(leases),
    };
    invariants::check(&image)?;
    Ok(image)
}

/// An image as it is stored: without what can be computed.
#[derive(Serialize, Deserialize)]
struct StoredImage {
    version: MetadataVersion,
    cluster_id: Option<ClusterId>,
    feature_level: u16,
    next_producer_id: i64,
    brokers: Vec<Arc<BrokerRegistration>>,
    topics: Vec<StoredTopic>,
    #[serde(default)]
    controllers: Vec<(NodeId, Endpoint)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    coordinators: Vec<Arc<CoordinatorRegistration>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    leases: Vec<(TopicPartition, ShardLease)>,
}

#[derive(Serialize, Deserialize)]
struct StoredTopic {
    id: TopicId,
    name: TopicName,
    internal: bool,
    overrides: Arc<Overrides>,
    partitions: Vec<Arc<PartitionImage>>,
}

fn encode<T: Serialize>(format: u8, value: &T) -> Vec<u8> {
    let mut bytes = vec![format];
    rmp_serde::encode::write_named(&mut bytes, value)
        .expect("writing to memory cannot fail, and every map of ours knows its length");
    bytes
}

fn decode<T: DeserializeOwned>(bytes: &[u8], known: u8, limit: usize) -> Result<T, CodecError> {
    if bytes.len() > limit {
        return Err(CodecError::TooLarge { len: bytes.len(), limit });
    }
    let (&format, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if format != known {
        return Err(CodecError::UnknownFormat { format, known });
    }
    // Lengths inside are claims: serde allocates at most 1 MiB ahead of the elements that really come.
    let mut from = rmp_serde::Deserializer::new(Cursor::new(body));
    from.set_max_depth(MAX_DEPTH);
    let value = T::deserialize(&mut from).map_err(|error| CodecError::Malformed(error.to_string()))?;
    match from.position() as usize {
        end if end == body.len() => Ok(value),
        end => Err(CodecError::Malformed(format!("{} bytes follow the value", body.len() - end))),
    }
}
