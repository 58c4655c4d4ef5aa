//! Brokers are drained and forgotten.

use crate::quorum::Quorum;
use thalweg_core::metadata::command::{BrokerRef, DrainBroker};
use thalweg_core::metadata::{Command, MetadataImage};
use thalweg_core::{BrokerId, ErrorCode};
use thalweg_proto::ApiError;
use thalweg_proto::v1;

/// Changes of brokers that an operator asks for, on the leader.
pub struct Brokers {
    quorum: Quorum,
}

impl Brokers {
    /// Changes what this group agrees on.
    pub fn new(quorum: Quorum) -> Brokers {
        Brokers { quorum }
    }

    /// Begins to move everything off a broker, or ceases to.
    pub async fn drain(&self, request: v1::DrainBrokerRequest) -> Result<v1::DrainBrokerResponse, ApiError> {
        let id = BrokerId(request.broker_id);
        let command = Command::DrainBroker(DrainBroker { id, cancel: request.cancel });
        let (version, _) = self.quorum.propose(&command).await?;
        let left = replicas_of(&self.quorum.published().image(), id);
        tracing::info!(broker = %id, cancel = request.cancel, replicas = left, "broker is to be drained");
        Ok(v1::DrainBrokerResponse {
            replicas_left: u32::try_from(left).unwrap_or(u32::MAX),
            metadata_version: version.get(),
        })
    }

    /// Forgets a broker that is gone and holds nothing.
    pub async fn unregister(
        &self,
        request: v1::UnregisterBrokerRequest,
    ) -> Result<v1::UnregisterBrokerResponse, ApiError> {
        let id = BrokerId(request.broker_id);
        let image = self.quorum.current_image().await?;
        let known = image.broker(id).ok_or_else(|| {
            let message = format!("there is no broker {id}");
            ApiError::new(ErrorCode::UnknownBroker, message).with_field("broker_id")
        })?;
        if !known.fenced {
            let message = format!("broker {id} is alive at {}; stop it first", known.internal_endpoint);
            return Err(ApiError::new(ErrorCode::PolicyViolation, message).with_field("broker_id"));
        }
        let left = replicas_of(&image, id);
        if left > 0 {
            let message =
                format!("broker {id} holds {left} replicas; drain it first, or delete their topics");
            return Err(ApiError::new(ErrorCode::PolicyViolation, message).with_field("broker_id"));
        }
        let command = Command::UnregisterBroker(BrokerRef { id, epoch: known.epoch });
        let (version, _) = self.quorum.propose(&command).await?;
        tracing::info!(broker = %id, "broker unregistered");
        Ok(v1::UnregisterBrokerResponse { metadata_version: version.get() })
    }
}

fn replicas_of(image: &MetadataImage, broker: BrokerId) -> usize {
    let partitions = image.topics().flat_map(|topic| &topic.partitions);
    partitions.filter(|partition| partition.replicas.contains(&broker)).count()
}
