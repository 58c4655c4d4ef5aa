//! Group commit: one committer for each data directory syncs the logs that have something new, back to back.
//!
//! ```text
//!   append ─► queue ─► committer: fdatasync ─► flushed_offset ─► listener
//!   append ─► queue ─┘   (what arrives during one sync is covered by the next; nobody lingers)
//! ```
//! A sync runs under no lock that an append needs. A failed sync is never tried again: the kernel may have dropped the
//! pages. The directory is taken out of use instead (catalogue 12).

use crate::log::Log;
use crate::volume::Volume;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use thalweg_core::Offset;

/// Told when records became stable, from the committer's thread: it must return at once.
pub trait FlushListener: Send + Sync {
    /// Everything below `up_to` is stable.
    fn flushed(&self, up_to: Offset);
    /// The data directory failed: what is not stable now will never be.
    fn failed(&self);
}

/// The logs that wait for a sync. Bounded by the number of logs: each is in it at most once.
#[derive(Default)]
pub(crate) struct CommitQueue {
    state: Mutex<QueueState>,
    wake: Condvar,
    /// Rung when the queue ceases to be empty, for those who have no thread that waits.
    bell: OnceLock<Bell>,
}

/// Something to be rung. Must return at once.
pub(crate) type Bell = Arc<dyn Fn() + Send + Sync>;

impl fmt::Debug for CommitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitQueue").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct QueueState {
    logs: Vec<Arc<Log>>,
    closed: bool,
}

impl CommitQueue {
    fn lock(&self) -> std::sync::MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a log; the caller makes sure that it is not in the queue.
    pub fn push(&self, log: Arc<Log>) {
        let mut state = self.lock();
        let was_empty = state.logs.is_empty();
        state.logs.push(log);
        drop(state);
        // The committer sleeps only while the queue is empty.
        if was_empty {
            if let Some(bell) = self.bell.get() {
                bell();
            }
            self.wake.notify_one();
        }
    }

    fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    fn take(&self) -> Vec<Arc<Log>> {
        std::mem::take(&mut self.lock().logs)
    }

    /// Waits for logs; `None` when the queue is closed and empty.
    fn wait(&self) -> Option<Vec<Arc<Log>>> {
        let state = self.lock();
        let idle = |state: &mut QueueState| state.logs.is_empty() && !state.closed;
        let mut state = self.wake.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        let logs = std::mem::take(&mut state.logs);
        (!logs.is_empty()).then_some(logs)
    }
}

/// Syncs the logs of one data directory. Dropping it lets the thread finish what is queued, and waits for it.
#[derive(Debug)]
pub struct Committer {
    volume: Arc<Volume>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread of a data directory.
    pub(crate) fn start(volume: Arc<Volume>) -> io::Result<Committer> {
        let worker = Arc::clone(&volume);
        let run = move || {
            while let Some(logs) = worker.queue.wait() {
                flush(&worker, &logs);
            }
        };
        let thread = std::thread::Builder::new().name("committer".to_owned()).spawn(run)?;
        Ok(Committer { volume, thread: Some(thread) })
    }

    /// A committer without a thread, for a simulation: it works when [`Committer::run_once`] is called.
    pub(crate) fn manual(volume: Arc<Volume>) -> Committer {
        Committer { volume, thread: None }
    }

    /// Rings `bell` whenever something is queued behind nothing. Only the first bell counts.
    pub(crate) fn ring(&self, bell: Bell) {
        let _ = self.volume.queue.bell.set(bell);
    }

    /// Syncs what is queued now. Returns the number of logs.
    pub fn run_once(&self) -> usize {
        let logs = self.volume.queue.take();
        flush(&self.volume, &logs);
        logs.len()
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.volume.queue.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!(dir = %self.volume.path.display(), "the committer's thread panicked");
        }
    }
}

/// A panic takes the directory out of use, as a failed sync does: those who wait must hear of it. The thread goes on, so
/// that whoever asks later is told as well.
fn flush(volume: &Volume, logs: &[Arc<Log>]) {
    let work = || {
        for log in logs {
            // The failure is the directory's, which has logged it and told everyone who waits.
            let _ = log.flush_queued();
        }
    };
    // Every lock on the way is taken in spite of poison, and a failed directory writes nothing any more.
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        volume.fail(&"the committer panicked");
    }
}
