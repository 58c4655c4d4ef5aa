//! The batches that have no outcome yet: what `flush` waits for. And how many ended badly.

use super::delivery::BatchState;
use super::error::DeliveryError;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::Notify;

/// All batches without outcome. Bounded by the buffer memory.
#[derive(Debug, Default)]
pub(crate) struct Tracker {
    state: Mutex<State>,
    /// Told whenever the last one goes.
    pub(crate) emptied: Notify,
    /// For those whose deliveries nobody looks at.
    pub(crate) failures: Failures,
}

/// Records that were taken and not delivered.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    records: AtomicU64,
    first: OnceLock<DeliveryError>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    open: BTreeMap<u64, Arc<BatchState>>,
}

/// One batch's entry; dropping it removes it.
#[derive(Debug)]
pub(crate) struct Tracked {
    tracker: Arc<Tracker>,
    id: u64,
}

impl Tracker {
    pub(crate) fn track(self: &Arc<Tracker>, batch: &Arc<BatchState>) -> Tracked {
        let mut state = self.lock();
        let id = state.next;
        state.next += 1;
        state.open.insert(id, Arc::clone(batch));
        Tracked { tracker: Arc::clone(self), id }
    }

    /// What has no outcome at this moment.
    pub(crate) fn snapshot(&self) -> Vec<Arc<BatchState>> {
        self.lock().open.values().cloned().collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().open.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracked {
    /// Counts records of the batch that were not delivered.
    pub(crate) fn failed(&self, records: u32, error: &DeliveryError) {
        let failures = &self.tracker.failures;
        failures.first.get_or_init(|| error.clone());
        failures.records.fetch_add(u64::from(records), Ordering::Release);
    }
}

impl Failures {
    /// How many there are.
    pub(crate) fn records(&self) -> u64 {
        self.records.load(Ordering::Acquire)
    }

    /// Why the first was not delivered.
    pub(crate) fn first(&self) -> Option<&DeliveryError> {
        self.first.get()
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        let mut state = self.tracker.lock();
        state.open.remove(&self.id);
        if state.open.is_empty() {
            drop(state);
            self.tracker.emptied.notify_one();
        }
    }
}
