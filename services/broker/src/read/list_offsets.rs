//! ListOffsets and DeleteRecords: where a partition begins and ends, and moving its beginning.

use super::{bound_of, check_routing};
use crate::node::Node;
use crate::refusal;
use std::sync::Arc;
use thalweg_core::{Offset, Timestamp};
use thalweg_log::ReadBound;
use thalweg_proto::{ApiError, v1};

/// Partitions in one request.
const MAX_PARTITIONS: usize = 10_000;

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
    if reads_files { blocking(look).await } else { look() }
}

fn offset_of(
    node: &Node,
    wanted: &v1::ListOffsetsPartition,
    bound: ReadBound,
) -> Result<v1::ListOffsetsResult, ApiError> {
    let spec = v1::OffsetSpec::try_from(wanted.spec)
        .map_err(|_| ApiError::invalid("spec", format!("{} is no offset spec", wanted.spec)))?;
    let partition = node.led_here(&wanted.topic, wanted.partition)?;
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
    let (offset, timestamp) =
        found.filter(|(offset, _)| !by_time || *offset < end).unwrap_or((Offset::NONE, Timestamp::NONE));
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
    blocking(move || {
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
    if before > high_watermark {
        let error = refusal::out_of_range(before, log.log_start_offset(), high_watermark);
        return Err(error.with_field("before_offset"));
    }
    log.delete_records(before).map_err(|error| refusal::read(&error, high_watermark))
}

fn check_count(partitions: usize) -> Result<(), ApiError> {
    if partitions == 0 || partitions > MAX_PARTITIONS {
        return Err(ApiError::invalid("partitions", format!("name 1 to {MAX_PARTITIONS} partitions")));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| refusal::internal("the lookup failed", error))?
}
