//! The callers' way in: from a record to its place in a batch.

use super::Producer;
use super::delivery::{BatchState, Callback, Delivery};
use super::error::{DeliveryError, SendError};
use super::inbox::Home;
use super::lane::Lane;
use super::memory::Reserved;
use super::partitioner::Partitioner;
use super::queue::{PartitionQueue, QueueClosed, QueueState};
use super::record::{OwnedRecord, ProducerRecord, RecordMetadata};
use super::shared::Shared;
use super::topics::TopicQueues;
use crate::net::Backoff;
use crate::trace::SendSpan;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use thalweg_core::batch::{BatchBuilder, HEADER_LEN, record_size_bound};
use thalweg_core::partitioner::partition_for_key;
use thalweg_core::{PartitionId, Timestamp};
use tokio::time::Instant;

/// Why a record did not get into a batch at once.
enum Obstacle {
    /// The topic's partitions are not known.
    Topic,
    /// A new batch needs so much memory.
    Memory(usize),
    /// Waiting does not help.
    Final(SendError),
    /// The producer's tasks have ended.
    Ended { _lane: Box<Lane> },
}

impl Producer {
    /// Puts a record into its partition's batch. Waits at most `max_block` for buffer memory and, the first time, for the
    /// topic's metadata. The record is sent when its batch is full or `linger` has passed; the [`Delivery`] tells where it
    /// was written. Cancel safe: dropped while it waits, nothing was taken.
    pub async fn send(&self, record: ProducerRecord<'_>) -> Result<Delivery, SendError> {
        if self.shared().plain {
            self.send_plain(record, &mut None, None).await
        } else {
            self.send_watched(record, None).await
        }
    }

    /// The same without waiting: [`SendError::BufferFull`] and [`SendError::MetadataNotReady`] ask to come again.
    /// [`prepare`](Self::prepare) makes the metadata ready.
    pub fn try_send(&self, record: ProducerRecord<'_>) -> Result<Delivery, SendError> {
        let shared = self.shared();
        if shared.plain {
            return shared
                .place(&record, &mut None, &mut None, None)
                .map_err(|why| shared.explain(why, record.topic));
        }
        if shared.config.interceptors.is_empty() {
            return shared.try_traced(&record, None);
        }
        let owned = shared.intercept(&record);
        let headers = owned.borrowed_headers();
        shared.try_traced(&owned.as_record(&headers), Some(shared.acknowledge_to(None)))
    }

    /// As [`send`](Self::send), with a function that is called with the outcome. Functions of one partition are called in
    /// the order of their records, on the producer's own task: they must be quick and must not block.
    pub async fn send_with(
        &self,
        record: ProducerRecord<'_>,
        callback: impl FnOnce(Result<RecordMetadata, DeliveryError>) + Send + 'static,
    ) -> Result<(), SendError> {
        let callback: Callback = Box::new(callback);
        let sent = if self.shared().plain {
            self.send_plain(record, &mut Some(callback), None).await
        } else {
            self.send_watched(record, Some(callback)).await
        };
        sent.map(drop)
    }

    /// Fetches a topic's metadata, so that `try_send` finds it. Waits at most `max_block`.
    pub async fn prepare(&self, topic: &str) -> Result<(), SendError> {
        let shared = self.shared();
        let limit = shared.config.max_block;
        match tokio::time::timeout(limit, shared.client.metadata(topic)).await {
            Ok(Ok(metadata)) => {
                shared.topics.grow(&metadata);
                Ok(())
            }
            Ok(Err(source)) => Err(SendError::Metadata { topic: topic.to_owned(), source: Box::new(source) }),
            Err(_) => Err(SendError::MetadataNotReady { topic: topic.to_owned() }),
        }
    }

    async fn send_plain(
        &self,
        record: ProducerRecord<'_>,
        callback: &mut Option<Callback>,
        span: Option<&SendSpan>,
    ) -> Result<Delivery, SendError> {
        let shared = self.shared();
        match shared.place(&record, callback, &mut None, span) {
            Ok(delivery) => Ok(delivery),
            Err(Obstacle::Final(error)) if !matches!(error, SendError::UnknownPartition { .. }) => Err(error),
            Err(why) => self.send_slowly(record, callback, span, why).await,
        }
    }

    /// The way of a record that has to wait.
    async fn send_slowly(
        &self,
        record: ProducerRecord<'_>,
        callback: &mut Option<Callback>,
        span: Option<&SendSpan>,
        mut why: Obstacle,
    ) -> Result<Delivery, SendError> {
        let shared = self.shared();
        let begun = Instant::now();
        let deadline = begun + shared.config.max_block;
        let mut reserved = None;
        let mut refreshed = false;
        loop {
            match why {
                Obstacle::Topic => self.prepare(record.topic).await?,
                Obstacle::Memory(bytes) => {
                    shared.press();
                    let waited = tokio::select! {
                        waited = tokio::time::timeout_at(deadline, shared.memory.reserve(bytes)) => waited,
                        () = shared.closing.cancelled() => return Err(SendError::Closed),
                    };
                    reserved = waited.map_err(|_| shared.full(begun.elapsed()))?;
                }
                // The topic may have grown since its metadata was fetched.
                Obstacle::Final(SendError::UnknownPartition { .. }) if !refreshed => {
                    refreshed = true;
                    let refresh = tokio::time::timeout_at(deadline, shared.client.refresh(record.topic));
                    if let Ok(Ok(metadata)) = refresh.await {
                        shared.topics.grow(&metadata);
                    }
                }
                why => return Err(shared.explain(why, record.topic)),
            }
            match shared.place(&record, callback, &mut reserved, span) {
                Ok(delivery) => return Ok(delivery),
                Err(next) => why = next,
            }
        }
    }

    /// The way of a record that interceptors or a tracer look at.
    async fn send_watched(
        &self,
        record: ProducerRecord<'_>,
        callback: Option<Callback>,
    ) -> Result<Delivery, SendError> {
        let shared = self.shared();
        if shared.config.interceptors.is_empty() {
            return self.send_traced(record, callback).await;
        }
        let owned = shared.intercept(&record);
        let headers = owned.borrowed_headers();
        self.send_traced(owned.as_record(&headers), Some(shared.acknowledge_to(callback))).await
    }

    async fn send_traced(
        &self,
        record: ProducerRecord<'_>,
        mut callback: Option<Callback>,
    ) -> Result<Delivery, SendError> {
        let shared = self.shared();
        let Some(span) = shared.begin_span(&record) else {
            return self.send_plain(record, &mut callback, None).await;
        };
        let headers = span.headers(&record, shared.config.max_request_size);
        let mut callback = Some(delivered_to(span.clone(), callback));
        let record = ProducerRecord { headers: &headers, ..record };
        let sent = self.send_plain(record, &mut callback, Some(&span)).await;
        sent.inspect_err(|error| span.refused(error))
    }
}

impl Shared {
    /// Puts a record into its partition's batch, if that needs no waiting. `reserved` is memory that was waited for.
    #[inline]
    fn place(
        self: &Arc<Shared>,
        record: &ProducerRecord<'_>,
        callback: &mut Option<Callback>,
        reserved: &mut Option<Reserved>,
        span: Option<&SendSpan>,
    ) -> Result<Delivery, Obstacle> {
        self.topics.with(record.topic, |topic| {
            let topic = topic.ok_or(Obstacle::Topic)?;
            let (partition, sticky) = self.choose(topic, record);
            let index = usize::try_from(partition.get()).unwrap_or(usize::MAX);
            let Some(queue) = topic.queues.get(index) else {
                return Err(Obstacle::Final(SendError::UnknownPartition {
                    topic: record.topic.to_owned(),
                    partition: partition.get(),
                    partitions: topic.queues.len(),
                }));
            };
            let size = HEADER_LEN + record_size_bound(record.key, record.value, record.headers);
            if size > self.config.max_request_size {
                return Err(too_large(size, self.config.max_request_size));
            }
            let timestamp = record.timestamp.unwrap_or_else(now);
            let mut state = queue.lock();
            let delivery = match state.append(record, timestamp, callback) {
                Ok(Some(delivery)) => {
                    if let Some(span) = span {
                        state.trace(span);
                    }
                    delivery
                }
                Ok(None) => {
                    self.open_batch(queue, &mut state, size, reserved)?;
                    let appended = state.append(record, timestamp, callback);
                    let delivery = appended.ok().flatten().expect("a new batch takes its first record");
                    if let Some(span) = span {
                        state.trace(span);
                    }
                    state.close_full(self.config.effective_batch_size());
                    state.home.signal();
                    delivery
                }
                Err(QueueClosed(why)) => return Err(Obstacle::Final(closed(record.topic, partition, &why))),
            };
            if sticky && topic.queues.len() > 1 {
                state.sticky_bytes += size;
                if state.sticky_bytes >= self.config.batch_size {
                    state.sticky_bytes = 0;
                    drop(state);
                    topic.move_sticky(partition.get().unsigned_abs());
                }
            }
            Ok(delivery)
        })
    }

    /// Opens a batch that holds at least `size` bytes.
    #[cold]
    fn open_batch(
        self: &Arc<Shared>,
        queue: &Arc<PartitionQueue>,
        state: &mut QueueState,
        size: usize,
        reserved: &mut Option<Reserved>,
    ) -> Result<(), Obstacle> {
        if self.closing.is_cancelled() {
            return Err(Obstacle::Final(SendError::Closed));
        }
        let bytes = size.max(self.config.effective_batch_size());
        if bytes > self.memory.total() {
            return Err(too_large(bytes, self.memory.total()));
        }
        let reserved = match reserved.take() {
            Some(reserved) => reserved,
            None => self.memory.try_reserve(bytes).ok_or(Obstacle::Memory(bytes))?,
        };
        let batch = BatchState::new(queue.topic.clone(), queue.partition);
        let limit = self.config.effective_batch_size();
        let builder = BatchBuilder::with_buffer(self.config.compression, limit, self.memory.buffer(bytes));
        let tracked = self.tracker.track(&batch);
        state.open(builder, batch, reserved, tracked, Instant::now());
        if matches!(state.home, Home::Unborn) {
            state.home = Home::Resting(Arc::clone(&self.dispatch));
            let backoff = Backoff::new(self.config.retry_backoff, self.config.retry_backoff_max);
            let lane = Lane::new(Arc::clone(queue), self.identity(), backoff);
            // Handed out on failure, because its end locks the queue, which is locked here.
            self.dispatch.push(lane).map_err(|_lane| Obstacle::Ended { _lane })?;
        }
        Ok(())
    }

    /// The partition of a record, and whether it is the sticky one.
    #[inline]
    fn choose(&self, topic: &TopicQueues, record: &ProducerRecord<'_>) -> (PartitionId, bool) {
        if let Some(partition) = record.partition {
            return (PartitionId(partition), false);
        }
        match (&self.config.partitioner, record.key) {
            (Partitioner::Default, Some(key)) => (partition_for_key(key, topic.count()), false),
            (Partitioner::Default, None) => (topic.sticky(), true),
            (Partitioner::RoundRobin, _) => (topic.next_in_turn(), false),
            (Partitioner::Custom(custom), key) => {
                let count = topic.count();
                let chosen = custom.partition(record.topic, key, record.value, count);
                (PartitionId((chosen.get().unsigned_abs() % count).cast_signed()), false)
            }
        }
    }

    fn explain(&self, why: Obstacle, topic: &str) -> SendError {
        match why {
            Obstacle::Topic => SendError::MetadataNotReady { topic: topic.to_owned() },
            Obstacle::Memory(_) => {
                self.press();
                self.full(Duration::ZERO)
            }
            Obstacle::Final(error) => error,
            Obstacle::Ended { .. } => SendError::Closed,
        }
    }

    fn full(&self, waited: Duration) -> SendError {
        SendError::BufferFull { buffer_memory: self.config.buffer_memory, waited }
    }

    fn begin_span(&self, record: &ProducerRecord<'_>) -> Option<SendSpan> {
        SendSpan::begin(self.client.tracing(), &self.client.config().client_id, record)
    }

    fn try_traced(
        self: &Arc<Shared>,
        record: &ProducerRecord<'_>,
        mut callback: Option<Callback>,
    ) -> Result<Delivery, SendError> {
        let Some(span) = self.begin_span(record) else {
            let placed = self.place(record, &mut callback, &mut None, None);
            return placed.map_err(|why| self.explain(why, record.topic));
        };
        let headers = span.headers(record, self.config.max_request_size);
        let mut callback = Some(delivered_to(span.clone(), callback));
        let record = ProducerRecord { headers: &headers, ..*record };
        let placed = self.place(&record, &mut callback, &mut None, Some(&span));
        placed.map_err(|why| {
            let error = self.explain(why, record.topic);
            span.refused(&error);
            error
        })
    }

    fn intercept(&self, record: &ProducerRecord<'_>) -> OwnedRecord {
        self.config.interceptors.iter().fold(OwnedRecord::from(record), |record, each| each.on_send(record))
    }

    /// Tells the interceptors first, then the caller.
    fn acknowledge_to(&self, callback: Option<Callback>) -> Callback {
        let interceptors = self.config.interceptors.clone();
        Box::new(move |outcome| {
            interceptors.iter().for_each(|each| each.on_acknowledgement(&outcome));
            if let Some(callback) = callback {
                callback(outcome);
            }
        })
    }
}

/// Ends a record's span with its outcome, then tells the caller.
fn delivered_to(span: SendSpan, callback: Option<Callback>) -> Callback {
    Box::new(move |outcome| {
        span.delivered(&outcome);
        if let Some(callback) = callback {
            callback(outcome);
        }
    })
}

/// Why a queue took no record.
fn closed(topic: &str, partition: PartitionId, why: &DeliveryError) -> SendError {
    match why {
        // The topic shrank after this call had looked.
        DeliveryError::TopicRecreated { partitions, .. } => SendError::UnknownPartition {
            topic: topic.to_owned(),
            partition: partition.get(),
            partitions: *partitions,
        },
        _ => SendError::Closed,
    }
}

fn too_large(size: usize, limit: usize) -> Obstacle {
    Obstacle::Final(SendError::RecordTooLarge { size, limit })
}

/// The wall clock. One before 1970 counts as 1970.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Not `as_millis`: its 128-bit arithmetic shows at millions of records a second.
    let seconds = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    Timestamp(seconds.saturating_mul(1000).saturating_add(i64::from(since.subsec_millis())))
}
