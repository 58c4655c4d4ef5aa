//! One coordinator's stream: everybody's calls go up on it and the answers come down in any order, matched by their numbers.
//!
//! ```text
//!   callers ──► queue ──► waiting ──► one message ──► coordinator
//!      ▲                                  │
//!      └────────── pending, by number ◄───┴───────── answers
//! ```
//! What waits when the transport takes the next message goes in that one message, so that calls gather by themselves as soon as
//! they come faster than they leave.

#[cfg(test)]
mod tests;

use crate::in_flight::Charge;
use crate::metadata::MetadataStore;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thalweg_client::controllers::was_not_sent;
use thalweg_core::group::OFFSETS_TOPIC;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::{
    CoordinatorEpoch, CoordinatorId, ErrorCode, MetadataVersion, PartitionId, TopicName, TopicPartition,
};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::coordinator_service_client::CoordinatorServiceClient;
use thalweg_proto::internal::v1::group_call::Call;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_runtime::Shutdown;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;
use tonic_prost::prost::Message;

/// Calls that may wait for the lane to take them.
pub const QUEUE: usize = 1024;
/// Calls in one message.
const MAX_CALLS_A_MESSAGE: usize = 1024;
/// Bytes of one message, unless a single call is larger.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes of one message of answers. A coordinator bounds one answer (16 MiB), and gathers 1 MiB or one answer in a message; this
/// is far beyond both, so that an answer that is too large fails its own call there, and not the stream with everybody's here.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Bytes that a call which waits is counted for once its message has left.
const ENTRY_BYTES: usize = 256;
/// Messages that the transport may have ahead. One: what comes meanwhile is gathered for the next.
const AHEAD: usize = 1;
/// A lane without calls is closed after so long.
const IDLE: Duration = Duration::from_secs(60);

/// What became of one attempt at a call.
#[derive(Debug, Clone)]
pub enum Failure {
    /// Nothing was done.
    NotSent(ApiError),
    /// The coordinator's word.
    Told(ApiError),
    /// Nobody knows what was done.
    Lost(ApiError),
}

impl Failure {
    /// What a client is told.
    pub fn into_error(self) -> ApiError {
        match self {
            Failure::NotSent(error) | Failure::Told(error) | Failure::Lost(error) => error,
        }
    }
}

/// What an attempt brings.
pub type Outcome = Result<Reply, Failure>;

/// A call for the coordinator.
#[derive(Debug)]
pub struct Asked {
    /// Unique on the lane.
    pub id: u64,
    /// The group's shard; the call fails when the lease of it moves. `None`: for the coordinator as such.
    pub shard: Option<PartitionId>,
    /// Where the client is.
    pub client_host: Arc<str>,
    /// When the caller gives up.
    pub until: Instant,
    /// The call.
    pub call: Call,
    /// Who waits.
    pub answer: oneshot::Sender<Outcome>,
    /// What it holds of the memory for calls.
    pub charge: Charge,
}

/// Whom a lane goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The coordinator.
    pub id: CoordinatorId,
    /// Its registration.
    pub epoch: CoordinatorEpoch,
    /// Where it is.
    pub endpoint: String,
}

/// How a lane ended.
#[derive(Debug, Clone, Copy)]
pub struct End {
    /// When.
    pub at: Instant,
    /// Whether it had ever brought an answer.
    pub was_of_use: bool,
}

struct Pending {
    shard: Option<PartitionId>,
    // When the caller gives up.
    until: Instant,
    is_held: bool,
    answer: oneshot::Sender<Outcome>,
    charge: Charge,
}

/// The loop of one lane. It owns everything; callers have the other ends of its channels.
pub struct Exchange {
    target: Target,
    metadata: Arc<MetadataStore>,
    queue: mpsc::Receiver<Asked>,
    cancels: mpsc::UnboundedReceiver<u64>,
    ended: Arc<OnceLock<End>>,
    shutdown: Shutdown,
    versions: watch::Receiver<MetadataVersion>,
    waiting: VecDeque<internal::GroupCall>,
    pending: HashMap<u64, Pending>,
    was_of_use: bool,
}

/// Why the loop ends.
enum Over {
    Idle,
    Stopping,
    Gone,
    Broken(Option<Status>),
}

impl Exchange {
    /// A lane to `target`. `ended` is set when it is over.
    pub fn new(
        target: Target,
        metadata: Arc<MetadataStore>,
        queue: mpsc::Receiver<Asked>,
        cancels: mpsc::UnboundedReceiver<u64>,
        ended: Arc<OnceLock<End>>,
        shutdown: Shutdown,
    ) -> Exchange {
        let versions = metadata.watch();
        Exchange {
            target,
            metadata,
            queue,
            cancels,
            ended,
            shutdown,
            versions,
            waiting: VecDeque::new(),
            pending: HashMap::new(),
            was_of_use: false,
        }
    }

    /// Runs until the stream breaks, nobody needs it, or the broker stops. Whoever still waits then is told.
    pub async fn run(mut self, channel: Channel) {
        let (messages, outbound) = mpsc::channel(AHEAD);
        let mut client = CoordinatorServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES);
        let opening = async move {
            client.exchange(ReceiverStream::new(outbound)).await.map(tonic::Response::into_inner)
        };
        let answers = opening.into_stream().try_flatten().boxed();
        let over = self.serve(messages, answers).await;
        let _ = self.ended.set(End { at: Instant::now(), was_of_use: self.was_of_use });
        self.fail_all(&over);
    }

    async fn serve(
        &mut self,
        messages: mpsc::Sender<internal::ExchangeRequest>,
        mut answers: BoxStream<'static, Result<internal::ExchangeResponse, Status>>,
    ) -> Over {
        let shutdown = self.shutdown.clone();
        let stopping = shutdown.triggered();
        tokio::pin!(stopping);
        let mut idle_at = Instant::now() + IDLE;
        let mut taken = Vec::new();
        loop {
            let is_idle = self.pending.is_empty() && self.waiting.is_empty();
            tokio::select! {
                biased;
                () = &mut stopping => return Over::Stopping,
                answer = answers.next() => match answer {
                    Some(Ok(answer)) => self.deliver(answer),
                    Some(Err(status)) => return Over::Broken(Some(status)),
                    None => return Over::Broken(None),
                },
                Ok(()) = self.versions.changed() => if self.is_gone() { return Over::Gone },
                Some(id) = self.cancels.recv() => self.cancel(id),
                count = self.queue.recv_many(&mut taken, MAX_CALLS_A_MESSAGE),
                    if self.waiting.len() < MAX_CALLS_A_MESSAGE =>
                {
                    if count == 0 {
                        return Over::Idle;
                    }
                    // Others who are about to call may do so before the message leaves.
                    tokio::task::yield_now().await;
                    while taken.len() < MAX_CALLS_A_MESSAGE && let Ok(asked) = self.queue.try_recv() {
                        taken.push(asked);
                    }
                    taken.drain(..).for_each(|asked| self.take(asked));
                }
                permit = messages.reserve(), if !self.waiting.is_empty() => match permit {
                    Ok(permit) => if let Some(message) = self.message(Instant::now()) {
                        permit.send(message);
                    },
                    // The transport has let go of the stream; its answer says why.
                    Err(_) => return Over::Broken(answers.next().await.and_then(Result::err)),
                },
                () = tokio::time::sleep_until(idle_at), if is_idle => return Over::Idle,
            }
            if !is_idle {
                idle_at = Instant::now() + IDLE;
            }
        }
    }

    fn take(&mut self, asked: Asked) {
        let Asked { id, shard, client_host, until, call, answer, charge } = asked;
        if answer.is_closed() {
            return;
        }
        // The lease may have moved since the caller looked.
        if shard.is_some_and(|shard| !leads(&self.metadata.image(), &self.target, shard)) {
            let _ = answer.send(Err(Failure::NotSent(self.moved())));
            return;
        }
        let is_held = matches!(&call, Call::Heartbeat(beat) if beat.max_wait_ms() > 0);
        let client_host = client_host.to_string();
        // For how long is told when it leaves.
        self.waiting.push_back(internal::GroupCall { id, client_host, within_ms: 0, call: Some(call) });
        self.pending.insert(id, Pending { shard, until, is_held, answer, charge });
    }

    /// What leaves now. What came too late for its caller does not: it is not to be carried out either.
    fn message(&mut self, now: Instant) -> Option<internal::ExchangeRequest> {
        let mut calls = Vec::new();
        let mut bytes = 0;
        while calls.len() < MAX_CALLS_A_MESSAGE
            && let Some(mut call) = self.waiting.pop_front()
        {
            // A cancellation is nobody's call.
            if let Some(pending) = self.pending.get(&call.id) {
                if pending.until <= now {
                    if let Some(pending) = self.pending.remove(&call.id) {
                        let _ = pending.answer.send(Err(Failure::NotSent(too_late(&self.target))));
                    }
                    continue;
                }
                let within = pending.until.saturating_duration_since(now).as_millis();
                call.within_ms = u32::try_from(within).unwrap_or(u32::MAX).max(1);
            }
            bytes += call.encoded_len();
            if bytes > MAX_MESSAGE_BYTES && !calls.is_empty() {
                self.waiting.push_front(call);
                break;
            }
            if let Some(pending) = self.pending.get_mut(&call.id).filter(|pending| pending.is_held) {
                let entry = pending.charge.bytes().min(ENTRY_BYTES);
                pending.charge.resize(entry);
            }
            calls.push(call);
        }
        (!calls.is_empty()).then_some(internal::ExchangeRequest { calls })
    }

    fn deliver(&mut self, answer: internal::ExchangeResponse) {
        self.was_of_use = true;
        for internal::GroupReply { id, error, reply } in answer.replies {
            let Some(pending) = self.pending.remove(&id) else { continue };
            let outcome = match (error, reply) {
                (Some(error), _) => Err(Failure::Told(ApiError::from_proto(&error))),
                (None, Some(reply)) => Ok(reply),
                (None, None) => Err(Failure::Told(unintelligible())),
            };
            let _ = pending.answer.send(outcome);
        }
    }

    /// The caller is gone.
    fn cancel(&mut self, id: u64) {
        if self.pending.remove(&id).is_none() {
            return;
        }
        let before = self.waiting.len();
        self.waiting.retain(|call| call.id != id);
        if self.waiting.len() == before {
            let call = Some(Call::Cancel(internal::CancelCall {}));
            self.waiting.push_back(internal::GroupCall { id, call, ..Default::default() });
        }
    }

    /// Fails the calls whose shards are another's now. Says whether nothing is left to expect from this registration.
    fn is_gone(&mut self) -> bool {
        let image = self.metadata.snapshot();
        let registered = image.coordinator(self.target.id);
        if registered.is_none_or(|now| now.epoch != self.target.epoch || now.fenced) {
            return true;
        }
        let moved: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.shard.is_some_and(|shard| !leads(&image, &self.target, shard)))
            .map(|(id, _)| *id)
            .collect();
        for id in moved {
            let unsent = self.waiting.iter().any(|call| call.id == id);
            self.waiting.retain(|call| call.id != id);
            if let Some(pending) = self.pending.remove(&id) {
                let error = self.moved();
                let failure = if unsent { Failure::NotSent(error) } else { Failure::Lost(error) };
                let _ = pending.answer.send(Err(failure));
            }
        }
        false
    }

    fn fail_all(&mut self, over: &Over) {
        let error = match over {
            Over::Stopping => crate::refusal::shutting_down(),
            Over::Idle | Over::Gone => self.moved(),
            Over::Broken(status) => {
                tracing::debug!(coordinator = %self.target.id, ?status, "a stream to a coordinator broke");
                broken(&self.target, status.as_ref())
            }
        };
        let never_opened = matches!(over, Over::Broken(Some(status)) if was_not_sent(status));
        self.queue.close();
        while let Ok(asked) = self.queue.try_recv() {
            let _ = asked.answer.send(Err(Failure::NotSent(error.clone())));
        }
        let unsent: Vec<u64> = self.waiting.drain(..).map(|call| call.id).collect();
        for (id, pending) in self.pending.drain() {
            let failure = if never_opened || unsent.contains(&id) {
                Failure::NotSent(error.clone())
            } else {
                Failure::Lost(error.clone())
            };
            let _ = pending.answer.send(Err(failure));
        }
    }

    fn moved(&self) -> ApiError {
        ApiError::new(
            ErrorCode::CoordinatorNotAvailable,
            format!("coordinator {} at {} serves the group no more", self.target.id, self.target.endpoint),
        )
    }
}

/// Whether that registration has the lease of a shard.
fn leads(image: &MetadataImage, target: &Target, shard: PartitionId) -> bool {
    // The name of a constant is legal.
    let Ok(topic) = TopicName::new(OFFSETS_TOPIC) else { return false };
    let lease = image.lease(&TopicPartition::new(topic, shard));
    lease.is_some_and(|lease| lease.coordinator == Some(target.id))
}

fn broken(target: &Target, status: Option<&Status>) -> ApiError {
    let why = status.map_or("it ended the stream", |status| status.message());
    ApiError::new(
        ErrorCode::CoordinatorNotAvailable,
        format!("the stream to coordinator {} at {} broke: {why}", target.id, target.endpoint),
    )
}

fn too_late(target: &Target) -> ApiError {
    let message = format!("the call was not sent to coordinator {} in time", target.id);
    ApiError::new(ErrorCode::CoordinatorNotAvailable, message)
}

/// An answer that is not to the question.
pub fn unintelligible() -> ApiError {
    crate::refusal::internal("a coordinator's answer is not to what was asked", "another version?")
}
