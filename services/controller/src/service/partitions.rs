//! Leaders are elected and partitions moved.

use super::{broker_ids, check_count, existing_name, note, unexpected};
use crate::quorum::Quorum;
use thalweg_core::metadata::command::{ElectLeaders, PartitionMove, ReassignPartitions};
use thalweg_core::metadata::limits::{MAX_ELECTIONS, MAX_PARTITION_CHANGES, MAX_REPLICATION_FACTOR};
use thalweg_core::metadata::{Command, Response as Applied};
use thalweg_core::{MetadataVersion, PartitionId, TopicPartition};
use thalweg_proto::ApiError;
use thalweg_proto::v1;

/// Reassignments that one answer tells of.
const MAX_REASSIGNMENTS_TOLD: usize = 10_000;

/// Changes of partitions, on the leader.
pub struct Partitions {
    quorum: Quorum,
}

impl Partitions {
    /// Changes what this group agrees on.
    pub fn new(quorum: Quorum) -> Partitions {
        Partitions { quorum }
    }

    /// Moves leaderships.
    pub async fn elect(
        &self,
        request: v1::ElectLeadersRequest,
    ) -> Result<v1::ElectLeadersResponse, ApiError> {
        if request.partitions.len() > MAX_ELECTIONS {
            let message = format!("at most {MAX_ELECTIONS} partitions can be named; name none for all");
            return Err(ApiError::invalid("partitions", message));
        }
        let named = |at: v1::TopicPartition| {
            Ok(TopicPartition::new(existing_name(&at.topic)?, PartitionId(at.partition)))
        };
        let partitions = request.partitions.into_iter().map(named).collect::<Result<Vec<_>, ApiError>>()?;
        let command = Command::ElectLeaders(ElectLeaders { partitions, unclean: request.unclean });
        let (version, Applied::Elected(elected)) = self.quorum.propose(&command).await? else {
            return Err(unexpected("an election"));
        };
        if request.unclean && !elected.is_empty() {
            tracing::warn!(partitions = elected.len(), "leaders elected that may lack records, as asked");
        }
        let told = |at: TopicPartition| v1::TopicPartition {
            topic: at.topic.to_string(),
            partition: at.partition.get(),
        };
        Ok(v1::ElectLeadersResponse {
            elected: elected.into_iter().map(told).collect(),
            metadata_version: version.get(),
        })
    }

    /// Gives partitions other replicas, each by itself.
    pub async fn reassign(
        &self,
        request: v1::ReassignPartitionsRequest,
    ) -> Result<v1::ReassignPartitionsResponse, ApiError> {
        check_count(request.reassignments.len(), MAX_PARTITION_CHANGES, "reassignments")?;
        let single = request.reassignments.len() == 1;
        let (mut moves, mut outcomes) = (Vec::new(), Vec::new());
        for one in &request.reassignments {
            let parsed = partition_move(one);
            outcomes.push(match parsed {
                Ok(parsed) => {
                    moves.push(parsed);
                    None
                }
                Err(error) => Some(error),
            });
        }
        let mut version = self.quorum.published().image().version();
        let mut applied = Vec::new();
        if !moves.is_empty() {
            let command = Command::ReassignPartitions(ReassignPartitions { moves });
            let response = if request.validate_only {
                self.quorum.validate(&command).await?
            } else {
                let (applied_at, response) = self.quorum.propose(&command).await?;
                version = applied_at;
                response
            };
            let Applied::Moves(moves) = response else { return Err(unexpected("a reassignment")) };
            applied = moves;
        }
        let mut applied = applied.into_iter();
        let (mut results, mut metadata_version) = (Vec::with_capacity(outcomes.len()), 0);
        for (one, refused) in request.reassignments.into_iter().zip(outcomes) {
            let outcome: Result<MetadataVersion, ApiError> = match refused {
                Some(error) => Err(error),
                None => match applied.next() {
                    Some(Ok(())) => Ok(version),
                    Some(Err(refusal)) => {
                        let error = ApiError::new(refusal.code, refusal.message);
                        Err(refusal.field.into_iter().fold(error, ApiError::with_field))
                    }
                    None => Err(unexpected("a reassignment")),
                },
            };
            let error = note(outcome, &mut metadata_version, single)?;
            results.push(v1::ReassignResult { topic: one.topic, partition: one.partition, error });
        }
        Ok(v1::ReassignPartitionsResponse { results, metadata_version })
    }

    /// Reassignments under way, as the metadata has them.
    pub async fn reassignments(
        &self,
        request: v1::ListReassignmentsRequest,
    ) -> Result<v1::ListReassignmentsResponse, ApiError> {
        let image = self.quorum.current_image().await?;
        let asked =
            |name: &str| request.topics.is_empty() || request.topics.iter().any(|topic| topic == name);
        let ids = |brokers: &[thalweg_core::BrokerId]| brokers.iter().map(|id| id.get()).collect();
        let reassignments = image
            .topics()
            .filter(|topic| asked(topic.name.as_str()))
            .flat_map(|topic| topic.partitions().map(move |(index, partition)| (topic, index, partition)))
            .filter(|(_, _, partition)| !partition.adding.is_empty() || !partition.removing.is_empty())
            .take(MAX_REASSIGNMENTS_TOLD)
            .map(|(topic, index, partition)| v1::Reassignment {
                topic: topic.name.to_string(),
                partition: index.get(),
                replicas: ids(&partition.replicas),
                adding_replicas: ids(&partition.adding),
                removing_replicas: ids(&partition.removing),
                log_bytes: None,
                lag: None,
            })
            .collect();
        Ok(v1::ListReassignmentsResponse { reassignments })
    }
}

fn partition_move(one: &v1::PartitionReassignment) -> Result<PartitionMove, ApiError> {
    if one.replicas.len() > MAX_REPLICATION_FACTOR {
        let message = format!("a partition has at most {MAX_REPLICATION_FACTOR} replicas");
        return Err(ApiError::invalid("replicas", message));
    }
    Ok(PartitionMove {
        partition: TopicPartition::new(existing_name(&one.topic)?, PartitionId(one.partition)),
        replicas: Some(broker_ids(one.replicas.clone())).filter(|replicas| !replicas.is_empty()),
    })
}
