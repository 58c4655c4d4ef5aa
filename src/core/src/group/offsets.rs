//! Committing, and expiring, a group's offsets.

use super::assignor::TopicIdPartition;
use super::ids::{InstanceId, MemberEpoch, MemberId};
use super::records::{Change, MAX_OFFSET_METADATA};
use super::state::{CommittedOffset, Group};
use crate::metadata::command::Refusal;
use crate::planted::{Bug, planted};
use crate::{ErrorCode, PartitionId, Timestamp, TopicId, TopicName};
use std::time::Duration;

/// Who commits.
#[derive(Debug, Clone, PartialEq)]
pub enum Committer {
    /// A member, for partitions that it has.
    Member(MemberId, MemberEpoch, Option<InstanceId>),
    /// Somebody from outside: an operator, or a consumer that assigns its partitions itself. Only while the group is empty.
    Outside,
}

impl Group {
    /// Whether the caller may commit at all.
    ///
    /// Errors: `UNKNOWN_MEMBER`, `FENCED_MEMBER_EPOCH`, `FENCED_INSTANCE`, `GROUP_NOT_EMPTY`.
    pub fn check_committer(&self, by: &Committer) -> Result<(), Refusal> {
        match by {
            Committer::Outside if self.members.is_empty() => Ok(()),
            Committer::Outside => {
                let message = "the group has members; stop them first, or commit as one of them";
                Err(Refusal::new(ErrorCode::GroupNotEmpty, message))
            }
            Committer::Member(..) if planted(Bug::CommitOfAnybody) => Ok(()),
            Committer::Member(id, epoch, instance) => {
                let member = self.known(id, instance.as_ref())?;
                if *epoch > member.current.epoch {
                    let message = format!("the member is at epoch {}, not {epoch}", member.current.epoch);
                    return Err(Refusal::field(ErrorCode::FencedMemberEpoch, "member_epoch", message));
                }
                Ok(())
            }
        }
    }

    /// Commits one partition. A member's commit counts if it has had the partition since that epoch, also while it is asked to
    /// give it back, and also when its epoch moved on meanwhile: nobody else had the partition in between.
    ///
    /// Errors: `STALE_MEMBER_EPOCH`, `INVALID_REQUEST`.
    pub fn commit(
        &self,
        by: &Committer,
        topic: &TopicName,
        topic_id: TopicId,
        partition: PartitionId,
        offset: CommittedOffset,
    ) -> Result<Change, Refusal> {
        if let Committer::Member(id, epoch, _) = by
            && !planted(Bug::CommitOfAnybody)
        {
            let at = TopicIdPartition { topic: topic_id, partition };
            let since = self.members.get(id).and_then(|member| member.current.holds(&at));
            if since.is_none_or(|since| *epoch < since) {
                let message = format!(
                    "member {id} at epoch {epoch} does not have partition {topic}-{partition}; another may have gone on"
                );
                return Err(Refusal::field(ErrorCode::StaleMemberEpoch, "member_epoch", message));
            }
        }
        if offset.metadata.len() > MAX_OFFSET_METADATA {
            let message = format!("an offset's metadata has at most {MAX_OFFSET_METADATA} bytes");
            return Err(Refusal::field(ErrorCode::InvalidRequest, "metadata", message));
        }
        if offset.offset.get() < 0 {
            let message = "an offset is 0 or more";
            return Err(Refusal::field(ErrorCode::InvalidRequest, "offset", message));
        }
        Ok(Change::Offset(topic.clone(), partition, Some(offset)))
    }

    /// What forgets the group and its offsets.
    ///
    /// Errors: `GROUP_NOT_EMPTY`.
    pub fn delete(&self) -> Result<Vec<Change>, Refusal> {
        self.check_committer(&Committer::Outside)?;
        let mut changes = self.forget_offsets(|_, _| true);
        changes.push(Change::Group(None));
        Ok(changes)
    }

    /// Whether the caller may read committed offsets: anybody from outside, and a member that is who it says. One whose epoch
    /// is old gets an error, never an answer that it could take for "nothing was committed".
    ///
    /// Errors: `UNKNOWN_MEMBER`, `FENCED_MEMBER_EPOCH`.
    pub fn check_reader(&self, by: &Committer) -> Result<(), Refusal> {
        let Committer::Member(id, epoch, instance) = by else { return Ok(()) };
        let current = &self.known(id, instance.as_ref())?.current;
        // The epoch moves on a moment before the member hears of it.
        if *epoch == current.epoch || *epoch == current.previous_epoch {
            return Ok(());
        }
        let message = format!("the member is at epoch {}, not {epoch}; join anew", current.epoch);
        Err(Refusal::field(ErrorCode::FencedMemberEpoch, "member_epoch", message))
    }

    /// What forgets the offsets of a group that has been empty for `retention`: all of them at once, as far as their commits are
    /// as old too. A group with members keeps its offsets however quiet it is (KIP-211). One with neither members nor offsets is
    /// forgotten at once.
    pub fn expire(&self, retention: Duration, now: Timestamp) -> Vec<Change> {
        let old = |since: Timestamp| {
            u128::try_from(now.millis_since(since)).is_ok_and(|age| age >= retention.as_millis())
        };
        if !self.members.is_empty() {
            return Vec::new();
        }
        if self.empty_since.is_some_and(|since| !old(since)) && !self.offsets.is_empty() {
            return Vec::new();
        }
        let mut changes = self.forget_offsets(|_, offset| old(offset.at));
        if changes.len() == self.offsets.len() {
            changes.push(Change::Group(None));
        }
        changes
    }

    /// What forgets offsets that `which` picks, whoever is in the group.
    pub fn forget_offsets(
        &self,
        mut which: impl FnMut(&(TopicName, PartitionId), &CommittedOffset) -> bool,
    ) -> Vec<Change> {
        let picked = self.offsets.iter().filter(|(at, offset)| which(at, offset));
        picked.map(|((topic, partition), _)| Change::Offset(topic.clone(), *partition, None)).collect()
    }
}
