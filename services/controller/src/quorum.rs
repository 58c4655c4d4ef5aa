//! A cheap handle through which the services propose commands and read the metadata.

use crate::config::PROPOSE_TIMEOUT;
use crate::machine::Published;
use bytes::Bytes;
use std::sync::Arc;
use thalweg_core::metadata::{Command, MetadataImage, Refusal, Response, codec, dry_run};
use thalweg_core::{ErrorCode, MetadataVersion};
use thalweg_proto::ApiError;
use thalweg_raft::{RaftError, RaftHandle, RaftStatus};
use tokio::sync::watch;
use tokio::time::timeout;

/// The Raft group, and the image that it agrees on.
#[derive(Clone)]
pub struct Quorum {
    raft: RaftHandle<Result<Response, Refusal>>,
    published: Arc<Published>,
}

impl Quorum {
    /// Puts both together.
    pub fn new(raft: RaftHandle<Result<Response, Refusal>>, published: Arc<Published>) -> Quorum {
        Quorum { raft, published }
    }

    /// Proposes a command; answers when it is applied, with the version of the image that holds it.
    pub async fn propose(&self, command: &Command) -> Result<(MetadataVersion, Response), ApiError> {
        let encoded = codec::encode_command(command);
        let bytes = encoded.map_err(|error| ApiError::new(ErrorCode::InvalidRequest, error.to_string()))?;
        let late = || {
            let message =
                "the controllers did not agree in time; the change may still happen: look before you retry";
            ApiError::new(ErrorCode::RequestTimedOut, message)
        };
        let applied =
            timeout(PROPOSE_TIMEOUT, self.raft.propose(Bytes::from(bytes))).await.map_err(|_| late())?;
        let (index, outcome) = applied.map_err(|error| unavailable(&error))?;
        Ok((MetadataVersion(index), outcome.map_err(refused)?))
    }

    /// What proposing the command would answer, without changing anything.
    pub async fn validate(&self, command: &Command) -> Result<Response, ApiError> {
        dry_run(&*self.current_image().await?, command).map(|(response, _)| response).map_err(refused)
    }

    /// Waits until the image holds all that was committed before the call, even right after an election.
    pub async fn current_image(&self) -> Result<Arc<MetadataImage>, ApiError> {
        let read = timeout(PROPOSE_TIMEOUT, self.raft.read_index()).await;
        let late = |_| {
            ApiError::new(
                ErrorCode::ControllerNotAvailable,
                "no quorum of controllers answered in time; try again",
            )
        };
        read.map_err(late)?.map_err(|error| unavailable(&error))?;
        Ok(self.published.image())
    }

    /// The image and the feed behind it.
    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    /// The group as this node sees it.
    pub fn status(&self) -> watch::Receiver<RaftStatus> {
        self.raft.status()
    }

    /// Stops the node.
    pub fn shutdown(&self) {
        self.raft.shutdown();
    }
}

fn unavailable(error: &RaftError) -> ApiError {
    ApiError::new(error.code(), error.to_string())
}

fn refused(refusal: Refusal) -> ApiError {
    let error = ApiError::new(refusal.code, refusal.message);
    match refusal.field {
        Some(field) => error.with_field(field),
        None => error,
    }
}
