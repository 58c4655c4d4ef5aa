//! A group's member as it sees itself (KIP-848): joins, keeps its session, takes and gives back partitions, leaves. Pure: the
//! shell sends what it is told to, and brings the answers, the application's doings and the time.
//!
//! ```text
//!              answer                     gave_back                  leave
//!   Joining ─────────► Joined ── Revoke ───────────► Joined ───────────────► Leaving ─► Left
//!      ▲                 │ fenced, or silent for a session: Lost                │ not polled for too long: Lost
//!      └─────────────────┘◄──────────── the application is back ────────────── Out
//! ```
//! Two members must not have a partition at the same time. So a revocation is acknowledged only when the shell is done with it, or
//! its time is over; and whatever the coordinator may do after a silence, the member has done to itself before. The times count
//! from when a heartbeat was sent, never from when its answer came: the coordinator's clock for the same thing started later.

mod answers;
mod event;
#[cfg(test)]
mod protocol_tests;
mod sending;
#[cfg(test)]
mod tests;

pub use event::{Answer, Event, Loss, Outgoing, Timeouts};

use super::ids::{InstanceId, MemberEpoch, MemberId};
use super::state::{Partitions, Subscription};
use crate::metadata::command::Refusal;
use std::collections::VecDeque;
use std::time::Duration;

/// The shortest time between two heartbeats that told nothing new, whatever the coordinator asks for.
const MIN_INTERVAL: Duration = Duration::from_millis(20);

/// One member. See the module's picture.
#[derive(Debug, Clone)]
pub struct Membership {
    id: MemberId,
    instance: Option<InstanceId>,
    timeouts: Timeouts,
    stage: Stage,
    epoch: MemberEpoch,
    subscription: Versioned<Subscription>,
    /// What it has, with what it has not given back yet.
    has: Versioned<Partitions>,
    /// The number that came with the last assignment that it followed.
    heard: Option<u64>,
    revoking: Option<Revoking>,
    /// A revocation was given back, and must be heard by then: the coordinator puts out who does not.
    heard_by: Option<Duration>,
    in_flight: Option<InFlight>,
    last_number: u64,
    /// When the next heartbeat is due.
    due: Duration,
    /// It cannot wait for the answer that is awaited.
    urgent: bool,
    /// When the last heartbeat that was answered had been sent.
    alive: Duration,
    /// When the first one since was sent. What the coordinator did and has not told is younger.
    unanswered: Option<Duration>,
    /// Since when the application works on records and did not come back; `None` while it waits for some.
    works_since: Option<Duration>,
    failures: u32,
    interval: Duration,
    events: VecDeque<Event>,
}

/// A member's memory between two calls of a shell that keeps none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Parts {
    /// Its epoch; [`MemberEpoch::JOIN`] for one that has yet to join.
    pub epoch: MemberEpoch,
    /// What it has, with what it has not given back yet.
    pub has: Partitions,
    /// What of it must be given back.
    pub revoking: Partitions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has no epoch.
    Joining,
    /// It has one, and heartbeats.
    Joined,
    /// It says goodbye, until then; then it is out or at its end.
    /// `was` is the epoch that it had.
    Leaving { until: Duration, epoch: MemberEpoch, was: MemberEpoch, back: Back },
    /// It is not in the group, until the application is back.
    Out,
    /// Nothing follows.
    Ended,
}

/// Whether somebody who leaves comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    Never,
    /// When the application does.
    Later,
    /// The application is back already.
    Now,
}

/// A value, and whether the coordinator knows it.
#[derive(Debug, Clone)]
struct Versioned<T> {
    value: T,
    version: u64,
    told: Option<u64>,
}

#[derive(Debug, Clone)]
struct Revoking {
    partitions: Partitions,
    /// They are taken then.
    until: Duration,
    /// The coordinator must have heard by then.
    heard_by: Duration,
}

#[derive(Debug, Clone, Copy)]
struct InFlight {
    number: u64,
    epoch: MemberEpoch,
    sent: Duration,
    has: Option<u64>,
    subscription: Option<u64>,
}

impl<T: Clone> Versioned<T> {
    fn new(value: T) -> Versioned<T> {
        Versioned { value, version: 1, told: None }
    }

    fn change(&mut self) -> &mut T {
        self.version += 1;
        &mut self.value
    }

    fn untold(&self) -> Option<T> {
        (self.told != Some(self.version)).then(|| self.value.clone())
    }
}

impl Membership {
    /// A member that joins as soon as it is polled. `now` is any time; it only must not go back.
    pub fn new(
        id: MemberId,
        instance: Option<InstanceId>,
        subscription: Subscription,
        timeouts: Timeouts,
        now: Duration,
    ) -> Membership {
        Membership {
            id,
            instance,
            timeouts,
            stage: Stage::Joining,
            epoch: MemberEpoch::JOIN,
            subscription: Versioned::new(subscription),
            has: Versioned::new(Partitions::new()),
            heard: None,
            revoking: None,
            heard_by: None,
            in_flight: None,
            last_number: 0,
            due: now,
            urgent: false,
            alive: now,
            unanswered: None,
            works_since: None,
            failures: 0,
            interval: timeouts.hold,
            events: VecDeque::new(),
        }
    }

    /// A member as it was before. It takes for granted that its session was kept until `now`.
    pub fn from_parts(
        id: MemberId,
        instance: Option<InstanceId>,
        subscription: Subscription,
        timeouts: Timeouts,
        now: Duration,
        parts: Parts,
    ) -> Membership {
        let mut member = Membership::new(id, instance, subscription, timeouts, now);
        if parts.epoch > MemberEpoch::JOIN {
            member.stage = Stage::Joined;
            member.epoch = parts.epoch;
            member.subscription.told = Some(member.subscription.version);
            let revoking: Partitions = parts.revoking.intersection(&parts.has).copied().collect();
            member.has.value = parts.has;
            if !revoking.is_empty() {
                member.revoke(revoking, now);
            }
        }
        member
    }

    /// What to hand to [`from_parts`](Self::from_parts).
    pub fn parts(&self) -> Parts {
        let revoking = self.revoking.as_ref().map(|revoking| revoking.partitions.clone());
        Parts { epoch: self.epoch, has: self.has.value.clone(), revoking: revoking.unwrap_or_default() }
    }

    /// Its id.
    pub fn id(&self) -> &MemberId {
        &self.id
    }

    /// Its instance id, if it is a static member.
    pub fn instance(&self) -> Option<&InstanceId> {
        self.instance.as_ref()
    }

    /// What its commits are fenced by; [`MemberEpoch::JOIN`] while it is not in the group.
    pub fn epoch(&self) -> MemberEpoch {
        self.epoch
    }

    /// What it has, with what it has not given back yet.
    pub fn has(&self) -> &Partitions {
        &self.has.value
    }

    /// Whether it is in the group.
    pub fn is_joined(&self) -> bool {
        self.stage == Stage::Joined
    }

    /// Whether nothing follows any more.
    pub fn is_ended(&self) -> bool {
        self.stage == Stage::Ended
    }

    /// Wants to read something else.
    pub fn subscribe(&mut self, subscription: Subscription, now: Duration) {
        if self.subscription.value != subscription {
            *self.subscription.change() = subscription;
            self.hurry(now);
        }
    }

    /// The shell is done with these, which were revoked.
    pub fn gave_back(&mut self, partitions: &Partitions, now: Duration) {
        let Some(revoking) = &mut self.revoking else { return };
        let given: Partitions = revoking.partitions.intersection(partitions).copied().collect();
        if given.is_empty() {
            return;
        }
        revoking.partitions.retain(|at| !given.contains(at));
        let heard_by = revoking.heard_by;
        if revoking.partitions.is_empty() {
            self.revoking = None;
        }
        self.has.change().retain(|at| !given.contains(at));
        self.heard_by = Some(self.heard_by.map_or(heard_by, |before| before.min(heard_by)));
        self.hurry(now);
    }

    /// The application has got records: from now on it must come back within the rebalance timeout.
    pub fn works(&mut self, now: Duration) {
        self.works_since = Some(now);
    }

    /// The application is back, and waits for records. One that was out for staying away joins again.
    pub fn waits(&mut self, now: Duration) {
        self.works_since = None;
        match &mut self.stage {
            Stage::Out => self.join(now),
            Stage::Leaving { back, .. } if *back == Back::Later => *back = Back::Now,
            _ => {}
        }
    }

    /// Leaves; `for_now` as a static member that comes back within its session. The shell has finished with all partitions.
    pub fn leave(&mut self, for_now: bool, now: Duration) {
        let for_now = for_now && self.instance.is_some();
        let epoch = if for_now { MemberEpoch::LEAVE_FOR_NOW } else { MemberEpoch::LEAVE };
        match &mut self.stage {
            Stage::Ended => {}
            Stage::Leaving { back, .. } => *back = Back::Never,
            Stage::Out => self.end(Event::Left),
            Stage::Joining if self.last_number == 0 => self.end(Event::Left),
            Stage::Joining | Stage::Joined => {
                self.drop_all();
                self.say_goodbye(epoch, self.epoch, Back::Never, now);
            }
        }
    }

    /// The answer to a heartbeat, or its refusal. One whose number is not the last is too late to count.
    pub fn answered(&mut self, number: u64, outcome: Result<Answer, Refusal>, now: Duration) {
        let Some(beat) = self.in_flight.filter(|beat| beat.number == number) else { return };
        self.in_flight = None;
        match outcome {
            Ok(answer) => {
                self.failures = 0;
                self.accept(beat, answer, now);
            }
            Err(refusal) => {
                self.has.told = None;
                self.refused(beat, refusal, now);
            }
        }
    }

    /// The next thing to do; `None` when there is nothing until [`next_wake`](Self::next_wake) or another call.
    pub fn poll(&mut self, now: Duration) -> Option<Event> {
        self.look_at_the_time(now);
        self.events.pop_front().or_else(|| self.send(now))
    }

    /// When to poll again though nothing happened.
    pub fn next_wake(&self) -> Option<Duration> {
        if !self.events.is_empty() {
            return Some(Duration::ZERO);
        }
        let joined = self.stage == Stage::Joined;
        let in_group = joined || self.stage == Stage::Joining;
        let leaving = match self.stage {
            Stage::Leaving { until, .. } => Some(until),
            _ => None,
        };
        let talks = in_group || leaving.is_some();
        let times = [
            self.in_flight.map(|beat| beat.sent + self.timeouts.answered_within()),
            (talks && (self.in_flight.is_none() || self.urgent)).then_some(self.due),
            self.revoking.as_ref().map(|revoking| revoking.until),
            self.heard_by,
            joined.then(|| self.alive + self.timeouts.session),
            self.works_since.filter(|_| in_group).map(|since| since + self.timeouts.rebalance),
            leaving,
        ];
        times.into_iter().flatten().min()
    }

    fn left(&mut self, now: Duration) {
        self.in_flight = None;
        self.epoch = MemberEpoch::JOIN;
        match self.stage {
            Stage::Leaving { back: Back::Later, .. } => self.stage = Stage::Out,
            Stage::Leaving { back: Back::Now, .. } => self.join(now),
            _ => self.end(Event::Left),
        }
    }

    fn join(&mut self, now: Duration) {
        self.stage = Stage::Joining;
        self.epoch = MemberEpoch::JOIN;
        self.in_flight = None;
        self.urgent = false;
        self.unanswered = None;
        self.due = now;
    }

    fn end(&mut self, last: Event) {
        self.stage = Stage::Ended;
        self.in_flight = None;
        self.drop_all();
        self.events.push_back(last);
    }

    /// Nothing is its own any more, and it joins anew.
    fn lose_all(&mut self, why: Loss, now: Duration) {
        let partitions = std::mem::take(&mut self.has.value);
        self.drop_all();
        if !partitions.is_empty() || matches!(why, Loss::NotPolled) {
            self.events.push_back(Event::Lost { partitions, why });
        }
        self.join(now);
    }

    fn drop_all(&mut self) {
        self.has.change().clear();
        self.has.told = None;
        self.heard = None;
        self.revoking = None;
        self.heard_by = None;
    }
}
