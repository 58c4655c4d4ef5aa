//! What a broker tells of a traced batch, through the process's OpenTelemetry tracer.
//!
//! ```text
//!   caller's span ──► append TOPIC ──┬──► replicate TOPIC, one for each follower in sync ──► its own append TOPIC
//!   (call, or beside the batch)      └──► commit TOPIC, until the high watermark has passed
//! ```
//! Nothing is traced unless the process has a tracer and the caller's span is sampled. Batches are never looked into for it.

mod append;
mod caller;
mod follower;
mod partition;
mod waiting;

pub use append::AppendSpan;
pub use caller::{current, of_call, of_stream};
pub use follower::Following;
pub use partition::{TracedBatch, Traces};
pub use thalweg_client::trace::Tracing;

use opentelemetry::KeyValue;
use thalweg_client::trace::{messaging, partition_id};
use thalweg_core::{BrokerId, LeaderEpoch, TopicPartition};

/// What each span of a broker says of its partition.
fn attributes(
    operation: &'static str,
    at: &TopicPartition,
    me: BrokerId,
    epoch: LeaderEpoch,
) -> impl Iterator<Item = KeyValue> {
    messaging(operation, at.topic.as_str()).into_iter().chain([
        partition_id(at.partition),
        KeyValue::new("thalweg.broker.id", i64::from(me.get())),
        KeyValue::new("thalweg.leader_epoch", i64::from(epoch.get())),
    ])
}
