//! The order of a stop: first the leaderships move while everything is served, then the servers and the rest end.

use crate::controller::Wishes;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thalweg_core::BrokerId;
use thalweg_runtime::Shutdown;

/// What a registered broker does before it stops.
#[derive(Debug)]
pub struct Goodbye {
    /// Who stops.
    pub node_id: BrokerId,
    /// Its heartbeats.
    pub heartbeats: Wishes,
    /// How long it waits to be let go.
    pub within: Duration,
}

/// Waits for `asked`, says goodbye if the broker was registered, and triggers `parts`. Ends early when the parts end by
/// themselves.
pub async fn in_order(asked: Shutdown, parts: Shutdown, goodbye: Arc<OnceLock<Goodbye>>) {
    tokio::select! {
        () = asked.triggered() => {}
        () = parts.triggered() => return,
    }
    if let Some(goodbye) = goodbye.get() {
        tokio::select! {
            () = goodbye.say() => {}
            () = parts.triggered() => {}
        }
    }
    parts.trigger();
}

impl Goodbye {
    /// Tells the cluster that this broker stops, and waits until it may, or as long as the configuration says.
    async fn say(&self) {
        tracing::info!(broker = %self.node_id, "stopping: asking the cluster to move leaderships");
        self.heartbeats.stop.send_replace(true);
        let mut standing = self.heartbeats.standing.clone();
        let let_go = standing.wait_for(|standing| standing.may_shutdown);
        if tokio::time::timeout(self.within, let_go).await.is_err() {
            tracing::warn!(broker = %self.node_id, "stopping although the cluster has not let go of this broker");
        }
    }
}
