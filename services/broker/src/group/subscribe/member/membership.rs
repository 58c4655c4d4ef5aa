//! What the membership machine wants done, and what the coordinator answers it.

use super::{Revocation, Subscription, error_of};
use crate::group::call;
use crate::group::check;
use crate::group::options::millis;
use crate::group::starts;
use crate::group::subscribe::parts::State;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::MemberEpoch;
use thalweg_core::group::member::{Answer, Event, Loss, Outgoing};
use thalweg_core::group::state::Partitions;
use thalweg_core::metadata::Refusal;
use thalweg_proto::v1::subscribe_response::Event as Told;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

impl Subscription {
    pub(super) fn happened(&mut self, event: Event) {
        match event {
            Event::Send(outgoing) => self.send(outgoing),
            Event::Assigned(partitions) => {
                self.parts.add(&partitions);
                self.find_due = true;
            }
            Event::Revoke { partitions, until } => self.revoke(partitions, until),
            Event::Lost { partitions, why } => self.lost(&partitions, &why),
            Event::Left => self.end = Some(Ok(())),
            Event::Failed(refusal) => self.end = Some(Err(error_of(&refusal))),
        }
    }

    pub(super) fn send(&mut self, outgoing: Outgoing) {
        let Outgoing { number, epoch, subscription, has, heard, max_wait, leaving } = outgoing;
        let mut request = self.options.beat(epoch);
        request.leaving_epoch = leaving.map(|epoch| epoch.0);
        if epoch < MemberEpoch::JOIN {
            (request.join_life, request.join_attempt) = (Some(self.options.life), Some(number));
        }
        request.max_wait_ms = Some(millis(max_wait.min(check::longest_wait(self.options.session))));
        request.has = has.as_ref().map(starts::assigned);
        request.heard_step = heard;
        if subscription.is_some() {
            request = v1::HeartbeatRequest {
                has: request.has,
                max_wait_ms: request.max_wait_ms,
                member_epoch: request.member_epoch,
                heard_step: request.heard_step,
                ..self.options.joining(number)
            };
        }
        let (node, caller, group) = (Arc::clone(&self.node), self.caller.clone(), self.options.group.clone());
        let beat = async move { call::heartbeat(&node, &caller, &group, request).await };
        // The former one is dropped, and with that given up.
        self.beat = Some((number, Box::pin(beat)));
    }

    pub(super) fn beaten(&mut self, outcome: Result<v1::HeartbeatResponse, ApiError>) {
        let Some((number, _)) = self.beat.take() else { return };
        let outcome = outcome.and_then(|answer| {
            Ok(Answer {
                epoch: MemberEpoch(answer.member_epoch),
                assignment: answer.assignment.as_ref().map(starts::partitions).transpose()?,
                step: answer.assignment_step,
                interval: Duration::from_millis(answer.heartbeat_interval_ms.into()),
            })
        });
        let refusal =
            |error: ApiError| Refusal { code: error.code, field: error.field, message: error.message };
        let now = self.now();
        self.member.answered(number, outcome.map_err(refusal), now);
        if self.member.is_joined() && !self.is_told_joined {
            self.is_told_joined = true;
            let (member_id, member_epoch) = (self.options.member.to_string(), self.member.epoch().0);
            self.events.push_back(Told::Joined(v1::SubscribeJoined { member_id, member_epoch }));
        }
    }

    pub(super) fn revoke(&mut self, partitions: Partitions, until: Duration) {
        self.stop_reading(&partitions);
        let (told, silent): (Partitions, Partitions) =
            partitions.into_iter().partition(|at| self.parts.get_mut(at).is_some_and(|part| part.is_told));
        for at in &told {
            if let Some(part) = self.parts.get_mut(at) {
                part.state = State::Revoking;
            }
        }
        // What the client never heard of it need not give back.
        self.give_back(&silent);
        if told.is_empty() {
            return;
        }
        let revocation_id = self.number();
        let timeout = until.saturating_sub(self.now()).min(self.revoke_timeout);
        self.events.push_back(Told::Revoke(v1::SubscribeRevoke {
            revocation_id,
            partitions: self.parts.describe(&told),
            timeout_ms: millis(timeout),
        }));
        let until = Instant::now() + self.revoke_timeout;
        self.revocations.insert(revocation_id, Revocation { partitions: told, until });
    }

    pub(super) fn give_back(&mut self, partitions: &Partitions) {
        self.forget(partitions);
        let now = self.now();
        self.member.gave_back(partitions, now);
    }

    pub(super) fn lost(&mut self, partitions: &Partitions, why: &Loss) {
        self.stop_reading(partitions);
        let told: Partitions = partitions
            .iter()
            .filter(|at| self.parts.get_mut(at).is_some_and(|part| part.is_told))
            .copied()
            .collect();
        let error = error_of(&why.refusal()).to_proto();
        // The client hears of it before the commits that fail by it.
        let keys = partitions.iter().filter_map(|at| self.parts.get(at)?.key(at)).collect();
        self.commits.lose(&keys, &error);
        if !told.is_empty() || matches!(why, Loss::NotPolled) {
            let partitions = self.parts.describe(&told);
            self.events.push_back(Told::Lost(v1::SubscribeLost { partitions, error: Some(error) }));
        }
        self.forget(partitions);
    }

    pub(super) fn forget(&mut self, partitions: &Partitions) {
        for at in partitions {
            self.parts.remove(at);
            self.positions.remove(at);
        }
        self.progress.forget(partitions);
        self.revocations.retain(|_, revocation| {
            revocation.partitions.retain(|at| !partitions.contains(at));
            !revocation.partitions.is_empty()
        });
    }

    /// The client may have less time than the member.
    pub(super) fn take_what_was_not_given_back(&mut self, now: Instant) {
        while let Some((id, _)) = self.revocations.iter().find(|(_, revocation)| revocation.until <= now) {
            let id = *id;
            let Some(Revocation { partitions, .. }) = self.revocations.remove(&id) else { return };
            self.lost(&partitions, &Loss::NotGivenBack);
            let now = self.now();
            self.member.gave_back(&partitions, now);
        }
    }

    pub(super) fn stop_reading(&mut self, partitions: &Partitions) {
        let keys: Vec<_> = partitions.iter().filter_map(|at| self.parts.get_mut(at)?.key(at)).collect();
        self.relay.unassign(keys);
    }

    pub(super) fn number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }
}
