//! What a follower does to a log: append, cut, take the leader's high watermark and log start.

use super::inbound::Received;
use super::stream::{Failure, Repair, Took};
use crate::replicas::Partition;
use bytes::Bytes;
use thalweg_core::batch::{BatchHeader, HEADER_LEN};
use thalweg_core::{LeaderEpoch, Offset, Timestamp};
use thalweg_log::{AppendError, Log, ReadError, StorageError};

/// Applies news of a partition. Returns what was appended, if there were batches.
pub fn apply(
    partition: &Partition,
    epoch: LeaderEpoch,
    received: &Received,
    now: Timestamp,
) -> Result<Option<Took>, AppendError> {
    let (log, news, bytes) = (partition.log(), &received.news, received.bytes());
    let took = if bytes == 0 {
        None
    } else {
        let from = log.log_end_offset();
        let traced = partition.following_traced(epoch, &news.traces);
        let appended = append(log, epoch, &received.batches, now);
        traced.end(&appended);
        let to = appended?;
        partition.traffic().followed(bytes);
        let bytes = bytes as u64;
        Some(Took { bytes, from, to, high_watermark: Offset(news.high_watermark) })
    };
    // The word of a leader that was replaced since is dropped: the log may have been cut and written anew.
    if partition.following().is_some_and(|role| role.leader_epoch == epoch) {
        partition.followed(Offset(news.high_watermark));
        log.raise_log_start(Offset(news.log_start_offset));
    }
    Ok(took)
}

fn append(log: &Log, epoch: LeaderEpoch, batches: &[Bytes], now: Timestamp) -> Result<Offset, AppendError> {
    let pieces: Vec<&[u8]> = batches.iter().map(|piece| &piece[..]).collect();
    match log.append_pieces_as_follower(&pieces, epoch, now) {
        // The leader's log starts inside a batch, whose first records were deleted: it is sent whole.
        Err(AppendError::NotContinuous { expected, found })
            if found < expected && log.log_start_offset() == expected && holds(batches, expected) =>
        {
            log.truncate_fully_and_start_at(found, epoch).map_err(as_append)?;
            log.append_pieces_as_follower(&pieces, epoch, now)
        }
        other => other,
    }
}

/// Whether the first batch holds that offset.
fn holds(batches: &[Bytes], offset: Offset) -> bool {
    let front: Vec<u8> = batches.iter().flatten().copied().take(HEADER_LEN).collect();
    BatchHeader::parse(&front)
        .is_ok_and(|header| header.base_offset < offset && header.last_offset() >= offset)
}

fn as_append(error: ReadError) -> AppendError {
    match error {
        ReadError::Fenced(error) => error.into(),
        ReadError::Storage(error) => error.into(),
        ReadError::Corrupt { reason, .. } => reason.into(),
        ReadError::OffsetOutOfRange { requested, log_end, .. } => {
            AppendError::NotContinuous { expected: log_end, found: requested }
        }
    }
}

/// Mends a log. Blocks for several syncs. Returns whether its end or start moved.
pub fn repair(log: &Log, epoch: LeaderEpoch, repair: Repair) -> Result<bool, ReadError> {
    let before = log.position();
    match repair {
        Repair::Cut(leader_epoch, end) => drop(log.truncate_by_epoch((leader_epoch, end), epoch)?),
        Repair::StartOver(at) => {
            tracing::warn!(
                partition = %log.topic_partition(), end = %before.log_end, leaders_start = %at,
                "the leader no longer has what comes next here; starting over at its log's start"
            );
            log.truncate_fully_and_start_at(at, epoch)?;
        }
    }
    let after = log.position();
    Ok((before.log_end, before.log_start, before.last_epoch)
        != (after.log_end, after.log_start, after.last_epoch))
}

/// What an append that failed means for following.
pub fn of_append(error: &AppendError) -> Failure {
    match error {
        AppendError::Storage(error) => of_storage(error),
        // Another epoch began; the assignment that says so is on its way.
        AppendError::Fenced(_) | AppendError::StaleEpoch { .. } => Failure::Final,
        AppendError::Producer(_)
        | AppendError::LargerThanSegment { .. }
        | AppendError::NotContinuous { .. }
        | AppendError::Batch(_)
        | AppendError::EpochOutOfOrder { .. }
        | AppendError::OffsetsExhausted => Failure::Later,
    }
}

/// What a repair that failed means for following.
pub fn of_repair(error: &ReadError) -> Failure {
    match error {
        ReadError::Storage(error) => of_storage(error),
        ReadError::Fenced(_) => Failure::Final,
        ReadError::OffsetOutOfRange { .. } | ReadError::Corrupt { .. } => Failure::Later,
    }
}

fn of_storage(error: &StorageError) -> Failure {
    match error {
        // A full disk may have room again.
        StorageError::Io { .. } | StorageError::StateFile(_) => Failure::Later,
        // Nothing is written there until a restart (catalogue 12).
        StorageError::DirFailed { .. }
        | StorageError::LogFailed { .. }
        | StorageError::Closed { .. }
        | StorageError::Deleted { .. } => Failure::Final,
    }
}
