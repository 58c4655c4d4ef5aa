//! Offsets of partitions, and the records below them.

use super::{Admin, admin};
use crate::client::MAX_CONTROL_MESSAGE;
use crate::proto::consumer_service_client::ConsumerServiceClient;
use crate::{Client, ClientError, Isolation, Start, proto};
use thalweg_core::{LeaderEpoch, Offset, PartitionId};
use thalweg_proto::ApiError;

impl Admin {
    /// The offset at which reading from `at` begins. [`Start::Latest`] is the high watermark; a time behind the last
    /// record gives the high watermark too.
    pub async fn offset_of(
        &self,
        topic: &str,
        partition: PartitionId,
        at: Start,
    ) -> Result<Offset, ClientError> {
        resolve(&self.client, topic, partition, at, Isolation::ReadUncommitted).await
    }

    /// One answer of ListOffsets as it is: offset -1 when no record matches.
    pub async fn list_offset(
        &self,
        topic: &str,
        partition: PartitionId,
        spec: proto::OffsetSpec,
        timestamp_ms: i64,
    ) -> Result<proto::ListOffsetsResult, ClientError> {
        list_offset(&self.client, topic, partition, spec, timestamp_ms, Isolation::ReadUncommitted).await
    }

    /// Makes the records below `before` unreadable; [`Offset::NONE`] stands for the high watermark. Gives the first
    /// offset that is left.
    pub async fn delete_records(
        &self,
        topic: &str,
        partition: PartitionId,
        before: Offset,
    ) -> Result<Offset, ClientError> {
        let request = proto::DeleteRecordsRequest {
            partitions: vec![proto::DeleteRecordsPartition {
                topic: topic.to_owned(),
                partition: partition.get(),
                before_offset: before.get(),
            }],
            routing: proto::Routing::AnyBroker.into(),
        };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).delete_records(request).await }
            })
            .await?;
        let result = answer.results.into_iter().next();
        let result = result.ok_or(ClientError::Protocol("an answer has no result"))?;
        match result.error {
            Some(error) => Err(ApiError::from_proto(&error).into()),
            None => Ok(Offset(result.log_start_offset)),
        }
    }
}

/// Where to begin, as an offset.
pub(crate) async fn resolve(
    client: &Client,
    topic: &str,
    partition: PartitionId,
    at: Start,
    isolation: Isolation,
) -> Result<Offset, ClientError> {
    let ask = |spec, time| list_offset(client, topic, partition, spec, time, isolation);
    let found = match at {
        Start::Offset(offset) => return Ok(offset),
        Start::Earliest => ask(proto::OffsetSpec::Earliest, 0).await?.offset,
        Start::Latest => ask(proto::OffsetSpec::Latest, 0).await?.offset,
        Start::Timestamp(time) => match ask(proto::OffsetSpec::Timestamp, time.as_millis()).await?.offset {
            -1 => ask(proto::OffsetSpec::Latest, 0).await?.offset,
            found => found,
        },
    };
    if found < 0 {
        Err(ClientError::Protocol("a partition has no first or latest offset"))
    } else {
        Ok(Offset(found))
    }
}

async fn list_offset(
    client: &Client,
    topic: &str,
    partition: PartitionId,
    spec: proto::OffsetSpec,
    timestamp_ms: i64,
    isolation: Isolation,
) -> Result<proto::ListOffsetsResult, ClientError> {
    // A topic that cannot be described cannot be asked for its offsets either, which tells why.
    let _ = client.metadata(topic).await;
    let min_leader_epoch = client.cache().leader_epoch(topic, partition).map(LeaderEpoch::get);
    let request = proto::ListOffsetsRequest {
        partitions: vec![proto::ListOffsetsPartition {
            topic: topic.to_owned(),
            partition: partition.get(),
            spec: spec.into(),
            timestamp_ms,
            min_leader_epoch,
        }],
        isolation_level: proto::IsolationLevel::from(isolation).into(),
        routing: proto::Routing::AnyBroker.into(),
    };
    let answer = client
        .call(|channel| {
            let request = request.clone();
            async move {
                let service = ConsumerServiceClient::new(channel);
                service.max_decoding_message_size(MAX_CONTROL_MESSAGE).list_offsets(request).await
            }
        })
        .await?;
    let result = answer.results.into_iter().next();
    let result = result.ok_or(ClientError::Protocol("an answer has no result"))?;
    match &result.error {
        Some(error) => Err(ApiError::from_proto(error).into()),
        None => {
            client.cache().saw_epoch(topic, partition, LeaderEpoch(result.leader_epoch));
            Ok(result)
        }
    }
}
