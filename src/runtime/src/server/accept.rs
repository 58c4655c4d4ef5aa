//! Accepts connections within their bound, and drains them at the end.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::connection::{self, Shared};
use crate::Shutdown;
use crate::net::Incoming;

/// The pause after an accept that failed for this machine's own reasons, such as too many open files: the listener
/// would fail again at once.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(500);

/// Serves the connections of `incoming` until `shutdown`; then returns without waiting for them.
pub(super) async fn accept(
    mut incoming: Incoming,
    shared: &Arc<Shared>,
    connections: &TaskTracker,
    shutdown: &Shutdown,
) {
    let permits = Arc::new(Semaphore::new(shared.config.max_connections.min(Semaphore::MAX_PERMITS)));
    let mut number = 0;
    let serving = async {
        loop {
            if permits.available_permits() == 0 {
                tracing::warn!(
                    max_connections = shared.config.max_connections,
                    "connection limit reached, new ones wait"
                );
            }
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            match incoming.next().await {
                None => return tracing::debug!("no more connections come"),
                Some(Ok(accepted)) => {
                    number += 1;
                    let serve = connection::serve(Arc::clone(shared), accepted, number);
                    connections.spawn(async move {
                        serve.await;
                        drop(permit);
                    });
                }
                Some(Err(error)) if of_the_peer(&error) => {
                    tracing::debug!(%error, "connection lost while accepting it");
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "cannot accept connections, trying again");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.triggered() => return,
        () = serving => {}
    }
    // A listener that has ended leaves its connections running.
    connections.close();
    tokio::select! {
        () = shutdown.triggered() => {}
        () = connections.wait() => {}
    }
}

/// Lets connections end with their calls, and cuts those that are left at the deadline. Returns how many it cut.
pub(super) async fn drain(shared: &Shared, connections: &TaskTracker) -> usize {
    connections.close();
    shared.drain.trigger();
    let deadline = shared.config.drain_deadline;
    if tokio::time::timeout(deadline, connections.wait()).await.is_ok() {
        return 0;
    }
    let left = connections.len();
    shared.cut.trigger();
    connections.wait().await;
    left
}

/// Whether an accept failed for that one connection's reasons.
fn of_the_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::Interrupted
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
    )
}
