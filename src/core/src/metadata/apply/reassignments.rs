//! Partitions are given other replicas (KIP-455). This begins, replaces and cancels; a reassignment ends by itself, with the
//! change of the ISR that brings the last new replica in.

use super::{TopicChanges, activity, existing_partition, existing_topic, put_changes, rules};
use crate::metadata::command::{PartitionMove, ReassignPartitions, Refusal, Response};
use crate::metadata::election;
use crate::metadata::image::{MetadataImage, PartitionImage};
use crate::metadata::limits::{MAX_PARTITION_CHANGES, MAX_REPLICATION_FACTOR};
use crate::{BrokerId, ErrorCode};
use std::collections::BTreeSet;

pub(super) fn reassign(image: &mut MetadataImage, command: &ReassignPartitions) -> Result<Response, Refusal> {
    if command.moves.len() > MAX_PARTITION_CHANGES {
        let message = format!("at most {MAX_PARTITION_CHANGES} partitions can be moved at once");
        return Err(Refusal::field(ErrorCode::InvalidRequest, "moves", message));
    }
    Ok(Response::Moves(command.moves.iter().map(|one| reassign_one(image, one)).collect()))
}

fn reassign_one(image: &mut MetadataImage, command: &PartitionMove) -> Result<(), Refusal> {
    let at = &command.partition;
    let topic = existing_topic(image, &at.topic, "topic")?;
    let before = existing_partition(topic, at.partition, "partition")?;
    let settled: Vec<BrokerId> = before.settled_replicas().collect();
    let target = match &command.replicas {
        None if !before.is_reassigning() => {
            let message = format!("{}-{} is not being reassigned", at.topic, at.partition);
            return Err(Refusal::new(ErrorCode::NoReassignmentInProgress, message));
        }
        None => settled.clone(),
        Some(target) => {
            check_target(image, target, &before.replicas)?;
            target.clone()
        }
    };
    let without = |list: &[BrokerId], others: &[BrokerId]| -> Vec<BrokerId> {
        list.iter().copied().filter(|id| !others.contains(id)).collect()
    };
    let mut next = PartitionImage {
        adding: without(&target, &settled),
        removing: without(&settled, &target),
        replicas: target,
        ..before.as_ref().clone()
    };
    next.replicas.extend_from_slice(&next.removing);
    // Those that only the replaced reassignment would have added go at once.
    next.isr.retain(|id| next.replicas.contains(id));
    next.elr.retain(|id| next.replicas.contains(id));

    let active = activity(image);
    let rules = rules(topic, &active);
    let leader_goes = before.is_online() && !next.replicas.contains(&before.leader);
    if next.isr.is_empty() || (leader_goes && !next.isr.iter().any(|id| active(*id))) {
        let message = format!(
            "only replicas that would be dropped at once are in sync of {}-{}; wait for others, or keep one of {:?}",
            at.topic,
            at.partition,
            before.isr.iter().map(|id| id.get()).collect::<Vec<_>>()
        );
        return Err(Refusal::field(ErrorCode::InvalidRequest, "replicas", message));
    }
    if leader_goes {
        election::elect(&mut next, rules);
    }
    let after = election::finish(before, next, rules);
    drop(active);
    if let Some(partition) = after {
        // The partition was found above, so its index is not negative.
        let index = usize::try_from(at.partition.get()).unwrap_or(usize::MAX);
        put_changes(
            image,
            vec![TopicChanges { topic: at.topic.clone(), partitions: vec![(index, partition)] }],
        );
    }
    Ok(())
}

/// New replicas must be on brokers that can take them now; those that are there may stay wherever they are.
fn check_target(image: &MetadataImage, target: &[BrokerId], now: &[BrokerId]) -> Result<(), Refusal> {
    let refuse = |code, message: String| Err(Refusal::field(code, "replicas", message));
    let invalid = |message: String| refuse(ErrorCode::InvalidRequest, message);
    if target.is_empty() || target.len() > MAX_REPLICATION_FACTOR {
        return invalid(format!(
            "a partition has 1 to {MAX_REPLICATION_FACTOR} replicas, not {}",
            target.len()
        ));
    }
    if target.iter().collect::<BTreeSet<_>>().len() != target.len() {
        return invalid("a broker is named twice; each holds one replica of a partition".to_owned());
    }
    for id in target {
        let Some(broker) = image.broker(*id) else {
            return refuse(ErrorCode::UnknownBroker, format!("broker {id} is not registered"));
        };
        if now.contains(id) {
            continue;
        }
        if !broker.is_active() {
            return invalid(format!("broker {id} is not active; start it first or choose another"));
        }
        if broker.draining {
            return invalid(format!("broker {id} is being drained; cancel that or choose another"));
        }
    }
    Ok(())
}
