//! What a leader knows of its followers, and what follows from it: the high watermark and the ISR that it wants. Pure: time and
//! the log's ends are given.
//!
//! ```text
//!   positions ──► followers ──┬──► high watermark: the least safe offset over the maximal ISR
//!   time ─────────────────────┴──► proposal: who leaves (too long behind), who joins (holds all that is committed)
//! ```
//! The leader never assumes that a proposal succeeds: until the metadata brings a newer partition epoch, the *maximal* ISR (what
//! is in force and what was proposed) holds the high watermark back.

mod follower;

use follower::Follower;
use std::time::Duration;
use thalweg_core::metadata::command::BrokerRef;
use thalweg_core::planted::{Bug, planted};
use thalweg_core::replication::{ReplicaProgress, effective_min_insync, high_watermark, may_commit};
use thalweg_core::{BrokerEpoch, BrokerId, LeaderEpoch, Offset, PartitionEpoch};
use tokio::time::Instant;

/// How long the high watermark may be held back for a follower that is about to join but never reaches it, because the
/// producers never pause.
pub const JOIN_HOLD: Duration = Duration::from_millis(500);
/// How long after a hold that led to nothing the next one may begin.
const HOLD_AGAIN: Duration = Duration::from_secs(10);
/// How long a change whose outcome was never heard may still come into force.
pub const UNSURE_FOR: Duration = Duration::from_secs(10);

/// What the metadata says to a leader.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// The epoch in which it leads.
    pub leader_epoch: LeaderEpoch,
    /// The partition's epoch.
    pub partition_epoch: PartitionEpoch,
    /// Every replica.
    pub replicas: &'a [BrokerId],
    /// The replicas that are being added.
    pub adding: &'a [BrokerId],
    /// The replicas in sync.
    pub isr: &'a [BrokerId],
    /// `min.insync.replicas`.
    pub min_insync_replicas: usize,
    /// `write.caching`.
    pub write_caching: bool,
}

impl Terms<'_> {
    /// How many replicas must be in sync for anything to be committed: `min.insync.replicas`, but not more than the partition has.
    /// Those that are being added do not count, as they do not for the controllers (core's `PartitionImage::min_insync`): a
    /// partition that grows can be written to meanwhile.
    pub fn min_isr(&self) -> usize {
        let settled = self.replicas.iter().filter(|id| !self.adding.contains(id));
        effective_min_insync(self.min_insync_replicas, settled.count())
    }
}

/// One partition's leader.
#[derive(Debug)]
pub struct LeaderState {
    me: BrokerId,
    leader_epoch: LeaderEpoch,
    epoch_start: Offset,
    partition_epoch: PartitionEpoch,
    isr: Vec<BrokerId>,
    min_isr: usize,
    write_caching: bool,
    followers: Vec<Follower>,
    proposal: Option<Proposal>,
}

#[derive(Debug)]
struct Proposal {
    isr: Vec<BrokerRef>,
    sending: bool,
    /// When an attempt ended without an answer: it may come into force later.
    unsure_since: Option<Instant>,
}

/// Why a follower's word does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stale {
    /// It is no replica of the partition.
    NoReplica,
    /// A newer incarnation has spoken.
    OldIncarnation,
}

/// What came of an ISR change that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force, or the metadata is ahead: the metadata will tell.
    Wait,
    /// The controllers refused it at this partition epoch: it is not in force.
    Refused,
    /// Nobody can tell whether it is.
    Unknown,
}

// === impl LeaderState ===

impl LeaderState {
    /// A leader at the start of its epoch, whose log ends at `epoch_start`. Members of the ISR count as caught up now.
    pub fn new(me: BrokerId, terms: &Terms<'_>, epoch_start: Offset, now: Instant) -> LeaderState {
        let mut state = LeaderState {
            me,
            leader_epoch: terms.leader_epoch,
            epoch_start,
            partition_epoch: terms.partition_epoch,
            isr: Vec::new(),
            min_isr: 1,
            write_caching: terms.write_caching,
            followers: Vec::new(),
            proposal: None,
        };
        state.take(terms, now);
        state
    }

    /// Takes newer terms of the same leader epoch. What was proposed is over once the partition's epoch has moved.
    pub fn update(&mut self, terms: &Terms<'_>, now: Instant) {
        if terms.partition_epoch > self.partition_epoch {
            self.partition_epoch = terms.partition_epoch;
            self.proposal = None;
        }
        self.take(terms, now);
    }

    fn take(&mut self, terms: &Terms<'_>, now: Instant) {
        let before = std::mem::replace(&mut self.isr, terms.isr.to_vec());
        self.min_isr = terms.min_isr();
        self.write_caching = terms.write_caching;
        self.followers.retain(|follower| terms.replicas.contains(&follower.id));
        for &id in terms.replicas {
            if id != self.me && self.followers.iter().all(|follower| follower.id != id) {
                self.followers.push(Follower::new(id));
            }
        }
        let isr = &self.isr;
        for follower in self.followers.iter_mut().filter(|follower| isr.contains(&follower.id)) {
            follower.held_since = None;
            if follower.caught_up_at.is_none() || !before.contains(&follower.id) {
                follower.caught_up_at = Some(now);
            }
        }
    }

    /// The epoch.
    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch
    }

    /// Where the log ended when the epoch began: before the high watermark is here, it may be below what an earlier leader told.
    pub fn epoch_start(&self) -> Offset {
        self.epoch_start
    }

    /// The partition's epoch.
    pub fn partition_epoch(&self) -> PartitionEpoch {
        self.partition_epoch
    }

    /// What a follower holds, if it has said so in this epoch.
    pub fn progress(&self, id: BrokerId) -> Option<ReplicaProgress> {
        self.followers.iter().find(|follower| follower.id == id)?.progress
    }

    /// A follower begins to follow where its log ends; it may have been further before.
    pub fn follow(
        &mut self,
        who: BrokerRef,
        at: ReplicaProgress,
        leader_end: Offset,
        now: Instant,
    ) -> Result<(), Stale> {
        let write_caching = self.write_caching;
        let follower = self.follower(who)?;
        follower.epoch = Some(who.epoch);
        follower.progress = None;
        follower.mark = None;
        follower.came_to(bounded(at, leader_end), leader_end, write_caching, now);
        Ok(())
    }

    /// A follower has come further. Never backwards: that takes a new [`follow`](LeaderState::follow).
    pub fn position(
        &mut self,
        who: BrokerRef,
        at: ReplicaProgress,
        leader_end: Offset,
        now: Instant,
    ) -> Result<(), Stale> {
        let write_caching = self.write_caching;
        let follower = self.follower(who)?;
        // Its incarnation never followed here, so it has nothing to tell.
        if follower.epoch != Some(who.epoch) {
            return Err(Stale::OldIncarnation);
        }
        follower.came_to(bounded(at, leader_end), leader_end, write_caching, now);
        Ok(())
    }

    /// Whether this incarnation follows here: it has said where it is since it became a replica.
    pub fn hears(&self, who: BrokerRef) -> bool {
        self.followers.iter().any(|follower| follower.id == who.id && follower.epoch == Some(who.epoch))
    }

    fn follower(&mut self, who: BrokerRef) -> Result<&mut Follower, Stale> {
        let follower =
            self.followers.iter_mut().find(|follower| follower.id == who.id).ok_or(Stale::NoReplica)?;
        if follower.epoch.is_some_and(|known| known > who.epoch) {
            return Err(Stale::OldIncarnation);
        }
        Ok(follower)
    }

    /// Where the high watermark may be, given what the leader itself has; never below `current`. It stands still while fewer
    /// replicas are in sync than `min.insync.replicas` asks for (KIP-966).
    pub fn high_watermark(&self, current: Offset, own: ReplicaProgress) -> Offset {
        if !may_commit(self.isr.len(), self.min_isr) {
            return current;
        }
        let members = || self.followers.iter().filter(|follower| self.holds_back(follower));
        if members().any(|follower| follower.progress.is_none()) {
            return current;
        }
        let positions = members().filter_map(|follower| follower.progress);
        if planted(Bug::HighWatermarkAhead) {
            return high_watermark(current, [own], self.write_caching);
        }
        high_watermark(current, std::iter::once(own).chain(positions), self.write_caching)
    }

    /// Everything below is on stable storage on every replica in sync, as far as they have told.
    pub fn stable(&self, own: ReplicaProgress) -> Offset {
        let members = self.followers.iter().filter(|follower| self.isr.contains(&follower.id));
        let flushed = members.map(|follower| follower.progress.map_or(Offset::ZERO, |at| at.safe(false)));
        flushed.fold(own.safe(false), Offset::min)
    }

    /// Whether a follower counts as a member of the maximal ISR.
    fn holds_back(&self, follower: &Follower) -> bool {
        self.isr.contains(&follower.id)
            || follower.held_since.is_some()
            || self.proposal.as_ref().is_some_and(|p| p.isr.iter().any(|member| member.id == follower.id))
    }

    /// Whether a follower outside of the ISR has come far enough that [`propose`](LeaderState::propose) should be asked.
    pub fn may_join(&self, id: BrokerId, high_watermark: Offset, now: Instant) -> bool {
        let asked = self.proposal.as_ref().is_some_and(|p| p.isr.iter().any(|member| member.id == id));
        let outside = !asked && !self.isr.contains(&id);
        let close = |follower: &Follower| {
            follower.holds(self.write_caching, high_watermark, self.epoch_start)
                || (follower.held_since.is_none() && self.is_close(follower, now))
                || (planted(Bug::IsrWithoutEpochs) && follower.caught_up_at.is_some())
        };
        outside && self.followers.iter().any(|follower| follower.id == id && close(follower))
    }

    fn is_close(&self, follower: &Follower, now: Instant) -> bool {
        follower.progress.is_some_and(|at| at.safe(self.write_caching) >= self.epoch_start)
            && follower.no_hold_until.is_none_or(|until| now >= until)
            && follower.caught_up_at.is_some_and(|at| now.saturating_duration_since(at) < JOIN_HOLD)
    }

    /// The ISR to ask the controllers for, if it differs from the one in force and nothing is on its way; the proposal counts as
    /// sent then. `epoch_of` gives the epoch of a broker that is active, by the metadata.
    ///
    /// A follower that keeps up but never quite reaches a high watermark in motion is waited for: the high watermark stands
    /// still for it, for [`JOIN_HOLD`] at most. The caller looks again with its next position.
    pub fn propose(
        &mut self,
        own_epoch: BrokerEpoch,
        high_watermark: Offset,
        leader_end: Offset,
        max_lag: Duration,
        now: Instant,
        epoch_of: impl Fn(BrokerId) -> Option<BrokerEpoch>,
    ) -> Option<Vec<BrokerRef>> {
        if let Some(proposal) = &mut self.proposal {
            // The same again: what may be in force already must not be forgotten.
            let again = !proposal.sending && proposal.unsure_since.is_some();
            proposal.sending |= again;
            return again.then(|| proposal.isr.clone());
        }
        let mut wanted = vec![BrokerRef { id: self.me, epoch: own_epoch }];
        for at in 0..self.followers.len() {
            let follower = self.followers[at];
            let Some(epoch) = epoch_of(follower.id) else {
                self.followers[at].held_since = None;
                continue;
            };
            let member = if self.isr.contains(&follower.id) {
                !follower.lags(self.write_caching, leader_end, max_lag, now)
            } else if follower.epoch != Some(epoch) {
                false
            } else {
                let holds = follower.holds(self.write_caching, high_watermark, self.epoch_start)
                    || (planted(Bug::IsrWithoutEpochs) && follower.caught_up_at.is_some());
                if !holds {
                    let close = self.is_close(&follower, now);
                    self.followers[at].hold(close, now);
                }
                holds
            };
            if member {
                wanted.push(BrokerRef { id: follower.id, epoch });
            }
        }
        let same =
            wanted.len() == self.isr.len() && wanted.iter().all(|member| self.isr.contains(&member.id));
        if same {
            return None;
        }
        self.proposal = Some(Proposal { isr: wanted.clone(), sending: true, unsure_since: None });
        Some(wanted)
    }

    /// What came of the proposal at that partition epoch. Returns whether to [`propose`](LeaderState::propose) again later.
    pub fn answered(&mut self, partition_epoch: PartitionEpoch, outcome: Outcome, now: Instant) -> bool {
        if partition_epoch != self.partition_epoch {
            return false;
        }
        let Some(proposal) = &mut self.proposal else { return false };
        proposal.sending = false;
        match outcome {
            Outcome::Wait => false,
            Outcome::Unknown => {
                proposal.unsure_since = Some(now);
                true
            }
            // An earlier attempt may still be on its way, and find the cluster in another mood.
            Outcome::Refused
                if proposal
                    .unsure_since
                    .is_some_and(|since| now.saturating_duration_since(since) < UNSURE_FOR) =>
            {
                true
            }
            Outcome::Refused => {
                self.proposal = None;
                true
            }
        }
    }

    /// Ends holds that led to nothing. Returns whether one did: the high watermark may move then.
    pub fn release_holds(&mut self, now: Instant) -> bool {
        let mut released = false;
        for follower in &mut self.followers {
            if let Some(since) = follower.held_since
                && now.saturating_duration_since(since) >= JOIN_HOLD
            {
                follower.held_since = None;
                follower.no_hold_until = Some(now + HOLD_AGAIN);
                released = true;
            }
        }
        released
    }

    /// Whether the high watermark is held back for a follower that may join.
    pub fn is_holding(&self) -> bool {
        self.followers.iter().any(|follower| follower.held_since.is_some())
    }
}

/// A follower cannot hold what the leader does not have.
fn bounded(at: ReplicaProgress, leader_end: Offset) -> ReplicaProgress {
    let log_end = at.log_end.min(leader_end);
    ReplicaProgress { log_end, flushed: at.flushed.min(log_end) }
}

#[cfg(test)]
mod tests;
