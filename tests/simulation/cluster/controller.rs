//! A simulated controller: the real service with its Raft log on a disk in memory.

use crate::net::{self, ADDRESS};
use std::path::PathBuf;
use std::time::Duration;
use thalweg_controller::{Controller, ControllerConfig, ControllerSeams, ControllerStore, Voter};
use thalweg_core::NodeId;
use thalweg_raft::MemDisk;
use thalweg_runtime::Shutdown;
use tokio::time::sleep;

/// Where services connect.
pub const PORT: u16 = 9490;
/// Shards of groups.
const OFFSETS_PARTITIONS: i32 = 4;
/// A process that ended by itself is started again after this.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// What outlives a crash.
#[derive(Clone)]
pub struct ControllerNode {
    id: u64,
    name: String,
    endpoints: Vec<String>,
    offsets_replicas: i32,
    disk: MemDisk,
}

impl ControllerNode {
    /// A controller that has never run. All founders are given the same endpoints; theirs is number `id`, from 1. The topic of
    /// committed offsets gets so many replicas.
    pub fn new(id: u64, name: String, endpoints: Vec<String>, offsets_replicas: i32) -> ControllerNode {
        ControllerNode { id, name, endpoints, offsets_replicas, disk: MemDisk::new() }
    }

    /// Runs the process; again, whenever it ends by itself.
    pub async fn run(self) -> turmoil::Result {
        loop {
            if let Err(error) = self.run_once().await {
                tracing::warn!(target: "thalweg_simulation", node = self.name, error, "controller ended");
            }
            sleep(RESTART_PAUSE).await;
        }
    }

    async fn run_once(&self) -> Result<(), String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let voters = self.endpoints.iter().zip(1..).map(|(endpoint, id)| Voter {
            id: NodeId(id),
            endpoint: endpoint.parse().expect("our names are good"),
        });
        let config = ControllerConfig {
            offsets_topic_partitions: OFFSETS_PARTITIONS,
            offsets_topic_replication_factor: self.offsets_replicas,
            ..ControllerConfig::new(NodeId(self.id), voters.collect(), PathBuf::from("/data"))
        };
        let seams = ControllerSeams {
            dialer: net::dialer(),
            incoming: net::listen(PORT).await.map_err(|error| text(&error))?,
            address: (ADDRESS, PORT).into(),
            store: ControllerStore::Memory(self.disk.clone()),
        };
        let controller =
            Controller::start_with(config, seams, Shutdown::new()).await.map_err(|e| text(&e))?;
        controller.join().await.map_err(|error| text(&error))
    }
}
