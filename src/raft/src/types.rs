//! The words a user of the crate meets: roles, status, membership.

use thalweg_core::NodeId;

/// What a node is in its group at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Role {
    /// Follows a leader, or waits for one. Learners are followers too.
    #[default]
    Follower,
    /// Asks whether it could win an election, without disturbing anyone.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

impl Role {
    pub(crate) fn from_raft(role: raft::StateRole) -> Role {
        match role {
            raft::StateRole::Follower => Role::Follower,
            raft::StateRole::PreCandidate => Role::PreCandidate,
            raft::StateRole::Candidate => Role::Candidate,
            raft::StateRole::Leader => Role::Leader,
        }
    }
}

/// Who takes part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Membership {
    /// Nodes that vote, in the order of their ids.
    pub voters: Vec<NodeId>,
    /// Nodes that only follow, in the order of their ids.
    pub learners: Vec<NodeId>,
}

/// A change of the membership. One node at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MembershipChange {
    /// Adds a voter, or makes a learner a voter.
    AddVoter(NodeId),
    /// Adds a learner, or makes a voter a learner.
    AddLearner(NodeId),
    /// Removes a voter or learner.
    Remove(NodeId),
}

/// How far a member is, as the leader knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The member.
    pub id: NodeId,
    /// The index up to which its log is known to be the leader's.
    pub matched: u64,
    /// Whether it answered within the last election timeout. True of the leader itself.
    pub active: bool,
}

/// What a node knows of itself and its group. A view: by the time it is read it may be old.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RaftStatus {
    /// This node.
    pub node_id: NodeId,
    /// What it is.
    pub role: Role,
    /// Whether it leads and its state machine has caught up with everything committed before it led. Only then
    /// may it decide anything from the state machine's state.
    pub serving: bool,
    /// Its term; grows with every election.
    pub term: u64,
    /// The leader it knows of.
    pub leader: Option<NodeId>,
    /// The index of the last entry it knows to be committed.
    pub commit: u64,
    /// The index of the last entry its state machine has applied.
    pub applied: u64,
    /// Who votes, as of `applied`.
    pub voters: Vec<NodeId>,
    /// Who learns, as of `applied`.
    pub learners: Vec<NodeId>,
}
