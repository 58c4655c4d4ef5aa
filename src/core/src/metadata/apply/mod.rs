//! The one function that changes metadata. Every handler checks all it needs before it changes anything, so that a refused
//! command leaves no trace.

mod brokers;
mod controllers;
mod coordinators;
mod elections;
mod partitions;
mod reassignments;
mod topics;

use super::command::{
    AllocateProducerIds, BrokerRef, Command, InitCluster, ProducerIdBlock, Refusal, Response,
};
use super::election::Rules;
use super::features;
use super::image::{BrokerRegistration, FEATURE_LEVEL, MetadataImage, PartitionImage, TopicImage};
use super::limits::{MAX_CLUSTER_ID_LEN, MAX_PRODUCER_ID_BLOCK};
use crate::{BrokerId, ErrorCode, MetadataVersion, PartitionId, ProducerId, TopicName};
use std::sync::Arc;

/// Applies the command at Raft index `index`. Same image and same command, same result, on every machine.
///
/// A refusal changes nothing but the version. An index that is not greater than the image's version changes nothing at all
/// and is refused with [`ErrorCode::Internal`]: the caller must not apply a command twice.
pub fn apply(
    image: &mut MetadataImage,
    index: MetadataVersion,
    command: &Command,
) -> Result<Response, Refusal> {
    if index <= image.version {
        return Err(Refusal::already_applied(index, image.version));
    }
    image.version = index;
    command.check_level(image.feature_level)?;
    match command {
        Command::InitCluster(command) => init_cluster(image, command),
        _ if image.cluster_id.is_none() => Err(Refusal::new(
            ErrorCode::ControllerNotAvailable,
            "the cluster is not initialised yet; try again",
        )),
        Command::RegisterBroker(command) => brokers::register(image, command),
        Command::FenceBroker(broker) => brokers::fence(image, *broker),
        Command::UnfenceBroker(broker) => brokers::unfence(image, *broker),
        Command::BeginControlledShutdown(broker) => brokers::begin_shutdown(image, *broker),
        Command::UnregisterBroker(broker) => brokers::unregister(image, *broker),
        Command::CreateTopic(command) => topics::create(image, command),
        Command::DeleteTopic(command) => topics::delete(image, command),
        Command::CreatePartitions(command) => partitions::create(image, command),
        Command::AlterTopicConfig(command) => topics::alter_config(image, command),
        Command::AllocateProducerIds(command) => allocate_producer_ids(image, *command),
        Command::AlterPartition(command) => partitions::alter(image, command),
        Command::AlterPartitions(command) => partitions::alter_many(image, command),
        Command::ElectLeaders(command) => elections::elect(image, command),
        Command::ReassignPartitions(command) => reassignments::reassign(image, command),
        Command::DrainBroker(command) => brokers::drain(image, *command),
        Command::PutController(command) => controllers::put(image, command),
        Command::RemoveController(id) => controllers::remove(image, *id),
        Command::RegisterCoordinator(command) => coordinators::register(image, command),
        Command::FenceCoordinator(coordinator) => coordinators::fence(image, *coordinator),
        Command::BeginCoordinatorShutdown(coordinator) => coordinators::begin_shutdown(image, *coordinator),
        Command::UnregisterCoordinator(coordinator) => coordinators::unregister(image, *coordinator),
        Command::RenewShardLease(command) => coordinators::renew_lease(image, command),
        Command::FinalizeFeatureLevel(command) => features::apply_level(image, command),
    }
}

/// What the command would do, without doing it: for `validate_only` requests. The image given back is the one that the
/// command would make if it were the next.
pub fn dry_run(image: &MetadataImage, command: &Command) -> Result<(Response, MetadataImage), Refusal> {
    let mut next = image.clone();
    let index = MetadataVersion(image.version.get().saturating_add(1));
    let response = apply(&mut next, index, command)?;
    Ok((response, next))
}

fn init_cluster(image: &mut MetadataImage, command: &InitCluster) -> Result<Response, Refusal> {
    let id = &command.cluster_id.0;
    if id.is_empty() || id.len() > MAX_CLUSTER_ID_LEN || !id.bytes().all(|b| b.is_ascii_graphic()) {
        let message = format!("a cluster id is 1 to {MAX_CLUSTER_ID_LEN} visible ASCII characters");
        return Err(Refusal::field(ErrorCode::InvalidRequest, "cluster_id", message));
    }
    match &image.cluster_id {
        Some(ours) if *ours == command.cluster_id => return Ok(Response::Done),
        Some(ours) => {
            let message =
                format!("this cluster is {ours}, not {}; use its own data folder", command.cluster_id);
            return Err(Refusal::field(ErrorCode::InconsistentClusterId, "cluster_id", message));
        }
        None => {}
    }
    if command.feature_level == 0 || command.feature_level > FEATURE_LEVEL {
        let message = format!(
            "feature level {} is not known here; use one from 1 to {FEATURE_LEVEL}, or a newer program",
            command.feature_level
        );
        return Err(Refusal::field(ErrorCode::Unsupported, "feature_level", message));
    }
    image.cluster_id = Some(command.cluster_id.clone());
    image.feature_level = command.feature_level;
    Ok(Response::Done)
}

fn allocate_producer_ids(
    image: &mut MetadataImage,
    command: AllocateProducerIds,
) -> Result<Response, Refusal> {
    current_broker(image, command.broker)?;
    if !(1..=MAX_PRODUCER_ID_BLOCK).contains(&command.count) {
        let message = format!("a block has 1 to {MAX_PRODUCER_ID_BLOCK} producer ids, not {}", command.count);
        return Err(Refusal::field(ErrorCode::InvalidRequest, "count", message));
    }
    let first = image.next_producer_id;
    image.next_producer_id = first
        .checked_add(i64::from(command.count))
        .ok_or_else(|| Refusal::new(ErrorCode::Internal, "all producer ids are used up"))?;
    Ok(Response::ProducerIds(ProducerIdBlock { first: ProducerId(first), count: command.count }))
}

/// The broker's registration, if the caller speaks for its current incarnation.
fn current_broker(image: &MetadataImage, broker: BrokerRef) -> Result<&Arc<BrokerRegistration>, Refusal> {
    let registration = image.broker(broker.id).ok_or_else(|| {
        Refusal::field(
            ErrorCode::BrokerNotRegistered,
            "broker_id",
            format!("broker {} is not registered; register it first", broker.id),
        )
    })?;
    if registration.epoch != broker.epoch {
        let message = format!(
            "broker {} is registered with epoch {}, not {}; this process was replaced and must register anew",
            broker.id, registration.epoch, broker.epoch
        );
        return Err(Refusal::field(ErrorCode::StaleBrokerEpoch, "broker_epoch", message));
    }
    Ok(registration)
}

/// Whether a text from outside may name a rack, a directory: visible, of bounded length.
fn is_word(text: &str, max_len: usize) -> bool {
    !text.is_empty() && text.len() <= max_len && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Whether a broker may lead, by its registration.
fn activity(image: &MetadataImage) -> impl Fn(BrokerId) -> bool + use<'_> {
    |id| image.broker(id).is_some_and(|broker| broker.is_active())
}

/// The topic of that name, or the refusal that says there is none.
fn existing_topic<'a>(
    image: &'a MetadataImage,
    name: &TopicName,
    field: &str,
) -> Result<&'a Arc<TopicImage>, Refusal> {
    image.topic(name.as_str()).ok_or_else(|| {
        let message = format!("there is no topic \"{name}\"; create it first or check its name");
        Refusal::field(ErrorCode::UnknownTopic, field, message)
    })
}

/// The partition of that index, or the refusal that says there is none.
fn existing_partition<'a>(
    topic: &'a TopicImage,
    partition: PartitionId,
    field: &str,
) -> Result<&'a Arc<PartitionImage>, Refusal> {
    topic.partition(partition).ok_or_else(|| {
        let message = format!("topic \"{}\" has no partition {partition}", topic.name);
        Refusal::field(ErrorCode::UnknownPartition, field, message)
    })
}

/// What the topic and the brokers say about an election. `active` is [`activity`].
fn rules<'a>(topic: &TopicImage, active: &'a dyn Fn(BrokerId) -> bool) -> Rules<'a> {
    Rules {
        active,
        unclean: topic.config.unclean_leader_election_enable,
        min_insync_replicas: topic.config.min_insync_replicas,
    }
}

/// Changes of one topic's partitions, found by looking at an image and put into it later.
struct TopicChanges {
    topic: TopicName,
    /// With their index.
    partitions: Vec<(usize, PartitionImage)>,
}

/// Looks once at every partition of every topic and collects what `rule` changes.
fn find_changes(
    image: &MetadataImage,
    rule: impl Fn(&PartitionImage, &TopicImage) -> Option<PartitionImage>,
) -> Vec<TopicChanges> {
    let changes = image.topics().map(|topic| find_changes_of(topic, |partition| rule(partition, topic)));
    changes.filter(|changes| !changes.partitions.is_empty()).collect()
}

/// Looks at every partition of one topic and collects what `rule` changes.
fn find_changes_of(
    topic: &TopicImage,
    rule: impl Fn(&PartitionImage) -> Option<PartitionImage>,
) -> TopicChanges {
    let partitions = topic.partitions.iter().enumerate();
    let changed = partitions.filter_map(|(index, before)| Some((index, rule(before)?)));
    TopicChanges { partitions: changed.collect(), topic: topic.name.clone() }
}

/// Puts changes into the image they were found in. Each topic is copied once, and only if someone else still holds it.
fn put_changes(image: &mut MetadataImage, changes: Vec<TopicChanges>) {
    if changes.iter().all(|changes| changes.partitions.is_empty()) {
        return;
    }
    let topics = Arc::make_mut(&mut image.topics);
    for TopicChanges { topic, partitions } in changes {
        let Some(topic) = topics.get_mut(&topic).filter(|_| !partitions.is_empty()) else { continue };
        let topic = Arc::make_mut(topic);
        for (index, partition) in partitions {
            if let Some(place) = topic.partitions.get_mut(index) {
                *place = Arc::new(partition);
            }
        }
    }
}
