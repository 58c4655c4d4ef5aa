//! The value of a committed offset, in Kafka's layout: version 3, or version 4 when the topic's id is known, which it carries as
//! a tagged field. Without the id, a topic that was deleted and created anew under its name would go on at the old one's offsets.

use super::bytes::{Reader, put_text, put_varint};
use super::records::RecordError;
use super::state::CommittedOffset;
use crate::{LeaderEpoch, Offset, Timestamp, TopicId};

const WITHOUT_ID: i16 = 3;
const WITH_ID: i16 = 4;
const ID_TAG: usize = 0;
/// Tagged fields of one value; a newer version may have some that are not known here.
const MAX_TAGS: usize = 16;

pub(super) fn encode_offset(value: &CommittedOffset) -> Vec<u8> {
    let version = if value.topic.is_some() { WITH_ID } else { WITHOUT_ID };
    let mut bytes = version.to_be_bytes().to_vec();
    bytes.extend(value.offset.get().to_be_bytes());
    bytes.extend(value.leader_epoch.get().to_be_bytes());
    match value.topic {
        None => put_text(&mut bytes, &value.metadata),
        Some(_) => {
            // Bounded by MAX_OFFSET_METADATA; a compact text's length is one more than its bytes.
            put_varint(&mut bytes, u32::try_from(value.metadata.len() + 1).unwrap_or(1));
            bytes.extend(value.metadata.as_bytes());
        }
    }
    bytes.extend(value.at.as_millis().to_be_bytes());
    if let Some(id) = value.topic {
        bytes.extend([1, 0, 16]);
        bytes.extend(id.0);
    }
    bytes
}

pub(super) fn decode_offset(bytes: &[u8]) -> Result<CommittedOffset, RecordError> {
    let mut bytes = Reader::new(bytes);
    let version = i16::from_be_bytes(bytes.take()?);
    if version != WITHOUT_ID && version != WITH_ID {
        return Err(RecordError::Malformed("the version of an offset"));
    }
    let offset = Offset(i64::from_be_bytes(bytes.take()?));
    let leader_epoch = LeaderEpoch(i32::from_be_bytes(bytes.take()?));
    let metadata = if version == WITHOUT_ID {
        bytes.text()?
    } else {
        let len = bytes.varint()?.checked_sub(1).ok_or(RecordError::Malformed("a text is missing"))?;
        bytes.text_of(len)?
    };
    let at = Timestamp(i64::from_be_bytes(bytes.take()?));
    let mut topic = None;
    if version == WITH_ID {
        let tags = bytes.varint()?;
        if tags > MAX_TAGS {
            return Err(RecordError::Malformed("too many tagged fields"));
        }
        for _ in 0..tags {
            let (tag, len) = (bytes.varint()?, bytes.varint()?);
            let value = bytes.bytes(len)?;
            if tag == ID_TAG {
                let id = value.try_into().map_err(|_| RecordError::Malformed("a topic's id"))?;
                topic = Some(TopicId(id));
            }
        }
    }
    Ok(CommittedOffset { offset, leader_epoch, metadata: metadata.into(), at, topic })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::{Change, GroupId, GroupRecord};
    use crate::{PartitionId, TopicName};

    fn record(topic: Option<TopicId>) -> GroupRecord {
        let value = CommittedOffset {
            offset: Offset(258),
            leader_epoch: LeaderEpoch(7),
            metadata: "m".into(),
            at: Timestamp(3),
            topic,
        };
        let change = Change::Offset(TopicName::new("t").unwrap(), PartitionId(2), Some(value));
        GroupRecord { group: GroupId::new("g").unwrap(), change }
    }

    #[test]
    fn offsets_have_kafkas_layout() {
        let (key, value) = record(None).encode();
        assert_eq!(key, [0, 1, 0, 1, b'g', 0, 1, b't', 0, 0, 0, 2]);
        let wanted = [0, 3, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7, 0, 1, b'm', 0, 0, 0, 0, 0, 0, 0, 3];
        assert_eq!(value.unwrap(), wanted);
        let (_, value) = record(Some(TopicId([9; 16]))).encode();
        let mut wanted =
            vec![0, 4, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 7, 2, b'm', 0, 0, 0, 0, 0, 0, 0, 3, 1, 0, 16];
        wanted.extend([9; 16]);
        assert_eq!(value.unwrap(), wanted);
    }

    #[test]
    fn both_versions_come_back_and_damage_is_an_error() {
        for topic in [None, Some(TopicId([9; 16]))] {
            let (key, value) = record(topic).encode();
            let value = value.unwrap();
            assert_eq!(GroupRecord::decode(&key, Some(&value)), Ok(record(topic)));
            for cut in 0..value.len() {
                assert!(GroupRecord::decode(&key, Some(&value[..cut])).is_err());
            }
        }
        let (key, value) = record(Some(TopicId([9; 16]))).encode();
        let mut value = value.unwrap();
        value[24] = 2;
        value.extend([5, 1, 0]);
        assert_eq!(
            GroupRecord::decode(&key, Some(&value)),
            Ok(record(Some(TopicId([9; 16])))),
            "a tagged field that a newer version wrote"
        );
    }
}
