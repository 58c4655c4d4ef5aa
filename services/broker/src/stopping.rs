//! The shutdown as a state machine may poll it for each message: cheap, and without allocation after the first.

use futures_util::FutureExt;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use thalweg_runtime::Shutdown;

/// One stream's view of the broker's shutdown.
pub struct Stopping {
    triggered: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
    done: bool,
}

impl Stopping {
    /// Watches `shutdown`.
    pub fn new(shutdown: Shutdown) -> Stopping {
        Stopping { triggered: Box::pin(async move { shutdown.triggered().await }), done: false }
    }

    /// Waits until the broker is told to stop. Safe to drop and call again.
    pub async fn wait(&mut self) {
        if !self.done {
            self.triggered.as_mut().await;
            self.done = true;
        }
    }

    /// Whether the broker was told to stop, without waiting: for a stream that has always something to do.
    pub fn has_come(&mut self) -> bool {
        self.done || self.wait().now_or_never().is_some()
    }
}

impl fmt::Debug for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopping").field("done", &self.done).finish_non_exhaustive()
    }
}
