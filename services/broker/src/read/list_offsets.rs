//! ListOffsets and DeleteRecords: where a partition begins and ends, and moving its beginning.

use super::{SETTLE_PATIENCE, bound_of, check_routing, offset_not_available, settled};
use crate::node::Node;
use crate::refusal;
use std::sync::Arc;
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, Timestamp};
use thalweg_log::ReadBound;
use thalweg_proto::{ApiError, v1};
use thalweg_runtime::blocking;
use tokio::time::Instant;

/// Partitions in one request.
pub const MAX_PARTITIONS: usize = 10_000;

/// Serves ListOffsets. Lookups by time read files, so they run on a thread that may block.
pub async fn list_offsets(
    node: Arc<Node>,
    request: v1::ListOffsetsRequest,
) -> Result<v1::ListOffsetsResponse, ApiError> {
    check_count(request.partitions.len())?;
    check_routing(request.routing)?;
    let bound = bound_of(request.isolation_level)?;
    let alone = request.partitions.len() == 1;
    let reads_files = request.partitions.iter().any(|wanted| {
        wanted.spec == v1::OffsetSpec::Timestamp as i32 || wanted.spec == v1::OffsetSpec::MaxTimestamp as i32
    });
    settle(&node, &request.partitions).await;
    let look = move || {
        let results = request.partitions.into_iter().map(|wanted| match offset_of(&node, &wanted, bound) {
            Ok(result) => Ok(result),
            Err(error) if alone => Err(error),
            Err(error) => Ok(v1::ListOffsetsResult {
                topic: wanted.topic,
                partition: wanted.partition,
                offset: Offset::NONE.get(),
                timestamp_ms: Timestamp::NONE.as_millis(),
                leader_epoch: -1,
                error: Some(error.to_proto()),
            }),
        });
        Ok(v1::ListOffsetsResponse { results: results.collect::<Result<_, ApiError>>()? })
    };
    if reads_files { off_thread(look).await } else { look() }
}

/// Gives leaders that were just elected a moment to learn how far their partitions are committed.
async fn settle(node: &Node, partitions: &[v1::ListOffsetsPartition]) {
    let until = Instant::now() + SETTLE_PATIENCE;
    for wanted in partitions.iter().filter(|wanted| wanted.spec != v1::OffsetSpec::Earliest as i32) {
        if let Ok(partition) = node.led_here(&wanted.topic, wanted.partition) {
            // One that is not settled then is refused by itself.
            let _ = settled(&partition, until).await;
        }
    }
}

fn offset_of(
    node: &Node,
    wanted: &v1::ListOffsetsPartition,
    bound: ReadBound,
) -> Result<v1::ListOffsetsResult, ApiError> {
    let spec = v1::OffsetSpec::try_from(wanted.spec)
        .map_err(|_| ApiError::invalid("spec", format!("{} is no offset spec", wanted.spec)))?;
    let partition = node.led_here(&wanted.topic, wanted.partition)?;
    if let (Some(least), Some(role)) = (wanted.min_leader_epoch, partition.leading())
        && role.leader_epoch < LeaderEpoch(least)
    {
        node.check_epoch(Some(least), role.leader_epoch)?;
    }
    let log = partition.log();
    let end = match bound {
        ReadBound::LastStable => log.last_stable_offset(),
        _ => log.high_watermark(),
    };
    let found = match spec {
        v1::OffsetSpec::Unspecified | v1::OffsetSpec::Latest => Some((end, Timestamp::NONE)),
        v1::OffsetSpec::Earliest => Some((log.log_start_offset(), Timestamp::NONE)),
        v1::OffsetSpec::Timestamp => log
            .offset_for_timestamp(Timestamp(wanted.timestamp_ms))
            .map_err(|error| refusal::read(&error, end))?,
        v1::OffsetSpec::MaxTimestamp => {
            log.max_timestamp_offset().map_err(|error| refusal::read(&error, end))?
        }
    };
    let by_time = matches!(spec, v1::OffsetSpec::Timestamp | v1::OffsetSpec::MaxTimestamp);
    // The log looks at all that it has; a caller sees what is committed.
    let found = found.filter(|(offset, _)| !by_time || *offset < end);
    // What an earlier leader told may lie above what this one may tell (catalogue 6).
    let latest = matches!(spec, v1::OffsetSpec::Unspecified | v1::OffsetSpec::Latest);
    if (latest || spec == v1::OffsetSpec::MaxTimestamp || found.is_none()) && partition.is_settling() {
        return Err(offset_not_available(&partition));
    }
    let (offset, timestamp) = found.unwrap_or((Offset::NONE, Timestamp::NONE));
    Ok(v1::ListOffsetsResult {
        topic: wanted.topic.clone(),
        partition: wanted.partition,
        offset: offset.get(),
        timestamp_ms: timestamp.as_millis(),
        leader_epoch: partition.role().leader_epoch.get(),
        error: None,
    })
}

/// Serves DeleteRecords. Returns once the new beginning is stable.
pub async fn delete_records(
    node: Arc<Node>,
    request: v1::DeleteRecordsRequest,
) -> Result<v1::DeleteRecordsResponse, ApiError> {
    check_count(request.partitions.len())?;
    check_routing(request.routing)?;
    let alone = request.partitions.len() == 1;
    let until = Instant::now() + SETTLE_PATIENCE;
    for wanted in &request.partitions {
        if let Ok(partition) = node.led_here(&wanted.topic, wanted.partition) {
            let _ = settled(&partition, until).await;
        }
    }
    off_thread(move || {
        let results = request.partitions.into_iter().map(|wanted| match delete(&node, &wanted) {
            Ok(log_start) => Ok(v1::DeleteRecordsResult {
                topic: wanted.topic,
                partition: wanted.partition,
                log_start_offset: log_start.get(),
                error: None,
            }),
            Err(error) if alone => Err(error),
            Err(error) => Ok(v1::DeleteRecordsResult {
                topic: wanted.topic,
                partition: wanted.partition,
                log_start_offset: Offset::NONE.get(),
                error: Some(error.to_proto()),
            }),
        });
        Ok(v1::DeleteRecordsResponse { results: results.collect::<Result<_, ApiError>>()? })
    })
    .await
}

fn delete(node: &Node, wanted: &v1::DeleteRecordsPartition) -> Result<Offset, ApiError> {
    let partition = node.led_here(&wanted.topic, wanted.partition)?;
    check_policy(node, &wanted.topic)?;
    let log = partition.log();
    let high_watermark = log.high_watermark();
    let before = match Offset(wanted.before_offset) {
        Offset::NONE => high_watermark,
        before if before < Offset::ZERO => {
            return Err(ApiError::invalid(
                "before_offset",
                "an offset to keep, or -1 for the high watermark",
            ));
        }
        before => before,
    };
    if partition.is_settling() && (wanted.before_offset < 0 || before > high_watermark) {
        return Err(offset_not_available(&partition));
    }
    if before > high_watermark {
        let error = refusal::out_of_range(before, log.log_start_offset(), high_watermark);
        return Err(error.with_field("before_offset"));
    }
    let start = log.delete_records(before).map_err(|error| refusal::read(&error, high_watermark))?;
    partition.start_moved();
    Ok(start)
}

/// Where only newer records of the same key take older ones away, nobody cuts off the log's beginning, as in Kafka: what is there
/// is what is in force, and in the cluster's own topics more depends on it.
fn check_policy(node: &Node, topic: &str) -> Result<(), ApiError> {
    let image = node.metadata.image();
    let Some(topic) = image.topic(topic) else { return Ok(()) };
    if !topic.internal && topic.config.cleanup_policy.delete {
        return Ok(());
    }
    let message = format!(
        "records of topic {} cannot be deleted: it belongs to the cluster itself, or its cleanup.policy has no \"delete\"",
        topic.name
    );
    Err(ApiError::new(ErrorCode::PolicyViolation, message).with_field("topic"))
}

fn check_count(partitions: usize) -> Result<(), ApiError> {
    if partitions == 0 || partitions > MAX_PARTITIONS {
        return Err(ApiError::invalid("partitions", format!("name 1 to {MAX_PARTITIONS} partitions")));
    }
    Ok(())
}

async fn off_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    blocking::run(work).await.map_err(|error| refusal::internal("the lookup failed", error))?
}
