//! The cluster itself: its brokers, its controllers, and who belongs to it.

use super::{Admin, admin, cluster};
use crate::net::Purpose;
use crate::trace::Traced;
use crate::{ClientError, proto};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// How long one broker has to describe itself when all are asked.
const DESCRIBE_ONE: Duration = Duration::from_secs(5);
/// How long a change of the voters may take: a new one is first sent the whole state.
const VOTER_CHANGE: Duration = Duration::from_secs(120);

/// What one broker says of itself.
#[derive(Debug)]
pub struct BrokerReport {
    /// The broker, as the cluster knows it.
    pub broker: proto::Broker,
    /// Its own view, or why it could not be asked.
    pub described: Result<proto::DescribeBrokerResponse, ClientError>,
}

impl Admin {
    /// The cluster: brokers, controllers, counts.
    pub async fn describe_cluster(&self) -> Result<proto::DescribeClusterResponse, ClientError> {
        self.client
            .call(|channel| async move {
                cluster(channel).describe_cluster(proto::DescribeClusterRequest {}).await
            })
            .await
    }

    /// The view that the broker that answers has of itself.
    pub async fn describe_broker(&self) -> Result<proto::DescribeBrokerResponse, ClientError> {
        self.client
            .call(|channel| async move { cluster(channel).describe_broker(proto::DescribeBrokerRequest {}).await })
            .await
    }

    /// The views that all brokers which are not fenced have of themselves, by id. Each is asked at its own endpoint and has 5 s
    /// to answer.
    pub async fn describe_brokers(&self) -> Result<Vec<BrokerReport>, ClientError> {
        let brokers = self.describe_cluster().await?.brokers;
        let asked = brokers.into_iter().filter(|broker| !broker.fenced).map(|broker| async {
            let described = self.describe_broker_at(&broker.endpoint).await;
            BrokerReport { broker, described }
        });
        Ok(join_all(asked).await)
    }

    async fn describe_broker_at(&self, endpoint: &str) -> Result<proto::DescribeBrokerResponse, ClientError> {
        let channel = self.client.channels().get(Purpose::Control, &Arc::from(endpoint))?;
        let mut service = cluster(Traced(channel));
        let asked = service.describe_broker(proto::DescribeBrokerRequest {});
        match tokio::time::timeout(DESCRIBE_ONE, asked).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(ClientError::from_status(status)),
            Err(_) => Err(ClientError::from_status(Status::deadline_exceeded(format!(
                "{endpoint} did not answer in {DESCRIBE_ONE:?}"
            )))),
        }
    }

    /// Begins to move everything off a broker, or with `cancel` lets it have replicas again. Gives the replicas that it still
    /// holds: at 0 it can be stopped and forgotten.
    pub async fn drain_broker(&self, broker: i32, cancel: bool) -> Result<u32, ClientError> {
        let request = proto::DrainBrokerRequest { broker_id: broker, cancel };
        let answer = self.client.call(|channel| async move { admin(channel).drain_broker(request).await });
        Ok(answer.await?.replicas_left)
    }

    /// Forgets a broker that holds no replica and is not alive.
    pub async fn unregister_broker(&self, broker: i32) -> Result<(), ClientError> {
        let request = proto::UnregisterBrokerRequest { broker_id: broker };
        self.client
            .call(|channel| async move { admin(channel).unregister_broker(request).await })
            .await
            .map(drop)
    }

    /// Forgets a coordinator that is gone.
    pub async fn unregister_coordinator(&self, coordinator: i32) -> Result<(), ClientError> {
        let request = proto::UnregisterCoordinatorRequest { coordinator_id: coordinator };
        self.client
            .call(|channel| async move { admin(channel).unregister_coordinator(request).await })
            .await
            .map(drop)
    }

    /// Takes a running controller, started to join, into the group of those that vote. Gives the voters after it.
    pub async fn add_voter(&self, node: u64, endpoint: &str) -> Result<Vec<u64>, ClientError> {
        let request = proto::AddVoterRequest { node_id: node, endpoint: endpoint.to_owned() };
        let call = |channel| {
            let request = request.clone();
            async move { admin(channel).add_voter(request).await }
        };
        Ok(self.client.call_within(VOTER_CHANGE, call).await?.voters)
    }

    /// The feature level in force, and which each process supports, as the leading controller has heard it.
    pub async fn describe_features(&self) -> Result<proto::DescribeFeaturesResponse, ClientError> {
        self.client
            .call(|channel| async move {
                admin(channel).describe_features(proto::DescribeFeaturesRequest {}).await
            })
            .await
    }

    /// Raises the feature level, for ever; `None`: to the newest that the leading controller's program knows. With `check_only`
    /// nothing changes. Refused with `INCOMPATIBLE_FEATURE_LEVEL` while a process is too old.
    pub async fn upgrade_features(
        &self,
        level: Option<u16>,
        check_only: bool,
    ) -> Result<proto::UpgradeFeaturesResponse, ClientError> {
        let request =
            proto::UpgradeFeaturesRequest { level: level.map_or(0, u32::from), validate_only: check_only };
        self.client.call(|channel| async move { admin(channel).upgrade_features(request).await }).await
    }

    /// Removes a controller from the group. Its id is never used again. Gives the voters after it.
    pub async fn remove_voter(&self, node: u64) -> Result<Vec<u64>, ClientError> {
        let request = proto::RemoveVoterRequest { node_id: node };
        let call = |channel| async move { admin(channel).remove_voter(request).await };
        Ok(self.client.call_within(VOTER_CHANGE, call).await?.voters)
    }
}
