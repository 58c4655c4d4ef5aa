//! The task that sends to one leader: one stream's life. When the stream breaks, the task gives its partitions back to the
//! dispatcher and ends.

use super::batch::Batch;
use super::config::Acks;
use super::delivery::Written;
use super::error::DeliveryError;
use super::inbox::{Home, Inbox};
use super::lane::{Lane, Rest};
use super::queue::Drained;
use super::shared::Shared;
use crate::ClientError;
use crate::error::describe;
use crate::metadata::Leader;
use crate::proto::produce_stream_ack::Outcome;
use crate::proto::produce_stream_response::Event;
use crate::proto::{ProduceStreamAck, ProduceStreamResponse, TraceContext};
use crate::raw::{ProduceLink, REQUEST_OVERHEAD, append_time, only_result, request};
use crate::trace::wire_size;
use bytes::Bytes;
use futures_util::FutureExt;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{ErrorCode, Offset};
use thalweg_proto::ApiError;
use tokio::time::Instant;
use tonic::Status;

/// How much longer than the broker's own limit an answer is waited for.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// Answers that are taken in a row before new batches get a turn.
const MAX_ANSWERS_A_TURN: usize = 64;
/// Batches that are sent in a row before answers and new partitions get a turn.
const MAX_BATCHES_A_TURN: usize = 64;

/// The sender of one leader.
pub(crate) struct Sender {
    shared: Arc<Shared>,
    leader: Leader,
    inbox: Arc<Inbox>,
    /// By slot; a partition that went elsewhere leaves a hole.
    lanes: Vec<Option<Lane>>,
    free: Vec<u32>,
    /// Slots to look at, each once.
    ready: VecDeque<u32>,
    /// Slots whose open batch waits for its linger, each at most once, the first to be due on top.
    lingering: BinaryHeap<Reverse<(Instant, u32)>>,
    /// What was sent and not answered, in order.
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    next_correlation: u64,
    next_expiry: Instant,
}

struct Sent {
    correlation: u64,
    slot: u32,
    bytes: usize,
    at: Instant,
}

/// Why a stream ended.
enum End {
    Stopped,
    Broken(String, Option<ErrorCode>),
}

impl Sender {
    pub(crate) fn new(shared: Arc<Shared>, leader: Leader, inbox: Arc<Inbox>) -> Sender {
        Sender {
            shared,
            leader,
            inbox,
            lanes: Vec::new(),
            free: Vec::new(),
            ready: VecDeque::new(),
            lingering: BinaryHeap::new(),
            sent: VecDeque::new(),
            sent_bytes: 0,
            next_correlation: 0,
            next_expiry: Instant::now(),
        }
    }

    pub(crate) async fn run(mut self) {
        let guard = CloseOnDrop(Arc::clone(&self.inbox));
        let end = match self.open().await {
            Ok(link) => self.serve(link).await,
            Err(end) => end,
        };
        if let End::Broken(why, code) = &end {
            tracing::info!(broker = %self.leader.id, endpoint = %self.leader.endpoint, reason = why, "produce stream ended");
            let why: Arc<str> =
                Arc::from(format!("broker {} at {}: {why}", self.leader.id, self.leader.endpoint));
            let lost = guard.0.close().into_iter().chain(self.lanes.drain(..).flatten());
            for mut lane in lost {
                lane.window.disconnect();
                lane.window.rest();
                lane.failed(Arc::clone(&why), *code);
                lane.rest = Rest { refresh: true, pause: true, followed: false };
                self.shared.give_back(lane);
            }
        }
    }

    /// Opens the stream. Records whose time runs out meanwhile are told so, and a producer that ends does not wait for it.
    async fn open(&mut self) -> Result<ProduceLink, End> {
        let shared = Arc::clone(&self.shared);
        let endpoint = Arc::clone(&self.leader.endpoint);
        let open = ProduceLink::open(&shared.client, &endpoint);
        let mut open = pin!(tokio::time::timeout(shared.config.request_timeout, open));
        loop {
            self.look_around(Instant::now());
            tokio::select! {
                opened = &mut open => return match opened {
                    Ok(Ok(link)) => Ok(link),
                    Ok(Err(error)) => Err(End::from_error(&error)),
                    Err(_) => Err(End::Broken("the produce stream did not open in time".to_owned(), None)),
                },
                () = self.inbox.changed() => {}
                () = shared.stop.cancelled() => return Err(End::Stopped),
                () = tokio::time::sleep_until(self.next_expiry) => {}
            }
        }
    }

    async fn serve(&mut self, mut link: ProduceLink) -> End {
        let shared = Arc::clone(&self.shared);
        let answer_limit = shared.config.request_timeout + ANSWER_GRACE;
        loop {
            let now = Instant::now();
            self.look_around(now);
            let more = match self.pump(&mut link, now).await {
                Ok(more) => more,
                Err(end) => return end,
            };
            if self.sent.front().is_some_and(|sent| now > sent.at + answer_limit) {
                return End::Broken("no answer came in time".to_owned(), Some(ErrorCode::RequestTimedOut));
            }
            let wake = self
                .lingering
                .peek()
                .map_or(self.next_expiry, |Reverse((due, _))| self.next_expiry.min(*due));
            tokio::select! {
                biased;
                message = link.answers.message() => {
                    if let Err(end) = self.answers(&mut link, message) {
                        return end;
                    }
                }
                () = self.inbox.changed() => {}
                () = shared.stop.cancelled() => {
                    half_close(link, shared.config.request_timeout).await;
                    return End::Stopped;
                }
                () = tokio::task::yield_now(), if more => {}
                () = tokio::time::sleep_until(wake), if !more => {}
            }
        }
    }

    /// Takes in new partitions and signals, and looks at what time has done.
    fn look_around(&mut self, now: Instant) {
        let (mut lanes, mut signals) = (Vec::new(), Vec::new());
        self.inbox.take(&mut lanes, &mut signals);
        for mut lane in lanes {
            let slot = self.free.pop().unwrap_or_else(|| {
                self.lanes.push(None);
                u32::try_from(self.lanes.len() - 1).expect("a broker leads far fewer than 2^32 partitions")
            });
            lane.set_home(Home::At { inbox: Arc::clone(&self.inbox), slot, signalled: false });
            lane.in_ready = false;
            lane.in_lingering = false;
            self.lanes[slot as usize] = Some(lane);
            self.make_ready(slot);
        }
        for slot in signals {
            self.make_ready(slot);
        }
        while self.lingering.peek().is_some_and(|Reverse((due, _))| *due <= now) {
            let Some(Reverse((_, slot))) = self.lingering.pop() else { break };
            if let Some(Some(lane)) = self.lanes.get_mut(slot as usize) {
                lane.in_lingering = false;
            }
            self.make_ready(slot);
        }
        if self.next_expiry <= now {
            self.next_expiry = now + self.shared.config.expiry_interval();
            let limit = self.shared.config.delivery_timeout;
            for lane in self.lanes.iter_mut().flatten() {
                if lane.expire(now, limit) && lane.window.is_quiet() {
                    // What was told to have failed is not sent again.
                    lane.window.rest();
                }
            }
        }
    }

    fn make_ready(&mut self, slot: u32) {
        if let Some(Some(lane)) = self.lanes.get_mut(slot as usize)
            && !std::mem::replace(&mut lane.in_ready, true)
        {
            self.ready.push_back(slot);
        }
    }

    /// Sends what may go, one batch of each partition in turn, until the broker's limits are reached. Says whether there
    /// is more that may go at once.
    async fn pump(&mut self, link: &mut ProduceLink, now: Instant) -> Result<bool, End> {
        let answered = self.shared.config.acks != Acks::None;
        for _ in 0..MAX_BATCHES_A_TURN {
            if answered && (self.sent_bytes >= link.max_in_flight_bytes || link.requests.capacity() == 0) {
                // An answer will come, and with it another turn.
                return Ok(false);
            }
            let Some(slot) = self.ready.pop_front() else { return Ok(false) };
            let Some(lane) = self.lanes[slot as usize].as_mut() else { continue };
            lane.in_ready = false;
            let next = next_batch(lane, &self.shared, now);
            if let Drained::Wait(due) = next
                && !std::mem::replace(&mut lane.in_lingering, true)
            {
                self.lingering.push(Reverse((due, slot)));
            }
            let Drained::Batch((bytes, trace)) = next else { continue };
            let untraced = bytes.len() + REQUEST_OVERHEAD + lane.queue.topic.as_str().len();
            // A batch that only its trace makes too large goes without it.
            let trace = trace.filter(|trace| untraced + wire_size(trace) <= link.max_request_bytes);
            let size = untraced + trace.as_ref().map_or(0, wire_size);
            // Alone, even a batch above the broker's bytes in flight must pass.
            if size > link.max_request_bytes {
                refuse_newest(lane, size, link.max_request_bytes);
                self.make_ready(slot);
                continue;
            }
            let config = &self.shared.config;
            let (topic, partition) = (lane.queue.topic.as_str(), lane.queue.partition);
            let correlation = self.next_correlation;
            let mut message =
                request(correlation, topic, partition, bytes, config.acks, config.request_timeout);
            message.trace_context = trace;
            // With answers there is room, see above; without, waiting here is the only backpressure.
            match tokio::time::timeout(config.request_timeout, link.requests.send(message)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(why_closed(link).await),
                Err(_) => return Err(End::Broken("the broker took no request in time".to_owned(), None)),
            }
            if answered {
                self.sent.push_back(Sent { correlation, slot, bytes: size, at: now });
                self.sent_bytes += size;
            } else {
                lane.deliver(Written::UNKNOWN);
            }
            self.next_correlation += 1;
            self.make_ready(slot);
        }
        Ok(!self.ready.is_empty())
    }

    /// Takes one message from the stream, and those that are there behind it.
    fn answers(
        &mut self,
        link: &mut ProduceLink,
        first: Result<Option<ProduceStreamResponse>, Status>,
    ) -> Result<(), End> {
        let mut message = first;
        for _ in 0..MAX_ANSWERS_A_TURN {
            match message {
                Ok(Some(ProduceStreamResponse { event: Some(Event::Ack(ack)) })) => self.answer(ack)?,
                Ok(Some(_)) => return Err(End::Broken("the stream was opened twice".to_owned(), None)),
                Ok(None) => return Err(End::Broken("the broker ended the stream".to_owned(), None)),
                Err(status) => return Err(End::from_error(&status.into())),
            }
            match link.answers.message().now_or_never() {
                Some(next) => message = next,
                None => break,
            }
        }
        Ok(())
    }

    /// Takes the answer to the oldest request.
    fn answer(&mut self, ack: ProduceStreamAck) -> Result<(), End> {
        let out_of_order = || End::Broken("an answer is out of order".to_owned(), None);
        let sent = self.sent.pop_front().filter(|sent| sent.correlation == ack.correlation_id);
        let sent = sent.ok_or_else(out_of_order)?;
        self.sent_bytes -= sent.bytes;
        let place = &mut self.lanes[sent.slot as usize];
        let lane = place.as_mut().ok_or_else(out_of_order)?;
        let outcome = match ack.outcome {
            Some(Outcome::Response(response)) => only_result(response).map_err(|error| match error {
                ClientError::Refused(error) => *error,
                other => ApiError::new(ErrorCode::Internal, other.to_string()),
            }),
            Some(Outcome::Error(error)) => Err(ApiError::from_proto(&error)),
            None => return Err(End::Broken("an answer has no outcome".to_owned(), None)),
        };
        match outcome {
            Ok(result) => {
                lane.backoff.reset();
                lane.last_failure = None;
                lane.deliver(Written {
                    base_offset: Offset(result.base_offset),
                    append_time: append_time(result.log_append_time_ms),
                });
            }
            Err(error) => lane.refused(error, &self.shared),
        }
        if lane.window.at_rest() {
            lane.window.rest();
            let lane = place.take().expect("the lane was there a moment ago");
            self.free.push(sent.slot);
            self.shared.give_back(lane);
        } else {
            self.make_ready(sent.slot);
        }
        Ok(())
    }
}

/// The next batch of a lane, encoded and in flight, and the span that it is sent under.
fn next_batch(lane: &mut Lane, shared: &Shared, now: Instant) -> Drained<(Bytes, Option<TraceContext>)> {
    loop {
        // Before the look, so that a record which comes behind it signals again.
        lane.queue.lock().home.seen();
        if !lane.window.may_send(shared.config.max_in_flight) {
            return Drained::Busy;
        }
        let entry = match lane.window.resend() {
            Some(entry) => entry,
            None => {
                let quiet = lane.window.is_quiet();
                let drained = lane.queue.lock().drain(now, shared.config.linger, quiet);
                match drained {
                    Drained::Batch(batch) => lane.window.send_new(batch, shared.identity()),
                    Drained::Wait(due) => return Drained::Wait(due),
                    Drained::Busy => return Drained::Busy,
                    Drained::Empty => return Drained::Empty,
                }
            }
        };
        match entry.batch.encode(entry.stamp) {
            Ok(bytes) => return Drained::Batch((bytes, entry.batch.trace())),
            Err(error) => {
                let error = ApiError::new(error.code(), error.to_string());
                if let Some(mut batch) = lane.window.take_newest() {
                    batch.fail(DeliveryError::Refused(Arc::new(error)));
                }
            }
        }
    }
}

/// A batch that the broker's server would not even read: in halves, or not at all.
fn refuse_newest(lane: &mut Lane, size: usize, limit: usize) {
    let message =
        format!("the batch has {size} bytes, more than the {limit} that the broker takes in one request");
    let error = ApiError::new(ErrorCode::MessageTooLarge, message);
    if let Some(mut batch) = lane.window.replace_newest(Batch::split_if_many) {
        batch.fail(DeliveryError::Refused(Arc::new(error)));
    }
}

/// Lets the broker read what was written, without which the end of the task would cut it off: with `Acks::None` nobody
/// knows whether it has arrived.
async fn half_close(link: ProduceLink, limit: Duration) {
    let ProduceLink { requests, mut answers, .. } = link;
    drop(requests);
    let ended = async { while let Ok(Some(_)) = answers.message().await {} };
    if tokio::time::timeout(limit, ended).await.is_err() {
        tracing::warn!("the broker did not end a produce stream that was half-closed");
    }
}

/// The request queue is gone with the stream; the answers say why.
async fn why_closed(link: &mut ProduceLink) -> End {
    // Answers to what was sent before are lost with the stream: those batches are sent again.
    match tokio::time::timeout(ANSWER_GRACE, link.answers.message()).await {
        Ok(Err(status)) => End::from_error(&status.into()),
        _ => End::Broken("the stream was closed".to_owned(), None),
    }
}

// === impl End ===

impl End {
    fn from_error(error: &ClientError) -> End {
        let text = match error {
            ClientError::Transport(status) => describe(status),
            other => other.to_string(),
        };
        End::Broken(text, error.code())
    }
}

/// Lanes that nobody will take any more are failed, also when the task panics.
struct CloseOnDrop(Arc<Inbox>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        drop(self.0.close());
    }
}
