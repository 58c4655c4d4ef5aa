//! Coordinators register, renew a lease, and are forgotten.

use super::{Features, unexpected};
use crate::quorum::Quorum;
use thalweg_core::metadata::command::{CoordinatorRef, RegisterCoordinator, RenewShardLease};
use thalweg_core::metadata::image::Endpoint;
use thalweg_core::metadata::{Command, Response as Applied};
use thalweg_core::{
    ClusterId, CoordinatorEpoch, CoordinatorId, ErrorCode, LeaseEpoch, PartitionId, TopicName, TopicPartition,
};
use thalweg_proto::ApiError;
use thalweg_proto::features::levels;
use thalweg_proto::internal::v1 as wire;
use thalweg_proto::v1;

/// Registers a coordinator's process, on the leader. `cluster_id` is this cluster, and the caller belongs to it.
pub async fn register(
    quorum: &Quorum,
    features: &Features,
    cluster_id: ClusterId,
    request: wire::RegisterCoordinatorRequest,
) -> Result<wire::RegisterCoordinatorResponse, ApiError> {
    let endpoint: Endpoint = request
        .endpoint
        .parse()
        .map_err(|error| ApiError::invalid("endpoint", format!("{:?}: {error}", request.endpoint)))?;
    let incarnation = <[u8; 16]>::try_from(&request.incarnation_id[..])
        .map_err(|_| ApiError::invalid("incarnation_id", "an incarnation id has 16 bytes"))?;
    let id = CoordinatorId(request.coordinator_id);
    let command = Command::RegisterCoordinator(RegisterCoordinator {
        id,
        cluster_id: Some(cluster_id.clone()).filter(|_| !request.cluster_id.is_empty()),
        incarnation,
        endpoint,
        rack: Some(request.rack).filter(|rack| !rack.is_empty()),
    });
    let admitted = features.admit(&format!("coordinator {id}"), levels(request.feature_levels)?).await?;
    let (version, applied) = quorum.propose(&command).await?;
    drop(admitted);
    let Applied::CoordinatorRegistered { epoch } = applied else {
        return Err(unexpected("a registration"));
    };
    tracing::info!(coordinator = %id, %epoch, endpoint = request.endpoint, "coordinator registered");
    Ok(wire::RegisterCoordinatorResponse {
        coordinator_epoch: epoch.get(),
        cluster_id: cluster_id.to_string(),
        metadata_version: version.get(),
    })
}

/// Gives a shard to its owner under a new epoch, on the leader.
pub async fn renew_lease(
    quorum: &Quorum,
    request: wire::RenewShardLeaseRequest,
) -> Result<wire::RenewShardLeaseResponse, ApiError> {
    let topic = TopicName::new(&request.topic)
        .map_err(|error| ApiError::invalid("topic", format!("{:?}: {error}", request.topic)))?;
    let coordinator = CoordinatorRef {
        id: CoordinatorId(request.coordinator_id),
        epoch: CoordinatorEpoch(request.coordinator_epoch),
    };
    let shard = TopicPartition::new(topic, PartitionId(request.partition));
    let lease_epoch = LeaseEpoch(request.lease_epoch);
    let command =
        Command::RenewShardLease(RenewShardLease { coordinator, shard: shard.clone(), lease_epoch });
    let (version, _) = quorum.propose(&command).await?;
    tracing::info!(coordinator = %coordinator.id, %shard, "lease renewed: the shard is loaded again");
    Ok(wire::RenewShardLeaseResponse { metadata_version: version.get() })
}

/// Forgets a coordinator that is gone, on the leader.
pub async fn unregister(
    quorum: &Quorum,
    request: v1::UnregisterCoordinatorRequest,
) -> Result<v1::UnregisterCoordinatorResponse, ApiError> {
    let id = CoordinatorId(request.coordinator_id);
    let image = quorum.current_image().await?;
    let known = image.coordinator(id).ok_or_else(|| {
        let message = format!("there is no coordinator {id}");
        ApiError::new(ErrorCode::InvalidRequest, message).with_field("coordinator_id")
    })?;
    let command = Command::UnregisterCoordinator(CoordinatorRef { id, epoch: known.epoch });
    let (version, _) = quorum.propose(&command).await?;
    tracing::info!(coordinator = %id, "coordinator unregistered");
    Ok(v1::UnregisterCoordinatorResponse { metadata_version: version.get() })
}
