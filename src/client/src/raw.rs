//! One produce stream as it is: encoded batches out, answers in, in order.

use crate::client::Client;
use crate::net::Purpose;
use crate::producer::Acks;
use crate::proto::produce_request::Payload;
use crate::proto::produce_stream_ack::Outcome;
use crate::proto::produce_stream_response::Event;
use crate::proto::producer_service_client::ProducerServiceClient;
use crate::trace::current;
use crate::{ClientError, proto};
use bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{LeaderEpoch, Offset, PartitionId, Timestamp};
use thalweg_proto::ApiError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

/// Requests that wait to be encoded, at most.
const REQUEST_QUEUE: usize = 64;
/// The largest request that is ever encoded; the broker's own limit is lower.
const MAX_REQUEST_MESSAGE: usize = 256 << 20;
/// The largest answer, in bytes.
const MAX_ANSWER_MESSAGE: usize = 4 << 20;
/// Bytes that a request has around its batch at most, the topic's name aside.
pub(crate) const REQUEST_OVERHEAD: usize = 64;

/// A stream to one broker, for any of the partitions that it leads.
pub(crate) struct ProduceLink {
    pub(crate) requests: mpsc::Sender<proto::ProduceStreamRequest>,
    pub(crate) answers: Streaming<proto::ProduceStreamResponse>,
    /// Bytes that the broker takes before it answers any.
    pub(crate) max_in_flight_bytes: usize,
    /// The largest request.
    pub(crate) max_request_bytes: usize,
}

/// One `ProduceStream` to a partition's leader. For measuring, and for programs that encode batches themselves
/// ([`thalweg_core::batch::BatchBuilder`]). It does not retry: after an error, open another.
///
/// The caller keeps what it has in flight below [`max_in_flight_bytes`](Self::max_in_flight_bytes); beyond that the
/// broker stops reading and [`send`](Self::send) waits.
pub struct RawProduceStream {
    link: ProduceLink,
    topic: String,
    partition: PartitionId,
    acks: Acks,
    timeout: Duration,
    next: u64,
    /// Whether brokers are told of the current span.
    traced: bool,
    /// Requests without answer, at most what the broker's bytes in flight allow.
    pending: VecDeque<u64>,
}

/// The answer to one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawAck {
    /// What [`RawProduceStream::send`] gave.
    pub correlation_id: u64,
    /// The first record's offset.
    pub base_offset: Offset,
    /// The last record's offset.
    pub last_offset: Offset,
    /// The leader's time of the append, if the topic uses LogAppendTime.
    pub log_append_time: Option<Timestamp>,
    /// Whether the batch had been written before.
    pub duplicate: bool,
    /// Replicas that have it.
    pub replicas: i32,
    /// Whether it is on stable storage on all of them.
    pub fsynced: bool,
    /// The leader epoch under which it was appended.
    pub leader_epoch: LeaderEpoch,
}

impl Client {
    /// Opens a stream to a partition's leader.
    pub async fn produce_stream(
        &self,
        topic: &str,
        partition: PartitionId,
        acks: Acks,
    ) -> Result<RawProduceStream, ClientError> {
        let leader = self.leader(topic, partition).await?;
        let timeout = self.config().request_timeout;
        let link = match tokio::time::timeout(timeout, ProduceLink::open(self, &leader.endpoint)).await {
            Ok(link) => link?,
            Err(_) => return Err(Status::deadline_exceeded("the produce stream did not open").into()),
        };
        Ok(RawProduceStream {
            link,
            topic: topic.to_owned(),
            partition,
            acks,
            timeout,
            next: 0,
            traced: self.tracing().propagates(),
            pending: VecDeque::new(),
        })
    }
}

impl RawProduceStream {
    /// Sends one encoded batch and gives the name that its answer will have. The brokers' spans of it are the current span's, if
    /// that is sampled. Cancel safe.
    pub async fn send(&mut self, batch: Bytes) -> Result<u64, ClientError> {
        let gone = "the stream is closed; its last answer says why";
        let slot = self.link.requests.reserve().await.map_err(|_| ClientError::Protocol(gone))?;
        let correlation = self.next;
        let mut message = request(correlation, &self.topic, self.partition, batch, self.acks, self.timeout);
        if self.traced {
            message.trace_context = current();
        }
        slot.send(message);
        self.next += 1;
        if self.acks != Acks::None {
            self.pending.push_back(correlation);
        }
        Ok(correlation)
    }

    /// The next answer, in the order of sending. Waits for ever if nothing is in flight. Cancel safe.
    pub async fn next_ack(&mut self) -> Result<RawAck, ClientError> {
        let message = self.link.answers.message().await.map_err(ClientError::from_status)?;
        let message = message.ok_or(ClientError::Protocol("the broker ended the produce stream"))?;
        let Some(Event::Ack(ack)) = message.event else {
            return Err(ClientError::Protocol("the produce stream was opened twice"));
        };
        if self.pending.pop_front() != Some(ack.correlation_id) {
            return Err(ClientError::Protocol("an answer is out of order"));
        }
        let result = match ack.outcome {
            Some(Outcome::Response(response)) => only_result(response)?,
            Some(Outcome::Error(error)) => return Err(ApiError::from_proto(&error).into()),
            None => return Err(ClientError::Protocol("an answer has no outcome")),
        };
        let durability = result.durability.unwrap_or_default();
        Ok(RawAck {
            correlation_id: ack.correlation_id,
            base_offset: Offset(result.base_offset),
            last_offset: Offset(result.last_offset),
            log_append_time: append_time(result.log_append_time_ms),
            duplicate: result.duplicate,
            replicas: durability.replicas,
            fsynced: durability.fsynced,
            leader_epoch: LeaderEpoch(durability.leader_epoch),
        })
    }

    /// Batches without answer.
    pub fn in_flight(&self) -> usize {
        self.pending.len()
    }

    /// Bytes of requests that the broker takes before it answers any.
    pub fn max_in_flight_bytes(&self) -> usize {
        self.link.max_in_flight_bytes
    }

    /// The largest request that the broker takes, in bytes.
    pub fn max_request_bytes(&self) -> usize {
        self.link.max_request_bytes
    }
}

impl ProduceLink {
    /// Opens a stream and waits for the broker's limits.
    pub(crate) async fn open(client: &Client, endpoint: &Arc<str>) -> Result<ProduceLink, ClientError> {
        let channel = client.channels().get(Purpose::Produce, endpoint)?;
        let mut service = ProducerServiceClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER_MESSAGE)
            .max_encoding_message_size(MAX_REQUEST_MESSAGE);
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        let answers = service.produce_stream(ReceiverStream::new(queue)).await;
        let mut answers = answers.map_err(ClientError::from_status)?.into_inner();
        let first = answers.message().await.map_err(ClientError::from_status)?;
        let Some(Event::Opened(limits)) = first.and_then(|message| message.event) else {
            return Err(ClientError::Protocol("a produce stream does not begin with its limits"));
        };
        let bytes = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX).max(1);
        Ok(ProduceLink {
            requests,
            answers,
            max_in_flight_bytes: bytes(limits.max_in_flight_bytes),
            max_request_bytes: bytes(limits.max_request_bytes),
        })
    }
}

/// A request with one batch, for the leader only.
pub(crate) fn request(
    correlation_id: u64,
    topic: &str,
    partition: PartitionId,
    batch: Bytes,
    acks: Acks,
    timeout: Duration,
) -> proto::ProduceStreamRequest {
    let produce = proto::ProduceRequest {
        topic: topic.to_owned(),
        partition: Some(partition.get()),
        payload: Some(Payload::RecordBatch(batch)),
        acks: proto::Acks::from(acks).into(),
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        compression: proto::Compression::Unspecified.into(),
        routing: proto::Routing::LeaderOnly.into(),
    };
    proto::ProduceStreamRequest { correlation_id, produce: Some(produce), ..Default::default() }
}

/// The result of a request with one partition.
pub(crate) fn only_result(response: proto::ProduceResponse) -> Result<proto::ProduceResult, ClientError> {
    let result = response.results.into_iter().next();
    let result = result.ok_or(ClientError::Protocol("an answer has no result"))?;
    match &result.error {
        Some(error) => Err(ApiError::from_proto(error).into()),
        None => Ok(result),
    }
}

/// The leader's time of an append; the wire's -1 is none.
pub(crate) fn append_time(millis: i64) -> Option<Timestamp> {
    (millis >= 0).then_some(Timestamp(millis))
}

impl From<Status> for ClientError {
    fn from(status: Status) -> ClientError {
        ClientError::from_status(status)
    }
}
