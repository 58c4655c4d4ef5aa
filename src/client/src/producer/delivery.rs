//! What becomes of a batch, and of one record in it.

use super::error::DeliveryError;
use super::record::RecordMetadata;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use thalweg_core::{Offset, PartitionId, Timestamp, TopicName};

pub(crate) type Callback = Box<dyn FnOnce(Result<RecordMetadata, DeliveryError>) + Send>;

/// Where a run of records was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Written {
    /// The first record's offset; [`Offset::NONE`] if not known.
    pub(crate) base_offset: Offset,
    /// The leader's time, if it replaced the records'.
    pub(crate) append_time: Option<Timestamp>,
}

impl Written {
    /// Somewhere: nobody said where.
    pub(crate) const UNKNOWN: Written = Written { base_offset: Offset::NONE, append_time: None };
}

/// The outcome of the records `first .. first + count` of a batch.
#[derive(Debug, Clone)]
struct Part {
    first: u32,
    count: u32,
    result: Result<Written, DeliveryError>,
}

/// The state that a batch shares with the deliveries of its records.
#[derive(Debug)]
pub(crate) struct BatchState {
    topic: TopicName,
    partition: PartitionId,
    /// Set once, when every record has an outcome. One part, but for batches that had to be split.
    done: OnceLock<Vec<Part>>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    /// One for each delivery that is being awaited, at most one a record.
    wakers: Vec<Waker>,
    callbacks: Vec<(u32, Timestamp, Callback)>,
    parts: Vec<Part>,
    settled: u32,
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("settled", &self.settled).finish_non_exhaustive()
    }
}

/// The outcome of one record, when there is one. Dropping it does not unsend the record.
#[derive(Debug)]
pub struct Delivery {
    batch: Arc<BatchState>,
    index: u32,
    timestamp: Timestamp,
    /// Where this delivery's waker stands, once it has been polled.
    waker: Option<usize>,
}

impl BatchState {
    pub(crate) fn new(topic: TopicName, partition: PartitionId) -> Arc<BatchState> {
        Arc::new(BatchState { topic, partition, done: OnceLock::new(), waiting: Mutex::default() })
    }

    pub(crate) fn add_callback(&self, index: u32, timestamp: Timestamp, callback: Callback) {
        self.lock().callbacks.push((index, timestamp, callback));
    }

    /// Gives the records `first .. first + count` of a batch of `total` their outcome. Callbacks of a batch run here, once
    /// all of it has one.
    pub(crate) fn settle(&self, first: u32, count: u32, total: u32, result: Result<Written, DeliveryError>) {
        let mut waiting = self.lock();
        waiting.parts.push(Part { first, count, result });
        waiting.settled += count;
        if waiting.settled < total {
            return;
        }
        let waiting = {
            let taken = std::mem::take(&mut *waiting);
            // Set under the lock, so that a delivery which registers a waker has seen that it was not set.
            if self.done.set(taken.parts).is_err() {
                tracing::error!(topic = %self.topic, partition = %self.partition, "a batch was settled twice");
            }
            drop(waiting);
            (taken.wakers, taken.callbacks)
        };
        for waker in waiting.0 {
            waker.wake();
        }
        for (index, timestamp, callback) in waiting.1 {
            let outcome = self.outcome(index, timestamp).unwrap_or(Err(DeliveryError::SenderGone));
            // A program's panic must not take the sender of everybody's records with it.
            if catch_unwind(AssertUnwindSafe(|| callback(outcome))).is_err() {
                tracing::error!(topic = %self.topic, partition = %self.partition, "a send callback panicked");
            }
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.done.get().is_some()
    }

    fn outcome(&self, index: u32, timestamp: Timestamp) -> Option<Result<RecordMetadata, DeliveryError>> {
        let parts = self.done.get()?;
        let part = parts.iter().find(|part| index >= part.first && index - part.first < part.count)?;
        Some(match &part.result {
            Err(error) => Err(error.clone()),
            Ok(written) => Ok(RecordMetadata {
                topic: self.topic.clone(),
                partition: self.partition,
                offset: match written.base_offset {
                    Offset::NONE => Offset::NONE,
                    base => base.advance(i64::from(index - part.first)),
                },
                timestamp: written.append_time.unwrap_or(timestamp),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until every record has an outcome.
    pub(crate) async fn finished(self: Arc<Self>) {
        let mut slot = None;
        std::future::poll_fn(|cx| match self.poll_done(&mut slot, cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
    }

    /// Whether all is settled; if not, `slot` remembers the waker's place.
    fn poll_done(&self, slot: &mut Option<usize>, cx: &Context<'_>) -> bool {
        if self.is_done() {
            return true;
        }
        let mut waiting = self.lock();
        if self.is_done() {
            return true;
        }
        match slot.and_then(|at| waiting.wakers.get_mut(at)) {
            Some(waker) => waker.clone_from(cx.waker()),
            None => {
                *slot = Some(waiting.wakers.len());
                waiting.wakers.push(cx.waker().clone());
            }
        }
        false
    }
}

impl Delivery {
    pub(crate) fn new(batch: Arc<BatchState>, index: u32, timestamp: Timestamp) -> Delivery {
        Delivery { batch, index, timestamp, waker: None }
    }

    /// The outcome, if there is one already.
    pub fn try_outcome(&self) -> Option<Result<RecordMetadata, DeliveryError>> {
        self.batch.outcome(self.index, self.timestamp)
    }

    /// The partition that was chosen.
    pub fn partition(&self) -> PartitionId {
        self.batch.partition
    }
}

impl Future for Delivery {
    type Output = Result<RecordMetadata, DeliveryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if !this.batch.poll_done(&mut this.waker, cx) {
            return Poll::Pending;
        }
        Poll::Ready(this.try_outcome().unwrap_or(Err(DeliveryError::SenderGone)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn state() -> Arc<BatchState> {
        BatchState::new(TopicName::new("t").unwrap(), PartitionId(2))
    }

    fn written(base: i64) -> Result<Written, DeliveryError> {
        Ok(Written { base_offset: Offset(base), append_time: None })
    }

    fn offset(batch: &Arc<BatchState>, index: u32) -> Option<i64> {
        Delivery::new(Arc::clone(batch), index, Timestamp(7)).try_outcome().map(|o| o.unwrap().offset.get())
    }

    #[test]
    fn parts_are_told_when_all_are_settled() {
        let batch = state();
        batch.settle(2, 1, 3, written(100));
        assert_eq!(offset(&batch, 2), None);
        batch.settle(0, 2, 3, written(50));
        assert_eq!([0, 1, 2].map(|i| offset(&batch, i)), [Some(50), Some(51), Some(100)]);
    }

    #[test]
    fn an_unknown_offset_stays_unknown_for_every_record() {
        let batch = state();
        batch.settle(0, 9, 9, Ok(Written { base_offset: Offset::NONE, append_time: Some(Timestamp(3)) }));
        let outcome = Delivery::new(batch, 8, Timestamp(7)).try_outcome().unwrap().unwrap();
        assert_eq!((outcome.offset, outcome.timestamp), (Offset::NONE, Timestamp(3)));
    }

    #[test]
    fn callbacks_run_once_and_their_panics_stop_nothing() {
        let batch = state();
        let seen = Arc::new(AtomicUsize::new(0));
        for index in 0..3 {
            let seen = Arc::clone(&seen);
            let callback = move |outcome: Result<RecordMetadata, DeliveryError>| {
                assert_ne!(index, 1, "a program's own mistake");
                seen.fetch_add(outcome.unwrap().offset.get() as usize, Ordering::Relaxed);
            };
            batch.add_callback(index, Timestamp(0), Box::new(callback));
        }
        batch.settle(0, 3, 3, written(10));
        assert_eq!(seen.load(Ordering::Relaxed), 10 + 12);
    }

    #[tokio::test]
    async fn a_delivery_wakes() {
        let batch = state();
        let delivery = tokio::spawn(Delivery::new(Arc::clone(&batch), 1, Timestamp(7)));
        tokio::task::yield_now().await;
        batch.settle(0, 2, 2, written(4));
        assert_eq!(delivery.await.unwrap().unwrap().offset, Offset(5));
    }
}
