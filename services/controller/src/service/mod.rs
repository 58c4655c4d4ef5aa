//! The controller's gRPC services: decode, call, encode.

pub mod admin;
mod brokers;
mod coordinators;
pub mod features;
pub mod internal;
mod partitions;
mod topics;
mod voters;
mod watch;

pub use features::Features;
pub use voters::Voters;

use thalweg_core::{BrokerId, ErrorCode, MetadataVersion, TopicName};
use thalweg_proto::ApiError;
use thalweg_proto::v1;

/// Notes the version of a change, or its error: as the status if the request names one thing only, else as a field.
fn note(
    outcome: Result<MetadataVersion, ApiError>,
    version: &mut u64,
    single: bool,
) -> Result<Option<v1::Error>, ApiError> {
    match outcome {
        Ok(applied) => {
            *version = (*version).max(applied.get());
            Ok(None)
        }
        Err(error) if single => Err(error),
        Err(error) => Ok(Some(error.to_proto())),
    }
}

fn check_count(count: usize, limit: usize, field: &str) -> Result<(), ApiError> {
    if (1..=limit).contains(&count) {
        return Ok(());
    }
    Err(ApiError::invalid(field, format!("a request names 1 to {limit} of them, not {count}")))
}

/// A name that cannot be names nothing.
fn existing_name(name: &str) -> Result<TopicName, ApiError> {
    TopicName::new(name).map_err(|_| {
        let shown: String = name.chars().take(TopicName::MAX_LEN).collect();
        ApiError::new(ErrorCode::UnknownTopic, format!("topic {shown} does not exist")).with_field("topic")
    })
}

fn broker_ids(ids: Vec<i32>) -> Vec<BrokerId> {
    ids.into_iter().map(BrokerId).collect()
}

fn unexpected(what: &str) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("{what} was answered with something else"))
}
