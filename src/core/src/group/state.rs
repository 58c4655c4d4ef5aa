//! One group: who is in it, what each shall have and has, and what was committed.

use super::assignor::{Assignor, TopicIdPartition};
use super::ids::{InstanceId, MemberEpoch, MemberId};
use crate::{LeaderEpoch, Offset, PartitionId, Timestamp, TopicId, TopicName};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// A consumer group. Changed by [`replay`](super::records) only, so that what is in memory is what is in the log.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Group {
    /// Counts what could change the assignment: members, subscriptions, topics.
    pub epoch: MemberEpoch,
    /// The epoch that the target assignment was computed for.
    pub target_epoch: MemberEpoch,
    /// What each member shall have.
    pub target: BTreeMap<MemberId, Arc<Partitions>>,
    /// How partitions are assigned.
    pub assignor: Assignor,
    /// What the subscribed topics and their partition counts came to when the target was computed; see
    /// [`topics_hash`](super::target::topics_hash).
    pub topics_hash: u64,
    /// The members by id.
    pub members: BTreeMap<MemberId, Arc<Member>>,
    /// Static members by their instance id.
    pub instances: BTreeMap<InstanceId, MemberId>,
    /// Whoever has a partition, or has not given it back yet.
    pub owners: BTreeMap<TopicIdPartition, MemberId>,
    /// Committed offsets.
    pub offsets: BTreeMap<(TopicName, PartitionId), CommittedOffset>,
    /// Since when it has no members; offsets expire from here.
    pub empty_since: Option<Timestamp>,
    /// While a compacted log is replayed: what members have whose own record comes later.
    pub(super) early: BTreeMap<MemberId, Current>,
}

/// Some partitions.
pub type Partitions = BTreeSet<TopicIdPartition>;

/// What a member asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Subscription {
    /// Topics by name; they need not exist yet.
    pub topics: BTreeSet<TopicName>,
    /// Topics by a regular expression. Whoever runs the machine resolves it.
    #[serde(default)]
    pub pattern: Option<String>,
    /// Its rack or zone.
    #[serde(default)]
    pub rack: Option<Arc<str>>,
    /// The assignor that it would like; the group takes the one that most members name.
    #[serde(default)]
    pub assignor: Option<String>,
}

/// One member.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// What it asked for. Shared with members that ask for the same.
    pub subscription: Arc<Subscription>,
    /// Its instance id, if it is a static member.
    pub instance: Option<InstanceId>,
    /// What it calls itself, for people.
    pub client_id: Arc<str>,
    /// Where it connects from, for people.
    pub host: Arc<str>,
    /// Without a heartbeat for so long it is out (`session.timeout.ms`).
    pub session_timeout: Duration,
    /// It must give back what was revoked, and poll, within this (`max.poll.interval.ms`).
    pub rebalance_timeout: Duration,
    /// What it has.
    pub current: Current,
}

/// What a member has, and how far it follows the target.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Current {
    /// The epoch of its last complete step.
    pub epoch: MemberEpoch,
    /// The one before, which it may still send when an answer was lost.
    pub previous_epoch: MemberEpoch,
    /// Its partitions, each with the epoch at which it got it: a commit from before that is of another owner's time.
    pub owned: BTreeMap<TopicIdPartition, MemberEpoch>,
    /// Partitions that it must give back before it goes on.
    pub revoking: BTreeMap<TopicIdPartition, MemberEpoch>,
    /// Whether it waits for partitions that others have not given back.
    pub waiting: bool,
    /// Counts the changes of what it may have. It is told with what it may have, and says it with what it has: only who had
    /// heard of a revocation can have given back for its sake, however late or by whichever broker the report comes.
    pub step: u64,
    /// What it joined by; `None` for one that does not say.
    pub joined_by: Option<Attempt>,
}

/// One of a member's attempts to join, or to leave. Asked again for want of an answer, each may arrive late.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Drawn by whoever keeps the member's state, anew with each start. Two of them say nothing about which is older.
    pub life: u64,
    /// Goes up with each attempt of the same life.
    pub number: u64,
}

impl Attempt {
    /// Whether this was made before `other`, or is the same once more.
    pub fn is_no_later_than(self, other: Attempt) -> bool {
        self.life == other.life && self.number <= other.number
    }
}

/// An offset that a group committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next record to read.
    pub offset: Offset,
    /// The leader epoch of the last record read; `NONE` if the client does not know.
    pub leader_epoch: LeaderEpoch,
    /// The client's own text.
    pub metadata: Arc<str>,
    /// When.
    pub at: Timestamp,
    /// The topic that was meant, so that one created anew under the name does not begin there; `None` if it was not known.
    pub topic: Option<TopicId>,
}

/// What a group is at the moment, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// No members.
    Empty,
    /// The target is to be computed.
    Assigning,
    /// Members are on their way to the target.
    Reconciling,
    /// Everybody has what it shall have.
    Stable,
}

impl Current {
    /// Whether it has everything that the target of `epoch` gives it.
    pub fn is_settled(&self, epoch: MemberEpoch) -> bool {
        self.epoch == epoch && self.revoking.is_empty() && !self.waiting
    }

    /// The epoch at which it got a partition that it still holds.
    pub fn holds(&self, partition: &TopicIdPartition) -> Option<MemberEpoch> {
        self.owned.get(partition).or_else(|| self.revoking.get(partition)).copied()
    }
}

impl Group {
    /// What it is at the moment.
    pub fn state(&self) -> GroupState {
        if self.members.is_empty() {
            GroupState::Empty
        } else if self.epoch > self.target_epoch {
            GroupState::Assigning
        } else if self.members.values().all(|member| member.current.is_settled(self.target_epoch)) {
            GroupState::Stable
        } else {
            GroupState::Reconciling
        }
    }

    /// Replaces what a member has, and keeps [`owners`](Group::owners) in step.
    pub(super) fn set_current(&mut self, id: &MemberId, current: Current) {
        let Some(member) = self.members.get_mut(id) else { return };
        let member = Arc::make_mut(member);
        for partition in member.current.owned.keys().chain(member.current.revoking.keys()) {
            if self.owners.get(partition) == Some(id) {
                self.owners.remove(partition);
            }
        }
        for partition in current.owned.keys().chain(current.revoking.keys()) {
            self.owners.insert(*partition, id.clone());
        }
        member.current = current;
    }

    /// Takes a member out, with all that it has.
    pub(super) fn remove_member(&mut self, id: &MemberId) {
        self.set_current(id, Current::default());
        let Some(member) = self.members.remove(id) else { return };
        if let Some(instance) = &member.instance
            && self.instances.get(instance) == Some(id)
        {
            self.instances.remove(instance);
        }
    }
}
