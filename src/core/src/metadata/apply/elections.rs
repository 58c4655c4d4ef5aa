//! Leaders are moved on request.

use super::{Change, activity, existing_topic, find_changes, put_changes};
use crate::metadata::command::{ElectLeaders, Refusal, Response};
use crate::metadata::election;
use crate::metadata::image::{MetadataImage, PartitionImage};
use crate::metadata::limits::MAX_ELECTIONS;
use crate::{ErrorCode, PartitionId, TopicPartition};
use std::collections::BTreeSet;

pub(super) fn elect(image: &mut MetadataImage, command: &ElectLeaders) -> Result<Response, Refusal> {
    if command.partitions.len() > MAX_ELECTIONS {
        let message = format!("at most {MAX_ELECTIONS} partitions can be named; name none for all");
        return Err(Refusal::field(ErrorCode::InvalidRequest, "partitions", message));
    }
    let rule = |partition: &PartitionImage| {
        if command.unclean {
            election::after_return(partition, activity(image), true)
        } else {
            election::prefer(partition, activity(image))
        }
    };
    let changes = if command.partitions.is_empty() {
        find_changes(image, |_, partition| rule(partition))
    } else {
        let named: BTreeSet<&TopicPartition> = command.partitions.iter().collect();
        let mut changes = Vec::new();
        for at in named {
            let partition = existing_topic(image, &at.topic, "partitions")?.partition(at.partition);
            let before = partition.ok_or_else(|| {
                let message = format!("topic \"{}\" has no partition {}", at.topic, at.partition);
                Refusal::field(ErrorCode::UnknownPartition, "partitions", message)
            })?;
            if let Some(partition) = rule(before) {
                // The partition was found, so its index is not negative.
                let index = usize::try_from(at.partition.get()).unwrap_or(usize::MAX);
                changes.push(Change { topic: at.topic.clone(), index, partition });
            }
        }
        changes
    };
    let moved = |change: &Change| {
        // Indexes stay below MAX_PARTITIONS_PER_TOPIC.
        TopicPartition::new(change.topic.clone(), PartitionId(change.index as i32))
    };
    let elected = changes.iter().map(moved).collect();
    put_changes(image, changes);
    Ok(Response::Elected(elected))
}
