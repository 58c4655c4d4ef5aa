//! Partitions are added and changed.

use super::coordinators::hand_out_shards;
use super::{TopicChanges, activity, current_broker, existing_partition, existing_topic, put_changes, rules};
use crate::metadata::command::{
    AlterPartition, AlterPartitions, BrokerRef, CreatePartitions, IsrChange, PartitionState, Refusal,
    Response,
};
use crate::metadata::election;
use crate::metadata::image::{MetadataImage, PartitionImage, TopicImage};
use crate::metadata::limits::{
    MAX_PARTITION_CHANGES, MAX_PARTITIONS, MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR,
};
use crate::metadata::placement::{Candidate, Placer};
use crate::planted::{Bug, planted};
use crate::{BrokerId, ErrorCode, LeaderEpoch, PartitionEpoch};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) fn create(image: &mut MetadataImage, command: &CreatePartitions) -> Result<Response, Refusal> {
    let topic = existing_topic(image, &command.name, "topic")?;
    let (name, id, current) = (topic.name.clone(), topic.id, topic.partitions.len());
    if topic.internal {
        let message = format!("topic \"{name}\" belongs to the cluster and cannot grow");
        return Err(Refusal::field(ErrorCode::PolicyViolation, "topic", message));
    }
    let total = check_total(command.new_total, "total_partitions")?;
    if total <= current {
        let message = format!(
            "topic \"{name}\" has {current} partitions and partitions never shrink; ask for more than {current}"
        );
        return Err(Refusal::field(ErrorCode::InvalidPartitions, "total_partitions", message));
    }
    let added = total - current;
    check_room(image, added, "total_partitions")?;
    let factor = topic.replication_factor();
    let replicas = match &command.assignments {
        Some(assignments) if assignments.len() != added => {
            let message = format!(
                "{added} partitions are added, so {added} assignments are needed, not {}",
                assignments.len()
            );
            return Err(Refusal::field(ErrorCode::InvalidRequest, "assignments", message));
        }
        Some(assignments) => {
            check_assignments(image, assignments, Some(factor))?;
            assignments.clone()
        }
        None => {
            let last = topic.partitions.last().map(|partition| partition.preferred_leader());
            spread(image, added, factor, command.seed, last)?
        }
    };

    let new: Vec<_> = replicas.into_iter().map(|replicas| Arc::new(new_partition(image, replicas))).collect();
    image.partition_count += new.len();
    if let Some(topic) = Arc::make_mut(&mut image.topics).get_mut(&name) {
        Arc::make_mut(topic).partitions.extend(new);
    }
    hand_out_shards(image, None);
    Ok(Response::Topic { name, id })
}

pub(super) fn alter(image: &mut MetadataImage, command: &AlterPartition) -> Result<Response, Refusal> {
    current_broker(image, command.broker)?;
    alter_one(image, command).map(Response::Partition)
}

pub(super) fn alter_many(image: &mut MetadataImage, command: &AlterPartitions) -> Result<Response, Refusal> {
    current_broker(image, command.broker)?;
    if command.changes.len() > MAX_PARTITION_CHANGES {
        let message = format!("at most {MAX_PARTITION_CHANGES} partitions can be changed at once");
        return Err(Refusal::field(ErrorCode::InvalidRequest, "changes", message));
    }
    let one = |change: &IsrChange| {
        let IsrChange { topic_id, partition, leader_epoch, partition_epoch, ref isr } = *change;
        let (broker, isr) = (command.broker, isr.clone());
        alter_one(image, &AlterPartition { broker, topic_id, partition, leader_epoch, partition_epoch, isr })
    };
    Ok(Response::Partitions(command.changes.iter().map(one).collect()))
}

fn alter_one(image: &mut MetadataImage, command: &AlterPartition) -> Result<PartitionState, Refusal> {
    let topic = image.topic_by_id(command.topic_id).ok_or_else(|| {
        let message = format!("there is no topic of id {}; it may have been deleted", command.topic_id);
        Refusal::field(ErrorCode::UnknownTopic, "topic_id", message)
    })?;
    let before = existing_partition(topic, command.partition, "partition")?;
    if !planted(Bug::IsrWithoutEpochs) {
        check_epochs(command, topic, before)?;
    }
    check_isr(image, command, before)?;

    // Kept in the order of the replicas, so that equal sets are equal lists.
    let wanted: BTreeSet<BrokerId> = command.isr.iter().map(|member| member.id).collect();
    let isr = before.replicas.iter().copied().filter(|id| wanted.contains(id)).collect();
    let active = activity(image);
    let after = election::after_isr_change(before, isr, rules(topic, &active));
    drop(active);
    let now = after.as_ref().unwrap_or(before);
    let state = PartitionState {
        leader_epoch: now.leader_epoch,
        partition_epoch: now.partition_epoch,
        isr: now.isr.clone(),
    };
    if let Some(partition) = after {
        // The partition was found above, so its index is not negative.
        let index = usize::try_from(command.partition.get()).unwrap_or(usize::MAX);
        let change = TopicChanges { topic: topic.name.clone(), partitions: vec![(index, partition)] };
        put_changes(image, vec![change]);
    }
    Ok(state)
}

fn check_epochs(command: &AlterPartition, topic: &TopicImage, now: &PartitionImage) -> Result<(), Refusal> {
    let at = format!("{}-{}", topic.name, command.partition);
    let leads = format!("{at} is led by broker {} in epoch {}", now.leader, now.leader_epoch);
    if command.leader_epoch < now.leader_epoch {
        let message = format!("{leads}; epoch {} is over", command.leader_epoch);
        return Err(Refusal::field(ErrorCode::FencedLeaderEpoch, "leader_epoch", message));
    }
    if command.leader_epoch > now.leader_epoch {
        let message = format!("{leads}; epoch {} is not known", command.leader_epoch);
        return Err(Refusal::field(ErrorCode::UnknownLeaderEpoch, "leader_epoch", message));
    }
    if command.broker.id != now.leader {
        let message = format!("{leads}, not by broker {}", command.broker.id);
        return Err(Refusal::field(ErrorCode::NotLeader, "broker_id", message));
    }
    if command.partition_epoch != now.partition_epoch {
        let message = format!(
            "{at} is at partition epoch {}, not {}; take the metadata anew and ask again",
            now.partition_epoch, command.partition_epoch
        );
        return Err(Refusal::field(ErrorCode::InvalidPartitionEpoch, "partition_epoch", message));
    }
    Ok(())
}

/// A member must be a replica, named once, active, and still the process that caught up: one that returned with an empty
/// disk since then has another epoch (KIP-903).
fn check_isr(image: &MetadataImage, command: &AlterPartition, now: &PartitionImage) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::field(ErrorCode::InvalidRequest, "isr", message));
    let mut seen = BTreeSet::new();
    for &BrokerRef { id, epoch } in command.isr.iter().take(MAX_REPLICATION_FACTOR + 1) {
        if !now.replicas.contains(&id) {
            return invalid(format!("broker {id} is no replica of the partition"));
        }
        if !seen.insert(id) {
            return invalid(format!("broker {id} is named twice"));
        }
        match image.broker(id) {
            Some(broker) if planted(Bug::IsrWithoutEpochs) && broker.is_active() => {}
            Some(broker) if broker.epoch == epoch && broker.is_active() => {}
            // A leader that is asked to stop may still drop others from its ISR.
            Some(broker) if broker.epoch == epoch && id == now.leader && !broker.fenced => {}
            _ => {
                let message =
                    format!("broker {id} with epoch {epoch} is not active; leave it out of the ISR for now");
                return invalid(message);
            }
        }
    }
    if !seen.contains(&now.leader) {
        return invalid(format!("the ISR must have its leader, broker {}", now.leader));
    }
    Ok(())
}

/// How many partitions a topic shall have, checked.
pub(super) fn check_total(given: i32, field: &str) -> Result<usize, Refusal> {
    let total = usize::try_from(given).unwrap_or(0);
    if (1..=MAX_PARTITIONS_PER_TOPIC).contains(&total) {
        return Ok(total);
    }
    let message = format!("a topic has 1 to {MAX_PARTITIONS_PER_TOPIC} partitions, not {given}");
    Err(Refusal::field(ErrorCode::InvalidPartitions, field, message))
}

/// Whether the cluster can hold so many partitions more.
pub(super) fn check_room(image: &MetadataImage, added: usize, field: &str) -> Result<(), Refusal> {
    let held = image.partition_count;
    if added <= MAX_PARTITIONS.saturating_sub(held) {
        return Ok(());
    }
    let message =
        format!("the cluster has {held} partitions and can have {MAX_PARTITIONS}; {added} more do not fit");
    Err(Refusal::field(ErrorCode::InvalidPartitions, field, message))
}

/// Replicas for new partitions, spread over the active brokers.
pub(super) fn spread(
    image: &MetadataImage,
    partitions: usize,
    replication_factor: usize,
    seed: u64,
    behind: Option<BrokerId>,
) -> Result<Vec<Vec<BrokerId>>, Refusal> {
    let takers = image.brokers().filter(|broker| broker.takes_replicas());
    let candidates: Vec<Candidate<'_>> =
        takers.map(|broker| Candidate { id: broker.id, rack: broker.rack.as_deref() }).collect();
    if replication_factor > candidates.len() {
        let message = match candidates.len() {
            0 if image.active_brokers().next().is_some() => {
                "every active broker is being drained; cancel that or start another".to_owned()
            }
            0 => "no broker is active; start one and try again".to_owned(),
            live => format!(
                "replication factor {replication_factor} needs as many active brokers and there are {live}{}; \
                 use {live} or less, or start more brokers",
                if image.active_brokers().count() > live { " that are not being drained" } else { "" }
            ),
        };
        return Err(Refusal::field(ErrorCode::InvalidReplicationFactor, "replication_factor", message));
    }
    let mut placer = Placer::new(&candidates, seed, behind);
    Ok((0..partitions).map(|_| placer.place(replication_factor)).collect())
}

/// Whether replicas that a caller chose can be.
pub(super) fn check_assignments(
    image: &MetadataImage,
    assignments: &[Vec<BrokerId>],
    replication_factor: Option<usize>,
) -> Result<(), Refusal> {
    let factor = replication_factor.or(assignments.first().map(Vec::len)).unwrap_or(0);
    let active = activity(image);
    for (index, replicas) in assignments.iter().enumerate() {
        let field = format!("assignments[{index}]");
        if replicas.len() != factor || factor == 0 || factor > MAX_REPLICATION_FACTOR {
            let wanted = match replication_factor {
                Some(factor) => format!("{factor} replicas, as many as the topic's other partitions"),
                None => format!("the same number of replicas, from 1 to {MAX_REPLICATION_FACTOR}"),
            };
            let message = format!("every partition needs {wanted}; this one has {}", replicas.len());
            return Err(Refusal::field(ErrorCode::InvalidReplicationFactor, field, message));
        }
        let invalid =
            |message: String| Err(Refusal::field(ErrorCode::InvalidRequest, field.clone(), message));
        if replicas.iter().collect::<BTreeSet<_>>().len() != replicas.len() {
            return invalid("a broker is named twice; each holds one replica of a partition".to_owned());
        }
        if let Some(unknown) = replicas.iter().find(|id| image.broker(**id).is_none()) {
            return invalid(format!("broker {unknown} is not registered"));
        }
        let draining = |id: &&BrokerId| image.broker(**id).is_some_and(|broker| broker.draining);
        if let Some(draining) = replicas.iter().find(draining) {
            return invalid(format!("broker {draining} is being drained; cancel that or choose another"));
        }
        if !replicas.iter().any(|id| active(*id)) {
            return invalid("none of its brokers is active, so nobody could lead it".to_owned());
        }
    }
    Ok(())
}

/// A partition at its beginning. At least one replica is active: checked by whoever chose them.
pub(super) fn new_partition(image: &MetadataImage, replicas: Vec<BrokerId>) -> PartitionImage {
    let active = activity(image);
    // A replica that is away would have to catch up with nothing, but only once it is back.
    let isr: Vec<BrokerId> = replicas.iter().copied().filter(|id| active(*id)).collect();
    PartitionImage {
        leader: isr.first().copied().unwrap_or(BrokerId::NONE),
        leader_epoch: LeaderEpoch(0),
        partition_epoch: PartitionEpoch(0),
        replicas,
        isr,
        elr: Vec::new(),
        adding: Vec::new(),
        removing: Vec::new(),
        lost: false,
    }
}
