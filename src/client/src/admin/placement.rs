//! Which brokers hold and lead partitions.

use super::{Admin, admin};
use crate::{ClientError, proto};
use thalweg_proto::ApiError;

impl Admin {
    /// Lets the preferred replica lead where it is in sync. With `unclean` a partition without leader gets any live replica
    /// instead, and loses what that one does not have. No partitions: all. Gives those whose leader changed.
    pub async fn elect_leaders(
        &self,
        partitions: Vec<proto::TopicPartition>,
        unclean: bool,
    ) -> Result<Vec<proto::TopicPartition>, ClientError> {
        let request = proto::ElectLeadersRequest { partitions, unclean };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).elect_leaders(request).await }
            })
            .await?;
        for elected in &answer.elected {
            self.client.cache().forget_topic(&elected.topic);
        }
        Ok(answer.elected)
    }

    /// Gives partitions other replicas; an empty list of replicas cancels what is under way. Returns when the changes are noted,
    /// with the refused ones and why; [`list_reassignments`](Self::list_reassignments) tells how far the others are.
    pub async fn reassign(
        &self,
        reassignments: Vec<proto::PartitionReassignment>,
    ) -> Result<Vec<(proto::TopicPartition, ApiError)>, ClientError> {
        let request = proto::ReassignPartitionsRequest { reassignments, validate_only: false };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).reassign_partitions(request).await }
            })
            .await?;
        let refused = answer.results.into_iter().filter_map(|result| {
            let partition = proto::TopicPartition { topic: result.topic, partition: result.partition };
            Some((partition, ApiError::from_proto(&result.error?)))
        });
        Ok(refused.collect())
    }

    /// The reassignments under way, of these topics or, without any, of all.
    pub async fn list_reassignments(
        &self,
        topics: &[String],
    ) -> Result<Vec<proto::Reassignment>, ClientError> {
        let request = proto::ListReassignmentsRequest { topics: topics.to_vec() };
        let answer = self
            .client
            .call(|channel| {
                let request = request.clone();
                async move { admin(channel).list_reassignments(request).await }
            })
            .await?;
        Ok(answer.reassignments)
    }
}
