//! Partitions are given other replicas.

use crate::ErrorCode;
use crate::metadata::command::{ReassignPartitions, Refusal, Response};
use crate::metadata::image::MetadataImage;

pub(super) fn reassign(
    _image: &mut MetadataImage,
    _command: &ReassignPartitions,
) -> Result<Response, Refusal> {
    Err(Refusal::new(ErrorCode::Unsupported, "partitions cannot be moved yet"))
}
