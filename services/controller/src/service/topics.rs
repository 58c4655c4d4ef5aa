//! Topics are created, deleted, grown and configured.

use super::{broker_ids, check_count, existing_name, note};
use crate::config::ControllerConfig;
use crate::quorum::Quorum;
use std::collections::BTreeMap;
use std::sync::Arc;
use thalweg_core::metadata::command::{
    AlterTopicConfig, CreatePartitions, CreateTopic, DeleteTopic, PlacementSpec, TopicRef,
};
use thalweg_core::metadata::shards::is_reserved;
use thalweg_core::metadata::{Command, TopicImage};
use thalweg_core::{BrokerId, ErrorCode, MetadataVersion, TopicId, TopicName};
use thalweg_proto::v1::{self, ReplicaAssignment};
use thalweg_proto::{ApiError, convert};

/// Topics that one request may name.
const MAX_TOPICS_PER_REQUEST: usize = 1_000;

/// Changes of topics, on the leader.
pub struct Topics {
    quorum: Quorum,
    default_partitions: i32,
    default_replication_factor: i32,
}

impl Topics {
    /// Changes what this group agrees on.
    pub fn new(quorum: Quorum, config: &ControllerConfig) -> Topics {
        Topics {
            quorum,
            default_partitions: config.default_partitions,
            default_replication_factor: config.default_replication_factor,
        }
    }

    /// Creates topics, each by itself.
    pub async fn create(
        &self,
        request: v1::CreateTopicsRequest,
    ) -> Result<v1::CreateTopicsResponse, ApiError> {
        check_count(request.topics.len(), MAX_TOPICS_PER_REQUEST, "topics")?;
        let single = request.topics.len() == 1;
        let (mut results, mut metadata_version) = (Vec::with_capacity(request.topics.len()), 0);
        for topic in request.topics {
            let name = topic.name.clone();
            let outcome = match self.create_command(topic) {
                Ok(command) => self.change(&command, request.validate_only).await,
                Err(error) => Err(error),
            };
            let error = note(outcome, &mut metadata_version, single)?;
            let topic = if error.is_none() { self.topic(&name) } else { None };
            results.push(v1::CreateTopicResult { name, topic, error });
        }
        Ok(v1::CreateTopicsResponse { results, metadata_version })
    }

    /// Deletes topics, each by itself.
    pub async fn delete(
        &self,
        request: v1::DeleteTopicsRequest,
    ) -> Result<v1::DeleteTopicsResponse, ApiError> {
        check_count(request.names.len(), MAX_TOPICS_PER_REQUEST, "names")?;
        let single = request.names.len() == 1;
        let (mut results, mut metadata_version) = (Vec::with_capacity(request.names.len()), 0);
        for name in request.names {
            let outcome = match existing_name(&name) {
                Ok(topic) => {
                    let command = Command::DeleteTopic(DeleteTopic { topic: TopicRef::Name(topic) });
                    self.change(&command, request.validate_only).await
                }
                Err(error) => Err(error),
            };
            let error = note(outcome, &mut metadata_version, single)?;
            results.push(v1::DeleteTopicResult { name, error });
        }
        Ok(v1::DeleteTopicsResponse { results, metadata_version })
    }

    /// Adds partitions to a topic.
    pub async fn grow(
        &self,
        request: v1::CreatePartitionsRequest,
    ) -> Result<v1::CreatePartitionsResponse, ApiError> {
        let command = Command::CreatePartitions(CreatePartitions {
            name: existing_name(&request.topic)?,
            new_total: request.total_partitions,
            assignments: Some(assignments(request.assignments)).filter(|given| !given.is_empty()),
            seed: rand::random(),
        });
        let version = self.change(&command, request.validate_only).await?;
        Ok(v1::CreatePartitionsResponse {
            topic: self.topic(&request.topic),
            metadata_version: version.get(),
        })
    }

    /// Changes a topic's configuration.
    pub async fn alter(
        &self,
        request: v1::AlterConfigsRequest,
    ) -> Result<v1::AlterConfigsResponse, ApiError> {
        let command = Command::AlterTopicConfig(AlterTopicConfig {
            name: existing_name(&request.topic)?,
            set: request.set.into_iter().collect(),
            remove: request.unset,
        });
        let version = self.change(&command, request.validate_only).await?;
        let configs = self.topic(&request.topic).map_or_else(BTreeMap::new, |topic| topic.configs);
        Ok(v1::AlterConfigsResponse { configs, metadata_version: version.get() })
    }

    /// Proposes the command, or only checks it; gives the version that holds it.
    async fn change(&self, command: &Command, validate_only: bool) -> Result<MetadataVersion, ApiError> {
        if validate_only {
            self.quorum.validate(command).await?;
            return Ok(self.quorum.published().image().version());
        }
        Ok(self.quorum.propose(command).await?.0)
    }

    fn topic(&self, name: &str) -> Option<v1::Topic> {
        let image = self.quorum.published().image();
        image.topic(name).map(|topic: &Arc<TopicImage>| convert::topic(topic))
    }

    fn create_command(&self, topic: v1::NewTopic) -> Result<Command, ApiError> {
        let name = topic_name(&topic.name)?;
        if is_reserved(name.as_str()) {
            let message = format!(
                "\"{name}\" is the cluster's own topic, which it creates itself; choose another name"
            );
            return Err(ApiError::new(ErrorCode::InvalidTopicName, message).with_field("name"));
        }
        if !topic.assignments.is_empty() && (topic.partitions.is_some() || topic.replication_factor.is_some())
        {
            let message = "give either assignments or partitions and replication_factor, not both";
            return Err(ApiError::invalid("assignments", message));
        }
        let placement = if topic.assignments.is_empty() {
            PlacementSpec::Counts {
                partitions: topic.partitions.unwrap_or(self.default_partitions),
                replication_factor: topic.replication_factor.unwrap_or(self.default_replication_factor),
            }
        } else {
            PlacementSpec::Explicit(assignments(topic.assignments))
        };
        Ok(Command::CreateTopic(CreateTopic {
            // Only the controller itself creates the cluster's own topics.
            internal: false,
            id: TopicId(rand::random()),
            placement,
            overrides: topic.configs.into_iter().collect(),
            seed: rand::random(),
            name,
        }))
    }
}

fn topic_name(name: &str) -> Result<TopicName, ApiError> {
    TopicName::new(name)
        .map_err(|error| ApiError::new(ErrorCode::InvalidTopicName, error.to_string()).with_field("name"))
}

fn assignments(assignments: Vec<ReplicaAssignment>) -> Vec<Vec<BrokerId>> {
    assignments.into_iter().map(|one| broker_ids(one.broker_ids)).collect()
}
