//! What a member's heartbeat does: joins, leaves, changes the subscription, acknowledges, and takes the next step.
//!
//! Nothing is changed here: a handler answers with the records that change the group. Whoever runs the machine replays and writes
//! them, and answers the member once they are durable. Each prefix of the records is a state that can be gone on from.

use super::assignor::TopicIdPartition;
use super::ids::{InstanceId, MemberEpoch, MemberId};
use super::reconcile::{self, Report};
use super::records::{Change, GroupValue, MemberValue};
use super::state::{Attempt, Current, Group, Member, Partitions, Subscription};
use crate::metadata::command::Refusal;
use crate::planted::{Bug, planted};
use crate::{ErrorCode, Timestamp, TopicId, TopicName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Members of one group at most (`group.max.size`).
pub const MAX_MEMBERS: usize = 10_000;
/// Topics that one member may name.
pub const MAX_TOPICS: usize = 10_000;
/// Bytes of the names of those topics together: the coordinator keeps them for each member.
pub const MAX_SUBSCRIPTION_BYTES: usize = 256 << 10;
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
    /// The [`step`](Current::step) that came with the last answer it followed; `None`: it does not say.
    pub heard: Option<u64>,
    /// Which of its attempts this is, if it joins or leaves; `None`: it does not say.
    pub attempt: Option<Attempt>,
    /// What it calls itself.
    pub client_id: Arc<str>,
    /// Where it connects from.
    pub host: Arc<str>,
    /// `session.timeout.ms`.
    pub session_timeout: Duration,
    /// `max.poll.interval.ms`.
    pub rebalance_timeout: Duration,
    /// The epoch of one that leaves; `None`: not checked.
    pub leaving: Option<MemberEpoch>,
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
        now: Timestamp,
    ) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        match beat.epoch {
            MemberEpoch::LEAVE => self.leave(beat, now),
            MemberEpoch::LEAVE_FOR_NOW => self.leave_for_now(beat),
            MemberEpoch::JOIN => self.join(beat),
            epoch if epoch.0 < 0 => {
                Err(Refusal::field(ErrorCode::InvalidRequest, "member_epoch", "an epoch is -2 or more"))
            }
            _ => self.beat(beat),
        }
    }

    fn join(&self, beat: &Heartbeat) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        let subscription = beat.subscription.as_ref().ok_or_else(|| {
            let message = "a member that joins names its topics";
            Refusal::field(ErrorCode::InvalidRequest, "subscription", message)
        })?;
        check(subscription)?;
        let id = &beat.member;
        // A static member that comes back takes over what its former process had.
        let by_instance = beat.instance.as_ref().and_then(|instance| self.instances.get(instance));
        let former = by_instance.filter(|former| *former != id);
        let mut before = self.members.get(id);
        let known = before.filter(|_| former.is_none());
        if let Some(member) = known
            && let (Some(attempt), Some(joined_by)) = (beat.attempt, member.current.joined_by)
            && attempt.is_no_later_than(joined_by)
        {
            return self.joined_already(id, &member.current);
        }
        // What was said for a former life is not taken for this one's.
        let step = known.map_or(0, |member| member.current.step + 1);
        let mut current = Current { step, joined_by: beat.attempt, ..Current::default() };
        if let Some(former) = former {
            before = self.members.get(former);
            if before.is_some_and(|member| member.current.epoch != MemberEpoch::LEAVE_FOR_NOW) {
                let message = "a member with this instance id is alive; stop it, or use another id";
                return Err(Refusal::field(ErrorCode::FencedInstance, "instance_id", message));
            }
            let had = before.map(|member| member.current.clone()).unwrap_or_default();
            current = Current {
                epoch: MemberEpoch::JOIN,
                previous_epoch: MemberEpoch::JOIN,
                joined_by: beat.attempt,
                ..had
            };
        } else if before.is_none() && self.members.len() >= MAX_MEMBERS {
            let message = format!("the group has {MAX_MEMBERS} members, the most it can have");
            return Err(Refusal::new(ErrorCode::Throttled, message));
        }
        let empty = Arc::default();
        let target = self.target.get(former.unwrap_or(id));
        // Under the same id its former self may have commits on their way. So it gets its partitions with a newer epoch than any
        // that the former self can name: with the next target, which gives it the same ones. If it never got as far as the target,
        // the target's own epoch is newer: who only asks once more, because no answer came, is not put off again and again.
        let may_know = |epoch: MemberEpoch| epoch == MemberEpoch::LEAVE_FOR_NOW || epoch >= self.target_epoch;
        let anew = known
            .is_some_and(|known| known.current.epoch != MemberEpoch::JOIN && may_know(known.current.epoch))
            && target.is_some_and(|target| !target.is_empty());
        // One that joins has nothing, whatever it may say: it has given back what was asked of its former self.
        let current = if anew || (known.is_some() && self.puts_off(&current)) {
            current
        } else {
            let nothing = Report { has: &empty, heard: None };
            self.step(id, former, &current, Some(nothing), target.unwrap_or(&empty))
        };
        let answer = HeartbeatAnswer {
            epoch: current.epoch,
            assignment: Some(current.owned.keys().copied().collect()),
        };

        let same = before.is_some_and(|member| *member.subscription == *subscription);
        let mut changes = Vec::new();
        if !same || anew || self.epoch.0 == 0 {
            changes.push(Change::Group(Some(GroupValue { empty_since: None, ..self.bumped() })));
        }
        let value = MemberValue::of(beat, subscription);
        if self.members.get(id).is_none_or(|member| member.value() != value) {
            changes.push(Change::Member(id.clone(), Some(value)));
        }
        if let Some(former) = former {
            changes.extend(target.map(|target| Change::Target(id.clone(), Some(Arc::clone(target)))));
            changes.push(Change::Current(former.clone(), None));
        }
        changes.push(Change::Current(id.clone(), Some(current)));
        if let Some(former) = former {
            changes.push(Change::Target(former.clone(), None));
            changes.push(Change::Member(former.clone(), None));
        }
        Ok((changes, answer))
    }

    /// What one is told whose attempt to join was overtaken by a later one of its own, or is the same once more, after an answer
    /// that was lost on its way. It is in the group by that, and may have been given partitions, or asked to give some back: to
    /// begin anew would take those for given back. If somebody still waits for this, then nothing was heard of the later one
    /// either, and what the member may have now is what it may begin with.
    fn joined_already(
        &self,
        id: &MemberId,
        current: &Current,
    ) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        if current.epoch == MemberEpoch::LEAVE_FOR_NOW {
            let message = "the member has left for now since it asked to join";
            return Err(Refusal::field(ErrorCode::FencedMemberEpoch, "join_attempt", message));
        }
        // The assignment may have been made since.
        let next = match current.epoch {
            MemberEpoch::JOIN => self.next(id, current, None),
            _ => current.clone(),
        };
        let answer = answer(&next, true);
        let change = (next != *current).then(|| Change::Current(id.clone(), Some(next)));
        Ok((change.into_iter().collect(), answer))
    }

    fn beat(&self, beat: &Heartbeat) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        let id = &beat.member;
        let member = self.known(id, beat.instance.as_ref())?;
        let current = &member.current;
        // Who did not hear the last answer still has the epoch before it. Its epoch moved on when it had given back everything
        // that was asked of it, so all that it can have it still may have.
        let owned = |has: &Partitions| has.iter().all(|at| current.holds(at).is_some());
        let behind = beat.epoch != current.epoch && beat.epoch == current.previous_epoch;
        let repeated = behind && beat.has.as_ref().is_none_or(owned);
        if beat.epoch != current.epoch && !repeated {
            let message = format!(
                "the member is at epoch {}, not {}; give up all partitions and join anew",
                current.epoch, beat.epoch
            );
            return Err(Refusal::field(ErrorCode::FencedMemberEpoch, "member_epoch", message));
        }
        let changed = beat.subscription.as_ref().filter(|wanted| **wanted != *member.subscription);
        let settled = self.epoch == self.target_epoch && current.is_settled(self.target_epoch);
        // By far the most heartbeats: nothing is done. And who did not hear the last answer hears it again before it is taken
        // further, so that however many are lost it is never two epochs behind.
        if changed.is_none() && (settled || repeated) {
            return Ok((Vec::new(), answer(current, beat.has.is_some() || repeated)));
        }
        let mut changes = Vec::new();
        if let Some(wanted) = changed {
            check(wanted)?;
            let value = MemberValue { subscription: wanted.clone(), ..member.value() };
            changes.push(Change::Group(Some(self.bumped())));
            changes.push(Change::Member(id.clone(), Some(value)));
        }
        if repeated {
            return Ok((changes, answer(current, true)));
        }
        let report = beat.has.as_ref().map(|has| Report { has, heard: beat.heard });
        let next = self.next(id, current, report);
        let answer = answer(&next, next.owned != current.owned || beat.has.is_some());
        if next != *current {
            changes.push(Change::Current(id.clone(), Some(next)));
        }
        Ok((changes, answer))
    }

    fn leave(&self, beat: &Heartbeat, now: Timestamp) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        self.leaver(beat)?;
        let answer = HeartbeatAnswer { epoch: MemberEpoch::LEAVE, assignment: None };
        Ok((self.without(std::slice::from_ref(&beat.member), now), answer))
    }

    /// The member that leaves. One that joined anew under its id stays when its former self says goodbye.
    fn leaver(&self, beat: &Heartbeat) -> Result<&Arc<Member>, Refusal> {
        let member = self.known(&beat.member, beat.instance.as_ref())?;
        let Current { epoch: now, previous_epoch: before, .. } = member.current;
        // It may not have heard yet that its epoch moved on.
        let is_former = |epoch: MemberEpoch| {
            epoch > MemberEpoch::JOIN && now != MemberEpoch::LEAVE_FOR_NOW && epoch != now && epoch != before
        };
        // One that never heard that it had joined has no epoch to name, but has counted what it asked.
        if let (Some(said), Some(joined_by)) = (beat.attempt, member.current.joined_by)
            && said.is_no_later_than(joined_by)
        {
            let message = "the member has joined anew since it said goodbye, and stays";
            return Err(Refusal::field(ErrorCode::FencedMemberEpoch, "join_attempt", message));
        }
        if let Some(epoch) = beat.leaving.filter(|epoch| is_former(*epoch)) {
            let message = format!("the member is at epoch {now}, not {epoch}: it has joined anew, and stays");
            return Err(Refusal::field(ErrorCode::FencedMemberEpoch, "leaving_epoch", message));
        }
        Ok(member)
    }

    fn leave_for_now(&self, beat: &Heartbeat) -> Result<(Vec<Change>, HeartbeatAnswer), Refusal> {
        let member = self.leaver(beat)?;
        if member.instance.is_none() {
            let message = "only a static member can come back; leave with -1";
            return Err(Refusal::field(ErrorCode::InvalidRequest, "member_epoch", message));
        }
        // It reads nothing any more: what was asked of it is given back, and no epoch that it had counts.
        let away = Current {
            epoch: MemberEpoch::LEAVE_FOR_NOW,
            previous_epoch: MemberEpoch::LEAVE_FOR_NOW,
            owned: member.current.owned.clone(),
            revoking: BTreeMap::new(),
            waiting: false,
            ..member.current
        };
        let answer = HeartbeatAnswer { epoch: MemberEpoch::LEAVE_FOR_NOW, assignment: None };
        let changed = away != member.current;
        Ok((changed.then(|| Change::Current(beat.member.clone(), Some(away))).into_iter().collect(), answer))
    }

    /// What takes members out whose session, or whose time to give back, is over. Members that are not there are passed over.
    pub fn without(&self, gone: &[MemberId], now: Timestamp) -> Vec<Change> {
        let gone: BTreeSet<&MemberId> = gone.iter().filter(|id| self.members.contains_key(*id)).collect();
        if gone.is_empty() {
            return Vec::new();
        }
        let empty_since = (gone.len() == self.members.len()).then_some(now);
        // The group first: a log that ends here makes it assign anew, which does no harm.
        let mut changes = vec![Change::Group(Some(GroupValue { empty_since, ..self.bumped() }))];
        for id in gone {
            changes.push(Change::Current(id.clone(), None));
            changes.push(Change::Target(id.clone(), None));
            changes.push(Change::Member(id.clone(), None));
        }
        changes
    }

    /// The next step of a member that says nothing new, if there is one: what it can be told without being asked. One that is
    /// away for now gives back what is no longer meant for it.
    pub fn push(&self, id: &MemberId) -> Option<Change> {
        let current = &self.members.get(id)?.current;
        let next = if current.epoch == MemberEpoch::LEAVE_FOR_NOW {
            let target = self.target.get(id);
            let meant = |at: &TopicIdPartition| target.is_some_and(|target| target.contains(at));
            let owned = current.owned.iter().filter(|(at, _)| meant(at)).map(|(at, since)| (*at, *since));
            Current { owned: owned.collect(), ..current.clone() }
        } else {
            self.next(id, current, None)
        };
        (next != *current).then(|| Change::Current(id.clone(), Some(next)))
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

    fn next(&self, id: &MemberId, current: &Current, report: Option<Report<'_>>) -> Current {
        if self.puts_off(current) {
            return current.clone();
        }
        let empty = Arc::default();
        self.step(id, None, current, report, self.target.get(id).unwrap_or(&empty))
    }

    /// Whether a member waits for the target that is to come: one without an epoch has joined since the target was made, which
    /// may be its former self's.
    fn puts_off(&self, current: &Current) -> bool {
        current.epoch == MemberEpoch::JOIN && self.epoch != self.target_epoch
    }

    /// One step of a member, which may have what its `former` self has.
    fn step(
        &self,
        id: &MemberId,
        former: Option<&MemberId>,
        current: &Current,
        report: Option<Report<'_>>,
        target: &Partitions,
    ) -> Current {
        let other = |owner: &&MemberId| *owner != id && former != Some(*owner);
        let owned_by_another = |at: &TopicIdPartition| {
            !planted(Bug::MoveBeforeGivenBack) && self.owners.get(at).filter(other).is_some()
        };
        reconcile::step(current, report, target, self.target_epoch, owned_by_another)
    }
}

fn answer(current: &Current, whole: bool) -> HeartbeatAnswer {
    // One that joined before the first target was computed is still at epoch 0.
    let assignment = whole.then(|| current.owned.keys().copied().collect());
    HeartbeatAnswer { epoch: current.epoch, assignment }
}

impl MemberValue {
    fn of(beat: &Heartbeat, subscription: &Subscription) -> MemberValue {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        MemberValue {
            subscription: subscription.clone(),
            instance: beat.instance.clone(),
            client_id: Arc::clone(&beat.client_id),
            host: Arc::clone(&beat.host),
            session_timeout_ms: millis(beat.session_timeout),
            rebalance_timeout_ms: millis(beat.rebalance_timeout),
        }
    }
}

fn check(subscription: &Subscription) -> Result<(), Refusal> {
    let wrong = |field: &str, message: String| Err(Refusal::field(ErrorCode::InvalidRequest, field, message));
    if subscription.topics.is_empty() && subscription.pattern.is_none() {
        return wrong("subscription.topics", "name at least one topic, or a pattern".to_owned());
    }
    if subscription.topics.len() > MAX_TOPICS {
        return wrong("subscription.topics", format!("a member names at most {MAX_TOPICS} topics"));
    }
    let bytes: usize = subscription.topics.iter().map(|topic| topic.as_str().len()).sum();
    if bytes > MAX_SUBSCRIPTION_BYTES {
        let message =
            format!("the names of a member's topics have at most {MAX_SUBSCRIPTION_BYTES} bytes together");
        return wrong("subscription.topics", message);
    }
    if subscription.pattern.as_ref().is_some_and(|pattern| pattern.len() > MAX_PATTERN) {
        return wrong("subscription.pattern", format!("a pattern has at most {MAX_PATTERN} bytes"));
    }
    if let Some(Err(error)) = subscription.assignor.as_deref().map(str::parse::<super::Assignor>) {
        return wrong("subscription.assignor", error.to_string());
    }
    Ok(())
}
