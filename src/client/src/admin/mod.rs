//! Creates, describes and changes topics, groups and the cluster.

mod cluster;
mod groups;
mod offsets;
mod placement;
mod topics;

pub use cluster::BrokerReport;
pub(crate) use offsets::resolve;

use crate::client::MAX_CONTROL_MESSAGE;
use crate::proto::admin_service_client::AdminServiceClient;
use crate::proto::cluster_service_client::ClusterServiceClient;
use crate::trace::Traced;
use crate::{Client, ClientError, proto};
use std::collections::BTreeMap;

/// The calls that create, describe and change topics. Retriable failures are retried within the client's
/// `request_timeout`. A call whose answer was lost may have been done: its retry can then be refused, for example
/// with `TOPIC_ALREADY_EXISTS`.
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

/// A topic to create.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// 1 to 249 of `a-z`, `A-Z`, `0-9`, `.`, `_` and `-`.
    pub name: String,
    /// How many partitions. Default: the cluster's.
    pub partitions: Option<i32>,
    /// How many replicas each has. Default: the cluster's.
    pub replication_factor: Option<i32>,
    /// Keys that differ from their default.
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with the cluster's defaults.
    pub fn new(name: impl Into<String>) -> NewTopic {
        NewTopic { name: name.into(), ..NewTopic::default() }
    }
}

impl Admin {
    pub(crate) fn new(client: Client) -> Admin {
        Admin { client }
    }
}

fn admin(channel: Traced) -> AdminServiceClient<Traced> {
    AdminServiceClient::new(channel).max_decoding_message_size(MAX_CONTROL_MESSAGE)
}

fn cluster(channel: Traced) -> ClusterServiceClient<Traced> {
    ClusterServiceClient::new(channel).max_decoding_message_size(MAX_CONTROL_MESSAGE)
}

/// The outcome of a call for exactly one thing.
fn only<T>(results: Vec<T>, split: impl FnOnce(T) -> Option<proto::Error>) -> Result<(), ClientError> {
    let result = results.into_iter().next().ok_or(ClientError::Protocol("an answer has no result"))?;
    match split(result) {
        Some(error) => Err(thalweg_proto::ApiError::from_proto(&error).into()),
        None => Ok(()),
    }
}
