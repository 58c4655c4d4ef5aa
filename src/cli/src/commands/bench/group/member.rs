//! A member that speaks the bare protocol and reads nothing: it joins, takes what it is given, gives back what it is asked for.

use super::Stub;
use crate::error::CliError;
use std::collections::BTreeSet;
use std::time::Duration;
use thalweg_client::proto;
use tonic::{Code, Status};

/// How long a member tries again while its coordinator is not there.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits in between.
const PAUSE: Duration = Duration::from_millis(50);
/// What a member that leaves sends.
const LEAVES: i32 = -1;

/// One member.
pub struct Member {
    stub: Stub,
    group: String,
    id: String,
    topic: String,
    session: Duration,
    epoch: i32,
    has: Vec<proto::TopicPartitions>,
    changed: bool,
}

/// What an answer changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Partitions that the member has from now on.
    pub gained: Vec<i32>,
    /// Partitions that it has given up.
    pub given_up: Vec<i32>,
}

impl Member {
    /// A member that has not joined.
    pub fn new(stub: Stub, group: &str, id: String, topic: &str, session: Duration) -> Member {
        Member {
            stub,
            group: group.to_owned(),
            id,
            topic: topic.to_owned(),
            session,
            epoch: 0,
            has: Vec::new(),
            changed: true,
        }
    }

    /// One heartbeat, answered after `hold` at the latest. A coordinator that is not there is waited for.
    pub async fn beat(&mut self, hold: Duration) -> Result<Moved, CliError> {
        let begun = tokio::time::Instant::now();
        loop {
            let request = self.request(hold);
            match self.stub.heartbeat(request).await {
                Ok(answer) => return Ok(self.take(answer.into_inner())),
                Err(status) if is_passing(&status) && begun.elapsed() < PATIENCE => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(status) => {
                    return Err(CliError::failed(format_args!("member {}: {}", self.id, status.message())));
                }
            }
        }
    }

    /// Leaves the group.
    pub async fn leave(&mut self) -> Result<(), CliError> {
        self.epoch = LEAVES;
        self.beat(Duration::ZERO).await.map(drop)
    }

    fn request(&self, hold: Duration) -> proto::HeartbeatRequest {
        let joins = self.epoch == 0;
        let millis = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
        proto::HeartbeatRequest {
            group_id: self.group.clone(),
            member_id: self.id.clone(),
            member_epoch: self.epoch,
            subscription: joins
                .then(|| proto::GroupSubscription { topics: vec![self.topic.clone()], ..Default::default() }),
            has: (joins || self.changed).then(|| proto::AssignedPartitions { topics: self.has.clone() }),
            client_id: if joins { "thalweg-bench".to_owned() } else { String::new() },
            session_timeout_ms: joins.then(|| millis(self.session)),
            max_wait_ms: Some(if joins || self.changed { 0 } else { millis(hold) }),
            ..Default::default()
        }
    }

    fn take(&mut self, answer: proto::HeartbeatResponse) -> Moved {
        self.epoch = answer.member_epoch;
        self.changed = false;
        let Some(assignment) = answer.assignment else { return Moved::default() };
        let (before, after) = (numbers(&self.has), numbers(&assignment.topics));
        self.has = assignment.topics;
        // Whoever was told what it may have says so with its next heartbeat.
        self.changed = true;
        Moved {
            gained: after.difference(&before).copied().collect(),
            given_up: before.difference(&after).copied().collect(),
        }
    }
}

fn numbers(topics: &[proto::TopicPartitions]) -> BTreeSet<i32> {
    topics.iter().flat_map(|topic| topic.partitions.iter().copied()).collect()
}

/// Whether the same call may do in a moment.
fn is_passing(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted)
}
