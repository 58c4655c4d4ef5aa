//! The fake controllers' topics.

use super::{FakeController, api_error, unsupported};
use thalweg_core::metadata::command::{
    AlterTopicConfig, BrokerRef, CreatePartitions, CreateTopic, DeleteTopic, DrainBroker, PartitionMove,
    PlacementSpec, ReassignPartitions, TopicRef,
};
use thalweg_core::metadata::{Command, Refusal, Response};
use thalweg_core::{BrokerEpoch, BrokerId, ErrorCode, PartitionId, TopicId, TopicName, TopicPartition};
use thalweg_proto::v1::admin_service_server::AdminService;
use thalweg_proto::{ApiError, v1};
use tonic::{Request, Response as Answer, Status};

#[tonic::async_trait]
impl AdminService for FakeController {
    async fn create_topics(
        &self,
        request: Request<v1::CreateTopicsRequest>,
    ) -> Result<Answer<v1::CreateTopicsResponse>, Status> {
        let mut answer = v1::CreateTopicsResponse::default();
        for topic in request.into_inner().topics {
            let mut id = [7; 16];
            id[..8].copy_from_slice(&self.image().version().get().to_be_bytes());
            let created = self.propose(Command::CreateTopic(CreateTopic {
                name: TopicName::new(&topic.name).unwrap(),
                id: TopicId(id),
                placement: placement(&topic),
                overrides: topic.configs,
                seed: 0,
                internal: false,
            }));
            let error = created.as_ref().err().map(|refusal| api_error(refusal).to_proto());
            answer.results.push(v1::CreateTopicResult { name: topic.name, topic: None, error });
            answer.metadata_version = self.image().version().get();
        }
        Ok(Answer::new(answer))
    }

    async fn delete_topics(
        &self,
        request: Request<v1::DeleteTopicsRequest>,
    ) -> Result<Answer<v1::DeleteTopicsResponse>, Status> {
        let mut answer = v1::DeleteTopicsResponse::default();
        for name in request.into_inner().names {
            let topic = TopicRef::Name(TopicName::new(&name).unwrap());
            let (version, _) = self.answer(Command::DeleteTopic(DeleteTopic { topic }))?;
            answer.results.push(v1::DeleteTopicResult { name, error: None });
            answer.metadata_version = version;
        }
        Ok(Answer::new(answer))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Answer<v1::CreatePartitionsResponse>, Status> {
        let request = request.into_inner();
        let (metadata_version, _) = self.answer(Command::CreatePartitions(CreatePartitions {
            name: TopicName::new(&request.topic).unwrap(),
            new_total: request.total_partitions,
            assignments: None,
            seed: 0,
        }))?;
        let topic = Some(v1::Topic { name: request.topic, ..Default::default() });
        Ok(Answer::new(v1::CreatePartitionsResponse { topic, metadata_version }))
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Result<Answer<v1::AlterConfigsResponse>, Status> {
        let request = request.into_inner();
        let (metadata_version, _) = self.answer(Command::AlterTopicConfig(AlterTopicConfig {
            name: TopicName::new(&request.topic).unwrap(),
            set: request.set.clone(),
            remove: request.unset,
        }))?;
        Ok(Answer::new(v1::AlterConfigsResponse { configs: request.set, metadata_version }))
    }

    async fn list_topics(
        &self,
        _: Request<v1::ListTopicsRequest>,
    ) -> Result<Answer<v1::ListTopicsResponse>, Status> {
        unsupported()
    }

    async fn describe_topics(
        &self,
        _: Request<v1::DescribeTopicsRequest>,
    ) -> Result<Answer<v1::DescribeTopicsResponse>, Status> {
        unsupported()
    }

    async fn describe_configs(
        &self,
        _: Request<v1::DescribeConfigsRequest>,
    ) -> Result<Answer<v1::DescribeConfigsResponse>, Status> {
        unsupported()
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Answer<v1::DeleteRecordsResponse>, Status> {
        unsupported()
    }

    async fn elect_leaders(
        &self,
        request: Request<v1::ElectLeadersRequest>,
    ) -> Result<Answer<v1::ElectLeadersResponse>, Status> {
        // What matters here is that it arrived, and that its version is waited for.
        self.note(format!("elect {}", request.get_ref().partitions.len()));
        Ok(Answer::new(v1::ElectLeadersResponse { elected: Vec::new(), metadata_version: self.bump() }))
    }

    async fn reassign_partitions(
        &self,
        request: Request<v1::ReassignPartitionsRequest>,
    ) -> Result<Answer<v1::ReassignPartitionsResponse>, Status> {
        let moves = request.into_inner().reassignments.into_iter().map(|wanted| PartitionMove {
            partition: TopicPartition::new(
                TopicName::new(&wanted.topic).unwrap(),
                PartitionId(wanted.partition),
            ),
            replicas: Some(wanted.replicas.into_iter().map(BrokerId).collect()),
        });
        let moves = ReassignPartitions { moves: moves.collect() };
        let (metadata_version, response) = self.answer(Command::ReassignPartitions(moves))?;
        let Response::Moves(moves) = response else { panic!("{response:?}") };
        let result = |outcome: Result<(), Refusal>| v1::ReassignResult {
            error: outcome.err().map(|refusal| api_error(&refusal).to_proto()),
            ..Default::default()
        };
        let results = moves.into_iter().map(result).collect();
        Ok(Answer::new(v1::ReassignPartitionsResponse { results, metadata_version }))
    }

    async fn list_reassignments(
        &self,
        _: Request<v1::ListReassignmentsRequest>,
    ) -> Result<Answer<v1::ListReassignmentsResponse>, Status> {
        unsupported()
    }

    async fn drain_broker(
        &self,
        request: Request<v1::DrainBrokerRequest>,
    ) -> Result<Answer<v1::DrainBrokerResponse>, Status> {
        let v1::DrainBrokerRequest { broker_id, cancel } = request.into_inner();
        let drain = DrainBroker { id: BrokerId(broker_id), cancel };
        let (metadata_version, _) = self.answer(Command::DrainBroker(drain))?;
        Ok(Answer::new(v1::DrainBrokerResponse { replicas_left: 0, metadata_version }))
    }

    async fn unregister_coordinator(
        &self,
        request: Request<v1::UnregisterCoordinatorRequest>,
    ) -> Result<Answer<v1::UnregisterCoordinatorResponse>, Status> {
        self.note(format!("forget coordinator {}", request.get_ref().coordinator_id));
        Ok(Answer::new(v1::UnregisterCoordinatorResponse { metadata_version: self.bump() }))
    }

    async fn unregister_broker(
        &self,
        request: Request<v1::UnregisterBrokerRequest>,
    ) -> Result<Answer<v1::UnregisterBrokerResponse>, Status> {
        let id = BrokerId(request.into_inner().broker_id);
        let epoch = self.image().broker(id).map_or(BrokerEpoch(-1), |broker| broker.epoch);
        let (metadata_version, _) = self.answer(Command::UnregisterBroker(BrokerRef { id, epoch }))?;
        Ok(Answer::new(v1::UnregisterBrokerResponse { metadata_version }))
    }

    async fn add_voter(
        &self,
        request: Request<v1::AddVoterRequest>,
    ) -> Result<Answer<v1::AddVoterResponse>, Status> {
        Ok(Answer::new(v1::AddVoterResponse { voters: vec![1, request.into_inner().node_id] }))
    }

    async fn remove_voter(
        &self,
        _: Request<v1::RemoveVoterRequest>,
    ) -> Result<Answer<v1::RemoveVoterResponse>, Status> {
        Err(ApiError::new(ErrorCode::InvalidVoters, "the last voter stays").to_status())
    }

    async fn describe_features(
        &self,
        _: Request<v1::DescribeFeaturesRequest>,
    ) -> Result<Answer<v1::DescribeFeaturesResponse>, Status> {
        Ok(Answer::new(v1::DescribeFeaturesResponse { level: 1, newest_level: 2, ..Default::default() }))
    }

    async fn upgrade_features(
        &self,
        _: Request<v1::UpgradeFeaturesRequest>,
    ) -> Result<Answer<v1::UpgradeFeaturesResponse>, Status> {
        Err(ApiError::new(ErrorCode::IncompatibleFeatureLevel, "broker 7 is too old").to_status())
    }
}

fn placement(topic: &v1::NewTopic) -> PlacementSpec {
    if topic.assignments.is_empty() {
        return PlacementSpec::Counts {
            partitions: topic.partitions.unwrap_or(1),
            replication_factor: topic.replication_factor.unwrap_or(1),
        };
    }
    let brokers = |of: &v1::ReplicaAssignment| of.broker_ids.iter().copied().map(BrokerId).collect();
    PlacementSpec::Explicit(topic.assignments.iter().map(brokers).collect())
}
