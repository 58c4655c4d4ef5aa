//! What a member's machine is told and what it wants done.

use crate::ErrorCode;
use crate::group::ids::MemberEpoch;
use crate::group::state::{Partitions, Subscription};
use crate::metadata::command::Refusal;
use std::time::Duration;

/// The times that a member lives by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// Without an answer for so long it has lost its partitions (`session.timeout.ms`). Default 45 s.
    pub session: Duration,
    /// It gives back what was revoked, and comes back for records, within this (`max.poll.interval.ms`). Default 300 s.
    pub rebalance: Duration,
    /// The answer to a heartbeat may wait so long for something to tell; a third of the session and a quarter of the rebalance
    /// timeout at most. Default 3 s; zero asks for answers at once.
    pub hold: Duration,
    /// The answer is given up so long after that. Default 5 s; a third of the session at most.
    pub answer: Duration,
    /// The first pause after a failure; it doubles with each. Default 100 ms.
    pub retry: Duration,
    /// The longest pause after a failure. Default 1 s.
    pub retry_max: Duration,
    /// Leaving is tried for so long. Default 5 s.
    pub leave: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            session: Duration::from_secs(45),
            rebalance: Duration::from_secs(300),
            hold: Duration::from_secs(3),
            answer: Duration::from_secs(5),
            retry: Duration::from_millis(100),
            retry_max: Duration::from_secs(1),
            leave: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    /// How long the coordinator may hold an answer: short enough for two to be lost within a session, and for a revocation that
    /// comes at the end of it to leave time.
    pub fn held(&self) -> Duration {
        self.hold.min(self.session / 3).min(self.rebalance / 4)
    }

    pub(super) fn answered_within(&self) -> Duration {
        self.held() + self.answer.min(self.session / 3)
    }

    /// When a revocation is taken as done, before the coordinator's own patience ends.
    pub(super) fn give_back_within(&self) -> Duration {
        self.rebalance.saturating_sub((self.rebalance / 4).min(GIVE_BACK_EARLIER))
    }
}

/// What is left of a rebalance timeout for the acknowledgement to arrive, unless the timeout is short.
const GIVE_BACK_EARLIER: Duration = Duration::from_secs(1);

/// A heartbeat to send. A new one replaces the former, whose answer is no longer wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// To be said with its answer. Goes up with each, so a join's or a goodbye's is what tells it from earlier attempts.
    pub number: u64,
    /// The epoch to send.
    pub epoch: MemberEpoch,
    /// What the member asks for, when the coordinator does not know yet.
    pub subscription: Option<Subscription>,
    /// What the member has, when the coordinator may not know.
    pub has: Option<Partitions>,
    /// The [`step`](Answer::step) of the last assignment that it followed, with what it has.
    pub heard: Option<u64>,
    /// How long the answer may wait.
    pub max_wait: Duration,
    /// The epoch that it had, if it leaves: a goodbye that comes late must not put out the member that joined anew.
    pub leaving: Option<MemberEpoch>,
}

/// What the coordinator answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The epoch to send from now on.
    pub epoch: MemberEpoch,
    /// What the member may have now; `None`: no change.
    pub assignment: Option<Partitions>,
    /// The number of that, to be said with what the member has; `None` from a coordinator that has none.
    pub step: Option<u64>,
    /// How soon the next heartbeat is due.
    pub interval: Duration,
}

/// What the shell has to do, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Send this.
    Send(Outgoing),
    /// Read these too.
    Assigned(Partitions),
    /// Stop reading these, finish with them, and say so with [`gave_back`](super::Membership::gave_back); at `until` they are
    /// taken.
    Revoke {
        /// Which.
        partitions: Partitions,
        /// When the patience ends.
        until: Duration,
    },
    /// These are gone already; others may read them.
    Lost {
        /// Which; can be none.
        partitions: Partitions,
        /// Why.
        why: Loss,
    },
    /// The member has left. Nothing follows.
    Left,
    /// The member cannot be in the group. Nothing follows.
    Failed(Refusal),
}

/// Why partitions are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The coordinator has put the member out, or never knew it; it joins anew.
    Fenced(Refusal),
    /// No coordinator answered for a whole session; it joins anew.
    Silence,
    /// The application did not come back within the rebalance timeout; the member leaves, and joins anew when it does.
    NotPolled,
    /// The application did not give these back in time; the member stays.
    NotGivenBack,
}

impl Loss {
    /// The loss as a refusal, for whoever has to be told.
    pub fn refusal(&self) -> Refusal {
        match self {
            Loss::Fenced(refusal) => refusal.clone(),
            Loss::Silence => Refusal::new(
                ErrorCode::UnknownMember,
                "no coordinator answered for a whole session; the member joins anew",
            ),
            Loss::NotPolled => Refusal::new(
                ErrorCode::UnknownMember,
                "the application took longer than max.poll.interval.ms to come back for records, and the member left the group; \
                 do less with each batch, ask for fewer records, or raise it",
            ),
            Loss::NotGivenBack => Refusal::new(
                ErrorCode::StaleMemberEpoch,
                "what was revoked was not given back in time, and was taken",
            ),
        }
    }
}
