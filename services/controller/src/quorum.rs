//! A cheap handle through which the services propose commands and read the metadata.

use crate::config::PROPOSE_TIMEOUT;
use crate::disk::Disk;
use crate::machine::Published;
use bytes::Bytes;
use std::sync::Arc;
use thalweg_core::metadata::{Command, MetadataImage, Refusal, Response, codec, dry_run};
use thalweg_core::{ErrorCode, MetadataVersion};
use thalweg_proto::ApiError;
use thalweg_raft::{Membership, MembershipChange, Progress, Queued, RaftError, RaftHandle, RaftStatus};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// What the Raft node answers to a command.
pub type Outcome = Result<Response, Refusal>;

/// What came of a command: the version of the image that holds it, and the answer.
pub type Proposed = Result<(MetadataVersion, Response), ApiError>;

/// The Raft group, and the image that it agrees on.
#[derive(Clone)]
pub struct Quorum {
    raft: RaftHandle<Outcome>,
    published: Arc<Published>,
    disk: Arc<Disk>,
}

impl Quorum {
    /// Puts them together. `disk` is where the group's store is.
    pub fn new(raft: RaftHandle<Outcome>, published: Arc<Published>, disk: Disk) -> Quorum {
        Quorum { raft, published, disk: Arc::new(disk) }
    }

    /// Proposes a command; answers when it is applied, with the version of the image that holds it. Refused with
    /// `STORAGE_ERROR` before it reaches the group while the disk is nearly full, and with `INCOMPATIBLE_FEATURE_LEVEL` while the
    /// level in force does not have the command.
    pub async fn propose(&self, command: &Command) -> Proposed {
        self.disk.check(command, Instant::now())?;
        // A voter of an older version could not read it.
        command.check_level(self.published.image().feature_level()).map_err(refused)?;
        let encoded = codec::encode_command(command);
        let bytes = encoded.map_err(|error| ApiError::new(ErrorCode::InvalidRequest, error.to_string()))?;
        let late = || {
            let message =
                "the controllers did not agree in time; the change may still happen: look before you retry";
            ApiError::new(ErrorCode::RequestTimedOut, message)
        };
        let begun = Instant::now();
        let applied =
            timeout(PROPOSE_TIMEOUT, self.raft.propose(Bytes::from(bytes))).await.map_err(|_| late())?;
        let (index, outcome) = applied.map_err(|error| unavailable(&error))?;
        self.published.tally.commits.record(begun.elapsed());
        Ok((MetadataVersion(index), outcome.map_err(refused)?))
    }

    /// What proposing the command would answer, without changing anything.
    pub async fn validate(&self, command: &Command) -> Result<Response, ApiError> {
        dry_run(&*self.current_image().await?, command).map(|(response, _)| response).map_err(refused)
    }

    /// Waits until the image holds all that was committed before the call, even right after an election, on a follower too.
    ///
    /// Errors: `CONTROLLER_NOT_AVAILABLE`, at once when no leader is known.
    pub async fn current_image(&self) -> Result<Arc<MetadataImage>, ApiError> {
        if self.raft.status().borrow().leader.is_none() {
            return Err(no_leader());
        }
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

    /// What waits for the Raft node.
    pub fn queued(&self) -> Queued {
        self.raft.queued()
    }

    /// The disk that holds the group's store.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Whether this node leads and its image holds everything committed before it led.
    pub fn is_serving(&self) -> bool {
        self.raft.status().borrow().serving
    }

    /// Changes the members of the group.
    ///
    /// Errors: `INVALID_VOTERS` for a change that cannot be, or while another is under way.
    pub async fn change_membership(&self, change: MembershipChange) -> Result<Membership, ApiError> {
        let changed = timeout(PROPOSE_TIMEOUT, self.raft.change_membership(change)).await;
        let late = |_| {
            let message =
                "the controllers did not agree in time; the change may still happen: look before you retry";
            ApiError::new(ErrorCode::RequestTimedOut, message)
        };
        changed.map_err(late)?.map_err(|error| match error {
            RaftError::MembershipChangeRefused { .. } | RaftError::MembershipChangeInProgress => {
                ApiError::new(ErrorCode::InvalidVoters, error.to_string())
            }
            other => unavailable(&other),
        })
    }

    /// How far each member is; the leader knows.
    pub async fn progress(&self) -> Result<Vec<Progress>, ApiError> {
        self.raft.progress().await.map_err(|error| unavailable(&error))
    }

    /// Begins to hand leadership to another voter. Says whether there is one that answers.
    pub async fn hand_over(&self) -> bool {
        self.raft.hand_over().await.unwrap_or_else(|error| {
            tracing::debug!(%error, "leadership not handed over");
            false
        })
    }

    /// Stops the node.
    pub fn shutdown(&self) {
        self.raft.shutdown();
    }
}

/// Nobody can decide anything at the moment.
pub fn no_leader() -> ApiError {
    let message = "no controller leads at the moment; try again";
    ApiError::new(ErrorCode::ControllerNotAvailable, message)
}

fn unavailable(error: &RaftError) -> ApiError {
    let code = match error {
        // To be sent again, to whichever controller; for callers NOT_LEADER speaks of partitions.
        RaftError::NotLeader { .. } => ErrorCode::ControllerNotAvailable,
        other => other.code(),
    };
    ApiError::new(code, error.to_string())
}

/// A refusal for whoever asked.
pub fn refused(refusal: Refusal) -> ApiError {
    let error = ApiError::new(refusal.code, refusal.message);
    match refusal.field {
        Some(field) => error.with_field(field),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use thalweg_core::{NodeId, Retriable};

    #[test]
    fn whoever_asked_the_wrong_controller_may_try_again() {
        let error = unavailable(&RaftError::NotLeader { leader: Some(NodeId(2)) });
        assert_eq!((error.code, error.retriable()), (ErrorCode::ControllerNotAvailable, Retriable::Yes));
        assert_eq!(unavailable(&RaftError::OutcomeUnknown).code, ErrorCode::RequestTimedOut);
    }
}
