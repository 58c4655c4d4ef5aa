//! The way of answers: from the shards' tasks to the stream that the call came by.

use crate::shard::CallId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use thalweg_core::{ErrorCode, PartitionId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1::GroupReply;
use thalweg_proto::internal::v1::group_reply::Reply;
use tokio::sync::{Notify, OwnedSemaphorePermit, oneshot};
use tonic_prost::prost::Message;

/// Bytes of answers that go in one message, unless one alone has more.
const MESSAGE_BYTES: usize = 1 << 20;

/// Bytes of one answer. A larger one could break the stream that all calls of a broker share.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// What a call that only waits keeps of the budget, in bytes: it was read, and what it brought is let go.
const HELD_BYTES: usize = 1024;

/// Where the answer to a call goes. One that is dropped says that the coordinator cannot tell.
#[derive(Debug)]
pub struct Answer(Option<To>);

#[derive(Debug)]
enum To {
    Stream { lane: Arc<Lane>, id: u64, charge: OwnedSemaphorePermit },
    Here(oneshot::Sender<Result<Reply, ApiError>>),
}

impl Answer {
    /// To the call `id` of a stream; `charge` is what it takes of the budget.
    pub fn to_stream(lane: Arc<Lane>, id: u64, charge: OwnedSemaphorePermit) -> Answer {
        Answer(Some(To::Stream { lane, id, charge }))
    }

    /// To this process.
    pub fn here() -> (Answer, oneshot::Receiver<Result<Reply, ApiError>>) {
        let (sender, receiver) = oneshot::channel();
        (Answer(Some(To::Here(sender))), receiver)
    }

    /// What was asked is no longer held, only that it was: what it took of the budget beyond that is free again.
    pub fn shrink(&mut self) {
        if let Some(To::Stream { charge, .. }) = &mut self.0 {
            let over = charge.num_permits().saturating_sub(super::units(HELD_BYTES));
            drop(charge.split(over));
        }
    }

    /// Answers.
    pub fn give(mut self, reply: Result<Reply, ApiError>) {
        if let Some(to) = self.0.take() {
            to.give(reply);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(to) = self.0.take() {
            let message = "the coordinator lost the call; what was asked may have happened";
            to.give(Err(ApiError::new(ErrorCode::CoordinatorNotAvailable, message)));
        }
    }
}

impl To {
    fn give(self, reply: Result<Reply, ApiError>) {
        match self {
            To::Stream { lane, id, charge } => lane.push(id, reply, charge),
            // Whoever asked may be gone.
            To::Here(sender) => drop(sender.send(reply)),
        }
    }
}

/// What one stream waits for, and what it is to send.
#[derive(Debug, Default)]
pub struct Lane {
    state: Mutex<State>,
    bell: Notify,
}

#[derive(Debug, Default)]
struct State {
    calls: BTreeMap<u64, (PartitionId, CallId)>,
    // With its bytes.
    replies: VecDeque<(GroupReply, usize, OwnedSemaphorePermit)>,
    is_closed: bool,
}

impl Lane {
    /// A call went to a shard.
    pub fn sent(&self, id: u64, shard: PartitionId, call: CallId) {
        self.lock().calls.insert(id, (shard, call));
    }

    /// Where a call is that is not answered yet.
    pub fn find(&self, id: u64) -> Option<(PartitionId, CallId)> {
        self.lock().calls.get(&id).copied()
    }

    fn push(&self, id: u64, reply: Result<Reply, ApiError>, charge: OwnedSemaphorePermit) {
        let refused = |error: ApiError| GroupReply { id, error: Some(error.to_proto()), reply: None };
        let mut reply = match reply {
            Ok(reply) => GroupReply { id, error: None, reply: Some(reply) },
            Err(error) => refused(error),
        };
        let mut bytes = reply.encoded_len();
        if bytes > MAX_ANSWER_BYTES {
            let message = format!(
                "the answer has {bytes} bytes, more than the {MAX_ANSWER_BYTES} that go at once; ask for fewer partitions"
            );
            reply = refused(ApiError::new(ErrorCode::InvalidRequest, message));
            bytes = reply.encoded_len();
        }
        let mut state = self.lock();
        state.calls.remove(&id);
        if !state.is_closed {
            state.replies.push_back((reply, bytes, charge));
            drop(state);
            self.bell.notify_one();
        }
    }

    /// Answers for one message; none if there are none. What they took of the budget is free again.
    pub fn take(&self) -> Vec<GroupReply> {
        let mut state = self.lock();
        let (mut replies, mut bytes) = (Vec::new(), 0);
        while let Some((_, more, _)) = state.replies.front() {
            bytes += more;
            if bytes > MESSAGE_BYTES && !replies.is_empty() {
                break;
            }
            replies.extend(state.replies.pop_front().map(|(reply, _, _)| reply));
        }
        replies
    }

    /// Waits until there may be answers.
    pub async fn rung(&self) {
        self.bell.notified().await;
    }

    /// Whether any call is not answered, or any answer not taken.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.calls.is_empty() && state.replies.is_empty()
    }

    /// The stream is gone: nothing more is sent. Gives the calls that are not answered.
    pub fn close(&self) -> Vec<(PartitionId, CallId)> {
        let mut state = self.lock();
        state.is_closed = true;
        state.replies.clear();
        std::mem::take(&mut state.calls).into_values().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // Whole at every step.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_proto::v1;
    use tokio::sync::Semaphore;

    fn charge(budget: &Arc<Semaphore>, units: u32) -> OwnedSemaphorePermit {
        Arc::clone(budget).try_acquire_many_owned(units).unwrap()
    }

    #[test]
    fn an_answer_that_is_too_large_fails_alone() {
        let (budget, lane) = (Arc::new(Semaphore::new(8)), Arc::new(Lane::default()));
        let offsets = |bytes: usize| {
            let one = v1::CommittedOffset { metadata: "m".repeat(bytes), ..Default::default() };
            Ok(Reply::FetchOffsets(v1::FetchOffsetsResponse { offsets: vec![one] }))
        };
        Answer::to_stream(Arc::clone(&lane), 1, charge(&budget, 1)).give(offsets(MAX_ANSWER_BYTES));
        Answer::to_stream(Arc::clone(&lane), 2, charge(&budget, 1)).give(offsets(1));
        let replies = lane.take();
        let code = |reply: &GroupReply| reply.error.as_ref().map(|error| ApiError::from_proto(error).code);
        let told: Vec<_> = replies.iter().map(|reply| (reply.id, code(reply))).collect();
        assert_eq!(told, [(1, Some(ErrorCode::InvalidRequest)), (2, None)]);
        assert_eq!(budget.available_permits(), 8);
    }

    #[test]
    fn a_call_that_waits_holds_little_of_the_budget() {
        let (budget, lane) = (Arc::new(Semaphore::new(1_000)), Arc::new(Lane::default()));
        let mut answer = Answer::to_stream(Arc::clone(&lane), 1, charge(&budget, 1_000));
        answer.shrink();
        let kept = super::super::units(HELD_BYTES);
        assert_eq!(budget.available_permits(), 1_000 - kept);
        answer.shrink();
        assert_eq!(budget.available_permits(), 1_000 - kept);
        drop(answer);
        lane.take();
        assert_eq!(budget.available_permits(), 1_000);
    }
}
