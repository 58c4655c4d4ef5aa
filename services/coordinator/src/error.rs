//! How a coordinator's start, or its life, can go wrong.

use crate::config::ConfigError;
use crate::membership::RegisterError;
use std::time::Duration;
use thalweg_core::{ClusterId, ErrorCode};
use thalweg_proto::ApiError;
use thalweg_runtime::SupervisorError;
use thalweg_runtime::net::BindError;
use thalweg_runtime::server::BuildError;

/// Why a coordinator did not start. A retry helps only where the controllers were not reached.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The address cannot be listened on.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The listener has no address.
    #[error("the listener has no address: {0}")]
    Address(#[source] std::io::Error),
    /// No controller gave the metadata in time.
    #[error("no controller of {} gave the cluster's metadata within {within:?}; are they running?", controllers.join(", "))]
    NoMetadata {
        /// Who was asked.
        controllers: Vec<String>,
        /// For how long.
        within: Duration,
    },
    /// The controllers are of another cluster than the configuration says.
    #[error("the controllers are of cluster {found}, the configuration says {wanted}")]
    OtherCluster {
        /// What they say.
        found: ClusterId,
        /// What was configured.
        wanted: ClusterId,
    },
    /// The cluster does not take the coordinator.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The server cannot be put together.
    #[error(transparent)]
    Server(#[from] BuildError),
    /// The coordinator was told to stop before it had started.
    #[error("told to stop before the start was done")]
    Stopped,
}

/// How a coordinator ended badly: a part failed, or did not end in time.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CoordinatorError(#[from] pub SupervisorError);

/// How [`serve`](crate::serve) failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// At the start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Later.
    #[error(transparent)]
    Run(#[from] CoordinatorError),
}

impl StartError {
    /// What a caller would be told.
    pub fn code(&self) -> ErrorCode {
        match self {
            StartError::Config(_) | StartError::Bind(_) | StartError::Address(_) => ErrorCode::InvalidRequest,
            StartError::NoMetadata { .. } => ErrorCode::ControllerNotAvailable,
            StartError::OtherCluster { .. } => ErrorCode::InconsistentClusterId,
            StartError::Register(RegisterError::Refused(ApiError { code, .. })) => *code,
            StartError::Register(RegisterError::Replaced(_)) => ErrorCode::StaleCoordinatorEpoch,
            StartError::Server(_) => ErrorCode::Internal,
            StartError::Stopped => ErrorCode::ShuttingDown,
        }
    }
}
