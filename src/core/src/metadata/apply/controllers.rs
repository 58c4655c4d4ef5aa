//! Controllers are noted, so that whoever knows one finds the others.

use crate::metadata::command::{PutController, Refusal, Response};
use crate::metadata::image::{Endpoint, MetadataImage};
use crate::metadata::limits::MAX_CONTROLLERS;
use crate::{ErrorCode, NodeId};
use std::sync::Arc;

pub(super) fn put(image: &mut MetadataImage, command: &PutController) -> Result<Response, Refusal> {
    if command.id.get() == 0 {
        let message = "a controller's id is 1 or more";
        return Err(Refusal::field(ErrorCode::InvalidRequest, "node_id", message));
    }
    if !Endpoint::is_valid(&command.endpoint) {
        let message = "endpoint must be \"host:port\" with a port from 1 to 65535";
        return Err(Refusal::field(ErrorCode::InvalidRequest, "endpoint", message));
    }
    if image.controllers.get(&command.id) == Some(&command.endpoint) {
        return Ok(Response::Done);
    }
    if image.controllers.len() >= MAX_CONTROLLERS && !image.controllers.contains_key(&command.id) {
        let message = format!("a cluster has at most {MAX_CONTROLLERS} controllers");
        return Err(Refusal::new(ErrorCode::PolicyViolation, message));
    }
    Arc::make_mut(&mut image.controllers).insert(command.id, command.endpoint.clone());
    Ok(Response::Done)
}

pub(super) fn remove(image: &mut MetadataImage, id: NodeId) -> Result<Response, Refusal> {
    if image.controllers.contains_key(&id) {
        Arc::make_mut(&mut image.controllers).remove(&id);
    }
    Ok(Response::Done)
}
