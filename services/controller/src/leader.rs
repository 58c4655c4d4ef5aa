//! What only the leading controller does: found the cluster, and fence brokers that fell silent.

use crate::quorum::Quorum;
use crate::sessions::Sessions;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use thalweg_core::ClusterId;
use thalweg_core::metadata::Command;
use thalweg_core::metadata::command::{BrokerRef, InitCluster};
use thalweg_core::metadata::image::FEATURE_LEVEL;
use thalweg_runtime::Shutdown;
use tokio::time::MissedTickBehavior;

/// How often the leader looks for silent brokers.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// Runs until the controller stops.
pub async fn run(
    quorum: Quorum,
    cluster_id: ClusterId,
    sessions: Arc<Mutex<Sessions>>,
    session: Duration,
    shutdown: Shutdown,
) -> Result<(), Infallible> {
    let mut status = quorum.status();
    let mut check = tokio::time::interval(CHECK_EVERY);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let serving = status.borrow_and_update().serving;
        if serving && quorum.published().image().cluster_id().is_none() {
            found(&quorum, &cluster_id).await;
        }
        tokio::select! {
            () = shutdown.triggered() => return Ok(()),
            changed = status.changed() => if changed.is_err() {
                // The Raft node has ended; its own task says why.
                shutdown.triggered().await;
                return Ok(());
            },
            _ = check.tick() => {
                if serving {
                    fence_silent(&quorum, &sessions, session).await;
                } else {
                    sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
                }
            }
        }
    }
}

async fn found(quorum: &Quorum, cluster_id: &ClusterId) {
    let init = InitCluster { cluster_id: cluster_id.clone(), feature_level: FEATURE_LEVEL };
    match quorum.propose(&Command::InitCluster(init)).await {
        Ok(_) => tracing::info!(cluster = %cluster_id, "cluster founded"),
        Err(error) => tracing::warn!(cluster = %cluster_id, %error, "cluster not founded yet; trying again"),
    }
}

async fn fence_silent(quorum: &Quorum, sessions: &Mutex<Sessions>, session: Duration) {
    let image = quorum.published().image();
    let alive = image.brokers().filter(|broker| !broker.fenced).map(|broker| (broker.id, broker.epoch));
    let expired =
        sessions.lock().unwrap_or_else(PoisonError::into_inner).expired(alive, session, Instant::now());
    for (id, epoch) in expired {
        match quorum.propose(&Command::FenceBroker(BrokerRef { id, epoch })).await {
            Ok(_) => tracing::warn!(broker = %id, %epoch, "broker fenced: no sign of life"),
            Err(error) => tracing::warn!(broker = %id, %epoch, %error, "broker not fenced yet; trying again"),
        }
    }
}
