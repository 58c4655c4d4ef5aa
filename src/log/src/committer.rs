//! Group commit: one committer for each data directory syncs the logs that have something new, back to back.
//!
//! ```text
//!   append ─► queue ─► committer: fdatasync ─► flushed_offset ─► listener
//!   append ─► queue ─┘   (what arrives during one sync is covered by the next; nobody lingers)
//! ```
//! The logs of one round are synced side by side: a file system makes one commit of its journal and one flush of the disk for
//! syncs that come together, where one after the other each pays for its own. Eight small files took 26 ms one by one, and 1.3 ms
//! at once.
//!
//! A sync runs under no lock that an append needs. A failed sync is never tried again: the kernel may have dropped the
//! pages. The directory is taken out of use instead (catalogue 12).

use crate::log::Log;
use crate::volume::Volume;
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;
use thalweg_core::Offset;

/// Logs of one directory that are synced at once.
const AT_ONCE: usize = 8;

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

    /// How many logs wait.
    pub fn len(&self) -> usize {
        self.lock().logs.len()
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
            let mut helpers = Helpers::new(Arc::clone(&worker));
            while let Some(logs) = worker.queue.wait() {
                helpers.flush(logs);
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
        let round = Round::new(self.volume.queue.take());
        flush(&self.volume, &round);
        round.logs.len()
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

/// The logs that were queued at one time, shared out among the threads.
#[derive(Debug)]
struct Round {
    logs: Vec<Arc<Log>>,
    next: AtomicUsize,
}

impl Round {
    fn new(logs: Vec<Arc<Log>>) -> Round {
        Round { logs, next: AtomicUsize::new(0) }
    }

    /// A log that nobody has taken.
    fn take(&self) -> Option<&Arc<Log>> {
        self.logs.get(self.next.fetch_add(1, Ordering::Relaxed))
    }
}

/// A round for a helper. What it holds beside the round is dropped when it is through: that is how it tells.
type Job = (Arc<Round>, mpsc::Sender<()>);

/// The threads beside the committer's own, started as they are needed. They end with it.
struct Helpers {
    volume: Arc<Volume>,
    jobs: Vec<mpsc::Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

impl Helpers {
    fn new(volume: Arc<Volume>) -> Helpers {
        Helpers { volume, jobs: Vec::new(), threads: Vec::new() }
    }

    /// Syncs the logs, and returns when all are: one round after the other, so that what is appended to a log meanwhile is
    /// covered by its next sync.
    fn flush(&mut self, logs: Vec<Arc<Log>>) {
        let wanted = logs.len().min(AT_ONCE).saturating_sub(1);
        while self.jobs.len() < wanted && self.start() {}
        let round = Arc::new(Round::new(logs));
        let (done, all_done) = mpsc::channel::<()>();
        for helper in self.jobs.iter().take(wanted) {
            // One that is gone leaves its share to the others.
            let _ = helper.send((Arc::clone(&round), done.clone()));
        }
        flush(&self.volume, &round);
        drop(done);
        // Nothing is ever sent: it ends when the last helper is through.
        let _ = all_done.recv();
    }

    /// Starts one more. Without it the others do the work.
    fn start(&mut self) -> bool {
        let (jobs, queued) = mpsc::channel::<Job>();
        let volume = Arc::clone(&self.volume);
        let work = move || {
            while let Ok((round, _through)) = queued.recv() {
                flush(&volume, &round);
            }
        };
        let started = std::thread::Builder::new().name("committer".to_owned()).spawn(work);
        let Ok(thread) = started else { return false };
        self.jobs.push(jobs);
        self.threads.push(thread);
        true
    }
}

impl Drop for Helpers {
    fn drop(&mut self) {
        self.jobs.clear();
        for thread in self.threads.drain(..) {
            // A panic was told where it happened.
            let _ = thread.join();
        }
    }
}

/// A panic takes the directory out of use, as a failed sync does: those who wait must hear of it. The thread goes on, so
/// that whoever asks later is told as well.
fn flush(volume: &Volume, round: &Round) {
    let work = || {
        while let Some(log) = round.take() {
            // The failure is the directory's, which has logged it and told everyone who waits.
            let _ = log.flush_queued();
        }
    };
    // Every lock on the way is taken in spite of poison, and a failed directory writes nothing any more.
    if catch_unwind(AssertUnwindSafe(work)).is_err() {
        volume.fail(&"the committer panicked");
    }
}
