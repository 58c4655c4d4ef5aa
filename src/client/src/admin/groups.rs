//! Consumer groups from outside: what they are, and where they are.

use super::Admin;
use crate::client::MAX_CONTROL_MESSAGE;
use crate::consumer::{OffsetAndMetadata, ToCommit, by_topic, fetch_committed, to_proto};
use crate::proto::group_service_client::GroupServiceClient;
use crate::trace::Traced;
use crate::{ClientError, CommitError, proto};
use std::collections::BTreeMap;
use thalweg_core::TopicPartition;
use thalweg_proto::ApiError;

impl Admin {
    /// The groups of the cluster, in the order of their id; only those in one of `states`, unless that is empty.
    pub async fn list_groups(
        &self,
        states: &[proto::GroupState],
    ) -> Result<Vec<proto::ListedGroup>, ClientError> {
        let request =
            proto::ListGroupsRequest { states: states.iter().map(|state| (*state).into()).collect() };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { groups(channel).list_groups(request).await }
            })
            .await?;
        Ok(answer.groups)
    }

    /// What groups are at the moment, or why that cannot be told, in the order of the ids: from 1 to 1,000.
    pub async fn describe_groups(&self, ids: &[String]) -> Result<Vec<proto::GroupResult>, ClientError> {
        let request = proto::DescribeGroupsRequest { group_ids: ids.to_vec() };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { groups(channel).describe_groups(request).await }
            })
            .await?;
        Ok(answer.groups)
    }

    /// What one group is at the moment: members, partitions, committed offsets and lag. Refused with `UNKNOWN_GROUP` if there is
    /// no such group.
    pub async fn describe_group(&self, id: &str) -> Result<proto::GroupDescription, ClientError> {
        let result = self.describe_groups(&[id.to_owned()]).await?.into_iter().next();
        let result = result.ok_or(ClientError::Protocol("an answer has no result"))?;
        match (result.group, result.error) {
            (_, Some(error)) => Err(ApiError::from_proto(&error).into()),
            (Some(group), None) => Ok(group),
            (None, None) => Err(ClientError::Protocol("a group has neither a description nor an error")),
        }
    }

    /// Forgets groups with their offsets, and says of each what became of it, in the order of the ids: from 1 to 1,000.
    pub async fn delete_groups(&self, ids: &[String]) -> Result<Vec<proto::GroupResult>, ClientError> {
        let request = proto::DeleteGroupsRequest { group_ids: ids.to_vec() };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { groups(channel).delete_groups(request).await }
            })
            .await?;
        Ok(answer.results)
    }

    /// Forgets a group with its offsets. Refused with `UNKNOWN_GROUP` or, while it has members, `GROUP_NOT_EMPTY`.
    pub async fn delete_group(&self, id: &str) -> Result<(), ClientError> {
        super::only(self.delete_groups(&[id.to_owned()]).await?, |result| result.error)
    }

    /// Forgets committed offsets of a group without members; a topic without partitions stands for all of it. Gives one result
    /// for each partition that was named or had an offset.
    pub async fn delete_offsets(
        &self,
        group: &str,
        topics: Vec<proto::TopicPartitions>,
    ) -> Result<Vec<proto::CommitResult>, ClientError> {
        let request = proto::DeleteOffsetsRequest { group_id: group.to_owned(), topics };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { groups(channel).delete_offsets(request).await }
            })
            .await?;
        Ok(answer.results)
    }

    /// Moves the committed offsets of a group without members, or shows where they would go.
    pub async fn reset_offsets(
        &self,
        request: proto::ResetOffsetsRequest,
    ) -> Result<Vec<proto::ResetResult>, ClientError> {
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { groups(channel).reset_offsets(request).await }
            })
            .await?;
        Ok(answer.results)
    }

    /// Commits offsets for a group without members, from outside: for a program that assigns its partitions itself.
    pub async fn commit_offsets(
        &self,
        group: &str,
        offsets: &[(TopicPartition, OffsetAndMetadata)],
    ) -> Result<(), CommitError> {
        let offset = |(at, what): &(TopicPartition, OffsetAndMetadata)| {
            to_proto(at, &ToCommit { topic_id: None, what: what.clone() })
        };
        let request = proto::CommitOffsetsRequest {
            group_id: group.to_owned(),
            offsets: offsets.iter().map(offset).collect(),
            ..Default::default()
        };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { groups(channel).commit_offsets(request).await }
            })
            .await?;
        if answer.results.len() != offsets.len() {
            return Err(ClientError::Protocol("a commit has another number of results").into());
        }
        let failures = offsets
            .iter()
            .zip(answer.results)
            .filter_map(|((at, _), result)| Some((at.clone(), ApiError::from_proto(&result.error?))));
        let failures: Vec<_> = failures.collect();
        if failures.is_empty() { Ok(()) } else { Err(CommitError::Partitions(failures)) }
    }

    /// What a group has committed of these partitions, or of all if none is named.
    pub async fn committed_offsets(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<BTreeMap<TopicPartition, OffsetAndMetadata>, ClientError> {
        let request = proto::FetchOffsetsRequest {
            group_id: group.to_owned(),
            topics: by_topic(partitions.iter().map(|at| (at, None))),
            ..Default::default()
        };
        fetch_committed(&self.client, request).await
    }
}

fn groups(channel: Traced) -> GroupServiceClient<Traced> {
    GroupServiceClient::new(channel).max_decoding_message_size(MAX_CONTROL_MESSAGE)
}
