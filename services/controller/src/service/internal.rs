//! `thalweg.internal.v1.ControllerService`: what brokers and coordinators ask of the controller.

use super::{Features, coordinators, unexpected};
use crate::coordinators::CoordinatorSigns;
use crate::heartbeat::Heartbeats;
use crate::peers::Peers;
use crate::quorum::{Quorum, no_leader};
use crate::router::{Router, routed};
use crate::service::watch::Watch;
use crate::stream;
use futures_util::stream::BoxStream;
use std::sync::Arc;
use thalweg_core::metadata::command::{
    AllocateProducerIds, AlterPartitions, BrokerRef, IsrChange, PartitionState, Refusal, RegisterBroker,
};
use thalweg_core::metadata::image::Endpoint;
use thalweg_core::metadata::limits::{MAX_PARTITION_CHANGES, MAX_REPLICATION_FACTOR, PRODUCER_ID_BLOCK};
use thalweg_core::metadata::{Command, Response as Applied};
use thalweg_core::{
    BrokerEpoch, BrokerId, ClusterId, ErrorCode, LeaderEpoch, MetadataVersion, PartitionEpoch, PartitionId,
    TopicId,
};
use thalweg_proto::ApiError;
use thalweg_proto::features::levels;
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::internal::v1::controller_service_client::ControllerServiceClient;
use thalweg_proto::internal::v1::controller_service_server::ControllerService;
use thalweg_runtime::Shutdown;
use tonic::{Request, Response, Status};

/// The service.
pub struct Internal {
    quorum: Quorum,
    router: Router,
    heartbeats: Heartbeats,
    coordinators: CoordinatorSigns,
    peers: Arc<Peers>,
    features: Arc<Features>,
    offsets_topic_replication_factor: u32,
    shutdown: Shutdown,
}

impl Internal {
    /// Serves this group's metadata until the shutdown.
    pub fn new(
        quorum: Quorum,
        router: Router,
        heartbeats: Heartbeats,
        coordinators: CoordinatorSigns,
        peers: Arc<Peers>,
        features: Arc<Features>,
        shutdown: Shutdown,
    ) -> Internal {
        Internal {
            quorum,
            router,
            heartbeats,
            coordinators,
            peers,
            features,
            offsets_topic_replication_factor: 0,
            shutdown,
        }
    }

    /// Tells with the Raft group how many replicas the topic of groups shall have.
    pub fn with_offsets_topic_replicas(self, replicas: i32) -> Internal {
        Internal { offsets_topic_replication_factor: u32::try_from(replicas).unwrap_or(0), ..self }
    }

    /// Waits until the image is current, and checks that the caller belongs to its cluster.
    async fn check_cluster(&self, theirs: &str) -> Result<ClusterId, ApiError> {
        let image = self.quorum.current_image().await?;
        let Some(ours) = image.cluster_id() else {
            return Err(ApiError::new(
                ErrorCode::ControllerNotAvailable,
                "the cluster is being founded; try again",
            ));
        };
        if !theirs.is_empty() && theirs != &*ours.0 {
            let message = format!("this is cluster {ours}, the caller belongs to cluster {theirs}");
            return Err(ApiError::new(ErrorCode::InconsistentClusterId, message).with_field("cluster_id"));
        }
        Ok(ours.clone())
    }

    async fn register(
        &self,
        request: wire::RegisterBrokerRequest,
    ) -> Result<wire::RegisterBrokerResponse, ApiError> {
        let cluster_id = self.check_cluster(&request.cluster_id).await?;
        let endpoint = |text: &str, field: &str| {
            text.parse::<Endpoint>().map_err(|error| ApiError::invalid(field, format!("{text:?}: {error}")))
        };
        let incarnation = <[u8; 16]>::try_from(&request.incarnation_id[..])
            .map_err(|_| ApiError::invalid("incarnation_id", "an incarnation id has 16 bytes"))?;
        let id = BrokerId(request.broker_id);
        let command = Command::RegisterBroker(RegisterBroker {
            id,
            cluster_id: Some(cluster_id.clone()).filter(|_| !request.cluster_id.is_empty()),
            incarnation,
            endpoint: endpoint(&request.endpoint, "endpoint")?,
            internal_endpoint: endpoint(&request.internal_endpoint, "internal_endpoint")?,
            rack: Some(request.rack).filter(|rack| !rack.is_empty()),
            log_dirs: request.log_directory_ids,
            clean_shutdown_epoch: request.clean_shutdown_epoch.map(BrokerEpoch),
            damaged: request.damaged,
        });
        let supported = levels(request.feature_levels)?;
        let admitted = self.features.admit(&format!("broker {id}"), supported).await?;
        let (version, applied) = self.quorum.propose(&command).await?;
        drop(admitted);
        let Applied::BrokerRegistered { epoch } = applied else {
            return Err(unexpected("a registration"));
        };
        tracing::info!(broker = %id, %epoch, endpoint = request.endpoint, "broker registered");
        Ok(wire::RegisterBrokerResponse {
            broker_epoch: epoch.get(),
            cluster_id: cluster_id.to_string(),
            metadata_version: version.get(),
        })
    }

    async fn register_coordinator(
        &self,
        request: wire::RegisterCoordinatorRequest,
    ) -> Result<wire::RegisterCoordinatorResponse, ApiError> {
        let cluster_id = self.check_cluster(&request.cluster_id).await?;
        coordinators::register(&self.quorum, &self.features, cluster_id, request).await
    }

    async fn allocate(
        &self,
        request: wire::AllocateProducerIdsRequest,
    ) -> Result<wire::AllocateProducerIdsResponse, ApiError> {
        let broker = BrokerRef { id: BrokerId(request.broker_id), epoch: BrokerEpoch(request.broker_epoch) };
        let command = Command::AllocateProducerIds(AllocateProducerIds { broker, count: PRODUCER_ID_BLOCK });
        match self.quorum.propose(&command).await? {
            (_, Applied::ProducerIds(block)) => {
                Ok(wire::AllocateProducerIdsResponse { first_id: block.first.get(), count: block.count })
            }
            _ => Err(unexpected("an allocation")),
        }
    }

    async fn alter(
        &self,
        request: wire::AlterPartitionsRequest,
    ) -> Result<wire::AlterPartitionsResponse, ApiError> {
        let count = request.changes.len();
        if !(1..=MAX_PARTITION_CHANGES).contains(&count) {
            let message = format!("a request changes 1 to {MAX_PARTITION_CHANGES} partitions, not {count}");
            return Err(ApiError::invalid("changes", message));
        }
        let broker = BrokerRef { id: BrokerId(request.broker_id), epoch: BrokerEpoch(request.broker_epoch) };
        let changes = request.changes.into_iter().map(isr_change).collect::<Result<Vec<_>, _>>()?;
        let command = Command::AlterPartitions(AlterPartitions { broker, changes });
        match self.quorum.propose(&command).await? {
            (version, Applied::Partitions(results)) => Ok(wire::AlterPartitionsResponse {
                results: results.into_iter().map(partition_result).collect(),
                metadata_version: version.get(),
            }),
            _ => Err(unexpected("a change of ISR")),
        }
    }
}

fn isr_change(change: wire::PartitionChange) -> Result<IsrChange, ApiError> {
    let topic_id = <[u8; 16]>::try_from(&change.topic_id[..])
        .map_err(|_| ApiError::invalid("topic_id", "a topic's id has 16 bytes"))?;
    if change.isr.len() > MAX_REPLICATION_FACTOR {
        let message = format!("an ISR has at most {MAX_REPLICATION_FACTOR} members");
        return Err(ApiError::invalid("isr", message));
    }
    let member = |member: wire::IsrMember| BrokerRef {
        id: BrokerId(member.broker_id),
        epoch: BrokerEpoch(member.broker_epoch),
    };
    Ok(IsrChange {
        topic_id: TopicId(topic_id),
        partition: PartitionId(change.partition),
        leader_epoch: LeaderEpoch(change.leader_epoch),
        partition_epoch: PartitionEpoch(change.partition_epoch),
        isr: change.isr.into_iter().map(member).collect(),
    })
}

fn partition_result(result: Result<PartitionState, Refusal>) -> wire::PartitionChangeResult {
    match result {
        Ok(state) => wire::PartitionChangeResult {
            leader_epoch: state.leader_epoch.get(),
            partition_epoch: state.partition_epoch.get(),
            isr: state.isr.iter().map(|id| id.get()).collect(),
            error: None,
        },
        Err(refusal) => wire::PartitionChangeResult {
            error: Some(ApiError::new(refusal.code, refusal.message).to_proto()),
            ..Default::default()
        },
    }
}

#[tonic::async_trait]
impl ControllerService for Internal {
    async fn register_broker(
        &self,
        request: Request<wire::RegisterBrokerRequest>,
    ) -> Result<Response<wire::RegisterBrokerResponse>, Status> {
        routed!(self.router, request, ControllerServiceClient::register_broker, |r| self.register(r))
    }

    async fn broker_heartbeat(
        &self,
        request: Request<wire::BrokerHeartbeatRequest>,
    ) -> Result<Response<wire::BrokerHeartbeatResponse>, Status> {
        routed!(self.router, request, ControllerServiceClient::broker_heartbeat, |r| self.heartbeats.take(r))
    }

    type BrokerSessionStream = BoxStream<'static, Result<wire::BrokerSessionResponse, Status>>;

    async fn broker_session(
        &self,
        request: Request<tonic::Streaming<wire::BrokerSessionRequest>>,
    ) -> Result<Response<Self::BrokerSessionStream>, Status> {
        if !self.quorum.is_serving() {
            return Err(no_leader().to_status());
        }
        Ok(Response::new(stream::serve(self.heartbeats.clone(), request.into_inner(), self.shutdown.clone())))
    }

    async fn register_coordinator(
        &self,
        request: Request<wire::RegisterCoordinatorRequest>,
    ) -> Result<Response<wire::RegisterCoordinatorResponse>, Status> {
        routed!(self.router, request, ControllerServiceClient::register_coordinator, |r| self
            .register_coordinator(r))
    }

    type CoordinatorSessionStream = BoxStream<'static, Result<wire::CoordinatorSessionResponse, Status>>;

    async fn coordinator_session(
        &self,
        request: Request<tonic::Streaming<wire::CoordinatorSessionRequest>>,
    ) -> Result<Response<Self::CoordinatorSessionStream>, Status> {
        if !self.quorum.is_serving() {
            return Err(no_leader().to_status());
        }
        Ok(Response::new(stream::serve(
            self.coordinators.clone(),
            request.into_inner(),
            self.shutdown.clone(),
        )))
    }

    async fn renew_shard_lease(
        &self,
        request: Request<wire::RenewShardLeaseRequest>,
    ) -> Result<Response<wire::RenewShardLeaseResponse>, Status> {
        routed!(self.router, request, ControllerServiceClient::renew_shard_lease, |r| {
            coordinators::renew_lease(&self.quorum, r)
        })
    }

    async fn alter_partitions(
        &self,
        request: Request<wire::AlterPartitionsRequest>,
    ) -> Result<Response<wire::AlterPartitionsResponse>, Status> {
        routed!(self.router, request, ControllerServiceClient::alter_partitions, |r| self.alter(r))
    }

    async fn allocate_producer_ids(
        &self,
        request: Request<wire::AllocateProducerIdsRequest>,
    ) -> Result<Response<wire::AllocateProducerIdsResponse>, Status> {
        routed!(self.router, request, ControllerServiceClient::allocate_producer_ids, |r| self.allocate(r))
    }

    type WatchImageStream = BoxStream<'static, Result<wire::WatchImageResponse, Status>>;

    async fn watch_image(
        &self,
        request: Request<wire::WatchImageRequest>,
    ) -> Result<Response<Self::WatchImageStream>, Status> {
        let request = request.into_inner();
        // An image of the past could lack a topic that lives, or show one that is gone.
        self.check_cluster(&request.cluster_id).await?;
        let from = MetadataVersion(request.from_version);
        let watch = Watch::new(self.quorum.clone(), from, self.shutdown.clone());
        Ok(Response::new(watch.into_stream()))
    }

    async fn describe_quorum(
        &self,
        request: Request<wire::DescribeQuorumRequest>,
    ) -> Result<Response<wire::DescribeQuorumResponse>, Status> {
        let metadata_version = match request.into_inner().current {
            true => Some(self.quorum.current_image().await?.version().get()),
            false => None,
        };
        let status = self.quorum.status().borrow().clone();
        let leader_endpoint = status.leader.and_then(|leader| self.peers.endpoint(leader));
        Ok(Response::new(wire::DescribeQuorumResponse {
            node_id: status.node_id.get(),
            leader_id: status.leader.map_or(0, |id| id.get()),
            term: status.term,
            voters: status.voters.iter().map(|id| id.get()).collect(),
            commit_index: status.commit,
            applied_index: status.applied,
            learners: status.learners.iter().map(|id| id.get()).collect(),
            leader_endpoint: leader_endpoint.map(|endpoint| endpoint.to_string()).unwrap_or_default(),
            metadata_version,
            offsets_topic_replication_factor: self.offsets_topic_replication_factor,
        }))
    }
}
