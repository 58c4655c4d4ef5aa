//! Controllers join the Raft group and leave it.
//!
//! ```text
//!   add:     note its address ─▶ learner ─▶ wait until it has the log ─▶ voter
//!   remove:  the leader hands over first if it is the one ─▶ remove ─▶ forget its address
//! ```

use crate::peers::Peers;
use crate::quorum::{Quorum, refused};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::metadata::command::PutController;
use thalweg_core::metadata::limits::MAX_CONTROLLERS;
use thalweg_core::metadata::{Command, Endpoint};
use thalweg_core::{ErrorCode, NodeId};
use thalweg_proto::ApiError;
use thalweg_proto::v1;
use thalweg_raft::{MembershipChange, Progress};
use tokio::sync::{Mutex, TryLockError};
use tokio::time::{Instant, sleep};

/// Entries that a learner may be behind and still become a voter: it counts for the quorum from then on.
const CAUGHT_UP_WITHIN: u64 = 100;
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a change waits for another one.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// How long a voter may take to give a sign of life: a new leader has heard nobody at first, and each forgets now and then.
const HEARD: Duration = Duration::from_secs(2);
/// How long a leader that is to be removed waits for its successor.
const HAND_OVER: Duration = Duration::from_secs(3);

/// Changes of the voters, one at a time.
#[derive(Clone)]
pub struct Voters {
    quorum: Quorum,
    peers: Arc<Peers>,
    catch_up: Duration,
    /// Held while the members and the noted addresses change together.
    changing: Arc<Mutex<()>>,
}

impl Voters {
    /// Changes the members of this group. A new one may take `catch_up` to get the log.
    pub fn new(quorum: Quorum, peers: Arc<Peers>, catch_up: Duration) -> Voters {
        Voters { quorum, peers, catch_up, changing: Arc::default() }
    }

    /// Whoever changes members or their addresses holds this meanwhile.
    pub fn try_change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, TryLockError> {
        self.changing.try_lock()
    }

    /// The same, waiting for what takes a moment only.
    ///
    /// Errors: `INVALID_VOTERS` while a change takes long.
    pub async fn change(&self) -> Result<tokio::sync::MutexGuard<'_, ()>, ApiError> {
        let waited = tokio::time::timeout(UNDER_WAY, self.changing.lock()).await;
        waited.map_err(|_| {
            let message = "another change of the voters is under way; try again after it";
            ApiError::new(ErrorCode::InvalidVoters, message)
        })
    }

    /// Adds a voter; answers when it votes.
    pub async fn add(&self, request: v1::AddVoterRequest) -> Result<v1::AddVoterResponse, ApiError> {
        let id = node_id(request.node_id)?;
        let endpoint: Endpoint = request
            .endpoint
            .parse()
            .map_err(|error| ApiError::invalid("endpoint", format!("{:?}: {error}", request.endpoint)))?;
        let _changing = self.change().await?;
        let image = self.quorum.current_image().await?;
        let (voters, learners) = self.members();
        if let Some((other, _)) = image.controllers().find(|(other, at)| **at == endpoint && *other != id) {
            let message = format!("controller {other} is at {endpoint}");
            return Err(ApiError::new(ErrorCode::InvalidVoters, message).with_field("endpoint"));
        }
        if voters.contains(&id) {
            if image.controllers().any(|(known, at)| known == id && *at == endpoint) {
                return Ok(v1::AddVoterResponse { voters: ids(&voters) });
            }
            let message = format!("controller {id} is a voter already; an id is never used again");
            return Err(ApiError::new(ErrorCode::InvalidVoters, message).with_field("node_id"));
        }
        if voters.len() + learners.len() >= MAX_CONTROLLERS && !learners.contains(&id) {
            let message = format!("a cluster has at most {MAX_CONTROLLERS} controllers");
            return Err(ApiError::new(ErrorCode::InvalidVoters, message));
        }
        self.quorum
            .propose(&Command::PutController(PutController { id, endpoint: endpoint.clone() }))
            .await?;
        if !learners.contains(&id) {
            self.quorum.change_membership(MembershipChange::AddLearner(id)).await?;
        }
        if let Err(error) = self.catch_up(id, &endpoint).await {
            // Nothing of the attempt is left behind.
            let removed = self.quorum.change_membership(MembershipChange::Remove(id)).await;
            let forgotten = self.quorum.propose(&Command::RemoveController(id)).await;
            if let Some(error) = removed.err().or(forgotten.err()) {
                tracing::warn!(controller = %id, %error, "a controller that did not catch up is still a learner");
            }
            return Err(error);
        }
        let members = self.quorum.change_membership(MembershipChange::AddVoter(id)).await?;
        tracing::info!(controller = %id, %endpoint, "voter added");
        Ok(v1::AddVoterResponse { voters: ids(&members.voters) })
    }

    /// Waits until a learner has the log.
    async fn catch_up(&self, id: NodeId, endpoint: &Endpoint) -> Result<(), ApiError> {
        let deadline = Instant::now() + self.catch_up;
        loop {
            let last = self.quorum.status().borrow().commit;
            let progress = self.quorum.progress().await?;
            if let Some(levels) = self.peers.levels(id) {
                let level = self.quorum.published().image().feature_level();
                levels.admit(&format!("controller {id}"), level).map_err(refused)?;
            }
            // One that never answered counts as active at first, and a short log is soon nearly matched.
            let caught_up = |member: &Progress| {
                member.id == id
                    && member.active
                    && member.matched > 0
                    && member.matched.saturating_add(CAUGHT_UP_WITHIN) >= last
            };
            if progress.iter().any(caught_up) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let message = format!(
                    "controller {id} did not get the log from the leader in {} s; is it running at {endpoint}, with an empty \
                     folder and told to join?",
                    self.catch_up.as_secs()
                );
                return Err(ApiError::new(ErrorCode::InvalidVoters, message));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Removes a voter or learner.
    pub async fn remove(&self, request: v1::RemoveVoterRequest) -> Result<v1::RemoveVoterResponse, ApiError> {
        let id = node_id(request.node_id)?;
        let _changing = self.change().await?;
        self.quorum.current_image().await?;
        let (voters, learners) = self.members();
        if !voters.contains(&id) && !learners.contains(&id) {
            let message = format!("controller {id} is no voter");
            return Err(ApiError::new(ErrorCode::InvalidVoters, message).with_field("node_id"));
        }
        if voters == [id] {
            let message = format!("controller {id} is the last voter; without it there is no cluster");
            return Err(ApiError::new(ErrorCode::InvalidVoters, message).with_field("node_id"));
        }
        if self.quorum.status().borrow().node_id == id {
            // It was asked to hand over before, and nobody took it.
            let message = format!("controller {id} leads and no other voter has taken over; try again");
            return Err(ApiError::new(ErrorCode::ControllerNotAvailable, message));
        }
        if voters.contains(&id) {
            self.check_rest(&voters, id).await?;
        }
        let members = self.quorum.change_membership(MembershipChange::Remove(id)).await?;
        self.quorum.propose(&Command::RemoveController(id)).await?;
        tracing::info!(controller = %id, "voter removed");
        Ok(v1::RemoveVoterResponse { voters: ids(&members.voters) })
    }

    /// Whether the voters that stay are alive in sufficient number, as soon as they were heard.
    async fn check_rest(&self, voters: &[NodeId], leaves: NodeId) -> Result<(), ApiError> {
        let deadline = Instant::now() + HEARD;
        loop {
            match check_rest(&self.quorum.progress().await?, voters, leaves) {
                Err(_) if Instant::now() < deadline => sleep(LOOK_EVERY).await,
                checked => return checked,
            }
        }
    }

    /// Hands leadership over if this controller is the one that leads and is to be removed, and waits for a successor. Gives
    /// whether it did.
    pub async fn hand_over_if_leading(&self, id: u64) -> bool {
        let mut status = self.quorum.status();
        let leads = {
            let status = status.borrow();
            status.serving && status.node_id.get() == id && status.voters.len() > 1
        };
        if !leads {
            return false;
        }
        if !self.quorum.hand_over().await {
            return false;
        }
        let successor = status.wait_for(|status| {
            !status.serving && status.leader.is_some_and(|leader| leader != status.node_id)
        });
        // Without a successor the call is answered here, with the reason.
        tokio::time::timeout(HAND_OVER, successor).await.is_ok()
    }

    fn members(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let status = self.quorum.status();
        let status = status.borrow();
        (status.voters.clone(), status.learners.clone())
    }
}

/// The voters that stay must be able to decide without the one that goes: with too few of them alive, the group would stand
/// still with no way back.
fn check_rest(progress: &[Progress], voters: &[NodeId], leaves: NodeId) -> Result<(), ApiError> {
    let rest: BTreeSet<NodeId> = voters.iter().copied().filter(|id| *id != leaves).collect();
    let alive = progress.iter().filter(|member| member.active && rest.contains(&member.id)).count();
    let quorum = rest.len() / 2 + 1;
    if alive >= quorum {
        return Ok(());
    }
    let message = format!(
        "without controller {leaves} only {alive} of {} voters would be alive, fewer than the {quorum} that must agree; bring \
         the others back first, or remove those that are gone",
        rest.len()
    );
    Err(ApiError::new(ErrorCode::InvalidVoters, message).with_field("node_id"))
}

fn node_id(id: u64) -> Result<NodeId, ApiError> {
    if id == 0 {
        return Err(ApiError::invalid("node_id", "a controller's id is 1 or more"));
    }
    Ok(NodeId(id))
}

fn ids(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|id| id.get()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_never_leaves_too_few() {
        let member = |id, active| Progress { id: NodeId(id), matched: 0, active };
        let three = [1, 2, 3].map(NodeId);
        let one_gone = [member(1, true), member(2, true), member(3, false)];
        assert!(check_rest(&one_gone, &three, NodeId(3)).is_ok(), "the dead one may go");
        let refused = check_rest(&one_gone, &three, NodeId(2)).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidVoters);
        let all = [member(1, true), member(2, true), member(3, true)];
        assert!(check_rest(&all, &three, NodeId(2)).is_ok());
        let two = [1, 2].map(NodeId);
        assert!(check_rest(&[member(1, true), member(2, false)], &two, NodeId(2)).is_ok());
    }
}
