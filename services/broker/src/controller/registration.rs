//! How a broker's process introduces itself to the cluster.

use super::link::ControllerLink;
use std::time::Duration;
use thalweg_client::controllers::{Controllers, Repeat, timed};
use thalweg_core::{BrokerEpoch, BrokerId, ClusterId, ErrorCode, MetadataVersion, Retriable};
use thalweg_proto::ApiError;
use thalweg_proto::internal::v1 as internal;
use tokio::time::Instant;

/// Who a broker is, the same for as long as its process lives.
#[derive(Debug, Clone)]
pub struct Introduction {
    /// The broker's id.
    pub node_id: BrokerId,
    /// The cluster that its folders belong to.
    pub cluster_id: ClusterId,
    /// Drawn at the start of the process.
    pub incarnation: [u8; 16],
    /// Where clients reach it.
    pub endpoint: String,
    /// Where services reach it.
    pub internal_endpoint: String,
    /// Its rack or zone.
    pub rack: Option<String>,
    /// The ids of its log directories.
    pub log_directory_ids: Vec<String>,
    /// The registration under which its logs were last closed cleanly.
    pub clean_shutdown_epoch: Option<BrokerEpoch>,
    /// Whether a disk lost records that were stable.
    pub damaged: bool,
}

/// What to do while another process holds the broker's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Wait for a while: it may be an earlier process of this broker that the cluster still holds for alive.
    ForPredecessor,
    /// Give up: this process had the id, and was replaced.
    None,
}

/// Why a broker is not registered.
#[derive(Debug, thiserror::Error)]
#[error("the cluster does not take this broker: {0}")]
pub struct RegisterError(#[from] pub ApiError);

/// Registers, trying again for `within` as long as that may help. Returns the version of the metadata that holds the
/// registration.
pub async fn register(
    link: &ControllerLink,
    who: &Introduction,
    within: Duration,
    patience: Patience,
) -> Result<MetadataVersion, RegisterError> {
    let begun = Instant::now();
    let deadline = begun + within;
    let predecessor_until = match patience {
        Patience::ForPredecessor => begun + link.intervals().predecessor,
        Patience::None => begun,
    };
    let mut pause = link.intervals().retry_first;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let attempt = left.min(link.intervals().controller_call);
        let answer = link
            .controllers()
            .call(Repeat::Safe, left, |target| {
                let mut client = Controllers::client(&target.channel);
                let request = timed(who.request(), attempt);
                async move { Ok(client.register_broker(request).await?.into_inner()) }
            })
            .await;
        match answer {
            Ok(registered) if registered.cluster_id != *who.cluster_id.0 => {
                return Err(RegisterError(ApiError::new(
                    ErrorCode::InconsistentClusterId,
                    format!(
                        "the controllers are of cluster {}, not {}",
                        registered.cluster_id, who.cluster_id
                    ),
                )));
            }
            Ok(registered) => {
                let epoch = BrokerEpoch(registered.broker_epoch);
                link.set_epoch(epoch);
                tracing::info!(broker = %who.node_id, %epoch, cluster = %who.cluster_id, "registered");
                return Ok(MetadataVersion(registered.metadata_version));
            }
            Err(error) => {
                let next = Instant::now() + pause;
                let may_pass = match error.code {
                    ErrorCode::DuplicateBrokerId => next < predecessor_until,
                    _ => error.retriable() != Retriable::No,
                };
                if !may_pass || next >= deadline {
                    return Err(RegisterError(error));
                }
                tracing::warn!(broker = %who.node_id, %error, "not registered yet; trying again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(link.intervals().retry_most);
            }
        }
    }
}

impl Introduction {
    fn request(&self) -> internal::RegisterBrokerRequest {
        internal::RegisterBrokerRequest {
            broker_id: self.node_id.get(),
            cluster_id: self.cluster_id.0.to_string(),
            incarnation_id: self.incarnation.to_vec().into(),
            endpoint: self.endpoint.clone(),
            internal_endpoint: self.internal_endpoint.clone(),
            rack: self.rack.clone().unwrap_or_default(),
            log_directory_ids: self.log_directory_ids.clone(),
            clean_shutdown_epoch: self.clean_shutdown_epoch.map(BrokerEpoch::get),
            damaged: self.damaged,
            feature_levels: Some(internal::FeatureLevels::OURS),
        }
    }
}
