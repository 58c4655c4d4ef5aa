//! What a controller is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use thalweg_core::NodeId;

/// Partitions of a topic whose creator names no number (`num.partitions`).
pub const DEFAULT_PARTITIONS: i32 = 1;
/// Replicas of a topic whose creator names no number (`default.replication.factor`).
pub const DEFAULT_REPLICATION_FACTOR: i32 = 1;
/// A broker that sends no heartbeat for so long is fenced (`broker.session.timeout.ms`).
pub const BROKER_SESSION: Duration = Duration::from_secs(9);
/// How long a request waits for the Raft group.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open calls may take to end when the controller stops.
pub const DRAIN: Duration = Duration::from_secs(5);

/// The settings of one controller.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// This controller's id in the Raft group.
    pub node_id: NodeId,
    /// The group's founding voters.
    pub voters: Vec<NodeId>,
    /// Where services reach it. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// The folder that holds its store.
    pub data_dir: PathBuf,
    /// Partitions of a topic whose creator names no number.
    pub default_partitions: i32,
    /// Replicas of a topic whose creator names no number.
    pub default_replication_factor: i32,
    /// A broker that sends no heartbeat for so long is fenced.
    pub broker_session: Duration,
}

impl ControllerConfig {
    /// The defaults, listening on a free port of the loopback address.
    pub fn new(node_id: NodeId, voters: Vec<NodeId>, data_dir: PathBuf) -> ControllerConfig {
        ControllerConfig {
            node_id,
            voters,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            data_dir,
            default_partitions: DEFAULT_PARTITIONS,
            default_replication_factor: DEFAULT_REPLICATION_FACTOR,
            broker_session: BROKER_SESSION,
        }
    }
}
