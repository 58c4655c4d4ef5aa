//! A partition's records before they are sent. The callers' side and the sender's side meet here, under one short lock.

use super::batch::Batch;
use super::delivery::{BatchState, Callback, Delivery};
use super::error::DeliveryError;
use super::inbox::Home;
use super::memory::Reserved;
use super::record::ProducerRecord;
use super::tracker::Tracked;
use crate::trace::{Carrier, SendSpan};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use thalweg_core::batch::BatchBuilder;
use thalweg_core::{PartitionId, Timestamp, TopicName};
use tokio::time::Instant;

/// One partition's queue, shared by callers and sender.
#[derive(Debug)]
pub(crate) struct PartitionQueue {
    pub(crate) topic: TopicName,
    pub(crate) partition: PartitionId,
    /// No leader could be found: keyless records avoid it.
    leaderless: AtomicBool,
    state: Mutex<QueueState>,
}

/// What the lock guards.
#[derive(Debug)]
pub(crate) struct QueueState {
    open: Option<OpenBatch>,
    /// Full batches, oldest first. Bounded by the buffer memory.
    ready: VecDeque<Batch>,
    /// Bytes of keyless records since the sticky partition last moved.
    pub(crate) sticky_bytes: usize,
    pub(crate) home: Home,
    /// Why it takes no more records.
    closed: Option<DeliveryError>,
}

#[derive(Debug)]
struct OpenBatch {
    builder: BatchBuilder,
    state: Arc<BatchState>,
    created: Instant,
    /// Somebody waits for it or for its memory: it goes as soon as it may, and takes records until then.
    urgent: bool,
    reserved: Reserved,
    tracked: Tracked,
    /// Of its first record that is traced.
    trace: Option<Box<Carrier>>,
}

/// What there is to send.
#[derive(Debug)]
pub(crate) enum Drained<B> {
    /// This batch.
    Batch(B),
    /// Nothing before then.
    Wait(Instant),
    /// Nothing until what is in flight is answered.
    Busy,
    /// Nothing.
    Empty,
}

/// The queue takes no more records, for this reason.
#[derive(Debug)]
pub(crate) struct QueueClosed(pub(crate) DeliveryError);

impl PartitionQueue {
    pub(crate) fn new(topic: TopicName, partition: PartitionId) -> Arc<PartitionQueue> {
        let state = QueueState {
            open: None,
            ready: VecDeque::new(),
            sticky_bytes: 0,
            home: Home::Unborn,
            closed: None,
        };
        Arc::new(PartitionQueue {
            topic,
            partition,
            leaderless: AtomicBool::new(false),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_leaderless(&self) -> bool {
        self.leaderless.load(Ordering::Relaxed)
    }

    pub(crate) fn set_leaderless(&self, leaderless: bool) {
        self.leaderless.store(leaderless, Ordering::Relaxed);
    }

    /// Takes no more records, and fails those that are there.
    pub(crate) fn close(&self, error: &DeliveryError) {
        let mut state = self.lock();
        state.closed.get_or_insert_with(|| error.clone());
        state.close_open();
        let mut ready = std::mem::take(&mut state.ready);
        // Callbacks run without the lock: one may send.
        drop(state);
        ready.iter_mut().for_each(|batch| batch.fail(error.clone()));
    }
}

impl QueueState {
    /// Why it takes no more records, if it does not.
    pub(crate) fn closed(&self) -> Option<&DeliveryError> {
        self.closed.as_ref()
    }

    /// Adds a record to the open batch; `None` if there is none with room.
    #[inline]
    pub(crate) fn append(
        &mut self,
        record: &ProducerRecord<'_>,
        timestamp: Timestamp,
        callback: &mut Option<Callback>,
    ) -> Result<Option<Delivery>, QueueClosed> {
        if let Some(why) = &self.closed {
            return Err(QueueClosed(why.clone()));
        }
        let Some(open) = &mut self.open else { return Ok(None) };
        if !open.builder.has_room_for(record.key, record.value, record.headers) {
            return Ok(None);
        }
        let index = open.builder.append(timestamp, record.key, record.value, record.headers).unsigned_abs();
        if let Some(callback) = callback.take() {
            open.state.add_callback(index, timestamp, callback);
        }
        Ok(Some(Delivery::new(Arc::clone(&open.state), index, timestamp)))
    }

    /// The record that was appended last is traced.
    #[cold]
    pub(crate) fn trace(&mut self, span: &SendSpan) {
        match &mut self.open {
            Some(OpenBatch { trace: Some(carrier), .. }) => span.joins(carrier),
            Some(open) => open.trace = span.carrier().map(Box::new),
            None => {}
        }
    }

    /// Opens a batch; the one that was open is ready.
    pub(crate) fn open(
        &mut self,
        builder: BatchBuilder,
        state: Arc<BatchState>,
        reserved: Reserved,
        tracked: Tracked,
        now: Instant,
    ) {
        self.close_open();
        self.open =
            Some(OpenBatch { builder, state, created: now, urgent: false, reserved, tracked, trace: None });
    }

    /// Lets the open batch go though its linger has not passed. Says whether there is anything to send.
    pub(crate) fn urge(&mut self) -> bool {
        if let Some(open) = &mut self.open {
            open.urgent = true;
        }
        !self.is_empty()
    }

    /// Makes the open batch ready.
    fn close_open(&mut self) {
        if let Some(open) = self.open.take()
            && !open.builder.is_empty()
        {
            let OpenBatch { builder, state, created, reserved, tracked, trace, .. } = open;
            self.ready.push_back(Batch::new(builder, state, created, reserved, tracked, trace));
        }
    }

    /// Makes the open batch ready if it has reached `size` bytes: no record would fit any more.
    pub(crate) fn close_full(&mut self, size: usize) {
        if self.open.as_ref().is_some_and(|open| open.builder.len() >= size) {
            self.close_open();
        }
    }

    /// The oldest batch that may go now. `quiet` says that nothing of the partition is in flight.
    pub(crate) fn drain(&mut self, now: Instant, linger: Duration, quiet: bool) -> Drained<Batch> {
        if self.ready.is_empty() {
            let Some(open) = &self.open else { return Drained::Empty };
            let due = open.created + linger;
            if due > now && !open.urgent {
                return Drained::Wait(due);
            }
            // Without linger, what is in flight is the time to collect in.
            if linger.is_zero() && !quiet && !open.urgent {
                return Drained::Busy;
            }
            self.close_open();
        }
        self.ready.pop_front().map_or(Drained::Empty, Drained::Batch)
    }

    /// Takes the batches that are older than `limit`.
    pub(crate) fn expire(&mut self, now: Instant, limit: Duration) -> Vec<Batch> {
        let old = |created: Instant| now.duration_since(created) >= limit;
        if self.open.as_ref().is_some_and(|open| old(open.created)) {
            self.close_open();
        }
        let count = self.ready.iter().take_while(|batch| old(batch.created())).count();
        self.ready.drain(..count).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_none() && self.ready.is_empty()
    }
}

impl Drop for QueueState {
    fn drop(&mut self) {
        // As a closed batch it tells its deliveries that nobody will send it.
        self.close_open();
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
