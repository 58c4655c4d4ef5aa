//! The calls of one shard that are not answered yet.

use crate::exchange::Answer;
use crate::shard::CallId;
use std::collections::{BTreeMap, BTreeSet};
use thalweg_proto::ApiError;
use tokio::time::Instant;

/// Calls and when they must be answered.
#[derive(Debug, Default)]
pub struct Waiting {
    calls: BTreeMap<CallId, (Answer, Option<Instant>)>,
    deadlines: BTreeSet<(Instant, CallId)>,
}

impl Waiting {
    /// Adds a call.
    pub fn add(&mut self, id: CallId, answer: Answer, until: Option<Instant>) {
        self.deadlines.extend(until.map(|until| (until, id)));
        self.calls.insert(id, (answer, until));
    }

    /// Takes a call out; `None` if it was answered before.
    pub fn take(&mut self, id: CallId) -> Option<Answer> {
        let (answer, until) = self.calls.remove(&id)?;
        if let Some(until) = until {
            self.deadlines.remove(&(until, id));
        }
        Some(answer)
    }

    /// When the next call must be answered.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// What a call asked is done or held in another form: it takes little of the budget from now on.
    pub fn shrink(&mut self, id: CallId) {
        if let Some((answer, _)) = self.calls.get_mut(&id) {
            answer.shrink();
        }
    }

    /// Refuses the calls whose time is over: which.
    pub fn expire(&mut self, now: Instant, error: &ApiError) -> Vec<CallId> {
        let mut expired = Vec::new();
        while let Some((until, id)) = self.deadlines.first().copied().filter(|(until, _)| *until <= now) {
            self.deadlines.remove(&(until, id));
            if let Some((answer, _)) = self.calls.remove(&id) {
                answer.give(Err(error.clone()));
                expired.push(id);
            }
        }
        expired
    }

    /// Refuses all.
    pub fn refuse(&mut self, error: &ApiError) {
        self.deadlines.clear();
        while let Some((_, (answer, _))) = self.calls.pop_first() {
            answer.give(Err(error.clone()));
        }
    }
}
