//! What goes into a shard and what comes out.

use std::sync::Arc;
use std::time::Duration;
use thalweg_core::Timestamp;
use thalweg_core::group::{GroupId, GroupRecord, MemberEpoch};
use thalweg_core::metadata::command::Refusal;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::v1;
use tonic_prost::prost::Message;

/// The time of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since some start; never goes back. Sessions and waits count by it.
    pub mono: Duration,
    /// The wall clock: what records carry, and what offsets expire by.
    pub wall: Timestamp,
}

/// A call's number, unique in the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub u64);

/// Counts a shard's writes, from 1, in order. 0 is before the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WriteId(pub u64);

/// One call to a shard. What it asks is as it came over the wire; the shard checks it.
#[derive(Debug, Clone, PartialEq)]
pub enum ShardCall {
    /// `GroupService.Heartbeat`.
    Heartbeat {
        /// What is asked.
        request: v1::HeartbeatRequest,
        /// Where the client is, for people.
        host: Arc<str>,
    },
    /// `GroupService.CommitOffsets`; its cursor is not looked at.
    CommitOffsets(v1::CommitOffsetsRequest),
    /// `GroupService.FetchOffsets`.
    FetchOffsets(v1::FetchOffsetsRequest),
    /// `GroupService.ListGroups`, of this shard.
    ListGroups(v1::ListGroupsRequest),
    /// `GroupService.DescribeGroups`, for exactly one group. The answer has one entry, without coordinator, log ends and lag:
    /// the caller adds them.
    DescribeGroup(v1::DescribeGroupsRequest),
    /// The committed offsets of a group, without its members. The answer is that to `DescribeGroup`.
    DescribeOffsets(GroupId),
    /// `GroupService.DeleteGroups`, for exactly one group. The answer has one entry.
    DeleteGroup(v1::DeleteGroupsRequest),
    /// `GroupService.DeleteOffsets`.
    DeleteOffsets(v1::DeleteOffsetsRequest),
    /// The caller of the heartbeat with this call's id is gone: it need not be answered, and the member's session counts from
    /// now. There is no answer to this itself; a call that waits for a write is answered all the same.
    Cancel,
}

impl ShardCall {
    /// Bytes that it takes, about.
    pub fn bytes(&self) -> usize {
        let own = std::mem::size_of::<ShardCall>();
        own + match self {
            ShardCall::Heartbeat { request, host } => request.encoded_len() + host.len(),
            ShardCall::CommitOffsets(request) => request.encoded_len(),
            ShardCall::FetchOffsets(request) => request.encoded_len(),
            ShardCall::ListGroups(request) => request.encoded_len(),
            ShardCall::DescribeGroup(request) => request.encoded_len(),
            ShardCall::DescribeOffsets(_) | ShardCall::Cancel => 0,
            ShardCall::DeleteGroup(request) => request.encoded_len(),
            ShardCall::DeleteOffsets(request) => request.encoded_len(),
        }
    }

    /// Whether it makes more to be written, or to be kept until something is. A member that only stays does not.
    pub fn needs_write(&self) -> bool {
        match self {
            ShardCall::Heartbeat { request, .. } => {
                request.member_epoch <= MemberEpoch::JOIN.0 || request.subscription.is_some()
            }
            ShardCall::CommitOffsets(_)
            | ShardCall::FetchOffsets(_)
            | ShardCall::DeleteGroup(_)
            | ShardCall::DeleteOffsets(_) => true,
            ShardCall::ListGroups(_)
            | ShardCall::DescribeGroup(_)
            | ShardCall::DescribeOffsets(_)
            | ShardCall::Cancel => false,
        }
    }
}

/// What a step brought. The caller writes the records in order, and then says that they are [`durable`](super::Shard::durable);
/// answers may leave at once.
#[derive(Debug, Default)]
pub struct Output {
    /// Records to write. The records of one write belong together, but each prefix of all records is a state that a group can
    /// be loaded from.
    pub writes: Vec<(WriteId, Vec<GroupRecord>)>,
    /// Answers.
    pub replies: Vec<(CallId, Result<Reply, Refusal>)>,
    /// For metrics; to be taken by the caller.
    pub counts: Counts,
}

/// What happened to groups, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Assignments that were computed.
    pub rebalances: u64,
    /// Members that were put out because their time was over.
    pub expired_members: u64,
}
