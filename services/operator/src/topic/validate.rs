//! What a Topic resource asks for, once it is known to make sense.

use crate::crd::{ConfigValue, DeletionPolicy, Topic};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_core::{ErrorCode, TopicName, config};

/// Partitions of a topic at most.
const MAX_PARTITIONS: i32 = 10_000;
/// Replicas of a partition at most.
const MAX_FACTOR: i32 = 1_000;
/// What names of the system's own topics begin with.
const INTERNAL: &str = "__";

/// Why something is not done: for a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// One word.
    pub reason: String,
    /// A sentence with what to change.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(reason: &str, message: impl Into<String>) -> Refusal {
        Refusal { reason: reason.to_owned(), message: message.into() }
    }

    /// A cluster's own refusal, under its code: `INVALID_CONFIG` becomes `InvalidConfig`.
    pub(crate) fn of_code(code: ErrorCode, message: &str) -> Refusal {
        let reason: String = code
            .as_str()
            .split('_')
            .filter_map(|word| word.split_at_checked(1))
            .map(|(first, rest)| format!("{first}{}", rest.to_ascii_lowercase()))
            .collect();
        Refusal { reason, message: message.to_owned() }
    }
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The topic's name.
    pub name: String,
    /// How many partitions, if it is said.
    pub partitions: Option<i32>,
    /// How many replicas, if it is said.
    pub replication_factor: Option<i32>,
    /// Keys that differ from their default.
    pub configs: BTreeMap<String, String>,
    /// Whether the topic goes with the resource.
    pub deletion_policy: DeletionPolicy,
    /// Whether nothing shall be done yet.
    pub dry_run: bool,
}

/// The name of the topic that a resource means.
pub fn topic_name(topic: &Topic) -> String {
    topic.spec.topic_name.clone().unwrap_or_else(|| topic.name_any())
}

/// Reads a resource. The API server has checked most of this by the schema, unless it was changed or is older.
pub fn validate(topic: &Topic) -> Result<Wanted, Refusal> {
    let spec = &topic.spec;
    let name = topic_name(topic);
    TopicName::new(&name).map_err(|error| {
        Refusal::new("InvalidTopicName", format!("{name:?}: {error}; choose another spec.topicName"))
    })?;
    if name.starts_with(INTERNAL) {
        let why = format!("{name}: topics whose names begin with {INTERNAL} are the system's own");
        return Err(Refusal::new("InvalidTopicName", why));
    }
    if spec.cluster_ref.is_some() == spec.bootstrap.is_some() {
        let why = "name the cluster once: with spec.clusterRef or with spec.bootstrap";
        return Err(Refusal::new("InvalidReference", why));
    }
    let within = |field: &str, reason: &str, value: Option<i32>, most: i32| match value {
        Some(value) if !(1..=most).contains(&value) => {
            Err(Refusal::new(reason, format!("spec.{field} is {value}: choose 1 to {most}")))
        }
        _ => Ok(()),
    };
    within("partitions", "InvalidPartitions", spec.partitions, MAX_PARTITIONS)?;
    within("replicationFactor", "InvalidReplicationFactor", spec.replication_factor, MAX_FACTOR)?;
    Ok(Wanted {
        name,
        partitions: spec.partitions,
        replication_factor: spec.replication_factor,
        configs: spec.config.iter().map(|(key, value)| (key.clone(), as_kept(key, value))).collect(),
        deletion_policy: spec.deletion_policy,
        dry_run: spec.dry_run,
    })
}

/// A value as a cluster keeps it: `delete,compact` is kept as `compact,delete`, and would look different for ever. What is not known here
/// is for the cluster to judge.
fn as_kept(key: &str, value: &ConfigValue) -> String {
    let given = value.to_string();
    config::normalize(key, &given).unwrap_or(given)
}

/// Another resource that has the very same topic, by its id: to it the topic belongs as well. One that deletes it too is none.
pub(super) fn fellow<'a>(topic: &Topic, id: &str, all: &'a [Arc<Topic>]) -> Option<&'a Topic> {
    let has = |other: &Topic| other.status.as_ref().and_then(|status| status.topic_id.as_deref()) == Some(id);
    let deletes = |other: &Topic| {
        other.metadata.deletion_timestamp.is_some() && other.spec.deletion_policy == DeletionPolicy::Delete
    };
    all.iter().map(Arc::as_ref).find(|other| other.uid() != topic.uid() && has(other) && !deletes(other))
}

/// Another resource that means the same topic and was there before: of two the older one has it, of two of the same second the one
/// whose namespace and name come first.
pub fn rival<'a>(topic: &Topic, cluster: &str, all: &'a [Arc<Topic>]) -> Option<&'a Topic> {
    let name = topic_name(topic);
    let before = |other: &Topic| age(other) < age(topic);
    all.iter()
        .map(Arc::as_ref)
        .filter(|other| other.uid() != topic.uid() && topic_name(other) == name)
        .filter(|other| same_cluster(topic, other, cluster) && before(other))
        .min_by_key(|other| age(other))
}

fn age(topic: &Topic) -> (Option<k8s_openapi::jiff::Timestamp>, Option<String>, String) {
    (topic.creation_timestamp().map(|time| time.0), topic.namespace(), topic.name_any())
}

/// By the cluster's id once the other has learned it; before that by the way that both name it.
fn same_cluster(topic: &Topic, other: &Topic, cluster: &str) -> bool {
    match other.status.as_ref().and_then(|status| status.cluster_id.as_deref()) {
        Some(id) => id == cluster,
        None if topic.spec.cluster_ref.is_some() => {
            topic.namespace() == other.namespace() && topic.spec.cluster_ref == other.spec.cluster_ref
        }
        None => topic.spec.bootstrap == other.spec.bootstrap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{NamedRef, TopicSpec, TopicStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;

    fn topic(name: &str, created: i64) -> Topic {
        let spec = TopicSpec {
            cluster_ref: Some(NamedRef { name: "demo".to_owned() }),
            bootstrap: None,
            topic_name: None,
            partitions: Some(3),
            replication_factor: None,
            config: BTreeMap::new(),
            deletion_policy: DeletionPolicy::Retain,
            dry_run: false,
        };
        let mut topic = Topic::new(name, spec);
        topic.metadata.namespace = Some("apps".to_owned());
        topic.metadata.uid = Some(format!("uid-{name}"));
        topic.metadata.creation_timestamp = Some(Time(Timestamp::from_second(created).unwrap()));
        topic
    }

    fn refused(change: impl FnOnce(&mut TopicSpec)) -> String {
        let mut topic = topic("events", 1);
        change(&mut topic.spec);
        validate(&topic).unwrap_err().reason
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_reason() {
        assert_eq!(refused(|spec| spec.topic_name = Some("a b".to_owned())), "InvalidTopicName");
        assert_eq!(
            refused(|spec| spec.topic_name = Some("__consumer_offsets".to_owned())),
            "InvalidTopicName"
        );
        assert_eq!(refused(|spec| spec.topic_name = Some("x".repeat(250))), "InvalidTopicName");
        assert_eq!(refused(|spec| spec.cluster_ref = None), "InvalidReference");
        assert_eq!(refused(|spec| spec.bootstrap = Some(vec!["b:1".to_owned()])), "InvalidReference");
        assert_eq!(refused(|spec| spec.partitions = Some(0)), "InvalidPartitions");
        assert_eq!(refused(|spec| spec.partitions = Some(10_001)), "InvalidPartitions");
        assert_eq!(refused(|spec| spec.replication_factor = Some(-1)), "InvalidReplicationFactor");
    }

    #[test]
    fn the_resources_name_is_the_topics_unless_it_says_otherwise() {
        let mut resource = topic("events", 1);
        assert_eq!(validate(&resource).unwrap().name, "events");
        resource.spec.topic_name = Some("Events_v2".to_owned());
        assert_eq!(validate(&resource).unwrap().name, "Events_v2");
    }

    #[test]
    fn a_value_is_compared_as_a_cluster_keeps_it() {
        let mut resource = topic("events", 1);
        let given = [
            ("cleanup.policy", "delete, compact", "compact,delete"),
            ("retention.ms", "007", "7"),
            ("min.insync.replicas", "many", "many"),
            ("later.key", " x", " x"),
        ];
        for (key, value, _) in given {
            resource.spec.config.insert(key.to_owned(), ConfigValue::Text(value.to_owned()));
        }
        let wanted = validate(&resource).unwrap();
        for (key, _, kept) in given {
            assert_eq!(wanted.configs[key], kept);
        }
    }

    #[test]
    fn a_code_becomes_a_reason() {
        assert_eq!(Refusal::of_code(ErrorCode::InvalidConfig, "x").reason, "InvalidConfig");
        assert_eq!(Refusal::of_code(ErrorCode::Throttled, "x").reason, "Throttled");
    }

    #[test]
    fn of_two_that_mean_the_same_topic_the_older_one_has_it() {
        let mut old = topic("old", 100);
        old.spec.topic_name = Some("events".to_owned());
        let young = topic("events", 200);
        let all = vec![Arc::new(old.clone()), Arc::new(young.clone())];
        assert_eq!(rival(&young, "c-1", &all).unwrap().name_any(), "old");
        assert!(rival(&old, "c-1", &all).is_none());
        // In another cluster it is another topic, however it is named.
        let mut elsewhere = old.clone();
        elsewhere.status = Some(TopicStatus { cluster_id: Some("c-2".to_owned()), ..TopicStatus::default() });
        assert!(rival(&young, "c-1", &[Arc::new(elsewhere.clone())]).is_none());
        // And the same one, by whatever way it is reached.
        elsewhere.status = Some(TopicStatus { cluster_id: Some("c-1".to_owned()), ..TopicStatus::default() });
        elsewhere.spec.cluster_ref = None;
        elsewhere.spec.bootstrap = Some(vec!["b:1".to_owned()]);
        assert!(rival(&young, "c-1", &[Arc::new(elsewhere)]).is_some());
        // Of two of the same second one has it, not none.
        let (a, b) = (topic("a", 5), topic("b", 5));
        let named = |mut topic: Topic| {
            topic.spec.topic_name = Some("t".to_owned());
            Arc::new(topic)
        };
        let all = [named(a), named(b)];
        let losers = all.iter().filter(|one| rival(one, "c-1", &all).is_some()).count();
        assert_eq!(losers, 1);
    }
}
