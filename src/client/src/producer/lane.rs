//! One partition in the hands of the task that sends it.

use super::batch::Batch;
use super::error::DeliveryError;
use super::inbox::Home;
use super::queue::PartitionQueue;
use super::window::{Identity, Window};
use crate::net::Backoff;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::ErrorCode;
use tokio::time::Instant;

/// A partition's queue and window. Exactly one task has it: a leader's sender, or the dispatcher while its leader is not
/// known. Dropped by a task that dies, it fails its records.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) queue: Arc<PartitionQueue>,
    pub(crate) window: Window<Batch>,
    pub(crate) backoff: Backoff,
    /// The last failure, for the message of a record whose time runs out.
    pub(crate) last_failure: Option<(Arc<str>, Option<ErrorCode>)>,
    /// What the dispatcher does before it routes the lane again.
    pub(crate) rest: Rest,
    /// It stands among those that the sender looks at next.
    pub(crate) in_ready: bool,
    /// It has a timer. A newer batch's linger ends later: it is looked at then anyway.
    pub(crate) in_lingering: bool,
}

/// Why a lane is at the dispatcher.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rest {
    /// Its leader must be asked for.
    pub(crate) refresh: bool,
    /// A pause comes first.
    pub(crate) pause: bool,
    /// An answer named a leader that is not older than the one that was known.
    pub(crate) followed: bool,
}

impl Lane {
    pub(crate) fn new(queue: Arc<PartitionQueue>, identity: Option<Identity>, backoff: Backoff) -> Lane {
        let rest = Rest::default();
        Lane {
            queue,
            window: Window::new(identity),
            backoff,
            last_failure: None,
            rest,
            in_ready: false,
            in_lingering: false,
        }
    }

    pub(crate) fn failed(&mut self, why: impl Into<Arc<str>>, code: Option<ErrorCode>) {
        self.last_failure = Some((why.into(), code));
    }

    /// Decides, once for everything that was answered since the last rest, how long it pauses and whether its leader must
    /// be asked for. A leader that an answer names is followed at once, the first time.
    pub(crate) fn end_rest(&mut self) -> (Duration, bool) {
        let Rest { refresh, pause, followed } = std::mem::take(&mut self.rest);
        let at_once = followed && !pause && self.backoff.is_fresh();
        let next = if pause || followed { self.backoff.next_pause() } else { Duration::ZERO };
        (if at_once { Duration::ZERO } else { next }, refresh && !followed)
    }

    /// Fails every record older than `limit`. Says whether any was.
    pub(crate) fn expire(&mut self, now: Instant, limit: Duration) -> bool {
        let error = || {
            let (last, code) = self.last_failure.clone().unwrap_or_else(|| {
                let never = "its turn to be sent did not come, or no answer came; see whether the cluster is overloaded";
                (Arc::from(never), None)
            });
            DeliveryError::TimedOut { after: limit, last, code }
        };
        let error = error();
        let mut expired = false;
        for batch in self.window.batches_mut() {
            if now.duration_since(batch.created()) >= limit {
                batch.fail(error.clone());
                expired = true;
            }
        }
        let waiting = self.queue.lock().expire(now, limit);
        for mut batch in waiting {
            batch.fail(error.clone());
            expired = true;
        }
        expired
    }

    pub(crate) fn set_home(&self, home: Home) {
        self.queue.lock().home = home;
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // The window's batches fail by themselves; those in the queue would wait for ever.
        self.queue.close(&DeliveryError::SenderGone);
    }
}
