//! Coordinators register.

use super::unexpected;
use crate::quorum::Quorum;
use thalweg_core::metadata::command::RegisterCoordinator;
use thalweg_core::metadata::image::Endpoint;
use thalweg_core::metadata::{Command, Response as Applied};
use thalweg_core::{ClusterId, CoordinatorId};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as wire;

/// Registers a coordinator's process, on the leader. `cluster_id` is this cluster, and the caller belongs to it.
pub async fn register(
    quorum: &Quorum,
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
    let (version, applied) = quorum.propose(&command).await?;
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
