//! A simulated broker: the real service on a simulated machine.

use crate::net;
use crate::{determinism, net::ADDRESS};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use thalweg_broker::metadata::MetadataStore;
use thalweg_broker::replicas::ReplicaManager;
use thalweg_broker::{Broker, BrokerConfig, BrokerSeams, Port};
use thalweg_core::{BrokerId, Clock, Timestamp};
use thalweg_log::CommitMode;
use thalweg_log::storage::SimStorage;
use thalweg_runtime::Shutdown;
use tokio::time::sleep;

/// Where clients connect.
pub const PUBLIC_PORT: u16 = 9092;
/// Where services connect.
pub const INTERNAL_PORT: u16 = 9093;
/// A process that ended by itself is started again after this, as any cluster manager does.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What outlives a crash, and what the run may look at.
#[derive(Clone)]
pub struct BrokerNode {
    id: i32,
    name: String,
    controllers: Vec<String>,
    disk: Rc<RefCell<SimStorage>>,
    running: Rc<RefCell<Option<Running>>>,
}

/// What may be looked at of the process that runs now.
#[derive(Clone)]
pub struct Running {
    /// Its replicas.
    pub replicas: Arc<ReplicaManager>,
    /// The cluster as it knows it.
    pub metadata: Arc<MetadataStore>,
}

/// The simulated wall clock.
#[derive(Debug)]
pub struct SimClock;

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        Timestamp(determinism::wall_millis())
    }
}

impl BrokerNode {
    /// A broker that has never run, with an empty disk.
    pub fn new(id: i32, name: String, controllers: Vec<String>, seed: u64) -> BrokerNode {
        let disk = Rc::new(RefCell::new(SimStorage::new(seed)));
        BrokerNode { id, name, controllers, disk, running: Rc::default() }
    }

    /// Its id.
    pub fn id(&self) -> BrokerId {
        BrokerId(self.id)
    }

    /// The disk.
    pub fn disk(&self) -> SimStorage {
        self.disk.borrow().clone()
    }

    /// An empty disk takes the place of the old one.
    pub fn replace_disk(&self, seed: u64) {
        self.disk.replace(SimStorage::new(seed));
    }

    /// The process, once it serves.
    pub fn running(&self) -> Option<Running> {
        self.running.borrow().clone()
    }

    /// The process is gone.
    pub fn crashed(&self) {
        self.running.replace(None);
    }

    /// Runs the process; again, whenever it ends by itself.
    pub async fn run(self) -> turmoil::Result {
        self.crashed();
        loop {
            if let Err(error) = self.run_once().await {
                tracing::warn!(target: "thalweg_simulation", node = self.name, error, "broker ended");
            }
            self.crashed();
            sleep(RESTART_PAUSE).await;
        }
    }

    async fn run_once(&self) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut config =
            BrokerConfig::new(BrokerId(self.id), self.controllers.clone(), vec![PathBuf::from("/data")]);
        config.advertise = Some(format!("{}:{PUBLIC_PORT}", self.name));
        config.internal_advertise = Some(format!("{}:{INTERNAL_PORT}", self.name));
        let port = async |number| {
            let incoming = net::listen(number).await.map_err(|error| text(&error))?;
            Ok::<Port, String>(Port { incoming, address: (ADDRESS, number).into() })
        };
        let seams = BrokerSeams {
            clock: Arc::new(SimClock),
            storage: Arc::new(self.disk()),
            dialer: net::dialer(),
            public: port(PUBLIC_PORT).await?,
            internal: port(INTERNAL_PORT).await?,
            commit_mode: CommitMode::Manual,
        };
        let broker =
            Broker::start_with(config, seams, Shutdown::new()).await.map_err(|error| text(&error))?;
        let (replicas, metadata) = (Arc::clone(broker.replicas()), Arc::clone(broker.metadata()));
        self.running.replace(Some(Running { replicas, metadata }));
        broker.join().await.map_err(|error| text(&error))
    }
}
