//! How partitions get from task to task, and how callers wake the task that has theirs.

use super::lane::Lane;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// What waits for one sender task. Each partition of the producer is in at most one inbox, and signals at most once
/// before it is looked at, so both lists are bounded by the partitions in use.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    lanes: Vec<Lane>,
    signals: Vec<u32>,
    closed: bool,
}

/// Where a partition's lane is.
#[derive(Debug, Default)]
pub(crate) enum Home {
    /// It has never had a record.
    #[default]
    Unborn,
    /// At the dispatcher.
    Resting(Arc<Inbox>),
    /// At a sender, in this slot.
    At {
        /// The sender's inbox.
        inbox: Arc<Inbox>,
        /// The lane's place there.
        slot: u32,
        /// A signal is on its way.
        signalled: bool,
    },
}

impl Inbox {
    /// Hands a lane over; a closed inbox gives it back.
    pub(crate) fn push(&self, lane: Lane) -> Result<(), Box<Lane>> {
        let mut state = self.lock();
        if state.closed {
            return Err(Box::new(lane));
        }
        state.lanes.push(lane);
        drop(state);
        self.notify.notify_one();
        Ok(())
    }

    /// Wakes the task.
    pub(crate) fn wake(&self) {
        self.notify.notify_one();
    }

    /// Waits for something to be there. Cancel safe.
    pub(crate) async fn changed(&self) {
        self.notify.notified().await;
    }

    /// Takes what is there.
    pub(crate) fn take(&self, lanes: &mut Vec<Lane>, signals: &mut Vec<u32>) {
        let mut state = self.lock();
        lanes.append(&mut state.lanes);
        signals.append(&mut state.signals);
    }

    /// Takes nothing more in, and gives what was left.
    pub(crate) fn close(&self) -> Vec<Lane> {
        let mut state = self.lock();
        state.closed = true;
        std::mem::take(&mut state.lanes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Home {
    /// Tells the sender that this partition has something to look at.
    pub(crate) fn signal(&mut self) {
        match self {
            Home::At { inbox, slot, signalled: signalled @ false } => {
                *signalled = true;
                inbox.lock().signals.push(*slot);
                inbox.notify.notify_one();
            }
            Home::Resting(inbox) => inbox.notify.notify_one(),
            Home::At { .. } | Home::Unborn => {}
        }
    }

    /// The sender looks now: the next change is to be signalled again.
    pub(crate) fn seen(&mut self) {
        if let Home::At { signalled, .. } = self {
            *signalled = false;
        }
    }
}
