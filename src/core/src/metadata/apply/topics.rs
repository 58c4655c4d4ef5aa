//! Topics are created, configured and deleted.

use super::coordinators::hand_out_shards;
use super::partitions::{check_assignments, check_room, check_total, new_partition, spread};
use super::{activity, existing_topic, find_changes_of, put_changes, rules};
use crate::config::{self, ConfigError, Overrides, TopicConfig};
use crate::metadata::command::{
    AlterTopicConfig, CreateTopic, DeleteTopic, PlacementSpec, Refusal, Response, TopicRef,
};
use crate::metadata::election;
use crate::metadata::image::{MetadataImage, TopicImage};
use crate::metadata::limits::{MAX_CONFIG_ENTRIES, MAX_CONFIG_KEY_LEN, MAX_REPLICATION_FACTOR, MAX_TOPICS};
use crate::{ErrorCode, TopicId};
use std::sync::Arc;

pub(super) fn create(image: &mut MetadataImage, command: &CreateTopic) -> Result<Response, Refusal> {
    if image.topics.contains_key(&command.name) {
        let message = format!("topic \"{}\" exists already; choose another name", command.name);
        return Err(Refusal::field(ErrorCode::TopicAlreadyExists, "name", message));
    }
    if command.id == TopicId::default() || image.topic_names.contains_key(&command.id) {
        let message = format!("topic id {} is taken or all zeros; draw another", command.id);
        return Err(Refusal::field(ErrorCode::InvalidRequest, "topic_id", message));
    }
    if image.topics.len() >= MAX_TOPICS {
        let message = format!("the cluster has {MAX_TOPICS} topics, the most it can have; delete some first");
        return Err(Refusal::new(ErrorCode::PolicyViolation, message));
    }
    let overrides = normalized(&command.overrides, "configs")?;
    let config = TopicConfig::resolve(&overrides).map_err(|error| config_refusal(&error, "configs"))?;
    let replicas = match &command.placement {
        PlacementSpec::Counts { partitions, replication_factor } => {
            let partitions = check_total(*partitions, "partitions")?;
            check_room(image, partitions, "partitions")?;
            let factor = check_factor(*replication_factor)?;
            spread(image, partitions, factor, command.seed, None)?
        }
        PlacementSpec::Explicit(assignments) => {
            let partitions = i32::try_from(assignments.len()).unwrap_or(i32::MAX);
            check_room(image, check_total(partitions, "assignments")?, "assignments")?;
            check_assignments(image, assignments, None)?;
            assignments.clone()
        }
    };

    let partitions: Vec<_> =
        replicas.into_iter().map(|replicas| Arc::new(new_partition(image, replicas))).collect();
    image.partition_count += partitions.len();
    let topic = TopicImage {
        id: command.id,
        name: command.name.clone(),
        partitions,
        overrides: Arc::new(overrides),
        config: Arc::new(config),
        internal: command.internal,
    };
    Arc::make_mut(&mut image.topic_names).insert(topic.id, topic.name.clone());
    Arc::make_mut(&mut image.topics).insert(topic.name.clone(), Arc::new(topic));
    hand_out_shards(image, None);
    Ok(Response::Topic { name: command.name.clone(), id: command.id })
}

pub(super) fn delete(image: &mut MetadataImage, command: &DeleteTopic) -> Result<Response, Refusal> {
    let topic = match &command.topic {
        TopicRef::Name(name) => existing_topic(image, name, "name")?,
        TopicRef::Id(id) => image.topic_by_id(*id).ok_or_else(|| {
            let message = format!("there is no topic of id {id}; it may have been deleted");
            Refusal::field(ErrorCode::UnknownTopic, "topic_id", message)
        })?,
    };
    let topic = Arc::clone(topic);
    if topic.internal {
        let message = format!("topic \"{}\" belongs to the cluster and cannot be deleted", topic.name);
        return Err(Refusal::field(ErrorCode::PolicyViolation, "name", message));
    }
    image.partition_count = image.partition_count.saturating_sub(topic.partitions.len());
    Arc::make_mut(&mut image.topic_names).remove(&topic.id);
    Arc::make_mut(&mut image.topics).remove(&topic.name);
    hand_out_shards(image, None);
    Ok(Response::Topic { name: topic.name.clone(), id: topic.id })
}

pub(super) fn alter_config(
    image: &mut MetadataImage,
    command: &AlterTopicConfig,
) -> Result<Response, Refusal> {
    let before = Arc::clone(existing_topic(image, &command.name, "topic")?);
    let done = Response::Topic { name: before.name.clone(), id: before.id };
    let set = normalized(&command.set, "set")?;
    check_removals(command, &before)?;

    let mut overrides = before.overrides.as_ref().clone();
    command.remove.iter().for_each(|key| {
        overrides.remove(key);
    });
    overrides.extend(set);
    let config = TopicConfig::resolve(&overrides).map_err(|error| config_refusal(&error, "set"))?;
    if overrides == *before.overrides {
        return Ok(done);
    }

    let after =
        TopicImage { overrides: Arc::new(overrides), config: Arc::new(config), ..before.as_ref().clone() };
    Arc::make_mut(&mut image.topics).insert(command.name.clone(), Arc::new(after));
    if let Some(topic) = image.topic(command.name.as_str()) {
        // Unclean elections may have been allowed just now, for the sake of partitions that have no leader; and with a smaller
        // min.insync.replicas more can be committed, which eligible replicas may lack.
        let active = activity(image);
        let changes =
            find_changes_of(topic, |partition| election::after_return(partition, rules(topic, &active)));
        drop(active);
        put_changes(image, vec![changes]);
    }
    Ok(done)
}

fn check_removals(command: &AlterTopicConfig, before: &TopicImage) -> Result<(), Refusal> {
    if command.remove.len() > MAX_CONFIG_ENTRIES {
        let message = format!("at most {MAX_CONFIG_ENTRIES} keys can be removed at once");
        return Err(Refusal::field(ErrorCode::InvalidConfig, "unset", message));
    }
    for (index, key) in command.remove.iter().enumerate() {
        let field = format!("unset[{index}]");
        if command.set.contains_key(key) {
            let message = format!("{key} cannot be both set and removed; decide for one");
            return Err(Refusal::field(ErrorCode::InvalidConfig, field, message));
        }
        // A key that only another version knows can still be removed.
        if !before.overrides.contains_key(key)
            && let Err(error @ ConfigError::UnknownKey { .. }) = config::normalize(key, "")
        {
            return Err(Refusal::field(ErrorCode::InvalidConfig, field, error.to_string()));
        }
    }
    Ok(())
}

/// The overrides with each value in its one text form.
fn normalized(given: &Overrides, field: &str) -> Result<Overrides, Refusal> {
    if given.len() > MAX_CONFIG_ENTRIES {
        let message =
            format!("at most {MAX_CONFIG_ENTRIES} configuration keys can be set, not {}", given.len());
        return Err(Refusal::field(ErrorCode::InvalidConfig, field, message));
    }
    let one = |(key, value): (&String, &String)| match config::normalize(key, value) {
        Ok(value) => Ok((key.clone(), value)),
        Err(error) => Err(config_refusal(&error, field)),
    };
    given.iter().map(one).collect()
}

fn config_refusal(error: &ConfigError, field: &str) -> Refusal {
    let key: String = error.key().chars().take(MAX_CONFIG_KEY_LEN).collect();
    Refusal::field(error.code(), format!("{field}[{key}]"), error.to_string())
}

fn check_factor(given: i32) -> Result<usize, Refusal> {
    let factor = usize::try_from(given).unwrap_or(0);
    if (1..=MAX_REPLICATION_FACTOR).contains(&factor) {
        return Ok(factor);
    }
    let message =
        format!("a topic has 1 to {MAX_REPLICATION_FACTOR} replicas of each partition, not {given}");
    Err(Refusal::field(ErrorCode::InvalidReplicationFactor, "replication_factor", message))
}
