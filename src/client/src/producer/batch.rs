//! A batch on its way from the queue to its outcome.

use super::delivery::{BatchState, Written};
use super::error::DeliveryError;
use super::memory::Reserved;
use super::tracker::Tracked;
use super::window::Item;
use crate::proto;
use crate::trace::Carrier;
use bytes::Bytes;
use std::sync::Arc;
use thalweg_core::batch::{BatchBuilder, BatchError, BatchIter, ProducerStamp, restamp};
use thalweg_core::compression::Compression;
use tokio::time::Instant;

/// Bytes that our own batch may inflate to when it has to be split: it was in memory before.
const MAX_INFLATED: usize = u32::MAX as usize;

/// Records that have been closed to more. Dropped without outcome, they fail: nobody waits for ever on a dead task.
#[derive(Debug)]
pub(crate) struct Batch {
    payload: Payload,
    stamp: Option<ProducerStamp>,
    /// The first record's index among those of `state`; not 0 in the later parts of a split batch.
    first: u32,
    count: u32,
    created: Instant,
    shared: Arc<BatchShare>,
    settled: bool,
}

/// What the parts of a batch have in common. It goes, and with it the memory, when the last part does.
#[derive(Debug)]
struct BatchShare {
    state: Arc<BatchState>,
    total: u32,
    reserved: Reserved,
    /// Ends the wait of `flush`.
    tracked: Tracked,
    trace: Option<Box<Carrier>>,
}

#[derive(Debug)]
enum Payload {
    Building(Option<BatchBuilder>),
    Encoded(Bytes),
}

impl Batch {
    pub(crate) fn new(
        builder: BatchBuilder,
        state: Arc<BatchState>,
        created: Instant,
        reserved: Reserved,
        tracked: Tracked,
        trace: Option<Box<Carrier>>,
    ) -> Batch {
        let count = builder.record_count().unsigned_abs();
        let shared = Arc::new(BatchShare { state, total: count, reserved, tracked, trace });
        Batch {
            payload: Payload::Building(Some(builder)),
            stamp: None,
            first: 0,
            count,
            created,
            shared,
            settled: false,
        }
    }

    /// The batch's bytes under `stamp`. The same stamp again gives the same bytes.
    pub(crate) fn encode(&mut self, stamp: ProducerStamp) -> Result<Bytes, BatchError> {
        let bytes = match &mut self.payload {
            Payload::Building(builder) => {
                builder.take().expect("a builder is taken once, and encoded bytes replace it").finish(stamp)
            }
            Payload::Encoded(bytes) if self.stamp == Some(stamp) => bytes.clone(),
            Payload::Encoded(bytes) => restamp(bytes, stamp)?,
        };
        self.stamp = Some(stamp);
        self.payload = Payload::Encoded(bytes.clone());
        Ok(bytes)
    }

    /// The span that it is sent under, if it is traced.
    pub(crate) fn trace(&self) -> Option<proto::TraceContext> {
        self.shared.trace.as_ref().map(|carrier| carrier.wire().clone())
    }

    pub(crate) fn created(&self) -> Instant {
        self.created
    }

    /// Ends it well. A second outcome is ignored: after its time ran out, an answer changes nothing.
    pub(crate) fn delivered(&mut self, written: Written) {
        self.settle(Ok(written));
    }

    /// Ends it badly.
    pub(crate) fn fail(&mut self, error: DeliveryError) {
        self.settle(Err(error));
    }

    fn settle(&mut self, result: Result<Written, DeliveryError>) {
        if !std::mem::replace(&mut self.settled, true) {
            // Before its callers are told: who waits for a delivery finds the failure counted.
            if let Err(error) = &result {
                self.shared.tracked.failed(self.count, error);
            }
            self.shared.state.settle(self.first, self.count, self.shared.total, result);
        }
    }

    /// Two batches with half of the records each, in order, or the batch itself if it has but one record.
    pub(crate) fn split_if_many(mut self) -> Result<[Batch; 2], Batch> {
        if self.count < 2 {
            return Err(self);
        }
        let [left, right] = match self.halves() {
            Ok(halves) => halves,
            Err(error) => {
                tracing::error!(%error, "our own batch cannot be read, so it cannot be split");
                return Err(self);
            }
        };
        let middle = left.record_count().unsigned_abs();
        // The halves answer for the records now, unless they have been answered for.
        let settled = std::mem::replace(&mut self.settled, true);
        let part = |builder, first, count| Batch {
            payload: Payload::Building(Some(builder)),
            stamp: None,
            first,
            count,
            created: self.created,
            shared: Arc::clone(&self.shared),
            settled,
        };
        Ok([part(left, self.first, middle), part(right, self.first + middle, self.count - middle)])
    }

    fn halves(&self) -> Result<[BatchBuilder; 2], BatchError> {
        let Payload::Encoded(bytes) = &self.payload else {
            return Err(BatchError::Truncated { needed: 1, available: 0 });
        };
        let batch =
            BatchIter::new(bytes).next().ok_or(BatchError::Truncated { needed: 1, available: 0 })??;
        let codec = batch.header.attributes.compression().unwrap_or(Compression::None);
        // Builders without limit: what was one batch fits into two.
        let mut halves = [BatchBuilder::new(codec, bytes.len()), BatchBuilder::new(codec, bytes.len())];
        let (mut scratch, mut headers) = (Vec::new(), Vec::new());
        for (index, record) in batch.records(&mut scratch, MAX_INFLATED)?.enumerate() {
            let record = record?;
            headers.clear();
            headers.extend(record.headers.iter());
            let half = usize::from(index as u32 >= self.count / 2);
            halves[half].append(record.timestamp, record.key, record.value, &headers);
        }
        Ok(halves)
    }
}

impl Item for Batch {
    fn count(&self) -> i32 {
        i32::try_from(self.count).unwrap_or(i32::MAX)
    }

    fn settled(&self) -> bool {
        self.settled
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.settle(Err(DeliveryError::SenderGone));
        if let Payload::Encoded(bytes) = std::mem::replace(&mut self.payload, Payload::Building(None)) {
            self.shared.reserved.memory().recycle(bytes);
        }
    }
}
