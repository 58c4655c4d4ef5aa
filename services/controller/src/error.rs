//! Why a controller does not start, or stopped.

use std::io;
use std::path::PathBuf;
use thalweg_raft::{RaftFailure, StoreError};
use thalweg_runtime::net::BindError;
use thalweg_runtime::server::BuildError;
use thalweg_runtime::supervisor::SupervisorError;

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// A setting cannot be.
    #[error("{0}")]
    Config(String),
    /// The data folder cannot be used.
    #[error("the controller's folder {path} cannot be used: {source}", path = path.display())]
    DataDir {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The store cannot be opened: in use, of another node, of a newer format.
    #[error("the controller's store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// The Raft node cannot start.
    #[error("the controller's Raft node cannot start: {0}")]
    Raft(#[from] RaftFailure),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The socket does not say where it listens.
    #[error("the controller's socket has no address: {0}")]
    Listener(io::Error),
    /// The gRPC server's settings are wrong.
    #[error(transparent)]
    Server(#[from] BuildError),
    /// The work of starting was stopped.
    #[error("the controller's start was interrupted: {0}")]
    Interrupted(String),
}

impl StartError {
    /// Whether the folder is in use by another process.
    pub fn is_in_use(&self) -> bool {
        let in_use = |error: &StoreError| matches!(error, StoreError::InUse { .. });
        match self {
            StartError::Store(error) | StartError::Raft(RaftFailure::Store(error)) => in_use(error),
            _ => false,
        }
    }
}

/// What ended a controller that was not told to stop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControllerError {
    /// A task died.
    #[error("the controller stopped: {0}")]
    Task(#[from] SupervisorError),
}
