//! Single things that wait to be exported together.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::counts::{Counts, Reason, Signal};
use super::settings::Batching;
use crate::Shutdown;

/// A bounded queue. Whoever puts something in never waits: what does not fit is counted and gone.
pub(super) struct Queue<T> {
    waiting: Mutex<Waiting<T>>,
    bound: usize,
    batch: usize,
    delay: Duration,
    /// A whole batch is there.
    full: Notify,
    signal: Signal,
    counts: Arc<Counts>,
}

struct Waiting<T> {
    items: VecDeque<T>,
    /// The process ends: what comes now is too late, or the end would wait for those who never stop talking.
    closed: bool,
}

impl<T> fmt::Debug for Queue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("signal", &self.signal).finish_non_exhaustive()
    }
}

impl<T> Queue<T> {
    pub(super) fn new(signal: Signal, batching: Batching, counts: Arc<Counts>) -> Arc<Self> {
        Arc::new(Self {
            waiting: Mutex::new(Waiting { items: VecDeque::new(), closed: false }),
            bound: batching.queue,
            batch: batching.batch,
            delay: batching.delay,
            full: Notify::new(),
            signal,
            counts,
        })
    }

    /// Puts `item` in, if it fits.
    pub(super) fn push(&self, item: T) {
        let mut waiting = self.lock();
        if waiting.closed {
            return;
        }
        if waiting.items.len() >= self.bound {
            drop(waiting);
            return self.counts.dropped(self.signal, Reason::QueueFull, 1);
        }
        waiting.items.push_back(item);
        let length = waiting.items.len();
        drop(waiting);
        self.counts.queued(self.signal, length);
        if length == self.batch {
            self.full.notify_one();
        }
    }

    /// The oldest, one batch at most. `last` closes the queue.
    fn take(&self, last: bool) -> Vec<T> {
        let mut waiting = self.lock();
        waiting.closed = last;
        let count = waiting.items.len().min(self.batch);
        let taken = waiting.items.drain(..count).collect();
        self.counts.queued(self.signal, waiting.items.len());
        taken
    }

    /// The next batch: after the delay, or as soon as one is whole. When `closing` is triggered it gives what is left, and `None`
    /// once nothing is; what is put in after that is gone.
    pub(super) async fn next(&self, closing: &Shutdown) -> Option<Vec<T>> {
        loop {
            if !closing.is_triggered() && self.lock().items.len() < self.batch {
                tokio::select! {
                    () = sleep(self.delay) => {}
                    () = self.full.notified() => {}
                    () = closing.triggered() => {}
                }
            }
            let last = closing.is_triggered();
            let batch = self.take(last);
            if !batch.is_empty() {
                return Some(batch);
            }
            if last {
                return None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        // Whole at every step.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(queue: usize, batch: usize) -> (Arc<Queue<u32>>, Arc<Counts>) {
        let counts = Arc::new(Counts::default());
        let hour = Duration::from_secs(3_600);
        let batching = Batching { delay: hour, timeout: hour, queue, batch };
        (Queue::new(Signal::Traces, batching, Arc::clone(&counts)), counts)
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (queue, counts) = queue(3, 2);
        (0..10).for_each(|item| queue.push(item));
        assert_eq!(counts.dropped_so_far(Signal::Traces, Reason::QueueFull), 7);
        let take = || queue.take(false);
        assert_eq!((take(), take(), take()), (vec![0, 1], vec![2], vec![]));
    }

    #[tokio::test]
    async fn a_whole_batch_does_not_wait_and_the_rest_comes_at_the_end() {
        let (queue, _) = queue(100, 2);
        let closing = Shutdown::new();
        let whole = async {
            let first = queue.next(&closing).await;
            (first, queue.next(&closing).await)
        };
        let put = async {
            tokio::task::yield_now().await;
            (0..5).for_each(|item| queue.push(item));
        };
        let ((first, second), ()) = tokio::join!(whole, put);
        assert_eq!((first.unwrap(), second.unwrap()), (vec![0, 1], vec![2, 3]));
        closing.trigger();
        assert_eq!(queue.next(&closing).await.unwrap(), [4]);
        // Too late.
        queue.push(5);
        assert_eq!(queue.next(&closing).await, None);
    }

    #[tokio::test]
    async fn what_is_no_whole_batch_waits_for_the_delay_only() {
        let batching =
            Batching { delay: Duration::from_millis(1), timeout: Duration::ZERO, queue: 9, batch: 2 };
        let queue = Queue::new(Signal::Logs, batching, Arc::default());
        queue.push(1);
        assert_eq!(queue.next(&Shutdown::new()).await.unwrap(), [1]);
    }
}
