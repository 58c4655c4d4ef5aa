//! Brokers come, go and return.

use super::{activity, current_broker, find_changes, is_word, put_changes, rules};
use crate::metadata::command::{BrokerRef, DrainBroker, Refusal, RegisterBroker, Response};
use crate::metadata::election::{self, Returned};
use crate::metadata::image::{BrokerRegistration, Endpoint, MetadataImage, PartitionImage};
use crate::metadata::limits::{
    MAX_BROKERS, MAX_LOG_DIR_ID_LEN, MAX_LOG_DIRS, MAX_NEEDED_LOG_DIRS, MAX_RACK_LEN,
};
use crate::{BrokerEpoch, ErrorCode};
use std::collections::BTreeSet;
use std::sync::Arc;

pub(super) fn register(image: &mut MetadataImage, command: &RegisterBroker) -> Result<Response, Refusal> {
    check_registration(image, command)?;
    let before = image.broker(command.id).map(Arc::clone);
    if let Some(before) = &before {
        if before.incarnation == command.incarnation {
            // The answer to the first attempt was lost on its way.
            return Ok(Response::BrokerRegistered { epoch: before.epoch });
        }
        if before.is_active() && !shares_a_disk(before, command) {
            let message = format!(
                "broker {} is alive at {}; stop it, or give this one another id",
                command.id, before.internal_endpoint
            );
            return Err(Refusal::field(ErrorCode::DuplicateBrokerId, "broker_id", message));
        }
    } else if image.brokers.len() >= MAX_BROKERS {
        let message =
            format!("the cluster has {MAX_BROKERS} brokers, the most it can have; unregister one first");
        return Err(Refusal::new(ErrorCode::PolicyViolation, message));
    }

    // Raft indexes do not reach i64::MAX.
    let epoch = BrokerEpoch(i64::try_from(image.version.get()).unwrap_or(i64::MAX));
    let registration = BrokerRegistration {
        id: command.id,
        epoch,
        incarnation: command.incarnation,
        endpoint: command.endpoint.clone(),
        internal_endpoint: command.internal_endpoint.clone(),
        rack: command.rack.clone(),
        log_dirs: command.log_dirs.clone(),
        // Until its first heartbeat with the metadata applied.
        fenced: true,
        in_controlled_shutdown: false,
        draining: before.as_ref().is_some_and(|before| before.draining),
        needed_log_dirs: Vec::new(),
    };
    put(image, registration.clone());
    if let Some(before) = before {
        let needed_log_dirs = take_back(image, &before, command);
        if !needed_log_dirs.is_empty() {
            put(image, BrokerRegistration { needed_log_dirs, ..registration });
        }
    }
    Ok(Response::BrokerRegistered { epoch })
}

/// The process that led is gone, so its leaderships must not look valid to the one that came; and what that one lacks of the data
/// decides where it still counts. Returns the log directories that would bring lost partitions back.
///
/// Where a partition's log is among a broker's directories is not known here, so that one missing directory puts all in doubt.
fn take_back(
    image: &mut MetadataImage,
    before: &BrokerRegistration,
    command: &RegisterBroker,
) -> Vec<String> {
    let has_all = |dirs: &[String]| dirs.iter().all(|dir| command.log_dirs.contains(dir));
    let closed_cleanly = command.clean_shutdown_epoch == Some(before.epoch);
    let disks_are_back = !before.needed_log_dirs.is_empty() && has_all(&before.needed_log_dirs);
    let whole = has_all(&before.log_dirs);
    let active = activity(image);
    let changes = find_changes(image, |partition, topic| {
        let returned = match () {
            () if !whole => Returned::Bare,
            // Not nothing: where nobody else has the records it has the most of what is left.
            () if command.damaged => Returned::Unsure,
            () if topic.config.write_caching && !closed_cleanly => Returned::Unsure,
            () => Returned::Whole,
        };
        election::after_registration(partition, command.id, returned, disks_are_back, rules(topic, &active))
    });
    drop(active);
    put_changes(image, changes);

    let lost = |partition: &Arc<PartitionImage>| partition.lost && partition.isr == [command.id];
    if !image.topics().any(|topic| topic.partitions.iter().any(lost)) {
        return Vec::new();
    }
    let mut needed = if disks_are_back { Vec::new() } else { before.needed_log_dirs.clone() };
    if !whole {
        needed.extend(before.log_dirs.iter().filter(|dir| !before.needed_log_dirs.contains(dir)).cloned());
    }
    needed.truncate(MAX_NEEDED_LOG_DIRS);
    needed
}

pub(super) fn fence(image: &mut MetadataImage, broker: BrokerRef) -> Result<Response, Refusal> {
    let registration = current_broker(image, broker)?;
    if registration.fenced {
        return Ok(Response::Done);
    }
    let registration = BrokerRegistration { fenced: true, ..registration.as_ref().clone() };
    put(image, registration);
    let active = activity(image);
    let changes = find_changes(image, |partition, topic| {
        election::after_fencing(partition, broker.id, rules(topic, &active))
    });
    drop(active);
    put_changes(image, changes);
    Ok(Response::Done)
}

pub(super) fn unfence(image: &mut MetadataImage, broker: BrokerRef) -> Result<Response, Refusal> {
    let registration = current_broker(image, broker)?;
    if registration.in_controlled_shutdown {
        let message = format!("broker {} asked to stop; restart it to bring it back", broker.id);
        return Err(Refusal::new(ErrorCode::InvalidRequest, message));
    }
    if !registration.fenced {
        return Ok(Response::Done);
    }
    let registration = BrokerRegistration { fenced: false, ..registration.as_ref().clone() };
    put(image, registration);
    let active = activity(image);
    let changes = find_changes(image, |partition, topic| match partition.is_online() {
        true => None,
        false => election::after_return(partition, rules(topic, &active)),
    });
    drop(active);
    put_changes(image, changes);
    Ok(Response::Done)
}

pub(super) fn begin_shutdown(image: &mut MetadataImage, broker: BrokerRef) -> Result<Response, Refusal> {
    let registration = current_broker(image, broker)?;
    if !registration.in_controlled_shutdown {
        let registration =
            BrokerRegistration { in_controlled_shutdown: true, ..registration.as_ref().clone() };
        put(image, registration);
    }
    // Asked again, it tries again: another replica may have caught up since.
    let active = activity(image);
    let changes = find_changes(image, |partition, topic| {
        election::after_shutdown_request(partition, broker.id, rules(topic, &active))
    });
    drop(active);
    put_changes(image, changes);
    Ok(Response::Done)
}

pub(super) fn drain(image: &mut MetadataImage, command: DrainBroker) -> Result<Response, Refusal> {
    let registration = image.broker(command.id).ok_or_else(|| {
        let message = format!("there is no broker {}", command.id);
        Refusal::field(ErrorCode::UnknownBroker, "broker_id", message)
    })?;
    let draining = !command.cancel;
    if registration.draining != draining {
        let registration = BrokerRegistration { draining, ..registration.as_ref().clone() };
        put(image, registration);
    }
    Ok(Response::Done)
}

pub(super) fn unregister(image: &mut MetadataImage, broker: BrokerRef) -> Result<Response, Refusal> {
    current_broker(image, broker)?;
    let held = image.replicas_of(broker.id);
    if held > 0 {
        let message =
            format!("broker {} holds replicas of {held} partitions; move or delete them first", broker.id);
        return Err(Refusal::field(ErrorCode::InvalidRequest, "broker_id", message));
    }
    Arc::make_mut(&mut image.brokers).remove(&broker.id);
    Ok(Response::Done)
}

fn put(image: &mut MetadataImage, registration: BrokerRegistration) {
    Arc::make_mut(&mut image.brokers).insert(registration.id, Arc::new(registration));
}

/// A log directory is locked by the process that uses it, so whoever presents one of the old process's has outlived it.
fn shares_a_disk(before: &BrokerRegistration, command: &RegisterBroker) -> bool {
    command.log_dirs.iter().any(|dir| before.log_dirs.contains(dir))
}

fn check_registration(image: &MetadataImage, command: &RegisterBroker) -> Result<(), Refusal> {
    let invalid =
        |field: &str, message: String| Err(Refusal::field(ErrorCode::InvalidRequest, field, message));
    match (&image.cluster_id, &command.cluster_id) {
        (Some(ours), Some(theirs)) if ours != theirs => {
            let message =
                format!("broker {} has data of cluster {theirs}, but this is cluster {ours}", command.id);
            return Err(Refusal::field(ErrorCode::InconsistentClusterId, "cluster_id", message));
        }
        _ => {}
    }
    if command.id.get() < 0 {
        return invalid("broker_id", format!("a broker's id is 0 or more, not {}", command.id));
    }
    for (field, endpoint) in
        [("endpoint", &command.endpoint), ("internal_endpoint", &command.internal_endpoint)]
    {
        if !Endpoint::is_valid(endpoint) {
            return invalid(field, format!("{field} must be \"host:port\" with a port from 1 to 65535"));
        }
    }
    if command.rack.as_ref().is_some_and(|rack| !is_word(rack, MAX_RACK_LEN)) {
        return invalid("rack", format!("a rack is 1 to {MAX_RACK_LEN} visible ASCII characters"));
    }
    let distinct: BTreeSet<&String> = command.log_dirs.iter().collect();
    if command.log_dirs.is_empty()
        || command.log_dirs.len() > MAX_LOG_DIRS
        || distinct.len() != command.log_dirs.len()
    {
        let message = format!("a broker has 1 to {MAX_LOG_DIRS} log directories, each with its own id");
        return invalid("log_directory_ids", message);
    }
    if !command.log_dirs.iter().all(|id| is_word(id, MAX_LOG_DIR_ID_LEN)) {
        let message = format!("a log directory's id is 1 to {MAX_LOG_DIR_ID_LEN} visible ASCII characters");
        return invalid("log_directory_ids", message);
    }
    Ok(())
}
