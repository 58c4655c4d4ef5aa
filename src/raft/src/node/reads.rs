//! Linearizable reads: the leader's commit index is good for a read when a quorum has confirmed, after the read
//! was asked for, that it still leads, and when it has committed an entry of its own term.

use crate::error::RaftError;
use crate::handle::Reply;
use std::collections::VecDeque;
use thalweg_core::NodeId;

/// Rounds of confirmation on their way at once; more reads share the next one.
const MAX_ROUNDS: usize = 16;

struct Waiter {
    reply: Reply<u64>,
    deadline: u64,
}

struct Round {
    context: Vec<u8>,
    asked_at: u64,
    waiters: Vec<Waiter>,
}

pub(super) struct Reads {
    node_id: NodeId,
    incarnation: u64,
    rounds_begun: u64,
    /// In no round yet.
    waiting: Vec<Waiter>,
    /// In the order in which they were asked.
    rounds: VecDeque<Round>,
    /// Confirmed at an index that is not applied yet.
    confirmed: Vec<(u64, Waiter)>,
}

impl Reads {
    pub(super) fn new(node_id: NodeId, incarnation: u64) -> Reads {
        Reads {
            node_id,
            incarnation,
            rounds_begun: 0,
            waiting: Vec::new(),
            rounds: VecDeque::new(),
            confirmed: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, reply: Reply<u64>, deadline: u64) {
        self.waiting.push(Waiter { reply, deadline });
    }

    pub(super) fn wants_round(&self) -> bool {
        !self.waiting.is_empty() && self.rounds.len() < MAX_ROUNDS
    }

    /// Puts all waiting reads into a new round and answers its context. The context names this life of this node:
    /// an answer to an earlier life carries an older index.
    pub(super) fn begin_round(&mut self, now: u64) -> Vec<u8> {
        self.rounds_begun += 1;
        let context: Vec<u8> = [self.node_id.get(), self.incarnation, self.rounds_begun]
            .iter()
            .flat_map(|part| part.to_be_bytes())
            .collect();
        let waiters = std::mem::take(&mut self.waiting);
        self.rounds.push_back(Round { context: context.clone(), asked_at: now, waiters });
        context
    }

    /// A round was confirmed at `index`. Answers for contexts of other lives or given-up rounds are ignored.
    pub(super) fn confirmed(&mut self, context: &[u8], index: u64) {
        let Some(at) = self.rounds.iter().position(|round| round.context == context) else { return };
        if let Some(round) = self.rounds.remove(at) {
            self.confirmed.extend(round.waiters.into_iter().map(|waiter| (index, waiter)));
        }
    }

    /// Answers the reads whose index is applied.
    pub(super) fn applied(&mut self, applied: u64) {
        if self.confirmed.iter().all(|(index, _)| *index > applied) {
            return;
        }
        let (done, left) =
            std::mem::take(&mut self.confirmed).into_iter().partition(|(index, _)| *index <= applied);
        self.confirmed = left;
        let done: Vec<(u64, Waiter)> = done;
        for (index, waiter) in done {
            // A caller that has gone away needs no answer.
            let _ = waiter.reply.send(Ok(index));
        }
    }

    /// Asks again what was lost or what the leader was not yet able to confirm, and gives up what is too old.
    pub(super) fn tick(&mut self, now: u64, ask_again_after: u64, leader: Option<NodeId>) {
        while self.rounds.front().is_some_and(|round| now.saturating_sub(round.asked_at) >= ask_again_after) {
            self.ask_again_first();
        }
        let error = match leader {
            Some(_) => RaftError::ReadTimedOut,
            None => RaftError::NotLeader { leader: None },
        };
        for waiter in self.waiting.extract_if(.., |waiter| waiter.deadline <= now) {
            let _ = waiter.reply.send(Err(error.clone()));
        }
        for (_, waiter) in self.confirmed.extract_if(.., |(_, waiter)| waiter.deadline <= now) {
            let _ = waiter.reply.send(Err(RaftError::ReadTimedOut));
        }
    }

    /// The leader changed: whoever was asked will not answer.
    pub(super) fn ask_all_again(&mut self) {
        while !self.rounds.is_empty() {
            self.ask_again_first();
        }
    }

    fn ask_again_first(&mut self) {
        if let Some(round) = self.rounds.pop_front() {
            self.waiting.extend(round.waiters);
        }
    }
}
