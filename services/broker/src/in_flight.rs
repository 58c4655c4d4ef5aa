//! A bound over all connections on what producers have in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::Notify;

/// Counts the bytes of requests that were received and not yet answered.
///
/// A stream asks for [room](InFlight::room) before it reads its next message, whose size it cannot know; so the bound may be
/// exceeded by one message for each stream that reads at the same moment, and by no more.
#[derive(Debug)]
pub struct InFlight {
    limit: usize,
    used: AtomicUsize,
    freed: Notify,
    refused: AtomicU64,
    held_back: AtomicU64,
}

impl InFlight {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<InFlight> {
        let (refused, held_back) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(InFlight { limit, used: AtomicUsize::new(0), freed: Notify::new(), refused, held_back })
    }

    /// Requests that were refused for want of room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// How often someone had to wait for room.
    pub fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    /// A request is refused for want of room.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes beyond which there is no room.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes in flight now.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether another request may be read.
    pub fn has_room(&self) -> bool {
        self.used() < self.limit
    }

    /// Waits until another request may be read. Safe to drop and call again.
    pub async fn room(&self) {
        let mut waits = false;
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // From here on a wake-up is not missed, so the check below is not too early.
            freed.as_mut().enable();
            if self.has_room() {
                return;
            }
            if !std::mem::replace(&mut waits, true) {
                self.held_back.fetch_add(1, Ordering::Relaxed);
            }
            freed.await;
        }
    }

    /// Counts `bytes` until the charge is dropped, even beyond the limit: they are in memory already.
    pub fn charge(self: &Arc<InFlight>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::AcqRel);
        Charge { budget: Arc::clone(self), bytes }
    }

    fn free(&self, bytes: usize) {
        let before = self.used.fetch_sub(bytes, Ordering::AcqRel);
        // Only the step from full to not full has someone waiting for it.
        if before >= self.limit && before - bytes < self.limit {
            self.freed.notify_waiters();
        }
    }

    /// Counts `bytes` until the charge is dropped; `None` when the limit was reached before.
    pub fn try_charge(self: &Arc<InFlight>, bytes: usize) -> Option<Charge> {
        if !self.has_room() {
            self.refuse();
            return None;
        }
        Some(self.charge(bytes))
    }
}

/// Bytes in flight; dropping it frees them.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<InFlight>,
    bytes: usize,
}

impl Charge {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it counts against.
    pub fn budget(&self) -> &Arc<InFlight> {
        &self.budget
    }

    /// Counts `bytes` from now on, even beyond the limit.
    pub fn resize(&mut self, bytes: usize) {
        if bytes < self.bytes {
            self.budget.free(self.bytes - bytes);
            self.bytes = bytes;
        } else {
            self.grow(bytes - self.bytes);
        }
    }

    /// Counts `bytes` more, even beyond the limit: they are in memory already.
    pub fn grow(&mut self, bytes: usize) {
        self.budget.used.fetch_add(bytes, Ordering::AcqRel);
        self.bytes += bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.free(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn room_comes_back_when_charges_go() {
        let budget = InFlight::new(100);
        let first = budget.charge(60);
        let second = budget.charge(60);
        assert_eq!((budget.used(), second.bytes()), (120, 60));
        assert!(budget.try_charge(1).is_none());
        let mut room = Box::pin(budget.room());
        assert!(room.as_mut().now_or_never().is_none());
        assert_eq!((budget.refused(), budget.held_back()), (1, 1));
        drop(first);
        assert!(room.now_or_never().is_some());
        assert!(budget.try_charge(1).is_some());
        let mut third = budget.charge(10);
        third.resize(50);
        assert!(!budget.has_room());
        let room = budget.room();
        third.resize(5);
        assert!(room.now_or_never().is_some());
        assert_eq!((budget.used(), third.bytes()), (65, 5));
        drop((second, third));
        assert_eq!(budget.used(), 0);
    }
}
