//! A coordinator's life: start, serve, stop.
//!
//! ```text
//!   port ─► watch metadata ─► register ─► shards come with the metadata ─► serve
//!   shutdown ─► goodbye (shards go to others) ─► drain
//! ```

use crate::config::CoordinatorConfig;
use crate::error::{CoordinatorError, ServeError, StartError};
use crate::exchange;
use crate::lag::LagSnapshot;
use crate::leaders::Leaders;
use crate::leases::follow_leases;
use crate::membership::{Heartbeats, Introduction, Membership, register};
use crate::metrics::CoordinatorSource;
use crate::node::Node;
use crate::seams::CoordinatorSeams;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use thalweg_client::controllers::{Controllers, MetadataStore, Timing, watch_metadata};
use thalweg_core::metadata::MetadataImage;
use thalweg_runtime::observe::Registry;
use thalweg_runtime::{CallMetrics, Dialer, Shutdown, Supervisor};
use tokio::time::Instant;

/// How long the parts of a coordinator that did not start may take to end.
const STOP_HALF_STARTED: Duration = Duration::from_secs(5);

/// Between two looks at whether all shards are gone.
const LOOK: Duration = Duration::from_millis(5);

/// The coordinator service.
#[derive(Debug)]
pub struct Coordinator;

/// A running coordinator.
pub struct CoordinatorHandle {
    listen: SocketAddr,
    node: Arc<Node>,
    calls: CallMetrics,
    supervisor: Supervisor,
}

/// Runs a coordinator on the machine's clock and network until `shutdown`.
pub async fn serve(config: CoordinatorConfig, shutdown: Shutdown) -> Result<(), ServeError> {
    Ok(Coordinator::start(config, shutdown).await?.join().await?)
}

impl Coordinator {
    /// Starts a coordinator on the machine's clock and network. Returns once it is registered and takes calls.
    pub async fn start(
        config: CoordinatorConfig,
        shutdown: Shutdown,
    ) -> Result<CoordinatorHandle, StartError> {
        config.validate()?;
        let seams = CoordinatorSeams::machine(&config)?;
        Coordinator::start_with(config, seams, shutdown).await
    }

    /// Starts a coordinator on what it is given. Returns once it is registered and takes calls.
    ///
    /// `shutdown` lets it stop in good order: its shards go to others first. Dropping everything is what a crash is.
    pub async fn start_with(
        config: CoordinatorConfig,
        seams: CoordinatorSeams,
        shutdown: Shutdown,
    ) -> Result<CoordinatorHandle, StartError> {
        config.validate()?;
        // A part that fails ends this coordinator, not the process; and the parts go on while it says goodbye.
        let supervisor = Supervisor::new(Shutdown::new());
        let goodbye = Arc::new(OnceLock::new());
        supervisor.spawn("stop", stop(shutdown, supervisor.shutdown().clone(), Arc::clone(&goodbye)));
        let started = start(config, seams, &supervisor, &goodbye).await;
        if started.is_err() {
            supervisor.shutdown().trigger();
            let _ = supervisor.join(STOP_HALF_STARTED).await;
        }
        started
    }
}

impl std::fmt::Debug for CoordinatorHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoordinatorHandle").field("listen", &self.listen).finish_non_exhaustive()
    }
}

impl CoordinatorHandle {
    /// Where brokers connect.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// The cluster's metadata as this coordinator knows it.
    pub fn metadata(&self) -> &Arc<MetadataStore> {
        &self.node.metadata
    }

    /// How far the groups that are served here are behind, as of the last look. Empty before the first, and without groups.
    pub fn lag(&self) -> Arc<LagSnapshot> {
        self.node.lag.snapshot()
    }

    /// How many shards are loaded and served here.
    pub fn shards_served(&self) -> usize {
        self.node.shards.served()
    }

    /// Lets the coordinator be seen: its shards, its groups, its calls.
    pub fn observe(&self, registry: &Registry) {
        let id = self.node.config.node_id;
        registry.add("coordinator", id, CoordinatorSource::new(&self.node));
        registry.add("coordinator", id, self.calls.source("internal"));
    }

    /// Waits until the coordinator has stopped: after its shutdown was triggered, or after a part of it failed.
    pub async fn join(self) -> Result<(), CoordinatorError> {
        self.supervisor.join(self.node.config.intervals.shutdown).await?;
        tracing::info!(coordinator = %self.node.config.node_id, "coordinator stopped");
        Ok(())
    }
}

/// What a registered coordinator does before it stops.
#[derive(Debug)]
struct Goodbye {
    node: Arc<Node>,
    within: Duration,
}

impl Goodbye {
    async fn say(&self) {
        let membership = &self.node.membership;
        tracing::info!(coordinator = %membership.id, "stopping: asking the cluster to move the shards");
        membership.stop.send_replace(true);
        let mut may_shutdown = membership.may_shutdown.subscribe();
        let let_go = async {
            // The sender lives as long as this process.
            let _ = may_shutdown.wait_for(|may| *may).await;
            // The leave can come before the metadata it stands on. Until that is here, callers are not told who serves now.
            while !self.node.shards.is_empty() {
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(self.within, let_go).await.is_err() {
            tracing::warn!(coordinator = %membership.id, "stopping although the cluster has not let go");
        }
    }
}

/// Waits for `asked`, says goodbye if the coordinator was registered, and triggers `parts`. Ends early when the parts end by
/// themselves.
async fn stop(asked: Shutdown, parts: Shutdown, goodbye: Arc<OnceLock<Goodbye>>) {
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

async fn start(
    config: CoordinatorConfig,
    seams: CoordinatorSeams,
    supervisor: &Supervisor,
    goodbye: &OnceLock<Goodbye>,
) -> Result<CoordinatorHandle, StartError> {
    let shutdown = supervisor.shutdown().clone();
    let intervals = config.intervals;
    let CoordinatorSeams { clock, dialer, incoming, address } = seams;
    let controllers = Arc::new(controllers(&config, dialer.clone())?);
    let metadata = Arc::new(MetadataStore::new());
    let watching = watch_metadata(Arc::clone(&controllers), Arc::clone(&metadata));
    let stopped = shutdown.clone();
    supervisor.spawn_critical("metadata-watch", async move {
        tokio::select! {
            () = watching => {}
            () = stopped.triggered() => {}
        }
    });
    let late = || StartError::NoMetadata { controllers: config.controllers.clone(), within: intervals.start };
    let image = wait_for(&metadata, &shutdown, intervals.start, |image| image.cluster_id().is_some())
        .await?
        .ok_or_else(late)?;
    let cluster_id = image.cluster_id().cloned().ok_or_else(late)?;
    if let Some(wanted) = config.cluster_id.as_ref().filter(|wanted| **wanted != cluster_id) {
        return Err(StartError::OtherCluster { found: cluster_id, wanted: wanted.clone() });
    }

    let who = Introduction {
        id: config.node_id,
        cluster_id: cluster_id.0.to_string(),
        incarnation: rand::random(),
        endpoint: config.advertise.clone().unwrap_or_else(|| advertised(address)),
        rack: config.rack.clone(),
    };
    let membership = Arc::new(Membership::new(config.node_id));
    let leaders = Arc::new(Leaders::new(dialer, Arc::clone(&metadata)));
    let node = Arc::new(Node::new(
        config,
        who.endpoint.clone(),
        clock,
        Arc::clone(&metadata),
        Arc::clone(&membership),
        Arc::clone(&controllers),
        leaders,
        shutdown.clone(),
    ));
    // It is served before it is registered: whoever hears of it may call at once.
    let server = exchange::server(&node)?;
    let calls = server.metrics();
    supervisor.spawn_critical("server", server.serve(incoming, shutdown.clone()));
    let registered = tokio::select! {
        registered = register(&controllers, &who, &membership, intervals.start) => registered?,
        () = shutdown.triggered() => return Err(StartError::Stopped),
    };
    let id = who.id;
    let _ = goodbye.set(Goodbye { node: Arc::clone(&node), within: intervals.controlled_shutdown });
    let beats = Heartbeats::new(controllers, Arc::clone(&metadata), membership, intervals, who);
    supervisor.spawn_critical("heartbeats", beats.run(shutdown.clone()));
    supervisor.spawn_critical("leases", follow_leases(Arc::clone(&node)));
    supervisor.spawn_critical("lag", crate::lag::keep(Arc::clone(&node)));
    wait_for(&metadata, &shutdown, intervals.start, |image| image.version() >= registered)
        .await?
        .ok_or_else(|| StartError::NoMetadata {
            controllers: node.config.controllers.clone(),
            within: intervals.start,
        })?;
    tracing::info!(coordinator = %id, listen = %address, "coordinator ready");
    Ok(CoordinatorHandle { listen: address, node, calls, supervisor: supervisor.clone() })
}

fn controllers(config: &CoordinatorConfig, dialer: Dialer) -> Result<Controllers, StartError> {
    let intervals = &config.intervals;
    let timing = Timing {
        call: intervals.controller_call,
        session_answer: intervals.heartbeat_answer,
        retry_first: intervals.retry_first,
        retry_most: intervals.retry_most,
    };
    let dial = move |address: &str| dialer.channel(address).map_err(|error| error.to_string());
    let wrong = |problem| crate::config::ConfigError { setting: "controllers", problem };
    Ok(Controllers::new(&config.controllers, Arc::new(dial), timing).map_err(wrong)?)
}

/// Waits for an image; `None` when none came in time.
async fn wait_for(
    metadata: &MetadataStore,
    shutdown: &Shutdown,
    within: Duration,
    wanted: impl Fn(&MetadataImage) -> bool,
) -> Result<Option<Arc<MetadataImage>>, StartError> {
    let deadline = Instant::now() + within;
    let mut versions = metadata.watch();
    loop {
        let image = metadata.snapshot();
        if wanted(&image) {
            return Ok(Some(image));
        }
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { return Err(StartError::Stopped) },
            () = tokio::time::sleep_until(deadline) => return Ok(None),
            () = shutdown.triggered() => return Err(StartError::Stopped),
        }
    }
}

/// What brokers are told when nobody says otherwise: the listener's address, or this machine's loopback when it listens on all.
fn advertised(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        let loopback = SocketAddr::from(([127, 0, 0, 1], listen.port()));
        tracing::warn!(%listen, advertised = %loopback, "no address to advertise was given; others cannot connect");
        return loopback.to_string();
    }
    listen.to_string()
}
