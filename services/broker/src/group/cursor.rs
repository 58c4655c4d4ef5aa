//! What a member that polls is, between two polls: the broker keeps nothing, the client brings it back.
//!
//! ```text
//!   | version 2 | CRC-32C over group, member and the rest | epoch, options, step heard | topics { id, partitions { .. } } |
//! ```
//! The client could write what it likes here, and gains nothing by it: the coordinator checks epochs and commits as it does
//! those of anybody else. The checksum finds a cursor of another member, and damage.

use super::options::Reset;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::time::Duration;
use thalweg_core::group::MemberEpoch;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::ids::MAX_ID_LEN;
use thalweg_core::{PartitionId, Timestamp, TopicId};
use thalweg_proto::{ApiError, v1};

/// Bytes of a cursor at most.
const MAX_BYTES: usize = 4 << 20;
const VERSION: u8 = 2;
/// Of before the step was in it. Polls that went on over a roll of the brokers bring it.
const BEFORE_STEPS: u8 = 1;
/// No step was heard. The coordinator counts from 0, by one.
const NO_STEP: u64 = u64::MAX;
/// Version and checksum.
const HEAD: usize = 5;
/// Bytes of one partition.
const PLACE: usize = 4 + 1 + 8 + 8;
/// No offset: the member must seek.
pub const NOWHERE: i64 = -1;
/// The offset is to be found.
pub const UNRESOLVED: i64 = -2;

/// A polling member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Its epoch.
    pub epoch: MemberEpoch,
    /// A static member's name; may be empty.
    pub instance: String,
    /// `session.timeout.ms`.
    pub session: Duration,
    /// `auto.commit.interval.ms`, if it wants that.
    pub auto_commit: Option<Duration>,
    /// When it was last committed for.
    pub committed_at: Timestamp,
    /// `auto.offset.reset`.
    pub reset: Reset,
    /// The number of a [`v1::RecordFormat`].
    pub format: i32,
    /// The number of a [`v1::IsolationLevel`].
    pub isolation: i32,
    /// Which partition is read first, so that each gets its turn.
    pub turn: u32,
    /// The number of the assignment that it last followed, to be said with what it has.
    pub heard: Option<u64>,
    /// What it has.
    pub places: BTreeMap<TopicIdPartition, Place>,
}

/// How far it is in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The next offset to read, or [`NOWHERE`], or [`UNRESOLVED`].
    pub next: i64,
    /// What is known to be committed; -1 for nothing.
    pub committed: i64,
    /// It was told to give it back.
    pub is_revoking: bool,
}

impl Place {
    /// A partition that was just assigned.
    pub const NEW: Place = Place { next: UNRESOLVED, committed: -1, is_revoking: false };

    /// What a commit says.
    pub fn to_commit(self, topic: &str, at: TopicIdPartition) -> v1::OffsetToCommit {
        v1::OffsetToCommit {
            topic: topic.to_owned(),
            partition: at.partition.get(),
            offset: self.next,
            topic_id: at.topic.0.to_vec().into(),
            ..Default::default()
        }
    }
}

impl Cursor {
    /// As it goes to the client.
    pub fn encode(&self, group: &str, member: &str) -> Bytes {
        let mut out = BytesMut::with_capacity(HEAD + 64 + self.places.len() * (PLACE + 1));
        out.put_u8(VERSION);
        out.put_u32(0);
        out.put_i32(self.epoch.0);
        out.put_u32(millis(self.session));
        out.put_u32(self.auto_commit.map_or(0, millis));
        out.put_i64(self.committed_at.as_millis());
        out.put_u8(self.reset as u8);
        out.put_i32(self.format);
        out.put_i32(self.isolation);
        out.put_u32(self.turn);
        // An id has at most 249 bytes.
        out.put_u8(u8::try_from(self.instance.len()).unwrap_or(u8::MAX));
        out.put_slice(self.instance.as_bytes());
        out.put_u64(self.heard.unwrap_or(NO_STEP));
        let mut topics: Vec<(TopicId, Vec<(PartitionId, Place)>)> = Vec::new();
        for (at, place) in &self.places {
            match topics.last_mut().filter(|(topic, _)| *topic == at.topic) {
                Some((_, places)) => places.push((at.partition, *place)),
                None => topics.push((at.topic, vec![(at.partition, *place)])),
            }
        }
        for (topic, places) in topics {
            out.put_slice(&topic.0);
            out.put_u32(u32::try_from(places.len()).unwrap_or(u32::MAX));
            for (partition, place) in places {
                out.put_i32(partition.get());
                out.put_u8(u8::from(place.is_revoking));
                out.put_i64(place.next);
                out.put_i64(place.committed);
            }
        }
        let checksum = checksum(group, member, &out[HEAD..]);
        out[1..HEAD].copy_from_slice(&checksum.to_be_bytes());
        out.freeze()
    }

    /// Reads what a client brought. Errors: `INVALID_REQUEST`.
    pub fn decode(bytes: &Bytes, group: &str, member: &str) -> Result<Cursor, ApiError> {
        let wrong =
            |why: &str| ApiError::invalid("cursor", format!("this is no cursor of the member: {why}"));
        if bytes.len() > MAX_BYTES {
            return Err(wrong("it is too long"));
        }
        let mut rest = bytes.clone();
        let version = rest.try_get_u8().ok();
        if version != Some(VERSION) && version != Some(BEFORE_STEPS) {
            return Err(wrong("its version is not known; join anew"));
        }
        let told = rest.try_get_u32().map_err(|_| wrong("it is cut off"))?;
        if checksum(group, member, &rest) != told {
            return Err(wrong("it is another member's, or damaged"));
        }
        parse(rest, version != Some(BEFORE_STEPS)).ok_or_else(|| wrong("it is malformed"))
    }
}

fn parse(mut rest: Bytes, has_step: bool) -> Option<Cursor> {
    let rest = &mut rest;
    let epoch = MemberEpoch(rest.try_get_i32().ok()?);
    let session = Duration::from_millis(rest.try_get_u32().ok()?.into());
    let auto_commit = rest.try_get_u32().ok().map(|ms| Duration::from_millis(ms.into()))?;
    let committed_at = Timestamp(rest.try_get_i64().ok()?);
    let reset = Reset::from_number(rest.try_get_u8().ok()?)?;
    let format = v1::RecordFormat::try_from(rest.try_get_i32().ok()?).ok()? as i32;
    let isolation = v1::IsolationLevel::try_from(rest.try_get_i32().ok()?).ok()? as i32;
    let turn = rest.try_get_u32().ok()?;
    let length = usize::from(rest.try_get_u8().ok()?);
    if length > MAX_ID_LEN || length > rest.len() {
        return None;
    }
    let instance = String::from_utf8(rest.split_to(length).to_vec()).ok()?;
    let heard = if has_step { Some(rest.try_get_u64().ok()?) } else { None };
    let heard = heard.filter(|step| *step != NO_STEP);
    let mut places = BTreeMap::new();
    while rest.has_remaining() {
        let mut topic = TopicId::default();
        rest.try_copy_to_slice(&mut topic.0).ok()?;
        let count = rest.try_get_u32().ok()? as usize;
        if count > rest.len() / PLACE {
            return None;
        }
        for _ in 0..count {
            let partition = PartitionId(rest.try_get_i32().ok().filter(|index| *index >= 0)?);
            let is_revoking = rest.try_get_u8().ok()? != 0;
            let next = rest.try_get_i64().ok().filter(|next| *next >= UNRESOLVED)?;
            let committed = rest.try_get_i64().ok()?;
            let place = Place { next, committed, is_revoking };
            places.insert(TopicIdPartition { topic, partition }, place);
        }
    }
    let auto_commit = Some(auto_commit).filter(|every| !every.is_zero());
    (epoch > MemberEpoch::JOIN).then_some(Cursor {
        epoch,
        instance,
        session,
        auto_commit,
        committed_at,
        reset,
        format,
        isolation,
        turn,
        heard,
        places,
    })
}

fn checksum(group: &str, member: &str, rest: &[u8]) -> u32 {
    let mut sum = 0;
    // Lengths first, so that no two pairs of ids are the same bytes.
    for part in [group.as_bytes(), member.as_bytes(), rest] {
        sum = crc32c::crc32c_append(sum, &(part.len() as u64).to_be_bytes());
        sum = crc32c::crc32c_append(sum, part);
    }
    sum
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cursor(places: &[(u8, i32, i64)]) -> Cursor {
        let place = |(topic, partition, next): &(u8, i32, i64)| {
            let at = TopicIdPartition { topic: TopicId([*topic; 16]), partition: PartitionId(*partition) };
            (at, Place { next: *next, committed: *next / 2, is_revoking: next % 3 == 0 })
        };
        Cursor {
            epoch: MemberEpoch(7),
            instance: "i".into(),
            session: Duration::from_secs(45),
            auto_commit: Some(Duration::from_secs(5)),
            committed_at: Timestamp(1_700_000_000_000),
            reset: Reset::Earliest,
            format: 2,
            isolation: 1,
            turn: 3,
            heard: Some(8),
            places: places.iter().map(place).collect(),
        }
    }

    #[test]
    fn a_cursor_is_good_for_its_own_member_only() {
        let bytes = cursor(&[(1, 0, 10)]).encode("g", "m");
        assert!(Cursor::decode(&bytes, "g", "m").is_ok());
        for (group, member) in [("g", "n"), ("h", "m"), ("gm", ""), ("", "gm")] {
            let error = Cursor::decode(&bytes, group, member).unwrap_err();
            assert_eq!(error.field.as_deref(), Some("cursor"));
        }
        assert!(Cursor::decode(&Bytes::new(), "g", "m").is_err());
        assert!(Cursor::decode(&vec![1; MAX_BYTES + 1].into(), "g", "m").is_err());
    }

    #[test]
    fn a_cursor_from_before_a_roll_is_read() {
        let cursor = Cursor { heard: None, ..cursor(&[(1, 0, 10), (2, 5, -1)]) };
        let bytes = cursor.encode("g", "m");
        let mut former = vec![BEFORE_STEPS];
        let at = bytes.len() - 2 * (16 + 4 + PLACE) - 8;
        assert_eq!(bytes[at..at + 8], NO_STEP.to_be_bytes());
        let rest: Vec<u8> = [&bytes[HEAD..at], &bytes[at + 8..]].concat();
        former.extend(checksum("g", "m", &rest).to_be_bytes());
        former.extend(rest);
        assert_eq!(Cursor::decode(&bytes, "g", "m").unwrap(), cursor);
        assert_eq!(Cursor::decode(&former.into(), "g", "m").unwrap(), cursor);
    }

    proptest! {
        #[test]
        fn what_was_told_comes_back(places in prop::collection::vec((0u8..4, 0i32..9, -2i64..99), 0..30)) {
            let cursor = cursor(&places);
            let bytes = cursor.encode("group", "member");
            prop_assert_eq!(Cursor::decode(&bytes, "group", "member").unwrap(), cursor);
        }

        #[test]
        fn damage_is_found_and_garbage_harms_nothing(cut in 0usize..200, bit in 0usize..1600, junk: Vec<u8>) {
            let bytes = cursor(&[(1, 0, 10), (1, 1, 7), (2, 5, -1)]).encode("g", "m");
            let cut = bytes.slice(..cut.min(bytes.len() - 1));
            prop_assert!(Cursor::decode(&cut, "g", "m").is_err());
            let mut flipped = bytes.to_vec();
            let at = bit % (flipped.len() * 8);
            flipped[at / 8] ^= 1 << (at % 8);
            prop_assert!(Cursor::decode(&flipped.into(), "g", "m").is_err());
            // With a checksum that fits: parsed or refused, never more.
            let mut signed = vec![VERSION];
            signed.extend(checksum("g", "m", &junk).to_be_bytes());
            signed.extend(junk);
            let _ = Cursor::decode(&signed.into(), "g", "m");
        }
    }
}
