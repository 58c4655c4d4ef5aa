//! A broker's life: start, serve, stop.
//!
//! ```text
//!   bind ─► watch metadata ─► open logs ─► register ─► reconcile ─► unfenced ─► serve
//!   shutdown ─► goodbye + drain (together) ─► close logs
//! ```
//! The logs are opened only once the cluster is known, because a folder of another cluster must be refused; nothing is deleted
//! before the registration is seen in the metadata, because an older image could lack a topic that lives.

mod error;

pub use error::{BrokerError, ServeError, StartError};

use crate::config::BrokerConfig;
use crate::controller::{ControllerLink, Heartbeats, Introduction, register, say_goodbye, watch_metadata};
use crate::in_flight::InFlight;
use crate::metadata::MetadataStore;
use crate::node::Node;
use crate::producer_ids::ProducerIds;
use crate::replicas::ReplicaManager;
use crate::services;
use crate::settings::log_config;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::{Clock, ClusterId, MetadataVersion};
use thalweg_log::storage::{OsStorage, Storage};
use thalweg_log::{LogConfig, LogManager, LogManagerConfig};
use thalweg_runtime::{Shutdown, Supervisor, bind};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// The broker service.
#[derive(Debug)]
pub struct Broker;

/// A running broker.
pub struct BrokerHandle {
    listen: SocketAddr,
    node: Arc<Node>,
    who: Introduction,
    supervisor: Supervisor,
}

impl std::fmt::Debug for BrokerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrokerHandle").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// Runs a broker on the machine's clock and disks until `shutdown`.
pub async fn serve(config: BrokerConfig, shutdown: Shutdown) -> Result<(), ServeError> {
    let broker = Broker::start(config, Arc::new(WallClock), Arc::new(OsStorage::new()), shutdown).await?;
    Ok(broker.join().await?)
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> thalweg_core::Timestamp {
        thalweg_core::Timestamp(thalweg_runtime::SystemClock.now_millis())
    }
}

impl Broker {
    /// Starts a broker. Returns once it is registered, holds its partitions and takes calls.
    pub async fn start(
        config: BrokerConfig,
        clock: Arc<dyn Clock>,
        storage: Arc<dyn Storage>,
        shutdown: Shutdown,
    ) -> Result<BrokerHandle, StartError> {
        // A part that fails ends this broker, not the process.
        let supervisor = Supervisor::new(shutdown.child());
        let started = start(config, clock, storage, &supervisor).await;
        if started.is_err() {
            supervisor.shutdown().trigger();
            let _ = supervisor.join(STOP_HALF_STARTED).await;
        }
        started
    }
}

/// How long the parts of a broker that did not start may take to end.
const STOP_HALF_STARTED: Duration = Duration::from_secs(5);

async fn start(
    config: BrokerConfig,
    clock: Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    supervisor: &Supervisor,
) -> Result<BrokerHandle, StartError> {
    config.validate()?;
    let shutdown = supervisor.shutdown().clone();
    let deadline = Instant::now() + config.intervals.start;
    // First the ports: what is registered must be what clients find.
    let listener = bind(config.listen)?;
    let listen = listener.local_addr().map_err(StartError::Address)?;
    let internal = config.internal_listen.map(bind).transpose()?;
    let internal_addr = match &internal {
        Some(listener) => listener.local_addr().map_err(StartError::Address)?,
        None => listen,
    };

    let link = Arc::new(ControllerLink::new(&config)?);
    let metadata = Arc::new(MetadataStore::new());
    supervisor.spawn_critical(
        "metadata-watch",
        watch_metadata(Arc::clone(&link), Arc::clone(&metadata), shutdown.clone()),
    );
    let no_metadata =
        || StartError::NoMetadata { controllers: config.controllers.clone(), within: config.intervals.start };
    let image =
        wait_for(&metadata, &shutdown, deadline, |image| image.cluster_id().is_some(), no_metadata).await?;
    let cluster_id = image.cluster_id().cloned().ok_or_else(no_metadata)?;
    if let Some(wanted) = config.cluster_id.as_ref().filter(|wanted| **wanted != cluster_id) {
        return Err(StartError::OtherCluster { found: cluster_id, wanted: wanted.clone() });
    }

    let logs = tokio::select! {
        logs = open_logs(&config, &clock, storage, cluster_id.clone(), image) => logs?,
        // A recovery may take long; it goes on behind the stop, and the next start does it again.
        () = shutdown.triggered() => return Err(StartError::Stopped),
    };
    let opened = Opened { cluster_id, listener, listen, internal, internal_addr, link, metadata };
    let joined = join_cluster(config, clock, Arc::clone(&logs), opened, supervisor).await;
    if joined.is_err() {
        // Nothing was written: the next start need not recover.
        let _ = tokio::task::spawn_blocking(move || logs.close(None)).await;
    }
    joined
}

/// What a broker has before it joins its cluster.
struct Opened {
    cluster_id: ClusterId,
    listener: TcpListener,
    listen: SocketAddr,
    internal: Option<TcpListener>,
    internal_addr: SocketAddr,
    link: Arc<ControllerLink>,
    metadata: Arc<MetadataStore>,
}

async fn join_cluster(
    config: BrokerConfig,
    clock: Arc<dyn Clock>,
    logs: Arc<LogManager>,
    opened: Opened,
    supervisor: &Supervisor,
) -> Result<BrokerHandle, StartError> {
    // Counted from here, because a recovery takes as long as it takes.
    let deadline = Instant::now() + config.intervals.start;
    let Opened { cluster_id, listener, listen, internal, internal_addr, link, metadata } = opened;
    let shutdown = supervisor.shutdown().clone();
    let no_metadata =
        || StartError::NoMetadata { controllers: config.controllers.clone(), within: config.intervals.start };
    let replicas = Arc::new(ReplicaManager::new(config.node_id, Arc::clone(&logs)));
    let who = Introduction {
        node_id: config.node_id,
        cluster_id,
        incarnation: rand::random(),
        endpoint: config.advertise.clone().unwrap_or_else(|| advertised(listen)),
        internal_endpoint: internal_endpoint(&config, internal_addr),
        rack: config.rack.clone(),
        log_directory_ids: logs.dir_states().iter().map(|dir| dir.id.to_string()).collect(),
    };
    let within = deadline.saturating_duration_since(Instant::now());
    let registered = tokio::select! {
        registered = register(&link, &who, within) => registered?,
        () = shutdown.triggered() => return Err(StartError::Stopped),
    };
    let seen = |image: &MetadataImage| image.version() >= registered;
    let image = wait_for(&metadata, &shutdown, deadline, seen, no_metadata).await?;
    reconcile_first(&replicas, &clock, image).await?;

    supervisor.spawn_critical(
        "heartbeats",
        Heartbeats { link: Arc::clone(&link), who: who.clone(), applied: replicas.watch() }
            .run(shutdown.clone()),
    );
    supervisor.spawn_critical(
        "replicas",
        follow_metadata(
            Arc::clone(&replicas),
            Arc::clone(&metadata),
            Arc::clone(&clock),
            config.intervals.reopen,
            shutdown.clone(),
        ),
    );
    supervisor
        .spawn_critical("flushes", flush_due(Arc::clone(&replicas), Arc::clone(&clock), shutdown.clone()));
    supervisor.spawn_critical(
        "housekeeping",
        housekeeping(logs, Arc::clone(&clock), config.intervals.housekeeping, shutdown.clone()),
    );
    // A fenced broker leads nothing; who connects now should find the partitions served.
    let me = config.node_id;
    let unfenced = |image: &MetadataImage| image.broker(me).is_some_and(|broker| !broker.fenced);
    let image = wait_for(&metadata, &shutdown, deadline, unfenced, no_metadata).await?;
    wait_applied(&replicas, image.version(), &shutdown).await?;

    let node = Arc::new(Node {
        in_flight: InFlight::new(config.limits.in_flight_bytes),
        answers: InFlight::new(config.limits.fetch_answers_bytes),
        producer_ids: ProducerIds::new(),
        controller: link,
        clock,
        metadata,
        replicas,
        shutdown,
        config,
    });
    serve_on(supervisor, &node, listener, internal)?;
    tracing::info!(broker = %node.config.node_id, %listen, partitions = node.replicas.len(), "broker ready");
    Ok(BrokerHandle { listen, node, who, supervisor: supervisor.clone() })
}

fn serve_on(
    supervisor: &Supervisor,
    node: &Arc<Node>,
    listener: TcpListener,
    internal: Option<TcpListener>,
) -> Result<(), StartError> {
    let shutdown = node.shutdown.clone();
    supervisor.spawn_critical("server", services::public(node)?.serve_listener(listener, shutdown.clone()));
    if let Some(listener) = internal {
        let server = services::internal(&node.config.server)?;
        supervisor.spawn_critical("internal-server", server.serve_listener(listener, shutdown));
    }
    Ok(())
}

async fn open_logs(
    config: &BrokerConfig,
    clock: &Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    cluster_id: ClusterId,
    image: Arc<MetadataImage>,
) -> Result<Arc<LogManager>, StartError> {
    let manager_config = LogManagerConfig::new(config.data_dirs.clone(), cluster_id, config.node_id);
    let now = clock.now();
    let opened = tokio::task::spawn_blocking(move || {
        LogManager::open(storage, manager_config, now, &|tp| {
            image.topic(tp.topic.as_str()).map_or_else(LogConfig::default, |topic| log_config(&topic.config))
        })
    });
    Ok(Arc::new(opened.await.map_err(|_| StartError::Stopped)??))
}

async fn reconcile_first(
    replicas: &Arc<ReplicaManager>,
    clock: &Arc<dyn Clock>,
    image: Arc<MetadataImage>,
) -> Result<(), StartError> {
    let (replicas, clock) = (Arc::clone(replicas), Arc::clone(clock));
    tokio::task::spawn_blocking(move || {
        replicas.delete_strays(&image);
        replicas.reconcile(&image, &*clock);
    })
    .await
    .map_err(|_| StartError::Stopped)
}

/// Brings the partitions in line with each new image, one after the other; those that pile up meanwhile are one. In quiet
/// times it tries the logs that could not be opened again.
async fn follow_metadata(
    replicas: Arc<ReplicaManager>,
    metadata: Arc<MetadataStore>,
    clock: Arc<dyn Clock>,
    reopen: Duration,
    shutdown: Shutdown,
) -> Result<(), tokio::task::JoinError> {
    let mut versions = metadata.watch();
    loop {
        let image = tokio::select! {
            changed = versions.changed() => match changed {
                Ok(()) => Some(metadata.snapshot()),
                Err(_) => return Ok(()),
            },
            () = tokio::time::sleep(reopen) => None,
            () = shutdown.triggered() => return Ok(()),
        };
        let (replicas, clock) = (Arc::clone(&replicas), Arc::clone(&clock));
        let work = move || match image {
            Some(image) => replicas.reconcile(&image, &*clock),
            None => replicas.retry_failed(&*clock),
        };
        tokio::task::spawn_blocking(work).await?;
    }
}

/// How often topics with write caching are looked at for `flush.ms`: no finer than this is it kept.
const FLUSH_TICK: Duration = Duration::from_millis(250);

/// Asks for the syncs that `flush.ms` promises. Cheap: the committers do the work.
async fn flush_due(
    replicas: Arc<ReplicaManager>,
    clock: Arc<dyn Clock>,
    shutdown: Shutdown,
) -> Result<(), tokio::task::JoinError> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(FLUSH_TICK) => {}
            () = shutdown.triggered() => return Ok(()),
        }
        let (replicas, now) = (Arc::clone(&replicas), clock.now());
        tokio::task::spawn_blocking(move || replicas.logs().flush_due(now)).await?;
    }
}

async fn housekeeping(
    logs: Arc<LogManager>,
    clock: Arc<dyn Clock>,
    every: Duration,
    shutdown: Shutdown,
) -> Result<(), tokio::task::JoinError> {
    loop {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = shutdown.triggered() => return Ok(()),
        }
        let (logs, now) = (Arc::clone(&logs), clock.now());
        tokio::task::spawn_blocking(move || logs.housekeeping(now)).await?;
    }
}

async fn wait_for(
    metadata: &MetadataStore,
    shutdown: &Shutdown,
    deadline: Instant,
    wanted: impl Fn(&MetadataImage) -> bool,
    late: impl Fn() -> StartError,
) -> Result<Arc<MetadataImage>, StartError> {
    let mut versions = metadata.watch();
    loop {
        let image = metadata.snapshot();
        if wanted(&image) {
            return Ok(image);
        }
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { return Err(StartError::Stopped) },
            () = tokio::time::sleep_until(deadline) => return Err(late()),
            () = shutdown.triggered() => return Err(StartError::Stopped),
        }
    }
}

async fn wait_applied(
    replicas: &ReplicaManager,
    version: MetadataVersion,
    shutdown: &Shutdown,
) -> Result<(), StartError> {
    let mut applied = replicas.watch();
    tokio::select! {
        reached = applied.wait_for(|applied| *applied >= version) => {
            reached.map(drop).map_err(|_| StartError::Stopped)
        }
        () = shutdown.triggered() => Err(StartError::Stopped),
    }
}

/// What clients are told when nobody says otherwise: the listener's address, or this machine's loopback when it listens on all.
fn advertised(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], listen.port()));
        tracing::warn!(%listen, advertised = %loopback, "no address to advertise was given; others cannot connect");
        return loopback.to_string();
    }
    listen.to_string()
}

fn internal_endpoint(config: &BrokerConfig, internal: SocketAddr) -> String {
    let host =
        config.advertise.as_deref().and_then(|advertise| advertise.rsplit_once(':')).map(|(host, _)| host);
    match host {
        Some(host) => format!("{host}:{}", internal.port()),
        None => advertised(internal),
    }
}

// === impl BrokerHandle ===

impl BrokerHandle {
    /// Where clients connect.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// The cluster's metadata as this broker knows it.
    pub fn metadata(&self) -> &Arc<MetadataStore> {
        &self.node.metadata
    }

    /// The partitions on this broker.
    pub fn replicas(&self) -> &Arc<ReplicaManager> {
        &self.node.replicas
    }

    /// Waits until the broker has stopped: after its shutdown was triggered, or after a part of it failed. Calls and streams
    /// end first, then the logs are closed.
    pub async fn join(self) -> Result<(), BrokerError> {
        let BrokerHandle { node, who, supervisor, .. } = self;
        let within = node.config.intervals.shutdown;
        let goodbye = async {
            node.shutdown.triggered().await;
            let applied = *node.replicas.watch().borrow();
            say_goodbye(&node.controller, &who, applied).await;
        };
        let (ended, ()) = tokio::join!(supervisor.join(within), goodbye);
        let (logs, epoch) = (Arc::clone(node.replicas.logs()), node.controller.epoch());
        let closing = tokio::task::spawn_blocking(move || logs.close(epoch));
        match tokio::time::timeout(within, closing).await {
            Ok(Ok(closed)) => closed?,
            Ok(Err(error)) => {
                tracing::error!(%error, "closing the logs panicked");
            }
            Err(_) => return Err(BrokerError::CloseTimedOut(within)),
        }
        tracing::info!(broker = %node.config.node_id, "broker stopped");
        Ok(ended?)
    }
}
