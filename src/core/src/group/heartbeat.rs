//! What a member's heartbeat does: joins, leaves, changes the subscription, acknowledges, and takes the next step.
//!
//! Nothing is changed here. A handler works on a copy, and answers with the records that make the group the copy; whoever runs
//! the machine writes and replays them, and answers the member once they are committed.

use super::assignor::TopicIdPartition;
use super::ids::{InstanceId, MemberEpoch, MemberId};
use super::reconcile;
use super::records::Change;
use super::state::{Current, Group, Member, Partitions, Subscription};
use crate::metadata::command::Refusal;
use crate::{ErrorCode, Timestamp, TopicId, TopicName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Members of one group at most (`group.max.size`).
pub const MAX_MEMBERS: usize = 10_000;
/// Topics that one member may name.
pub const MAX_TOPICS: usize = 10_000;
/// Bytes of a pattern at most.
pub const MAX_PATTERN: usize = 4096;

/// One heartbeat.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// The member.
    pub member: MemberId,
    /// Its epoch; [`MemberEpoch::JOIN`] and the others for a wish.
    pub epoch: MemberEpoch,
    /// Its instance id, if it is a static member.
    pub instance: Option<InstanceId>,
    /// What it asks for; must be there when it joins, else only when it changes.
    pub subscription: Option<Subscription>,
    /// The partitions that it has, when that changed; a joining member has none.
    pub has: Option<Partitions>,
    /// What it calls itself.
    pub client_id: Arc<str>,
    /// Where it connects from.
    pub host: Arc<str>,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
    /// `max.poll.interval.ms`.
    pub rebalance_timeout: Duration,
}

/// The answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatAnswer {
    /// The epoch to send from now on.
    pub epoch: MemberEpoch,
    /// What it may have now; `None` when that is what it had.
    pub assignment: Option<Partitions>,
}

/// The topics that exist, as far as groups care: by name, with id and number of partitions.
pub trait TopicLookup {
    /// The topic of that name.
    fn topic(&self, name: &TopicName) -> Option<(TopicId, i32)>;
    /// The topics that a pattern matches; empty when it is not resolved yet.
    fn matching(&self, pattern: &str) -> Arc<BTreeSet<TopicName>>;
}

impl Group {
    /// Handles a heartbeat.
    ///
    /// Errors: `UNKNOWN_MEMBER`, `FENCED_MEMBER_EPOCH`, `FENCED_INSTANCE`, `INVALID_REQUEST`, `THROTTLED` (the group is full).
    pub fn heartbeat(
        &self,
        beat: &Heartbeat,
        topics: &(impl TopicLookup + ?Sized),
        now: Timestamp,
    ) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        match beat.epoch {
            MemberEpoch::LEAVE => self.leave(&beat.member, beat.instance.as_ref(), now),
            MemberEpoch::LEAVE_FOR_NOW => self.leave_for_now(beat),
            MemberEpoch::JOIN => self.join(beat, topics),
            epoch if epoch.0 < 0 => {
                Err(Refusal::field(ErrorCode::InvalidRequest, "member_epoch", "an epoch is -2 or more"))
            }
            _ => self.beat(beat, topics),
        }
    }

    fn join(
        &self,
        beat: &Heartbeat,
        topics: &(impl TopicLookup + ?Sized),
    ) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        let subscription = beat.subscription.as_ref().ok_or_else(|| {
            let message = "a member that joins names its topics";
            Refusal::field(ErrorCode::InvalidRequest, "subscription", message)
        })?;
        check(subscription)?;
        let mut next = self.clone();
        // A static member that comes back takes over what its former process had.
        let former = beat.instance.as_ref().and_then(|instance| self.instances.get(instance)).cloned();
        let mut current = Current::default();
        let mut returned = false;
        if let Some(former) = former.filter(|former| *former != beat.member) {
            let before = self.members.get(&former);
            if before.is_some_and(|member| member.current.epoch != MemberEpoch::LEAVE_FOR_NOW) {
                let message = "a member with this instance id is alive; stop it, or use another id";
                return Err(Refusal::field(ErrorCode::FencedInstance, "instance_id", message));
            }
            current = before.map(|member| member.current.clone()).unwrap_or_default();
            current.epoch = MemberEpoch::JOIN;
            returned = before.is_some_and(|member| member.subscription == *subscription);
            let target = next.target.remove(&former);
            next.remove_member(&former);
            next.target.extend(target.map(|target| (beat.member.clone(), target)));
        } else if self.members.len() >= MAX_MEMBERS && !self.members.contains_key(&beat.member) {
            let message = format!("the group has {MAX_MEMBERS} members, the most it can have");
            return Err(Refusal::new(ErrorCode::Throttled, message));
        }
        let same = next.members.get(&beat.member).is_some_and(|member| member.subscription == *subscription);
        next.members.insert(
            beat.member.clone(),
            Arc::new(Member {
                subscription: subscription.clone(),
                instance: beat.instance.clone(),
                client_id: Arc::clone(&beat.client_id),
                host: Arc::clone(&beat.host),
                session_timeout: beat.session_timeout,
                rebalance_timeout: beat.rebalance_timeout,
                current: Current::default(),
            }),
        );
        next.instances.extend(beat.instance.clone().map(|instance| (instance, beat.member.clone())));
        next.set_current(&beat.member, current);
        next.empty_since = None;
        if !(same || returned) || next.epoch.0 == 0 {
            next.bump(topics);
        }
        next.advance(&beat.member, beat.has.as_ref());
        let answer = next.answer(&beat.member, true);
        Ok((self.changes_to(&next), answer))
    }

    fn beat(
        &self,
        beat: &Heartbeat,
        topics: &(impl TopicLookup + ?Sized),
    ) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        let member = self.known(&beat.member, beat.instance.as_ref())?;
        let owned = |has: &Partitions| has.iter().all(|at| member.current.holds(at).is_some());
        let behind = beat.epoch != member.current.epoch && beat.epoch == member.current.previous_epoch;
        let repeated = behind && beat.has.as_ref().is_some_and(owned);
        if beat.epoch != member.current.epoch && !repeated {
            let message = format!(
                "the member is at epoch {}, not {}; give up all partitions and join anew",
                member.current.epoch, beat.epoch
            );
            return Err(Refusal::field(ErrorCode::FencedMemberEpoch, "member_epoch", message));
        }
        let changed = beat.subscription.as_ref().filter(|wanted| **wanted != member.subscription);
        let settled = self.epoch == self.target_epoch && member.current.is_settled(self.target_epoch);
        // By far the most heartbeats: nothing is copied. And who did not hear the last answer hears it again before it is taken
        // further, so that however many are lost it is never two epochs behind.
        if changed.is_none() && (settled || repeated) {
            return Ok((Vec::new(), self.answer(&beat.member, beat.has.is_some())));
        }
        let mut next = self.clone();
        if let Some(wanted) = changed {
            check(wanted)?;
            if let Some(member) = next.members.get_mut(&beat.member) {
                Arc::make_mut(member).subscription = wanted.clone();
            }
            next.bump(topics);
        }
        next.advance(&beat.member, beat.has.as_ref());
        let moved =
            next.members.get(&beat.member).map(|member| &member.current.owned) != Some(&member.current.owned);
        let answer = next.answer(&beat.member, moved || beat.has.is_some());
        Ok((self.changes_to(&next), answer))
    }

    fn leave(
        &self,
        id: &MemberId,
        instance: Option<&InstanceId>,
        now: Timestamp,
    ) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        self.known(id, instance)?;
        let answer = HeartbeatAnswer { epoch: MemberEpoch::LEAVE, assignment: None };
        Ok((self.without(std::slice::from_ref(id), now), answer))
    }

    fn leave_for_now(&self, beat: &Heartbeat) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        let member = self.known(&beat.member, beat.instance.as_ref())?;
        if member.instance.is_none() {
            let message = "only a static member can come back; leave with -1";
            return Err(Refusal::field(ErrorCode::InvalidRequest, "member_epoch", message));
        }
        let current = Current { epoch: MemberEpoch::LEAVE_FOR_NOW, ..member.current.clone() };
        let answer = HeartbeatAnswer { epoch: MemberEpoch::LEAVE_FOR_NOW, assignment: None };
        Ok((vec![Change::Current(beat.member.clone(), Some(current))], answer))
    }

    /// What takes members out whose session, or whose time to give back, is over.
    pub fn without(&self, gone: &[MemberId], now: Timestamp) -> Vec<Change> {
        let mut next = self.clone();
        let before = next.members.len();
        for id in gone {
            next.target.remove(id);
            next.remove_member(id);
        }
        if next.members.len() < before {
            next.epoch.0 = next.epoch.0.saturating_add(1);
            next.empty_since = next.members.is_empty().then_some(now);
        }
        self.changes_to(&next)
    }

    /// The member, if the caller speaks for it.
    pub(super) fn known(
        &self,
        id: &MemberId,
        instance: Option<&InstanceId>,
    ) -> Result<&Arc<Member>, Refusal> {
        if let Some(instance) = instance
            && self.instances.get(instance).is_some_and(|owner| owner != id)
        {
            let message = format!("another process goes by the instance id {instance} now");
            return Err(Refusal::field(ErrorCode::FencedInstance, "instance_id", message));
        }
        self.members.get(id).ok_or_else(|| {
            let message = format!("the group has no member {id}; its session ended or it left: join anew");
            Refusal::field(ErrorCode::UnknownMember, "member_id", message)
        })
    }

    /// Takes the member one step further.
    fn advance(&mut self, id: &MemberId, has: Option<&Partitions>) {
        // Until the target is computed there is nothing to walk towards.
        let Some(member) = self.members.get(id) else { return };
        let empty = Arc::default();
        let target = self.target.get(id).unwrap_or(&empty);
        let owner = |at: &TopicIdPartition| self.owners.get(at).cloned();
        let current = reconcile::step(id, &member.current, has, target, self.target_epoch, owner);
        if current != member.current {
            self.set_current(id, current);
        }
    }

    /// Notes that the assignment may have to change.
    fn bump(&mut self, topics: &(impl TopicLookup + ?Sized)) {
        self.epoch.0 = self.epoch.0.saturating_add(1);
        self.topics = Arc::new(self.counts(topics));
    }

    fn answer(&self, id: &MemberId, whole: bool) -> HeartbeatAnswer {
        let current = self.members.get(id).map(|member| &member.current);
        HeartbeatAnswer {
            // A member that joined before the first target waits at the group's epoch; 0 would be to join again.
            epoch: current.map_or(MemberEpoch::JOIN, |current| current.epoch),
            assignment: current.filter(|_| whole).map(|current| current.owned.keys().copied().collect()),
        }
    }

    /// Every member's topics, those that exist.
    pub fn resolved(&self, topics: &(impl TopicLookup + ?Sized)) -> BTreeMap<MemberId, BTreeSet<TopicId>> {
        let of = |member: &Member| {
            let matched = member.subscription.pattern.as_deref().map(|pattern| topics.matching(pattern));
            let names =
                member.subscription.topics.iter().chain(matched.iter().flat_map(|names| names.iter()));
            names.filter_map(|name| Some(topics.topic(name)?.0)).collect()
        };
        self.members.iter().map(|(id, member)| (id.clone(), of(member))).collect()
    }

    /// The partition counts of all subscribed topics.
    pub fn counts(&self, topics: &(impl TopicLookup + ?Sized)) -> BTreeMap<TopicId, i32> {
        let mut counts = BTreeMap::new();
        for member in self.members.values() {
            let matched = member.subscription.pattern.as_deref().map(|pattern| topics.matching(pattern));
            let names =
                member.subscription.topics.iter().chain(matched.iter().flat_map(|names| names.iter()));
            counts.extend(names.filter_map(|name| topics.topic(name)));
        }
        counts
    }

    /// The records that make this group the other one.
    pub(super) fn changes_to(&self, next: &Group) -> Vec<Change> {
        let mut changes = Vec::new();
        for id in self.members.keys().filter(|id| !next.members.contains_key(*id)) {
            changes.push(Change::Current(id.clone(), None));
            changes.push(Change::Target(id.clone(), None));
            changes.push(Change::Member(id.clone(), None));
        }
        for (id, member) in &next.members {
            let before = self.members.get(id);
            if before.is_some_and(|before| Arc::ptr_eq(before, member)) {
                continue;
            }
            if before.is_none_or(|before| before.value() != member.value()) {
                changes.push(Change::Member(id.clone(), Some(member.value())));
            }
            if before.is_none_or(|before| before.current != member.current) {
                changes.push(Change::Current(id.clone(), Some(member.current.clone())));
            }
        }
        for (id, target) in &next.target {
            if self.target.get(id).is_none_or(|before| before != target) {
                changes.push(Change::Target(id.clone(), Some(Arc::clone(target))));
            }
        }
        for id in self.target.keys() {
            if !next.target.contains_key(id) && next.members.contains_key(id) {
                changes.push(Change::Target(id.clone(), None));
            }
        }
        if self.value() != next.value() {
            changes.push(Change::Group(Some(next.value())));
        }
        changes
    }
}

fn check(subscription: &Subscription) -> Result<(), Refusal> {
    let wrong = |field: &str, message: String| Err(Refusal::field(ErrorCode::InvalidRequest, field, message));
    if subscription.topics.is_empty() && subscription.pattern.is_none() {
        return wrong("topics", "name at least one topic, or a pattern".to_owned());
    }
    if subscription.topics.len() > MAX_TOPICS {
        return wrong("topics", format!("a member names at most {MAX_TOPICS} topics"));
    }
    if subscription.pattern.as_ref().is_some_and(|pattern| pattern.len() > MAX_PATTERN) {
        return wrong("pattern", format!("a pattern has at most {MAX_PATTERN} bytes"));
    }
    if let Some(Err(error)) = subscription.assignor.as_deref().map(str::parse::<super::Assignor>) {
        return wrong("assignor", error.to_string());
    }
    Ok(())
}
