//! One batch to one partition that this broker leads: every check, the append, and what is left to wait for.

use super::request::Acks;
use crate::refusal;
use crate::replicas::{Partition, Role};
use crate::settings::TopicSettings;
use crate::trace::AppendSpan;
use bytes::Bytes;
use std::sync::Arc;
use thalweg_core::batch::{BatchIter, Limits, TimestampType, ValidBatch};
use thalweg_core::{ErrorCode, LeaderEpoch, Offset, Timestamp};
use thalweg_proto::{ApiError, v1};

/// Records that one batch may have: as many as plain records may be sent at once, and room for clients that batch more.
pub const MAX_BATCH_RECORDS: usize = 1 << 20;

/// A batch that is in the leader's log.
#[derive(Debug)]
pub struct Write {
    /// Where.
    pub partition: Arc<Partition>,
    /// The first record's offset.
    pub base_offset: Offset,
    /// The last record's offset.
    pub last_offset: Offset,
    /// The time of the append, with LogAppendTime.
    pub log_append_time: Timestamp,
    /// The log's first offset at the append.
    pub log_start: Offset,
    /// Whether it had been written before.
    pub duplicate: bool,
    /// The epoch under which it was appended.
    pub leader_epoch: LeaderEpoch,
}

/// How far a write is from what was asked for.
#[derive(Debug)]
pub enum Progress {
    /// It holds.
    Done,
    /// It does not hold yet.
    Waiting,
    /// It will not hold, or nobody here can tell.
    Failed(ApiError),
}

/// A batch to append.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The batch.
    pub bytes: Bytes,
    /// Where it stood in the request.
    pub field: &'a str,
    /// What must hold before the answer.
    pub acks: Acks,
    /// Bytes that it may inflate to.
    pub max_inflated_bytes: usize,
    /// If it is traced.
    pub span: Option<&'a AppendSpan>,
}

/// Appends a batch. Never waits.
///
/// Errors: the batch's (`CORRUPT_BATCH` and its kin), `NOT_ENOUGH_REPLICAS`, `INVALID_TIMESTAMP`, the producer's sequence
/// and epoch, `STORAGE_ERROR`. Nothing was appended then.
pub fn append_batch(
    partition: &Arc<Partition>,
    role: &Role,
    incoming: Incoming<'_>,
    now: Timestamp,
) -> Result<Write, ApiError> {
    let Incoming { bytes, field, acks, max_inflated_bytes, span } = incoming;
    let settings = &role.settings;
    if acks == Acks::All && role.isr.len() < role.min_isr() {
        return Err(not_enough(ErrorCode::NotEnoughReplicas, role, "; nothing was appended"));
    }
    let limits = Limits {
        max_batch_bytes: settings.max_message_bytes,
        max_inflated_bytes,
        max_records: MAX_BATCH_RECORDS,
        keys_required: settings.keys_required,
    };
    let mut batch = ValidBatch::check(bytes, &limits).map_err(|error| refusal::batch(&error, field))?;
    let header = *batch.header();
    if header.attributes.is_transactional() {
        return Err(
            ApiError::new(ErrorCode::Unsupported, "transactions are not served yet").with_field(field)
        );
    }
    if settings.timestamp_type == TimestampType::CreateTime {
        check_times(&batch, settings, max_inflated_bytes, now, field)?;
    }
    if let Some(codec) = settings.compression
        && header.attributes.compression().is_ok_and(|sent| sent != codec)
    {
        batch = batch.recompressed(codec, &limits).map_err(|error| refusal::batch(&error, field))?;
    }
    let log = partition.log();
    let appended =
        log.append_as_leader(&batch, role.leader_epoch, now).map_err(|error| refusal::append(&error))?;
    if let Some(span) = span {
        span.appended(partition, role, &appended);
    }
    partition.appended();
    if !appended.duplicate {
        partition.traffic().appended(header.record_count.unsigned_abs().into(), batch.header().size());
    }
    Ok(Write {
        base_offset: appended.base_offset,
        last_offset: appended.last_offset,
        log_append_time: appended.log_append_time,
        log_start: appended.log_start_offset,
        duplicate: appended.duplicate,
        leader_epoch: role.leader_epoch,
        partition: Arc::clone(partition),
    })
}

fn check_times(
    batch: &ValidBatch,
    settings: &TopicSettings,
    max_inflated_bytes: usize,
    now: Timestamp,
    field: &str,
) -> Result<(), ApiError> {
    let refused = |at: Timestamp| {
        ApiError::new(
            ErrorCode::InvalidTimestamp,
            format!(
                "a record's timestamp, {at}, is too far from the broker's time, {now} \
                 (message.timestamp.before.max.ms, message.timestamp.after.max.ms)"
            ),
        )
        .with_field(field)
    };
    let latest = batch.header().max_timestamp;
    if !settings.allows(latest, now) {
        return Err(refused(latest));
    }
    // The oldest record is not in the header; topics that bound the age pay for a walk.
    if settings.timestamp_before_max_ms.is_some() {
        let mut scratch = Vec::new();
        for batch in BatchIter::new(batch.bytes()) {
            let batch = batch.map_err(|error| refusal::batch(&error, field))?;
            let records = batch.records(&mut scratch, max_inflated_bytes);
            for record in records.map_err(|error| refusal::batch(&error, field))? {
                let at = record.map_err(|error| refusal::batch(&error, field))?.timestamp;
                if !settings.allows(at, now) {
                    return Err(refused(at));
                }
            }
        }
    }
    Ok(())
}

fn not_enough(code: ErrorCode, role: &Role, what: &str) -> ApiError {
    ApiError::new(
        code,
        format!(
            "{} replicas are in sync, min.insync.replicas asks for {}{what}",
            role.isr.len(),
            role.min_isr()
        ),
    )
}

// === impl Write ===

impl Write {
    /// Whether what `acks` asks for holds.
    pub fn progress(&self, acks: Acks) -> Progress {
        if acks != Acks::All {
            return Progress::Done;
        }
        let log = self.partition.log();
        // Both before the role: if that is still the one of the append, no later leader had its hand in them.
        let (high_watermark, stable) = (log.high_watermark(), self.partition.stable_offset());
        let Some(role) = self.partition.leading().filter(|role| role.leader_epoch == self.leader_epoch)
        else {
            // The next leader may or may not have the batch; only it can say.
            return Progress::Failed(ApiError::new(
                ErrorCode::NotLeader,
                "the leader changed before the write was acknowledged; it may or may not have survived",
            ));
        };
        // With fewer members than asked for the watermark stands still, or stands for less than was asked (KIP-966).
        if role.isr.len() < role.min_isr() {
            let error = not_enough(ErrorCode::NotEnoughReplicasAfterAppend, &role, " after the append");
            return Progress::Failed(error);
        }
        // The watermark alone is not enough: it may be from before write caching was switched off.
        let stable = role.settings.write_caching || stable > self.last_offset;
        if high_watermark > self.last_offset && stable {
            return Progress::Done;
        }
        if log.log_is_failed() {
            return Progress::Failed(ApiError::new(
                ErrorCode::StorageError,
                "the log's directory failed before the write was on stable storage",
            ));
        }
        Progress::Waiting
    }

    /// Whether the acks may still come.
    pub fn is_waiting(&self, acks: Acks) -> bool {
        matches!(self.progress(acks), Progress::Waiting)
    }

    /// The result as a caller is told; offsets only if it asked for any ack.
    pub fn result(&self, acks: Acks) -> v1::ProduceResult {
        let told = acks != Acks::None;
        let durability = match acks {
            Acks::None => None,
            Acks::Leader => Some((1, self.partition.log().flushed_offset() > self.last_offset)),
            Acks::All => Some((self.partition.in_sync(), self.partition.stable_offset() > self.last_offset)),
        };
        v1::ProduceResult {
            partition: self.partition.topic_partition().partition.get(),
            base_offset: if told { self.base_offset.get() } else { Offset::NONE.get() },
            last_offset: if told { self.last_offset.get() } else { Offset::NONE.get() },
            log_append_time_ms: if told { self.log_append_time.as_millis() } else { -1 },
            log_start_offset: self.log_start.get(),
            duplicate: told && self.duplicate,
            durability: durability.map(|(replicas, fsynced)| v1::Durability {
                replicas: i32::try_from(replicas).unwrap_or(i32::MAX),
                fsynced,
                leader_epoch: self.leader_epoch.get(),
            }),
            error: None,
        }
    }
}
