//! What a member makes of the answers to its heartbeats.

use super::{Answer, Event, InFlight, Loss, MIN_INTERVAL, Membership, Revoking, Stage};
use crate::ErrorCode;
use crate::Retriable;
use crate::group::ids::MemberEpoch;
use crate::group::state::Partitions;
use crate::metadata::command::Refusal;
use std::time::Duration;

impl Membership {
    pub(super) fn accept(&mut self, beat: InFlight, answer: Answer, now: Duration) {
        self.alive = beat.sent;
        let since = self.unanswered.take().unwrap_or(beat.sent);
        self.interval = answer.interval.clamp(MIN_INTERVAL, (self.timeouts.session / 3).max(MIN_INTERVAL));
        if matches!(self.stage, Stage::Leaving { .. }) {
            if beat.epoch < MemberEpoch::JOIN {
                self.left(now);
            } else {
                // A join that was under way. What it brought nobody wants any more.
                self.epoch = answer.epoch;
                if let Stage::Leaving { was, .. } = &mut self.stage {
                    *was = answer.epoch;
                }
                self.due = now;
            }
            return;
        }
        if answer.epoch <= MemberEpoch::JOIN {
            // It is known, and no assignment was made yet: to join once more is how to ask for it.
            let fenced = "the coordinator took the member's epoch back";
            match self.stage {
                Stage::Joined => {
                    self.lose_all(Loss::Fenced(Refusal::new(ErrorCode::FencedMemberEpoch, fenced)), now);
                }
                _ => self.due = now + self.timeouts.retry.min(self.interval),
            }
            return;
        }
        let mut news = self.epoch != answer.epoch || self.stage == Stage::Joining;
        self.stage = Stage::Joined;
        self.epoch = answer.epoch;
        self.has.told = beat.has.or(self.has.told);
        if self.has.told == Some(self.has.version) && self.revoking.is_none() {
            self.heard_by = None;
        }
        self.subscription.told = beat.subscription.or(self.subscription.told);
        if let Some(assignment) = answer.assignment {
            news |= self.follow(&assignment, since);
            self.heard = answer.step;
        }
        let held =
            now.saturating_sub(beat.sent) * 2 >= self.timeouts.held() && !self.timeouts.held().is_zero();
        let at_once = news || held || self.has.untold().is_some() || self.subscription.untold().is_some();
        self.due = if at_once { now } else { beat.sent + self.interval };
    }

    /// Takes what is given, and begins to give back what is not any more. Says whether anything changed.
    pub(super) fn follow(&mut self, assignment: &Partitions, since: Duration) -> bool {
        let under_way = self.revoking.as_ref().map(|revoking| &revoking.partitions);
        let taken: Partitions = self
            .has
            .value
            .difference(assignment)
            .filter(|at| under_way.is_none_or(|revoking| !revoking.contains(at)))
            .copied()
            .collect();
        let given: Partitions = assignment.difference(&self.has.value).copied().collect();
        let changed = !(taken.is_empty() && given.is_empty());
        if !taken.is_empty() {
            self.revoke(taken, since);
        }
        if !given.is_empty() {
            self.has.change().extend(given.iter().copied());
            self.events.push_back(Event::Assigned(given));
        }
        changed
    }

    /// Begins to give back. The coordinator decided it at `since` or later.
    pub(super) fn revoke(&mut self, partitions: Partitions, since: Duration) {
        let (until, heard_by) = (since + self.timeouts.give_back_within(), since + self.timeouts.rebalance);
        self.events.push_back(Event::Revoke { partitions: partitions.clone(), until });
        match &mut self.revoking {
            Some(revoking) => revoking.partitions.extend(partitions),
            none => *none = Some(Revoking { partitions, until, heard_by }),
        }
    }

    pub(super) fn refused(&mut self, beat: InFlight, refusal: Refusal, now: Duration) {
        let retriable = refusal.code.retriable() != Retriable::No;
        let leaving = matches!(self.stage, Stage::Leaving { .. });
        match refusal.code {
            // Whatever stands in the way of leaving but the way itself: it is not in the group.
            _ if leaving && beat.epoch < MemberEpoch::JOIN && !retriable => self.left(now),
            _ if leaving => self.pause(now),
            ErrorCode::UnknownMember | ErrorCode::FencedMemberEpoch => {
                let joined = self.stage == Stage::Joined;
                self.lose_all(Loss::Fenced(refusal), now);
                // The first time at once; a member that is put out again and again comes slower.
                if !joined || self.failures > 0 {
                    self.pause(now);
                }
            }
            // A topic that is not there yet is no failure of the member's.
            _ if retriable => self.pause(now),
            _ => {
                if !self.has.value.is_empty() {
                    self.lose_all(Loss::Fenced(refusal.clone()), now);
                }
                self.end(Event::Failed(refusal));
            }
        }
    }
}
