//! The commands that callers wait for: those not yet given to Raft, and those in its log.

use crate::config::{REQUEST_QUEUE, REQUEST_QUEUE_BYTES};
use crate::error::RaftError;
use crate::handle::Reply;
use bytes::Bytes;
use std::collections::VecDeque;
use thalweg_core::NodeId;
use tokio::sync::OwnedSemaphorePermit;

struct Waiting<O> {
    command: Bytes,
    reply: Reply<(u64, O)>,
    // Gives the caller's share of the queue back when the command enters the log.
    _permit: OwnedSemaphorePermit,
}

struct InLog<O> {
    index: u64,
    term: u64,
    reply: Reply<(u64, O)>,
}

pub(super) struct Proposals<O> {
    waiting: VecDeque<Waiting<O>>,
    waiting_bytes: usize,
    in_log: VecDeque<InLog<O>>,
}

impl<O> Proposals<O> {
    pub(super) fn new() -> Proposals<O> {
        Proposals { waiting: VecDeque::new(), waiting_bytes: 0, in_log: VecDeque::new() }
    }

    pub(super) fn has_room(&self) -> bool {
        self.waiting.len() < REQUEST_QUEUE && self.waiting_bytes < REQUEST_QUEUE_BYTES
    }

    pub(super) fn push(&mut self, command: Bytes, reply: Reply<(u64, O)>, permit: OwnedSemaphorePermit) {
        self.waiting_bytes += command.len();
        self.waiting.push_back(Waiting { command, reply, _permit: permit });
    }

    /// The next commands for one append: as many as fit in `max_bytes`, but at least one if any waits.
    pub(super) fn next_batch(&self, max_bytes: u64) -> Vec<Bytes> {
        let mut bytes = 0u64;
        self.waiting
            .iter()
            .take_while(|waiting| {
                let first = bytes == 0;
                bytes = bytes.saturating_add(waiting.command.len() as u64);
                first || bytes <= max_bytes
            })
            .map(|waiting| waiting.command.clone())
            .collect()
    }

    /// The first `count` waiting commands are in the log now, from `first_index` on.
    pub(super) fn entered_log(&mut self, count: usize, first_index: u64, term: u64) {
        for (waiting, index) in self.waiting.drain(..count).zip(first_index..) {
            self.waiting_bytes -= waiting.command.len();
            self.in_log.push_back(InLog { index, term, reply: waiting.reply });
        }
    }

    /// The entry of `term` at `index` was applied; `output` is what it answered, if it was a command.
    pub(super) fn applied(&mut self, index: u64, term: u64, output: Option<O>) {
        let mut output = output;
        while let Some(front) = self.in_log.front()
            && front.index <= index
        {
            let Some(front) = self.in_log.pop_front() else { break };
            let answer = match output.take() {
                Some(output) if front.index == index && front.term == term => Ok((index, output)),
                // Another term's entry stands at its index for ever.
                _ => Err(RaftError::Dropped),
            };
            // A caller that has gone away needs no answer.
            let _ = front.reply.send(answer);
        }
    }

    /// A snapshot has replaced the log up to `index`: what became of the proposals there cannot be known.
    pub(super) fn skipped(&mut self, index: u64) {
        while self.in_log.front().is_some_and(|front| front.index <= index) {
            if let Some(front) = self.in_log.pop_front() {
                let _ = front.reply.send(Err(RaftError::OutcomeUnknown));
            }
        }
    }

    /// This node does not lead: what has not entered the log never will.
    pub(super) fn refuse_waiting(&mut self, leader: Option<NodeId>) {
        self.waiting_bytes = 0;
        for waiting in self.waiting.drain(..) {
            let _ = waiting.reply.send(Err(RaftError::NotLeader { leader }));
        }
    }

    /// Gives up on those in the log.
    pub(super) fn give_up_in_log(&mut self) {
        for in_log in self.in_log.drain(..) {
            let _ = in_log.reply.send(Err(RaftError::OutcomeUnknown));
        }
    }

    pub(super) fn any_in_log(&self) -> bool {
        !self.in_log.is_empty()
    }
}
