//! Writes of one shard to its partition's leader: in order, exactly once, several under way.
//!
//! ```text
//!   submit ─► pending (batches with their sequences) ─► ProduceStream, at most 5 ─► acks, in order ─► next()
//!                 └──── anything went wrong: all that is pending again, in order, wherever the leader is then
//! ```

use crate::leaders::{Leader, Leaders, Use};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::batch::{BatchBuilder, HEADER_LEN, ProducerStamp};
use thalweg_core::compression::Compression;
use thalweg_core::metadata::ShardLease;
use thalweg_core::planted::{Bug, planted};
use thalweg_core::{ErrorCode, Offset, Retriable, Sequence, Timestamp, TopicPartition};
use thalweg_proto::v1::produce_stream_ack::Outcome;
use thalweg_proto::v1::produce_stream_response::Event;
use thalweg_proto::v1::producer_service_client::ProducerServiceClient;
use thalweg_proto::{ApiError, LEASE_EPOCH_HEADER, v1};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

/// Batches that are sent and not acknowledged: as many as a broker remembers of a producer, so that each can be sent again.
pub const IN_FLIGHT: usize = 5;
/// The largest batch of several records, in bytes, before compression: a fetch never has to hold more at once. The topic may ask
/// for less. A record that is larger goes alone; the shard makes none that the topic does not take.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// Bytes of a batch from which on compressing it is worth its time.
const COMPRESS_FROM: usize = 16 * 1024;
/// What a batch that does not compress may grow by.
const SLACK: usize = 1024;
/// For the answer to leave the broker, on top of the time that it waits for the acks.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// A key and a value as they lie in the log.
pub type Encoded = (Vec<u8>, Option<Vec<u8>>);

/// How long is waited for what.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// For the acks of one batch.
    pub acks: Duration,
    /// For a stream to open.
    pub open: Duration,
    /// First pause after a failure; it doubles.
    pub retry_first: Duration,
    /// Longest such pause.
    pub retry_most: Duration,
}

/// Why no more can be written under this lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// Another has the shard.
    #[error("fenced: {0}")]
    Fenced(ApiError),
    /// What is in memory may not be what is in the log.
    #[error("{0}")]
    Lost(ApiError),
}

#[derive(Debug)]
struct Pending {
    number: u64,
    batch: Bytes,
    sent: Option<Instant>,
    // Whether this is the last batch of a submission.
    is_last: bool,
}

enum Link {
    Idle,
    Pausing(Instant),
    Opening(Opening),
    Open(Box<Open>),
}

struct Opening {
    leader: Leader,
    until: Instant,
    requests: mpsc::Sender<v1::ProduceStreamRequest>,
    answers: BoxFuture<'static, Result<Streaming<v1::ProduceStreamResponse>, Status>>,
}

struct Open {
    leader: Leader,
    requests: mpsc::Sender<v1::ProduceStreamRequest>,
    answers: Streaming<v1::ProduceStreamResponse>,
    // How many of the pending batches were sent on this stream.
    sent: usize,
}

/// The writer of one lease.
pub struct Writer {
    leaders: Arc<Leaders>,
    at: TopicPartition,
    lease: ShardLease,
    times: Times,
    pending: VecDeque<Pending>,
    number: u64,
    sequence: Sequence,
    link: Link,
    pause: Duration,
}

impl Writer {
    /// Nothing is written yet: the first batch has sequence 0.
    pub fn new(leaders: Arc<Leaders>, at: TopicPartition, lease: ShardLease, times: Times) -> Writer {
        Writer {
            leaders,
            at,
            lease,
            pending: VecDeque::new(),
            number: 0,
            sequence: Sequence(0),
            link: Link::Idle,
            pause: times.retry_first,
            times,
        }
    }

    /// Whether another submission would be sent at once.
    pub fn has_room(&self) -> bool {
        self.pending.len() < IN_FLIGHT
    }

    /// Whether all is acknowledged.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes records to write; `most` is the topic's bound on a batch. Those of one submission are one batch unless they are
    /// too many. At least one record.
    pub fn submit(&mut self, records: &[Encoded], most: usize, now: Timestamp) {
        let most = most.min(MAX_BATCH_BYTES);
        let size = |(key, value): &Encoded| key.len() + value.as_ref().map_or(0, Vec::len) + 32;
        let total = records.iter().map(size).sum::<usize>() + HEADER_LEN;
        let compression = if total < COMPRESS_FROM { Compression::None } else { Compression::Lz4 };
        let limit = if total < most { most } else { most.saturating_sub(SLACK) };
        let new = || BatchBuilder::with_buffer(compression, limit, Vec::with_capacity(total.min(limit)));
        let mut batch = new();
        for (key, value) in records {
            if !batch.has_room_for(Some(key), value.as_deref(), &[]) {
                self.push(std::mem::replace(&mut batch, new()), false);
            }
            batch.append(now, Some(key), value.as_deref(), &[]);
        }
        self.push(batch, true);
    }

    fn push(&mut self, batch: BatchBuilder, is_last: bool) {
        let count = batch.record_count();
        let stamp = if planted(Bug::UnfencedOwner) {
            ProducerStamp::NONE
        } else {
            ProducerStamp {
                producer_id: self.lease.producer_id,
                producer_epoch: self.lease.producer_epoch,
                base_sequence: self.sequence,
                transactional: false,
            }
        };
        self.sequence = self.sequence.advance(count);
        let number = self.number;
        self.number += 1;
        self.pending.push_back(Pending { number, batch: batch.finish(stamp), sent: None, is_last });
    }

    /// The metadata changed: if another leads now, what is pending goes there at once.
    pub fn metadata_changed(&mut self) {
        let leader = self.leaders.leader_of(&self.at).ok();
        let stays = match &self.link {
            Link::Idle => true,
            Link::Pausing(_) => leader.is_none(),
            // Without a leader there is nowhere else to go, and the former one may be heard yet.
            Link::Opening(opening) => leader.is_none_or(|leader| leader == opening.leader),
            Link::Open(open) => leader.is_none_or(|leader| leader == open.leader),
        };
        if !stays {
            self.link = Link::Idle;
        }
    }

    /// The next submission that is durable: where its last batch begins. Waits for ever while nothing is pending. Safe to drop
    /// and call again.
    pub async fn next(&mut self) -> Result<Offset, WriteError> {
        loop {
            match &mut self.link {
                Link::Idle if self.pending.is_empty() => std::future::pending().await,
                Link::Idle => self.connect(),
                Link::Pausing(until) => {
                    tokio::time::sleep_until(*until).await;
                    self.link = Link::Idle;
                }
                Link::Opening(opening) => {
                    let opened = tokio::time::timeout_at(opening.until, &mut opening.answers).await;
                    let Link::Opening(opening) = std::mem::replace(&mut self.link, Link::Idle) else {
                        continue;
                    };
                    match opened {
                        Ok(Ok(answers)) => {
                            let Opening { leader, requests, .. } = opening;
                            self.link = Link::Open(Box::new(Open { leader, requests, answers, sent: 0 }));
                        }
                        Ok(Err(status)) => {
                            let error = ApiError::from_status(&status);
                            match error.as_ref().and_then(fatal) {
                                Some(fatal) => return Err(fatal),
                                None => self.failed(&status.message()),
                            }
                        }
                        Err(_) => self.failed(&"the leader did not open a stream in time"),
                    }
                }
                Link::Open(open) => {
                    send(open, &mut self.pending, &self.at, self.times.acks);
                    let oldest = self.pending.front().and_then(|pending| pending.sent);
                    let late = self.times.acks + ANSWER_MARGIN;
                    let answer = tokio::select! {
                        answer = open.answers.message() => answer,
                        () = until(oldest.map(|sent| sent + late)) => {
                            self.failed(&"the leader did not answer in time");
                            continue;
                        }
                    };
                    let failure = match answer {
                        Ok(Some(message)) => match message.event {
                            Some(Event::Ack(ack)) => match self.acknowledged(ack) {
                                Ok(Some(offset)) => return Ok(offset),
                                Ok(None) => continue,
                                Err(error) => error,
                            },
                            _ => continue,
                        },
                        Ok(None) => {
                            ApiError::new(ErrorCode::LeaderNotAvailable, "the leader ended the stream")
                        }
                        Err(status) => ApiError::from_status(&status).unwrap_or_else(|| {
                            ApiError::new(ErrorCode::LeaderNotAvailable, status.message())
                        }),
                    };
                    match fatal(&failure) {
                        Some(fatal) => return Err(fatal),
                        // With nothing under way there is no hurry.
                        None if self.pending.is_empty() => self.link = Link::Idle,
                        None => self.failed(&failure),
                    }
                }
            }
        }
    }

    /// Takes in an ack. `Some`: a submission is durable.
    fn acknowledged(&mut self, ack: v1::ProduceStreamAck) -> Result<Option<Offset>, ApiError> {
        let wrong = |what| Err(ApiError::new(ErrorCode::LeaderNotAvailable, what));
        let Link::Open(open) = &mut self.link else { return Ok(None) };
        if self.pending.front().is_none_or(|pending| pending.number != ack.correlation_id) || open.sent == 0 {
            return wrong("the leader answered what was not asked");
        }
        let base = match ack.outcome {
            Some(Outcome::Response(response)) => match response.results.first() {
                Some(result) if result.error.is_none() => Offset(result.base_offset),
                _ => return wrong("the leader's answer is empty"),
            },
            Some(Outcome::Error(error)) => return Err(ApiError::from_proto(&error)),
            None => return wrong("the leader's answer is empty"),
        };
        self.pause = self.times.retry_first;
        open.sent -= 1;
        let is_last = self.pending.pop_front().is_some_and(|pending| pending.is_last);
        Ok(is_last.then_some(base))
    }

    fn connect(&mut self) {
        let opening = self.leaders.leader_of(&self.at).and_then(|leader| {
            let channel = self.leaders.channel(&leader, Use::writes_of(self.at.partition))?;
            let (requests, queued) = mpsc::channel(IN_FLIGHT);
            let mut request = Request::new(ReceiverStream::new(queued));
            request.metadata_mut().insert(LEASE_EPOCH_HEADER, self.lease.epoch.get().into());
            let mut client = ProducerServiceClient::new(channel);
            let answers =
                Box::pin(
                    async move { client.produce_stream(request).await.map(tonic::Response::into_inner) },
                );
            Ok(Opening { leader, until: Instant::now() + self.times.open, requests, answers })
        });
        match opening {
            Ok(opening) => self.link = Link::Opening(opening),
            Err(error) => self.failed(&error),
        }
    }

    /// Tries again after a pause, with all that is pending.
    fn failed(&mut self, why: &dyn std::fmt::Display) {
        tracing::debug!(shard = %self.at, pending = self.pending.len(), %why, "a write is not acknowledged; trying again");
        for pending in &mut self.pending {
            pending.sent = None;
        }
        self.link = Link::Pausing(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(self.times.retry_most);
    }
}

/// Sends what is pending, as far as there may be more under way.
fn send(open: &mut Open, pending: &mut VecDeque<Pending>, at: &TopicPartition, acks: Duration) {
    for pending in pending.iter_mut().take(IN_FLIGHT).skip(open.sent) {
        let produce = v1::ProduceRequest {
            topic: at.topic.as_str().to_owned(),
            partition: Some(at.partition.get()),
            payload: Some(v1::produce_request::Payload::RecordBatch(pending.batch.clone())),
            acks: v1::Acks::All as i32,
            timeout_ms: u32::try_from(acks.as_millis()).unwrap_or(u32::MAX),
            routing: v1::Routing::LeaderOnly as i32,
            ..Default::default()
        };
        let request = v1::ProduceStreamRequest {
            correlation_id: pending.number,
            produce: Some(produce),
            ..Default::default()
        };
        // The transport has not taken the former ones yet; or the stream is over, which its answers tell.
        if open.requests.try_send(request).is_err() {
            return;
        }
        pending.sent = Some(Instant::now());
        open.sent += 1;
    }
}

/// What no further attempt can change.
fn fatal(error: &ApiError) -> Option<WriteError> {
    match error.code {
        ErrorCode::InvalidProducerEpoch | ErrorCode::StaleCoordinatorEpoch => {
            Some(WriteError::Fenced(error.clone()))
        }
        // The broker's metadata is older, or newer: then the lease goes with the topic.
        ErrorCode::UnknownTopic | ErrorCode::UnknownPartition => None,
        _ if error.retriable() != Retriable::No => None,
        _ => Some(WriteError::Lost(error.clone())),
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer")
            .field("at", &self.at)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}
