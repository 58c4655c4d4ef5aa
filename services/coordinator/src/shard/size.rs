//! How large the records of changes are. One that no batch of the log holds must not be made: it could never be written.

use super::Shard;
use super::topics::ImageTopics;
use super::wire;
use thalweg_core::group::{Change, GroupId, GroupRecord, OFFSETS_TOPIC};
use thalweg_core::metadata::command::Refusal;

/// What a batch takes beside its one record, and what one that does not compress grows by.
const BATCH_SLACK: usize = 8 * 1024;
/// What a record takes beside what is counted: its key, numbers, the names of fields.
const RECORD_BYTES: usize = 1024;
/// The same in memory.
const HELD_RECORD_BYTES: usize = 256;
/// Bytes that a partition takes in a value at most: when it alone has its topic and its epoch.
const PARTITION_BYTES: usize = 64;
/// Bytes that a name takes beside its text.
const NAME_BYTES: usize = 8;

/// At least as many bytes as the change's record has. Costs nothing, in contrast to encoding it.
pub(super) fn bytes_at_most(change: &Change) -> usize {
    let partitions = |count: usize| count.saturating_mul(PARTITION_BYTES);
    RECORD_BYTES
        + match change {
            Change::Offset(_, _, offset) => offset.as_ref().map_or(0, |offset| offset.metadata.len()),
            Change::Group(_) => 0,
            Change::Member(_, None) | Change::Target(_, None) | Change::Current(_, None) => 0,
            Change::Member(_, Some(value)) => {
                let wish = &value.subscription;
                let names = wish.topics.iter().map(|name| name.as_str().len() + NAME_BYTES).sum::<usize>();
                let pattern = wish.pattern.as_ref().map_or(0, String::len);
                let assignor = wish.assignor.as_ref().map_or(0, String::len);
                let rack = wish.rack.as_ref().map_or(0, |rack| rack.len());
                names + pattern + assignor + rack + value.client_id.len() + value.host.len()
            }
            Change::Target(_, Some(target)) => partitions(target.len()),
            Change::Current(_, Some(current)) => partitions(current.owned.len() + current.revoking.len()),
        }
}

/// Whether a change's record has at most so many bytes.
pub(super) fn fits(group: &GroupId, change: &Change, most: usize) -> bool {
    if bytes_at_most(change) <= most {
        return true;
    }
    let (key, value) = GroupRecord { group: group.clone(), change: change.clone() }.encode();
    key.len() + value.map_or(0, |value| value.len()) <= most
}

impl Shard {
    /// Bytes that a record may have: the topic of groups holds no larger batch.
    pub(super) fn most_bytes(&self, topics: &dyn ImageTopics) -> usize {
        let topic = topics.image().topic(OFFSETS_TOPIC);
        let batch = topic.map_or(usize::MAX, |topic| topic.config.max_message_bytes);
        batch.min(self.config.max_record_bytes).saturating_sub(BATCH_SLACK)
    }

    /// Refuses changes that cannot be written, before any of them takes effect.
    pub(super) fn check_size(
        &self,
        group: &GroupId,
        changes: &[Change],
        topics: &dyn ImageTopics,
    ) -> Result<(), Refusal> {
        if changes.is_empty() {
            return Ok(());
        }
        let most = self.most_bytes(topics);
        let Some(large) = changes.iter().find(|change| !fits(group, change, most)) else { return Ok(()) };
        let field = match large {
            Change::Member(..) => "subscription",
            _ => "has",
        };
        let message = format!(
            "what is to be remembered of the member takes more than the {most} bytes that the log of groups holds at once"
        );
        Err(wire::invalid(field, message))
    }
}

/// Bytes that a record takes, roughly, and rather too many.
pub fn record_bytes(record: &GroupRecord) -> usize {
    HELD_RECORD_BYTES + bytes_at_most(&record.change) - RECORD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use thalweg_core::group::assignor::TopicIdPartition;
    use thalweg_core::group::{Current, MemberEpoch, MemberId};
    use thalweg_core::{PartitionId, TopicId};

    #[test]
    fn the_cheap_bound_is_never_below_the_encoded_size() {
        let at = |n: i32| {
            let mut id = [0xff; 16];
            id[..4].copy_from_slice(&n.to_be_bytes());
            TopicIdPartition { topic: TopicId(id), partition: PartitionId(i32::MAX) }
        };
        // Each partition with a topic and an epoch of its own: what takes the most.
        let owned: BTreeMap<_, _> = (0..5_000).map(|n| (at(n), MemberEpoch(i32::MAX - n))).collect();
        let (group, member) = (GroupId::new("g").unwrap(), MemberId::new("m").unwrap());
        let current = Current { owned: owned.clone(), ..Current::default() };
        let target = std::sync::Arc::new(owned.into_keys().collect());
        for change in [Change::Current(member.clone(), Some(current)), Change::Target(member, Some(target))] {
            let bound = bytes_at_most(&change);
            let (key, value) = GroupRecord { group: group.clone(), change: change.clone() }.encode();
            let exact = key.len() + value.unwrap().len();
            assert!(exact <= bound, "{exact} bytes, {bound} expected");
            assert!(fits(&group, &change, exact) && !fits(&group, &change, exact - 1));
        }
    }
}
