//! Leaders are moved on request.

use super::{TopicChanges, activity, existing_partition, existing_topic, find_changes, put_changes, rules};
use crate::metadata::command::{ElectLeaders, Refusal, Response};
use crate::metadata::election::{self, Rules};
use crate::metadata::image::{MetadataImage, PartitionImage, TopicImage};
use crate::metadata::limits::MAX_ELECTIONS;
use crate::{ErrorCode, PartitionId, TopicPartition};
use std::collections::BTreeSet;

pub(super) fn elect(image: &mut MetadataImage, command: &ElectLeaders) -> Result<Response, Refusal> {
    if command.partitions.len() > MAX_ELECTIONS {
        let message = format!("at most {MAX_ELECTIONS} partitions can be named; name none for all");
        return Err(Refusal::field(ErrorCode::InvalidRequest, "partitions", message));
    }
    let active = activity(image);
    let rule = |partition: &PartitionImage, topic: &TopicImage| {
        let rules = rules(topic, &active);
        if !command.unclean {
            election::prefer(partition, rules)
        } else if partition.is_online() {
            None
        } else {
            election::after_return(partition, Rules { unclean: true, ..rules })
        }
    };
    let changes = if command.partitions.is_empty() {
        find_changes(image, rule)
    } else {
        let named: BTreeSet<&TopicPartition> = command.partitions.iter().collect();
        let mut changes: Vec<TopicChanges> = Vec::new();
        for at in named {
            let topic = existing_topic(image, &at.topic, "partitions")?;
            let before = existing_partition(topic, at.partition, "partitions")?;
            let Some(after) = rule(before, topic) else { continue };
            // The partition was found, so its index is not negative.
            let change = (usize::try_from(at.partition.get()).unwrap_or(usize::MAX), after);
            match changes.last_mut().filter(|last| last.topic == at.topic) {
                Some(last) => last.partitions.push(change),
                None => changes.push(TopicChanges { topic: at.topic.clone(), partitions: vec![change] }),
            }
        }
        changes
    };
    drop(active);
    let mut elected = Vec::new();
    for TopicChanges { topic, partitions } in &changes {
        // Indexes stay below MAX_PARTITIONS_PER_TOPIC.
        elected.extend(
            partitions
                .iter()
                .map(|(index, _)| TopicPartition::new(topic.clone(), PartitionId(*index as i32))),
        );
    }
    put_changes(image, changes);
    Ok(Response::Elected(elected))
}
