//! The calls to the controllers that serve a client's call.

use super::link::ControllerLink;
use std::ops::Range;
use std::time::Duration;
use thalweg_client::controllers::{Controllers, Repeat, timed};
use thalweg_core::{BrokerId, ErrorCode};
use thalweg_proto::internal::v1 as internal;
use thalweg_proto::{ApiError, v1};

macro_rules! forwarded {
    ($( $(#[$doc:meta])* $name:ident($request:ident) -> $response:ident; )*) => {
        $(
            $(#[$doc])*
            pub async fn $name(&self, request: v1::$request, within: Duration) -> Result<v1::$response, ApiError> {
                self.controllers().call(Repeat::IfRefused, within, |target| {
                    let mut client = Controllers::admin(&target.channel);
                    let request = timed(request.clone(), within);
                    async move { Ok(client.$name(request).await?.into_inner()) }
                })
                .await
            }
        )*
    };
}

impl ControllerLink {
    forwarded! {
        /// Creates topics.
        create_topics(CreateTopicsRequest) -> CreateTopicsResponse;
        /// Deletes topics.
        delete_topics(DeleteTopicsRequest) -> DeleteTopicsResponse;
        /// Grows a topic.
        create_partitions(CreatePartitionsRequest) -> CreatePartitionsResponse;
        /// Changes a topic's configuration.
        alter_configs(AlterConfigsRequest) -> AlterConfigsResponse;
        /// Moves leaderships.
        elect_leaders(ElectLeadersRequest) -> ElectLeadersResponse;
        /// Gives partitions other replicas.
        reassign_partitions(ReassignPartitionsRequest) -> ReassignPartitionsResponse;
        /// Moves everything off a broker.
        drain_broker(DrainBrokerRequest) -> DrainBrokerResponse;
        /// Forgets a broker.
        unregister_broker(UnregisterBrokerRequest) -> UnregisterBrokerResponse;
        /// Forgets a coordinator.
        unregister_coordinator(UnregisterCoordinatorRequest) -> UnregisterCoordinatorResponse;
        /// Adds a controller to the Raft group.
        add_voter(AddVoterRequest) -> AddVoterResponse;
        /// Removes a controller from the Raft group.
        remove_voter(RemoveVoterRequest) -> RemoveVoterResponse;
        /// The feature level, and which each process supports.
        describe_features(DescribeFeaturesRequest) -> DescribeFeaturesResponse;
        /// Raises the feature level.
        upgrade_features(UpgradeFeaturesRequest) -> UpgradeFeaturesResponse;
    }

    /// Changes the ISR of partitions that this broker leads, in one attempt. The caller makes the next: after one whose outcome was
    /// not heard, a refusal of a later one says nothing of the earlier, which may come into force yet.
    pub async fn alter_partitions(
        &self,
        request: internal::AlterPartitionsRequest,
        within: Duration,
    ) -> Result<internal::AlterPartitionsResponse, ApiError> {
        self.controllers()
            .call(Repeat::Not, within, |target| {
                let mut client = Controllers::client(&target.channel);
                let request = timed(request.clone(), within);
                async move { Ok(client.alter_partitions(request).await?.into_inner()) }
            })
            .await
    }

    /// The Raft group, as the favourite controller sees it.
    pub async fn describe_quorum(
        &self,
        within: Duration,
    ) -> Result<internal::DescribeQuorumResponse, ApiError> {
        self.controllers()
            .call(Repeat::Safe, within, |target| {
                let mut client = Controllers::client(&target.channel);
                let request = timed(internal::DescribeQuorumRequest::default(), within);
                async move { Ok(client.describe_quorum(request).await?.into_inner()) }
            })
            .await
    }

    /// Producer ids that nobody else gets.
    pub async fn allocate_producer_ids(
        &self,
        me: BrokerId,
        within: Duration,
    ) -> Result<Range<i64>, ApiError> {
        let Some(epoch) = self.epoch() else {
            return Err(ApiError::new(
                ErrorCode::ControllerNotAvailable,
                "the broker is not registered yet; retry",
            ));
        };
        let request = internal::AllocateProducerIdsRequest { broker_id: me.get(), broker_epoch: epoch.get() };
        // A block that is lost on the way is never given away: ids are plenty.
        let block = self
            .controllers()
            .call(Repeat::Safe, within, |target| {
                let mut client = Controllers::client(&target.channel);
                let request = timed(request, within);
                async move { Ok(client.allocate_producer_ids(request).await?.into_inner()) }
            })
            .await?;
        Ok(block.first_id..block.first_id.saturating_add(block.count.max(0).into()))
    }
}
