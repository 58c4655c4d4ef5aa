//! ProduceStream for clients that know one broker only.
//!
//! ```text
//!   local    as long as each request is for partitions led here, they go to this broker's own stream, pipelined
//!   spread   otherwise each partition has a queue, and its head is under way at its leader
//! ```
//! What is open in one is answered before the other begins, so that answers come in the order of the requests, and each
//! partition gets its records in that order too. What a stream's first request says of routing holds for all of it.

use super::local::{Inbound, Local, Outbound, next_of, room as room_of};
use super::produce::{is_local, to_one};
use super::spread::{Parts, merge, split};
use crate::in_flight::Charge;
use crate::node::Node;
use crate::produce::fence::Writer;
use crate::produce::request::Terms;
use crate::produce::{stream as own, weight};
use crate::refusal;
use crate::stopping::Stopping;
use crate::trace;
use futures_util::future::{BoxFuture, Either, FutureExt};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt, stream};
use opentelemetry::trace::{FutureExt as _, SpanContext};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use thalweg_client::trace::remote;
use thalweg_core::ErrorCode;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;
use tonic::{Code, Status};

/// Serves one stream.
pub fn serve<S>(node: Arc<Node>, mut inbound: S) -> impl Stream<Item = Outbound>
where
    S: Stream<Item = Inbound> + Send + Unpin + 'static,
{
    let opened = stream::iter([Ok(opened(&node))]);
    let choosing = async move {
        let mut stopping = node.stopping();
        let first = tokio::select! {
            biased;
            () = stopping.wait() => None,
            first = inbound.next() => first,
        };
        let any = matches!(&first, Some(Ok(request)) if request.produce.as_ref().is_some_and(is_any));
        let inbound = stream::iter(first).chain(inbound);
        if any {
            let state = Forwarding::new(node, inbound);
            Either::Right(stream::unfold(state, |mut state| async move {
                let message = state.next().await?;
                Some((message, state))
            }))
        } else {
            // Its own first message was said already.
            Either::Left(own::serve(node, inbound, Writer::Client).skip(1))
        }
    };
    opened.chain(choosing.flatten_stream())
}

fn is_any(request: &v1::ProduceRequest) -> bool {
    v1::Routing::try_from(request.routing).is_ok_and(|routing| routing != v1::Routing::LeaderOnly)
}

fn opened(node: &Node) -> v1::ProduceStreamResponse {
    let limits = &node.config.limits;
    let opened = v1::ProduceStreamOpened {
        max_in_flight_bytes: limits.stream_in_flight_bytes as u64,
        max_request_bytes: limits.max_request_bytes as u64,
    };
    v1::ProduceStreamResponse { event: Some(v1::produce_stream_response::Event::Opened(opened)) }
}

type Key = (String, i32);
type PartAnswer = Result<v1::ProduceResponse, ApiError>;

/// A request whose parts are at their leaders.
struct Entry {
    correlation_id: u64,
    // Nobody is told.
    silent: bool,
    answers: Vec<(i32, Option<PartAnswer>)>,
    places: Vec<(u32, u32)>,
    open: usize,
    charge: Charge,
}

/// One partition's part of a request that waits for its turn.
struct Part {
    entry: u64,
    at: usize,
    request: v1::ProduceRequest,
    until: Instant,
    caller: Option<SpanContext>,
}

enum End {
    /// Requests are taken.
    Open,
    /// No more; what is open is answered, then the stream ends so.
    Coming(Result<(), Status>),
    Over,
}

struct Forwarding<S> {
    node: Arc<Node>,
    inbound: S,
    stopping: Stopping,
    end: End,
    local: Option<Local>,
    // Waits for the other way to be empty.
    held: Option<v1::ProduceStreamRequest>,
    entries: VecDeque<Entry>,
    // The number of the first entry.
    first: u64,
    // After the broker was told to stop: when what is open is given up.
    last_call: Option<Instant>,
    bytes: usize,
    queues: HashMap<Key, VecDeque<Part>>,
    running: FuturesUnordered<BoxFuture<'static, (Key, u64, usize, PartAnswer)>>,
}

impl<S> Forwarding<S>
where
    S: Stream<Item = Inbound> + Send + Unpin,
{
    fn new(node: Arc<Node>, inbound: S) -> Self {
        Forwarding {
            stopping: node.stopping(),
            node,
            inbound,
            end: End::Open,
            local: None,
            held: None,
            entries: VecDeque::new(),
            first: 0,
            last_call: None,
            bytes: 0,
            queues: HashMap::new(),
            running: FuturesUnordered::new(),
        }
    }

    async fn next(&mut self) -> Option<Outbound> {
        loop {
            if let Some(answer) = self.settled() {
                return Some(Ok(answer));
            }
            if let Some(held) = self.held.take_if(|_| self.local.is_none() && self.entries.is_empty()) {
                self.dispatch(held);
                continue;
            }
            if self.local.is_none() && self.entries.is_empty() && self.held.is_none() {
                match std::mem::replace(&mut self.end, End::Over) {
                    End::Coming(end) => return end.err().map(Err),
                    End::Over => return None,
                    End::Open => self.end = End::Open,
                }
            }
            if let Some(answer) = self.step().await {
                return Some(answer);
            }
        }
    }

    /// Waits for whatever comes first, and takes it in.
    async fn step(&mut self) -> Option<Outbound> {
        let limits = &self.node.config.limits;
        let open = matches!(self.end, End::Open);
        let room = self.node.in_flight.has_room();
        let spread_room = self.entries.len() < limits.stream_in_flight_requests
            && self.bytes < limits.stream_in_flight_bytes
            && room;
        // The local stream takes the next request when it is ready for one: the channel holds one at most.
        let full = self.local.as_ref().and_then(|local| local.requests.clone());
        let full = full.filter(|requests| requests.capacity() == 0);
        let has_room = full.is_none();
        let wanted = open && self.held.is_none();
        let answers = self.local.as_mut().map(|local| &mut local.answers);
        tokio::select! {
            biased;
            () = self.stopping.wait(), if open => {
                self.end = End::Coming(Err(refusal::shutting_down().to_status()));
                self.held = None;
                self.last_call = Some(Instant::now() + self.node.config.intervals.answer_grace);
                // The local stream sees the stop itself, and says so last.
                None
            }
            () = last_call(self.last_call), if !self.entries.is_empty() => {
                self.give_up();
                None
            }
            answer = next_of(answers) => match answer {
                Some(Ok(answer)) => Some(Ok(answer)),
                Some(Err(status)) => {
                    self.local = None;
                    self.held = None;
                    self.end = End::Over;
                    Some(Err(status))
                }
                None => {
                    self.local = None;
                    None
                }
            },
            Some((key, entry, at, answer)) = self.running.next() => {
                self.part_done(key, entry, at, answer);
                None
            }
            message = self.inbound.next(), if wanted && has_room && spread_room => {
                self.take_in(message);
                None
            }
            () = room_of(full), if !has_room => None,
            () = self.node.in_flight.room(), if wanted && !room => None,
        }
    }

    fn take_in(&mut self, message: Option<Inbound>) {
        match message {
            Some(Ok(request)) => self.dispatch(request),
            Some(Err(status)) => {
                let most = self.node.config.limits.max_request_bytes;
                // The transport's word for a message that is longer than the limit it was given.
                let status = match status.code() {
                    Code::OutOfRange if ApiError::from_status(&status).is_none() => ApiError::new(
                        ErrorCode::MessageTooLarge,
                        format!("a request has at most {most} bytes"),
                    )
                    .with_field("produce")
                    .to_status(),
                    _ => status,
                };
                self.finish(Err(status));
            }
            None => self.finish(Ok(())),
        }
    }

    fn finish(&mut self, end: Result<(), Status>) {
        if let Some(local) = &mut self.local {
            local.requests = None;
        }
        self.end = End::Coming(end);
    }

    /// Sends a request on its way, or holds it until what is open on the other way is answered.
    fn dispatch(&mut self, mut request: v1::ProduceStreamRequest) {
        if let Some(produce) = &mut request.produce
            && v1::Routing::try_from(produce.routing).is_ok()
        {
            produce.routing = v1::Routing::AnyBroker as i32;
        }
        let local = request.produce.as_ref().is_none_or(|produce| is_local(&self.node, produce));
        match (&mut self.local, local) {
            (None, true) if self.entries.is_empty() => {
                let opened = Local::open(&self.node);
                opened.hand_over(request);
                self.local = Some(opened);
            }
            (Some(open), true) => open.hand_over(request),
            (None, false) => self.spread(request),
            // Also what is led here goes that way while others are on it: the order is kept.
            (None, true) if request.produce.is_some() => self.spread(request),
            (open, _) => {
                if let Some(open) = open {
                    open.requests = None;
                }
                self.held = Some(request);
            }
        }
    }

    fn spread(&mut self, request: v1::ProduceStreamRequest) {
        let caller = trace::of_stream(self.node.replicas.tracing(), &request);
        let v1::ProduceStreamRequest { correlation_id, produce, .. } = request;
        let Some(produce) = produce else { return };
        let bytes = weight(&produce);
        let silent = produce.acks == v1::Acks::None as i32;
        let mut entry = Entry {
            correlation_id,
            silent,
            answers: Vec::new(),
            places: Vec::new(),
            open: 0,
            charge: self.node.in_flight.charge(bytes),
        };
        self.bytes += bytes;
        let number = self.first + self.entries.len() as u64;
        match self.parts(produce) {
            Err(error) => entry.answers.push((-1, Some(Err(error)))),
            Ok((parts, until)) => {
                let partition = |request: &v1::ProduceRequest| request.partition.unwrap_or(-1);
                entry.open = parts.requests.len();
                entry.places = parts.places;
                entry.answers = parts.requests.iter().map(|request| (partition(request), None)).collect();
                for (at, request) in parts.requests.into_iter().enumerate() {
                    let key = (request.topic.clone(), partition(&request));
                    let caller = caller.clone();
                    self.enqueue(key, Part { entry: number, at, request, until, caller });
                }
            }
        }
        self.entries.push_back(entry);
    }

    fn parts(&self, produce: v1::ProduceRequest) -> Result<(Parts, Instant), ApiError> {
        let until = Instant::now() + Terms::of(&produce)?.timeout;
        match (&produce.payload, produce.partition) {
            (Some(_), Some(_)) => Ok((Parts { requests: vec![produce], places: Vec::new() }, until)),
            (Some(v1::produce_request::Payload::Records(set)), None) => {
                crate::produce::records::check(&set.records)?;
                Ok((split(&self.node, produce)?, until))
            }
            (Some(_), None) => {
                Err(ApiError::invalid("partition", "an encoded batch needs its partition named"))
            }
            (None, _) => Err(ApiError::invalid("payload", "send records or record_batch")),
        }
    }

    fn enqueue(&mut self, key: Key, part: Part) {
        let queue = self.queues.entry(key.clone()).or_default();
        queue.push_back(part);
        if queue.len() == 1 {
            self.start(key);
        }
    }

    /// Starts the head of a partition's queue. It stays in the queue until it is done.
    fn start(&mut self, key: Key) {
        let Some(part) = self.queues.get(&key).and_then(VecDeque::front) else { return };
        let (entry, at, until) = (part.entry, part.at, part.until);
        let (node, request) = (Arc::clone(&self.node), part.request.clone());
        let caller = part.caller.clone();
        let answer = async move { (key, entry, at, to_one(&node, request, until).await) };
        self.running.push(match caller {
            Some(caller) => answer.with_context(remote(caller)).boxed(),
            None => answer.boxed(),
        });
    }

    fn part_done(&mut self, key: Key, entry: u64, at: usize, answer: PartAnswer) {
        if let Some(entry) = self.entries.get_mut((entry - self.first) as usize) {
            entry.answers[at].1 = Some(answer);
            entry.open -= 1;
        }
        let Some(queue) = self.queues.get_mut(&key) else { return };
        queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&key);
        } else {
            self.start(key);
        }
    }

    fn give_up(&mut self) {
        self.last_call = None;
        self.running.clear();
        self.queues.clear();
        for entry in &mut self.entries {
            entry.open = 0;
            for (_, answer) in &mut entry.answers {
                answer.get_or_insert_with(|| Err(refusal::shutting_down()));
            }
        }
    }

    /// The oldest request's answer, if it can be given.
    fn settled(&mut self) -> Option<v1::ProduceStreamResponse> {
        loop {
            self.entries.front().filter(|entry| entry.open == 0)?;
            let entry = self.entries.pop_front()?;
            self.first += 1;
            self.bytes -= entry.charge.bytes();
            let answers = entry.answers.into_iter().map(|(partition, answer)| {
                let unanswered = || Err(refusal::internal("a part was not answered", "no answer"));
                (partition, answer.unwrap_or_else(unanswered))
            });
            let merged = merge(answers.collect(), &entry.places);
            if entry.silent {
                if let Err(error) = merged {
                    tracing::debug!(%error, "a produce request without acks was refused");
                }
                continue;
            }
            let outcome = match merged {
                Ok(response) => v1::produce_stream_ack::Outcome::Response(response),
                Err(error) => v1::produce_stream_ack::Outcome::Error(error.to_proto()),
            };
            let ack = v1::ProduceStreamAck { correlation_id: entry.correlation_id, outcome: Some(outcome) };
            return Some(v1::ProduceStreamResponse {
                event: Some(v1::produce_stream_response::Event::Ack(ack)),
            });
        }
    }
}

async fn last_call(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
