//! What comes from clients, checked: each refusal names its field.

use crate::node::Node;
use std::time::Duration;
use thalweg_core::group::ids::MAX_ID_LEN;
use thalweg_core::group::{Assignor, GroupId, InstanceId, MemberId, Subscription};
use thalweg_core::{ErrorCode, TopicId, TopicName};
use thalweg_proto::{ApiError, v1};

/// Topics that one member may name.
pub const MAX_TOPICS: usize = thalweg_core::group::heartbeat::MAX_TOPICS;
/// Bytes of the names of those topics together.
pub const MAX_SUBSCRIPTION_BYTES: usize = thalweg_core::group::heartbeat::MAX_SUBSCRIPTION_BYTES;
/// Bytes of a pattern at most.
pub const MAX_PATTERN: usize = thalweg_core::group::heartbeat::MAX_PATTERN;
/// Partitions that one call may name.
pub const MAX_PARTITIONS: usize = 10_000;
/// Partitions that one member may say to have.
const MAX_OWNED: usize = 100_000;
/// Groups that one call may name.
pub const MAX_GROUPS: usize = 1_000;
/// Milliseconds that a heartbeat may wait.
const MAX_HEARTBEAT_WAIT_MS: u32 = 60_000;
/// `session.timeout.ms` when nobody says otherwise.
const DEFAULT_SESSION_MS: u32 = 45_000;
const SESSION_MS: std::ops::RangeInclusive<u32> = 1_000..=1_800_000;
/// `max.poll.interval.ms` when nobody says otherwise.
const DEFAULT_REBALANCE_MS: u32 = 300_000;
const REBALANCE_MS: std::ops::RangeInclusive<u32> = 1_000..=86_400_000;

/// A group's id.
pub fn group(id: &str, field: &str) -> Result<GroupId, ApiError> {
    GroupId::new(id).map_err(|error| ApiError::invalid(field, error.to_string()))
}

/// A member's id.
pub fn member(id: &str, field: &str) -> Result<MemberId, ApiError> {
    MemberId::new(id).map_err(|error| ApiError::invalid(field, error.to_string()))
}

/// A static member's name, if there is one.
pub fn instance(id: &str, field: &str) -> Result<Option<InstanceId>, ApiError> {
    if id.is_empty() {
        return Ok(None);
    }
    InstanceId::new(id).map(Some).map_err(|error| ApiError::invalid(field, error.to_string()))
}

/// What a member calls itself.
pub fn client_id(id: &str, field: &str) -> Result<(), ApiError> {
    if id.len() > MAX_ID_LEN || id.chars().any(char::is_control) {
        let message = format!("a client id has at most {MAX_ID_LEN} bytes without control characters");
        return Err(ApiError::invalid(field, message));
    }
    Ok(())
}

/// `session.timeout.ms`.
pub fn session(ms: Option<u32>, field: &str) -> Result<Duration, ApiError> {
    within(ms.unwrap_or(DEFAULT_SESSION_MS), SESSION_MS, field)
}

/// `max.poll.interval.ms`, and what a member has to give back.
pub fn rebalance(ms: Option<u32>, field: &str) -> Result<Duration, ApiError> {
    within(ms.unwrap_or(DEFAULT_REBALANCE_MS), REBALANCE_MS, field)
}

fn within(ms: u32, range: std::ops::RangeInclusive<u32>, field: &str) -> Result<Duration, ApiError> {
    if range.contains(&ms) {
        return Ok(Duration::from_millis(ms.into()));
    }
    Err(ApiError::invalid(field, format!("{} to {} ms", range.start(), range.end())))
}

/// What a member wants to read. `field` is where it stands in the request.
pub fn subscription(wish: &v1::GroupSubscription, field: &str) -> Result<Subscription, ApiError> {
    let wrong = |part: &str, message: String| Err(ApiError::invalid(format!("{field}.{part}"), message));
    if wish.topics.is_empty() && wish.pattern.is_empty() {
        return wrong("topics", "name at least one topic, or a pattern".to_owned());
    }
    if wish.topics.len() > MAX_TOPICS {
        return wrong("topics", format!("a member names at most {MAX_TOPICS} topics"));
    }
    if wish.topics.iter().map(String::len).sum::<usize>() > MAX_SUBSCRIPTION_BYTES {
        let message =
            format!("the names of a member's topics have at most {MAX_SUBSCRIPTION_BYTES} bytes together");
        return wrong("topics", message);
    }
    if wish.pattern.len() > MAX_PATTERN {
        return wrong("pattern", format!("a pattern has at most {MAX_PATTERN} bytes"));
    }
    if wish.rack.len() > MAX_ID_LEN {
        return wrong("rack", format!("a rack has at most {MAX_ID_LEN} bytes"));
    }
    if !wish.assignor.is_empty()
        && let Err(error) = wish.assignor.parse::<Assignor>()
    {
        return wrong("assignor", error.to_string());
    }
    let topics = wish.topics.iter().map(|name| TopicName::new(name)).collect::<Result<_, _>>();
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Ok(Subscription {
        topics: topics.map_err(|error| ApiError::invalid(format!("{field}.topics"), error.to_string()))?,
        pattern: some(&wish.pattern),
        rack: some(&wish.rack).map(Into::into),
        assignor: some(&wish.assignor),
    })
}

/// A heartbeat.
pub fn heartbeat(request: &v1::HeartbeatRequest) -> Result<GroupId, ApiError> {
    let group = group(&request.group_id, "group_id")?;
    member(&request.member_id, "member_id")?;
    instance(&request.instance_id, "instance_id")?;
    client_id(&request.client_id, "client_id")?;
    if request.member_epoch < -2 {
        return Err(ApiError::invalid("member_epoch", "an epoch is -2 or more"));
    }
    let joins = request.member_epoch == 0;
    match &request.subscription {
        Some(wish) => drop(subscription(wish, "subscription")?),
        None if joins => {
            return Err(ApiError::invalid("subscription", "a member that joins names its topics"));
        }
        None => {}
    }
    let session = session(request.session_timeout_ms, "session_timeout_ms")?;
    rebalance(request.rebalance_timeout_ms, "rebalance_timeout_ms")?;
    let wait = request.max_wait_ms();
    if wait > MAX_HEARTBEAT_WAIT_MS {
        let message = format!("an answer may wait at most {MAX_HEARTBEAT_WAIT_MS} ms");
        return Err(ApiError::invalid("max_wait_ms", message));
    }
    if (joins || request.session_timeout_ms.is_some()) && Duration::from_millis(wait.into()) > session / 2 {
        return Err(ApiError::invalid("max_wait_ms", "an answer may wait for half of the session at most"));
    }
    if let Some(has) = &request.has {
        let count: usize = has.topics.iter().map(|topic| topic.partitions.len()).sum();
        if count > MAX_OWNED {
            return Err(ApiError::invalid("has", format!("a member has at most {MAX_OWNED} partitions")));
        }
        for topic in &has.topics {
            topic_id(&topic.topic_id, "has.topics.topic_id")?;
            indexes(&topic.partitions, "has.topics.partitions")?;
        }
    }
    Ok(group)
}

/// How long a heartbeat's answer may wait in a session.
pub fn longest_wait(session: Duration) -> Duration {
    (session / 2).min(Duration::from_millis(MAX_HEARTBEAT_WAIT_MS.into()))
}

/// A topic's id.
pub fn topic_id(bytes: &[u8], field: &str) -> Result<TopicId, ApiError> {
    bytes.try_into().map(TopicId).map_err(|_| ApiError::invalid(field, "a topic's id has 16 bytes"))
}

fn indexes(partitions: &[i32], field: &str) -> Result<(), ApiError> {
    match partitions.iter().find(|partition| **partition < 0) {
        Some(bad) => Err(ApiError::invalid(field, format!("{bad} is no partition: they count from 0"))),
        None => Ok(()),
    }
}

/// Offsets to commit.
pub fn offsets(offsets: &[v1::OffsetToCommit], field: &str) -> Result<(), ApiError> {
    if offsets.is_empty() || offsets.len() > MAX_PARTITIONS {
        return Err(ApiError::invalid(field, format!("commit 1 to {MAX_PARTITIONS} partitions at once")));
    }
    for offset in offsets {
        topic_name(&offset.topic, &format!("{field}.topic"))?;
        if offset.partition < 0 {
            return Err(ApiError::invalid(format!("{field}.partition"), "partitions count from 0"));
        }
        if !offset.topic_id.is_empty() {
            topic_id(&offset.topic_id, &format!("{field}.topic_id"))?;
        }
    }
    Ok(())
}

/// A topic's name, whether or not there is such a topic.
pub fn topic_name(name: &str, field: &str) -> Result<TopicName, ApiError> {
    TopicName::new(name).map_err(|error| ApiError::invalid(field, error.to_string()))
}

/// Partitions by topic: each has its name then, also if only the id was given.
pub fn topics(
    node: &Node,
    mut topics: Vec<v1::TopicPartitions>,
    field: &str,
) -> Result<Vec<v1::TopicPartitions>, ApiError> {
    let count: usize = topics.iter().map(|topic| topic.partitions.len().max(1)).sum();
    if count > MAX_PARTITIONS {
        return Err(ApiError::invalid(field, format!("name at most {MAX_PARTITIONS} partitions")));
    }
    let image = node.metadata.image();
    for topic in &mut topics {
        indexes(&topic.partitions, &format!("{field}.partitions"))?;
        let id = match topic.topic_id.is_empty() {
            true => None,
            false => Some(topic_id(&topic.topic_id, &format!("{field}.topic_id"))?),
        };
        if topic.topic.is_empty() {
            let id = id.ok_or_else(|| ApiError::invalid(format!("{field}.topic"), "name the topic"))?;
            let found = image.topic_by_id(id).ok_or_else(|| {
                let message = format!("no topic has the id {id}");
                ApiError::new(ErrorCode::UnknownTopic, message).with_field(format!("{field}.topic_id"))
            })?;
            topic.topic = found.name.to_string();
        } else {
            topic_name(&topic.topic, &format!("{field}.topic"))?;
        }
    }
    Ok(topics)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joining() -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            group_id: "g".into(),
            member_id: "m".into(),
            subscription: Some(v1::GroupSubscription { topics: vec!["t".into()], ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn each_illegal_heartbeat_names_its_field() {
        assert!(heartbeat(&joining()).is_ok());
        let field = |change: &dyn Fn(&mut v1::HeartbeatRequest)| {
            let mut request = joining();
            change(&mut request);
            heartbeat(&request).unwrap_err().field.unwrap()
        };
        let wish = |change: &dyn Fn(&mut v1::GroupSubscription)| {
            field(&|request| change(request.subscription.as_mut().unwrap()))
        };
        assert_eq!(field(&|r| r.group_id = String::new()), "group_id");
        assert_eq!(field(&|r| r.group_id = "x".repeat(250)), "group_id");
        assert_eq!(field(&|r| r.member_id = "a\nb".into()), "member_id");
        assert_eq!(field(&|r| r.instance_id = "x".repeat(250)), "instance_id");
        assert_eq!(field(&|r| r.client_id = "x".repeat(250)), "client_id");
        assert_eq!(field(&|r| r.member_epoch = -3), "member_epoch");
        assert_eq!(field(&|r| r.subscription = None), "subscription");
        assert_eq!(field(&|r| r.session_timeout_ms = Some(999)), "session_timeout_ms");
        assert_eq!(field(&|r| r.rebalance_timeout_ms = Some(0)), "rebalance_timeout_ms");
        assert_eq!(field(&|r| r.max_wait_ms = Some(60_001)), "max_wait_ms");
        assert_eq!(field(&|r| r.max_wait_ms = Some(22_501)), "max_wait_ms");
        let has = |id: &'static [u8], partition| v1::AssignedPartitions {
            topics: vec![v1::TopicPartitions {
                topic_id: id.into(),
                partitions: vec![partition],
                ..Default::default()
            }],
        };
        assert_eq!(field(&|r| r.has = Some(has(b"short", 0))), "has.topics.topic_id");
        assert_eq!(field(&|r| r.has = Some(has(&[0; 16], -1))), "has.topics.partitions");
        assert_eq!(wish(&|s| s.topics.clear()), "subscription.topics");
        assert_eq!(wish(&|s| s.topics = vec!["a/b".into()]), "subscription.topics");
        assert_eq!(wish(&|s| s.topics = vec!["a".into(); MAX_TOPICS + 1]), "subscription.topics");
        let long = || vec!["x".repeat(249); MAX_SUBSCRIPTION_BYTES / 249 + 1];
        assert!(long().len() < MAX_TOPICS);
        assert_eq!(wish(&|s| s.topics = long()), "subscription.topics");
        assert_eq!(wish(&|s| s.pattern = "x".repeat(MAX_PATTERN + 1)), "subscription.pattern");
        assert_eq!(wish(&|s| s.assignor = "best".into()), "subscription.assignor");
        assert_eq!(wish(&|s| s.rack = "x".repeat(250)), "subscription.rack");
    }
}
