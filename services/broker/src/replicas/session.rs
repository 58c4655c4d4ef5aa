//! How a moved high watermark reaches whoever waits for it: no polling, no timer, and no cost without a waiter.
//!
//! ```text
//!   stream ── owns ──► Session { ready: [slot indexes], notify }
//!                        ▲ push index, wake (once until it is looked at)
//!   Partition.waiters ──► Slot
//! ```
//!
//! A stream registers one [`Slot`] per partition, once, and keeps it. A mark means "look at this partition again", for any
//! reason: the high watermark moved, the leader changed, the topic was deleted, the log failed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

// Nothing panics under these locks, and their values are whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One waiting stream or call. It has exactly one waiter.
#[derive(Debug, Default)]
pub struct Session {
    ready: Mutex<Vec<u32>>,
    notify: Notify,
}

impl Session {
    /// A session without slots.
    pub fn new() -> Arc<Session> {
        Arc::new(Session::default())
    }

    /// A slot of this session; `index` is what [`take_ready`](Session::take_ready) reports.
    pub fn slot(self: &Arc<Session>, index: u32) -> Arc<Slot> {
        Arc::new(Slot {
            session: Arc::clone(self),
            index,
            queued: AtomicBool::new(false),
            wanting: AtomicBool::new(false),
        })
    }

    /// Wakes whoever waits, without a mark: for what did not come from a partition.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits for a mark. One that came before the call counts. Safe to drop and call again.
    pub async fn marked(&self) {
        self.notify.notified().await;
    }

    /// Moves the indexes of the marked slots to `out`. Each must be [acknowledged](Slot::acknowledge) before it is looked
    /// at, or it is never marked again.
    pub fn take_ready(&self, out: &mut Vec<u32>) {
        out.append(&mut lock(&self.ready));
    }
}

/// One partition's place in a session.
#[derive(Debug)]
pub struct Slot {
    session: Arc<Session>,
    index: u32,
    queued: AtomicBool,
    wanting: AtomicBool,
}

impl Slot {
    /// Tells the session to look at the partition again. Marks before the next look count as one.
    pub fn mark(&self) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            lock(&self.session.ready).push(self.index);
            self.session.notify.notify_one();
        }
    }

    /// The next call of `Waiters::mark_wanting` marks this slot.
    pub fn want(&self) {
        self.wanting.store(true, Ordering::Release);
    }

    /// To be called before the partition is looked at: what changes from here on marks the slot anew.
    pub fn acknowledge(&self) {
        // A read-modify-write, so that it sees all that happened before a mark that it swallows.
        self.queued.swap(false, Ordering::AcqRel);
    }
}

/// The slots that a partition marks.
#[derive(Debug, Default)]
pub struct Waiters {
    slots: Mutex<Vec<Arc<Slot>>>,
}

impl Waiters {
    /// Marks every slot.
    pub fn mark_all(&self) {
        for slot in lock(&self.slots).iter() {
            slot.mark();
        }
    }

    /// Marks the slots that asked for it since the last time.
    pub fn mark_wanting(&self) {
        for slot in lock(&self.slots).iter() {
            // The plain load first: nearly always nobody wants it.
            if slot.wanting.load(Ordering::Relaxed) && slot.wanting.swap(false, Ordering::AcqRel) {
                slot.mark();
            }
        }
    }

    /// Adds a slot. Look at the partition after this, not before: what happened earlier does not mark it.
    pub fn add(&self, slot: Arc<Slot>) {
        lock(&self.slots).push(slot);
    }

    /// Removes a slot.
    pub fn remove(&self, slot: &Arc<Slot>) {
        let mut slots = lock(&self.slots);
        if let Some(at) = slots.iter().position(|other| Arc::ptr_eq(other, slot)) {
            slots.swap_remove(at);
        }
        // A burst of waiters must not hold memory for ever.
        if slots.is_empty() {
            slots.shrink_to_fit();
        }
    }

    /// How many slots there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        lock(&self.slots).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn taken(session: &Session) -> Vec<u32> {
        let mut out = Vec::new();
        session.take_ready(&mut out);
        out
    }

    #[test]
    fn marks_before_a_look_count_as_one_and_after_it_anew() {
        let (waiters, session) = (Waiters::default(), Session::new());
        let slot = session.slot(7);
        waiters.add(Arc::clone(&slot));
        assert!(session.marked().now_or_never().is_none());
        waiters.mark_all();
        waiters.mark_all();
        assert!(session.marked().now_or_never().is_some());
        assert_eq!(taken(&session), [7]);
        waiters.mark_all();
        assert!(taken(&session).is_empty(), "not looked at yet");
        slot.acknowledge();
        waiters.mark_all();
        assert_eq!(taken(&session), [7]);
    }

    #[test]
    fn a_removed_slot_is_not_marked() {
        let (waiters, session) = (Waiters::default(), Session::new());
        let (first, second) = (session.slot(0), session.slot(1));
        waiters.add(Arc::clone(&first));
        waiters.add(Arc::clone(&second));
        waiters.remove(&first);
        waiters.remove(&first);
        waiters.mark_all();
        assert_eq!(taken(&session), [1]);
        waiters.remove(&second);
        assert_eq!(waiters.len(), 0);
    }

    #[test]
    fn no_mark_is_lost_between_threads() {
        use std::sync::atomic::AtomicU64;
        const ROUNDS: u64 = 20_000;
        let (waiters, session, value) =
            (Arc::new(Waiters::default()), Session::new(), Arc::new(AtomicU64::new(0)));
        let slot = session.slot(0);
        waiters.add(Arc::clone(&slot));
        let writer = std::thread::spawn({
            let (waiters, value) = (Arc::clone(&waiters), Arc::clone(&value));
            move || {
                for round in 1..=ROUNDS {
                    value.store(round, Ordering::Release);
                    waiters.mark_all();
                }
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            // Ends only if the last value was announced after the last look at an older one.
            loop {
                session.marked().await;
                taken(&session);
                slot.acknowledge();
                if value.load(Ordering::Acquire) == ROUNDS {
                    break;
                }
            }
        });
        writer.join().unwrap();
    }
}
