//! What a member says, and when; and what becomes of it when its time is over.

use super::{Back, Event, InFlight, Loss, Membership, Outgoing, Stage};
use crate::group::ids::MemberEpoch;
use std::time::Duration;

impl Membership {
    pub(super) fn look_at_the_time(&mut self, now: Duration) {
        if self.stage == Stage::Joined
            && (now >= self.alive + self.timeouts.session || self.heard_by.is_some_and(|by| now >= by))
        {
            self.lose_all(Loss::Silence, now);
        }
        if self.in_flight.is_some_and(|beat| now >= beat.sent + self.timeouts.answered_within()) {
            self.in_flight = None;
            self.has.told = None;
            self.pause(now);
        }
        if let Some(revoking) = self.revoking.clone().filter(|revoking| now >= revoking.until) {
            let partitions = revoking.partitions;
            self.gave_back(&partitions, now);
            self.events.push_back(Event::Lost { partitions, why: Loss::NotGivenBack });
        }
        let in_group = matches!(self.stage, Stage::Joined | Stage::Joining);
        if in_group && self.works_since.is_some_and(|since| now >= since + self.timeouts.rebalance) {
            let was = self.epoch;
            self.lose_all(Loss::NotPolled, now);
            let epoch = if self.instance.is_some() { MemberEpoch::LEAVE_FOR_NOW } else { MemberEpoch::LEAVE };
            self.say_goodbye(epoch, was, Back::Later, now);
        }
        if let Stage::Leaving { until, .. } = self.stage
            && now >= until
        {
            self.left(now);
        }
    }

    pub(super) fn send(&mut self, now: Duration) -> Option<Event> {
        if now < self.due || (self.in_flight.is_some() && !self.urgent) {
            return None;
        }
        let (epoch, max_wait, leaving) = match self.stage {
            Stage::Joining => (MemberEpoch::JOIN, self.timeouts.held(), None),
            Stage::Joined => (self.epoch, self.timeouts.held(), None),
            Stage::Leaving { epoch, was, .. } => {
                (epoch, Duration::ZERO, Some(was).filter(|was| *was > MemberEpoch::JOIN))
            }
            Stage::Out | Stage::Ended => return None,
        };
        let replaces = self.in_flight.take().is_some();
        if replaces || epoch == MemberEpoch::JOIN {
            self.has.told = None;
        }
        if epoch == MemberEpoch::JOIN {
            self.subscription.told = None;
        }
        let stays = epoch >= MemberEpoch::JOIN;
        let subscription = self.subscription.untold().filter(|_| stays);
        let has = self.has.untold().filter(|_| stays);
        self.urgent = false;
        self.last_number += 1;
        self.unanswered.get_or_insert(now);
        self.in_flight = Some(InFlight {
            number: self.last_number,
            epoch,
            sent: now,
            has: has.as_ref().map(|_| self.has.version),
            subscription: subscription.as_ref().map(|_| self.subscription.version),
        });
        Some(Event::Send(Outgoing {
            number: self.last_number,
            epoch,
            subscription,
            heard: self.heard.filter(|_| has.is_some()),
            has,
            max_wait,
            leaving,
        }))
    }

    /// There is something to say that cannot wait for a held answer. A join is waited for: what it does must be known first.
    pub(super) fn hurry(&mut self, now: Duration) {
        self.due = self.due.min(now);
        self.urgent = self.in_flight.is_some_and(|beat| beat.epoch != MemberEpoch::JOIN);
    }

    pub(super) fn say_goodbye(&mut self, epoch: MemberEpoch, was: MemberEpoch, back: Back, now: Duration) {
        self.stage = Stage::Leaving { until: now + self.timeouts.leave, epoch, was, back };
        self.due = now;
        self.hurry(now);
    }

    pub(super) fn pause(&mut self, now: Duration) {
        self.due = now + self.backoff();
        self.urgent = false;
        self.failures = self.failures.saturating_add(1);
    }

    /// 80 to 120 % of the pause, by the member's name: members that failed together do not come back together.
    pub(super) fn backoff(&self) -> Duration {
        let doubled = self.timeouts.retry.saturating_mul(1 << self.failures.min(16));
        let seed = self.id.as_str().bytes().fold(self.last_number, |sum, byte| {
            sum.wrapping_mul(0x0100_0000_01b3).wrapping_add(u64::from(byte))
        });
        doubled.min(self.timeouts.retry_max).saturating_mul(80 + (seed % 41) as u32) / 100
    }
}
