//! A cheap handle through which the services propose commands and read the metadata.

use crate::config::PROPOSE_TIMEOUT;
use crate::disk::Disk;
use crate::machine::Published;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;
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
    disk: Arc<Disk>,
}

impl Quorum {
    /// Puts them together. `disk` is where the group's store is.
    pub fn new(raft: RaftHandle<Result<Response, Refusal>>, published: Arc<Published>, disk: Disk) -> Quorum {
        Quorum { raft, published, disk: Arc::new(disk) }
    }

    /// Proposes a command; answers when it is applied, with the version of the image that holds it. Refused with
    /// `STORAGE_ERROR` before it reaches the group while the disk is nearly full.
    pub async fn propose(&self, command: &Command) -> Result<(MetadataVersion, Response), ApiError> {
        self.disk.check(command, Instant::now())?;
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

    /// Refuses until the image holds what was committed before this node started: an older one could lack a topic that lives,
    /// or show one that is gone.
    ///
    /// Errors: `CONTROLLER_NOT_AVAILABLE`.
    pub fn check_current(&self) -> Result<(), ApiError> {
        if is_current(&self.raft.status().borrow()) {
            return Ok(());
        }
        let message = "this controller does not hold all of the metadata yet; try again";
        Err(ApiError::new(ErrorCode::ControllerNotAvailable, message))
    }

    /// Stops the node.
    pub fn shutdown(&self) {
        self.raft.shutdown();
    }
}

/// A leader knows when it is; a follower is when it has applied all that its leader told it is committed.
fn is_current(status: &RaftStatus) -> bool {
    let follows = status.leader.is_some_and(|leader| leader != status.node_id);
    status.serving || (follows && status.applied >= status.commit)
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

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::NodeId;

    #[test]
    fn metadata_is_told_only_once_all_that_was_committed_is_applied() {
        // Right after a start: what the last snapshot held, and entries behind it of which nobody says yet that they count.
        let restarted = RaftStatus { node_id: NodeId(1), commit: 7, applied: 7, ..RaftStatus::default() };
        assert!(!is_current(&restarted));
        let elected = RaftStatus { leader: Some(NodeId(1)), ..restarted.clone() };
        assert!(!is_current(&elected));
        assert!(is_current(&RaftStatus { serving: true, applied: 9, commit: 9, ..elected }));
        let follower = RaftStatus { leader: Some(NodeId(2)), commit: 9, ..restarted };
        assert!(!is_current(&follower));
        assert!(is_current(&RaftStatus { applied: 9, ..follower }));
    }
}
