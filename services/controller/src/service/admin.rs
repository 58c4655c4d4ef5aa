//! `thalweg.v1.AdminService` as the controller serves it to brokers: what changes metadata. Brokers serve the rest.

use crate::config::ControllerConfig;
use crate::quorum::Quorum;
use crate::router::{Router, routed};
use crate::service::brokers::Brokers;
use crate::service::coordinators;
use crate::service::features::Features;
use crate::service::partitions::Partitions;
use crate::service::topics::Topics;
use crate::service::voters::Voters;
use std::sync::Arc;
use thalweg_core::ErrorCode;
use thalweg_proto::ApiError;
use thalweg_proto::v1;
use thalweg_proto::v1::admin_service_client::AdminServiceClient;
use thalweg_proto::v1::admin_service_server::AdminService;
use tonic::{Request, Response, Status};

/// The service.
pub struct Admin {
    quorum: Quorum,
    router: Router,
    topics: Topics,
    partitions: Partitions,
    brokers: Brokers,
    voters: Voters,
    features: Arc<Features>,
}

impl Admin {
    /// Serves changes of what this group agrees on.
    pub fn new(
        quorum: Quorum,
        router: Router,
        membership: Voters,
        features: Arc<Features>,
        config: &ControllerConfig,
    ) -> Admin {
        Admin {
            quorum: quorum.clone(),
            router,
            topics: Topics::new(quorum.clone(), config),
            partitions: Partitions::new(quorum.clone()),
            brokers: Brokers::new(quorum),
            voters: membership,
            features,
        }
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_topics(
        &self,
        request: Request<v1::CreateTopicsRequest>,
    ) -> Answer<v1::CreateTopicsResponse> {
        routed!(self.router, request, AdminServiceClient::create_topics, |r| self.topics.create(r))
    }

    async fn delete_topics(
        &self,
        request: Request<v1::DeleteTopicsRequest>,
    ) -> Answer<v1::DeleteTopicsResponse> {
        routed!(self.router, request, AdminServiceClient::delete_topics, |r| self.topics.delete(r))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Answer<v1::CreatePartitionsResponse> {
        routed!(self.router, request, AdminServiceClient::create_partitions, |r| self.topics.grow(r))
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Answer<v1::AlterConfigsResponse> {
        routed!(self.router, request, AdminServiceClient::alter_configs, |r| self.topics.alter(r))
    }

    async fn list_topics(&self, _: Request<v1::ListTopicsRequest>) -> Answer<v1::ListTopicsResponse> {
        Err(ask_a_broker())
    }

    async fn describe_topics(
        &self,
        _: Request<v1::DescribeTopicsRequest>,
    ) -> Answer<v1::DescribeTopicsResponse> {
        Err(ask_a_broker())
    }

    async fn describe_configs(
        &self,
        _: Request<v1::DescribeConfigsRequest>,
    ) -> Answer<v1::DescribeConfigsResponse> {
        Err(ask_a_broker())
    }

    async fn delete_records(
        &self,
        _: Request<v1::DeleteRecordsRequest>,
    ) -> Answer<v1::DeleteRecordsResponse> {
        Err(ask_a_broker())
    }

    async fn elect_leaders(
        &self,
        request: Request<v1::ElectLeadersRequest>,
    ) -> Answer<v1::ElectLeadersResponse> {
        routed!(self.router, request, AdminServiceClient::elect_leaders, |r| self.partitions.elect(r))
    }

    async fn reassign_partitions(
        &self,
        request: Request<v1::ReassignPartitionsRequest>,
    ) -> Answer<v1::ReassignPartitionsResponse> {
        routed!(self.router, request, AdminServiceClient::reassign_partitions, |r| self
            .partitions
            .reassign(r))
    }

    async fn list_reassignments(
        &self,
        request: Request<v1::ListReassignmentsRequest>,
    ) -> Answer<v1::ListReassignmentsResponse> {
        // Any controller has it, once it has asked the leader how far the log is.
        Ok(Response::new(self.partitions.reassignments(request.into_inner()).await?))
    }

    async fn drain_broker(
        &self,
        request: Request<v1::DrainBrokerRequest>,
    ) -> Answer<v1::DrainBrokerResponse> {
        routed!(self.router, request, AdminServiceClient::drain_broker, |r| self.brokers.drain(r))
    }

    async fn unregister_broker(
        &self,
        request: Request<v1::UnregisterBrokerRequest>,
    ) -> Answer<v1::UnregisterBrokerResponse> {
        routed!(self.router, request, AdminServiceClient::unregister_broker, |r| self.brokers.unregister(r))
    }

    async fn unregister_coordinator(
        &self,
        request: Request<v1::UnregisterCoordinatorRequest>,
    ) -> Answer<v1::UnregisterCoordinatorResponse> {
        routed!(self.router, request, AdminServiceClient::unregister_coordinator, |r| {
            coordinators::unregister(&self.quorum, r)
        })
    }

    async fn add_voter(&self, request: Request<v1::AddVoterRequest>) -> Answer<v1::AddVoterResponse> {
        routed!(self.router, request, AdminServiceClient::add_voter, |r| self.voters.add(r))
    }

    async fn remove_voter(
        &self,
        mut request: Request<v1::RemoveVoterRequest>,
    ) -> Answer<v1::RemoveVoterResponse> {
        // A leader removes itself by handing over first; the next one then removes it.
        if self.voters.hand_over_if_leading(request.get_ref().node_id).await {
            Router::allow_again(&mut request);
        }
        routed!(self.router, request, AdminServiceClient::remove_voter, |r| self.voters.remove(r))
    }

    async fn describe_features(
        &self,
        request: Request<v1::DescribeFeaturesRequest>,
    ) -> Answer<v1::DescribeFeaturesResponse> {
        // Only the leader hears heartbeats.
        routed!(self.router, request, AdminServiceClient::describe_features, |r| self.features.describe(r))
    }

    async fn upgrade_features(
        &self,
        request: Request<v1::UpgradeFeaturesRequest>,
    ) -> Answer<v1::UpgradeFeaturesResponse> {
        routed!(self.router, request, AdminServiceClient::upgrade_features, |r| self.features.upgrade(r))
    }
}

fn ask_a_broker() -> Status {
    ApiError::new(ErrorCode::Unsupported, "the controller serves changes of metadata only: ask a broker")
        .to_status()
}
