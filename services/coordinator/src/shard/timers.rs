//! What is due when. Looking for the next costs nothing however many wait.

use std::collections::BTreeSet;
use std::time::Duration;
use thalweg_core::group::{GroupId, MemberId};

/// What comes due.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Topics may have changed while nobody served the shard.
    Topics,
    /// Offsets are looked at.
    Offsets,
    /// A group's assignment is computed.
    Assign(GroupId),
    /// A member's session or time to give back ends, or its heartbeat has been held long enough.
    Member(GroupId, MemberId),
}

/// Timers in the order in which they come due. Whoever sets one remembers when, to be able to move it.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Duration, Timer)>);

impl Timers {
    /// Moves a timer from where it was to where it shall be.
    pub(super) fn set(&mut self, timer: Timer, from: Option<Duration>, to: Option<Duration>) {
        if from == to {
            return;
        }
        let mut entry = (Duration::ZERO, timer);
        if let Some(from) = from {
            entry.0 = from;
            self.0.remove(&entry);
        }
        if let Some(to) = to {
            entry.0 = to;
            self.0.insert(entry);
        }
    }

    /// When the next comes due.
    pub(super) fn next(&self) -> Option<Duration> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes what is due, in order.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Timer> {
        let mut due = Vec::new();
        while self.0.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.0.pop_first().map(|(_, timer)| timer));
        }
        due
    }
}
