//! Who may follow what: the checks of a stream's first message and of each partition that it names.

use crate::node::{Node, unknown_topic};
use crate::replicas::{Lookup, Partition};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::metadata::command::BrokerRef;
use thalweg_core::replication::ReplicaProgress;
use thalweg_core::{BrokerEpoch, BrokerId, ErrorCode, LeaderEpoch, Offset, PartitionId, TopicId};
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::partition_end::Reason;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// How long a stream or a partition may wait for this broker's metadata to come to where the follower's is.
pub const METADATA_PATIENCE: Duration = Duration::from_secs(5);

/// Checks who speaks to whom. Waits for the metadata if the follower is registered more newly than this broker knows.
pub async fn hello(node: &Node, hello: &internal::ReplicateHello) -> Result<BrokerRef, ApiError> {
    let who = BrokerRef { id: BrokerId(hello.follower_id), epoch: BrokerEpoch(hello.follower_epoch) };
    let me = node.config.node_id;
    if node.metadata.image().cluster_id().is_none_or(|ours| *ours.0 != *hello.cluster_id) {
        return Err(ApiError::new(ErrorCode::InconsistentClusterId, "the follower is of another cluster"));
    }
    if hello.leader_id != me.get() || who.id == me {
        let message = format!(
            "this is broker {me}; broker {} meant to reach broker {}",
            hello.follower_id, hello.leader_id
        );
        return Err(ApiError::invalid("hello.leader_id", message));
    }
    let deadline = Instant::now() + METADATA_PATIENCE;
    let mut versions = node.metadata.watch();
    loop {
        match node.metadata.image().broker(who.id).map(|broker| broker.epoch) {
            Some(known) if known == who.epoch => return Ok(who),
            Some(known) if known > who.epoch => {
                let message = format!("broker {} is registered anew, with epoch {known}", who.id);
                return Err(ApiError::new(ErrorCode::StaleBrokerEpoch, message));
            }
            _ => {}
        }
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { return Err(crate::refusal::shutting_down()) },
            () = tokio::time::sleep_until(deadline) => {
                let message = format!("broker {} is not known here with epoch {} yet", who.id, who.epoch);
                return Err(ApiError::new(ErrorCode::LeaderNotAvailable, message));
            }
        }
    }
}

/// A partition that is followed from here on.
#[derive(Debug)]
pub struct Admitted {
    /// The partition.
    pub partition: Arc<Partition>,
    /// The epoch in which this broker leads it.
    pub leader_epoch: LeaderEpoch,
    /// The first offset to send.
    pub from: Offset,
    /// Whether the follower's membership in the ISR should be looked at.
    pub may_join: bool,
}

/// What becomes of a partition that a follower names.
#[derive(Debug)]
pub enum Verdict {
    /// It is followed.
    Follow(Admitted),
    /// It is not.
    End(Reason),
    /// The follower's metadata is newer than this broker's: ask again when that has come further. The error is for one who is
    /// tired of it.
    NotYet(ApiError),
}

/// Checks a partition: who leads it in which epoch, and whether the follower's log is a beginning of the leader's (KIP-101,
/// KIP-279). If it is, what the follower holds counts from here on.
pub fn follow(node: &Node, who: BrokerRef, wanted: &internal::FollowPartition) -> Verdict {
    let Ok(topic_id) = <[u8; 16]>::try_from(&wanted.topic_id[..]).map(TopicId) else {
        return refused(&ApiError::invalid("follow.topic_id", "a topic's id has 16 bytes"));
    };
    let partition = match find(node, topic_id, wanted) {
        Ok(partition) => partition,
        Err(verdict) => return verdict,
    };
    let leader_epoch = LeaderEpoch(wanted.leader_epoch);
    let role = partition.role();
    if let Err(error) = node.check_epoch(Some(wanted.leader_epoch), role.leader_epoch) {
        return match error.code {
            ErrorCode::UnknownLeaderEpoch => Verdict::NotYet(error),
            _ => refused(&error),
        };
    }
    if partition.leading().is_none() {
        let tp = partition.topic_partition();
        return refused(&node.not_led_here(tp.topic.as_str(), tp.partition.get()));
    }
    if !role.replicas.contains(&who.id) {
        let message = format!("broker {} is not known here as a replica yet", who.id);
        return Verdict::NotYet(ApiError::new(ErrorCode::UnknownLeaderEpoch, message));
    }
    drop(role);
    if let Some(reason) = divergence(&partition, wanted) {
        return Verdict::End(reason);
    }
    let from = Offset(wanted.offset);
    let at = ReplicaProgress { log_end: from, flushed: Offset(wanted.flushed) };
    match partition.follow(who, leader_epoch, at) {
        Some(may_join) => Verdict::Follow(Admitted { partition, leader_epoch, from, may_join }),
        // The role changed meanwhile, or the follower was replaced.
        None => refused(&ApiError::new(ErrorCode::NotLeader, "the leader or the follower has changed")),
    }
}

fn find(
    node: &Node,
    topic_id: TopicId,
    wanted: &internal::FollowPartition,
) -> Result<Arc<Partition>, Verdict> {
    let image = node.metadata.image();
    let Some(topic) = image.topic_by_id(topic_id) else {
        let error = unknown_topic(&topic_id.to_string());
        // It may be one that was just created.
        return Err(Verdict::NotYet(error));
    };
    match node.replicas.find(topic.name.as_str(), PartitionId(wanted.partition)) {
        Lookup::Here(partition) if partition.topic_id() == topic_id => Ok(partition),
        Lookup::Failed(error) => Err(refused(&error)),
        Lookup::Here(_) | Lookup::Nowhere => {
            let error = node.not_led_here(topic.name.as_str(), wanted.partition);
            // It is being opened, or comes with metadata that is not here yet.
            let epoch =
                topic.partition(PartitionId(wanted.partition)).map_or(-1, |state| state.leader_epoch.get());
            let soon = error.code == ErrorCode::LeaderNotAvailable || epoch < wanted.leader_epoch;
            Err(if soon { Verdict::NotYet(error) } else { refused(&error) })
        }
    }
}

/// Why the follower's log is no beginning of the leader's; `None` if it is.
fn divergence(partition: &Partition, wanted: &internal::FollowPartition) -> Option<Reason> {
    let log = partition.log();
    let offset = Offset(wanted.offset);
    let last_epoch = LeaderEpoch(wanted.last_epoch);
    // The end before the epochs: both grow only.
    let end = log.log_end_offset();
    if offset < log.log_start_offset() || (last_epoch < LeaderEpoch(0) && offset > end) {
        return Some(out_of_range(partition, offset));
    }
    // An empty log has nothing that could differ.
    if last_epoch < LeaderEpoch(0) {
        return None;
    }
    match log.epoch_end_offset(last_epoch) {
        Some((epoch, end)) if epoch == last_epoch && end >= offset => None,
        Some((epoch, end)) => {
            Some(Reason::Diverging(internal::DivergingEpoch { epoch: epoch.get(), end_offset: end.get() }))
        }
        // The follower wrote in an epoch above any that the leader knows, or the leader knows none at all.
        None => Some(Reason::Diverging(internal::DivergingEpoch {
            epoch: log.latest_epoch().unwrap_or(LeaderEpoch::NONE).get(),
            end_offset: end.get().min(offset.get()),
        })),
    }
}

/// The answer to a follower whose next offset is not in the leader's log.
pub fn out_of_range(partition: &Partition, requested: Offset) -> Reason {
    Reason::OutOfRange(v1::OffsetRange {
        requested: requested.get(),
        log_start_offset: partition.log().log_start_offset().get(),
        high_watermark: partition.log().high_watermark().get(),
    })
}

/// The slot is over because of an error.
pub fn refused(error: &ApiError) -> Verdict {
    Verdict::End(Reason::Error(error.to_proto()))
}
