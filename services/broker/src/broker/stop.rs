//! The order of a stop: first the leaderships move while everything is served, then the servers and the rest end.

use crate::controller::Wishes;
use crate::replicas::{Partition, ReplicaManager};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thalweg_core::BrokerId;
use thalweg_runtime::Shutdown;

/// What a registered broker does before it stops.
pub struct Goodbye {
    /// Who stops.
    pub node_id: BrokerId,
    /// Its heartbeats.
    pub heartbeats: Wishes,
    /// Its partitions.
    pub replicas: Arc<ReplicaManager>,
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
    /// Tells the cluster that this broker stops, and waits until it may and knows that others lead, or as long as the
    /// configuration says.
    async fn say(&self) {
        tracing::info!(broker = %self.node_id, "stopping: asking the cluster to move leaderships");
        self.heartbeats.stop.send_replace(true);
        let mut standing = self.heartbeats.standing.clone();
        let let_go = async {
            // The sender lives as long as the heartbeats, which end after this.
            let _ = standing.wait_for(|standing| standing.may_shutdown).await;
            // The leave can come before the metadata it stands on. Until that is applied, producers are not told who leads now,
            // and what they wrote last waits here for followers that have gone elsewhere.
            let mut applied = self.replicas.watch();
            while self.replicas.led().iter().any(|partition| others_may_lead(partition)) {
                if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(self.within, let_go).await.is_err() {
            tracing::warn!(broker = %self.node_id, "stopping although the cluster has not let go of this broker");
        }
    }
}

/// Whether the cluster can have moved the partition's leadership. One that has no other replica in sync stays where it is.
fn others_may_lead(partition: &Partition) -> bool {
    partition.leading().is_some_and(|role| role.isr.iter().any(|broker| *broker != role.leader))
}

impl fmt::Debug for Goodbye {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Goodbye").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}
