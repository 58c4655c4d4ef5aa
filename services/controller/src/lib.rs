//! The controller service: the cluster's metadata, kept by a Raft group.
//!
//! ```text
//!   AdminService, ControllerService ──▶ Quorum::propose ──▶ raft ──▶ MetadataMachine::apply ──▶ image + feed
//!                                                                                                  │
//!   brokers ◀── WatchImage: a snapshot, then the committed commands ◀──────────────────────────────┘
//! ```
#![forbid(unsafe_code)]

mod config;
mod disk;
mod error;
mod feed;
mod identity;
mod leader;
mod machine;
mod quorum;
mod service;
mod sessions;

pub use config::{
    BROKER_SESSION, ControllerConfig, DEFAULT_PARTITIONS, DEFAULT_REPLICATION_FACTOR, DRAIN, SESSION_GRACE,
    Voter, VoterError,
};
pub use error::{ControllerError, StartError};

use disk::Disk;
use machine::{MetadataMachine, Published};
use quorum::Quorum;
use service::admin::Admin;
use service::internal::Internal;
use sessions::Sessions;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use thalweg_proto::internal::v1::controller_service_server::ControllerServiceServer;
use thalweg_proto::v1::admin_service_server::AdminServiceServer;
use thalweg_raft::{Identity, NoTransport, RaftConfig, RaftNode, SledStore, StoreError};
use thalweg_runtime::{GrpcServer, Shutdown, Supervisor, bind};

/// What the tasks may take to end beyond the server's drain.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The folder of the Raft store below the controller's own.
const STORE_FOLDER: &str = "raft";

/// A running controller.
pub struct Controller {
    supervisor: Supervisor,
    listen: SocketAddr,
}

impl Controller {
    /// Opens the store, joins the group and serves. Returns when the port is open.
    pub async fn start(config: ControllerConfig, shutdown: Shutdown) -> Result<Controller, StartError> {
        config.check()?;
        let (store, cluster_id) = {
            let (data_dir, node_id) = (config.data_dir.clone(), config.node_id);
            let open = move || -> Result<_, StartError> {
                let cluster_id = identity::load_or_create(&data_dir)?;
                let identity = Identity { cluster_id: Some(cluster_id.clone()), node_id };
                Ok((SledStore::open(&data_dir.join(STORE_FOLDER), identity)?, cluster_id))
            };
            let opened = tokio::task::spawn_blocking(open).await;
            opened.map_err(|error| StartError::Found(error.to_string()))??
        };
        let published = Published::new();
        let machine = MetadataMachine::new(Arc::clone(&published));
        let raft_config = RaftConfig::new(config.node_id, config.founding());
        let (node, handle) = RaftNode::start(raft_config, store, machine, NoTransport)?;
        let quorum = Quorum::new(handle, published, Disk::of(config.data_dir.clone()));
        let listener = bind(config.listen)?;
        let listen = listener
            .local_addr()
            .map_err(|source| StartError::DataDir { path: config.data_dir.clone(), source })?;
        let sessions = Arc::new(Mutex::new(Sessions::default()));

        let server = GrpcServer::builder("controller")
            .service(AdminServiceServer::new(Admin::new(quorum.clone(), &config)))
            .service(ControllerServiceServer::new(Internal::new(
                quorum.clone(),
                Arc::clone(&sessions),
                shutdown.clone(),
            )))
            .descriptors(thalweg_proto::FILE_DESCRIPTOR_SET)
            .build()?;

        let supervisor = Supervisor::new(shutdown.clone());
        let raft = node.spawn_thread()?;
        supervisor.spawn_critical("raft", raft.join());
        supervisor.spawn_critical(
            "leader duties",
            leader::run(
                quorum.clone(),
                cluster_id,
                Arc::clone(&sessions),
                config.broker_session,
                shutdown.clone(),
            ),
        );
        supervisor.spawn_critical("controller server", async move {
            let served = server.serve_listener(listener, shutdown).await;
            // Only now: what is being answered may still need the group.
            quorum.shutdown();
            served
        });
        tracing::info!(node = %config.node_id, %listen, "controller serves");
        Ok(Controller { supervisor, listen })
    }

    /// Where services reach it.
    pub fn listen_addr(&self) -> SocketAddr {
        self.listen
    }

    /// Waits until it has stopped; an error says what died.
    pub async fn join(self) -> Result<(), ControllerError> {
        self.supervisor.join(DRAIN + STOP_GRACE).await?;
        tracing::info!("controller stopped");
        Ok(())
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

impl StartError {
    /// Whether the folder is in use by another process.
    pub fn is_in_use(&self) -> bool {
        matches!(self, StartError::Store(StoreError::InUse { .. }))
    }
}
