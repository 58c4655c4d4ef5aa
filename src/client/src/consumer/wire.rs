//! The membership protocol on the wire.

use crate::ClientError;
use crate::proto;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use thalweg_core::ErrorCode;
use thalweg_core::group::assignor::TopicIdPartition;
use thalweg_core::group::member::{Answer, Outgoing};
use thalweg_core::group::state::Partitions;
use thalweg_core::group::{GroupId, InstanceId, MemberEpoch, MemberId, Subscription};
use thalweg_core::metadata::command::Refusal;
use thalweg_core::{PartitionId, TopicId, TopicName};

/// Who a member is, the same in every call.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) group: GroupId,
    pub(super) member: MemberId,
    /// Drawn anew for each consumer; see HeartbeatRequest.join_life.
    pub(super) life: u64,
    pub(super) instance: Option<InstanceId>,
    pub(super) client_id: String,
    pub(super) session_timeout: Duration,
    pub(super) rebalance_timeout: Duration,
}

impl Identity {
    pub(super) fn instance_text(&self) -> String {
        self.instance.as_ref().map(|instance| instance.as_str().to_owned()).unwrap_or_default()
    }

    pub(super) fn heartbeat(&self, beat: &Outgoing) -> proto::HeartbeatRequest {
        let (joins, counts) = (beat.epoch == MemberEpoch::JOIN, beat.epoch <= MemberEpoch::JOIN);
        proto::HeartbeatRequest {
            group_id: self.group.as_str().to_owned(),
            member_id: self.member.as_str().to_owned(),
            member_epoch: beat.epoch.0,
            instance_id: self.instance_text(),
            subscription: beat.subscription.as_ref().map(subscription),
            has: beat.has.as_ref().map(assigned),
            client_id: if joins { self.client_id.clone() } else { String::new() },
            session_timeout_ms: joins.then(|| millis(self.session_timeout)),
            rebalance_timeout_ms: joins.then(|| millis(self.rebalance_timeout)),
            max_wait_ms: Some(millis(beat.max_wait)),
            leaving_epoch: beat.leaving.map(|epoch| epoch.0),
            heard_step: beat.heard,
            join_life: counts.then_some(self.life),
            join_attempt: counts.then_some(beat.number),
        }
    }
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn subscription(wanted: &Subscription) -> proto::GroupSubscription {
    proto::GroupSubscription {
        topics: wanted.topics.iter().map(|topic| topic.as_str().to_owned()).collect(),
        pattern: wanted.pattern.clone().unwrap_or_default(),
        assignor: wanted.assignor.clone().unwrap_or_default(),
        rack: wanted.rack.as_deref().unwrap_or_default().to_owned(),
    }
}

fn assigned(has: &Partitions) -> proto::AssignedPartitions {
    let mut topics: BTreeMap<TopicId, Vec<i32>> = BTreeMap::new();
    for at in has {
        topics.entry(at.topic).or_default().push(at.partition.get());
    }
    let topics = topics.into_iter().map(|(topic, partitions)| proto::TopicPartitions {
        topic_id: Bytes::copy_from_slice(&topic.0),
        topic: String::new(),
        partitions,
    });
    proto::AssignedPartitions { topics: topics.collect() }
}

/// Reads an answer, and notes what the topics in it are called.
pub(super) fn answer(
    response: &proto::HeartbeatResponse,
    names: &mut HashMap<TopicId, TopicName>,
) -> Result<Answer, Refusal> {
    let broken =
        |what: &str| Refusal::new(ErrorCode::Internal, format!("the answer to a heartbeat has {what}"));
    let assignment = match &response.assignment {
        None => None,
        Some(assignment) => {
            let mut partitions = Partitions::new();
            for topic in &assignment.topics {
                let id = <[u8; 16]>::try_from(&*topic.topic_id).map_err(|_| broken("no topic id"))?;
                let id = TopicId(id);
                if !topic.topic.is_empty() {
                    let name = TopicName::new(&topic.topic).map_err(|_| broken("an illegal topic name"))?;
                    names.insert(id, name);
                }
                let at = |partition: &i32| TopicIdPartition { topic: id, partition: PartitionId(*partition) };
                partitions.extend(topic.partitions.iter().map(at));
            }
            Some(partitions)
        }
    };
    let interval = Duration::from_millis(response.heartbeat_interval_ms.into());
    Ok(Answer {
        epoch: MemberEpoch(response.member_epoch),
        assignment,
        step: response.assignment_step,
        interval,
    })
}

/// What a call's failure means for a member: whatever is not the group's own answer may pass.
pub(super) fn refusal(error: ClientError) -> Refusal {
    match error {
        ClientError::Refused(error) | ClientError::TimedOut { last: error, .. } => {
            Refusal { code: error.code, field: error.field.clone(), message: error.message.clone() }
        }
        ClientError::Transport(status) if !crate::error::transient(&status) => {
            Refusal::new(ErrorCode::Unsupported, crate::error::describe(&status))
        }
        other => Refusal::new(ErrorCode::CoordinatorNotAvailable, other.to_string()),
    }
}
