//! Reads a shard's log from its start up to the own marker: all that there will ever be from before.

use crate::leaders::{Leader, Use};
use crate::node::Node;
use crate::shard::Shard;
use bytes::Bytes;
use std::time::Duration;
use thalweg_core::batch::{BatchError, BatchIter};
use thalweg_core::group::records::RecordError;
use thalweg_core::{ErrorCode, Offset, TopicPartition};
use thalweg_proto::v1::consumer_service_client::ConsumerServiceClient;
use thalweg_proto::{ApiError, Detail, v1};
use tokio::time::Instant;
use tonic::{Request, Status};

/// Bytes to which one batch may inflate.
const MAX_INFLATED_BYTES: usize = 64 << 20;
/// What an answer may have beyond what was asked for: one batch always comes whole.
const MAX_BATCH_BYTES: usize = 64 << 20;
/// For records that a new leader does not show yet, in milliseconds.
const WAIT_MS: u32 = 500;
/// Between two tries to load a log that is damaged: somebody has to look at it first.
const DAMAGED_PAUSE: Duration = Duration::from_secs(10);

/// Bytes that are taken in at one go. Other shards, and the calls of this one, have their turn then.
const TURN_BYTES: usize = 64 * 1024;

/// Why a log cannot be loaded.
#[derive(Debug, thiserror::Error)]
enum Damage {
    #[error("the batch at {at} cannot be read: {error}")]
    Batch { at: Offset, error: BatchError },
    #[error("the record at {at} cannot be read: {error}")]
    Record { at: Offset, error: RecordError },
}

/// What was read.
#[derive(Debug, Default)]
struct Read {
    records: u64,
    bytes: u64,
}

/// Loads a shard up to and with the record at `marker`. Goes on for as long as it takes; whoever no longer wants it drops it.
pub async fn load(node: &Node, at: &TopicPartition, marker: Offset) -> Shard {
    let begun = Instant::now();
    loop {
        let mut shard = Shard::new(at.partition, node.config.groups.clone());
        match fill(node, at, marker, &mut shard).await {
            Ok(read) => {
                let took = begun.elapsed();
                node.tally.loads.record(took);
                tracing::debug!(shard = %at, records = read.records, bytes = read.bytes, duration = ?took, "shard loaded");
                return shard;
            }
            Err(damage) => {
                tracing::error!(shard = %at, %damage, "the shard cannot be loaded; its groups are not served");
                tokio::time::sleep(DAMAGED_PAUSE).await;
            }
        }
    }
}

/// Reads one piece ahead of the one that is taken in.
async fn fill(node: &Node, at: &TopicPartition, marker: Offset, shard: &mut Shard) -> Result<Read, Damage> {
    let mut read = Read::default();
    let mut scratch = Vec::new();
    let (mut piece, mut next) = fetch(node, at, Offset(0)).await;
    loop {
        if next > marker {
            take_in(&piece, marker, shard, &mut scratch, &mut read).await?;
            return Ok(read);
        }
        let (taken, ahead) = futures_util::future::join(
            take_in(&piece, marker, shard, &mut scratch, &mut read),
            fetch(node, at, next),
        )
        .await;
        taken?;
        (piece, next) = ahead;
    }
}

async fn take_in(
    piece: &Bytes,
    marker: Offset,
    shard: &mut Shard,
    scratch: &mut Vec<u8>,
    read: &mut Read,
) -> Result<(), Damage> {
    read.bytes += piece.len() as u64;
    let mut turn = 0;
    for batch in BatchIter::new(piece) {
        let batch = batch.map_err(|error| Damage::Batch { at: marker, error })?;
        let at = batch.header.base_offset;
        if at > marker {
            return Ok(());
        }
        let damaged = |error| Damage::Batch { at, error };
        batch.verify().map_err(damaged)?;
        if batch.header.attributes.is_control() {
            continue;
        }
        for record in batch.records(scratch, MAX_INFLATED_BYTES).map_err(damaged)? {
            let record = record.map_err(damaged)?;
            let Some(key) = record.key else { continue };
            shard.replay(key, record.value).map_err(|error| Damage::Record { at: record.offset, error })?;
            read.records += 1;
        }
        turn += batch.bytes.len();
        if turn >= TURN_BYTES {
            turn = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Reads whole batches from `from` on, at whoever leads, until there are some: the batches, and where the next ones begin.
async fn fetch(node: &Node, at: &TopicPartition, mut from: Offset) -> (Bytes, Offset) {
    let intervals = &node.config.intervals;
    let mut pause = intervals.retry_first;
    let mut metadata = node.topics.subscribe();
    loop {
        let error = match fetch_once(node, at, from).await {
            Ok(Some(read)) => return read,
            Ok(None) => continue,
            Err(error) => error,
        };
        if let (ErrorCode::OffsetOutOfRange, Some(Detail::OffsetRange { log_start, .. })) =
            (error.code, &error.detail)
            && *log_start > from
        {
            from = *log_start;
            continue;
        }
        tracing::debug!(shard = %at, %from, %error, "a shard's log was not read; trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            Ok(()) = metadata.changed() => {}
        }
        pause = (pause * 2).min(intervals.retry_most);
    }
}

async fn fetch_once(
    node: &Node,
    at: &TopicPartition,
    from: Offset,
) -> Result<Option<(Bytes, Offset)>, ApiError> {
    let leader = node.leaders.leader_of(at)?;
    let channel = node.leaders.channel(&leader, Use::Reads)?;
    let most = node.config.limits.load_fetch_bytes;
    let bytes = u32::try_from(most).unwrap_or(u32::MAX);
    let within = node.config.intervals.leader_call;
    let mut request = Request::new(v1::FetchRequest {
        partitions: vec![v1::FetchPartition {
            topic: at.topic.as_str().to_owned(),
            partition: at.partition.get(),
            offset: from.get(),
            max_bytes: Some(bytes),
            current_leader_epoch: None,
        }],
        max_wait_ms: Some(WAIT_MS),
        max_bytes: Some(bytes),
        format: v1::RecordFormat::Batches as i32,
        routing: v1::Routing::LeaderOnly as i32,
        ..Default::default()
    });
    request.set_timeout(within);
    let mut client = ConsumerServiceClient::new(channel).max_decoding_message_size(most + MAX_BATCH_BYTES);
    let answer = match tokio::time::timeout(within, client.fetch(request)).await {
        Ok(Ok(answer)) => answer.into_inner(),
        Ok(Err(status)) => return Err(failed(&leader, &status)),
        Err(_) => {
            let message = format!("broker {}, the leader, gave no answer in time", leader.id);
            return Err(ApiError::new(ErrorCode::RequestTimedOut, message));
        }
    };
    let Some(data) = answer.partitions.into_iter().next() else { return Ok(None) };
    if let Some(error) = &data.error {
        return Err(ApiError::from_proto(error));
    }
    match data.data {
        Some(v1::partition_data::Data::RecordBatches(batches)) if data.next_offset > from.get() => {
            Ok(Some((batches, Offset(data.next_offset))))
        }
        _ => Ok(None),
    }
}

/// What a broker said, or that it said nothing.
pub fn failed(leader: &Leader, status: &Status) -> ApiError {
    ApiError::from_status(status).unwrap_or_else(|| {
        let message = format!("broker {}, the leader, cannot be reached: {}", leader.id, status.message());
        ApiError::new(ErrorCode::LeaderNotAvailable, message)
    })
}
