//! A call about one group, made at whichever coordinator serves it, and again when that changes.

use super::exchange::{Failure, unintelligible};
use super::lanes::{Attempt, Lanes};
use crate::forward::Patience;
use crate::node::Node;
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::group::{GroupId, OFFSETS_TOPIC, shard_of};
use thalweg_core::{CoordinatorId, ErrorCode, PartitionId, TopicName, TopicPartition};
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::internal::v1::group_call::Call;
use thalweg_proto::internal::v1::group_reply::Reply;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;

/// How long a coordinator is looked for, unless the call's deadline comes first.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// A held heartbeat that took longer than this was not refused for want of a coordinator: the search begins anew.
const WAS_HELD: Duration = Duration::from_secs(1);

/// Who calls.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Where the client is, for people.
    pub host: Arc<str>,
    /// When the answer must leave, if the call has a deadline.
    pub deadline: Option<Instant>,
}

impl Caller {
    fn sooner(&self, until: Instant) -> Instant {
        self.deadline.map_or(until, |deadline| until.min(deadline))
    }

    /// The same caller, who waits no longer than that: what is still under way then is not carried out any more.
    pub fn within(&self, time: Duration) -> Caller {
        Caller { host: Arc::clone(&self.host), deadline: Some(self.sooner(Instant::now() + time)) }
    }

    /// When this call gives up, if it is not held.
    pub fn until(&self) -> Instant {
        self.sooner(Instant::now() + PATIENCE)
    }
}

/// Whether a call may be made again when nobody knows what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Twice does no more than once: heartbeats, commits (they set, and nothing of the same caller is behind them), reads.
    Safe,
    /// It must not do to a group that is made anew meanwhile what was meant for the former.
    Never,
}

/// Who serves a group, by the metadata of the moment.
///
/// Errors: `COORDINATOR_NOT_AVAILABLE`.
pub fn coordinator_of(node: &Node, group: &GroupId) -> Result<(PartitionId, CoordinatorId), ApiError> {
    let none = |why: &str| ApiError::new(ErrorCode::CoordinatorNotAvailable, format!("{why}; retry"));
    let image = node.metadata.image();
    let shards = image.topic(OFFSETS_TOPIC).map_or(0, |topic| topic.partitions.len());
    if shards == 0 {
        return Err(none("the cluster keeps no groups yet: a coordinator must come first"));
    }
    let shard = shard_of(group, i32::try_from(shards).unwrap_or(i32::MAX));
    // The name of a constant is legal.
    let topic = TopicName::new(OFFSETS_TOPIC).map_err(|error| none(&error.to_string()))?;
    let lease = image.lease(&TopicPartition::new(topic, shard));
    let coordinator = lease.and_then(|lease| lease.coordinator);
    coordinator
        .map(|coordinator| (shard, coordinator))
        .ok_or_else(|| none("no coordinator serves the group at the moment"))
}

/// Heartbeats. Held ones wait for their time on top of the search for a coordinator.
pub async fn heartbeat(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    request: v1::HeartbeatRequest,
) -> Result<v1::HeartbeatResponse, ApiError> {
    match ask(node, caller, group, Call::Heartbeat(request), Repeat::Safe).await? {
        (Reply::Heartbeat(answer), _) => Ok(answer),
        _ => Err(unintelligible()),
    }
}

/// Leaves: a heartbeat that says so. Who is not known any more after a first try has left.
pub async fn leave(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    request: v1::HeartbeatRequest,
) -> Result<(), ApiError> {
    match attempt(node, caller, group, Call::Heartbeat(request), Repeat::Safe).await {
        Ok(_) => Ok(()),
        Err((error, true)) if matches!(error.code, ErrorCode::UnknownMember | ErrorCode::UnknownGroup) => {
            Ok(())
        }
        Err((error, _)) => Err(error),
    }
}

/// Commits.
pub async fn commit(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    request: v1::CommitOffsetsRequest,
) -> Result<v1::CommitOffsetsResponse, ApiError> {
    match ask(node, caller, group, Call::CommitOffsets(request), Repeat::Safe).await? {
        (Reply::CommitOffsets(answer), _) => Ok(answer),
        _ => Err(unintelligible()),
    }
}

/// Reads committed offsets.
pub async fn fetch_offsets(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    request: v1::FetchOffsetsRequest,
) -> Result<v1::FetchOffsetsResponse, ApiError> {
    match ask(node, caller, group, Call::FetchOffsets(request), Repeat::Safe).await? {
        (Reply::FetchOffsets(answer), _) => Ok(answer),
        _ => Err(unintelligible()),
    }
}

/// Describes one group.
pub async fn describe(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
) -> Result<v1::GroupDescription, ApiError> {
    let request = v1::DescribeGroupsRequest { group_ids: vec![group.to_string()] };
    let (reply, _) = ask(node, caller, group, Call::DescribeGroup(request), Repeat::Safe).await?;
    let Reply::DescribeGroup(mut answer) = reply else { return Err(unintelligible()) };
    let result = answer.groups.pop().ok_or_else(unintelligible)?;
    match (result.error, result.group) {
        (Some(error), _) => Err(ApiError::from_proto(&error)),
        (None, Some(group)) => Ok(group),
        (None, None) => Err(unintelligible()),
    }
}

/// Forgets one group. A group that is not known any more after a first try is forgotten.
pub async fn delete(node: &Node, caller: &Caller, group: &GroupId) -> Result<(), ApiError> {
    let request = v1::DeleteGroupsRequest { group_ids: vec![group.to_string()] };
    let (reply, again) = match attempt(node, caller, group, Call::DeleteGroup(request), Repeat::Never).await {
        Ok(reply) => reply,
        Err((error, true)) if error.code == ErrorCode::UnknownGroup => return Ok(()),
        Err((error, _)) => return Err(error),
    };
    let Reply::DeleteGroup(mut answer) = reply else { return Err(unintelligible()) };
    let error = answer.results.pop().ok_or_else(unintelligible)?.error;
    match error.as_ref().map(ApiError::from_proto) {
        Some(error) if again && error.code == ErrorCode::UnknownGroup => Ok(()),
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Forgets offsets of one group.
pub async fn delete_offsets(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    request: v1::DeleteOffsetsRequest,
) -> Result<v1::DeleteOffsetsResponse, ApiError> {
    match ask(node, caller, group, Call::DeleteOffsets(request), Repeat::Never).await? {
        (Reply::DeleteOffsets(answer), _) => Ok(answer),
        _ => Err(unintelligible()),
    }
}

async fn ask(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    call: Call,
    repeat: Repeat,
) -> Result<(Reply, bool), ApiError> {
    attempt(node, caller, group, call, repeat).await.map_err(|(error, _)| error)
}

/// Tries until there is an answer, or no time. With the outcome comes whether an earlier try may have been carried out.
async fn attempt(
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    mut call: Call,
    repeat: Repeat,
) -> Result<(Reply, bool), (ApiError, bool)> {
    let held_until = match &call {
        Call::Heartbeat(beat) => Instant::now() + Duration::from_millis(beat.max_wait_ms().into()),
        _ => Instant::now(),
    };
    // Who waits for long is kept in memory for another try only as far as there is room for it.
    let waits = held_until > Instant::now();
    let kept = if waits { node.groups.lanes.keep(&call) } else { None };
    let is_only_try = waits && kept.is_none();
    let mut give_up = caller.until();
    let mut patience = Patience::new(node, give_up);
    let mut again = false;
    loop {
        patience.look();
        let started = Instant::now();
        if let Call::Heartbeat(beat) = &mut call
            && beat.max_wait_ms() > 0
        {
            let left = held_until.saturating_duration_since(started).as_millis();
            beat.max_wait_ms = Some(u32::try_from(left).unwrap_or(u32::MAX));
        }
        let is_held = held_until > started + WAS_HELD;
        let until = if is_held { caller.sooner(held_until + PATIENCE) } else { give_up };
        let asked = match is_only_try {
            true => std::mem::replace(&mut call, Call::Cancel(internal::CancelCall {})),
            false => call.clone(),
        };
        let failure = match once(&node.groups.lanes, node, caller, group, asked, until).await {
            Ok(reply) => return Ok((reply, again)),
            Err(failure) => failure,
        };
        let (error, is_again) = match failure {
            Failure::NotSent(error) => {
                let elsewhere = is_elsewhere(&error);
                (error, elsewhere)
            }
            // What it was asked may have been under way when the lease went.
            Failure::Told(error) => {
                let elsewhere = is_elsewhere(&error);
                again |= elsewhere;
                (error, elsewhere)
            }
            Failure::Lost(error) => {
                again = true;
                (error, repeat == Repeat::Safe)
            }
        };
        if !is_again {
            return Err((error, again));
        }
        // Only a heartbeat waits of its own will. A coordinator that answers anything else late, because it loads, uses up the
        // caller's patience.
        if is_held && started.elapsed() > WAS_HELD {
            give_up = caller.until();
            patience = Patience::new(node, give_up);
        }
        if is_only_try || !patience.wait(node).await {
            return Err((not_available(node, group, &error), again));
        }
    }
}

async fn once(
    lanes: &Lanes,
    node: &Node,
    caller: &Caller,
    group: &GroupId,
    call: Call,
    until: Instant,
) -> Result<Reply, Failure> {
    let (shard, coordinator) = coordinator_of(node, group).map_err(Failure::NotSent)?;
    let client_host = Arc::clone(&caller.host);
    lanes.ask(node, coordinator, Attempt { shard: Some(shard), client_host, until, call }).await
}

/// Whether another try, perhaps elsewhere, may do better.
pub fn is_elsewhere(error: &ApiError) -> bool {
    matches!(error.code, ErrorCode::NotCoordinator | ErrorCode::CoordinatorNotAvailable)
}

/// What a client is told that waited in vain: the last reason, and where to look.
fn not_available(node: &Node, group: &GroupId, last: &ApiError) -> ApiError {
    if node.shutdown.is_triggered() {
        return crate::refusal::shutting_down();
    }
    let image = node.metadata.image();
    let serving = coordinator_of(node, group).ok().and_then(|(_, id)| image.coordinator(id));
    let place = serving.map_or_else(String::new, |known| {
        format!(" (coordinator {} at {} is to serve the group)", known.id, known.endpoint)
    });
    let message = format!("no coordinator answered in time: {}{place}", last.message);
    ApiError::new(ErrorCode::CoordinatorNotAvailable, message)
}
