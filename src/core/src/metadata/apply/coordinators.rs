//! Coordinators come and go, and the shards with them.

use super::is_word;
use crate::metadata::command::{CoordinatorRef, Refusal, RegisterCoordinator, RenewShardLease, Response};
use crate::metadata::image::{Endpoint, MetadataImage};
use crate::metadata::limits::{MAX_COORDINATORS, MAX_RACK_LEN};
use crate::metadata::shards::{CoordinatorRegistration, hand_out, shards};
use crate::{CoordinatorEpoch, CoordinatorId, ErrorCode};
use std::sync::Arc;

pub(super) fn register(
    image: &mut MetadataImage,
    command: &RegisterCoordinator,
) -> Result<Response, Refusal> {
    check_registration(image, command)?;
    let before = image.coordinator(command.id).map(Arc::clone);
    match &before {
        // The answer to the first attempt was lost on its way. One that is fenced has lost its shards, and begins anew.
        Some(before) if before.incarnation == command.incarnation && !before.fenced => {
            return Ok(Response::CoordinatorRegistered { epoch: before.epoch });
        }
        None if image.coordinators.len() >= MAX_COORDINATORS => make_room(image)?,
        _ => {}
    }
    // Raft indexes do not reach i64::MAX.
    let epoch = CoordinatorEpoch(i64::try_from(image.version.get()).unwrap_or(i64::MAX));
    let registration = CoordinatorRegistration {
        id: command.id,
        epoch,
        incarnation: command.incarnation,
        endpoint: command.endpoint.clone(),
        rack: command.rack.clone(),
        fenced: false,
        in_controlled_shutdown: false,
    };
    put(image, registration);
    hand_out_shards(image, Some(command.id));
    Ok(Response::CoordinatorRegistered { epoch })
}

pub(super) fn fence(image: &mut MetadataImage, coordinator: CoordinatorRef) -> Result<Response, Refusal> {
    let registration = current(image, coordinator)?;
    if !registration.fenced {
        let registration = CoordinatorRegistration { fenced: true, ..registration.as_ref().clone() };
        put(image, registration);
        hand_out_shards(image, None);
    }
    Ok(Response::Done)
}

pub(super) fn begin_shutdown(
    image: &mut MetadataImage,
    coordinator: CoordinatorRef,
) -> Result<Response, Refusal> {
    let registration = current(image, coordinator)?;
    if !registration.in_controlled_shutdown {
        let registration =
            CoordinatorRegistration { in_controlled_shutdown: true, ..registration.as_ref().clone() };
        put(image, registration);
        hand_out_shards(image, None);
    }
    Ok(Response::Done)
}

pub(super) fn unregister(
    image: &mut MetadataImage,
    coordinator: CoordinatorRef,
) -> Result<Response, Refusal> {
    let registration = current(image, coordinator)?;
    let id = coordinator.id;
    if registration.is_active() {
        let message = format!("coordinator {id} is alive at {}; stop it first", registration.endpoint);
        return Err(Refusal::field(ErrorCode::PolicyViolation, "coordinator_id", message));
    }
    // It gave them all away when it was fenced, or asked to stop.
    if image.leases().any(|(_, lease)| lease.coordinator == Some(id)) {
        let message = format!("coordinator {id} still has shards; try again");
        return Err(Refusal::field(ErrorCode::PolicyViolation, "coordinator_id", message));
    }
    Arc::make_mut(&mut image.coordinators).remove(&id);
    Ok(Response::Done)
}

pub(super) fn renew_lease(image: &mut MetadataImage, command: &RenewShardLease) -> Result<Response, Refusal> {
    let RenewShardLease { coordinator, shard, lease_epoch } = command;
    current(image, *coordinator)?;
    let lease = image.leases.get(shard).copied();
    let lease =
        lease.filter(|lease| lease.coordinator == Some(coordinator.id) && lease.epoch == *lease_epoch);
    let lease = lease.ok_or_else(|| {
        let message = format!("coordinator {} has no lease {lease_epoch} of {shard}", coordinator.id);
        Refusal::field(ErrorCode::StaleCoordinatorEpoch, "lease_epoch", message)
    })?;
    let mut next_producer_id = image.next_producer_id;
    let renewed = lease.granted(coordinator.id, &mut next_producer_id);
    image.next_producer_id = next_producer_id;
    Arc::make_mut(&mut image.leases).insert(shard.clone(), renewed);
    Ok(Response::Done)
}

/// Gives every shard to an active coordinator. To be called in each command that changes which shards or coordinators there are;
/// `restarted` is another process than before.
pub(super) fn hand_out_shards(image: &mut MetadataImage, restarted: Option<CoordinatorId>) {
    let active = image.coordinators().filter(|one| one.is_active()).map(|one| one.id);
    let mut next_producer_id = image.next_producer_id;
    let leases = hand_out(&image.leases, shards(image), active, restarted, &mut next_producer_id);
    if leases != *image.leases {
        image.leases = Arc::new(leases);
    }
    image.next_producer_id = next_producer_id;
}

/// Forgets the coordinator that is gone for longest.
fn make_room(image: &mut MetadataImage) -> Result<(), Refusal> {
    let gone = image.coordinators().filter(|one| one.fenced).min_by_key(|one| one.epoch).map(|one| one.id);
    let gone = gone.ok_or_else(|| {
        let message =
            format!("the cluster has {MAX_COORDINATORS} coordinators, the most it can have; stop one first");
        Refusal::new(ErrorCode::PolicyViolation, message)
    })?;
    Arc::make_mut(&mut image.coordinators).remove(&gone);
    Ok(())
}

fn put(image: &mut MetadataImage, registration: CoordinatorRegistration) {
    Arc::make_mut(&mut image.coordinators).insert(registration.id, Arc::new(registration));
}

/// The coordinator's registration, if the caller speaks for its current incarnation.
fn current(
    image: &MetadataImage,
    coordinator: CoordinatorRef,
) -> Result<&Arc<CoordinatorRegistration>, Refusal> {
    let stale =
        |message: String| Refusal::field(ErrorCode::StaleCoordinatorEpoch, "coordinator_epoch", message);
    let CoordinatorRef { id, epoch } = coordinator;
    match image.coordinator(id) {
        Some(registration) if registration.epoch == epoch => Ok(registration),
        Some(registration) => Err(stale(format!(
            "coordinator {id} is registered with epoch {}, not {epoch}; this process was replaced",
            registration.epoch
        ))),
        None => Err(stale(format!("coordinator {id} is not registered; register it first"))),
    }
}

fn check_registration(image: &MetadataImage, command: &RegisterCoordinator) -> Result<(), Refusal> {
    if let (Some(ours), Some(theirs)) = (&image.cluster_id, &command.cluster_id)
        && ours != theirs
    {
        let message =
            format!("coordinator {} belongs to cluster {theirs}, but this is cluster {ours}", command.id);
        return Err(Refusal::field(ErrorCode::InconsistentClusterId, "cluster_id", message));
    }
    let invalid =
        |field: &str, message: String| Err(Refusal::field(ErrorCode::InvalidRequest, field, message));
    if command.id.get() < 0 {
        return invalid("coordinator_id", format!("a coordinator's id is 0 or more, not {}", command.id));
    }
    if !Endpoint::is_valid(&command.endpoint) {
        return invalid("endpoint", "endpoint must be \"host:port\" with a port from 1 to 65535".to_owned());
    }
    if command.rack.as_ref().is_some_and(|rack| !is_word(rack, MAX_RACK_LEN)) {
        return invalid("rack", format!("a rack is 1 to {MAX_RACK_LEN} visible ASCII characters"));
    }
    Ok(())
}
