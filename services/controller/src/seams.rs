//! What a controller is given from outside, so that a simulation can give it something else.

use crate::error::StartError;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use thalweg_core::NodeId;
use thalweg_raft::{Identity, MemDisk, MemStore, RaftStore, SledStore, StoreError};
use thalweg_runtime::{Dialer, Incoming, bind};
use tokio::net::TcpListener;

/// The folder of the Raft store below the controller's own.
const STORE_FOLDER: &str = "raft";

/// Where a controller keeps its log.
#[derive(Clone)]
pub enum ControllerStore {
    /// In `data_dir`.
    Disk,
    /// In memory, for a simulation: what is on this disk outlives the controller.
    Memory(MemDisk),
}

impl fmt::Debug for ControllerStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ControllerStore::Disk => "Disk",
            ControllerStore::Memory(_) => "Memory",
        })
    }
}

impl ControllerStore {
    /// Opens the store of a node whose cluster the store itself knows, or will learn.
    pub(crate) fn open(&self, data_dir: &Path, node_id: NodeId) -> Result<Box<dyn RaftStore>, StoreError> {
        let identity = Identity { cluster_id: None, node_id };
        Ok(match self {
            ControllerStore::Disk => Box::new(SledStore::open(&data_dir.join(STORE_FOLDER), identity)?),
            ControllerStore::Memory(disk) => Box::new(MemStore::open(disk, identity)?),
        })
    }

    pub(crate) fn is_on_disk(&self) -> bool {
        matches!(self, ControllerStore::Disk)
    }
}

/// The network and the disk of one controller.
#[derive(Debug)]
pub struct ControllerSeams {
    /// Opens connections to the other controllers.
    pub dialer: Dialer,
    /// The connections that it serves.
    pub incoming: Incoming,
    /// Where those arrive.
    pub address: SocketAddr,
    /// Its log.
    pub store: ControllerStore,
}

impl ControllerSeams {
    /// The machine's network and disk, listening on `listen`.
    pub fn real(listen: SocketAddr) -> Result<ControllerSeams, StartError> {
        ControllerSeams::listening(bind(listen)?)
    }

    /// The machine's network and disk, with a socket that listens already.
    pub fn listening(listener: TcpListener) -> Result<ControllerSeams, StartError> {
        let address = listener.local_addr().map_err(StartError::Listener)?;
        Ok(ControllerSeams {
            dialer: Dialer::tcp(),
            incoming: Incoming::from_listener(listener, true),
            address,
            store: ControllerStore::Disk,
        })
    }
}
