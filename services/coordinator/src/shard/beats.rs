//! Heartbeats: joining, staying, acknowledging, leaving; and whether the answer waits.

use super::answers::Answer;
use super::call::{CallId, Now, Output};
use super::entry::Held;
use super::topics::ImageTopics;
use super::{Shard, wire};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::group::state::Partitions;
use thalweg_core::group::{Current, GroupId, Heartbeat, HeartbeatAnswer, MemberEpoch, MemberId};
use thalweg_core::metadata::command::Refusal;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::v1;

/// For how long a member that joins a group without assignment waits for the first one, at least. It takes
/// `assignment_delay`, so this never passes.
const FIRST_ASSIGNMENT: Duration = Duration::from_secs(5);

impl Shard {
    pub(super) fn heartbeat(
        &mut self,
        call: CallId,
        request: v1::HeartbeatRequest,
        host: Arc<str>,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        let (group, beat, wait) = match wire::heartbeat(request, host, &self.config) {
            Ok(parsed) => parsed,
            Err(refusal) => return out.replies.push((call, Err(refusal))),
        };
        let room = self.room_for(&group, &beat);
        let outcome = room.and_then(|()| self.group(&group).heartbeat(&beat, now.wall)).and_then(|done| {
            // Compiling is what costs: only for one that is let in.
            self.check_pattern(&group, &beat, topics)?;
            self.check_size(&group, &done.0, topics)?;
            Ok(done)
        });
        let (changes, answer) = match outcome {
            Ok(outcome) => outcome,
            Err(refusal) => return self.answer(&group, call, Err(refusal), out),
        };
        let before = self.owned(&group, &beat.member);
        // It has another call now; the one before has nothing more to tell.
        self.answer_held(&group, &beat.member, false, topics, now, out);
        self.apply(&group, changes, topics, now, out);
        match beat.epoch {
            MemberEpoch::LEAVE | MemberEpoch::LEAVE_FOR_NOW => {
                self.left(&group, &beat, call, &answer, now, out)
            }
            _ => self.stays(&group, &beat, call, wait, &before, topics, now, out),
        }
    }

    /// Whether a pattern that the member did not have before can be used.
    fn check_pattern(
        &self,
        group: &GroupId,
        beat: &Heartbeat,
        topics: &dyn ImageTopics,
    ) -> Result<(), Refusal> {
        let wish = beat.subscription.as_ref();
        let Some(pattern) = wish.and_then(|wish| wish.pattern.as_ref()) else { return Ok(()) };
        let known = self.group(group).members.get(&beat.member);
        if known.is_some_and(|member| member.subscription.pattern.as_ref() == Some(pattern)) {
            return Ok(());
        }
        topics.check_pattern(pattern).map_err(|wrong| wire::invalid("subscription.pattern", wrong))
    }

    /// Whether the group, or the shard, takes one more.
    fn room_for(&self, id: &GroupId, beat: &Heartbeat) -> Result<(), Refusal> {
        let group = self.group(id);
        let returns = beat.instance.as_ref().is_some_and(|instance| group.instances.contains_key(instance));
        if beat.epoch != MemberEpoch::JOIN || returns || group.members.contains_key(&beat.member) {
            return Ok(());
        }
        let full = |message: String| Err(Refusal::new(ErrorCode::Throttled, message));
        if group.members.len() >= self.config.max_group_size {
            return full(format!("the group has {} members, the most it can have", group.members.len()));
        }
        if self.members >= self.config.max_members {
            return full(format!("the shard {} has {} members, the most it can have", self.at, self.members));
        }
        self.room_for_group(id)
    }

    /// Whether the shard takes a group, if it does not have it.
    pub(super) fn room_for_group(&self, id: &GroupId) -> Result<(), Refusal> {
        if self.groups.contains_key(id) || self.groups.len() < self.config.max_groups {
            return Ok(());
        }
        let message = format!("the shard {} has {} groups, the most it can have", self.at, self.groups.len());
        Err(Refusal::new(ErrorCode::Throttled, message))
    }

    fn current(&self, group: &GroupId, member: &MemberId) -> Option<&Current> {
        self.group(group).members.get(member).map(|member| &member.current)
    }

    fn owned(&self, group: &GroupId, member: &MemberId) -> Partitions {
        self.current(group, member).map(|current| current.owned.keys().copied().collect()).unwrap_or_default()
    }

    fn left(
        &mut self,
        group: &GroupId,
        beat: &Heartbeat,
        call: CallId,
        answer: &HeartbeatAnswer,
        now: Now,
        out: &mut Output,
    ) {
        // One that is away for now has its session to come back; the answer does not lengthen it.
        self.with_presence(group, &beat.member, |presence, member| {
            presence.session_at = now.mono.saturating_add(member.session_timeout);
        });
        let reply = Reply::Heartbeat(v1::HeartbeatResponse {
            member_epoch: answer.epoch.0,
            assignment: None,
            heartbeat_interval_ms: super::step::millis(self.config.heartbeat_interval),
            assignment_step: None,
        });
        let after = self.last_write(group);
        self.answers.give(after, Answer { call, reply: Ok(reply), member: None }, out);
    }

    /// Answers a member that joined or stays, at once if there is news.
    #[expect(
        clippy::too_many_arguments,
        reason = "a step has a group, a member, the world, the time and the output"
    )]
    fn stays(
        &mut self,
        group: &GroupId,
        beat: &Heartbeat,
        call: CallId,
        wait: Duration,
        before: &Partitions,
        topics: &dyn ImageTopics,
        now: Now,
        out: &mut Output,
    ) {
        let owned = self.owned(group, &beat.member);
        let Some(member) = self.group(group).members.get(&beat.member) else { return };
        let (epoch, session) = (member.current.epoch, member.session_timeout);
        let revoking = member.current.revoking.clone();
        let presence = self.groups.get(group).and_then(|entry| entry.presences.get(&beat.member));
        let unheard = presence.is_none_or(|presence| presence.unheard);
        let unconfirmed = presence.is_none_or(|presence| presence.unconfirmed);
        let joins = beat.epoch == MemberEpoch::JOIN;
        let has_nothing = owned.is_empty() && revoking.is_empty();
        // Whether it may not know what it may have. Partitions that it has not given back yet it may still name.
        let moved = owned != *before;
        let other = match &beat.has {
            _ if joins || moved => true,
            Some(has) => !has.iter().filter(|at| !revoking.contains_key(*at)).eq(owned.iter()),
            // One that joined with nothing and was told that it has nothing has nothing new to say, ever: it must be held all the
            // same, or it would hear of its first partition a heartbeat interval late.
            None => unheard && !has_nothing,
        };
        let first = joins && epoch == MemberEpoch::JOIN;
        let news = !first && (other || epoch != beat.epoch);
        let mut wait = wait.min(session / 2);
        if first {
            wait = wait.max(FIRST_ASSIGNMENT);
        }
        if !revoking.is_empty() {
            // An answer with the revocation may have been lost, and a member that is not done yet looks just the same.
            wait = wait.min(self.config.heartbeat_interval);
        }
        if news || wait.is_zero() || self.held.len() >= self.config.max_held {
            // One that is never held is told each time until it says what it has: answers may be lost one after the other.
            let unsure = !news && unconfirmed && beat.has.is_none() && !has_nothing;
            self.answer_beat(group, &beat.member, call, other || unsure, topics, now, out);
            // One that says nothing of what it was told may not have heard it, or it has that already, as after a failover: it
            // is told again at once, but once. From then on it is held like any other.
            let again = beat.has.is_none() && unheard && !joins && !moved;
            return self.with_presence(group, &beat.member, |presence, _| presence.unheard &= !again);
        }
        self.held.insert(call, (group.clone(), beat.member.clone()));
        let until = now.mono.saturating_add(wait);
        self.with_presence(group, &beat.member, |presence, _| {
            presence.unheard = first;
            presence.unconfirmed &= beat.has.is_none();
            presence.held = Some(Held { call, epoch: beat.epoch, until });
        });
    }

    /// The caller of a held heartbeat is gone.
    pub(super) fn cancel(&mut self, call: CallId, now: Now) {
        let Some((group, member)) = self.held.remove(&call) else { return };
        self.with_presence(&group, &member, |presence, member| {
            if presence.held.as_ref().is_some_and(|held| held.call == call) {
                presence.held = None;
                presence.session_at = now.mono.saturating_add(member.session_timeout);
            }
        });
    }
}
