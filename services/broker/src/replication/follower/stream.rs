//! One stream to one leader, as a value: which partitions are followed on it and how far each is in doing so. It decides what is
//! said; whoever holds it sends, appends and truncates, and tells it what came of that.
//!
//! ```text
//!            follow()                next_request()               ended(diverging), ended(out of range)
//!   (nothing) ──────► Due ──────────────────────────► Following ──────────────────────────► Repairing ─┐
//!                      ▲ ▲                               │  failed(), ended(refused)           repaired()│
//!                      │ └──── Waiting (until) ◄─────────┤                                              │
//!                      │                                 └──► Parked (until the metadata changes)        │
//!                      └─────────────────────────────────────────────────────────────────────────────────┘
//! ```

use super::backoff;
use super::config::FollowerConfig;
use super::pace::{PIECE_BYTES, Pace};
use super::request::{self, Followed};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;
use thalweg_core::{LeaderEpoch, Offset};
use thalweg_proto::internal::v1::ReplicateRequest;
use tokio::time::Instant;

/// Partitions, positions or slots in one request at most, so that none is large.
const MAX_ITEMS: usize = 1_000;
/// The first wait before a partition that the leader refused is followed again.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// The longest wait where the log or what was sent is at fault: that mends itself rarely.
const FAULT_RETRY_MAX: Duration = Duration::from_secs(30);
/// Credit is given back by itself when this part of the window is owed; with anything else that is said, all of it is.
const CREDIT_PARTS: u64 = 4;
/// How often a catch-up stream looks whether it comes nearer.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The most that a catch-up stream's rate is raised by, because it does not come nearer.
const MAX_BOOST: u64 = 64;

/// Which of a leader's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// For partitions that keep up.
    Main,
    /// For those that are being added, or are far behind: its pace is bounded.
    CatchUp,
}

/// Why a leader sends no more for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The log leaves the leader's: the largest epoch that the leader knows, not above the log's last, and where it ends there.
    Diverging(LeaderEpoch, Offset),
    /// The leader's log starts behind the end of this one.
    OutOfRange(Offset),
    /// It does not lead, or not in that epoch, or cannot read.
    Refused,
}

/// How a log is to be mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Cut by epoch.
    Cut(LeaderEpoch, Offset),
    /// Emptied, to start at that offset.
    StartOver(Offset),
}

/// Why a log did not take what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The metadata will say what comes next, or the log is out of use until a restart.
    Final,
    /// It may work later.
    Later,
}

/// What an append did.
#[derive(Debug, Clone, Copy)]
pub struct Took {
    /// Bytes of batches.
    pub bytes: u64,
    /// The log's end before.
    pub from: Offset,
    /// The log's end after.
    pub to: Offset,
    /// The leader's high watermark, as sent with it.
    pub high_watermark: Offset,
}

/// The stream. Partitions go by a key that its holder gives.
#[derive(Debug)]
pub struct Stream {
    class: Class,
    config: FollowerConfig,
    pace: Pace,
    open: bool,
    entries: BTreeMap<u32, Entry>,
    // Slots of this connection; what comes for any other is late.
    slots: HashMap<u32, u32>,
    next_slot: u32,
    due: BTreeSet<u32>,
    positions: BTreeSet<u32>,
    unfollow: Vec<u32>,
    waiting: BTreeSet<(Instant, u32)>,
    // Credit that was used up and is not given back yet.
    owed: u64,
    boost: u64,
    // When the distances were summed up last, and what they were.
    looked: Option<(Instant, u64)>,
}

#[derive(Debug)]
struct Entry {
    epoch: LeaderEpoch,
    state: State,
    // Attempts that failed in a row.
    failures: u32,
    // The log's end and its flushed end, as told last.
    told: (Offset, Offset),
    // About how many bytes the leader has more.
    behind: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Due,
    Following { slot: u32 },
    Repairing,
    Waiting { until: Instant },
    Parked,
}

impl Stream {
    /// A stream without partitions. `pace` bounds the credit of a catch-up stream.
    pub fn new(class: Class, config: FollowerConfig, pace: Pace) -> Stream {
        let pace = if class == Class::CatchUp { pace } else { Pace::new(None) };
        Stream {
            class,
            config,
            pace,
            open: false,
            entries: BTreeMap::new(),
            slots: HashMap::new(),
            next_slot: 0,
            due: BTreeSet::new(),
            positions: BTreeSet::new(),
            unfollow: Vec::new(),
            waiting: BTreeSet::new(),
            owed: 0,
            boost: 1,
            looked: None,
        }
    }

    /// Whether nothing is followed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Follows a partition in this epoch, from wherever its log ends. Again in the same epoch changes nothing.
    pub fn follow(&mut self, key: u32, epoch: LeaderEpoch) {
        if self.entries.get(&key).is_some_and(|entry| entry.epoch == epoch && entry.state != State::Parked) {
            return;
        }
        self.forget(key);
        let told = (Offset::NONE, Offset::NONE);
        self.entries.insert(key, Entry { epoch, state: State::Due, failures: 0, told, behind: 0 });
        self.due.insert(key);
        self.looked = None;
    }

    /// Ceases to follow a partition.
    pub fn forget(&mut self, key: u32) {
        if self.entries.contains_key(&key) {
            self.leave(key, State::Due);
            self.due.remove(&key);
            self.entries.remove(&key);
            self.looked = None;
        }
        if self.entries.is_empty() {
            self.boost = 1;
        }
    }

    /// A connection stands.
    pub fn opened(&mut self) {
        self.open = true;
        self.owed = match self.class {
            Class::Main => self.config.window_bytes,
            Class::CatchUp => self.config.catch_up_window_bytes,
        };
    }

    /// The connection is gone: all slots are over.
    pub fn closed(&mut self) {
        self.open = false;
        self.slots.clear();
        self.unfollow.clear();
        self.positions.clear();
        (self.next_slot, self.owed) = (0, 0);
        for (key, entry) in &mut self.entries {
            if let State::Following { .. } = entry.state {
                entry.state = State::Due;
                self.due.insert(*key);
            }
        }
    }

    /// Whether so many slots were used that the connection must be opened anew: they are never used twice.
    pub fn is_worn_out(&self) -> bool {
        self.next_slot > u32::MAX / 2
    }

    /// Whether [`next_request`](Stream::next_request) has something to say.
    pub fn wants_to_send(&self, now: Instant) -> bool {
        let words = !self.due.is_empty() || !self.positions.is_empty() || !self.unfollow.is_empty();
        self.open && (words || (self.owes_much() && self.credit_at(now) <= now))
    }

    /// When to call [`tick`](Stream::tick), if nothing happens before.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let retry = self.waiting.first().map(|(at, _)| *at);
        let credit = (self.open && self.owes_much()).then(|| self.credit_at(now)).filter(|at| *at > now);
        retry.into_iter().chain(credit).min()
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) {
        while let Some((_, key)) = self.waiting.first().copied().filter(|(at, _)| *at <= now) {
            self.leave(key, State::Due);
        }
    }

    /// What is to be said now; empty if nothing is. `read` looks at a partition's log.
    pub fn next_request(&mut self, now: Instant, mut read: impl FnMut(u32) -> Followed) -> ReplicateRequest {
        let some = self.unfollow.len().min(MAX_ITEMS);
        let mut request = ReplicateRequest {
            unfollow: self.unfollow.drain(..some).collect(),
            ..ReplicateRequest::default()
        };
        while request.follow.len() < MAX_ITEMS
            && let Some(key) = self.due.pop_first()
        {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let (slot, followed) = (self.next_slot, read(key));
            self.next_slot += 1;
            entry.state = State::Following { slot };
            entry.told = (followed.at.log_end, followed.at.flushed);
            self.slots.insert(slot, key);
            self.positions.remove(&key);
            request.follow.push(request::follow(slot, entry.epoch.get(), &followed));
        }
        while request.positions.len() < MAX_ITEMS
            && let Some(key) = self.positions.pop_first()
        {
            let Some(entry) = self.entries.get_mut(&key) else { continue };
            let State::Following { slot } = entry.state else { continue };
            let at = read(key).at;
            let told = (at.log_end, at.flushed);
            if told != entry.told {
                entry.told = told;
                request.positions.push(request::position(slot, told.0, told.1));
            }
        }
        if self.owed > 0 && (self.owes_much() || !request::is_empty(&request)) {
            request.credit_bytes = self.pace.take(self.owed, self.boost, now);
            self.owed -= request.credit_bytes;
        }
        request
    }

    /// Bytes of batches came, for whatever slot: they are given back as credit.
    pub fn received(&mut self, bytes: u64) {
        self.owed = self.owed.saturating_add(bytes);
    }

    /// The partition that goes by a slot, and the epoch in which it is followed; `None` if it was left meanwhile.
    pub fn partition_of(&self, slot: u32) -> Option<(u32, LeaderEpoch)> {
        let key = *self.slots.get(&slot)?;
        Some((key, self.entries.get(&key)?.epoch))
    }

    /// A log took what was sent. Returns the stream on which the partition should go on, if it is the other one.
    pub fn appended(&mut self, key: u32, took: Took, now: Instant) -> Option<Class> {
        let entry = self.entries.get_mut(&key)?;
        entry.failures = 0;
        self.positions.insert(key);
        let records = took.to.get().saturating_sub(took.from.get()).max(1).unsigned_abs();
        let lacking = took.high_watermark.get().saturating_sub(took.to.get()).max(0).unsigned_abs();
        entry.behind = (u128::from(took.bytes) * u128::from(lacking) / u128::from(records))
            .min(u128::from(u64::MAX)) as u64;
        let behind = entry.behind;
        match self.class {
            Class::Main => (behind > self.config.far_behind_bytes).then_some(Class::CatchUp),
            Class::CatchUp => {
                self.look(now);
                (behind <= self.config.near_bytes).then_some(Class::Main)
            }
        }
    }

    /// A partition's log came further by itself: an fsync is through.
    pub fn flushed(&mut self, key: u32) {
        if self.entries.get(&key).is_some_and(|entry| matches!(entry.state, State::Following { .. })) {
            self.positions.insert(key);
        }
    }

    /// A slot is over. Returns how the log is to be mended, if it is; the answer goes to [`repaired`](Stream::repaired).
    pub fn ended(&mut self, slot: u32, end: End, now: Instant) -> Option<Repair> {
        let key = self.slots.remove(&slot)?;
        // So that the leader lets go of what it still holds of the slot.
        self.unfollow.push(slot);
        let repair = match end {
            End::Diverging(epoch, end) => Repair::Cut(epoch, end),
            End::OutOfRange(log_start) => Repair::StartOver(log_start),
            End::Refused => {
                self.retry(key, RETRY_MAX, now);
                return None;
            }
        };
        self.leave(key, State::Repairing);
        Some(repair)
    }

    /// A log was mended; `changed` says whether that moved its end.
    pub fn repaired(&mut self, key: u32, epoch: LeaderEpoch, result: Result<bool, Failure>, now: Instant) {
        let is_it = |entry: &Entry| entry.epoch == epoch && entry.state == State::Repairing;
        if !self.entries.get(&key).is_some_and(is_it) {
            return;
        }
        match result {
            Ok(true) => self.leave(key, State::Due),
            // It would be answered the same: not at once, at least.
            Ok(false) => self.retry(key, FAULT_RETRY_MAX, now),
            Err(failure) => self.failed(key, failure, now),
        }
    }

    /// A log did not take what was sent, or could not be mended.
    pub fn failed(&mut self, key: u32, failure: Failure, now: Instant) {
        match failure {
            Failure::Final => self.leave(key, State::Parked),
            Failure::Later => self.retry(key, FAULT_RETRY_MAX, now),
        }
    }

    fn retry(&mut self, key: u32, longest: Duration, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        let until = now + backoff::after(entry.failures, RETRY_MIN, longest);
        entry.failures = entry.failures.saturating_add(1);
        self.leave(key, State::Waiting { until });
    }

    /// Takes a partition out of the state that it is in, and into another.
    fn leave(&mut self, key: u32, next: State) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        match entry.state {
            State::Following { slot } => {
                // Unless the leader ended it: then that was said.
                if self.slots.remove(&slot).is_some() {
                    self.unfollow.push(slot);
                }
                self.positions.remove(&key);
            }
            State::Waiting { until } => drop(self.waiting.remove(&(until, key))),
            State::Due => drop(self.due.remove(&key)),
            State::Repairing | State::Parked => {}
        }
        entry.state = next;
        match next {
            State::Due => drop(self.due.insert(key)),
            State::Waiting { until } => drop(self.waiting.insert((until, key))),
            State::Following { .. } | State::Repairing | State::Parked => {}
        }
    }

    fn owes_much(&self) -> bool {
        let enough = match self.class {
            Class::Main => self.config.window_bytes / CREDIT_PARTS,
            // As smoothly as the pace allows.
            Class::CatchUp => PIECE_BYTES.min(self.config.catch_up_window_bytes / CREDIT_PARTS),
        };
        self.owed > 0 && self.owed >= enough
    }

    fn credit_at(&self, now: Instant) -> Instant {
        self.pace.ready_at(self.owed, self.boost, now)
    }

    /// A rate at which the distance does not shrink is of no use: producers write faster. It is raised then.
    fn look(&mut self, now: Instant) {
        let sum = |entries: &BTreeMap<u32, Entry>| {
            entries.values().fold(0u64, |sum, entry| sum.saturating_add(entry.behind))
        };
        match self.looked {
            None => self.looked = Some((now, sum(&self.entries))),
            Some((at, before)) if now.saturating_duration_since(at) >= LOOK_EVERY => {
                let behind = sum(&self.entries);
                if behind > 0 && behind >= before && self.boost < MAX_BOOST {
                    self.boost *= 2;
                    tracing::info!(
                        bytes = behind,
                        times = self.boost,
                        "catching up does not come nearer at replication.throttled.rate; it goes faster"
                    );
                }
                self.looked = Some((now, behind));
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
