//! What the internal topic `__consumer_offsets` holds: keys and values, and how a group is made from them.
//!
//! Keys begin with a big-endian version that is also the kind. Offsets have Kafka's layout (key version 1, value version 3), so
//! that the field's own formatter reads them. The others are ours: the key is the group and the member as Kafka writes strings,
//! the value one version byte and MessagePack with field names. A record without value is a tombstone.

use super::assignor::TopicIdPartition;
use super::bytes::{Reader, put_text};
use super::ids::{GroupId, InstanceId, MemberEpoch, MemberId};
use super::offset_value::{decode_offset, encode_offset};
use super::state::{Attempt, CommittedOffset, Current, Partitions, Subscription};
use crate::{PartitionId, Timestamp, TopicId, TopicName};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The client's text beside an offset, in bytes (`offset.metadata.max.bytes`).
pub const MAX_OFFSET_METADATA: usize = 4096;
/// Bytes of a value at most: a member with every partition of the largest topic fits.
pub const MAX_VALUE_BYTES: usize = 8 << 20;

const OFFSET_KEY: i16 = 1;
const GROUP_KEY: i16 = 100;
const MEMBER_KEY: i16 = 101;
const TARGET_KEY: i16 = 102;
const CURRENT_KEY: i16 = 103;
const VALUE_FORMAT: u8 = 1;

/// One record of a group, decoded. `None` forgets what the key names.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRecord {
    /// The group.
    pub group: GroupId,
    /// What changes.
    pub change: Change,
}

/// What one record changes.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A committed offset.
    Offset(TopicName, PartitionId, Option<CommittedOffset>),
    /// The group itself.
    Group(Option<GroupValue>),
    /// A member and what it asked for.
    Member(MemberId, Option<MemberValue>),
    /// What a member shall have.
    Target(MemberId, Option<Arc<Partitions>>),
    /// What a member has.
    Current(MemberId, Option<Current>),
}

/// The group itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupValue {
    /// See [`Group::epoch`](super::state::Group::epoch).
    pub epoch: MemberEpoch,
    /// See [`Group::target_epoch`](super::state::Group::target_epoch).
    pub target_epoch: MemberEpoch,
    /// The assignor's name.
    pub assignor: String,
    /// See [`Group::topics_hash`](super::state::Group::topics_hash).
    pub topics_hash: u64,
    /// See [`Group::empty_since`](super::state::Group::empty_since).
    pub empty_since: Option<Timestamp>,
}

/// A member and what it asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemberValue {
    /// See [`Member::subscription`](super::state::Member::subscription).
    pub subscription: Subscription,
    /// See [`Member::instance`](super::state::Member::instance).
    pub instance: Option<InstanceId>,
    /// See [`Member::client_id`](super::state::Member::client_id).
    pub client_id: Arc<str>,
    /// See [`Member::host`](super::state::Member::host).
    pub host: Arc<str>,
    /// In milliseconds.
    pub session_timeout_ms: u64,
    /// In milliseconds.
    pub rebalance_timeout_ms: u64,
}

/// A key or value is not what this version knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A newer version wrote it.
    #[error("a key of kind {0} is not known; a newer version wrote it")]
    UnknownKind(i16),
    /// The bytes are damaged.
    #[error("a record of a consumer group is malformed: {0}")]
    Malformed(&'static str),
}

impl GroupRecord {
    /// The key and the value as they lie in the log.
    pub fn encode(&self) -> (Vec<u8>, Option<Vec<u8>>) {
        let group = self.group.as_str();
        let key = |kind: i16, rest: &dyn Fn(&mut Vec<u8>)| {
            let mut key = kind.to_be_bytes().to_vec();
            put_text(&mut key, group);
            rest(&mut key);
            key
        };
        let member_key = |kind, member: &MemberId| key(kind, &|key| put_text(key, member.as_str()));
        match &self.change {
            Change::Offset(topic, partition, value) => {
                let key = key(OFFSET_KEY, &|key| {
                    put_text(key, topic.as_str());
                    key.extend(partition.get().to_be_bytes());
                });
                (key, value.as_ref().map(encode_offset))
            }
            Change::Group(value) => (key(GROUP_KEY, &|_| {}), value.as_ref().map(pack)),
            Change::Member(member, value) => (member_key(MEMBER_KEY, member), value.as_ref().map(pack)),
            Change::Target(member, value) => {
                (member_key(TARGET_KEY, member), value.as_ref().map(|target| pack(&by_topic(target.iter()))))
            }
            Change::Current(member, value) => (
                member_key(CURRENT_KEY, member),
                value.as_ref().map(|current| pack(&StoredCurrent::from(current))),
            ),
        }
    }

    /// A record from its key and value.
    ///
    /// Errors: an unknown kind, which a reader may pass over, or damage, which it may not.
    pub fn decode(key: &[u8], value: Option<&[u8]>) -> Result<GroupRecord, RecordError> {
        let mut key = Reader::new(key);
        let kind = i16::from_be_bytes(key.take()?);
        if ![OFFSET_KEY, GROUP_KEY, MEMBER_KEY, TARGET_KEY, CURRENT_KEY].contains(&kind) {
            return Err(RecordError::UnknownKind(kind));
        }
        let group = GroupId::new(key.text()?).map_err(|_| RecordError::Malformed("the group's id"))?;
        let change = match kind {
            OFFSET_KEY => {
                let topic = TopicName::new(key.text()?).map_err(|_| RecordError::Malformed("the topic"))?;
                let partition = PartitionId(i32::from_be_bytes(key.take()?));
                Change::Offset(topic, partition, value.map(decode_offset).transpose()?)
            }
            GROUP_KEY => Change::Group(value.map(unpack).transpose()?),
            _ => {
                let member =
                    MemberId::new(key.text()?).map_err(|_| RecordError::Malformed("the member's id"))?;
                match kind {
                    MEMBER_KEY => Change::Member(member, value.map(unpack).transpose()?),
                    TARGET_KEY => {
                        let target = value.map(unpack::<ByTopic>).transpose()?;
                        Change::Target(member, target.map(|target| Arc::new(flat(target).collect())))
                    }
                    _ => {
                        let current = value.map(unpack::<StoredCurrent>).transpose()?;
                        Change::Current(member, current.map(Current::from))
                    }
                }
            }
        };
        if key.is_empty() {
            Ok(GroupRecord { group, change })
        } else {
            Err(RecordError::Malformed("bytes follow the key"))
        }
    }
}

type ByTopic = Vec<(TopicId, Vec<i32>)>;

fn by_topic<'a>(partitions: impl Iterator<Item = &'a TopicIdPartition>) -> ByTopic {
    let mut topics: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
    for at in partitions {
        topics.entry(at.topic).or_default().push(at.partition.get());
    }
    topics.into_iter().collect()
}

fn flat(topics: ByTopic) -> impl Iterator<Item = TopicIdPartition> {
    topics.into_iter().flat_map(|(topic, list)| {
        list.into_iter().map(move |n| TopicIdPartition { topic, partition: PartitionId(n) })
    })
}

#[derive(Serialize, Deserialize)]
struct StoredCurrent {
    epoch: MemberEpoch,
    previous_epoch: MemberEpoch,
    owned: Vec<(MemberEpoch, ByTopic)>,
    revoking: Vec<(MemberEpoch, ByTopic)>,
    waiting: bool,
    #[serde(default)]
    step: u64,
    #[serde(default)]
    joined_by: Option<Attempt>,
}

impl From<&Current> for StoredCurrent {
    fn from(current: &Current) -> StoredCurrent {
        let by_epoch = |held: &BTreeMap<TopicIdPartition, MemberEpoch>| {
            let mut epochs: BTreeMap<MemberEpoch, Vec<&TopicIdPartition>> = BTreeMap::new();
            held.iter().for_each(|(at, epoch)| epochs.entry(*epoch).or_default().push(at));
            epochs.into_iter().map(|(epoch, list)| (epoch, by_topic(list.into_iter()))).collect()
        };
        StoredCurrent {
            epoch: current.epoch,
            previous_epoch: current.previous_epoch,
            owned: by_epoch(&current.owned),
            revoking: by_epoch(&current.revoking),
            waiting: current.waiting,
            step: current.step,
            joined_by: current.joined_by,
        }
    }
}

impl From<StoredCurrent> for Current {
    fn from(stored: StoredCurrent) -> Current {
        let held = |epochs: Vec<(MemberEpoch, ByTopic)>| {
            epochs.into_iter().flat_map(|(epoch, list)| flat(list).map(move |at| (at, epoch))).collect()
        };
        Current {
            epoch: stored.epoch,
            previous_epoch: stored.previous_epoch,
            owned: held(stored.owned),
            revoking: held(stored.revoking),
            waiting: stored.waiting,
            step: stored.step,
            joined_by: stored.joined_by,
        }
    }
}

pub(super) fn pack<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VALUE_FORMAT];
    rmp_serde::encode::write_named(&mut bytes, value)
        .expect("writing to memory cannot fail, and every sequence of ours knows its length");
    bytes
}

pub(super) fn unpack<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RecordError> {
    if bytes.len() > MAX_VALUE_BYTES {
        return Err(RecordError::Malformed("a value is too long"));
    }
    match bytes.split_first() {
        Some((&VALUE_FORMAT, body)) => {
            rmp_serde::from_slice(body).map_err(|_| RecordError::Malformed("a value does not decode"))
        }
        _ => Err(RecordError::Malformed("the format of a value")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::Group;
    use super::*;
    use crate::{LeaderEpoch, Offset};

    fn offset() -> GroupRecord {
        let value = CommittedOffset {
            offset: Offset(258),
            leader_epoch: LeaderEpoch(7),
            metadata: "m".into(),
            at: Timestamp(3),
            topic: None,
        };
        let change = Change::Offset(TopicName::new("t").unwrap(), PartitionId(2), Some(value));
        GroupRecord { group: GroupId::new("g").unwrap(), change }
    }

    #[test]
    fn every_record_survives_the_log_and_damage_is_an_error() {
        let (group, member) = (GroupId::new("g").unwrap(), MemberId::new("m").unwrap());
        let at = |n| TopicIdPartition { topic: TopicId([n; 16]), partition: PartitionId(i32::from(n)) };
        let current = Current {
            epoch: MemberEpoch(4),
            previous_epoch: MemberEpoch(3),
            owned: BTreeMap::from([(at(1), MemberEpoch(2)), (at(2), MemberEpoch(4))]),
            revoking: BTreeMap::from([(at(3), MemberEpoch(1))]),
            waiting: true,
            step: 9,
            joined_by: Some(Attempt { life: u64::MAX, number: 2 }),
        };
        let value = MemberValue {
            subscription: Subscription::default(),
            instance: Some(InstanceId::new("i").unwrap()),
            client_id: "c".into(),
            host: "h".into(),
            session_timeout_ms: 45_000,
            rebalance_timeout_ms: 300_000,
        };
        let changes = [
            offset().change,
            Change::Offset(TopicName::new("t").unwrap(), PartitionId(0), None),
            Change::Group(Some(Group::default().value())),
            Change::Group(None),
            Change::Member(member.clone(), Some(value)),
            Change::Member(member.clone(), None),
            Change::Target(member.clone(), Some(Arc::new(Partitions::from([at(1), at(2)])))),
            Change::Current(member, Some(current)),
        ];
        for change in changes {
            let record = GroupRecord { group: group.clone(), change };
            let (key, value) = record.encode();
            assert_eq!(GroupRecord::decode(&key, value.as_deref()), Ok(record));
            for cut in 0..key.len() {
                assert!(GroupRecord::decode(&key[..cut], value.as_deref()).is_err());
            }
            if let Some(value) = value {
                assert!(GroupRecord::decode(&key, Some(&value[..value.len() - 1])).is_err());
            }
        }
        assert_eq!(GroupRecord::decode(&[0, 99, 0, 1, b'g'], None), Err(RecordError::UnknownKind(99)));
    }
}
