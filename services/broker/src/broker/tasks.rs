//! What a broker does by itself for as long as it runs.

use crate::metadata::MetadataStore;
use crate::replicas::ReplicaManager;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::{BrokerEpoch, BrokerId, Clock};
use thalweg_log::LogManager;
use thalweg_runtime::{Shutdown, blocking};
use tokio::sync::{Notify, watch};
use tokio::task::JoinError;

/// This process's own registration.
pub struct Own {
    /// The broker.
    pub id: BrokerId,
    /// The epoch; `None` before it is registered.
    pub epoch: watch::Receiver<Option<BrokerEpoch>>,
}

impl Own {
    /// Whether the metadata has a newer registration of this broker: another process's, or one of this process's own of which it
    /// has not heard yet.
    pub fn is_replaced(&self, image: &MetadataImage) -> bool {
        let registered = image.broker(self.id).map(|broker| broker.epoch);
        registered.is_some_and(|registered| self.epoch.borrow().is_some_and(|own| registered > own))
    }
}

/// Brings the partitions in line with each new image, one after the other; those that pile up meanwhile are one. In quiet
/// times it tries the logs that could not be opened again.
///
/// An image in which this broker is registered more newly waits: its roles may be meant for another process, with other logs.
/// Either word of an own new registration comes, or the heartbeats end this one.
pub async fn follow_metadata(
    own: Own,
    replicas: Arc<ReplicaManager>,
    metadata: Arc<MetadataStore>,
    clock: Arc<dyn Clock>,
    reopen: Duration,
    shutdown: Shutdown,
) -> Result<(), JoinError> {
    let (mut versions, mut registered) = (metadata.watch(), own.epoch.clone());
    loop {
        let image = tokio::select! {
            changed = versions.changed() => match changed {
                Ok(()) => Some(metadata.snapshot()),
                Err(_) => return Ok(()),
            },
            Ok(()) = registered.changed() => Some(metadata.snapshot()),
            () = tokio::time::sleep(reopen) => None,
            () = shutdown.triggered() => return Ok(()),
        };
        if image.as_ref().is_some_and(|image| own.is_replaced(image)) {
            tracing::warn!(broker = %own.id, "this broker is registered anew; its roles wait until it is known by whom");
            continue;
        }
        let (replicas, clock) = (Arc::clone(&replicas), Arc::clone(&clock));
        let work = move || match image {
            Some(image) => replicas.reconcile(&image, &*clock),
            None => replicas.retry_failed(&*clock),
        };
        blocking::run(work).await?;
    }
}

/// How often topics with write caching are looked at for `flush.ms`: no finer than this is it kept.
const FLUSH_TICK: Duration = Duration::from_millis(250);

/// Asks for the syncs that `flush.ms` promises. Cheap: the committers do the work.
pub async fn flush_due(
    replicas: Arc<ReplicaManager>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
) -> Result<(), JoinError> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FLUSH_TICK) => {}
            () = shutdown.triggered() => return Ok(()),
        }
        let (replicas, now) = (Arc::clone(&replicas), clock.now());
        blocking::run(move || replicas.logs().flush_due(now)).await?;
    }
}

pub async fn housekeeping(
    logs: Arc<LogManager>,
    clock: Arc<dyn Clock>,
    every: Duration,
    shutdown: Shutdown,
) -> Result<(), JoinError> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = shutdown.triggered() => return Ok(()),
        }
        let (logs, now) = (Arc::clone(&logs), clock.now());
        blocking::run(move || logs.housekeeping(now)).await?;
    }
}

/// Why a broker ends by itself. A restart helps once the disk is well: the logs are recovered then.
#[derive(Debug, thiserror::Error)]
#[error("the data directory {} failed: {reason}", dir.display())]
pub struct DirFailure {
    dir: PathBuf,
    reason: String,
}

/// Ends with an error as soon as a data directory fails (catalogue 12), and the broker with it: one that went on would lead, and
/// count as in sync, without being able to append, while healthy replicas stand by. As it says no goodbye and leaves no mark of a
/// clean stop, its broken session fences it and others take over.
///
/// With several directories the first failure ends the broker, too: the metadata does not know which replicas lie where, so that
/// giving up those of one directory alone (KIP-112) has no words yet.
pub async fn watch_dirs(logs: Arc<LogManager>, shutdown: Shutdown) -> Result<(), DirFailure> {
    let failed = Arc::new(Notify::new());
    let bell = Arc::clone(&failed);
    logs.on_dir_failure(Arc::new(move || bell.notify_one()));
    tokio::select! {
        () = failed.notified() => match logs.failed_dir() {
            Some((dir, reason)) => Err(DirFailure { dir, reason }),
            // Only a failure rings. The supervisor knows what to do with a critical task that ends.
            None => Ok(()),
        },
        () = shutdown.triggered() => Ok(()),
    }
}

/// How long after a request for it a sync ends, in milliseconds, where no thread does the syncs: as on a busy disk, and long
/// enough that a crash can come between an append and its sync.
const COMMIT_DELAY_MS: std::ops::RangeInclusive<u64> = 1..=40;

/// Does the work of the committers' threads, for a simulation.
pub async fn commit(logs: Arc<LogManager>, shutdown: Shutdown) -> Result<(), JoinError> {
    let asked = Arc::new(Notify::new());
    let bell = Arc::clone(&asked);
    logs.on_sync_request(Arc::new(move || bell.notify_one()));
    loop {
        let logs = Arc::clone(&logs);
        // Also what was asked for before the bell was there.
        blocking::run(move || logs.run_committers()).await?;
        tokio::select! {
            () = asked.notified() => tokio::time::sleep(Duration::from_millis(rand::random_range(COMMIT_DELAY_MS))).await,
            () = shutdown.triggered() => return Ok(()),
        }
    }
}
