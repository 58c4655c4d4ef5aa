//! `AdminService`: changes go to the controllers and are awaited here; questions are answered from this broker's metadata.

use super::{Door, deadline};
use crate::node::{Node, unknown_topic};
use crate::read::list_offsets;
use crate::{describe, forward, reassignments};
use std::sync::Arc;
use std::time::Duration;
use thalweg_core::{ErrorCode, MetadataVersion};
use thalweg_proto::v1::admin_service_server::AdminService;
use thalweg_proto::{ApiError, v1};
use tokio::time::Instant;
use tonic::{Request, Response, Status};

pub struct Admin {
    pub node: Arc<Node>,
    pub door: Door,
}

impl Admin {
    fn until<T>(&self, request: &Request<T>) -> Instant {
        self.node.until(deadline(request))
    }

    /// Waits until the partitions on this broker stand for that version, so that the caller can go on here at once.
    async fn applied(&self, version: u64, until: Instant) -> Result<(), ApiError> {
        let mut versions = self.node.replicas.watch();
        let wanted = MetadataVersion(version);
        let applied = tokio::select! {
            applied = versions.wait_for(|applied| *applied >= wanted) => applied.is_ok(),
            () = tokio::time::sleep_until(until) => false,
            () = self.node.shutdown.triggered() => return Err(crate::refusal::shutting_down()),
        };
        if applied {
            return Ok(());
        }
        Err(ApiError::new(
            ErrorCode::RequestTimedOut,
            "the change was made, but this broker has not applied it in time; look before trying again",
        ))
    }
}

fn left(until: Instant) -> Duration {
    until.saturating_duration_since(Instant::now())
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn create_topics(
        &self,
        request: Request<v1::CreateTopicsRequest>,
    ) -> Result<Response<v1::CreateTopicsResponse>, Status> {
        let until = self.until(&request);
        let request = request.into_inner();
        let check_only = request.validate_only;
        let mut answer = self.node.controller.create_topics(request, left(until)).await?;
        if !check_only {
            self.applied(answer.metadata_version, until).await?;
            // As it is now: leaders may have been chosen after the controller's answer.
            let image = self.node.metadata.image();
            for result in &mut answer.results {
                if result.error.is_none()
                    && let Some(topic) = image.topic(&result.name)
                {
                    result.topic = Some(describe::topic(topic));
                }
            }
        }
        Ok(Response::new(answer))
    }

    async fn delete_topics(
        &self,
        request: Request<v1::DeleteTopicsRequest>,
    ) -> Result<Response<v1::DeleteTopicsResponse>, Status> {
        let until = self.until(&request);
        let request = request.into_inner();
        let check_only = request.validate_only;
        let answer = self.node.controller.delete_topics(request, left(until)).await?;
        if !check_only {
            self.applied(answer.metadata_version, until).await?;
        }
        Ok(Response::new(answer))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        Ok(Response::new(describe::list(&self.node.metadata.image(), request.get_ref())?))
    }

    async fn describe_topics(
        &self,
        request: Request<v1::DescribeTopicsRequest>,
    ) -> Result<Response<v1::DescribeTopicsResponse>, Status> {
        let names = request.into_inner().names;
        let image = self.node.metadata.image();
        if let [name] = names.as_slice()
            && image.topic(name).is_none()
        {
            return Err(unknown_topic(name).into());
        }
        Ok(Response::new(v1::DescribeTopicsResponse { results: describe::topics(&image, &names)? }))
    }

    async fn create_partitions(
        &self,
        request: Request<v1::CreatePartitionsRequest>,
    ) -> Result<Response<v1::CreatePartitionsResponse>, Status> {
        let until = self.until(&request);
        let request = request.into_inner();
        let check_only = request.validate_only;
        let mut answer = self.node.controller.create_partitions(request, left(until)).await?;
        if !check_only {
            self.applied(answer.metadata_version, until).await?;
            if let Some(topic) = &mut answer.topic
                && let Some(now) = self.node.metadata.image().topic(&topic.name)
            {
                *topic = describe::topic(now);
            }
        }
        Ok(Response::new(answer))
    }

    async fn describe_configs(
        &self,
        request: Request<v1::DescribeConfigsRequest>,
    ) -> Result<Response<v1::DescribeConfigsResponse>, Status> {
        Ok(Response::new(describe::configs(&self.node.metadata.image(), &request.get_ref().topic)?))
    }

    async fn alter_configs(
        &self,
        request: Request<v1::AlterConfigsRequest>,
    ) -> Result<Response<v1::AlterConfigsResponse>, Status> {
        let until = self.until(&request);
        let request = request.into_inner();
        let check_only = request.validate_only;
        let answer = self.node.controller.alter_configs(request, left(until)).await?;
        if !check_only {
            self.applied(answer.metadata_version, until).await?;
        }
        Ok(Response::new(answer))
    }

    async fn delete_records(
        &self,
        request: Request<v1::DeleteRecordsRequest>,
    ) -> Result<Response<v1::DeleteRecordsResponse>, Status> {
        let until = self.until(&request);
        let (node, request) = (Arc::clone(&self.node), request.into_inner());
        let answer = match self.door {
            Door::Public => forward::scatter::delete_records(node, request, until).await?,
            Door::Internal => list_offsets::delete_records(node, request).await?,
        };
        Ok(Response::new(answer))
    }

    async fn elect_leaders(
        &self,
        request: Request<v1::ElectLeadersRequest>,
    ) -> Result<Response<v1::ElectLeadersResponse>, Status> {
        let until = self.until(&request);
        let answer = self.node.controller.elect_leaders(request.into_inner(), left(until)).await?;
        self.applied(answer.metadata_version, until).await?;
        Ok(Response::new(answer))
    }

    async fn reassign_partitions(
        &self,
        request: Request<v1::ReassignPartitionsRequest>,
    ) -> Result<Response<v1::ReassignPartitionsResponse>, Status> {
        let until = self.until(&request);
        let request = request.into_inner();
        let check_only = request.validate_only;
        let answer = self.node.controller.reassign_partitions(request, left(until)).await?;
        if !check_only {
            self.applied(answer.metadata_version, until).await?;
        }
        Ok(Response::new(answer))
    }

    async fn list_reassignments(
        &self,
        request: Request<v1::ListReassignmentsRequest>,
    ) -> Result<Response<v1::ListReassignmentsResponse>, Status> {
        let until = self.until(&request);
        let (node, topics) = (Arc::clone(&self.node), request.into_inner().topics);
        let answer = match self.door {
            Door::Public => reassignments::all(node, &topics, until).await?,
            Door::Internal => reassignments::led_here(&node, &topics)?,
        };
        Ok(Response::new(answer))
    }

    async fn drain_broker(
        &self,
        request: Request<v1::DrainBrokerRequest>,
    ) -> Result<Response<v1::DrainBrokerResponse>, Status> {
        let until = self.until(&request);
        let answer = self.node.controller.drain_broker(request.into_inner(), left(until)).await?;
        self.applied(answer.metadata_version, until).await?;
        Ok(Response::new(answer))
    }

    async fn unregister_broker(
        &self,
        request: Request<v1::UnregisterBrokerRequest>,
    ) -> Result<Response<v1::UnregisterBrokerResponse>, Status> {
        let until = self.until(&request);
        let answer = self.node.controller.unregister_broker(request.into_inner(), left(until)).await?;
        self.applied(answer.metadata_version, until).await?;
        Ok(Response::new(answer))
    }

    async fn unregister_coordinator(
        &self,
        request: Request<v1::UnregisterCoordinatorRequest>,
    ) -> Result<Response<v1::UnregisterCoordinatorResponse>, Status> {
        let until = self.until(&request);
        let answer = self.node.controller.unregister_coordinator(request.into_inner(), left(until)).await?;
        self.applied(answer.metadata_version, until).await?;
        Ok(Response::new(answer))
    }

    async fn add_voter(
        &self,
        request: Request<v1::AddVoterRequest>,
    ) -> Result<Response<v1::AddVoterResponse>, Status> {
        let until = self.until(&request);
        Ok(Response::new(self.node.controller.add_voter(request.into_inner(), left(until)).await?))
    }

    async fn remove_voter(
        &self,
        request: Request<v1::RemoveVoterRequest>,
    ) -> Result<Response<v1::RemoveVoterResponse>, Status> {
        let until = self.until(&request);
        Ok(Response::new(self.node.controller.remove_voter(request.into_inner(), left(until)).await?))
    }

    async fn describe_features(
        &self,
        request: Request<v1::DescribeFeaturesRequest>,
    ) -> Result<Response<v1::DescribeFeaturesResponse>, Status> {
        let until = self.until(&request);
        Ok(Response::new(self.node.controller.describe_features(request.into_inner(), left(until)).await?))
    }

    async fn upgrade_features(
        &self,
        request: Request<v1::UpgradeFeaturesRequest>,
    ) -> Result<Response<v1::UpgradeFeaturesResponse>, Status> {
        let until = self.until(&request);
        let answer = self.node.controller.upgrade_features(request.into_inner(), left(until)).await?;
        // 0 when it was only checked.
        self.applied(answer.metadata_version, until).await?;
        Ok(Response::new(answer))
    }
}
