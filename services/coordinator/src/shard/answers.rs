//! Answers that wait until what they tell is durable.

use super::call::{CallId, Output, WriteId};
use std::collections::BTreeMap;
use thalweg_core::group::{GroupId, MemberId};
use thalweg_core::metadata::command::Refusal;
use thalweg_proto::internal::v1::group_reply::Reply;

/// One answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// To which call.
    pub(super) call: CallId,
    /// What it says.
    pub(super) reply: Result<Reply, Refusal>,
    /// The member whose heartbeat it answers: its session begins anew when the answer leaves.
    pub(super) member: Option<(GroupId, MemberId)>,
}

/// Counts writes, and keeps the answers that wait for them.
#[derive(Debug, Default)]
pub(super) struct Answers {
    written: WriteId,
    durable: WriteId,
    parked: BTreeMap<WriteId, Vec<Answer>>,
}

impl Answers {
    /// The number of a new write.
    pub(super) fn next_write(&mut self) -> WriteId {
        self.written.0 += 1;
        self.written
    }

    /// The last write.
    pub(super) fn written(&self) -> WriteId {
        self.written
    }

    /// Lets an answer leave once `after` is durable. Tells whether it has to wait.
    pub(super) fn give(&mut self, after: WriteId, answer: Answer, out: &mut Output) -> bool {
        if after <= self.durable {
            out.replies.push((answer.call, answer.reply));
            return false;
        }
        self.parked.entry(after).or_default().push(answer);
        true
    }

    /// Takes the answers that waited for this write or one before.
    pub(super) fn durable(&mut self, upto: WriteId) -> Vec<Answer> {
        self.durable = self.durable.max(upto.min(self.written));
        let later = self.parked.split_off(&WriteId(self.durable.0.saturating_add(1)));
        std::mem::replace(&mut self.parked, later).into_values().flatten().collect()
    }
}
