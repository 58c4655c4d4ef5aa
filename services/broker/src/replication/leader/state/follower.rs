//! What a leader knows of one follower.

use std::time::Duration;
use thalweg_core::replication::{ReplicaProgress, may_join_isr};
use thalweg_core::{BrokerEpoch, BrokerId, Offset};
use tokio::time::Instant;

/// One follower, as its leader knows it.
#[derive(Debug, Clone, Copy)]
pub struct Follower {
    /// Its id.
    pub id: BrokerId,
    /// The incarnation that last spoke; `None` before it did.
    pub epoch: Option<BrokerEpoch>,
    pub progress: Option<ReplicaProgress>,
    /// When it last held all that the leader had then; `None` before it did.
    pub caught_up_at: Option<Instant>,
    /// The leader's end at some time; once the follower comes there, it was caught up at that time.
    pub mark: Option<(Offset, Instant)>,
    /// Since when the high watermark is held back for it.
    pub held_since: Option<Instant>,
    /// Before then it is not held back again.
    pub no_hold_until: Option<Instant>,
}

// === impl Follower ===

impl Follower {
    /// One that has not spoken.
    pub fn new(id: BrokerId) -> Follower {
        Follower {
            id,
            epoch: None,
            progress: None,
            caught_up_at: None,
            mark: None,
            held_since: None,
            no_hold_until: None,
        }
    }

    /// It has come so far; never backwards.
    pub fn came_to(&mut self, at: ReplicaProgress, leader_end: Offset, write_caching: bool, now: Instant) {
        let at = match self.progress {
            Some(before) => ReplicaProgress {
                log_end: at.log_end.max(before.log_end),
                flushed: at.flushed.max(before.flushed),
            },
            None => at,
        };
        self.progress = Some(at);
        let safe = at.safe(write_caching);
        if safe >= leader_end {
            self.caught_up_at = Some(now);
            self.mark = Some((leader_end, now));
            return;
        }
        match self.mark {
            Some((end, seen)) if safe >= end => {
                self.caught_up_at = self.caught_up_at.max(Some(seen));
                self.mark = Some((leader_end, now));
            }
            Some(_) => {}
            None => self.mark = Some((leader_end, now)),
        }
    }

    /// Whether it holds all that is committed.
    pub fn holds(&self, write_caching: bool, high_watermark: Offset, epoch_start: Offset) -> bool {
        self.progress.is_some_and(|at| may_join_isr(at, high_watermark, epoch_start, write_caching))
    }

    /// Whether it was behind for too long.
    pub fn lags(&self, write_caching: bool, leader_end: Offset, max_lag: Duration, now: Instant) -> bool {
        let level = self.progress.is_some_and(|at| at.safe(write_caching) >= leader_end);
        !level && self.caught_up_at.is_none_or(|at| now.saturating_duration_since(at) > max_lag)
    }

    /// Holds the high watermark back for it from now on, if it is close.
    pub fn hold(&mut self, close: bool, now: Instant) {
        if close && self.held_since.is_none() {
            self.held_since = Some(now);
        }
    }
}
