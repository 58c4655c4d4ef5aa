//! What is true of every image, whatever commands made it. Checked after a snapshot is read, and by the tests.

use super::image::{MetadataImage, PartitionImage, TopicImage};
use super::limits::{
    MAX_BROKERS, MAX_CONTROLLERS, MAX_COORDINATORS, MAX_NEEDED_LOG_DIRS, MAX_PARTITIONS,
    MAX_PARTITIONS_PER_TOPIC, MAX_REPLICATION_FACTOR, MAX_TOPICS,
};
use super::shards::shards;
use crate::{BrokerId, CoordinatorId, TopicId, TopicPartition};
use std::collections::{BTreeMap, BTreeSet};

/// An image that no sequence of commands can make.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Violation(String);

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(Violation(format!($($message)+)));
        }
    };
}

/// Checks an image against all invariants.
pub fn check(image: &MetadataImage) -> Result<(), Violation> {
    let empty = image.brokers.is_empty() && image.topics.is_empty();
    ensure!(image.cluster_id.is_some() || empty, "a cluster without id has brokers or topics");
    ensure!(image.next_producer_id >= 0, "the next producer id is {}", image.next_producer_id);
    ensure!(image.brokers.len() <= MAX_BROKERS, "{} brokers", image.brokers.len());
    for (id, broker) in image.brokers.iter() {
        ensure!(*id == broker.id && id.get() >= 0, "broker {} is filed under {id}", broker.id);
        ensure!(
            broker.needed_log_dirs.len() <= MAX_NEEDED_LOG_DIRS,
            "broker {id} needs {} log directories",
            broker.needed_log_dirs.len()
        );
        let registered_in_the_past =
            u64::try_from(broker.epoch.get()).is_ok_and(|at| at <= image.version.get());
        ensure!(
            registered_in_the_past,
            "broker {id} has epoch {} at version {}",
            broker.epoch,
            image.version
        );
    }
    ensure!(image.controllers.len() <= MAX_CONTROLLERS, "{} controllers", image.controllers.len());
    for (id, endpoint) in image.controllers.iter() {
        ensure!(id.get() != 0 && endpoint.is_valid(), "controller {id} is at {endpoint}");
    }
    ensure!(image.topics.len() <= MAX_TOPICS, "{} topics", image.topics.len());
    ensure!(image.topics.len() == image.topic_names.len(), "the indexes of topics differ in length");
    for (name, topic) in image.topics.iter() {
        ensure!(*name == topic.name, "topic {} is filed under {name}", topic.name);
        ensure!(image.topic_names.get(&topic.id) == Some(name), "the id of topic {name} leads elsewhere");
        ensure!(topic.id != TopicId::default(), "topic {name} has no id");
        check_topic(image, topic)?;
    }
    let partitions: usize = image.topics().map(|topic| topic.partitions.len()).sum();
    ensure!(partitions == image.partition_count, "{partitions} partitions, not {}", image.partition_count);
    ensure!(partitions <= MAX_PARTITIONS, "{partitions} partitions");
    check_coordinators(image)?;
    check_leases(image)
}

fn check_coordinators(image: &MetadataImage) -> Result<(), Violation> {
    ensure!(image.coordinators.len() <= MAX_COORDINATORS, "{} coordinators", image.coordinators.len());
    for (id, coordinator) in image.coordinators.iter() {
        ensure!(*id == coordinator.id && id.get() >= 0, "coordinator {} is filed under {id}", coordinator.id);
        let registered_in_the_past =
            u64::try_from(coordinator.epoch.get()).is_ok_and(|at| at <= image.version.get());
        ensure!(
            registered_in_the_past,
            "coordinator {id} has epoch {} at version {}",
            coordinator.epoch,
            image.version
        );
        ensure!(coordinator.endpoint.is_valid(), "coordinator {id} is at {}", coordinator.endpoint);
    }
    Ok(())
}

fn check_leases(image: &MetadataImage) -> Result<(), Violation> {
    let shards: BTreeSet<TopicPartition> = shards(image).collect();
    let active = image.coordinators().filter(|one| one.is_active());
    let mut held: BTreeMap<CoordinatorId, usize> = active.map(|one| (one.id, 0)).collect();
    let mut writers = BTreeSet::new();
    let mut all_owned = image.leases.len() == shards.len();
    for (shard, lease) in image.leases() {
        ensure!(shards.contains(shard), "{shard} is leased but no shard");
        ensure!(lease.epoch.get() >= 0, "the lease of {shard} has epoch {}", lease.epoch);
        let (id, epoch) = (lease.producer_id.get(), lease.producer_epoch.get());
        let has_writer = (0..image.next_producer_id).contains(&id) && epoch >= 0;
        ensure!(
            has_writer || (id, epoch) == (-1, -1),
            "{shard} is written by producer {id} in epoch {epoch}"
        );
        ensure!(!has_writer || writers.insert(id), "{shard} is written by producer {id}, as another shard");
        match lease.coordinator {
            Some(owner) => {
                ensure!(lease.epoch.get() > 0 && has_writer, "{shard} has an owner and no epochs: {lease:?}");
                let count = held.get_mut(&owner);
                ensure!(count.is_some(), "{shard} is leased to coordinator {owner}, which is not active");
                count.into_iter().for_each(|count| *count += 1);
            }
            // Only when the producer ids are used up, or by a version that did not hand them out.
            None => all_owned = false,
        }
    }
    let (least, most) = (held.values().min(), held.values().max());
    let even = most.zip(least).is_none_or(|(most, least)| most - least <= 1);
    ensure!(even || !all_owned, "the shards are not spread evenly: {held:?}");
    Ok(())
}

fn check_topic(image: &MetadataImage, topic: &TopicImage) -> Result<(), Violation> {
    let count = topic.partitions.len();
    ensure!((1..=MAX_PARTITIONS_PER_TOPIC).contains(&count), "topic {} has {count} partitions", topic.name);
    for (id, partition) in topic.partitions() {
        check_partition(image, partition)
            .map_err(|Violation(what)| Violation(format!("{}-{id}: {what}", topic.name)))?;
    }
    Ok(())
}

fn check_partition(image: &MetadataImage, partition: &PartitionImage) -> Result<(), Violation> {
    let PartitionImage { leader, leader_epoch, partition_epoch, replicas, isr, elr, adding, removing, lost } =
        partition;
    // Twice as many during a reassignment: the old ones and the new ones.
    for count in [partition.target_replicas().count(), partition.settled_replicas().count()] {
        ensure!((1..=MAX_REPLICATION_FACTOR).contains(&count), "{count} replicas");
    }
    ensure!(is_set(replicas), "a replica is named twice: {replicas:?}");
    for id in replicas {
        ensure!(image.broker(*id).is_some(), "replica {id} is not registered");
    }
    ensure!(!isr.is_empty() && is_set(isr), "the ISR is {isr:?}");
    ensure!(
        isr.iter().all(|id| replicas.contains(id)),
        "the ISR {isr:?} is not among the replicas {replicas:?}"
    );
    ensure!(
        is_set(elr) && elr.iter().all(|id| replicas.contains(id) && !isr.contains(id)),
        "the eligible replicas {elr:?} are not some of {replicas:?} out of the ISR {isr:?}"
    );
    ensure!(
        is_set(adding) && adding.iter().all(|id| replicas.contains(id) && !removing.contains(id)),
        "replicas {adding:?} are added but not among {replicas:?}, or removed as well"
    );
    ensure!(
        is_set(removing) && replicas.ends_with(removing),
        "replicas {removing:?} are removed but not the end of {replicas:?}"
    );
    ensure!(
        !lost || (*leader == BrokerId::NONE && isr.len() == 1 && elr.is_empty()),
        "it is lost, but led by {leader} with the ISR {isr:?} and {elr:?} eligible"
    );
    // A fenced broker may not be waited for, unless it alone has everything that was acknowledged.
    let fenced = |id: &BrokerId| image.broker(*id).is_none_or(|broker| broker.fenced);
    ensure!(isr.len() == 1 || !isr.iter().any(fenced), "a member of the ISR {isr:?} is fenced");
    if *leader != BrokerId::NONE {
        ensure!(isr.contains(leader), "leader {leader} is not in the ISR {isr:?}");
        ensure!(!fenced(leader), "leader {leader} is fenced");
    }
    ensure!(
        leader_epoch.get() >= 0 && partition_epoch.get() >= 0,
        "epochs {leader_epoch}, {partition_epoch}"
    );
    Ok(())
}

fn is_set(ids: &[BrokerId]) -> bool {
    ids.iter().collect::<BTreeSet<_>>().len() == ids.len()
}
