//! A broker's life: start, serve, stop.
//!
//! ```text
//!   ports ─► watch metadata ─► open logs ─► register ─► reconcile ─► unfenced ─► serve
//!   shutdown ─► goodbye (leaderships move) ─► drain ─► close logs
//! ```
//! The logs are opened only once the cluster is known, because a folder of another cluster must be refused; nothing is deleted
//! before the registration is seen in the metadata, because an older image could lack a topic that lives.

mod cleaning;
mod error;
mod seams;
mod start;
mod stop;
mod tasks;

pub use error::{BrokerError, ServeError, StartError};
pub use seams::{BrokerSeams, Port, WallClock};

use crate::config::BrokerConfig;
use crate::metadata::MetadataStore;
use crate::metrics::BrokerSource;
use crate::node::Node;
use crate::replicas::ReplicaManager;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thalweg_core::Clock;
use thalweg_log::storage::Storage;
use thalweg_runtime::observe::Registry;
use thalweg_runtime::{CallMetrics, Shutdown, Supervisor, blocking};

/// The broker service.
#[derive(Debug)]
pub struct Broker;

/// A running broker.
pub struct BrokerHandle {
    listen: SocketAddr,
    internal_listen: SocketAddr,
    node: Arc<Node>,
    calls: [(&'static str, CallMetrics); 2],
    supervisor: Supervisor,
}

impl std::fmt::Debug for BrokerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerHandle").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// Runs a broker on the machine's clock, disks and network until `shutdown`.
pub async fn serve(config: BrokerConfig, shutdown: Shutdown) -> Result<(), ServeError> {
    let seams = BrokerSeams::machine(&config)?;
    let broker = Broker::start_with(config, seams, shutdown).await?;
    Ok(broker.join().await?)
}

impl Broker {
    /// Starts a broker on the machine's network. Returns once it is registered, holds its partitions and takes calls.
    pub async fn start(
        config: BrokerConfig,
        clock: Arc<dyn Clock>,
        storage: Arc<dyn Storage>,
        shutdown: Shutdown,
    ) -> Result<BrokerHandle, StartError> {
        config.validate()?;
        // First the ports: what is registered must be what clients find.
        let seams = BrokerSeams::new(&config, clock, storage)?;
        Broker::start_with(config, seams, shutdown).await
    }

    /// Starts a broker on what it is given. Returns once it is registered, holds its partitions and takes calls.
    ///
    /// `shutdown` lets it stop in good order: leaderships first. Dropping everything is what a crash is.
    pub async fn start_with(
        config: BrokerConfig,
        seams: BrokerSeams,
        shutdown: Shutdown,
    ) -> Result<BrokerHandle, StartError> {
        // A part that fails ends this broker, not the process; and the parts go on while the broker says goodbye.
        let supervisor = Supervisor::new(Shutdown::new());
        let goodbye = Arc::new(OnceLock::new());
        supervisor
            .spawn("stop", stop::in_order(shutdown, supervisor.shutdown().clone(), Arc::clone(&goodbye)));
        let started = start::start(config, seams, &supervisor, &goodbye).await;
        if started.is_err() {
            supervisor.shutdown().trigger();
            let _ = supervisor.join(STOP_HALF_STARTED).await;
        }
        started
    }
}

/// How long the parts of a broker that did not start may take to end.
const STOP_HALF_STARTED: Duration = Duration::from_secs(5);

// === impl BrokerHandle ===

impl BrokerHandle {
    /// Where clients connect.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// Where other services connect.
    pub fn internal_addr(&self) -> SocketAddr {
        self.internal_listen
    }

    /// The cluster's metadata as this broker knows it.
    pub fn metadata(&self) -> &Arc<MetadataStore> {
        &self.node.metadata
    }

    /// The partitions on this broker.
    pub fn replicas(&self) -> &Arc<ReplicaManager> {
        &self.node.replicas
    }

    /// Lets the broker be seen: its partitions, its calls.
    pub fn observe(&self, registry: &Registry) {
        let id = self.node.config.node_id;
        registry.add("broker", id, BrokerSource::new(&self.node));
        for (port, calls) in &self.calls {
            registry.add("broker", id, calls.source(port));
        }
    }

    /// Waits until the broker has stopped: after its shutdown was triggered, or after a part of it failed. First it says
    /// goodbye, then calls and streams end, then the logs are closed.
    pub async fn join(self) -> Result<(), BrokerError> {
        let BrokerHandle { node, supervisor, .. } = self;
        let within = node.config.intervals.shutdown;
        let ended = supervisor.join(within).await;
        let (logs, epoch) = (Arc::clone(node.replicas.logs()), node.controller.epoch());
        let closing = blocking::run(move || logs.close(epoch));
        let closed = match tokio::time::timeout(within, closing).await {
            Ok(Ok(closed)) => closed.map_err(BrokerError::from),
            Ok(Err(error)) => {
                tracing::error!(%error, "closing the logs panicked");
                Ok(())
            }
            Err(_) => Err(BrokerError::CloseTimedOut(within)),
        };
        // What ended it says more than what followed: the log of a failed disk cannot be closed either.
        ended?;
        closed?;
        tracing::info!(broker = %node.config.node_id, "broker stopped");
        Ok(())
    }
}
