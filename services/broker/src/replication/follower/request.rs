//! What a stream wants to say, in the words of the wire.

use thalweg_core::{Offset, PartitionId, TopicId};
use thalweg_log::LogPosition;
use thalweg_proto::internal::v1::{FollowPartition, FollowerPosition, ReplicateRequest};

/// What the shell knows of a followed partition when a request is written.
#[derive(Debug, Clone, Copy)]
pub struct Followed {
    /// The topic's id.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Where its log stands.
    pub at: LogPosition,
}

/// What stands for "no record" where an epoch is asked for.
const NO_EPOCH: i32 = -1;

pub(super) fn follow(slot: u32, leader_epoch: i32, followed: &Followed) -> FollowPartition {
    let Followed { topic_id, partition, at } = followed;
    FollowPartition {
        slot,
        topic_id: topic_id.0.to_vec().into(),
        partition: partition.get(),
        leader_epoch,
        offset: at.log_end.get(),
        last_epoch: at.last_epoch.map_or(NO_EPOCH, |epoch| epoch.get()),
        flushed: at.flushed.get(),
        log_start_offset: at.log_start.get(),
    }
}

pub(super) fn position(slot: u32, log_end: Offset, flushed: Offset) -> FollowerPosition {
    FollowerPosition { slot, log_end: log_end.get(), flushed: flushed.get() }
}

/// Whether there is nothing to say.
pub(super) fn is_empty(request: &ReplicateRequest) -> bool {
    let ReplicateRequest { hello, unfollow, follow, positions, credit_bytes } = request;
    hello.is_none() && unfollow.is_empty() && follow.is_empty() && positions.is_empty() && *credit_bytes == 0
}
