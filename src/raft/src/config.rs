//! What a Raft node is told at its start.

use std::time::Duration;
use thalweg_core::NodeId;

/// The longest command that one proposal may carry, in bytes.
pub const MAX_COMMAND_BYTES: usize = 4 << 20;
/// The largest message taken from a peer, in bytes. A snapshot travels as one message.
pub const MAX_MESSAGE_BYTES: usize = 512 << 20;
/// Requests (proposals, reads, membership changes) that may wait for the node; more wait at the caller.
pub const REQUEST_QUEUE: usize = 1024;
/// Bytes of commands that may wait for the node; more wait at the caller.
pub const REQUEST_QUEUE_BYTES: usize = 16 << 20;
/// Messages from peers that may wait for the node; more are dropped, as a network would.
pub const INBOX_QUEUE: usize = 4096;
/// Bytes of messages from peers that may wait for the node; one message is always let in.
pub const INBOX_QUEUE_BYTES: usize = 64 << 20;

/// The settings of one node. Times are counted in ticks, so that a simulation can drive them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftConfig {
    /// This node's id. Never 0, and never used again after the node's volume was lost.
    pub node_id: NodeId,
    /// The voters with which the group is founded. Used only when the store is empty, and then the same list
    /// (and the same initial state machine) must be given to each of them.
    ///
    /// Empty means "join": the node waits until the leader of a running group adds it and sends a snapshot.
    pub voters: Vec<NodeId>,
    /// The length of a tick. Default 100 ms.
    pub tick: Duration,
    /// A follower campaigns after this many ticks (up to twice as many, at random) without a leader. Default 10.
    pub election_ticks: usize,
    /// The leader sends heartbeats every so many ticks. Less than `election_ticks`. Default 2.
    pub heartbeat_ticks: usize,
    /// Bytes of entries in one append message. Default 1 MiB.
    pub max_size_per_msg: u64,
    /// Append messages on their way to one follower. Default 64.
    pub max_inflight_msgs: usize,
    /// Bytes of entries that are appended and not yet committed; proposals wait above it. Default 16 MiB.
    pub max_uncommitted_size: u64,
    /// Bytes of committed entries that are read from the store and applied at once. Default 1 MiB.
    pub max_committed_size_per_ready: u64,
    /// A snapshot is taken when this many entries were applied since the last one. Default 10,000.
    pub snapshot_every_entries: u64,
    /// A snapshot is taken when this many bytes were applied since the last one. Default 32 MiB.
    pub snapshot_every_bytes: u64,
    /// Applied entries kept behind a snapshot, so that a follower a little behind needs no snapshot.
    /// Default 2,000.
    pub keep_entries: u64,
    /// A snapshot on its way to a follower is sent again after this many ticks without an answer. Default 100.
    pub snapshot_retry_ticks: u64,
    /// A linearizable read is given up after this many ticks. Default 50.
    pub read_timeout_ticks: u64,
}

impl RaftConfig {
    /// The defaults, for this node and these founding voters.
    pub fn new(node_id: NodeId, voters: Vec<NodeId>) -> RaftConfig {
        RaftConfig {
            node_id,
            voters,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            heartbeat_ticks: 2,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 64,
            max_uncommitted_size: 16 << 20,
            max_committed_size_per_ready: 1 << 20,
            snapshot_every_entries: 10_000,
            snapshot_every_bytes: 32 << 20,
            keep_entries: 2_000,
            snapshot_retry_ticks: 100,
            read_timeout_ticks: 50,
        }
    }

    /// Checks what the raft crate does not, or would only panic on.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if self.node_id.get() == 0 || self.voters.iter().any(|voter| voter.get() == 0) {
            return Err(ConfigError::ZeroNodeId);
        }
        let mut voters = self.voters.clone();
        voters.sort();
        voters.dedup();
        if voters.len() != self.voters.len() {
            return Err(ConfigError::DuplicateVoter);
        }
        if !voters.is_empty() && !voters.contains(&self.node_id) {
            return Err(ConfigError::NotAVoter { node_id: self.node_id });
        }
        if self.tick.is_zero() {
            return Err(ConfigError::ZeroTick);
        }
        if self.heartbeat_ticks == 0 || self.heartbeat_ticks >= self.election_ticks {
            return Err(ConfigError::Heartbeat);
        }
        if self.snapshot_every_entries == 0 || self.snapshot_every_bytes == 0 {
            return Err(ConfigError::SnapshotEvery);
        }
        Ok(())
    }

    /// The raft crate's settings. `applied` is the index of the snapshot from which the machine was restored.
    pub(crate) fn to_raft(&self, applied: u64) -> raft::Config {
        raft::Config {
            id: self.node_id.get(),
            election_tick: self.election_ticks,
            heartbeat_tick: self.heartbeat_ticks,
            applied,
            max_size_per_msg: self.max_size_per_msg,
            max_inflight_msgs: self.max_inflight_msgs,
            check_quorum: true,
            pre_vote: true,
            read_only_option: raft::ReadOnlyOption::Safe,
            max_uncommitted_size: self.max_uncommitted_size.max(self.max_size_per_msg),
            max_committed_size_per_ready: self.max_committed_size_per_ready,
            ..raft::Config::default()
        }
    }
}

/// A setting that cannot work. Not retriable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// 0 stands for "no node".
    #[error("a raft node id must not be 0")]
    ZeroNodeId,
    /// A voter is named twice.
    #[error("a voter is listed twice")]
    DuplicateVoter,
    /// The founding voters do not include this node.
    #[error(
        "node {node_id} is not one of the founding voters; give it no voters to let it join a running group"
    )]
    NotAVoter {
        /// This node.
        node_id: NodeId,
    },
    /// Time would stand still.
    #[error("the raft tick must be longer than 0")]
    ZeroTick,
    /// Followers would campaign between two heartbeats.
    #[error("raft heartbeat_ticks must be at least 1 and less than election_ticks")]
    Heartbeat,
    /// A snapshot would be due all the time.
    #[error("the raft snapshot thresholds must be at least 1")]
    SnapshotEvery,
    /// The raft crate refuses the settings.
    #[error("raft refuses its configuration: {reason}")]
    Refused {
        /// The crate's words.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_accepted_by_us_and_by_the_raft_crate() {
        let config = RaftConfig::new(NodeId(1), vec![NodeId(1), NodeId(2), NodeId(3)]);
        config.check().unwrap();
        let raft = config.to_raft(0);
        raft.validate().unwrap();
        assert!(raft.check_quorum && raft.pre_vote);
    }

    #[test]
    fn a_setting_that_cannot_work_is_refused() {
        let good = RaftConfig::new(NodeId(1), vec![NodeId(1)]);
        let refused = |change: fn(&mut RaftConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.check().unwrap_err()
        };
        assert_eq!(refused(|c| c.node_id = NodeId(0)), ConfigError::ZeroNodeId);
        assert_eq!(refused(|c| c.voters = vec![NodeId(1), NodeId(1)]), ConfigError::DuplicateVoter);
        assert_eq!(refused(|c| c.node_id = NodeId(9)), ConfigError::NotAVoter { node_id: NodeId(9) });
        assert_eq!(refused(|c| c.tick = Duration::ZERO), ConfigError::ZeroTick);
        assert_eq!(refused(|c| c.heartbeat_ticks = 10), ConfigError::Heartbeat);
        assert_eq!(refused(|c| c.snapshot_every_entries = 0), ConfigError::SnapshotEvery);
    }
}
