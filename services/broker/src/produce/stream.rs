//! ProduceStream: one state machine that the response stream polls, so that a write that needs no waiting is read, appended
//! and acknowledged in one task, without a channel between.
//!
//! ```text
//!   inbound ──read──► append ──► pending (in order) ──head holds──► ack
//!      ▲                            │
//!      └── not read while pending is full, or the process's budget is ──┘   (HTTP/2 flow control does the rest)
//! ```

use super::fence::Writer;
use super::request::Acks;
use super::{Accepted, Appender, timed_out, weight};
use crate::in_flight::Charge;
use crate::node::Node;
use crate::refusal;
use crate::replicas::{Registration, Session, Slot};
use crate::stopping::Stopping;
use crate::trace;
use futures_util::{Stream, StreamExt, stream};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_proto::{ApiError, v1};
use tokio::time::{Instant, Sleep};
use tonic::{Code, Status};

/// Appended bytes after which acks are handed to the transport even if more requests are there. Without it, a client that
/// keeps the stream full would see its acks only when its window is used up.
const FLUSH_ACKS_AFTER_BYTES: usize = 64 * 1024;

/// Serves one stream of that writer's requests.
pub fn serve<S>(
    node: Arc<Node>,
    inbound: S,
    writer: Writer,
) -> impl Stream<Item = Result<v1::ProduceStreamResponse, Status>>
where
    S: Stream<Item = Result<v1::ProduceStreamRequest, Status>> + Send + Unpin,
{
    stream::unfold(ProduceStream::new(node, inbound, writer), |mut stream| async move {
        let message = stream.next().await?;
        Some((message, stream))
    })
}

enum Stage {
    /// Nothing was said yet.
    New,
    /// Requests are taken.
    Open,
    /// No more requests are taken; what was appended is answered, then the stream ends so.
    Draining(Result<(), Status>),
    Done,
}

struct Pending {
    correlation_id: u64,
    outcome: Result<Accepted, ApiError>,
    // `None` when nothing was left to wait for at the append.
    deadline: Option<Instant>,
    charge: Charge,
    // Keeps this stream among the waiters of the partitions that it waits for.
    _registrations: Vec<Registration>,
}

struct ProduceStream<S> {
    node: Arc<Node>,
    inbound: S,
    stage: Stage,
    appender: Appender,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    unflushed_bytes: usize,
    session: Arc<Session>,
    slot: Arc<Slot>,
    marked: Vec<u32>,
    timer: Pin<Box<Sleep>>,
    armed: Option<Instant>,
    stopping: Stopping,
    // After the broker was told to stop: when pending writes are given up.
    last_call: Option<Instant>,
}

impl<S> ProduceStream<S>
where
    S: Stream<Item = Result<v1::ProduceStreamRequest, Status>> + Send + Unpin,
{
    fn new(node: Arc<Node>, inbound: S, writer: Writer) -> Self {
        let session = Session::new();
        ProduceStream {
            inbound,
            stage: Stage::New,
            appender: Appender::new(writer),
            pending: VecDeque::new(),
            pending_bytes: 0,
            unflushed_bytes: 0,
            slot: session.slot(0),
            session,
            marked: Vec::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            stopping: node.stopping(),
            last_call: None,
            node,
        }
    }

    async fn next(&mut self) -> Option<Result<v1::ProduceStreamResponse, Status>> {
        if matches!(self.stage, Stage::New) {
            self.stage = Stage::Open;
            return Some(Ok(self.opened()));
        }
        if self.unflushed_bytes >= FLUSH_ACKS_AFTER_BYTES {
            self.unflushed_bytes = 0;
            breathe().await;
        }
        loop {
            if let Some(ack) = self.take_answer() {
                return Some(Ok(ack));
            }
            if self.pending.is_empty() {
                match std::mem::replace(&mut self.stage, Stage::Done) {
                    Stage::Draining(end) => return end.err().map(Err),
                    Stage::Done => return None,
                    stage => self.stage = stage,
                }
            }
            self.step().await;
        }
    }

    /// Waits for whatever comes first, and takes it in.
    async fn step(&mut self) {
        let waiting = !self.pending.is_empty();
        let open = matches!(self.stage, Stage::Open);
        let limits = &self.node.config.limits;
        let wanted = open
            && self.pending.len() < limits.stream_in_flight_requests
            && self.pending_bytes < limits.stream_in_flight_bytes;
        let room = self.node.in_flight.has_room();
        tokio::select! {
            biased;
            // First, or a producer in full swing would never let it have its turn.
            () = self.stopping.wait(), if open => {
                self.last_call = Some(Instant::now() + self.node.config.intervals.answer_grace);
                self.stage = Stage::Draining(Err(refusal::shutting_down().to_status()));
            }
            () = self.session.marked(), if waiting => {
                self.marked.clear();
                self.session.take_ready(&mut self.marked);
                self.slot.acknowledge();
            }
            () = self.timer.as_mut(), if waiting && self.armed.is_some() => self.armed = None,
            message = self.inbound.next(), if wanted && room => self.take_in(message),
            () = self.node.in_flight.room(), if wanted && !room => {}
        }
    }

    fn take_in(&mut self, message: Option<Result<v1::ProduceStreamRequest, Status>>) {
        let request = match message {
            Some(Ok(request)) => request,
            Some(Err(status)) => {
                self.stage = Stage::Draining(Err(self.inbound_failed(status)));
                return;
            }
            None => {
                self.stage = Stage::Draining(Ok(()));
                return;
            }
        };
        let caller = trace::of_stream(self.node.replicas.tracing(), &request);
        let Some(produce) = request.produce else {
            self.push(request.correlation_id, Err(ApiError::invalid("produce", "say what to write")), 0);
            return;
        };
        let bytes = weight(&produce);
        let silent = produce.acks == v1::Acks::None as i32;
        let outcome = self.appender.append(&self.node, produce, caller, self.node.clock.now());
        self.unflushed_bytes += bytes;
        match outcome {
            Ok(accepted) if accepted.acks == Acks::None => {}
            Err(error) if silent => tracing::debug!(%error, "a produce request without acks was refused"),
            outcome => self.push(request.correlation_id, outcome, bytes),
        }
    }

    fn push(&mut self, correlation_id: u64, outcome: Result<Accepted, ApiError>, bytes: usize) {
        let (mut registrations, mut deadline) = (Vec::new(), None);
        if let Ok(accepted) = &outcome {
            registrations
                .extend(accepted.waiting().map(|write| write.partition.register(Arc::clone(&self.slot))));
            if !registrations.is_empty() {
                deadline = Some(Instant::now() + accepted.timeout);
            }
        }
        self.pending_bytes += bytes;
        self.pending.push_back(Pending {
            correlation_id,
            outcome,
            deadline,
            charge: self.node.in_flight.charge(bytes),
            _registrations: registrations,
        });
    }

    /// The oldest request's answer, if it can be given.
    fn take_answer(&mut self) -> Option<v1::ProduceStreamResponse> {
        let head = self.pending.front()?;
        let settled = head.outcome.as_ref().map_or(true, Accepted::is_settled);
        let mut stopped = false;
        if !settled {
            let now = Instant::now();
            let own = head.deadline.unwrap_or(now);
            let deadline = self.last_call.map_or(own, |last_call| own.min(last_call));
            if now < deadline {
                // One timer for all: it fires at most as often as the oldest deadline changes.
                if self.armed.is_none_or(|armed| deadline < armed) {
                    self.timer.as_mut().reset(deadline);
                    self.armed = Some(deadline);
                }
                return None;
            }
            stopped = deadline < own;
        }
        let head = self.pending.pop_front()?;
        self.pending_bytes -= head.charge.bytes();
        let answer = head
            .outcome
            .and_then(|accepted| accepted.answer(if stopped { refusal::shutting_down } else { timed_out }));
        Some(ack(head.correlation_id, answer))
    }

    fn opened(&self) -> v1::ProduceStreamResponse {
        let limits = &self.node.config.limits;
        let opened = v1::ProduceStreamOpened {
            max_in_flight_bytes: limits.stream_in_flight_bytes as u64,
            max_request_bytes: limits.max_request_bytes as u64,
        };
        v1::ProduceStreamResponse { event: Some(v1::produce_stream_response::Event::Opened(opened)) }
    }

    fn inbound_failed(&self, status: Status) -> Status {
        // The transport's word for a message that is longer than the limit it was given.
        if status.code() != Code::OutOfRange {
            return status;
        }
        let most = self.node.config.limits.max_request_bytes;
        ApiError::new(ErrorCode::MessageTooLarge, format!("a request has at most {most} bytes"))
            .with_field("produce")
            .to_status()
    }
}

fn ack(correlation_id: u64, answer: Result<v1::ProduceResponse, ApiError>) -> v1::ProduceStreamResponse {
    let outcome = match answer {
        Ok(response) => v1::produce_stream_ack::Outcome::Response(response),
        Err(error) => v1::produce_stream_ack::Outcome::Error(error.to_proto()),
    };
    let ack = v1::ProduceStreamAck { correlation_id, outcome: Some(outcome) };
    v1::ProduceStreamResponse { event: Some(v1::produce_stream_response::Event::Ack(ack)) }
}

/// Lets the transport have what it was given, then goes on at once.
async fn breathe() {
    let mut given = false;
    std::future::poll_fn(|context| {
        if given {
            return Poll::Ready(());
        }
        given = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
