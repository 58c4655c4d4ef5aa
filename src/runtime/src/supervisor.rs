//! Tasks with names that cannot die unseen: [`Supervisor`].

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::AbortHandle;
use tokio_util::task::TaskTracker;

use crate::Shutdown;

/// Any error of a task.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a task counts as failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FailureCause {
    /// It returned this error (with its sources, joined by `: `).
    Error(String),
    /// It panicked with this message.
    Panicked(String),
    /// It was to run until the shutdown, and ended before it.
    EndedEarly,
}

impl fmt::Display for FailureCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error(error) => write!(f, "{error}"),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
            Self::EndedEarly => write!(f, "ended before the shutdown"),
        }
    }
}

/// One task's failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task `{task}` failed: {cause}")]
pub struct TaskFailure {
    /// The name it was spawned with.
    pub task: String,
    /// What happened.
    pub cause: FailureCause,
}

/// What [`Supervisor::join`] reports. Never worth a retry: the process should end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SupervisorError {
    /// At least one task failed; this is the first.
    #[error(transparent)]
    Failed(TaskFailure),
    /// Tasks were still running at the deadline, and were aborted.
    #[error("{} still running {deadline:?} after the shutdown: {}{}", tasks.len(), tasks.join(", "), AfterFailure(first))]
    Stuck {
        /// Their names, in the order they were spawned.
        tasks: Vec<String>,
        /// The deadline they missed.
        deadline: Duration,
        /// The first failure of another task, if any did.
        first: Option<TaskFailure>,
    },
}

struct AfterFailure<'a>(&'a Option<TaskFailure>);

impl fmt::Display for AfterFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(failure) => write!(f, " (after {failure})"),
            None => Ok(()),
        }
    }
}

/// What a task may return: nothing, or a `Result` whose error fails it.
pub trait TaskOutput {
    /// `Err` fails the task.
    fn into_result(self) -> Result<(), BoxError>;
}

impl TaskOutput for () {
    fn into_result(self) -> Result<(), BoxError> {
        Ok(())
    }
}

impl<E: Into<BoxError>> TaskOutput for Result<(), E> {
    fn into_result(self) -> Result<(), BoxError> {
        self.map_err(Into::into)
    }
}

/// Runs a service's tasks by name. Cheap to clone.
///
/// A task that returns an error or panics is logged, counted, remembered (the first one), and triggers the
/// service's [`Shutdown`]: a service that lost a part ends, and whoever runs it starts it again.
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Inner>,
}

struct Inner {
    shutdown: Shutdown,
    tracker: TaskTracker,
    next_id: AtomicU64,
    failures: AtomicU64,
    first: Mutex<Option<TaskFailure>>,
    /// By spawn order, so that reports name tasks in the order they came up.
    running: Mutex<BTreeMap<u64, (String, AbortHandle)>>,
}

// A panic in a task never happens under these locks, and their values are whole at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Supervisor {
    /// A supervisor whose failures trigger `shutdown`.
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            inner: Arc::new(Inner {
                shutdown,
                tracker: TaskTracker::new(),
                next_id: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                first: Mutex::new(None),
                running: Mutex::new(BTreeMap::new()),
            }),
        }
    }

    /// The shutdown that a failure triggers.
    pub fn shutdown(&self) -> &Shutdown {
        &self.inner.shutdown
    }

    /// Runs `task`, which may end whenever it is done.
    pub fn spawn<F>(&self, name: impl Into<String>, task: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput + Send,
    {
        self.start(name.into(), false, task);
    }

    /// Runs `task`, which must not end before the shutdown: ending early, even with `Ok`, is a failure.
    pub fn spawn_critical<F>(&self, name: impl Into<String>, task: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput + Send,
    {
        self.start(name.into(), true, task);
    }

    fn start<F>(&self, name: String, critical: bool, task: F)
    where
        F: Future + Send + 'static,
        F::Output: TaskOutput + Send,
    {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { inner: Arc::clone(&self.inner), id };
        let label = name.clone();
        // Held over the spawn, so that a task that ends at once finds its entry and removes it.
        let mut running = lock(&self.inner.running);
        let handle = self.inner.tracker.spawn(async move {
            let cause = match AssertUnwindSafe(task).catch_unwind().await {
                Err(payload) => Some(FailureCause::Panicked(panic_message(payload.as_ref()))),
                Ok(output) => match output.into_result() {
                    Err(error) => Some(FailureCause::Error(error_chain(error.as_ref()))),
                    Ok(()) if critical && !entry.inner.shutdown.is_triggered() => {
                        Some(FailureCause::EndedEarly)
                    }
                    Ok(()) => None,
                },
            };
            match cause {
                Some(cause) => entry.inner.fail(TaskFailure { task: label, cause }),
                None => tracing::debug!(task = %label, "task ended"),
            }
        });
        running.insert(id, (name, handle.abort_handle()));
    }

    /// The first failure, if any task failed.
    pub fn first_failure(&self) -> Option<TaskFailure> {
        lock(&self.inner.first).clone()
    }

    /// How many tasks have failed.
    pub fn failures(&self) -> u64 {
        self.inner.failures.load(Ordering::Relaxed)
    }

    /// The names of the tasks now running, in the order they were spawned.
    pub fn running(&self) -> Vec<String> {
        lock(&self.inner.running).values().map(|(name, _)| name.clone()).collect()
    }

    /// Waits for every task. Once the shutdown is triggered they have `deadline` to end; those that miss it are
    /// aborted. Before the shutdown it waits as long as they run.
    pub async fn join(&self, deadline: Duration) -> Result<(), SupervisorError> {
        self.inner.tracker.close();
        let late = async {
            self.inner.shutdown.triggered().await;
            tokio::time::sleep(deadline).await;
        };
        tokio::select! {
            biased;
            () = self.inner.tracker.wait() => {}
            () = late => return Err(self.abort_stuck(deadline)),
        }
        self.first_failure().map_or(Ok(()), |failure| Err(SupervisorError::Failed(failure)))
    }

    fn abort_stuck(&self, deadline: Duration) -> SupervisorError {
        let mut tasks = Vec::new();
        for (name, handle) in lock(&self.inner.running).values() {
            tracing::error!(task = %name, ?deadline, "task did not end in time, aborting it");
            tasks.push(name.clone());
            handle.abort();
        }
        SupervisorError::Stuck { tasks, deadline, first: self.first_failure() }
    }
}

impl Inner {
    fn fail(&self, failure: TaskFailure) {
        tracing::error!(task = %failure.task, cause = %failure.cause, "task failed, shutting down");
        self.failures.fetch_add(1, Ordering::Relaxed);
        lock(&self.first).get_or_insert(failure);
        self.shutdown.trigger();
    }
}

/// Takes the task off the running list however it ends, abort included.
struct Entry {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        lock(&self.inner.running).remove(&self.id);
    }
}

/// The text of a panic, as far as it is one.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a value that is not text".to_owned()
    }
}

fn error_chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Transparent wrappers repeat their source's words.
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
#[path = "supervisor/tests.rs"]
mod tests;
