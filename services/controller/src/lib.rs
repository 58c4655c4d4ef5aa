//! The controller service: the cluster's metadata, kept by a Raft group.
//!
//! ```text
//!   AdminService, ControllerService ─▶ Router ─▶ the leading controller
//!                                        │ here
//!                                        ▼
//!                          Quorum::propose ─▶ raft ─▶ MetadataMachine::apply ─▶ image + feed
//!                                              ║                                    │
//!                        RaftService, other controllers                             │
//!   brokers ◀── WatchImage: a snapshot, then the committed commands ◀──────────────┘
//! ```
//! Whichever controller leads also runs the duties: it fences brokers and coordinators, balances, creates the cluster's own topic,
//! and notes where the controllers are.
#![forbid(unsafe_code)]

mod config;
mod coordinators;
mod disk;
mod duties;
mod error;
mod feed;
mod heartbeat;
mod kind;
mod machine;
mod members;
pub mod metrics;
mod peers;
mod quorum;
mod router;
mod seams;
mod service;
mod sessions;
mod stream;
mod transport;

pub use config::{
    BROKER_SESSION, COORDINATOR_SESSION, ControllerConfig, DEFAULT_PARTITIONS, DEFAULT_REPLICATION_FACTOR,
    DRAIN, OFFSETS_TOPIC_PARTITIONS, OFFSETS_TOPIC_REPLICATION_FACTOR, SESSION_GRACE, Voter, VoterError,
};
pub use error::{ControllerError, StartError};
pub use seams::{ControllerSeams, ControllerStore};
pub use thalweg_raft::MemDisk;

use coordinators::CoordinatorSigns;
use disk::Disk;
use duties::Duties;
use heartbeat::Heartbeats;
use machine::{MetadataMachine, Published};
use members::Members;
use metrics::ControllerSource;
use peers::Peers;
use quorum::Quorum;
use router::Router;
use service::admin::Admin;
use service::internal::Internal;
use service::{Features, Voters};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::NodeId;
use thalweg_core::metadata::Endpoint;
use thalweg_proto::internal::v1::controller_service_server::ControllerServiceServer;
use thalweg_proto::internal::v1::raft_service_server::RaftServiceServer;
use thalweg_proto::v1::admin_service_server::AdminServiceServer;
use thalweg_raft::{RaftConfig, RaftNode, RaftStatus};
use thalweg_runtime::observe::Registry;
use thalweg_runtime::{CallMetrics, GrpcServer, Shutdown, Supervisor, blocking};
use tokio::sync::watch;
use transport::{GrpcTransport, Links, Receiver};

/// What the tasks may take to end beyond the server's drain.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// How long a leader that stops waits for another to take over.
const HAND_OVER: Duration = Duration::from_secs(1);

/// A running controller.
pub struct Controller {
    supervisor: Supervisor,
    listen: SocketAddr,
    node_id: NodeId,
    quorum: Quorum,
    calls: CallMetrics,
    status: watch::Receiver<RaftStatus>,
}

impl Controller {
    /// Opens the store, joins the group and serves. Returns when the port is open; the group may still be electing.
    pub async fn start(config: ControllerConfig, shutdown: Shutdown) -> Result<Controller, StartError> {
        config.check()?;
        let seams = ControllerSeams::real(config.listen)?;
        Controller::start_with(config, seams, shutdown).await
    }

    /// The same on a given network and disk; `config.listen` is not looked at.
    pub async fn start_with(
        config: ControllerConfig,
        seams: ControllerSeams,
        shutdown: Shutdown,
    ) -> Result<Controller, StartError> {
        config.check()?;
        let ControllerSeams { dialer, incoming, address, store } = seams;
        let own = advertised(&config, address)?;
        let disk = if store.is_on_disk() { Disk::of(config.data_dir.clone()) } else { Disk::boundless() };
        let runtime = tokio::runtime::Handle::current();

        let open = {
            let (config, dialer) = (config.clone(), dialer.clone());
            move || -> Result<_, StartError> {
                // The links' tasks run where the controller was started, not where this happens to run.
                let _runtime = runtime.enter();
                let store = store.open(&config.data_dir, config.node_id)?;
                let published = Published::new(store.identity().cluster_id.clone());
                let peers = Arc::new(Peers::new(config.node_id, own, &config.voters, Arc::clone(&published)));
                let links = Links::new(dialer, Arc::clone(&peers), Arc::clone(&published), config.founding());
                let machine = MetadataMachine::new(Arc::clone(&published));
                let mut raft = RaftConfig::new(config.node_id, config.founding());
                raft.tick = config.raft_tick;
                let (node, handle) = RaftNode::start(raft, store, machine, GrpcTransport::new(&links))?;
                links.attach(handle.clone());
                Ok((node, handle, published, peers, links))
            }
        };
        let opened = blocking::run(open).await;
        let (node, handle, published, peers, links) =
            opened.map_err(|error| StartError::Interrupted(error.to_string()))??;

        let status = handle.status();
        let quorum = Quorum::new(handle, published, disk);
        let router = Router::new(quorum.clone(), Arc::clone(&peers), dialer);
        let (brokers, coordinators) = (Members::new(quorum.clone()), Members::new(quorum.clone()));
        let voters = Voters::new(quorum.clone(), Arc::clone(&peers), config.catch_up);
        let features = Arc::new(Features::new(
            quorum.clone(),
            Arc::clone(&peers),
            voters.clone(),
            brokers.clone(),
            coordinators.clone(),
        ));
        // The server stops after leadership was handed over: until then others are still answered.
        let serving = Shutdown::new();
        let server = GrpcServer::builder("controller")
            .service(AdminServiceServer::new(Admin::new(
                quorum.clone(),
                router.clone(),
                voters.clone(),
                Arc::clone(&features),
                &config,
            )))
            .service(ControllerServiceServer::new(
                Internal::new(
                    quorum.clone(),
                    router,
                    Heartbeats::new(brokers.clone()),
                    CoordinatorSigns::new(coordinators.clone()),
                    Arc::clone(&peers),
                    features,
                    serving.clone(),
                )
                .with_offsets_topic_replicas(config.offsets_topic_replication_factor),
            ))
            .service(RaftServiceServer::new(Receiver::new(links, serving.clone())))
            .descriptors(thalweg_proto::FILE_DESCRIPTOR_SET)
            .build()?;

        let (node_id, calls, observed) = (config.node_id, server.metrics(), quorum.clone());
        let supervisor = Supervisor::new(shutdown.clone());
        if blocking::is_inline() {
            supervisor.spawn_critical("raft", node.run());
        } else {
            supervisor.spawn_critical("raft", node.spawn_thread()?.join());
        }
        let duties = Duties::new(quorum.clone(), peers, brokers, coordinators, voters, config);
        supervisor.spawn_critical("leader duties", duties.run(shutdown.clone()));
        supervisor.spawn_critical("goodbye", {
            let (quorum, serving) = (quorum.clone(), serving.clone());
            async move {
                shutdown.triggered().await;
                hand_over(&quorum).await;
                serving.trigger();
            }
        });
        supervisor.spawn_critical("controller server", async move {
            let served = server.serve(incoming, serving).await;
            // Only now: what is being answered may still need the group.
            quorum.shutdown();
            served
        });
        tracing::info!(node = %node_id, listen = %address, "controller serves");
        Ok(Controller { supervisor, listen: address, node_id, quorum: observed, calls, status })
    }

    /// Where services reach it.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// Lets the controller be seen: the Raft group, the cluster, its calls.
    pub fn observe(&self, registry: &Registry) {
        let source = Arc::new(ControllerSource(self.quorum.clone()));
        registry.add("controller", self.node_id, source);
        registry.add("controller", self.node_id, self.calls.source("internal"));
    }

    /// The Raft group as this controller sees it. The channel closes when its node ends.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.status.clone()
    }

    /// Waits until it has stopped; an error says what died.
    pub async fn join(self) -> Result<(), ControllerError> {
        self.supervisor.join(HAND_OVER + DRAIN + STOP_GRACE).await?;
        tracing::info!("controller stopped");
        Ok(())
    }
}

/// Where the others reach this controller.
fn advertised(config: &ControllerConfig, address: SocketAddr) -> Result<Endpoint, StartError> {
    let listed = || config.voters.iter().find(|voter| voter.id == config.node_id);
    if let Some(endpoint) = config.advertise.clone().or_else(|| listed().map(|voter| voter.endpoint.clone()))
    {
        return Ok(endpoint);
    }
    if address.ip().is_unspecified() && config.join {
        let message =
            "a controller that joins and listens on all addresses must be told which one to advertise";
        return Err(StartError::Config(message.to_owned()));
    }
    Endpoint::new(&address.ip().to_string(), address.port())
        .map_err(|error| StartError::Config(format!("{address} cannot be advertised: {error}")))
}

/// Lets another voter lead before this one goes, so that nobody waits for an election timeout.
async fn hand_over(quorum: &Quorum) {
    let mut status = quorum.status();
    let has_successor = {
        let status = status.borrow();
        status.serving && status.voters.len() > 1
    };
    if has_successor && quorum.hand_over().await {
        // Without a successor in time, the others elect one when this one is gone.
        let _ = tokio::time::timeout(HAND_OVER, status.wait_for(|status| !status.serving)).await;
    }
}

/// Starts a controller and runs it until it is told to stop.
pub async fn serve(config: ControllerConfig, shutdown: Shutdown) -> Result<(), ServeError> {
    Ok(Controller::start(config, shutdown).await?.join().await?)
}

/// Why [`serve`] ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It stopped by itself.
    #[error(transparent)]
    Run(#[from] ControllerError),
}
