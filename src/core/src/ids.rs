//! Ids and positions as types of their own, so that an offset is never passed where an epoch is meant.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl $name {
            /// The plain number, for a wire format or a log line.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<$inner> for $name {
            fn from(value: $inner) -> Self {
                $name(value)
            }
        }
    };
}

number!(
    /// A broker's node id, unique in the cluster and kept for life. Never negative; `-1` is "no broker".
    BrokerId(i32)
);
number!(
    /// A controller's id in the Raft group. Never 0, never reused after its volume was lost.
    NodeId(u64)
);
number!(
    /// The incarnation of a broker: the metadata version at which this process was registered (KIP-903).
    BrokerEpoch(i64)
);
number!(
    /// A coordinator's id, unique in the cluster. Never negative.
    CoordinatorId(i32)
);
number!(
    /// The incarnation of a coordinator: the metadata version at which this process was registered.
    CoordinatorEpoch(i64)
);
number!(
    /// Counts the coordinators that a shard had: a partition of an internal topic is written under the newest one only.
    LeaseEpoch(i32)
);
number!(
    /// A partition's index within its topic, from 0.
    PartitionId(i32)
);
number!(
    /// A record's position in its partition's log, from 0.
    Offset(i64)
);
number!(
    /// Counts the leaders of a partition (KIP-101). `-1` is "unknown".
    LeaderEpoch(i32)
);
number!(
    /// Counts the changes of a partition's leader or ISR; guards AlterPartition.
    PartitionEpoch(i32)
);
number!(
    /// An idempotent producer's id. `-1` is "none".
    ProducerId(i64)
);
number!(
    /// A producer's epoch; an older one is fenced. `-1` is "none".
    ProducerEpoch(i16)
);
number!(
    /// A producer's sequence number in one partition; wraps from `i32::MAX` to 0. `-1` is "none".
    Sequence(i32)
);
number!(
    /// The number of commands applied to the cluster's metadata: the Raft index of the last one.
    MetadataVersion(u64)
);

impl BrokerId {
    /// No broker: a partition without a leader.
    pub const NONE: BrokerId = BrokerId(-1);
}

impl Offset {
    /// The first offset of a new log.
    pub const ZERO: Offset = Offset(0);
    /// "No offset": an answer where nothing was found.
    pub const NONE: Offset = Offset(-1);

    /// The offset `n` records further on. Saturates at `i64::MAX`.
    pub const fn advance(self, n: i64) -> Offset {
        Offset(self.0.saturating_add(n))
    }
}

impl LeaderEpoch {
    /// The epoch is not known.
    pub const NONE: LeaderEpoch = LeaderEpoch(-1);
}

impl ProducerId {
    /// The batch does not come from an idempotent producer.
    pub const NONE: ProducerId = ProducerId(-1);

    /// Whether an idempotent producer is named.
    pub const fn is_some(self) -> bool {
        self.0 >= 0
    }
}

impl ProducerEpoch {
    /// No epoch.
    pub const NONE: ProducerEpoch = ProducerEpoch(-1);
}

impl Sequence {
    /// No sequence.
    pub const NONE: Sequence = Sequence(-1);

    /// The sequence `n` records further on, wrapping from `i32::MAX` to 0 as Kafka does.
    /// `n` must not be negative.
    pub const fn advance(self, n: i32) -> Sequence {
        if self.0 > i32::MAX - n { Sequence(n - (i32::MAX - self.0) - 1) } else { Sequence(self.0 + n) }
    }
}

/// Names a cluster for life, so that a data folder of another cluster is refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterId(pub Arc<str>);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names a topic for life: a topic deleted and created again under its old name has another id (KIP-516).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TopicId(pub [u8; 16]);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TopicId({self})")
    }
}

impl FromStr for TopicId {
    type Err = TopicNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut id = [0u8; 16];
        if text.len() != 32 || !text.is_ascii() {
            return Err(TopicNameError::NotAnId);
        }
        for (i, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|_| TopicNameError::NotAnId)?;
        }
        Ok(TopicId(id))
    }
}

/// A valid topic name: 1 to 249 of `[a-zA-Z0-9._-]`, neither `.` nor `..` (Kafka's rule, because the name becomes
/// a folder's). Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(Arc<str>);

/// Why a text is no topic name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicNameError {
    /// The name has no character.
    #[error("a topic name cannot be empty")]
    Empty,
    /// The name is longer than [`TopicName::MAX_LEN`].
    #[error("a topic name cannot be longer than 249 characters")]
    TooLong,
    /// The name is `.` or `..`.
    #[error("a topic cannot be named \".\" or \"..\"")]
    Dots,
    /// The name has a character that is not allowed.
    #[error("a topic name can only have the characters a-z, A-Z, 0-9, '.', '_' and '-'")]
    IllegalCharacter,
    /// A topic id is 32 hexadecimal digits.
    #[error("a topic id is 32 hexadecimal digits")]
    NotAnId,
}

impl TopicName {
    /// The longest name: with `-<partition>` behind it, it still fits a file name of 255 bytes.
    pub const MAX_LEN: usize = 249;

    /// Checks a name.
    pub fn new(name: &str) -> Result<TopicName, TopicNameError> {
        if name.is_empty() {
            return Err(TopicNameError::Empty);
        }
        if name == "." || name == ".." {
            return Err(TopicNameError::Dots);
        }
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
            return Err(TopicNameError::IllegalCharacter);
        }
        if name.len() > Self::MAX_LEN {
            return Err(TopicNameError::TooLong);
        }
        Ok(TopicName(Arc::from(name)))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TopicName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::borrow::Borrow<str> for TopicName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for TopicName {
    type Err = TopicNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        TopicName::new(name)
    }
}

impl TryFrom<String> for TopicName {
    type Error = TopicNameError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        TopicName::new(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> String {
        name.0.as_ref().to_owned()
    }
}

/// One partition of one topic. Its text form is the name of its folder: `<topic>-<partition>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: TopicName,
    /// The partition's index.
    pub partition: PartitionId,
}

impl TopicPartition {
    /// Names a partition.
    pub fn new(topic: TopicName, partition: PartitionId) -> Self {
        TopicPartition { topic, partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl FromStr for TopicPartition {
    type Err = TopicNameError;

    /// Parses a folder's name; the partition is what stands behind the last `-`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (topic, partition) = text.rsplit_once('-').ok_or(TopicNameError::IllegalCharacter)?;
        let canonical = partition == "0" || (!partition.starts_with('0') && !partition.is_empty());
        if !canonical || !partition.bytes().all(|b| b.is_ascii_digit()) {
            return Err(TopicNameError::IllegalCharacter);
        }
        let partition = partition.parse().map_err(|_| TopicNameError::IllegalCharacter)?;
        Ok(TopicPartition::new(TopicName::new(topic)?, PartitionId(partition)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_wrap_from_the_largest_to_zero() {
        assert_eq!(Sequence(5).advance(3), Sequence(8));
        assert_eq!(Sequence(i32::MAX).advance(1), Sequence(0));
        assert_eq!(Sequence(i32::MAX - 1).advance(5), Sequence(3));
    }

    #[test]
    fn topic_names_follow_kafkas_rule() {
        for good in ["a", "a.b_c-D9", "__consumer_offsets", "...", &"x".repeat(249)] {
            assert!(TopicName::new(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("", TopicNameError::Empty),
            (".", TopicNameError::Dots),
            ("..", TopicNameError::Dots),
            ("a/b", TopicNameError::IllegalCharacter),
            ("ä", TopicNameError::IllegalCharacter),
            (&"x".repeat(250), TopicNameError::TooLong),
        ] {
            assert_eq!(TopicName::new(bad), Err(why), "{bad}");
        }
    }

    #[test]
    fn a_partitions_folder_name_parses_back() {
        let tp: TopicPartition = "my-topic-12".parse().unwrap();
        assert_eq!((tp.topic.as_str(), tp.partition), ("my-topic", PartitionId(12)));
        assert_eq!(tp.to_string(), "my-topic-12");
        for bad in ["topic", "topic-", "topic-x", "topic-01", "-1", "topic-99999999999"] {
            assert!(bad.parse::<TopicPartition>().is_err(), "{bad}");
        }
    }
}
