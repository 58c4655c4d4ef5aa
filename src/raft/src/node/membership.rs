//! Who takes part and who leads, as the leader is asked to change it.

use super::core::{Core, PendingChange};
use crate::error::RaftError;
use crate::handle::Reply;
use crate::machine::StateMachine;
use crate::store::{ConfState, RaftStore};
use crate::transport::Transport;
use crate::types::{Membership, MembershipChange, Progress};
use crate::wire;
use thalweg_core::NodeId;

impl<S: RaftStore, M: StateMachine, T: Transport> Core<S, M, T> {
    pub(super) fn change_membership(&mut self, change: MembershipChange, reply: Reply<Membership>) {
        let refusal = if !self.leads() {
            Some(RaftError::NotLeader { leader: self.leader() })
        } else if self.raw.raft.has_pending_conf() || self.change.is_some() {
            // The raft crate would silently turn the change into an empty entry.
            Some(RaftError::MembershipChangeInProgress)
        } else {
            refusal_of(change, &self.applied.conf).map(|reason| RaftError::MembershipChangeRefused { reason })
        };
        if let Some(refusal) = refusal {
            let _ = reply.send(Err(refusal));
            return;
        }
        match self.raw.propose_conf_change(Vec::new(), wire::change_to_raft(change)) {
            Ok(()) => {
                let index = self.raw.raft.raft_log.last_index();
                self.change = Some(PendingChange { index, term: self.raw.raft.term, reply });
            }
            Err(error) => {
                tracing::debug!(node = %self.config.node_id, %error, "membership change not taken");
                let _ = reply.send(Err(RaftError::MembershipChangeInProgress));
            }
        }
    }

    pub(super) fn transfer(&mut self, to: NodeId) -> Result<(), RaftError> {
        if !self.leads() {
            return Err(RaftError::NotLeader { leader: self.leader() });
        }
        if !self.applied.conf.voters.contains(&to.get()) {
            return Err(RaftError::MembershipChangeRefused { reason: format!("node {to} is not a voter") });
        }
        self.raw.transfer_leader(to.get());
        Ok(())
    }

    pub(super) fn progress(&self) -> Result<Vec<Progress>, RaftError> {
        if !self.leads() {
            return Err(RaftError::NotLeader { leader: self.leader() });
        }
        let own = self.config.node_id.get();
        let mut members: Vec<Progress> = self
            .raw
            .raft
            .prs()
            .iter()
            .map(|(id, progress)| Progress {
                id: NodeId(*id),
                matched: progress.matched,
                active: *id == own || progress.recent_active,
            })
            .collect();
        members.sort_by_key(|member| member.id);
        Ok(members)
    }

    /// Begins to hand leadership to the voter that is the furthest, if there is one to be reached. Says whether there is.
    pub(super) fn hand_over(&mut self) -> bool {
        if !self.leads() {
            return false;
        }
        let successor = self
            .raw
            .raft
            .prs()
            .iter()
            .filter(|(id, progress)| {
                **id != self.config.node_id.get()
                    && self.applied.conf.voters.contains(*id)
                    && progress.recent_active
            })
            .max_by_key(|(_, progress)| progress.matched)
            .map(|(id, _)| *id);
        if let Some(successor) = successor {
            tracing::info!(node = %self.config.node_id, successor, "handing leadership over");
            self.raw.transfer_leader(successor);
        }
        successor.is_some()
    }

    pub(super) fn is_handing_over(&self) -> bool {
        self.leads() && self.raw.raft.lead_transferee.is_some()
    }
}

/// Why a change makes no sense for this membership, if it does not.
fn refusal_of(change: MembershipChange, conf: &ConfState) -> Option<String> {
    let is_voter = |id: NodeId| conf.voters.contains(&id.get());
    let is_learner = |id: NodeId| conf.learners.contains(&id.get());
    match change {
        MembershipChange::AddVoter(NodeId(0)) | MembershipChange::AddLearner(NodeId(0)) => {
            Some("a node id must not be 0".to_owned())
        }
        MembershipChange::AddVoter(id) if is_voter(id) => Some(format!("node {id} is a voter already")),
        MembershipChange::AddLearner(id) if is_learner(id) => Some(format!("node {id} is a learner already")),
        MembershipChange::Remove(id) if !is_voter(id) && !is_learner(id) => {
            Some(format!("node {id} is not a member"))
        }
        MembershipChange::AddLearner(id) | MembershipChange::Remove(id)
            if is_voter(id) && conf.voters.len() == 1 =>
        {
            Some(format!("node {id} is the last voter"))
        }
        _ => None,
    }
}
