//! What a partition has sent and not seen answered, and which sequences its batches carry. Pure: no clock, no network.
//!
//! ```text
//!               send_new                answer(Written | Fatal)
//!   queue ───────────────▶ in_flight ───────────────────────────▶ out
//!                            ▲  │ answer(Retry | Sequence): halted, nothing more is sent
//!                    resend  │  ▼
//!                          retry ◀── failed     rest(), once nothing is in flight: failed ++ retry
//! ```
//! Everything in `in_flight` was sent before everything in `retry`, and that before anything new; within each the
//! sequences rise. After a failure nothing is sent until all that was in flight has its answer, so what is sent again
//! goes out in the old order, before anything newer.

use std::collections::VecDeque;
use thalweg_core::batch::ProducerStamp;
use thalweg_core::{ProducerEpoch, ProducerId, Sequence};

/// A producer's id and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) id: ProducerId,
    pub(crate) epoch: ProducerEpoch,
}

/// What a window holds.
pub(crate) trait Item {
    /// Its records.
    fn count(&self) -> i32;
    /// Whether its caller has been told an outcome: it need not be sent again.
    fn settled(&self) -> bool;
}

/// A batch with the sequence that it has for life, or until the epoch is bumped.
#[derive(Debug)]
pub(crate) struct Entry<B> {
    pub(crate) batch: B,
    pub(crate) stamp: ProducerStamp,
    /// One behind it was written, so this one is in the log, whatever its own answer was.
    in_log: bool,
}

/// What the leader said of the oldest batch in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is written.
    Written,
    /// It was not written, and never will be.
    Fatal,
    /// It may be written when it is sent again.
    Retry,
    /// Its sequence, epoch or producer is not what the leader expects.
    Sequence,
}

/// What an answer means for the batch.
#[derive(Debug)]
pub(crate) enum Verdict<B> {
    /// Its outcome is the answer's.
    Settled(B),
    /// It was written by an earlier try; its offset is not known any more.
    Repeated(B),
    /// It is kept, to be sent again.
    Kept,
}

/// One partition's batches between queue and outcome.
#[derive(Debug)]
pub(crate) struct Window<B> {
    identity: Option<Identity>,
    next_sequence: Sequence,
    in_flight: VecDeque<Entry<B>>,
    /// Answered with a failure since the last rest.
    failed: VecDeque<Entry<B>>,
    /// To be sent again before anything new.
    retry: VecDeque<Entry<B>>,
    halted: bool,
    needs_epoch: bool,
}

impl<B: Item> Window<B> {
    /// An empty window; without identity batches carry no sequences.
    pub(crate) fn new(identity: Option<Identity>) -> Window<B> {
        Window {
            identity,
            next_sequence: Sequence(0),
            in_flight: VecDeque::new(),
            failed: VecDeque::new(),
            retry: VecDeque::new(),
            halted: false,
            needs_epoch: false,
        }
    }

    /// Whether another batch may go out.
    pub(crate) fn may_send(&self, max_in_flight: usize) -> bool {
        !self.halted && !self.needs_epoch && self.in_flight.len() < max_in_flight
    }

    /// Whether nothing is in flight.
    pub(crate) fn is_quiet(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether it holds nothing at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.in_flight.is_empty() && self.failed.is_empty() && self.retry.is_empty()
    }

    /// Whether a failure halted it and everything in flight has been answered since.
    pub(crate) fn at_rest(&self) -> bool {
        self.halted && self.in_flight.is_empty()
    }

    /// Moves the next batch that is to be sent again into flight. The caller sends it.
    pub(crate) fn resend(&mut self) -> Option<&mut Entry<B>> {
        let entry = self.retry.pop_front()?;
        self.in_flight.push_back(entry);
        self.in_flight.back_mut()
    }

    /// Gives a new batch its sequence and puts it in flight. The caller sends it. Only with nothing left to send again.
    /// `current` is the producer's identity: an empty window moves on to it.
    pub(crate) fn send_new(&mut self, batch: B, current: Option<Identity>) -> &mut Entry<B> {
        assert!(self.retry.is_empty() && self.failed.is_empty(), "what failed goes out before anything new");
        if self.in_flight.is_empty() && self.identity != current {
            self.identity = current;
            self.next_sequence = Sequence(0);
        }
        let stamp = self.next_stamp(batch.count());
        self.in_flight.push_back(Entry { batch, stamp, in_log: false });
        self.in_flight.back_mut().expect("an entry was pushed just now")
    }

    /// Takes the answer to the oldest batch in flight. The caller tells the outcome, if there is one now.
    pub(crate) fn answer(&mut self, answer: Answer) -> Verdict<B> {
        let Some(entry) = self.in_flight.pop_front() else { return Verdict::Kept };
        match answer {
            Answer::Written => {
                // A leader writes an idempotent producer's batches without gaps.
                self.failed
                    .iter_mut()
                    .for_each(|before| before.in_log |= before.stamp.base_sequence.get() >= 0);
                return Verdict::Settled(entry.batch);
            }
            Answer::Fatal => return Verdict::Settled(entry.batch),
            Answer::Retry => {}
            // The leader remembers a few batches only.
            Answer::Sequence if entry.in_log => return Verdict::Repeated(entry.batch),
            // Behind a failure a gap is to be expected: once that one is written, this one fits. Without one, what the
            // leader knows of this producer and what this producer knows do not meet; only a new epoch mends that.
            Answer::Sequence => self.needs_epoch |= !self.halted && self.identity.is_some(),
        }
        self.halted = true;
        self.failed.push_back(entry);
        Verdict::Kept
    }

    /// Replaces the oldest batch in flight, which was too large, with its parts, in order; they have its sequences.
    pub(crate) fn replace(&mut self, split: impl FnOnce(B) -> Result<[B; 2], B>) -> Option<B> {
        let entry = self.in_flight.pop_front()?;
        let parts = match self.divide(entry, split) {
            Ok(parts) => parts,
            Err(batch) => return Some(batch),
        };
        self.failed.extend(parts);
        self.halted = true;
        None
    }

    /// Takes the batch that was put in flight last, which was not sent after all.
    pub(crate) fn take_newest(&mut self) -> Option<B> {
        self.in_flight.pop_back().map(|entry| entry.batch)
    }

    /// As [`replace`](Self::replace) for the batch that was put in flight last, which was not sent after all: its parts
    /// are sent next.
    pub(crate) fn replace_newest(&mut self, split: impl FnOnce(B) -> Result<[B; 2], B>) -> Option<B> {
        let entry = self.in_flight.pop_back()?;
        match self.divide(entry, split) {
            Ok(parts) => {
                parts.into_iter().rev().for_each(|part| self.retry.push_front(part));
                None
            }
            Err(batch) => Some(batch),
        }
    }

    /// Parts of an entry, numbered as it was.
    fn divide(
        &self,
        entry: Entry<B>,
        split: impl FnOnce(B) -> Result<[B; 2], B>,
    ) -> Result<[Entry<B>; 2], B> {
        let mut stamp = entry.stamp;
        Ok(split(entry.batch)?.map(|batch| {
            let entry = Entry { stamp, batch, in_log: false };
            if self.identity.is_some() {
                stamp.base_sequence = stamp.base_sequence.advance(entry.batch.count());
            }
            entry
        }))
    }

    /// The stream broke: nothing in flight will be answered.
    pub(crate) fn disconnect(&mut self) {
        self.failed.append(&mut self.in_flight);
        self.halted = true;
    }

    /// Everything in flight is answered: makes ready to send again, in order. What has been settled meanwhile is dropped;
    /// if the gap that it leaves matters, the leader will say so.
    pub(crate) fn rest(&mut self) {
        assert!(self.in_flight.is_empty(), "a window rests when nothing is in flight");
        self.failed.append(&mut self.retry);
        std::mem::swap(&mut self.failed, &mut self.retry);
        self.retry.retain(|entry| !entry.batch.settled());
        self.halted = false;
    }

    /// Whether it can only go on under a new epoch.
    pub(crate) fn needs_epoch(&self) -> bool {
        self.needs_epoch
    }

    /// The identity that its next batch will carry.
    pub(crate) fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Goes on under another identity: what waits is numbered from 0. Only at rest. Gives the batches that are in the log
    /// already: under another epoch they would be written twice.
    pub(crate) fn adopt(&mut self, identity: Identity) -> Vec<B> {
        assert!(self.in_flight.is_empty() && self.failed.is_empty(), "sequences are given anew at rest");
        self.identity = Some(identity);
        self.next_sequence = Sequence(0);
        self.needs_epoch = false;
        let mut written = Vec::new();
        for mut entry in std::mem::take(&mut self.retry) {
            if entry.in_log {
                written.push(entry.batch);
            } else {
                entry.stamp = self.next_stamp(entry.batch.count());
                self.retry.push_back(entry);
            }
        }
        written
    }

    /// Every batch in it, in order.
    pub(crate) fn batches_mut(&mut self) -> impl Iterator<Item = &mut B> {
        let all = self.failed.iter_mut().chain(&mut self.in_flight).chain(&mut self.retry);
        all.map(|entry| &mut entry.batch)
    }

    fn next_stamp(&mut self, count: i32) -> ProducerStamp {
        let Some(identity) = self.identity else { return ProducerStamp::NONE };
        let base_sequence = self.next_sequence;
        self.next_sequence = base_sequence.advance(count);
        ProducerStamp {
            producer_id: identity.id,
            producer_epoch: identity.epoch,
            base_sequence,
            transactional: false,
        }
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
