//! `thalweg.v1.AdminService` as the controller serves it to brokers: what changes metadata. Brokers serve the rest.

use crate::config::ControllerConfig;
use crate::quorum::Quorum;
use std::collections::BTreeMap;
use thalweg_core::metadata::command::{
    AlterTopicConfig, CreatePartitions, CreateTopic, DeleteTopic, PlacementSpec, TopicRef,
};
use thalweg_core::metadata::{Command, TopicImage};
use thalweg_core::{BrokerId, ErrorCode, MetadataVersion, TopicId, TopicName};
use thalweg_proto::v1::admin_service_server::AdminService;
use thalweg_proto::v1::{self, ReplicaAssignment};
use thalweg_proto::{ApiError, convert};
use tonic::{Request, Response, Status};

/// Topics that one request may name.
const MAX_TOPICS_PER_REQUEST: usize = 1_000;

/// The service.
pub struct Admin {
    quorum: Quorum,
    default_partitions: i32,
    default_replication_factor: i32,
}

impl Admin {
    /// Serves changes of what this group agrees on.
    pub fn new(quorum: Quorum, config: &ControllerConfig) -> Admin {
        Admin {
            quorum,
            default_partitions: config.default_partitions,
            default_replication_factor: config.default_replication_factor,
        }
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
        self.quorum
            .published()
            .image()
            .topic(name)
            .map(|topic: &std::sync::Arc<TopicImage>| convert::topic(topic))
    }

    fn create_command(&self, topic: v1::NewTopic) -> Result<Command, ApiError> {
        let name = topic_name(&topic.name)?;
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
            // "__" marks the system's own topics; only the services create those.
            internal: false,
            id: TopicId(rand::random()),
            placement,
            overrides: topic.configs.into_iter().collect(),
            seed: rand::random(),
            name,
        }))
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_topics(
        &self,
        request: Request<v1::CreateTopicsRequest>,
    ) -> Result<Response<v1::CreateTopicsResponse>, Status> {
        let request = request.into_inner();
        check_count(request.topics.len(), "topics")?;
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
        Ok(Response::new(v1::CreateTopicsResponse { results, metadata_version }))
    }

    async fn delete_topics(
        &self,
        request: Request<v1::DeleteTopicsRequest>,
    ) -> Result<Response<v1::DeleteTopicsResponse>, Status> {
        let request = request.into_inner();
        check_count(request.names.len(), "names")?;
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
        Ok(Response::new(v1::DeleteTopicsResponse { results, metadata_version }))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        let request = request.into_inner();
        let command = Command::CreatePartitions(CreatePartitions {
            name: existing_name(&request.topic)?,
            new_total: request.total_partitions,
            assignments: Some(assignments(request.assignments)).filter(|given| !given.is_empty()),
            seed: rand::random(),
        });
        let version = self.change(&command, request.validate_only).await?;
        Ok(Response::new(v1::CreatePartitionsResponse {
            topic: self.topic(&request.topic),
            metadata_version: version.get(),
        }))
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Result<Response<v1::AlterConfigsResponse>, Status> {
        let request = request.into_inner();
        let command = Command::AlterTopicConfig(AlterTopicConfig {
            name: existing_name(&request.topic)?,
            set: request.set.into_iter().collect(),
            remove: request.unset,
        });
        let version = self.change(&command, request.validate_only).await?;
        let configs = self.topic(&request.topic).map_or_else(BTreeMap::new, |topic| topic.configs);
        Ok(Response::new(v1::AlterConfigsResponse { configs, metadata_version: version.get() }))
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Err(ask_a_broker())
    }

    async fn describe_topics(
        &self,
        _: Request<v1::DescribeTopicsRequest>,
    ) -> Result<Response<v1::DescribeTopicsResponse>, Status> {
        Err(ask_a_broker())
    }

    async fn describe_configs(
        &self,
        _: Request<v1::DescribeConfigsRequest>,
    ) -> Result<Response<v1::DescribeConfigsResponse>, Status> {
        Err(ask_a_broker())
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        Err(ask_a_broker())
    }

    async fn elect_leaders(
        &self,
        _: Request<v1::ElectLeadersRequest>,
    ) -> Result<Response<v1::ElectLeadersResponse>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "not served yet").to_status())
    }

    async fn reassign_partitions(
        &self,
        _: Request<v1::ReassignPartitionsRequest>,
    ) -> Result<Response<v1::ReassignPartitionsResponse>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "not served yet").to_status())
    }

    async fn list_reassignments(
        &self,
        _: Request<v1::ListReassignmentsRequest>,
    ) -> Result<Response<v1::ListReassignmentsResponse>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "not served yet").to_status())
    }

    async fn drain_broker(
        &self,
        _: Request<v1::DrainBrokerRequest>,
    ) -> Result<Response<v1::DrainBrokerResponse>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "not served yet").to_status())
    }

    async fn unregister_broker(
        &self,
        _: Request<v1::UnregisterBrokerRequest>,
    ) -> Result<Response<v1::UnregisterBrokerResponse>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "not served yet").to_status())
    }

    async fn add_voter(
        &self,
        _: Request<v1::AddVoterRequest>,
    ) -> Result<Response<v1::AddVoterResponse>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "not served yet").to_status())
    }

    async fn remove_voter(
        &self,
        _: Request<v1::RemoveVoterRequest>,
    ) -> Result<Response<v1::RemoveVoterResponse>, Status> {
        Err(ApiError::new(ErrorCode::Unsupported, "not served yet").to_status())
    }
}

/// Notes the version of a change, or its error: as the status if the request names one thing only, else as a field.
fn note(
    outcome: Result<MetadataVersion, ApiError>,
    version: &mut u64,
    single: bool,
) -> Result<Option<v1::Error>, Status> {
    match outcome {
        Ok(applied) => {
            *version = (*version).max(applied.get());
            Ok(None)
        }
        Err(error) if single => Err(error.to_status()),
        Err(error) => Ok(Some(error.to_proto())),
    }
}

fn check_count(count: usize, field: &str) -> Result<(), ApiError> {
    if (1..=MAX_TOPICS_PER_REQUEST).contains(&count) {
        return Ok(());
    }
    Err(ApiError::invalid(
        field,
        format!("a request names 1 to {MAX_TOPICS_PER_REQUEST} topics, not {count}"),
    ))
}

fn topic_name(name: &str) -> Result<TopicName, ApiError> {
    TopicName::new(name)
        .map_err(|error| ApiError::new(ErrorCode::InvalidTopicName, error.to_string()).with_field("name"))
}

/// A name that cannot be names nothing.
fn existing_name(name: &str) -> Result<TopicName, ApiError> {
    TopicName::new(name).map_err(|_| {
        let shown: String = name.chars().take(TopicName::MAX_LEN).collect();
        ApiError::new(ErrorCode::UnknownTopic, format!("topic {shown} does not exist")).with_field("topic")
    })
}

fn assignments(assignments: Vec<ReplicaAssignment>) -> Vec<Vec<BrokerId>> {
    assignments.into_iter().map(|one| one.broker_ids.into_iter().map(BrokerId).collect()).collect()
}

fn ask_a_broker() -> Status {
    ApiError::new(ErrorCode::Unsupported, "the controller serves changes of metadata only: ask a broker")
        .to_status()
}
