//! How a broker comes up.

use super::cleaning::Cleaner;
use super::seams::{BrokerSeams, Port};
use super::stop::Goodbye;
use super::tasks::{self, Own};
use super::{BrokerHandle, StartError};
use crate::config::BrokerConfig;
use crate::controller::{ControllerLink, Heartbeats, Introduction, Patience, register};
use crate::forward::Peers;
use crate::group::Groups;
use crate::in_flight::InFlight;
use crate::metadata::MetadataStore;
use crate::metrics::FlushTimes;
use crate::node::Node;
use crate::produce::fence::SeenLeases;
use crate::producer_ids::ProducerIds;
use crate::replicas::ReplicaManager;
use crate::replication::follower::{FollowerConfig, FollowerSeams, follow_leaders};
use crate::replication::leader::isr::{self, IsrBell};
use crate::services;
use crate::settings::log_config;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use thalweg_client::controllers::watch_metadata;
use thalweg_core::metadata::MetadataImage;
use thalweg_core::{Clock, ClusterId, MetadataVersion};
use thalweg_log::storage::Storage;
use thalweg_log::{CommitMode, LogConfig, LogManager, LogManagerConfig};
use thalweg_runtime::{Dialer, GrpcServer, Shutdown, Supervisor, blocking};
use tokio::time::Instant;

/// Starts everything under `supervisor`. Once the broker is registered, `goodbye` is what a stop must say.
pub async fn start(
    config: BrokerConfig,
    seams: BrokerSeams,
    supervisor: &Supervisor,
    goodbye: &OnceLock<Goodbye>,
) -> Result<BrokerHandle, StartError> {
    config.validate()?;
    let shutdown = supervisor.shutdown().clone();
    let deadline = Instant::now() + config.intervals.start;
    let BrokerSeams { clock, storage, dialer, public, internal, commit_mode } = seams;

    let link = Arc::new(ControllerLink::new(&config, dialer.clone())?);
    let metadata = Arc::new(MetadataStore::new());
    let watching = watch_metadata(Arc::clone(link.controllers()), Arc::clone(&metadata));
    let stopped = shutdown.clone();
    supervisor.spawn_critical("metadata-watch", async move {
        tokio::select! {
            () = watching => {}
            () = stopped.triggered() => {}
        }
    });
    let no_metadata = || no_metadata(&config);
    let image =
        wait_for(&metadata, &shutdown, deadline, |image| image.cluster_id().is_some(), no_metadata).await?;
    let cluster_id = image.cluster_id().cloned().ok_or_else(no_metadata)?;
    if let Some(wanted) = config.cluster_id.as_ref().filter(|wanted| **wanted != cluster_id) {
        return Err(StartError::OtherCluster { found: cluster_id, wanted: wanted.clone() });
    }

    let logs = tokio::select! {
        logs = open_logs(&config, &clock, storage, cluster_id.clone(), commit_mode, image) => logs?,
        // A recovery may take long; it goes on behind the stop, and the next start does it again.
        () = shutdown.triggered() => return Err(StartError::Stopped),
    };
    let opened = Opened { cluster_id, dialer, public, internal, link, metadata, commit_mode };
    let link = Arc::clone(&opened.link);
    let joined = join_cluster(config, clock, Arc::clone(&logs), opened, supervisor, goodbye).await;
    if joined.is_err() {
        // Nothing was written: the next start need not recover, and what was clean before is clean still.
        let epoch = link.epoch().or(logs.clean_shutdown_epoch());
        let _ = blocking::run(move || logs.close(epoch)).await;
    }
    joined
}

/// What a broker has before it joins its cluster.
struct Opened {
    cluster_id: ClusterId,
    dialer: Dialer,
    public: Port,
    internal: Port,
    link: Arc<ControllerLink>,
    metadata: Arc<MetadataStore>,
    commit_mode: CommitMode,
}

async fn join_cluster(
    config: BrokerConfig,
    clock: Arc<dyn Clock>,
    logs: Arc<LogManager>,
    opened: Opened,
    supervisor: &Supervisor,
    goodbye: &OnceLock<Goodbye>,
) -> Result<BrokerHandle, StartError> {
    // Counted from here, because a recovery takes as long as it takes.
    let deadline = Instant::now() + config.intervals.start;
    let Opened { cluster_id, dialer, public, internal, link, metadata, commit_mode } = opened;
    let shutdown = supervisor.shutdown().clone();
    let replicas = Arc::new(ReplicaManager::new(config.node_id, Arc::clone(&logs)));
    let who = Introduction {
        node_id: config.node_id,
        cluster_id,
        incarnation: rand::random(),
        endpoint: config.advertise.clone().unwrap_or_else(|| advertised(public.address)),
        internal_endpoint: internal_endpoint(&config, internal.address),
        rack: config.rack.clone(),
        log_directory_ids: logs.dir_states().iter().map(|dir| dir.id.to_string()).collect(),
        clean_shutdown_epoch: logs.clean_shutdown_epoch(),
        damaged: logs.is_damaged(),
    };
    let within = deadline.saturating_duration_since(Instant::now());
    let registered = tokio::select! {
        registered = register(&link, &who, within, Patience::ForPredecessor) => registered?,
        () = shutdown.triggered() => return Err(StartError::Stopped),
    };
    let told = Arc::clone(&logs);
    // Whatever comes of it: a note that stays is told once more.
    let _ = blocking::run(move || told.damage_told()).await;
    let own = Own { id: config.node_id, epoch: link.watch_epoch() };
    let seen = |image: &MetadataImage| image.version() >= registered && !own.is_replaced(image);
    let image = wait_for(&metadata, &shutdown, deadline, seen, || no_metadata(&config)).await?;
    reconcile_first(&replicas, &clock, image).await?;

    if commit_mode == CommitMode::Manual {
        supervisor.spawn_critical("commits", tasks::commit(Arc::clone(&logs), shutdown.clone()));
    }
    let (listen, internal_listen) = (public.address, internal.address);
    let node = new_node(config, clock, link, metadata, replicas, dialer, shutdown);
    run_parts(supervisor, &node, who, goodbye);
    // Followers find it served from the moment on at which it leads.
    let server = services::internal(&node)?;
    let internal_calls = server.metrics();
    serve(supervisor, "internal-server", server, internal, &node.shutdown);
    // A fenced broker leads nothing; what connects now should find the partitions served.
    let me = node.config.node_id;
    let unfenced = |image: &MetadataImage| image.broker(me).is_some_and(|broker| !broker.fenced);
    let image =
        wait_for(&node.metadata, &node.shutdown, deadline, unfenced, || no_metadata(&node.config)).await?;
    wait_applied(&node.replicas, image.version(), &node.shutdown).await?;
    let server = services::public(&node)?;
    let calls = [("public", server.metrics()), ("internal", internal_calls)];
    serve(supervisor, "server", server, public, &node.shutdown);
    tracing::info!(broker = %me, %listen, %internal_listen, partitions = node.replicas.len(), "broker ready");
    Ok(BrokerHandle { listen, internal_listen, node, calls, supervisor: supervisor.clone() })
}

fn new_node(
    config: BrokerConfig,
    clock: Arc<dyn Clock>,
    controller: Arc<ControllerLink>,
    metadata: Arc<MetadataStore>,
    replicas: Arc<ReplicaManager>,
    dialer: Dialer,
    shutdown: Shutdown,
) -> Arc<Node> {
    let answers = InFlight::new(config.limits.fetch_answers_bytes);
    Arc::new(Node {
        in_flight: InFlight::new(config.limits.in_flight_bytes),
        half_received: InFlight::new(config.limits.half_received_bytes),
        half_forwarded: InFlight::new(config.limits.half_received_bytes),
        flushes: FlushTimes::of(replicas.logs()),
        peers: Peers::new(dialer.clone(), Arc::clone(&answers)),
        dialer,
        answers,
        isr: IsrBell::default(),
        groups: Groups::new(),
        leases: SeenLeases::default(),
        producer_ids: ProducerIds::new(),
        controller,
        clock,
        metadata,
        replicas,
        shutdown,
        config,
    })
}

/// Starts what the broker does by itself.
fn run_parts(supervisor: &Supervisor, node: &Arc<Node>, who: Introduction, goodbye: &OnceLock<Goodbye>) {
    let shutdown = || node.shutdown.clone();
    let (replicas, clock) = (|| Arc::clone(&node.replicas), || Arc::clone(&node.clock));
    let intervals = &node.config.intervals;
    let cluster_id = who.cluster_id.clone();
    let (beats, heartbeats) = Heartbeats::new(Arc::clone(&node.controller), who, node.replicas.watch());
    let within = intervals.controlled_shutdown;
    let _ = goodbye.set(Goodbye { node_id: node.config.node_id, heartbeats, replicas: replicas(), within });
    supervisor.spawn_critical("heartbeats", beats.run(shutdown()));
    let metadata = Arc::clone(&node.metadata);
    let own = Own { id: node.config.node_id, epoch: node.controller.watch_epoch() };
    supervisor.spawn_critical(
        "replicas",
        tasks::follow_metadata(own, replicas(), metadata, clock(), intervals.reopen, shutdown()),
    );
    supervisor.spawn_critical("flushes", tasks::flush_due(replicas(), clock(), shutdown()));
    let logs = Arc::clone(node.replicas.logs());
    supervisor.spawn_critical(
        "housekeeping",
        tasks::housekeeping(logs, clock(), intervals.housekeeping, shutdown()),
    );
    for n in 0..node.config.cleaner.threads {
        let logs = Arc::clone(node.replicas.logs());
        let cleaner = Cleaner::new(&node.config.cleaner, logs, clock(), shutdown());
        supervisor.spawn_critical(format!("cleaner-{n}"), cleaner.run());
    }
    let logs = Arc::clone(node.replicas.logs());
    supervisor.spawn_critical("data-directories", tasks::watch_dirs(logs, shutdown()));
    supervisor.spawn_critical("isr", isr::keep(Arc::clone(node)));
    let seams = FollowerSeams {
        me: node.config.node_id,
        cluster_id,
        dialer: node.dialer.clone(),
        metadata: Arc::clone(&node.metadata),
        own_epoch: node.controller.watch_epoch(),
        replicas: replicas(),
        clock: clock(),
        config: FollowerConfig {
            throttled_rate: Some(node.config.replication.throttled_rate),
            ..FollowerConfig::default()
        },
    };
    supervisor.spawn_critical("followers", follow_leaders(seams, shutdown()));
}

fn serve(supervisor: &Supervisor, name: &'static str, server: GrpcServer, port: Port, shutdown: &Shutdown) {
    supervisor.spawn_critical(name, server.serve(port.incoming, shutdown.clone()));
}

fn no_metadata(config: &BrokerConfig) -> StartError {
    StartError::NoMetadata { controllers: config.controllers.clone(), within: config.intervals.start }
}

async fn open_logs(
    config: &BrokerConfig,
    clock: &Arc<dyn Clock>,
    storage: Arc<dyn Storage>,
    cluster_id: ClusterId,
    commit_mode: CommitMode,
    image: Arc<MetadataImage>,
) -> Result<Arc<LogManager>, StartError> {
    let manager_config = LogManagerConfig {
        commit_mode,
        ..LogManagerConfig::new(config.data_dirs.clone(), cluster_id, config.node_id)
    };
    let now = clock.now();
    let opened = blocking::run(move || {
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
    blocking::run(move || {
        replicas.delete_strays(&image);
        replicas.reconcile(&image, &*clock);
    })
    .await
    .map_err(|_| StartError::Stopped)
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
    if let Some(endpoint) = &config.internal_advertise {
        return endpoint.clone();
    }
    let host =
        config.advertise.as_deref().and_then(|advertise| advertise.rsplit_once(':')).map(|(host, _)| host);
    match host {
        Some(host) => format!("{host}:{}", internal.port()),
        None => advertised(internal),
    }
}
