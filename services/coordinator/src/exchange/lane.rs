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
    replies: VecDeque<(GroupReply, OwnedSemaphorePermit)>,
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
        let reply = match reply {
            Ok(reply) => GroupReply { id, error: None, reply: Some(reply) },
            Err(error) => GroupReply { id, error: Some(error.to_proto()), reply: None },
        };
        let mut state = self.lock();
        state.calls.remove(&id);
        if !state.is_closed {
            state.replies.push_back((reply, charge));
            drop(state);
            self.bell.notify_one();
        }
    }

    /// Answers for one message; none if there are none. What they took of the budget is free again.
    pub fn take(&self) -> Vec<GroupReply> {
        let mut state = self.lock();
        let (mut replies, mut bytes) = (Vec::new(), 0);
        while let Some((reply, _)) = state.replies.front() {
            bytes += reply.encoded_len();
            if bytes > MESSAGE_BYTES && !replies.is_empty() {
                break;
            }
            replies.extend(state.replies.pop_front().map(|(reply, _)| reply));
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
