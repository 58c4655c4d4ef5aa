//! How changes take effect: in memory, in the log, for members whose heartbeat is held, and on the timers.

use super::answers::Answer;
use super::call::{Now, Output};
use super::entry::{Applied, Entry, Presence};
use super::timers::Timer;
use super::topics::ImageTopics;
use super::{Shard, size, wire};
use std::collections::BTreeSet;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::group::{Change, GroupId, GroupRecord, Member, MemberId};
use thalweg_core::metadata::command::Refusal;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::v1;

impl Shard {
    /// Applies changes of a group, lets held members take the steps that they make possible, and hands all of it out as one
    /// write.
    pub(super) fn apply(
        &mut self,
        id: &GroupId,
        mut changes: Vec<Change>,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        if changes.is_empty() {
            return;
        }
        let most = self.most_bytes(topics);
        let write = self.answers.next_write();
        let entry = self.groups.entry(id.clone()).or_default();
        let (members, offsets) = (entry.group.members.len(), entry.group.offsets.len());
        entry.last_write = write;
        let mut applied = Applied::default();
        changes.iter().for_each(|change| entry.apply(change, &mut applied));
        let movable = if applied.assigned {
            entry.reachable()
        } else {
            std::mem::take(&mut applied.movable).into_iter().collect()
        };
        let pushed = push(id, entry, movable, most, &mut applied);
        changes.extend(pushed);

        self.members = self.members + entry.group.members.len() - members;
        self.offsets = self.offsets + entry.group.offsets.len() - offsets;
        let records = changes.into_iter().map(|change| GroupRecord { group: id.clone(), change });
        out.writes.push((write, records.collect()));
        for member in &applied.touched {
            self.look_after(id, member, topics, now, out);
        }
        self.arm_assignment(id, now);
        if self.groups.get(id).is_some_and(Entry::is_void) {
            self.groups.remove(id);
        }
    }

    /// Brings a member's standing up to date with what became of it, and answers its held heartbeat if there is news.
    fn look_after(
        &mut self,
        group: &GroupId,
        id: &MemberId,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let Some(member) = entry.group.members.get(id).cloned() else {
            if let Some(mut presence) = entry.presences.remove(id) {
                self.timers.set(Timer::Member(group.clone(), id.clone()), presence.armed.take(), None);
                if let Some(held) = presence.held {
                    self.held.remove(&held.call);
                    let message = format!("the member {id} is not in the group any more; join anew");
                    let refusal = Refusal::field(ErrorCode::UnknownMember, "member_id", message);
                    self.answer(group, held.call, Err(refusal), out);
                }
            }
            return;
        };
        let presence = entry.presences.entry(id.clone());
        let presence = presence.or_insert_with(|| Presence::new(now.mono, member.session_timeout));
        presence.ask(&member, Some(entry.last_write), now.mono);
        if let Some(held) = &presence.held
            && (held.epoch != member.current.epoch || presence.unheard)
        {
            let whole = presence.unheard;
            self.answer_held(group, id, whole, topics, now, out);
        }
        self.with_presence(group, id, |_, _| ());
    }

    /// Answers a member's held heartbeat, if there is one, with its epoch and, if `whole`, with what it may have.
    pub(super) fn answer_held(
        &mut self,
        group: &GroupId,
        id: &MemberId,
        whole: bool,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        let Some(presence) = self.groups.get_mut(group).and_then(|entry| entry.presences.get_mut(id)) else {
            return;
        };
        if let Some(held) = presence.held.take() {
            self.held.remove(&held.call);
            self.answer_beat(group, id, held.call, whole, topics, now, out);
        }
    }

    /// Answers a member's heartbeat: its session begins when the answer leaves.
    #[expect(
        clippy::too_many_arguments,
        reason = "a step has a group, a member, the world, the time and the output"
    )]
    pub(super) fn answer_beat(
        &mut self,
        group: &GroupId,
        id: &MemberId,
        call: super::CallId,
        whole: bool,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        let heartbeat_interval_ms = millis(self.config.heartbeat_interval);
        let Some(entry) = self.groups.get_mut(group) else { return };
        let Some(member) = entry.group.members.get(id) else { return };
        let assignment = whole
            .then(|| v1::AssignedPartitions { topics: wire::by_topic(member.current.owned.keys(), topics) });
        let member_epoch = member.current.epoch.0;
        let reply = Reply::Heartbeat(v1::HeartbeatResponse {
            member_epoch,
            assignment,
            heartbeat_interval_ms,
            assignment_step: whole.then_some(member.current.step),
        });
        let answer = Answer { call, reply: Ok(reply), member: Some((group.clone(), id.clone())) };
        let waits = self.answers.give(entry.last_write, answer, out);
        self.with_presence(group, id, |presence, member| {
            presence.unheard = whole;
            presence.unconfirmed |= whole;
            presence.parked += u32::from(waits);
            presence.session_at = now.mono.saturating_add(member.session_timeout);
        });
    }

    /// Changes a member's standing, and moves its timer.
    pub(super) fn with_presence(
        &mut self,
        group: &GroupId,
        id: &MemberId,
        change: impl FnOnce(&mut Presence, &Member),
    ) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let Some(presence) = entry.presences.get_mut(id) else { return };
        let Some(member) = entry.group.members.get(id) else { return };
        change(presence, member);
        let due = presence.due();
        if due != presence.armed {
            self.timers.set(Timer::Member(group.clone(), id.clone()), presence.armed, due);
            presence.armed = due;
        }
    }

    /// Sets the time of a group's next assignment, or takes it back.
    pub(super) fn arm_assignment(&mut self, group: &GroupId, now: Now) {
        let Some(entry) = self.groups.get_mut(group) else { return };
        let members = u32::try_from(entry.group.members.len()).unwrap_or(u32::MAX);
        let needed = entry.group.epoch != entry.group.target_epoch;
        let at = match entry.assign_at {
            _ if !needed => None,
            None => {
                let longer = self.config.assignment_delay_per_member.saturating_mul(members);
                Some(now.mono.saturating_add(self.config.assignment_delay).saturating_add(longer))
            }
            since => since,
        };
        self.timers.set(Timer::Assign(group.clone()), entry.assign_at, at);
        entry.assign_at = at;
    }
}

/// The steps of members that may be able to take one and can be told of it, or are away. A step that cannot be written is not
/// taken.
fn push(
    group: &GroupId,
    entry: &mut Entry,
    movable: Vec<MemberId>,
    most: usize,
    applied: &mut Applied,
) -> Vec<Change> {
    let mut pushed = Vec::new();
    // A step frees nothing, except that of one that is away: those may let others move, once more.
    let mut next: BTreeSet<MemberId> = movable.into_iter().collect();
    while let Some(id) = next.pop_first() {
        let Some(member) = entry.group.members.get(&id) else { continue };
        let away = member.current.epoch == thalweg_core::group::MemberEpoch::LEAVE_FOR_NOW;
        let held = entry.presences.get(&id).is_some_and(|presence| presence.held.is_some());
        if !away && !held {
            continue;
        }
        let Some(change) = entry.group.push(&id) else { continue };
        if !size::fits(group, &change, most) {
            tracing::error!(%group, member = %id, most, "a member has more partitions than one record can hold");
            continue;
        }
        let before = member.current.owned.clone();
        entry.apply(&change, applied);
        let moved = entry.group.members.get(&id).is_some_and(|member| member.current.owned != before);
        if let Some(presence) = entry.presences.get_mut(&id) {
            presence.unheard |= moved;
        }
        pushed.push(change);
        next.extend(std::mem::take(&mut applied.movable));
    }
    pushed
}

pub(super) fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
